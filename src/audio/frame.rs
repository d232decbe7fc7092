//! 20 ms of audio.

use super::{Rate, spare};

/// 20 ms of mono signed 16-bit audio: `rate.frame_samples()` samples, no more and no less.
///
/// Its memory is used again by the next frames of the same thread ([`spare`]).
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    rate: Rate,
    samples: Vec<i16>,
}

impl Clone for Frame {
    fn clone(&self) -> Self {
        Self::padded(self.rate, &self.samples)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        spare::give(std::mem::take(&mut self.samples));
    }
}

impl Frame {
    /// A frame of silence.
    #[must_use]
    pub fn silence(rate: Rate) -> Self {
        Self::padded(rate, &[])
    }

    /// A frame of `samples`; too few are padded with zeros, those beyond 20 ms are left out.
    #[must_use]
    pub fn padded(rate: Rate, samples: &[i16]) -> Self {
        let len = rate.frame_samples();
        let mut owned = spare::take(len);
        owned.extend_from_slice(&samples[..samples.len().min(len)]);
        owned.resize(len, 0);
        Self { rate, samples: owned }
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
