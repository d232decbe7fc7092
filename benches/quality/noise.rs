//! What is on a line beside speech.

use std::f32::consts::TAU;

use hark::audio::{Rate, level::amplitude_of_dbm0, tone::Tone};

use crate::speech::{HZ, Prompt, at_level};

/// Numbers that look random and are the same in every run.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 0.0 to 1.0.
    pub fn unit(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    pub fn below(&mut self, limit: usize) -> usize {
        ((self.unit() * limit as f32) as usize).min(limit.saturating_sub(1))
    }

    /// Normally distributed, about.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }
}

/// `signal`, whatever its scale, as samples whose root mean square is at `dbfs`.
fn leveled(signal: &[f32], dbfs: f32) -> Vec<i16> {
    let rms = (signal.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / signal.len().max(1) as f64).sqrt() as f32;
    let gain = 32_768.0 * 10f32.powf(dbfs / 20.0) / rms.max(f32::MIN_POSITIVE);
    signal.iter().map(|v| (v * gain).round() as i16).collect()
}

pub fn white(count: usize, dbfs: f32, seed: u64) -> Vec<i16> {
    let mut random = Random::new(seed);
    let signal: Vec<_> = (0..count).map(|_| random.normal()).collect();
    leveled(&signal, dbfs)
}

/// 3 dB less with each octave (Kellet's filter).
fn pink_signal(count: usize, seed: u64) -> Vec<f32> {
    const POLES: [(f32, f32); 3] = [(0.99765, 0.099_046), (0.963, 0.296_516_4), (0.57, 1.052_691_3)];
    let (mut random, mut state) = (Random::new(seed), [0.0; 3]);
    let mut next = || {
        let noise = random.normal();
        for (value, (pole, gain)) in state.iter_mut().zip(POLES) {
            *value = *value * pole + noise * gain;
        }
        state.iter().sum::<f32>() + noise * 0.1848
    };
    (0..count).map(|_| next()).collect()
}

pub fn pink(count: usize, dbfs: f32, seed: u64) -> Vec<i16> {
    leveled(&pink_signal(count, seed), dbfs)
}

/// Traffic: rumble, cars that come and go, a horn now and then, something that rattles.
pub fn street(count: usize, dbfs: f32, seed: u64) -> Vec<i16> {
    let (mut random, hiss) = (Random::new(seed), pink_signal(count, seed + 1));
    let (mut rumble, mut signal) = (0.0, Vec::with_capacity(count));
    for (n, hiss) in hiss.iter().enumerate() {
        rumble = rumble * 0.985 + random.normal() * 0.17;
        let t = n as f32 / HZ as f32;
        let cars = 0.3 + (t * TAU / 7.3).sin().max(0.0).powi(2) + 0.7 * (t * TAU / 11.9).sin().max(0.0).powi(4);
        signal.push((rumble + hiss * 0.5) * cars);
    }
    for _ in 0..count / (HZ * 20) {
        let (at, hz) = (random.below(count), 350.0 + 200.0 * random.unit());
        let length = (HZ / 4 + random.below(HZ / 2)).min(count - at);
        for (n, value) in signal[at..at + length].iter_mut().enumerate() {
            let phase = n as f32 * hz * TAU / HZ as f32;
            *value += 3.0 * (phase.sin() + 0.7 * (phase * 1.26).sin() + 0.4 * (phase * 3.0).sin());
        }
        let at = random.below(count);
        for (n, value) in signal[at..(at + HZ / 10).min(count)].iter_mut().enumerate() {
            *value += 8.0 * random.normal() * (-(n as f32) / 120.0).exp();
        }
    }
    leveled(&signal, dbfs)
}

/// A melody over chords, as of a synthesiser: harmonics, attack and decay.
pub fn music(count: usize, dbfs: f32, seed: u64) -> Vec<i16> {
    const CHORDS: [[i32; 3]; 4] = [[0, 4, 7], [-3, 0, 4], [-7, -3, 0], [-5, -1, 2]];
    const SCALE: [i32; 8] = [0, 2, 4, 5, 7, 9, 11, 12];
    let (mut random, mut signal) = (Random::new(seed), vec![0.0; count]);
    let beat = HZ * 2 / 5;
    let mut note = |from: usize, beats: usize, key: i32, loud: f32| {
        let hz = 261.6 * 2f32.powf(key as f32 / 12.0);
        let to = (from + beats * beat).min(count);
        for (n, value) in signal[from.min(to)..to].iter_mut().enumerate() {
            let t = n as f32 / HZ as f32;
            let shape = (t * 80.0).min(1.0) * (-t * 1.5).exp() * loud;
            let wave = |k: f32| (t * hz * k * TAU).sin() / k.powf(1.3);
            *value += shape * (1..=5u8).map(|k| wave(f32::from(k))).sum::<f32>();
        }
    };
    for (n, from) in (0..count).step_by(beat).enumerate() {
        let chord = CHORDS[n / 4 % 4];
        if n % 4 == 0 {
            chord.iter().for_each(|key| note(from, 4, key - 12, 0.5));
        }
        note(from, 1 + random.below(2), SCALE[random.below(8)], 1.0);
    }
    leveled(&signal, dbfs)
}

/// Ring-back: tones of these frequencies at -13 dBm0, `on` and `off` for so many seconds.
pub fn ring_back(count: usize, hz: &[f32], on: usize, off: usize) -> Vec<i16> {
    let amplitude = amplitude_of_dbm0(-13.0) as i16;
    let mut tones: Vec<_> = hz.iter().map(|hz| Tone::sine(Rate::R8K, *hz, amplitude).take(count)).collect();
    let mut sum = tones.pop().unwrap_or_default();
    tones.iter().for_each(|tone| add(&mut sum, tone));
    for (n, sample) in sum.iter_mut().enumerate() {
        *sample = if n / HZ % (on + off) < on { *sample } else { 0 };
    }
    sum
}

/// Several people who talk at once, all of them together at `dbfs`.
pub fn babble(prompts: &[Prompt], voices: usize, count: usize, dbfs: f32, seed: u64) -> Vec<i16> {
    let (mut random, mut sum) = (Random::new(seed), vec![0.0; count]);
    for _ in 0..voices {
        let mut at = 0;
        while at < count {
            let prompt = &prompts[random.below(prompts.len())];
            let said = at_level(&prompt.samples[prompt.voiced.clone()], -26.0);
            sum[at..].iter_mut().zip(&said).for_each(|(sum, sample)| *sum += f32::from(*sample));
            at += said.len() + random.below(HZ / 2);
        }
    }
    leveled(&sum, dbfs)
}

pub fn add(to: &mut [i16], what: &[i16]) {
    to.iter_mut().zip(what).for_each(|(sample, more)| *sample = sample.saturating_add(*more));
}
