//! Tones: a sine, and the pairs of them that are DTMF digits.

use super::level::amplitude_of_dbm0;
use super::{Rate, mix};
use std::f32::consts::TAU;
use std::time::Duration;

/// The keys of a telephone, by row.
pub(super) const KEYS: [[char; 4]; 4] =
    [['1', '2', '3', 'A'], ['4', '5', '6', 'B'], ['7', '8', '9', 'C'], ['*', '0', '#', 'D']];
/// The frequencies of the rows, then those of the columns.
pub(super) const FREQUENCIES: [f64; 8] = [697.0, 770.0, 852.0, 941.0, 1209.0, 1336.0, 1477.0, 1633.0];

/// How long a digit sounds that is sent, and how long the pause behind it is.
const DIAL: Duration = Duration::from_millis(100);
/// How long a digit that is sent takes to its full level, and back to silence.
const RAMP: Duration = Duration::from_millis(5);
/// The levels of the two tones of a digit that is sent, in dBm0: the higher one is weakened more on its way.
const SENT: [f32; 2] = [-6.0, -4.0];

/// One or two sines that go on for ever.
#[derive(Debug, Clone)]
pub struct Tone {
    sines: [Sine; 2],
    amplitudes: [f32; 2],
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
        Self { sines: [Sine::new(rate, hz), Sine::default()], amplitudes: [f32::from(amplitude), 0.0] }
    }

    /// The two tones of a DTMF digit (`0`-`9`, `*`, `#`, `A`-`D`), each at half of `amplitude`; `None` if it is no such digit.
    #[must_use]
    pub fn dtmf(rate: Rate, digit: char, amplitude: i16) -> Option<Self> {
        Self::pair(rate, digit, [f32::from(amplitude) / 2.0; 2])
    }

    fn pair(rate: Rate, digit: char, amplitudes: [f32; 2]) -> Option<Self> {
        let digit = digit.to_ascii_uppercase();
        let place = |(row, keys): (usize, &[char; 4])| keys.iter().position(|&key| key == digit).map(|at| (row, at));
        let (row, column) = KEYS.iter().enumerate().find_map(place)?;
        let sines = [FREQUENCIES[row], FREQUENCIES[4 + column]].map(|hz| Sine::new(rate, hz as f32));
        Some(Self { sines, amplitudes })
    }

    /// Overwrites `out` with the next samples.
    pub fn fill(&mut self, out: &mut [i16]) {
        let [first, second] = &mut self.sines;
        for sample in out {
            *sample = (first.next() * self.amplitudes[0] + second.next() * self.amplitudes[1]).round() as i16;
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

/// Digits as a telephone sends them in the audio: each 100 ms long and followed by a pause of 100 ms; `None` if one is no digit.
#[must_use]
pub fn dial(rate: Rate, digits: &str) -> Option<Vec<i16>> {
    let (len, ramp) = (rate.samples_in(DIAL), rate.samples_in(RAMP));
    let mut out = Vec::with_capacity(digits.len() * len * 2);
    for digit in digits.chars() {
        let mut samples = Tone::pair(rate, digit, SENT.map(amplitude_of_dbm0))?.take(len);
        mix::fade_in(&mut samples, ramp);
        mix::fade_tail(&mut samples, ramp);
        out.append(&mut samples);
        out.resize(out.len() + len, 0);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::dtmf::Detector;

    #[test]
    fn what_is_dialled_is_found_and_has_its_levels() {
        for rate in Rate::ALL {
            let samples = dial(rate, "0123456789*#aBCd").unwrap();
            assert_eq!(samples.len(), rate.hz() as usize / 5 * 16);
            let mut heard = String::new();
            Detector::new(rate).push(&samples, |digit| heard.push(digit));
            assert_eq!(heard, "0123456789*#ABCD", "{rate}");
            // 941 and 1336 Hz without the ramps
            let steady = &samples[rate.samples_in(RAMP)..rate.samples_in(DIAL - RAMP)];
            for (hz, dbm0) in [(941.0, -6.0), (1336.0, -4.0)] {
                let off = 20.0 * (amplitude_at(steady, rate, hz) / amplitude_of_dbm0(dbm0)).log10();
                assert!(off.abs() < 0.4, "{rate}, {hz} Hz: {off} dB");
            }
        }
        assert_eq!(dial(Rate::R8K, ""), Some(vec![]));
        assert_eq!(dial(Rate::R8K, "12x"), None);
    }

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
