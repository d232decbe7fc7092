//! Sampling rates and encodings.

use std::fmt;

/// Duration of every frame on a call, in milliseconds (the ptime that Asterisk uses for all its media channels).
pub const FRAME_MS: u32 = 20;

/// A sampling rate that a call leg can have. It cannot hold a rate that Asterisk has no signed linear format for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rate(u32);

/// A sampling rate outside the ones Asterisk has a signed linear format for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} Hz is not a sampling rate of Asterisk's slin formats (8000, 12000, 16000, 24000, 32000, 44100, 48000, 96000, 192000)"
)]
pub struct UnknownRate(pub u32);

impl Rate {
    /// 8 kHz: narrowband telephony.
    pub const R8K: Self = Self(8_000);
    /// 12 kHz.
    pub const R12K: Self = Self(12_000);
    /// 16 kHz: wideband.
    pub const R16K: Self = Self(16_000);
    /// 24 kHz.
    pub const R24K: Self = Self(24_000);
    /// 32 kHz.
    pub const R32K: Self = Self(32_000);
    /// 44.1 kHz.
    pub const R44K: Self = Self(44_100);
    /// 48 kHz.
    pub const R48K: Self = Self(48_000);
    /// 96 kHz.
    pub const R96K: Self = Self(96_000);
    /// 192 kHz.
    pub const R192K: Self = Self(192_000);
    /// Every rate, lowest first.
    pub const ALL: [Self; 9] =
        [Self::R8K, Self::R12K, Self::R16K, Self::R24K, Self::R32K, Self::R44K, Self::R48K, Self::R96K, Self::R192K];

    /// The rate in Hz.
    #[must_use]
    pub const fn hz(self) -> u32 {
        self.0
    }

    /// Samples in one 20 ms frame at this rate.
    #[must_use]
    pub const fn frame_samples(self) -> usize {
        (self.0 / (1000 / FRAME_MS)) as usize
    }

    /// Samples in `duration`, rounded down.
    #[must_use]
    pub fn samples_in(self, duration: std::time::Duration) -> usize {
        usize::try_from(duration.as_micros() * u128::from(self.0) / 1_000_000).unwrap_or(usize::MAX)
    }

    /// How long `samples` samples last at this rate.
    #[must_use]
    pub fn duration_of(self, samples: usize) -> std::time::Duration {
        std::time::Duration::from_nanos((samples as u64).saturating_mul(1_000_000_000) / u64::from(self.0))
    }
}

impl TryFrom<u32> for Rate {
    type Error = UnknownRate;

    fn try_from(hz: u32) -> Result<Self, UnknownRate> {
        Self::ALL.into_iter().find(|rate| rate.0 == hz).ok_or(UnknownRate(hz))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} Hz", self.0)
    }
}

/// How samples are written on a wire. Codecs end at the edges: inside the core everything is [`Encoding::Linear16`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Signed 16-bit little-endian.
    Linear16,
    /// G.711 µ-law.
    Ulaw,
    /// G.711 A-law.
    Alaw,
    /// G.722.
    G722,
    /// Opus.
    Opus,
}

/// An encoding at a rate; always mono.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AudioFormat {
    /// How samples are written.
    pub encoding: Encoding,
    /// How many of them a second has.
    pub rate: Rate,
}
