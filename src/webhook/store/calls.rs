//! Live calls and announced ones.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use sqlx::{Row, any::AnyRow};
use uuid::Uuid;

use super::{
    Store, StoreError,
    batch::{bytes, uuid},
    db::Dialect,
    secrets::time,
};
use crate::call::{CallId, EventId};

/// How long after its announcement has expired a call may still become one: whoever took the announcement has yet to say so.
const TAKEN_MS: i64 = 300_000;
/// How long an announcement that nobody has been seen to take counts as live after it expired.
const SLACK_MS: i64 = 2_000;
/// Rows at once.
const PAGE: i64 = 500;

/// A call that was live when its gateway died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orphan {
    /// The call.
    pub call: CallId,
    /// Its UUID on the wire.
    pub uuid: Uuid,
}

/// An announced call that never came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconnected {
    /// The call that it would have been.
    pub call: CallId,
    /// Its UUID on the wire.
    pub uuid: Uuid,
    /// What was said about it.
    pub body: String,
    /// When its announcement expired.
    pub at: SystemTime,
    /// The same UUID was announced anew before.
    pub replaced: bool,
}

/// An event of a call, as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// The call.
    pub call: CallId,
    /// `type` in the body.
    pub kind: String,
    /// When it happened.
    pub at: SystemTime,
    /// The body.
    pub body: Vec<u8>,
}

/// The time in an identity that was made from it.
fn made_at(id: Uuid) -> i64 {
    let millis = id.as_u128() >> 80;
    i64::try_from(millis).unwrap_or(i64::MAX)
}

impl Store {
    /// Waits for a call whose gateway died, so that its last event can be put; with it come those that are known to be so by now.
    /// `None`: somebody else asks already.
    ///
    /// A call is handed out again after the next start, until its last event is committed.
    pub async fn orphans(&self) -> Option<Vec<Orphan>> {
        let taken = self.running.orphans.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let mut orphans = taken?;
        let mut found = Vec::new();
        let some = orphans.recv_many(&mut found, PAGE as usize).await;
        *self.running.orphans.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(orphans);
        (some > 0).then_some(found)
    }

    /// What was stored of these calls, in the order in which it happened, given to `each` one by one.
    ///
    /// # Errors
    /// The database does not work; some may have been given.
    pub async fn past(&self, calls: &[CallId], mut each: impl FnMut(Past) + Send) -> Result<(), StoreError> {
        let Some(oldest) = calls.iter().map(|&call| made_at(call.into())).min() else { return Ok(()) };
        let wanted: HashSet<CallId> = calls.iter().copied().collect();
        // identities are in the order of time, and no event is older than its call
        let mut cursor = bytes(super::housekeeping::first_id(oldest.saturating_sub(1_000)));
        loop {
            let sql = "SELECT e.id AS id, e.call AS call, e.kind AS kind, e.at AS at, e.body AS body FROM events e \
                       JOIN live_calls c ON c.call = e.call WHERE e.id > $1 ORDER BY e.id LIMIT $2";
            let query = sqlx::query(sql).bind(cursor.clone()).bind(PAGE);
            let rows = query.fetch_all(&self.core.db.readers()).await.map_err(|error| self.error(&error))?;
            for row in &rows {
                let past = past(row).map_err(|error| self.error(&error))?;
                if wanted.contains(&past.call) {
                    each(past);
                }
            }
            match rows.last().map(|row| uuid(row, "id")).transpose().map_err(|error| self.error(&error))? {
                Some(last) => cursor = bytes(last),
                None => return Ok(()),
            }
        }
    }

    /// Remembers what was said about a call to come, for `ttl`; an older word on the same UUID is replaced, and the call that it was
    /// about, should it never have come, is over.
    ///
    /// # Errors
    /// The database does not work.
    pub async fn announce(&self, uuid: Uuid, call: CallId, body: String, ttl: Duration) -> Result<(), StoreError> {
        let now = self.core.clock.now();
        let expires = now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        self.write(move |connection| {
            Box::pin(async move {
                let old = "DELETE FROM announcements WHERE expires_at <= $1 AND awaited IS NULL";
                sqlx::query(old).bind(now).execute(&mut *connection).await?;
                let sql = "UPDATE announcements SET uuid = call, replaced = uuid, expires_at = $3 \
                           WHERE uuid = $1 AND awaited IS NOT NULL AND call <> $2";
                sqlx::query(sql).bind(bytes(uuid)).bind(bytes(call)).bind(now).execute(&mut *connection).await?;
                let sql = "INSERT INTO announcements (uuid, body, expires_at, call, awaited) VALUES ($1, $2, $3, $4, $4) \
                           ON CONFLICT (uuid) DO UPDATE SET body = excluded.body, expires_at = excluded.expires_at, \
                           call = excluded.call, \
                           taken = CASE WHEN announcements.call = excluded.call THEN announcements.taken ELSE 0 END, \
                           awaited = CASE WHEN announcements.call = excluded.call THEN announcements.awaited ELSE excluded.awaited END";
                let query = sqlx::query(sql).bind(bytes(uuid)).bind(body).bind(expires).bind(bytes(call));
                query.execute(connection).await.map(drop)
            })
        })
        .await
    }

