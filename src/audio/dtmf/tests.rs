use super::*;
use crate::audio::g711::Law;
use crate::audio::{Frame, wav};
use proptest::prelude::*;
use std::f64::consts::TAU;

/// A digit as a telephone may send it.
#[derive(Debug, Clone, Copy)]
struct Press {
    key: char,
    /// Factors on the two frequencies.
    off: [f64; 2],
    /// Levels of the two tones.
    dbm0: [f32; 2],
    on_ms: f64,
}

impl Press {
    const fn usual(key: char) -> Self {
        Self { key, off: [1.0; 2], dbm0: [-12.0; 2], on_ms: 40.0 }
    }
}

/// Noise with a flat spectrum and the root mean square 1.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        let uniform: f64 = (0..12)
            .map(|_| {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (self.0 >> 33) as f64 / f64::from(1u32 << 31)
            })
            .sum();
        uniform - 6.0
    }
}

/// Presses with pauses of `pause_ms` before and after each, and noise `snr_db` below the tones (for ever if infinite).
fn dial(rate: Rate, presses: &[Press], pause_ms: f64, snr_db: f64) -> Vec<i16> {
    let hz = f64::from(rate.hz());
    let (mut samples, mut noise, mut level) = (Vec::new(), Noise(1), 0.0);
    let pause = |samples: &mut Vec<f64>, ms: f64| samples.extend(std::iter::repeat_n(0.0, (hz * ms / 1000.0) as usize));
    pause(&mut samples, pause_ms + 100.0);
    for (n, press) in presses.iter().enumerate() {
        let place =
            (0..4).find_map(|row| KEYS[row].iter().position(|&key| key == press.key).map(|column| (row, column)));
        let (row, column) = place.unwrap();
        let tones = [FREQUENCIES[row] * press.off[0], FREQUENCIES[4 + column] * press.off[1]];
        let peaks = press.dbm0.map(|dbm0| f64::from(amplitude_of_dbm0(dbm0)));
        level = ((peaks[0].powi(2) + peaks[1].powi(2)) / 2.0).sqrt();
        let wave = |at: f64, n: usize| peaks[n] * (tones[n] * TAU * at / hz + n as f64).sin();
        samples.extend((0..(hz * press.on_ms / 1000.0) as usize).map(|at| wave(at as f64, 0) + wave(at as f64, 1)));
        // the beginnings fall on other places of the grid each time
        pause(&mut samples, pause_ms + 0.7 * (n % 7) as f64);
    }
    let loudness = level * 10f64.powf(-snr_db / 20.0);
    samples.into_iter().map(|sample| (sample + noise.next() * loudness).round() as i16).collect()
}

fn heard(rate: Rate, samples: &[i16]) -> String {
    let (mut detector, mut digits) = (Detector::new(rate), String::new());
    samples.chunks(rate.frame_samples()).for_each(|frame| detector.push(frame, |digit| digits.push(digit)));
    digits
}

fn all(change: impl Fn(Press) -> Press) -> (String, Vec<Press>) {
    let keys: String = KEYS.iter().flatten().collect();
    let presses = keys.chars().map(|key| change(Press::usual(key))).collect();
    (keys, presses)
}

fn g711(law: Law, samples: &[i16]) -> Vec<i16> {
    let mut codes = Vec::new();
    law.encode(samples, &mut codes);
    codes.into_iter().map(|code| law.decode_byte(code)).collect()
}

#[test]
fn every_digit_within_the_limits_is_found_once_at_every_rate() {
    for rate in Rate::ALL {
        let (keys, presses) = all(|press| press);
        assert_eq!(heard(rate, &dial(rate, &presses, 40.0, f64::INFINITY)), keys, "{rate}");
    }
}

