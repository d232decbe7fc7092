//! 20 ms of audio.

use super::Rate;

/// 20 ms of mono signed 16-bit audio: `rate.frame_samples()` samples, no more and no less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    rate: Rate,
    samples: Box<[i16]>,
}

impl Frame {
    /// A frame of silence.
    #[must_use]
    pub fn silence(rate: Rate) -> Self {
        Self { rate, samples: vec![0; rate.frame_samples()].into_boxed_slice() }
    }

    /// A frame of `samples`; too few are padded with zeros, those beyond 20 ms are left out.
    #[must_use]
    pub fn padded(rate: Rate, samples: &[i16]) -> Self {
        let len = rate.frame_samples();
        let mut owned = Vec::with_capacity(len);
        owned.extend_from_slice(&samples[..samples.len().min(len)]);
        owned.resize(len, 0);
        Self { rate, samples: owned.into_boxed_slice() }
    }

    /// The sampling rate.
    #[must_use]
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// The samples.
    #[must_use]
    pub fn samples(&self) -> &[i16] {
        &self.samples
    }

    /// The samples, to change in place.
    pub fn samples_mut(&mut self) -> &mut [i16] {
        &mut self.samples
    }
}
