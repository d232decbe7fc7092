//! How soon the embedded agent answers callers who speak at once: `make bench-receptionist`.
//!
//! Recorded people talk to a whole gateway over AudioSocket; an answer's time is from their last sound to the agent's first.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hark::{
    agent::embedded::models,
    app::App,
    audio::{Rate, wav},
    cli::phone::{self, Codec, Options, Step},
    config::Config,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Recorded people. None of it ends the call.
const SAYS: &[&str] = &[
    "hello-world",
    "vm-repeat",
    "please-try-again",
    "queue-callswaiting",
    "telephone-number",
    "vm-sorry",
    "vm-repeat",
    "transfer",
];
const ROUNDS: usize = 2;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let variable = |name: &str| std::env::var(name).ok();
        let usual = models::usual_dir(variable, Path::new(""));
        let cached = cache().join("models");
        let Some(dir) = [usual, cached].into_iter().find(|dir| models::are_installed(dir)) else {
            println!("NOT measured: there are no models (make models)");
            return;
        };
        let most: usize = variable("TALKERS").and_then(|text| text.parse().ok()).unwrap_or(2);
        println!("\nAnswers of the embedded agent, from the caller's last sound to its first (512 ms of it to be sure that they have stopped)\n");
        println!("{:>8} {:>8} {:>8} {:>8} {:>8}  of the process's CPU, per call", "callers", "answers", "p50", "p95", "most");
        for talkers in (1..=most).filter(|n| n.is_power_of_two() || *n == most) {
            measure(&dir, talkers).await;
        }
    });
}

fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache")).join("hark")
}

fn prompt(name: &str) -> Vec<i16> {
    let path = cache().join(format!("speech/en_US_f_Allison/{name}.wav"));
    wav::read(&std::fs::read(&path).expect("scripts/get-speech.sh has been run")).unwrap().1
}

async fn measure(dir: &Path, talkers: usize) {
    let mut config = Config::default();
    config.audiosocket.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.http.enabled = false;
    config.data_dir = PathBuf::new();
    config.models.dir = dir.to_owned();
    // nobody is sent away for not being understood
    let data = tempfile::tempdir().unwrap();
    let script = data.path().join("script.toml");
    std::fs::write(&script, "[fallback]\nafter = 10\nthen = \"help\"\n").unwrap();
    config.embedded.script = Some(script.display().to_string());
    let app = App::bind(config).await.unwrap();
    let (address, stop) = (app.audiosocket_addr(), CancellationToken::new());
    let running = tokio::spawn(app.run(stop.clone()));
    let (before, since) = (cpu(), Instant::now());
    let calls = (0..talkers).map(|caller| {
        let options = Options {
            uuid: Uuid::new_v4(),
            codec: Codec::Slin(Rate::R8K),
            script: script_of(caller),
            limit: Duration::from_secs(600),
            record: false,
        };
        tokio::spawn(async move { phone::call(address, options, |_, _| {}).await.unwrap() })
    });
    let mut answers = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        answers.extend(call.await.unwrap().answers().flatten());
    }
    let used = (cpu() - before).as_secs_f64() / since.elapsed().as_secs_f64() / talkers as f64 * 100.0;
    answers.sort();
    let at = |part: f64| {
        answers.get(((answers.len() as f64 * part).ceil() as usize).max(1) - 1).map_or(0, Duration::as_millis)
    };
    println!(
        "{talkers:>8} {:>8} {:>6}ms {:>6}ms {:>6}ms  {used:.0} % of a core",
        answers.len(),
        at(0.5),
        at(0.95),
        at(1.0)
    );
    stop.cancel();
    running.await.unwrap();
}

/// What a caller says: each begins somewhere else.
fn script_of(caller: usize) -> Vec<Step> {
    let (quiet, long) = (Duration::from_millis(1_000), Duration::from_secs(15));
    let mut steps = vec![Step::AwaitSpeech(long), Step::AwaitQuiet(quiet, long)];
    for name in SAYS.iter().cycle().skip(caller * 3).take(SAYS.len() * ROUNDS) {
        steps.extend([Step::Say(prompt(name)), Step::AwaitSpeech(long), Step::AwaitQuiet(quiet, long)]);
    }
    steps.push(Step::HangUp);
    steps
}

/// Processor time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum();
    // USER_HZ is 100 on every Linux that this runs on
    Duration::from_millis(ticks * 10)
}