#[test]
fn levels_twist_and_frequencies_within_the_limits_through_g711_and_noise() {
    let mut count = 0;
    // both tones at the limit, and then the louder one at 0 dBm0 or the weaker one at -25
    for dbm0 in [[-25.0, -25.0], [0.0, 0.0], [-17.0, -25.0], [-25.0, -21.0], [0.0, -8.0], [-4.0, 0.0]] {
        for off in [[1.0, 1.0], [1.015, 1.015], [0.985, 0.985], [1.015, 0.985], [0.985, 1.015]] {
            for snr in [f64::INFINITY, 20.0, 15.0] {
                let (keys, presses) = all(|press| Press { off, dbm0, ..press });
                let samples = dial(Rate::R8K, &presses, 40.0, snr);
                for samples in [g711(Law::Alaw, &samples), g711(Law::Ulaw, &samples), samples] {
                    assert_eq!(heard(Rate::R8K, &samples), keys, "{dbm0:?} dBm0, {off:?}, {snr} dB of noise");
                    count += 16;
                }
            }
        }
    }
    println!("{count} of {count} digits of 40 ms found");
}

#[test]
fn what_is_outside_the_limits_is_no_digit() {
    for off in [[1.035, 1.0], [0.965, 1.0], [1.0, 1.035], [1.0, 0.965], [1.035, 1.035], [0.965, 0.965]] {
        let (_, presses) = all(|press| Press { off, on_ms: 200.0, ..press });
        assert_eq!(heard(Rate::R8K, &dial(Rate::R8K, &presses, 40.0, f64::INFINITY)), "", "{off:?}");
    }
    let (_, presses) = all(|press| Press { on_ms: 23.0, ..press });
    assert_eq!(heard(Rate::R8K, &dial(Rate::R8K, &presses, 40.0, f64::INFINITY)), "", "23 ms");
    for dbm0 in [[-55.0, -55.0], [-10.0, -40.0], [-40.0, -10.0], [-60.0, -5.0]] {
        let (_, presses) = all(|press| Press { dbm0, on_ms: 200.0, ..press });
        assert_eq!(heard(Rate::R8K, &dial(Rate::R8K, &presses, 40.0, f64::INFINITY)), "", "{dbm0:?}");
    }
}

#[test]
fn one_key_is_one_digit_however_long_and_with_short_gaps() {
    let long = Press { on_ms: 5000.0, ..Press::usual('5') };
    assert_eq!(heard(Rate::R8K, &dial(Rate::R8K, &[long, long], 40.0, 15.0)), "55");
    for gap in [1.0, 5.0, 10.0] {
        let mut samples = dial(Rate::R8K, &[long], 40.0, 20.0);
        for at in (4000..36_000).step_by(4321) {
            samples[at..at + (8.0 * gap) as usize].fill(0);
        }
        assert_eq!(heard(Rate::R8K, &samples), "5", "gaps of {gap} ms");
    }
}

#[test]
fn one_tone_alone_and_speech_over_tones_are_no_digits() {
    for hz in FREQUENCIES {
        let samples: Vec<i16> = (0..8000).map(|n| (9000.0 * (hz * TAU * f64::from(n) / 8000.0).sin()) as i16).collect();
        assert_eq!(heard(Rate::R8K, &samples), "", "{hz} Hz");
    }
    // two rows, two columns, dial tone, ring-back, busy
    for (a, b) in [(697.0, 941.0), (1209.0, 1477.0), (350.0, 440.0), (440.0, 480.0), (480.0, 620.0)] {
        let wave = |hz: f64, n: i32| 8000.0 * (hz * TAU * f64::from(n) / 8000.0).sin();
        let samples: Vec<i16> = (0..8000).map(|n| (wave(a, n) + wave(b, n)) as i16).collect();
        assert_eq!(heard(Rate::R8K, &samples), "", "{a} and {b} Hz");
    }
}

#[test]
fn speech_is_no_digit() {
    let caller = wav::read(include_bytes!("../../../fixtures/audio/caller.wav")).unwrap().1;
    for gain in [0.2, 1.0, 3.0, 30.0] {
        let samples: Vec<i16> = caller.iter().map(|&sample| (f32::from(sample) * gain) as i16).collect();
        assert_eq!(heard(Rate::R8K, &samples), "", "{gain}");
    }
}

