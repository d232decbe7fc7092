//! One private Asterisk per test, on free ports, with the files of `asterisk-conf/` that users copy.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Everything is there in a quarter of a second; a machine under load may take many times as long.
const BOOT_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const LOG_POLL: Duration = Duration::from_millis(20);

/// Configuration that is only the lab's: modules, a phone without a password, logging.
const GLUE: &[(&str, &str)] = &[
    ("asterisk.conf", include_str!("../etc/asterisk.conf")),
    ("modules.conf", include_str!("../etc/modules.conf")),
    ("pjsip.conf", include_str!("../etc/pjsip.conf")),
    ("rtp.conf", include_str!("../etc/rtp.conf")),
    ("logger.conf", include_str!("../etc/logger.conf")),
    ("indications.conf", include_str!("../etc/indications.conf")),
    ("extensions.conf", include_str!("../etc/extensions.conf")),
];
/// Files that Asterisk complains about when they are missing.
const MINIMAL: &[(&str, &str)] = &[
    ("acl.conf", ""),
    ("amd.conf", "[general]\n"),
    ("ccss.conf", "[general]\n"),
    ("cdr.conf", "[general]\nenable = no\n"),
    ("cel.conf", "[general]\nenable = no\n"),
    ("features.conf", "[general]\n"),
    ("http.conf", "[general]\nenabled = no\n"),
    ("manager.conf", "[general]\nenabled = no\n"),
    ("musiconhold.conf", "[general]\n"),
    ("pjproject.conf", ""),
    ("stasis.conf", "[threadpool]\n"),
    ("udptl.conf", ""),
    ("websocket_client.conf", ""),
];

/// The files that users copy, and what of them is edited here as a user would edit it.
const USERS: &[(&str, &str)] = &[
    ("extensions-hark.conf", include_str!("../../../asterisk-conf/extensions-hark.conf")),
    ("extensions_custom.conf", include_str!("../../../asterisk-conf/freepbx/extensions_custom.conf")),
];
/// The same for ARI.
const ARI: &[(&str, &str)] = &[
    ("http.conf", include_str!("../../../asterisk-conf/ari/http.conf")),
    ("ari.conf", include_str!("../../../asterisk-conf/ari/ari.conf")),
    ("extensions-hark-ari.conf", include_str!("../../../asterisk-conf/ari/extensions-hark-ari.conf")),
    ("extensions-hark-amd.conf", include_str!("../../../asterisk-conf/ari/extensions-hark-amd.conf")),
];
/// User and password of the users' own ari.conf.
pub const ARI_USER: (&str, &str) = ("hark", "change-me");
const EDITED_AUDIOSOCKET: &str = "127.0.0.1:5001";
const EDITED_HTTP: &str = "http://127.0.0.1:6001";

/// Where the dialplan finds the gateway.
#[derive(Debug, Clone, Copy)]
pub struct Gateway {
    pub audiosocket: SocketAddr,
    pub http: Option<SocketAddr>,
}

pub struct Lab {
    dir: TempDir,
    child: Child,
    sip: SocketAddr,
}

/// A free TCP port, for an ARI that others have to know before it is there. It stays reserved for the test's life: bound, but not listened
/// on, so that Asterisk (which reuses addresses, too) can have it and nobody else is given it meanwhile.
pub fn free_port() -> SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free TCP port");
    let address = socket.local_addr().expect("a bound socket").as_socket().expect("an IPv4 address");
    std::mem::forget(socket);
    address
}

impl Lab {
    /// Start an Asterisk whose dialplan calls this gateway, and wait until it takes calls.
    pub async fn start(gateway: Gateway) -> Self {
        Self::begin(gateway, None).await
    }

    /// The same with ARI at this address.
    pub async fn with_ari(gateway: Gateway, ari: SocketAddr) -> Self {
        Self::begin(gateway, Some(ari)).await
    }

    /// The same with AMI at this address.
    pub async fn with_ami(gateway: Gateway, ami: SocketAddr) -> Self {
        let dir = tempfile::Builder::new().prefix("hark-lab-").tempdir().expect("a temporary directory");
        let sip = free_udp_port();
        write_configuration(dir.path(), &rootfs(), sip, gateway);
        let text = include_str!("../../../asterisk-conf/ami/manager.conf");
        let text = text.replace("port=5038", &format!("port={}", ami.port()));
        std::fs::write(dir.path().join("etc/manager.conf"), text).expect("write");
        Self::boot(dir, sip).await
    }

    /// The same with further configuration.
    pub async fn edited(gateway: Gateway, edit: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::Builder::new().prefix("hark-lab-").tempdir().expect("a temporary directory");
        let sip = free_udp_port();
        write_configuration(dir.path(), &rootfs(), sip, gateway);
        edit(&dir.path().join("etc"));
        Self::boot(dir, sip).await
    }

