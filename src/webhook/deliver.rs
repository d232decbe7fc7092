//! The way to the receivers: who is to get an event, rendered once, and the outbox.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_core::future::BoxFuture;
use http::HeaderValue;
use serde_json::{Map, Value};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::{
    Config, Due, Entry, Full, Initiate, MemoryOutbox, Outbox, Outcome, Phase, Recipient, Redaction, Report, Stats,
    body,
    breaker::Breaker,
    catalogue::{CALL_COMPLETED, ENDPOINT_DISABLED, SERVICE_FAILED},
    endpoint::{Clients, Endpoint},
    receiver::{Receiver, receiver, tag},
    report::{Calls, Known},
    settings::Target,
    sign::{EndpointStore, Keyring},
    template::Context,
};
use crate::call::{CallEvent, CallId, Envelope, EventId};

/// A full outbox is reported at most this often.
const LOUD_EVERY: Duration = Duration::from_secs(10);
/// Calls that are remembered for having lost events.
const MOST_MISSING: usize = 10_000;

/// The way to the webhook receivers: cheap to clone, shared by everybody who has something to report.
///
/// With no URL, or one that cannot work, it takes everything and sends nothing.
#[derive(Clone)]
pub struct Webhooks {
    pub(super) shared: Arc<Shared>,
}

impl std::fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhooks").field("enabled", &self.enabled()).finish_non_exhaustive()
    }
}

pub(super) struct Shared {
    pub receivers: Vec<Arc<Receiver>>,
    pub outbox: Arc<dyn Outbox>,
    pub stats: Arc<Stats>,
    pub cancel: CancellationToken,
    pub tracker: TaskTracker,
    pub redaction: Redaction,
    pub initiate: Initiate,
    pub breaker: Breaker,
    /// `None`: nobody wants to know what happened on a call as a whole.
    calls: Option<Calls>,
    /// An event has left the outbox.
    settled: Notify,
    loud: Mutex<Loud>,
    /// Calls of which events were lost, until a receiver could be told.
    missing: Mutex<BTreeMap<CallId, u64>>,
    /// Whether events are kept that nobody gets: the store is asked for the whole of a call that its gateway's death has ended.
    keeps: Keeps,
}

