//! One WAV file, written piece by piece and whole after each of them.

use std::{
    fs,
    io::BufWriter,
    path::{Path, PathBuf},
    time::Duration,
};

use hound::{SampleFormat, WavSpec, WavWriter};

use crate::{
    audio::Rate,
    call::{CallId, Tap},
};

/// A WAV file's sizes have 32 bits: at 8 kHz 37 hours, at 192 kHz an hour and a half.
const MOST_BYTES: u64 = u32::MAX as u64 - 4_096;
/// Silence put in at once where pieces are missing, in samples of each direction.
const SILENCE: u64 = 8_000;

/// The WAV file of a call.
pub(super) fn wav(dir: &Path, call: CallId) -> PathBuf {
    dir.join(super::name(call, "wav"))
}

pub(super) struct File {
    writer: WavWriter<BufWriter<fs::File>>,
    path: PathBuf,
    rate: Rate,
    /// Samples of each direction.
    written: u64,
    complete: bool,
}

impl File {
    pub fn create(dir: &Path, call: CallId, rate: Rate) -> Result<Self, String> {
        let unusable = |error: &dyn std::fmt::Display| format!("{}: {error}", dir.display());
        fs::create_dir_all(dir).map_err(|error| unusable(&error))?;
        let path = wav(dir, call);
        let spec =
            WavSpec { channels: 2, sample_rate: rate.hz(), bits_per_sample: 16, sample_format: SampleFormat::Int };
        let file = open(&path).map_err(|error| unusable(&error))?;
        let mut writer =
            WavWriter::new(BufWriter::with_capacity(64 * 1024, file), spec).map_err(|error| unusable(&error))?;
        writer.flush().map_err(|error| unusable(&error))?;
        Ok(Self { writer, path, rate, written: 0, complete: true })
    }

    /// Writes a piece; where some before it are missing, silence takes their place.
    pub fn write(&mut self, tap: &Tap) -> Result<(), String> {
        let length = tap.samples.len() as u64 / 2;
        if (tap.at + length).saturating_mul(4) > MOST_BYTES {
            return Err(format!("{} has all the sound that a WAV file can hold", self.path.display()));
        }
        while self.written < tap.at {
            self.complete = false;
            let some = (tap.at - self.written).min(SILENCE);
            // bounded: see MOST_BYTES
            self.samples(&vec![0; usize::try_from(2 * some).unwrap_or_default()])?;
        }
        self.samples(&tap.samples)?;
        // the header says then what there is
        self.writer.flush().map_err(|error| self.broken(&error))
    }

    fn samples(&mut self, samples: &[i16]) -> Result<(), String> {
        let mut writer = self.writer.get_i16_writer(u32::try_from(samples.len()).unwrap_or_default());
        for &sample in samples {
            writer.write_sample(sample);
        }
        writer.flush().map_err(|error| self.broken(&error))?;
        self.written += samples.len() as u64 / 2;
        Ok(())
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> String {
        format!("{}: {error}", self.path.display())
    }

    pub fn duration(&self) -> Duration {
        Duration::from_millis(self.written * 1_000 / u64::from(self.rate.hz()))
    }

    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    pub fn finish(self) -> Result<(), String> {
        let path = self.path;
        self.writer.finalize().map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// A new file that nobody else may read: people speak in it.
fn open(path: &Path) -> std::io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(path)
}
