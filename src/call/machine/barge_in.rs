//! Who may speak now: hold, cut and resume.

use std::time::{Duration, Instant};

use super::Call;
use crate::call::{AgentInput, CallEvent, LegCommand, Output, turn::Turn};

impl Call {
    pub(super) fn voice(&mut self, probability: f32, now: Instant, out: &mut Vec<Output>) {
        if !self.wants_voice() {
            return;
        }
        match self.voice.heard(probability) {
            Some(Turn::Onset) if self.mode.barge_in && self.is_agent_speaking() => {
                self.playout.hold();
                self.held_since = Some(now);
            }
            Some(Turn::Confirmed) => {
                if self.mode.barge_in && (self.is_agent_speaking() || self.playout.is_held()) {
                    self.interrupt(now, out);
                }
                if self.mode.speech_edges {
                    out.push(Output::Agent(AgentInput::CallerSpeech(true)));
                }
            }
            Some(Turn::FalseAlarm) => {
                self.stats.false_alarms += 1;
                self.release();
            }
            Some(Turn::Stopped) => {
                self.release();
                let silence = Duration::from_millis(self.config.vad.redemption_ms);
                self.latency.stopped(now.checked_sub(silence).unwrap_or(now));
                if self.mode.speech_edges {
                    out.push(Output::Agent(AgentInput::CallerSpeech(false)));
                }
            }
            Some(Turn::Onset) | None => {}
        }
    }

    /// Lets a held agent go on: nothing will decide about the hold any more.
    pub(super) fn release(&mut self) {
        self.playout.resume();
        self.held_since = None;
    }

    /// Cuts what the agent says. Without anything to cut it does nothing but count: providers send it idle, or twice.
    pub(super) fn interrupt(&mut self, now: Instant, out: &mut Vec<Output>) {
        if !self.is_agent_speaking() {
            self.stats.idle_interruptions += 1;
            return;
        }
        self.stats.interruptions += 1;
        self.cut(out);
        out.push(Output::Leg(LegCommand::Flush));
        out.push(Output::Event(CallEvent::Interruption, now));
    }

    /// Throws away what waits and tells the agent what was heard.
    pub(super) fn cut(&mut self, out: &mut Vec<Output>) {
        self.cut_up_to = self.cut_up_to.max(self.playout.latest());
        let unheard = if self.pending.take().is_some() { Duration::from_millis(20) } else { Duration::ZERO };
        let delay = Duration::from_millis(self.config.network_delay_ms) + unheard;
        let current = self.playout.cut();
        self.latency.cut();
        self.running = false;
        self.owed = false;
        self.held_since = None;
        let utterance = current.map(|(utterance, _)| utterance);
        let heard = current.map_or(Duration::ZERO, |(_, played)| played.saturating_sub(delay));
        out.push(Output::Agent(AgentInput::Interrupt { utterance, heard }));
    }
}
