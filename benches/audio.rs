//! What one 20 ms frame costs in each part of `audio`: `cargo bench --bench audio`.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hark::audio::denoise::Denoiser;
use hark::audio::dtmf::{Detector, InbandDtmf, Suppressor};
use hark::audio::echo::Echo;
use hark::audio::g711::{Law, LawDetector};
use hark::audio::g722;
use hark::audio::gain::GainControl;
use hark::audio::mix::Ambience;
use hark::audio::resample::Resampler;
use hark::audio::vad::{Silero, Vad};
use hark::audio::wav::Stripper;
use hark::audio::{Frame, Rate, wav};
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// What else is done for a call between two results of its model: it pushes weights and states of other calls out of the cache.
struct MediaPath {
    resamplers: [Resampler; 2],
    ambience: Ambience,
    buffers: [Vec<i16>; 2],
    socket: (UnixStream, UnixStream),
}

impl MediaPath {
    fn new(ambience: &Ambience) -> Self {
        Self {
            resamplers: [Resampler::new(8_000, 24_000), Resampler::new(24_000, 8_000)],
            ambience: ambience.clone(),
            buffers: Default::default(),
            socket: UnixStream::pair().unwrap_or_else(|error| panic!("350 socket pairs are needed: {error}")),
        }
    }

    /// One 20 ms frame to a service at 24 kHz, back, mixed, and through a socket.
    fn frame(&mut self, frame: &[i16]) {
        let [up, down] = &mut self.buffers;
        up.clear();
        down.clear();
        self.resamplers[0].process(frame, up);
        self.resamplers[1].process(up, down);
        self.ambience.mix_into(down, true);
        let bytes: Vec<u8> = down.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let mut back = vec![0; bytes.len()];
        let done = self.socket.0.write_all(&bytes).and_then(|()| self.socket.1.read_exact(&mut back));
        done.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Per 32 ms. With many calls each finds its state, and after its media path also the weights, cold; a tight loop over one hides that.
fn vad(c: &mut Criterion) {
    let mut group = c.benchmark_group("vad");
    let speech = speech();
    for (name, model) in [("8 kHz", Silero::narrowband()), ("16 kHz", Silero::wideband())] {
        let window = model.window_samples();
        let at = |turn: usize| &speech[turn * window % (speech.len() - window)..][..window];
        let mut turn = 0;
        let mut warm = model.clone();
        group.bench_function(BenchmarkId::new(name, "portable instructions"), |b| {
            b.iter(|| {
                turn += 1;
                black_box(warm.push_portably(at(turn)))
            });
        });
        for calls in [1, 350] {
            let mut models = vec![model.clone(); calls];
            group.bench_function(BenchmarkId::new(name, format!("{calls} calls")), |b| {
                b.iter(|| {
                    turn += 1;
                    black_box(models[turn % calls].push(at(turn / calls)))
                });
            });
        }
        let ambience = Ambience::new(Rate::R8K).with_background(Arc::from(speech.clone()), 0.3);
        let mut calls: Vec<_> = (0..350).map(|_| (model.clone(), MediaPath::new(&ambience))).collect();
        group.bench_function(BenchmarkId::new(name, "350 calls with their media path (not counted)"), |b| {
            b.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    turn += 1;
                    let (model, path) = &mut calls[turn % 350];
                    path.frame(&at(turn)[..160]);
                    path.frame(&at(turn + 1)[..160]);
                    let start = Instant::now();
                    black_box(model.push(at(turn / 350)));
                    spent += start.elapsed();
                }
                spent
            });
        });
    }
    let mut vad = Vad::new(Rate::R8K);
    let frame = Frame::padded(Rate::R8K, &speech[8000..]);
    group.bench_function("20 ms frame at 8 kHz", |b| b.iter(|| black_box(vad.push(&frame))));
    group.finish();
}

fn mix(c: &mut Criterion) {
    let mut ambience = Ambience::new(Rate::R8K).with_background(Arc::from(speech()), 0.3);
    let mut audio = [100; 160];
    c.bench_function("mix/ambience", |b| b.iter(|| ambience.mix_into(black_box(&mut audio), true)));
    let mut noise = Ambience::new(Rate::R8K).with_comfort_noise(-60.0);
    c.bench_function("mix/comfort noise", |b| b.iter(|| noise.mix_into(black_box(&mut audio), false)));
    let bytes: Vec<u8> = speech()[8000..8160].iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let (mut stripper, mut out) = (Stripper::new(), Vec::with_capacity(320));
    c.bench_function("wav/stripper", |b| {
        b.iter(|| {
            out.clear();
            stripper.push(black_box(&bytes), &mut out);
        });
    });
}

