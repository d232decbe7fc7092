//! What is done to the caller's audio between the leg and the call: digits are found and muted, noise is taken out, speech brought to one
//! level. Our own model of voice activity hears the audio as it came, without the delay that this takes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    audio::{
        Config, Frame, Rate,
        denoise::{Denoise, Denoiser},
        dtmf::Suppressor,
        gain::GainControl,
    },
    call::{Digit, Input, LegEvent},
};

/// How long after a tone the leg may report the same digit: Asterisk reports a key when it is let go.
const SAME_KEY: Duration = Duration::from_secs(1);
/// Digits remembered for that.
const REMEMBERED: usize = 16;

/// The caller's audio on its way to the call.
#[derive(Debug)]
pub(super) struct Hearing {
    tones: Option<Suppressor>,
    denoiser: Option<Denoiser>,
    gain: Option<GainControl>,
    digits: Digits,
}

impl Hearing {
    /// `None` where nothing is to be done.
    pub fn new(config: &Config, rate: Rate) -> Option<Box<Self>> {
        let hearing = Self {
            tones: Suppressor::new(rate, config.inband_dtmf),
            denoiser: (config.denoise == Denoise::Rnnoise).then(|| Denoiser::new(rate)),
            gain: config.gain_control.then(|| GainControl::new(rate)),
            digits: Digits::default(),
        };
        let idle = hearing.tones.is_none() && hearing.denoiser.is_none() && hearing.gain.is_none();
        (!idle).then(|| Box::new(hearing))
    }

    /// What becomes of an input, and the digit that was found in it. A digit that had been found before the leg reported it becomes nothing.
    pub fn take(&mut self, input: &mut Input, now: Instant) -> Option<Digit> {
        match input {
            Input::Leg(LegEvent::Audio(frame)) => self.audio(frame, now),
            Input::Leg(LegEvent::Dtmf(digit)) if self.tones.is_some() && self.digits.is_known(*digit, now) => {
                *input = Input::Tick;
                None
            }
            _ => None,
        }
    }

    fn audio(&mut self, frame: &mut Frame, now: Instant) -> Option<Digit> {
        let mut digit = None;
        if let Some(tones) = &mut self.tones {
            let mut found = None;
            tones.pass(frame, |key| found = Digit::try_from(key).ok());
            digit = self.digits.found(found, tones.is_sounding(), now);
        }
        if let Some(denoiser) = &mut self.denoiser {
            denoiser.process(frame);
        }
        if let Some(gain) = &mut self.gain {
            gain.process(frame.samples_mut());
        }
        digit
    }
}

/// Digits that were found as tones and that the leg may still report: then they would count twice.
#[derive(Debug, Default)]
struct Digits {
    /// Each with the time at which it was last heard.
    found: VecDeque<(Digit, Instant)>,
    /// The leg reports digits itself: what is left of their tones in the audio is nothing new.
    reported: bool,
}

impl Digits {
    /// Whether the digit that was found is new.
    fn found(&mut self, digit: Option<Digit>, is_sounding: bool, now: Instant) -> Option<Digit> {
        if is_sounding && let Some((_, heard)) = self.found.back_mut() {
            *heard = now;
        }
        let digit = digit.filter(|_| !self.reported)?;
        if self.found.len() == REMEMBERED {
            self.found.pop_front();
        }
        self.found.push_back((digit, now));
        Some(digit)
    }

