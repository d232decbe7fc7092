//! Silero VAD v6: the forward pass, equal to ONNX Runtime's within 1e-5.
//!
//! ```text
//! 32 ms of samples, the last 4 ms of the window before in front, the end mirrored
//!   → magnitudes of 4 short-time spectra (16 ms each, every 8 ms)
//!   → 4 convolutions over time, each with ReLU: 4 steps → 4 → 2 → 1 → 1, at last 128 values
//!   → LSTM of 128 cells, which remembers the call so far
//!   → ReLU, one weighted sum, sigmoid
//! ```

use super::simd;
use super::weights::{STATE, Weights};
use crate::audio::Rate;
use std::sync::Arc;

/// Samples of the longest short-time spectrum.
const LONGEST: usize = 256;

/// The model and what it remembers of one stream of samples. A window takes no allocation.
#[derive(Debug, Clone)]
pub struct Silero {
    weights: Arc<Weights>,
    memory: Memory,
    /// The end of the window before, then this one, in -1.0..1.0.
    samples: Box<[f32]>,
    /// How many of `samples` are there.
    filled: usize,
}

/// The state of the recurrent layer.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    pub(super) hidden: [f32; STATE],
    pub(super) cell: [f32; STATE],
}

impl Memory {
    const EMPTY: Self = Self { hidden: [0.0; STATE], cell: [0.0; STATE] };
}

impl Silero {
    /// The model for 8 kHz.
    #[must_use]
    pub fn narrowband() -> Self {
        Self::new(Weights::narrowband())
    }

    /// The model for 16 kHz.
    #[must_use]
    pub fn wideband() -> Self {
        Self::new(Weights::wideband())
    }

    fn new(weights: Arc<Weights>) -> Self {
        let context = weights.window / 4;
        let samples = vec![0.0; context + weights.window * 2].into_boxed_slice();
        Self { weights, memory: Memory::EMPTY, samples, filled: context }
    }

    /// The sampling rate that it expects.
    #[must_use]
    pub fn rate(&self) -> Rate {
        if self.weights.window == LONGEST { Rate::R16K } else { Rate::R8K }
    }

    /// How many samples give a probability: 256 at 8 kHz, 512 at 16 kHz.
    #[must_use]
    pub fn window_samples(&self) -> usize {
        self.weights.window * 2
    }

    /// Forgets what was heard.
    pub fn reset(&mut self) {
        self.memory = Memory::EMPTY;
        self.samples.fill(0.0);
        self.filled = self.context();
    }

    /// Takes samples; the probability of speech when they complete a window (the latest one's, if several).
    pub fn push(&mut self, samples: &[i16]) -> Option<f32> {
        self.push_with(samples, simd::infer)
    }

    /// The same without the instructions that only some processors have.
    pub fn push_portably(&mut self, samples: &[i16]) -> Option<f32> {
        self.push_with(samples, simd::infer_portably)
    }

    fn push_with(&mut self, samples: &[i16], infer: fn(&Weights, &[f32], &mut Memory) -> f32) -> Option<f32> {
        let mut rest = samples;
        let mut probability = None;
        while !rest.is_empty() {
            let free = &mut self.samples[self.filled..];
            let (now, later) = rest.split_at(rest.len().min(free.len()));
            free.iter_mut().zip(now).for_each(|(to, &from)| *to = f32::from(from) / 32768.0);
            self.filled += now.len();
            rest = later;
            if self.filled == self.samples.len() {
                probability = Some(infer(&self.weights, &self.samples, &mut self.memory));
                let context = self.context();
                self.samples.copy_within(self.filled - context.., 0);
                self.filled = context;
            }
        }
        probability
    }

    fn context(&self) -> usize {
        self.weights.window / 4
    }
}
