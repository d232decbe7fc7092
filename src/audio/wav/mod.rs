//! WAV: files as a whole, and streams that may or may not begin with a header.

mod header;
mod stripper;

pub use header::{Coding, Format};
pub use stripper::Stripper;

use std::io::{Cursor, Seek, Write};

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a WAV file, or a broken one.
    #[error("not a readable WAV file: {0}; expected RIFF/WAVE with 8, 16, 24 or 32 bit PCM or 32 bit float samples")]
    Malformed(#[from] hound::Error),
    /// A header that promises no channel or no rate.
    #[error("a WAV file with {channels} channels at {rate} Hz holds no audio")]
    Empty {
        /// Channels according to the header.
        channels: u16,
        /// Sampling rate according to the header.
        rate: u32,
    },
}

/// Reads a whole WAV file: its sampling rate, and its samples, channels averaged into one.
///
/// # Errors
/// When it is no WAV file, breaks off, or has samples of an unusual kind.
pub fn read(bytes: &[u8]) -> Result<(u32, Vec<i16>), Error> {
    let reader = hound::WavReader::new(Cursor::new(bytes))?;
    let hound::WavSpec { channels, sample_rate: rate, bits_per_sample, sample_format } = reader.spec();
    if channels == 0 || rate == 0 {
        return Err(Error::Empty { channels, rate });
    }
    let samples: Vec<i16> = match sample_format {
        hound::SampleFormat::Int => {
            let shift = i32::from(bits_per_sample) - 16;
            let scale = |sample: i32| if shift >= 0 { sample >> shift } else { sample << -shift };
            reader
                .into_samples::<i32>()
                .map(|sample| sample.map(|sample| scale(sample) as i16))
                .collect::<Result<_, _>>()?
        }
        hound::SampleFormat::Float => reader
            .into_samples::<f32>()
            .map(|sample| sample.map(|sample| (sample * 32768.0) as i16))
            .collect::<Result<_, _>>()?,
    };
    let average = |all: &[i16]| (all.iter().map(|&sample| i64::from(sample)).sum::<i64>() / all.len() as i64) as i16;
    match channels {
        1 => Ok((rate, samples)),
        channels => Ok((rate, samples.chunks_exact(usize::from(channels)).map(average).collect())),
    }
}

/// Writes mono 16-bit samples as a WAV file.
///
/// # Errors
/// When `to` cannot be written.
pub fn write<W: Write + Seek>(to: W, rate: u32, samples: &[i16]) -> Result<(), Error> {
    let spec =
        hound::WavSpec { channels: 1, sample_rate: rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::new(to, spec)?;
    for &sample in samples {
        writer.write_sample(sample)?;
    }
    Ok(writer.finalize()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(channels: u16, bits_per_sample: u16, sample_format: hound::SampleFormat, samples: &[i32]) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let spec = hound::WavSpec { channels, sample_rate: 22_050, bits_per_sample, sample_format };
        let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
        for &sample in samples {
            match sample_format {
                hound::SampleFormat::Int => writer.write_sample(sample).unwrap(),
                hound::SampleFormat::Float => writer.write_sample(sample as f32 / 32768.0).unwrap(),
            }
        }
        writer.finalize().unwrap();
        bytes.into_inner()
    }

    #[test]
    fn what_was_written_is_read() {
        let samples: Vec<i16> = (-500..500).map(|n| n * 65).collect();
        let mut bytes = Cursor::new(Vec::new());
        write(&mut bytes, 8000, &samples).unwrap();
        assert_eq!(read(&bytes.into_inner()).unwrap(), (8000, samples));
    }

    #[test]
    fn every_kind_of_sample_becomes_16_bit_mono() {
        use hound::SampleFormat::{Float, Int};
        for (bits, format, input, expected) in [
            (8, Int, [-128, 127, 0, 64], [-32768, 32512, 0, 16384]),
            (16, Int, [-32768, 32767, 0, 64], [-32768, 32767, 0, 64]),
            (24, Int, [-8_388_608, 8_388_607, 255, 256], [-32768, 32767, 0, 1]),
            (32, Float, [-32768, 40000, 0, 64], [-32768, 32767, 0, 64]),
        ] {
            assert_eq!(read(&file(1, bits, format, &input)).unwrap(), (22_050, expected.to_vec()), "{bits} {format:?}");
        }
        assert_eq!(read(&file(2, 16, Int, &[100, 200, -32768, -32768])).unwrap().1, [150, -32768]);
    }

    #[test]
    fn what_is_no_wav_file_is_an_error_that_says_so() {
        for bytes in [&b""[..], b"RIFF", b"hello, this is not audio at all"] {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.starts_with("not a readable WAV file"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn damaged_files_do_not_panic(at in 0usize..60, byte in any::<u8>(), len in 0usize..100) {
            let mut bytes = file(2, 16, hound::SampleFormat::Int, &[1; 40]);
            bytes[at] = byte;
            bytes.truncate(len);
            let _ = read(&bytes);
        }
    }
}
