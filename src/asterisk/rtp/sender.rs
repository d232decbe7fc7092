//! Our own stream: one source, one sequence, and timestamps that go on while nothing is said.

use std::time::{Duration, Instant};

use super::{
    codec::Codec,
    wire::{self, Packet},
};
use crate::audio::Frame;

/// Frames that leave no further apart than this are one stretch of sound, however late.
const PAUSE: Duration = Duration::from_millis(100);

/// What the next packet is.
#[derive(Debug)]
pub(super) struct Sender {
    sequence: u16,
    timestamp: u32,
    source: u32,
    last: Option<Instant>,
    payload: Vec<u8>,
    datagram: Vec<u8>,
}

impl Sender {
    /// A stream that begins anywhere, as RFC 3550 has it.
    pub fn new() -> Self {
        Self {
            sequence: rand::random(),
            timestamp: rand::random(),
            source: rand::random(),
            last: None,
            payload: Vec::new(),
            datagram: Vec::new(),
        }
    }

    /// The packet of a frame that leaves at `now`; it counts once [`Self::sent`] says that it has left.
    pub fn packet(&mut self, frame: &Frame, codec: &mut Codec, now: Instant) -> &[u8] {
        let skipped = self.skipped(now);
        self.payload.clear();
        codec.encode(frame, &mut self.payload);
        let packet = Packet {
            marker: skipped > 0 || self.last.is_none(),
            payload_type: codec.out_type,
            sequence: self.sequence,
            timestamp: self.timestamp.wrapping_add(skipped.wrapping_mul(codec.out_ticks())),
            source: self.source,
            payload: &self.payload,
        };
        self.datagram.clear();
        wire::put(&mut self.datagram, &packet);
        &self.datagram
    }

    /// It has left.
    pub fn sent(&mut self, codec: &Codec, now: Instant) {
        self.sequence = self.sequence.wrapping_add(1);
        let frames = self.skipped(now).wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(frames.wrapping_mul(codec.out_ticks()));
        self.last = Some(now);
    }

    /// Frames in whose time nothing was said.
    fn skipped(&self, now: Instant) -> u32 {
        let pause = self.last.map(|last| now.saturating_duration_since(last)).filter(|pause| *pause >= PAUSE);
        pause.map_or(0, |pause| u32::try_from(pause.as_millis() / 20).unwrap_or(u32::MAX).saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{AudioFormat, Encoding, Rate};

    #[test]
    fn time_goes_on_in_a_pause_and_jitter_is_none() {
        let mut codec = Codec::new(AudioFormat { encoding: Encoding::Ulaw, rate: Rate::R8K }).unwrap();
        let (mut sender, start) = (Sender::new(), Instant::now());
        let mut first = None;
        for (ms, frame, marker) in [
            (0, 0, true),
            (20, 1, false),
            (75, 2, false),
            (85, 3, false),
            (100, 4, false),
            (1_000, 49, true),
            (1_020, 50, false),
        ] {
            let now = start + Duration::from_millis(ms);
            // asked for twice, because the socket did not take it: it is the same
            let _ = sender.packet(&Frame::silence(Rate::R8K), &mut codec, now);
            let packet = wire::parse(sender.packet(&Frame::silence(Rate::R8K), &mut codec, now)).unwrap();
            let &mut first = first.get_or_insert(packet.timestamp);
            assert_eq!((packet.timestamp.wrapping_sub(first), packet.marker), (frame * 160, marker), "{ms} ms");
            sender.sent(&codec, now);
        }
    }
}
