//! What the caller does, 20 ms at a time.

use std::{collections::VecDeque, time::Duration};

use super::{Moment, ear::Ear};
use crate::{
    audio::{Frame, Rate},
    call::Digit,
};

/// During a digit (120 ms) a telephone sends no audio, and Asterisk puts nothing in its place.
const DIGIT_SLOTS: usize = 7;
/// Silence after a digit.
const AFTER_DIGIT: usize = 5;

/// One thing that a caller does.
#[derive(Debug, Clone)]
pub enum Step {
    /// Says this, at the rate of the codec.
    Say(Vec<i16>),
    /// Presses a key.
    Press(Digit),
    /// Is silent.
    Pause(Duration),
    /// Waits until the agent is heard, but not longer than this.
    AwaitSpeech(Duration),
    /// Waits until the agent has not been heard for the first time, but not longer than the second.
    AwaitQuiet(Duration, Duration),
    /// Hangs up.
    HangUp,
}

/// What goes out in one 20 ms slot.
#[derive(Debug, PartialEq, Eq)]
pub enum Slot {
    Audio(Frame),
    /// Nothing at all.
    Hole,
    /// A key was released.
    Press(Digit),
    HangUp,
}

#[derive(Debug)]
pub struct Caller {
    rate: Rate,
    steps: VecDeque<Step>,
    /// Slots of the present step that have gone out.
    slot: usize,
    /// When the present step began, once it has.
    since: Option<Duration>,
}

impl Caller {
    pub fn new(rate: Rate, script: Vec<Step>) -> Self {
        Self { rate, steps: script.into(), slot: 0, since: None }
    }

    /// What goes out at `at`.
    pub fn next(&mut self, at: Duration, ear: &Ear, moments: &mut VecDeque<Moment>) -> Slot {
        while let Some(step) = self.steps.front() {
            let waited = at.saturating_sub(*self.since.get_or_insert(at));
            let slot = match step {
                Step::Say(samples) => say(samples, self.slot, self.rate, moments),
                Step::Press(digit) => press(*digit, self.slot, self.rate, moments),
                Step::Pause(length) => (waited < *length).then(|| Slot::Audio(Frame::silence(self.rate))),
                Step::AwaitSpeech(limit) => wait(ear.is_heard(), waited, *limit, self.rate, moments),
                Step::AwaitQuiet(quiet, limit) => {
                    let is_quiet = ear.quiet_for(at).min(waited) >= *quiet;
                    wait(is_quiet, waited, *limit, self.rate, moments)
                }
                Step::HangUp => Some(Slot::HangUp),
            };
            if let Some(slot) = slot {
                self.slot += 1;
                return slot;
            }
            self.steps.pop_front();
            self.slot = 0;
            self.since = None;
        }
        Slot::Audio(Frame::silence(self.rate))
    }
}

fn say(samples: &[i16], slot: usize, rate: Rate, moments: &mut VecDeque<Moment>) -> Option<Slot> {
    if slot == 0 {
        moments.push_back(Moment::Said(true));
    }
    let rest = samples.get(slot * rate.frame_samples()..).filter(|rest| !rest.is_empty());
    if rest.is_none() {
        moments.push_back(Moment::Said(false));
    }
    rest.map(|rest| Slot::Audio(Frame::padded(rate, rest)))
}

fn press(digit: Digit, slot: usize, rate: Rate, moments: &mut VecDeque<Moment>) -> Option<Slot> {
    if slot < DIGIT_SLOTS {
        return Some(Slot::Hole);
    }
    if slot == DIGIT_SLOTS {
        moments.push_back(Moment::Pressed(digit));
        return Some(Slot::Press(digit));
    }
    (slot <= DIGIT_SLOTS + AFTER_DIGIT).then(|| Slot::Audio(Frame::silence(rate)))
}

fn wait(is_over: bool, waited: Duration, limit: Duration, rate: Rate, moments: &mut VecDeque<Moment>) -> Option<Slot> {
    if is_over {
        return None;
    }
    if waited >= limit {
        moments.push_back(Moment::WaitedInVain);
        return None;
    }
    Some(Slot::Audio(Frame::silence(rate)))
}
