//! Mixing and fades.

use std::sync::Arc;

/// Longest cross-fade at the loop point of an ambience, in samples (20 ms at 8 kHz).
const SEAM: usize = 160;

/// A background sound that is looped for as long as a call lasts.
///
/// The samples are shared by all calls; a call keeps its position and the few samples in which the end turns into the beginning.
#[derive(Debug, Clone)]
pub struct Ambience {
    samples: Arc<[i16]>,
    /// What to play instead of the last `seam.len()` samples; playing goes on at `samples[seam.len()]`.
    seam: Box<[i16]>,
    /// Gain in units of 1/32768.
    gain: i32,
    position: usize,
}

impl Ambience {
    /// An ambience of `samples` at `level` (0.0 to 1.0; what is outside is moved to the nearest, NaN to 0).
    #[must_use]
    pub fn new(samples: Arc<[i16]>, level: f32) -> Self {
        let len = SEAM.min(samples.len() / 2);
        let tail = &samples[samples.len() - len..];
        // equal power: background noise does not correlate with itself, a linear fade would dip by 3 dB
        let seam = (0..len).map(|n| {
            let t = (n as f32 + 0.5) / len as f32;
            (f32::from(tail[n]) * (1.0 - t).sqrt() + f32::from(samples[n]) * t.sqrt()) as i16
        });
        let seam = seam.collect();
        let level = if level.is_nan() { 0.0 } else { level.clamp(0.0, 1.0) };
        Self { samples, seam, gain: (level * 32768.0) as i32, position: 0 }
    }

    /// The same sound, beginning `offset` samples further on, so that not all calls hear the same moment.
    #[must_use]
    pub fn starting_at(mut self, offset: usize) -> Self {
        self.position = if self.samples.is_empty() { 0 } else { offset % self.samples.len() };
        self
    }

    /// Adds the next `audio.len()` samples of the background to `audio`; what is too loud is clipped.
    pub fn mix_into(&mut self, audio: &mut [i16]) {
        if self.samples.is_empty() || self.gain == 0 {
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
            add_scaled(now, &source[..count], self.gain);
            self.position += count;
            audio = later;
        }
    }
}

fn add_scaled(audio: &mut [i16], source: &[i16], gain: i32) {
    for (sample, &other) in audio.iter_mut().zip(source) {
        // a gain of at most 1 keeps the product within 16 bits
        *sample = sample.saturating_add(((i32::from(other) * gain) >> 15) as i16);
    }
}

/// Adds `other` to `audio`, sample by sample; what is too loud is clipped. The longer one's rest stays as it is.
pub fn add(audio: &mut [i16], other: &[i16]) {
    for (sample, &other) in audio.iter_mut().zip(other) {
        *sample = sample.saturating_add(other);
    }
}

/// Fades the first `count` samples in from silence.
pub fn fade_in(audio: &mut [i16], count: usize) {
    let count = count.min(audio.len());
    for (n, sample) in audio[..count].iter_mut().enumerate() {
        *sample = scale(*sample, n, count);
    }
}

/// Fades out over the first `count` samples; the rest becomes silence. For audio that is cut off here.
pub fn fade_out(audio: &mut [i16], count: usize) {
    let count = count.min(audio.len());
    let (fading, silent) = audio.split_at_mut(count);
    fade_tail(fading, count);
    silent.fill(0);
}

/// Fades out over the last `count` samples. For audio that ends here.
pub fn fade_tail(audio: &mut [i16], count: usize) {
    let count = count.min(audio.len());
    let from = audio.len() - count;
    for (n, sample) in audio[from..].iter_mut().enumerate() {
        *sample = scale(*sample, count - 1 - n, count);
    }
}

