//! Bytes of AudioSocket ⇄ types; no socket.
//!
//! A frame is a kind (one byte), a length (two bytes, big-endian) and a payload of that length. Samples are little-endian.

use uuid::Uuid;

use crate::audio::{Frame, Rate};
use crate::call::Digit;

/// Length of a frame's header.
pub const HEADER: usize = 3;
/// Length of the longest frame, header included.
pub const MAX_FRAME: usize = HEADER + u16::MAX as usize;
/// A frame that ends the call.
pub const HANGUP: [u8; HEADER] = [0x00, 0, 0];
/// The room that a decoder begins with and falls back to: some 200 ms of narrowband audio.
const ROOM: usize = 2048;
/// A buffer that a huge frame has grown is given back beyond this: not for each frame of 192 kHz, but a quiet call does not keep 64 kB.
const MAX_KEPT: usize = 16 * 1024;

/// The first byte of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 0x00: the peer hangs up.
    Hangup,
    /// 0x01: the UUID of the call, 16 bytes.
    Uuid,
    /// 0x03: a DTMF digit, one ASCII byte.
    Dtmf,
    /// 0x10–0x18: audio. At 8 kHz (0x10) a channel of Asterisk also puts the raw bytes of other codecs in here.
    Audio(Rate),
    /// 0xff: the peer reports an error.
    Error,
    /// Everything else.
    Unknown(u8),
}

impl Kind {
    /// The kind of a byte.
    #[must_use]
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            0x00 => Self::Hangup,
            0x01 => Self::Uuid,
            0x03 => Self::Dtmf,
            0x10..=0x18 => Self::Audio(Rate::ALL[usize::from(byte - 0x10)]),
            0xff => Self::Error,
            other => Self::Unknown(other),
        }
    }

    /// The byte of a kind.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::Hangup => 0x00,
            Self::Uuid => 0x01,
            Self::Dtmf => 0x03,
            Self::Audio(rate) => {
                // `Rate` holds nothing but the nine of `ALL`, so the position is always found and at most 8
                0x10 + Rate::ALL.iter().position(|known| *known == rate).unwrap_or(0) as u8
            }
            Self::Error => 0xff,
            Self::Unknown(byte) => byte,
        }
    }
}

/// A frame from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// The peer hangs up.
    Hangup,
    /// The UUID of the call.
    Uuid(Uuid),
    /// The caller pressed a key.
    Dtmf(Digit),
    /// Audio, at least one byte: slin at `rate`, or at 8 kHz possibly another codec.
    Audio {
        /// The rate that the kind says.
        rate: Rate,
        /// The bytes as they came.
        payload: &'a [u8],
    },
    /// The peer reports an error, with its code if it sent one.
    Error(Option<u8>),
}

/// A frame that means nothing. The decoder has skipped it and goes on with the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A kind that AudioSocket does not have.
    #[error("frame of unknown kind {kind:#04x} with {len} bytes")]
    UnknownKind {
        /// The kind.
        kind: u8,
        /// The length of its payload.
        len: usize,
    },
    /// Audio without a single byte.
    #[error("audio frame (kind {kind:#04x}) of zero length")]
    EmptyAudio {
        /// The kind.
        kind: u8,
    },
    /// A UUID that is not 16 bytes long.
    #[error("UUID frame of {0} bytes instead of 16")]
    UuidLength(usize),
    /// A DTMF frame that is not one byte long.
    #[error("DTMF frame of {0} bytes instead of 1")]
    DtmfLength(usize),
    /// A byte that is no DTMF digit.
    #[error("DTMF frame with byte {0:#04x}, which is none of 0-9, *, #, A-D")]
    NotADigit(u8),
}

/// Takes bytes in pieces of any size and gives frames; one buffer is reused.
///
/// Fill [`Self::room`], say how much with [`Self::filled`], then take [`Self::next_message`] until it gives `None`.
#[derive(Debug)]
pub struct Decoder {
    buf: Vec<u8>,
    /// What is not yet taken: `start..end`.
    start: usize,
    end: usize,
    /// Bytes of a skipped payload that are still to come, so that junk is never buffered.
    skip: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// An empty decoder.
    #[must_use]
    pub fn new() -> Self {
        Self { buf: vec![0; ROOM], start: 0, end: 0, skip: 0 }
    }

