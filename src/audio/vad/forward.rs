//! The arithmetic of the model, in plain loops over arrays. They are compiled several times, for different processors: see `simd`.
//! Therefore everything in here is `inline(always)`: only what is inlined gets the instructions of the function around it.

use super::silero::Memory;
use super::weights::{Dense, STATE, Weights};

/// Short-time spectra in a window.
const STEPS: usize = 4;
/// The most values that a spectrum has.
const BINS: usize = 129;

/// The probability of speech in a window. With `FMA` products are added without rounding in between, for processors that can. `FOUR`,
/// `TWO` and `ONE` are how many outputs of as many time steps are summed at once: what the vector registers hold.
#[inline(always)]
pub(super) fn infer<const FMA: bool, const FOUR: usize, const TWO: usize, const ONE: usize>(
    weights: &Weights,
    samples: &[f32],
    memory: &mut Memory,
) -> f32 {
    let bins = weights.window / 2 + 1;
    // an empty time step before the first and behind the last one
    let mut spectra = [0.0; (STEPS + 2) * BINS];
    transform::<FMA, FOUR>(weights, samples, &mut spectra[bins..]);
    // and one before the first
    let mut first = [0.0; (STEPS + 1) * 128];
    let seen: [_; STEPS] = std::array::from_fn(|step| &spectra[step * bins..]);
    layer::<FMA, STEPS, 16, FOUR>(&weights.first, seen, &mut first[128..]);
    let mut second = [0.0; 2 * 64];
    layer::<FMA, 2, 32, TWO>(&weights.second, [&first, &first[256..]], &mut second);
    let mut third = [0.0; 64];
    layer::<FMA, 1, 64, ONE>(&weights.third, [&second], &mut third);
    let mut both = [0.0; 2 * STATE];
    layer::<FMA, 1, 64, ONE>(&weights.fourth, [&third], &mut both[..STATE]);
    both[STATE..].copy_from_slice(&memory.hidden);
    remember::<FMA, ONE>(weights, &both, memory);
    let output = memory.hidden.iter().zip(&weights.output).map(|(hidden, weight)| hidden.max(0.0) * weight);
    sigmoid::<FMA>(weights.output_bias + output.sum::<f32>())
}

/// Magnitudes of the short-time spectra, `STEPS` time steps of `out`.
#[inline(always)]
fn transform<const FMA: bool, const WIDTH: usize>(weights: &Weights, samples: &[f32], out: &mut [f32]) {
    const HALF: usize = BINS - 1;
    let (window, half, bins) = (weights.window, weights.window / 2, weights.window / 2 + 1);
    // the last spectrum reaches a quarter of a window past the end: there the samples are mirrored
    let mut mirrored = [0.0; HALF * 5];
    let mirrored = &mut mirrored[..half * 5];
    let (heard, beyond) = mirrored.split_at_mut(samples.len());
    heard.copy_from_slice(samples);
    beyond.iter_mut().zip(samples.iter().rev().skip(1)).for_each(|(to, &from)| *to = from);
    // cosines are even and sines are odd around the middle
    let (mut even, mut odd) = ([[0.0; HALF]; STEPS], [[0.0; HALF]; STEPS]);
    for step in 0..STEPS {
        let span = &mirrored[step * half..][..window];
        let (early, late) = (&span[1..half], &span[half + 1..]);
        for (n, (early, late)) in early.iter().zip(late.iter().rev()).enumerate() {
            even[step][n] = early + late;
            odd[step][n] = early - late;
        }
        even[step][half - 1] = span[half];
    }
    let even = even.each_ref().map(|step| &step[..half]);
    let odd = odd.each_ref().map(|step| &step[..half]);
    for from in (0..half).step_by(WIDTH) {
        let real = products::<FMA, STEPS, 16, WIDTH>(&weights.cosines, from, even);
        let imaginary = products::<FMA, STEPS, 16, WIDTH>(&weights.sines, from, odd);
        for step in 0..STEPS {
            let out = &mut out[step * bins + from..][..WIDTH];
            for lane in 0..WIDTH {
                let (real, imaginary) = (real[step][lane], imaginary[step][lane]);
                out[lane] = (real * real + imaginary * imaginary).sqrt();
            }
        }
    }
    for (step, even) in even.into_iter().enumerate() {
        out[step * bins + half] = even.iter().zip(&weights.nyquist).map(|(a, b)| a * b).sum::<f32>().abs();
    }
}

