//! How long the caller waited for an answer, and for what.

use std::time::{Duration, Instant};

/// The parts of one answer's delay. What was not seen is `None`: a speech-to-speech service may not say when the caller stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latency {
    /// Silence that was waited for until the caller's turn was taken to be over.
    pub endpointing: Option<Duration>,
    /// From there, or from the caller's last voiced frame, to their final words.
    pub stt: Option<Duration>,
    /// From the end of the turn to the first audio of the answer; the next three are parts of it.
    pub answer: Duration,
    /// To the first words of the language model.
    pub llm_first_token: Option<Duration>,
    /// From there to the first whole sentence.
    pub first_sentence: Option<Duration>,
    /// From there to the first audio.
    pub tts_first_byte: Option<Duration>,
    /// From the first audio to the moment it is played.
    pub playout: Duration,
}

impl Latency {
    /// All of it: from the caller's last voiced frame, as far as that is known, to the agent's first one.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.endpointing.unwrap_or_default() + self.stt.unwrap_or_default() + self.answer + self.playout
    }
}

/// When an agent of several services did what for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// The caller's final words came from speech recognition.
    pub words: Option<Instant>,
    /// The caller's turn was taken to be over.
    pub turn: Option<Instant>,
    /// The language model's first words came.
    pub token: Option<Instant>,
    /// Its first sentence was whole.
    pub sentence: Option<Instant>,
    /// The first audio of that came.
    pub speech: Option<Instant>,
}

/// The turn of an agent that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// What the caller had waited for; `None` where the agent did not answer (a greeting).
    pub latency: Option<Latency>,
    /// How much of it was heard.
    pub heard: Duration,
    /// The rest was cut.
    pub cut: bool,
}

/// Follows one answer after another.
#[derive(Debug, Default)]
pub struct Watch {
    /// The caller's last voiced frame, and when their silence had lasted long enough.
    stopped: Option<Instant>,
    ended: Option<Instant>,
    words: Option<Instant>,
    audio: Option<Instant>,
    timing: Option<Timing>,
    /// The agent tells of its answers by [`Timing`]; whatever else it says is none.
    timed: bool,
}

impl Watch {
    /// Nothing seen so far.
    #[must_use]
    pub fn new(timed: bool) -> Self {
        Self { timed, ..Self::default() }
    }

    /// The caller's silence behind `voiced` has lasted long enough.
    pub fn stopped(&mut self, voiced: Instant, now: Instant) {
        if self.words.is_some_and(|words| voiced < words) {
            // speech recognition was faster
            self.stopped.get_or_insert(voiced);
        } else {
            *self = Self { stopped: Some(voiced), ended: Some(now), ..Self::new(self.timed) };
        }
    }

    /// The caller asked by pressing keys.
    pub fn asked(&mut self, now: Instant) {
        *self = Self { stopped: Some(now), ..Self::new(self.timed) };
    }

    /// The caller's final words came. Several in a row count from the last. `voiced`: their last voiced frame, if there was any.
    pub fn words(&mut self, voiced: Option<Instant>, now: Instant) {
        if self.audio.is_none() {
            self.words = Some(now);
            self.stopped = self.stopped.or(voiced);
        }
    }

    /// An agent says when it did what; its first audio follows.
    pub const fn timing(&mut self, timing: Timing) {
        if self.audio.is_none() {
            self.timing = Some(timing);
        }
    }

    /// Speech of the agent came.
    pub fn audio(&mut self, now: Instant) {
        if self.stopped.or(self.words).is_some() && (self.timing.is_some() || !self.timed) {
            self.audio.get_or_insert(now);
        }
    }

    /// What the agent had begun to say is not going to be heard.
    pub fn cut(&mut self) {
        *self = Self::new(self.timed);
    }

    /// A frame of the agent's speech is played: the answer, if it is the first of it.
    pub fn played(&mut self, now: Instant) -> Option<Latency> {
        let audio = self.audio?;
        let Self { stopped, ended, words, timing, .. } = std::mem::replace(self, Self::new(self.timed));
        let timing = timing.unwrap_or_default();
        let mut latency = Latency::default();
        let mut at = Lap(stopped.or(words)?);
        if stopped.is_some() {
            let silence = ended.map(|ended| at.until(ended));
            // digits are no words
            let said = timing.words.or(words).filter(|_| words.is_some());
            latency.stt = said.map(|said| at.until(said));
            let joining = timing.turn.or(words).map(|turn| at.until(turn));
            latency.endpointing = silence.into_iter().chain(joining).reduce(|a, b| a + b);
        }
        let turn = at.0;
        latency.llm_first_token = timing.token.map(|token| at.until(token));
        latency.first_sentence = timing.sentence.map(|sentence| at.until(sentence));
        latency.tts_first_byte = timing.speech.map(|_| at.until(audio));
        at.until(audio);
        latency.answer = at.0.saturating_duration_since(turn);
        latency.playout = at.until(now);
        Some(latency)
    }
}

