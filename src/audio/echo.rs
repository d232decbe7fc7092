//! Tells the caller's voice from our own that comes back: whether what is heard now is what was played some time ago.
//!
//! No echo is taken out, and nothing is delayed. Speech that came back by a line or a loudspeaker is a weakened copy of what was played, so the
//! last 160 ms are compared with everything played up to 760 ms ago. Where one place explains most of them nobody else speaks; nor where the
//! line falls quiet behind an echo, which models of voice activity take some time to notice.

use super::{Rate, correlate::correlate};

/// Everything is compared at about this rate: speech has most of its strength below 2 kHz.
const HZ: u32 = 4_000;
/// Length of the Fourier transforms: 3 · 2¹⁰, no less than what is compared.
const TRANSFORM: usize = 3_072;
/// What is compared, in samples of that rate (160 ms).
const WINDOW: usize = 640;
/// The longest way back (600 ms).
const LONGEST: usize = 2_400;
/// The part of its energy that an echo has in common with what was played. Two people have up to 0.3 by chance.
const ALIKE: f32 = 0.6;
/// The same where an echo was found several times: its way does not change within a call, its company does.
const ALIKE_AGAIN: f32 = 0.35;
/// So many times.
const KNOWN: u32 = 3;
/// How long what is no louder than a known echo belongs to it (320 ms).
const TAIL: usize = 1_280;
/// How far from there it is looked for, in samples: the two directions are not counted by the same clock.
const NEAR: usize = 8;
/// After so many comparisons in a row that found nobody but the caller (192 ms) …
const SURE: u32 = 6;
/// … only one of so many is made (256 ms) until they pause: it costs many times what the model of voice activity does.
const SELDOM: u32 = 8;
/// Samples that are taken before old ones are moved out (256 ms).
const SPARE: usize = 1_024;
/// The weakest that counts as played, per sample (-60 dBFS).
const AUDIBLE: f32 = 1_000.0;

/// Compares what is heard with what was played.
#[derive(Debug, Clone)]
pub struct Echo {
    played: Line,
    heard: Line,
    /// Where the echo was found last, and how often there.
    lag: usize,
    found: u32,
    /// How strong it was then, and how many samples ago that is.
    power: f32,
    ago: usize,
    /// How often in a row it was the caller, and how many samples ago that was asked.
    strange: u32,
    asked: usize,
}

impl Echo {
    /// For a call at `rate`.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let factor = (rate.hz() / HZ).max(1) as usize;
        Self {
            played: Line::new(factor, WINDOW + LONGEST),
            heard: Line::new(factor, WINDOW),
            lag: 0,
            found: 0,
            power: 0.0,
            ago: 0,
            strange: 0,
            asked: 0,
        }
    }

    /// Takes what is played.
    pub fn played(&mut self, samples: &[i16]) {
        self.played.push(samples);
    }

    /// Takes what is heard.
    pub fn heard(&mut self, samples: &[i16]) {
        let count = self.heard.push(samples);
        self.ago = self.ago.saturating_add(count);
        self.asked = self.asked.saturating_add(count);
    }

    /// Whether what has just been heard is what was played before, mostly.
    pub fn is_echo(&mut self) -> bool {
        if std::mem::take(&mut self.asked) > WINDOW {
            // somebody begins to speak
            self.strange = 0;
        }
        let power = energy(self.heard.newest());
        // most of the time only one of the two speaks
        if power <= 0.0 || energy(self.played.newest()) < AUDIBLE * WINDOW as f32 {
            return false;
        }
        let is_known = self.found >= KNOWN;
        let near = self.lag.saturating_sub(NEAR)..(self.lag + NEAR + 1).min(LONGEST + 1);
        let again = is_known.then(|| self.search(near, power * ALIKE_AGAIN)).flatten();
        let is_sure = self.strange >= SURE && !self.strange.is_multiple_of(SELDOM);
        let anywhere = || (!is_sure).then(|| self.search_all(power * ALIKE)).flatten();
        let Some(lag) = again.or_else(anywhere) else {
            self.strange = self.strange.saturating_add(1);
            return is_known && self.ago <= TAIL && power <= self.power * 1.5;
        };
        self.found = if lag.abs_diff(self.lag) <= NEAR { self.found.saturating_add(1) } else { 1 };
        (self.lag, self.power, self.ago, self.strange) = (lag, power, 0, 0);
        true
    }

    /// The place among all where what was played has most in common with what is heard, if that is at least `least`.
    fn search_all(&self, least: f32) -> Option<usize> {
        let (heard, all) = (self.heard.newest(), self.played.newest());
        correlate(heard, all, TRANSFORM, |products| {
            // the farthest way back comes first
            best(all, (0..=LONGEST).zip(products.iter().copied()), least)
        })
    }

    /// The same among some ways back.
    fn search(&self, lags: std::ops::Range<usize>, least: f32) -> Option<usize> {
        let (heard, all) = (self.heard.newest(), self.played.newest());
        let product = |from: usize| (from, dot(heard, &all[from..from + WINDOW]));
        best(all, lags.rev().map(|lag| product(LONGEST - lag)), least)
    }
}

