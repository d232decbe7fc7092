//! Packets in their order, and what stands for those that do not come. No socket and no clock: the time is an argument.
//!
//! Nobody here plays sound on a clock of their own: an agent takes audio as it comes, and the call's grid follows the sender. So a packet
//! in its turn goes on at once, and the buffer delays only what is behind a gap: until the missing packet is there, or for as long as
//! the jitter makes it worth waiting. A sender whose clock drifts fills and empties nothing by that. Where the sender falls silent
//! (discontinued transmission, keys), silence goes on at the pace of time, and the next packet is at the place that its timestamp gives it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Packets behind a gap.
const MAX_HELD: usize = 32;
/// A sequence number so far ahead, or so far back, is another sequence (RFC 3550, appendix A.1).
const MAX_DROPOUT: u16 = 3_000;
const MAX_MISORDER: u16 = 64;
/// What a packet that came too late adds to the time that the next gap is waited for.
const LATE_STEP: Duration = Duration::from_millis(20);
/// Silence that is due for longer is left out: a machine that slept.
const MAX_DUE: Duration = Duration::from_secs(1);
/// How far silence is behind time, so that sound which goes on a little late finds its place; a recording takes 60 ms for a gap.
const SLACK: Duration = Duration::from_millis(50);
/// Silence goes on in frames of this length.
pub(super) const FRAME: Duration = Duration::from_millis(20);

/// How long gaps are waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// At least.
    pub least: Duration,
    /// At most; also how long nothing may come before silence goes on in its place.
    pub most: Duration,
}

/// A packet: its place, and how many ticks of the clock its audio lasts; 0: it holds none, but counts in the sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub sequence: u16,
    pub timestamp: u32,
    pub ticks: u32,
}

/// What is before a packet in its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Before {
    /// Ticks without audio.
    pub missing: u32,
    /// Packets that were lost there.
    pub lost: u32,
}

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is its turn now.
    Next(Before),
    /// It waits for others.
    Held,
    /// It has come before.
    Duplicate,
    /// Something else is in its place.
    Late,
    /// It is of no sequence; if the next one follows it, a new one begins there.
    Stray,
    /// A new sequence begins with it, and its turn is now.
    Reset,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// This audio.
    Audio(Before, Vec<u8>),
    /// 20 ms of silence, because nothing comes.
    Silence,
    /// A packet that had waited has become useless.
    Late,
}

#[derive(Debug)]
struct Held {
    place: Place,
    at: Instant,
    payload: Vec<u8>,
}

/// The buffer.
#[derive(Debug)]
pub(super) struct Jitter {
    clock: u32,
    limits: Limits,
    /// What comes next, once something has come.
    next: Option<Next>,
    held: VecDeque<Held>,
    /// The sequence number that would begin a new sequence.
    stray: Option<u16>,
    origin: Instant,
    transit: Option<i32>,
    /// RFC 3550: the jitter in ticks, times 16.
    jitter: u32,
    /// What late packets have added to the wait.
    extra: Duration,
}

#[derive(Debug)]
struct Next {
    sequence: u16,
    timestamp: u32,
    /// Bit n: the packet n + 1 before `sequence` has come.
    seen: u64,
    /// Ticks of silence since the last audio.
    ahead: u32,
    /// When it should come.
    expected: Instant,
}

impl Next {
    /// When silence takes its place. Once that is decided it keeps up with time: whoever records tells a gap by what lags behind.
    fn silence_at(&self, limits: Limits) -> Instant {
        self.expected + if self.ahead > 0 { SLACK } else { limits.most.max(SLACK) }
    }
}

impl Jitter {
    /// An empty buffer for audio with `clock` ticks a second.
    pub fn new(clock: u32, limits: Limits, now: Instant) -> Self {
        Self {
            clock,
            limits,
            next: None,
            held: VecDeque::new(),
            stray: None,
            origin: now,
            transit: None,
            jitter: 0,
            extra: Duration::ZERO,
        }
    }

    /// Forgets everything: another sender.
    pub fn reset(&mut self) {
        *self = Self::new(self.clock, self.limits, self.origin);
    }

    /// Takes a packet that came at `now`. `payload` is kept only when it has to wait.
    pub fn put(&mut self, place: Place, payload: &[u8], now: Instant) -> Taken {
        let Some(next) = &mut self.next else {
            if place.ticks > 0 {
                self.begin(place, now);
            }
            return Taken::Next(Before { missing: 0, lost: 0 });
        };
        let ahead = place.sequence.wrapping_sub(next.sequence);
        if (MAX_DROPOUT..=u16::MAX - MAX_MISORDER).contains(&ahead) {
            if place.ticks == 0 || self.stray != Some(place.sequence) {
                self.stray = Some(place.sequence.wrapping_add(1));
                return Taken::Stray;
            }
            self.reset();
            self.begin(place, now);
            return Taken::Reset;
        }
        self.stray = None;
        if ahead >= MAX_DROPOUT {
            // before the next one, by 1 to 64
            let bit = 1 << (u16::MAX - ahead);
            if next.seen & bit != 0 {
                return Taken::Duplicate;
            }
            next.seen |= bit;
            self.extra = (self.extra + LATE_STEP).min(self.limits.most);
            return Taken::Late;
        }
        if ahead > 0 || !self.held.is_empty() {
            return self.hold(place, payload, now);
        }
        self.measure(place, now);
        self.turn(place, now).map_or(Taken::Late, Taken::Next)
    }

