//! A call as it is recorded: both directions on one clock, from its first sample to its last.
//!
//! Frames come and go with jitter, which is none of the recording's business: what follows in time follows in the recording without a
//! gap. Only where a direction falls behind the clock and stays behind, something was missing (a digit, silence that was not sent), and
//! there silence is put in, so that both directions stay aligned.

use std::time::{Duration, Instant};

use crate::audio::Rate;

/// Length of a piece.
const PIECE: Duration = Duration::from_millis(500);
/// So much is held back, because frames may be late.
const HELD: Duration = Duration::from_millis(1_000);
/// A direction this far behind may have lost something.
const BEHIND: Duration = Duration::from_millis(60);
/// How many frames have to be behind before something is taken for lost: a burst makes up for it earlier.
const SURE: u32 = 15;

/// A piece of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// Place of the first sample on the call's clock, in samples of each direction since the call began.
    pub at: u64,
    /// Caller and agent by turns, one sample of each, at the leg's rate. What the caller heard is the agent's part.
    pub samples: Vec<i16>,
}

/// Where pieces go. It never waits; an empty vector that is handed back is used again.
pub trait Sink: Send {
    /// Takes a piece, or drops it: its place shows what is missing.
    fn take(&mut self, tap: Tap);

    /// A vector that is used up.
    fn spare(&mut self) -> Option<Vec<i16>>;
}

/// Cuts a call into pieces.
pub struct Tape {
    rate: Rate,
    started: Instant,
    /// Samples of each direction that have been given away.
    given: u64,
    caller: Track,
    heard: Track,
    paused: bool,
    sink: Box<dyn Sink>,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tape").field("given", &self.given).field("paused", &self.paused).finish_non_exhaustive()
    }
}

/// One direction: what has not been given away.
#[derive(Debug)]
struct Track {
    samples: Vec<i16>,
    /// Samples that came last.
    last: usize,
    /// Where it fell behind: the index in `samples`, the least it was behind since, and for how many frames.
    gap: Option<(usize, u64, u32)>,
}

impl Tape {
    /// The tape of a call that begins at `started`.
    #[must_use]
    pub fn new(rate: Rate, started: Instant, sink: Box<dyn Sink>) -> Self {
        let track = || Track { samples: Vec::with_capacity(samples(rate, HELD + 2 * PIECE)), last: 0, gap: None };
        Self { rate, started, given: 0, caller: track(), heard: track(), paused: false, sink }
    }

    /// Takes 20 ms of the caller that came at `now`.
    pub fn caller(&mut self, frame: &[i16], now: Instant) {
        self.roll(now);
        let (place, behind) = (self.place(now), samples(self.rate, BEHIND) as u64);
        self.caller.take(frame, self.paused, place.saturating_sub(self.given), behind);
    }

    /// Takes 20 ms that the leg has taken for the caller at `now`.
    pub fn heard(&mut self, frame: &[i16], now: Instant) {
        self.roll(now);
        let (place, behind) = (self.place(now), samples(self.rate, BEHIND) as u64);
        self.heard.take(frame, self.paused, place.saturating_sub(self.given), behind);
    }

    /// The leg did not take what [`Self::heard`] was told last.
    pub fn unheard(&mut self) {
        let length = self.heard.samples.len().saturating_sub(self.heard.last);
        self.heard.samples.truncate(length);
        self.heard.last = 0;
    }

    /// The last so many frames that it was told were heard are not: the leg had them ahead of their time.
    pub fn flushed(&mut self, frames: usize) {
        let length = self.heard.samples.len().saturating_sub(frames * self.rate.frame_samples());
        self.heard.samples.truncate(length);
        self.heard.gap = None;
        self.heard.last = 0;
    }

    /// Silence from here, or sound again: the recording keeps its length.
    pub const fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Gives away all that is left; the call ended at `now`.
    pub fn finish(&mut self, now: Instant) {
        self.roll(now);
        let length = self.caller.samples.len().max(self.heard.samples.len());
        self.give(length);
    }

    /// The sample that belongs to a moment.
    fn place(&self, now: Instant) -> u64 {
        let micros = now.saturating_duration_since(self.started).as_micros();
        u64::try_from(micros * u128::from(self.rate.hz()) / 1_000_000).unwrap_or(u64::MAX)
    }

