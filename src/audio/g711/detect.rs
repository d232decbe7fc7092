//! Telling µ-law from A-law by what the audio looks like.

use super::Law;

/// Bytes of audible sound after which the guess is final: 500 ms.
const ENOUGH: u32 = 4_000;

/// Decodes a stream of G.711 frames whose law is not known beforehand.
///
/// Every frame is decoded by the best guess so far, that frame included. Two things are scored:
///
/// - *Idle codes.* A pause consists of the few codes next to zero (0xFF, 0x7F, 0xFE, 0x7E in µ-law, 0xD5, 0x55, 0xD4, 0x54 in A-law).
///   Those of one law are loud in the other, so a frame of which half are such codes tells the law before anybody speaks.
/// - *Smoothness.* Speech decoded by the wrong law jumps about: the right one has the smaller mean difference between neighbouring
///   samples, over all frames so far. It decides while no idle frame was seen.
///
/// Loudness says nothing: the wrong law is the louder one for nearly every frame of speech.
/// The guess becomes final after 500 ms of audible sound, so that a strange noise later cannot flip a call to hiss.
#[derive(Debug, Clone)]
pub struct LawDetector {
    decided: Option<Law>,
    ulaw: Score,
    alaw: Score,
    audible: u32,
}

#[derive(Debug, Clone, Default)]
struct Score {
    /// Frames that are idle in this law.
    idle: u64,
    /// Sum of the differences between neighbouring samples.
    roughness: u64,
}

impl Law {
    fn is_idle_code(self, code: u8) -> bool {
        // bit 7 is the sign, bit 0 the smallest step (both laws are sent inverted, A-law only every other bit)
        match self {
            Self::Ulaw => code & 0x7E == 0x7E,
            Self::Alaw => code & 0x7E == 0x54,
        }
    }

    fn is_idle(self, codes: &[u8]) -> bool {
        codes.iter().filter(|&&code| self.is_idle_code(code)).count() * 2 >= codes.len()
    }
}

impl Score {
    fn add(&mut self, law: Law, codes: &[u8]) {
        self.idle += u64::from(law.is_idle(codes));
        let difference = |pair: &[u8]| law.decode_byte(pair[1]).abs_diff(law.decode_byte(pair[0]));
        self.roughness += codes.windows(2).map(|pair| u64::from(difference(pair))).sum::<u64>();
    }
}

impl LawDetector {
    /// A detector that knows nothing yet; or, given a law, one that always decodes by it.
    #[must_use]
    pub fn new(fixed: Option<Law>) -> Self {
        Self { decided: fixed, ulaw: Score::default(), alaw: Score::default(), audible: 0 }
    }