    /// What is due at `now`; to be asked until there is nothing.
    pub fn pop(&mut self, now: Instant) -> Option<Due> {
        let next = self.next.as_mut()?;
        if let Some(first) = self.held.front() {
            let turn = first.place.sequence == next.sequence;
            if !turn && self.held.len() < MAX_HELD && self.deadline().is_some_and(|deadline| now < deadline) {
                return None;
            }
            let Held { place, payload, .. } = self.held.pop_front()?;
            return Some(self.turn(place, now).map_or(Due::Late, |before| Due::Audio(before, payload)));
        }
        let silence_at = next.silence_at(self.limits);
        if now < silence_at {
            return None;
        }
        let frame = self.clock / 50;
        if now - silence_at > MAX_DUE {
            next.expected = now;
        }
        next.timestamp = next.timestamp.wrapping_add(frame);
        next.ahead = next.ahead.saturating_add(frame);
        next.expected += FRAME;
        Some(Due::Silence)
    }

    /// When something is due if nothing comes before.
    pub fn deadline(&self) -> Option<Instant> {
        let next = self.next.as_ref()?;
        // the gap is known since the first of those behind it came
        let noticed = self.held.iter().map(|held| held.at).min();
        Some(noticed.map_or_else(|| next.silence_at(self.limits), |noticed| noticed + self.wait()))
    }

    /// How long a gap is waited for.
    fn wait(&self) -> Duration {
        let jitter = Duration::from_micros(u64::from(self.jitter / 16) * 1_000_000 / u64::from(self.clock));
        ((4 * jitter).max(self.limits.least) + self.extra).min(self.limits.most)
    }

    fn begin(&mut self, place: Place, now: Instant) {
        let Place { sequence, timestamp, ticks } = place;
        self.next = Some(Next {
            sequence: sequence.wrapping_add(1),
            timestamp: timestamp.wrapping_add(ticks),
            seen: 1,
            ahead: 0,
            expected: now + self.duration(ticks),
        });
        self.measure(place, now);
    }

    fn hold(&mut self, place: Place, payload: &[u8], now: Instant) -> Taken {
        let Some(next) = &self.next else { return Taken::Late };
        let distance = |place: &Place| place.sequence.wrapping_sub(next.sequence);
        let at = self.held.partition_point(|held| distance(&held.place) < distance(&place));
        if self.held.get(at).is_some_and(|held| held.place.sequence == place.sequence) {
            return Taken::Duplicate;
        }
        // whoever asks what is due after every packet never comes here with a full buffer
        if self.held.len() >= MAX_HELD {
            return Taken::Late;
        }
        self.held.insert(at, Held { place, at: now, payload: payload.to_vec() });
        self.measure(place, now);
        Taken::Held
    }

    /// The turn of this packet has come: what is before it. `None`: silence has taken its place.
    fn turn(&mut self, place: Place, now: Instant) -> Option<Before> {
        let most = self.duration_ticks(self.limits.most + 5 * FRAME);
        let end = now + self.duration(place.ticks);
        let next = self.next.as_mut()?;
        let lost = u32::from(place.sequence.wrapping_sub(next.sequence));
        next.seen = if lost < 63 { next.seen << (lost + 1) | 1 } else { 1 };
        next.sequence = place.sequence.wrapping_add(1);
        if place.ticks == 0 {
            return Some(Before { missing: 0, lost });
        }
        let apart = place.timestamp.wrapping_sub(next.timestamp);
        let back = apart.wrapping_neg();
        // audio that was held up for so long that silence went on without it; less than its own length is a clock that drifts
        if (place.ticks..=next.ahead).contains(&back) {
            return None;
        }
        next.timestamp = place.timestamp.wrapping_add(place.ticks);
        next.ahead = 0;
        next.expected = end;
        self.extra = self.extra.saturating_sub(self.extra / 512 + Duration::from_micros(10));
        // further ahead is a sender who counts anew
        Some(Before { missing: if apart <= most { apart } else { 0 }, lost })
    }

    /// RFC 3550, 6.4.1: how much the time on the way differs from packet to packet.
    fn measure(&mut self, place: Place, now: Instant) {
        if place.ticks == 0 {
            return;
        }
        let arrival = now.saturating_duration_since(self.origin).as_micros() * u128::from(self.clock) / 1_000_000;
        // both count around, as in the RFC
        let transit = (arrival as u32).wrapping_sub(place.timestamp) as i32;
        let differs = self.transit.replace(transit).map_or(0, |before| transit.wrapping_sub(before).unsigned_abs());
        // longer than a second is no jitter but another stretch of sound
        if differs < self.clock {
            self.jitter = self.jitter + differs - ((self.jitter + 8) >> 4).min(self.jitter + differs);
        }
    }

    fn duration(&self, ticks: u32) -> Duration {
        Duration::from_nanos(u64::from(ticks) * 1_000_000_000 / u64::from(self.clock))
    }

    fn duration_ticks(&self, duration: Duration) -> u32 {
        u32::try_from(duration.as_millis() * u128::from(self.clock) / 1_000).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
#[path = "jitter_tests.rs"]
mod tests;
