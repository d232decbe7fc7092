//! Whole calls, Hark beside a minimal bridge: `cargo bench --bench calls`.
//!
//! The gateway under test runs in a process of its own on core 0; phones and provider run on core 1. Runs alternate between the two
//! gateways and medians are printed, because such a machine varies by a tenth against itself: compare rows of one table, never two tables.
//!
//! `HARK_BENCH_CALLS` (50,200,500,1000), `HARK_BENCH_RUNS` (3), `HARK_BENCH_SECONDS` (10), `HARK_BENCH_BURST` (30, in s; 0: none) and
//! `HARK_BENCH_SERVERS` (hark,bridge; hark-40ms has two frames in each message to the service) change what is run. A second table has conversations through a cascade with everything on, at
//! `HARK_BENCH_CONVERSATIONS` (50,200,350; 0: none) calls, and a third what each kind of leg costs by itself, `HARK_BENCH_LEGS` (200; 0: none) of them.
#![allow(missing_docs)]

mod allocations;
mod bridge;
mod drive;
mod legs;
mod phone;
mod proc;
mod provider;
mod report;
mod serve;
mod services;

use std::{env, error::Error, process::ExitCode};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let result = match (arguments.next().as_deref(), arguments.next()) {
        (Some("serve-hark"), Some(url)) => serve::hark(&url, 20),
        (Some("serve-hark-40ms"), Some(url)) => serve::hark(&url, 40),
        (Some("serve-cascade"), Some(url)) => serve::cascade(&url),
        (Some("serve-bridge"), Some(url)) => bridge::serve(&url),
        (Some("drive"), _) => drive::drive(),
        // cargo itself calls with --bench
        _ => proc::start_driver(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
