//! A receiver that does not answer is not asked for a while: every announced call would wait for it in vain.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Counts silent failures in a row; after so many, only one request at a time finds out whether the receiver is back.
#[derive(Debug)]
pub(super) struct Breaker {
    /// Failures in a row that open it; 0 = never.
    failures: u32,
    open_for: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failed: u32,
    /// Not to be asked before this.
    open_until: Option<Instant>,
}

/// What a result has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// From now on the receiver is not asked.
    Opened,
    /// It is asked again.
    Closed,
}

impl Breaker {
    pub fn new(failures: u32, open_for: Duration) -> Self {
        Self { failures, open_for, state: Mutex::default() }
    }

    /// Whether to ask; else how long not to. When that time is over, one may ask, and the next has to wait again.
    pub fn admit(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.open_until {
            Some(until) if now < until => Err(until - now),
            Some(_) => {
                state.open_until = Some(now + self.open_for);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Takes a result: whether an answer came, whatever it was.
    pub fn record(&self, answered: bool, now: Instant) -> Option<Change> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            state.failed = 0;
            return state.open_until.take().map(|_| Change::Closed);
        }
        state.failed = state.failed.saturating_add(1);
        if self.failures == 0 || state.failed < self.failures {
            return None;
        }
        state.open_until.replace(now + self.open_for).is_none().then_some(Change::Opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_silence_and_lets_one_in_at_a_time() {
        let (breaker, now) = (Breaker::new(3, Duration::from_secs(30)), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!([false, false, true, false, false].map(|answered| breaker.record(answered, now)), [None; 5]);
        assert_eq!(breaker.record(false, now), Some(Change::Opened));
        assert_eq!(breaker.record(false, now), None, "said once");
        assert_eq!(breaker.admit(after(10)), Err(Duration::from_secs(20)));
        assert_eq!(breaker.admit(after(30)), Ok(()));
        assert!(breaker.admit(after(31)).is_err(), "one is asking");
        assert_eq!(breaker.record(false, after(33)), None);
        assert_eq!(breaker.admit(after(63)), Ok(()));
        assert_eq!(breaker.record(true, after(63)), Some(Change::Closed));
        assert_eq!((breaker.admit(after(63)), breaker.record(false, after(64))), (Ok(()), None));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_off_never_opens() {
        let breaker = Breaker::new(0, Duration::from_secs(30));
        for _ in 0..100 {
            assert_eq!(breaker.record(false, Instant::now()), None);
        }
        assert_eq!(breaker.admit(Instant::now()), Ok(()));
    }
}