    async fn begin(gateway: Gateway, ari: Option<SocketAddr>) -> Self {
        let dir = tempfile::Builder::new().prefix("hark-lab-").tempdir().expect("a temporary directory");
        let sip = free_udp_port();
        write_configuration(dir.path(), &rootfs(), sip, gateway);
        if let Some(ari) = ari {
            add_ari(&dir.path().join("etc"), ari);
        }
        Self::boot(dir, sip).await
    }

    /// Stop it as a crash does, and start it again with the same configuration.
    pub async fn restart(mut self) -> Self {
        self.child.kill().await.expect("Asterisk ran");
        let (dir, sip) = (self.dir, self.sip);
        for left in ["run/asterisk.ctl", "ready"] {
            let _ = std::fs::remove_file(dir.path().join(left));
        }
        Self::boot(dir, sip).await
    }

    async fn boot(dir: TempDir, sip: SocketAddr) -> Self {
        let rootfs = rootfs();
        // Asterisk reports readiness the way services do to systemd: an event, so nobody has to poll
        let ready = UnixDatagram::bind(dir.path().join("ready")).expect("a socket in the lab's directory");
        let output = std::fs::File::create(dir.path().join("output")).expect("a file in the lab's directory");
        let child = program(&rootfs, dir.path())
            .args(["-f", "-g"])
            .env("NOTIFY_SOCKET", dir.path().join("ready"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .expect("Asterisk starts");
        let mut lab = Self { dir, child, sip };
        lab.wait_ready(&ready).await;
        let booted = lab.cli("core waitfullybooted").await;
        assert!(booted.contains("fully booted"), "{booted}\n{}", lab.log());
        for fault in ["declined to load", "Error loading module"] {
            assert!(!lab.log().contains(fault), "{}", lab.log());
        }
        lab
    }

    async fn wait_ready(&mut self, ready: &UnixDatagram) {
        let notified = async {
            let mut message = [0u8; 512];
            loop {
                let length = ready.recv(&mut message).await.expect("the lab's own socket");
                if message[..length].starts_with(b"READY=1") {
                    return;
                }
            }
        };
        let outcome = tokio::select! {
            result = timeout(BOOT_LIMIT, notified) => result.map_err(|_| "not ready in time".to_owned()),
            status = self.child.wait() => Err(format!("ended: {status:?}")),
        };
        if let Err(fault) = outcome {
            let output = std::fs::read_to_string(self.dir.path().join("output")).unwrap_or_default();
            panic!("Asterisk {fault}\n{output}\n{}", self.log());
        }
    }

    pub fn sip(&self) -> SocketAddr {
        self.sip
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Run a command on Asterisk's command line and return what it printed.
    pub async fn cli(&self, command: &str) -> String {
        let run = program(&rootfs(), self.dir.path()).args(["-rx", command]).stdin(Stdio::null()).output();
        let output = timeout(BOOT_LIMIT, run).await.expect("the command line answers").expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.dir.path().join("log/full")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Wait for a line of the log that contains `part`, and return it.
    pub async fn logged(&self, part: &str) -> String {
        let search = async {
            loop {
                if let Some(line) = self.log().lines().find(|line| line.contains(part)) {
                    return line.to_owned();
                }
                tokio::time::sleep(LOG_POLL).await;
            }
        };
        match timeout(STOP_LIMIT, search).await {
            Ok(line) => line,
            Err(_) => panic!("Asterisk never logged {part:?}; its log:\n{}", self.log()),
        }
    }

    /// Wait until no call is left.
    pub async fn idle(&self) {
        self.channels(0).await;
    }

    /// Wait until there are so many channels.
    pub async fn channels(&self, count: usize) {
        let wanted = format!("{count} active channel");
        let search = async {
            while !self.cli("core show channels count").await.lines().any(|line| line.starts_with(&wanted)) {
                tokio::time::sleep(LOG_POLL).await;
            }
        };
        if timeout(STOP_LIMIT, search).await.is_err() {
            panic!(
                "there are not {count} channels but these: {}\n{}",
                self.cli("core show channels concise").await,
                self.log()
            );
        }
    }

    /// Stop Asterisk by its pid and wait for it.
    pub async fn stop(mut self) {
        let pid = self.child.id().expect("Asterisk still runs");
        let sent = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await;
        assert!(sent.expect("kill runs").success());
        timeout(STOP_LIMIT, self.child.wait()).await.expect("Asterisk stops on SIGTERM").expect("it was ours");
    }
}

/// Where `scripts/get-asterisk.sh` puts Asterisk.
fn rootfs() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let rootfs = cache.expect("HOME or XDG_CACHE_HOME is set").join("hark/asterisk");
    assert!(
        rootfs.join("usr/sbin/asterisk").exists(),
        "no Asterisk in {}: run scripts/get-asterisk.sh (make test does)",
        rootfs.display()
    );
    rootfs
}

fn triplet() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

/// Asterisk run by the loader of its own packages: the host's libc may be older.
fn program(rootfs: &Path, dir: &Path) -> Command {
    let loader = match std::env::consts::ARCH {
        "aarch64" => "lib/ld-linux-aarch64.so.1",
        _ => "lib64/ld-linux-x86-64.so.2",
    };
    let libraries = rootfs.join("usr/lib").join(triplet());
    let mut command = Command::new(rootfs.join(loader));
    command
        .arg("--library-path")
        .arg(format!("{0}:{0}/pulseaudio", libraries.display()))
        .arg(rootfs.join("usr/sbin/asterisk"))
        .arg("-C")
        .arg(dir.join("etc/asterisk.conf"));
    command
}

fn free_udp_port() -> SocketAddr {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free UDP port");
    socket.local_addr().expect("a bound socket")
}

/// Adds ARI to a configuration, edited as a user would.
fn add_ari(etc: &Path, ari: SocketAddr) {
    let append = |name: &str, more: &str| {
        let text = std::fs::read_to_string(etc.join(name)).expect("written before");
        std::fs::write(etc.join(name), text + more).expect("write");
    };
    for (name, text) in ARI {
        let text = text.replace("bindport=8088", &format!("bindport={}", ari.port()));
        // as a user would edit it; the test says where the phone is
        let text = text.replace("Dial(PJSIP/${EXTEN},", "Dial(PJSIP/phone/sip:${EXTEN}@${CALLEE},");
        std::fs::write(etc.join(name), text.replace(";channelvars=CALLID,QUEUENAME", "channelvars=CALLID"))
            .expect("write");
    }
    append("modules.conf", include_str!("../etc/modules-ari.conf"));
    append("extensions.conf", include_str!("../etc/extensions-ari.conf"));
    let plan = std::fs::read_to_string(etc.join("extensions.conf")).expect("written before");
    let plan = plan.replace("include => bench\n", "include => bench\ninclude => bench-ari\ninclude => hark-ari\n");
    std::fs::write(etc.join("extensions.conf"), plan).expect("write");
}

/// Has Asterisk connect to Hark at `to` instead of opening a port, for `kind` (persistent, per_call_config), trying so many times for a call.
pub fn add_ari_outbound(etc: &Path, to: SocketAddr, kind: &str, attempts: u32) {
    add_ari(etc, SocketAddr::from(([127, 0, 0, 1], 9)));
    std::fs::write(etc.join("http.conf"), "[general]\nenabled = no\n").expect("write");
    std::fs::write(etc.join("ari.conf"), include_str!("../../../asterisk-conf/ari-outbound/ari.conf")).expect("write");
    let client = include_str!("../../../asterisk-conf/ari-outbound/websocket_client.conf");
    let client = client
        .replace("connection_type=persistent", &format!("connection_type={kind}"))
        .replace("reconnect_attempts=2", &format!("reconnect_attempts={attempts}"))
        .replace("127.0.0.1:5003", &to.to_string());
    std::fs::write(etc.join("websocket_client.conf"), client).expect("write");
}

fn write_configuration(dir: &Path, rootfs: &Path, sip: SocketAddr, gateway: Gateway) {
    for sub in ["etc", "varlib", "db", "keys/keys", "agi", "spool/monitor", "spool/recording", "run", "log"] {
        std::fs::create_dir_all(dir.join(sub)).expect("a directory in the lab's directory");
    }
    let etc = dir.join("etc");
    for (name, text) in GLUE.iter().chain(MINIMAL) {
        let text = text
            .replace("@DIR@", &dir.display().to_string())
            .replace("@ROOTFS@", &rootfs.display().to_string())
            .replace("@TRIPLET@", &triplet())
            .replace("@SIP@", &sip.port().to_string())
            .replace("@AUDIOSOCKET@", &gateway.audiosocket.to_string());
        std::fs::write(etc.join(name), text).expect("write");
    }
    // a gateway without HTTP: a port where nobody listens
    let http = gateway.http.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 9)));
    for (name, text) in USERS {
        for line in [EDITED_AUDIOSOCKET, EDITED_HTTP] {
            assert_eq!(text.matches(&format!("={line})")).count(), 1, "{name}: {line} is set in one place");
        }
        let text = text
            .replace(EDITED_AUDIOSOCKET, &gateway.audiosocket.to_string())
            .replace(EDITED_HTTP, &format!("http://{http}"))
            .replace("Dial(PJSIP/operator,30)", "Goto(operator,s,1)");
        std::fs::write(etc.join(name), text).expect("write");
    }
}
