//! Audio out of a byte stream that may or may not have a WAV header.

use super::{Coding, Format};

/// Most channels whose average is taken; a header that claims more is not believed.
const MOST_CHANNELS: u16 = 8;
/// A chunk before the audio that claims to be longer than this is taken for audio: nobody sends a minute of anything else.
const LONGEST_CHUNK: u32 = 1 << 20;
/// Length of `RIFF????WAVE`.
const MAGIC: usize = 12;
/// Length of a chunk's name and size.
const CHUNK: usize = 8;

/// Takes a byte stream in pieces of any size and gives mono samples.
///
/// Behind `RIFF????WAVE` the chunks are walked to `data`, and the samples in there are converted as `fmt ` says. Everything else is taken for
/// signed 16-bit little-endian. A further header (some services send one for each clip, and do not mark where clips begin) is found wherever
/// it stands. Only what may be part of a header or of a sample is held back: at most 42 bytes.
#[derive(Debug, Clone, Default)]
pub struct Stripper {
    state: State,
    format: Option<Format>,
    pending: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Audio to the end, or to the next header.
    #[default]
    Endless,
    /// So many more bytes of audio (and whether one of padding follows), then other chunks.
    Data(u32, bool),
    /// A chunk's name and size come next.
    Chunk,
    /// A `fmt ` chunk of so many bytes comes next.
    Fmt(u32),
    /// So many bytes that are no audio come next.
    Skip(u32),
}

/// Where a header begins in a piece of audio.
enum Magic {
    Whole(usize),
    /// The bytes from here on may be the start of one.
    Partial(usize),
}

impl Stripper {
    /// A stripper at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the latest `fmt ` chunk said, once one was seen.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        self.format
    }

    /// Makes ready for another stream; what is held back is dropped.
    pub fn reset(&mut self) {
        *self = Self { pending: std::mem::take(&mut self.pending), ..Self::default() };
        self.pending.clear();
    }

    /// Takes the next bytes and appends the samples that are complete to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<i16>) {
        let joined;
        let bytes = if self.pending.is_empty() {
            bytes
        } else {
            joined = [&self.pending, bytes].concat();
            &joined
        };
        let mut rest = bytes;
        while let Some(used) = self.step(rest, out) {
            rest = &rest[used..];
        }
        self.pending.clear();
        self.pending.extend_from_slice(rest);
    }

    /// The stream has ended: appends what is held back, except half a sample, and makes ready for another stream.
    pub fn finish(&mut self, out: &mut Vec<i16>) {
        if matches!(self.state, State::Endless | State::Data(..)) {
            let pending = std::mem::take(&mut self.pending);
            self.convert(&pending, out);
        }
        self.reset();
    }

    /// Takes something from the front of `rest` or changes the state; `None` when that needs more bytes.
    fn step(&mut self, rest: &[u8], out: &mut Vec<i16>) -> Option<usize> {
        match self.state {
            State::Endless => self.audio(rest, out),
            State::Data(0, padded) => {
                self.state = State::Skip(padded.into());
                Some(0)
            }
            State::Data(left, padded) => {
                let within = &rest[..rest.len().min(left as usize)];
                let used = self.audio(within, out);
                // at the chunk's end nothing can be held back; a sample that it cuts off is dropped
                let at_end = within.len() == left as usize && used.is_none();
                let used = if at_end { self.convert(within, out).or(Some(within.len())) } else { used };
                if let (State::Data(..), Some(used)) = (self.state, used) {
                    self.state = State::Data(left - used as u32, padded);
                }
                used
            }
            State::Chunk => self.chunk(rest),
            State::Fmt(size) => {
                let fmt = rest.get(..Format::BYTES.min(size as usize))?;
                self.format = Format::parse(fmt).or(self.format);
                self.state = State::Skip(size);
                Some(0)
            }
            State::Skip(0) => {
                self.state = State::Chunk;
                Some(0)
            }
            State::Skip(left) => {
                let used = rest.len().min(left as usize);
                self.state = State::Skip(left - used as u32);
                (used > 0).then_some(used)
            }
        }
    }

    /// Converts audio up to the next header.
    fn audio(&mut self, bytes: &[u8], out: &mut Vec<i16>) -> Option<usize> {
        match find_magic(bytes) {
            Some(Magic::Whole(at)) => {
                self.convert(&bytes[..at], out);
                self.format = None;
                self.state = State::Chunk;
                Some(at + MAGIC)
            }
            Some(Magic::Partial(at)) => self.convert(&bytes[..at], out),
            None => self.convert(bytes, out),
        }
    }

    /// Reads a chunk's name and size.
    fn chunk(&mut self, rest: &[u8]) -> Option<usize> {
        let &[a, b, c, d, ref size @ ..] = rest.first_chunk::<CHUNK>()?;
        let size = u32::from_le_bytes(*size);
        let padded = size.wrapping_add(size & 1);
        match &[a, b, c, d] {
            b"RIFF" => {
                rest.get(..MAGIC)?;
                self.format = None;
                return Some(MAGIC);
            }
            // what writes to a pipe cannot know the length
            b"data" if size == 0 || size == u32::MAX => self.state = State::Endless,
            b"data" => self.state = State::Data(size, size % 2 == 1),
            name if size > LONGEST_CHUNK || !name.iter().all(|byte| (b' '..=b'~').contains(byte)) => {
                self.state = State::Endless;
                return Some(0);
            }
            b"fmt " => self.state = State::Fmt(padded),
            _ => self.state = State::Skip(padded),
        }
        Some(CHUNK)
    }

    /// Converts the whole samples at the front of `bytes`; how many bytes that took, if any.
    fn convert(&self, bytes: &[u8], out: &mut Vec<i16>) -> Option<usize> {
        let (channels, coding) = match self.format {
            Some(format) if (1..=MOST_CHANNELS).contains(&format.channels) => (format.channels, format.coding),
            Some(format) => (1, format.coding),
            None => (1, Coding::Pcm16),
        };
        let block = usize::from(channels) * coding.bytes();
        let blocks = bytes.chunks_exact(block);
        let used = bytes.len() - blocks.remainder().len();
        if channels == 1 {
            out.extend(blocks.map(|bytes| coding.sample(bytes)));
        } else {
            let sum = |block: &[u8]| {
                block.chunks_exact(coding.bytes()).map(|bytes| i32::from(coding.sample(bytes))).sum::<i32>()
            };
            out.extend(blocks.map(|block| (sum(block) / i32::from(channels)) as i16));
        }
        (used > 0).then_some(used)
    }
}

/// The first place where `RIFF????WAVE` stands, or may stand once more bytes are there.
fn find_magic(bytes: &[u8]) -> Option<Magic> {
    let matches = |at: usize| {
        let expected = b"RIFF....WAVE";
        bytes[at..].iter().zip(expected).enumerate().all(|(n, (byte, wanted))| (4..8).contains(&n) || byte == wanted)
    };
    let at = (0..bytes.len()).find(|&at| bytes[at] == b'R' && matches(at))?;
    Some(if bytes.len() - at >= MAGIC { Magic::Whole(at) } else { Magic::Partial(at) })
}

#[cfg(test)]
mod tests;
