//! What the agent said and the caller has not heard yet, re-framed to 20 ms and accounted per utterance.
//!
//! Nothing in here is dropped unless it is cut. [`Playout::hold`] stops and keeps everything, [`Playout::resume`] goes on from the
//! heard position, [`Playout::cut`] throws away. All three leave a 5 ms fade, so that the caller hears no click.

mod ahead;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use self::ahead::Ahead;
use super::UtteranceId;
use crate::audio::{Frame, Rate, level, mix, spare};

/// Utterances from this one on are no agent's.
pub const OURS: u32 = u32::MAX - 15;
/// Fade at every cut, in ms.
const FADE_MS: u64 = 5;

/// Samples of agent speech that all calls together may hold.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// A budget of `bytes` bytes of 16-bit samples.
    #[must_use]
    pub fn of_bytes(bytes: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit: bytes / 2 })
    }

    /// Whether it is used up.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.limit
    }
}

#[derive(Debug)]
enum Piece {
    Samples { utterance: UtteranceId, samples: Vec<i16>, position: usize },
    End(UtteranceId),
}

impl Piece {
    const fn utterance(&self) -> UtteranceId {
        match self {
            Self::Samples { utterance, .. } | Self::End(utterance) => *utterance,
        }
    }

    fn samples(&self) -> &[i16] {
        match self {
            Self::Samples { samples, position, .. } => &samples[*position..],
            Self::End(_) => &[],
        }
    }

    /// Samples that have not been played.
    fn left(&self) -> usize {
        match self {
            Self::Samples { samples, position, .. } => samples.len() - position,
            Self::End(_) => 0,
        }
    }
}

/// What a call has still to play.
#[derive(Debug)]
pub struct Playout {
    rate: Rate,
    queue: VecDeque<Piece>,
    queued: usize,
    budget: Arc<Budget>,
    /// The utterance heard last, and how many of its samples were played.
    current: Option<(UtteranceId, usize)>,
    held: bool,
    fade_in: bool,
    /// Start of what was cut: the first samples of the next frame, already faded.
    tail: Vec<i16>,
    /// Silence put into a running stream, in samples, to be taken back at silent frames.
    debt: usize,
    skipped_frames: u64,
    /// Where the leg buffers: what it has.
    ahead: Option<Box<Ahead>>,
    /// An utterance ended with what was taken last.
    ended: bool,
}

impl Playout {
    /// Nothing to play, at `rate`.
    #[must_use]
    pub fn new(rate: Rate, budget: Arc<Budget>) -> Self {
        Self {
            rate,
            queue: VecDeque::new(),
            queued: 0,
            budget,
            current: None,
            held: false,
            fade_in: false,
            tail: Vec::new(),
            debt: 0,
            skipped_frames: 0,
            ahead: None,
            ended: false,
        }
    }

    /// Adds speech.
    pub fn push(&mut self, utterance: UtteranceId, samples: Vec<i16>) {
        if samples.is_empty() {
            return;
        }
        self.budget.used.fetch_add(samples.len(), Ordering::Relaxed);
        self.queued += samples.len();
        self.queue.push_back(Piece::Samples { utterance, samples, position: 0 });
    }

    /// Marks the end of an utterance.
    pub fn end(&mut self, utterance: UtteranceId) {
        self.queue.push_back(Piece::End(utterance));
    }

    /// Samples that wait.
    #[must_use]
    pub const fn queued(&self) -> usize {
        self.queued
    }

    /// How long what waits will play.
    #[must_use]
    pub fn queued_for(&self) -> Duration {
        self.rate.duration_of(self.queued)
    }

