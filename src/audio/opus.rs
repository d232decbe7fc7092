//! Opus, mono, in packets of 20 ms, for legs that carry it.
//!
//! The crate `ropus` is a port of libopus to Rust (bit by bit the same, by its authors' tests against it): no C compiler, no system library. Everything that
//! is known of it is in this file, so that another crate can take its place. Cargo feature `opus`.

use super::{Frame, Rate};

/// The longest packet that RFC 6716 allows, in ms.
const LONGEST_MS: usize = 120;
/// The largest packet of 20 ms.
const LARGEST: usize = 1275;
/// How hard the encoder tries, of 10: half of the time of 10 for speech that sounds the same.
const COMPLEXITY: u8 = 5;

/// What Opus cannot do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpusError {
    /// A rate that it does not have.
    #[error("Opus has no sampling rate of {0}, only 8, 12, 16, 24 and 48 kHz")]
    Rate(Rate),
    /// A packet that is none.
    #[error("not a packet of Opus: {0}")]
    Packet(String),
    /// The encoder refused.
    #[error("Opus cannot encode this: {0}")]
    Encode(String),
}

impl OpusError {
    /// A stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Rate(_) => "audio.opus.rate",
            Self::Packet(_) => "audio.opus.packet",
            Self::Encode(_) => "audio.opus.encode",
        }
    }
}

fn supported(rate: Rate) -> Result<u32, OpusError> {
    let known = [Rate::R8K, Rate::R12K, Rate::R16K, Rate::R24K, Rate::R48K];
    if known.contains(&rate) { Ok(rate.hz()) } else { Err(OpusError::Rate(rate)) }
}

/// Writes packets.
pub struct Encoder {
    inner: ropus::Encoder,
    rate: Rate,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("rate", &self.rate).finish_non_exhaustive()
    }
}

impl Encoder {
    /// For frames at `rate`, `bits` per second (6,000 to 510,000; what is outside is moved to the nearest). Where `loss_percent` of packets are
    /// expected to be lost, each also holds a rough copy of the one before.
    ///
    /// # Errors
    /// Opus does not have this rate.
    pub fn new(rate: Rate, bits: u32, loss_percent: u8) -> Result<Self, OpusError> {
        let fec = if loss_percent > 0 { ropus::InbandFec::Enabled } else { ropus::InbandFec::Disabled };
        let inner = ropus::Encoder::builder(supported(rate)?, ropus::Channels::Mono, ropus::Application::Voip)
            .bitrate(ropus::Bitrate::Bits(bits.clamp(6_000, 510_000)))
            .complexity(COMPLEXITY)
            .signal(ropus::Signal::Voice)
            .inband_fec(fec)
            .packet_loss_perc(loss_percent.min(100))
            .build()
            .map_err(|error| OpusError::Encode(error.to_string()))?;
        Ok(Self { inner, rate })
    }

    /// Overwrites `packet` with what `frame` becomes.
    ///
    /// # Errors
    /// The frame has another rate.
    pub fn encode(&mut self, frame: &Frame, packet: &mut Vec<u8>) -> Result<(), OpusError> {
        if frame.rate() != self.rate {
            return Err(OpusError::Rate(frame.rate()));
        }
        packet.resize(LARGEST, 0);
        let len = self.inner.encode(frame.samples(), packet).map_err(|error| OpusError::Encode(error.to_string()))?;
        packet.truncate(len);
        Ok(())
    }
}

/// Reads packets.
pub struct Decoder {
    inner: ropus::Decoder,
    rate: Rate,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("rate", &self.rate).finish_non_exhaustive()
    }
}

impl Decoder {
    /// For packets from anybody, whatever their rate and channels; the audio comes out mono at `rate`.
    ///
    /// # Errors
    /// Opus does not have this rate.
    pub fn new(rate: Rate) -> Result<Self, OpusError> {
        let inner = ropus::Decoder::new(supported(rate)?, ropus::Channels::Mono)
            .map_err(|error| OpusError::Packet(error.to_string()))?;
        Ok(Self { inner, rate })
    }

