//! `hark webhooks`: what became of events, and sending them again. Works beside a gateway that runs, and without one.

mod output;

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Subcommand;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use self::output::{Printed, print, table};
use crate::{
    call::{CallId, EventId},
    config::Config,
    webhook::{
        Entry, Outbox, Phase, Recipient,
        sign::Secret,
        store::{self, Filter, State, Store, StoreError, view},
    },
};

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// How often the outcome of a test is looked for.
const LOOK: Duration = Duration::from_millis(200);
/// How long the store may take for its last words.
const CLOSING: Duration = Duration::from_secs(5);

/// Arguments of `hark webhooks`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hark webhooks list --state dead\n  hark webhooks show 0192f4c0-5a3e-7c1b-8d2e-0123456789ab\n  \
                  hark webhooks retry-dead --since-hours 12\n  hark webhooks test\n\n\
                  Run it with the same configuration as the gateway (HARK_CONFIG, HARK_DATA_DIR), as a user who may read its data directory.\n\
                  Exit codes: 0 done, 1 something did not work, 64 bad use or bad configuration."
)]
pub struct Args {
    #[command(flatten)]
    config: super::ConfigArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List deliveries, the newest first: one line for each event and receiver
    List(List),
    /// Show an event: its body, and every attempt at delivering it with the receiver's answer
    Show {
        /// The event, as `list` shows it
        event: Uuid,
    },
    /// Send an event again, whatever became of it
    Retry {
        /// The event, as `list` shows it
        event: Uuid,
        /// Only to this receiver
        #[arg(long, value_name = "NAME")]
        endpoint: Option<String>,
    },
    /// Send all dead letters again
    RetryDead {
        /// Only those of this receiver
        #[arg(long, value_name = "NAME")]
        endpoint: Option<String>,
        /// Only events of the last so many hours
        #[arg(long, value_name = "HOURS", default_value_t = 24 * 365)]
        since_hours: u64,
    },
    /// Delete what is old; what still waits is never deleted
    Purge {
        /// Delivered events older than this, in days
        #[arg(long, value_name = "DAYS", default_value_t = 7)]
        delivered_days: u32,
        /// Dead letters older than this, in days
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        dead_days: u32,
    },
    /// Have the running gateway send an event of the type `test` to a receiver, and wait for what it answers
    Test {
        /// The receiver
        #[arg(default_value = "default")]
        endpoint: String,
        /// How long to wait, in s
        #[arg(long, value_name = "S", default_value_t = 20)]
        wait: u64,
    },
    /// Send to a receiver again that was disabled because it answered 410
    Enable {
        /// The receiver
        endpoint: String,
    },
    /// The secret that requests are signed with
    #[command(subcommand)]
    Secret(SecretCommand),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only these: pending, asking (a call waits for the answer), done or dead
    #[arg(long)]
    state: Option<State>,
    /// Only those to this receiver
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// Only those of the call with this UUID
    #[arg(long)]
    uuid: Option<Uuid>,
    /// Only those before this event: to go on where a list ended
    #[arg(long, value_name = "EVENT")]
    before: Option<Uuid>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// As JSON, an object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum SecretCommand {
    /// Print the secret that a receiver has to verify with
    Show {
        /// The receiver
        #[arg(default_value = "default")]
        endpoint: String,
    },
    /// Make a new one. The present one goes on signing beside it, until receivers know the new one
    New {
        /// The receiver
        #[arg(default_value = "default")]
        endpoint: String,
        /// How long both are used, in hours
        #[arg(long, value_name = "HOURS", default_value_t = 24)]
        overlap_hours: u32,
    },
}

/// What went wrong, in words.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Other(String),
}

