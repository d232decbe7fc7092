//! Piper, by its own HTTP server and by Wyoming.

use futures_util::StreamExt as _;
use hark::{
    agent::{Config, service::Kind},
    audio::Rate,
    call::AgentEvent,
};

use super::super::{config, service};
use crate::support::{
    cascade::Bench,
    engines::{LOADING, free_port, module, piper, piper_over_http},
};

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
    tokio::time::timeout(LOADING, speech).await.expect("it says nothing")
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
    let (Some((python, voice)), Some((engine, address))) = (piper(), piper_over_http().await) else { return };
    is_speech(&spoken(&format!("piper:{address}"), Rate::R8K).await, Rate::R8K);
    is_speech(&spoken(&format!("piper:{address}?length_scale=0.9"), Rate::R16K).await, Rate::R16K);
    drop(engine);

    let (uri, data) = (format!("tcp://127.0.0.1:{}", free_port()), voice.parent().unwrap().display().to_string());
    let arguments =
        ["wyoming_piper", "--voice", "en_US-joe-medium", "--uri", &uri, "--data-dir", &data, "--local-files-only"];
    let _engine = module(&python, &arguments);
    is_speech(&spoken(&format!("wyoming:{uri}"), Rate::R8K).await, Rate::R8K);
}
