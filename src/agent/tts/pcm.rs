//! Bytes of a speech synthesis to samples at the leg's rate.

use crate::audio::{Rate, resample::Resampler, wav::Stripper};

/// Takes pieces cut anywhere, with or without a WAV header.
#[derive(Debug)]
pub struct Pcm {
    /// The rate where no header says another.
    from: u32,
    to: Rate,
    stripper: Stripper,
    resampler: Option<(u32, Resampler)>,
    stripped: Vec<i16>,
}

impl Pcm {
    /// A converter of s16le mono at `from` Hz, unless a header says otherwise.
    pub fn new(from: u32, to: Rate) -> Self {
        Self { from, to, stripper: Stripper::new(), resampler: None, stripped: Vec::new() }
    }

    /// The samples that are complete with `bytes`.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<i16> {
        self.stripper.push(bytes, &mut self.stripped);
        self.convert()
    }

    /// The rest.
    pub fn finish(&mut self) -> Vec<i16> {
        self.stripper.finish(&mut self.stripped);
        let mut out = self.convert();
        if let Some((_, mut resampler)) = self.resampler.take() {
            resampler.finish(&mut out);
        }
        out
    }

    fn convert(&mut self) -> Vec<i16> {
        // a rate that no service has is a broken header
        let claimed = self.stripper.format().map(|format| format.rate).filter(|rate| (4_000..=192_000).contains(rate));
        let from = claimed.unwrap_or(self.from);
        let mut out = Vec::new();
        if self.stripped.is_empty() {
            // its rate may not be known yet
            return out;
        }
        if let Some((_, mut last)) = self.resampler.take_if(|(rate, _)| *rate != from) {
            last.finish(&mut out);
        }
        if from == self.to.hz() {
            out.append(&mut self.stripped);
            return out;
        }
        let (_, resampler) = self.resampler.get_or_insert_with(|| (from, Resampler::new(from, self.to.hz())));
        resampler.process(&self.stripped, &mut out);
        self.stripped.clear();
        out
    }
}

/// What a fuzzer calls: the samples at 8 kHz of a stream at 24 kHz (or as its headers say) that arrives in `pieces`.
#[doc(hidden)]
#[must_use]
pub fn fuzz(pieces: &[&[u8]]) -> Vec<i16> {
    let mut pcm = Pcm::new(24_000, Rate::R8K);
    let mut samples: Vec<i16> = pieces.iter().flat_map(|bytes| pcm.push(bytes)).collect();
    samples.extend(pcm.finish());
    samples
}
