//! `hark demo`: a gateway, a caller and a receiver of events in one process, and what they make of each other.

mod events;
mod receptionist;
mod verdict;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{
    events::{Event, Events},
    verdict::Verdict,
};
use super::{
    call::{CALLER, line, save_to, speech},
    phone::{self, CallError, Codec, Options, Report, Step},
};
use crate::{
    agent::embedded::models,
    app::{App, BindError},
    audio::{Rate, wav},
    call::Digit,
    config::Config,
    telemetry::logging::{self, Format, Output},
    webhook::EndpointConfig,
};

const RATE: Rate = Rate::R8K;
/// Parts of the recorded caller, in ms: "Hello." and "I'm sorry. Something is terribly wrong."
const HELLO: (u64, u64) = (500, 1_500);
const SORRY: (u64, u64) = (2_500, 6_300);
/// What it does without models.
const WITHOUT_MODELS: &str =
    "It repeats what it hears; with its models it converses: `hark models install` (make models) fetches them.";
/// The last event is posted once the call is over.
const LAST_EVENT: Duration = Duration::from_secs(5);

/// Options of `hark demo`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Needs no PBX, no keys, no network and no configuration; nothing is left running.\n\
                        Exit codes: 0 all of it worked, 1 something did not come, 64 bad use.")]
pub struct Args {
    /// Where the call is saved: a stereo WAV, caller left, agent right
    #[arg(long, value_name = "FILE", default_value = "hark-demo.wav")]
    pub save: PathBuf,
    /// The directory of the embedded agent's models; with them it converses [default: where `hark models install` puts them]
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// Give up after this many seconds
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
}

/// Why there was no demonstration.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("no port on loopback for the receiver of events: {0}")]
    Events(std::io::Error),
    #[error("the gateway does not start: {0}")]
    Bind(#[from] BindError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the recorded caller cannot be read: {0}")]
    Speech(#[from] wav::Error),
    #[error("{0}")]
    Save(String),
    #[error("the caller has no voice: {0}")]
    Voice(String),
}

/// Shows a call and says whether all of it worked.
pub async fn run(args: Args) -> ExitCode {
    // the timeline is the output; of the gateway's own lines only what goes wrong is of interest
    let _logging = logging::init(Format::Human, "warn", Output::Stderr);
    match show(&args).await {
        Ok(verdict) if verdict.is_good() => ExitCode::SUCCESS,
        Ok(verdict) => {
            eprintln!("hark demo: {}", verdict.faults().join("; "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("hark demo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn show(args: &Args) -> Result<Verdict, DemoError> {
    let started = Instant::now();
    let mut events = Events::listen(move |event| print_event(started, event)).await.map_err(DemoError::Events)?;
    let mut config = config(events.url());
    config.models.dir = models_dir(args.models.as_ref());
    let converses = models::are_installed(&config.models.dir);
    let redemption = Duration::from_millis(config.call.vad.redemption_ms);
    if converses {
        println!("Opening the models in {} …", config.models.dir.display());
    }
    let app = App::bind(config).await?;
    let address = app.audiosocket_addr();
    println!("Gateway with the embedded agent on {address}, events to {}", events.url());
    println!("{}\n", if converses { receptionist::WHAT } else { WITHOUT_MODELS });
    let script = match converses {
        true => receptionist::script(RATE).await.map_err(DemoError::Voice)?,
        false => script(&speech(CALLER, RATE)?),
    };
    let stop = CancellationToken::new();
    let (report, _) = tokio::join!(
        async {
            let report = call(address, script, Duration::from_secs(args.seconds), started).await;
            events.wait_for("call_ended", LAST_EVENT).await;
            stop.cancel();
            report
        },
        app.run(stop.clone()),
    );
    let report = report?;
    save_to(&args.save, &report).map_err(DemoError::Save)?;
    let events = events.stop().await;
    if converses {
        receptionist::print(&events);
    }
    let verdict = if converses { Verdict::of_receptionist(&report, &events) } else { Verdict::of(&report, &events) };
    println!("\n{verdict}");
    print_numbers(&report, redemption);
    println!("\nSaved as {} (caller left, agent right).", args.save.display());
    Ok(verdict)
}

fn models_dir(named: Option<&PathBuf>) -> PathBuf {
    let variable = |name: &str| std::env::var(name).ok();
    let usual = || models::usual_dir(variable, Path::new(""));
    named.cloned().or_else(|| variable("HARK__MODELS__DIR").map(PathBuf::from)).unwrap_or_else(usual)
}

/// The default settings on free ports, whatever the environment says: a demonstration must not take over a gateway's.
fn config(url: String) -> Config {
    let mut config = Config::default();
    config.audiosocket.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.http.enabled = false;
    // as WEBHOOK_URL, and what is made of a message
    let mut receiver = EndpointConfig { url: Some(url), ..EndpointConfig::default() };
    receiver.events.push("tool_call".to_owned());
    config.webhooks.endpoints.insert("demo".to_owned(), receiver);
    // in memory: what the demonstration reports is seen at once and leaves nothing behind
    config.data_dir = PathBuf::new();
    config.limits.media_threads = 1;
    config
}

async fn call(address: SocketAddr, script: Vec<Step>, limit: Duration, started: Instant) -> Result<Report, DemoError> {
    let options = Options { uuid: Uuid::new_v4(), codec: Codec::Slin(RATE), script, limit, record: true };
    Ok(phone::call(address, options, |_, moment| println!("{}", line(started.elapsed(), moment))).await?)
}

/// Interrupts the greeting, lets the agent repeat two things, presses two keys, and waits for the agent to hang up.
fn script(caller: &[i16]) -> Vec<Step> {
    let part = |(from, until)| {
        let at = |ms| RATE.samples_in(Duration::from_millis(ms)).min(caller.len());
        Step::Say(caller[at(from)..at(until)].to_vec())
    };
    let (second, long) = (Duration::from_secs(1), Duration::from_secs(10));
    let answer = || [Step::AwaitSpeech(long), Step::AwaitQuiet(second, long)];
    let key = |key| Digit::try_from(key).ok().map(Step::Press);
    let mut script = vec![Step::AwaitSpeech(long), Step::Pause(3 * second)];
    script.push(part(HELLO));
    script.extend(answer());
    script.push(part(SORRY));
    script.extend(answer());
    script.extend(key('5'));
    script.extend(answer());
    script.extend(key('#'));
    script
}

fn print_event(started: Instant, event: &Event) {
    // peers' words are escaped: a terminal is no place for them
    let detail = match event.payload.as_object() {
        Some(payload) if !payload.is_empty() => format!(" {}", event.payload),
        _ => String::new(),
    };
    println!("  {:7.3} s  event   {}{detail}", started.elapsed().as_secs_f64(), event.kind.escape_debug());
}

fn print_numbers(report: &Report, redemption: Duration) {
    let ms = |duration: Duration| format!("{:.0} ms", duration.as_secs_f64() * 1000.0);
    if let Some(stopped) = verdict::interrupted_after(report) {
        println!("  the agent fell silent {} after the caller had begun to speak", ms(stopped));
    }
    for answer in report.answers().flatten() {
        println!(
            "  the agent answered {} after the caller's last sound ({} of it to be sure that they have stopped)",
            ms(answer),
            ms(redemption)
        );
    }
    if let Some(gaps) = phone::Quantiles::of(report.gaps().collect()) {
        println!("  frames from the gateway, 20 ms each, came apart by {gaps}");
    }
}
