//! Connections, the schema, and the few words in which SQLite and PostgreSQL differ.

use std::{
    borrow::Cow,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use sqlx::{
    AnyConnection, AnyPool, AssertSqlSafe, ConnectOptions, Connection, SqlSafeStr,
    any::{AnyArguments, AnyConnectOptions, AnyPoolOptions},
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    query::Query,
};
use tokio::time::timeout;
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
const STEPS: [&str; 3] = [include_str!("schema.sql"), include_str!("schema_2.sql"), include_str!("schema_3.sql")];

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
    readers: RwLock<AnyPool>,
    /// SQLite's file, and which one that is: a path can come to name another.
    file: Option<PathBuf>,
    known: Mutex<Option<FileId>>,
    /// `PRAGMA synchronous` of SQLite.
    fsync: bool,
    max_pages: Option<Arc<AtomicU32>>,
    read_only: Option<Arc<AtomicBool>>,
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
        let (max_pages, read_only) = (config.max_pages.clone(), config.read_only.clone());
        Ok(Self { max_pages, read_only, file: Some(path), ..db })
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
        let readers = RwLock::new(pool(dialect, fsync, &options));
        Ok(Self {
            dialect,
            shown,
            options,
            readers,
            fsync,
            max_pages: None,
            read_only: None,
            file: None,
            known: Mutex::default(),
        })
    }

    /// Connections for reading, made as they are needed.
    pub fn readers(&self) -> AnyPool {
        self.readers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the file that is written to is no longer the one at its path. A commit would go where nobody finds it.
    pub fn moved(&self) -> bool {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.is_some() && self.file.as_deref().is_some_and(|file| id(file) != known)
    }

    /// The file at the path is the one that is written to.
    pub fn settle(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = self.file.as_deref().and_then(id);
    }

    /// Closes what still reads the file that was there: the last connection to it would delete the new one's log.
    pub async fn let_go(&self) {
        let old = {
            let mut readers = self.readers.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *readers, pool(self.dialect, self.fsync, &self.options))
        };
        let _ = timeout(PATIENCE, old.close()).await;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
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
            if self.read_only.as_ref().is_some_and(|read_only| read_only.load(Relaxed)) {
                sqlx::raw_sql("PRAGMA query_only = on").execute(&mut connection).await?;
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

    /// Whether something could be written now. Writes nothing.
    pub async fn look(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        let error = |error: sqlx::Error| self.error(&error);
        if self.dialect == Dialect::Postgres {
            let sql = "SELECT current_setting('transaction_read_only') AS read_only";
            let (read_only,): (String,) = sqlx::query_as(sql).fetch_one(connection).await.map_err(error)?;
            let standby = || StoreError::ReadOnly("the server is a standby, or its default is read-only".to_owned());
            return if read_only == "on" { Err(standby()) } else { Ok(()) };
        }
        if self.moved() {
            return Err(self.gone());
        }
        // the writer's connection has in its cache what may be damaged in the file
        let mut fresh = self.connect().await?;
        let looked = async {
            let mut transaction = fresh.begin_with(self.begin()).await?;
            sqlx::query("SELECT name FROM meta LIMIT 1").fetch_optional(&mut *transaction).await?;
            transaction.rollback().await
        };
        let looked = looked.await.map_err(error);
        close(fresh).await;
        looked
    }

    /// What is wrong when [`Db::moved`] says so.
    pub fn gone(&self) -> StoreError {
        StoreError::Gone { path: self.file.clone().unwrap_or_default() }
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

    /// Ends everything that reads.
    pub async fn close(&self) {
        self.readers().close().await;
    }
}

fn pool(dialect: Dialect, fsync: bool, options: &AnyConnectOptions) -> AnyPool {
    AnyPoolOptions::new()
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
        .connect_lazy_with(options.clone())
}

/// Tells a file from another of the same name: its device and its number there.
type FileId = (u64, u64);

#[cfg(unix)]
fn id(file: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(file).ok().map(|file| (file.dev(), file.ino()))
}

/// Elsewhere a file in use cannot be deleted.
#[cfg(not(unix))]
fn id(_: &Path) -> Option<FileId> {
    None
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
