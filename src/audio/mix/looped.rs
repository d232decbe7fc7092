//! A sound without end or beginning, and how loud it is at the moment.

use crate::audio::Rate;
use std::sync::Arc;
use std::time::Duration;

/// How long a sound takes to its full level, and back to silence.
const FADE: Duration = Duration::from_millis(5);
/// Gain 1.
const UNITY: i32 = 1 << 15;

/// Turns something on and off without a click.
#[derive(Debug, Clone)]
pub(super) struct Fader {
    /// The gain of what is on, in units of 1/32768.
    level: i32,
    /// How much of it is there now, likewise.
    part: i32,
    step: i32,
}

impl Fader {
    /// Off. A level outside 0.0 to 1.0 is moved to the nearest, NaN to 0.
    pub fn new(rate: Rate, level: f32) -> Self {
        let level = if level.is_nan() { 0.0 } else { level.clamp(0.0, 1.0) };
        let step = UNITY / rate.samples_in(FADE) as i32 + 1;
        Self { level: (level * UNITY as f32) as i32, part: 0, step }
    }

    /// Whether nothing can be heard and nothing will be.
    pub const fn is_off(&self, on: bool) -> bool {
        self.level == 0 || (self.part == 0 && !on)
    }

    /// Adds `source` to `audio`, on its way to being `on` or off; what is too loud is clipped.
    pub fn add(&mut self, on: bool, audio: &mut [i16], source: impl Iterator<Item = i16>) {
        let goal = if on { UNITY } else { 0 };
        if self.part == goal {
            let gain = if on { self.level } else { 0 };
            audio
                .iter_mut()
                .zip(source)
                .for_each(|(sample, other)| *sample = sample.saturating_add(scaled(other, gain)));
            return;
        }
        for (sample, other) in audio.iter_mut().zip(source) {
            self.part += (goal - self.part).clamp(-self.step, self.step);
            *sample = sample.saturating_add(scaled(other, (self.part * self.level) >> 15));
        }
    }
}

/// A gain of at most 1 keeps the product within 16 bits.
fn scaled(sample: i16, gain: i32) -> i16 {
    ((i32::from(sample) * gain) >> 15) as i16
}

/// A sound that goes on for ever.
///
/// The samples are shared by all calls; a call keeps its position and the few samples in which the end turns into the beginning.
#[derive(Debug, Clone)]
pub(super) struct Loop {
    samples: Arc<[i16]>,
    /// What to play instead of the last `seam.len()` samples; playing goes on at `samples[seam.len()]`.
    seam: Box<[i16]>,
    position: usize,
    fader: Fader,
}

impl Loop {
    pub fn new(rate: Rate, samples: Arc<[i16]>, level: f32) -> Self {
        let len = rate.frame_samples().min(samples.len() / 2);
        let tail = &samples[samples.len() - len..];
        // equal power: background noise does not correlate with itself, a linear fade would dip by 3 dB
        let seam = (0..len).map(|n| {
            let t = (n as f32 + 0.5) / len as f32;
            (f32::from(tail[n]) * (1.0 - t).sqrt() + f32::from(samples[n]) * t.sqrt()) as i16
        });
        Self { seam: seam.collect(), samples, position: 0, fader: Fader::new(rate, level) }
    }

    /// Adds the next `audio.len()` samples. A sound that is off goes on to be, and begins anew when it is turned on.
    pub fn mix_into(&mut self, on: bool, audio: &mut [i16]) {
        if self.samples.is_empty() || self.fader.is_off(on) {
            self.position = 0;
            return;
        }
        let seam_from = self.samples.len() - self.seam.len();
        let mut audio = audio;
        while !audio.is_empty() {
            if self.position >= self.samples.len() {
                self.position = self.seam.len();
            }
            let source = match self.position.checked_sub(seam_from) {
                Some(n) => &self.seam[n..],
                None => &self.samples[self.position..seam_from],
            };
            let count = source.len().min(audio.len());
            let (now, later) = audio.split_at_mut(count);
            self.fader.add(on, now, source[..count].iter().copied());
            self.position += count;
            audio = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::level::rms;

    fn noise(len: usize, mut seed: u32) -> Arc<[i16]> {
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) as i16 / 8
        };
        (0..len).map(|_| next()).collect()
    }

