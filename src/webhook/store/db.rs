//! Connections, the schema, and the few words in which SQLite and PostgreSQL differ.

use std::{
    borrow::Cow,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use sqlx::{
    AnyConnection, AnyPool, AssertSqlSafe, ConnectOptions, Connection, SqlSafeStr,
    any::{AnyArguments, AnyConnectOptions, AnyPoolOptions},
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    query::Query,
};
use tokio::time::{Instant, timeout};
use url::Url;

use super::{Config, error::StoreError};
use crate::webhook::shown;

/// A statement with its values.
pub(super) type Statement = Query<'static, sqlx::Any, AnyArguments>;

/// A statement or a connection that takes longer is given up, and its connection with it.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// Connections for reading.
const READERS: u32 = 4;

/// The steps from an empty database to this version's tables. A step that was ever released stays as it is, to the letter.
const STEPS: [&str; 2] = [include_str!("schema.sql"), include_str!("schema_2.sql")];

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

/// Where the database is and how to get there.
#[derive(Debug)]
pub(super) struct Db {
    pub dialect: Dialect,
    /// For log lines: without credentials.
    pub shown: String,
    options: AnyConnectOptions,
    readers: AnyPool,
    /// `PRAGMA synchronous` of SQLite.
    fsync: bool,
    max_pages: Option<Arc<AtomicU32>>,
}

impl Db {
    /// The file `hark.db` in the data directory.
    pub fn sqlite(config: &Config) -> Result<Self, StoreError> {
        let dir = config.data_dir.as_path();
        let path = std::path::absolute(dir).map_err(|error| StoreError::directory(dir, &error))?.join("hark.db");
        let Some(text) = path.to_str() else {
            let reason = "its name is not UTF-8".to_owned();
            return Err(StoreError::Directory { path: dir.to_owned(), reason });
        };
        let mut url = "sqlite://".to_owned();
        for byte in text.bytes() {
            match byte {
                b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => url.push(char::from(byte)),
                // writing to a String cannot fail
                other => drop(write!(url, "%{other:02X}")),
            }
        }
        let db = Self::new(Dialect::Sqlite, &format!("{url}?mode=rwc"), shown::line(text), config.fsync)?;
        Ok(Self { max_pages: config.max_pages.clone(), ..db })
    }

    /// A server, by its URL.
    pub fn postgres(url: &str) -> Result<Self, StoreError> {
        let parsed = Url::parse(url).map_err(|error| StoreError::Url(format!("is not a URL: {error}")))?;
        if !matches!(parsed.scheme(), "postgres" | "postgresql") {
            return Err(StoreError::Url(format!("begins with {}:, but only postgres: is understood", parsed.scheme())));
        }
        Self::new(Dialect::Postgres, url, shown::url(url), true)
    }

    fn new(dialect: Dialect, url: &str, shown: String, fsync: bool) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let options: AnyConnectOptions = url.parse().map_err(|error| StoreError::of(&error, dialect))?;
        let options = options.disable_statement_logging();
        let readers = AnyPoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(PATIENCE)
            .idle_timeout(Duration::from_secs(60))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    for pragma in pragmas(dialect, fsync) {
                        sqlx::raw_sql(*pragma).execute(&mut *connection).await?;
                    }
                    Ok(())
                })
            })
            .connect_lazy_with(options.clone());
        Ok(Self { dialect, shown, options, readers, fsync, max_pages: None })
    }

    /// Connections for reading, made as they are needed.
    pub const fn readers(&self) -> &AnyPool {
        &self.readers
    }

    /// A connection for writing.
    pub async fn connect(&self) -> Result<AnyConnection, StoreError> {
        let connect = async {
            let mut connection = self.options.connect().await?;
            for pragma in pragmas(self.dialect, self.fsync) {
                sqlx::raw_sql(*pragma).execute(&mut connection).await?;
            }
            if let Some(pages) = &self.max_pages {
                let pragma = format!("PRAGMA max_page_count = {}", pages.load(Relaxed));
                sqlx::raw_sql(AssertSqlSafe(pragma)).execute(&mut connection).await?;
            }
            Ok(connection)
        };
        match timeout(PATIENCE, connect).await {
            Ok(connected) => connected.map_err(|error| StoreError::of(&error, self.dialect)),
            Err(_) => Err(StoreError::Timeout(PATIENCE)),
        }
    }

    /// Brings the tables to this version.
    pub async fn migrate(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        let bytes = match self.dialect {
            Dialect::Sqlite => "BLOB",
            Dialect::Postgres => "BYTEA",
        };
        let steps = (1..).zip(STEPS).map(|(version, step)| {
            let sql = AssertSqlSafe(step.replace("BYTES", bytes)).into_sql_str();
            Migration::new(version, Cow::Borrowed("store"), MigrationType::Simple, sql, false)
        });
        let migrator = Migrator::with_migrations(steps.collect());
        // run() cannot be used in a future that is to be Send
        let migrated = migrator.run_direct(None, connection, false).await;
        migrated.map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                StoreError::of(&error, self.dialect)
            }
            other => StoreError::Version(other.to_string()),
        })
    }

    /// For somebody who changes no tables: whether they are those of this version, or of a later one.
    pub async fn up_to_date(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        let applied = sqlx::query_as("SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations").fetch_one(connection);
        let (applied,): (i64,) = applied.await.map_err(|error| self.error(&error))?;
        match usize::try_from(applied) {
            Ok(applied) if applied < STEPS.len() => Err(StoreError::Older { applied, ours: STEPS.len() }),
            _ => Ok(()),
        }
    }

    /// How a transaction that writes begins: on SQLite it takes the write lock at once, because asking for it later can fail.
    pub const fn begin(&self) -> &'static str {
        match self.dialect {
            Dialect::Sqlite => "BEGIN IMMEDIATE",
            Dialect::Postgres => "BEGIN",
        }
    }

    /// At the end of a subquery whose rows are to be taken: leaves out those that somebody else is taking.
    pub const fn skip_locked(&self) -> &'static str {
        match self.dialect {
            Dialect::Sqlite => "",
            Dialect::Postgres => "FOR UPDATE SKIP LOCKED",
        }
    }

    pub fn error(&self, error: &sqlx::Error) -> StoreError {
        StoreError::of(error, self.dialect)
    }

    /// The difference between the server's clock and ours, in ms; there is none where the database is a file.
    pub async fn clock_offset(&self, connection: &mut AnyConnection) -> Result<i64, sqlx::Error> {
        if self.dialect == Dialect::Sqlite {
            return Ok(0);
        }
        let sql = "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT";
        let (theirs,): (i64,) = sqlx::query_as(sql).fetch_one(connection).await?;
        Ok(theirs - millis(SystemTime::now()))
    }

    /// Ends everything that reads.
    pub async fn close(&self) {
        self.readers.close().await;
    }
}

