//! Many calls at once.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::task::JoinSet;
use uuid::Uuid;

use crate::cli::phone::{self, Options, Quantiles, Report};

/// Between two calls that begin. Not a divisor of 20 ms, so that the frames of all calls spread over the 20 ms as in real life.
const APART: Duration = Duration::from_micros(5_300);
/// Different reasons that are shown.
const MOST_REASONS: usize = 10;

/// Makes `calls` calls like `options` and prints a table.
///
/// # Errors
/// When a call failed.
pub async fn run(address: SocketAddr, calls: u32, options: &Options) -> Result<(), String> {
    println!("Calling {address} {calls} times with {}, {:.1} s each", options.codec, options.limit.as_secs_f64());
    let mut running = JoinSet::new();
    for index in 0..calls {
        let options = Options { uuid: Uuid::new_v4(), ..options.clone() };
        running.spawn(async move {
            tokio::time::sleep(APART * index).await;
            phone::call(address, options, |_, _| ()).await
        });
    }
    let mut totals = Totals::default();
    while let Some(outcome) = running.join_next().await {
        match outcome {
            Ok(Ok(report)) => totals.add(&report),
            Ok(Err(error)) => totals.failed(error.to_string()),
            Err(error) => totals.failed(format!("the call's task failed: {error}")),
        }
    }
    totals.print(calls);
    if totals.failures == 0 { Ok(()) } else { Err(format!("{} of {calls} calls failed", totals.failures)) }
}

#[derive(Debug, Default)]
struct Totals {
    failures: u32,
    reasons: BTreeMap<String, u32>,
    frames_sent: u64,
    frames_received: u64,
    connects: Vec<Duration>,
    first_frames: Vec<Duration>,
    gaps: Vec<Duration>,
    answers: Vec<Duration>,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        if let Some(fault) = report.fault() {
            self.failed(fault);
        }
        self.frames_sent += report.frames_sent;
        self.frames_received += report.arrivals.len() as u64;
        self.connects.push(report.connect);
        self.first_frames.extend(report.first_frame());
        self.gaps.extend(report.gaps());
        self.answers.extend(report.answers().flatten());
    }

    fn failed(&mut self, reason: String) {
        self.failures += 1;
        if self.reasons.len() < MOST_REASONS || self.reasons.contains_key(&reason) {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }

    fn print(&mut self, calls: u32) {
        let ratio = self.frames_received as f64 / self.frames_sent.max(1) as f64 * 100.0;
        println!("\n  calls         {calls}, of them {} failed", self.failures);
        println!("  frames        {} sent, {} received ({ratio:.1} %)", self.frames_sent, self.frames_received);
        let rows = [
            ("connect", &mut self.connects),
            ("first frame", &mut self.first_frames),
            ("gaps", &mut self.gaps),
            ("answers", &mut self.answers),
        ];
        for (name, values) in rows {
            if let Some(quantiles) = Quantiles::of(std::mem::take(values)) {
                println!("  {name:<12}  {quantiles}");
            }
        }
        for (reason, count) in &self.reasons {
            println!("  {count} failed: {reason}");
        }
    }
}
