//! Ears and voice of the embedded agent, shared by all calls.

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::{
    Config, EngineError, Voice,
    models::{self, RUNTIME},
    moonshine::Moonshine,
    numbers::Numbers,
    piper::Piper,
    pool::{Job, Kind, Models, Pool, converted},
    programs, runtime,
    talkers::{Refused, Talker, Talkers},
};
use crate::{
    agent::{builtin::flite, sentence::Sentences, tts::Pcm},
    audio::Rate,
    call::CallId,
};

/// Longest text that is spoken at once, in bytes.
const LONGEST: usize = 1_000;
/// A text is spoken in parts, so that the first is heard while the next is made: each has at least so many bytes.
const PART: usize = 24;
/// Spoken parts kept ready, in samples (16 MB).
const KEPT: usize = 8 << 20;
/// What espeak-ng speaks at, where its header does not say.
const ESPEAK_RATE: u32 = 22_050;

/// Part of a text as sound; the last one is followed by the end of the channel.
pub type Spoken = Result<Arc<[i16]>, EngineError>;

/// Ears and voice. Made once, cloned into every call.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: Pool,
    speaks: Voice,
    espeak: String,
    flite: String,
    control: Handle,
    talkers: Arc<Talkers>,
    numbers: Arc<Numbers>,
    has_warned: AtomicBool,
    kept: Mutex<Kept>,
}

/// What a thread works with.
struct Opened {
    moonshine: Moonshine,
    piper: Option<Piper>,
}

impl Opened {
    fn open(models: &Path, speaks: bool) -> Result<Self, EngineError> {
        let environment = runtime::environment(&RUNTIME.file(models, "libonnxruntime.so"))?;
        let moonshine = Moonshine::open(&environment, models)?;
        let piper = if speaks { Some(Piper::open(&environment, models)?) } else { None };
        Ok(Self { moonshine, piper })
    }
}

impl Models for Opened {
    fn recognise(&mut self, samples: &[i16]) -> Result<String, EngineError> {
        self.moonshine.recognise(samples)
    }

    fn speak(&mut self, phonemes: &str, rate: Rate) -> Result<Vec<i16>, EngineError> {
        let piper = self.piper.as_mut().ok_or(EngineError::Gone)?;
        let (hz, samples) = piper.speak(phonemes)?;
        Ok(converted(hz, &samples, rate))
    }
}

/// What was said before, so that it need not be made again; the oldest goes.
#[derive(Debug, Default)]
struct Kept {
    ready: HashMap<(Box<str>, Rate), Arc<[i16]>>,
    order: VecDeque<(Box<str>, Rate)>,
    samples: usize,
}

impl Engine {
    /// Opens the models in `dir`. Programs are run on `control`, never on the thread of a call.
    ///
    /// # Errors
    /// There are no models, or they cannot be used.
    pub async fn start(dir: &Path, config: &Config, flite: &str, control: Handle) -> Result<Self, EngineError> {
        if !models::are_installed(dir) {
            return Err(EngineError::NotInstalled(dir.to_owned()));
        }
        let voice = Voice::here(dir, &config.espeak, flite);
        let speaks = voice.speaks.ok_or(EngineError::NoVoice)?;
        if let Some(why) = voice.why {
            tracing::warn!("the embedded agent speaks with {speaks} instead of its own voice: {why}");
        }
        let numbers = Arc::<Numbers>::default();
        let (models, has_piper) = (dir.to_owned(), speaks == Voice::Piper);
        let open = move || Opened::open(&models, has_piper);
        let pool = Pool::start(open, config.threads(), Arc::clone(&numbers)).await?;
        Ok(Self(Arc::new(Inner {
            pool,
            speaks,
            espeak: config.espeak.clone(),
            flite: flite.to_owned(),
            control,
            talkers: Arc::new(Talkers::new(config.max_calls())),
            numbers,
            has_warned: AtomicBool::new(false),
            kept: Mutex::default(),
        })))
    }

    /// A place for a call, which may have several of its parts ask for it.
    ///
    /// # Errors
    /// All of them are taken, or nothing works.
    pub fn admit(&self, call: CallId) -> Result<Talker, Refused> {
        if !self.0.pool.is_alive() {
            return Err(Refused::Down);
        }
        Talkers::admit(&self.0.talkers, call)
    }

    /// Calls that it serves, and how many it could.
    #[must_use]
    pub fn talkers(&self) -> (usize, usize) {
        (self.0.talkers.count(), self.0.talkers.most())
    }