    /// Whether playing is on hold.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.held
    }

    /// Silent frames that were left out to take back silence put in before.
    #[must_use]
    pub const fn skipped_frames(&self) -> u64 {
        self.skipped_frames
    }

    /// Whether what is played next is only the fade of what was held or cut.
    #[must_use]
    pub const fn is_fading(&self) -> bool {
        !self.tail.is_empty()
    }

    /// Whether a frame can be played without inventing anything: a whole one, or the end of an utterance.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.tail.is_empty()
            || (!self.held
                && (self.queued >= self.rate.frame_samples()
                    || self.queue.back().is_some_and(|piece| matches!(piece, Piece::End(_)))))
    }

    /// The next frame, padded with silence where there is too little; `None` where there is nothing or all is held.
    /// Utterances that it ends are added to `played`, unless what is taken is kept ([`Self::keep`]) until it was heard.
    pub fn take(&mut self, played: &mut Vec<UtteranceId>) -> Option<Frame> {
        let len = self.rate.frame_samples();
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            return Some(Frame::padded(self.rate, &tail));
        }
        if self.held {
            return None;
        }
        let before = self.current;
        self.ended = false;
        let mut frame = Frame::silence(self.rate);
        let mut filled = self.fill(frame.samples_mut(), played);
        // A real-time stream that was late once stays one frame behind for ever unless its own silence is left out.
        while self.debt >= len && filled == len && self.queued >= len && level::is_silent(frame.samples()) {
            self.debt -= len;
            self.skipped_frames += 1;
            frame.samples_mut().fill(0);
            filled = self.fill(frame.samples_mut(), played);
        }
        if let Some(ahead) = &mut self.ahead {
            ahead.taken(before, filled > 0, played);
        }
        if filled == 0 {
            return None;
        }
        if std::mem::take(&mut self.fade_in) {
            let fade = self.fade_samples().min(len);
            mix::fade_in(frame.samples_mut(), fade);
        }
        Some(frame)
    }

    /// Silence was played while a stream ran: `samples` of it can be taken back later.
    pub fn inserted(&mut self, samples: usize) {
        // More than a second behind is a pause of the speaker, not jitter.
        let second = self.rate.hz() as usize;
        self.debt = if self.debt + samples > second { 0 } else { self.debt + samples };
    }

    /// The stream has paused: what was inserted was a pause, not lateness.
    pub const fn forgive(&mut self) {
        self.debt = 0;
    }

    /// Stops at the next frame and keeps everything.
    pub fn hold(&mut self) {
        if !self.held {
            self.fade_next();
            self.held = true;
        }
    }

    /// Goes on from where it stopped.
    pub fn resume(&mut self) {
        if self.held {
            self.held = false;
            // what has not begun begins as it is
            self.fade_in = self.current.is_some() || self.unheard() > 0;
        }
    }

    /// Throws away everything that waits, except what is of the utterances to `keep`, and returns the utterance that was playing with how
    /// much of it was played.
    pub fn cut(&mut self, keep: &[UtteranceId]) -> Option<(UtteranceId, Duration)> {
        if !self.held {
            self.fade_next();
        }
        self.held = false;
        self.fade_in = false;
        self.debt = 0;
        let before = self.queued;
        self.queued = 0;
        let mut queue = std::mem::take(&mut self.queue);
        queue.retain(|piece| keep.contains(&piece.utterance()));
        for piece in queue {
            self.queued += piece.left();
            self.queue.push_back(piece);
        }
        self.budget.used.fetch_sub(before - self.queued, Ordering::Relaxed);
        self.current.take().map(|(utterance, samples)| (utterance, self.rate.duration_of(samples)))
    }

    /// The utterance that is heard next, or now.
    #[must_use]
    pub fn next(&self) -> Option<UtteranceId> {
        // an end that has not been played yet is still to come, but makes no sound
        let waiting = self.queue.iter().filter(|piece| piece.left() > 0).map(Piece::utterance);
        self.sent_utterances().chain(waiting).next().or(self.current.map(|(utterance, _)| utterance))
    }

    /// The agent's utterance that waits or plays now; none of [`OURS`].
    #[must_use]
    pub fn latest(&self) -> Option<UtteranceId> {
        let waiting = self.queue.iter().map(Piece::utterance);
        self.sent_utterances()
            .chain(waiting)
            .chain(self.current.map(|(utterance, _)| utterance))
            .filter(|utterance| utterance.0 < OURS)
            .max()
    }

    fn fade_samples(&self) -> usize {
        self.rate.samples_in(Duration::from_millis(FADE_MS))
    }

    /// Takes the next 5 ms of what plays as the faded start of the next frame.
    fn fade_next(&mut self) {
        let playing = self.current.map(|(utterance, _)| utterance);
        let same = self.queue.iter().take_while(|piece| Some(piece.utterance()) == playing);
        let left = same.map(Piece::left).sum::<usize>();
        let mut tail = vec![0; self.fade_samples().min(left)];
        let mut filled = 0;
        // the end of the utterance stays: whoever waits for it is to be told when it is heard
        while filled < tail.len() {
            filled += self.fill_from_front(&mut tail[filled..]);
        }
        if let Some(ahead) = &mut self.ahead {
            ahead.taking.clear();
        }
        let fade = tail.len();
        mix::fade_out(&mut tail, fade);
        self.tail = tail;
    }

    /// Moves waiting samples into `into`; returns how many.
    fn fill(&mut self, into: &mut [i16], played: &mut Vec<UtteranceId>) -> usize {
        let mut filled = 0;
        while let Some(piece) = self.queue.front() {
            match piece {
                Piece::End(utterance) => {
                    self.ended = true;
                    match &mut self.ahead {
                        Some(ahead) => ahead.taking.push(Piece::End(*utterance)),
                        None => played.push(*utterance),
                    }
                    if self.current.is_some_and(|(current, _)| current == *utterance) {
                        self.current = None;
                    }
                    self.queue.pop_front();
                }
                Piece::Samples { .. } if filled == into.len() => break,
                Piece::Samples { .. } => filled += self.fill_from_front(&mut into[filled..]),
            }
        }
        filled
    }

    /// Moves samples of the first piece into `into`; returns how many.
    fn fill_from_front(&mut self, into: &mut [i16]) -> usize {
        let Some(Piece::Samples { utterance, samples, position }) = self.queue.front_mut() else { return 0 };
        let count = (samples.len() - *position).min(into.len());
        into[..count].copy_from_slice(&samples[*position..*position + count]);
        *position += count;
        if let Some(ahead) = &mut self.ahead {
            let mut kept = spare::take(count);
            kept.extend_from_slice(&into[..count]);
            ahead.taking.push(Piece::Samples { utterance: *utterance, samples: kept, position: 0 });
        }
        match &mut self.current {
            Some((current, heard)) if current == utterance => *heard += count,
            current => *current = Some((*utterance, count)),
        }
        if *position == samples.len() {
            spare::give(std::mem::take(samples));
            self.queue.pop_front();
        }
        self.queued -= count;
        self.budget.used.fetch_sub(count, Ordering::Relaxed);
        count
    }
}

