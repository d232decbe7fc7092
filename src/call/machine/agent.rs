//! What the agent reports.

use std::time::Instant;

use super::{APOLOGY, BURST, Call, Farewell, MOST_PROTECTED, State, UNREACHABLE_WITHIN};
use crate::call::{AgentEvent, CallEvent, Edge, EndReason, Output, Role, UtteranceId};

impl Call {
    pub(super) fn agent(&mut self, event: AgentEvent, now: Instant, out: &mut Vec<Output>) {
        match event {
            AgentEvent::Audio(utterance, samples) => {
                if self.is_cut(utterance) || self.is_too_late(utterance) {
                    self.stats.late_samples += samples.len() as u64;
                } else if self.takes_speech() {
                    self.agent_spoke = true;
                    self.thinking = None;
                    if let Some(words) = self.last_words() {
                        words.begun = true;
                    }
                    self.latency.audio(now);
                    self.playout.push(utterance, samples);
                    self.bursty |= self.playout.queued_for() > BURST;
                }
            }
            AgentEvent::AudioEnd(utterance) => {
                if !self.is_cut(utterance) && self.takes_speech() {
                    self.playout.end(utterance);
                }
            }
            AgentEvent::Protected(utterance) => {
                if self.protected.len() < MOST_PROTECTED {
                    self.protected.push(utterance);
                }
            }
            AgentEvent::Timing(timing) => self.latency.timing(timing),
            AgentEvent::Transcript { role, text, is_final } if !text.trim().is_empty() => {
                if role == Role::User {
                    self.words(&text, is_final, now, out);
                }
                if is_final {
                    if role == Role::User {
                        self.latency.words(self.last_voiced(), now);
                        self.asked();
                    }
                    out.push(Output::Event(CallEvent::Transcription { role, text }, now));
                }
            }
            AgentEvent::TurnDone => {
                self.thinking = None;
                self.settled();
                self.turn_done = true;
                if let Some(words) = self.last_words().filter(|words| words.begun) {
                    words.whole = true;
                }
            }
            AgentEvent::Speech(Edge::Interrupted) => {
                if self.takes_speech() && self.heard_out_by.is_none() {
                    self.interrupt(now, out);
                }
            }
            AgentEvent::Hangup => {
                if self.state == State::Live {
                    self.state = State::Draining { reason: EndReason::AgentClosed };
                    self.release();
                }
            }
            AgentEvent::ToolCalled(called) => out.push(Output::Event(CallEvent::ToolCalled(called), now)),
            AgentEvent::Usage(usage) => out.push(Output::Event(CallEvent::Usage(usage), now)),
            AgentEvent::Replaced(replaced) => out.push(Output::Event(CallEvent::ServiceReplaced(replaced), now)),
            AgentEvent::Failed(fault) => {
                // After the hang-up, or the agent's own, the end of the stream is in order.
                if self.state == State::Live {
                    out.push(Output::Event(CallEvent::ServiceFailed(fault), now));
                }
                self.agent_failed(now, out);
            }
            AgentEvent::Transcript { .. }
            | AgentEvent::Speech(Edge::Started | Edge::Stopped)
            | AgentEvent::Degraded(_)
            | AgentEvent::Restored => {}
        }
    }

    fn is_cut(&self, utterance: UtteranceId) -> bool {
        self.cut_up_to.is_some_and(|cut| utterance <= cut) && !self.protected.contains(&utterance)
    }

    fn takes_speech(&self) -> bool {
        !self.agent_gone && (matches!(self.state, State::Live | State::Draining { .. }) || self.is_away())
    }

    /// What the agent was told to say, and whose end somebody waits for.
    const fn last_words(&mut self) -> Option<&mut Farewell> {
        match &mut self.state {
            State::Announcing { words, .. } => Some(words),
            _ => self.farewell.as_mut(),
        }
    }

    fn agent_failed(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.agent_gone = true;
        match self.state {
            State::Finishing { reason, at, .. } => self.conclude(reason, at, out),
            State::Live if !self.agent_spoke && now.duration_since(self.started) < UNREACHABLE_WITHIN => {
                self.finish(EndReason::AgentFailed, now, out);
            }
            State::Live => {
                self.playout.push(APOLOGY, self.apology.to_vec());
                self.playout.end(APOLOGY);
                self.state = State::Draining { reason: EndReason::AgentFailed };
                self.release();
            }
            State::Draining { .. } => {
                // No more will come: a partial last frame may be played now.
                if let Some(latest) = self.playout.latest() {
                    self.playout.end(latest);
                }
            }
            State::HandingOver { .. } | State::Announcing { .. } | State::Over => {}
        }
    }
}