    /// Appends to `samples` what `packet` holds: usually 20 ms, at most 120.
    ///
    /// # Errors
    /// The packet is damaged. The decoder can go on with the next one.
    pub fn decode(&mut self, packet: &[u8], samples: &mut Vec<i16>) -> Result<(), OpusError> {
        if packet.is_empty() {
            return Err(OpusError::Packet("it is empty".to_owned()));
        }
        let most = self.rate.hz() as usize * LONGEST_MS / 1000;
        self.run(packet, most, ropus::DecodeMode::Normal, samples)
    }

    /// Appends to `samples` 20 ms in place of a packet that was lost: from the rough copy in the `next` packet if that is there already, else
    /// what went before, fading. (`next` itself is decoded afterwards.)
    ///
    /// # Errors
    /// The next packet is damaged.
    pub fn conceal(&mut self, next: Option<&[u8]>, samples: &mut Vec<i16>) -> Result<(), OpusError> {
        let mode = if next.is_some() { ropus::DecodeMode::Fec } else { ropus::DecodeMode::Normal };
        self.run(next.unwrap_or_default(), self.rate.frame_samples(), mode, samples)
    }

    fn run(
        &mut self,
        packet: &[u8],
        most: usize,
        mode: ropus::DecodeMode,
        samples: &mut Vec<i16>,
    ) -> Result<(), OpusError> {
        let before = samples.len();
        samples.resize(before + most, 0);
        let decoded = self.inner.decode(packet, &mut samples[before..], mode);
        samples.truncate(before + decoded.as_ref().map_or(0, |&len| len.min(most)));
        decoded.map(drop).map_err(|error| OpusError::Packet(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{level::rms, resample::Resampler, wav};
    use proptest::prelude::*;

    fn frames(rate: Rate) -> Vec<Frame> {
        let (from, caller) = wav::read(include_bytes!("../../fixtures/audio/caller.wav")).unwrap();
        let mut samples = Vec::new();
        Resampler::new(from, rate.hz()).process(&caller, &mut samples);
        samples.chunks(rate.frame_samples()).map(|samples| Frame::padded(rate, samples)).collect()
    }

    fn packets(rate: Rate, loss_percent: u8) -> Vec<Vec<u8>> {
        let mut encoder = Encoder::new(rate, 24_000, loss_percent).unwrap();
        let encode = |frame: &Frame| {
            let mut packet = Vec::new();
            encoder.encode(frame, &mut packet).unwrap();
            packet
        };
        frames(rate).iter().map(encode).collect()
    }

    /// Likeness of two signals at the best of some delays, 1 = the same.
    fn likeness(a: &[i16], b: &[i16]) -> f64 {
        let at = |delay: usize| {
            let product: f64 = a.iter().zip(&b[delay..]).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            product / (f64::from(rms(a)) * f64::from(rms(b)).max(1.0) * a.len() as f64)
        };
        (0..b.len().min(1500)).map(at).fold(0.0, f64::max)
    }

    #[test]
    fn speech_comes_back_at_every_rate_that_opus_has() {
        for rate in [Rate::R8K, Rate::R12K, Rate::R16K, Rate::R24K, Rate::R48K] {
            let said: Vec<i16> = frames(rate).iter().flat_map(|frame| frame.samples().to_vec()).collect();
            let packets = packets(rate, 0);
            let bytes: usize = packets.iter().map(Vec::len).sum();
            let (mut decoder, mut heard) = (Decoder::new(rate).unwrap(), Vec::new());
            packets.iter().for_each(|packet| decoder.decode(packet, &mut heard).unwrap());
            assert_eq!(heard.len(), said.len());
            let alike = likeness(&said, &heard);
            println!("{rate}: {alike:.3}, {} bit/s", bytes * 8 * 50 / packets.len());
            assert!(alike > 0.9, "{rate}: {alike}");
            assert!(bytes * 8 * 50 / packets.len() < 30_000, "{rate}");
        }
        for rate in [Rate::R32K, Rate::R44K, Rate::R96K, Rate::R192K] {
            assert_eq!(Encoder::new(rate, 24_000, 0).unwrap_err().code(), "audio.opus.rate");
            assert!(Decoder::new(rate).unwrap_err().to_string().contains("only 8, 12, 16, 24 and 48 kHz"));
        }
    }

    #[test]
    fn a_lost_packet_is_made_up_and_better_from_the_next_one() {
        let rate = Rate::R16K;
        let packets = packets(rate, 20);
        let heard = |lose: &dyn Fn(usize) -> bool, fec: bool| {
            let (mut decoder, mut heard) = (Decoder::new(rate).unwrap(), Vec::new());
            for (n, packet) in packets.iter().enumerate() {
                if lose(n) {
                    decoder.conceal(packets.get(n + 1).filter(|_| fec).map(Vec::as_slice), &mut heard).unwrap();
                } else {
                    decoder.decode(packet, &mut heard).unwrap();
                }
            }
            assert_eq!(heard.len(), packets.len() * rate.frame_samples());
            heard
        };
        let whole = heard(&|_| false, false);
        let lost = |n: usize| n % 7 == 3;
        let difference = |other: Vec<i16>| {
            let off: Vec<i16> = whole.iter().zip(&other).map(|(a, b)| a.saturating_sub(*b)).collect();
            rms(&off) / rms(&whole)
        };
        let (made_up, copied) = (difference(heard(&lost, false)), difference(heard(&lost, true)));
        println!("made up {made_up:.3}, from the next packet {copied:.3}");
        assert!(copied < made_up * 0.8 && made_up < 0.7, "{made_up}, {copied}");
    }

    #[test]
    fn a_damaged_packet_is_an_error_and_the_next_one_is_heard() {
        let packets = packets(Rate::R8K, 0);
        let (mut decoder, mut heard) = (Decoder::new(Rate::R8K).unwrap(), Vec::new());
        assert_eq!(decoder.decode(&[], &mut heard).unwrap_err().code(), "audio.opus.packet");
        // a code 3 packet that promises frames and holds none
        assert!(decoder.decode(&[0x03], &mut heard).is_err());
        assert!(heard.is_empty());
        packets.iter().for_each(|packet| decoder.decode(packet, &mut heard).unwrap());
        assert!(rms(&heard) > 100.0);
        let wrong = Frame::silence(Rate::R16K);
        assert!(Encoder::new(Rate::R8K, 24_000, 0).unwrap().encode(&wrong, &mut Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_samples_or_an_error(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20),
            lost in any::<u32>(),
        ) {
            let mut decoder = Decoder::new(Rate::R16K).unwrap();
            let mut samples = Vec::new();
            for (n, packet) in packets.iter().enumerate() {
                if lost >> (n % 32) & 1 == 1 {
                    let _ = decoder.conceal(Some(packet), &mut samples);
                }
                let _ = decoder.decode(packet, &mut samples);
                let _ = decoder.conceal(None, &mut samples);
            }
            prop_assert!(samples.len() <= packets.len() * (1920 + 640));
        }

        #[test]
        fn damaged_packets_of_speech(at in 0usize..400, byte in 0usize..100, value in any::<u8>()) {
            let mut decoder = Decoder::new(Rate::R8K).unwrap();
            let mut samples = Vec::new();
            let mut all = speech_packets().clone();
            let n = at % all.len();
            let len = all[n].len();
            all[n][byte % len] = value;
            for packet in &all[n.saturating_sub(3)..(n + 3).min(all.len())] {
                let _ = decoder.decode(packet, &mut samples);
            }
        }

        #[test]
        fn any_samples(samples in prop::collection::vec(any::<i16>(), 160)) {
            let (mut encoder, mut packet) = (Encoder::new(Rate::R8K, 24_000, 5).unwrap(), Vec::new());
            for _ in 0..3 {
                prop_assert!(encoder.encode(&Frame::padded(Rate::R8K, &samples), &mut packet).is_ok());
            }
        }
    }

    fn speech_packets() -> &'static Vec<Vec<u8>> {
        static PACKETS: std::sync::LazyLock<Vec<Vec<u8>>> = std::sync::LazyLock::new(|| packets(Rate::R8K, 10));
        &PACKETS
    }
}
