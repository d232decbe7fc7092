//! Audio between a leg's rate and what a vendor takes and sends, converted here and nowhere else.

use crate::audio::{Rate, g711::Law, resample::Resampler, spare};

/// How audio is written on a vendor's wire; always mono.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coding {
    /// Its rate.
    pub rate: Rate,
    /// As G.711; else as s16le.
    pub law: Option<Law>,
}

impl Coding {
    /// s16le at `rate`.
    pub const fn linear(rate: Rate) -> Self {
        Self { rate, law: None }
    }

    /// G.711, at 8 kHz.
    pub const fn g711(law: Law) -> Self {
        Self { rate: Rate::R8K, law: Some(law) }
    }

    const fn bytes(self) -> usize {
        if self.law.is_some() { 1 } else { 2 }
    }
}

/// Both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formats {
    /// The caller.
    pub up: Coding,
    /// The agent.
    pub down: Coding,
}

impl Formats {
    /// The same both ways.
    pub const fn both(coding: Coding) -> Self {
        Self { up: coding, down: coding }
    }
}

/// The caller's audio on its way to the vendor.
#[derive(Debug)]
pub struct Up {
    coding: Coding,
    resampler: Option<Resampler>,
    samples: Vec<i16>,
    bytes: Vec<u8>,
    /// Bytes of a whole message.
    whole: usize,
}

impl Up {
    /// From a leg of `rate`, in messages of `frames` frames of 20 ms.
    pub fn new(rate: Rate, coding: Coding, frames: usize) -> Self {
        let resampler = (rate != coding.rate).then(|| Resampler::new(rate.hz(), coding.rate.hz()));
        let whole = coding.rate.frame_samples() * coding.bytes() * frames.max(1);
        Self { coding, resampler, samples: Vec::new(), bytes: Vec::with_capacity(whole), whole }
    }

    /// Takes samples of the leg; every message that is whole goes to `send`.
    pub fn push(&mut self, samples: &[i16], mut send: impl FnMut(&[u8])) {
        self.samples.clear();
        let samples = match &mut self.resampler {
            Some(resampler) => {
                resampler.process(samples, &mut self.samples);
                &self.samples
            }
            None => samples,
        };
        match self.coding.law {
            Some(law) => law.encode(samples, &mut self.bytes),
            None => self.bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes())),
        }
        let mut from = 0;
        while let Some(message) = self.bytes.get(from..from + self.whole) {
            send(message);
            from += self.whole;
        }
        self.bytes.drain(..from);
    }

    /// Forgets what is not whole: another connection begins.
    pub fn reset(&mut self) {
        self.bytes.clear();
        if let Some(resampler) = &mut self.resampler {
            resampler.reset();
        }
    }
}

/// The agent's speech on its way to the leg. A sample may be split between two pieces.
#[derive(Debug)]
pub struct Down {
    coding: Coding,
    resampler: Option<Resampler>,
    odd: Option<u8>,
    samples: Vec<i16>,
}

impl Down {
    /// For a leg of `rate`.
    pub fn new(rate: Rate, coding: Coding) -> Self {
        let resampler = (rate != coding.rate).then(|| Resampler::new(coding.rate.hz(), rate.hz()));
        Self { coding, resampler, odd: None, samples: Vec::new() }
    }

    /// How many samples so many bytes become, about.
    pub fn samples_of(&self, rate: Rate, bytes: usize) -> usize {
        let samples = bytes / self.coding.bytes();
        usize::try_from(samples as u64 * u64::from(rate.hz()) / u64::from(self.coding.rate.hz())).unwrap_or(usize::MAX)
    }

    /// What `bytes` of the wire are at the leg's rate.
    pub fn convert(&mut self, bytes: &[u8]) -> Vec<i16> {
        self.samples = spare::take(bytes.len() / self.coding.bytes() + 1);
        match self.coding.law {
            Some(law) => law.decode(bytes, &mut self.samples),
            None => self.linear(bytes),
        }
        match &mut self.resampler {
            Some(resampler) => {
                let mut out = spare::take(self.samples.len());
                resampler.process(&self.samples, &mut out);
                spare::give(std::mem::take(&mut self.samples));
                out
            }
            None => std::mem::take(&mut self.samples),
        }
    }

    fn linear(&mut self, mut bytes: &[u8]) {
        if let (Some(low), [high, rest @ ..]) = (self.odd, bytes) {
            self.odd = None;
            self.samples.push(i16::from_le_bytes([low, *high]));
            bytes = rest;
        }
        let (pairs, rest) = bytes.as_chunks::<2>();
        if let [odd] = rest {
            self.odd = Some(*odd);
        }
        self.samples.extend(pairs.iter().map(|pair| i16::from_le_bytes(*pair)));
    }

    /// The end of a turn: what the filter still holds back. What follows is another stream.
    pub fn finish(&mut self) -> Vec<i16> {
        self.odd = None;
        let mut out = Vec::new();
        if let Some(resampler) = &mut self.resampler {
            resampler.finish(&mut out);
        }
        out
    }

    /// Forgets what was converted.
    pub fn reset(&mut self) {
        self.odd = None;
        if let Some(resampler) = &mut self.resampler {
            resampler.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RAW: Coding = Coding::linear(Rate::R8K);

    #[test]
    fn speech_at_another_rate_keeps_its_length() {
        let mut down = Down::new(Rate::R8K, Coding::linear(Rate::R24K));
        let mut samples: usize = (0..50).map(|_| down.convert(&[0; 960]).len()).sum();
        samples += down.finish().len();
        assert!(samples.abs_diff(8_000) < 50, "{samples}");
        let mut down = Down::new(Rate::R16K, RAW);
        let mut samples: usize = (0..50).map(|_| down.convert(&[0; 320]).len()).sum();
        samples += down.finish().len();
        assert!(samples.abs_diff(16_000) < 100, "{samples}");
        let mut up = Up::new(Rate::R8K, Coding::linear(Rate::R16K), 1);
        let mut bytes = 0;
        (0..50).for_each(|_| up.push(&[0; 160], |message| bytes += message.len()));
        assert!((31_000..=32_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn telephone_audio_is_not_resampled() {
        let mut up = Up::new(Rate::R8K, Coding::g711(Law::Ulaw), 2);
        let (samples, mut sent) = (vec![1_000; 160], Vec::new());
        up.push(&samples, |_| panic!("half a message"));
        up.push(&samples, |message| sent.extend_from_slice(message));
        assert_eq!(sent, vec![Law::Ulaw.encode_sample(1_000); 320]);
        let heard = Down::new(Rate::R8K, Coding::g711(Law::Ulaw)).convert(&sent);
        assert_eq!(heard, vec![Law::Ulaw.decode_byte(sent[0]); 320]);
    }

    proptest! {
        #[test]
        fn how_bytes_are_cut_makes_no_difference(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20),
        ) {
            let whole: Vec<u8> = pieces.concat();
            let expected: Vec<i16> = whole.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
            let mut down = Down::new(Rate::R8K, RAW);
            let got: Vec<i16> = pieces.iter().flat_map(|piece| down.convert(piece)).collect();
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn nothing_of_the_caller_is_lost(samples in proptest::collection::vec(any::<i16>(), 0..1000), frames in 1..3_usize) {
            let (mut up, mut got) = (Up::new(Rate::R8K, RAW, frames), Vec::new());
            for piece in samples.chunks(77) {
                up.push(piece, |message| got.extend_from_slice(message));
            }
            let whole = samples.len() / (160 * frames) * 160 * frames;
            let expected: Vec<u8> = samples[..whole].iter().flat_map(|sample| sample.to_le_bytes()).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
