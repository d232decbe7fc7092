//! Legs that buffer: speech is sent ahead of the caller's ear, and marks tell how much of it was heard.

use std::time::{Duration, Instant};

use super::Call;
use crate::call::{LegCommand, Output, PERIOD};

/// A mark that comes so long after its time is taken for reached: a leg without marks.
const LOST_MARK: Duration = Duration::from_secs(1);
/// So long the leg may take to say that a flush is done.
const FLUSH: Duration = Duration::from_millis(500);
/// Frames that may be on their way beside the lead.
const UNDER_WAY: usize = 4;

impl Call {
    /// Whether something can be played now without inventing anything.
    pub(super) fn is_ready(&self) -> bool {
        if self.screening.is_some() && !self.playout.is_fading() {
            return self.pending.is_some();
        }
        if self.lead.is_zero() {
            return self.pending.is_some() || self.playout.is_ready();
        }
        // what is sent while it is flushed is in order, but what is to be sent first is not known yet
        self.playout.is_fading()
            || (self.flushing.is_none() && !self.is_far_ahead() && (self.pending.is_some() || self.playout.is_ready()))
    }

    /// Whether the leg has more than it should: it plays more slowly than we count.
    pub(super) fn is_far_ahead(&self) -> bool {
        let lead = usize::try_from(self.lead.as_millis() / PERIOD.as_millis()).unwrap_or(0);
        !self.lead.is_zero() && self.playout.unheard() > lead + UNDER_WAY
    }

    /// When the next frame may leave.
    pub(super) fn next_slot(&self, ready: bool) -> Instant {
        if self.lead.is_zero() {
            return self.grid.earliest();
        }
        let slot = self.grid.slot();
        // silence would only be in the way of what comes behind it
        if ready { slot.checked_sub(self.lead).unwrap_or(slot) } else { slot }
    }

    /// Playing has come to a mark.
    pub(super) fn marked(&mut self, mark: u32, now: Instant, out: &mut Vec<Output>) {
        self.has_marks = true;
        if let Some(due) = self.playout.reached(mark, &mut self.played) {
            let late = now.saturating_duration_since(due);
            // within the next frame of the leg's own clock it is in time
            let frames = late.as_millis() / PERIOD.as_millis();
            self.backlog = if frames >= 2 { u32::try_from(frames).unwrap_or(u32::MAX) } else { 0 };
        }
        self.ended(out);
    }

    /// Whether this slot's silence is left out, because the leg is behind.
    pub(super) fn catches_up(&mut self) -> bool {
        let catches_up = self.backlog > 0;
        self.backlog = self.backlog.saturating_sub(1);
        catches_up
    }

    /// Has the leg throw away what was not heard.
    pub(super) fn flush(&mut self, now: Instant, out: &mut Vec<Output>) {
        let unheard = self.playout.unheard();
        if unheard == 0 || self.flushing.is_some() {
            return;
        }
        // a frame that the leg refused was not sent
        let sent = unheard - usize::from(self.pending.take().is_some());
        let frames = u32::try_from(unheard).unwrap_or(u32::MAX);
        self.stats.frames_played = self.stats.frames_played.saturating_sub(sent as u64);
        if let Some(hearing) = &mut self.hearing {
            hearing.frames = hearing.frames.saturating_sub(frames);
        }
        self.backlog = 0;
        self.fence = self.fence.wrapping_add(1);
        self.flushing = Some((self.fence, now));
        self.grid.flushed(now);
        out.push(Output::Unheard(sent));
        out.push(Output::Leg(LegCommand::Flush(self.fence)));
    }

    /// A flush is done: no more marks come from before it.
    pub(super) fn flushed(&mut self, fence: u32) {
        if self.flushing.is_some_and(|(flushing, _)| flushing == fence) {
            self.settle();
        }
    }

    /// What was not heard waits again.
    pub(super) fn settle(&mut self) {
        if self.flushing.take().is_some() {
            self.playout.rewind();
        }
    }

    /// Answers that never came.
    pub(super) fn unanswered(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.flushing.is_some_and(|(_, since)| now >= since + FLUSH) {
            self.settle();
        }
        while let Some(mark) = now.checked_sub(LOST_MARK).and_then(|limit| self.playout.overdue(limit)) {
            self.stats.lost_marks += 1;
            if self.has_marks {
                self.playout.reached(mark, &mut self.played);
            } else {
                // it knows none: from now on it gets each frame in its time
                self.lead = Duration::ZERO;
                self.playout.forget(&mut self.played);
            }
            self.ended(out);
        }
    }
}
