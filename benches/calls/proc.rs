//! Processes: pinned to a core where that is possible, with enough file descriptors, and what `/proc` says about them.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
};

use crate::Result;

/// Linux counts CPU time in these on every architecture that this runs on (`getconf CLK_TCK`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Starts the driver on core 1 with as many file descriptors as are allowed.
pub fn start_driver() -> Result<()> {
    // 2 descriptors a call on each side: the usual soft limit of 1,024 ends at 250 calls.
    let script = "ulimit -n \"$(ulimit -Hn)\" 2>/dev/null; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]);
    if can_pin() {
        command.args(["taskset", "-c", "1"]);
    } else {
        eprintln!(
            "bench: not pinned to cores (needs taskset of util-linux, and two cores): gateway and load disturb each other"
        );
    }
    let status = command.arg(env::current_exe()?).arg("drive").status()?;
    if status.success() { Ok(()) } else { Err(format!("the driver ended with {status}").into()) }
}

fn can_pin() -> bool {
    let works = |core: &str| {
        let mut command = Command::new("taskset");
        command.args(["-c", core, "true"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    works("0") && works("1")
}

/// A gateway under test; ends when dropped.
pub struct Server {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    _recordings: tempfile::TempDir,
    pub port: u16,
}

impl Server {
    pub fn start(kind: &str, url: &str) -> Result<Self> {
        let exe = env::current_exe()?;
        let mut command = if can_pin() {
            let mut command = Command::new("taskset");
            command.args(["-c", "0"]).arg(exe);
            command
        } else {
            Command::new(exe)
        };
        command.args([&format!("serve-{kind}"), url]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let recordings = tempfile::tempdir()?;
        command.env("HARK_BENCH_RECORDINGS", recordings.path());
        // Hark logs as it does in production; nobody reads it here unless asked.
        if env::var_os("HARK_BENCH_LOG").is_none() {
            command.stderr(Stdio::null());
        }
        let mut child = command.spawn()?;
        let ask = child.stdin.take().ok_or("no stdin")?;
        let mut answers = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        match line.trim().parse() {
            Ok(port) => Ok(Self { child, ask, answers, _recordings: recordings, port }),
            Err(_) => {
                let _ = child.kill();
                Err(format!("{kind} did not start (said {line:?}; HARK_BENCH_LOG=1 shows its log)").into())
            }
        }
    }

    /// CPU time used so far, in s.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name of the program, in brackets, may hold anything.
        let (_, fields) = stat.rsplit_once(')').ok_or("/proc/PID/stat has another form")?;
        let mut fields = fields.split_ascii_whitespace().skip(11);
        let mut next = || -> Result<f64> { Ok(fields.next().ok_or("/proc/PID/stat is short")?.parse()?) };
        Ok((next()? + next()?) / TICKS_PER_SECOND)
    }

    /// How often it took memory from the allocator so far.
    pub fn allocations(&mut self) -> Result<u64> {
        self.ask.write_all(b"\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }

    /// Memory in use, in kB.
    pub fn rss_kb(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim_end().parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the table is about.
pub fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_ascii_whitespace().next().unwrap_or("?").to_owned();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let pinned = if can_pin() { "gateway on core 0, load on core 1" } else { "not pinned" };
    format!("{} ({cores} core(s) for the load), load average {load}, {pinned}", cpu.unwrap_or_else(|| "?".to_owned()))
}