/// A layer with ReLU, for `N` time steps.
#[inline(always)]
fn layer<const FMA: bool, const N: usize, const LANES: usize, const WIDTH: usize>(
    layer: &Dense<LANES>,
    inputs: [&[f32]; N],
    out: &mut [f32],
) {
    let outputs = layer.bias.len() * LANES;
    for from in (0..outputs).step_by(WIDTH) {
        let sums = products::<FMA, N, LANES, WIDTH>(layer, from, inputs);
        for (step, sums) in sums.iter().enumerate() {
            let out = &mut out[step * outputs + from..][..WIDTH];
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum.max(0.0));
        }
    }
}

/// The `WIDTH` outputs of a layer that begin at `from` (one group, or an equal part of it), for each of `N` inputs: every weight is loaded once
/// for all of them.
#[inline(always)]
fn products<const FMA: bool, const N: usize, const LANES: usize, const WIDTH: usize>(
    layer: &Dense<LANES>,
    from: usize,
    inputs: [&[f32]; N],
) -> [[f32; WIDTH]; N] {
    let (group, part) = (from / LANES, from % LANES / WIDTH);
    let mut sums = [layer.bias[group].as_chunks::<WIDTH>().0[part]; N];
    let weights = &layer.weights[group * layer.inputs..][..layer.inputs];
    let inputs = inputs.map(|input| &input[..layer.inputs]);
    for (n, weights) in weights.iter().enumerate() {
        let weights = &weights.as_chunks::<WIDTH>().0[part];
        for (sums, input) in sums.iter_mut().zip(inputs) {
            let input = input[n];
            for lane in 0..WIDTH {
                sums[lane] = add_product::<FMA>(sums[lane], weights[lane], input);
            }
        }
    }
    sums
}

/// One step of the LSTM.
#[inline(always)]
fn remember<const FMA: bool, const WIDTH: usize>(weights: &Weights, both: &[f32; 2 * STATE], memory: &mut Memory) {
    let mut gates = [0.0; 4 * STATE];
    for (n, gates) in gates.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
        *gates = products::<FMA, 1, 64, WIDTH>(&weights.gates, n * WIDTH, [both])[0];
    }
    let (input, rest) = gates.split_at(STATE);
    let (forget, rest) = rest.split_at(STATE);
    let (new, output) = rest.split_at(STATE);
    for n in 0..STATE {
        let cell = sigmoid::<FMA>(forget[n]) * memory.cell[n] + sigmoid::<FMA>(input[n]) * tanh::<FMA>(new[n]);
        memory.cell[n] = cell;
        memory.hidden[n] = sigmoid::<FMA>(output[n]) * tanh::<FMA>(cell);
    }
}

#[inline(always)]
fn add_product<const FMA: bool>(sum: f32, a: f32, b: f32) -> f32 {
    // without the instruction `mul_add` is a call into libm for every sample
    if FMA { a.mul_add(b, sum) } else { sum + a * b }
}

#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

#[inline(always)]
fn tanh<const FMA: bool>(x: f32) -> f32 {
    2.0 / (1.0 + exp::<FMA>(-2.0 * x)) - 1.0
}

/// e to the power of `x` within 2e-7 of the value. (libm's is a call for every lane, which took a tenth of the time of the model.)
#[inline(always)]
fn exp<const FMA: bool>(x: f32) -> f32 {
    /// Adding it leaves the whole part of a number in the lowest bits.
    const SHIFT: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 87.0);
    let shifted = add_product::<FMA>(SHIFT, x, std::f32::consts::LOG2_E);
    let whole = shifted - SHIFT;
    let rest = add_product::<FMA>(add_product::<FMA>(x, whole, -LN_2_HIGH), whole, -LN_2_LOW);
    let mut sum = 1.0 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = add_product::<FMA>(coefficient, sum, rest);
    }
    // two to the power of the whole part, which is -126 to 126
    let exponent = shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127);
    sum * f32::from_bits(exponent << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_e_are_right_wherever_they_matter() {
        for n in -20_000..=20_000 {
            let x = n as f32 / 200.0;
            let expected = f64::from(x.clamp(-87.0, 87.0)).exp();
            for value in [exp::<true>(x), exp::<false>(x)] {
                let off = (f64::from(value) - expected).abs() / expected;
                assert!(off < 3e-7, "{x}: {value} is off by {off:e}");
            }
            assert!((f64::from(tanh::<true>(x)) - f64::from(x).tanh()).abs() < 3e-7);
        }
        assert_eq!(sigmoid::<false>(1e30), 1.0);
        assert!(sigmoid::<false>(-1e30) < 1e-37);
    }
}
