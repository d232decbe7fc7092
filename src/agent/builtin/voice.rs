//! The voice of the embedded agent: recordings for what it always says, flite for other texts.

use std::{
    collections::{HashMap, VecDeque},
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    process::Command,
    runtime::Handle,
    sync::{Semaphore, oneshot},
};

use super::recorder::trimmed;
use crate::{
    agent::Config,
    audio::{Rate, resample::Resampler, wav},
    call::Digit,
};

/// Texts beyond this many bytes are cut (at a character).
const LONGEST_TEXT: usize = 1_000;
/// Most that is read of flite's output: about a minute.
const LONGEST_WAV: u64 = 2_000_000;
/// flite needs some 50 ms for a sentence.
const PATIENCE: Duration = Duration::from_secs(10);
/// Texts (not recordings) kept ready.
const KEPT_TEXTS: usize = 32;
/// flite processes at once.
const AT_ONCE: usize = 2;

/// Something to say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Phrase {
    /// What the agent says first.
    Greeting,
    /// What it says last.
    Goodbye,
    /// Which key the caller pressed.
    Pressed(Digit),
    /// Any text.
    Text(Arc<str>),
}

impl Phrase {
    /// A text to say, cut to a sensible length.
    pub fn text(text: &str) -> Self {
        Self::Text(text[..text.floor_char_boundary(LONGEST_TEXT)].into())
    }

    /// The words.
    pub fn words(&self) -> Arc<str> {
        match self {
            Self::Text(text) => Arc::clone(text),
            fixed => recording(fixed).0.into(),
        }
    }
}

/// What is said, ready to be played.
#[derive(Debug, Clone)]
pub struct Spoken {
    /// The words.
    pub words: Arc<str>,
    /// The sound, at the rate asked for.
    pub samples: Arc<[i16]>,
}

/// Speech that is ready, or soon will be.
#[derive(Debug)]
pub enum Speech {
    /// Ready.
    Ready(Spoken),
    /// Being made. The sender is dropped when there is nothing to say.
    Coming(oneshot::Receiver<Spoken>),
}

/// The voice of the embedded agent. Made once and cloned into every call, so that what was said once is ready for the next call.
#[derive(Debug, Clone)]
pub struct Voice(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    program: String,
    masked: bool,
    control: Handle,
    flites: Semaphore,
    has_warned: AtomicBool,
    cache: Mutex<Cache>,
}

/// Recordings are few, texts may be many: those are kept up to [`KEPT_TEXTS`], the oldest goes.
#[derive(Debug, Default)]
struct Cache {
    ready: HashMap<(Phrase, Rate), Arc<[i16]>>,
    texts: VecDeque<(Phrase, Rate)>,
}

/// Why flite gave no speech.
#[derive(Debug, thiserror::Error)]
pub enum FliteError {
    /// It cannot be run.
    #[error("cannot run {program:?} ({source}): install the Debian package flite, or set agent.flite to the program")]
    Run { program: String, source: std::io::Error },
    #[error("reading the output of {program:?} failed: {source}")]
    Read { program: String, source: std::io::Error },
    #[error("{program:?} gave no usable WAV: {source}")]
    Wav { program: String, source: wav::Error },
    #[error("{program:?} took longer than {} s", PATIENCE.as_secs())]
    Slow { program: String },
}

impl Voice {
    /// The voice that `config` asks for. Speech is made on `control`, never on the thread of a call; what every call at 8 kHz needs is
    /// made ready at once. `mask_digits`: the agent's transcript does not say which key was pressed.
    #[must_use]
    pub fn new(config: &Config, mask_digits: bool, control: Handle) -> Self {
        let voice = Self(Arc::new(Inner {
            program: config.flite.clone(),
            masked: mask_digits,
            control,
            flites: Semaphore::new(AT_ONCE),
            has_warned: AtomicBool::new(false),
            cache: Mutex::default(),
        }));
        let greeting = config.greeting.as_deref().map_or(Phrase::Greeting, Phrase::text);
        let keys = "0123456789*ABCD".chars().filter_map(|key| Digit::try_from(key).ok()).map(Phrase::Pressed);
        for phrase in [greeting, Phrase::Goodbye].into_iter().chain(keys) {
            drop(voice.speak(&phrase, Rate::R8K));
        }
        voice
    }

    /// `phrase` as sound at `rate`. Never waits.
    pub(super) fn speak(&self, phrase: &Phrase, rate: Rate) -> Speech {
        if let Some(spoken) = self.0.ready(phrase, rate) {
            return Speech::Ready(spoken);
        }
        let (done, coming) = oneshot::channel();
        let (inner, phrase) = (Arc::clone(&self.0), phrase.clone());
        self.0.control.spawn(async move {
            let spoken = inner.make(&phrase, rate).await;
            // nobody may be waiting any more: it is in the cache all the same
            let _ = done.send(spoken);
        });
        Speech::Coming(coming)
    }
}