/// Does it.
pub async fn run(args: Args) -> ExitCode {
    let config = match args.config.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    match work(&config, args.command).await {
        Ok(printed) => printed,
        Err(failure) => {
            eprintln!("hark: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn work(config: &Config, command: Command) -> Result<ExitCode, Failure> {
    let url = config.database.url.clone().filter(|url| !url.is_empty());
    let settings = store::Config { data_dir: config.data_dir.clone(), url, ..store::Config::default() };
    let store = Store::visit(&settings).await?;
    let done = carry_out(&store, config, command).await;
    store.close(Instant::now() + CLOSING).await;
    done.map(print)
}

async fn carry_out(store: &Store, config: &Config, command: Command) -> Result<Printed, Failure> {
    match command {
        Command::List(list) => self::list(store, list).await,
        Command::Show { event } => {
            let shown = store.show(EventId::from(event)).await?;
            if shown.is_empty() {
                return Err(unknown(event));
            }
            Ok(shown.iter().map(|shown| format!("{:#}", shown.to_json())).collect())
        }
        Command::Retry { event, endpoint } => match store.retry(EventId::from(event), endpoint.as_deref()).await? {
            0 => Err(unknown(event)),
            sent => Ok(vec![format!("{sent} to be sent again")]),
        },
        Command::RetryDead { endpoint, since_hours } => {
            let since = Duration::from_secs(since_hours.saturating_mul(3_600));
            let since = SystemTime::now().checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH);
            let sent = store.retry_dead(endpoint.as_deref(), since).await?;
            Ok(vec![format!("{sent} to be sent again")])
        }
        Command::Purge { delivered_days, dead_days } => {
            let deleted = store.purge(DAY * delivered_days, DAY * dead_days).await?;
            Ok(vec![format!("{deleted} deleted")])
        }
        Command::Test { endpoint, wait } => test(store, endpoint, Duration::from_secs(wait)).await,
        Command::Enable { endpoint } => {
            store.set_disabled(&endpoint, None).await?;
            Ok(vec![format!("{endpoint} is enabled; a gateway that runs notices within 10 s")])
        }
        Command::Secret(command) => secret(store, config, command).await,
    }
}

fn unknown(event: Uuid) -> Failure {
    Failure::Other(format!("there is no event {event} (for this receiver); `hark webhooks list` shows those there are"))
}

async fn list(store: &Store, list: List) -> Result<Printed, Failure> {
    let List { state, endpoint, uuid, before, limit, json } = list;
    let filter = Filter { endpoint, state, uuid, before: before.map(EventId::from), limit };
    let found = store.list(&filter).await?;
    Ok(if json { found.iter().map(|one| one.to_json().to_string()).collect() } else { table(&found) })
}

/// Puts an event where the gateway finds it, and waits for the gateway to have tried.
async fn test(store: &Store, endpoint: String, wait: Duration) -> Result<Printed, Failure> {
    let (id, call, uuid, at) = (EventId::new(), CallId::new(), Uuid::now_v7(), SystemTime::now());
    let body = serde_json::json!({"uuid": uuid, "type": "test", "timestamp": view::time(at), "payload": {}});
    let body = body.to_string().into();
    let to = vec![Recipient::plain(endpoint.as_str().into())];
    let entry = Entry { id, call, uuid, kind: "test".into(), at, phase: Phase::Middle, body, to };
    let full = |full: crate::webhook::Full| Failure::Other(full.to_string());
    store.put(entry).await.map_err(full)?;
    let deadline = Instant::now() + wait;
    while Instant::now() < deadline {
        let shown = store.show(id).await?;
        if let Some(attempt) = shown.iter().find_map(|shown| shown.attempts.first()) {
            let json = attempt.to_json();
            return match &attempt.report.error {
                None => Ok(vec![format!("{endpoint} has taken it: {json}")]),
                Some(_) => Err(Failure::Other(format!("{endpoint} has not taken it: {json}"))),
            };
        }
        sleep(LOOK).await;
    }
    Err(Failure::Other(format!(
        "nobody has tried to send it to {endpoint} within {} s; is a gateway running with this configuration, and is {endpoint} the name of \
         a receiver? It stays in the list as {id}",
        wait.as_secs()
    )))
}

async fn secret(store: &Store, config: &Config, command: SecretCommand) -> Result<Printed, Failure> {
    match command {
        SecretCommand::Show { endpoint } => {
            if let Some(configured) = config.webhooks.configured_secret(&endpoint) {
                return Ok(vec![configured.to_owned()]);
            }
            let secrets = store.secrets(&endpoint).await?;
            if secrets.is_empty() {
                let text = format!("{endpoint} has no secret; one is made when a gateway starts with this receiver");
                return Err(Failure::Other(text));
            }
            Ok(secrets
                .iter()
                .map(|secret| match secret.expires_at {
                    None => secret.secret.clone(),
                    Some(at) => format!("{}  (the former one, used until {})", secret.secret, view::time(at)),
                })
                .collect())
        }
        SecretCommand::New { endpoint, overlap_hours } => {
            if config.webhooks.configured_secret(&endpoint).is_some() {
                let text = format!(
                    "the secret of {endpoint} is configured: write the new one into the configuration, followed by a space and the present one"
                );
                return Err(Failure::Other(text));
            }
            let new = Secret::fresh().expose();
            store.rotate_secret(&endpoint, &new, Duration::from_secs(3_600) * overlap_hours).await?;
            Ok(vec![new])
        }
    }
}
