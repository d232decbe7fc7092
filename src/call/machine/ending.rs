//! Limits of time, and the end of a call.

use std::time::{Duration, Instant};

use super::{Call, FAREWELL, FINAL_WORDS, Farewell, State, THINKING};
use crate::call::{AgentInput, CallEvent, EndReason, LegCommand, Output, Say, turn::Step};

impl Call {
    pub(super) fn timers(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.unanswered(now, out);
        match self.state {
            State::Finishing { reason, at, until } if now >= until => self.conclude(reason, at, out),
            State::Live => {
                self.resume_if_due(now);
                if let Some(digits) = self.collector.as_mut().and_then(|collector| collector.look(now)) {
                    self.collected(digits, now, out);
                }
                self.length(now, out);
                self.silence(now, out);
            }
            State::Draining { .. } | State::HandingOver { .. } | State::Announcing { .. }
                if self.max_duration().is_some_and(|limit| now >= limit) =>
            {
                self.finish(EndReason::MaxDuration, now, out);
            }
            State::Draining { reason } if self.heard_out_by.is_some_and(|until| now >= until) => {
                self.finish(reason, now, out);
            }
            State::HandingOver { reason, until, told: false } if self.is_heard_out() || now >= until => {
                if self.is_agent_speaking() {
                    self.cut(now, out);
                }
                self.state = State::HandingOver { reason, until, told: true };
                out.push(Output::HeardOut);
            }
            State::Announcing { reason, words, told: false }
                if now >= words.until || self.agent_gone || (words.whole && !self.is_agent_speaking()) =>
            {
                if self.is_agent_speaking() {
                    self.cut(now, out);
                }
                self.state = State::Announcing { reason, words, told: true };
                out.push(Output::HeardOut);
            }
            State::HandingOver { .. }
            | State::Announcing { .. }
            | State::Draining { .. }
            | State::Finishing { .. }
            | State::Over => {}
        }
    }

    /// The longest time of a call, and its last words.
    fn length(&mut self, now: Instant, out: &mut Vec<Output>) {
        if let Some(farewell) = self.farewell
            && (now >= farewell.until || (farewell.whole && !self.is_agent_speaking()))
        {
            self.finish(farewell.reason, now, out);
            return;
        }
        let Some(limit) = self.max_duration() else { return };
        let leaves = self.farewell.is_some_and(|farewell| farewell.reason == EndReason::MaxDuration);
        if now >= limit && !leaves {
            match self.config().goodbye.clone().filter(|_| self.obeys()) {
                Some(text) => {
                    if self.is_agent_speaking() {
                        self.cut(now, out);
                    }
                    self.leave(text, EndReason::MaxDuration, now, out);
                }
                None => self.finish(EndReason::MaxDuration, now, out),
            }
        } else if !self.has_warned && now + Duration::from_secs(self.config().warn_before_s) >= limit && self.obeys() {
            self.has_warned = true;
            if let Some(text) = self.config().warning.clone() {
                out.push(Output::Agent(AgentInput::Say(Say { text, protect: false })));
            }
        }
    }

    /// A caller who says nothing.
    fn silence(&mut self, now: Instant, out: &mut Vec<Output>) {
        if !self.config().idle.is_on() || !self.obeys() || self.farewell.is_some() {
            return;
        }
        if self.thinking.is_some_and(|since| now >= since + THINKING) {
            self.thinking = None;
        }
        let collects = self.collector.as_ref().is_some_and(crate::call::dtmf::Collector::is_collecting);
        let busy =
            collects || self.screening.is_some() || self.thinking.is_some() || self.is_agent_speaking() || self.muted;
        let rules = std::sync::Arc::clone(&self.rules);
        match self.idle.look(&rules.config.idle, busy, self.voice.is_active(), now) {
            Some(Step::Prompt(number)) => {
                let text = rules.config.idle.prompts.get(number).cloned().unwrap_or_default();
                self.thinking = Some(now);
                out.push(Output::Agent(AgentInput::Say(Say { text, protect: false })));
            }
            Some(Step::Leave) => match rules.config.idle.goodbye.clone() {
                Some(text) => self.leave(text, EndReason::CallerIdle, now, out),
                None => self.finish(EndReason::CallerIdle, now, out),
            },
            None => {}
        }
    }

    /// Whether the agent can be asked to say something.
    pub(super) fn obeys(&self) -> bool {
        self.mode.obeys && !self.agent_gone
    }

    /// Has the agent say goodbye; the call ends behind it.
    pub(super) fn leave(&mut self, text: String, reason: EndReason, now: Instant, out: &mut Vec<Output>) {
        let protect = matches!(reason, EndReason::MaxDuration | EndReason::AnsweringMachine);
        self.farewell = Some(Farewell { reason, until: now + FAREWELL, begun: false, whole: false });
        out.push(Output::Agent(AgentInput::Say(Say { text, protect })));
    }

    /// The caller is there after all: the call does not end for their silence.
    pub(super) fn stay(&mut self) {
        self.farewell.take_if(|farewell| farewell.reason == EndReason::CallerIdle);
    }
}

impl Call {
    /// Ends the call for the caller; final transcripts may still come.
    pub(super) fn finish(&mut self, reason: EndReason, now: Instant, out: &mut Vec<Output>) {
        if matches!(self.state, State::Finishing { .. } | State::Over) {
            return;
        }
        self.protected.clear();
        if self.is_agent_speaking() {
            self.cut(now, out);
        }
        self.end_turn(false, now, out);
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