/// Which events of a call are put although nobody is to get them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    /// The outbox forgets everything anyway.
    Nothing,
    /// Those that begin and end the call.
    Ends,
    /// All: they would be in the call's report.
    All,
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
    /// The clients should come from [`super::client_builder`].
    #[must_use]
    pub fn start(
        config: &Config,
        clients: impl Into<Clients>,
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        Self::with_outbox(config, clients, Arc::new(MemoryOutbox::new(config.capacity)), tracker, cancel)
    }

    /// Starts delivery from `outbox`.
    #[must_use]
    pub fn with_outbox(
        config: &Config,
        clients: impl Into<Clients>,
        outbox: Arc<dyn Outbox>,
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        Self::with_store(config, clients, (outbox, None), tracker, cancel)
    }

    /// Starts delivery from an outbox, with what `store` keeps of the endpoints themselves.
    #[must_use]
    pub fn with_store(
        config: &Config,
        clients: impl Into<Clients>,
        (outbox, store): (Arc<dyn Outbox>, Option<Arc<dyn EndpointStore>>),
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let clients = clients.into();
        let mut receivers = Vec::new();
        for (name, ready) in config.receivers() {
            let ready = match ready {
                Ok(ready) => ready,
                Err(reason) => {
                    error!(endpoint = %name, code = "webhook.unusable", "No webhook events will be sent: {reason}");
                    continue;
                }
            };
            info!("Webhook events go to {}", ready.target);
            let keyring = ready.keys.clone().map(Keyring::new).unwrap_or_default();
            let agent_id = config.agent_id.as_deref().and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok());
            let endpoint = Endpoint::new(&ready, agent_id, &clients, keyring.clone(), config.allow_hosts.clone());
            receivers.push(receiver(&name, ready, Arc::new(endpoint), keyring, store.clone()));
        }
        Self::run(config, receivers, (outbox, store.is_some()), tracker, cancel)
    }

    /// Takes everything and sends nothing.
    #[must_use]
    pub fn disabled() -> Self {
        let (config, outbox) = (Config::default(), Arc::new(MemoryOutbox::new(1)));
        Self {
            shared: Arc::new(Shared::new(
                &config,
                Vec::new(),
                (outbox, false),
                (TaskTracker::new(), CancellationToken::new()),
            )),
        }
    }

    pub(super) fn run(
        config: &Config,
        receivers: Vec<Receiver>,
        outbox: (Arc<dyn Outbox>, bool),
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let receivers: Vec<_> = receivers.into_iter().map(Arc::new).collect();
        let shared = Arc::new(Shared::new(config, receivers.clone(), outbox, (tracker.clone(), cancel.clone())));
        for receiver in receivers {
            if receiver.store.is_some() {
                let (cancel, receiver) = (cancel.clone(), Arc::clone(&receiver));
                tracker.spawn(async move { cancel.run_until_cancelled(receiver.follow()).await });
            }
            let dispatch = receiver.dispatch(Arc::clone(&shared), tracker.clone());
            tracker.spawn(cancel.clone().run_until_cancelled_owned(dispatch));
        }
        Self { shared }
    }

    /// Whether there is a receiver at all.
    #[must_use]
    pub fn enabled(&self) -> bool {
        !self.shared.receivers.is_empty()
    }

    /// The counts, which go on counting.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.shared.stats)
    }

    /// Notes what `POST /call` said about a call that begins, for its report and for templates.
    pub fn describe(&self, call: CallId, metadata: &Map<String, Value>) {
        if let Some(calls) = &self.shared.calls {
            let mut metadata = Value::from(metadata.clone());
            self.shared.redaction.apply_to(body::CALL_INITIATED, &mut metadata);
            if let Value::Object(metadata) = metadata {
                calls.describe(call, metadata);
            }
        }
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

    /// Reports a call that never became one: `call_completed`, for who wants it. `last`: the identity and time of that event, so that
    /// several gateways say it once. Nothing more is to come of the call.
    pub async fn refused(&self, call: CallId, uuid: Uuid, code: &str, last: Option<(EventId, SystemTime)>) {
        let shared = &self.shared;
        if let Some(calls) = &shared.calls {
            let known = calls.refused(call, uuid);
            let (id, at) = last.unwrap_or_else(|| (EventId::new(), SystemTime::now()));
            let report = known.clone().report(Some(code));
            let body = shared.redaction.apply(CALL_COMPLETED, body::render_free(uuid, CALL_COMPLETED, &report, at));
            if let Some(entry) = shared.completed(&known, (id, call, uuid, at), body) {
                let taken = shared.give(vec![entry]).await;
                let _ = shared.placed(call, uuid, taken);
            }
        }
        shared.outbox.forget(call);
    }

    /// Takes an event of a call that a former gateway has stored, for the report about it.
    pub fn recall(&self, call: CallId, kind: &str, at: SystemTime, body: &[u8]) {
        if let Some(calls) = &self.shared.calls {
            let body: Value = serde_json::from_slice(body).unwrap_or_default();
            calls.recall(call, kind, at, &body["payload"]);
        }
    }

    /// Reports a service that a call to come was not given, for who wants it.
    pub async fn service_refused(&self, uuid: Uuid, code: &str, message: &str) {
        let payload = Map::from_iter([("code".to_owned(), code.into()), ("message".to_owned(), message.into())]);
        self.shared.free(SERVICE_FAILED, uuid, &payload, |_| true).await;
    }

    /// Gives an event its place in the order; resolves once it is as safe as the outbox can make it.
    fn place(&self, envelope: &Envelope) -> impl Future<Output = Result<(), Full>> + use<> {
        let shared = Arc::clone(&self.shared);
        // together: nothing comes between the end of a call and its report, and no crash leaves one without the other
        let entries = shared.entries(envelope);
        let (call, uuid) = (envelope.call, envelope.uuid);
        let taken = (!entries.is_empty()).then(|| shared.give(entries));
        async move {
            match taken {
                Some(taken) => shared.placed(call, uuid, taken.await),
                None => Ok(()),
            }
        }
    }

    /// Waits until everything is delivered or given up, at most until `deadline`; how many events are left.
    pub async fn flush(&self, deadline: Instant) -> usize {
        let shared = &self.shared;
        loop {
            let settled = shared.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let left = shared.outbox.left();
            if left == 0 || shared.cancel.is_cancelled() {
                return left;
            }
            tokio::select! {
                waited = timeout_at(deadline, settled) => if waited.is_err() {
                    return shared.outbox.left();
                },
                () = shared.cancel.cancelled() => {}
            }
        }
    }
}

