//! Giving the caller to somebody else, and keys that are sent: the agent is heard out first.

use std::time::Instant;

use super::{Call, DIALLED, FAREWELL, Farewell, LAST_SENTENCE, PAUSE_SLOTS, State};
use crate::{
    audio::tone,
    call::{
        AgentInput, Digit, EndReason, OnMachine, Output, Say, UtteranceId,
        turn::{AnsweredBy, Screening},
    },
};

impl Call {
    /// From now on nothing new of the agent is heard, but what it is saying is; until when at the latest.
    pub(super) fn hear_out(&mut self, now: Instant) -> Instant {
        self.release();
        self.farewell = None;
        // nothing has been said that could be heard out: then nothing will be
        self.last_of_all = Some(self.playout.latest().unwrap_or(UtteranceId(0)));
        let until = now + LAST_SENTENCE;
        self.heard_out_by = Some(until);
        until
    }

    /// Whether what the agent was saying has been heard. A pause within it is no end.
    pub(super) fn is_heard_out(&self) -> bool {
        self.heard_out_by.is_none()
            || (!self.is_agent_speaking() && (self.gap >= PAUSE_SLOTS || self.hearing.is_none() || self.agent_gone))
    }

    /// Whether it comes behind what is heard out.
    pub(super) fn is_too_late(&self, utterance: UtteranceId) -> bool {
        self.last_of_all.is_some_and(|last| utterance > last)
    }

    pub(super) fn take_back(&mut self, say: Option<Say>, now: Instant, out: &mut Vec<Output>) {
        if !self.is_away() {
            return;
        }
        if matches!(self.state, State::Announcing { .. }) && self.is_agent_speaking() {
            // it was not meant for the caller
            self.cut(now, out);
        }
        (self.last_of_all, self.heard_out_by, self.answer) = (None, None, None);
        self.voice.reset();
        self.state = State::Live;
        self.idle.answered();
        if self.agent_gone {
            self.finish(EndReason::AgentFailed, now, out);
        } else if let Some(say) = say {
            out.push(Output::Agent(AgentInput::Say(say)));
        }
    }

    /// Speaks to whoever is at the leg in the caller's place.
    pub(super) fn announce(&mut self, say: Say, now: Instant, out: &mut Vec<Output>) {
        let State::HandingOver { reason, told: true, .. } = self.state else { return };
        (self.last_of_all, self.heard_out_by) = (None, None);
        let speaks = self.mode.obeys && !self.agent_gone;
        let words = Farewell { reason, until: now + FAREWELL, begun: !speaks, whole: !speaks };
        self.state = State::Announcing { reason, words, told: false };
        if speaks {
            out.push(Output::Agent(AgentInput::Say(say)));
        }
    }

    /// From now on whoever is at the leg in the caller's place is listened to.
    pub(super) fn listen(&mut self) {
        if matches!(self.state, State::HandingOver { told: true, .. } | State::Announcing { told: true, .. }) {
            self.voice.reset();
            self.answer = Some(Box::new(Screening::new(OnMachine::Speak)));
        }
    }

    /// After each result of the VAD meanwhile.
    pub(super) fn answers(&mut self, out: &mut Vec<Output>) {
        let is_voiced = self.voice.is_voiced();
        match self.answer.as_mut().and_then(|answer| answer.voice(is_voiced)) {
            None => {}
            Some(AnsweredBy::Human) => {
                self.answer = None;
                out.push(Output::HeardOut);
            }
            // whoever asked knows how long it is worth waiting
            Some(AnsweredBy::Unknown) => self.answer = Some(Box::new(Screening::new(OnMachine::Speak))),
            Some(AnsweredBy::Machine | AnsweredBy::Beep) => self.answer = None,
        }
    }

    /// Whether the caller is with somebody else, or about to be.
    pub(super) const fn is_away(&self) -> bool {
        matches!(self.state, State::HandingOver { .. } | State::Announcing { .. })
    }

    /// Keys as tones, behind what waits to be heard.
    pub(super) fn dial(&mut self, digits: &[Digit]) {
        if self.state != State::Live {
            return;
        }
        let keys: String = digits.iter().map(Digit::to_string).collect();
        if let Some(samples) = tone::dial(self.rate, &keys) {
            self.protected.push(DIALLED);
            self.playout.push(DIALLED, samples);
            self.playout.end(DIALLED);
        }
    }
}
