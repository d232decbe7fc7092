//! Services that stand in for one another within a call, and what is known of them over all calls.

mod breaker;
mod standing;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use self::breaker::{Limits, Severity};
pub use self::standing::{InUse, Shown, Standing, Standings};
use super::{
    Context, Service,
    health::Health,
    service::{Chain, Kind},
};
use crate::call::{Fault, Replaced};

/// The services of one kind that a call may use, the preferred one first.
#[derive(Debug)]
pub struct Row {
    seats: Vec<Seat>,
    limits: Limits,
    /// Until when this call does without a service that has failed it.
    resting: Mutex<Vec<Option<Instant>>>,
}

/// One of them.
#[derive(Debug)]
pub struct Seat {
    /// What it is.
    pub service: Service,
    /// Settings for it: with another in its place, it is given little time and no second attempt.
    pub ctx: Context,
    /// Where it reports to.
    pub health: Health,
    standing: Arc<Standing>,
}

/// Which services have been tried for something.
#[derive(Debug, Clone)]
pub struct Tried(Vec<bool>);

impl Row {
    /// The row of a call.
    pub fn new(ctx: &Context, chain: &Chain, kind: Kind, health: &Health) -> Self {
        let count = chain.iter().count();
        let seats = chain.iter().enumerate().map(|(at, service)| {
            let spared = at + 1 < count;
            Seat {
                service: service.clone(),
                ctx: if spared { hasty(ctx) } else { ctx.clone() },
                health: health.with_spare(spared),
                standing: ctx.outgoing.standings().of(kind, service),
            }
        });
        let limits =
            Limits { failures: ctx.config.breaker_failures, open: Duration::from_secs(ctx.config.breaker_open_s) };
        Self { seats: seats.collect(), limits, resting: Mutex::new(vec![None; count]) }
    }

    /// How many there are.
    pub const fn count(&self) -> usize {
        self.seats.len()
    }

    /// The one at `at`.
    pub fn seat(&self, at: usize) -> &Seat {
        &self.seats[at]
    }

    /// All of them.
    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// Nothing has been tried.
    pub fn untried(&self) -> Tried {
        Tried(vec![false; self.seats.len()])
    }

    /// The next to try: the first that works as far as is known, else the one that may soonest. `None`: all have been tried.
    pub fn next(&self, tried: &mut Tried) -> Option<usize> {
        let now = Instant::now();
        let resting = self.resting();
        let rests = |at: usize| resting[at].filter(|until| *until > now);
        let untried = || (0..self.seats.len()).filter(|at| !tried.0[*at]);
        let free =
            untried().find(|at| rests(*at).is_none() && (self.count() == 1 || self.seats[*at].standing.admits()));
        let found = free.or_else(|| untried().min_by_key(|at| rests(*at).max(self.seats[*at].standing.until())));
        if let Some(at) = found {
            tried.0[at] = true;
        }
        found
    }

    /// The one that would be tried now, without a claim to do so.
    pub fn likely(&self) -> Option<usize> {
        self.free().next()
    }

    /// Those that work, as far as is known.
    pub fn free(&self) -> impl Iterator<Item = usize> {
        let (now, resting) = (Instant::now(), self.resting().clone());
        let rests = move |at: usize| resting[at].is_some_and(|until| until > now);
        (0..self.count()).filter(move |at| self.count() == 1 || (!rests(*at) && self.seats[*at].standing.is_free()))
    }

    /// Whether there is one to take over that works, as far as is known.
    pub fn has_spare(&self, tried: &Tried) -> bool {
        (0..self.count()).any(|at| !tried.0[at] && self.seats[at].standing.is_free())
    }

    /// That at `at` works.
    pub fn worked(&self, at: usize) {
        // what was refused before it worked is no reason for a failure to come
        self.seats[at].health.answer();
        self.seats[at].standing.worked();
        self.resting()[at] = None;
    }

    /// That at `at` has failed; the one at `by` takes over, if any does.
    pub fn failed(&self, at: usize, fault: &Fault, by: Option<usize>) {
        let seat = &self.seats[at];
        let severity = match seat.health.answer() {
            Some((401..=403, _)) => Severity::Refused,
            Some((_, Some(after))) => Severity::Busy(after),
            _ => Severity::Ordinary,
        };
        seat.standing.failed(fault, severity, self.limits);
        self.resting()[at] = Some(Instant::now() + self.limits.open);
        if let Some(by) = by {
            seat.standing.taken_over();
            let (service, by) = (seat.standing.name().to_owned(), self.seats[by].standing.name().to_owned());
            seat.health.replaced(Replaced { fault: fault.clone(), service, by });
        }
    }

