//! A real PostgreSQL of a test's own: in a temporary directory, on a socket there, gone with the test.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::sleep;

/// Nobody: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65_534;

pub struct Postgres {
    bin: PathBuf,
    dir: TempDir,
    server: Option<Child>,
    settings: Vec<&'static str>,
}

impl Postgres {
    /// Makes a cluster and starts its server, which does not wait for the disk.
    pub async fn start() -> Self {
        Self::with(&["fsync=off"]).await
    }

    /// Makes a cluster and starts its server with these settings.
    pub async fn with(settings: &[&'static str]) -> Self {
        let bin = bin();
        let dir = tempfile::Builder::new().prefix("hark-pg").tempdir_in("/tmp").unwrap();
        if is_root() {
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut initdb = Command::new(bin.join("initdb"));
        initdb
            .args(["-U", "hark", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(dir.path().join("data"));
        let made = as_nobody(&mut initdb).current_dir(dir.path()).output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let mut postgres = Self { bin, dir, server: None, settings: settings.to_vec() };
        postgres.up().await;
        postgres
    }

    /// Starts the server (again) and waits until it answers.
    pub async fn up(&mut self) {
        // ends with this process, however that ends
        let mut server = Command::new("setpriv");
        server.args(["--pdeathsig", "QUIT"]);
        if is_root() {
            server.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups"]);
        }
        server.arg(self.bin.join("postgres")).arg("-D").arg(self.dir.path().join("data"));
        server.arg("-k").arg(self.dir.path()).args(["-c", "listen_addresses="]);
        server.args(self.settings.iter().flat_map(|setting| ["-c", setting]));
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let server = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).current_dir(self.dir.path()).spawn();
        self.server = Some(server.unwrap());
        for _ in 0..300 {
            if self.psql("SELECT 1").is_some() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("the server does not come up: {}", fs::read_to_string(self.dir.path().join("log")).unwrap());
    }

    /// Stops the server as a crash would: connections break, nothing is tidied up.
    pub fn down(&mut self) {
        if let Some(mut server) = self.server.take() {
            let killed = Command::new("kill").args(["-QUIT", &server.id().to_string()]).status().unwrap();
            assert!(killed.success());
            server.wait().unwrap();
        }
    }

    /// For `database.url`.
    pub fn url(&self) -> String {
        format!("postgres://hark@localhost/postgres?host={}", self.dir.path().display())
    }

    /// What `psql` prints.
    pub fn psql(&self, sql: &str) -> Option<String> {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-U", "hark", "-d", "postgres", "-c", sql, "-h"]).arg(self.dir.path());
        let said = psql.output().unwrap();
        said.status.success().then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.down();
    }
}

fn as_nobody(command: &mut Command) -> &mut Command {
    if is_root() { command.uid(NOBODY).gid(NOBODY) } else { command }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// Where Debian's packages put the server; the newest of them.
fn bin() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().or_else(on_path).expect("PostgreSQL is not installed: scripts/setup.sh test")
}

fn on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find(|dir: &PathBuf| Path::new(dir).join("initdb").exists())
}
