//! The beep of an answering machine: one steady note.
//!
//! A sine obeys `x[n] + x[n−2] = 2·cos(ω)·x[n−1]` exactly. The factor that fits a frame best gives its frequency, and what does not fit says how
//! much else there is: two notes at once (DTMF, ring-back), speech and noise leave far more than a beep.

use super::Rate;

/// Beeps are between these, in Hz.
const NOTES: std::ops::Range<f32> = 350.0..2_500.0;
/// All is compared at about this rate: the faster, the more anything looks like a low note.
const HZ: u32 = 8_000;
/// What may not fit, as a part of the energy: the noise of G.711 does.
const REST: f32 = 0.006;
/// From frame to frame the strength of a beep stays within this; two notes close to each other beat.
const EVEN: std::ops::Range<f32> = 0.75..1.33;
/// The quietest, as mean square (-35 dBFS).
const QUIETEST: f32 = 340_000.0;
/// The frequency of a beep stays within this, as a part of it.
const STEADY: f32 = 0.02;
/// Frames of 20 ms that it lasts at least; vowels do not stay so long on a note so pure.
const LASTS: u32 = 7;

/// Finds beeps.
#[derive(Debug, Clone)]
pub struct Detector {
    rate: f32,
    /// Every so many samples are compared.
    step: usize,
    /// The last frame's note, in Hz, and strength.
    note: Note,
    frames: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Note {
    hertz: f32,
    power: f32,
}

impl Detector {
    /// For audio at `rate`.
    #[must_use]
    pub const fn new(rate: Rate) -> Self {
        let step = if rate.hz() > HZ { (rate.hz() / HZ) as usize } else { 1 };
        Self { rate: rate.hz() as f32 / step as f32, step, note: Note { hertz: 0.0, power: 0.0 }, frames: 0 }
    }

    /// Takes 20 ms. True once for each beep: when it has ended.
    pub fn push(&mut self, samples: &[i16]) -> bool {
        let note = self.note(samples);
        let is_same = note.is_some_and(|note| {
            let before = self.note;
            self.frames > 0
                && (note.hertz - before.hertz).abs() <= STEADY * before.hertz
                // the first frame may hold its beginning only
                && (self.frames == 1 || EVEN.contains(&(note.power / before.power)))
        });
        let ended = self.frames >= LASTS && !is_same;
        self.frames = match note {
            Some(_) if is_same => self.frames + 1,
            Some(_) => 1,
            None => 0,
        };
        self.note = note.unwrap_or_default();
        ended
    }

    /// The one note of a frame.
    fn note(&self, samples: &[i16]) -> Option<Note> {
        let (mut cross, mut middle, mut all) = (0.0_f32, 0.0_f32, 0.0_f32);
        let count = samples.len().checked_sub(2 * self.step).filter(|count| *count > 0)?;
        for n in 0..count {
            let at = |n: usize| f32::from(samples[n]);
            let (here, outer) = (at(n + self.step), at(n) + at(n + 2 * self.step));
            cross += here * outer;
            middle += here * here;
            all += outer * outer;
        }
        if middle / (count as f32) < QUIETEST {
            return None;
        }
        let factor = cross / middle;
        if all - factor * cross > REST * middle || factor.abs() >= 2.0 {
            return None;
        }
        let hertz = (factor / 2.0).acos() * self.rate / std::f32::consts::TAU;
        NOTES.contains(&hertz).then_some(Note { hertz, power: middle })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{g711, tone, wav};

    fn beeps(samples: &[i16], rate: Rate) -> usize {
        let mut detector = Detector::new(rate);
        samples.chunks_exact(rate.frame_samples()).filter(|frame| detector.push(frame)).count()
    }

    fn note(hertz: f32, ms: usize, rate: Rate, level: f32) -> Vec<i16> {
        let mut samples: Vec<i16> = (0..rate.hz() as usize * ms / 1_000)
            .map(|n| (level * (std::f32::consts::TAU * hertz * n as f32 / rate.hz() as f32).sin()) as i16)
            .collect();
        samples.resize(samples.len() + rate.frame_samples() * 5, 0);
        samples
    }

    #[test]
    fn a_beep_of_any_note_is_found_once_also_through_a_telephone_line() {
        for rate in [Rate::R8K, Rate::R16K, Rate::R48K] {
            for hertz in [400.0, 440.0, 850.0, 1_000.0, 1_400.0, 2_000.0] {
                for ms in [200, 500, 1_500] {
                    assert_eq!(beeps(&note(hertz, ms, rate, 6_000.0), rate), 1, "{hertz} Hz, {ms} ms at {rate:?}");
                }
            }
        }
        let line: Vec<i16> = note(1_000.0, 400, Rate::R8K, 4_000.0)
            .iter()
            .enumerate()
            .map(|(n, sample)| {
                g711::Law::Ulaw
                    .decode_byte(g711::Law::Ulaw.encode_sample(sample.saturating_add((n * 7_919 % 83) as i16 - 41)))
            })
            .collect();
        assert_eq!(beeps(&line, Rate::R8K), 1);
    }

    #[test]
    fn speech_keys_and_other_signals_are_none() {
        for speech in [
            &include_bytes!("../../fixtures/audio/caller.wav")[..],
            include_bytes!("../../fixtures/audio/conf-getpin.wav"),
            include_bytes!("../../fixtures/audio/tt-somethingwrong.wav"),
        ] {
            let (_, samples) = wav::read(speech).unwrap();
            assert_eq!(beeps(&samples, Rate::R8K), 0);
        }
        assert_eq!(beeps(&tone::dial(Rate::R8K, "1234567890*#").unwrap(), Rate::R8K), 0);
        let ringing: Vec<i16> = note(440.0, 2_000, Rate::R8K, 5_000.0)
            .iter()
            .zip(note(480.0, 2_000, Rate::R8K, 5_000.0))
            .map(|(a, b)| a + b)
            .collect();
        assert_eq!(beeps(&ringing, Rate::R8K), 0);
        // a click, a note that is too short, silence, full scale
        assert_eq!(beeps(&note(1_000.0, 80, Rate::R8K, 6_000.0), Rate::R8K), 0);
        assert_eq!(beeps(&[0; 8_000], Rate::R8K), 0);
        assert_eq!(beeps(&[i16::MIN; 8_000], Rate::R8K), 0);
    }
}
