//! Limits of time, and the end of a call.

use std::time::Instant;

use super::{Call, FINAL_WORDS, HOLD_LIMIT, State};
use crate::call::{AgentInput, CallEvent, EndReason, LegCommand, Output};

impl Call {
    pub(super) fn timers(&mut self, now: Instant, out: &mut Vec<Output>) {
        match self.state {
            State::Finishing { reason, at, until } if now >= until => self.conclude(reason, at, out),
            State::Live | State::Draining { .. } => {
                if self.max_duration().is_some_and(|limit| now >= limit) {
                    self.finish(EndReason::MaxDuration, now, out);
                } else if self.held_since.is_some_and(|since| now >= since + HOLD_LIMIT) {
                    self.voice.reset();
                    self.release();
                }
            }
            State::Finishing { .. } | State::Over => {}
        }
    }

    /// Ends the call for the caller; final transcripts may still come.
    pub(super) fn finish(&mut self, reason: EndReason, now: Instant, out: &mut Vec<Output>) {
        if !matches!(self.state, State::Live | State::Draining { .. }) {
            return;
        }
        if self.is_agent_speaking() {
            self.cut(out);
        }
        self.state = State::Finishing { reason, at: now, until: now + FINAL_WORDS };
        if !self.leg_gone {
            out.push(Output::Leg(LegCommand::Hangup));
        }
        if self.agent_gone {
            self.conclude(reason, now, out);
        } else {
            out.push(Output::Agent(AgentInput::Finish));
        }
    }

    pub(super) fn conclude(&mut self, reason: EndReason, at: Instant, out: &mut Vec<Output>) {
        self.state = State::Over;
        out.push(Output::Event(CallEvent::Ended(reason), at));
        out.push(Output::End(reason));
    }
}
