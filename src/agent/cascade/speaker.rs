//! Answers: from the pieces of a language model to audio, sentence by sentence.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, mpsc, watch};

use super::{history::History, meter::Meter};
use crate::{
    agent::{
        Context,
        health::{Failure, Health},
        llm::{Llm, Message, Piece},
        prompt::SystemPrompt,
        retry::fault,
        sentence::{Citations, Sentences},
        tts::{Chunk, Pcm, Tts, Word},
    },
    call::{AgentEvent, Fault, Timing, UtteranceId},
};

/// Sentences and pieces of audio that wait to be spoken.
const ITEMS: usize = 8;
/// Pieces of text that wait to be cut.
const PIECES: usize = 8;
/// Samples of one event: a second at 8 kHz.
const EVENT_SAMPLES: usize = 8_000;
/// Longest utterance: a service that sends more is not speaking a sentence.
const MAX_UTTERANCE: Duration = Duration::from_secs(600);
/// Sentences in a row that may fail.
const MAX_FAILURES: u32 = 5;
/// How much longer than it lasts an utterance may take to be reported as played before nobody waits for that.
pub const SLACK: Duration = Duration::from_secs(2);
/// Rate of audio that comes from a language model.
const CLIP_RATE: u32 = 8_000;

/// An event and the number of interruptions its sender knew of.
#[derive(Debug)]
pub struct Tagged {
    pub generation: u32,
    /// It is given out whatever has been interrupted since.
    pub protected: bool,
    pub event: AgentEvent,
}

/// `None`: nothing may be heard yet. Else the number of interruptions so far.
pub type Gate = watch::Receiver<Option<u32>>;

/// When what was done for an answer; `None` for what is no answer, or has been told.
#[derive(Debug, Clone, Default)]
pub struct Stamps(Arc<Mutex<Option<Timing>>>);

impl Stamps {
    /// Of an answer.
    pub fn new(timing: Timing) -> Self {
        Self(Arc::new(Mutex::new(Some(timing))))
    }

    /// Notes the time, once.
    pub fn note(&self, stamp: impl FnOnce(&mut Timing) -> &mut Option<std::time::Instant>) {
        if let Some(timing) = &mut *self.lock() {
            stamp(timing).get_or_insert_with(now);
        }
    }

