//! Gain control: brings speech to one level, smoothly, and leaves noise where it is.

use super::Rate;

/// The level that speech is brought to, as root mean square: -20 dBFS.
pub const TARGET: f32 = 3276.8;
/// The most that is taken or added, -20 and 30 dB.
const GAINS: std::ops::RangeInclusive<f32> = 0.1..=32.0;
/// What is quieter than this (-66 dBFS) is no speech, whatever it is.
const QUIETEST: f32 = 16.0;
/// How far above the noise speech is: 9 dB.
const ABOVE_NOISE: f32 = 2.8;
/// How long a piece is, over which the level is measured, in pieces a second.
const PIECES_PER_SECOND: u32 = 100;
/// The noise is the quietest piece of this many: 1.6 to 2 s. Speech pauses more often.
const NOISE_PIECES: [u32; 2] = [5, 40];
/// How fast the measured level follows louder speech (in 500 ms) and quieter speech (in 1 s), per piece.
const FOLLOWS: [f32; 2] = [0.02, 0.01];
/// How fast the gain falls (60 dB/s) and rises (12 dB/s), per piece.
const MOVES: std::ops::RangeInclusive<f32> = 0.933..=1.0139;
/// From here on the limiter bends: -2.3 dBFS.
const KNEE: f32 = 25_000.0;

/// Follows one stream.
#[derive(Debug, Clone)]
pub struct GainControl {
    piece: usize,
    gain: f32,
    /// Mean square of the speech so far; `None` before any.
    level: Option<f32>,
    /// Pieces of speech so far: the first ones count the more.
    pieces: f32,
    noise: Noise,
    /// The newest piece: its squares and how many they are.
    squares: (f32, usize),
    /// The gain at the end of the piece that is being played.
    goal: f32,
}

/// The least of the last seconds, kept as the least of each of a few spans.
#[derive(Debug, Clone)]
struct Noise {
    spans: [f32; NOISE_PIECES[0] as usize],
    pieces: u32,
}

impl Noise {
    /// Takes the mean square of a piece; the noise's.
    fn hear(&mut self, square: f32) -> f32 {
        if self.pieces == NOISE_PIECES[1] {
            self.spans.rotate_right(1);
            self.spans[0] = f32::MAX;
            self.pieces = 0;
        }
        self.pieces += 1;
        self.spans[0] = self.spans[0].min(square);
        self.spans.iter().copied().fold(f32::MAX, f32::min)
    }
}

impl GainControl {
    /// For a stream at `rate`.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self {
            piece: (rate.hz() / PIECES_PER_SECOND) as usize,
            gain: 1.0,
            level: None,
            pieces: 0.0,
            noise: Noise { spans: [f32::MAX; NOISE_PIECES[0] as usize], pieces: 0 },
            squares: (0.0, 0),
            goal: 1.0,
        }
    }

    /// The gain now.
    #[must_use]
    pub const fn gain(&self) -> f32 {
        self.gain
    }

    /// Changes `audio`, any number of samples, in place.
    pub fn process(&mut self, audio: &mut [i16]) {
        let mut rest = audio;
        while !rest.is_empty() {
            let left = self.piece - self.squares.1;
            let (now, later) = rest.split_at_mut(rest.len().min(left));
            self.squares.0 += now.iter().map(|&sample| f32::from(sample) * f32::from(sample)).sum::<f32>();
            self.squares.1 += now.len();
            // along a line to the goal, so that nothing clicks
            let step = (self.goal - self.gain) / left as f32;
            for sample in now {
                self.gain += step;
                *sample = limited(f32::from(*sample) * self.gain);
            }
            rest = later;
            if self.squares.1 == self.piece {
                self.measure();
            }
        }
    }

    /// A piece is complete: decides where the gain goes.
    fn measure(&mut self) {
        let square = self.squares.0 / self.piece as f32;
        self.squares = (0.0, 0);
        self.gain = self.goal;
        let noise = self.noise.hear(square);
        if square < QUIETEST * QUIETEST || square < noise * ABOVE_NOISE * ABOVE_NOISE {
            return;
        }
        let level = self.level.get_or_insert(square);
        self.pieces += 1.0;
        let follows = FOLLOWS[usize::from(square < *level)].max(1.0 / self.pieces);
        *level += (square - *level) * follows;
        let wanted = (TARGET / level.sqrt()).clamp(*GAINS.start(), *GAINS.end());
        self.goal = self.gain * (wanted / self.gain).clamp(*MOVES.start(), *MOVES.end());
    }
}