    /// Where to read the next bytes to. Never empty once [`Self::next_message`] has given `None`; never beyond one longest frame.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buf.len() > MAX_KEPT {
                self.buf.truncate(ROOM);
                self.buf.shrink_to_fit();
            }
        } else if self.start > 0 && self.buf.len() - self.end < ROOM / 4 {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let needed = self.frame_len().unwrap_or(HEADER);
        if self.start + needed > self.buf.len() {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if needed > self.buf.len() {
                self.buf.resize(needed, 0);
            }
        }
        &mut self.buf[self.end..]
    }

    /// Says that `n` bytes have been read into [`Self::room`].
    pub fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.buf.len());
    }

    /// The kind and payload length of the frame that comes next, as soon as its header is there.
    #[must_use]
    pub fn header(&self) -> Option<(Kind, usize)> {
        if self.skip > 0 {
            return None;
        }
        match self.buf.get(self.start..self.end)? {
            [kind, high, low, ..] => Some((Kind::from_byte(*kind), usize::from(u16::from_be_bytes([*high, *low])))),
            _ => None,
        }
    }

    /// The length of the frame that comes next, header included.
    fn frame_len(&self) -> Option<usize> {
        self.header().map(|(_, len)| HEADER + len)
    }

    /// Whether a frame has begun and not ended: an end of the stream here is a cut.
    #[must_use]
    pub fn mid_frame(&self) -> bool {
        self.start < self.end || self.skip > 0
    }

    /// The next whole frame; `None` if more bytes are needed.
    pub fn next_message(&mut self) -> Option<Result<Message<'_>, WireError>> {
        let skipped = self.skip.min(self.end - self.start);
        self.start += skipped;
        self.skip -= skipped;
        let (kind, len) = self.header()?;
        let fault = match kind {
            Kind::Unknown(kind) => Some(WireError::UnknownKind { kind, len }),
            Kind::Audio(_) if len == 0 => Some(WireError::EmptyAudio { kind: kind.byte() }),
            Kind::Uuid if len != 16 => Some(WireError::UuidLength(len)),
            Kind::Dtmf if len != 1 => Some(WireError::DtmfLength(len)),
            _ => None,
        };
        if fault.is_some() || matches!(kind, Kind::Hangup) {
            self.start += HEADER;
            self.skip = len;
            return Some(fault.map_or(Ok(Message::Hangup), Err));
        }
        let from = self.start + HEADER;
        if self.end < from + len {
            return None;
        }
        self.start = from + len;
        Some(message(kind, &self.buf[from..from + len]))
    }
}

/// A frame whose header has been found good and whose payload is whole.
fn message(kind: Kind, payload: &[u8]) -> Result<Message<'_>, WireError> {
    match kind {
        Kind::Hangup => Ok(Message::Hangup),
        Kind::Uuid => Uuid::from_slice(payload).map(Message::Uuid).map_err(|_| WireError::UuidLength(payload.len())),
        Kind::Dtmf => {
            let byte = payload.first().copied().unwrap_or_default();
            Digit::try_from(char::from(byte)).map(Message::Dtmf).map_err(|_| WireError::NotADigit(byte))
        }
        Kind::Audio(rate) => Ok(Message::Audio { rate, payload }),
        Kind::Error => Ok(Message::Error(payload.first().copied())),
        Kind::Unknown(kind) => Err(WireError::UnknownKind { kind, len: payload.len() }),
    }
}

