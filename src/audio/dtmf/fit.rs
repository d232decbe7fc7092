//! Two sines laid through samples so that the least is left (least squares).

use crate::audio::Rate;
use std::f64::consts::TAU;

/// How often the frequencies are corrected; once brings them within 1 Hz.
const ROUNDS: usize = 2;
/// A frequency this far away is no matter for corrections.
const FAR: f64 = 0.06;

/// Two sines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub hz: [f64; 2],
    /// Their peaks.
    pub amplitudes: [f64; 2],
    /// The part of the energy that is something else.
    pub unexplained: f64,
}

/// What is left of `samples` around `offset`, seen as two sines near `nominal`; `None` if they lead nowhere near.
pub(super) fn pair(samples: &[i16], offset: f32, nominal: [f64; 2], rate: Rate) -> Option<Pair> {
    let half = samples.len() / 2;
    let seconds = half as f64 / f64::from(rate.hz());
    let mut hz = nominal;
    for _ in 0..ROUNDS {
        // a frequency that is off turns the phase from one half to the other
        let early = fit(&samples[..half], offset, hz, rate)?.0;
        let late = fit(&samples[half..], offset, hz, rate)?.0;
        for n in 0..2 {
            let expected = hz[n] * seconds * TAU;
            let turned = late[n].1.atan2(late[n].0) - early[n].1.atan2(early[n].0) - expected;
            let turned = turned - (turned / TAU).round() * TAU;
            hz[n] += turned / TAU / seconds;
            if (hz[n] - nominal[n]).abs() > FAR * nominal[n] {
                return None;
            }
        }
    }
    let (waves, unexplained) = fit(samples, offset, hz, rate)?;
    Some(Pair { hz, amplitudes: waves.map(|(re, im)| re.hypot(im)), unexplained })
}

/// The amplitudes `(cosine, -sine)` of two sines of given frequencies, and the part of the energy that they leave.
fn fit(samples: &[i16], offset: f32, hz: [f64; 2], rate: Rate) -> Option<([(f64, f64); 2], f64)> {
    let steps = hz.map(|hz| (hz * TAU / f64::from(rate.hz())).sin_cos());
    let mut waves = [(0.0f64, 1.0f64); 2];
    // how alike the waves are, and how like each is to the samples
    let (mut alike, mut like) = ([[0.0; 4]; 4], [0.0; 4]);
    let mut energy = 0.0;
    for &sample in samples {
        let sample = f64::from(sample) - f64::from(offset);
        energy += sample * sample;
        let wave = [waves[0].1, waves[0].0, waves[1].1, waves[1].0];
        for a in 0..4 {
            like[a] += sample * wave[a];
            for b in 0..=a {
                alike[a][b] += wave[a] * wave[b];
            }
        }
        for ((sin, cos), (step_sin, step_cos)) in waves.iter_mut().zip(steps) {
            (*sin, *cos) = (*sin * step_cos + *cos * step_sin, *cos * step_cos - *sin * step_sin);
        }
    }
    let weights = solve(alike, like)?;
    let explained: f64 = weights.iter().zip(&like).map(|(a, b)| a * b).sum();
    let unexplained = if energy > 0.0 { 1.0 - explained / energy } else { 1.0 };
    Some(([(weights[0], -weights[1]), (weights[2], -weights[3])], unexplained))
}

/// Solves `matrix · x = right` for a symmetric, positive matrix of which the lower half is given (Cholesky).
fn solve(matrix: [[f64; 4]; 4], right: [f64; 4]) -> Option<[f64; 4]> {
    let mut lower = [[0.0; 4]; 4];
    for row in 0..4 {
        for column in 0..=row {
            let known: f64 = (0..column).map(|n| lower[row][n] * lower[column][n]).sum();
            let rest = matrix[row][column] - known;
            lower[row][column] = if row == column { rest.sqrt() } else { rest / lower[column][column] };
        }
        // the waves were not independent
        if lower[row][row].is_nan() || lower[row][row] < 1e-6 {
            return None;
        }
    }
    let mut x = right;
    for row in 0..4 {
        let known: f64 = (0..row).map(|n| lower[row][n] * x[n]).sum();
        x[row] = (x[row] - known) / lower[row][row];
    }
    for row in (0..4).rev() {
        let known: f64 = (row + 1..4).map(|n| lower[n][row] * x[n]).sum();
        x[row] = (x[row] - known) / lower[row][row];
    }
    Some(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sines_are_found_as_they_are() {
        for rate in [Rate::R8K, Rate::R44K] {
            let wave = |hz: f64, n: usize, phase: f64| (hz * TAU * n as f64 / f64::from(rate.hz()) + phase).cos();
            let samples: Vec<i16> = (0..rate.hz() as usize * 3 / 100)
                .map(|n| (100.0 + 3000.0 * wave(708.0, n, 1.0) + 7000.0 * wave(1620.0, n, -2.0)) as i16)
                .collect();
            let pair = pair(&samples, 100.0, [697.0, 1633.0], rate).unwrap();
            assert!((pair.hz[0] - 708.0).abs() < 0.5 && (pair.hz[1] - 1620.0).abs() < 0.5, "{pair:?}");
            assert!(
                (pair.amplitudes[0] - 3000.0).abs() < 30.0 && (pair.amplitudes[1] - 7000.0).abs() < 30.0,
                "{pair:?}"
            );
            assert!(pair.unexplained < 0.001, "{pair:?}");
        }
    }

    #[test]
    fn what_is_no_pair_is_unexplained_or_nothing() {
        let silence = pair(&[0; 240], 0.0, [697.0, 1209.0], Rate::R8K);
        assert!(silence.is_none_or(|pair| pair.unexplained > 0.9), "{silence:?}");
        assert!(solve([[1.0; 4]; 4], [1.0; 4]).is_none());
        assert!(solve([[f64::NAN; 4]; 4], [1.0; 4]).is_none());
    }
}