#[test]
fn damaged_digits() {
    let (keys, presses) = all(|press| Press { on_ms: 80.0, ..press });
    let samples = dial(Rate::R8K, &presses, 60.0, 20.0);
    let shifted: Vec<i16> = samples.iter().map(|&sample| sample.saturating_add(8_000)).collect();
    assert_eq!(heard(Rate::R8K, &shifted), keys, "with a constant offset");
    let clipped: Vec<i16> = samples.iter().map(|&sample| sample.clamp(-10_000, 10_000)).collect();
    assert_eq!(heard(Rate::R8K, &clipped), keys, "clipped");
    for noise in
        [samples.iter().map(|s| s.swap_bytes()).collect::<Vec<_>>(), samples.iter().map(|s| s.signum()).collect()]
    {
        // whatever comes out, it is not more than was dialled
        assert!(heard(Rate::R8K, &noise).len() <= 16);
    }
}

fn suppressed(mode: InbandDtmf, samples: &[i16]) -> (String, Vec<i16>) {
    let mut suppressor = Suppressor::new(Rate::R8K, mode).unwrap();
    let (mut digits, mut out) = (String::new(), Vec::new());
    for samples in samples.chunks(160) {
        let mut frame = Frame::padded(Rate::R8K, samples);
        suppressor.pass(&mut frame, |digit| digits.push(digit));
        out.extend_from_slice(frame.samples());
    }
    (digits, out)
}

#[test]
fn tones_are_muted_and_words_are_not() {
    assert!(Suppressor::new(Rate::R8K, InbandDtmf::Off).is_none());
    let presses = ['1', '5', '#'].map(|key| Press { on_ms: 100.0, ..Press::usual(key) });
    let caller = wav::read(include_bytes!("../../../fixtures/audio/caller.wav")).unwrap().1;
    for from in (0..160).step_by(20) {
        let mut samples = vec![0; from];
        samples.extend(dial(Rate::R8K, &presses, 100.0, f64::INFINITY));
        let dialled = samples.len();
        samples.extend(&caller);
        let (digits, out) = suppressed(InbandDtmf::Remove, &samples);
        assert_eq!(digits, "15#");
        let loud = out[..dialled + 320].iter().position(|&sample| sample != 0);
        assert_eq!(loud, None, "at {from}");
        assert_eq!(&out[dialled + 320..], &samples[dialled..out.len() - 320], "at {from}");
        let (digits, out) = suppressed(InbandDtmf::Detect, &samples);
        assert_eq!(digits, "15#");
        let tone = out[..dialled].iter().filter(|&&sample| sample != 0).count();
        assert!(tone <= 3 * 60 * 8, "{} ms of three tones were passed on", tone / 8);
        assert_eq!(&out[dialled..out.len() - 160], &samples[dialled..out.len() - 160], "at {from}");
    }
}

proptest! {
    #[test]
    fn any_samples_in_any_pieces(samples in prop::collection::vec(any::<i16>(), 0..4000), piece in 1usize..700) {
        let (mut whole, mut pieces) = (Detector::new(Rate::R8K), Detector::new(Rate::R8K));
        let (mut a, mut b) = (String::new(), String::new());
        whole.push(&samples, |digit| a.push(digit));
        samples.chunks(piece).for_each(|piece| pieces.push(piece, |digit| b.push(digit)));
        prop_assert_eq!(a, b);
    }

    #[test]
    fn the_extremes(pattern in prop::collection::vec(prop::sample::select(vec![i16::MIN, i16::MAX, 0, 1, -1]), 1..50)) {
        let samples: Vec<i16> = pattern.into_iter().cycle().take(4000).collect();
        heard(Rate::R8K, &samples);
    }
}
