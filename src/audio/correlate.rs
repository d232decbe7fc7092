//! Where in something long a short piece of it is found: the products of both at every place at once, by Fourier transforms. Products one by one
//! cost ten times as much.

use std::cell::RefCell;
use std::sync::Arc;

use realfft::{ComplexToReal, RealFftPlanner, RealToComplex, num_complex::Complex};

thread_local! {
    // what is in it is of use for one comparison only: one for all calls of a thread
    static WORK: RefCell<Option<Work>> = const { RefCell::new(None) };
}

struct Work {
    len: usize,
    forward: Arc<dyn RealToComplex<f32>>,
    backward: Arc<dyn ComplexToReal<f32>>,
    time: Vec<f32>,
    short: Vec<Complex<f32>>,
    long: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
}

impl Work {
    fn new(len: usize) -> Self {
        let mut planner = RealFftPlanner::new();
        let (forward, backward) = (planner.plan_fft_forward(len), planner.plan_fft_inverse(len));
        let scratch = forward.get_scratch_len().max(backward.get_scratch_len());
        Self {
            len,
            time: vec![0.0; len],
            short: vec![Complex::default(); len / 2 + 1],
            long: vec![Complex::default(); len / 2 + 1],
            scratch: vec![Complex::default(); scratch],
            forward,
            backward,
        }
    }

    fn transform(&mut self, samples: &[f32], short: bool) {
        self.time[..samples.len()].copy_from_slice(samples);
        self.time[samples.len()..].fill(0.0);
        let spectrum = if short { &mut self.short } else { &mut self.long };
        let scratch = &mut self.scratch[..self.forward.get_scratch_len()];
        let done = self.forward.process_with_scratch(&mut self.time, spectrum, scratch);
        debug_assert!(done.is_ok(), "all lengths are those of the plan");
    }
}

/// For each place in `long` at which all of `short` fits, from the first on, the sum of the products of their samples.
///
/// `len`, the length of the transforms, must be even and no less than that of `long`; products of the powers of 2, 3 and 5 are quick.
pub fn correlate<T>(short: &[f32], long: &[f32], len: usize, take: impl FnOnce(&[f32]) -> T) -> T {
    assert!(short.len() <= long.len() && long.len() <= len && len.is_multiple_of(2), "see above");
    WORK.with_borrow_mut(|work| {
        let work = match work {
            Some(work) if work.len == len => work,
            other => other.insert(Work::new(len)),
        };
        work.transform(short, true);
        work.transform(long, false);
        // neither transform scales: the two together multiply by the length
        let scale = 1.0 / len as f32;
        for (short, long) in work.short.iter().zip(&mut work.long) {
            *long = *long * short.conj() * scale;
        }
        // of real signals, but for what rounding adds
        let last = work.long.len() - 1;
        (work.long[0].im, work.long[last].im) = (0.0, 0.0);
        let scratch = &mut work.scratch[..work.backward.get_scratch_len()];
        let done = work.backward.process_with_scratch(&mut work.long, &mut work.time, scratch);
        debug_assert!(done.is_ok(), "all lengths are those of the plan");
        take(&work.time[..=long.len() - short.len()])
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_if_multiplied_one_by_one(
            long in proptest::collection::vec(-10_000.0..10_000.0_f32, 1..300),
            part in 0.0..1.0_f32,
            spare in 0..20_usize,
        ) {
            let short: Vec<_> = long.iter().rev().take(((long.len() as f32 * part) as usize).max(1)).copied().collect();
            let len = (long.len() + spare).next_multiple_of(2);
            let energy = |samples: &[f32]| samples.iter().map(|sample| sample * sample).sum::<f32>().sqrt();
            let tolerance = 1e-5 * energy(&short) * energy(&long) + 1e-3;
            correlate(&short, &long, len, |products| {
                assert_eq!(products.len(), long.len() - short.len() + 1);
                for (window, product) in long.windows(short.len()).zip(products) {
                    let expected: f32 = window.iter().zip(&short).map(|(a, b)| a * b).sum();
                    assert!((expected - product).abs() <= tolerance, "{product} instead of {expected}");
                }
            });
        }
    }
}
