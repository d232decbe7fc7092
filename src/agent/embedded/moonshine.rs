//! Moonshine tiny: recognises an English utterance as a whole.

use std::{borrow::Cow, path::Path};

use ort::{
    environment::Environment,
    session::{Session, SessionInputValue},
    value::{DynValue, Tensor},
};

use super::{EngineError, models::RECOGNITION, runtime::session, tokens::Tokens};

/// What it listens to.
pub const RATE: u32 = 16_000;
/// Layers of the decoder, heads of each, and their size.
const LAYERS: usize = 6;
const HEADS: usize = 8;
const HEAD: usize = 36;
/// The marks before the first word and after the last.
const START: i64 = 1;
const END: i64 = 2;
/// More tokens than this are said by nobody within a second: then it repeats itself.
const TOKENS_PER_SECOND: f64 = 6.5;
/// Shortest audio that its convolutions can take, with room (100 ms); shorter is silence.
const SHORTEST: usize = RATE as usize / 10;
/// Longest utterance (40 s); the rest is left out.
const LONGEST: usize = 40 * RATE as usize;

/// The recogniser. It serves one utterance at a time.
#[derive(Debug)]
pub struct Moonshine {
    encoder: Session,
    decoder: Session,
    tokens: Tokens,
    caches: Vec<Cache>,
}

/// What the decoder remembers of its own words, or of the audio, in one layer: as it is handed in and as it comes out.
#[derive(Debug)]
struct Cache {
    past: String,
    present: String,
    of_audio: bool,
}

impl Moonshine {
    /// Opens the models in the directory `models`.
    pub fn open(environment: &Environment, models: &Path) -> Result<Self, EngineError> {
        let open = |name| session(environment, &RECOGNITION.file(models, name));
        let path = RECOGNITION.file(models, "tokenizer.bin");
        let broken = |reason| EngineError::Model { path: path.clone(), reason };
        let bytes = std::fs::read(&path).map_err(|error| broken(error.to_string()))?;
        let tokens = Tokens::parse(&bytes).map_err(broken)?;
        let mut caches = Vec::with_capacity(LAYERS * 4);
        for layer in 0..LAYERS {
            for (side, kind) in [("decoder", "key"), ("decoder", "value"), ("encoder", "key"), ("encoder", "value")] {
                caches.push(Cache {
                    past: format!("past_key_values.{layer}.{side}.{kind}"),
                    present: format!("present.{layer}.{side}.{kind}"),
                    of_audio: side == "encoder",
                });
            }
        }
        Ok(Self { encoder: open("encoder_model.ort")?, decoder: open("decoder_model_merged.ort")?, tokens, caches })
    }

    /// The words in `samples`, which have [`RATE`].
    pub fn recognise(&mut self, samples: &[i16]) -> Result<String, EngineError> {
        if samples.len() < SHORTEST {
            return Ok(String::new());
        }
        let audio: Vec<f32> =
            samples[..samples.len().min(LONGEST)].iter().map(|&sample| f32::from(sample) / 32_768.0).collect();
        let ids = self.decode(audio).map_err(|error| EngineError::Run(error.to_string()))?;
        Ok(self.tokens.text(&ids))
    }

    fn decode(&mut self, audio: Vec<f32>) -> ort::Result<Vec<i64>> {
        let length = audio.len();
        let most = (length as f64 / f64::from(RATE) * TOKENS_PER_SECOND).ceil() as usize + 1;
        // one utterance, and nothing of it is padding
        let mask = Tensor::from_array(([1, length], vec![1_i64; length]))?;
        let input = Tensor::from_array(([1, length], audio))?;
        let mut encoded = self.encoder.run(ort::inputs! { "input_values" => input, "attention_mask" => &mask })?;
        let heard = encoded.remove("last_hidden_state").ok_or_else(|| ort::Error::new("no last_hidden_state"))?;
        drop(encoded);
        let mut memory = self.caches.iter().map(|_| empty()).collect::<ort::Result<Vec<DynValue>>>()?;
        let (mut ids, mut last) = (Vec::new(), START);
        for step in 0..most {
            let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = vec![
                ("input_ids".into(), Tensor::from_array(([1, 1], vec![last]))?.into()),
                ("encoder_hidden_states".into(), (&heard).into()),
                // the audio's own mask: the model thins it out itself
                ("encoder_attention_mask".into(), (&mask).into()),
                ("use_cache_branch".into(), Tensor::from_array(([1], vec![step > 0]))?.into()),
            ];
            inputs.extend(
                self.caches.iter().zip(&memory).map(|(cache, value)| (cache.past.as_str().into(), value.into())),
            );
            let mut outputs = self.decoder.run(inputs)?;
            last = likeliest(&outputs)?;
            if last == END {
                break;
            }
            ids.push(last);
            for (cache, value) in self.caches.iter().zip(&mut memory) {
                // what is remembered of the audio comes with the first step only
                if step == 0 || !cache.of_audio {
                    let missing = || ort::Error::new(format!("no {}", cache.present));
                    *value = outputs.remove(&cache.present).ok_or_else(missing)?;
                }
            }
        }
        Ok(ids)
    }
}

fn empty() -> ort::Result<DynValue> {
    Ok(Tensor::from_array(([1, HEADS, 0, HEAD], Vec::<f32>::new()))?.into_dyn())
}

fn likeliest(outputs: &ort::session::SessionOutputs<'_>) -> ort::Result<i64> {
    let logits = outputs.get("logits").ok_or_else(|| ort::Error::new("no logits"))?;
    let (_, logits) = logits.try_extract_tensor::<f32>()?;
    let best = logits.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    Ok(best.map_or(END, |(at, _)| at as i64))
}