/// What every connection begins with. The cache holds a whole batch, which would be written twice otherwise; a checkpoint, which waits
/// for the disk twice, is worth 16 MB.
const fn pragmas(dialect: Dialect, fsync: bool) -> &'static [&'static str] {
    match (dialect, fsync) {
        (Dialect::Sqlite, true) => &[
            "PRAGMA busy_timeout = 1000",
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "PRAGMA cache_size = -16384",
            "PRAGMA wal_autocheckpoint = 4000",
            "PRAGMA journal_size_limit = 67108864",
        ],
        (Dialect::Sqlite, false) => {
            &["PRAGMA busy_timeout = 1000", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = OFF"]
        }
        (Dialect::Postgres, _) => &["SET synchronous_commit = on", "SET lock_timeout = '10s'"],
    }
}

/// A statement made at run time from our own words; `again`: worth preparing.
pub(super) fn statement(sql: String, again: bool) -> Statement {
    sqlx::query(AssertSqlSafe(sql)).persistent(again)
}

/// `($1,$2),($3,$4)`: `rows` rows of `columns` placeholders, from number `first`.
pub(super) fn rows(rows: usize, columns: usize, first: usize) -> String {
    let mut text = String::with_capacity(rows * columns * 6);
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ",(" });
        for column in 0..columns {
            // writing to a String cannot fail
            let _ = write!(text, "{}${}", if column == 0 { "" } else { "," }, first + row * columns + column);
        }
        text.push(')');
    }
    text
}

/// Milliseconds since 1970.
pub(super) fn millis(at: SystemTime) -> i64 {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}

/// The store's clock: that of the server where there is one, else ours at the start and the time since then, so that a jump of the
/// system's clock moves no retry and ends no lease.
#[derive(Debug)]
pub(super) struct Clock {
    base: i64,
    at: Instant,
    offset: AtomicI64,
}

impl Clock {
    pub fn new() -> Self {
        Self { base: millis(SystemTime::now()), at: Instant::now(), offset: AtomicI64::new(0) }
    }

    /// Now, in ms.
    pub fn now(&self) -> i64 {
        let since = i64::try_from(self.at.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.base.saturating_add(since).saturating_add(self.offset.load(Relaxed))
    }

    /// Follows the server, whose clock is `offset` ahead of the system's.
    pub fn follow(&self, offset: i64) {
        let since = i64::try_from(self.at.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.offset.store(millis(SystemTime::now()) + offset - self.base - since, Relaxed);
    }
}

/// Closes a connection, however long that may not take.
pub(super) async fn close(connection: AnyConnection) {
    let _ = timeout(Duration::from_secs(1), connection.close()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_numbered_row_by_row() {
        assert_eq!(rows(2, 3, 1), "($1,$2,$3),($4,$5,$6)");
        assert_eq!(rows(1, 1, 7), "($7)");
    }

    #[test]
    fn a_database_url_of_another_kind_is_refused_with_advice() {
        for url in ["mysql://h/d", "nonsense", "sqlite:x"] {
            let error = Db::postgres(url).map(drop).unwrap_err();
            assert!(matches!(error, StoreError::Url(_)) && error.to_string().contains("postgres://user"), "{error}");
        }
    }
}