impl Drop for Playout {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.queued, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: UtteranceId = UtteranceId(1);
    const TWO: UtteranceId = UtteranceId(2);

    fn playout() -> Playout {
        Playout::new(Rate::R8K, Budget::of_bytes(1 << 20))
    }

    fn ramp(from: i16, len: i16) -> Vec<i16> {
        (from..from + len).collect()
    }

    #[test]
    fn samples_come_out_in_order_whatever_the_pieces() {
        let mut playout = playout();
        for chunk in ramp(1, 800).chunks(77) {
            playout.push(ONE, chunk.to_vec());
        }
        playout.end(ONE);
        let (mut heard, mut played) = (Vec::new(), Vec::new());
        while let Some(taken) = playout.take(&mut played) {
            heard.extend_from_slice(taken.samples());
        }
        assert_eq!(heard, ramp(1, 800));
        assert_eq!(played, [ONE]);
        assert_eq!(playout.queued(), 0);
    }

    #[test]
    fn the_last_frame_is_padded_once_its_end_is_known() {
        let mut playout = playout();
        playout.push(ONE, ramp(1, 100));
        assert!(!playout.is_ready());
        playout.end(ONE);
        assert!(playout.is_ready());
        let taken = playout.take(&mut Vec::new()).unwrap();
        assert_eq!((taken.samples()[99], taken.samples()[100]), (100, 0));
    }

