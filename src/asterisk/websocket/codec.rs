//! Between the bytes of binary messages and samples.

#[cfg(feature = "opus")]
use crate::audio::opus;
use crate::audio::{AudioFormat, Encoding, Frame, Rate, g711::Law, g722};

/// Bits per second towards the caller.
#[cfg(feature = "opus")]
const OPUS_BITS: u32 = 32_000;

/// A format at work.
#[derive(Debug)]
pub(super) struct Codec {
    kind: Kind,
    pub(super) rate: Rate,
}

#[derive(Debug)]
enum Kind {
    Linear,
    Law(Law),
    G722(Box<(g722::Encoder, g722::Decoder)>),
    #[cfg(feature = "opus")]
    Opus(Box<(opus::Encoder, opus::Decoder, Vec<u8>)>),
}

impl Codec {
    /// Of a leg that has not begun.
    pub(super) const LINEAR: Self = Self { kind: Kind::Linear, rate: Rate::R8K };

    /// `None` for a format that this program was built without.
    pub(super) fn new(format: AudioFormat) -> Option<Self> {
        let rate = format.rate;
        let kind = match format.encoding {
            Encoding::Linear16 => Kind::Linear,
            Encoding::Ulaw => Kind::Law(Law::Ulaw),
            Encoding::Alaw => Kind::Law(Law::Alaw),
            Encoding::G722 => Kind::G722(Box::default()),
            #[cfg(feature = "opus")]
            Encoding::Opus => {
                let encoder = opus::Encoder::new(rate, OPUS_BITS, 0).ok()?;
                Kind::Opus(Box::new((encoder, opus::Decoder::new(rate).ok()?, Vec::new())))
            }
            #[cfg(not(feature = "opus"))]
            Encoding::Opus => return None,
        };
        Some(Self { kind, rate })
    }

    /// Whether Asterisk passes messages on as they are: it then has no queue, and no command for one.
    pub(super) const fn is_passed_through(&self) -> bool {
        match self.kind {
            #[cfg(feature = "opus")]
            Kind::Opus(_) => true,
            _ => false,
        }
    }

    /// Appends what `bytes` hold; `false` when something of them is damaged.
    pub(super) fn decode(&mut self, bytes: &[u8], samples: &mut Vec<i16>) -> bool {
        match &mut self.kind {
            Kind::Linear => {
                let (pairs, odd) = bytes.as_chunks::<2>();
                samples.extend(pairs.iter().map(|&pair| i16::from_le_bytes(pair)));
                odd.is_empty()
            }
            Kind::Law(law) => {
                law.decode(bytes, samples);
                true
            }
            Kind::G722(coders) => {
                coders.1.decode(bytes, samples);
                true
            }
            #[cfg(feature = "opus")]
            Kind::Opus(coders) => coders.1.decode(bytes, samples).is_ok(),
        }
    }

    /// Appends what `frame` becomes.
    pub(super) fn encode(&mut self, frame: &Frame, bytes: &mut Vec<u8>) {
        match &mut self.kind {
            Kind::Linear => bytes.extend(frame.samples().iter().flat_map(|sample| sample.to_le_bytes())),
            Kind::Law(law) => law.encode(frame.samples(), bytes),
            Kind::G722(coders) => coders.0.encode(frame.samples(), bytes),
            #[cfg(feature = "opus")]
            Kind::Opus(coders) => {
                let (encoder, _, packet) = coders.as_mut();
                // a frame of the call's own rate, which is the encoder's
                if encoder.encode(frame, packet).is_ok() {
                    bytes.extend_from_slice(packet);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exact_comes_back_and_a_half_sample_is_told() {
        let format = |encoding, rate| AudioFormat { encoding, rate };
        let samples: Vec<i16> = (0..160).map(|n| n * 100 - 8_000).collect();
        let frame = Frame::padded(Rate::R8K, &samples);
        let mut linear = Codec::new(format(Encoding::Linear16, Rate::R8K)).unwrap();
        let (mut bytes, mut back) = (Vec::new(), Vec::new());
        linear.encode(&frame, &mut bytes);
        assert_eq!(bytes.len(), 320);
        assert!(linear.decode(&bytes, &mut back));
        assert_eq!(back, samples);
        assert!(!linear.decode(&bytes[..3], &mut back));
        assert_eq!(back.len(), 161);
        for (encoding, rate, len) in [(Encoding::Ulaw, Rate::R8K, 160), (Encoding::G722, Rate::R16K, 160)] {
            let mut codec = Codec::new(format(encoding, rate)).unwrap();
            let (mut bytes, mut back) = (Vec::new(), Vec::new());
            codec.encode(&Frame::silence(rate), &mut bytes);
            assert!(codec.decode(&bytes, &mut back) && !codec.is_passed_through());
            assert_eq!((bytes.len(), back.len()), (len, rate.frame_samples()));
        }
    }

    #[cfg(feature = "opus")]
    #[test]
    fn opus_is_passed_through_and_any_packet_is_survived() {
        let mut codec = Codec::new(AudioFormat { encoding: Encoding::Opus, rate: Rate::R16K }).unwrap();
        assert!(codec.is_passed_through());
        let (mut bytes, mut back) = (Vec::new(), Vec::new());
        codec.encode(&Frame::silence(Rate::R16K), &mut bytes);
        assert!(codec.decode(&bytes, &mut back));
        assert_eq!(back.len(), 320);
        assert!(!codec.decode(&[], &mut back));
    }
}
