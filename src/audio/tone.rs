//! Tones: a sine, and the pairs of them that are DTMF digits.

use super::Rate;
use std::f32::consts::TAU;

/// One or two sines that go on for ever.
#[derive(Debug, Clone)]
pub struct Tone {
    sines: [Sine; 2],
    amplitude: f32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sine {
    phase: f32,
    step: f32,
}

impl Sine {
    fn new(rate: Rate, hz: f32) -> Self {
        Self { phase: 0.0, step: hz * TAU / rate.hz() as f32 }
    }

    fn next(&mut self) -> f32 {
        let value = self.phase.sin();
        self.phase = (self.phase + self.step) % TAU;
        value
    }
}

impl Tone {
    /// A sine of `hz`, its peaks at `amplitude`.
    #[must_use]
    pub fn sine(rate: Rate, hz: f32, amplitude: i16) -> Self {
        Self { sines: [Sine::new(rate, hz), Sine::default()], amplitude: f32::from(amplitude) }
    }

    /// The two tones of a DTMF digit (`0`-`9`, `*`, `#`, `A`-`D`), each at half of `amplitude`; `None` if it is no such digit.
    #[must_use]
    pub fn dtmf(rate: Rate, digit: char, amplitude: i16) -> Option<Self> {
        const KEYS: [&str; 4] = ["123A", "456B", "789C", "*0#D"];
        const ROWS: [f32; 4] = [697.0, 770.0, 852.0, 941.0];
        const COLUMNS: [f32; 4] = [1209.0, 1336.0, 1477.0, 1633.0];
        let digit = digit.to_ascii_uppercase();
        let (low, high) =
            KEYS.iter().zip(ROWS).find_map(|(keys, row)| keys.find(digit).map(|column| (row, COLUMNS[column])))?;
        Some(Self { sines: [Sine::new(rate, low), Sine::new(rate, high)], amplitude: f32::from(amplitude) / 2.0 })
    }

    /// Overwrites `out` with the next samples.
    pub fn fill(&mut self, out: &mut [i16]) {
        let [first, second] = &mut self.sines;
        for sample in out {
            *sample = ((first.next() + second.next()) * self.amplitude).round() as i16;
        }
    }

    /// The next `count` samples.
    #[must_use]
    pub fn take(&mut self, count: usize) -> Vec<i16> {
        let mut out = vec![0; count];
        self.fill(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Power at one frequency (Goertzel), relative to a sine whose peaks are at 1.
    fn amplitude_at(samples: &[i16], rate: Rate, hz: f32) -> f32 {
        let (mut re, mut im) = (0.0, 0.0);
        for (n, &sample) in samples.iter().enumerate() {
            let angle = f64::from(hz) * std::f64::consts::TAU * n as f64 / f64::from(rate.hz());
            re += f64::from(sample) * angle.cos();
            im += f64::from(sample) * angle.sin();
        }
        (2.0 * re.hypot(im) / samples.len() as f64) as f32
    }

    #[test]
    fn a_sine_has_its_frequency_and_amplitude_at_every_rate() {
        for rate in Rate::ALL {
            let mut tone = Tone::sine(rate, 1000.0, 10_000);
            let mut samples = tone.take(rate.hz() as usize / 2);
            samples.extend(tone.take(rate.hz() as usize / 2));
            let at = amplitude_at(&samples, rate, 1000.0);
            assert!((at - 10_000.0).abs() < 20.0, "{rate}: {at}");
            assert!(amplitude_at(&samples, rate, 1100.0) < 20.0);
        }
    }

    #[test]
    fn digits_are_two_tones() {
        for (digit, low, high) in
            [('1', 697.0, 1209.0), ('#', 941.0, 1477.0), ('0', 941.0, 1336.0), ('d', 941.0, 1633.0)]
        {
            let samples = Tone::dtmf(Rate::R8K, digit, 16_000).unwrap().take(8000);
            for hz in [697.0, 770.0, 852.0, 941.0, 1209.0, 1336.0, 1477.0, 1633.0] {
                let expected = if hz == low || hz == high { 8000.0 } else { 0.0 };
                let at = amplitude_at(&samples, Rate::R8K, hz);
                assert!((at - expected).abs() < 40.0, "{digit} {hz}: {at}");
            }
        }
        assert!(Tone::dtmf(Rate::R8K, 'x', 1).is_none() && Tone::dtmf(Rate::R8K, 'é', 1).is_none());
    }

    #[test]
    fn full_scale_does_not_wrap() {
        let samples = Tone::dtmf(Rate::R8K, '5', i16::MAX).unwrap().take(8000);
        assert!(samples.windows(2).all(|pair| (i32::from(pair[1]) - i32::from(pair[0])).abs() < 40_000));
    }
}
