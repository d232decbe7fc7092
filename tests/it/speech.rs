//! Two hours of recorded speech (Asterisk's prompts in five languages, `scripts/get-speech.sh`): what must not happen to any of it.

use std::path::{Path, PathBuf};

use hark::audio::{Rate, dtmf::Detector, resample::Resampler, wav};

/// Where `scripts/get-speech.sh` puts the recordings.
fn recordings() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let directory = cache.expect("HOME or XDG_CACHE_HOME is set").join("hark/speech");
    assert!(
        directory.exists(),
        "no recorded speech in {}: run scripts/get-speech.sh (make test does)",
        directory.display()
    );
    directory
}

/// Every recording below `directory`, in order: its name and its samples at 8 kHz.
fn speech(directory: &Path) -> Vec<(String, Vec<i16>)> {
    let mut entries: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let read = |path: PathBuf| {
        if path.is_dir() {
            return speech(&path);
        }
        let (rate, samples) = wav::read(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(rate, 8_000, "{}", path.display());
        vec![(path.display().to_string(), samples)]
    };
    entries.into_iter().flat_map(read).collect()
}

/// Feeds all of it to the detector, as it comes at this rate and this much louder.
fn no_digits(rate: Rate, gain: f32) {
    let speech = speech(&recordings());
    let seconds = speech.iter().map(|(_, samples)| samples.len()).sum::<usize>() / 8_000;
    assert!(seconds > 3_600, "{seconds} s is less than an hour");
    let mut found = Vec::new();
    let mut detector = Detector::new(rate);
    for (name, samples) in &speech {
        let mut heard = Vec::new();
        Resampler::new(8_000, rate.hz()).process(samples, &mut heard);
        heard.iter_mut().for_each(|sample| *sample = (f32::from(*sample) * gain) as i16);
        detector.push(&heard, |digit| found.push(format!("{digit} in {name} at {rate}, gain {gain}")));
    }
    println!("{} digits in {seconds} s of speech", found.len());
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn no_speech_is_taken_for_a_digit() {
    no_digits(Rate::R8K, 1.0);
}

#[test]
fn no_loud_speech_is_taken_for_a_digit() {
    no_digits(Rate::R8K, 4.0);
}

#[test]
fn no_wideband_speech_is_taken_for_a_digit() {
    no_digits(Rate::R16K, 1.0);
}
