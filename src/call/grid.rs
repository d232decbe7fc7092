//! The call's own 20 ms grid: when frames leave towards the caller.
//!
//! Its phase is the minimum arrival phase of the caller's frames over the last 2 s plus a cushion, slewed by at most 0.5 ms a
//! frame, free-running while the caller sends nothing (digits, DTX, hold). The minimum, because jitter only ever delays: the
//! earliest frame shows the sender's clock.

use std::time::{Duration, Instant};

/// One frame.
pub const PERIOD: Duration = Duration::from_millis(20);
/// Least distance of two frames while catching up.
pub const CATCH_UP: Duration = Duration::from_millis(10);
/// How late a frame may be before silence takes its slot.
pub const PATIENCE: Duration = Duration::from_millis(10);
const SLEW_NS: i64 = 500_000;
const PERIOD_NS: i64 = 20_000_000;
/// Arrivals in half of the observation window (1 s of 20 ms frames).
const HALF_WINDOW: u32 = 50;
/// Slots that may be made up for after a late wake-up; older ones are given up.
const MAX_BEHIND: u32 = 10;

/// When frames leave.
#[derive(Debug)]
pub struct Grid {
    cushion: i64,
    /// Phases are nanoseconds since this, modulo the period.
    origin: Instant,
    slot: Instant,
    last_sent: Option<Instant>,
    arrivals: Option<Arrivals>,
}

/// The minimum of the arrival phase over two half windows, relative to `reference`.
#[derive(Debug)]
struct Arrivals {
    reference: i64,
    previous_min: i64,
    current_min: i64,
    count: u32,
    last: Instant,
}

impl Grid {
    /// A grid whose first slot is `now`, until the caller's first frame gives the phase.
    #[must_use]
    pub fn new(cushion: Duration, now: Instant) -> Self {
        Self {
            cushion: i64::try_from(cushion.as_nanos()).unwrap_or(0).clamp(0, PERIOD_NS / 2),
            origin: now,
            slot: now,
            last_sent: None,
            arrivals: None,
        }
    }

    /// The slot that is due next.
    #[must_use]
    pub const fn slot(&self) -> Instant {
        self.slot
    }

    /// The earliest time the next frame may leave: its slot, but never two frames closer than 10 ms.
    #[must_use]
    pub fn earliest(&self) -> Instant {
        self.last_sent.map_or(self.slot, |sent| self.slot.max(sent + CATCH_UP))
    }

    /// Whether a frame may leave now without coming too close to the last one.
    #[must_use]
    pub fn may_send(&self, now: Instant) -> bool {
        self.last_sent.is_none_or(|sent| now >= sent + CATCH_UP)
    }

    /// A frame of the caller arrived.
    pub fn arrived(&mut self, now: Instant) {
        let phase = self.phase(now);
        let Some(arrivals) = &mut self.arrivals else {
            self.arrivals = Some(Arrivals { reference: phase, previous_min: 0, current_min: 0, count: 0, last: now });
            // The grid starts with the caller: one cushion after their first frame.
            let cushion = Duration::from_nanos(self.cushion.unsigned_abs());
            self.slot = self.last_sent.map_or(now + cushion, |sent| (now + cushion).max(sent + CATCH_UP));
            return;
        };
        let offset = wrap(phase - arrivals.reference);
        let gap = now.saturating_duration_since(std::mem::replace(&mut arrivals.last, now));
        // A frame more than half a period late would look early, and so would those that come in a heap behind it.
        if gap.abs_diff(PERIOD) < PERIOD / 2 {
            arrivals.current_min = arrivals.current_min.min(offset);
        }
        arrivals.count += 1;
        if arrivals.count >= HALF_WINDOW {
            arrivals.count = 0;
            arrivals.previous_min = arrivals.current_min;
            arrivals.current_min = i64::MAX;
            // Follow the sender's clock: keep offsets small so that they never wrap.
            // Nothing regular in half a window says nothing about the clock.
            let shift = if arrivals.previous_min == i64::MAX { 0 } else { arrivals.previous_min };
            arrivals.reference += shift;
            arrivals.previous_min = 0;
        }
    }

    /// A frame left at `now` for the current slot: on to the next.
    pub fn sent(&mut self, now: Instant) {
        self.last_sent = Some(now);
        self.advance(now);
    }

