use super::*;
use proptest::prelude::*;
use std::f64::consts::TAU;

/// One second of a sine.
fn sine(rate: u32, hz: f64, amplitude: f64) -> Vec<i16> {
    (0..rate).map(|n| (amplitude * (f64::from(n) * hz * TAU / f64::from(rate)).sin()).round() as i16).collect()
}

/// Amplitude of one frequency in `samples`, and the RMS of everything else.
fn analyse(samples: &[i16], rate: u32, hz: f64) -> (f64, f64) {
    let angle = |n: usize| hz * TAU * n as f64 / f64::from(rate);
    let (mut re, mut im) = (0.0, 0.0);
    for (n, &sample) in samples.iter().enumerate() {
        re += f64::from(sample) * angle(n).cos();
        im += f64::from(sample) * angle(n).sin();
    }
    let scale = 2.0 / samples.len() as f64;
    let (re, im) = (re * scale, im * scale);
    let rest = |(n, &sample): (usize, &i16)| (f64::from(sample) - re * angle(n).cos() - im * angle(n).sin()).powi(2);
    let rest = samples.iter().enumerate().map(rest).sum::<f64>() / samples.len() as f64;
    (re.hypot(im), rest.sqrt())
}

fn convert(from: u32, to: u32, input: &[i16]) -> Vec<i16> {
    let (mut resampler, mut out) = (Resampler::new(from, to), Vec::new());
    resampler.process(input, &mut out);
    out
}

const RATIOS: [(u32, u32); 14] = [
    (8_000, 16_000),
    (16_000, 8_000),
    (8_000, 24_000),
    (24_000, 8_000),
    (8_000, 48_000),
    (48_000, 8_000),
    (16_000, 24_000),
    (24_000, 16_000),
    (22_050, 8_000),
    (44_100, 8_000),
    (44_100, 16_000),
    (16_000, 44_100),
    (12_000, 8_000),
    (8_000, 192_000),
];

#[test]
fn speech_passes_unchanged() {
    for (from, to) in RATIOS {
        let low = f64::from(from.min(to));
        // up to 3.2 kHz of 8 kHz audio
        for part in [0.01, 0.05, 0.1, 0.2, 0.3, 0.4] {
            // a whole number of periods in the half second that is looked at
            let hz = (part * low / 2.0).round() * 2.0;
            let out = convert(from, to, &sine(from, hz, 20_000.0));
            let settled = &out[to as usize / 4..][..to as usize / 2];
            let (amplitude, rest) = analyse(settled, to, hz);
            let db = 20.0 * (amplitude / 20_000.0).log10();
            assert!(db.abs() < 0.03, "{from} to {to}: {db:.3} dB at {hz} Hz");
            // rounding to 16 bits is an RMS of 0.29, at both ends
            assert!(rest < 0.6, "{from} to {to}: {rest:.2} besides {hz} Hz");
        }
        // DC too
        let out = convert(from, to, &vec![12_345; from as usize / 2]);
        assert!(out[to as usize / 4..].iter().all(|&sample| (12_344..=12_346).contains(&sample)), "{from} to {to}");
    }
}

#[test]
fn what_the_lower_rate_cannot_hold_does_not_come_back_as_something_else() {
    for (from, to) in RATIOS.into_iter().filter(|(from, to)| from > to) {
        for part in [0.511, 0.53, 0.55, 0.6, 0.7] {
            let hz = part * f64::from(to);
            if hz < f64::from(from) / 2.0 {
                let out = convert(from, to, &sine(from, hz, 20_000.0));
                let alias = crate::audio::level::rms(&out[to as usize / 4..]);
                // -88 dB and less of the sine's own 14,142; the rounding alone would be 0.3
                assert!(alias < 0.6, "{from} to {to}: {hz} Hz is heard at {alias}");
            }
        }
    }
}

