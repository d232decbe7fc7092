//! How long the caller waited for an answer, and for what.

use std::time::{Duration, Instant};

/// The parts of one answer's delay. What was not seen is `None`: a speech-to-speech service may not say when the caller stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// From the end of the caller's speech to their final words.
    pub transcribe: Option<Duration>,
    /// From the final words (else the end of speech) to the first audio of the answer.
    pub answer: Duration,
    /// From the first audio to the moment it is played.
    pub play: Duration,
}

impl Latency {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.transcribe.unwrap_or_default() + self.answer + self.play
    }
}

/// Follows one answer after another.
#[derive(Debug, Default)]
pub struct Watch {
    stopped: Option<Instant>,
    words: Option<Instant>,
    audio: Option<Instant>,
}

impl Watch {
    /// The caller stopped speaking.
    pub fn stopped(&mut self, at: Instant) {
        *self = Self { stopped: Some(at), ..Self::default() };
    }

    /// The caller's final words came. Several in a row count from the last.
    pub const fn words(&mut self, now: Instant) {
        if self.audio.is_none() {
            self.words = Some(now);
        }
    }

    /// Speech of the agent came.
    pub fn audio(&mut self, now: Instant) {
        if self.stopped.or(self.words).is_some() {
            self.audio.get_or_insert(now);
        }
    }

    /// What the agent had begun to say is not going to be heard.
    pub fn cut(&mut self) {
        *self = Self::default();
    }

    /// A frame of the agent's speech is played: the answer, if it is the first of it.
    pub fn played(&mut self, now: Instant) -> Option<Latency> {
        let audio = self.audio?;
        let Self { stopped, words, .. } = std::mem::take(self);
        let asked = words.or(stopped)?;
        Some(Latency {
            transcribe: stopped.zip(words).map(|(stopped, words)| words.saturating_duration_since(stopped)),
            answer: audio.saturating_duration_since(asked),
            play: now.saturating_duration_since(audio),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_parts_of_an_answer_add_up() {
        let (begin, mut watch) = (Instant::now(), Watch::default());
        watch.stopped(begin);
        watch.words(begin + ms(200));
        watch.words(begin + ms(300));
        assert_eq!(watch.played(begin + ms(310)), None, "a frame of something said before");
        watch.audio(begin + ms(900));
        watch.audio(begin + ms(920));
        watch.words(begin + ms(930)); // those of the next turn, or late ones
        let answer = watch.played(begin + ms(940));
        assert_eq!(answer, Some(Latency { transcribe: Some(ms(300)), answer: ms(600), play: ms(40) }));
        assert_eq!(answer.map(|answer| answer.total()), Some(ms(940)));
        assert_eq!(watch.played(begin + ms(960)), None, "one event per answer");
    }

    #[test]
    fn what_was_not_seen_is_left_out_and_a_greeting_is_no_answer() {
        let (begin, mut watch) = (Instant::now(), Watch::default());
        watch.audio(begin);
        assert_eq!(watch.played(begin + ms(1)), None);
        watch.words(begin + ms(100));
        watch.audio(begin + ms(150));
        assert_eq!(watch.played(begin + ms(160)), Some(Latency { transcribe: None, answer: ms(50), play: ms(10) }));
        watch.stopped(begin + ms(200));
        watch.audio(begin + ms(250));
        watch.cut();
        assert_eq!(watch.played(begin + ms(260)), None);
        watch.stopped(begin + ms(300));
        watch.audio(begin + ms(320));
        assert_eq!(watch.played(begin + ms(330)), Some(Latency { transcribe: None, answer: ms(20), play: ms(10) }));
    }
}
