//! What nobody waits for: counting, and deleting what is old.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use sqlx::{AnyConnection, Row};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};
use uuid::Uuid;

use super::{
    Core, Store, StoreError,
    batch::{bytes, uuid},
    secrets::time,
};

/// How often rows are counted.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// How often old rows are looked for.
const PURGE_EVERY: Duration = Duration::from_secs(3600);
/// Events looked at in one transaction.
const PAGE: i64 = 500;
/// No retry is further away than this; what is, was written under another clock.
const FAR: i64 = 2 * 24 * 3600 * 1000;

/// What the store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Deliveries that wait or are under way, by endpoint.
    pub pending: BTreeMap<String, u64>,
    /// Dead letters, by endpoint.
    pub dead: BTreeMap<String, u64>,
    /// When the oldest event that waits happened, by endpoint.
    pub oldest: BTreeMap<String, SystemTime>,
}

/// Counts and deletes until the task is ended.
pub(super) async fn run(core: Arc<Core>) {
    let mut purge_at = Instant::now() + Duration::from_secs(60);
    loop {
        let begin = Instant::now();
        if let Err(error) = count(&core).await {
            debug!(code = error.code(), "the rows could not be counted: {error}");
        }
        let took = begin.elapsed();
        if Instant::now() >= purge_at {
            purge_at = Instant::now() + PURGE_EVERY;
            let (done, dead) = core.keep;
            match purge(&core, done, dead).await {
                Ok(0) => {}
                Ok(deliveries) => debug!(deliveries, "old deliveries were deleted"),
                Err(error) => warn!(code = error.code(), "old deliveries could not be deleted: {error}"),
            }
        }
        // counting many rows is not to be all that the disk does
        sleep(COUNT_EVERY.max(took * 20)).await;
    }
}

async fn count(core: &Core) -> Result<(), StoreError> {
    let error = |error: sqlx::Error| core.db.error(&error);
    let changes = core.changes.load(Relaxed);
    let quiet = core.intake.idle();
    let mut counters = Counters::default();
    let sql = "SELECT endpoint, CAST(SUM(pending) AS BIGINT) AS pending, MIN(head_at) AS oldest FROM lanes \
               WHERE due_at IS NOT NULL GROUP BY endpoint";
    for row in sqlx::query(sql).fetch_all(core.db.readers()).await.map_err(error)? {
        let endpoint: String = row.try_get("endpoint").map_err(error)?;
        let pending: i64 = row.try_get("pending").map_err(error)?;
        counters.oldest.insert(endpoint.clone(), time(row.try_get("oldest").map_err(error)?));
        counters.pending.insert(endpoint, u64::try_from(pending).unwrap_or_default());
    }
    let sql = "SELECT endpoint, COUNT(*) AS dead FROM deliveries WHERE state = 'dead' GROUP BY endpoint";
    for row in sqlx::query(sql).fetch_all(core.db.readers()).await.map_err(error)? {
        let dead: i64 = row.try_get("dead").map_err(error)?;
        counters.dead.insert(row.try_get("endpoint").map_err(error)?, u64::try_from(dead).unwrap_or_default());
    }
    let pending = counters.pending.values().sum::<u64>();
    *core.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters;
    // only a count that nothing has overtaken is better than what has been added up since the last
    if quiet && core.intake.idle() && core.changes.load(Relaxed) == changes {
        core.left.store(i64::try_from(pending).unwrap_or(i64::MAX), Relaxed);
    }
    Ok(())
}

/// The least identity that was made at `at`: identities are UUIDv7, so that they are in the order of time.
fn first_id(at: i64) -> Uuid {
    let millis = u128::try_from(at.clamp(0, (1 << 48) - 1)).unwrap_or_default();
    Uuid::from_u128(millis << 80)
}

