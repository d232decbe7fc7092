//! The call core under a simulated clock: thousands of scripted calls with injected faults, checked against invariants.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod driver;
mod plan;
mod world;

use std::time::{Duration, Instant};

use plan::Plan;
use world::World;

const CALLS: u64 = 2_000;

#[test]
fn thousands_of_calls_with_faults_keep_every_promise() {
    let started = Instant::now();
    let mut simulated = Duration::ZERO;
    let mut ends = std::collections::BTreeMap::<&'static str, u32>::new();
    let (mut cuts, mut stalls, mut false_alarms, mut late) = (0, 0, 0, 0);
    let (mut resumed, mut taken_back) = (0, 0);
    for seed in 0..CALLS {
        let plan = Plan::random(seed);
        let outcome = World::new(plan).run();
        simulated += outcome.simulated;
        *ends.entry(outcome.reason.code()).or_default() += 1;
        cuts += outcome.stats.interruptions;
        stalls += outcome.stats.stalls;
        false_alarms += outcome.stats.false_alarms;
        late += outcome.stats.late_samples;
        resumed += outcome.stats.resumed;
        taken_back += outcome.stats.taken_back;
    }
    let took = started.elapsed();
    println!(
        "{CALLS} calls, {} simulated hours in {took:.1?} ({:.0} calls/s): {cuts} cuts, {stalls} refused frames, \
         {false_alarms} false alarms, {resumed} resumed, {taken_back} taken back, {late} late samples; ends: {ends:?}",
        simulated.as_secs() / 3_600,
        CALLS as f64 / took.as_secs_f64()
    );
    // The faults really happened: a simulation that injects none proves nothing.
    for reason in [
        "caller.hangup",
        "leg.lost",
        "leg.stalled",
        "agent.closed",
        "agent.failed",
        "hangup",
        "max_duration",
        "caller.idle",
    ] {
        assert!(ends.get(reason).is_some_and(|&count| count >= 10), "{reason} hardly happened: {ends:?}");
    }
    assert!(cuts > 500 && stalls > 500 && false_alarms > 100, "{cuts} {stalls} {false_alarms}");
    assert!(resumed > 100 && taken_back > 20, "{resumed} {taken_back}");
}
