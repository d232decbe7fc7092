//! Bytes of RTP: packets (RFC 3550), keys (RFC 4733), and what payload types Asterisk gives to what.

use crate::{
    audio::{AudioFormat, Encoding, Rate},
    call::Digit,
};

/// The header as we write it: no sources, no extension.
pub const HEADER: usize = 12;
/// The payload type under which Asterisk sends keys where nothing was negotiated.
pub const TELEPHONE_EVENT: u8 = 101;
/// G.722.
pub const G722: u8 = 9;
/// Comfort noise, by its own number and the one that was given to it before.
pub const COMFORT_NOISE: [u8; 2] = [13, 19];

/// Asterisk's payload types of what we carry (`main/rtp_engine.c`'s table): each with the ones that mean the same.
const TYPES: &[(Encoding, Rate, &[u8])] = &[
    (Encoding::Ulaw, Rate::R8K, &[0]),
    (Encoding::Alaw, Rate::R8K, &[8]),
    (Encoding::G722, Rate::R16K, &[G722]),
    (Encoding::Linear16, Rate::R8K, &[11, 10]),
    (Encoding::Linear16, Rate::R16K, &[118]),
];

/// The payload types by which Asterisk sends `format`, the usual one first; empty where we do not carry it.
#[must_use]
pub fn payload_types(format: AudioFormat) -> &'static [u8] {
    let mut types = TYPES.iter().filter(|(encoding, rate, _)| (*encoding, *rate) == (format.encoding, format.rate));
    types.next().map_or(&[], |(.., types)| types)
}

/// A packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Begins something after a pause.
    pub marker: bool,
    /// What it carries.
    pub payload_type: u8,
    /// One more with every packet.
    pub sequence: u16,
    /// Place of its first sample, in ticks of the payload's clock.
    pub timestamp: u32,
    /// Who sends.
    pub source: u32,
    /// What it carries, without padding.
    pub payload: &'a [u8],
}

/// Why bytes are no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends within its header.
    #[error("{0} bytes are too short for the header")]
    Short(usize),
    /// Another protocol.
    #[error("version {0} is no RTP")]
    Version(u8),
    /// The header goes on behind the end.
    #[error("its sources or its extension go on behind its end")]
    Header,
    /// More padding than there is.
    #[error("it says that {0} bytes of it are padding, and has fewer")]
    Padding(u8),
    /// Nothing is left of it.
    #[error("it carries nothing")]
    Empty,
}

/// Whether it is RTCP on the same port (RFC 5761): its types stand where RTP has marker and payload type.
#[must_use]
pub fn is_control(bytes: &[u8]) -> bool {
    matches!(bytes, [first, 192..=223, ..] if first >> 6 == 2)
}

/// Reads a packet.
///
/// # Errors
/// It is none.
pub fn parse(bytes: &[u8]) -> Result<Packet<'_>, WireError> {
    let (head, mut rest) = bytes.split_first_chunk::<HEADER>().ok_or(WireError::Short(bytes.len()))?;
    let [flags, kind, s0, s1, t0, t1, t2, t3, r0, r1, r2, r3] = *head;
    if flags >> 6 != 2 {
        return Err(WireError::Version(flags >> 6));
    }
    let sources = usize::from(flags & 0x0F) * 4;
    rest = rest.get(sources..).ok_or(WireError::Header)?;
    if flags & 0x10 != 0 {
        let (&[_, _, high, low], behind) = rest.split_first_chunk::<4>().ok_or(WireError::Header)?;
        let words = usize::from(u16::from_be_bytes([high, low]));
        rest = behind.get(words * 4..).ok_or(WireError::Header)?;
    }
    if flags & 0x20 != 0 {
        // its last byte counts itself
        let padding = *rest.last().ok_or(WireError::Empty)?;
        let length = rest.len().checked_sub(usize::from(padding)).filter(|_| padding > 0);
        rest = &rest[..length.ok_or(WireError::Padding(padding))?];
    }
    if rest.is_empty() {
        return Err(WireError::Empty);
    }
    Ok(Packet {
        marker: kind & 0x80 != 0,
        payload_type: kind & 0x7F,
        sequence: u16::from_be_bytes([s0, s1]),
        timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
        source: u32::from_be_bytes([r0, r1, r2, r3]),
        payload: rest,
    })
}

