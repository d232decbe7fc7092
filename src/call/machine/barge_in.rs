//! Who may speak now: hold, cut and resume.
//!
//! The caller's voice only ever holds the agent; what cuts it is a voice that has lasted or, where speech recognition tells them in time,
//! words. Without them the agent goes on from where it stopped.

use std::time::{Duration, Instant};

use super::{Call, HOLD_LIMIT, NO_FRAMES, State};
use crate::call::{AgentInput, CallEvent, LegCommand, Output, Policy, turn::Turn, turn::Weight};

/// A voice that was heard so long ago is still there.
const STILL: Duration = Duration::from_millis(160);
/// Words that come so long after the voice are its words.
const LATE_WORDS: Duration = Duration::from_secs(4);

impl Call {
    pub(super) fn voice(&mut self, probability: f32, now: Instant, out: &mut Vec<Output>) {
        if !self.wants_voice() {
            return;
        }
        let end_after = u64::try_from(self.end_after.as_millis()).unwrap_or(u64::MAX);
        let turn = self.voice.heard(probability, end_after);
        self.voice_at = now;
        if self.voice.is_voiced() {
            self.voiced_at = now;
        }
        if self.answer.is_some() {
            return self.answers(out);
        }
        self.screened(now, out);
        match turn {
            Some(Turn::Onset) => {
                self.has_words = false;
                self.dismissed = false;
                self.hold_for_voice(now, out);
            }
            Some(Turn::Confirmed) => {
                self.dismissed = false;
                self.hold_for_voice(now, out);
                if !self.mode.transcribes {
                    // nobody will tell of words
                    self.idle.answered();
                    self.stay();
                }
                let cuts =
                    self.screening.is_none() && self.mode.barge_in && !self.words_decide() && self.hearing.is_some();
                if cuts && self.is_agent_speaking() && !self.is_protected() {
                    self.interrupt(now, out);
                }
                self.edge(AgentInput::CallerSpeech(true), out);
            }
            Some(Turn::Paused) => self.edge(AgentInput::CallerPauses, out),
            Some(Turn::FalseAlarm) => {
                self.stats.false_alarms += 1;
                self.release();
                if self.has_words {
                    // it was a short word
                    self.edge(AgentInput::CallerSpeech(false), out);
                }
            }
            Some(Turn::Stopped) => {
                self.latency.stopped(self.voiced_at, now);
                self.edge(AgentInput::CallerSpeech(false), out);
            }
            None => {}
        }
    }

    fn edge(&self, input: AgentInput, out: &mut Vec<Output>) {
        if self.mode.speech_edges {
            out.push(Output::Agent(input));
        }
    }

    /// The caller's words: all of their turn so far.
    pub(super) fn words(&mut self, text: &str, is_final: bool, now: Instant, out: &mut Vec<Output>) {
        self.has_words = true;
        if let Some(screening) = &mut self.screening {
            screening.words(text);
        }
        self.idle.answered();
        self.stay();
        let usual = Duration::from_millis(self.config().vad.redemption_ms);
        if is_final {
            (self.end_after, self.thinking) = (usual, Some(now));
        } else {
            self.partials |= self.mode.speech_edges;
            self.end_after = self.rules.silence_after(text, self.expected_digits());
        }
        let held = self.playout.is_held();
        if !self.mode.barge_in
            || self.mode.agent_cuts
            || self.screening.is_some()
            || self.state != State::Live
            || !(held || self.is_heard_by(now))
        {
            return;
        }
        match self.rules.lexicon.weigh(text, is_final) {
            Weight::Words(count) if count >= self.config().barge_in.min_words && self.words_cut() => {
                self.interrupt_or_take_back(now, out);
            }
            Weight::Listening if held && (is_final || !self.voice.is_active()) => self.dismiss(),
            _ => {}
        }
    }

    /// Whether the caller's voice was heard since the agent began to speak: else words are older, or the agent's own.
    fn is_heard_by(&self, now: Instant) -> bool {
        self.hearing.is_some_and(|hearing| self.voiced_at > hearing.since && now < self.voiced_at + LATE_WORDS)
    }

    /// Whether words cut what is heard now; what has not been heard at all they always do.
    fn words_cut(&self) -> bool {
        (self.words_decide() || self.hearing.is_none()) && !self.is_protected()
    }

