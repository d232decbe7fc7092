//! A voice of Piper's: phonemes become sound.

use std::{collections::HashMap, path::Path};

use ort::{environment::Environment, session::Session, value::Tensor};
use serde::Deserialize;

use super::{EngineError, models::VOICE, runtime::session};

/// Most phonemes at once: half a minute of speech.
const MOST: usize = 500;
/// The loudest sample of a sentence.
const PEAK: f32 = 0.7 * 32_767.0;

/// What its JSON says.
#[derive(Debug, Deserialize)]
struct Settings {
    audio: Audio,
    inference: Inference,
    phoneme_id_map: HashMap<String, Vec<i64>>,
}

#[derive(Debug, Deserialize)]
struct Audio {
    sample_rate: u32,
}

#[derive(Debug, Deserialize)]
struct Inference {
    noise_scale: f32,
    length_scale: f32,
    noise_w: f32,
}

/// The voice. It speaks one sentence at a time.
#[derive(Debug)]
pub struct Piper {
    session: Session,
    settings: Settings,
}

impl Piper {
    /// Opens the voice in the directory `models`.
    pub fn open(environment: &Environment, models: &Path) -> Result<Self, EngineError> {
        let path = VOICE.file(models, "en_US-joe-medium.onnx.json");
        let broken = |reason: String| EngineError::Model { path: path.clone(), reason };
        let text = std::fs::read(&path).map_err(|error| broken(error.to_string()))?;
        let settings = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        Ok(Self { session: session(environment, &VOICE.file(models, "en_US-joe-medium.onnx"))?, settings })
    }

    /// `phonemes` as sound: its rate and its samples.
    pub fn speak(&mut self, phonemes: &str) -> Result<(u32, Vec<i16>), EngineError> {
        let ids = ids(phonemes, &self.settings.phoneme_id_map);
        let samples = self.run(ids).map_err(|error| EngineError::Run(error.to_string()))?;
        Ok((self.settings.audio.sample_rate, levelled(&samples)))
    }

    fn run(&mut self, ids: Vec<i64>) -> ort::Result<Vec<f32>> {
        let length = ids.len();
        let Inference { noise_scale, length_scale, noise_w } = self.settings.inference;
        let outputs = self.session.run(ort::inputs! {
            "input" => Tensor::from_array(([1, length], ids))?,
            "input_lengths" => Tensor::from_array(([1], vec![length as i64]))?,
            "scales" => Tensor::from_array(([3], vec![noise_scale, length_scale, noise_w]))?,
        })?;
        let output = outputs.get("output").ok_or_else(|| ort::Error::new("no output"))?;
        Ok(output.try_extract_tensor::<f32>()?.1.to_vec())
    }
}

/// The numbers of `phonemes`, as voices were trained: a pause mark behind each. Those that the voice does not have are left out.
fn ids(phonemes: &str, map: &HashMap<String, Vec<i64>>) -> Vec<i64> {
    let of = |mark: &str| map.get(mark).cloned().unwrap_or_default();
    let pause = of("_");
    let mut ids = of("^");
    ids.extend(&pause);
    let mut buffer = [0; 4];
    for phoneme in phonemes.chars().take(MOST) {
        if let Some(of_it) = map.get(&*phoneme.encode_utf8(&mut buffer)) {
            ids.extend(of_it);
            ids.extend(&pause);
        }
    }
    ids.extend(of("$"));
    ids
}

/// Sentences come out differently loud.
fn levelled(samples: &[f32]) -> Vec<i16> {
    let loudest = samples.iter().fold(0.01_f32, |loudest, sample| loudest.max(sample.abs()));
    samples.iter().map(|sample| (sample / loudest * PEAK) as i16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phonemes_become_numbers_with_pauses_between() {
        let map = [("_", 0), ("^", 1), ("$", 2), ("h", 20), ("ə", 59)];
        let map = map.into_iter().map(|(phoneme, id)| (phoneme.to_owned(), vec![id])).collect();
        assert_eq!(ids("h\u{1f600}ə", &map), [1, 0, 20, 0, 59, 0, 2]);
        assert_eq!(ids("", &map), [1, 0, 2]);
        assert_eq!(ids(&"h".repeat(10_000), &map).len(), 3 + 2 * MOST);
    }

    #[test]
    fn every_sentence_is_as_loud() {
        assert_eq!(levelled(&[0.0, 0.1, -0.05]), [0, 22_936, -11_468]);
        assert_eq!(levelled(&[0.0; 3]), [0; 3]);
        assert!(levelled(&[]).is_empty());
    }
}
