//! Audio of any length cut into 20 ms frames.

use super::{Frame, Rate};

/// Collects samples and gives them back as whole frames.
///
/// Popping until `None` after every push keeps less than one frame inside, and then pushes of like size allocate nothing.
#[derive(Debug, Clone)]
pub struct Framer {
    rate: Rate,
    samples: Vec<i16>,
    /// Samples at the front that were popped already; taken out at the next push, so that a burst is not moved once a frame.
    popped: usize,
}

/// A burst leaves no more memory behind than this many frames need.
const KEPT_FRAMES: usize = 8;

impl Framer {
    /// A framer at `rate`, empty.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self { rate, samples: Vec::with_capacity(rate.frame_samples() * 2), popped: 0 }
    }

    /// The sampling rate of its frames.
    #[must_use]
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// How many samples are inside.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len() - self.popped
    }

    /// Whether no sample is inside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds samples behind those that are inside.
    pub fn push(&mut self, samples: &[i16]) {
        self.compact();
        self.samples.extend_from_slice(samples);
    }

    /// The next whole frame, if there is one.
    pub fn pop(&mut self) -> Option<Frame> {
        let len = self.rate.frame_samples();
        let frame = Frame::padded(self.rate, self.samples.get(self.popped..self.popped + len)?);
        self.popped += len;
        Some(frame)
    }

    /// The next frame, padded with silence if it is not whole; `None` when nothing is inside.
    pub fn flush(&mut self) -> Option<Frame> {
        self.pop().or_else(|| {
            let rest = &self.samples[self.popped..];
            let frame = (!rest.is_empty()).then(|| Frame::padded(self.rate, rest));
            self.clear();
            frame
        })
    }

    /// Forgets everything inside.
    pub fn clear(&mut self) {
        self.popped = self.samples.len();
        self.compact();
    }

    fn compact(&mut self) {
        self.samples.drain(..self.popped);
        self.popped = 0;
        let kept = self.rate.frame_samples() * KEPT_FRAMES;
        if self.samples.capacity() > kept && self.samples.len() < self.rate.frame_samples() {
            self.samples.shrink_to(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(pieces in prop::collection::vec(prop::collection::vec(any::<i16>(), 0..700), 0..12)) {
            let mut framer = Framer::new(Rate::R8K);
            let mut out = Vec::new();
            for piece in &pieces {
                framer.push(piece);
                while let Some(frame) = framer.pop() {
                    prop_assert_eq!(frame.samples().len(), 160);
                    out.extend_from_slice(frame.samples());
                }
                prop_assert!(framer.len() < 160);
            }
            let pushed: Vec<i16> = pieces.concat();
            prop_assert_eq!(out.len(), pushed.len() / 160 * 160);
            let last = framer.flush();
            prop_assert_eq!(last.is_some(), !pushed.len().is_multiple_of(160));
            if let Some(frame) = last {
                out.extend_from_slice(frame.samples());
            }
            prop_assert!(framer.flush().is_none() && framer.is_empty());
            prop_assert_eq!(&out[..pushed.len()], &pushed[..]);
            prop_assert!(out[pushed.len()..].iter().all(|&sample| sample == 0));
        }
    }

    #[test]
    fn flush_gives_whole_frames_first() {
        let mut framer = Framer::new(Rate::R8K);
        framer.push(&[7; 400]);
        let lengths: Vec<usize> = std::iter::from_fn(|| framer.flush())
            .map(|frame| frame.samples().iter().filter(|&&sample| sample == 7).count())
            .collect();
        assert_eq!(lengths, [160, 160, 80]);
    }

    #[test]
    fn memory_does_not_grow_with_use_and_a_burst_gives_it_back() {
        let mut framer = Framer::new(Rate::R8K);
        framer.push(&[1; 100_000]);
        while framer.pop().is_some() {}
        for _ in 0..1000 {
            framer.push(&[1; 173]);
            while framer.pop().is_some() {}
        }
        assert!(framer.samples.capacity() <= 160 * KEPT_FRAMES, "{}", framer.samples.capacity());
        let before = framer.samples.as_ptr();
        for _ in 0..1000 {
            framer.push(&[1; 173]);
            while framer.pop().is_some() {}
        }
        assert_eq!(before, framer.samples.as_ptr(), "steady use must not allocate");
    }
}
