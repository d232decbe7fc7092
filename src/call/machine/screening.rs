//! Who has answered a call that we made, and what is done with a machine.

use std::time::{Duration, Instant};

use super::{Call, State};
use crate::call::{CallEvent, EndReason, OnMachine, Output, turn::AnsweredBy};

impl Call {
    /// After each result of the VAD.
    pub(super) fn screened(&mut self, now: Instant, out: &mut Vec<Output>) {
        let is_voiced = self.voice.is_voiced();
        if let Some(who) = self.screening.as_mut().and_then(|screening| screening.voice(is_voiced)) {
            self.answered_by(who, now, out);
        }
    }

    pub(super) fn beeped(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.state == State::Live
            && let Some(who) = self.screening.as_mut().map(|screening| screening.beep())
        {
            self.answered_by(who, now, out);
        }
    }

    /// Somebody else has found it out.
    pub(super) fn told_who(&mut self, who: AnsweredBy, now: Instant, out: &mut Vec<Output>) {
        match &mut self.screening {
            Some(screening) if self.state == State::Live => {
                screening.told(who);
                self.answered_by(who, now, out);
            }
            None if self.state == State::Live => {
                out.push(Output::Event(CallEvent::AnsweredBy(who, Duration::ZERO), now));
            }
            _ => {}
        }
    }

    fn answered_by(&mut self, who: AnsweredBy, now: Instant, out: &mut Vec<Output>) {
        let Some(screening) = self.screening.take() else { return };
        out.push(Output::Event(CallEvent::AnsweredBy(who, screening.heard()), now));
        if matches!(who, AnsweredBy::Human | AnsweredBy::Unknown) {
            return;
        }
        match screening.on_machine() {
            OnMachine::Hangup => self.finish(EndReason::AnsweringMachine, now, out),
            OnMachine::Message(text) if self.obeys() => {
                // what the agent would have said to a person is for nobody, and it does not talk with a machine
                self.muted = true;
                if self.is_agent_speaking() {
                    self.cut(now, out);
                }
                match who {
                    AnsweredBy::Beep => {
                        self.voice.reset();
                        self.release();
                        self.leave(text.clone(), EndReason::AnsweringMachine, now, out);
                    }
                    _ => self.screening = Some(screening),
                }
            }
            OnMachine::Message(_) | OnMachine::Speak => {}
        }
    }
}
