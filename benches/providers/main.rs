//! What Hark adds to the time of vendors that need none, by TLS: `make bench-providers`.
//!
//! The gateway runs in a process of its own with two media threads; vendors and phones share another with one thread, on the same cores. `HARK_BENCH_CALLS`
//! (50,200,500), `HARK_BENCH_SECONDS` (20) change what is run, `HARK_BENCH_LOG=info` (or debug …) shows the gateway's log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

mod load;

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use hark::{
    app::App,
    config::Config,
    telemetry::logging::{self, Format, Output},
};
use tokio_util::sync::CancellationToken;

/// In the environment of the process that is the gateway: where the vendors are.
const VENDORS: &str = "HARK_BENCH_VENDORS";
const AUTHORITY: &str = "HARK_BENCH_AUTHORITY";

fn main() {
    // 3 descriptors a call: the usual soft limit of 1,024 ends at 300 calls
    if env::var_os("HARK_BENCH_FILES").is_none() {
        let script = "ulimit -n \"$(ulimit -Hn)\" 2>/dev/null; exec \"$@\"";
        let exe = env::current_exe().unwrap();
        let status =
            Command::new("sh").args(["-c", script, "sh"]).arg(exe).env("HARK_BENCH_FILES", "1").status().unwrap();
        std::process::exit(status.code().unwrap_or(1));
    }
    if env::var_os(VENDORS).is_some() {
        return serve();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, drive());
}

/// The gateway, as it is served.
fn serve() {
    let level = env::var("HARK_BENCH_LOG").ok().filter(|level| level != "1");
    let _log = logging::init(Format::Human, level.as_deref().unwrap_or("info"), Output::Stderr).unwrap();
    let mut config = Config::default();
    config.audiosocket.listen = ([127, 0, 0, 1], 0).into();
    config.http.enabled = false;
    config.limits.media_threads = 2;
    config.limits.max_calls = 10_000;
    let data = tempfile::tempdir().unwrap();
    config.data_dir = data.path().to_owned();
    config.tls.ca_file = env::var_os(AUTHORITY).map(PathBuf::from);
    load::configure(&mut config.agent, &env::var(VENDORS).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let app = App::bind(config).await.unwrap();
        println!("{}", app.audiosocket_addr().port());
        app.run(CancellationToken::new()).await;
    });
}

async fn drive() {
    let seconds = numbers("HARK_BENCH_SECONDS", "20")[0];
    println!(
        "Vendors answer at once; the voice waits {} ms, until the turn is sure to be over. p50 / p95 / p99 in ms.\n",
        load::PAUSE.as_millis()
    );
    println!(
        "| calls | turns | final words → question at the model | first sentence → request at the voice | first audio → frame at the phone | CPU s/s | kB a call | broken |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for calls in numbers("HARK_BENCH_CALLS", "50,200,500") {
        let vendors = load::Vendors::start().await;
        let (gateway, port) = gateway(&vendors);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let idle = resident(&gateway);
        let run =
            load::Run { calls, ramp: 100, settle: Duration::from_secs(5), length: Duration::from_secs(seconds.into()) };
        let mut cpu = (0.0, 0.0);
        let seen = run.go(port, &vendors, |end| {
            let now = processor(&gateway);
            if end { cpu.1 = now } else { cpu.0 = now }
        });
        let seen = seen.await;
        println!(
            "| {calls} | {} | {} | {} | {} | {:.2} | {:.0} | {} |",
            seen.to_phone.took.len(),
            load::quantiles(&seen.to_model),
            load::quantiles(&seen.to_voice),
            load::quantiles(&seen.to_phone),
            (cpu.1 - cpu.0) / f64::from(seconds),
            (resident(&gateway) - idle) / f64::from(calls),
            seen.broken,
        );
    }
}

fn numbers(name: &str, usual: &str) -> Vec<u32> {
    let text = env::var(name).unwrap_or_else(|_| usual.to_owned());
    text.split(',')
        .map(|part| part.trim().parse().unwrap_or_else(|_| panic!("{name}={text:?}: write e.g. {usual}")))
        .collect()
}

/// Ends with its owner.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn gateway(vendors: &load::Vendors) -> (Gateway, u16) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.env(VENDORS, &vendors.addresses).env(AUTHORITY, vendors.authority.path()).stdout(Stdio::piped());
    if env::var_os("HARK_BENCH_LOG").is_none() {
        command.stderr(Stdio::null());
    }
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port =
        line.trim().parse().unwrap_or_else(|_| panic!("the gateway did not start: HARK_BENCH_LOG=info shows why"));
    (Gateway(child), port)
}

/// CPU time used so far, in s.
fn processor(gateway: &Gateway) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gateway.0.id())).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// Memory in use, in kB.
fn resident(gateway: &Gateway) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.0.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim_end().parse().unwrap()
}