    #[test]
    fn a_cut_says_how_much_was_heard_and_leaves_one_fading_frame() {
        let mut playout = playout();
        playout.push(ONE, vec![1000; 1600]);
        playout.push(TWO, vec![1000; 1600]);
        for _ in 0..5 {
            playout.take(&mut Vec::new()).unwrap();
        }
        // 100 ms played, and the 5 ms of the fade.
        assert_eq!(playout.cut(&[]), Some((ONE, Duration::from_millis(105))));
        let last = playout.take(&mut Vec::new()).unwrap();
        assert!(last.samples()[..20].iter().all(|&sample| sample > 0));
        assert!(last.samples()[40..].iter().all(|&sample| sample == 0));
        assert!(playout.take(&mut Vec::new()).is_none());
        assert_eq!(playout.cut(&[]), None);
    }

    #[test]
    fn hold_keeps_and_resume_goes_on_from_the_heard_position() {
        let mut playout = playout();
        playout.push(ONE, ramp(1, 480));
        playout.take(&mut Vec::new()).unwrap();
        playout.hold();
        let fading = playout.take(&mut Vec::new()).unwrap();
        assert!(fading.samples()[20] > 0 && fading.samples()[40] == 0);
        assert!(playout.take(&mut Vec::new()).is_none());
        playout.resume();
        playout.end(ONE);
        let next = playout.take(&mut Vec::new()).unwrap();
        assert_eq!(next.samples()[159], 160 + 40 + 160);
    }

    #[test]
    fn an_end_within_the_fade_is_told_once_it_is_heard() {
        let mut playout = playout();
        playout.push(ONE, vec![1000; 190]);
        playout.end(ONE);
        let mut played = Vec::new();
        playout.take(&mut played).unwrap();
        playout.hold();
        playout.take(&mut played).unwrap();
        assert_eq!(played, []);
        playout.resume();
        assert!(playout.is_ready() && playout.take(&mut played).is_none());
        assert_eq!(played, [ONE]);
    }

    #[test]
    fn what_has_not_begun_is_held_and_begun_as_it_is() {
        let mut playout = playout();
        playout.push(ONE, vec![1000; 320]);
        playout.hold();
        assert!(playout.take(&mut Vec::new()).is_none());
        playout.resume();
        assert_eq!(playout.take(&mut Vec::new()).unwrap().samples(), [1000; 160]);
    }

    #[test]
    fn a_cut_keeps_what_is_protected_whole() {
        let mut playout = playout();
        playout.push(ONE, vec![1000; 180]);
        playout.end(ONE);
        playout.push(TWO, vec![2000; 160]);
        playout.end(TWO);
        playout.take(&mut Vec::new()).unwrap();
        assert_eq!(playout.next(), Some(ONE));
        assert_eq!(playout.cut(&[TWO]), Some((ONE, Duration::from_micros(22_500))));
        assert_eq!((playout.next(), playout.queued()), (Some(TWO), 160));
        let fading = playout.take(&mut Vec::new()).unwrap();
        assert!(fading.samples().iter().all(|&sample| sample <= 1000), "no sample of the other is in the fade");
        let mut played = Vec::new();
        assert_eq!(playout.take(&mut played).unwrap().samples(), [2000; 160]);
        assert_eq!((played.as_slice(), playout.budget.used.load(Ordering::Relaxed)), (&[TWO][..], 0));
    }

    #[test]
    fn lateness_is_taken_back_at_silence_and_never_from_voice() {
        let mut playout = playout();
        playout.inserted(160);
        playout.push(ONE, vec![9000; 320]);
        playout.push(ONE, vec![0; 320]);
        playout.push(ONE, vec![8000; 160]);
        let peaks: Vec<i16> =
            std::iter::from_fn(|| playout.take(&mut Vec::new())).map(|taken| taken.samples()[0]).collect();
        assert_eq!(peaks, [9000, 9000, 0, 8000]);
        assert_eq!(playout.skipped_frames(), 1);
    }

    #[test]
    fn the_budget_is_given_back() {
        let budget = Budget::of_bytes(640);
        let mut playout = Playout::new(Rate::R8K, Arc::clone(&budget));
        playout.push(ONE, vec![0; 320]);
        assert!(budget.is_spent());
        playout.cut(&[]);
        assert!(!budget.is_spent());
        playout.push(ONE, vec![0; 320]);
        drop(playout);
        assert!(!budget.is_spent());
    }
}