    /// Utterances and sentences that wait for a thread.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.pool.waiting()
    }

    /// What it has done.
    #[must_use]
    pub fn numbers(&self) -> &Numbers {
        &self.0.numbers
    }

    /// What speaks.
    #[must_use]
    pub fn voice(&self) -> Voice {
        self.0.speaks
    }

    /// The words in `samples`, which have this rate.
    ///
    /// # Errors
    /// There is more to do than can be done, or the model fails.
    pub async fn recognise(&self, samples: Vec<i16>, rate: Rate) -> Result<String, EngineError> {
        self.heard(samples, rate, Kind::Needed).await
    }

    /// The same of an utterance that is not over: others go first, and where much is to do it is left out.
    ///
    /// # Errors
    /// As of [`recognise`](Self::recognise).
    pub async fn guess(&self, samples: Vec<i16>, rate: Rate) -> Result<String, EngineError> {
        self.heard(samples, rate, Kind::Guess).await
    }

    async fn heard(&self, samples: Vec<i16>, rate: Rate, kind: Kind) -> Result<String, EngineError> {
        let (done, words) = oneshot::channel();
        self.0.pool.offer(Job::Recognise(samples, rate, done), kind)?;
        words.await.map_err(|_| EngineError::Gone)?
    }

    /// Speaks `text` at `rate`, part by part. Never waits; dropping the receiver ends it.
    #[must_use]
    pub fn speak(&self, text: &str, rate: Rate) -> mpsc::Receiver<Spoken> {
        let (out, coming) = mpsc::channel(2);
        let (inner, text) = (Arc::clone(&self.0), text[..text.floor_char_boundary(LONGEST)].to_owned());
        self.0.control.spawn(async move {
            for part in parts(&text) {
                let spoken = inner.part(part, rate).await;
                let failed = spoken.is_err();
                if out.send(spoken).await.is_err() || failed {
                    return;
                }
            }
        });
        coming
    }

    /// Makes ready what every caller hears.
    pub fn prepare(&self, text: &str, rate: Rate) {
        let inner = Arc::clone(&self.0);
        let mut splitter = Sentences::default();
        let mut sentences = splitter.push(text);
        sentences.extend(splitter.finish());
        self.0.control.spawn(async move {
            for sentence in sentences {
                for part in parts(&sentence) {
                    if inner.part(part, rate).await.is_err() {
                        // it is said when it is needed
                        return;
                    }
                }
            }
        });
    }
}

impl Inner {
    async fn part(&self, text: &str, rate: Rate) -> Spoken {
        let key = (Box::from(text), rate);
        if let Some(ready) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).ready.get(&key) {
            return Ok(Arc::clone(ready));
        }
        let samples = match self.speaks {
            Voice::Piper => match self.piper(text, rate).await {
                Err(error @ (EngineError::Program(_) | EngineError::Run(_) | EngineError::Gone)) => {
                    if !self.has_warned.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "the embedded voice cannot say a text; flite says it instead");
                    }
                    self.flite(text, rate).await
                }
                spoken => spoken,
            },
            Voice::Flite => self.flite(text, rate).await,
            Voice::Espeak => {
                let bytes = programs::espeak(&self.espeak, text).await.map_err(EngineError::Program)?;
                let mut pcm = Pcm::new(ESPEAK_RATE, rate);
                let mut samples = pcm.push(&bytes);
                samples.extend(pcm.finish());
                Ok(samples)
            }
        };
        let samples: Arc<[i16]> = samples?.into();
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).keep(key, &samples);
        Ok(samples)
    }

    async fn piper(&self, text: &str, rate: Rate) -> Result<Vec<i16>, EngineError> {
        let phonemes = programs::phonemes(&self.espeak, text).await.map_err(EngineError::Program)?;
        let (done, samples) = oneshot::channel();
        self.pool.offer(Job::Speak(phonemes, rate, done), Kind::Needed)?;
        samples.await.map_err(|_| EngineError::Gone)?
    }

    async fn flite(&self, text: &str, rate: Rate) -> Result<Vec<i16>, EngineError> {
        let (hz, samples) = flite(&self.flite, text).await.map_err(|error| EngineError::Program(error.to_string()))?;
        Ok(converted(hz, &samples, rate))
    }
}

impl Kept {
    fn keep(&mut self, key: (Box<str>, Rate), samples: &Arc<[i16]>) {
        if samples.len() > KEPT || self.ready.insert(key.clone(), Arc::clone(samples)).is_some() {
            return;
        }
        self.samples += samples.len();
        self.order.push_back(key);
        while self.samples > KEPT {
            let Some(oldest) = self.order.pop_front() else { return };
            self.samples -= self.ready.remove(&oldest).map_or(0, |gone| gone.len());
        }
    }
}

/// The parts of a sentence that are spoken one after the other: cut at its marks, none of them very short.
fn parts(text: &str) -> Vec<&str> {
    let (mut found, mut from) = (Vec::new(), 0);
    for (at, mark) in text.match_indices([',', ';', ':', '.', '!', '?']) {
        let end = at + mark.len();
        let is_pause = text[end..].starts_with(char::is_whitespace);
        if is_pause && end - from >= PART && text.len() - end >= PART {
            found.push(text[from..end].trim());
            from = end;
        }
    }
    let rest = text[from..].trim();
    if !rest.is_empty() {
        found.push(rest);
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn long_sentences_are_spoken_in_parts() {
        let text = "We are open from Monday to Friday, from nine in the morning, to five in the afternoon.";
        assert_eq!(
            parts(text),
            ["We are open from Monday to Friday,", "from nine in the morning,", "to five in the afternoon."]
        );
        assert_eq!(parts("Hello, this is Hark."), ["Hello, this is Hark."]);
        assert_eq!(
            parts("It costs 1,000,000,000,000,000,000,000 dollars exactly."),
            ["It costs 1,000,000,000,000,000,000,000 dollars exactly."]
        );
        assert!(parts("  ").is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut kept = Kept::default();
        let second: Arc<[i16]> = vec![0; 1 << 20].into();
        for n in 0..20 {
            kept.keep((n.to_string().into(), Rate::R8K), &second);
            kept.keep((n.to_string().into(), Rate::R8K), &second);
        }
        assert_eq!((kept.ready.len(), kept.order.len(), kept.samples), (8, 8, KEPT));
        assert!(kept.ready.contains_key(&("19".into(), Rate::R8K)));
        kept.keep(("huge".into(), Rate::R8K), &vec![0; KEPT + 1].into());
        assert_eq!(kept.ready.len(), 8);
    }

    proptest! {
        #[test]
        fn parts_lose_nothing(text in "[a-z ,.:]{0,120}") {
            let squeezed = |text: &str| text.split_whitespace().collect::<String>();
            prop_assert_eq!(squeezed(&parts(&text).concat()), squeezed(&text));
        }
    }
}