/// The way back to the window of what was played that has most in common with what is heard, if that is at least `least`. `products`: where windows
/// begin, one after another, and the products of their samples with those heard.
fn best(all: &[f32], products: impl Iterator<Item = (usize, f32)>, least: f32) -> Option<usize> {
    let (mut best, mut power) = ((0.0, 0), None);
    for (from, product) in products {
        // from one window to the next one sample goes and one comes; summed precisely, as what is quiet may follow what is loud
        let square = |sample: f32| f64::from(sample).powi(2);
        let now = match power {
            Some(power) => power - square(all[from - 1]) + square(all[from + WINDOW - 1]),
            None => f64::from(energy(&all[from..from + WINDOW])),
        };
        power = Some(now);
        let power = now as f32;
        // upside down is an echo too
        let common = product * product;
        if power >= AUDIBLE * WINDOW as f32 && common > best.0 * power {
            best = (common / power, LONGEST - from);
        }
    }
    (best.0 >= least).then_some(best.1)
}

/// Samples at the lower rate and with their low notes, which all voices have alike, weakened.
#[derive(Debug, Clone)]
struct Line {
    factor: usize,
    /// One by that.
    scale: f32,
    /// The newest `len` of them count; older ones are moved out now and then, not each time.
    samples: Vec<f32>,
    len: usize,
    /// Of the sample that is being made: the sum, and of how many.
    sum: (f32, usize),
    before: f32,
}

impl Line {
    fn new(factor: usize, len: usize) -> Self {
        let mut samples = Vec::with_capacity(len + SPARE);
        samples.resize(len, 0.0);
        Self { factor, scale: 1.0 / factor as f32, samples, len, sum: (0.0, 0), before: 0.0 }
    }

    /// The newest samples, oldest first.
    fn newest(&self) -> &[f32] {
        &self.samples[self.samples.len() - self.len..]
    }

    /// Returns how many samples became of it, as far as they are kept.
    fn push(&mut self, samples: &[i16]) -> usize {
        let mut count = 0;
        let (begun, whole) = samples.split_at(samples.len().min((self.factor - self.sum.1) % self.factor));
        for sample in begun {
            count += usize::from(self.add(*sample));
        }
        let (whole, rest) = whole.split_at(whole.len() - whole.len() % self.factor);
        for part in whole.chunks(SPARE * self.factor) {
            let coming = part.len() / self.factor;
            self.make_room(coming);
            let (scale, mut before) = (self.scale, self.before);
            self.samples.extend(part.chunks_exact(self.factor).map(|group| {
                let mean = group.iter().map(|sample| f32::from(*sample)).sum::<f32>() * scale;
                mean - 0.9 * std::mem::replace(&mut before, mean)
            }));
            self.before = before;
            count += coming;
        }
        for sample in rest {
            count += usize::from(self.add(*sample));
        }
        count.min(self.len)
    }

    /// Adds to the sample that is being made; whether that is done.
    fn add(&mut self, sample: i16) -> bool {
        self.sum = (self.sum.0 + f32::from(sample), self.sum.1 + 1);
        let is_whole = self.sum.1 == self.factor;
        if is_whole {
            self.make_room(1);
            let mean = self.sum.0 * self.scale;
            self.samples.push(mean - 0.9 * self.before);
            (self.before, self.sum) = (mean, (0.0, 0));
        }
        is_whole
    }

    /// Moves old samples out if `coming` new ones, no more than [`SPARE`], do not fit.
    fn make_room(&mut self, coming: usize) {
        if self.samples.len() + coming > self.len + SPARE {
            self.samples.drain(..self.samples.len() - self.len);
        }
    }
}