/// Appends a frame of any kind and payload; what exceeds 65,535 bytes is left out.
pub fn put_raw(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    let payload = &payload[..payload.len().min(usize::from(u16::MAX))];
    out.reserve(HEADER + payload.len());
    out.push(kind.byte());
    out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends a UUID frame, the first one of a call.
pub fn put_uuid(out: &mut Vec<u8>, uuid: Uuid) {
    put_raw(out, Kind::Uuid, uuid.as_bytes());
}

/// Appends a DTMF frame. Asterisk takes none: this is for the caller's side.
pub fn put_dtmf(out: &mut Vec<u8>, digit: Digit) {
    put_raw(out, Kind::Dtmf, &[digit.as_char() as u8]);
}

/// Appends 20 ms of audio in the kind of its rate.
pub fn put_audio(out: &mut Vec<u8>, frame: &Frame) {
    let samples = frame.samples();
    // 192 kHz makes 7,680 bytes: a frame always fits, and is never empty
    let len = (samples.len() * 2) as u16;
    out.reserve(HEADER + usize::from(len));
    out.push(Kind::Audio(frame.rate()).byte());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
}

/// Appends samples from little-endian bytes; an odd last byte is left out.
pub fn samples_from_le(bytes: &[u8], out: &mut Vec<i16>) {
    out.extend(bytes.as_chunks::<2>().0.iter().map(|pair| i16::from_le_bytes(*pair)));
}

/// What a fuzzer calls: decodes `bytes` in pieces of the sizes that `splits` gives, and returns the number of frames.
#[doc(hidden)]
#[must_use]
pub fn fuzz(bytes: &[u8], splits: &[u8]) -> usize {
    let mut decoder = Decoder::new();
    let (mut rest, mut frames, mut turn) = (bytes, 0, 0);
    while !rest.is_empty() {
        let piece = splits.get(turn % splits.len().max(1)).map_or(usize::MAX, |size| usize::from(*size) + 1);
        turn += 1;
        let room = decoder.room();
        let n = piece.min(rest.len()).min(room.len());
        room[..n].copy_from_slice(&rest[..n]);
        decoder.filled(n);
        rest = &rest[n..];
        while decoder.next_message().is_some() {
            frames += 1;
        }
    }
    frames
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a decoder makes of `bytes` given in pieces of `split` bytes, written down.
    fn decode(bytes: &[u8], splits: &[usize]) -> Vec<String> {
        let mut decoder = Decoder::new();
        let mut found = Vec::new();
        let (mut rest, mut turn) = (bytes, 0);
        while !rest.is_empty() {
            let room = decoder.room();
            assert!(!room.is_empty());
            let n = splits[turn % splits.len()].min(rest.len()).min(room.len());
            turn += 1;
            room[..n].copy_from_slice(&rest[..n]);
            decoder.filled(n);
            rest = &rest[n..];
            while let Some(message) = decoder.next_message() {
                found.push(format!("{message:?}"));
            }
            assert!(decoder.buf.len() <= MAX_FRAME);
        }
        found
    }

    #[test]
    fn kinds_and_bytes_agree() {
        for byte in 0..=u8::MAX {
            assert_eq!(Kind::from_byte(byte).byte(), byte);
        }
        assert_eq!(Kind::from_byte(0x12), Kind::Audio(Rate::R16K));
        assert_eq!(Kind::from_byte(0x18), Kind::Audio(Rate::R192K));
    }

    #[test]
    fn frames_as_asterisk_writes_them() {
        let uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let mut bytes = Vec::new();
        put_uuid(&mut bytes, uuid);
        assert_eq!(bytes[..5], [0x01, 0x00, 0x10, 0x01, 0x23]);
        put_dtmf(&mut bytes, Digit::try_from('#').unwrap());
        assert_eq!(bytes[19..], [0x03, 0x00, 0x01, b'#']);
        bytes.clear();
        let mut frame = Frame::silence(Rate::R16K);
        frame.samples_mut()[0] = 0x0102;
        put_audio(&mut bytes, &frame);
        assert_eq!(bytes.len(), 643);
        assert_eq!(bytes[..6], [0x12, 0x02, 0x80, 0x02, 0x01, 0x00]);
    }

    #[test]
    fn what_means_nothing_is_skipped_and_named() {
        let mut bytes = vec![0x10, 0, 0, 0x01, 0, 2, 9, 9, 0x03, 0, 1, b'x', 0x42, 0xff, 0xff];
        bytes.resize(bytes.len() + 65_535, 0x10);
        bytes.extend([0x03, 0, 1, b'7', 0xff, 0, 1, 4, 0x00, 0, 0]);
        let expected = [
            "Err(EmptyAudio { kind: 16 })",
            "Err(UuidLength(2))",
            "Err(NotADigit(120))",
            "Err(UnknownKind { kind: 66, len: 65535 })",
            "Ok(Dtmf(Digit('7')))",
            "Ok(Error(Some(4)))",
            "Ok(Hangup)",
        ];
        assert_eq!(decode(&bytes, &[7]), expected);
        assert_eq!(decode(&bytes, &[100_000]), expected);
    }

    #[test]
    fn the_longest_frame_passes_and_leaves_no_large_buffer() {
        let mut bytes = Vec::new();
        put_raw(&mut bytes, Kind::Audio(Rate::R8K), &vec![7; 65_535]);
        let mut decoder = Decoder::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let room = decoder.room();
            let n = room.len().min(rest.len());
            room[..n].copy_from_slice(&rest[..n]);
            decoder.filled(n);
            rest = &rest[n..];
            if !rest.is_empty() {
                assert!(decoder.next_message().is_none());
            }
        }
        let message = decoder.next_message();
        assert!(matches!(message, Some(Ok(Message::Audio { rate: Rate::R8K, payload })) if payload.len() == 65_535));
        assert!(decoder.next_message().is_none());
        assert_eq!(decoder.room().len(), ROOM);
    }

    #[test]
    fn too_long_a_payload_is_cut_to_what_a_header_can_say() {
        let mut bytes = Vec::new();
        put_raw(&mut bytes, Kind::Error, &[1; 70_000]);
        assert_eq!(bytes.len(), MAX_FRAME);
    }

    fn any_frame() -> impl Strategy<Value = (u8, Vec<u8>)> {
        let kind = prop_oneof![Just(0x00), Just(0x01), Just(0x03), 0x10..=0x18_u8, Just(0xff), any::<u8>()];
        (
            kind,
            prop_oneof![8 => prop::collection::vec(any::<u8>(), 0..400), 1 => prop::collection::vec(any::<u8>(), 5_000..9_000)],
        )
    }

    proptest! {
        #[test]
        fn any_bytes_at_any_split(
            bytes in prop::collection::vec(any::<u8>(), 0..6_000),
            splits in prop::collection::vec(1..700_usize, 1..8),
        ) {
            prop_assert_eq!(decode(&bytes, &splits), decode(&bytes, &[usize::MAX]));
        }

        #[test]
        fn every_frame_gives_one_result_at_any_split(
            frames in prop::collection::vec(any_frame(), 0..20),
            splits in prop::collection::vec(1..5_000_usize, 1..8),
        ) {
            let mut bytes = Vec::new();
            for (kind, payload) in &frames {
                put_raw(&mut bytes, Kind::from_byte(*kind), payload);
            }
            prop_assert_eq!(decode(&bytes, &splits).len(), frames.len());
        }

        #[test]
        fn what_is_encoded_is_decoded(
            rate in 0..9_usize,
            samples in prop::collection::vec(any::<i16>(), 160),
            splits in prop::collection::vec(1..400_usize, 1..8),
        ) {
            let frame = Frame::padded(Rate::ALL[rate], &samples);
            let mut bytes = Vec::new();
            put_audio(&mut bytes, &frame);
            put_audio(&mut bytes, &frame);
            let payload = &bytes[HEADER..bytes.len() / 2];
            let mut back = Vec::new();
            samples_from_le(payload, &mut back);
            prop_assert_eq!(frame.samples(), &back[..]);
            let one = format!("{:?}", Ok::<_, WireError>(Message::Audio { rate: frame.rate(), payload }));
            prop_assert_eq!(decode(&bytes, &splits), vec![one.clone(), one]);
        }

        #[test]
        fn the_fuzz_entry_takes_anything(
            bytes in prop::collection::vec(any::<u8>(), 0..2_000),
            splits in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            prop_assert!(fuzz(&bytes, &splits) <= bytes.len());
        }
    }
}
