//! One receiver's deliveries: whose turn it is, the attempt, and what becomes of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{OnceCell, Semaphore},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use super::{
    DEFAULT, Due, Failed, Outcome, Report, Stats,
    deliver::Shared,
    endpoint::{Post, Reply, Request},
    schedule::{Schedule, Verdict},
    settings::{Ready, Target},
    sign::{self, EndpointStore, Keyring},
    template::Template,
};

/// How often stored secrets and the state of an endpoint are looked at: others may change them.
const REFRESH: Duration = Duration::from_secs(10);

/// A receiver of events.
pub(super) struct Receiver {
    pub name: Arc<str>,
    pub events: Vec<String>,
    pub post: Arc<dyn Post>,
    pub schedule: Schedule,
    pub concurrency: usize,
    /// Between two requests at least.
    pub pause: Option<Duration>,
    pub payload: Option<Template>,
    pub target: Option<Target>,
    pub keyring: Keyring,
    /// Where its signing secret is kept, unless that is configured.
    pub store: Option<Arc<dyn EndpointStore>>,
    /// Whether keys have to come from the store.
    pub stored_keys: bool,
    pub prepared: OnceCell<()>,
    pub disabled: AtomicBool,
}

/// A receiver that nothing has been sent to yet.
pub(super) fn receiver(
    name: &str,
    ready: Ready,
    post: Arc<dyn Post>,
    keyring: Keyring,
    store: Option<Arc<dyn EndpointStore>>,
) -> Receiver {
    Receiver {
        name: name.into(),
        stored_keys: ready.keys.is_none(),
        events: ready.events,
        post,
        schedule: ready.schedule,
        concurrency: ready.concurrency,
        pause: (ready.rate > 0.0).then(|| Duration::from_secs_f64(1.0 / ready.rate.max(0.001))),
        payload: ready.payload,
        target: Some(ready.target),
        keyring,
        store,
        prepared: OnceCell::new(),
        disabled: false.into(),
    }
}

impl Receiver {
    /// Whether it gets events of this type.
    pub(super) fn wants(&self, kind: &str) -> bool {
        self.events.iter().any(|event| event == "*" || event == kind)
    }

    /// Loads what is stored about this endpoint; its signing secret is made at the first start.
    pub(super) async fn prepare(&self) -> Result<(), Failed> {
        let Some(store) = &self.store else { return Ok(()) };
        let load = || async {
            if self.stored_keys {
                self.keyring.set(sign::stored(&**store, &self.name).await?);
            }
            self.disabled.store(store.disabled(&self.name).await?.is_some(), Relaxed);
            Ok(())
        };
        self.prepared.get_or_try_init(load).await.map(drop).map_err(|reason: String| {
            Failed::Unprepared(format!("the settings stored for this endpoint cannot be read: {reason}"))
        })
    }

    /// Follows what others change in the store: a rotated secret, an endpoint disabled or enabled.
    pub(super) async fn follow(&self) {
        let Some(store) = &self.store else { return };
        loop {
            sleep(REFRESH).await;
            if !self.prepared.initialized() {
                continue;
            }
            match store.load(&self.name).await {
                Ok(Some(text)) if self.stored_keys => match text.parse() {
                    Ok(keys) => self.keyring.set(keys),
                    Err(reason) => warn!(endpoint = %self.name, %reason, "a stored signing secret is not used"),
                },
                // the database says itself what is wrong with it
                _ => {}
            }
            if let Ok(disabled) = store.disabled(&self.name).await {
                let was = self.disabled.swap(disabled.is_some(), Relaxed);
                if was && disabled.is_none() {
                    info!(endpoint = %self.name, "this webhook endpoint is enabled again");
                }
            }
        }
    }

