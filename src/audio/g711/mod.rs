//! G.711: both laws, and telling them apart when the wire does not say which one it carries.

mod detect;

pub use detect::LawDetector;

/// A companding law of G.711.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Law {
    /// µ-law: North America and Japan.
    Ulaw,
    /// A-law: everywhere else.
    Alaw,
}

const ULAW_TO_LINEAR: [i16; 256] = ulaw_to_linear();
const ALAW_TO_LINEAR: [i16; 256] = alaw_to_linear();
// µ-law looks at the upper 14 bits of a sample, A-law at the upper 13.
static LINEAR_TO_ULAW: [u8; 1 << 14] = linear_to_ulaw();
static LINEAR_TO_ALAW: [u8; 1 << 13] = linear_to_alaw();

const fn ulaw_to_linear() -> [i16; 256] {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        let bits = !(code as u8);
        let segment = (bits >> 4) & 7;
        let magnitude = (((((bits & 0x0F) as i16) << 3) + 0x84) << segment) - 0x84;
        table[code] = if bits & 0x80 != 0 { -magnitude } else { magnitude };
        code += 1;
    }
    table
}

const fn alaw_to_linear() -> [i16; 256] {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        let bits = (code as u8) ^ 0x55;
        let segment = (bits >> 4) & 7;
        let step = ((bits & 0x0F) as i16) << 4;
        let magnitude = if segment == 0 { step + 8 } else { (step + 0x108) << (segment - 1) };
        table[code] = if bits & 0x80 != 0 { magnitude } else { -magnitude };
        code += 1;
    }
    table
}

const fn linear_to_ulaw() -> [u8; 1 << 14] {
    let mut table = [0; 1 << 14];
    let mut index = 0;
    while index < table.len() {
        let sample = ((index as u16) << 2) as i16;
        // one's complement, as in ITU-T G.191: -1 is as quiet as 0
        let magnitude = (if sample < 0 { !sample } else { sample } >> 2) as u16 + 33;
        let magnitude = if magnitude > 0x1FFF { 0x1FFF } else { magnitude };
        let segment = 10 - magnitude.leading_zeros() as u16;
        let code = (segment << 4) | ((magnitude >> (segment + 1)) & 0x0F);
        let sign = if sample < 0 { 0x80 } else { 0 };
        table[index] = !(code as u8 | sign);
        index += 1;
    }
    table
}

const fn linear_to_alaw() -> [u8; 1 << 13] {
    let mut table = [0; 1 << 13];
    let mut index = 0;
    while index < table.len() {
        let sample = ((index as u16) << 3) as i16;
        let magnitude = (if sample < 0 { !sample } else { sample } >> 4) as u16;
        let code = if magnitude < 0x20 {
            magnitude
        } else {
            let segment = 12 - magnitude.leading_zeros() as u16;
            (segment << 4) | ((magnitude >> (segment - 1)) & 0x0F)
        };
        let sign = if sample < 0 { 0 } else { 0x80 };
        table[index] = (code as u8 | sign) ^ 0x55;
        index += 1;
    }
    table
}

impl Law {
    /// The two laws.
    pub const ALL: [Self; 2] = [Self::Ulaw, Self::Alaw];

    const fn table(self) -> &'static [i16; 256] {
        match self {
            Self::Ulaw => &ULAW_TO_LINEAR,
            Self::Alaw => &ALAW_TO_LINEAR,
        }
    }

    /// The sample that one byte stands for.
    #[must_use]
    pub const fn decode_byte(self, code: u8) -> i16 {
        self.table()[code as usize]
    }

    /// The byte that stands for one sample.
    #[must_use]
    pub const fn encode_sample(self, sample: i16) -> u8 {
        match self {
            Self::Ulaw => LINEAR_TO_ULAW[(sample as u16 >> 2) as usize],
            Self::Alaw => LINEAR_TO_ALAW[(sample as u16 >> 3) as usize],
        }
    }

    /// Appends the samples that `codes` stand for.
    pub fn decode(self, codes: &[u8], out: &mut Vec<i16>) {
        let table = self.table();
        out.extend(codes.iter().map(|&code| table[usize::from(code)]));
    }

    /// Appends the bytes that stand for `samples`.
    pub fn encode(self, samples: &[i16], out: &mut Vec<u8>) {
        out.extend(samples.iter().map(|&sample| self.encode_sample(sample)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_codes() {
        for (law, code, sample) in [
            (Law::Ulaw, 0xFF, 0),
            (Law::Ulaw, 0x7F, 0),
            (Law::Ulaw, 0x80, 32124),
            (Law::Ulaw, 0x00, -32124),
            (Law::Ulaw, 0xFE, 8),
            (Law::Ulaw, 0xD5, 716),
            (Law::Alaw, 0xD5, 8),
            (Law::Alaw, 0x55, -8),
            (Law::Alaw, 0xAA, 32256),
            (Law::Alaw, 0x2A, -32256),
            (Law::Alaw, 0xFF, 848),
        ] {
            assert_eq!(law.decode_byte(code), sample, "{law:?} {code:#04x}");
        }
        for (law, sample, code) in [
            (Law::Ulaw, 0, 0xFF),
            (Law::Ulaw, -1, 0x7F),
            (Law::Ulaw, i16::MAX, 0x80),
            (Law::Ulaw, i16::MIN, 0x00),
            (Law::Alaw, 0, 0xD5),
            (Law::Alaw, -1, 0x55),
            (Law::Alaw, i16::MAX, 0xAA),
            (Law::Alaw, i16::MIN, 0x2A),
        ] {
            assert_eq!(law.encode_sample(sample), code, "{law:?} {sample}");
        }
    }

    #[test]
    fn every_code_survives_and_every_sample_comes_back_within_half_a_step() {
        for law in Law::ALL {
            let codes: Vec<u8> = (0..=255).collect();
            let (mut samples, mut again, mut twice) = (Vec::new(), Vec::new(), Vec::new());
            law.decode(&codes, &mut samples);
            law.encode(&samples, &mut again);
            law.decode(&again, &mut twice);
            assert_eq!(twice, samples);
            // only the two zeros of µ-law share a value
            let changed = codes.iter().zip(&again).filter(|(a, b)| a != b).count();
            assert_eq!(changed, usize::from(law == Law::Ulaw), "{law:?}");
            let mut last = i16::MIN;
            for sample in i16::MIN..=i16::MAX {
                let decoded = law.decode_byte(law.encode_sample(sample));
                assert!(decoded >= last, "{law:?} {sample}: louder in, quieter out");
                last = decoded;
                // half a step is a 32nd of the magnitude (µ-law's has a bias of 132) or 8; 4 more where the lowest bits are cut off
                let half_step = ((u32::from(sample.unsigned_abs()) + 132) / 32).max(8) + 4;
                let error = i32::from(decoded).abs_diff(i32::from(sample));
                assert!(error <= half_step, "{law:?} {sample}: off by {error}");
            }
        }
    }
}
