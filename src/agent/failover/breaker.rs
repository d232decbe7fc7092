//! When a service is left alone. A pure state machine: it is told the time.

use std::time::Duration;

use tokio::time::Instant;

/// The pause doubles with each failed attempt to come back, this often at most.
const DOUBLINGS: u32 = 4;
/// Whoever tries a service out may take this long until somebody else may.
const PROBE: Duration = Duration::from_secs(10);
/// A service that asks to be left alone is, but for no longer than this.
const LONGEST: Duration = Duration::from_secs(3_600);

/// When a breaker opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// After so many failures in a row.
    pub failures: u32,
    /// For so long.
    pub open: Duration,
}

/// How bad a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It may pass by itself.
    Ordinary,
    /// It will not: a key, an account.
    Refused,
    /// It wants to be left alone for so long.
    Busy(Duration),
}

/// What a service is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is used.
    Closed,
    /// It is left alone.
    Open,
    /// It is tried out, by one call at a time.
    HalfOpen,
}

impl State {
    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The breaker of one service.
#[derive(Debug, Clone, Default)]
pub struct Breaker {
    failures: u32,
    /// When it may be tried out again; `None`: closed.
    until: Option<Instant>,
    /// Times it has opened without the service having worked.
    opened: u32,
    /// Since when somebody tries it out.
    probed: Option<Instant>,
}

impl Breaker {
    /// What it is.
    pub fn state(&self, now: Instant) -> State {
        match self.until {
            None => State::Closed,
            Some(until) if now < until => State::Open,
            Some(_) => State::HalfOpen,
        }
    }

    /// Failures in a row.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// When it opens; in the past where it is not closed to anybody.
    pub const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether somebody may use the service. Half open, only one may, who then has to tell how it went.
    pub fn admits(&mut self, now: Instant) -> bool {
        match self.state(now) {
            State::Closed => true,
            State::Open => false,
            State::HalfOpen => {
                let free = self.probed.is_none_or(|since| now.duration_since(since) >= PROBE);
                if free {
                    self.probed = Some(now);
                }
                free
            }
        }
    }

    /// The service has done what it is there for.
    pub fn worked(&mut self) {
        *self = Self::default();
    }

    /// The service has failed. Returns whether that has opened it.
    pub fn failed(&mut self, severity: Severity, limits: Limits, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.probed = None;
        let state = self.state(now);
        if let Severity::Busy(wanted) = severity {
            self.until = self.until.max(Some(now + wanted.min(LONGEST)));
            return state != State::Open;
        }
        // those who were using it meanwhile do not make the pause longer
        let opens = match state {
            State::Open => false,
            State::HalfOpen => true,
            State::Closed => severity == Severity::Refused || self.failures >= limits.failures,
        };
        if opens {
            self.until = Some(now + limits.open * (1 << self.opened.min(DOUBLINGS)));
            self.opened = self.opened.saturating_add(1);
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { failures: 3, open: Duration::from_secs(30) };

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn it_opens_after_some_failures_and_lets_one_try() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        for _ in 0..2 {
            assert!(!breaker.failed(Severity::Ordinary, LIMITS, start));
            assert!(breaker.admits(start));
        }
        assert!(breaker.failed(Severity::Ordinary, LIMITS, start));
        assert!(!breaker.admits(after(start, 29)));
        assert!(breaker.admits(after(start, 30)));
        assert!(!breaker.admits(after(start, 31)), "one at a time");
        assert!(breaker.admits(after(start, 40)), "nobody has told how it went");
        assert!(breaker.failed(Severity::Ordinary, LIMITS, after(start, 41)));
        assert!(!breaker.admits(after(start, 100)), "the pause has doubled");
        assert!(breaker.admits(after(start, 101)));
        breaker.worked();
        assert_eq!((breaker.state(after(start, 102)), breaker.failures()), (State::Closed, 0));
    }

    #[test]
    fn a_refused_key_opens_it_at_once_and_retry_after_says_for_how_long() {
        let (mut refused, mut busy, start) = (Breaker::default(), Breaker::default(), Instant::now());
        assert!(refused.failed(Severity::Refused, LIMITS, start));
        assert_eq!(refused.state(start), State::Open);
        assert!(busy.failed(Severity::Busy(Duration::from_secs(7)), LIMITS, start));
        assert!(!busy.admits(after(start, 6)) && busy.admits(after(start, 7)));
        assert!(busy.failed(Severity::Busy(Duration::MAX), LIMITS, after(start, 7)));
        assert!(busy.admits(after(start, 7 + 3_600)), "nobody is left alone for ever");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Fails(Severity),
        Works,
        Asked,
        Passes(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            Just(Step::Fails(Severity::Ordinary)),
            Just(Step::Fails(Severity::Refused)),
            (0u64..10_000).prop_map(|s| Step::Fails(Severity::Busy(Duration::from_secs(s)))),
            Just(Step::Works),
            Just(Step::Asked),
            (0u64..600).prop_map(Step::Passes),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn whatever_happens_it_is_tried_again_within_an_hour_and_success_closes_it(steps in steps()) {
            let (mut breaker, mut now) = (Breaker::default(), Instant::now());
            let mut in_a_row = 0;
            for step in steps {
                match step {
                    Step::Fails(severity) => {
                        in_a_row += 1;
                        breaker.failed(severity, LIMITS, now);
                        if severity != Severity::Ordinary || in_a_row >= LIMITS.failures {
                            prop_assert!(breaker.until().is_some());
                        }
                    }
                    Step::Works => {
                        in_a_row = 0;
                        breaker.worked();
                        prop_assert!(breaker.admits(now));
                    }
                    Step::Asked => {
                        let state = breaker.state(now);
                        let admitted = breaker.admits(now);
                        prop_assert!(admitted || state != State::Closed);
                        prop_assert!(!admitted || state != State::Open);
                        prop_assert!(!(admitted && state == State::HalfOpen && breaker.admits(now)), "two at once");
                    }
                    Step::Passes(seconds) => now += Duration::from_secs(seconds),
                }
                prop_assert_eq!(breaker.failures(), in_a_row);
                prop_assert!(breaker.until().is_none_or(|until| until <= now + LONGEST));
            }
            prop_assert!(breaker.admits(now + LONGEST + PROBE));
        }
    }
}