    /// Whether the digit that the leg reports has been found before.
    fn is_known(&mut self, digit: Digit, now: Instant) -> bool {
        self.reported = true;
        while self.found.front().is_some_and(|(_, heard)| now.duration_since(*heard) > SAME_KEY) {
            self.found.pop_front();
        }
        self.found.pop_front_if(|(found, _)| *found == digit).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{dtmf::InbandDtmf, level, tone, wav};

    fn digit(key: char) -> Digit {
        Digit::try_from(key).unwrap()
    }

    /// What reaches the call of audio in which `keys` are dialled, when the leg reports some keys at some times, in ms.
    fn heard(keys: &str, reports: &[(u64, char)]) -> String {
        let config = Config { inband_dtmf: InbandDtmf::Detect, ..Config::default() };
        let mut hearing = Hearing::new(&config, Rate::R8K).unwrap();
        let start = Instant::now();
        let mut heard = String::new();
        let mut samples = tone::dial(Rate::R8K, keys).unwrap();
        samples.resize(samples.len() + 16_000, 0);
        for (n, samples) in samples.chunks(160).enumerate() {
            let ms = n as u64 * 20;
            let now = start + Duration::from_millis(ms);
            for (_, key) in reports.iter().filter(|(at, _)| (ms..ms + 20).contains(at)) {
                let mut input = Input::Leg(LegEvent::Dtmf(digit(*key)));
                assert!(hearing.take(&mut input, now).is_none());
                if let Input::Leg(LegEvent::Dtmf(digit)) = input {
                    heard.push(digit.as_char());
                }
            }
            let mut input = Input::Leg(LegEvent::Audio(Frame::padded(Rate::R8K, samples)));
            heard.extend(hearing.take(&mut input, now).map(Digit::as_char));
        }
        heard
    }

    #[test]
    fn nothing_to_do_costs_nothing() {
        assert!(Hearing::new(&Config::default(), Rate::R8K).is_none());
    }

    #[test]
    fn quiet_speech_in_noise_becomes_loud_and_clean() {
        let (_, caller) = wav::read(include_bytes!("../../fixtures/audio/caller.wav")).unwrap();
        let hear = |denoise| {
            let config = Config { denoise, gain_control: true, ..Config::default() };
            let mut hearing = Hearing::new(&config, Rate::R8K).unwrap();
            let mut seed = 1u32;
            let mut quiet_in_noise = |sample: &i16| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                sample / 10 + (seed >> 16) as i16 / 512
            };
            let mut heard = Vec::new();
            for samples in caller.chunks(160) {
                let samples: Vec<i16> = samples.iter().map(&mut quiet_in_noise).collect();
                let mut input = Input::Leg(LegEvent::Audio(Frame::padded(Rate::R8K, &samples)));
                assert!(hearing.take(&mut input, Instant::now()).is_none());
                let Input::Leg(LegEvent::Audio(frame)) = input else { panic!("{input:?}") };
                heard.extend_from_slice(frame.samples());
            }
            // speech 20 dB quieter than what the caller said, and a pause
            (level::dbfs(&heard[40_000..48_000]), level::dbfs(&heard[55_200..56_000]))
        };
        let ((speech, pause), (_, noise)) = (hear(Denoise::Rnnoise), hear(Denoise::Off));
        assert!((-24.0..-17.0).contains(&speech), "{speech} dBFS");
        assert!(pause < noise - 15.0, "{pause} instead of {noise} dBFS");
    }

    #[test]
    fn tones_are_digits() {
        assert_eq!(heard("1559#", &[]), "1559#");
    }

    #[test]
    fn a_key_that_the_leg_reports_as_well_counts_once() {
        // a key is reported when it is let go
        assert_eq!(heard("5", &[(110, '5')]), "5");
        // or late, when the second one has been found already
        assert_eq!(heard("55", &[(260, '5'), (460, '5')]), "55");
        // or before its tone is there
        assert_eq!(heard("12", &[(0, '1'), (200, '2')]), "12");
        assert_eq!(heard("12", &[(110, '1'), (310, '2')]), "12");
    }

    #[test]
    fn what_the_leg_alone_reports_counts() {
        assert_eq!(heard("", &[(100, '5'), (110, '5')]), "55");
        assert_eq!(heard("5", &[(110, '6')]), "56");
        // the same key again, much later
        assert_eq!(heard("5", &[(1500, '5')]), "55");
    }

    #[test]
    fn many_digits_are_not_remembered_for_ever() {
        let keys = "1234567890".repeat(10);
        assert_eq!(heard(&keys, &[]), keys);
        let mut digits = Digits::default();
        let now = Instant::now();
        (0..1000).for_each(|_| assert!(digits.found(Some(digit('1')), true, now).is_some()));
        assert_eq!(digits.found.len(), REMEMBERED);
    }
}
