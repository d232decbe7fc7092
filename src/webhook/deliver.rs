//! Delivery: takes events out of the outbox as their turn comes, posts them, and decides about another attempt.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use http::HeaderValue;
use reqwest::Client;
use serde_json::{Map, Value};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::{
    Config, DEFAULT, Due, Entry, Failed, Full, MemoryOutbox, Outbox, Outcome, Recipient, Redaction, Report, Stats,
    Unusable, body, catalogue,
    endpoint::{self, Endpoint, Post, Reply, Request},
    schedule::{Schedule, Verdict},
    shown,
};
use crate::call::{Envelope, EventId};

/// A full outbox is reported at most this often.
const LOUD_EVERY: Duration = Duration::from_secs(10);

/// The way to the webhook receiver: cheap to clone, shared by everybody who has something to report.
///
/// With no URL, or one that cannot work, it takes everything and sends nothing.
#[derive(Clone)]
pub struct Webhooks {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhooks").field("enabled", &self.enabled()).finish_non_exhaustive()
    }
}

struct Shared {
    receiver: Option<Receiver>,
    stats: Arc<Stats>,
    cancel: CancellationToken,
}

struct Receiver {
    name: Arc<str>,
    redaction: Redaction,
    outbox: Arc<dyn Outbox>,
    post: Arc<dyn Post>,
    schedule: Schedule,
    stats: Arc<Stats>,
    /// An event has left the outbox.
    settled: Notify,
    loud: Mutex<Loud>,
}

/// When a full outbox was last reported, and what was lost since.
#[derive(Default)]
struct Loud {
    at: Option<Instant>,
    lost: u64,
}

impl Webhooks {
    /// Starts delivery from an outbox in memory, on the current runtime, until `cancel`.
    ///
    /// `client` should come from [`super::client_builder`].
    #[must_use]
    pub fn start(config: &Config, client: Client, tracker: &TaskTracker, cancel: CancellationToken) -> Self {
        Self::with_outbox(config, client, Arc::new(MemoryOutbox::new(config.capacity)), tracker, cancel)
    }

    /// Starts delivery from `outbox`.
    #[must_use]
    pub fn with_outbox(
        config: &Config,
        client: Client,
        outbox: Arc<dyn Outbox>,
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        match config.check().and_then(|()| Endpoint::new(config, client)) {
            Ok(Some(endpoint)) => {
                info!("Webhook events go to {}", endpoint.shown());
                Self::run(config, outbox, Arc::new(endpoint), tracker, cancel)
            }
            Ok(None) => Self::disabled(),
            Err(reason) => {
                error!(code = "webhook.unusable", "No webhook events will be sent: {reason}");
                Self::disabled()
            }
        }
    }

    /// Takes everything and sends nothing.
    #[must_use]
    pub fn disabled() -> Self {
        Self { shared: Arc::new(Shared { receiver: None, stats: Arc::default(), cancel: CancellationToken::new() }) }
    }

    fn run(
        config: &Config,
        outbox: Arc<dyn Outbox>,
        post: Arc<dyn Post>,
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let stats = Arc::new(Stats::default());
        let receiver = Receiver {
            name: DEFAULT.into(),
            // checked before
            redaction: Redaction::parse(&config.redact).unwrap_or_default(),
            outbox,
            post,
            schedule: Schedule::new(config.retry, Duration::from_millis(config.backoff_ms)),
            stats: Arc::clone(&stats),
            settled: Notify::new(),
            loud: Mutex::default(),
        };
        let shared = Arc::new(Shared { receiver: Some(receiver), stats, cancel });
        tracker.spawn(dispatch(Arc::clone(&shared), tracker.clone(), config.concurrency.max(1)));
        Self { shared }
    }

    /// Whether there is a receiver at all.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.shared.receiver.is_some()
    }

    /// The counts, which go on counting.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.shared.stats)
    }

    /// Takes an event for delivery.
    ///
    /// # Errors
    /// [`Full`]: the event is lost. It has been counted and reported; the caller need not do either.
    pub async fn put(&self, envelope: Envelope) -> Result<(), Full> {
        self.place(&envelope).await
    }

    /// Takes events for delivery, all of them at once: an outbox on a disk commits them together. They keep their order.
    pub async fn put_all(&self, envelopes: Vec<Envelope>) {
        let places: Vec<_> = envelopes.iter().map(|envelope| self.place(envelope)).collect();
        for placed in places {
            // counted and reported
            let _ = placed.await;
        }
    }

    /// Gives an event its place in the order; resolves once it is as safe as the outbox can make it.
    fn place(&self, envelope: &Envelope) -> impl Future<Output = Result<(), Full>> + use<> {
        let shared = Arc::clone(&self.shared);
        let wanted = catalogue::CONTRACT.contains(&envelope.event.kind());
        let placed = shared.receiver.as_ref().filter(|_| wanted).map(|receiver| {
            let mut entry = Entry::of(envelope, vec![Recipient::plain(Arc::clone(&receiver.name))]);
            entry.body = receiver.redaction.apply(&entry.kind, entry.body);
            let placed = receiver.outbox.put(entry);
            receiver.count();
            placed
        });
        async move {
            let (Some(placed), Some(receiver)) = (placed, &shared.receiver) else { return Ok(()) };
            let result = placed.await;
            if let Err(full) = result {
                receiver.lost(full);
            }
            result
        }
    }

    /// Asks the receiver about an announced call (`call_initiated`) and waits for its JSON answer.
    ///
    /// One attempt with its own time-out, beside the queue: no event of any call waits for it.
    ///
    /// # Errors
    /// Whatever kept a usable answer from coming. It has been logged; the call is to go on without.
    pub async fn initiate(&self, uuid: Uuid, payload: &Map<String, Value>) -> Result<Value, Failed> {
        let Some(receiver) = &self.shared.receiver else { return Err(Failed::Disabled) };
        let body = body::render_initiated(uuid, payload, SystemTime::now());
        let body = receiver.redaction.apply(body::CALL_INITIATED, body);
        let request = Request { event: header(EventId::new()), call: None, body, answer: true };
        let answer = receiver.post.post(request).await.result.and_then(|answer| {
            serde_json::from_slice(&answer).map_err(|error| Failed::Answer(format!("not JSON: {error}")))
        });
        match &answer {
            Ok(answer) => {
                Stats::add(&receiver.stats.initiated);
                info!(%uuid, "Webhook response received: {}", shown::json(answer));
            }
            Err(reason) => {
                Stats::add(&receiver.stats.initiate_failed);
                error!(%uuid, code = "webhook.failed", %reason, "{} Retry failed", tag(body::CALL_INITIATED));
            }
        }
        answer
    }

    /// Waits until everything is delivered or given up, at most until `deadline`; how many events are left.
    pub async fn flush(&self, deadline: Instant) -> usize {
        let Some(receiver) = &self.shared.receiver else { return 0 };
        loop {
            let settled = receiver.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let left = receiver.outbox.left();
            if left == 0 || self.shared.cancel.is_cancelled() {
                return left;
            }
            tokio::select! {
                waited = timeout_at(deadline, settled) => if waited.is_err() {
                    return receiver.outbox.left();
                },
                () = self.shared.cancel.cancelled() => {}
            }
        }
    }
}