impl Shared {
    fn new(
        config: &Config,
        receivers: Vec<Arc<Receiver>>,
        (outbox, durable): (Arc<dyn Outbox>, bool),
        (tracker, cancel): (TaskTracker, CancellationToken),
    ) -> Self {
        let needs_calls = |to: &Arc<Receiver>| {
            to.wants(CALL_COMPLETED) || to.payload.is_some() || matches!(to.target, Some(Target::Template(_)))
        };
        let reported = receivers.iter().any(|to| to.wants(CALL_COMPLETED));
        Self {
            keeps: match (durable && !receivers.is_empty(), reported) {
                (false, _) => Keeps::Nothing,
                (true, false) => Keeps::Ends,
                (true, true) => Keeps::All,
            },
            initiate: config.initiate.clone(),
            breaker: Breaker::new(config.initiate.failures, Duration::from_secs(config.initiate.open_s)),
            missing: Mutex::default(),
            calls: receivers.iter().any(needs_calls).then(Calls::default),
            receivers,
            outbox,
            stats: Arc::default(),
            cancel,
            tracker,
            // checked with the settings
            redaction: Redaction::parse(&config.redact).unwrap_or_default(),
            settled: Notify::new(),
            loud: Mutex::default(),
        }
    }

    /// What an event puts into the outbox: itself, before it what was lost of its call, and behind the last one the call's report; each
    /// if anybody wants it.
    fn entries(&self, envelope: &Envelope) -> Vec<Entry> {
        let kind = envelope.event.kind();
        let mut entry = Entry::of(envelope, Vec::new());
        entry.body = self.redaction.apply(kind, entry.body);
        let event = self.calls.as_ref().map(|_| serde_json::from_slice::<Value>(&entry.body).unwrap_or_default());
        let known =
            self.calls.as_ref().zip(event.as_ref()).map(|(calls, event)| calls.take(envelope, &event["payload"]));
        entry.to = self.recipients(kind, known.as_ref().zip(event.as_ref()), |_| true);
        let mut entries = Vec::new();
        entries.extend(self.missed(envelope));
        let keep = match self.keeps {
            Keeps::Nothing => false,
            Keeps::Ends => entry.phase != Phase::Middle,
            Keeps::All => true,
        };
        if keep || !entry.to.is_empty() {
            entries.push(entry);
        }
        if let (Some(known), CallEvent::Ended(_)) = (known, &envelope.event) {
            entries.extend(self.report(&known, envelope));
        }
        entries
    }

    fn report(&self, known: &Known, envelope: &Envelope) -> Option<Entry> {
        let (call, uuid, at) = (envelope.call, envelope.uuid, envelope.at);
        let body = body::render_free(uuid, CALL_COMPLETED, &known.clone().report(None), at);
        self.completed(known, (EventId::new(), call, uuid, at), self.redaction.apply(CALL_COMPLETED, body))
    }

    /// A call's report.
    fn completed(
        &self,
        known: &Known,
        (id, call, uuid, at): (EventId, CallId, Uuid, SystemTime),
        body: Bytes,
    ) -> Option<Entry> {
        let event = serde_json::from_slice(&body).unwrap_or_default();
        let to = self.recipients(CALL_COMPLETED, Some((known, &event)), |_| true);
        (!to.is_empty()).then(|| Entry { id, call, uuid, kind: CALL_COMPLETED.into(), at, phase: Phase::End, body, to })
    }

