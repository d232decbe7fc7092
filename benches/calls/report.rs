//! The table.

use std::cell::Cell;

use crate::{drive::Run, phone::Seen};

/// Beyond this the load generator is what is measured.
const LATE_MS: f64 = 2.0;

thread_local! {
    static LATE: Cell<bool> = const { Cell::new(false) };
    static HEADED: Cell<bool> = const { Cell::new(false) };
}

pub fn head() {
    println!();
    println!(
        "| gateway | calls | CPU-s per call-minute | µs per pair | kB per call | echo p50 / p99 ms | pacing p50 / p99 / p99.9 / max ms | underruns | frames back | allocations per pair | phones late p99 ms |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
}

/// The numbers of one run, in the order of the table.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    cpu_per_minute: f64,
    micros_per_pair: f64,
    kb: f64,
    echo: [f64; 2],
    pacing: [f64; 4],
    underruns: f64,
    back: f64,
    voiced: f64,
    allocations: f64,
    late: f64,
}

impl Numbers {
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn of(run: &Run) -> Self {
        let seen = &run.seen;
        let calls = f64::from(run.calls);
        let echo = Sorted::new(&seen.echo);
        let pacing = Sorted::new(&seen.pacing);
        Self {
            cpu_per_minute: run.cpu * 60.0 / (calls * run.seconds),
            // Of the frames that there were: late phones send fewer.
            micros_per_pair: run.cpu * 1e6 / seen.sent.max(1) as f64,
            kb: run.kb_per_call,
            echo: [echo.at(0.5), echo.at(0.99)],
            pacing: [pacing.at(0.5), pacing.at(0.99), pacing.at(0.999), pacing.at(1.0)],
            underruns: seen.underruns as f64 / seen.frames.max(1) as f64,
            back: seen.back as f64 / seen.spoken.max(1) as f64,
            voiced: seen.voiced as f64 / seen.frames.max(1) as f64,
            allocations: run.allocations as f64 / seen.sent.max(1) as f64,
            late: Sorted::new(&seen.late).at(0.99),
        }
    }

    fn median(all: &[Self]) -> Self {
        let of = |get: &dyn Fn(&Self) -> f64| {
            let mut values: Vec<f64> = all.iter().map(get).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        Self {
            cpu_per_minute: of(&|n| n.cpu_per_minute),
            micros_per_pair: of(&|n| n.micros_per_pair),
            kb: of(&|n| n.kb),
            echo: [0, 1].map(|i| of(&|n| n.echo[i])),
            pacing: [0, 1, 2, 3].map(|i| of(&|n| n.pacing[i])),
            underruns: of(&|n| n.underruns),
            back: of(&|n| n.back),
            voiced: of(&|n| n.voiced),
            allocations: of(&|n| n.allocations),
            late: of(&|n| n.late),
        }
    }

    fn row(&self, server: &str, calls: u32) -> String {
        let Self { cpu_per_minute, micros_per_pair, kb, echo, pacing, underruns, back, allocations, late, .. } = self;
        format!(
            "| {server} | {calls} | {cpu_per_minute:.3} | {micros_per_pair:.1} | {kb:.1} | {:.1} / {:.1} | {:.1} / {:.1} / {:.1} / {:.1} | {:.3} % | {:.2} % | {allocations:.3} | {late:.1} |",
            echo[0],
            echo[1],
            pacing[0],
            pacing[1],
            pacing[2],
            pacing[3],
            underruns * 100.0,
            back * 100.0,
        )
    }
}

/// Times in µs, read in ms.
struct Sorted(Vec<u32>);

impl Sorted {
    fn new(values: &[u32]) -> Self {
        let mut values = values.to_vec();
        values.sort_unstable();
        Self(values)
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn at(&self, share: f64) -> f64 {
        let index = (self.0.len().saturating_sub(1) as f64 * share) as usize;
        self.0.get(index).map_or(f64::NAN, |micros| f64::from(*micros) / 1_000.0)
    }
}

/// One line about one run, for whoever waits.
pub fn brief(run: &Run) -> String {
    let broken = match run.seen.broken {
        0 => String::new(),
        broken => format!(" {broken} CALLS BROKE OFF"),
    };
    format!("{}{broken}", Numbers::of(run).row(&run.server, run.calls))
}

/// The rows of one number of calls.
pub fn rows(servers: &[String], calls: u32, runs: &[Run]) {
    let mut medians = Vec::new();
    for server in servers {
        let all: Vec<Numbers> = runs.iter().filter(|run| run.server == *server).map(Numbers::of).collect();
        let median = Numbers::median(&all);
        println!("{}", median.row(server, calls));
        LATE.set(LATE.get() || median.late > LATE_MS);
        medians.push(median);
    }
    let broken: u64 = runs.iter().map(|run| run.seen.broken).sum();
    if broken > 0 {
        println!("| | {calls} | {broken} calls broke off | | | | | | | | |");
    }
    if let [first, second] = &medians[..] {
        let ratio = first.micros_per_pair / second.micros_per_pair;
        println!("| {} : {} | {calls} | | {ratio:.2} × | | | | | | | |", servers[0], servers[1]);
    }
}

/// Share of a core that may be used before it is called full.
const FULL: f64 = 0.75;

/// One number of conversations.
pub fn conversations(calls: u32, runs: &[Run]) {
    if !HEADED.replace(true) {
        println!();
        println!(
            "Conversations through a cascade, with voice activity, recording and ambience: recorded speech; services that answer at once."
        );
        println!(
            "| calls | CPU-s per call-minute | µs per 20 ms | calls a core at 75 % | kB per call | pacing p50 / p99 / p99.9 / max ms | underruns | agent's part | allocations per 20 ms | phones late p99 ms |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
    }
    let median = Numbers::median(&runs.iter().map(Numbers::of).collect::<Vec<_>>());
    let Numbers { cpu_per_minute, micros_per_pair, kb, pacing, underruns, voiced, allocations, late, .. } = median;
    println!(
        "| {calls} | {cpu_per_minute:.3} | {micros_per_pair:.1} | {:.0} | {kb:.1} | {:.1} / {:.1} / {:.1} / {:.1} | {:.3} % | {:.0} % | {allocations:.3} | {late:.1} |",
        FULL * 20_000.0 / micros_per_pair,
        pacing[0],
        pacing[1],
        pacing[2],
        pacing[3],
        underruns * 100.0,
        voiced * 100.0,
    );
    let broken: u64 = runs.iter().map(|run| run.seen.broken).sum();
    if broken > 0 {
        println!("{broken} calls broke off");
    }
}

/// What has to be known about the table.
pub fn notes() {
    println!();
    if LATE.get() {
        println!(
            "Note: the phones themselves were late (p99 beyond {LATE_MS} ms): echo, pacing and frames back above measure this machine and its other work, not the gateways."
        );
    }
}

/// One gateway's burst.
pub fn burst(server: &str, seconds: u32, calls: u32, seen: &Seen) {
    let whole = seconds * 50;
    let fewest = seen.bursts.iter().map(|(heard, _)| *heard).min().unwrap_or(0);
    let longest = seen.bursts.iter().map(|(_, took)| took.as_secs_f64()).fold(0.0, f64::max);
    println!(
        "Burst, {server}: {seconds} s of speech sent at once to {calls} calls ({} answered): at least {fewest} of {whole} frames heard, within {longest:.2} s; {} underruns.",
        seen.bursts.len(),
        seen.underruns,
    );
}
