//! What a caller hears behind the agent's voice and while it is silent.

use super::looped::{Fader, Loop};
use crate::audio::Rate;
use crate::audio::level::amplitude_of_dbm0;
use std::sync::Arc;
use std::time::Duration;

/// Nobody thinks for longer than this: the agent has nothing to say.
const LONGEST_THOUGHT: Duration = Duration::from_secs(60);

/// The sounds of one call: a background for ever, a sound while an answer is awaited, noise where there would be nothing at all.
#[derive(Debug, Clone)]
pub struct Ambience {
    rate: Rate,
    background: Option<Loop>,
    thinking: Option<Thinking>,
    noise: Option<Noise>,
}

#[derive(Debug, Clone)]
struct Thinking {
    sound: Loop,
    /// After how many samples it begins.
    after: usize,
    /// For how many samples an answer has been awaited.
    waited: Option<usize>,
}

impl Ambience {
    /// No sound at all, for a leg at `rate`.
    #[must_use]
    pub const fn new(rate: Rate) -> Self {
        Self { rate, background: None, thinking: None, noise: None }
    }

    /// Behind everything, `samples` over and over at `level` (0.0 to 1.0).
    #[must_use]
    pub fn with_background(mut self, samples: Arc<[i16]>, level: f32) -> Self {
        self.background = Some(Loop::new(self.rate, samples, level));
        self
    }

    /// While an answer is awaited, beginning `after` the question, `samples` over and over at `level`.
    #[must_use]
    pub fn with_thinking(mut self, samples: Arc<[i16]>, level: f32, after: Duration) -> Self {
        let sound = Loop::new(self.rate, samples, level);
        self.thinking = Some(Thinking { sound, after: self.rate.samples_in(after), waited: None });
        self
    }

    /// Noise of `dbm0` dBm0 where nothing else plays, so that the line does not seem dead.
    #[must_use]
    pub fn with_comfort_noise(mut self, dbm0: f32) -> Self {
        self.noise = Some(Noise::new(self.rate, dbm0));
        self
    }

    /// Whether there is any sound.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.background.is_none() && self.thinking.is_none() && self.noise.is_none()
    }

    /// The caller has said something that wants an answer.
    pub const fn asked(&mut self) {
        if let Some(thinking) = &mut self.thinking {
            thinking.waited = Some(0);
        }
    }

    /// No answer is awaited any more. (Playing words says so too.)
    pub const fn settled(&mut self) {
        if let Some(thinking) = &mut self.thinking {
            thinking.waited = None;
        }
    }

    /// The caller goes on: if an answer is awaited, then from now on.
    pub fn delay(&mut self) {
        if let Some(thinking) = &mut self.thinking {
            thinking.waited = thinking.waited.map(|_| 0);
        }
    }

    /// Adds the next `audio.len()` samples to `audio`, in which there are `words` of the agent (then no answer is awaited any more) or not; what is too loud is clipped.
    pub fn mix_into(&mut self, audio: &mut [i16], words: bool) {
        if words {
            self.settled();
        }
        let longest = self.rate.samples_in(LONGEST_THOUGHT);
        let mut thinks = false;
        if let Some(thinking) = &mut self.thinking {
            thinks = thinking.waited.is_some_and(|waited| (thinking.after..longest).contains(&waited));
            thinking.waited = thinking.waited.map(|waited| waited.saturating_add(audio.len()));
            thinking.sound.mix_into(thinks, audio);
        }
        if let Some(background) = &mut self.background {
            background.mix_into(true, audio);
        }
        if let Some(noise) = &mut self.noise {
            noise.mix_into(!words && !thinks && self.background.is_none(), audio);
        }
    }
}

/// Noise without end, softer towards high frequencies like that of a line.
#[derive(Debug, Clone)]
struct Noise {
    fader: Fader,
    state: u32,
    before: f32,
    amplitude: f32,
}

impl Noise {
    /// How much of a sample the next one keeps: -3 dB at a sixth of the rate, -9.5 dB at half of it.
    const KEPT: f32 = 0.5;

    fn new(rate: Rate, dbm0: f32) -> Self {
        // the level of a sine with the same power; uniform noise has a third of the power of its peak, the filter takes 4.8 dB
        let power = amplitude_of_dbm0(dbm0.min(0.0)).powi(2) / 2.0;
        let filter = (1.0 - Self::KEPT) / (1.0 + Self::KEPT);
        Self { fader: Fader::new(rate, 1.0), state: 0x9E37_79B9, before: 0.0, amplitude: (power * 3.0 / filter).sqrt() }
    }

