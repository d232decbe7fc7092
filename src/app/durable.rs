//! The store's place in the hall: opened with the gateway, watched, and asked for calls that nobody has ended.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::sleep;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{Announced, recording::Recordings};
use crate::{
    api::Readiness,
    call::{CallEvent, CallId, EndReason, Envelope, EventId},
    config::Config,
    session::Announcement,
    telemetry::metrics::Metrics,
    webhook::{
        Webhooks,
        store::{self, Store, StoreError, last_word},
    },
};

/// Why `/ready` says no while the database does not work.
const BROKEN: &str = "store";
/// Beside twice an attempt's time-out, a lease lasts this long.
const SPARE: Duration = Duration::from_secs(30);
/// How often announced calls are looked for that never came.
const LOOK_FOR_UNCONNECTED: Duration = Duration::from_secs(2);

/// The store, unless nothing would be kept in it: no receiver and no database that others look into.
pub(super) async fn open(config: &Config) -> Result<Option<Store>, StoreError> {
    let url = config.database.url.clone().filter(|url| !url.is_empty());
    if url.is_none() && (!config.webhooks.has_receivers() || config.data_dir.as_os_str().is_empty()) {
        return Ok(None);
    }
    let timeout = config.webhooks.longest_attempt();
    let config = store::Config {
        data_dir: config.data_dir.clone(),
        url,
        lease: timeout.saturating_mul(2).saturating_add(SPARE),
        prefetch: config.webhooks.concurrency.saturating_mul(2).clamp(2, 256),
        ..store::Config::default()
    };
    Store::open(&config).await.map(Some)
}

/// Says under `/ready` whether the database works.
pub(super) async fn watch(store: Store, readiness: Arc<Readiness>) {
    let mut health = store.health();
    loop {
        let broken = health.borrow_and_update().as_ref().map(ToString::to_string);
        match broken {
            Some(reason) => readiness.set(BROKEN, reason),
            None => readiness.clear(BROKEN),
        }
        if health.changed().await.is_err() {
            return;
        }
    }
}

/// Ends the calls that were live when their gateway was killed: whoever counts calls learns of each end.
pub(super) async fn end_orphans(store: Store, webhooks: Webhooks, recordings: Arc<Recordings>) {
    while let Some(orphans) = store.orphans().await {
        let calls: Vec<_> = orphans.iter().map(|orphan| orphan.call).collect();
        let recalled = store.past(&calls, |past| webhooks.recall(past.call, &past.kind, past.at, &past.body)).await;
        if let Err(error) = recalled {
            warn!(
                code = error.code(),
                "reports about the calls of a killed gateway say little, their events cannot be read: {error}"
            );
        }
        for orphan in orphans {
            let reason = EndReason::GatewayRestarted;
            warn!(call = %orphan.call, uuid = %orphan.uuid, reason = reason.code(), "this call was live when its gateway was killed: it is reported as ended");
            let at = SystemTime::now();
            if let Some(event) = recordings.found(orphan.call) {
                let _ = webhooks
                    .put(Envelope { id: EventId::new(), call: orphan.call, uuid: orphan.uuid, at, event })
                    .await;
            }
            let (id, event) = (EventId::new(), CallEvent::Ended(reason));
            // a full outbox has counted and reported it; the next start tries again
            let _ = webhooks.put(Envelope { id, call: orphan.call, uuid: orphan.uuid, at, event }).await;
        }
    }
}

/// Reports announced calls that never came: whoever was told of them learns that they are over.
pub(super) async fn end_unconnected(store: Option<Store>, announced: Arc<Announced>, webhooks: Webhooks) {
    loop {
        sleep(LOOK_FOR_UNCONNECTED).await;
        for gone in announced.gone() {
            let call = gone.announcement.call.map(CallId::from).unwrap_or_default();
            unconnected(&webhooks, call, gone.uuid, gone.replaced, Some(gone.announcement), None).await;
        }
        let Some(store) = &store else { continue };
        let found = match store.unconnected().await {
            Ok(found) => found,
            // the database says itself what is wrong with it
            Err(_) => continue,
        };
        for one in found {
            let announcement = serde_json::from_str(&one.body).ok();
            let last = Some((last_word(one.call, one.at), one.at));
            unconnected(&webhooks, one.call, one.uuid, one.replaced, announcement, last).await;
            if let Err(error) = store.give_up(one.call).await {
                debug!(code = error.code(), call = %one.call, "an announcement could not be closed: {error}");
            }
        }
    }
}

async fn unconnected(
    webhooks: &Webhooks,
    call: CallId,
    uuid: Uuid,
    replaced: bool,
    announcement: Option<Announcement>,
    last: Option<(EventId, SystemTime)>,
) {
    let code = if replaced { "call.announced_again" } else { "call.never_connected" };
    info!(%call, %uuid, code, "a call that POST /call announced did not come");
    if let Some(announcement) = announcement {
        webhooks.describe(call, &announcement.payload);
    }
    webhooks.refused(call, uuid, code, last).await;
}

/// Shows what the store holds under `/metrics`.
pub(super) fn export(metrics: &Metrics, store: &Store) {
    #[allow(clippy::cast_precision_loss, reason = "counts of rows")]
    fn sum<'a>(counts: impl Iterator<Item = &'a u64>) -> f64 {
        counts.sum::<u64>() as f64
    }
    let shown = store.clone();
    let pending = move || sum(shown.counters().pending.values());
    metrics.register_gauge_fn("store_pending", "Deliveries in the database that wait or are under way", pending);
    let shown = store.clone();
    let dead = move || sum(shown.counters().dead.values());
    metrics.register_gauge_fn("store_dead", "Dead letters in the database", dead);
    let shown = store.clone();
    let oldest = move || {
        let oldest = shown.counters().oldest.into_values().min();
        oldest.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default().as_secs_f64()
    };
    metrics.register_gauge_fn("store_oldest_seconds", "Age of the oldest event that waits", oldest);
    let shown = store.clone();
    let broken = move || f64::from(u8::from(shown.health().borrow().is_some()));
    metrics.register_gauge_fn("store_broken", "1 while the database does not work", broken);
    let shown = store.clone();
    metrics
        .register_counter_fn("store_lost", "Deliveries lost because the database did not work", move || shown.lost());
}