    /// Hands its events to tasks of their own, at most `concurrency` at once and `rate` in a second.
    pub(super) async fn dispatch(self: Arc<Self>, shared: Arc<Shared>, tracker: TaskTracker) {
        let slots = Arc::new(Semaphore::new(self.concurrency));
        let mut free_at = Instant::now();
        // the semaphore is never closed
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            // even for a moment that is over a timer takes a millisecond
            if self.pause.is_some() {
                sleep_until(free_at).await;
            }
            let due = shared.outbox.next(&self.name).await;
            free_at = Instant::now() + self.pause.unwrap_or_default();
            let (receiver, shared) = (Arc::clone(&self), Arc::clone(&shared));
            tracker.spawn(async move {
                let _slot = slot;
                shared.cancel.run_until_cancelled(receiver.attempt(due, &shared)).await;
            });
        }
    }

    async fn attempt(&self, due: Due, shared: &Shared) {
        if due.attempt > 1 {
            Stats::add(&shared.stats.retried);
        }
        let begin = Instant::now();
        let Reply { status, result, refusal } = self.ask(Request::of(&due)).await;
        let mut report =
            Report { status: status.map(|status| status.as_u16()), latency: begin.elapsed(), ..Report::default() };
        let outcome = match result {
            Ok(answer) => {
                debug!(call = %due.call, uuid = %due.uuid, endpoint = %self.name, attempt = due.attempt, "{} delivered", tag(&due.kind));
                report.answer = answer;
                Outcome::Delivered
            }
            Err(reason) => {
                report.error = Some(reason.to_string());
                report.answer = refusal;
                self.failed(&due, &reason, shared).await
            }
        };
        shared.settle(&due, outcome, report);
    }

    /// Sends a request, unless nothing is to be sent.
    pub(super) async fn ask(&self, request: Request) -> Reply {
        if let Err(failed) = self.prepare().await {
            return failed.into();
        }
        if self.disabled.load(Relaxed) {
            return Failed::Gone.into();
        }
        self.post.post(request).await
    }

    async fn failed(&self, due: &Due, reason: &Failed, shared: &Shared) -> Outcome {
        let (tag, attempts) = (tag(&due.kind), self.schedule.attempts());
        let verdict = reason.verdict();
        if verdict == Verdict::Gone {
            self.disable(due, shared).await;
        }
        let wait = match verdict {
            Verdict::Retry(asked) => self.schedule.wait(due.scheduled(), asked, rand::random()),
            _ => None,
        };
        let Some(wait) = wait else {
            error!(
                call = %due.call, uuid = %due.uuid, event = %due.id, endpoint = %self.name, attempts = due.attempt, %reason, code = "webhook.failed",
                "{tag} Retry failed"
            );
            return Outcome::GivenUp;
        };
        warn!(
            call = %due.call, uuid = %due.uuid, event = %due.id, endpoint = %self.name, %reason, code = "webhook.retry",
            "{tag} Attempt {} of {attempts} failed, next in {} ms", due.scheduled(), wait.as_millis()
        );
        Outcome::RetryAfter(wait)
    }

    /// The receiver answered 410: it gets nothing any more, which the others hear of.
    async fn disable(&self, due: &Due, shared: &Shared) {
        if self.disabled.swap(true, Relaxed) {
            return;
        }
        let reason = "the receiver answered 410 Gone";
        let hint = if self.store.is_some() {
            "enable it with `hark webhooks enable`"
        } else {
            "it is asked again after a restart"
        };
        error!(
            endpoint = %self.name, code = "webhook.disabled",
            "This webhook endpoint is disabled, because {reason}: its events go to the dead letters; {hint}"
        );
        if let Some(store) = &self.store
            && let Err(fault) = store.disable(&self.name, reason).await
        {
            warn!(endpoint = %self.name, reason = %fault, "that this endpoint is disabled could not be stored: it is asked again after a restart");
        }
        shared.endpoint_disabled(&self.name, due.uuid, reason).await;
    }

    /// Whether this is the receiver that `WEBHOOK_URL` sets.
    pub(super) fn is_contract(&self) -> bool {
        &*self.name == DEFAULT
    }
}

/// `[WEBHOOK][CALL_STARTED]`, as administrators search for it.
pub(super) fn tag(kind: &str) -> String {
    format!("[WEBHOOK][{}]", kind.to_ascii_uppercase())
}
