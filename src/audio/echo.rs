//! Tells the caller's voice from our own that comes back: whether what is heard now is what was played some time ago.
//!
//! No echo is taken out, and nothing is delayed. Speech that came back by a line or a loudspeaker is a weakened copy of what was played, so the
//! last 160 ms are compared with everything played up to 760 ms ago. Where one place explains most of them nobody else speaks; nor where the
//! line falls quiet behind an echo, which models of voice activity take some time to notice.

use super::Rate;

/// Everything is compared at about this rate: speech has most of its strength below 2 kHz.
const HZ: u32 = 4_000;
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
        let anywhere = || (!is_sure).then(|| self.search(0..LONGEST + 1, power * ALIKE)).flatten();
        let Some(lag) = again.or_else(anywhere) else {
            self.strange = self.strange.saturating_add(1);
            return is_known && self.ago <= TAIL && power <= self.power * 1.5;
        };
        self.found = if lag.abs_diff(self.lag) <= NEAR { self.found.saturating_add(1) } else { 1 };
        (self.lag, self.power, self.ago, self.strange) = (lag, power, 0, 0);
        true
    }

    /// The place among `lags` where what was played has most in common with what is heard, if that is at least `least`.
    fn search(&self, lags: std::ops::Range<usize>, least: f32) -> Option<usize> {
        let (heard, all) = (self.heard.newest(), self.played.newest());
        let mut best = (0.0, 0);
        let mut played: Option<f64> = None;
        for lag in lags {
            let from = LONGEST - lag;
            let window = &all[from..from + WINDOW];
            // the window moves back by one sample: one comes, one goes; summed precisely, as what is quiet may follow what is loud
            let square = |sample: f32| f64::from(sample).powi(2);
            let power = match played {
                Some(power) => power + square(window[0]) - square(all[from + WINDOW]),
                None => f64::from(energy(window)),
            };
            played = Some(power);
            let power = power as f32;
            if power < AUDIBLE * WINDOW as f32 {
                continue;
            }
            let product = dot(heard, window);
            // upside down is an echo too
            let common = product * product / power;
            if common > best.0 {
                best = (common, lag);
            }
        }
        (best.0 >= least).then_some(best.1)
    }
}

/// Samples at the lower rate and with their low notes, which all voices have alike, weakened.
#[derive(Debug, Clone)]
struct Line {
    factor: usize,
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
        Self { factor, samples, len, sum: (0.0, 0), before: 0.0 }
    }

    /// The newest samples, oldest first.
    fn newest(&self) -> &[f32] {
        &self.samples[self.samples.len() - self.len..]
    }

    /// Returns how many samples became of it, as far as they are kept.
    fn push(&mut self, samples: &[i16]) -> usize {
        let mut count = 0;
        for sample in samples {
            self.sum.0 += f32::from(*sample);
            self.sum.1 += 1;
            if self.sum.1 == self.factor {
                let mean = self.sum.0 / self.factor as f32;
                if self.samples.len() == self.len + SPARE {
                    self.samples.drain(..SPARE);
                }
                self.samples.push(mean - 0.9 * self.before);
                count += 1;
                (self.before, self.sum) = (mean, (0.0, 0));
            }
        }
        count.min(self.len)
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