    fn looped(samples: Arc<[i16]>, level: f32) -> Loop {
        Loop::new(Rate::R8K, samples, level)
    }

    fn play(mut sound: Loop, len: usize, piece: usize) -> Vec<i16> {
        let mut out = vec![0; len];
        out.chunks_mut(piece).for_each(|piece| sound.mix_into(true, piece));
        out
    }

    #[test]
    fn any_frame_size_gives_the_same_sound() {
        let samples = noise(5000, 1);
        let whole = play(looped(samples.clone(), 0.5), 20_000, 20_000);
        for piece in [1, 7, 160, 961] {
            assert_eq!(play(looped(samples.clone(), 0.5), 20_000, piece), whole);
        }
    }

    #[test]
    fn the_loop_point_is_smooth() {
        // a ramp jumps by 20,000 where it begins again: with a plain loop that is one step, with a cross-fade many small ones
        let ramp: Arc<[i16]> = (0..4000).map(|n| (n * 5) as i16).collect();
        let heard = play(looped(ramp, 1.0), 20_000, 160);
        let largest = heard.windows(2).map(|pair| (i32::from(pair[1]) - i32::from(pair[0])).abs()).max();
        assert!(largest < Some(1200), "{largest:?}");
        // and noise keeps its loudness there
        let samples = noise(4000, 3);
        let heard = play(looped(samples.clone(), 1.0), 4000, 160);
        let ratio = rms(&heard[3840..]) / rms(&samples);
        assert!((0.8..1.2).contains(&ratio), "{ratio}");
    }

    #[test]
    fn level_and_clipping() {
        let loud: Arc<[i16]> = vec![i16::MAX; 1000].into();
        for (level, expected) in [(0.0, 0), (0.5, 16383), (-1.0, 0), (1.0, 32767), (9.0, 32767), (f32::NAN, 0)] {
            assert_eq!(play(looped(loud.clone(), level), 200, 160)[100..], [expected; 100], "level {level}");
        }
        let lowest: Arc<[i16]> = vec![i16::MIN; 1000].into();
        assert_eq!(play(looped(lowest, 1.0), 200, 160)[100..], [i16::MIN; 100]);
        let mut sound = looped(loud, 1.0);
        sound.mix_into(true, &mut [0; 100]);
        let mut audio = [i16::MAX, 0, i16::MIN];
        sound.mix_into(true, &mut audio);
        assert_eq!(audio, [i16::MAX, 32767, -1]);
    }

    #[test]
    fn the_shortest_sounds() {
        for len in 0..5 {
            let heard = play(looped(vec![100; len].into(), 1.0), 1000, 160);
            let expected = if len == 0 { 0 } else { 100 };
            assert!(heard[40..].iter().all(|&sample| (expected..=142).contains(&sample)), "{len}: {heard:?}");
        }
    }

    #[test]
    fn it_comes_and_goes_without_a_click_and_begins_anew() {
        for rate in Rate::ALL {
            let fade = rate.samples_in(FADE);
            let mut sound = Loop::new(rate, vec![20_000; 10_000].into(), 1.0);
            let mut out = vec![0; fade * 6];
            let (on, off) = out.split_at_mut(fade * 3);
            sound.mix_into(true, on);
            sound.mix_into(false, off);
            let largest = out.windows(2).map(|pair| (pair[1] - pair[0]).abs()).max();
            assert!(largest <= Some((20_000 / fade + 2) as i16), "{rate}: {largest:?}");
            assert_eq!((out[fade * 2], out[fade * 5]), (20_000, 0), "{rate}");
            sound.mix_into(false, &mut [0; 10]);
            assert_eq!(sound.position, 0);
        }
    }
}
