//! Silero VAD v6: the forward pass, equal to ONNX Runtime's within 1e-5.
//!
//! ```text
//! 32 ms of samples, the last 4 ms of the window before in front, the end mirrored
//!   → magnitudes of 4 short-time spectra (16 ms each, every 8 ms)
//!   → 4 convolutions over time, each with ReLU: 4 steps → 4 → 2 → 1 → 1, at last 128 values
//!   → LSTM of 128 cells, which remembers the call so far
//!   → ReLU, one weighted sum, sigmoid
//! ```

use super::weights::{Convolution, KERNEL, LANES, STATE, Weights};
use crate::audio::Rate;
use std::sync::Arc;

/// Short-time spectra in a window.
const STEPS: usize = 4;
/// The most values that one time step has, padded: 129 bins.
const WIDEST: usize = 136;
/// Samples of the longest short-time spectrum.
const LONGEST: usize = 256;

/// Values of a few time steps, with an empty step before the first and behind the last one.
type Activations = [f32; (STEPS + 2) * WIDEST];

/// The model and what it remembers of one stream of samples. A window takes no allocation.
#[derive(Debug, Clone)]
pub struct Silero {
    weights: Arc<Weights>,
    hidden: [f32; STATE],
    cell: [f32; STATE],
    /// The end of the window before, then this one, in -1.0..1.0.
    samples: Box<[f32]>,
    /// How many of `samples` are there.
    filled: usize,
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
        Self { weights, hidden: [0.0; STATE], cell: [0.0; STATE], samples, filled: context }
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
        self.hidden = [0.0; STATE];
        self.cell = [0.0; STATE];
        self.samples.fill(0.0);
        self.filled = self.context();
    }

    /// Takes samples; the probability of speech when they complete a window (the latest one's, if several).
    pub fn push(&mut self, samples: &[i16]) -> Option<f32> {
        let mut rest = samples;
        let mut probability = None;
        while !rest.is_empty() {
            let free = &mut self.samples[self.filled..];
            let (now, later) = rest.split_at(rest.len().min(free.len()));
            free.iter_mut().zip(now).for_each(|(to, &from)| *to = f32::from(from) / 32768.0);
            self.filled += now.len();
            rest = later;
            if self.filled == self.samples.len() {
                probability = Some(self.infer());
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

    /// The probability for the window in `samples`.
    fn infer(&mut self) -> f32 {
        let [first, second, third, fourth] = &self.weights.convolutions;
        let (mut a, mut b) = ([0.0; (STEPS + 2) * WIDEST], [0.0; (STEPS + 2) * WIDEST]);
        spectra(&self.weights, &self.samples, &mut a);
        convolve::<4>(first, &a, &mut b);
        convolve::<2>(second, &b, &mut a);
        convolve::<1>(third, &a, &mut b);
        convolve::<1>(fourth, &b, &mut a);
        self.remember(&a[fourth.outputs..][..STATE]);
        let output = self.hidden.iter().zip(&self.weights.output).map(|(hidden, weight)| hidden.max(0.0) * weight);
        sigmoid(self.weights.output_bias + output.sum::<f32>())
    }

    /// One step of the LSTM.
    fn remember(&mut self, input: &[f32]) {
        let mut both = [0.0; 2 * STATE];
        both[..STATE].copy_from_slice(input);
        both[STATE..].copy_from_slice(&self.hidden);
        let mut gates = [0.0; 4 * STATE];
        for ((gate, row), bias) in gates.iter_mut().zip(self.weights.gates.rows()).zip(&self.weights.gate_bias) {
            *gate = bias + products(row, [&both])[0];
        }
        let (input, rest) = gates.split_at(STATE);
        let (forget, rest) = rest.split_at(STATE);
        let (new, output) = rest.split_at(STATE);
        for n in 0..STATE {
            self.cell[n] = sigmoid(forget[n]) * self.cell[n] + sigmoid(input[n]) * new[n].tanh();
            self.hidden[n] = sigmoid(output[n]) * self.cell[n].tanh();
        }
    }
}

/// Magnitudes of the short-time spectra, as `STEPS` time steps of `out`.
fn spectra(weights: &Weights, samples: &[f32], out: &mut Activations) {
    let (window, half) = (weights.window, weights.window / 2);
    // the last spectrum reaches a quarter of a window past the end: there the samples are mirrored
    let last = samples.len() - 1;
    let at = |n: usize| samples[if n > last { 2 * last - n } else { n }];
    let mut even = [[0.0; LONGEST / 2]; STEPS];
    let mut odd = [[0.0; LONGEST / 2]; STEPS];
    for step in 0..STEPS {
        let start = step * half;
        for n in 1..half {
            let (early, late) = (at(start + n), at(start + window - n));
            even[step][n - 1] = early + late;
            odd[step][n - 1] = early - late;
        }
        even[step][half - 1] = at(start + half);
    }
    let stride = Weights::bins(window).next_multiple_of(LANES);
    for (bin, (cosines, sines)) in weights.cosines.rows().zip(weights.sines.rows()).enumerate() {
        let real = products(cosines, even.each_ref().map(|step| &step[..half]));
        let imaginary = products(sines, odd.each_ref().map(|step| &step[..half]));
        for step in 0..STEPS {
            out[(step + 1) * stride + bin] = (real[step] * real[step] + imaginary[step] * imaginary[step]).sqrt();
        }
    }
}

/// A convolution with ReLU that gives `N` time steps. In both arrays the steps lie between empty ones.
fn convolve<const N: usize>(layer: &Convolution, input: &Activations, out: &mut Activations) {
    let seen: [&[f32]; N] =
        std::array::from_fn(|step| &input[step * layer.stride * layer.inputs..][..KERNEL * layer.inputs]);
    out.fill(0.0);
    for (channel, (row, bias)) in layer.weights.rows().zip(&layer.bias).enumerate() {
        for (step, product) in products(row, seen).into_iter().enumerate() {
            out[(step + 1) * layer.outputs + channel] = (product + bias).max(0.0);
        }
    }
}

/// The scalar products of `row` with each of `others`. All lengths are equal and multiples of `LANES`; the sums are kept apart
/// by lane, so that the compiler can use vector instructions, and `row` is loaded once for all.
fn products<const N: usize>(row: &[f32], others: [&[f32]; N]) -> [f32; N] {
    let row = row.as_chunks::<LANES>().0;
    let others = others.map(|other| &other.as_chunks::<LANES>().0[..row.len()]);
    let mut sums = [[0.0f32; LANES]; N];
    for (n, row) in row.iter().enumerate() {
        for (sums, other) in sums.iter_mut().zip(others) {
            for lane in 0..LANES {
                sums[lane] += row[lane] * other[n][lane];
            }
        }
    }
    sums.map(|sums| sums.iter().sum())
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
