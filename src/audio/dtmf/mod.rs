//! DTMF digits that come as tones in the audio: found within the limits of ITU-T Q.24, and muted for those who are to hear words.
//!
//! Two steps, the first cheap and the second rare:
//!
//! 1. Every 5 ms: how strong the eight frequencies are (Goertzel's sums, by table), and how much of all energy the strongest of either group
//!    have. Two neighbouring windows of 15 ms that look like the same digit make a suspicion.
//! 2. Then the last 30 ms are taken as two sines of any frequency, phase and level, and nothing else (`fit`). What the two
//!    leave unexplained decides: noise at 15 dB leaves 3 %, speech that happens to be strong at both frequencies leaves more than a
//!    tenth (its other harmonics, and sines that are not steady), a tone shorter than 27 ms leaves what is not there of it.

mod fit;
mod mute;

pub use mute::{InbandDtmf, Suppressor};

use super::Rate;
use super::level::amplitude_of_dbm0;
use super::tone::{FREQUENCIES, KEYS};

/// Pieces of 5 ms in a second.
const HOPS_PER_SECOND: u32 = 200;
/// Pieces in a window that shows whether there may be a digit.
const SHORT: usize = 3;
/// Pieces in which there must be nothing but the digit.
const LONG: usize = 2 * SHORT;
/// The least part of all energy that the two frequencies of a suspicion have. A tone that is 1.5 % off has lost a third in 15 ms.
const SUSPICIOUS: f32 = 0.45;
/// The weakest tone of a pair, in dBm0. Q.24 wants -25 (most networks) to -29.
const WEAKEST: f32 = -34.0;
/// How far a frequency may be off: Q.24 accepts 1.5 % and rejects 3.5 %.
const TOLERANCE: f64 = 0.025;
/// Energy that the two tones may leave unexplained.
const UNEXPLAINED: f64 = 0.12;
/// How much louder than the row's tone the column's may be, in dB: Q.24 accepts -8 to 4.
const TWIST: std::ops::RangeInclusive<f64> = -9.5..=5.5;
/// So many windows without the digit end it (Q.24: a pause of 40 ms does, an interruption of 10 ms does not).
const GONE: u32 = 4;
/// How fast the estimate of a constant offset follows, per piece.
const OFFSET_SPEED: f32 = 1.0 / 16.0;

/// Finds digits in a stream of samples.
#[derive(Debug, Clone)]
pub struct Detector {
    rate: Rate,
    /// Per sample of a piece, the cosines of the eight frequencies and then the sines.
    waves: Box<[[f32; 16]]>,
    /// By how much the eight phases move on in a piece, as cosines and sines.
    advance: [[f32; 16]; SHORT],
    /// The last `LONG` pieces of samples.
    samples: Box<[i16]>,
    /// How many of the newest piece are there.
    filled: usize,
    /// What was found in the last pieces, newest first.
    pieces: [Piece; SHORT],
    /// What the last windows looked like, newest first.
    looks: [Option<Key>; SHORT + 1],
    offset: Option<f32>,
    /// The digit that sounds, and for how many windows it has not been there.
    sounding: Option<(Key, u32)>,
    least_amplitude: f32,
}

/// Sums over 5 ms: the eight frequencies', as the table has them, and that of the squares.
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    sums: [f32; 16],
    energy: f32,
}

/// A row and a column.
type Key = (usize, usize);