/// `sample * part / whole` with `part < whole`, which cannot leave the 16 bits.
fn scale(sample: i16, part: usize, whole: usize) -> i16 {
    (i64::from(sample) * part as i64 / whole as i64) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, mut seed: u32) -> Arc<[i16]> {
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) as i16 / 8
        };
        (0..len).map(|_| next()).collect()
    }

    fn play(ambience: &mut Ambience, len: usize, piece: usize) -> Vec<i16> {
        let mut out = vec![0; len];
        out.chunks_mut(piece).for_each(|piece| ambience.mix_into(piece));
        out
    }

    #[test]
    fn any_frame_size_gives_the_same_sound() {
        let samples = noise(5000, 1);
        let whole = play(&mut Ambience::new(samples.clone(), 0.5), 20_000, 20_000);
        for piece in [1, 7, 160, 961] {
            assert_eq!(play(&mut Ambience::new(samples.clone(), 0.5), 20_000, piece), whole);
        }
        assert_eq!(play(&mut Ambience::new(samples, 0.5).starting_at(3000), 5000, 160), whole[3000..8000]);
    }

    #[test]
    fn the_loop_point_is_smooth() {
        // a ramp jumps by 20,000 where it begins again: with a plain loop that is one step, with a cross-fade many small ones
        let ramp: Arc<[i16]> = (0..4000).map(|n| (n * 5) as i16).collect();
        let heard = play(&mut Ambience::new(ramp, 1.0), 20_000, 160);
        let largest = heard.windows(2).map(|pair| (i32::from(pair[1]) - i32::from(pair[0])).abs()).max();
        assert!(largest < Some(1200), "{largest:?}");
        // and noise keeps its loudness there
        let samples = noise(4000, 3);
        let heard = play(&mut Ambience::new(samples.clone(), 1.0), 4000, 160);
        let ratio = crate::audio::level::rms(&heard[3840..]) / crate::audio::level::rms(&samples);
        assert!((0.8..1.2).contains(&ratio), "{ratio}");
    }

    #[test]
    fn level_and_clipping() {
        let loud: Arc<[i16]> = vec![i16::MAX; 1000].into();
        let mut audio = [i16::MAX, 0, i16::MIN];
        Ambience::new(loud.clone(), 1.0).mix_into(&mut audio);
        assert_eq!(audio, [i16::MAX, 32767, -1]);
        for (level, expected) in [(0.0, 0), (0.5, 16383), (-1.0, 0), (9.0, 32767), (f32::NAN, 0)] {
            let mut audio = [0; 4];
            Ambience::new(loud.clone(), level).mix_into(&mut audio);
            assert_eq!(audio, [expected; 4], "level {level}");
        }
        let lowest: Arc<[i16]> = vec![i16::MIN; 10].into();
        let mut audio = [0; 4];
        Ambience::new(lowest, 1.0).mix_into(&mut audio);
        assert_eq!(audio, [i16::MIN; 4]);
    }

    #[test]
    fn the_shortest_sounds() {
        for len in 0..5 {
            let samples: Arc<[i16]> = vec![100; len].into();
            let heard = play(&mut Ambience::new(samples, 1.0), 1000, 160);
            let expected = if len == 0 { 0 } else { 100 };
            assert!(heard.iter().all(|&sample| (expected..=142).contains(&sample)), "{len}: {heard:?}");
        }
    }

    #[test]
    fn fades() {
        let mut audio = [1000; 10];
        fade_in(&mut audio, 4);
        assert_eq!(audio, [0, 250, 500, 750, 1000, 1000, 1000, 1000, 1000, 1000]);
        let mut audio = [1000; 10];
        fade_out(&mut audio, 4);
        assert_eq!(audio, [750, 500, 250, 0, 0, 0, 0, 0, 0, 0]);
        let mut audio = [1000; 10];
        fade_tail(&mut audio, 4);
        assert_eq!(audio, [1000, 1000, 1000, 1000, 1000, 1000, 750, 500, 250, 0]);
        for count in [0, 3, 100] {
            fade_in(&mut [], count);
            fade_out(&mut [], count);
            fade_tail(&mut [], count);
            fade_tail(&mut [i16::MIN; 3], count);
        }
    }
}
