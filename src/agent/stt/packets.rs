//! The caller's frames as messages, in the encoding and of the length that a service wants.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::time::Instant;

use super::dialect::Sends;
use crate::audio::{Frame, Rate, resample::Resampler};

/// Frames whose memory is taken at once.
const FRAMES_AT_ONCE: usize = 50;
/// Frames of a message while nobody speaks and nothing is waited for (100 ms): a fifth of the messages, and nobody hears a difference.
const FRAMES_WHILE_QUIET: usize = 5;
/// How long after the caller's last word that is. Services that hear the end of a turn by themselves have heard it by then.
const QUIET: Duration = Duration::from_secs(1);

/// Frames that become messages.
#[derive(Debug)]
pub struct Packets {
    sends: Sends,
    resampler: Option<Resampler>,
    samples: Vec<i16>,
    /// What is not sent yet, in memory that holds a second of it at a time.
    audio: BytesMut,
    /// Since when the caller has been silent.
    quiet: Option<Instant>,
}

impl Packets {
    /// For frames of `rate`.
    pub fn new(sends: Sends, rate: Rate) -> Self {
        let resampler = (sends.rate != rate).then(|| Resampler::new(rate.hz(), sends.rate.hz()));
        Self { sends, resampler, samples: Vec::new(), audio: BytesMut::new(), quiet: Some(Instant::now()) }
    }

    /// Bytes of 20 ms.
    pub const fn frame_bytes(&self) -> usize {
        self.sends.frame_bytes()
    }

    /// The caller begins to speak, or has stopped.
    pub fn speaks(&mut self, speaks: bool) {
        self.quiet = (!speaks).then(Instant::now);
    }

    /// Adds a frame.
    pub fn push(&mut self, frame: &Frame) {
        let samples = match &mut self.resampler {
            Some(resampler) => {
                self.samples.clear();
                resampler.process(frame.samples(), &mut self.samples);
                &self.samples
            }
            None => frame.samples(),
        };
        let sample_bytes = self.sends.sample_bytes();
        let bytes = samples.len() * sample_bytes;
        if self.audio.capacity() - self.audio.len() < bytes {
            self.audio.reserve(bytes * FRAMES_AT_ONCE);
        }
        // at once: byte by byte it costs a multiple
        let from = self.audio.len();
        self.audio.resize(from + bytes, 0);
        match self.sends.law {
            Some(law) => {
                for (byte, sample) in self.audio[from..].iter_mut().zip(samples) {
                    *byte = law.encode_sample(*sample);
                }
            }
            None => {
                for (bytes, sample) in self.audio[from..].as_chunks_mut::<2>().0.iter_mut().zip(samples) {
                    *bytes = sample.to_le_bytes();
                }
            }
        }
    }

    /// A whole message, if it is time for one.
    pub fn whole(&mut self) -> Option<Bytes> {
        let usual = self.sends.frame_bytes() * self.sends.frames;
        let most = usual * (FRAMES_WHILE_QUIET / self.sends.frames).max(1);
        let waits = self.quiet.is_some_and(|since| since.elapsed() >= QUIET);
        let least = if waits { most } else { usual };
        // what has waited goes at once when somebody speaks
        let whole = (self.audio.len() - self.audio.len() % usual).min(most);
        (whole >= least).then(|| self.audio.split_to(whole).freeze())
    }

    /// What waits for more.
    pub fn rest(&mut self) -> Option<Bytes> {
        if self.audio.is_empty() {
            return None;
        }
        if self.sends.padded {
            let whole = self.sends.frame_bytes() * self.sends.frames;
            let missing = whole.saturating_sub(self.audio.len());
            self.audio.put_bytes(self.sends.silence(), missing);
        }
        Some(self.audio.split().freeze())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audio::g711::Law;

    fn packets(frames: usize) -> Packets {
        Packets::new(Sends { rate: Rate::R8K, law: Some(Law::Ulaw), frames, padded: false }, Rate::R8K)
    }

    /// The lengths of the messages, in ms, when so many frames come.
    fn lengths(packets: &mut Packets, frames: usize) -> Vec<usize> {
        let frame = Frame::silence(Rate::R8K);
        let mut lengths = Vec::new();
        for _ in 0..frames {
            packets.push(&frame);
            lengths.extend(std::iter::from_fn(|| packets.whole()).map(|audio| audio.len() / 8));
        }
        lengths
    }

    #[tokio::test(start_paused = true)]
    async fn messages_are_longer_while_nobody_speaks() {
        let mut packets = packets(1);
        assert_eq!(lengths(&mut packets, 3), [20, 20, 20]);
        tokio::time::advance(QUIET).await;
        assert_eq!(lengths(&mut packets, 13), [100, 100]);
        // what waits comes with the first word at the latest
        packets.speaks(true);
        assert_eq!(packets.whole().unwrap().len(), 480);
        tokio::time::advance(QUIET * 5).await;
        assert_eq!(lengths(&mut packets, 3), [20, 20, 20]);
        // the end of the turn is heard at once
        packets.speaks(false);
        assert_eq!(lengths(&mut packets, 3), [20, 20, 20]);
        tokio::time::advance(QUIET).await;
        assert!(lengths(&mut packets, 4).is_empty());
        assert_eq!(packets.rest().unwrap().len(), 640);
        assert_eq!(packets.rest(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_wants_long_messages_has_them_always() {
        for (frames, quiet) in [(2, 80), (3, 60), (4, 80), (5, 100), (10, 200)] {
            let mut packets = packets(frames);
            assert_eq!(lengths(&mut packets, frames), [frames * 20], "{frames}");
            tokio::time::advance(QUIET).await;
            assert_eq!(lengths(&mut packets, 10)[0], quiet, "{frames}");
        }
    }
}
