use super::*;
use crate::audio::resample::Resampler;
use crate::audio::tone::Tone;
use crate::audio::{Rate, level::rms, wav};
use proptest::prelude::*;

/// How many samples the codec delays by: twice the mirror filter.
const DELAY: usize = 22;

fn caller(hz: u32) -> Vec<i16> {
    let (rate, samples) = wav::read(include_bytes!("../../../fixtures/audio/caller.wav")).unwrap();
    let mut out = Vec::new();
    Resampler::new(rate, hz).process(&samples, &mut out);
    out
}

fn encoded(samples: &[i16]) -> Vec<u8> {
    let mut codes = Vec::new();
    Encoder::default().encode(samples, &mut codes);
    codes
}

fn decoded(codes: &[u8]) -> Vec<i16> {
    let mut samples = Vec::new();
    Decoder::default().decode(codes, &mut samples);
    samples
}

/// Signal to noise, in dB, of `heard` against what it was `delay` samples before.
fn snr(said: &[i16], heard: &[i16], delay: usize) -> f32 {
    let noise: Vec<i16> = heard[delay..].iter().zip(said).map(|(a, b)| a.saturating_sub(*b)).collect();
    20.0 * (rms(said) / rms(&noise)).log10()
}

#[test]
fn speech_and_tones_come_back() {
    let speech = caller(HZ);
    let codes = encoded(&speech);
    assert_eq!(codes.len(), speech.len() / 2);
    let heard = snr(&speech, &decoded(&codes), DELAY);
    println!("speech: {heard:.1} dB");
    assert!(heard > 20.0, "{heard} dB");
    // in either band, at every level
    for (hz, least) in [(300.0, 30.0), (1000.0, 30.0), (3000.0, 25.0), (5000.0, 12.0), (6500.0, 12.0)] {
        for amplitude in [1000, 10_000, 25_000] {
            let tone = Tone::sine(Rate::R16K, hz, amplitude).take(16_000);
            let heard = decoded(&encoded(&tone));
            let loudness = 20.0 * (rms(&heard[1000..]) / rms(&tone[1000..])).log10();
            let noise = snr(&tone[1000..], &heard[1000..], DELAY);
            assert!(loudness.abs() < 0.5 && noise > least, "{hz} Hz at {amplitude}: {loudness} dB, {noise} dB");
        }
    }
}

#[test]
fn what_asterisk_encoded_is_understood() {
    // recorded from an Asterisk 22 that played conf-getpin.wav
    let heard = decoded(include_bytes!("../../../fixtures/audio/conf-getpin.g722"));
    let (_, played) = wav::read(include_bytes!("../../../fixtures/audio/conf-getpin.wav")).unwrap();
    let mut narrow = Vec::new();
    Resampler::new(HZ, 8_000).process(&heard, &mut narrow);
    // the same speech somewhere in it, at its level
    let piece = &played[8_000..12_000];
    let likeness = |at: usize| {
        let other = &narrow[at..at + piece.len()];
        let product: f64 = piece.iter().zip(other).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        product / (f64::from(rms(piece)) * f64::from(rms(other)).max(1.0) * piece.len() as f64)
    };
    let places = 0..narrow.len() - piece.len();
    let best = places.max_by(|&a, &b| likeness(a).total_cmp(&likeness(b))).unwrap();
    let level = rms(&narrow[best..best + piece.len()]) / rms(piece);
    println!("likeness {:.4} at {best}, level {level:.3}", likeness(best));
    assert!(likeness(best) > 0.99 && (0.9..1.1).contains(&level), "{} at {best}, {level}", likeness(best));
}

#[test]
fn every_bit_is_that_of_the_reference() {
    // computed by libg722 (the implementation of SpanDSP and Asterisk): see fixtures/audio/README.md
    let sums = include_str!("../../../fixtures/audio/caller.g722.sums");
    let speech: Vec<i16> = caller(8_000).into_iter().flat_map(|sample| [sample; 2]).collect();
    let loud: Vec<i16> = speech.iter().map(|sample| sample.saturating_mul(12)).collect();
    let digest = |bytes: &[u8]| -> String {
        ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let bytes = |samples: &[i16]| samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<_>>();
    let mut seed = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    })
    .take(40_000)
    .collect();
    for (name, sum) in [
        ("speech, encoded", digest(&encoded(&speech))),
        ("speech, decoded", digest(&bytes(&decoded(&encoded(&speech))))),
        ("clipped speech, encoded", digest(&encoded(&loud))),
        ("clipped speech, decoded", digest(&bytes(&decoded(&encoded(&loud))))),
        ("random codes, decoded", digest(&bytes(&decoded(&noise)))),
    ] {
        assert!(sums.lines().any(|line| line == format!("{sum}  {name}")), "{name} is {sum}");
    }
}

proptest! {
    #[test]
    fn any_samples_in_any_pieces(samples in prop::collection::vec(any::<i16>(), 0..3000), piece in 1usize..500) {
        let (mut encoder, mut codes) = (Encoder::default(), Vec::new());
        samples.chunks(piece).for_each(|piece| encoder.encode(piece, &mut codes));
        prop_assert_eq!(&codes, &encoded(&samples));
        prop_assert_eq!(decoded(&codes).len(), samples.len() / 2 * 2);
    }

    #[test]
    fn any_codes(codes in prop::collection::vec(any::<u8>(), 0..3000)) {
        decoded(&codes);
    }

    #[test]
    fn the_extremes(pattern in prop::collection::vec(prop::sample::select(vec![i16::MIN, i16::MAX, 0, 1, -1]), 1..50)) {
        let samples: Vec<i16> = pattern.into_iter().cycle().take(8000).collect();
        decoded(&encoded(&samples));
    }
}
