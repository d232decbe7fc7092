//! From what Asterisk sends to 20 ms frames at the leg's rate.

use std::sync::Arc;

use super::G711;
use super::g722::Suspicion;
use super::wire::{self, Message, WireError};
use crate::asterisk::telemetry::Stats;
use crate::audio::framer::Framer;
use crate::audio::g711::{Law, LawDetector};
use crate::audio::resample::Resampler;
use crate::audio::{Frame, Rate};
use crate::call::{Cause, LegEvent};

/// Bytes of 20 ms of G.711 (and, alas, of g722).
const G711_BYTES: usize = 160;

/// What to do about audio that cannot be played.
const ADVICE: &str = "let the dialplan ask for signed linear, Dial(AudioSocket/HOST:PORT/UUID/c(slin)) or c(slin16)";
/// Frames after which the law that is the more likely one is named in the log, although the caller has hardly made a sound: 5 s.
const LONG_QUIET: u32 = 250;

/// What a message came to.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing, or audio: see [`Intake::pop`].
    Taken,
    /// Something to report at once.
    Event(LegEvent),
    /// The end of the leg.
    End(Cause),
}

/// Turns messages into events. What is wrong with them is logged once for each sort, not once for each frame.
pub(super) struct Intake {
    stats: Arc<Stats>,
    detector: LawDetector,
    /// `None` where the law is configured.
    suspicion: Option<Suspicion>,
    g722: bool,
    /// Decided by the first audio, and then for good.
    framer: Option<Framer>,
    resampler: Option<(Rate, Resampler)>,
    /// The odd last byte of the frame before, in case a sender cuts a stream of samples anywhere.
    odd: Option<u8>,
    samples: Vec<i16>,
    resampled: Vec<i16>,
    g711_frames: u32,
    codec_logged: bool,
    /// Frames that no slin can have were seen: short ones are a codec, whatever their length.
    foreign: bool,
    warned: Warned,
}

#[derive(Debug, Default)]
struct Warned {
    kind_changed: bool,
    odd: bool,
    empty: bool,
    second_uuid: bool,
    unknown: bool,
    digit: bool,
}

impl Intake {
    pub(super) fn new(g711: G711, stats: Arc<Stats>) -> Self {
        let law = match g711 {
            G711::Auto => None,
            G711::Ulaw => Some(Law::Ulaw),
            G711::Alaw => Some(Law::Alaw),
        };
        Self {
            stats,
            detector: LawDetector::new(law),
            suspicion: law.is_none().then(Suspicion::default),
            g722: false,
            framer: None,
            resampler: None,
            odd: None,
            samples: Vec::new(),
            resampled: Vec::new(),
            g711_frames: 0,
            codec_logged: false,
            foreign: false,
            warned: Warned::default(),
        }
    }

    /// The rate of the call, once it is decided.
    pub(super) fn rate(&self) -> Option<Rate> {
        self.framer.as_ref().map(Framer::rate)
    }

    /// Decides the rate of the call, unless it is decided.
    pub(super) fn fix_rate(&mut self, rate: Rate) -> &mut Framer {
        self.framer.get_or_insert_with(|| Framer::new(rate))
    }

    /// Whether 20 ms are there.
    pub(super) fn has_frame(&self) -> bool {
        self.framer.as_ref().is_some_and(|framer| framer.len() >= framer.rate().frame_samples())
    }

    /// The next 20 ms.
    pub(super) fn pop(&mut self) -> Option<Frame> {
        self.framer.as_mut()?.pop()
    }

    /// Takes what the decoder gives.
    pub(super) fn take(&mut self, message: Result<Message<'_>, WireError>) -> Step {
        match message {
            Ok(Message::Audio { rate, payload }) => self.audio(rate, payload),
            Ok(Message::Dtmf(digit)) => return Step::Event(LegEvent::Dtmf(digit)),
            Ok(Message::Hangup) => return Step::End(Cause::Normal),
            Ok(Message::Error(code)) => {
                tracing::error!(
                    ?code,
                    "Asterisk reports an error (AudioSocket kind 0xff) and the call ends; see its log"
                );
                return Step::End(Cause::Lost);
            }
            Ok(Message::Uuid(_)) => {
                self.stats.bad_frames.inc();
                once(&mut self.warned.second_uuid, || {
                    tracing::warn!("a second UUID frame on one connection: ignored, a call keeps its first one");
                });
            }
            Err(fault) => self.fault(fault),
        }
        Step::Taken
    }

