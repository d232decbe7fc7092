//! The runs: phones and provider in this process, one gateway after the other in its own.

use std::{cell::RefCell, env, rc::Rc, str::FromStr, time::Duration};

use tokio::{
    net::TcpListener,
    task::{JoinSet, LocalSet},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    Result, legs,
    phone::{self, PERIOD, Seen, Speech, Window},
    proc::{self, Server},
    provider, report,
};

const WARM_UP: Duration = Duration::from_secs(3);
/// Calls that begin per second: more than a PBX brings, less than fills anybody's backlog.
const RAMP: u32 = 400;
/// Calls at once for the burst.
const BURST_CALLS: u32 = 5;

/// One run of one gateway.
#[derive(Debug)]
pub struct Run {
    pub server: String,
    pub calls: u32,
    pub seconds: f64,
    pub cpu: f64,
    pub kb_per_call: f64,
    pub allocations: u64,
    pub seen: Seen,
}

struct Plan {
    servers: Vec<String>,
    calls: Vec<u32>,
    runs: u32,
    window: Duration,
    burst: u32,
    conversations: Vec<u32>,
    legs: u32,
}

impl Plan {
    fn from_environment() -> Result<Self> {
        Ok(Self {
            servers: list("HARK_BENCH_SERVERS", "hark,bridge")?,
            calls: list("HARK_BENCH_CALLS", "50,200,500,1000")?,
            runs: list("HARK_BENCH_RUNS", "3")?[0],
            window: Duration::from_secs(list("HARK_BENCH_SECONDS", "10")?[0]),
            burst: list("HARK_BENCH_BURST", "30")?[0],
            conversations: list("HARK_BENCH_CONVERSATIONS", "50,200,350")?,
            legs: list("HARK_BENCH_LEGS", "200")?[0],
        })
    }
}

fn list<T: FromStr>(name: &str, default: &str) -> Result<Vec<T>> {
    let text = env::var(name).unwrap_or_else(|_| default.to_owned());
    let values: std::result::Result<Vec<T>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    values.map_err(|_| format!("{name}={text:?} cannot be read: write e.g. {default}").into())
}

pub fn drive() -> Result<()> {
    let plan = Plan::from_environment()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let service = format!("ws://{}", listener.local_addr()?);
        tokio::task::spawn_local(provider::serve(listener));
        println!("Machine: {}", proc::machine());
        println!("{} runs of {} s each after {} s, medians", plan.runs, plan.window.as_secs(), WARM_UP.as_secs());
        report::head();
        for &calls in &plan.calls {
            let mut runs = Vec::new();
            for _ in 0..plan.runs {
                for server in &plan.servers {
                    let run = run(server, &format!("{service}/echo"), calls, plan.window, &[Speech::Numbered]).await?;
                    eprintln!("  {}", report::brief(&run));
                    runs.push(run);
                }
            }
            report::rows(&plan.servers, calls, &runs);
        }
        report::notes();
        if plan.burst > 0 {
            burst(&plan.servers, &service, plan.burst).await?;
        }
        conversations(&plan, &service).await?;
        if plan.legs > 0 {
            legs::table(plan.legs, plan.runs, plan.window).await?;
        }
        Ok(())
    })
}

/// A cascade with everything on, its callers speaking and pausing as in a recording, each at another place of it.
async fn conversations(plan: &Plan, service: &str) -> Result<()> {
    let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/audio/caller.wav");
    let mut samples =
        hound::WavReader::open(recording)?.into_samples().collect::<std::result::Result<Vec<i16>, _>>()?;
    // everybody lets the agent say something now and then
    samples.resize(samples.len() + 4 * 8_000, 0);
    let frames = phone::frames(&samples);
    let speech: Vec<Speech> = (0..97).map(|nth| Speech::Recorded(frames.clone(), frames.len() * nth / 97)).collect();
    for &calls in plan.conversations.iter().filter(|calls| **calls > 0) {
        let mut runs = Vec::new();
        for _ in 0..plan.runs {
            let run = run("cascade", service, calls, plan.window, &speech).await?;
            eprintln!("  {}", report::brief(&run));
            runs.push(run);
        }
        report::conversations(calls, &runs);
    }
    Ok(())
}

/// `speech` goes around among the calls.
async fn run(name: &str, service: &str, calls: u32, length: Duration, speech: &[Speech]) -> Result<Run> {
    let mut server = Server::start(name, service)?;
    sleep(Duration::from_millis(300)).await;
    let idle = server.rss_kb()?;
    let begin = Instant::now() + Duration::from_millis(50);
    let from = begin + Duration::from_secs(1) * calls / RAMP + WARM_UP;
    let window = Window { from, until: from + length };
    let seen = Rc::new(RefCell::new(Seen::default()));
    let mut phones = JoinSet::new();
    for call in 0..calls {
        // Beyond the ramp, phases are spread evenly over the period, in another order than the calls began.
        let phase = PERIOD * (call * 7_919 % calls) / calls;
        let start = begin + Duration::from_millis(u64::from(call * 1_000 / RAMP)) + phase;
        let speech = speech[call as usize % speech.len()].clone();
        phones.spawn_local(phone::call(server.port, start, window, speech, Rc::clone(&seen)));
    }
    sleep_until(window.from).await;
    let (cpu, at, allocations) = (server.cpu_seconds()?, Instant::now(), server.allocations()?);
    sleep_until(window.until - Duration::from_millis(20)).await;
    let (cpu, seconds) = (server.cpu_seconds()? - cpu, at.elapsed().as_secs_f64());
    let allocations = server.allocations()? - allocations;
    let kb_per_call = (server.rss_kb()? - idle) / f64::from(calls);
    while phones.join_next().await.is_some() {}
    Ok(Run { server: name.to_owned(), calls, seconds, cpu, kb_per_call, allocations, seen: seen.take() })
}

async fn burst(servers: &[String], service: &str, seconds: u32) -> Result<()> {
    for name in servers {
        let server = Server::start(name, &format!("{service}/burst/{seconds}"))?;
        let begin = Instant::now() + Duration::from_millis(50);
        let window = Window { from: begin, until: begin + Duration::from_secs(u64::from(seconds) + 3) };
        let seen = Rc::new(RefCell::new(Seen::default()));
        let mut phones = JoinSet::new();
        for call in 0..BURST_CALLS {
            phones.spawn_local(phone::call(
                server.port,
                begin + 7 * PERIOD * call / 5,
                window,
                Speech::Numbered,
                Rc::clone(&seen),
            ));
        }
        while phones.join_next().await.is_some() {}
        report::burst(name, seconds, BURST_CALLS, &seen.borrow());
    }
    Ok(())
}