#[test]
fn delay_is_what_it_says() {
    for (from, to) in RATIOS {
        // an impulse comes out with its centre where the delay puts it
        let mut input = vec![0; from as usize / 10];
        input[0] = 30_000;
        let out = convert(from, to, &input);
        let (mut weighted, mut energy) = (0.0, 0.0);
        for (n, &sample) in out.iter().enumerate() {
            let power = f64::from(sample).powi(2);
            weighted += power * n as f64;
            energy += power;
        }
        let centre = weighted / energy / f64::from(to);
        let promised = Resampler::new(from, to).delay().as_secs_f64();
        let step = 1.0 / f64::from(to);
        assert!((centre - promised).abs() < step, "{from} to {to}: {centre} s, promised {promised} s");
        assert!((promised - 24.0 / f64::from(from.min(to))).abs() < 1e-6);
    }
    assert_eq!(Resampler::new(8_000, 48_000).delay(), Duration::from_millis(3));
}

#[test]
fn length_is_exact_and_nothing_is_lost_at_the_end() {
    for (from, to) in RATIOS {
        let seconds = convert(from, to, &vec![0; from as usize * 2]);
        assert_eq!(seconds.len(), to as usize * 2, "{from} to {to}");
    }
    let (mut resampler, mut out) = (Resampler::new(8_000, 16_000), Vec::new());
    resampler.process(&[10_000; 800], &mut out);
    assert_eq!(out.len(), 1600);
    resampler.finish(&mut out);
    let tail = out.len() - 48..out.len() - 4;
    assert!(out[tail].iter().all(|&sample| sample > 9_000), "{:?}", &out[1600..]);
    // and the next stream does not hear the one before
    let from = out.len();
    resampler.process(&[0; 100], &mut out);
    assert!(out[from..].iter().all(|&sample| sample == 0));
}

#[test]
fn equal_rates_pass_through() {
    let input: Vec<i16> = (0..1000).collect();
    assert_eq!(convert(44_100, 44_100, &input), input);
    assert_eq!(Resampler::new(8_000, 8_000).delay(), Duration::ZERO);
}

#[test]
fn loud_audio_is_clipped_and_does_not_wrap() {
    let square: Vec<i16> = (0..8000).map(|n| if n / 10 % 2 == 0 { i16::MAX } else { i16::MIN }).collect();
    let out = convert(8_000, 48_000, &square);
    // behind each edge the sign is that of the input
    let at = |n: usize| out[n * 6 + 144];
    assert!((1..700).all(|n| (at(n * 10 + 5) > 30_000) == (n % 2 == 0)), "wrapped");
    assert!(out.contains(&i16::MAX) && out.contains(&i16::MIN));
}

#[test]
fn odd_rates_stay_small_and_right() {
    for (from, to) in
        [(44_101, 8_000), (8_000, 11_027), (7_919, 191_999), (0, 8_000), (u32::MAX, 8_000), (8_000, 0), (1, 2)]
    {
        let resampler = Resampler::new(from, to);
        let size = resampler.bank.as_ref().map_or(0, |bank| bank.rows.len() * 4);
        assert!(size < 220_000, "{from} to {to}: a table of {size} bytes");
    }
    let out = convert(44_101, 8_000, &vec![0; 44_101 * 4]);
    assert!((31_998..=32_002).contains(&out.len()), "{}", out.len());
}

#[test]
fn fractions() {
    assert_eq!(fraction(8_000, 48_000, 1024), (1, 6));
    assert_eq!(fraction(48_000, 44_100, 1024), (160, 147));
    assert_eq!(fraction(8_000, 22_050, 1024), (160, 441));
    let (a, b) = fraction(44_101, 8_000, 1024);
    assert!((f64::from(a) / f64::from(b) * 8_000.0 / 44_101.0 - 1.0).abs() < 1e-4, "{a}/{b}");
}

proptest! {
    #[test]
    fn how_it_is_cut_changes_nothing(
        ratio in 0..RATIOS.len(),
        pieces in prop::collection::vec(prop::collection::vec(any::<i16>(), 0..1500), 0..6),
    ) {
        let (from, to) = RATIOS[ratio];
        let (mut resampler, mut out) = (Resampler::new(from, to), Vec::new());
        for piece in &pieces {
            resampler.process(piece, &mut out);
        }
        prop_assert_eq!(out, convert(from, to, &pieces.concat()));
        prop_assert!(resampler.window.len() < resampler.bank.as_ref().map_or(1, |bank| bank.taps));
    }
}
