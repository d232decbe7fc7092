//! What the caller hears, one frame a slot.

use std::time::{Duration, Instant};

use super::{APOLOGY, Call, DIALLED, Hearing, PAUSE_SLOTS, State};
use crate::{
    audio::Frame,
    call::{AgentInput, CallEvent, LegCommand, Output, PERIOD, Turn, grid::PATIENCE},
};

impl Call {
    /// Plays at most one frame.
    pub(super) fn play(&mut self, now: Instant, out: &mut Vec<Output>) {
        let plays = matches!(self.state, State::Live | State::Draining { .. }) || self.is_away();
        if !plays || self.leg_gone {
            return;
        }
        self.hold_for_voice(now, out);
        let ready = self.is_ready();
        let due = now >= self.next_slot(ready);
        let late_frame_came = self.owed && ready && self.grid.may_send(now);
        if !due && !late_frame_came {
            return;
        }
        if self.is_far_ahead() && !self.playout.is_fading() {
            self.grid.sent(now);
            return;
        }
        if !ready {
            if let State::Draining { reason } = self.state
                && self.playout.queued() == 0
                && self.playout.unheard() == 0
                && self.is_heard_out()
            {
                self.finish(reason, now, out);
                return;
            }
            let waits = self.running && !self.playout.is_held();
            if waits && now < self.grid.slot() + PATIENCE {
                self.owed = true;
                return;
            }
        }
        self.play_slot(now, out);
    }

    fn play_slot(&mut self, now: Instant, out: &mut Vec<Output>) {
        if let Some(frame) = self.pending.take() {
            self.running = true;
            self.send(frame, true, now, out);
            return;
        }
        self.played.clear();
        let is_fade = self.playout.is_fading();
        // until it is known what was heard, nobody knows what comes next
        let waits = (self.flushing.is_some() || self.screening.is_some()) && !is_fade;
        let taken = if waits { None } else { self.playout.take(&mut self.played) };
        self.ended(out);
        let Some(mut frame) = taken else {
            self.silent_slot(now, out);
            if self.catches_up() {
                self.owed = false;
                self.grid.sent(now);
                return;
            }
            let mut frame = Frame::silence(self.rate);
            self.mix(&mut frame, false);
            self.send(frame, false, now, out);
            return;
        };
        if is_fade {
            self.running = false;
            // the end of what was cut is no answer
            self.mix(&mut frame, false);
            // sent ahead, what is not part of the words is not sent again
            self.send(frame, self.lead.is_zero(), now, out);
            return;
        }
        self.gap = 0;
        self.quiet = 0;
        self.hear(now, out);
        // The end of an utterance is no lateness: nothing is owed after it.
        self.running = !(self.playout.has_ended() && self.playout.queued() == 0);
        self.mix(&mut frame, true);
        self.send(frame, true, now, out);
    }

    /// Utterances that were heard to their end.
    pub(super) fn ended(&mut self, out: &mut Vec<Output>) {
        for utterance in self.played.drain(..) {
            self.protected.retain(|&protected| protected != utterance);
            if utterance != APOLOGY && utterance != DIALLED {
                out.push(Output::Agent(AgentInput::Played(utterance)));
            }
        }
    }

    /// A frame of the agent's turn is heard.
    fn hear(&mut self, now: Instant, out: &mut Vec<Output>) {
        let latency = self.latency.played(now);
        if latency.is_some() && self.hearing.is_some() {
            // an answer right behind something else
            self.end_turn(false, now, out);
        }
        let hearing = self.hearing.get_or_insert(Hearing { since: now, frames: 0, latency });
        hearing.frames += 1;
        self.spoke_at = now.max(self.grid.slot());
    }

    /// The agent's turn is over.
    pub(super) fn end_turn(&mut self, cut: bool, now: Instant, out: &mut Vec<Output>) {
        self.turn_done = false;
        if let Some(Hearing { frames, latency, .. }) = self.hearing.take() {
            let heard = (PERIOD * frames).saturating_sub(Duration::from_millis(self.config().network_delay_ms));
            out.push(Output::Event(CallEvent::Turn(Turn { latency, heard, cut }), now));
        }
    }

    /// A slot without agent speech.
    fn silent_slot(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.quiet = self.quiet.saturating_add(1);
        if (self.turn_done || self.quiet >= PAUSE_SLOTS) && !self.is_agent_speaking() {
            self.end_turn(false, now, out);
        }
        if self.running {
            self.stats.underruns += 1;
        } else if self.gap == 0 {
            // The last utterance ended in order: this is a pause.
            self.gap = PAUSE_SLOTS;
        }
        self.running = false;
        self.gap = self.gap.saturating_add(1);
        if self.gap > PAUSE_SLOTS || self.bursty {
            self.playout.forgive();
            self.bursty &= self.gap <= PAUSE_SLOTS;
        } else {
            self.playout.inserted(self.rate.frame_samples());
        }
    }

    fn mix(&mut self, frame: &mut Frame, words: bool) {
        if let Some(ambience) = &mut self.ambience {
            // whoever speaks does not wait for an answer yet
            if self.voice.is_active() {
                ambience.delay();
            }
            ambience.mix_into(frame.samples_mut(), words);
        }
    }

    /// No answer is to be expected any more but what waits to be played.
    pub(super) fn settled(&mut self) {
        if let Some(ambience) = &mut self.ambience {
            ambience.settled();
        }
    }

    /// The caller has said something, and waits for an answer.
    pub(super) fn asked(&mut self) {
        if let Some(ambience) = &mut self.ambience {
            ambience.asked();
        }
    }

    fn send(&mut self, frame: Frame, words: bool, now: Instant, out: &mut Vec<Output>) {
        self.owed = false;
        self.in_flight = true;
        self.words_out = words;
        self.stats.frames_played += 1;
        if words && let Some(mark) = self.playout.mark(now.max(self.grid.slot())) {
            out.push(Output::Leg(LegCommand::Mark(mark)));
        }
        self.grid.sent(now);
        out.push(Output::Leg(LegCommand::Audio(frame)));
    }
}