    /// Appends the samples of one frame to `out`.
    pub fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) {
        if self.decided.is_none() && !payload.is_empty() {
            self.learn(payload);
        }
        self.guess().decode(payload, out);
    }

    /// The law, once it is certain: when it was given, or after 500 ms of audible sound.
    #[must_use]
    pub fn decided(&self) -> Option<Law> {
        self.decided
    }

    /// The law that is the more likely one so far; µ-law when nothing speaks for either.
    #[must_use]
    pub fn guess(&self) -> Law {
        self.decided.unwrap_or_else(|| {
            let alaw = (self.alaw.idle, self.ulaw.roughness) > (self.ulaw.idle, self.alaw.roughness);
            if alaw { Law::Alaw } else { Law::Ulaw }
        })
    }

    fn learn(&mut self, payload: &[u8]) {
        self.ulaw.add(Law::Ulaw, payload);
        self.alaw.add(Law::Alaw, payload);
        if Law::ALL.into_iter().any(|law| law.is_idle(payload)) {
            return;
        }
        self.audible = self.audible.saturating_add(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        if self.audible >= ENOUGH {
            self.decided = Some(self.guess());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::wav;
    use proptest::prelude::*;

    const PROMPTS: [(&str, &[u8]); 5] = [
        ("hello-world", include_bytes!("../../../fixtures/audio/hello-world.wav")),
        ("tt-somethingwrong", include_bytes!("../../../fixtures/audio/tt-somethingwrong.wav")),
        ("one-moment-please", include_bytes!("../../../fixtures/audio/one-moment-please.wav")),
        ("conf-getpin", include_bytes!("../../../fixtures/audio/conf-getpin.wav")),
        ("caller", include_bytes!("../../../fixtures/audio/caller.wav")),
    ];

    fn speech(bytes: &[u8], db: i32) -> Vec<i16> {
        let gain = 10f32.powf(db as f32 / 20.0);
        let Ok((8000, samples)) = wav::read(bytes) else { panic!("a fixture must be readable, at 8 kHz") };
        samples.iter().map(|&sample| (f32::from(sample) * gain).round() as i16).collect()
    }

    /// How many frames of `samples` are decoded wrongly, when they come in `law` from the first one on.
    fn wrong_frames(law: Law, samples: &[i16]) -> (usize, usize, Option<Law>) {
        let mut codes = Vec::new();
        law.encode(samples, &mut codes);
        let mut detector = LawDetector::new(None);
        let (mut frames, mut wrong) = (0, 0);
        for frame in codes.chunks_exact(160) {
            let (mut got, mut right) = (Vec::new(), Vec::new());
            detector.decode(frame, &mut got);
            law.decode(frame, &mut right);
            frames += 1;
            wrong += usize::from(got != right);
        }
        (frames, wrong, detector.decided())
    }

    #[test]
    fn no_frame_of_a_call_is_decoded_by_the_wrong_law() {
        for law in Law::ALL {
            for db in [0, -10, -20, -30, -40] {
                for (name, bytes) in PROMPTS {
                    for silent_frames in [0, 1, 30] {
                        let mut samples = vec![0; silent_frames * 160];
                        samples.extend(speech(bytes, db));
                        let (frames, wrong, decided) = wrong_frames(law, &samples);
                        assert!(frames > 60);
                        assert_eq!(wrong, 0, "{law:?} {name} {db} dB after {silent_frames} frames of silence");
                        assert!(decided.is_none_or(|decided| decided == law));
                        assert!(db < -20 || decided.is_some(), "{law:?} {name} {db} dB undecided");
                    }
                }
            }
        }
    }

    #[test]
    fn a_call_that_begins_in_the_middle_of_a_word() {
        for law in Law::ALL {
            for db in [0, -10, -20, -30, -40] {
                for (name, bytes) in PROMPTS {
                    let samples = speech(bytes, db);
                    for start in (0..samples.len() - 160).step_by(240) {
                        let (_, wrong, _) = wrong_frames(law, &samples[start..][..160]);
                        assert_eq!(wrong, 0, "{law:?} {name} {db} dB: single frame at {start}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_louder_law_would_be_the_wrong_one() {
        // why loudness is not scored: this is the rule that "take the law with the higher RMS" gives for single frames of speech
        let (mut frames, mut wrong) = (0, 0);
        for law in Law::ALL {
            let mut codes = Vec::new();
            law.encode(&speech(PROMPTS[4].1, -20), &mut codes);
            for frame in codes.chunks_exact(160) {
                let loudness = |law: Law| {
                    let mut samples = Vec::new();
                    law.decode(frame, &mut samples);
                    crate::audio::level::rms(&samples)
                };
                let louder = if loudness(Law::Ulaw) > loudness(Law::Alaw) { Law::Ulaw } else { Law::Alaw };
                frames += 1;
                wrong += usize::from(louder != law);
            }
        }
        assert!(wrong * 10 > frames * 8, "{wrong} of {frames}");
    }

    #[test]
    fn silence_of_a_line_that_was_transcoded() {
        for (law, code) in
            [(Law::Ulaw, 0xFF), (Law::Ulaw, 0x7F), (Law::Ulaw, 0xFE), (Law::Alaw, 0xD5), (Law::Alaw, 0x55)]
        {
            let mut detector = LawDetector::new(None);
            let mut out = Vec::new();
            (0..100).for_each(|_| detector.decode(&[code; 160], &mut out));
            assert_eq!((detector.guess(), detector.decided()), (law, None), "{code:#x}");
            assert!(out.iter().all(|sample| sample.unsigned_abs() <= 8));
        }
    }

    #[test]
    fn a_given_law_is_not_doubted() {
        let mut detector = LawDetector::new(Some(Law::Alaw));
        let mut out = Vec::new();
        detector.decode(&[0xFF; 160], &mut out);
        assert_eq!((detector.decided(), out[0]), (Some(Law::Alaw), 848));
    }

    #[test]
    fn it_is_decided_after_half_a_second_of_sound_and_then_stays() {
        let samples = speech(PROMPTS[0].1, 0);
        let mut codes = Vec::new();
        Law::Alaw.encode(&samples[1600..], &mut codes);
        let mut detector = LawDetector::new(None);
        let mut out = Vec::new();
        let mut decided_at = None;
        for (n, frame) in codes.chunks_exact(160).enumerate() {
            detector.decode(frame, &mut out);
            decided_at = decided_at.or(detector.decided().map(|law| (n, law)));
        }
        assert_eq!(decided_at, Some((24, Law::Alaw)));
        (0..1000).for_each(|_| detector.decode(&[0xFF; 160], &mut out));
        assert_eq!(detector.guess(), Law::Alaw);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_one_to_one(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..40)) {
            let mut detector = LawDetector::new(None);
            for frame in &frames {
                let mut out = Vec::new();
                detector.decode(frame, &mut out);
                let mut expected = Vec::new();
                detector.guess().decode(frame, &mut expected);
                prop_assert_eq!(out, expected);
            }
        }
    }
}
