//! `hark completions`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::CommandFactory;
use clap_complete::Shell;

/// Arguments of `hark completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hark completions bash > /etc/bash_completion.d/hark")]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints completions.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    // into memory first: a reader that leaves early is no reason to panic
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "hark", &mut script);
    match io::stdout().write_all(&script) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
