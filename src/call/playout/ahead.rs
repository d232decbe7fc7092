//! What has been sent ahead to a leg that buffers, until a mark says that it was heard.

use std::{collections::VecDeque, time::Instant};

use super::{Piece, Playout, UtteranceId};
use crate::audio::{mix, spare};

/// The frames that the leg has and nobody has heard yet.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    sent: VecDeque<Sent>,
    /// What the frame that is put together now consists of.
    pub(super) taking: Vec<Piece>,
    mark: u32,
}

#[derive(Debug)]
struct Sent {
    mark: u32,
    due: Option<Instant>,
    /// [`Playout::current`] before it was taken.
    before: Option<(UtteranceId, usize)>,
    pieces: Vec<Piece>,
}

impl Ahead {
    /// A frame has been taken; ends of utterances that make no sound of their own belong to the one before.
    pub(super) fn taken(&mut self, before: Option<(UtteranceId, usize)>, sounds: bool, played: &mut Vec<UtteranceId>) {
        let mut pieces = std::mem::take(&mut self.taking);
        match self.sent.back_mut() {
            _ if sounds => {
                self.mark = self.mark.wrapping_add(1);
                self.sent.push_back(Sent { mark: self.mark, due: None, before, pieces });
            }
            Some(last) => last.pieces.append(&mut pieces),
            None => ended(pieces, played),
        }
    }
}

/// Adds the utterances that end within `pieces` to `played`.
fn ended(pieces: Vec<Piece>, played: &mut Vec<UtteranceId>) {
    for piece in pieces {
        match piece {
            Piece::End(utterance) => played.push(utterance),
            Piece::Samples { samples, .. } => spare::give(samples),
        }
    }
}

impl Playout {
    /// From now on what is taken is kept until it was heard.
    pub fn keep(&mut self) {
        self.ahead = Some(Box::default());
    }

    /// Whether an utterance ended with the frame taken last.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Frames that were taken and not heard yet.
    #[must_use]
    pub fn unheard(&self) -> usize {
        self.ahead.as_ref().map_or(0, |ahead| ahead.sent.len())
    }

    /// The mark of the frame taken last, which is due at this time; `None` where nothing is kept.
    pub fn mark(&mut self, due: Instant) -> Option<u32> {
        let last = self.ahead.as_mut()?.sent.back_mut()?;
        last.due = Some(due);
        Some(last.mark)
    }

    /// Everything up to this mark was heard. Utterances that ended with it are added to `played`; when it had been due is returned.
    pub fn reached(&mut self, mark: u32, played: &mut Vec<UtteranceId>) -> Option<Instant> {
        let ahead = self.ahead.as_mut()?;
        let mut due = None;
        // marks count up; a difference of more than half of all is one from before
        while let Some(first) = ahead.sent.pop_front_if(|first| mark.wrapping_sub(first.mark) < u32::MAX / 2) {
            due = first.due;
            ended(first.pieces, played);
        }
        due
    }

    /// The first mark that was due before `limit`, and has not been reached.
    #[must_use]
    pub fn overdue(&self, limit: Instant) -> Option<u32> {
        let ahead = self.ahead.as_ref()?;
        ahead.sent.front().filter(|first| first.due.is_some_and(|due| due < limit)).map(|first| first.mark)
    }

    /// Stops, where the leg has thrown away what was not heard: it will be put back.
    pub fn hold_ahead(&mut self) {
        if self.held {
            return;
        }
        self.held = true;
        let Some(first) = self.ahead.as_ref().and_then(|ahead| ahead.sent.front()) else { return };
        let mut tail: Vec<i16> = first.pieces.iter().flat_map(Piece::samples).copied().collect();
        let fade = self.fade_samples().min(tail.len());
        tail.truncate(fade);
        mix::fade_out(&mut tail, fade);
        self.tail = tail;
    }

    /// What is taken is no longer kept: all of it counts as heard. Utterances that ended with it are added to `played`.
    pub fn forget(&mut self, played: &mut Vec<UtteranceId>) {
        for sent in self.ahead.take().into_iter().flat_map(|ahead| ahead.sent) {
            ended(sent.pieces, played);
        }
    }