    /// Says how many events of a call were lost, where the next one comes.
    fn missed(&self, envelope: &Envelope) -> Option<Entry> {
        let count = self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&envelope.call)?;
        let (id, call, uuid, at) = (EventId::new(), envelope.call, envelope.uuid, envelope.at);
        let lost = Envelope { id, call, uuid, at, event: CallEvent::EventsLost(count) };
        self.single((id, lost.event.kind(), Phase::Middle), (call, uuid, at), body::render(&lost), |_| true)
    }

    /// Who is to get an event, each with what is its own.
    fn recipients(
        &self,
        kind: &str,
        context: Option<(&Known, &Value)>,
        who: impl Fn(&Receiver) -> bool,
    ) -> Vec<Recipient> {
        let mut members = None;
        let wanting = self.receivers.iter().filter(|receiver| receiver.wants(kind) && who(receiver));
        let recipient = |receiver: &Arc<Receiver>| {
            let mut to = Recipient::plain(Arc::clone(&receiver.name));
            if receiver.payload.is_none() && !matches!(receiver.target, Some(Target::Template(_))) {
                return to;
            }
            let context = members.get_or_insert_with(|| {
                let members = context.map(|(known, event)| known.context(event)).unwrap_or_default();
                Context { members, now: SystemTime::now() }
            });
            if let Some(template) = &receiver.payload {
                to.body = Some(template.render(context).to_string().into());
            }
            if let Some(Target::Template(template)) = &receiver.target {
                match template.render(context) {
                    Ok(url) => to.url = Some(url.as_str().into()),
                    // it goes to the dead letters, where a person can see it
                    Err(reason) => {
                        warn!(endpoint = %receiver.name, code = "webhook.address", "{} has no address: its url {reason}", tag(kind));
                    }
                }
            }
            to
        };
        wanting.map(recipient).collect()
    }

    /// An event of which nothing is known but what it says.
    pub(super) fn single(
        &self,
        (id, kind, phase): (EventId, &'static str, Phase),
        (call, uuid, at): (CallId, Uuid, SystemTime),
        body: Bytes,
        who: impl Fn(&Receiver) -> bool,
    ) -> Option<Entry> {
        let event = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        let known = Known::nothing(call, uuid, &event["payload"], kind == body::CALL_INITIATED);
        let to = self.recipients(kind, Some((&known, &event)), who);
        (!to.is_empty()).then(|| Entry { id, call, uuid, kind: kind.into(), at, phase, body, to })
    }

    /// Puts an event of no call, as one of a call by itself.
    async fn free(
        &self,
        kind: &'static str,
        uuid: Uuid,
        payload: &Map<String, Value>,
        who: impl Fn(&Receiver) -> bool,
    ) {
        let (id, call, at) = (EventId::new(), CallId::new(), SystemTime::now());
        let body = self.redaction.apply(kind, body::render_free(uuid, kind, payload, at));
        if let Some(entry) = self.single((id, kind, Phase::End), (call, uuid, at), body, who) {
            let taken = self.give(vec![entry]).await;
            let _ = self.placed(call, uuid, taken);
        }
    }

    /// Tells the others that an endpoint gets nothing any more.
    pub(super) async fn endpoint_disabled(&self, endpoint: &str, uuid: Uuid, reason: &str) {
        let payload = Map::from_iter([("endpoint".to_owned(), endpoint.into()), ("reason".to_owned(), reason.into())]);
        self.free(ENDPOINT_DISABLED, uuid, &payload, |to| *to.name != *endpoint).await;
    }

    pub(super) fn give(&self, entries: Vec<Entry>) -> BoxFuture<'static, Result<(), Full>> {
        let placed = self.outbox.put_all(entries);
        self.count();
        placed
    }

    /// Notes that an event of a call was lost, if it was.
    pub(super) fn placed(&self, call: CallId, uuid: Uuid, result: Result<(), Full>) -> Result<(), Full> {
        if let Err(full) = result {
            self.lost(full);
            let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
            *missing.entry(call).or_default() += 1;
            if missing.len() > MOST_MISSING {
                // the oldest: most likely over
                missing.pop_first();
                debug!(%call, %uuid, "too many calls lose events to remember them all");
            }
        }
        result
    }

    /// Records what became of a delivery.
    pub(super) fn settle(&self, due: &Due, outcome: Outcome, report: Report) {
        match outcome {
            Outcome::Delivered => Stats::add(&self.stats.delivered),
            Outcome::GivenUp => Stats::add(&self.stats.failed),
            Outcome::RetryAfter(_) => {}
        }
        self.outbox.mark(due, outcome, report);
        self.count();
        if !matches!(outcome, Outcome::RetryAfter(_)) {
            self.settled.notify_waiters();
        }
    }

    fn count(&self) {
        self.stats.queued.store(self.outbox.left() as u64, Relaxed);
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "deliver_tests.rs"]
mod tests;