/// Walks over the events that are old enough, page by page.
async fn purge(core: &Arc<Core>, done: Duration, dead: Duration) -> Result<u64, StoreError> {
    let before = |keep: Duration| {
        bytes(first_id(core.clock.now().saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX))))
    };
    let (done, dead) = (before(done), before(dead));
    let mut cursor = bytes(Uuid::nil());
    let mut deleted = 0;
    loop {
        let (from, done, dead) = (cursor.clone(), done.clone(), dead.clone());
        let page = super::write(core, move |connection| Box::pin(page(connection, from, done, dead))).await?;
        deleted += page.0;
        match page.1 {
            Some(last) => cursor = last,
            None => break,
        }
    }
    let (now, keep) = (core.clock.now(), i64::try_from(core.keep.0.as_millis()).unwrap_or(i64::MAX));
    super::write(core, move |connection| Box::pin(tidy(connection, now, keep))).await?;
    Ok(deleted)
}

/// Deletes what is old among the [`PAGE`] events behind `cursor`. How many deliveries, and where to go on.
async fn page(
    connection: &mut AnyConnection,
    cursor: Vec<u8>,
    done: Vec<u8>,
    dead: Vec<u8>,
) -> Result<(u64, Option<Vec<u8>>), sqlx::Error> {
    let newest = done.clone().max(dead.clone());
    let sql = "SELECT id FROM events WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3";
    let ids = sqlx::query(sql).bind(cursor.clone()).bind(newest).bind(PAGE).fetch_all(&mut *connection).await?;
    let Some(last) = ids.last().map(|row| uuid(row, "id")).transpose()?.map(bytes) else { return Ok((0, None)) };
    let attempts = "DELETE FROM attempts WHERE event > $1 AND event <= $2 AND EXISTS (SELECT 1 FROM deliveries d \
                    WHERE d.event = attempts.event AND d.endpoint = attempts.endpoint \
                    AND ((d.state = 'done' AND d.event < $3) OR (d.state = 'dead' AND d.event < $4)))";
    let deliveries = "DELETE FROM deliveries WHERE event > $1 AND event <= $2 \
                      AND ((state = 'done' AND event < $3) OR (state = 'dead' AND event < $4))";
    let events = "DELETE FROM events WHERE id > $1 AND id <= $2 \
                  AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event = events.id)";
    let range = |sql: &'static str| sqlx::query(sql).bind(cursor.clone()).bind(last.clone());
    range(attempts).bind(done.clone()).bind(dead.clone()).execute(&mut *connection).await?;
    let deleted = range(deliveries).bind(done).bind(dead).execute(&mut *connection).await?.rows_affected();
    range(events).execute(connection).await?;
    Ok((deleted, Some(last)))
}

/// The rest: numbers of calls that are long over, announcements, secrets, and retries that a clock put back has put off.
async fn tidy(connection: &mut AnyConnection, now: i64, keep: i64) -> Result<(), sqlx::Error> {
    let unused = now.saturating_sub(keep.max(FAR));
    let lanes = "DELETE FROM lanes WHERE due_at IS NULL AND used_at < $1 \
                 AND NOT EXISTS (SELECT 1 FROM live_calls c WHERE c.call = lanes.call) \
                 AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.endpoint = lanes.endpoint AND d.call = lanes.call)";
    sqlx::query(lanes).bind(unused).execute(&mut *connection).await?;
    for sql in ["DELETE FROM announcements WHERE expires_at <= $1", "DELETE FROM secrets WHERE expires_at <= $1"] {
        sqlx::query(sql).bind(now).execute(&mut *connection).await?;
    }
    let far = "UPDATE lanes SET due_at = $1 WHERE due_at > $2 AND owner IS NULL";
    sqlx::query(far).bind(now).bind(now.saturating_add(FAR)).execute(connection).await.map(drop)
}

impl Store {
    /// What the store held when it was last counted, at most some seconds ago.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.core.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts now.
    ///
    /// # Errors
    /// The database does not work.
    pub async fn count(&self) -> Result<Counters, StoreError> {
        count(&self.core).await?;
        Ok(self.counters())
    }

    /// Deletes delivered events older than `done` and dead ones older than `dead`. How many deliveries.
    ///
    /// # Errors
    /// The database does not work.
    pub async fn purge(&self, done: Duration, dead: Duration) -> Result<u64, StoreError> {
        purge(&self.core, done, dead).await
    }
}