/// Appends a packet.
pub fn put(bytes: &mut Vec<u8>, packet: &Packet<'_>) {
    bytes.extend_from_slice(&[0x80, packet.payload_type & 0x7F | u8::from(packet.marker) << 7]);
    bytes.extend_from_slice(&packet.sequence.to_be_bytes());
    bytes.extend_from_slice(&packet.timestamp.to_be_bytes());
    bytes.extend_from_slice(&packet.source.to_be_bytes());
    bytes.extend_from_slice(packet.payload);
}

/// A key that is or was down (RFC 4733).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Which.
    pub digit: Digit,
    /// It is up again.
    pub ended: bool,
    /// For how long it was down, in ticks.
    pub duration: u16,
}

/// Reads what a key's packet carries; `None`: another event, or none.
#[must_use]
pub fn key(payload: &[u8]) -> Option<Key> {
    let (&[event, flags, high, low], _) = payload.split_first_chunk::<4>()?;
    let digit = b"0123456789*#ABCD".get(usize::from(event))?;
    Some(Key {
        digit: Digit::try_from(char::from(*digit)).ok()?,
        ended: flags & 0x80 != 0,
        duration: u16::from_be_bytes([high, low]),
    })
}

/// Keys out of packets: each once, though its end is sent three times, and even when all of its ends were lost.
#[derive(Debug, Default)]
pub struct Keys {
    /// The timestamp at which the last key went down, and which it is as long as it has not counted.
    last: Option<(u32, Option<Digit>)>,
}

impl Keys {
    /// Takes a packet: the key that counts now. A key counts when it is up; one whose end was lost, when the next goes down.
    pub fn take(&mut self, timestamp: u32, key: Key) -> Option<Digit> {
        let pending = match self.last {
            Some((at, pending)) if at == timestamp => {
                if key.ended {
                    self.last = Some((at, None));
                    return pending;
                }
                return None;
            }
            // late packets of a key before
            Some((at, _)) if timestamp.wrapping_sub(at) > u32::MAX / 2 => return None,
            Some((_, pending)) => pending,
            None => None,
        };
        match (pending, key.ended) {
            // both count now; the second does at the next of its packets, of which there are three
            (Some(digit), _) => {
                self.last = Some((timestamp, Some(key.digit)));
                Some(digit)
            }
            (None, true) => {
                self.last = Some((timestamp, None));
                Some(key.digit)
            }
            (None, false) => {
                self.last = Some((timestamp, Some(key.digit)));
                None
            }
        }
    }

