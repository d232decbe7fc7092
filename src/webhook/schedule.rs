//! When a failed delivery is tried again, and what an answer means: as data and plain functions, without a clock.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};

/// How often a delivery is tried again, as settings say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// This many attempts beyond the first, with waits that double: the meaning of AVR's `WEBHOOK_RETRY`.
    Times(u32),
    /// Over hours, until the receiver is back.
    Durable,
}

impl Default for Retry {
    fn default() -> Self {
        Self::Times(0)
    }
}

/// The waits between attempts: `first`, multiplied by `factor` after each failure, at most `longest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Attempts beyond the first.
    pub retries: u32,
    /// Wait after the first failure.
    pub first: Duration,
    /// What the wait is multiplied by after each further one.
    pub factor: u32,
    /// No wait grows beyond this, and no `Retry-After` is obeyed beyond it.
    pub longest: Duration,
    /// Whether a wait is drawn evenly from zero to its length (full jitter), so that receivers which come back are not met by
    /// everything at once.
    pub jitter: bool,
}

impl Schedule {
    /// 5 s, 20 s, 80 s, 5 min, 21 min, 85 min, 5.7 h, then 10 h each: 13 attempts over 58 hours at most, about 29 on average.
    pub const DURABLE: Self = Self {
        retries: 12,
        first: Duration::from_secs(5),
        factor: 4,
        longest: Duration::from_secs(36_000),
        jitter: true,
    };

    /// What `retry` means where waits that double begin with `first`.
    #[must_use]
    pub fn new(retry: Retry, first: Duration) -> Self {
        match retry {
            Retry::Durable => Self::DURABLE,
            Retry::Times(retries) => {
                let longest = Duration::from_secs(300).max(first);
                Self { retries, first, factor: 2, longest, jitter: false }
            }
        }
    }

    /// All attempts, the first included.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.retries.saturating_add(1)
    }

    /// The wait after the failure of attempt number `attempt` (from 1); `None`: that was the last one.
    ///
    /// `random` is drawn from 0 to 1 by the caller. What the receiver asked for is added up to `longest`: it is never asked earlier.
    #[must_use]
    pub fn wait(&self, attempt: u32, retry_after: Option<Duration>, random: f64) -> Option<Duration> {
        if attempt > self.retries {
            return None;
        }
        let length = self.length(attempt);
        let wait = if self.jitter { length.mul_f64(random.clamp(0.0, 1.0)) } else { length };
        Some(wait.max(retry_after.unwrap_or_default().min(self.longest)))
    }

    /// The wait after attempt number `attempt`, before jitter.
    fn length(&self, attempt: u32) -> Duration {
        let mut length = self.first.min(self.longest);
        for _ in 1..attempt {
            if length >= self.longest {
                break;
            }
            length = length.saturating_mul(self.factor.max(1)).min(self.longest);
            if self.factor <= 1 {
                break;
            }
        }
        length
    }
}

/// What an answer, or its absence, means for a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver has it.
    Delivered,
    /// Not now. With what the receiver asked for, if it did.
    Retry(Option<Duration>),
    /// Never: the same request would be refused again.
    Dead,
    /// The receiver wants nothing any more (410): the endpoint is disabled.
    Gone,
}

/// What an answer with this status means.
#[must_use]
pub fn judge(status: StatusCode, retry_after: Option<Duration>) -> Verdict {
    match status.as_u16() {
        200..=299 => Verdict::Delivered,
        408 | 425 | 429 | 500..=599 => Verdict::Retry(retry_after),
        410 => Verdict::Gone,
        // redirects among them: a receiver that has moved is to be configured anew
        _ => Verdict::Dead,
    }
}

/// What `Retry-After` asks for, in seconds or as a date; nothing if it cannot be read.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // more digits than a number holds: longer than anybody waits
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn seconds(schedule: &Schedule) -> Vec<u64> {
        (1..).map_while(|attempt| schedule.wait(attempt, None, 1.0)).map(|wait| wait.as_secs()).collect()
    }

    #[test]
    fn a_number_doubles_and_ends_where_it_says() {
        let of = |times, first| Schedule::new(Retry::Times(times), Duration::from_secs(first));
        assert_eq!(seconds(&of(0, 1)), [0_u64; 0]);
        assert_eq!(seconds(&of(11, 1)), [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(seconds(&of(2, 3_600)), [3_600, 3_600]);
        assert_eq!(of(4, 1).wait(2, None, 0.0), Some(Duration::from_secs(2)), "numbers have no jitter");
    }

    #[test]
    fn durable_goes_from_seconds_to_hours() {
        let durable = Schedule::new(Retry::Durable, Duration::from_secs(1));
        let all = seconds(&durable);
        assert_eq!(all, [5, 20, 80, 320, 1_280, 5_120, 20_480, 36_000, 36_000, 36_000, 36_000, 36_000]);
        assert_eq!(durable.attempts(), 13);
        assert_eq!(all.iter().sum::<u64>().div_ceil(3_600), 58);
        assert_eq!(durable.wait(3, None, 0.25), Some(Duration::from_secs(20)));
    }

    #[test]
    fn retry_after_is_obeyed_within_bounds() {
        let numbered = Schedule::new(Retry::Times(3), Duration::from_secs(1));
        let wait = |schedule: &Schedule, asked| schedule.wait(1, Some(Duration::from_secs(asked)), 0.0);
        assert_eq!(wait(&numbered, 0), Some(Duration::from_secs(1)));
        assert_eq!(wait(&numbered, 30), Some(Duration::from_secs(30)));
        assert_eq!(wait(&numbered, u64::MAX), Some(Duration::from_secs(300)));
        assert_eq!(wait(&Schedule::DURABLE, 90), Some(Duration::from_secs(90)), "jitter may not come before it");
        assert_eq!(wait(&Schedule::DURABLE, u64::MAX), Some(Duration::from_secs(36_000)));
        assert_eq!(numbered.wait(4, Some(Duration::from_secs(1)), 0.0), None, "it gives no further attempt");
    }

    #[test]
    fn answers_mean_what_the_readme_says() {
        let asked = Some(Duration::from_secs(7));
        for status in 100..=999_u16 {
            let expected = match status {
                200..=299 => Verdict::Delivered,
                408 | 425 | 429 | 500..=599 => Verdict::Retry(asked),
                410 => Verdict::Gone,
                _ => Verdict::Dead,
            };
            assert_eq!(judge(StatusCode::from_u16(status).unwrap(), asked), expected, "{status}");
        }
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        for (text, expected) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 08:50:37 1994", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("", None),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{text:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    proptest! {
        #[test]
        fn any_header_is_a_wait_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]), SystemTime::now());
            }
        }

        #[test]
        fn every_wait_is_within_its_bounds(retries in 0u32..200, first in 0u64..100_000, factor in 0u32..100, longest in 0u64..100_000,
            jitter: bool, attempt in 1u32.., random in 0.0..=1.0, asked in proptest::option::of(any::<u64>())) {
            let schedule = Schedule {
                retries, first: Duration::from_millis(first), factor, longest: Duration::from_millis(longest), jitter,
            };
            let wait = schedule.wait(attempt, asked.map(Duration::from_secs), random);
            prop_assert_eq!(wait.is_none(), attempt > retries);
            prop_assert!(wait.unwrap_or_default() <= schedule.longest);
        }
    }
}
