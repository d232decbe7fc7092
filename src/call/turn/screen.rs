//! Who has answered a call that we made: a person, or a machine.
//!
//! A person says one thing and waits; a machine goes on talking, says what machines say, and beeps. It is as good a guess as can be made within
//! seconds: Asterisk's AMD goes by the same times.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::VOICE_MS;

/// A greeting that is longer, without a pause, is a machine's, in ms.
const LONGEST_GREETING: u64 = 2_400;
/// A pause after a greeting: somebody waits for an answer, in ms.
const WAITS: u64 = 704;
/// Speech that counts, in ms: less is a click.
const SPEECH: u64 = 96;
/// Nobody says anything for so long, in ms.
const NOBODY: u64 = 3_000;
/// It is decided after this, in ms.
const LATEST: u64 = 7_000;
/// A machine that has finished without a beep, in ms.
const NO_BEEP: u64 = 2_496;
/// The longest announcement of a machine, in ms.
const ANNOUNCEMENT: u64 = 60_000;
/// What machines say, in lower case.
const SAYINGS: [&str; 28] = [
    "leave a message",
    "leave your message",
    "leave your name",
    "after the tone",
    "after the beep",
    "at the tone",
    "voicemail",
    "voice mail",
    "mailbox",
    "answering machine",
    "is not available",
    "is unavailable",
    "take your call",
    "please record",
    "nachricht",
    "nach dem ton",
    "nach dem signalton",
    "anrufbeantworter",
    "nicht erreichbar",
    "messagerie",
    "laissez un message",
    "après le bip",
    "buzón",
    "deje su mensaje",
    "después del tono",
    "segreteria",
    "lasciate un messaggio",
    "dopo il segnale",
];

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnsweredBy {
    /// A person.
    Human,
    /// A machine.
    Machine,
    /// A machine, and it records now.
    Beep,
    /// Nobody said anything, or nobody can tell.
    Unknown,
}

impl AnsweredBy {
    /// As the webhook body writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Machine => "machine",
            Self::Beep => "beep",
            Self::Unknown => "unknown",
        }
    }
}

/// What is done with a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMachine {
    /// The agent speaks to it as to anybody.
    Speak,
    /// The call is ended.
    Hangup,
    /// This is said behind the beep, then the call is ended.
    Message(String),
}

/// Listens to who has answered.
#[derive(Debug)]
pub struct Screening {
    on_machine: OnMachine,
    /// Since it was answered, and since it was found to be a machine, in ms.
    heard_ms: u64,
    machine_ms: Option<u64>,
    speech_ms: u64,
    silence_ms: u64,
    words: bool,
}

impl Screening {
    /// Of a call that has just been answered.
    #[must_use]
    pub const fn new(on_machine: OnMachine) -> Self {
        Self { on_machine, heard_ms: 0, machine_ms: None, speech_ms: 0, silence_ms: 0, words: false }
    }

    /// What is done with a machine.
    #[must_use]
    pub const fn on_machine(&self) -> &OnMachine {
        &self.on_machine
    }

    /// How long it took.
    #[must_use]
    pub const fn heard(&self) -> Duration {
        Duration::from_millis(self.heard_ms)
    }

    /// Takes whether the next 32 ms were speech; who it is, once that is known. After [`AnsweredBy::Machine`] the next is when it records, whether
    /// it beeped or fell silent.
    pub fn voice(&mut self, is_speech: bool) -> Option<AnsweredBy> {
        self.heard_ms += VOICE_MS;
        if is_speech {
            self.speech_ms += VOICE_MS;
            self.silence_ms = 0;
        } else {
            self.silence_ms += VOICE_MS;
        }
        if let Some(machine_ms) = &mut self.machine_ms {
            *machine_ms += VOICE_MS;
            return (self.silence_ms >= NO_BEEP || *machine_ms >= ANNOUNCEMENT).then_some(AnsweredBy::Beep);
        }
        if self.words || self.speech_ms >= LONGEST_GREETING {
            return Some(self.machine());
        }
        if self.speech_ms >= SPEECH {
            return (self.silence_ms >= WAITS).then_some(AnsweredBy::Human);
        }
        let is_late = self.silence_ms >= NOBODY || self.heard_ms >= LATEST;
        is_late.then_some(AnsweredBy::Unknown)
    }

    /// Takes words of whoever answered. They count with the next of their voice.
    pub fn words(&mut self, text: &str) {
        let text = text.to_lowercase();
        self.words |= SAYINGS.iter().any(|saying| text.contains(saying));
    }

    /// Somebody else has found out who it is: of a machine the beep is still waited for.
    pub const fn told(&mut self, who: AnsweredBy) {
        if matches!(who, AnsweredBy::Machine) {
            self.machine_ms = Some(0);
        }
    }

    /// There was a beep.
    pub fn beep(&mut self) -> AnsweredBy {
        self.machine_ms = Some(0);
        AnsweredBy::Beep
    }

    const fn machine(&mut self) -> AnsweredBy {
        self.machine_ms = Some(0);
        AnsweredBy::Machine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Speech and silence in turn, in ms; who it is, and when.
    fn screened(parts: &[u64]) -> Vec<(AnsweredBy, u64)> {
        let mut screening = Screening::new(OnMachine::Hangup);
        let (mut told, mut ms) = (Vec::new(), 0);
        for (n, part) in parts.iter().enumerate() {
            for _ in 0..part / VOICE_MS {
                ms += VOICE_MS;
                if let Some(who) = screening.voice(n % 2 == 1) {
                    told.push((who, ms));
                    if who != AnsweredBy::Machine {
                        return told;
                    }
                }
            }
        }
        told
    }

    #[test]
    fn a_person_says_one_thing_and_waits() {
        for parts in [&[500, 400, 3_000][..], &[0, 1_500, 3_000], &[200, 64, 100, 300, 300, 900, 3_000]] {
            let told = screened(parts);
            assert!(matches!(told[..], [(AnsweredBy::Human, _)]), "{parts:?}: {told:?}");
            assert!(told[0].1 < 3_000, "{told:?}");
        }
    }

    #[test]
    fn a_machine_goes_on_talking_and_then_records() {
        let told = screened(&[300, 1_800, 200, 4_000, 3_000]);
        assert_eq!(told.iter().map(|(who, _)| *who).collect::<Vec<_>>(), [AnsweredBy::Machine, AnsweredBy::Beep]);
        assert!(told[0].1 < 3_200 && (8_000..9_000).contains(&told[1].1), "{told:?}");
        // one that never ends
        let told = screened(&[0, 120_000]);
        assert!((60_000..63_000).contains(&told[1].1), "{told:?}");
    }

    #[test]
    fn what_machines_say_gives_them_away_and_so_does_the_beep() {
        let mut screening = Screening::new(OnMachine::Speak);
        assert_eq!(screening.voice(true), None);
        screening.words("Hi! This is the mailbox of");
        assert_eq!(screening.voice(false), Some(AnsweredBy::Machine));
        assert_eq!(screening.beep(), AnsweredBy::Beep);
        let mut screening = Screening::new(OnMachine::Speak);
        screening.words("Hello, who is speaking?");
        assert_eq!(screening.voice(true), None);
    }

    #[test]
    fn silence_and_clicks_are_nobody() {
        assert!(matches!(screened(&[10_000])[..], [(AnsweredBy::Unknown, 3_008)]));
        assert!(matches!(screened(&[2_000, 32, 10_000])[..], [(AnsweredBy::Unknown, _)]));
    }
}