    /// Gives away what is old enough.
    fn roll(&mut self, now: Instant) {
        let piece = samples(self.rate, PIECE);
        let due = (piece + samples(self.rate, HELD)) as u64;
        let mut place = self.place(now);
        // nothing came for a long time: a machine that slept, a call on hold
        let longest = due + 40 * piece as u64;
        while place.saturating_sub(self.given) >= due {
            if place.saturating_sub(self.given) > longest
                && self.caller.samples.is_empty()
                && self.heard.samples.is_empty()
            {
                // the sink sees by its place what was left out
                self.given = place - due;
                place = self.given;
                continue;
            }
            self.give(piece);
        }
    }

    fn give(&mut self, length: usize) {
        if length == 0 {
            return;
        }
        let mut both = self.sink.spare().unwrap_or_default();
        both.clear();
        both.reserve(2 * length);
        self.caller.fill(length);
        self.heard.fill(length);
        for (&caller, &heard) in self.caller.samples.iter().zip(&self.heard.samples).take(length) {
            both.extend_from_slice(&[caller, heard]);
        }
        self.caller.drop_first(length);
        self.heard.drop_first(length);
        self.sink.take(Tap { at: self.given, samples: both });
        self.given += length as u64;
    }
}

fn samples(rate: Rate, time: Duration) -> usize {
    // whole ms at whole kHz
    usize::try_from(time.as_millis() * u128::from(rate.hz()) / 1_000).unwrap_or(usize::MAX)
}

impl Track {
    /// `place`: where the clock is, `behind`: how far the track may be from it.
    fn take(&mut self, frame: &[i16], paused: bool, place: u64, behind: u64) {
        let late = place.saturating_sub((self.samples.len() + frame.len()) as u64);
        match &mut self.gap {
            Some(_) if late <= behind => self.gap = None,
            Some((_, least, frames)) => {
                *least = late.min(*least);
                *frames += 1;
                if *frames >= SURE {
                    self.insert();
                }
            }
            None if late > behind => self.gap = Some((self.samples.len(), late, 1)),
            None => {}
        }
        // a clock that runs ahead of ours: one frame less, now and then
        let early = (self.samples.len() as u64).saturating_sub(place);
        self.last = 0;
        // (frames for a leg that buffers come up to half a second ahead)
        if early > 10 * behind {
            return;
        }
        self.last = frame.len();
        match paused {
            true => self.samples.resize(self.samples.len() + frame.len(), 0),
            false => self.samples.extend_from_slice(frame),
        }
    }

    /// Puts silence where something was missing.
    fn insert(&mut self) {
        if let Some((at, least, _)) = self.gap.take() {
            let least = usize::try_from(least).unwrap_or_default();
            let end = self.samples.len();
            self.samples.resize(end + least, 0);
            self.samples.copy_within(at..end, at + least);
            self.samples[at..at + least].fill(0);
        }
    }

    /// Lengthens it to `length` with silence.
    fn fill(&mut self, length: usize) {
        if let Some((at, ..)) = self.gap
            && at < length
        {
            // it is given away: what is known now has to do
            self.insert();
        }
        if self.samples.len() < length {
            self.samples.resize(length, 0);
        }
    }

