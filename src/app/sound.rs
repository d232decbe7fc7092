//! What every call may need to play: the ambience and the apology, at the rates that calls have.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    audio::{Rate, mix::Ambience, resample::Resampler, wav},
    call,
};

/// Sounds by rate, made once each.
#[derive(Debug)]
pub struct Sounds {
    ambient: Option<(u32, Vec<i16>)>,
    level: f32,
    by_rate: Mutex<HashMap<Rate, Sound>>,
}

#[derive(Debug, Clone)]
struct Sound {
    ambient: Option<Arc<[i16]>>,
    apology: Arc<[i16]>,
}

impl Sounds {
    /// Reads the ambience that `config` names: WAV, or raw s16le at 8 kHz.
    ///
    /// # Errors
    /// The file cannot be read or holds no audio, in words.
    pub fn load(config: &call::Config) -> Result<Self, String> {
        let ambient = config.ambient_file.as_deref().map(|path| read(Path::new(path))).transpose()?;
        let sounds = Self { ambient, level: config.ambient_level, by_rate: Mutex::default() };
        // Nearly every call has this rate: made now, not in the first call.
        sounds.at(Rate::R8K);
        Ok(sounds)
    }

    /// A loop of the ambience from its start.
    pub fn ambience(&self, rate: Rate) -> Option<Ambience> {
        self.at(rate).ambient.map(|samples| Ambience::new(samples, self.level))
    }

    /// The apology.
    pub fn apology(&self, rate: Rate) -> Arc<[i16]> {
        self.at(rate).apology
    }

    fn at(&self, rate: Rate) -> Sound {
        let mut by_rate = self.by_rate.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Sound {
            ambient: self.ambient.as_ref().map(|(from, samples)| {
                let mut out = Vec::new();
                Resampler::new(*from, rate.hz()).process(samples, &mut out);
                out.into()
            }),
            apology: call::apology::samples(rate).into(),
        };
        by_rate.entry(rate).or_insert_with(make).clone()
    }
}

fn read(path: &Path) -> Result<(u32, Vec<i16>), String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if bytes.starts_with(b"RIFF") {
        return wav::read(&bytes).map_err(|error| format!("{}: {error}", path.display()));
    }
    let samples: Vec<i16> = bytes.as_chunks::<2>().0.iter().map(|pair| i16::from_le_bytes(*pair)).collect();
    if samples.is_empty() {
        return Err(format!("{}: holds no audio (raw s16le mono at 8 kHz, or WAV, is expected)", path.display()));
    }
    Ok((Rate::R8K.hz(), samples))
}
