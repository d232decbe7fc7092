//! Sounds in files: WAV of any kind, and raw samples.

use super::Rate;
use super::g711::Law;
use super::wav::{Coding, Stripper};

/// The longest sound, in s; what follows is left out. A sound is in memory once for every rate that calls have.
pub const LONGEST_S: u32 = 600;

/// A file that holds no sound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// There is nothing in it.
    #[error("holds no audio; expected is a WAV file, or raw samples (signed 16-bit little-endian, mono, 8 kHz)")]
    Empty,
    /// It is of another kind.
    #[error("is {0}, which is not read here; convert it, e.g. sox IN -r 16000 -c 1 -b 16 OUT.wav")]
    Compressed(&'static str),
    /// A WAV file with samples of an unknown kind.
    #[error(
        "is a WAV file with samples of an unknown kind (format tag {tag}, {bits} bits); expected is PCM, 32 bit float, or G.711"
    )]
    Coding {
        /// The format tag.
        tag: u16,
        /// Bits per sample.
        bits: u16,
    },
    /// A WAV file whose header makes no sense.
    #[error("is a WAV file at {0} Hz, which is no sampling rate of speech or music; expected is 4000 to 384000")]
    Rate(u32),
    /// A WAV file without a description of its samples.
    #[error("is a WAV file whose header is broken")]
    Header,
}

/// A sound: its sampling rate and its samples, channels averaged into one.
pub type Sound = (u32, Vec<i16>);

/// Reads a sound piece by piece, so that a file of any size takes bounded memory.
#[derive(Debug)]
pub struct Decoder {
    kind: Kind,
    head: Vec<u8>,
    samples: Vec<i16>,
}

#[derive(Debug)]
enum Kind {
    /// What the first bytes do not tell otherwise.
    Linear {
        stripper: Stripper,
        rate: u32,
    },
    G711(Law),
}

/// Bytes by which a file's kind is told.
const HEAD: usize = 4096;

impl Decoder {
    /// For a file whose name ends in `extension`: Asterisk's own tell the kind of raw samples (`sln16`, `ulaw` …).
    #[must_use]
    pub fn new(extension: &str) -> Self {
        let extension = extension.to_ascii_lowercase();
        let thousands = |name: &str| name.strip_prefix("sln").and_then(|number| number.parse::<u32>().ok());
        let kind = match extension.as_str() {
            "ulaw" | "ul" | "mu" | "pcm" => Kind::G711(Law::Ulaw),
            "alaw" | "al" => Kind::G711(Law::Alaw),
            name => {
                let slin =
                    thousands(name).and_then(|number| Rate::ALL.into_iter().find(|rate| rate.hz() / 1000 == number));
                Kind::Linear { stripper: Stripper::new(), rate: slin.map_or(8_000, Rate::hz) }
            }
        };
        Self { kind, head: Vec::new(), samples: Vec::new() }
    }

    /// Takes the next bytes; `false` when the rest of the file is not wanted.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        self.head.extend_from_slice(&bytes[..bytes.len().min(HEAD - self.head.len())]);
        match &mut self.kind {
            Kind::Linear { stripper, .. } => stripper.push(bytes, &mut self.samples),
            Kind::G711(law) => self.samples.extend(bytes.iter().map(|&byte| law.decode_byte(byte))),
        }
        self.samples.len() < self.limit()
    }

    fn rate(&self) -> u32 {
        match &self.kind {
            Kind::Linear { stripper, rate } => stripper.format().map_or(*rate, |format| format.rate),
            Kind::G711(_) => 8_000,
        }
    }

    /// Samples of the longest sound, at any rate that is believed.
    fn limit(&self) -> usize {
        (self.rate().clamp(4_000, 384_000) * LONGEST_S) as usize
    }

    /// The file has ended: the sound in it.
    ///
    /// # Errors
    /// There is none.
    pub fn finish(mut self) -> Result<Sound, FileError> {
        if let Some(kind) = compressed(&self.head) {
            return Err(FileError::Compressed(kind));
        }
        let (rate, limit) = (self.rate(), self.limit());
        if let Kind::Linear { stripper, .. } = &mut self.kind {
            let format = stripper.format();
            if self.head.starts_with(b"RIFF") && format.is_none() {
                return Err(FileError::Header);
            }
            if let Some(Coding::Other { tag, bits }) = format.map(|format| format.coding) {
                return Err(FileError::Coding { tag, bits });
            }
            stripper.finish(&mut self.samples);
        }
        if !(4_000..=384_000).contains(&rate) {
            return Err(FileError::Rate(rate));
        }
        self.samples.truncate(limit);
        if self.samples.is_empty() { Err(FileError::Empty) } else { Ok((rate, self.samples)) }
    }
}

