//! Audio between a leg's rate and the contract's s16le 8 kHz mono, converted here and nowhere else.

use std::ops::Deref;

use super::codec::{Coding, Down};
use crate::audio::{Rate, resample::Resampler};

/// The rate of the contract.
const WIRE: Rate = Rate::R8K;

/// 20 ms on the wire.
pub const FRAME: usize = 320;
/// Frames that one message may carry.
pub const MOST_FRAMES: usize = 3;

/// The agent's speech on its way to a leg of `rate`.
pub fn downlink(rate: Rate) -> Down {
    Down::new(rate, Coding::linear(WIRE))
}

/// Audio of one message: s16le 8 kHz mono.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    bytes: [u8; FRAME * MOST_FRAMES],
    len: usize,
}

impl Chunk {
    fn of(samples: &[i16]) -> Self {
        let mut chunk = Self { bytes: [0; FRAME * MOST_FRAMES], len: 2 * samples.len() };
        for (bytes, sample) in chunk.bytes.chunks_exact_mut(2).zip(samples) {
            bytes.copy_from_slice(&sample.to_le_bytes());
        }
        chunk
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The caller's audio on its way to the service.
#[derive(Debug)]
pub struct Uplink {
    resampler: Option<Resampler>,
    samples: Vec<i16>,
    /// Samples of a whole message.
    whole: usize,
}

impl Uplink {
    /// For a leg of `rate`, and messages of `frames` frames of 20 ms (1 to [`MOST_FRAMES`]).
    pub fn new(rate: Rate, frames: usize) -> Self {
        let resampler = (rate != WIRE).then(|| Resampler::new(rate.hz(), WIRE.hz()));
        let whole = WIRE.frame_samples() * frames.clamp(1, MOST_FRAMES);
        Self { resampler, samples: Vec::with_capacity(whole), whole }
    }

    /// Takes samples of the leg.
    pub fn push(&mut self, samples: &[i16]) {
        match &mut self.resampler {
            Some(resampler) => resampler.process(samples, &mut self.samples),
            None => self.samples.extend_from_slice(samples),
        }
    }

    /// The next message for the wire, once it is complete.
    pub fn pop(&mut self) -> Option<Chunk> {
        let chunk = Chunk::of(self.samples.get(..self.whole)?);
        self.samples.drain(..self.whole);
        Some(chunk)
    }

    /// What waits for more: less than a message, as it is.
    pub fn rest(&mut self) -> Option<Chunk> {
        let chunk = (!self.samples.is_empty()).then(|| Chunk::of(&self.samples));
        self.samples.clear();
        chunk
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wideband_frames_become_whole_chunks() {
        let mut up = Uplink::new(Rate::R16K, 1);
        let mut chunks = 0;
        for _ in 0..50 {
            up.push(&[1000; 320]);
            while up.pop().is_some() {
                chunks += 1;
            }
        }
        assert!((49..=50).contains(&chunks), "{chunks}");
    }

    proptest! {
        #[test]
        fn narrowband_passes_bit_exact(
            samples in proptest::collection::vec(any::<i16>(), 0..1000),
            frames in 1..=MOST_FRAMES,
        ) {
            let mut up = Uplink::new(Rate::R8K, frames);
            let mut got = Vec::new();
            for piece in samples.chunks(160) {
                up.push(piece);
                while let Some(chunk) = up.pop() {
                    got.extend(chunk.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
                }
            }
            let whole = samples.len() / (160 * frames) * 160 * frames;
            prop_assert_eq!(&got[..], &samples[..whole]);
            let rest = up.rest().map_or(0, |chunk| chunk.len() / 2);
            prop_assert_eq!(whole + rest, samples.len());
        }
    }
}
