//! How well Hark listens: `make quality`. What is measured is in the tables' titles; README.md has the results.
//!
//! Recorded speech, the gateway's own loop and models, a simulated clock: hours of calls cost minutes of work and come out the same each time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

mod barge_in;
mod digits;
mod end_of_turn;
mod false_alarms;
mod noise;
mod receptionist;
mod resampler;
mod sim;
mod speech;
mod table;

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let wanted: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    match run(&|item| wanted.is_empty() || wanted.iter().any(|name| name == item)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("quality: cannot measure: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn run(wants: &dyn Fn(&str) -> bool) -> Result<(), String> {
    let prompts = speech::prompts()?;
    let agent = speech::agent(&prompts);
    if wants("end-of-turn") {
        end_of_turn::report(&prompts, &speech::texts()?);
    }
    if wants("barge-in") {
        barge_in::report(&prompts, &agent);
    }
    if wants("false-alarms") {
        false_alarms::report(&prompts, &agent);
    }
    if wants("words") {
        words();
    }
    if wants("resampler") {
        resampler::report();
    }
    if wants("digits") {
        digits::report(&prompts);
    }
    if wants("receptionist") {
        receptionist::report();
    }
    Ok(())
}

/// Words through a real gateway: in Python, as recognition is.
fn words() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/quality_wer.py");
    let python = speech::cache().join("quality/python/bin/python");
    let status = Command::new(&python).arg(script).arg(env!("CARGO_BIN_EXE_hark")).status();
    let fault = match status {
        Ok(status) if status.success() => return,
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    println!(
        "\nWords through the gateway are NOT measured: {}: {fault}; scripts/get-quality.sh installs it",
        python.display()
    );
}