    fn drop_first(&mut self, length: usize) {
        self.samples.drain(..length);
        if let Some((at, ..)) = &mut self.gap {
            *at = at.saturating_sub(length);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Tap>>>);

    impl Sink for Kept {
        fn take(&mut self, tap: Tap) {
            self.0.lock().unwrap().push(tap);
        }

        fn spare(&mut self) -> Option<Vec<i16>> {
            None
        }
    }

    impl Kept {
        /// Both directions, with what is missing as silence.
        fn whole(&self) -> (Vec<i16>, Vec<i16>) {
            let (mut caller, mut heard) = (Vec::new(), Vec::new());
            for tap in self.0.lock().unwrap().iter() {
                assert!(tap.at as usize >= caller.len(), "pieces overlap");
                caller.resize(tap.at as usize, 0);
                heard.resize(tap.at as usize, 0);
                caller.extend(tap.samples.iter().step_by(2));
                heard.extend(tap.samples.iter().skip(1).step_by(2));
            }
            (caller, heard)
        }
    }

    fn tape() -> (Tape, Kept, Instant) {
        let (kept, now) = (Kept::default(), Instant::now());
        (Tape::new(Rate::R8K, now, Box::new(kept.clone())), kept, now)
    }

    /// A frame that can be told from others.
    fn frame(n: usize) -> Vec<i16> {
        vec![i16::try_from(n % 30_000).unwrap() + 1; 160]
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_comes_with_jitter_is_recorded_without_a_gap() {
        let (mut tape, kept, begin) = tape();
        let mut expected = Vec::new();
        for n in 0..500_usize {
            let jitter = [0, 7, 19, 3, 12][n % 5];
            tape.caller(&frame(n), begin + ms(20 * (n as u64 + 1) + jitter));
            tape.heard(&frame(n + 1_000), begin + ms(20 * (n as u64 + 1)));
            expected.extend(frame(n));
        }
        tape.finish(begin + ms(10_030));
        let (caller, heard) = kept.whole();
        assert_eq!(caller, expected);
        assert_eq!(heard.len(), caller.len());
        assert!(heard.iter().zip(&caller).all(|(heard, caller)| heard - caller == 1_000), "aligned to the sample");
    }

    #[test]
    fn a_burst_after_a_stall_is_no_gap_and_a_pause_is_one() {
        let (mut tape, kept, begin) = tape();
        let mut sent = Vec::new();
        // 15 frames late by up to 300 ms, then at once
        for n in 0..100_usize {
            let at = if (30..45).contains(&n) { 20 * 46 } else { 20 * (n as u64 + 1) };
            tape.caller(&frame(n), begin + ms(at));
            tape.heard(&[5; 160], begin + ms(at));
            sent.extend(frame(n));
        }
        // then nothing for 400 ms, and on
        for n in 100..200_usize {
            tape.caller(&frame(n), begin + ms(20 * (n as u64 + 21)));
        }
        tape.finish(begin + ms(4_400));
        let (caller, heard) = kept.whole();
        assert_eq!(caller[..100 * 160], sent[..]);
        let again = caller[100 * 160..].iter().position(|&sample| sample != 0).unwrap();
        assert!(again.abs_diff(400 * 8) <= 480, "{again} samples of silence");
        assert_eq!(caller[100 * 160 + again..], (100..200).flat_map(frame).collect::<Vec<_>>());
        assert_eq!(heard[..100 * 160], vec![5; 100 * 160]);
        assert!(heard[100 * 160..].iter().all(|&sample| sample == 0));
    }

    #[test]
    fn what_is_said_while_it_is_paused_is_silence_of_the_same_length() {
        let (mut tape, kept, begin) = tape();
        for n in 0..300_usize {
            tape.pause((100..200).contains(&n));
            tape.caller(&frame(n), begin + ms(20 * (n as u64 + 1)));
            tape.heard(&frame(n), begin + ms(20 * (n as u64 + 1)));
        }
        tape.finish(begin + ms(6_000));
        let (caller, heard) = kept.whole();
        assert_eq!(caller, heard);
        assert_eq!(caller.len(), 300 * 160);
        for (n, part) in caller.chunks(160).enumerate() {
            let expected = if (100..200).contains(&n) { vec![0; 160] } else { frame(n) };
            assert_eq!(part, expected, "frame {n}");
        }
    }

    #[test]
    fn hours_without_audio_take_no_memory() {
        let (mut tape, kept, begin) = tape();
        tape.caller(&frame(1), begin + ms(20));
        tape.caller(&frame(2), begin + ms(3_600_000));
        tape.finish(begin + ms(3_600_100));
        let taps = kept.0.lock().unwrap();
        let samples: usize = taps.iter().map(|tap| tap.samples.len()).sum();
        assert!(samples < 2 * 8_000 * 30, "{samples}");
        let last = taps.last().unwrap();
        assert_eq!((last.at + last.samples.len() as u64 / 2) / 8_000, 3_600);
    }

    proptest! {
        /// Whatever comes whenever: pieces follow each other, memory is bounded, and the recording is about as long as the call.
        #[test]
        fn any_order_of_frames_is_a_recording(steps in proptest::collection::vec((0..120_u64, any::<bool>(), any::<bool>()), 1..400)) {
            let (mut tape, kept, begin) = tape();
            let mut now = begin;
            for (wait, caller, pause) in steps {
                now += ms(wait);
                tape.pause(pause);
                if caller { tape.caller(&frame(1), now) } else { tape.heard(&frame(2), now) }
                prop_assert!(tape.caller.samples.len().max(tape.heard.samples.len()) <= 8 * 3_000);
            }
            tape.finish(now);
            let (caller, heard) = kept.whole();
            prop_assert_eq!(caller.len(), heard.len());
            let length = now.duration_since(begin).as_millis() as usize * 8;
            prop_assert!(caller.len() <= length + 8 * 500, "{} of {}", caller.len(), length);
        }
    }
}
