//! Sound in the place of what was lost.

use crate::audio::Rate;

/// The last sound is repeated and faded for so long, in frames of 20 ms; behind it is silence.
const FADE_FRAMES: usize = 3;

/// Remembers the last sound.
#[derive(Debug)]
pub(super) struct Concealer {
    last: Vec<i16>,
    frame: usize,
    /// Samples in place of lost ones since the last sound.
    made: usize,
}

impl Concealer {
    pub fn new(rate: Rate) -> Self {
        let frame = rate.frame_samples();
        Self { last: Vec::with_capacity(frame), frame, made: 0 }
    }

    /// Takes what was heard.
    pub fn heard(&mut self, samples: &[i16]) {
        self.made = 0;
        self.last.clear();
        self.last.extend_from_slice(&samples[samples.len().saturating_sub(self.frame)..]);
    }

    /// Nothing was heard of whoever speaks now.
    pub fn forget(&mut self) {
        self.last.clear();
    }

    /// Appends `count` samples in place of lost ones.
    pub fn conceal(&mut self, count: usize, out: &mut Vec<i16>) {
        let fade = FADE_FRAMES * self.frame;
        let made = self.made;
        self.made = made.saturating_add(count);
        out.extend((made..self.made).map(|at| match self.last.get(at % self.last.len().max(1)) {
            Some(&sample) if at < fade => faded(sample, fade - at, fade),
            _ => 0,
        }));
    }
}

/// `sample` times `left` / `of`.
fn faded(sample: i16, left: usize, of: usize) -> i16 {
    let (left, of) = (i32::try_from(left).unwrap_or(0), i32::try_from(of).unwrap_or(1));
    // no louder than it was: it fits
    i16::try_from(i32::from(sample) * left / of.max(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_fades_and_is_silence_after_60_ms() {
        let mut concealer = Concealer::new(Rate::R8K);
        let mut out = Vec::new();
        concealer.conceal(160, &mut out);
        assert_eq!(out, [0; 160]);
        concealer.heard(&[1_000; 320]);
        out.clear();
        // however it is asked for
        concealer.conceal(100, &mut out);
        concealer.conceal(700, &mut out);
        assert_eq!(out.len(), 800);
        assert_eq!((out[0], out[240], out[479]), (1_000, 500, 2));
        assert!(out[..480].is_sorted_by(|a, b| a >= b) && out[480..].iter().all(|&sample| sample == 0));
        concealer.heard(&[i16::MIN; 160]);
        out.clear();
        concealer.conceal(1, &mut out);
        assert_eq!(out, [i16::MIN]);
        concealer.forget();
        concealer.conceal(1, &mut out);
        assert_eq!(out[1], 0);
    }
}