/// Where the time has come to. What happened before that, because it was begun ahead of time, took none.
struct Lap(Instant);

impl Lap {
    fn until(&mut self, next: Instant) -> Duration {
        let took = next.saturating_duration_since(self.0);
        self.0 = self.0.max(next);
        took
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_parts_of_an_answer_add_up() {
        let (begin, mut watch) = (Instant::now(), Watch::default());
        let at = |time| begin + ms(time);
        watch.stopped(begin, at(500));
        watch.words(None, at(700));
        assert_eq!(watch.played(at(710)), None, "a frame of something said before");
        watch.timing(Timing {
            words: Some(at(690)),
            turn: Some(at(695)),
            token: Some(at(800)),
            sentence: Some(at(850)),
            speech: Some(at(895)),
        });
        watch.audio(at(900));
        watch.audio(at(920));
        watch.words(None, at(930)); // those of the next turn, or late ones
        let answer = watch.played(at(940)).unwrap();
        let expected = Latency {
            endpointing: Some(ms(505)),
            stt: Some(ms(190)),
            answer: ms(205),
            llm_first_token: Some(ms(105)),
            first_sentence: Some(ms(50)),
            tts_first_byte: Some(ms(50)),
            playout: ms(40),
        };
        assert_eq!((answer, answer.total()), (expected, ms(940)));
        assert_eq!(watch.played(at(960)), None, "one answer");
    }

    #[test]
    fn what_was_begun_ahead_of_time_took_none() {
        let (begin, mut watch) = (Instant::now(), Watch::default());
        let at = |time| begin + ms(time);
        watch.stopped(begin, at(500));
        watch.words(None, at(600));
        let early = Timing {
            words: Some(at(600)),
            turn: Some(at(600)),
            token: Some(at(300)),
            sentence: Some(at(350)),
            speech: Some(at(400)),
        };
        watch.timing(early);
        watch.audio(at(601));
        let answer = watch.played(at(611)).unwrap();
        assert_eq!((answer.llm_first_token, answer.tts_first_byte, answer.answer), (Some(ms(0)), Some(ms(1)), ms(1)));
        assert_eq!(answer.total(), ms(611));
    }

    #[test]
    fn a_service_that_ends_the_turn_by_itself_is_faster_than_silence() {
        let (begin, mut watch) = (Instant::now(), Watch::default());
        watch.words(Some(begin), begin + ms(200));
        watch.stopped(begin + ms(20), begin + ms(532));
        watch.audio(begin + ms(600));
        let answer = watch.played(begin + ms(610)).unwrap();
        assert_eq!((answer.stt, answer.endpointing, answer.answer), (Some(ms(200)), Some(ms(0)), ms(400)));
    }

    #[test]
    fn what_was_not_seen_is_left_out_and_a_greeting_is_no_answer() {
        let (begin, mut watch) = (Instant::now(), Watch::default());
        watch.audio(begin);
        assert_eq!(watch.played(begin + ms(1)), None);
        watch.words(None, begin + ms(100));
        watch.audio(begin + ms(150));
        let plain = Latency { answer: ms(50), playout: ms(10), ..Latency::default() };
        assert_eq!(watch.played(begin + ms(160)), Some(plain));
        watch.stopped(begin + ms(200), begin + ms(300));
        watch.audio(begin + ms(350));
        watch.cut();
        assert_eq!(watch.played(begin + ms(360)), None);
    }

    #[test]
    fn of_an_agent_that_tells_of_its_answers_nothing_else_is_one() {
        let (begin, mut watch) = (Instant::now(), Watch::new(true));
        watch.stopped(begin, begin + ms(500));
        watch.audio(begin + ms(9_000));
        assert_eq!(watch.played(begin + ms(9_010)), None, "a prompt for a silent caller");
        watch.words(None, begin + ms(9_500));
        watch.timing(Timing::default());
        watch.audio(begin + ms(9_600));
        assert!(watch.played(begin + ms(9_610)).is_some());
    }

    proptest! {
        #[test]
        fn parts_add_up_whatever_comes_when(times in prop::collection::vec(0_u64..2_000, 9)) {
            let (begin, mut watch) = (Instant::now(), Watch::default());
            let at = |index: usize| begin + ms(times[index]);
            watch.stopped(begin, at(0));
            watch.words(None, at(1));
            watch.timing(Timing { words: Some(at(2)), turn: Some(at(3)), token: Some(at(4)), sentence: Some(at(5)), speech: Some(at(6)) });
            let audio = begin + ms(2_000 + times[7]);
            watch.audio(audio);
            let answer = watch.played(audio + ms(times[8])).unwrap();
            prop_assert_eq!(answer.total(), ms(2_000 + times[7] + times[8]));
            let parts = [answer.llm_first_token, answer.first_sentence, answer.tts_first_byte];
            prop_assert_eq!(parts.into_iter().flatten().sum::<Duration>(), answer.answer);
        }
    }
}