impl Inner {
    fn ready(&self, phrase: &Phrase, rate: Rate) -> Option<Spoken> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let samples = Arc::clone(cache.ready.get(&(phrase.clone(), rate))?);
        Some(Spoken { words: self.words(phrase), samples })
    }

    fn words(&self, phrase: &Phrase) -> Arc<str> {
        if self.masked && matches!(phrase, Phrase::Pressed(_)) { "You pressed a key.".into() } else { phrase.words() }
    }

    async fn make(&self, phrase: &Phrase, rate: Rate) -> Spoken {
        let Phrase::Text(text) = phrase else { return self.recorded(phrase, rate) };
        // acquiring fails only on a closed semaphore, and nobody closes this one
        let _turn = self.flites.acquire().await;
        if let Some(spoken) = self.ready(phrase, rate) {
            return spoken;
        }
        match flite(&self.program, text).await {
            Ok((hz, samples)) => {
                let samples = converted(hz, &samples, rate);
                self.keep(phrase, rate, trimmed(&samples, rate).into())
            }
            Err(error) => {
                if !self.has_warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the embedded agent cannot speak a text; its own greeting is used instead");
                }
                self.recorded(&Phrase::Greeting, rate)
            }
        }
    }

    fn recorded(&self, phrase: &Phrase, rate: Rate) -> Spoken {
        // the recordings are compiled in and a test reads each of them: reading cannot fail
        let (hz, samples) = wav::read(recording(phrase).1).unwrap_or_default();
        self.keep(phrase, rate, converted(hz, &samples, rate).into())
    }

    fn keep(&self, phrase: &Phrase, rate: Rate, samples: Arc<[i16]>) -> Spoken {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (phrase.clone(), rate);
        let is_new = cache.ready.insert(key.clone(), Arc::clone(&samples)).is_none();
        if is_new && matches!(phrase, Phrase::Text(_)) {
            cache.texts.push_back(key);
            if cache.texts.len() > KEPT_TEXTS
                && let Some(oldest) = cache.texts.pop_front()
            {
                cache.ready.remove(&oldest);
            }
        }
        Spoken { words: self.words(phrase), samples }
    }
}

fn converted(from_hz: u32, samples: &[i16], to: Rate) -> Vec<i16> {
    let mut resampler = Resampler::new(from_hz, to.hz());
    let mut out = Vec::new();
    resampler.process(samples, &mut out);
    resampler.finish(&mut out);
    out
}

/// `text` spoken by flite: the rate and the samples.
pub async fn flite(program: &str, text: &str) -> Result<(u32, Vec<i16>), FliteError> {
    let named = || program.to_owned();
    let mut child = Command::new(program)
        .args(["-voice", "slt", "-t", text, "-o", "/dev/stdout"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| FliteError::Run { program: named(), source })?;
    let mut bytes = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        tokio::time::timeout(PATIENCE, stdout.take(LONGEST_WAV).read_to_end(&mut bytes))
            .await
            .map_err(|_| FliteError::Slow { program: named() })?
            .map_err(|source| FliteError::Read { program: named(), source })?;
    }
    wav::read(&bytes).map_err(|source| FliteError::Wav { program: named(), source })
}