/// Hands events to tasks of their own, at most `concurrency` at once.
async fn dispatch(shared: Arc<Shared>, tracker: TaskTracker, concurrency: usize) {
    let Some(receiver) = &shared.receiver else { return };
    let slots = Arc::new(Semaphore::new(concurrency));
    let work = async {
        // the semaphore is never closed
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            let due = receiver.outbox.next(&receiver.name).await;
            let shared = Arc::clone(&shared);
            tracker.spawn(async move {
                let _slot = slot;
                let Some(receiver) = &shared.receiver else { return };
                shared.cancel.run_until_cancelled(receiver.attempt(due)).await;
            });
        }
    };
    shared.cancel.run_until_cancelled(work).await;
}

impl Receiver {
    async fn attempt(&self, due: Due) {
        if due.attempt > 1 {
            Stats::add(&self.stats.retried);
        }
        let call = Some(header(due.call));
        let request = Request { event: header(due.id), call, body: due.body.clone(), answer: false };
        let begin = Instant::now();
        let Reply { status, result, refusal } = self.post.post(request).await;
        let mut report =
            Report { status: status.map(|status| status.as_u16()), latency: begin.elapsed(), ..Report::default() };
        let outcome = match result {
            Ok(answer) => {
                debug!(call = %due.call, uuid = %due.uuid, attempt = due.attempt, "{} delivered", tag(&due.kind));
                report.answer = answer;
                Outcome::Delivered
            }
            Err(reason) => {
                report.error = Some(reason.to_string());
                report.answer = refusal;
                self.failed(&due, &reason)
            }
        };
        match outcome {
            Outcome::Delivered => Stats::add(&self.stats.delivered),
            Outcome::GivenUp => Stats::add(&self.stats.failed),
            Outcome::RetryAfter(_) => {}
        }
        self.outbox.mark(&due, outcome, report);
        self.count();
        if !matches!(outcome, Outcome::RetryAfter(_)) {
            self.settled.notify_waiters();
        }
    }

    fn count(&self) {
        self.stats.queued.store(self.outbox.left() as u64, Relaxed);
    }

    fn failed(&self, due: &Due, reason: &Failed) -> Outcome {
        let (tag, attempts) = (tag(&due.kind), self.schedule.attempts());
        let wait = match reason.verdict() {
            Verdict::Retry(asked) => self.schedule.wait(due.attempt, asked, rand::random()),
            _ => None,
        };
        let Some(wait) = wait else {
            error!(
                call = %due.call, uuid = %due.uuid, event = %due.id, attempts = due.attempt, %reason, code = "webhook.failed",
                "{tag} Retry failed"
            );
            return Outcome::GivenUp;
        };
        warn!(
            call = %due.call, uuid = %due.uuid, event = %due.id, %reason, code = "webhook.retry",
            "{tag} Attempt {} of {attempts} failed, next in {} ms", due.attempt, wait.as_millis()
        );
        Outcome::RetryAfter(wait)
    }

    fn lost(&self, full: Full) {
        Stats::add(&self.stats.lost);
        let mut loud = self.loud.lock().unwrap_or_else(PoisonError::into_inner);
        loud.lost += 1;
        let now = Instant::now();
        if loud.at.is_none_or(|at| now.duration_since(at) >= LOUD_EVERY) {
            error!(code = "webhook.full", lost = loud.lost, "Webhook events are being lost: {full}");
            *loud = Loud { at: Some(now), lost: 0 };
        }
    }
}

/// `[WEBHOOK][CALL_STARTED]`, as administrators search for it.
fn tag(kind: &str) -> String {
    format!("[WEBHOOK][{}]", kind.to_ascii_uppercase())
}

/// An identity as a header value.
fn header(id: impl std::fmt::Display) -> HeaderValue {
    // hexadecimal digits and hyphens: always a header value
    HeaderValue::try_from(id.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

impl Config {
    /// Whether these settings can work.
    ///
    /// # Errors
    /// The first thing that cannot.
    pub fn check(&self) -> Result<(), Unusable> {
        endpoint::parse(self)?;
        Redaction::parse(&self.redact)?;
        endpoint::headers(self).map(drop)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "deliver_tests.rs"]
mod tests;
