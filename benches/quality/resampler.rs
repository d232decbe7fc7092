//! What the conversion of sampling rates does to a sine.

use std::f64::consts::TAU;

use hark::audio::resample::Resampler;

use crate::table;

const PAIRS: [(u32, u32); 8] = [
    (8_000, 16_000),
    (16_000, 8_000),
    (8_000, 24_000),
    (24_000, 8_000),
    (8_000, 48_000),
    (48_000, 8_000),
    (16_000, 24_000),
    (24_000, 16_000),
];
/// Of the sine; what 16 bits leave of its rounding is 90 dB below it.
const AMPLITUDE: f64 = 20_000.0;
const STEP_HZ: usize = 50;

/// How well a sine comes through.
struct Passed {
    /// Its level against what it was, in dB.
    gain: f64,
    /// Its level against everything else that comes out, in dB.
    snr: f64,
    /// Everything that comes out against what it was, in dB.
    out: f64,
}

pub fn report() {
    let rows = table::each(&PAIRS, |&(from, to)| row(from, to));
    let head = [
        "from → to Hz",
        "SNR to 3.2 (6.4) kHz, dB",
        "ripple there, dB",
        "-1 dB at, Hz",
        "aliases or images, dB",
        "delay, ms",
    ];
    table::print("Resampler, a sine every 50 Hz (aim: SNR ≥ 80 dB, aliases ≤ -80 dB)", &head, &rows);
}

fn row(from: u32, to: u32) -> Vec<String> {
    let low = f64::from(from.min(to));
    let (pass, stop) = (low * 0.4, low * 0.51);
    let sweep = |range: std::ops::Range<f64>| -> Vec<(f64, Passed)> {
        (range.start as usize..range.end as usize)
            .step_by(STEP_HZ)
            .map(|hz| (hz as f64, passed(from, to, hz as f64)))
            .collect()
    };
    let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
    let band = sweep(100.0..pass + 1.0);
    let snr = least(&mut band.iter().map(|(_, p)| p.snr));
    let ripple = band.iter().map(|(_, p)| p.gain.abs()).fold(0.0, f64::max);
    let edge = sweep(pass..low / 2.0).into_iter().find(|(_, p)| p.gain < -1.0).map_or(low / 2.0, |(hz, _)| hz);
    // down: what lies above the new half of the rate must vanish. Up: everything but the sine itself is an image of it.
    let aliases =
        if from > to { -least(&mut sweep(stop..f64::from(from) * 0.49).iter().map(|(_, p)| -p.out)) } else { -snr };
    vec![
        format!("{from} → {to}"),
        format!("{snr:.0}"),
        format!("{ripple:.2}"),
        format!("{edge:.0}"),
        format!("{aliases:.0}"),
        format!("{:.1}", delay(from, to)),
    ]
}

/// Half a second of a sine, without what the filter does to its beginning and end.
fn passed(from: u32, to: u32, hz: f64) -> Passed {
    let sine = |n: u32| (AMPLITUDE * (TAU * hz * f64::from(n) / f64::from(from)).sin()).round() as i16;
    let (input, mut output) = ((0..from / 2).map(sine).collect::<Vec<_>>(), Vec::new());
    Resampler::new(from, to).process(&input, &mut output);
    let edge = to as usize / 20;
    let steady: Vec<f64> = output[edge..output.len() - edge].iter().map(|&sample| f64::from(sample)).collect();
    let total = steady.iter().map(|sample| sample * sample).sum::<f64>() / steady.len() as f64;
    // the sine of that frequency that fits best
    let step = TAU * hz / f64::from(to);
    let sum =
        |wave: fn(f64) -> f64| steady.iter().enumerate().map(|(n, sample)| sample * wave(step * n as f64)).sum::<f64>();
    let product = |a: fn(f64) -> f64, b: fn(f64) -> f64| {
        (0..steady.len()).map(|n| a(step * n as f64) * b(step * n as f64)).sum::<f64>()
    };
    let (ss, cc, sc) = (product(f64::sin, f64::sin), product(f64::cos, f64::cos), product(f64::sin, f64::cos));
    let (ys, yc, determinant) = (sum(f64::sin), sum(f64::cos), ss * cc - sc * sc);
    let (a, b) = ((ys * cc - yc * sc) / determinant, (yc * ss - ys * sc) / determinant);
    let fitted = (a * ys + b * yc) / steady.len() as f64;
    let db = |ratio: f64| 10.0 * ratio.max(1e-15).log10();
    let whole = AMPLITUDE * AMPLITUDE / 2.0;
    Passed { gain: db(fitted / whole), snr: db(fitted / (total - fitted).max(1e-9)), out: db(total / whole) }
}

/// Where the middle of a click comes out, in ms.
fn delay(from: u32, to: u32) -> f64 {
    let at = from as usize / 10;
    let mut input = vec![0i16; from as usize / 5];
    input[at] = 30_000;
    let mut output = Vec::new();
    Resampler::new(from, to).process(&input, &mut output);
    let energy = |(n, sample): (usize, &i16)| (n as f64 * f64::from(*sample).powi(2), f64::from(*sample).powi(2));
    let (weighted, all) = output.iter().enumerate().map(energy).fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    1_000.0 * (weighted / all / f64::from(to) - at as f64 / f64::from(from))
}
