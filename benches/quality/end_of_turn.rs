//! When the caller counts as having finished.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    noise::{self, Random},
    sim::{Scene, Words, play},
    speech::{HZ, Prompt, at_level},
    table::{self, ms, percent, quantiles},
};

const LEAD_IN: usize = HZ * 3 / 2;
const UTTERANCES: usize = 200;
/// Behind the last voiced sample; nobody waits longer.
const TAIL: usize = 4 * HZ;
/// Later than this is late.
const LATE_MS: f64 = 800.0;
/// When speech recognition tells of a word, behind its end.
const RECOGNISED: Duration = Duration::from_millis(200);
/// When it knows that a sentence is over.
const FULL_STOP: Duration = Duration::from_millis(350);

struct Utterance {
    samples: Vec<i16>,
    end: usize,
    words: Vec<Words>,
}

/// What became of one.
struct Turn {
    /// Ends that were told before the last voiced sample.
    early: usize,
    /// The end that was right, in ms after it.
    end: Option<f64>,
    lost: usize,
}

pub fn report(prompts: &[Prompt], texts: &BTreeMap<String, String>) {
    let all: Vec<_> = prompts.iter().filter(|prompt| prompt.voiced.len() > HZ / 2).collect();
    let all: Vec<_> = all.iter().step_by((all.len() / UTTERANCES).max(1)).copied().collect();
    let english: Vec<_> =
        prompts.iter().filter(|p| p.voice.starts_with("en_") && texts.contains_key(&p.name)).collect();
    let mut rows = Vec::new();
    rows.push(row("no words known: prompts as they are", all.iter().map(|p| alone(p, -24.0, None)).collect()));
    rows.push(row("– at -40 dBFS", all.iter().map(|p| alone(p, -40.0, None)).collect()));
    rows.push(row("– with pink noise 15 dB below", all.iter().map(|p| noisy(p)).collect()));
    for gap in [200, 300, 400, 500] {
        let pairs = all.iter().zip(all.iter().skip(1)).step_by(2).map(|(a, b)| pair(a, b, gap));
        rows.push(row(&format!("– pairs {gap} ms apart"), pairs.collect()));
    }
    let spoken = |p: &&Prompt| alone(p, -24.0, texts.get(&p.name));
    let is_sentence = |p: &&Prompt| texts.get(&p.name).is_some_and(|text| text.ends_with(['.', '!', '?']));
    let (sentences, others): (Vec<_>, Vec<_>) = english.into_iter().partition(is_sentence);
    rows.push(row("words known as they are spoken: sentences", sentences.iter().map(spoken).collect()));
    rows.push(row("– the same without them", sentences.iter().map(|p| alone(p, -24.0, None)).collect()));
    rows.push(row("words known: digits, letters, parts of sentences", others.iter().map(spoken).collect()));
    rows.push(row("– the same without them", others.iter().map(|p| alone(p, -24.0, None)).collect()));
    let head = [
        "utterances",
        "calls",
        "cut prematurely",
        "later than 800 ms",
        "never",
        "last voiced sample → end, ms p50 / p95",
        "samples lost",
    ];
    table::print("End of turn (defaults; 0 samples of an utterance may be lost)", &head, &rows);
}

fn row(name: &str, utterances: Vec<Utterance>) -> Vec<String> {
    let turns = table::each(&utterances, follow);
    let ends: Vec<_> = turns.iter().filter_map(|turn| turn.end).collect();
    vec![
        name.to_owned(),
        turns.len().to_string(),
        percent(turns.iter().filter(|turn| turn.early > 0).count(), turns.len()),
        percent(ends.iter().filter(|end| **end > LATE_MS).count(), turns.len()),
        (turns.len() - ends.len()).to_string(),
        quantiles(&ends),
        turns.iter().map(|turn| turn.lost).sum::<usize>().to_string(),
    ]
}

fn follow(utterance: &Utterance) -> Turn {
    let mut scene = Scene::new(utterance.samples.clone());
    scene.words = utterance.words.clone();
    let outcome = play(&scene);
    let over = at(utterance.end);
    let stops: Vec<_> = outcome.edges.iter().filter(|(_, speaks)| !speaks).map(|(at, _)| *at).collect();
    let lost = (LEAD_IN..utterance.end).filter(|at| outcome.recognised.get(*at) != utterance.samples.get(*at)).count();
    Turn {
        early: stops.iter().filter(|stop| **stop < over).count(),
        end: stops.iter().find(|stop| **stop >= over).map(|stop| ms(*stop - over)),
        lost,
    }
}

fn at(sample: usize) -> Duration {
    Duration::from_micros(sample as u64 * 125)
}

fn alone(prompt: &Prompt, dbfs: f32, text: Option<&String>) -> Utterance {
    let voice = &at_level(&prompt.samples, dbfs)[prompt.voiced.clone()];
    let begin = LEAD_IN + Random::new(prompt.voiced.len() as u64).below(160);
    let mut samples = noise::white(begin + voice.len() + TAIL, -70.0, 1);
    noise::add(&mut samples[begin..], voice);
    let words = text.map_or_else(Vec::new, |text| spoken(text, begin, voice.len()));
    Utterance { samples, end: begin + voice.len(), words }
}

fn noisy(prompt: &Prompt) -> Utterance {
    let mut utterance = alone(prompt, -24.0, None);
    let noise = noise::pink(utterance.samples.len(), -39.0, 1);
    noise::add(&mut utterance.samples, &noise);
    utterance
}

fn pair(first: &Prompt, second: &Prompt, gap_ms: usize) -> Utterance {
    let begin = LEAD_IN;
    let mut said = at_level(&first.samples, -24.0)[first.voiced.clone()].to_vec();
    said.resize(said.len() + gap_ms * HZ / 1000, 0);
    said.extend_from_slice(&at_level(&second.samples, -24.0)[second.voiced.clone()]);
    let mut samples = noise::white(begin + said.len() + TAIL, -70.0, 1);
    noise::add(&mut samples[begin..], &said);
    Utterance { samples, end: begin + said.len(), words: Vec::new() }
}

/// The text as a recogniser tells it: word by word, spread over the voice by their letters; a full stop once it is sure of it.
fn spoken(text: &str, begin: usize, length: usize) -> Vec<Words> {
    let mut words = Vec::new();
    for (end, _) in text.char_indices().filter(|(_, c)| *c == ' ').chain([(text.len(), ' ')]) {
        let so_far = &text[..end];
        let over = at(begin + length * end / text.len());
        let bare = so_far.trim_end_matches(['.', '!', '?', ',', ' ']);
        words.push(Words { at: over + RECOGNISED, text: bare.to_owned(), is_final: false });
        if bare.len() < so_far.len() {
            words.push(Words { at: over + FULL_STOP, text: so_far.to_owned(), is_final: false });
        }
    }
    words.sort_by_key(|words| words.at);
    words
}