    /// The caller's last voiced frame, if it was heard after the agent.
    pub(super) fn last_voiced(&self) -> Option<Instant> {
        (self.voiced_at > self.spoke_at).then_some(self.voiced_at)
    }

    /// Whether words cut the agent, and the voice alone does not.
    fn words_decide(&self) -> bool {
        match self.policy() {
            Policy::Vad => false,
            Policy::Words => true,
            Policy::Auto => self.partials || self.mode.agent_cuts,
        }
    }

    fn policy(&self) -> Policy {
        self.config().barge_in.policy
    }

    /// The agent holds while the caller's voice is heard, unless what it says is protected.
    pub(super) fn hold_for_voice(&mut self, now: Instant, out: &mut Vec<Output>) {
        let may = self.screening.is_none()
            && self.mode.barge_in
            && self.state == State::Live
            && !self.dismissed
            && !self.playout.is_held();
        if may
            && self.voice.is_active()
            && now < self.voiced_at + STILL
            && self.is_agent_speaking()
            && !self.is_protected()
        {
            match self.playout.unheard() {
                0 => self.playout.hold(),
                _ => {
                    self.flush(now, out);
                    self.playout.hold_ahead();
                }
            }
            self.held_since = Some(now);
        }
    }

    /// Whether what is heard now, or next, is to be heard to its end.
    pub(super) fn is_protected(&self) -> bool {
        !self.protected.is_empty() && self.playout.next().is_some_and(|next| self.protected.contains(&next))
    }

    /// When a held agent goes on.
    pub(super) fn held_until(&self) -> Option<Instant> {
        let since = self.held_since?;
        let patience = Duration::from_millis(self.config().resume_after_ms);
        // without words while the caller speaks, those behind it are waited for
        // (not for a service that would have said so by now)
        let late = !self.partials && !self.mode.agent_cuts;
        let waits = self.words_decide() && late && self.voice_at > since;
        Some(if waits { (since.max(self.voiced_at) + patience).min(since + HOLD_LIMIT) } else { since + patience })
    }

    /// The wait for words is over.
    pub(super) fn resume_if_due(&mut self, now: Instant) {
        if self.held_until().is_some_and(|until| now >= until) {
            if now >= self.voice_at + NO_FRAMES {
                self.voice.reset();
            }
            self.dismiss();
        }
    }

    /// Lets a held agent go on, whatever the voice that is heard now still does.
    fn dismiss(&mut self) {
        self.stats.resumed += u64::from(self.playout.is_held());
        self.dismissed = true;
        self.release();
    }

    /// Lets a held agent go on.
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
        self.cut(now, out);
        if self.lead.is_zero() {
            out.push(Output::Leg(LegCommand::Flush(0)));
        }
        out.push(Output::Event(CallEvent::Interruption, now));
    }

    /// Cuts what the agent says; when nothing of it has been heard, nobody was interrupted.
    pub(super) fn interrupt_or_take_back(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.hearing.is_some() {
            self.interrupt(now, out);
        } else if self.is_agent_speaking() {
            self.stats.taken_back += 1;
            self.cut(now, out);
        }
    }

    /// Throws away what waits and tells the agent what was heard.
    pub(super) fn cut(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.flush(now, out);
        self.settle();
        self.cut_up_to = self.cut_up_to.max(self.playout.latest());
        let unheard = if self.pending.take().is_some() { Duration::from_millis(20) } else { Duration::ZERO };
        let delay = Duration::from_millis(self.config().network_delay_ms) + unheard;
        // whoever may cut protected speech cuts what is heard now, not what waits behind it
        if let Some(now_heard) = self.playout.next() {
            self.protected.retain(|&protected| protected != now_heard);
        }
        let current = self.playout.cut(&self.protected);
        self.latency.cut();
        self.running = false;
        self.owed = false;
        self.held_since = None;
        self.end_turn(true, now, out);
        let utterance = current.map(|(utterance, _)| utterance);
        let heard = current.map_or(Duration::ZERO, |(_, played)| played.saturating_sub(delay));
        out.push(Output::Agent(AgentInput::Interrupt { utterance, heard }));
    }
}