/// What kind of file begins like this, if it is one of those that people take for WAV files.
fn compressed(head: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 8] = [
        (b"ID3", "an MP3 file"),
        (b"OggS", "an Ogg file"),
        (b"fLaC", "a FLAC file"),
        (b"FORM", "an AIFF file"),
        (b"RF64", "an RF64 file"),
        (b"\x1aE\xdf\xa3", "a WebM file"),
        (b"#!AMR", "an AMR file"),
        (b".snd", "an AU file"),
    ];
    let by_start = kinds.iter().find(|(start, _)| head.starts_with(start)).map(|(_, kind)| *kind);
    let mp4 = (head.get(4..8) == Some(b"ftyp")).then_some("an MP4 file");
    let next = mp3_frame(head).and_then(|len| head.get(len..)).and_then(mp3_frame);
    by_start.or(mp4).or(next.map(|_| "an MP3 file"))
}

/// The length of the MPEG layer III frame that begins here, if one does.
fn mp3_frame(bytes: &[u8]) -> Option<usize> {
    const KBIT: [[usize; 15]; 2] = [
        [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
        [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
    ];
    let &[0xFF, b, c, ..] = bytes else { return None };
    let version = b >> 3 & 3;
    if b & 0xE6 != 0xE2 || version == 1 {
        return None;
    }
    let first = usize::from(version == 3);
    let rate = [44_100, 48_000, 32_000].get(usize::from(c >> 2 & 3))? / [4, 0, 2, 1][usize::from(version)];
    let kbit = *KBIT[first].get(usize::from(c >> 4))?;
    (kbit > 0).then(|| 72_000 * (1 + first) * kbit / rate + usize::from(c >> 1 & 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::wav;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn decode(extension: &str, bytes: &[u8]) -> Result<Sound, FileError> {
        let mut decoder = Decoder::new(extension);
        bytes.chunks(1000).all(|piece| decoder.push(piece));
        decoder.finish()
    }

    #[test]
    fn wav_and_raw_of_every_kind() {
        let samples: Vec<i16> = (-1000..1000).map(|n| n * 30).collect();
        let raw: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        for (extension, rate) in
            [("raw", 8000), ("", 8000), ("sln", 8000), ("SLN16", 16_000), ("sln44", 44_100), ("sln17", 8000)]
        {
            assert_eq!(decode(extension, &raw), Ok((rate, samples.clone())), "{extension}");
        }
        let mut file = Cursor::new(Vec::new());
        wav::write(&mut file, 22_050, &samples).unwrap();
        for extension in ["wav", "raw"] {
            assert_eq!(decode(extension, file.get_ref()), Ok((22_050, samples.clone())), "{extension}");
        }
        for (extension, law) in [("ulaw", Law::Ulaw), ("alaw", Law::Alaw)] {
            let mut codes = Vec::new();
            law.encode(&samples, &mut codes);
            let expected: Vec<i16> = codes.iter().map(|&code| law.decode_byte(code)).collect();
            assert_eq!(decode(extension, &codes), Ok((8000, expected)));
        }
    }

    #[test]
    fn stereo_is_averaged_at_its_level() {
        let spec = hound::WavSpec {
            channels: 2,
            sample_rate: 48_000,
            bits_per_sample: 24,
            sample_format: hound::SampleFormat::Int,
        };
        let mut file = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut file, spec).unwrap();
        for _ in 0..500 {
            writer.write_sample(8000 << 8).unwrap();
            writer.write_sample(-2000 * 256).unwrap();
        }
        writer.finalize().unwrap();
        assert_eq!(decode("wav", file.get_ref()), Ok((48_000, vec![3000; 500])));
    }

    #[test]
    fn what_is_no_sound_says_what_it_is() {
        let mp3_frames = [&[0xFF, 0xFB, 0x90, 0x00][..], &[0; 413], &[0xFF, 0xFB, 0x90, 0x00], &[0; 413]].concat();
        let mut gsm = Cursor::new(Vec::new());
        wav::write(&mut gsm, 8000, &[1; 1000]).unwrap();
        let mut gsm = gsm.into_inner();
        gsm[20] = 0x31;
        for (bytes, says) in [
            (&b""[..], "holds no audio"),
            (b"x", "holds no audio"),
            (b"ID3\x04rest of it", "an MP3 file"),
            (&mp3_frames, "an MP3 file"),
            (b"OggS and more", "an Ogg file"),
            (b"\0\0\0\x20ftypM4A ", "an MP4 file"),
            (b"RIFF\x10\0\0\0WAVEfmt \xFF\xFF", "header is broken"),
            (&gsm, "format tag 49"),
        ] {
            let error = decode("wav", bytes).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_file_of_any_size_takes_bounded_memory() {
        let mut decoder = Decoder::new("raw");
        let piece = vec![0; 1 << 20];
        let pieces = (0..4000).take_while(|_| decoder.push(&piece)).count();
        assert!(pieces < 10, "{pieces} MB were taken");
        assert_eq!(decoder.finish().unwrap().1.len(), 8000 * LONGEST_S as usize);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..3000), start in 0usize..4, extension in "wav|raw|sln16|ulaw|mp3|\\PC*") {
            let starts: [&[u8]; 4] = [b"", b"RIFF\xFF\xFF\xFF\xFFWAVEfmt \x10\0\0\0\x01\0\x02\0", b"\xFF\xFB\x90", b"RIFF"];
            let _ = decode(&extension, &[starts[start], &bytes].concat());
        }
    }
}