    fn resting(&self) -> std::sync::MutexGuard<'_, Vec<Option<Instant>>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Counts the call among those that use it.
    pub fn take(&self) -> InUse {
        InUse::of(&self.standing)
    }
}

impl Tried {
    /// Only `at` has been tried: it has worked, so the others are worth another attempt.
    pub fn only(&mut self, at: usize) {
        self.0.iter_mut().enumerate().for_each(|(other, tried)| *tried = other == at);
    }
}

/// The settings for a service that another can take over from.
fn hasty(ctx: &Context) -> Context {
    let mut ctx = ctx.clone();
    let config = Arc::make_mut(&mut ctx.config);
    let limit = config.failover_after_ms;
    config.reconnect_ms = 0;
    for timeout in [&mut config.connect_timeout_ms, &mut config.llm_timeout_ms, &mut config.tts_timeout_ms] {
        *timeout = limit.min(*timeout);
    }
    ctx
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::agent::{health, stt::tests::context};

    fn row(ctx: &Context, urls: &[&str]) -> Row {
        let services = urls.iter().map(|url| Service::Url(url.parse().unwrap())).collect();
        let health = Health::new(health::Service::Stt, mpsc::channel(8).0);
        Row::new(ctx, &Chain::new(services).unwrap(), Kind::Stt, &health)
    }

    fn fault() -> Fault {
        Fault { code: "agent.stt.failed", message: "speech recognition: no luck".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_does_without_what_failed_it_and_comes_back_later() {
        let ctx = context();
        let row = row(&ctx, &["ws://a/", "ws://b/"]);
        let first = || row.next(&mut row.untried());
        assert_eq!(first(), Some(0));
        row.failed(0, &fault(), Some(1));
        assert_eq!(first(), Some(1), "this call has had enough of it");
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(first(), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_share_what_they_know() {
        let ctx = context();
        let urls = ["ws://a/", "ws://b/"];
        for _ in 0..3 {
            let row = row(&ctx, &urls);
            let mut tried = row.untried();
            assert_eq!(row.next(&mut tried), Some(0));
            assert!(row.has_spare(&tried));
            row.failed(0, &fault(), Some(1));
            assert_eq!((row.next(&mut tried), row.next(&mut tried)), (Some(1), None));
        }
        let other = row(&ctx, &urls);
        assert_eq!(other.next(&mut other.untried()), Some(1));
        (0..3).for_each(|_| other.failed(1, &fault(), None));
        // all are open: the one that opens soonest
        let desperate = row(&ctx, &urls);
        assert_eq!(desperate.next(&mut desperate.untried()), Some(0));
        tokio::time::advance(Duration::from_secs(31)).await;
        let (one, two) = (row(&ctx, &urls), row(&ctx, &urls));
        assert_eq!(one.next(&mut one.untried()), Some(0), "somebody tries it out");
        assert_eq!(two.next(&mut two.untried()), Some(1), "nobody else does");
        one.worked(0);
        let back = row(&ctx, &urls);
        assert_eq!(back.next(&mut back.untried()), Some(0));
    }

    #[tokio::test]
    async fn a_service_without_a_spare_is_always_tried_and_patiently() {
        let ctx = context();
        for _ in 0..10 {
            let row = row(&ctx, &["ws://a/"]);
            assert_eq!(row.next(&mut row.untried()), Some(0));
            row.failed(0, &fault(), None);
        }
        assert_eq!(row(&ctx, &["ws://a/"]).seat(0).ctx.config.reconnect_ms, ctx.config.reconnect_ms);
        let two = row(&ctx, &["ws://a/", "ws://b/"]);
        assert_eq!((two.seat(0).ctx.config.reconnect_ms, two.seat(1).ctx.config.reconnect_ms), (0, 3_000));
    }

    #[tokio::test]
    async fn what_a_vendor_answers_decides_how_long_it_is_left_alone() {
        for (status, after, state) in [
            (401, None, "open"),
            (402, None, "open"),
            (429, Some(Duration::from_secs(9)), "open"),
            (503, None, "closed"),
        ] {
            let ctx = context();
            let row = row(&ctx, &["ws://a/", "ws://b/"]);
            row.seat(0).health.answered(status, after);
            row.failed(0, &fault(), Some(1));
            let shown = ctx.outgoing.standings().shown();
            assert_eq!((shown[0].state, shown[0].takeovers), (state, 1), "{status}");
            if let Some(after) = after {
                assert!(shown[0].retry_in_ms.is_some_and(|ms| ms <= after.as_millis() as u64));
            }
        }
    }
}
