//! What every call may need to play: the ambience and the apology, at the rates that calls have.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::spawn_blocking;
use tracing::{error, warn};

use crate::{
    audio::{
        Rate,
        file::{Decoder, LONGEST_S, Sound},
        mix::Ambience,
        resample::Resampler,
    },
    call,
};

/// Bytes read at once.
const PIECE: usize = 1 << 18;
/// Rates that nearly every call has: made at the start.
const USUAL: [Rate; 2] = [Rate::R8K, Rate::R16K];

/// Sounds by rate, made once each.
#[derive(Debug)]
pub struct Sounds {
    files: Arc<Files>,
    by_rate: Mutex<HashMap<Rate, AtRate>>,
}

/// What was read, at its own rates.
#[derive(Debug)]
struct Files {
    background: Option<Sound>,
    thinking: Option<Sound>,
    config: call::Config,
}

/// A call's sounds, to be cloned.
#[derive(Debug, Clone)]
pub struct AtRate {
    /// What it hears beside words.
    pub ambience: Option<Ambience>,
    /// The apology.
    pub apology: Arc<[i16]>,
}

impl Sounds {
    /// Reads the files that `config` names.
    ///
    /// # Errors
    /// A file cannot be read or holds no audio: the setting, and the fault in words.
    pub fn load(config: &call::Config) -> Result<Self, String> {
        let open = |key: &str, path: &Option<String>| {
            let read = |path: &String| read(Path::new(path)).map_err(|fault| format!("call.{key}: {path}: {fault}"));
            path.as_ref().map(read).transpose()
        };
        let files = Arc::new(Files {
            background: open("ambient_file", &config.ambient_file)?,
            thinking: open("thinking_file", &config.thinking_file)?,
            config: config.clone(),
        });
        let by_rate = USUAL.into_iter().map(|rate| (rate, files.at(rate))).collect();
        Ok(Self { files, by_rate: Mutex::new(by_rate) })
    }

    /// A call's sounds. The first call at an unusual rate waits until they are made, on another thread: ten minutes of sound take a second, and
    /// other calls are served on this one.
    pub async fn at(&self, rate: Rate) -> AtRate {
        if let Some(sounds) = self.by_rate().get(&rate) {
            return sounds.clone();
        }
        let files = Arc::clone(&self.files);
        let made = spawn_blocking(move || files.at(rate)).await.unwrap_or_else(|fault| {
            error!("the sounds of calls at {rate} could not be made, they are left out: {fault}");
            AtRate { ambience: None, apology: Arc::new([]) }
        });
        self.by_rate().entry(rate).or_insert(made).clone()
    }

    fn by_rate(&self) -> std::sync::MutexGuard<'_, HashMap<Rate, AtRate>> {
        self.by_rate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    fn at(&self, rate: Rate) -> AtRate {
        let config = &self.config;
        let convert = |(from, samples): &Sound| -> Arc<[i16]> {
            let mut out = Vec::new();
            Resampler::new(*from, rate.hz()).process(samples, &mut out);
            out.into()
        };
        let mut ambience = Ambience::new(rate);
        if let Some(background) = &self.background {
            ambience = ambience.with_background(convert(background), config.ambient_level);
        }
        if let Some(thinking) = &self.thinking {
            let after = Duration::from_millis(config.thinking_after_ms);
            ambience = ambience.with_thinking(convert(thinking), config.thinking_level, after);
        }
        if config.comfort_noise < 0.0 {
            ambience = ambience.with_comfort_noise(config.comfort_noise);
        }
        let ambience = (!ambience.is_silent()).then_some(ambience);
        AtRate { ambience, apology: call::apology::samples(rate).into() }
    }
}

fn read(path: &Path) -> Result<Sound, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let mut decoder = Decoder::new(path.extension().and_then(|extension| extension.to_str()).unwrap_or_default());
    let mut piece = vec![0; PIECE];
    loop {
        let len = file.read(&mut piece).map_err(|error| error.to_string())?;
        if len == 0 {
            break;
        }
        if !decoder.push(&piece[..len]) {
            warn!("{}: only the first {} minutes of this sound are used", path.display(), LONGEST_S / 60);
            break;
        }
    }
    decoder.finish().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{level::rms, wav};

    fn config(file: &Path) -> call::Config {
        call::Config { ambient_file: Some(file.display().to_string()), ambient_level: 1.0, ..call::Config::default() }
    }

    #[tokio::test]
    async fn a_sound_at_any_rate_has_its_level_at_every_rate() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hum.wav");
        let hum: Vec<i16> = (0..44_100).map(|n| ((n as f32 * 0.03).sin() * 9000.0) as i16).collect();
        wav::write(File::create(&file).unwrap(), 44_100, &hum).unwrap();
        let sounds = Sounds::load(&config(&file)).unwrap();
        for rate in Rate::ALL {
            let mut ambience = sounds.at(rate).await.ambience.unwrap();
            let mut heard = vec![0; rate.hz() as usize / 2];
            ambience.mix_into(&mut heard, false);
            let ratio = rms(&heard[heard.len() / 4..]) / rms(&hum);
            assert!((0.97..1.03).contains(&ratio), "{rate}: {ratio}");
        }
    }

    #[test]
    fn faults_name_setting_file_and_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("song.mp3"), b"ID3\x03\0 and so on").unwrap();
        std::fs::write(at("empty.wav"), b"").unwrap();
        for (name, says) in
            [("song.mp3", "an MP3 file"), ("empty.wav", "no audio"), ("none.raw", "No such file"), ("", "directory")]
        {
            let fault = Sounds::load(&config(&at(name))).unwrap_err();
            assert!(
                fault.starts_with("call.ambient_file: /") && fault.contains(name) && fault.contains(says),
                "{fault}"
            );
        }
        let thinking = call::Config { thinking_file: Some("/none.wav".to_owned()), ..call::Config::default() };
        assert!(Sounds::load(&thinking).unwrap_err().starts_with("call.thinking_file: /none.wav: "));
    }

    #[test]
    fn of_a_file_of_two_gigabytes_ten_minutes_are_used() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("long.raw");
        // a hole: it takes no space
        File::create(&file).unwrap().set_len(2 << 30).unwrap();
        assert_eq!(read(&file).unwrap().1.len(), 8_000 * 600);
    }

    #[test]
    fn nothing_set_is_no_ambience() {
        let sounds = Sounds::load(&call::Config::default()).unwrap();
        assert!(sounds.by_rate()[&Rate::R8K].ambience.is_none());
        let noise = call::Config { comfort_noise: -60.0, ..call::Config::default() };
        assert!(Sounds::load(&noise).unwrap().by_rate()[&Rate::R8K].ambience.is_some());
    }
}
