//! The real models of the embedded agent, and people's voices for it to hear.

use std::path::PathBuf;

use hark::agent::embedded::models;
use hark::audio::wav;

/// Where programs keep what they have fetched for Hark.
pub fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    cache.expect("HOME or XDG_CACHE_HOME is set").join("hark")
}

/// Where `make test` puts the models, if it could fetch them.
pub fn installed() -> Option<PathBuf> {
    let dir = cache().join("models");
    if models::are_installed(&dir) {
        return Some(dir);
    }
    eprintln!(
        "LEFT OUT: the embedded agent is not tested, its models are not in {} (scripts/get-models.sh)",
        dir.display()
    );
    None
}

/// A prompt of Asterisk's, spoken by a person, at 8 kHz.
pub fn prompt(name: &str) -> Vec<i16> {
    let path = cache().join(format!("speech/en_US_f_Allison/{name}.wav"));
    let bytes = std::fs::read(&path).expect("scripts/get-speech.sh has been run");
    let (rate, samples) = wav::read(&bytes).expect("a WAV file");
    assert_eq!(rate, 8_000, "{}", path.display());
    samples
}