impl Detector {
    /// A detector for audio at `rate`.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let len = (rate.hz() / HOPS_PER_SECOND) as usize;
        let table = |sample: usize| {
            std::array::from_fn(|n| {
                let angle = FREQUENCIES[n % 8] * std::f64::consts::TAU * sample as f64 / f64::from(rate.hz());
                if n < 8 { angle.cos() as f32 } else { angle.sin() as f32 }
            })
        };
        Self {
            rate,
            waves: (0..len).map(table).collect(),
            advance: std::array::from_fn(|pieces| table(pieces * len)),
            samples: vec![0; len * LONG].into_boxed_slice(),
            filled: 0,
            pieces: [Piece::default(); SHORT],
            looks: [None; SHORT + 1],
            offset: None,
            sounding: None,
            least_amplitude: amplitude_of_dbm0(WEAKEST),
        }
    }

    /// Takes the next samples, any number of them; calls `found` with each digit, 30 to 35 ms after its tone has begun.
    pub fn push(&mut self, samples: &[i16], mut found: impl FnMut(char)) {
        let mut rest = samples;
        while !rest.is_empty() {
            let from = self.samples.len() - self.waves.len() + self.filled;
            let free = &mut self.samples[from..];
            let (now, later) = rest.split_at(rest.len().min(free.len()));
            free[..now.len()].copy_from_slice(now);
            self.filled += now.len();
            rest = later;
            if self.filled == self.waves.len() {
                self.listen();
                if let Some((row, column)) = self.judge() {
                    found(KEYS[row][column]);
                }
                self.samples.copy_within(self.filled.., 0);
                self.filled = 0;
            }
        }
    }

    /// Whether a digit sounds; true until 20 ms after its end.
    #[must_use]
    pub const fn is_sounding(&self) -> bool {
        self.sounding.is_some()
    }

    /// Takes the newest piece into the sums, and says what the newest window looks like.
    fn listen(&mut self) {
        let samples = &self.samples[self.samples.len() - self.waves.len()..];
        let mean = samples.iter().map(|&sample| i32::from(sample)).sum::<i32>() as f32 / samples.len() as f32;
        let offset = self.offset.get_or_insert(mean);
        *offset += (mean - *offset) * OFFSET_SPEED;
        let mut piece = Piece::default();
        for (&sample, waves) in samples.iter().zip(&self.waves) {
            let sample = f32::from(sample) - *offset;
            piece.energy += sample * sample;
            piece.sums.iter_mut().zip(waves).for_each(|(sum, wave)| *sum += sample * wave);
        }
        self.pieces.rotate_right(1);
        self.pieces[0] = piece;
        let look = self.look();
        self.looks.rotate_right(1);
        self.looks[0] = look;
    }

    /// Which digit the newest window looks like.
    fn look(&self) -> Option<Key> {
        let len = (self.waves.len() * SHORT) as f32;
        let energy: f32 = self.pieces.iter().map(|piece| piece.energy).sum();
        if energy < self.least_amplitude.powi(2) * len / 2.0 {
            return None;
        }
        let (mut re, mut im) = ([0.0; 8], [0.0; 8]);
        for (piece, advance) in self.pieces.iter().zip(&self.advance) {
            for n in 0..8 {
                // the older a piece, the further its phase is turned on; the sums hold the complex conjugates
                re[n] += piece.sums[n] * advance[n] + piece.sums[n + 8] * advance[n + 8];
                im[n] += piece.sums[n + 8] * advance[n] - piece.sums[n] * advance[n + 8];
            }
        }
        let energies: [f32; 8] = std::array::from_fn(|n| (re[n] * re[n] + im[n] * im[n]) * 2.0 / len);
        let strongest = |group: &[f32]| (0..4).max_by(|&a, &b| group[a].total_cmp(&group[b])).unwrap_or(0);
        let (row, column) = (strongest(&energies[..4]), strongest(&energies[4..]));
        (energies[row] + energies[column + 4] >= SUSPICIOUS * energy).then_some((row, column))
    }

    /// What becomes of the digit that sounds, and whether another one begins.
    fn judge(&mut self) -> Option<Key> {
        let look = self.looks[0];
        if let Some((key, gone)) = &mut self.sounding {
            *gone = if look == Some(*key) { 0 } else { *gone + 1 };
            if *gone >= GONE {
                self.sounding = None;
            }
        }
        let key = look.filter(|_| look == self.looks[SHORT])?;
        if self.sounding.is_some_and(|(sounding, _)| sounding == key) || !self.is_pure(key) {
            return None;
        }
        self.sounding = Some((key, 0));
        Some(key)
    }

    /// Whether the last 30 ms are this digit and nothing else.
    fn is_pure(&self, (row, column): Key) -> bool {
        let nominal = [FREQUENCIES[row], FREQUENCIES[4 + column]];
        let Some(pair) = fit::pair(&self.samples, self.offset.unwrap_or(0.0), nominal, self.rate) else {
            return false;
        };
        let near = |(hz, nominal): (&f64, f64)| (hz - nominal).abs() <= TOLERANCE * nominal;
        let [low, high] = pair.amplitudes;
        pair.hz.iter().zip(nominal).all(near)
            && pair.unexplained <= UNEXPLAINED
            && low.min(high) >= f64::from(self.least_amplitude)
            && TWIST.contains(&(20.0 * (high / low).log10()))
    }
}

#[cfg(test)]
mod tests;