/// What is done to the caller's audio, each on its own, on recorded speech frame after frame.
fn hearing(c: &mut Criterion) {
    let mut group = c.benchmark_group("hearing");
    for rate in [Rate::R8K, Rate::R16K] {
        let mut samples = Vec::new();
        Resampler::new(8_000, rate.hz()).process(&speech(), &mut samples);
        let frames: Vec<Frame> = samples.chunks(rate.frame_samples()).map(|frame| Frame::padded(rate, frame)).collect();
        let (mut turn, mut found) = (0, ' ');
        let mut next = || {
            turn += 1;
            frames[turn % frames.len()].clone()
        };
        let mut detector = Detector::new(rate);
        group.bench_function(BenchmarkId::new("DTMF detector", rate), |b| {
            b.iter(|| detector.push(black_box(next().samples()), |digit| found = black_box(digit)));
        });
        if let Some(mut suppressor) = Suppressor::new(rate, InbandDtmf::Remove) {
            group.bench_function(BenchmarkId::new("DTMF detected and removed", rate), |b| {
                b.iter(|| suppressor.pass(&mut next(), |digit| found = black_box(digit)));
            });
        }
        black_box(found);
        let mut gain = GainControl::new(rate);
        group.bench_function(BenchmarkId::new("gain control", rate), |b| {
            b.iter(|| gain.process(black_box(next().samples_mut())));
        });
        let mut denoiser = Denoiser::new(rate);
        group
            .bench_function(BenchmarkId::new("RNNoise", rate), |b| b.iter(|| denoiser.process(black_box(&mut next()))));
    }
    group.finish();
}

/// What keeps the agent's own voice from interrupting it: every frame of both directions, and a comparison while both talk at once, which is
/// made every 32 ms at most.
fn echo(c: &mut Criterion) {
    let mut group = c.benchmark_group("echo");
    let samples = speech();
    let frames: Vec<&[i16]> = samples.chunks_exact(160).collect();
    let (mut echo, mut turn) = (Echo::new(Rate::R8K), 0);
    group.bench_function("20 ms of both directions", |b| {
        b.iter(|| {
            turn += 1;
            echo.played(black_box(frames[turn % frames.len()]));
            echo.heard(black_box(frames[(turn * 7 + 211) % frames.len()]));
        });
    });
    group.bench_function("comparison of two voices", |b| b.iter(|| black_box(echo.is_echo())));
    group.finish();
}

fn g722(c: &mut Criterion) {
    let mut group = c.benchmark_group("g722");
    let mut samples = Vec::new();
    Resampler::new(8_000, 16_000).process(&speech()[8000..16_000], &mut samples);
    let mut codes = Vec::new();
    g722::Encoder::default().encode(&samples, &mut codes);
    let (mut encoder, mut out) = (g722::Encoder::default(), Vec::with_capacity(160));
    let mut turn = 0;
    group.bench_function("encode", |b| {
        b.iter(|| {
            turn += 1;
            out.clear();
            encoder.encode(black_box(&samples[turn % 40 * 320..][..320]), &mut out);
        });
    });
    let (mut decoder, mut out) = (g722::Decoder::default(), Vec::with_capacity(320));
    group.bench_function("decode", |b| {
        b.iter(|| {
            turn += 1;
            out.clear();
            decoder.decode(black_box(&codes[turn % 40 * 160..][..160]), &mut out);
        });
    });
    group.finish();
}

#[cfg(feature = "opus")]
fn opus(c: &mut Criterion) {
    use hark::audio::opus::{Decoder, Encoder};
    let mut group = c.benchmark_group("opus");
    for rate in [Rate::R8K, Rate::R16K, Rate::R48K] {
        let mut samples = Vec::new();
        Resampler::new(8_000, rate.hz()).process(&speech(), &mut samples);
        let frames: Vec<Frame> = samples.chunks(rate.frame_samples()).map(|frame| Frame::padded(rate, frame)).collect();
        let (Ok(mut encoder), Ok(mut decoder)) = (Encoder::new(rate, 24_000, 0), Decoder::new(rate)) else { continue };
        let mut packets = vec![Vec::new(); frames.len()];
        for (frame, packet) in frames.iter().zip(&mut packets) {
            let _ = encoder.encode(frame, packet);
        }
        let (mut packet, mut out, mut turn) = (Vec::new(), Vec::new(), 0);
        group.bench_function(BenchmarkId::new("encode", rate), |b| {
            b.iter(|| {
                turn += 1;
                encoder.encode(black_box(&frames[turn % frames.len()]), &mut packet)
            });
        });
        group.bench_function(BenchmarkId::new("decode", rate), |b| {
            b.iter(|| {
                turn += 1;
                out.clear();
                decoder.decode(black_box(&packets[turn % packets.len()]), &mut out)
            });
        });
    }
    group.finish();
}

#[cfg(not(feature = "opus"))]
fn opus(_: &mut Criterion) {}

criterion_group!(benches, g711, g722, opus, resample, vad, hearing, echo, mix);
criterion_main!(benches);
