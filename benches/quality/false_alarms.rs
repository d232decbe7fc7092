//! What must not interrupt the agent, which talks all the time.

use std::{path::PathBuf, process::Command, sync::Arc, time::Duration};

use hark::call::Policy;

use crate::{
    noise::{self, Random},
    sim::{Echo, Outcome, Scene, Words, play},
    speech::{self, HZ, Prompt, at_level},
    table,
};

/// Length of one call, and how many of them make the hour.
const CALL: usize = 600 * HZ;
const CALLS: u64 = 6;
/// What listeners say; one of them every so many seconds.
const LISTENING: [&str; 8] = ["mm-hm", "yeah", "okay", "uh huh", "right", "yes", "I see", "sure"];
const EVERY: usize = 10 * HZ;

/// What is on the caller's line, by the number of the call.
type Noise<'a> = Box<dyn Fn(u64) -> Vec<i16> + Sync + 'a>;

/// What interrupts the agent, and what speech recognition is like.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Listener {
    /// `vad`; also `auto` where speech recognition tells no words while they are spoken.
    Voice,
    /// `words`, or `auto`: the recognition streams, and is not deceived by what is no caller.
    Words,
    /// As before, but it takes everything that counts as voice for words.
    Credulous,
}

impl Listener {
    const fn name(self) -> &'static str {
        match self {
            Self::Voice => "vad",
            Self::Words => "words",
            Self::Credulous => "words, deceived",
        }
    }

    fn apply(self, scene: &mut Scene) {
        scene.config.barge_in.policy = if self == Self::Voice { Policy::Vad } else { Policy::Auto };
        scene.streams = self != Self::Voice;
        scene.credulous = self == Self::Credulous;
    }
}

/// What happened in an hour.
#[derive(Debug, Default)]
struct Hour {
    cuts: usize,
    holds: usize,
    lost: Duration,
    longest: Duration,
}

pub fn report(prompts: &[Prompt], agent: &Arc<Vec<i16>>) {
    let mut rows = Vec::new();
    for (name, noise) in lines(prompts) {
        let calls: Vec<_> = table::each(&(0..CALLS).collect::<Vec<_>>(), |call| Arc::new(noise(*call)));
        for listener in [Listener::Voice, Listener::Words] {
            rows.push(row(&name, listener, agent, &calls, None, &[]));
        }
    }
    for (db, delay) in [(-20, 100), (-20, 300), (-30, 100), (-30, 300)] {
        let calls: Vec<_> = (0..CALLS).map(|call| Arc::new(noise::white(CALL, -70.0, call))).collect();
        let echo = Echo { delay: Duration::from_millis(delay), gain: 10f32.powf(db as f32 / 20.0) };
        for listener in [Listener::Voice, Listener::Words, Listener::Credulous] {
            rows.push(row(
                &format!("echo of the agent, {db} dB, {delay} ms late"),
                listener,
                agent,
                &calls,
                Some(echo),
                &[],
            ));
        }
    }
    match back_channels() {
        Ok(said) => {
            let (calls, words): (Vec<_>, Vec<_>) = (0..CALLS).map(|call| listening(&said, call)).unzip();
            for listener in [Listener::Voice, Listener::Words] {
                rows.push(row(
                    "a listener's \"mm-hm\", \"yeah\" …, 360 an hour",
                    listener,
                    agent,
                    &calls,
                    None,
                    &words,
                ));
            }
        }
        Err(fault) => println!("\nBack-channels are NOT measured: {fault}"),
    }
    let head = ["an hour of", "policy", "false Cuts", "false Holds", "agent held, s", "longest, ms"];
    table::print(
        "False alarms while the agent talks all the time (aim: at most 1 Cut an hour in each row)",
        &head,
        &rows,
    );
}

fn lines(prompts: &[Prompt]) -> Vec<(String, Noise<'_>)> {
    let mut lines: Vec<(String, Noise)> = vec![
        ("white noise, -35 dBFS".into(), Box::new(|call| noise::white(CALL, -35.0, call))),
        ("pink noise, -35 dBFS".into(), Box::new(|call| noise::pink(CALL, -35.0, call))),
        ("street, -35 dBFS".into(), Box::new(|call| noise::street(CALL, -35.0, call))),
        ("synthetic music, -20 dBFS".into(), Box::new(|call| noise::music(CALL, -20.0, call))),
        ("ring-back 440 + 480 Hz".into(), Box::new(|_| noise::ring_back(CALL, &[440.0, 480.0], 2, 4))),
        ("ring-back 425 Hz".into(), Box::new(|_| noise::ring_back(CALL, &[425.0], 1, 4))),
        ("twelve voices at once, -45 dBFS".into(), Box::new(|call| noise::babble(prompts, 12, CALL, -45.0, call))),
        ("three voices at once, -45 dBFS".into(), Box::new(|call| noise::babble(prompts, 3, CALL, -45.0, call))),
    ];
    match packaged_music() {
        Ok(music) => lines.push((
            "music on hold (package), -20 dBFS".into(),
            Box::new(move |call| {
                let from = call as usize * CALL;
                let piece = (from..from + CALL).map(|at| music[at % music.len()]);
                at_level(&piece.collect::<Vec<_>>(), -20.0)
            }),
        )),
        Err(fault) => println!("\nPackaged music is NOT measured: {fault}"),
    }
    lines
}

