//! G.711 written from the standard, apart from the gateway's own, so that the two check each other.

fn ulaw_encode(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = i32::from(sample).abs().min(32_635) + 132;
    let exponent = magnitude.ilog2() - 7;
    let mantissa = (magnitude >> (exponent + 3)) & 15;
    !(sign | (exponent as u8) << 4 | mantissa as u8)
}

fn ulaw_decode(code: u8) -> i16 {
    let code = !code;
    let magnitude = ((i32::from(code & 15) << 3) + 132) << ((code >> 4) & 7);
    (if code & 0x80 == 0 { magnitude - 132 } else { 132 - magnitude }) as i16
}

fn alaw_encode(sample: i16) -> u8 {
    let positive = sample >= 0;
    let magnitude = (if positive { i32::from(sample) } else { !i32::from(sample) }) >> 4;
    let code = if magnitude < 16 {
        magnitude
    } else {
        let exponent = magnitude.ilog2() as i32 - 3;
        (exponent << 4) | ((magnitude >> (exponent - 1)) & 15)
    } as u8;
    (code | if positive { 0x80 } else { 0 }) ^ 0x55
}

fn alaw_decode(code: u8) -> i16 {
    let code = code ^ 0x55;
    let (exponent, mantissa) = (i32::from(code >> 4) & 7, i32::from(code & 15));
    let magnitude = if exponent == 0 { (mantissa << 4) + 8 } else { ((mantissa << 4) + 264) << (exponent - 1) };
    (if code & 0x80 == 0 { -magnitude } else { magnitude }) as i16
}

/// What the phone speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Ulaw,
    Alaw,
    /// L16 at 16 kHz: big-endian samples, nothing lost.
    Slin16,
}

impl Codec {
    pub fn payload_type(self) -> u8 {
        match self {
            Self::Ulaw => 0,
            Self::Alaw => 8,
            Self::Slin16 => 118,
        }
    }

    pub fn rtpmap(self) -> &'static str {
        match self {
            Self::Ulaw => "PCMU/8000",
            Self::Alaw => "PCMA/8000",
            Self::Slin16 => "L16/16000",
        }
    }

    pub fn rate(self) -> usize {
        if self == Self::Slin16 { 16_000 } else { 8_000 }
    }

    /// Bytes per sample on the wire.
    pub fn width(self) -> usize {
        if self == Self::Slin16 { 2 } else { 1 }
    }

    pub fn encode(self, samples: &[i16]) -> Vec<u8> {
        match self {
            Self::Ulaw => samples.iter().map(|&s| ulaw_encode(s)).collect(),
            Self::Alaw => samples.iter().map(|&s| alaw_encode(s)).collect(),
            Self::Slin16 => samples.iter().flat_map(|s| s.to_be_bytes()).collect(),
        }
    }

    pub fn decode(self, bytes: &[u8]) -> Vec<i16> {
        match self {
            Self::Ulaw => bytes.iter().map(|&b| ulaw_decode(b)).collect(),
            Self::Alaw => bytes.iter().map(|&b| alaw_decode(b)).collect(),
            Self::Slin16 => bytes.chunks_exact(2).map(|b| i16::from_be_bytes([b[0], b[1]])).collect(),
        }
    }

    /// The samples as the far end hears them: what the codec keeps of them.
    pub fn heard(self, samples: &[i16]) -> Vec<i16> {
        self.decode(&self.encode(samples))
    }
}

#[test]
fn every_code_survives_decoding_and_encoding() {
    for codec in [Codec::Ulaw, Codec::Alaw] {
        for code in 0..=255u8 {
            let sample = codec.decode(&[code])[0];
            let again = codec.encode(&[sample])[0];
            // µ-law has two zeros
            assert!(again == code || (codec == Codec::Ulaw && code == 0x7f), "{codec:?} {code:#04x}");
        }
    }
    assert_eq!(Codec::Ulaw.encode(&[0]), [0xff]);
    assert_eq!(Codec::Alaw.encode(&[0]), [0xd5]);
    assert_eq!(Codec::Ulaw.decode(&[0x80, 0x00]), [32_124, -32_124]);
    assert_eq!(Codec::Alaw.decode(&[0xaa, 0x2a]), [32_256, -32_256]);
}
