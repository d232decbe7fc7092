//! `hark call`: a telephone without a PBX, and many of them at once.

mod load;

use std::{
    fs::{self, File},
    io::BufWriter,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use uuid::Uuid;

use super::{
    BAD_USE,
    phone::{self, Codec, Moment, Options, Quantiles, Report, Step},
};
use crate::{
    audio::{Rate, resample::Resampler, wav},
    call::Digit,
};

/// How long the caller stays after the last thing they do, in s, if nothing else is asked for.
const STAY: Duration = Duration::from_secs(5);
/// Who speaks when no recording is given.
pub(super) const CALLER: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo/caller.wav"));

/// Options of `hark call`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  hark call localhost:5001                               a recorded caller speaks
  hark call --dtmf '12#' --save call.wav localhost:5001  presses keys, keeps the sound (caller left, agent right)
  hark call --calls 200 --seconds 30 localhost:5001      200 calls at once

Exit codes: 0 the gateway answered, 1 a call failed, 64 bad use.")]
pub struct Args {
    /// The gateway's AudioSocket port
    #[arg(value_name = "HOST:PORT")]
    pub gateway: String,
    /// What the caller says (WAV of any rate) [default: a built-in recording]
    #[arg(long, value_name = "FILE")]
    pub wav: Option<PathBuf>,
    /// Keys that the caller presses after speaking: 0-9, *, #, A-D
    #[arg(long, value_name = "DIGITS", value_parser = digits)]
    pub dtmf: Option<Digits>,
    /// How the caller's audio is written: ulaw, alaw, slin, slin12, slin16, slin24, slin32, slin44, slin48, slin96, slin192
    #[arg(long, value_name = "CODEC", default_value = "slin")]
    pub codec: Codec,
    /// Save the call as a stereo WAV: caller left, agent right
    #[arg(long, value_name = "FILE", conflicts_with = "calls")]
    pub save: Option<PathBuf>,
    /// Hang up after this many seconds [default: 5 s after the caller's last word or key]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
    /// So many calls at once, each with a UUID of its own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub calls: Option<u32>,
    /// The UUID of the call, e.g. one announced by POST /call [default: a random one]
    #[arg(long, value_name = "UUID", conflicts_with = "calls")]
    pub uuid: Option<Uuid>,
}

/// Keys to press.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digits(Vec<Digit>);

fn digits(text: &str) -> Result<Digits, String> {
    text.chars()
        .map(|key| Digit::try_from(key).map_err(|fault| fault.to_string()))
        .collect::<Result<_, _>>()
        .map(Digits)
}

/// Does what the arguments ask for.
pub async fn run(args: Args) -> ExitCode {
    let options = match options(&args) {
        Ok(options) => options,
        Err(fault) => {
            eprintln!("hark call: {fault}");
            return ExitCode::from(BAD_USE);
        }
    };
    let outcome = match resolve(&args.gateway).await {
        Ok(address) => match args.calls {
            Some(calls) => load::run(address, calls, &options).await,
            None => one(address, options, args.save.as_deref()).await,
        },
        Err(fault) => Err(fault),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("hark call: {fault}");
            ExitCode::FAILURE
        }
    }
}

async fn resolve(gateway: &str) -> Result<SocketAddr, String> {
    let mut found = tokio::net::lookup_host(gateway)
        .await
        .map_err(|error| format!("{gateway:?} is no address: {error}; expected HOST:PORT, e.g. localhost:5001"))?;
    found.next().ok_or_else(|| format!("{gateway:?} has no address"))
}

fn options(args: &Args) -> Result<Options, String> {
    let rate = args.codec.rate();
    let bytes = match &args.wav {
        Some(path) => fs::read(path).map_err(|error| format!("--wav {}: {error}", path.display()))?,
        None => CALLER.to_vec(),
    };
    let speech = speech(&bytes, rate)
        .map_err(|error| format!("--wav {}: {error}", args.wav.as_deref().unwrap_or(Path::new("")).display()))?;
    let keys = args.dtmf.iter().flat_map(|digits| digits.0.iter().copied());
    // speech, and 260 ms for each key
    let busy = rate.duration_of(speech.len()) + keys.clone().map(|_| Duration::from_millis(260)).sum::<Duration>();
    let script = std::iter::once(Step::Say(speech)).chain(keys.map(Step::Press)).collect();
    Ok(Options {
        uuid: args.uuid.unwrap_or_else(Uuid::new_v4),
        codec: args.codec,
        script,
        limit: args.seconds.map_or(busy + STAY, Duration::from_secs),
        record: args.save.is_some(),
    })
}

