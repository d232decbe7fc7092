//! The caller begins to speak while the agent talks.

use std::{sync::Arc, time::Duration};

use crate::{
    noise::{self, Random},
    sim::{Echo, Outcome, Scene, play},
    speech::{HZ, Prompt, at_level},
    table::{self, ms, percent, quantiles},
};

const LEAD_IN: usize = 2 * HZ;
/// Recordings that callers interrupt with.
const CALLERS: usize = 200;
/// Nobody interrupts with less.
const SHORTEST: usize = HZ * 2 / 5;

/// What is beside the caller on the line.
#[derive(Debug, Clone, Copy)]
enum Line {
    Clean,
    White(f32),
    Pink(f32),
    /// The agent's own voice comes back, so many dB weaker.
    Echo(f32),
}

/// What became of one interruption; times from the onset of the voice, in ms.
struct Interruption {
    /// Until the last frame of the agent was sent.
    hold: Option<f64>,
    cut: Option<f64>,
    /// The agent was silent before anybody spoke.
    early: bool,
    lost: usize,
}

pub fn report(prompts: &[Prompt], agent: &Arc<Vec<i16>>) {
    let callers: Vec<_> =
        prompts.iter().filter(|p| !p.voice.starts_with("it_") && p.voiced.len() >= SHORTEST).collect();
    let callers: Vec<_> = callers.iter().step_by((callers.len() / CALLERS).max(1)).copied().collect();
    let conditions = [
        ("-20 dBFS", -20.0, Line::Clean),
        ("-30 dBFS", -30.0, Line::Clean),
        ("-40 dBFS", -40.0, Line::Clean),
        ("-20 dBFS, white noise 20 dB below", -20.0, Line::White(20.0)),
        ("-20 dBFS, white noise 15 dB below", -20.0, Line::White(15.0)),
        ("-30 dBFS, pink noise 20 dB below", -30.0, Line::Pink(20.0)),
        ("-30 dBFS, pink noise 15 dB below", -30.0, Line::Pink(15.0)),
        ("-20 dBFS, echo of the agent at -30 dB", -20.0, Line::Echo(30.0)),
        ("-30 dBFS, echo of the agent at -30 dB", -30.0, Line::Echo(30.0)),
        ("-30 dBFS, echo of the agent at -20 dB", -30.0, Line::Echo(20.0)),
    ];
    let mut rows = Vec::new();
    for (name, dbfs, line) in conditions {
        let numbered: Vec<_> = callers.iter().enumerate().collect();
        let all = table::each(&numbered, |(n, caller)| interrupt(caller, dbfs, line, *n as u64, agent));
        let (early, fair): (Vec<_>, Vec<_>) = all.iter().partition(|one| one.early);
        let (holds, cuts): (Vec<_>, Vec<_>) =
            (fair.iter().filter_map(|one| one.hold).collect(), fair.iter().filter_map(|one| one.cut).collect());
        rows.push(vec![
            name.to_owned(),
            all.len().to_string(),
            percent(holds.len(), fair.len()),
            quantiles(&holds),
            percent(cuts.len(), fair.len()),
            quantiles(&cuts),
            early.len().to_string(),
            all.iter().map(|one| one.lost).sum::<usize>().to_string(),
        ]);
    }
    let head = [
        "caller",
        "calls",
        "held",
        "onset → last frame, ms p50 / p95",
        "cut",
        "onset → cut, ms",
        "held before",
        "samples lost",
    ];
    table::print(
        "Barge-in (aim: p95 ≤ 250 ms to the last frame of the agent, 0 samples of the voice lost; policy vad)",
        &head,
        &rows,
    );
}

fn interrupt(caller: &Prompt, dbfs: f32, line: Line, seed: u64, agent: &Arc<Vec<i16>>) -> Interruption {
    // the onset falls on another place of the frame each time
    let onset = LEAD_IN + Random::new(seed + 1).below(HZ / 50 * 8);
    let voice = &at_level(&caller.samples, dbfs)[caller.voiced.clone()];
    let mut samples = vec![0; onset + voice.len() + HZ];
    samples[onset..onset + voice.len()].copy_from_slice(voice);
    let count = samples.len();
    let noise = match line {
        Line::Clean | Line::Echo(_) => noise::white(count, -70.0, seed),
        Line::White(below) => noise::white(count, dbfs - below, seed),
        Line::Pink(below) => noise::pink(count, dbfs - below, seed),
    };
    noise::add(&mut samples, &noise);
    let echo = match line {
        Line::Echo(below) => Some(Echo { delay: Duration::from_millis(150), gain: 10f32.powf(-below / 20.0) }),
        _ => None,
    };
    let scene = Scene { agent: Arc::clone(agent), echo, ..Scene::new(samples) };
    let outcome = play(&scene);
    judge(&scene, &outcome, onset, onset + voice.len())
}

fn judge(scene: &Scene, outcome: &Outcome, onset: usize, end: usize) -> Interruption {
    let time = |sample: usize| Duration::from_micros(sample as u64 * 125);
    let begun = outcome.slots.iter().position(|(_, agent)| *agent).unwrap_or(0);
    let silent = outcome.slots[begun..].windows(2).find(|pair| !pair[1].1).map(|pair| pair[0].0);
    let early = silent.is_some_and(|at| at < time(onset));
    // a frame may be on its way when the voice begins
    let hold = silent.filter(|at| *at < time(end)).map(|at| ms(at) - ms(time(onset)));
    let cut = outcome.cuts.first().map(|at| ms(*at) - ms(time(onset)));
    let missing = match scene.echo {
        // what comes is the caller and the echo
        Some(_) => end.saturating_sub(outcome.recognised.len()),
        None => (onset..end).filter(|at| outcome.recognised.get(*at) != scene.caller.get(*at)).count(),
    };
    Interruption { hold, cut, early, lost: missing }
}