/// Bent towards full scale instead of cut off at it.
fn limited(sample: f32) -> i16 {
    const ROOM: f32 = 32_767.0 - KNEE;
    let over = sample.abs() - KNEE;
    if over <= 0.0 {
        return sample as i16;
    }
    (KNEE + ROOM * over / (over + ROOM)).copysign(sample) as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{level::peak, level::rms, wav};
    use proptest::prelude::*;

    fn caller() -> Vec<i16> {
        wav::read(include_bytes!("../../fixtures/audio/caller.wav")).unwrap().1
    }

    /// Mean level of what is not a pause, in dBFS.
    fn speech_level(samples: &[i16]) -> f32 {
        let loudest = samples.chunks(160).map(rms).fold(0.0, f32::max);
        let speech: Vec<i16> =
            samples.chunks(160).filter(|piece| rms(piece) > loudest / 20.0).flatten().copied().collect();
        crate::audio::level::dbfs(&speech)
    }

    fn scaled(samples: &[i16], db: f32) -> Vec<i16> {
        samples.iter().map(|&sample| (f32::from(sample) * 10f32.powf(db / 20.0)) as i16).collect()
    }

    fn controlled(rate: Rate, samples: &[i16]) -> Vec<i16> {
        let mut control = GainControl::new(rate);
        let mut out = samples.to_vec();
        out.chunks_mut(rate.frame_samples()).for_each(|frame| control.process(frame));
        out
    }

    #[test]
    fn quiet_and_loud_speakers_are_brought_to_one_level() {
        let speech = caller().repeat(3);
        let to_minus_27 = -27.0 - speech_level(&speech);
        for db in [-20.0, -10.0, 0.0, 10.0, 20.0] {
            let samples = scaled(&speech, to_minus_27 + db);
            let heard = speech_level(&controlled(Rate::R8K, &samples)[samples.len() / 3..]);
            println!("{db} dB: {:.1} becomes {heard:.1} dBFS", speech_level(&samples));
            assert!((heard + 20.0).abs() < 3.0, "{db} dB: {heard} dBFS");
        }
    }

    #[test]
    fn noise_and_silence_are_not_pumped_up() {
        let mut seed = 1u32;
        let noise: Vec<i16> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) as i16 / 64
        })
        .take(80_000)
        .collect();
        let heard = controlled(Rate::R8K, &noise);
        assert!(speech_level(&heard) < speech_level(&noise) + 1.0);
        let faint: Vec<i16> = (0..80_000).map(|n| (n % 3) as i16 - 1).collect();
        assert_eq!(controlled(Rate::R8K, &faint), faint);
        // pauses of a quiet speaker: the gain stays
        let quiet = [scaled(&caller(), -20.0), vec![0; 80_000]].concat();
        let mut control = GainControl::new(Rate::R8K);
        control.process(&mut quiet[..76_000].to_vec());
        let before = control.gain();
        control.process(&mut quiet[76_000..].to_vec());
        assert!(before > 2.0 && (control.gain() / before - 1.0).abs() < 0.02, "{before}, {}", control.gain());
    }

    #[test]
    fn the_gain_moves_without_a_click() {
        // a tone that is suddenly 30 dB louder, and quieter again
        let tone = |n: usize| (n as f32 * 0.7).sin();
        let level = |n: usize| if (16_000..32_000).contains(&n) { 30_000.0 } else { 900.0 };
        let samples: Vec<i16> = (0..48_000).map(|n| (tone(n) * level(n)) as i16).collect();
        let heard = controlled(Rate::R8K, &samples);
        let gains: Vec<f32> = samples
            .iter()
            .zip(&heard)
            .filter(|(from, _)| (500..25_000).contains(&from.unsigned_abs()))
            .map(|(&from, &to)| f32::from(to) / f32::from(from))
            .collect();
        let largest = gains.windows(2).map(|pair| (pair[1] / pair[0] - 1.0).abs()).fold(0.0, f32::max);
        assert!(largest < 0.02, "{largest}");
    }

    #[test]
    fn damaged_speech_stays_within_bounds() {
        let clipped: Vec<i16> = caller().iter().map(|&s| s.saturating_mul(40)).collect();
        assert!((speech_level(&controlled(Rate::R8K, &clipped)) + 20.0).abs() < 6.0);
        for samples in
            [vec![i16::MIN; 16_000], caller().iter().map(|s| s.swap_bytes()).collect(), vec![i16::MAX; 16_000]]
        {
            assert!(peak(&controlled(Rate::R8K, &samples)) <= 32_768);
        }
        let shifted: Vec<i16> = caller().iter().map(|&s| s.saturating_add(9_000)).collect();
        let heard = controlled(Rate::R8K, &shifted);
        assert!(rms(&heard) <= rms(&shifted) * 1.1);
    }

    proptest! {
        #[test]
        fn any_samples_in_any_pieces(samples in prop::collection::vec(any::<i16>(), 0..3000), piece in 1usize..500) {
            let mut whole = samples.clone();
            GainControl::new(Rate::R8K).process(&mut whole);
            let mut pieces = samples;
            let mut control = GainControl::new(Rate::R8K);
            pieces.chunks_mut(piece).for_each(|piece| control.process(piece));
            prop_assert!(control.gain().is_finite());
            // the steps are rounded differently
            prop_assert!(whole.iter().zip(&pieces).all(|(a, b)| a.abs_diff(*b) <= 2));
        }
    }
}
