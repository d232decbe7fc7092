use super::*;
use crate::audio::framer::Framer;
use crate::audio::tone::Tone;
use crate::audio::wav;

const CALLER: &[u8] = include_bytes!("../../../fixtures/audio/caller.wav");
const REFERENCE_8K: &str = include_str!("../../../fixtures/audio/caller.silero8k.txt");
const REFERENCE_16K: &str = include_str!("../../../fixtures/audio/caller.silero16k.txt");
const SUMS: &str = include_str!("../../../assets/silero/SHA256SUMS");

/// The fixture, every sample `times` times, as the reference was computed.
fn caller(times: usize) -> Vec<i16> {
    let Ok((8000, samples)) = wav::read(CALLER) else { panic!("the fixture must be readable, at 8 kHz") };
    samples.into_iter().flat_map(|sample| std::iter::repeat_n(sample, times)).collect()
}

fn listen(vad: &mut Vad, rate: Rate, samples: &[i16]) -> Vec<f32> {
    let mut framer = Framer::new(rate);
    framer.push(samples);
    std::iter::from_fn(|| framer.pop()).filter_map(|frame| vad.push(&frame)).collect()
}

/// One probability per window, with the instructions of this processor and without.
fn infer(model: &Silero, samples: &[i16]) -> [Vec<f32>; 2] {
    let (mut fast, mut portable) = (model.clone(), model.clone());
    let windows = samples.chunks_exact(model.window_samples());
    windows.map(|window| (fast.push(window).unwrap(), portable.push_portably(window).unwrap())).unzip().into()
}