/// The samples of a WAV file at `rate`.
pub(super) fn speech(bytes: &[u8], rate: Rate) -> Result<Vec<i16>, wav::Error> {
    let (hz, samples) = wav::read(bytes)?;
    let mut resampler = Resampler::new(hz, rate.hz());
    let mut out = Vec::new();
    resampler.process(&samples, &mut out);
    resampler.finish(&mut out);
    Ok(out)
}

async fn one(address: SocketAddr, options: Options, save: Option<&Path>) -> Result<(), String> {
    println!("Calling {address} with {}, UUID {}", options.codec, options.uuid);
    let report = phone::call(address, options, |at, moment| println!("{}", line(at, moment)))
        .await
        .map_err(|error| error.to_string())?;
    print_report(&report);
    if let Some(path) = save {
        save_to(path, &report)?;
        println!("  saved         {} (caller left, agent right)", path.display());
    }
    report.fault().map_or(Ok(()), Err)
}

/// A line of the timeline.
pub(super) fn line(at: Duration, moment: Moment) -> String {
    let what = match moment {
        Moment::Connected => "connected, UUID sent".to_owned(),
        Moment::FirstFrame => "first frame from the gateway".to_owned(),
        Moment::Heard(true) => "agent   begins to speak".to_owned(),
        Moment::Heard(false) => "agent   is silent".to_owned(),
        Moment::Said(true) => "caller  begins to speak".to_owned(),
        Moment::Said(false) => "caller  is silent".to_owned(),
        Moment::Pressed(digit) => format!("caller  presses {digit}"),
        Moment::WaitedInVain => "caller  has waited for the agent in vain".to_owned(),
    };
    format!("  {:7.3} s  {what}", at.as_secs_f64())
}

fn print_report(report: &Report) {
    let ms = |duration: Option<Duration>| {
        duration.map_or_else(|| "never".to_owned(), |at| format!("{:.1} ms", at.as_secs_f64() * 1000.0))
    };
    println!("\n  connected in  {}", ms(Some(report.connect)));
    println!("  first frame   {}", ms(report.first_frame()));
    println!("  first sound   {}", ms(report.first_sound()));
    println!("  frames        {} sent, {} received", report.frames_sent, report.arrivals.len());
    if let Some(gaps) = Quantiles::of(report.gaps().collect()) {
        println!("  gaps          {gaps}");
    }
    if let Some(answers) = Quantiles::of(report.answers().flatten().collect()) {
        println!("  answers       {answers} (from the caller's last sound to the agent's first)");
    }
    if report.odd_frames > 0 {
        println!("  odd frames    {} not 20 ms long", report.odd_frames);
    }
    println!("  ended         after {:.2} s: {}", report.length.as_secs_f64(), report.ending);
}

/// Saves the call as a stereo WAV.
pub(super) fn save_to(path: &Path, report: &Report) -> Result<(), String> {
    let fault = |error: &dyn std::fmt::Display| format!("cannot save the call as {}: {error}", path.display());
    let file = File::create(path).map_err(|error| fault(&error))?;
    phone::stereo(BufWriter::new(file), report).map_err(|error| fault(&error))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Cli::try_parse_from(std::iter::once("call").chain(line.split(' '))).map(|cli| cli.args)
    }

    #[test]
    fn a_call_lasts_as_long_as_its_speech_and_keys_and_five_seconds() {
        let args = parse("--codec slin16 --dtmf 1a localhost:5001").unwrap_or_else(|error| panic!("{error}"));
        let options = options(&args).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(options.script.len(), 3);
        let whole = Duration::from_millis(9_520 + 520 + 5_000);
        assert!(options.limit.abs_diff(whole) < Duration::from_millis(10), "{:?}", options.limit);
    }

    #[test]
    fn bad_arguments_are_refused() {
        for line in [
            "--dtmf 12x h:1",
            "--codec g722 h:1",
            "--calls 0 h:1",
            "--calls 2 --save f h:1",
            "--uuid 1 h:1",
            "--calls 2",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        let args = parse("--wav /nonexistent.wav h:1").unwrap_or_else(|error| panic!("{error}"));
        assert!(options(&args).is_err_and(|fault| fault.contains("/nonexistent.wav")));
    }
}
