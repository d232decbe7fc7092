//! Whose turn it is: pure policies that the state machine, and agents that bring services together, ask.

mod idle;
mod screen;
mod voice;
mod words;

pub use idle::{Idle, Step};
pub use screen::{AnsweredBy, OnMachine, Screening};
pub use voice::{Turn, VOICE_MS, Voice};
pub use words::{Ending, Lexicon, Weight, languages};

use std::time::Duration;

use super::config::Config;

/// Settings of the conversation with what is made of them once, for all calls.
#[derive(Debug, Default)]
pub struct Rules {
    /// The settings.
    pub config: Config,
    /// The languages spoken.
    pub lexicon: Lexicon,
}

impl Rules {
    /// The rules that `config` asks for.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let lexicon = Lexicon::new(&config.languages, &config.barge_in.backchannels);
        Self { config, lexicon }
    }

    /// How much silence ends the caller's turn, of which `text` has been recognised so far.
    #[must_use]
    pub fn silence_after(&self, text: &str, digits: usize) -> Duration {
        let usual = self.config.vad.redemption_ms;
        Duration::from_millis(match self.lexicon.ending(text, digits) {
            Ending::Complete => self.config.endpoint.complete_ms.min(usual),
            Ending::Unknown => usual,
            Ending::Open => self.config.endpoint.open_ms.max(usual),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_that_ends_a_turn_depends_on_what_was_said() {
        let rules = Rules::new(Config::default());
        let ms = |text| rules.silence_after(text, 0).as_millis();
        assert_eq!((ms("yes"), ms("I want"), ms("I want to")), (256, 512, 1_500));
        let patient =
            Config { vad: crate::call::Vad { redemption_ms: 2_000, ..Default::default() }, ..Config::default() };
        let rules = Rules::new(patient);
        let ms = |text| rules.silence_after(text, 0).as_millis();
        assert_eq!(
            (ms("yes"), ms("I want"), ms("I want to")),
            (256, 2_000, 2_000),
            "never shorter than where nothing is known"
        );
    }
}
