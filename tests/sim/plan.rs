//! What happens in a simulated call.

use std::time::Duration;

use hark::call::{Cause, Config, Mode, Policy, Role};
use rand::{Rng, SeedableRng, rngs::StdRng};

pub const MS: Duration = Duration::from_millis(1);

/// What happens in a call, all decided before it starts.
pub struct Plan {
    pub seed: u64,
    pub mode: Mode,
    pub config: Config,
    pub script: Vec<(Duration, Happening)>,
    pub stalls: Vec<(Duration, Duration)>,
    /// Ticks come up to this late.
    pub lateness: Duration,
    pub final_words_after: Duration,
}

#[derive(Debug, Clone)]
pub enum Happening {
    Frame,
    Voice(f32),
    Dtmf,
    Leg(Cause),
    Speech {
        utterance: u32,
        samples: usize,
    },
    SpeechEnd(u32),
    Interruption,
    Words(Role),
    /// Words of the caller that may change: whether they take the turn.
    Partial(bool),
    Protected(u32),
    TurnDone,
    Mute(bool),
    AgentHangup,
    AgentFails,
    Command,
}

impl Plan {
    pub fn random(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let sts = rng.random_bool(0.5);
        let mode = Mode {
            agent_cuts: false,
            barge_in: !sts && rng.random_bool(0.8),
            deaf_while_speaking: !sts && rng.random_bool(0.2),
            speech_edges: !sts,
            digits_interrupt: !sts,
            obeys: !sts,
            transcribes: !sts,
        };
        let length = Duration::from_millis(rng.random_range(200..40_000));
        let mut script = Vec::new();
        caller(&mut rng, length, &mut script);
        agent(&mut rng, length, sts, &mut script);
        // some callers say nothing for a long time in the end
        let end = length + MS * if rng.random_bool(0.2) { 100_000 } else { rng.random_range(0..3_000) };
        let ending = match rng.random_range(0..6) {
            0 | 1 => Happening::Leg(Cause::Normal),
            2 => Happening::Leg(Cause::Lost),
            3 => Happening::AgentHangup,
            4 => Happening::AgentFails,
            _ => Happening::Command,
        };
        script.push((end, ending));
        // Whatever else happens, the caller hangs up in the end.
        script.push((end + Duration::from_secs(400), Happening::Leg(Cause::Normal)));
        let stalls = (0..rng.random_range(0..3))
            .map(|_| {
                let from = MS * rng.random_range(0..30_000);
                (from, from + MS * rng.random_range(20..4_000))
            })
            .collect();
        Self {
            seed,
            mode,
            config: settings(&mut rng),
            script,
            stalls,
            lateness: MS * if rng.random_bool(0.3) { rng.random_range(0..60) } else { 0 },
            final_words_after: MS * rng.random_range(0..3_000),
        }
    }
}

/// Policies of every kind.
fn settings(rng: &mut StdRng) -> Config {
    let mut config = Config {
        max_duration_s: if rng.random_bool(0.1) { rng.random_range(1..30) } else { 0 },
        protect_from_digits: rng.random_bool(0.5),
        ..Config::default()
    };
    config.goodbye = rng.random_bool(0.3).then(|| "Time is up.".to_owned());
    config.barge_in.policy = [Policy::Auto, Policy::Vad, Policy::Words][rng.random_range(0..3)];
    config.barge_in.min_words = rng.random_range(1..3);
    config.dtmf.collect = rng.random_bool(0.3);
    if rng.random_bool(0.3) {
        config.idle.prompts = vec!["Still there?".to_owned()];
        config.idle.after_ms = rng.random_range(1_000..8_000);
        config.idle.goodbye = rng.random_bool(0.5).then(|| "Goodbye.".to_owned());
    }
    config
}

fn caller(rng: &mut StdRng, length: Duration, script: &mut Vec<(Duration, Happening)>) {
    let jitter = rng.random_range(0..15_000);
    let (mut at, mut voiced_until, mut vad) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    while at < length + Duration::from_secs(60) {
        if rng.random_bool(0.003) {
            at += MS * rng.random_range(20..3_000); // DTX, hold, digits
        }
        script.push((at + Duration::from_micros(rng.random_range(0..=jitter)), Happening::Frame));
        if rng.random_bool(0.006) {
            let lasts = MS * rng.random_range(30..3_000);
            voiced_until = at + lasts;
            if rng.random_bool(0.6) {
                script.push((at + lasts / 2, Happening::Partial(rng.random_bool(0.6))));
            }
        }
        if rng.random_bool(0.0003) {
            script.push((at, Happening::Mute(true)));
            script.push((at + MS * rng.random_range(100..3_000), Happening::Mute(false)));
        }
        if at >= vad {
            vad = at + 32 * MS;
            let p = if at < voiced_until { rng.random_range(0.4..1.0) } else { rng.random_range(0.0..0.4) };
            script.push((at + 16 * MS, Happening::Voice(p)));
        }
        if rng.random_bool(0.001) {
            script.push((at, Happening::Dtmf));
        }
        at += 20 * MS;
    }
}

fn agent(rng: &mut StdRng, length: Duration, sts: bool, script: &mut Vec<(Duration, Happening)>) {
    let (mut at, mut utterance) = (MS * rng.random_range(0..2_000), 0);
    while at < length && utterance < 30 {
        utterance += 1;
        let chunks = rng.random_range(1..80);
        let burst = rng.random_bool(0.5);
        if !sts && rng.random_bool(0.1) {
            script.push((at, Happening::Protected(utterance)));
        }
        for _ in 0..chunks {
            let samples = if burst { rng.random_range(1..4_000) } else { 160 };
            script.push((at, Happening::Speech { utterance, samples }));
            at += if burst {
                MS * rng.random_range(0..3)
            } else {
                Duration::from_micros(rng.random_range(15_000..25_000))
            };
        }
        script.push((at, Happening::SpeechEnd(utterance)));
        if !sts {
            script.push((at, Happening::TurnDone));
        }
        if rng.random_bool(0.5) {
            script.push((at, Happening::Words(if rng.random_bool(0.5) { Role::User } else { Role::Agent })));
        }
        if sts && rng.random_bool(0.5) {
            script.push((at + MS * rng.random_range(0..3_000), Happening::Interruption));
        }
        at += MS * rng.random_range(0..4_000);
    }
}