    fn mix_into(&mut self, on: bool, audio: &mut [i16]) {
        if self.fader.is_off(on) {
            return;
        }
        let Self { fader, state, before, amplitude } = self;
        let source = std::iter::repeat_with(|| {
            // xorshift: its period is longer than any call
            *state ^= *state << 13;
            *state ^= *state >> 17;
            *state ^= *state << 5;
            let uniform = *state as i32 as f32 / 2_147_483_648.0;
            *before += (uniform * *amplitude - *before) * (1.0 - Self::KEPT);
            before.round() as i16
        });
        fader.add(on, audio, source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::level::{peak, rms};

    const MS: Duration = Duration::from_millis(1);
    const R: Rate = Rate::R8K;

    fn play(ambience: &mut Ambience, frames: usize, words: bool) -> Vec<i16> {
        let mut out = vec![0; frames * 160];
        out.chunks_mut(160).for_each(|frame| ambience.mix_into(frame, words));
        out
    }

    #[test]
    fn a_background_is_behind_words_and_silence() {
        let mut ambience = Ambience::new(R).with_background(vec![1000; 4000].into(), 0.5);
        assert!(!ambience.is_silent() && Ambience::new(R).is_silent());
        let heard = play(&mut ambience, 20, false);
        // it does not begin with a click
        assert!(heard[0] < 20 && heard[..40].is_sorted() && heard[40..].iter().all(|&sample| sample >= 499));
        assert!(play(&mut ambience, 20, true).iter().all(|&sample| sample >= 499));
    }

    #[test]
    fn a_thinking_sound_is_heard_from_its_time_to_the_answer() {
        let mut ambience = Ambience::new(R).with_thinking(vec![1000; 4000].into(), 1.0, 1000 * MS);
        assert_eq!(peak(&play(&mut ambience, 100, false)), 0, "nothing was asked");
        ambience.asked();
        assert_eq!(peak(&play(&mut ambience, 50, false)), 0);
        assert_eq!(play(&mut ambience, 1, false)[159], 1000);
        // the answer: 5 ms later there is nothing under it
        let answer = play(&mut ambience, 50, true);
        assert!(answer[..40].is_sorted_by(|a, b| a >= b) && answer[40..].iter().all(|&sample| sample == 0));
        assert_eq!(peak(&play(&mut ambience, 100, false)), 0, "it was answered");
        // nor does it come when the caller goes on speaking, or for ever where there is no answer
        ambience.asked();
        for _ in 0..200 {
            ambience.delay();
            assert_eq!(peak(&play(&mut ambience, 1, false)), 0);
        }
        assert_eq!(peak(&play(&mut ambience, 49, false)), 0);
        ambience.settled();
        assert_eq!(peak(&play(&mut ambience, 100, false)), 0);
        ambience.asked();
        assert_eq!(play(&mut ambience, 60 * 50 + 1, false).iter().rposition(|&s| s == 1000), Some(60 * 8000 - 1));
    }

    #[test]
    fn comfort_noise_has_its_level_and_is_heard_only_alone() {
        for dbm0 in [-60.0, -50.0, -30.0] {
            let mut ambience = Ambience::new(R).with_comfort_noise(dbm0);
            let heard = play(&mut ambience, 500, false);
            let level = 20.0 * (rms(&heard) * std::f32::consts::SQRT_2 / amplitude_of_dbm0(0.0)).log10();
            assert!((level - dbm0).abs() < 0.5, "{dbm0}: {level}");
            let words = play(&mut ambience, 10, true);
            assert_eq!(peak(&words[40..]), 0);
            assert!(peak(&play(&mut ambience, 10, false)) > 0);
        }
        let mut both = Ambience::new(R).with_comfort_noise(-30.0).with_background(vec![500; 4000].into(), 1.0);
        assert!(play(&mut both, 20, false)[40..].iter().all(|&sample| sample >= 499), "the background is enough");
    }

    #[test]
    fn extreme_levels_do_no_harm() {
        for dbm0 in [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 100.0, -1000.0] {
            let heard = play(&mut Ambience::new(R).with_comfort_noise(dbm0), 10, false);
            assert!(rms(&heard).is_finite());
        }
    }
}
