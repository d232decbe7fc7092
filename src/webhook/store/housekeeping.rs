//! What nobody waits for: counting, and deleting what is old.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use sqlx::{AnyConnection, Row, any::AnyRow};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};
use uuid::Uuid;

use super::{
    Core, Store, StoreError,
    batch::{bytes, uuid},
    clock,
    secrets::time,
};

/// How often rows are counted.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// How often old rows are looked for.
const PURGE_EVERY: Duration = Duration::from_secs(3600);
/// Events, or lanes, looked at in one transaction.
const PAGE: i64 = 500;
/// How often the time is noted, so that a start knows whether the clock was set back meanwhile.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// No retry is further away than this; what is, was written under another clock.
const FAR: i64 = 2 * 24 * 3600 * 1000;
/// No question is answered later than this.
const ASKED: i64 = 3600 * 1000;

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
    let mut note_at = Instant::now() + NOTE_EVERY;
    loop {
        let begin = Instant::now();
        if begin >= note_at {
            note_at = begin + NOTE_EVERY;
            if let Err(error) = note(&core).await {
                debug!(code = error.code(), "the time could not be noted: {error}");
            }
        }
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

async fn note(core: &Arc<Core>) -> Result<(), StoreError> {
    let own = Arc::clone(core);
    super::write(core, move |connection| Box::pin(async move { clock::keep(&own, connection, false).await })).await
}

async fn count(core: &Core) -> Result<(), StoreError> {
    let error = |error: sqlx::Error| core.db.error(&error);
    let changes = core.changes.load(Relaxed);
    let quiet = core.intake.idle();
    let mut counters = Counters::default();
    let sql = "SELECT endpoint, CAST(SUM(pending) AS BIGINT) AS pending, MIN(head_at) AS oldest FROM lanes \
               WHERE due_at IS NOT NULL GROUP BY endpoint";
    for row in sqlx::query(sql).fetch_all(&core.db.readers()).await.map_err(error)? {
        let endpoint: String = row.try_get("endpoint").map_err(error)?;
        let pending: i64 = row.try_get("pending").map_err(error)?;
        counters.oldest.insert(endpoint.clone(), time(row.try_get("oldest").map_err(error)?));
        counters.pending.insert(endpoint, u64::try_from(pending).unwrap_or_default());
    }
    let sql = "SELECT endpoint, COUNT(*) AS dead FROM deliveries WHERE state = 'dead' GROUP BY endpoint";
    for row in sqlx::query(sql).fetch_all(&core.db.readers()).await.map_err(error)? {
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
pub(super) fn first_id(at: i64) -> Uuid {
    let millis = u128::try_from(at.clamp(0, (1 << 48) - 1)).unwrap_or_default();
    Uuid::from_u128(millis << 80)
}

/// Walks over the events that are old enough, page by page.
async fn purge(core: &Arc<Core>, done: Duration, dead: Duration) -> Result<u64, StoreError> {
    // identities are of the system's clock
    let before = |keep: i64| bytes(first_id(core.clock.wall().saturating_sub(keep)));
    let millis = |keep: Duration| i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    let (done, dead) = (before(millis(done)), before(millis(dead)));
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
    let (now, keep) = (core.clock.now(), millis(core.keep.0).max(FAR));
    let unused = Unused { since: now.saturating_sub(keep), newest: before(keep) };
    let mut endpoint = String::new();
    while let Some(name) = next_endpoint(core, endpoint).await? {
        lanes(core, &name, &unused).await?;
        let of = name.clone();
        super::write(core, move |connection| Box::pin(bring_forward(connection, of, now))).await?;
        endpoint = name;
    }
    super::write(core, move |connection| Box::pin(expire(connection, now))).await?;
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

/// Which lanes nobody needs any more: not used since, and of calls that are no younger than that.
#[derive(Clone)]
struct Unused {
    since: i64,
    newest: Vec<u8>,
}

async fn next_endpoint(core: &Core, behind: String) -> Result<Option<String>, StoreError> {
    let sql = "SELECT endpoint FROM lanes WHERE endpoint > $1 ORDER BY endpoint LIMIT 1";
    let found = sqlx::query(sql).bind(behind).fetch_optional(&core.db.readers()).await;
    found.and_then(|row| row.map(|row| row.try_get("endpoint")).transpose()).map_err(|error| core.db.error(&error))
}

/// Deletes the numbers of calls that are long over. Only readers look for them: events go on being written meanwhile.
async fn lanes(core: &Arc<Core>, endpoint: &str, unused: &Unused) -> Result<(), StoreError> {
    let error = |error: sqlx::Error| core.db.error(&error);
    let sql = "SELECT call, due_at, used_at FROM lanes WHERE endpoint = $1 AND call > $2 AND call < $3 ORDER BY call LIMIT $4";
    let mut behind = bytes(Uuid::nil());
    loop {
        let query =
            sqlx::query(sql).bind(endpoint.to_owned()).bind(behind.clone()).bind(unused.newest.clone()).bind(PAGE);
        let page = query.fetch_all(&core.db.readers()).await.map_err(error)?;
        let Some(last) = page.last() else { return Ok(()) };
        let last = bytes(uuid(last, "call").map_err(error)?);
        let idle = |row: &AnyRow| {
            let (due, used): (Option<i64>, i64) = (row.try_get("due_at")?, row.try_get("used_at")?);
            Ok::<_, sqlx::Error>(due.is_none() && used < unused.since)
        };
        let found = page.iter().map(idle).collect::<Result<Vec<_>, _>>().map_err(error)?;
        if found.contains(&true) {
            let (endpoint, range, since) = (endpoint.to_owned(), (behind, last.clone()), unused.since);
            super::write(core, move |connection| Box::pin(delete_lanes(connection, endpoint, range, since))).await?;
        }
        behind = last;
    }
}

async fn delete_lanes(
    connection: &mut AnyConnection,
    endpoint: String,
    (behind, last): (Vec<u8>, Vec<u8>),
    since: i64,
) -> Result<(), sqlx::Error> {
    let sql = "DELETE FROM lanes WHERE endpoint = $1 AND call > $2 AND call <= $3 AND due_at IS NULL AND used_at < $4 \
               AND NOT EXISTS (SELECT 1 FROM live_calls c WHERE c.call = lanes.call) \
               AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.endpoint = lanes.endpoint AND d.call = lanes.call)";
    sqlx::query(sql).bind(endpoint).bind(behind).bind(last).bind(since).execute(connection).await.map(drop)
}

/// Retries that a clock has put off for longer than any schedule.
async fn bring_forward(connection: &mut AnyConnection, endpoint: String, now: i64) -> Result<(), sqlx::Error> {
    let far = "UPDATE lanes SET due_at = $1 WHERE endpoint = $2 AND due_at > $3 AND owner IS NULL";
    sqlx::query(far).bind(now).bind(endpoint).bind(now.saturating_add(FAR)).execute(connection).await.map(drop)
}

/// Announcements and secrets whose time is over.
async fn expire(connection: &mut AnyConnection, now: i64) -> Result<(), sqlx::Error> {
    for (sql, before) in [
        ("DELETE FROM announcements WHERE expires_at <= $1 AND awaited IS NULL", now),
        ("DELETE FROM announcements WHERE expires_at <= $1", now.saturating_sub(FAR)),
        ("DELETE FROM secrets WHERE expires_at <= $1", now),
        // whoever asked was killed before the answer came
        (
            "UPDATE deliveries SET state = 'dead', error = 'the gateway was killed while it waited for the answer' \
             WHERE state = 'asking' AND at < $1",
            now.saturating_sub(ASKED),
        ),
    ] {
        sqlx::query(sql).bind(before).execute(&mut *connection).await?;
    }
    Ok(())
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
