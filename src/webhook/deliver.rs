//! The way to the receivers: who is to get an event, rendered once; the outbox; the answer to an announced call.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Map, Value};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    Config, Due, Entry, Failed, Full, MemoryOutbox, Outbox, Outcome, Phase, Recipient, Redaction, Report, Stats, body,
    catalogue::{CALL_COMPLETED, ENDPOINT_DISABLED, SERVICE_FAILED},
    endpoint::{Clients, Endpoint, Reply, Request},
    receiver::{Receiver, receiver, tag},
    report::{Calls, Known},
    settings::Target,
    shown,
    sign::{EndpointStore, Keyring},
    template::Context,
};
use crate::call::{CallEvent, CallId, Envelope, EventId};

/// A full outbox is reported at most this often.
const LOUD_EVERY: Duration = Duration::from_secs(10);

/// The way to the webhook receivers: cheap to clone, shared by everybody who has something to report.
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

pub(super) struct Shared {
    pub receivers: Vec<Arc<Receiver>>,
    pub outbox: Arc<dyn Outbox>,
    pub stats: Arc<Stats>,
    pub cancel: CancellationToken,
    tracker: TaskTracker,
    redaction: Redaction,
    /// `None`: nobody wants to know what happened on a call as a whole.
    calls: Option<Calls>,
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
        Self::run(config, receivers, outbox, tracker, cancel)
    }

    /// Takes everything and sends nothing.
    #[must_use]
    pub fn disabled() -> Self {
        let (config, outbox) = (Config::default(), Arc::new(MemoryOutbox::new(1)));
        Self {
            shared: Arc::new(Shared::new(&config, Vec::new(), outbox, (TaskTracker::new(), CancellationToken::new()))),
        }
    }

    pub(super) fn run(
        config: &Config,
        receivers: Vec<Receiver>,
        outbox: Arc<dyn Outbox>,
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

    /// Reports a call that was refused before it became one: `call_completed`, for who wants it.
    pub async fn refused(&self, call: CallId, uuid: Uuid, code: &str) {
        if let Some(calls) = &self.shared.calls {
            let report = calls.refused(call, uuid).report(Some(code));
            let _ = self.shared.free(CALL_COMPLETED, (call, uuid), &report, |_| true).await;
        }
    }

    /// Reports a service that a call to come was not given, for who wants it.
    pub async fn service_refused(&self, uuid: Uuid, code: &str, message: &str) {
        let payload = Map::from_iter([("code".to_owned(), code.into()), ("message".to_owned(), message.into())]);
        let _ = self.shared.free(SERVICE_FAILED, (CallId::new(), uuid), &payload, |_| true).await;
    }

    /// Gives an event its place in the order; resolves once it is as safe as the outbox can make it.
    fn place(&self, envelope: &Envelope) -> impl Future<Output = Result<(), Full>> + use<> {
        let shared = Arc::clone(&self.shared);
        // both are in their places before anybody waits: nothing comes between the end of a call and its report
        let (event, report) = shared.entries(envelope);
        let event = event.map(|entry| shared.give(entry));
        let report = report.map(|entry| shared.give(entry));
        async move {
            let result = match event {
                Some(placed) => shared.placed(placed.await),
                None => Ok(()),
            };
            if let Some(report) = report {
                // counted and reported
                let _ = shared.placed(report.await);
            }
            result
        }
    }

    /// Asks the receiver of `WEBHOOK_URL` about an announced call (`call_initiated`) and waits for its JSON answer.
    ///
    /// One attempt with its own time-out, beside the queue: no event of any call waits for it. Other receivers get the event by the
    /// ordinary way, with the same identity.
    ///
    /// # Errors
    /// Whatever kept a usable answer from coming. It has been logged; the call is to go on without.
    pub async fn initiate(&self, uuid: Uuid, payload: &Map<String, Value>) -> Result<Value, Failed> {
        let shared = &self.shared;
        let (id, call, at) = (EventId::new(), CallId::new(), SystemTime::now());
        let body = shared.redaction.apply(body::CALL_INITIATED, body::render_initiated(uuid, payload, at));
        if let Some(entry) =
            shared.free_entry((id, body::CALL_INITIATED), (call, uuid, at), body.clone(), |to| !to.is_contract())
        {
            let _ = shared.placed(shared.give(entry).await);
        }
        let Some(receiver) = shared.receivers.iter().find(|receiver| receiver.is_contract()) else {
            return Err(Failed::Disabled);
        };
        let request = Request { id, place: None, attempt: 1, url: None, body: body.clone(), answer: true };
        let begin = Instant::now();
        let Reply { status, result, refusal } = receiver.ask(request).await;
        let mut report = Report {
            status: status.map(|status| status.as_u16()),
            latency: begin.elapsed(),
            answer: refusal,
            error: None,
        };
        let outcome = if result.is_ok() { Outcome::Delivered } else { Outcome::GivenUp };
        report.error = result.as_ref().err().map(ToString::to_string);
        if let Some(store) = receiver.store.clone() {
            let (kind, to) = (body::CALL_INITIATED.into(), vec![Recipient::plain(Arc::clone(&receiver.name))]);
            let entry = Entry { id, call, uuid, kind, at, phase: Phase::End, body, to };
            // the dialplan does not wait for the disk
            shared.tracker.spawn(async move {
                if let Err(reason) = store.asked(entry, outcome, report).await {
                    warn!(%uuid, %reason, "what became of {} could not be recorded", tag(body::CALL_INITIATED));
                }
            });
        }
        let answer = result.and_then(|answer| {
            serde_json::from_slice(&answer).map_err(|error| Failed::Answer(format!("not JSON: {error}")))
        });
        match &answer {
            Ok(answer) => {
                Stats::add(&shared.stats.initiated);
                info!(%uuid, "Webhook response received: {}", shown::json(answer));
            }
            Err(reason) => {
                Stats::add(&shared.stats.initiate_failed);
                error!(%uuid, code = "webhook.failed", %reason, "{} Retry failed", tag(body::CALL_INITIATED));
            }
        }
        answer
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
        outbox: Arc<dyn Outbox>,
        (tracker, cancel): (TaskTracker, CancellationToken),
    ) -> Self {
        let needs_calls = |to: &Arc<Receiver>| {
            to.wants(CALL_COMPLETED) || to.payload.is_some() || matches!(to.target, Some(Target::Template(_)))
        };
        Self {
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

    /// What an event puts into the outbox: itself and, if it ends its call, the call's report; each if anybody wants it.
    fn entries(&self, envelope: &Envelope) -> (Option<Entry>, Option<Entry>) {
        let kind = envelope.event.kind();
        let mut entry = Entry::of(envelope, Vec::new());
        entry.body = self.redaction.apply(kind, entry.body);
        let event = self.calls.as_ref().map(|_| serde_json::from_slice::<Value>(&entry.body).unwrap_or_default());
        let known =
            self.calls.as_ref().zip(event.as_ref()).map(|(calls, event)| calls.take(envelope, &event["payload"]));
        entry.to = self.recipients(kind, known.as_ref().zip(event.as_ref()), |_| true);
        let report = match (known, &envelope.event) {
            (Some(known), CallEvent::Ended(_)) => self.report(known, envelope),
            _ => None,
        };
        ((!entry.to.is_empty()).then_some(entry), report)
    }

    fn report(&self, known: Known, envelope: &Envelope) -> Option<Entry> {
        let report = known.clone().report(None);
        let body = body::render_free(envelope.uuid, CALL_COMPLETED, &report, envelope.at);
        let body = self.redaction.apply(CALL_COMPLETED, body);
        let event = serde_json::from_slice(&body).unwrap_or_default();
        let to = self.recipients(CALL_COMPLETED, Some((&known, &event)), |_| true);
        let (id, call, uuid, at) = (EventId::new(), envelope.call, envelope.uuid, envelope.at);
        (!to.is_empty()).then(|| Entry { id, call, uuid, kind: CALL_COMPLETED.into(), at, phase: Phase::End, body, to })
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

    /// An event outside of any order, as one of a call by itself.
    fn free_entry(
        &self,
        (id, kind): (EventId, &'static str),
        (call, uuid, at): (CallId, Uuid, SystemTime),
        body: Bytes,
        who: impl Fn(&Receiver) -> bool,
    ) -> Option<Entry> {
        let event = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        let known = Known::nothing(call, uuid, &event["payload"], kind == body::CALL_INITIATED);
        let to = self.recipients(kind, Some((&known, &event)), who);
        (!to.is_empty()).then(|| Entry { id, call, uuid, kind: kind.into(), at, phase: Phase::End, body, to })
    }

    async fn free(
        &self,
        kind: &'static str,
        (call, uuid): (CallId, Uuid),
        payload: &Map<String, Value>,
        who: impl Fn(&Receiver) -> bool,
    ) -> Result<(), Full> {
        let at = SystemTime::now();
        let body = self.redaction.apply(kind, body::render_free(uuid, kind, payload, at));
        match self.free_entry((EventId::new(), kind), (call, uuid, at), body, who) {
            Some(entry) => self.placed(self.give(entry).await),
            None => Ok(()),
        }
    }

    /// Tells the others that an endpoint gets nothing any more.
    pub(super) async fn endpoint_disabled(&self, endpoint: &str, uuid: Uuid, reason: &str) {
        let payload = Map::from_iter([("endpoint".to_owned(), endpoint.into()), ("reason".to_owned(), reason.into())]);
        let _ = self.free(ENDPOINT_DISABLED, (CallId::new(), uuid), &payload, |to| *to.name != *endpoint).await;
    }

    fn give(&self, entry: Entry) -> futures_core::future::BoxFuture<'static, Result<(), Full>> {
        let placed = self.outbox.put(entry);
        self.count();
        placed
    }

    fn placed(&self, result: Result<(), Full>) -> Result<(), Full> {
        if let Err(full) = result {
            self.lost(full);
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
