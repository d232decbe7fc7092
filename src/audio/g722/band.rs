//! What encoder and decoder know of a band alike: the scale of its differences, and the predictor.

use super::tables::{HIGH_STEPS, LOW_STEPS, POWERS};

/// The nearest value of 16 bits.
pub(super) fn saturated(value: i32) -> i32 {
    value.clamp(i16::MIN.into(), i16::MAX.into())
}

/// One band.
#[derive(Debug, Clone)]
pub(super) struct Band {
    /// What the next sample is expected to be.
    pub predicted: i32,
    /// How large differences are.
    pub scale: i32,
    /// Its logarithm.
    log: i32,
    /// The part of `predicted` that comes from differences.
    zeros: i32,
    /// Differences, newest first, and their weights.
    differences: [i32; 6],
    zero_weights: [i32; 6],
    /// Reconstructed samples, newest first, and their weights.
    samples: [i32; 2],
    pole_weights: [i32; 2],
    /// Differences and zeros, together, newest first.
    sums: [i32; 2],
}

impl Band {
    pub fn low() -> Self {
        Self::new(32)
    }

    pub fn high() -> Self {
        Self::new(8)
    }

    fn new(scale: i32) -> Self {
        Self {
            predicted: 0,
            scale,
            log: 0,
            zeros: 0,
            differences: [0; 6],
            zero_weights: [0; 6],
            samples: [0; 2],
            pole_weights: [0; 2],
            sums: [0; 2],
        }
    }

    /// Takes the upper 4 bits of a code of the lower band.
    pub fn learn_low(&mut self, code: usize, levels: [i32; 16]) {
        let difference = (self.scale * levels[code]) >> 15;
        self.log = (((self.log * 127) >> 7) + LOW_STEPS[code]).clamp(0, 18_432);
        self.scale = scale(self.log, 8);
        self.predict(difference);
    }

    /// Takes a code of the upper band.
    pub fn learn_high(&mut self, code: usize, levels: [i32; 4]) {
        let difference = (self.scale * levels[code]) >> 15;
        self.log = (((self.log * 127) >> 7) + HIGH_STEPS[code]).clamp(0, 22_528);
        self.scale = scale(self.log, 10);
        self.predict(difference);
    }

    /// Adapts the predictor (block 4 of the recommendation) and predicts the next sample.
    fn predict(&mut self, difference: i32) {
        let sample = saturated(self.predicted + difference);
        let sum = saturated(self.zeros + difference);
        let same = |a: i32, b: i32| (a < 0) == (b < 0);
        // the poles
        let [first, second] = self.pole_weights;
        let up = saturated(first * 4);
        let up = if same(sum, self.sums[0]) { (-up).min(32_767) } else { up };
        let mut new_second = (up >> 7) + if same(sum, self.sums[1]) { 128 } else { -128 } + ((second * 32_512) >> 15);
        new_second = new_second.clamp(-12_288, 12_288);
        let limit = 15_360 - new_second;
        let new_first = ((first * 32_640) >> 15) + if same(sum, self.sums[0]) { 192 } else { -192 };
        self.pole_weights = [saturated(new_first).clamp(-limit, limit), new_second];
        // the zeros
        let step = if difference == 0 { 0 } else { 128 };
        for (weight, &before) in self.zero_weights.iter_mut().zip(&self.differences) {
            let toward = if same(difference, before) { step } else { -step };
            *weight = saturated(toward + ((*weight * 32_640) >> 15));
        }
        self.differences.rotate_right(1);
        self.differences[0] = difference;
        self.samples = [sample, self.samples[0]];
        self.sums = [sum, self.sums[0]];
        // the prediction
        let weigh = |(weight, value): (&i32, &i32)| (weight * saturated(value * 2)) >> 15;
        let poles: i32 = self.pole_weights.iter().zip(&self.samples).map(weigh).sum();
        self.zeros = saturated(self.zero_weights.iter().zip(&self.differences).map(weigh).sum());
        self.predicted = saturated(saturated(poles) + self.zeros);
    }
}

/// From the logarithm to the scale.
fn scale(log: i32, shift: i32) -> i32 {
    let power = POWERS[(log >> 6 & 31) as usize];
    let down = shift - (log >> 11);
    let scale = if down < 0 { power << -down } else { power >> down };
    scale << 2
}