fn largest_difference(heard: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(heard.len(), expected.len());
    heard.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn assert_equals_reference(model: &Silero, samples: &[i16], reference: &str) {
    let expected: Vec<f32> = reference.lines().map(|line| line.parse().unwrap()).collect();
    let [fast, portable] = infer(model, samples);
    for (name, heard) in [("with", &fast), ("without", &portable)] {
        let largest = largest_difference(heard, &expected);
        println!("largest difference from ONNX Runtime {name} the instructions of this processor: {largest:e}");
        assert!(largest < 1e-5, "{name}: {largest:e}");
    }
}

#[test]
fn speech_at_8_khz_gives_the_probabilities_of_onnx_runtime() {
    assert_equals_reference(&Silero::narrowband(), &caller(1), REFERENCE_8K);
}

#[test]
fn speech_at_16_khz_gives_the_probabilities_of_onnx_runtime() {
    assert_equals_reference(&Silero::wideband(), &caller(2), REFERENCE_16K);
}

#[test]
fn frames_give_what_windows_give_also_after_a_reset() {
    let speech = caller(1);
    let mut vad = Vad::new(Rate::R8K);
    let heard = listen(&mut vad, Rate::R8K, &speech);
    assert_eq!(heard, infer(&Silero::narrowband(), &speech)[0]);
    vad.reset();
    let again = listen(&mut vad, Rate::R8K, &speech[..16_000]);
    assert_eq!(again, heard[..again.len()]);
}

#[test]
fn every_processor_hears_the_same_in_the_worst_sounds() {
    let speech = &caller(1)[..32_000];
    let clipped = speech.iter().map(|&s| s.saturating_mul(50)).collect();
    let shifted = speech.iter().map(|&s| s.saturating_add(20_000)).collect();
    let swapped = speech.iter().map(|s| s.swap_bytes()).collect();
    let gaps = speech.chunks(320).flat_map(|pair| pair.iter().enumerate().map(|(n, &s)| if n < 160 { s } else { 0 }));
    let lsb = (0..speech.len()).map(|n| (n % 3) as i16 - 1).collect();
    for (name, samples) in [
        ("clipped", clipped),
        ("shifted", shifted),
        ("bytes swapped", swapped),
        ("every other frame lost", gaps.collect()),
        ("one bit", lsb),
        ("silence", vec![0; 80_000]),
    ] {
        for model in [Silero::narrowband(), Silero::wideband()] {
            let [fast, portable]: [Vec<f32>; 2] = infer(&model, &samples);
            let largest = largest_difference(&fast, &portable);
            assert!(fast.iter().all(|p| (0.0..=1.0).contains(p)), "{name}: {fast:?}");
            assert!(largest < 1e-5, "{name} at {}: {largest:e}", model.rate());
        }
    }
}

#[test]
fn weights_are_the_ones_that_were_vendored() {
    for (name, bytes) in [
        ("silero8k.bin", &include_bytes!("../../../assets/silero/silero8k.bin")[..]),
        ("silero16k.bin", &include_bytes!("../../../assets/silero/silero16k.bin")[..]),
    ] {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        let sum: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(SUMS.lines().any(|line| line == format!("{sum}  {name}")), "{name} is {sum}");
    }
}

#[test]
fn every_rate_hears_the_same_speech() {
    let speech = &caller(1)[..8000 * 3];
    for rate in Rate::ALL {
        let mut samples = Vec::new();
        crate::audio::resample::Resampler::new(8_000, rate.hz()).process(speech, &mut samples);
        let heard = listen(&mut Vad::new(rate), rate, &samples);
        // 3 s; the first may be missing by the delay of the filter
        assert!((92..=93).contains(&heard.len()), "{rate}: {}", heard.len());
        let during = |from_ms: usize, to_ms: usize| &heard[from_ms / 32..to_ms / 32];
        assert!(during(200, 600).iter().all(|&p| p < 0.1), "{rate}: {:?}", during(200, 600));
        assert!(during(830, 1100).iter().all(|&p| p > 0.9), "{rate}: {:?}", during(830, 1100));
        assert!(during(1700, 2500).iter().all(|&p| p < 0.1), "{rate}: {:?}", during(1700, 2500));
    }
}

#[test]
fn noise_tones_and_digits_are_not_speech() {
    let mut seed = 1u32;
    let noise: Vec<i16> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) as i16 / 8
    })
    .take(16_000)
    .collect();
    let mut ringback = Tone::sine(Rate::R8K, 440.0, 6000).take(16_000);
    crate::audio::mix::add(&mut ringback, &Tone::sine(Rate::R8K, 480.0, 6000).take(16_000));
    let digit = Tone::dtmf(Rate::R8K, '5', 16_000).map(|mut tone| tone.take(16_000)).unwrap_or_default();
    for (name, samples) in [("silence", vec![0; 16_000]), ("noise", noise), ("ringback", ringback), ("digit", digit)] {
        let heard = listen(&mut Vad::new(Rate::R8K), Rate::R8K, &samples);
        let speech = heard.iter().filter(|&&p| p > 0.5).count();
        println!("{name}: highest {:.3}", heard.iter().copied().fold(0.0, f32::max));
        assert!(heard.len() == 62 && speech == 0, "{name}: {heard:.2?}");
    }
}

#[test]
fn at_most_one_result_per_frame_and_one_per_32_ms() {
    for rate in Rate::ALL {
        let mut vad = Vad::new(rate);
        let results: Vec<bool> = (0..80).map(|_| vad.push(&Frame::silence(rate)).is_some()).collect();
        let count = results.iter().filter(|&&some| some).count();
        assert!((49..=50).contains(&count), "{rate}: {count} in 1.6 s");
        let gaps = results.split(|&some| some).map(<[bool]>::len).max();
        assert!(gaps <= Some(2), "{rate}: {results:?}");
    }
}

#[test]
fn the_loudest_samples_give_a_probability() {
    let mut silero = Silero::narrowband();
    for pattern in [[i16::MIN; 2], [i16::MAX; 2], [i16::MIN, i16::MAX]] {
        let samples: Vec<i16> = pattern.into_iter().cycle().take(256 * 20).collect();
        let probability = silero.push(&samples);
        assert!(probability.is_some_and(|p| (0.0..=1.0).contains(&p)), "{probability:?}");
    }
    assert_eq!(silero.push(&[]), None);
}
