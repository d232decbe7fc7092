//! Hark as it is served, in a process of its own.

use hark::{
    app::App,
    config::Config,
    telemetry::logging::{self, Format, Output},
};
use tokio_util::sync::CancellationToken;

use crate::Result;

/// One media thread, logging on: a call's lines and its span are part of the work.
pub fn hark(url: &str) -> Result<()> {
    let _log = logging::init(Format::Human, "info", Output::Stderr)?;
    let mut config = Config::default();
    config.audiosocket.listen = ([127, 0, 0, 1], 0).into();
    config.http.enabled = false;
    config.agent.sts_url = Some(url.to_owned());
    config.limits.media_threads = 1;
    config.limits.max_calls = 100_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = App::bind(config).await?;
        println!("{}", app.audiosocket_addr().port());
        app.run(CancellationToken::new()).await;
        Ok(())
    })
}