    fn fault(&mut self, fault: WireError) {
        let (counter, warned) = match fault {
            WireError::UnknownKind { .. } => (&self.stats.unknown_kinds, &mut self.warned.unknown),
            WireError::EmptyAudio { .. } => (&self.stats.bad_frames, &mut self.warned.empty),
            WireError::UuidLength(_) => (&self.stats.bad_frames, &mut self.warned.second_uuid),
            WireError::DtmfLength(_) | WireError::NotADigit(_) => (&self.stats.bad_frames, &mut self.warned.digit),
        };
        counter.inc();
        once(warned, || tracing::warn!("AudioSocket: {fault}: skipped, as all further ones are without a word"));
    }

    fn audio(&mut self, rate: Rate, payload: &[u8]) {
        self.stats.frames_in.inc();
        self.samples.clear();
        if rate == Rate::R8K && payload.len() == G711_BYTES {
            self.odd = None;
            if self.g722 {
                self.stats.foreign_frames.inc();
                return;
            }
            self.detector.decode(payload, &mut self.samples);
            self.suspect_g722();
            self.g711_frames = self.g711_frames.saturating_add(1);
            if self.detector.decided().is_some() || self.g711_frames == LONG_QUIET {
                self.log_codec(match self.detector.guess() {
                    Law::Ulaw => "ULAW",
                    Law::Alaw => "ALAW",
                });
            }
        } else {
            if self.is_foreign(rate, payload.len()) {
                return;
            }
            self.log_codec("SLIN");
            self.linear(payload);
        }
        let fixed = self.fix_rate(rate).rate();
        if rate == fixed {
            if let Some(framer) = &mut self.framer {
                framer.push(&self.samples);
            }
        } else {
            self.resample(rate, fixed);
        }
    }

    /// Finds g722 among what looks like G.711 and leaves it out from then on: to the agent it would be a roar. A configured law wins.
    fn suspect_g722(&mut self) {
        if let Some(suspicion) = &mut self.suspicion
            && suspicion.confirmed_by(&self.samples)
        {
            self.g722 = true;
            tracing::warn!(
                "the caller's audio is g722, which AudioSocket cannot tell from G.711, and is left out: {ADVICE} \
                 (should it be G.711 after all, set audiosocket.g711 to ulaw or alaw)"
            );
        }
    }

    /// Whether a frame is of a codec that cannot be played: gsm has 33 bytes, opus any length below some 160.
    fn is_foreign(&mut self, rate: Rate, len: usize) -> bool {
        if rate != Rate::R8K || len >= G711_BYTES {
            return false;
        }
        if len % 2 == 1 && len > 1 && !self.foreign && !self.codec_logged {
            self.foreign = true;
            tracing::warn!(
                bytes = len,
                "the caller's audio looks like gsm, opus or another compressed codec and is left out: {ADVICE}"
            );
        }
        if self.foreign {
            self.stats.foreign_frames.inc();
        }
        self.foreign
    }

    /// Signed linear of any length. An odd byte is kept for a next frame of odd length: a stream cut anywhere is joined, while one
    /// frame that is wrong does not shift the right ones behind it by a byte.
    fn linear(&mut self, mut payload: &[u8]) {
        let held = self.odd.take();
        if payload.len() % 2 == 1 {
            self.stats.odd_frames.inc();
            once(&mut self.warned.odd, || {
                tracing::warn!(
                    bytes = payload.len(),
                    "audio frame of an odd length: samples have two bytes; further ones are only counted"
                );
            });
            match held {
                Some(low) => {
                    self.samples.push(i16::from_le_bytes([low, payload[0]]));
                    payload = &payload[1..];
                }
                None => self.odd = payload.last().copied(),
            }
        }
        wire::samples_from_le(payload, &mut self.samples);
    }

    /// Brings audio of another kind than the first one's to the rate of the call.
    fn resample(&mut self, from: Rate, to: Rate) {
        once(&mut self.warned.kind_changed, || {
            tracing::warn!(%from, %to, "Asterisk changed the rate of the caller's audio; the call keeps the one it began with");
        });
        if self.resampler.as_ref().is_none_or(|(rate, _)| *rate != from) {
            self.resampler = Some((from, Resampler::new(from.hz(), to.hz())));
        }
        self.resampled.clear();
        if let Some((_, resampler)) = &mut self.resampler {
            resampler.process(&self.samples, &mut self.resampled);
        }
        if let Some(framer) = &mut self.framer {
            framer.push(&self.resampled);
        }
    }

