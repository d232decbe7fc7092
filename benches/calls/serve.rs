//! Hark as it is served, in a process of its own.

use std::env;

use hark::{
    app::App,
    config::Config,
    telemetry::logging::{self, Format, Output},
};
use tokio_util::sync::CancellationToken;

use crate::Result;

/// Bridged to a speech-to-speech service, with so much of the caller in one message.
pub fn hark(url: &str, message_ms: u64) -> Result<()> {
    serve(|config| {
        config.agent.message_ms = message_ms;
        config.agent.sts_url = Some(url.to_owned());
        Ok(())
    })
}

/// A cascade with everything on that such calls have: voice activity, recording, ambience. `url` is of the services, without a path.
pub fn cascade(url: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let office = dir.path().join("office.wav");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 8_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::create(&office, spec)?;
    for at in 0..80_000_i32 {
        wav.write_sample((at * 7_919 % 601 - 300) as i16)?;
    }
    wav.finalize()?;
    serve(|config| {
        config.agent.asr_url = Some(format!("{url}/stt"));
        config.agent.llm_url = Some(format!("{url}/llm"));
        config.agent.tts_url = Some(format!("{url}/tts"));
        config.call.ambient_file = Some(office.display().to_string());
        config.recording.enabled = true;
        // killed at the end of a run: what it leaves is for who started it to remove
        let recordings = env::var_os("HARK_BENCH_RECORDINGS").ok_or("HARK_BENCH_RECORDINGS is not set")?;
        config.recording.dir = Some(recordings.into());
        Ok(())
    })
}

/// One media thread, logging on: a call's lines and its span are part of the work.
fn serve(change: impl FnOnce(&mut Config) -> Result<()>) -> Result<()> {
    let _log = logging::init(Format::Human, "info", Output::Stderr)?;
    let mut config = Config::default();
    config.audiosocket.listen = ([127, 0, 0, 1], 0).into();
    config.http.enabled = false;
    config.limits.media_threads = 1;
    config.limits.max_calls = 100_000;
    change(&mut config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = App::bind(config).await?;
        println!("{}", app.audiosocket_addr().port());
        crate::allocations::answer();
        app.run(CancellationToken::new()).await;
        Ok(())
    })
}