    /// What was sent ahead of `now` has been thrown away: its slots are free again.
    pub fn flushed(&mut self, now: Instant) {
        let ahead = self.slot.saturating_duration_since(now).as_nanos() / PERIOD.as_nanos();
        // later than `now` still
        self.slot -= PERIOD * u32::try_from(ahead).unwrap_or(0);
    }

    fn advance(&mut self, now: Instant) {
        self.slot += PERIOD;
        if now > self.slot + PERIOD * MAX_BEHIND {
            let behind = now.duration_since(self.slot).as_nanos() / PERIOD.as_nanos();
            self.slot += PERIOD * u32::try_from(behind).unwrap_or(0);
        }
        let Some(arrivals) = &self.arrivals else { return };
        let minimum = arrivals.previous_min.min(arrivals.current_min);
        let target = arrivals.reference + minimum + self.cushion;
        let correction = wrap(target - self.phase(self.slot)).clamp(-SLEW_NS, SLEW_NS);
        let size = Duration::from_nanos(correction.unsigned_abs());
        self.slot = if correction < 0 { self.slot.checked_sub(size).unwrap_or(self.slot) } else { self.slot + size };
    }

    fn phase(&self, at: Instant) -> i64 {
        let nanos = at.saturating_duration_since(self.origin).as_nanos() % PERIOD.as_nanos();
        i64::try_from(nanos).unwrap_or(0)
    }
}

/// Folds a difference of phases into half a period around zero.
fn wrap(difference: i64) -> i64 {
    (difference + PERIOD_NS / 2).rem_euclid(PERIOD_NS) - PERIOD_NS / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_slot_is_one_cushion_after_the_first_frame() {
        let start = Instant::now();
        let mut grid = Grid::new(3 * MS, start);
        grid.arrived(start + 7 * MS);
        assert_eq!(grid.slot(), start + 10 * MS);
    }

    #[test]
    fn the_phase_follows_the_earliest_arrival_and_ignores_jitter() {
        let start = Instant::now();
        let mut grid = Grid::new(3 * MS, start);
        // The first frame is 6 ms late, so are most others; one in ten shows the true clock.
        for frame in 0..200_u32 {
            let late = if frame % 10 == 9 { 0 } else { 6 };
            let at = start + PERIOD * frame + MS * late;
            grid.arrived(at);
            grid.sent(grid.slot());
        }
        let phase = grid.slot().duration_since(start).as_micros() % 20_000;
        assert!((2_900..=3_100).contains(&phase), "{phase} µs");
    }

    #[test]
    fn a_very_late_frame_and_the_heap_behind_it_do_not_pull_the_phase() {
        let start = Instant::now();
        let mut grid = Grid::new(3 * MS, start);
        for frame in 0..300_u32 {
            let at = start + PERIOD * frame;
            // every second the sender stalls for 35 ms and then sends what it owes
            let stalled = start + PERIOD * (frame - frame % 50) + 35 * MS;
            grid.arrived(if frame < 50 { at } else { at.max(stalled) });
            grid.sent(grid.slot());
            let phase = grid.slot().duration_since(start).as_micros() % 20_000;
            assert!(frame < 5 || (2_900..=3_100).contains(&phase), "frame {frame}: {phase} µs");
        }
    }

    #[test]
    fn the_phase_follows_a_drifting_sender_by_small_steps() {
        let start = Instant::now();
        let mut grid = Grid::new(3 * MS, start);
        let mut last = None;
        // 100 ppm fast and far: 0.002 ms a frame.
        for frame in 0..5_000_u32 {
            let at = start + PERIOD * frame - Duration::from_nanos(2_000) * frame;
            grid.arrived(at);
            let slot = grid.slot();
            if let Some(last) = last {
                let step = slot.duration_since(last).as_micros();
                assert!((19_499..=20_501).contains(&step), "{step} µs");
            }
            last = Some(slot);
            grid.sent(slot);
            let lag = (slot - at).as_micros() % 20_000;
            assert!(frame < 200 || (2_000..=4_000).contains(&lag), "frame {frame}: {lag} µs");
        }
    }

    #[test]
    fn a_late_wake_up_is_made_up_for_at_10_ms_and_a_very_late_one_is_given_up() {
        let start = Instant::now();
        let mut grid = Grid::new(3 * MS, start);
        grid.sent(start);
        let late = start + 70 * MS;
        grid.sent(late);
        assert_eq!(grid.earliest(), late + CATCH_UP);
        let very_late = start + Duration::from_secs(5);
        grid.sent(very_late);
        assert!(grid.slot() + PERIOD > very_late);
    }
}
