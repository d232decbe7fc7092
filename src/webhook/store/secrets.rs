//! What belongs to an endpoint beside its deliveries: signing secrets, and whether it has been disabled.

use std::time::{Duration, SystemTime};

use sqlx::{AnyConnection, Row};

use super::{Store, StoreError};

/// A signing secret. Not to be shown but to who asks for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// `whsec_…`.
    pub secret: String,
    /// When it was made.
    pub created_at: SystemTime,
    /// Until when it is used beside its successor; `None`: it is the present one.
    pub expires_at: Option<SystemTime>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret")
            .field("created_at", &self.created_at)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// An endpoint that gets nothing until somebody enables it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disabled {
    /// The endpoint's name.
    pub endpoint: String,
    /// Since when.
    pub since: SystemTime,
    /// Why.
    pub reason: String,
}

pub(super) fn time(millis: i64) -> SystemTime {
    let since = Duration::from_millis(millis.unsigned_abs());
    let at =
        if millis < 0 { SystemTime::UNIX_EPOCH.checked_sub(since) } else { SystemTime::UNIX_EPOCH.checked_add(since) };
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}

async fn insert(connection: &mut AnyConnection, endpoint: &str, secret: &str, now: i64) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO secrets (endpoint, secret, created_at, expires_at) VALUES ($1, $2, $3, NULL) ON CONFLICT DO NOTHING";
    let query = sqlx::query(sql).bind(endpoint.to_owned()).bind(secret.to_owned()).bind(now);
    query.execute(connection).await.map(drop)
}

impl Store {
    /// The signing secrets of `endpoint`, the present one first.
    ///
    /// # Errors
    /// The database does not work.
    pub async fn secrets(&self, endpoint: &str) -> Result<Vec<Secret>, StoreError> {
        let sql = "SELECT secret, created_at, expires_at FROM secrets WHERE endpoint = $1 \
                   AND (expires_at IS NULL OR expires_at > $2) ORDER BY created_at DESC";
        let query = sqlx::query(sql).bind(endpoint.to_owned()).bind(self.core.clock.now());
        let rows = query.fetch_all(&self.core.db.readers()).await.map_err(|error| self.error(&error))?;
        let secret = |row: &sqlx::any::AnyRow| {
            let expires: Option<i64> = row.try_get("expires_at")?;
            let (secret, created) = (row.try_get("secret")?, row.try_get("created_at")?);
            Ok(Secret { secret, created_at: time(created), expires_at: expires.map(time) })
        };
        let mut secrets: Vec<Secret> =
            rows.iter().map(secret).collect::<Result<_, _>>().map_err(|error| self.error(&error))?;
        secrets.sort_by_key(|secret| secret.expires_at.is_some());
        Ok(secrets)
    }

    /// Stores `made` for an endpoint that has no secret yet; of several gateways that do so at once, one wins. The present secrets.
    ///
    /// # Errors
    /// The database does not work.
    pub async fn ensure_secret(&self, endpoint: &str, made: &str) -> Result<Vec<Secret>, StoreError> {
        let (name, made, now) = (endpoint.to_owned(), made.to_owned(), self.core.clock.now());
        self.write(move |connection| Box::pin(async move { insert(connection, &name, &made, now).await })).await?;
        self.secrets(endpoint).await
    }

    /// Makes `new` the secret of `endpoint`; the present one is used beside it for `overlap`, older ones no more.
    ///
    /// # Errors
    /// The database does not work.
    pub async fn rotate_secret(&self, endpoint: &str, new: &str, overlap: Duration) -> Result<(), StoreError> {
        let (endpoint, new, now) = (endpoint.to_owned(), new.to_owned(), self.core.clock.now());
        let until = now.saturating_add(i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX));
        self.write(move |connection| {
            Box::pin(async move {
                let old = "DELETE FROM secrets WHERE endpoint = $1 AND (expires_at IS NOT NULL OR secret = $2)";
                sqlx::query(old).bind(endpoint.clone()).bind(new.clone()).execute(&mut *connection).await?;
                let present = "UPDATE secrets SET expires_at = $1 WHERE endpoint = $2 AND expires_at IS NULL";
                sqlx::query(present).bind(until).bind(endpoint.clone()).execute(&mut *connection).await?;
                insert(connection, &endpoint, &new, now).await
            })
        })
        .await
    }

    /// Disables `endpoint`, with the reason, or enables it (`None`).
    ///
    /// # Errors
    /// The database does not work.
    pub async fn set_disabled(&self, endpoint: &str, reason: Option<&str>) -> Result<(), StoreError> {
        let (endpoint, reason) = (endpoint.to_owned(), reason.map(str::to_owned));
        let at = reason.is_some().then(|| self.core.clock.now());
        self.write(move |connection| {
            Box::pin(async move {
                let sql = "INSERT INTO endpoints (name, disabled_at, reason) VALUES ($1, $2, $3) \
                           ON CONFLICT (name) DO UPDATE SET disabled_at = excluded.disabled_at, reason = excluded.reason";
                sqlx::query(sql).bind(endpoint).bind(at).bind(reason).execute(connection).await.map(drop)
            })
        })
        .await
    }

    /// The endpoints that are disabled.
    ///
    /// # Errors
    /// The database does not work.
    pub async fn disabled(&self) -> Result<Vec<Disabled>, StoreError> {
        let sql = "SELECT name, disabled_at, reason FROM endpoints WHERE disabled_at IS NOT NULL ORDER BY name";
        let rows = sqlx::query(sql).fetch_all(&self.core.db.readers()).await.map_err(|error| self.error(&error))?;
        let disabled = |row: &sqlx::any::AnyRow| {
            let reason: Option<String> = row.try_get("reason")?;
            let since = time(row.try_get("disabled_at")?);
            Ok(Disabled { endpoint: row.try_get("name")?, since, reason: reason.unwrap_or_default() })
        };
        rows.iter().map(disabled).collect::<Result<_, _>>().map_err(|error| self.error(&error))
    }
}
