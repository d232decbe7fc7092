//! Live calls and announced ones.

use std::time::Duration;

use sqlx::Row;
use uuid::Uuid;

use super::{Store, StoreError, batch::bytes};
use crate::call::CallId;

/// A call that was live when its gateway died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orphan {
    /// The call.
    pub call: CallId,
    /// Its UUID on the wire.
    pub uuid: Uuid,
}

impl Store {
    /// Waits for a call whose gateway died, so that its last event can be put. `None`: somebody else asks already.
    ///
    /// A call is handed out again after the next start, until its last event is committed.
    pub async fn orphan(&self) -> Option<Orphan> {
        let taken = self.running.orphans.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let mut orphans = taken?;
        let next = orphans.recv().await;
        *self.running.orphans.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(orphans);
        next
    }

    /// Remembers what was said about a call to come, for `ttl`; an older word on the same UUID is replaced.
    ///
    /// # Errors
    /// The database does not work.
    pub async fn announce(&self, uuid: Uuid, body: String, ttl: Duration) -> Result<(), StoreError> {
        let now = self.core.clock.now();
        let expires = now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        self.write(move |connection| {
            Box::pin(async move {
                let old = "DELETE FROM announcements WHERE expires_at <= $1";
                sqlx::query(old).bind(now).execute(&mut *connection).await?;
                let sql = "INSERT INTO announcements (uuid, body, expires_at) VALUES ($1, $2, $3) \
                           ON CONFLICT (uuid) DO UPDATE SET body = excluded.body, expires_at = excluded.expires_at";
                sqlx::query(sql).bind(bytes(uuid)).bind(body).bind(expires).execute(connection).await.map(drop)
            })
        })
        .await
    }

    /// What was said about a call to come, unless that has expired.
    ///
    /// # Errors
    /// The database does not work.
    pub async fn announced(&self, uuid: Uuid) -> Result<Option<String>, StoreError> {
        let sql = "SELECT body FROM announcements WHERE uuid = $1 AND expires_at > $2";
        let query = sqlx::query(sql).bind(bytes(uuid)).bind(self.core.clock.now());
        let row = query.fetch_optional(&self.core.db.readers()).await.map_err(|error| self.error(&error))?;
        row.map(|row| row.try_get("body")).transpose().map_err(|error| self.error(&error))
    }
}