    /// What was said about a call to come, unless that has expired, and whether this is the first to ask: only they may take its
    /// identity.
    ///
    /// # Errors
    /// The database does not work.
    pub async fn take_announced(&self, uuid: Uuid) -> Result<Option<(String, bool)>, StoreError> {
        let sql =
            "UPDATE announcements SET taken = taken + 1 WHERE uuid = $1 AND expires_at > $2 RETURNING body, taken";
        let (id, now) = (bytes(uuid), self.core.clock.now());
        let row = match self.core.db.dialect {
            // any connection will do, and the writer may be waiting for a large batch
            Dialect::Postgres => {
                let row = sqlx::query(sql).bind(id).bind(now).fetch_optional(&self.core.db.readers()).await;
                row.map_err(|error| self.error(&error))?
            }
            Dialect::Sqlite => {
                self.write(move |connection| {
                    Box::pin(async move { sqlx::query(sql).bind(id).bind(now).fetch_optional(connection).await })
                })
                .await?
            }
        };
        let taken = |row: AnyRow| Ok((row.try_get("body")?, row.try_get::<i64, _>("taken")? == 1));
        row.map(taken).transpose().map_err(|error| self.error(&error))
    }

    /// Announced calls that never came; each until [`Store::give_up`], or until a last event of it is committed.
    ///
    /// # Errors
    /// The database does not work.
    pub async fn unconnected(&self) -> Result<Vec<Unconnected>, StoreError> {
        let sql = "SELECT COALESCE(replaced, uuid) AS uuid, awaited, body, expires_at, CAST(CASE WHEN replaced IS NULL THEN 0 ELSE 1 END AS BIGINT) AS replaced FROM announcements WHERE awaited IS NOT NULL \
                   AND ((taken = 0 AND expires_at <= $1) OR expires_at <= $2) ORDER BY expires_at LIMIT $3";
        let now = self.core.clock.now();
        let query = sqlx::query(sql).bind(now.saturating_sub(SLACK_MS)).bind(now.saturating_sub(TAKEN_MS)).bind(PAGE);
        let rows = query.fetch_all(&self.core.db.readers()).await.map_err(|error| self.error(&error))?;
        let one = |row: &AnyRow| {
            Ok(Unconnected {
                call: uuid(row, "awaited")?.into(),
                uuid: uuid(row, "uuid")?,
                body: row.try_get("body")?,
                at: time(row.try_get("expires_at")?),
                replaced: row.try_get::<i64, _>("replaced")? != 0,
            })
        };
        rows.iter().map(one).collect::<Result<_, _>>().map_err(|error| self.error(&error))
    }

    /// This call is awaited no longer.
    ///
    /// # Errors
    /// The database does not work.
    pub async fn give_up(&self, call: CallId) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                let sql = "UPDATE announcements SET awaited = NULL WHERE awaited = $1";
                sqlx::query(sql).bind(bytes(call)).execute(connection).await.map(drop)
            })
        })
        .await
    }
}

fn past(row: &AnyRow) -> Result<Past, sqlx::Error> {
    Ok(Past {
        call: uuid(row, "call")?.into(),
        kind: row.try_get("kind")?,
        at: time(row.try_get("at")?),
        body: row.try_get("body")?,
    })
}

/// The identity of the event that says that an announced call is over: the same, whichever gateway says it, and however often.
#[must_use]
pub fn last_word(call: CallId, at: SystemTime) -> EventId {
    let random = Uuid::from(call).as_u128() & ((1 << 80) - 1);
    let time = super::housekeeping::first_id(super::clock::millis(at)).as_u128();
    // another than the call's own, should both be of the same millisecond
    EventId::from(Uuid::from_u128((time | random) ^ 1))
}