    /// Sound goes on: a key that is down is up again, though its end was lost.
    pub fn sound(&mut self) -> Option<Digit> {
        let (_, pending) = self.last.as_mut()?;
        pending.take()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digit(c: char) -> Digit {
        Digit::try_from(c).unwrap()
    }

    #[test]
    fn a_packet_of_asterisk_is_read() {
        let bytes = [0x80, 0x80 | 118, 0x12, 0x34, 0, 0, 0x01, 0x40, 0xDE, 0xAD, 0xBE, 0xEF, 1, 2];
        let packet = parse(&bytes).unwrap();
        let expected = Packet {
            marker: true,
            payload_type: 118,
            sequence: 0x1234,
            timestamp: 320,
            source: 0xDEAD_BEEF,
            payload: &[1, 2],
        };
        assert_eq!(packet, expected);
    }

    #[test]
    fn sources_extension_and_padding_are_left_out() {
        // two sources, an extension of one word, three bytes of padding
        let mut bytes = vec![0x80 | 0x20 | 0x10 | 2, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        bytes.extend([9; 8]);
        bytes.extend([0xBE, 0xDE, 0, 1, 7, 7, 7, 7]);
        bytes.extend([42, 43]);
        bytes.extend([0, 0, 3]);
        assert_eq!(parse(&bytes).unwrap().payload, [42, 43]);
    }

    #[test]
    fn what_is_no_packet_is_told() {
        let head = |flags: u8| [&[flags, 0][..], &[0; 10]].concat();
        assert_eq!(parse(&[]), Err(WireError::Short(0)));
        assert_eq!(parse(&[0x80; 11]), Err(WireError::Short(11)));
        assert_eq!(parse(&head(0x00)), Err(WireError::Version(0)));
        assert_eq!(parse(&head(0x80)), Err(WireError::Empty));
        assert_eq!(parse(&head(0x81)), Err(WireError::Header));
        assert_eq!(parse(&head(0x90)), Err(WireError::Header));
        assert_eq!(parse(&head(0xA0)), Err(WireError::Empty));
        assert_eq!(parse(&[head(0xA0), vec![0]].concat()), Err(WireError::Padding(0)));
        assert_eq!(parse(&[head(0xA0), vec![1, 3]].concat()), Err(WireError::Padding(3)));
        assert_eq!(parse(&[head(0xA0), vec![1, 2]].concat()), Err(WireError::Empty));
        assert!(is_control(&[0x80, 200, 0]) && !is_control(&[0x80, 118]) && !is_control(&[]));
    }

    #[test]
    fn the_table_is_asterisks() {
        let types = |encoding, rate| payload_types(AudioFormat { encoding, rate });
        assert_eq!(types(Encoding::Ulaw, Rate::R8K), [0]);
        assert_eq!(types(Encoding::Linear16, Rate::R16K), [118]);
        assert_eq!(types(Encoding::Linear16, Rate::R44K), [0; 0]);
    }

    /// Packets of one key from `at` on: its beginning, its going on, its end three times.
    fn press(c: char, at: u32) -> Vec<(u32, Key)> {
        let of = |ended, duration| (at, Key { digit: digit(c), ended, duration });
        vec![of(false, 160), of(false, 320), of(true, 480), of(true, 480), of(true, 480)]
    }

    fn heard(keys: &mut Keys, packets: &[(u32, Key)]) -> String {
        packets.iter().filter_map(|&(at, key)| keys.take(at, key)).map(Digit::as_char).collect()
    }

    #[test]
    fn every_key_counts_once() {
        let packets = [press('1', 0), press('1', 1_600), press('#', 3_200)].concat();
        assert_eq!(heard(&mut Keys::default(), &packets), "11#");
        // the beginnings lost, or two of the ends
        assert_eq!(heard(&mut Keys::default(), &[&press('1', 0)[4..], &press('2', 1_600)[4..]].concat()), "12");
        // all ends lost: it counts with the next key, or with the sound behind it
        let mut keys = Keys::default();
        assert_eq!(heard(&mut keys, &[&press('1', 0)[..2], &press('2', 1_600)[..]].concat()), "12");
        assert_eq!(heard(&mut keys, &press('3', 3_200)[..1]), "");
        assert_eq!((keys.sound(), keys.sound()), (Some(digit('3')), None));
        assert_eq!(heard(&mut keys, &press('3', 3_200)[2..]), "");
        // what comes late is of a key that has counted
        assert_eq!(heard(&mut keys, &press('2', 1_600)), "");
        // around the end of the numbers
        assert_eq!(heard(&mut Keys::default(), &[press('4', u32::MAX), press('5', 1_600)].concat()), "45");
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(packet) = parse(&bytes) {
                prop_assert!(!packet.payload.is_empty() && packet.payload.len() + HEADER <= bytes.len());
                let _ = key(packet.payload);
            }
            let _ = (is_control(&bytes), key(&bytes));
        }

        #[test]
        fn what_is_written_is_read(marker: bool, kind in 0..128_u8, sequence: u16, timestamp: u32, source: u32, payload in prop::collection::vec(any::<u8>(), 1..50)) {
            let packet = Packet { marker, payload_type: kind, sequence, timestamp, source, payload: &payload };
            let mut bytes = Vec::new();
            put(&mut bytes, &packet);
            prop_assert_eq!(parse(&bytes), Ok(packet));
        }

        /// However packets are lost, repeated or mixed up: no more keys than were pressed.
        #[test]
        fn no_key_counts_twice(order in prop::collection::vec(0..25_usize, 0..60)) {
            let packets: Vec<_> = (0..5).flat_map(|n| press('7', n * 1_600)).collect();
            let mut keys = Keys::default();
            let count = order.iter().filter_map(|&n| keys.take(packets[n].0, packets[n].1)).count();
            prop_assert!(count <= 5, "{}", count);
        }
    }
}
