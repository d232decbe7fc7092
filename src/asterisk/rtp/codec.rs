//! Between payloads and samples.
//!
//! Asterisk's `UnicastRTP` knows what comes in by payload types that never change (those below 35); 118, by which it *sends* slin16 itself, it
//! drops without a word (22.10.1, measured; it takes any other format's instead). So 16 kHz goes to it as G.722, whatever it sends.

use super::wire;
use crate::audio::{AudioFormat, Encoding, Frame, Rate, g711::Law, g722};

/// A format at work.
#[derive(Debug)]
pub(super) struct Codec {
    kind: Kind,
    pub rate: Rate,
    /// The payload types that carry it to us.
    pub types: &'static [u8],
    out: Out,
    /// The payload type to send with.
    pub out_type: u8,
}

#[derive(Debug)]
enum Out {
    Linear,
    Law(Law),
    G722(Box<g722::Encoder>),
}

#[derive(Debug)]
enum Kind {
    Linear,
    Law(Law),
    G722(Box<g722::Decoder>),
}

impl Codec {
    /// `None` for a format that is not carried by RTP here.
    pub fn new(format: AudioFormat) -> Option<Self> {
        let types = wire::payload_types(format);
        let (kind, out) = match format.encoding {
            Encoding::Linear16 if format.rate == Rate::R8K => (Kind::Linear, Out::Linear),
            Encoding::Linear16 => (Kind::Linear, Out::G722(Box::default())),
            Encoding::Ulaw => (Kind::Law(Law::Ulaw), Out::Law(Law::Ulaw)),
            Encoding::Alaw => (Kind::Law(Law::Alaw), Out::Law(Law::Alaw)),
            Encoding::G722 => (Kind::G722(Box::default()), Out::G722(Box::default())),
            Encoding::Opus => return None,
        };
        let out_type = if matches!(out, Out::G722(_)) { wire::G722 } else { *types.first()? };
        (!types.is_empty()).then_some(Self { kind, rate: format.rate, types, out, out_type })
    }

    /// Ticks in 20 ms of what is sent.
    pub const fn out_ticks(&self) -> u32 {
        match self.out {
            Out::Linear | Out::Law(_) => self.rate.hz() / 50,
            Out::G722(_) => 160,
        }
    }

    /// Ticks of the timestamp in a second: G.722 has 8,000 by an old mistake (RFC 3551, 4.5.2).
    pub const fn clock(&self) -> u32 {
        match self.kind {
            Kind::G722(_) => 8_000,
            _ => self.rate.hz(),
        }
    }

    /// How many ticks a payload lasts; `None`: it holds half a sample.
    pub fn ticks(&self, payload: &[u8]) -> Option<u32> {
        let length = u32::try_from(payload.len()).ok()?;
        match self.kind {
            Kind::Linear => (length % 2 == 0).then_some(length / 2),
            _ => Some(length),
        }
    }

    /// Samples in so many ticks.
    pub const fn samples(&self, ticks: u32) -> usize {
        ticks as usize * (self.rate.hz() / self.clock()) as usize
    }

    /// Appends what a payload holds.
    pub fn decode(&mut self, payload: &[u8], samples: &mut Vec<i16>) {
        match &mut self.kind {
            Kind::Linear => {
                samples.extend(payload.as_chunks::<2>().0.iter().map(|&pair| i16::from_be_bytes(pair)));
            }
            Kind::Law(law) => law.decode(payload, samples),
            Kind::G722(decoder) => decoder.decode(payload, samples),
        }
    }

    /// Appends what `frame` becomes.
    pub fn encode(&mut self, frame: &Frame, payload: &mut Vec<u8>) {
        match &mut self.out {
            Out::Linear => payload.extend(frame.samples().iter().flat_map(|sample| sample.to_be_bytes())),
            Out::Law(law) => law.encode(frame.samples(), payload),
            Out::G722(encoder) => encoder.encode(frame.samples(), payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_lasts_20_ms_there_and_back() {
        for (encoding, rate, bytes, clock, out_type) in [
            (Encoding::Linear16, Rate::R8K, 320, 8_000, 11),
            (Encoding::Linear16, Rate::R16K, 160, 16_000, 9),
            (Encoding::Ulaw, Rate::R8K, 160, 8_000, 0),
            (Encoding::Alaw, Rate::R8K, 160, 8_000, 8),
            (Encoding::G722, Rate::R16K, 160, 8_000, 9),
        ] {
            let mut codec = Codec::new(AudioFormat { encoding, rate }).unwrap();
            let said: Vec<i16> = (0..rate.frame_samples()).map(|n| n as i16 * 8 - 640).collect();
            let (mut payload, mut heard) = (Vec::new(), Vec::new());
            codec.encode(&Frame::padded(rate, &said), &mut payload);
            assert_eq!((payload.len(), codec.out_type, codec.out_ticks()), (bytes, out_type, 160), "{encoding:?}");
            if encoding == Encoding::Linear16 {
                payload = said.iter().flat_map(|sample| sample.to_be_bytes()).collect();
                assert_eq!(codec.ticks(&payload[1..]), None);
            }
            codec.decode(&payload, &mut heard);
            assert_eq!((codec.clock(), codec.ticks(&payload)), (clock, Some(clock / 50)));
            assert_eq!(heard.len(), codec.samples(clock / 50));
            if encoding == Encoding::Linear16 {
                assert_eq!(heard, said, "big-endian");
            }
        }
        for (encoding, rate) in [(Encoding::Opus, Rate::R48K), (Encoding::Linear16, Rate::R192K)] {
            assert!(Codec::new(AudioFormat { encoding, rate }).is_none());
        }
    }
}
