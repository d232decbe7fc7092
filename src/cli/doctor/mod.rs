//! `hark doctor`: why it does not talk, and what to paste where.
//!
//! Nothing is changed and nothing is left: what is made in Asterisk or on the disk to prove something is taken away again. Each step has a
//! time limit of its own and all of them together one that cannot be passed.

mod asterisk;
mod coming;
mod ear;
mod host;
mod manager;
mod media;
mod pbx;
mod report;
mod services;
mod socket;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use rustls::ClientConfig;
use tokio::time::timeout;

pub use self::report::{Advice, Check, Report, Status};
use self::{ear::Ear, host::Gateway, socket::Door};
use crate::{agent, config::Config, webhook};

/// How long one step over a network may take.
const STEP: Duration = Duration::from_secs(3);
/// How long everything that is tried after the ports may take.
const WHOLE: Duration = Duration::from_secs(12);

/// Arguments of `hark doctor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hark doctor\n  hark doctor --config /etc/hark/hark.toml\n  hark doctor --json | jq '.checks[] | select(.status == \"fail\")'\n\n\
                  Run it as the gateway's user, with the gateway's configuration.\n\
                  Exit codes: 0 nothing failed, 1 something did, 64 the configuration is wrong."
)]
pub struct Args {
    #[command(flatten)]
    config: super::ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Looks at everything and prints it.
pub async fn run(args: Args) -> ExitCode {
    let config = match args.config.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let report = examine(&config).await;
    let text = if args.json { report.json() } else { report.to_string() };
    let _ = io::stdout().write_all(text.as_bytes()); // a reader that left early wants no more
    if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What checks share.
struct Context<'a> {
    config: &'a Config,
    tls: Arc<ClientConfig>,
    /// For what is asked directly: this gateway, PBXs.
    http: reqwest::Client,
    gateway: Gateway,
    /// Our own listener, where the port of AudioSocket was free.
    ear: Option<Ear>,
    /// The same for chan_websocket.
    door: Option<Door>,
    /// The same for Asterisks that connect to us.
    ari_door: Option<Door>,
}

/// Looks at everything.
pub async fn examine(config: &Config) -> Report {
    let mut checks = host::settings(config);
    let tls = match agent::tls_config(config.tls.ca_file.clone()) {
        Ok(tls) => Arc::new(tls),
        Err(error) => {
            let advice =
                Advice::new("give a file of PEM certificates, or none").paste("hark.toml", ["[tls]", "ca_file = \"\""]);
            checks.push(Check::fail("certificates", error.to_string()).advise(advice));
            return Report { checks };
        }
    };
    let http = match webhook::client_builder(&tls).timeout(STEP).build() {
        Ok(http) => http,
        Err(error) => {
            checks.push(Check::fail("certificates", format!("no HTTP client can be made: {error}")));
            return Report { checks };
        }
    };
    let (listeners, gateway, ear) = host::listeners(config, &http).await;
    checks.extend(listeners);
    let (door, socket) = host::websocket(config, gateway).await.unzip();
    checks.extend(socket);
    let (ari_door, port) = host::ari(config, gateway).await.unzip();
    checks.extend(port);
    let (door, ari_door) = (door.flatten(), ari_door.flatten());
    let context = Context { config, tls, http, gateway, ear, door, ari_door };
    let mut work: Vec<(String, BoxFuture<'_, Vec<Check>>)> = vec![
        ("data directory".to_owned(), host::disk(config).boxed()),
        ("database".to_owned(), host::database(config).boxed()),
        ("services".to_owned(), services::agents(&context).boxed()),
        ("webhooks".to_owned(), services::receivers(&context).boxed()),
    ];
    work.extend(config.ari.all().map(|(name, pbx)| (pbx::called(name), pbx::examine(name, pbx, &context).boxed())));
    work.push(("ami".to_owned(), manager::examine(config).boxed()));
    let found = join_all(work.into_iter().map(|(name, work)| async move {
        let late = || vec![Check::fail(&name, format!("not done within {} s", WHOLE.as_secs()))];
        timeout(WHOLE, work).await.unwrap_or_else(|_| late())
    }));
    checks.extend(found.await.into_iter().flatten());
    if config.ari.all().next().is_none() {
        checks.push(pbx::unknown(config));
    }
    if let Some(ear) = context.ear {
        ear.close().await;
    }
    for door in [context.door, context.ari_door].into_iter().flatten() {
        door.close().await;
    }
    Report { checks }
}