/// The words and the recording of a phrase; of a text: those of the greeting, which takes its place.
fn recording(phrase: &Phrase) -> (&'static str, &'static [u8]) {
    macro_rules! wav {
        ($file:literal) => {
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/builtin/", $file))
        };
    }
    match phrase {
        Phrase::Greeting | Phrase::Text(_) => (
            "Hello, this is Hark. Say something, and I will repeat it. Press a key, and I will read it back. \
             Press the pound key to say goodbye.",
            wav!("greeting.wav"),
        ),
        Phrase::Goodbye => ("Goodbye.", wav!("goodbye.wav")),
        Phrase::Pressed(digit) => match digit.as_char() {
            '0' => ("You pressed zero.", wav!("pressed_0.wav")),
            '1' => ("You pressed one.", wav!("pressed_1.wav")),
            '2' => ("You pressed two.", wav!("pressed_2.wav")),
            '3' => ("You pressed three.", wav!("pressed_3.wav")),
            '4' => ("You pressed four.", wav!("pressed_4.wav")),
            '5' => ("You pressed five.", wav!("pressed_5.wav")),
            '6' => ("You pressed six.", wav!("pressed_6.wav")),
            '7' => ("You pressed seven.", wav!("pressed_7.wav")),
            '8' => ("You pressed eight.", wav!("pressed_8.wav")),
            '9' => ("You pressed nine.", wav!("pressed_9.wav")),
            'A' => ("You pressed A.", wav!("pressed_a.wav")),
            'B' => ("You pressed B.", wav!("pressed_b.wav")),
            'C' => ("You pressed C.", wav!("pressed_c.wav")),
            'D' => ("You pressed D.", wav!("pressed_d.wav")),
            '*' => ("You pressed star.", wav!("pressed_star.wav")),
            // a `Digit` has no other character than the pound key here, and that one says goodbye
            _ => ("Goodbye.", wav!("goodbye.wav")),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn voice(flite: &str) -> Voice {
        let config = Config { flite: flite.to_owned(), ..Config::default() };
        Voice::new(&config, false, Handle::current())
    }

    async fn spoken(voice: &Voice, phrase: &Phrase, rate: Rate) -> Spoken {
        match voice.speak(phrase, rate) {
            Speech::Ready(spoken) => spoken,
            Speech::Coming(coming) => coming.await.unwrap(),
        }
    }

    /// A program that stands for flite: runs `body` in a shell.
    fn script(dir: &tempfile::TempDir, body: &str) -> String {
        let path = dir.path().join("flite");
        // written by another process: a descriptor of ours that a test beside this one hands down by forking makes "text file busy"
        let status = std::process::Command::new("sh")
            .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod +x \"$2\"", "sh", body])
            .arg(&path)
            .status();
        assert!(status.unwrap().success());
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn every_recording_can_be_read_and_is_8_khz() {
        let keys = "0123456789*#ABCD".chars().map(|key| Phrase::Pressed(Digit::try_from(key).unwrap()));
        for phrase in keys.chain([Phrase::Greeting, Phrase::Goodbye]) {
            let (words, bytes) = recording(&phrase);
            let (hz, samples) = wav::read(bytes).unwrap();
            assert_eq!(hz, 8_000, "{words}");
            assert!(samples.len() > 3_000 && samples.iter().any(|sample| *sample > 8_000), "{words}");
        }
    }

    #[tokio::test]
    async fn recordings_have_the_rate_of_the_leg_and_are_made_once() {
        let voice = voice("flite");
        let narrow = spoken(&voice, &Phrase::Goodbye, Rate::R8K).await;
        let wide = spoken(&voice, &Phrase::Goodbye, Rate::R16K).await;
        assert!(wide.samples.len().abs_diff(2 * narrow.samples.len()) < 200);
        assert!(matches!(voice.speak(&Phrase::Goodbye, Rate::R16K), Speech::Ready(_)));
    }

    #[tokio::test]
    async fn a_missing_program_gives_the_compiled_in_greeting() {
        let voice = voice("/nonexistent/flite");
        let spoken = spoken(&voice, &Phrase::text("Welcome to the bakery."), Rate::R8K).await;
        assert_eq!(spoken.words, Phrase::Greeting.words());
        assert!(spoken.samples.len() > 40_000);
    }

    #[tokio::test]
    async fn a_text_is_an_argument_and_its_speech_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let asset = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/builtin/goodbye.wav");
        let body = format!("echo \"$4\" >> {}; cat {asset}", dir.path().join("said").display());
        let voice = voice(&script(&dir, &body));
        let text = Phrase::text("-o $(touch x); `date`");
        let first = spoken(&voice, &text, Rate::R8K).await;
        let second = spoken(&voice, &text, Rate::R8K).await;
        assert!(Arc::ptr_eq(&first.samples, &second.samples));
        assert_eq!(&*first.words, "-o $(touch x); `date`");
        assert_eq!(std::fs::read_to_string(dir.path().join("said")).unwrap(), "-o $(touch x); `date`\n");
    }

    #[tokio::test]
    async fn endless_output_and_garbage_end_in_the_greeting() {
        let dir = tempfile::tempdir().unwrap();
        let voice = voice(&script(&dir, "exec cat /dev/zero"));
        let spoken = spoken(&voice, &Phrase::text("Hello"), Rate::R8K).await;
        assert_eq!(spoken.words, Phrase::Greeting.words());
    }

    #[tokio::test]
    async fn only_so_many_texts_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let asset = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/builtin/goodbye.wav");
        let voice = voice(&script(&dir, &format!("exec cat {asset}")));
        for n in 0..KEPT_TEXTS + 3 {
            spoken(&voice, &Phrase::text(&n.to_string()), Rate::R8K).await;
        }
        assert!(matches!(voice.speak(&Phrase::text("0"), Rate::R8K), Speech::Coming(_)));
        assert!(matches!(voice.speak(&Phrase::text("34"), Rate::R8K), Speech::Ready(_)));
        let cache = voice.0.cache.lock().unwrap();
        assert_eq!(cache.texts.len(), KEPT_TEXTS);
        assert_eq!(cache.ready.keys().filter(|(phrase, _)| matches!(phrase, Phrase::Text(_))).count(), KEPT_TEXTS);
    }
}