fn energy(samples: &[f32]) -> f32 {
    dot(samples, samples)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (a.as_chunks::<16>().0, b.as_chunks::<16>().0);
    let mut sums = [0.0; 16];
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::wav;

    fn recording(bytes: &[u8]) -> Vec<i16> {
        wav::read(bytes).unwrap().1
    }

    fn agent() -> Vec<i16> {
        recording(include_bytes!("../../fixtures/audio/conf-getpin.wav"))
    }

    /// Of each 100 ms in which the line is loud, whether it is an echo. The line at `n` is what `heard` makes of `n`.
    fn verdicts(rate: Rate, played: &[i16], heard: impl Fn(usize) -> i16) -> Vec<bool> {
        let (mut echo, len, mut verdicts) = (Echo::new(rate), rate.frame_samples(), Vec::new());
        for (n, frame) in played.chunks_exact(len).enumerate() {
            let line: Vec<_> = (n * len..(n + 1) * len).map(&heard).collect();
            echo.heard(&line);
            if n > 20 && n % 5 == 0 && crate::audio::level::dbfs(&line) > -55.0 {
                verdicts.push(echo.is_echo());
            }
            echo.played(frame);
        }
        verdicts
    }

    fn part(verdicts: &[bool]) -> f64 {
        assert!(verdicts.len() >= 8, "{verdicts:?}");
        verdicts.iter().filter(|echo| **echo).count() as f64 / verdicts.len() as f64
    }

    #[test]
    fn our_own_voice_coming_back_is_an_echo_whatever_its_way() {
        let played = agent();
        for (delay, gain, noise) in [(240, 0.1, 0), (800, 0.1, 8), (2_400, -0.05, 8), (4_600, 0.3, 0)] {
            let echo = |n: usize| n.checked_sub(delay).map_or(0.0, |n| f32::from(played[n]) * gain);
            // a second way, and something that hisses
            let heard =
                |n: usize| (echo(n) + 0.4 * echo(n.saturating_sub(33))) as i16 + (n * 7_919 % 17) as i16 * noise / 8;
            let part = part(&verdicts(Rate::R8K, &played, heard));
            assert!(part > 0.85, "{part} of an echo after {delay} samples");
        }
    }

    #[test]
    fn somebody_else_is_none_even_while_our_voice_comes_back() {
        let (played, caller) = (agent(), recording(include_bytes!("../../fixtures/audio/tt-somethingwrong.wav")));
        let caller = |n: usize| f32::from(caller[n % caller.len()]) * 0.5;
        let alone = verdicts(Rate::R8K, &played, |n| caller(n) as i16);
        assert!(part(&alone) < 0.05, "{alone:?}");
        let both =
            verdicts(Rate::R8K, &played, |n| (caller(n) + f32::from(played[n.saturating_sub(800)]) * 0.05) as i16);
        assert!(part(&both) < 0.3, "{both:?}");
    }

    #[test]
    fn an_echo_behind_the_callers_own_words_is_found_in_time() {
        let (played, caller) = (agent(), recording(include_bytes!("../../fixtures/audio/tt-somethingwrong.wav")));
        // a second of the caller, then nothing but our own voice
        let heard = |n: usize| if n < 8_000 { caller[4_000 + n] / 2 } else { played[n - 800] / 8 };
        let (mut echo, mut found) = (Echo::new(Rate::R8K), None);
        for (n, frame) in played.chunks_exact(160).enumerate() {
            let line: Vec<_> = (n * 160..(n + 1) * 160).map(heard).collect();
            echo.heard(&line);
            if n > 20 && echo.is_echo() && n * 160 >= 8_000 {
                found.get_or_insert(n * 160 - 8_000);
            }
            echo.played(frame);
        }
        // the window, and the longest pause between two comparisons
        assert!(found.is_some_and(|samples| samples <= 8 * (160 + 256)), "{found:?}");
    }

    #[test]
    fn nothing_played_or_nothing_heard_is_no_echo() {
        let speech = agent();
        assert_eq!(part(&verdicts(Rate::R8K, &vec![0; speech.len()], |n| speech[n])), 0.0);
        let mut echo = Echo::new(Rate::R8K);
        assert!(!echo.is_echo());
        speech.chunks(160).for_each(|frame| echo.played(frame));
        echo.heard(&[0; 160]);
        assert!(!echo.is_echo());
    }

    #[test]
    fn every_rate_and_pieces_of_any_size_are_taken() {
        for rate in Rate::ALL {
            let mut echo = Echo::new(rate);
            for len in [0, 1, 3, 160, 882, 100_000] {
                echo.played(&vec![1_000; len]);
                echo.heard(&vec![i16::MIN; len]);
                echo.is_echo();
            }
        }
    }
}