    /// Notes another time, once.
    pub fn note_at(&self, stamp: impl FnOnce(&mut Timing) -> &mut Option<std::time::Instant>, at: std::time::Instant) {
        if let Some(timing) = &mut *self.lock() {
            stamp(timing).get_or_insert(at);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Timing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time, as the clock of tasks has it.
pub fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// What answers and the conductor share.
#[derive(Debug)]
pub struct Account {
    history: Mutex<History>,
    /// Something has been played or cut.
    pub played: Notify,
}

impl Account {
    pub fn new(history: History) -> Self {
        Self { history: Mutex::new(history), played: Notify::new() }
    }

    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until at most one utterance is still to be played.
    async fn room(&self) {
        loop {
            let (count, duration) = self.history().waiting();
            if count <= 1 || tokio::time::timeout(duration + SLACK, self.played.notified()).await.is_err() {
                return;
            }
        }
    }
}

/// Makes answers audible, for one call.
#[derive(Debug)]
pub struct Speaker {
    pub ctx: Context,
    pub llm: Llm,
    pub tts: Tts,
    pub prompt: SystemPrompt,
    pub account: std::sync::Arc<Account>,
    pub out: mpsc::Sender<Tagged>,
    pub health: Health,
    pub failures: AtomicU32,
    /// Fillers said so far: they take turns.
    pub filled: AtomicU32,
    pub meter: Arc<Meter>,
}

#[derive(Debug)]
enum Item {
    Sentence(String),
    Clip(Vec<u8>),
    /// All before it has been spoken.
    End,
}

/// How something is said.
#[derive(Clone, Copy)]
enum Manner<'a> {
    Answer(&'a Stamps),
    Say { protect: bool },
}

/// An utterance that is being sent.
struct Utterance<'a> {
    text: String,
    id: Option<UtteranceId>,
    samples: usize,
    how: Manner<'a>,
    words: Vec<Word>,
}

impl<'a> Utterance<'a> {
    const fn new(text: String, how: Manner<'a>) -> Self {
        Self { text, id: None, samples: 0, how, words: Vec::new() }
    }

    const fn is_protected(&self) -> bool {
        matches!(self.how, Manner::Say { protect: true })
    }
}

impl Speaker {
    /// Asks the language model and speaks its answer. `Ok(Some)`: the answer failed, but what had come of it was spoken.
    pub async fn answer(&self, messages: Vec<Message>, stamps: Stamps, gate: Gate) -> Result<Option<Fault>, Fault> {
        let (pieces, to_cut) = mpsc::channel(PIECES);
        let (items, to_speak) = mpsc::channel(ITEMS);
        let (spoken, said) = watch::channel(0);
        let allowed = gate.clone();
        let asking = async {
            // moved: the channel closes with the answer
            let pieces = pieces;
            self.ask(messages, &pieces, said, allowed).await
        };
        let cutting = async {
            cut(to_cut, items, &stamps).await;
            Ok(())
        };
        let (failed, (), ()) =
            tokio::try_join!(asking, cutting, self.speak(to_speak, Manner::Answer(&stamps), (gate, spoken)))?;
        Ok(failed)
    }

    /// Speaks `text` as it is.
    pub async fn say(&self, text: &str, protect: bool, gate: Gate) -> Result<Option<Fault>, Fault> {
        let (items, to_speak) = mpsc::channel(ITEMS);
        let mut sentences = Sentences::default();
        let mut all = sentences.push(text);
        all.extend(sentences.finish());
        let feeding = async {
            let items = items;
            for sentence in all {
                if items.send(Item::Sentence(sentence)).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        tokio::try_join!(feeding, self.speak(to_speak, Manner::Say { protect }, (gate, watch::channel(0).0)))?;
        Ok(None)
    }

    async fn speak(
        &self,
        mut items: mpsc::Receiver<Item>,
        how: Manner<'_>,
        (mut gate, spoken): (Gate, watch::Sender<u32>),
    ) -> Result<(), Fault> {
        let mut clip: Option<(Pcm, Utterance<'_>)> = None;
        let mut first = match how {
            Manner::Answer(_) => self.fill(&mut items, &mut gate).await?,
            Manner::Say { .. } => None,
        };
        loop {
            let next = match first.take() {
                Some(item) => Some(item),
                None => items.recv().await,
            };
            let Some(item) = next else { break };
            match item {
                Item::Clip(bytes) => {
                    let (pcm, utterance) = clip.get_or_insert_with(|| {
                        (Pcm::new(CLIP_RATE, self.ctx.rate), Utterance::new(String::new(), how))
                    });
                    let samples = pcm.push(&bytes);
                    self.send(utterance, &samples, &mut gate).await;
                }
                Item::End => {
                    self.end_clip(clip.take(), &mut gate).await;
                    spoken.send_modify(|rounds| *rounds += 1);
                }
                Item::Sentence(text) => {
                    self.end_clip(clip.take(), &mut gate).await;
                    self.account.room().await;
                    self.sentence(Utterance::new(text, how), &mut gate).await?;
                }
            }
        }
        self.end_clip(clip, &mut gate).await;
        Ok(())
    }

    /// Says something while the language model thinks, if that takes long; else the first of its answer.
    async fn fill(&self, items: &mut mpsc::Receiver<Item>, gate: &mut Gate) -> Result<Option<Item>, Fault> {
        if self.ctx.config.fillers.is_empty() {
            return Ok(None);
        }
        let after = Duration::from_millis(self.ctx.config.filler_after_ms);
        let waited = async {
            opened(gate).await;
            tokio::time::sleep(after).await;
        };
        tokio::select! {
            biased;
            item = items.recv() => return Ok(item),
            () = waited => {}
        }
        if let Some(text) = self.next_filler() {
            self.sentence(Utterance::new(text, Manner::Say { protect: false }), gate).await?;
        }
        Ok(None)
    }

    /// What is said while the caller waits: they take turns.
    pub(super) fn next_filler(&self) -> Option<String> {
        let fillers = &self.ctx.config.fillers;
        let nth = self.filled.fetch_add(1, Ordering::Relaxed) as usize;
        (!fillers.is_empty()).then(|| fillers[nth % fillers.len()].clone())
    }

    async fn end_clip(&self, clip: Option<(Pcm, Utterance<'_>)>, gate: &mut Gate) {
        if let Some((mut pcm, mut utterance)) = clip {
            let rest = pcm.finish();
            self.send(&mut utterance, &rest, gate).await;
            self.end(&utterance, gate).await;
        }
    }

    /// A sentence that fails is skipped, unless too many do.
    async fn sentence(&self, mut utterance: Utterance<'_>, gate: &mut Gate) -> Result<(), Fault> {
        let result = self.stream(&mut utterance, gate).await;
        self.end(&utterance, gate).await;
        if utterance.samples > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        let what = match result {
            Ok(()) if utterance.samples > 0 => return Ok(()),
            Ok(()) => fault("agent.tts.silent", "speech synthesis", "it answered a sentence with no audio"),
            Err(Failure::Once(fault)) => fault,
            Err(Failure::Final(fault)) => return Err(fault),
        };
        if utterance.samples == 0 && self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_FAILURES {
            return Err(fault(
                "agent.tts.failed",
                "speech synthesis",
                format_args!("{MAX_FAILURES} sentences in a row: {}", what.message),
            ));
        }
        self.health.trouble(what);
        Ok(())
    }

    async fn stream(&self, utterance: &mut Utterance<'_>, gate: &mut Gate) -> Result<(), Failure> {
        let most = self.ctx.rate.samples_in(MAX_UTTERANCE);
        self.meter.spoken(&utterance.text);
        let mut speech = self.tts.speak(&utterance.text).await?;
        while let Some(chunk) = speech.next().await? {
            let samples = match chunk {
                Chunk::Samples(samples) => samples,
                Chunk::Words(words) => {
                    match utterance.id {
                        Some(id) => self.account.history().timed(id, words),
                        None => utterance.words.extend(words),
                    }
                    continue;
                }
            };
            if let Manner::Answer(stamps) = utterance.how {
                stamps.note(|timing| &mut timing.speech);
            }
            self.send(utterance, &samples, gate).await;
            if utterance.samples > most {
                let what = format_args!("more than {} s of audio for one sentence", MAX_UTTERANCE.as_secs());
                return Err(Failure::Once(fault("agent.tts.endless", "speech synthesis", what)));
            }
        }
        Ok(())
    }

    async fn send(&self, utterance: &mut Utterance<'_>, samples: &[i16], gate: &mut Gate) {
        for part in samples.chunks(EVENT_SAMPLES) {
            opened(gate).await;
            let id = match utterance.id {
                Some(id) => id,
                None => self.begin(utterance, gate).await,
            };
            utterance.samples += part.len();
            self.account.history().sent(id, part.len());
            self.emit(AgentEvent::Audio(id, part.to_vec()), utterance.is_protected(), gate).await;
        }
    }

    async fn begin(&self, utterance: &mut Utterance<'_>, gate: &mut Gate) -> UtteranceId {
        let id = self.account.history().begin(utterance.text.clone(), utterance.is_protected());
        utterance.id = Some(id);
        self.account.history().timed(id, std::mem::take(&mut utterance.words));
        match utterance.how {
            Manner::Say { protect: true } => self.emit(AgentEvent::Protected(id), true, gate).await,
            Manner::Say { protect: false } => {}
            Manner::Answer(stamps) => {
                let timing = stamps.lock().take();
                if let Some(timing) = timing {
                    self.emit(AgentEvent::Timing(timing), false, gate).await;
                }
            }
        }
        id
    }

    async fn end(&self, utterance: &Utterance<'_>, gate: &mut Gate) {
        if let Some(id) = utterance.id {
            self.account.history().ended(id);
            self.emit(AgentEvent::AudioEnd(id), utterance.is_protected(), gate).await;
        }
    }

    async fn emit(&self, event: AgentEvent, protected: bool, gate: &mut Gate) {
        let generation = opened(gate).await;
        // closed: the call is over
        let _ = self.out.send(Tagged { generation, protected, event }).await;
    }
}

pub(super) async fn opened(gate: &mut Gate) -> u32 {
    let generation = gate.wait_for(Option::is_some).await.map(|generation| *generation);
    match generation {
        Ok(generation) => generation.unwrap_or_default(),
        // the conductor drops an answer together with its gate
        Err(_) => std::future::pending().await,
    }
}

async fn cut(mut pieces: mpsc::Receiver<Piece>, items: mpsc::Sender<Item>, stamps: &Stamps) {
    let (mut citations, mut sentences) = (Citations::default(), Sentences::default());
    while let Some(piece) = pieces.recv().await {
        if !matches!(piece, Piece::Pause | Piece::End | Piece::Resume(_)) {
            stamps.note(|timing| &mut timing.token);
        }
        let found = match piece {
            Piece::Resume(_) => {
                (citations, sentences) = (Citations::default(), Sentences::default());
                Vec::new()
            }
            Piece::Pause => rest(&mut citations, &mut sentences).into_iter().map(Item::Sentence).collect(),
            Piece::End => {
                let before = rest(&mut citations, &mut sentences).into_iter().map(Item::Sentence);
                before.chain([Item::End]).collect()
            }
            Piece::Text(text) => sentences.push(&citations.push(&text)).into_iter().map(Item::Sentence).collect(),
            Piece::Audio(bytes) => {
                let before = rest(&mut citations, &mut sentences).into_iter().map(Item::Sentence);
                before.chain([Item::Clip(bytes)]).collect::<Vec<_>>()
            }
        };
        for item in found {
            if !matches!(item, Item::End) {
                stamps.note(|timing| &mut timing.sentence);
            }
            if items.send(item).await.is_err() {
                return;
            }
        }
    }
    for sentence in rest(&mut citations, &mut sentences) {
        stamps.note(|timing| &mut timing.sentence);
        if items.send(Item::Sentence(sentence)).await.is_err() {
            return;
        }
    }
}

fn rest(citations: &mut Citations, sentences: &mut Sentences) -> Vec<String> {
    let mut all = sentences.push(&citations.finish());
    all.extend(sentences.finish());
    all
}
