//! What a header says about the samples behind it.

use crate::audio::g711::Law;

/// How the samples of a WAV stream are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Unsigned 8-bit.
    Pcm8,
    /// Signed 16-bit little-endian.
    Pcm16,
    /// Signed 24-bit little-endian.
    Pcm24,
    /// Signed 32-bit little-endian.
    Pcm32,
    /// 32-bit floating point.
    Float32,
    /// G.711.
    G711(Law),
    /// Anything else, by its format tag and its bits per sample.
    Other {
        /// The format tag.
        tag: u16,
        /// Bits per sample.
        bits: u16,
    },
}

impl Coding {
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Pcm8 | Self::G711(_) => 1,
            Self::Pcm16 | Self::Other { .. } => 2,
            Self::Pcm24 => 3,
            Self::Pcm32 | Self::Float32 => 4,
        }
    }

    /// The sample in `bytes`, of which there are `self.bytes()`. What is unknown is read as 16-bit.
    pub(super) fn sample(self, bytes: &[u8]) -> i16 {
        match (self, bytes) {
            (Self::Pcm8, &[byte]) => (i16::from(byte) - 128) << 8,
            (Self::G711(law), &[byte]) => law.decode_byte(byte),
            (Self::Float32, &[a, b, c, d]) => (f32::from_le_bytes([a, b, c, d]) * 32768.0) as i16,
            // the upper 16 bits of what is longer
            (_, &[.., low, high]) => i16::from_le_bytes([low, high]),
            _ => 0,
        }
    }
}

/// What the `fmt ` chunk says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Sampling rate in Hz, as the sender claims it.
    pub rate: u32,
    /// Channels (they are averaged into one).
    pub channels: u16,
    /// How samples are written.
    pub coding: Coding,
}

impl Format {
    /// Bytes of a `fmt ` chunk that matter.
    pub(super) const BYTES: usize = 26;

    /// Reads the content of a `fmt ` chunk; `None` if it is too short to be one.
    pub(super) fn parse(chunk: &[u8]) -> Option<Self> {
        let u16_at = |at: usize| Some(u16::from_le_bytes([*chunk.get(at)?, *chunk.get(at + 1)?]));
        let (mut tag, channels) = (u16_at(0)?, u16_at(2)?);
        let rate = u32::from(u16_at(4)?) | u32::from(u16_at(6)?) << 16;
        let bits = u16_at(14)?;
        if tag == 0xFFFE {
            // WAVE_FORMAT_EXTENSIBLE: the real tag begins the sub-format's GUID
            tag = u16_at(24)?;
        }
        let coding = match (tag, bits) {
            (1, 8) => Coding::Pcm8,
            (1, 16) => Coding::Pcm16,
            (1, 24) => Coding::Pcm24,
            (1, 32) => Coding::Pcm32,
            (3, 32) => Coding::Float32,
            (6, 8) => Coding::G711(Law::Alaw),
            (7, 8) => Coding::G711(Law::Ulaw),
            (tag, bits) => Coding::Other { tag, bits },
        };
        Some(Self { rate, channels, coding })
    }
}
