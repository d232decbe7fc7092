//! Digits that come as tones in the audio: which are found, and what is taken for one.

use std::f64::consts::TAU;

use hark::audio::{Rate, dtmf::Detector, level::amplitude_of_dbm0, resample::Resampler};

use crate::{
    noise,
    speech::{HZ, Prompt},
    table::{self, percent},
};

const KEYS: [&str; 4] = ["123A", "456B", "789C", "*0#D"];
const ROWS: [f64; 4] = [697.0, 770.0, 852.0, 941.0];
const COLUMNS: [f64; 4] = [1209.0, 1336.0, 1477.0, 1633.0];
/// How often each key is pressed.
const TIMES: usize = 20;

/// How keys are sent.
#[derive(Debug, Clone, Copy)]
struct Sent {
    /// Levels of row and column, in dBm0.
    dbm0: [f32; 2],
    /// How far both frequencies are off, in percent.
    off: [f64; 2],
    ms: usize,
    /// Noise so many dB below the digits.
    noise: Option<f32>,
}

pub fn report(prompts: &[Prompt]) {
    let usual = Sent { dbm0: [-12.0; 2], off: [0.0; 2], ms: 40, noise: None };
    let mut rows = Vec::new();
    let mut row = |name: String, wanted: &str, sent: Sent| {
        let (found, wrong) = press(sent);
        rows.push(vec![name, percent(found, 16 * TIMES), wrong.to_string(), wanted.to_owned()]);
    };
    for level in [0.0, -5.0, -10.0, -15.0, -20.0, -25.0, -27.5, -30.0f32] {
        let wanted = if level < -25.0 { "–" } else { "100 %" };
        row(format!("{level} dBm0 each, 40 ms"), wanted, Sent { dbm0: [level; 2], ..usual });
    }
    for (row_db, column_db) in [(-12.0, -20.0), (-16.0, -12.0), (-17.0, -25.0), (-25.0, -21.0)] {
        let name = format!("twist: row {row_db}, column {column_db} dBm0");
        row(name, "100 %", Sent { dbm0: [row_db, column_db], ..usual });
    }
    for off in [[1.5, 1.5], [-1.5, -1.5], [1.5, -1.5], [-1.5, 1.5]] {
        row(format!("frequencies {:+} and {:+} %", off[0], off[1]), "100 %", Sent { off, dbm0: [-25.0; 2], ..usual });
    }
    row("frequencies 3.5 % off, 200 ms".to_owned(), "0 %", Sent { off: [3.5; 2], ms: 200, ..usual });
    for below in [20.0, 15.0, 10.0f32] {
        let wanted = if below < 15.0 { "–" } else { "100 %" };
        row(
            format!("white noise {below} dB below, -25 dBm0"),
            wanted,
            Sent { noise: Some(below), dbm0: [-25.0; 2], ..usual },
        );
    }
    for ms in [100, 50, 40, 30, 23, 20] {
        let wanted = if ms >= 40 {
            "100 %"
        } else if ms < 24 {
            "0 %"
        } else {
            "–"
        };
        row(format!("{ms} ms, pauses of 40 ms"), wanted, Sent { ms, ..usual });
    }
    let head = ["digits", "found", "wrong or twice", "aim"];
    table::print(&format!("DTMF in the audio: hit rate, each of 16 keys {TIMES} times"), &head, &rows);
    talk_off(prompts);
}

/// How many digits are found in their place, and how many come that were not sent.
fn press(sent: Sent) -> (usize, usize) {
    let (mut found, mut wrong) = (0, 0);
    let mut detector = Detector::new(Rate::R8K);
    let pause = vec![0i16; HZ / 25];
    let power = sent.dbm0.map(|dbm0| f64::from(amplitude_of_dbm0(dbm0)).powi(2) / 2.0).iter().sum::<f64>();
    for time in 0..TIMES {
        for (row, keys) in KEYS.iter().enumerate() {
            for (column, key) in keys.chars().enumerate() {
                let mut samples = tone(sent, row, column, time);
                // the beginnings fall on every place of the detector's pieces
                samples.extend(&pause[..HZ / 25 - time % 20]);
                samples.resize(samples.len() + time * 2, 0);
                if let Some(below) = sent.noise {
                    let dbfs = 10.0 * (power / 32_768f64.powi(2)).log10() as f32 - below;
                    let seed = (time * 16 + row * 4 + column) as u64;
                    let noise = noise::white(samples.len(), dbfs, seed);
                    noise::add(&mut samples, &noise);
                }
                let mut heard = String::new();
                detector.push(&samples, |digit| heard.push(digit));
                let hit = heard.chars().filter(|digit| *digit == key).count().min(1);
                found += hit;
                wrong += heard.len() - hit;
            }
        }
    }
    (found, wrong)
}

fn tone(sent: Sent, row: usize, column: usize, phase: usize) -> Vec<i16> {
    let hz = [ROWS[row] * (1.0 + sent.off[0] / 100.0), COLUMNS[column] * (1.0 + sent.off[1] / 100.0)];
    let peaks = sent.dbm0.map(|dbm0| f64::from(amplitude_of_dbm0(dbm0)));
    let wave = |n: usize, which: usize| {
        peaks[which] * (TAU * hz[which] * n as f64 / HZ as f64 + (phase * (which + 1)) as f64).sin()
    };
    (0..sent.ms * HZ / 1000).map(|n| (wave(n, 0) + wave(n, 1)).round() as i16).collect()
}

/// Digits heard in speech: as it is, louder, quieter, and at other speeds, which moves its frequencies.
fn talk_off(prompts: &[Prompt]) {
    let variants = [(1.0, 100), (4.0, 100), (0.25, 100), (1.0, 90), (1.0, 110)];
    let rows = table::each(&variants, |&(gain, speed)| {
        let (mut detector, mut found, mut samples) = (Detector::new(Rate::R8K), 0, 0);
        for prompt in prompts {
            let mut speech = Vec::new();
            // played at another rate than it was recorded at
            Resampler::new(80 * speed, 8_000).process(&prompt.samples, &mut speech);
            speech.iter_mut().for_each(|sample| *sample = (f32::from(*sample) * gain) as i16);
            samples += speech.len();
            detector.push(&speech, |_| found += 1);
        }
        let db = 20.0 * f32::log10(gain);
        vec![
            format!("{db:+.0} dB, {speed} % of the speed"),
            (samples / HZ).to_string(),
            found.to_string(),
            "0".to_owned(),
        ]
    });
    table::print("DTMF in the audio: talk-off", &["speech in five languages", "seconds", "digits heard", "aim"], &rows);
}
