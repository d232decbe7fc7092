//! What one 20 ms frame costs in each part of `audio`: `cargo bench --bench audio`.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hark::audio::g711::{Law, LawDetector};
use hark::audio::mix::Ambience;
use hark::audio::resample::Resampler;
use hark::audio::vad::{Silero, Vad};
use hark::audio::wav::Stripper;
use hark::audio::{Frame, Rate, wav};
use std::hint::black_box;
use std::sync::Arc;

const CALLER: &[u8] = include_bytes!("../fixtures/audio/caller.wav");

fn speech() -> Vec<i16> {
    wav::read(CALLER).map(|(_, samples)| samples).unwrap_or_default()
}

fn g711(c: &mut Criterion) {
    let mut group = c.benchmark_group("g711");
    let samples = &speech()[8000..8160];
    let mut codes = Vec::with_capacity(160);
    Law::Alaw.encode(samples, &mut codes);
    let mut out = Vec::with_capacity(160);
    group.bench_function("encode", |b| {
        let mut codes = Vec::with_capacity(160);
        b.iter(|| {
            codes.clear();
            Law::Alaw.encode(black_box(samples), &mut codes);
        });
    });
    group.bench_function("decode", |b| {
        let mut detector = LawDetector::new(Some(Law::Alaw));
        b.iter(|| {
            out.clear();
            detector.decode(black_box(&codes), &mut out);
        });
    });
    group.bench_function("decode while the law is not decided", |b| {
        // idle frames never decide
        let idle = [0xD5; 160];
        let mut detector = LawDetector::new(None);
        b.iter(|| {
            out.clear();
            detector.decode(black_box(&idle), &mut out);
        });
    });
    group.finish();
}

fn resample(c: &mut Criterion) {
    let mut group = c.benchmark_group("resample");
    for (from, to) in
        [(8_000, 16_000), (24_000, 8_000), (8_000, 48_000), (48_000, 8_000), (22_050, 8_000), (44_100, 16_000)]
    {
        let mut input = Vec::new();
        Resampler::new(8_000, from).process(&speech()[8000..9600], &mut input);
        let frame = &input[input.len() / 2..][..from as usize / 50];
        let mut out = Vec::with_capacity(to as usize / 25);
        let mut resampler = Resampler::new(from, to);
        group.bench_function(BenchmarkId::from_parameter(format!("{from} to {to}")), |b| {
            b.iter(|| {
                out.clear();
                resampler.process(black_box(frame), &mut out);
            });
        });
    }
    group.finish();
}

/// Per 32 ms. With many calls each finds its state cold, which a tight loop over one hides.
fn vad(c: &mut Criterion) {
    let mut group = c.benchmark_group("vad");
    let speech = speech();
    for (name, model) in [("8 kHz", Silero::narrowband()), ("16 kHz", Silero::wideband())] {
        let window = model.window_samples();
        for calls in [1, 350] {
            let mut models = vec![model.clone(); calls];
            let mut turn = 0;
            group.bench_function(BenchmarkId::new(name, format!("{calls} calls")), |b| {
                b.iter(|| {
                    let at = turn / calls * window % (speech.len() - window);
                    let probability = models[turn % calls].push(&speech[at..][..window]);
                    turn += 1;
                    black_box(probability)
                });
            });
        }
    }
    let mut vad = Vad::new(Rate::R8K);
    let frame = Frame::padded(Rate::R8K, &speech[8000..]);
    group.bench_function("20 ms frame at 8 kHz", |b| b.iter(|| black_box(vad.push(&frame))));
    group.finish();
}

fn mix(c: &mut Criterion) {
    let mut ambience = Ambience::new(Arc::from(speech()), 0.3);
    let mut audio = [100; 160];
    c.bench_function("mix/ambience", |b| b.iter(|| ambience.mix_into(black_box(&mut audio))));
    let bytes: Vec<u8> = speech()[8000..8160].iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let (mut stripper, mut out) = (Stripper::new(), Vec::with_capacity(320));
    c.bench_function("wav/stripper", |b| {
        b.iter(|| {
            out.clear();
            stripper.push(black_box(&bytes), &mut out);
        });
    });
}

criterion_group!(benches, g711, resample, vad, mix);
criterion_main!(benches);
