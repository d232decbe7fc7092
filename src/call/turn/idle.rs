//! What becomes of a caller who says nothing: asked again, asked again, then let go.

use std::time::{Duration, Instant};

use crate::call::config;

/// Noise on the line may put the next step off, but not for longer than so many times the usual wait.
const NOISE: u32 = 3;

/// What a silence asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Say the prompt of this number.
    Prompt(usize),
    /// Say goodbye and end the call.
    Leave,
}

/// Follows the silence of a call.
#[derive(Debug, Default)]
pub struct Idle {
    /// Since when nobody has said anything.
    since: Option<Instant>,
    /// Since when there has been nothing but the caller's voice without words.
    noise: Option<Instant>,
    /// How many prompts have been said.
    said: usize,
}

impl Idle {
    /// The caller has said or pressed something: the ladder begins anew.
    pub const fn answered(&mut self) {
        *self = Self { since: None, noise: None, said: 0 };
    }

    /// Looks at the call. `busy`: somebody speaks, thinks or presses keys; `noise`: there is a voice, and no words so far.
    pub fn look(&mut self, config: &config::Idle, busy: bool, noise: bool, now: Instant) -> Option<Step> {
        if !config.is_on() {
            return None;
        }
        let after = Duration::from_millis(config.after_ms);
        if busy {
            (self.since, self.noise) = (None, None);
            return None;
        }
        let quiet_since = *self.noise.get_or_insert(now);
        if noise && now < quiet_since + after * NOISE {
            self.since = None;
            return None;
        }
        if now < *self.since.get_or_insert(now) + after {
            return None;
        }
        (self.since, self.noise) = (None, None);
        if self.said < config.prompts.len() {
            self.said += 1;
            return Some(Step::Prompt(self.said - 1));
        }
        Some(Step::Leave)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> config::Idle {
        let prompts = ["Still there?".to_owned(), "Hello?".to_owned()].into();
        config::Idle { prompts, after_ms: 1_000, goodbye: None }
    }

    /// The steps of 10 s, looked at every 20 ms; `state` says busy and noise by time in ms.
    fn steps(config: &config::Idle, state: impl Fn(u64) -> (bool, bool)) -> Vec<(u64, Step)> {
        let (begin, mut idle) = (Instant::now(), Idle::default());
        let times = (0..10_000_u64).step_by(20);
        times
            .filter_map(|ms| {
                let (busy, noise) = state(ms);
                idle.look(config, busy, noise, begin + Duration::from_millis(ms)).map(|step| (ms, step))
            })
            .take(3)
            .collect()
    }

    #[test]
    fn the_ladder_is_climbed_in_silence_counted_from_the_end_of_speech() {
        // the agent speaks until 500 ms, and for 400 ms behind each prompt
        let busy = |ms| (ms < 500 || (1_520..1_900).contains(&ms) || (2_920..3_300).contains(&ms), false);
        assert_eq!(steps(&config(), busy), [(1_500, Step::Prompt(0)), (2_900, Step::Prompt(1)), (4_300, Step::Leave)]);
    }

    #[test]
    fn without_prompts_and_goodbye_it_is_off() {
        assert_eq!(steps(&config::Idle::default(), |_| (false, false)), []);
    }

    #[test]
    fn noise_puts_it_off_but_not_for_ever() {
        assert_eq!(steps(&config(), |ms| (false, ms < 1_500))[0], (2_500, Step::Prompt(0)));
        assert_eq!(steps(&config(), |_| (false, true))[0], (4_000, Step::Prompt(0)));
    }

    #[test]
    fn an_answer_begins_anew() {
        let (config, begin, mut idle) = (config(), Instant::now(), Idle::default());
        let at = |idle: &mut Idle, ms| idle.look(&config, false, false, begin + Duration::from_millis(ms));
        assert_eq!(at(&mut idle, 0), None);
        assert_eq!(at(&mut idle, 1_000), Some(Step::Prompt(0)));
        idle.answered();
        assert_eq!(at(&mut idle, 1_500), None);
        assert_eq!(at(&mut idle, 2_500), Some(Step::Prompt(0)));
    }
}
