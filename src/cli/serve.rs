//! `hark serve`: takes calls until it is told to stop.

use std::{io, process::ExitCode};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    app::App,
    config::Config,
    telemetry::logging::{self, Output},
};

/// Arguments of `hark serve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hark serve\n  STS_URL=ws://127.0.0.1:6030 hark serve\n  hark serve --config /etc/hark/hark.toml --log-format json\n\n\
                        Asterisk: same => n,Dial(AudioSocket/127.0.0.1:5001/${UUID()}/c(slin),30,g)\n\n\
                        SIGTERM or Ctrl-C: no new calls, those that are live may end by themselves within limits.shutdown_grace_s; \
                        a second one ends at once."
)]
pub struct Args {
    #[command(flatten)]
    config: super::ConfigArgs,
}

/// Takes calls until SIGTERM or SIGINT.
pub async fn run(args: Args) -> ExitCode {
    let config = match args.config.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    // to stdout, where AVR Core's lines go and `docker logs … | grep` looks
    let _logging = match logging::init(config.log.format.into(), &config.log.level, Output::Stdout) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("hark: {error}");
            return ExitCode::FAILURE;
        }
    };
    match serve(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            error!("{reason}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let shutdown = CancellationToken::new();
    // before anything is opened: a stop during start-up must not be lost
    stop_on_signal(shutdown.clone())?;
    for notice in &config.notices {
        warn!("{notice}");
    }
    let app = App::bind(config).await?;
    info!(version = env!("CARGO_PKG_VERSION"), audiosocket = %app.audiosocket_addr(), websocket = app.websocket_addr().map(tracing::field::display), http = app.http_addr().map(tracing::field::display), "Hark is ready");
    app.run(shutdown).await;
    Ok(())
}

/// The first signal asks for an orderly stop, the second one ends the process.
fn stop_on_signal(shutdown: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let name = either(&mut terminate, &mut interrupt).await;
        info!("{name}: stopping; a second signal ends at once");
        shutdown.cancel();
        let code = match either(&mut terminate, &mut interrupt).await {
            "SIGTERM" => 143,
            _ => 130,
        };
        std::process::exit(code);
    });
    Ok(())
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