    /// The line that administrators search their logs for, once in a call.
    fn log_codec(&mut self, codec: &str) {
        once(&mut self.codec_logged, || tracing::info!("Audio codec detected: {codec}"));
    }
}

/// Does it the first time only.
fn once(done: &mut bool, act: impl FnOnce()) {
    if !std::mem::replace(done, true) {
        act();
    }
}

/// What a fuzzer calls: the samples that a leg hears in `bytes` behind its UUID, until the peer ends the call.
#[doc(hidden)]
#[must_use]
pub fn fuzz(bytes: &[u8]) -> Vec<i16> {
    let mut intake = Intake::new(G711::Auto, Arc::default());
    let (mut decoder, mut rest, mut heard) = (wire::Decoder::new(), bytes, Vec::new());
    while !rest.is_empty() {
        let room = decoder.room();
        let n = rest.len().min(room.len());
        room[..n].copy_from_slice(&rest[..n]);
        decoder.filled(n);
        rest = &rest[n..];
        while let Some(message) = decoder.next_message() {
            if matches!(intake.take(message), Step::End(_)) {
                return heard;
            }
            while let Some(frame) = intake.pop() {
                heard.extend_from_slice(frame.samples());
            }
        }
    }
    heard
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged while `payloads` of kind 0x10 come.
    fn log_of<'a>(g711: G711, payloads: impl IntoIterator<Item = &'a [u8]>) -> (String, Intake) {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(move || writer.clone());
        let mut intake = Intake::new(g711, Arc::default());
        tracing::subscriber::with_default(subscriber.finish(), || {
            for payload in payloads {
                intake.audio(Rate::R8K, payload);
                while intake.pop().is_some() {}
            }
        });
        let bytes = lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (String::from_utf8_lossy(&bytes).into_owned(), intake)
    }

    /// Sound in a law, after a pause.
    fn codes(law: Law) -> Vec<u8> {
        let samples: Vec<i16> =
            (0..9_600).map(|i| if i < 1_600 { 0.0 } else { (i as f32 / 5.0).sin() * 6_000.0 } as i16).collect();
        let mut codes = Vec::new();
        law.encode(&samples, &mut codes);
        codes
    }

    #[test]
    fn the_codec_is_logged_once_in_the_words_that_people_search_for() {
        for (law, setting, name) in
            [(Law::Ulaw, G711::Auto, "ULAW"), (Law::Alaw, G711::Auto, "ALAW"), (Law::Alaw, G711::Alaw, "ALAW")]
        {
            let (log, _) = log_of(setting, codes(law).chunks(160));
            assert_eq!(log.matches("Audio codec detected").count(), 1, "{log}");
            assert!(log.contains(&format!("Audio codec detected: {name}\n")), "{log}");
        }
        let (log, _) = log_of(G711::Auto, [&[1; 320][..], &[2; 320], &[0xff; 160]]);
        assert_eq!(log.matches("Audio codec detected: SLIN\n").count(), 1, "{log}");
        let quiet = [0xff; 160];
        let (log, _) = log_of(G711::Auto, std::iter::repeat_n(&quiet[..], 1_000));
        assert_eq!(log.matches("Audio codec detected: ULAW\n").count(), 1, "{log}");
    }

    #[test]
    fn what_cannot_be_played_is_named_once_with_advice_and_left_out() {
        let g722 = include_bytes!("../../../fixtures/audio/conf-getpin.g722");
        for (payloads, name) in
            [(g722.chunks_exact(160).collect::<Vec<_>>(), "g722"), (vec![&[7; 33][..]; 100], "gsm, opus")]
        {
            let (log, intake) = log_of(G711::Auto, payloads);
            assert_eq!(log.matches("WARN").count(), 1, "{log}");
            assert!(log.contains(name) && log.contains("c(slin)"), "{log}");
            assert!(intake.stats.foreign_frames.get() >= 100);
        }
        let (log, intake) = log_of(G711::Ulaw, g722.chunks_exact(160));
        assert!(!log.contains("WARN"), "a configured law wins: {log}");
        assert_eq!(intake.stats.foreign_frames.get(), 0);
    }
}
