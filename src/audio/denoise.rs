//! RNNoise: takes noise out of speech, by a small recurrent network (crate `nnnoiseless`).
//!
//! It works on 10 ms at 48 kHz, so audio of a telephone is resampled twice on its way. All in all it comes out later by 10 ms of the network and
//! twice 3 ms of resampling (at 8 kHz; less at higher rates).

use super::resample::Resampler;
use super::{Frame, Rate};
use nnnoiseless::DenoiseState;
use serde::Deserialize;
use std::collections::VecDeque;
use std::fmt;

/// What takes noise out of the caller's audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Denoise {
    /// Nothing.
    #[default]
    Off,
    /// RNNoise.
    Rnnoise,
}

/// What the network takes at once.
const PIECE: usize = DenoiseState::FRAME_SIZE;
/// Its rate.
const HZ: u32 = 48_000;

/// One stream without its noise.
pub struct Denoiser {
    state: Box<DenoiseState<'static>>,
    up: Resampler,
    down: Resampler,
    /// At 48 kHz: what came from the first resampler and was not taken yet, and what goes to the second one.
    fast: Vec<i16>,
    cleaned: Vec<i16>,
    /// What comes out at last and is not played yet.
    ready: VecDeque<i16>,
    slow: Vec<i16>,
}

impl fmt::Debug for Denoiser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Denoiser").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}

impl Denoiser {
    /// For a stream at `rate`.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self {
            state: DenoiseState::new(),
            up: Resampler::new(rate.hz(), HZ),
            down: Resampler::new(HZ, rate.hz()),
            fast: Vec::with_capacity(PIECE * 3),
            cleaned: Vec::with_capacity(PIECE * 3),
            ready: VecDeque::with_capacity(rate.frame_samples() * 2),
            slow: Vec::with_capacity(rate.frame_samples() * 2),
        }
    }

    /// Replaces `frame` by the same audio without noise, a little later: the first one begins with silence.
    pub fn process(&mut self, frame: &mut Frame) {
        self.up.process(frame.samples(), &mut self.fast);
        let whole = self.fast.as_chunks::<PIECE>().0;
        for piece in whole {
            // the network's own scale is that of 16 bits
            let input = piece.map(f32::from);
            let mut output = [0.0; PIECE];
            self.state.process_frame(&mut output, &input);
            self.cleaned.extend(output.iter().map(|&sample| sample.round() as i16));
        }
        let used = whole.len() * PIECE;
        self.fast.drain(..used);
        self.slow.clear();
        self.down.process(&self.cleaned, &mut self.slow);
        self.cleaned.clear();
        self.ready.extend(&self.slow);
        let samples = frame.samples_mut();
        // at rates that do not go into 48 kHz evenly a frame may give a few samples less: they are owed once
        let missing = samples.len().saturating_sub(self.ready.len());
        let (owed, rest) = samples.split_at_mut(missing);
        owed.fill(0);
        let ready = self.ready.drain(..rest.len());
        rest.iter_mut().zip(ready).for_each(|(sample, ready)| *sample = ready);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{level::dbfs, wav};
    use proptest::prelude::*;

    fn caller() -> Vec<i16> {
        wav::read(include_bytes!("../../fixtures/audio/caller.wav")).unwrap().1
    }

    fn denoised(rate: Rate, samples: &[i16]) -> Vec<i16> {
        let mut denoiser = Denoiser::new(rate);
        let frames = samples.chunks_exact(rate.frame_samples());
        let clean = |samples| {
            let mut frame = Frame::padded(rate, samples);
            denoiser.process(&mut frame);
            frame.samples().to_vec()
        };
        frames.flat_map(clean).collect()
    }

    #[test]
    fn noise_goes_and_speech_stays_at_every_rate() {
        let mut seed = 1u32;
        let noisy: Vec<i16> = caller()
            .iter()
            .map(|&sample| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                sample.saturating_add((seed >> 16) as i16 / 64)
            })
            .collect();
        for rate in [Rate::R8K, Rate::R16K, Rate::R44K, Rate::R48K] {
            let mut input = Vec::new();
            Resampler::new(8_000, rate.hz()).process(&noisy, &mut input);
            let output = denoised(rate, &input);
            let part = |samples: &[i16], from_ms: usize, to_ms: usize| {
                let at = |ms: usize| ms * rate.hz() as usize / 1000;
                dbfs(&samples[at(from_ms)..at(to_ms)])
            };
            let pause = part(&input, 1700, 2500) - part(&output, 1700, 2500);
            let speech = part(&input, 3000, 5500) - part(&output, 3000, 5500);
            println!("{rate}: {pause:.1} dB less noise, {speech:.1} dB less speech");
            assert!(pause > 12.0, "{rate}: {pause} dB");
            assert!(speech.abs() < 2.0, "{rate}: {speech} dB");
        }
    }

    #[test]
    fn it_delays_by_what_is_documented() {
        let speech = caller();
        let heard = denoised(Rate::R8K, &speech);
        let product = |delay: usize| -> i64 {
            speech.iter().zip(&heard[delay..]).map(|(&a, &b)| i64::from(a) * i64::from(b)).sum()
        };
        let delay = (0..400).max_by_key(|&delay| product(delay)).unwrap();
        println!("{} ms", delay as f32 / 8.0);
        assert!((14 * 8..=18 * 8).contains(&delay), "{delay} samples");
    }

    #[test]
    fn damaged_audio_stays_audio() {
        for samples in [
            vec![0; 16_000],
            vec![i16::MIN; 16_000],
            caller().iter().map(|s| s.swap_bytes()).collect(),
            caller().iter().map(|s| s.saturating_mul(50)).collect(),
            (0..16_000).map(|n| (n % 3) as i16 - 1).collect(),
        ] {
            assert_eq!(denoised(Rate::R8K, &samples).len(), samples.len() / 160 * 160);
        }
        // what comes after it is heard again
        let heard = denoised(Rate::R8K, &[vec![i16::MAX; 16_000], caller()].concat());
        assert!(dbfs(&heard[16_000 + 24_000..16_000 + 44_000]) > -40.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn any_samples(samples in prop::collection::vec(any::<i16>(), 0..3000)) {
            denoised(Rate::R16K, &samples);
        }
    }
}