    /// Puts what was not heard back to the head of what waits.
    pub fn rewind(&mut self) {
        let Some(ahead) = &mut self.ahead else { return };
        while let Some(last) = ahead.sent.pop_back() {
            for piece in last.pieces.into_iter().rev() {
                let samples = piece.left();
                self.queued += samples;
                self.budget.used.fetch_add(samples, std::sync::atomic::Ordering::Relaxed);
                self.queue.push_front(piece);
            }
            self.current = last.before;
            self.fade_in = self.current.is_some();
        }
        self.debt = 0;
    }

    /// The utterances that the leg has, the one heard now first; an end makes no sound.
    pub(super) fn sent_utterances(&self) -> impl Iterator<Item = UtteranceId> {
        let sent = self.ahead.iter().flat_map(|ahead| &ahead.sent);
        sent.flat_map(|frame| &frame.pieces).filter(|piece| piece.left() > 0).map(Piece::utterance)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{audio::Rate, call::playout::Budget};

    const ONE: UtteranceId = UtteranceId(1);
    const TWO: UtteranceId = UtteranceId(2);

    fn ramp(from: i16, len: i16) -> Vec<i16> {
        (from..from + len).collect()
    }

    fn playout() -> Playout {
        let mut playout = Playout::new(Rate::R8K, Budget::of_bytes(1 << 20));
        playout.keep();
        playout
    }

    #[test]
    fn an_utterance_is_played_when_its_last_mark_was_reached() {
        let (mut playout, mut played, now) = (playout(), Vec::new(), Instant::now());
        playout.push(ONE, ramp(0, 200));
        playout.end(ONE);
        let marks: Vec<_> = (0..2)
            .map(|_| {
                playout.take(&mut played).unwrap();
                playout.mark(now).unwrap()
            })
            .collect();
        assert!(playout.take(&mut played).is_none() && played.is_empty());
        assert_eq!(playout.reached(marks[0], &mut played), Some(now));
        assert_eq!((playout.unheard(), played.as_slice()), (1, &[][..]));
        playout.reached(marks[1], &mut played);
        assert_eq!((playout.unheard(), played.as_slice()), (0, &[ONE][..]));
        assert_eq!(playout.reached(marks[1], &mut played), None);
    }

    #[test]
    fn what_was_not_heard_is_played_again_to_the_sample() {
        let (mut playout, mut played) = (playout(), Vec::new());
        playout.push(ONE, ramp(0, 250));
        playout.end(ONE);
        playout.push(TWO, ramp(1_000, 400));
        let first: Vec<_> = (0..3).map(|_| playout.take(&mut played).unwrap()).collect();
        playout.reached(1, &mut played);
        assert_eq!(playout.sent_utterances().next(), Some(ONE));
        playout.hold_ahead();
        let fade = playout.take(&mut played).unwrap();
        assert!(fade.samples()[1] > first[1].samples()[1] / 2 && fade.samples()[40] == 0);
        assert!(playout.take(&mut played).is_none());
        playout.rewind();
        assert_eq!((playout.queued(), playout.unheard()), (490, 0));
        // the position is that of what was heard
        playout.resume();
        let again: Vec<_> = (0..3).map(|_| playout.take(&mut played).unwrap()).collect();
        assert_eq!(again[0].samples()[40..], first[1].samples()[40..]);
        assert_eq!(again[1], first[2]);
        playout.reached(4, &mut played);
        assert_eq!(played, [ONE]);
        playout.rewind();
        assert_eq!(playout.cut(&[]), Some((TWO, Duration::from_micros(13_750))));
        assert!(!playout.budget.is_spent() && playout.budget.used.load(std::sync::atomic::Ordering::Relaxed) == 0);
    }

    #[test]
    fn marks_that_never_come_are_found() {
        let (mut playout, now) = (playout(), Instant::now());
        playout.push(ONE, ramp(0, 160));
        playout.take(&mut Vec::new()).unwrap();
        let mark = playout.mark(now);
        assert_eq!(playout.overdue(now), None);
        assert_eq!(playout.overdue(now + Duration::from_millis(1)), mark);
    }
}