fn packaged_music() -> Result<Vec<i16>, String> {
    let directory = speech::cache().join("quality/moh");
    let fault = |error| format!("{}: {error}; scripts/get-quality.sh fetches it", directory.display());
    let files = std::fs::read_dir(&directory).map_err(fault)?;
    let mut files: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    files.sort();
    let mut music = Vec::new();
    for file in files {
        music.extend(speech::read(&file)?);
    }
    Ok(music)
}

/// What listeners say, spoken by flite: there are no recordings of it among the prompts.
fn back_channels() -> Result<Vec<(&'static str, Vec<i16>)>, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut said = Vec::new();
    for (n, text) in LISTENING.into_iter().enumerate() {
        let file = directory.path().join("said.wav");
        let voice = ["slt", "rms"][n % 2];
        let status = Command::new("flite").args(["-voice", voice, "-t", text, "-o"]).arg(&file).status();
        let status = status.map_err(|error| format!("flite: {error}; apt-get install flite"))?;
        let bytes = std::fs::read(&file).map_err(|error| format!("flite ({status}) wrote no sound: {error}"))?;
        let (hz, samples) = hark::audio::wav::read(&bytes).map_err(|error| error.to_string())?;
        let mut narrow = Vec::new();
        hark::audio::resample::Resampler::new(hz, 8_000).process(&samples, &mut narrow);
        said.push((text, at_level(&narrow, -26.0)));
    }
    Ok(said)
}

/// One back-channel every ten seconds, and the words that speech recognition makes of them.
fn listening(said: &[(&'static str, Vec<i16>)], call: u64) -> (Arc<Vec<i16>>, Vec<Words>) {
    let (mut samples, mut words, mut random) = (noise::white(CALL, -70.0, call), Vec::new(), Random::new(call + 9));
    for slot in (EVERY..CALL - EVERY).step_by(EVERY) {
        let (text, sound) = &said[random.below(said.len())];
        let at = slot + random.below(EVERY / 2);
        noise::add(&mut samples[at..], sound);
        let end = Duration::from_micros((at + sound.len()) as u64 * 125);
        words.extend([(150, false), (600, true)].map(|(after, is_final)| Words {
            at: end + Duration::from_millis(after),
            text: (*text).to_owned(),
            is_final,
        }));
    }
    (Arc::new(samples), words)
}

fn row(
    name: &str,
    listener: Listener,
    agent: &Arc<Vec<i16>>,
    calls: &[Arc<Vec<i16>>],
    echo: Option<Echo>,
    words: &[Vec<Words>],
) -> Vec<String> {
    let numbered: Vec<_> = calls.iter().enumerate().collect();
    let hours = table::each(&numbered, |(n, caller)| {
        let mut scene = Scene { caller: Arc::clone(caller), agent: Arc::clone(agent), echo, ..Scene::new(Vec::new()) };
        listener.apply(&mut scene);
        if scene.streams {
            scene.words = words.get(*n).cloned().unwrap_or_default();
        }
        count(&play(&scene))
    });
    let hour = hours.into_iter().fold(Hour::default(), |a, b| Hour {
        cuts: a.cuts + b.cuts,
        holds: a.holds + b.holds,
        lost: a.lost + b.lost,
        longest: a.longest.max(b.longest),
    });
    vec![
        name.to_owned(),
        listener.name().to_owned(),
        hour.cuts.to_string(),
        hour.holds.to_string(),
        format!("{:.1}", hour.lost.as_secs_f64()),
        hour.longest.as_millis().to_string(),
    ]
}

/// Silences of the agent are Holds, but for those that end in a Cut.
fn count(outcome: &Outcome) -> Hour {
    let mut hour = Hour { cuts: outcome.cuts.len(), ..Hour::default() };
    let mut silent_since = None;
    let begun = outcome.slots.iter().position(|(_, agent)| *agent).unwrap_or(0);
    for (at, agent) in &outcome.slots[begun..] {
        match (agent, silent_since) {
            (false, None) => silent_since = Some(*at),
            (true, Some(since)) => {
                silent_since = None;
                // what precedes a cut is part of it
                if !outcome.cuts.iter().any(|cut| (since.saturating_sub(Duration::from_millis(40))..=*at).contains(cut))
                {
                    hour.holds += 1;
                    hour.lost += *at - since;
                    hour.longest = hour.longest.max(*at - since);
                }
            }
            _ => {}
        }
    }
    hour
}
