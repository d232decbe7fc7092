//! How well Hark listens: `make quality`. What is measured is in the tables' titles; README.md has the results.
//!
//! Recorded speech, the gateway's own loop and models, a simulated clock: hours of calls cost minutes of work and come out the same each time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

mod barge_in;
mod digits;
mod end_of_turn;
mod false_alarms;
mod noise;
mod resampler;
mod sim;
mod speech;
mod table;

use std::process::ExitCode;

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
    if wants("resampler") {
        resampler::report();
    }
    if wants("digits") {
        digits::report(&prompts);
    }
    Ok(())
}
