//! Recorded speech (Asterisk's prompts), its levels and where in it there is a voice.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use hark::audio::wav;

pub const HZ: usize = 8_000;
/// Pieces in which levels are taken: 10 ms.
const PIECE: usize = HZ / 100;
/// Whatever is this far below the level of somebody's speech is no voice.
const FLOOR_DB: f32 = 30.0;

/// A recording.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// `digits/1`.
    pub name: String,
    /// `en_US_f_Allison`.
    pub voice: String,
    pub samples: Arc<Vec<i16>>,
    /// From the first voiced sample to the last one.
    pub voiced: Range<usize>,
}

/// Where programs keep what they have fetched for Hark.
pub fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    cache.unwrap_or_else(home).join("hark")
}

/// Every prompt with a voice in it, in order.
pub fn prompts() -> Result<Vec<Prompt>, String> {
    let root = cache().join("speech");
    let mut found = Vec::new();
    let mut voices = entries(&root)?;
    voices.retain(|path| path.is_dir());
    for voice in voices {
        read_all(&voice, &voice, &mut found)?;
    }
    if found.is_empty() {
        return Err(format!("no recorded speech in {}: run scripts/get-speech.sh", root.display()));
    }
    Ok(found)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let fault = |error| format!("{}: {error}; scripts/get-speech.sh fetches recorded speech", directory.display());
    let mut paths: Vec<_> =
        fs::read_dir(directory).map_err(fault)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    Ok(paths)
}

fn read_all(root: &Path, directory: &Path, found: &mut Vec<Prompt>) -> Result<(), String> {
    for path in entries(directory)? {
        let name = path.strip_prefix(root).unwrap_or(&path).with_extension("").display().to_string();
        let is_sound = ["beep", "tone", "silence", "conf-hasleft-beep"].iter().any(|sound| name.contains(sound));
        if path.is_dir() {
            read_all(root, &path, found)?;
        } else if !is_sound {
            let samples = read(&path)?;
            let voice = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(voiced) = voiced(&samples) {
                found.push(Prompt { name, voice, samples: Arc::new(samples), voiced });
            }
        }
    }
    Ok(())
}

/// A WAV file at 8 kHz.
pub fn read(path: &Path) -> Result<Vec<i16>, String> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (rate, samples) = wav::read(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    if rate as usize == HZ { Ok(samples) } else { Err(format!("{}: {rate} Hz instead of 8000", path.display())) }
}

/// The words of the English prompts, by name. What is in brackets is no speech.
pub fn texts() -> Result<BTreeMap<String, String>, String> {
    let path = cache().join("quality/core-sounds-en.txt");
    let all = fs::read_to_string(&path)
        .map_err(|error| format!("{}: {error}; scripts/get-quality.sh fetches it", path.display()))?;
    let line = |line: &str| {
        let (name, text) = line.split_once(':')?;
        let text = text.trim();
        let is_speech = !(line.starts_with(';') || text.is_empty() || text.contains(['[', '(', '<']));
        is_speech.then(|| (name.trim().to_owned(), text.to_owned()))
    };
    Ok(all.lines().filter_map(line).collect())
}

fn power(samples: &[i16]) -> f32 {
    samples.iter().map(|&sample| f32::from(sample).powi(2)).sum::<f32>() / samples.len().max(1) as f32
}

/// The power of speech, without its pauses.
fn active_power(samples: &[i16]) -> f32 {
    let pieces: Vec<_> = samples.chunks_exact(PIECE).map(power).collect();
    let loudest = pieces.iter().copied().fold(0.0, f32::max);
    let active: Vec<_> = pieces.into_iter().filter(|power| *power > loudest / 1_000.0).collect();
    active.iter().sum::<f32>() / active.len().max(1) as f32
}

/// From the first to the last 10 ms that are louder than 30 dB below the level of the speech.
fn voiced(samples: &[i16]) -> Option<Range<usize>> {
    let least = active_power(samples) * 10f32.powf(-FLOOR_DB / 10.0);
    // quieter than -60 dBFS is nobody
    let is_voiced = |piece: &[i16]| power(piece) > least.max(1_000.0);
    let pieces: Vec<_> = samples.chunks_exact(PIECE).map(is_voiced).collect();
    let (first, last) = (pieces.iter().position(|voiced| *voiced)?, pieces.iter().rposition(|voiced| *voiced)?);
    Some(first * PIECE..(last + 1) * PIECE)
}

/// `samples` with their speech at `dbfs`.
pub fn at_level(samples: &[i16], dbfs: f32) -> Vec<i16> {
    let gain = 32_768.0 * 10f32.powf(dbfs / 20.0) / active_power(samples).sqrt().max(1.0);
    samples.iter().map(|&sample| (f32::from(sample) * gain).round() as i16).collect()
}

/// What the agent says for some minutes: prompts one after the other, at -20 dBFS, no sample of it zero, which is how the simulation
/// tells it from silence.
pub fn agent(prompts: &[Prompt]) -> Arc<Vec<i16>> {
    let mut speech = Vec::new();
    for prompt in prompts.iter().filter(|prompt| prompt.voice.starts_with("it_")).take(120) {
        speech.extend(at_level(&prompt.samples[prompt.voiced.clone()], -20.0));
        speech.resize(speech.len() + HZ / 5, 0);
    }
    speech.iter_mut().for_each(|sample| *sample = if *sample == 0 { 1 } else { *sample });
    Arc::new(speech)
}
