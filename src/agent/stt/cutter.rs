//! The caller's frames to the pieces of the AVR contract.

use bytes::{Bytes, BytesMut};

use crate::audio::{Frame, Rate, resample::Resampler};

/// 20 ms of s16le at 8 kHz.
pub const PIECE: usize = 320;
/// A frame whose samples all stay below this is quiet.
const QUIET: u16 = 500;

/// Makes 320-byte pieces of s16le at 8 kHz out of frames at the leg's rate.
#[derive(Debug)]
pub struct Cutter {
    resampler: Option<Resampler>,
    samples: Vec<i16>,
    bytes: BytesMut,
    quiet: u32,
}

impl Cutter {
    pub fn new(rate: Rate) -> Self {
        let resampler = (rate != Rate::R8K).then(|| Resampler::new(rate.hz(), Rate::R8K.hz()));
        Self { resampler, samples: Vec::new(), bytes: BytesMut::new(), quiet: 0 }
    }

    /// Adds a frame.
    pub fn push(&mut self, frame: &Frame) {
        let loud = frame.samples().iter().any(|sample| sample.unsigned_abs() >= QUIET);
        self.quiet = if loud { 0 } else { self.quiet.saturating_add(1) };
        let samples = match &mut self.resampler {
            Some(resampler) => {
                self.samples.clear();
                resampler.process(frame.samples(), &mut self.samples);
                &self.samples
            }
            None => frame.samples(),
        };
        self.bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    }

    /// A whole piece, if there is one.
    pub fn piece(&mut self) -> Option<Bytes> {
        (self.bytes.len() >= PIECE).then(|| self.bytes.split_to(PIECE).freeze())
    }

    /// The rest.
    pub fn rest(&mut self) -> Option<Bytes> {
        if let Some(resampler) = &mut self.resampler {
            self.samples.clear();
            resampler.finish(&mut self.samples);
            self.bytes.extend(self.samples.iter().flat_map(|sample| sample.to_le_bytes()));
        }
        (!self.bytes.is_empty()).then(|| self.bytes.split().freeze())
    }

    /// How many frames in a row have been quiet.
    pub const fn quiet(&self) -> u32 {
        self.quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowband_goes_through_bit_exact() {
        let mut cutter = Cutter::new(Rate::R8K);
        let samples: Vec<i16> = (0..160).map(|n| n * 200 - 16_000).collect();
        cutter.push(&Frame::padded(Rate::R8K, &samples));
        let expected: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        assert_eq!(cutter.piece().unwrap(), expected);
        assert_eq!((cutter.piece(), cutter.rest(), cutter.quiet()), (None, None, 0));
    }

    #[test]
    fn wideband_keeps_its_length() {
        let mut cutter = Cutter::new(Rate::R16K);
        let mut bytes = 0;
        for _ in 0..50 {
            cutter.push(&Frame::silence(Rate::R16K));
            while let Some(piece) = cutter.piece() {
                assert_eq!(piece.len(), PIECE);
                bytes += piece.len();
            }
        }
        bytes += cutter.rest().map_or(0, |rest| rest.len());
        assert!((15_900..=16_400).contains(&bytes), "{bytes}");
        assert_eq!(cutter.quiet(), 50);
    }
}
