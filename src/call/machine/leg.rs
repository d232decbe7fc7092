//! What Asterisk reports: audio, digits, refusals, the hang-up.

use std::time::Instant;

use super::{Call, STALL_LIMIT, State};
use crate::{
    audio::Frame,
    call::{AgentInput, CallEvent, Cause, Collect, Digit, EndReason, LegEvent, Output, dtmf::Collector},
};

impl Call {
    pub(super) fn leg(&mut self, event: LegEvent, now: Instant, out: &mut Vec<Output>) {
        match event {
            LegEvent::Audio(frame) => {
                self.grid.arrived(now);
                if self.hears() {
                    let deaf =
                        self.is_away() || self.muted || (self.mode.deaf_while_speaking && self.is_agent_speaking());
                    out.push(Output::Agent(AgentInput::Audio(if deaf { Frame::silence(self.rate) } else { frame })));
                }
            }
            LegEvent::Dtmf(digit) => self.digit(digit, now, out),
            LegEvent::Marked(mark) => self.marked(mark, now, out),
            LegEvent::Flushed(fence) => self.flushed(fence),
            LegEvent::Refused(frame) => self.refused(frame, now, out),
            LegEvent::Hangup(cause) => {
                self.leg_gone = true;
                let reason = match (self.state, cause) {
                    (State::Draining { reason }, _) => reason,
                    (State::HandingOver { reason, told: true, .. } | State::Announcing { reason, .. }, _) => reason,
                    (_, Cause::Normal) => EndReason::CallerHangup,
                    (_, Cause::Idle) => EndReason::LegIdle,
                    (_, Cause::Lost) => EndReason::LegLost,
                };
                self.finish(reason, now, out);
            }
        }
    }

    fn hears(&self) -> bool {
        !self.agent_gone && (matches!(self.state, State::Live | State::Draining { .. }) || self.is_away())
    }

    fn digit(&mut self, digit: Digit, now: Instant, out: &mut Vec<Output>) {
        if !matches!(self.state, State::Live | State::Draining { .. } | State::HandingOver { .. }) {
            return;
        }
        out.push(Output::Event(CallEvent::Dtmf((!self.config().dtmf_mask).then_some(digit)), now));
        if self.state != State::Live {
            return;
        }
        self.idle.answered();
        self.stay();
        let cuts = self.collector.as_ref().map_or(self.mode.digits_interrupt, |collector| collector.how().interrupt);
        let guarded = self.config().protect_from_digits && self.is_protected();
        if cuts && !guarded && self.is_agent_speaking() {
            self.interrupt_or_take_back(now, out);
        }
        match &mut self.collector {
            Some(collector) => {
                if let Some(digits) = collector.press(digit, now) {
                    self.collected(digits, now, out);
                }
            }
            None => {
                self.thinking = Some(now);
                self.latency.asked(now);
                out.push(Output::Agent(AgentInput::Dtmf(digit)));
            }
        }
    }

    /// The digits are complete.
    pub(super) fn collected(&mut self, digits: Vec<Digit>, now: Instant, out: &mut Vec<Output>) {
        if self.collector.as_ref().is_some_and(|collector| collector.how().once) {
            self.collector = Collect::of(&self.config().dtmf).map(Collector::new);
        }
        self.thinking = Some(now);
        self.latency.asked(now);
        out.push(Output::Agent(AgentInput::Digits(digits)));
    }

    /// How many digits the caller is expected to say; 0 = unknown.
    pub(super) fn expected_digits(&self) -> usize {
        let collected = self.collector.as_ref().map(Collector::how).filter(|how| how.min == how.max);
        collected.map_or(self.config().endpoint.digits, |how| how.max)
    }

    fn refused(&mut self, frame: Frame, now: Instant, out: &mut Vec<Output>) {
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
