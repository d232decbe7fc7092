//! What Asterisk reports: audio, digits, refusals, the hang-up.

use std::time::Instant;

use super::{Call, STALL_LIMIT, State};
use crate::{
    audio::Frame,
    call::{AgentInput, CallEvent, Cause, Digit, EndReason, LegEvent, Output},
};

impl Call {
    pub(super) fn leg(&mut self, event: LegEvent, now: Instant, out: &mut Vec<Output>) {
        match event {
            LegEvent::Audio(frame) => {
                self.grid.arrived(now);
                if self.hears() {
                    let deaf = self.mode.deaf_while_speaking && self.is_agent_speaking();
                    out.push(Output::Agent(AgentInput::Audio(if deaf { Frame::silence(self.rate) } else { frame })));
                }
            }
            LegEvent::Dtmf(digit) => self.digit(digit, now, out),
            LegEvent::Refused(frame) => self.refused(frame, now, out),
            LegEvent::Hangup(cause) => {
                self.leg_gone = true;
                let reason = match (self.state, cause) {
                    (State::Draining { reason }, _) => reason,
                    (_, Cause::Normal) => EndReason::CallerHangup,
                    (_, Cause::Idle) => EndReason::LegIdle,
                    (_, Cause::Lost) => EndReason::LegLost,
                };
                self.finish(reason, now, out);
            }
        }
    }

    pub(super) fn hears(&self) -> bool {
        !self.agent_gone && matches!(self.state, State::Live | State::Draining { .. })
    }

    pub(super) fn digit(&mut self, digit: Digit, now: Instant, out: &mut Vec<Output>) {
        if !matches!(self.state, State::Live | State::Draining { .. }) {
            return;
        }
        out.push(Output::Event(CallEvent::Dtmf((!self.config.dtmf_mask).then_some(digit)), now));
        if self.state == State::Live {
            if self.mode.digits_interrupt && self.is_agent_speaking() {
                self.interrupt(now, out);
            }
            out.push(Output::Agent(AgentInput::Dtmf(digit)));
        }
    }

    pub(super) fn refused(&mut self, frame: Frame, now: Instant, out: &mut Vec<Output>) {
        self.stats.stalls += 1;
        self.stats.frames_played = self.stats.frames_played.saturating_sub(1);
        if self.words_out {
            self.pending = Some(frame);
        }
        let since = *self.stalled_since.get_or_insert(now);
        if now.duration_since(since) >= STALL_LIMIT {
            self.finish(EndReason::LegStalled, now, out);
        }
    }
}
