//! ITU-T G.722 at 64 kbit/s: 16 kHz audio in 8 bits per pair of samples.
//!
//! A pair of mirror filters splits the audio at 4 kHz; ADPCM codes the lower band with 6 bits, the upper one with 2. (The 48 and 56 kbit/s
//! modes only leave out bits of the lower band that other data may use, which nobody does over IP.)

mod band;
mod tables;

use band::Band;
use tables::{
    HIGH_LEVELS, HIGH_NEGATIVE, HIGH_POSITIVE, LOW_LEVELS_4, LOW_LEVELS_6, LOW_NEGATIVE, LOW_POSITIVE, LOW_THRESHOLDS,
    MIRROR,
};

/// The rate of the audio. (SDP says 8000 for historical reasons, and RTP counts in that.)
pub const HZ: u32 = 16_000;

/// What the two mirror filters remember.
#[derive(Debug, Clone, Default)]
struct Mirror {
    /// Newest last.
    samples: [i32; 24],
}

impl Mirror {
    /// Takes two samples; the sums over the even ones that it remembers and over the odd ones.
    fn turn(&mut self, pair: [i32; 2]) -> [i32; 2] {
        self.samples.copy_within(2.., 0);
        self.samples[22..].copy_from_slice(&pair);
        let mut sums = [0; 2];
        for (n, &weight) in MIRROR.iter().enumerate() {
            sums[0] += self.samples[2 * n] * weight;
            sums[1] += self.samples[2 * n + 1] * MIRROR[11 - n];
        }
        sums
    }
}

/// Writes G.722.
#[derive(Debug, Clone)]
pub struct Encoder {
    low: Band,
    high: Band,
    mirror: Mirror,
    /// A sample whose partner has not come yet.
    odd: Option<i16>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { low: Band::low(), high: Band::high(), mirror: Mirror::default(), odd: None }
    }
}

impl Encoder {
    /// Appends to `codes` what `samples`, any number of them, become. A last one without a partner waits for it.
    pub fn encode(&mut self, samples: &[i16], codes: &mut Vec<u8>) {
        for &sample in samples {
            match self.odd.take() {
                None => self.odd = Some(sample),
                Some(first) => codes.push(self.pair(first, sample)),
            }
        }
    }

    fn pair(&mut self, first: i16, second: i16) -> u8 {
        let [even, odd] = self.mirror.turn([first.into(), second.into()]);
        let (low, high) = ((odd + even) >> 14, (odd - even) >> 14);
        let low_code = self.low_code(band::saturated(low - self.low.predicted));
        self.low.learn_low(low_code >> 2, LOW_LEVELS_4);
        let high_code = self.high_code(band::saturated(high - self.high.predicted));
        self.high.learn_high(high_code, HIGH_LEVELS);
        (high_code << 6 | low_code) as u8
    }

    fn low_code(&self, off: i32) -> usize {
        let magnitude = if off >= 0 { off } else { -(off + 1) };
        let within = |threshold: &i32| magnitude >= (threshold * self.low.scale) >> 12;
        let level = 1 + LOW_THRESHOLDS.iter().take_while(|threshold| within(threshold)).count();
        if off < 0 { LOW_NEGATIVE[level] } else { LOW_POSITIVE[level] }
    }

    fn high_code(&self, off: i32) -> usize {
        let magnitude = if off >= 0 { off } else { -(off + 1) };
        let level = if magnitude >= (564 * self.high.scale) >> 12 { 2 } else { 1 };
        if off < 0 { HIGH_NEGATIVE[level] } else { HIGH_POSITIVE[level] }
    }
}

/// Reads G.722.
#[derive(Debug, Clone)]
pub struct Decoder {
    low: Band,
    high: Band,
    mirror: Mirror,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { low: Band::low(), high: Band::high(), mirror: Mirror::default() }
    }
}

impl Decoder {
    /// Appends to `samples` what `codes` mean: two samples for each of them.
    pub fn decode(&mut self, codes: &[u8], samples: &mut Vec<i16>) {
        samples.reserve(codes.len() * 2);
        for &code in codes {
            let (low_code, high_code) = (usize::from(code & 0x3F), usize::from(code >> 6));
            let off = (self.low.scale * LOW_LEVELS_6[low_code]) >> 15;
            let low = (self.low.predicted + off).clamp(-16_384, 16_383);
            self.low.learn_low(low_code >> 2, LOW_LEVELS_4);
            let off = (self.high.scale * HIGH_LEVELS[high_code]) >> 15;
            let high = (self.high.predicted + off).clamp(-16_384, 16_383);
            self.high.learn_high(high_code, HIGH_LEVELS);
            let [second, first] = self.mirror.turn([low + high, low - high]);
            samples.extend([first, second].map(|sample| band::saturated(sample >> 11) as i16));
        }
    }
}

#[cfg(test)]
mod tests;
