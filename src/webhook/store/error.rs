//! What can go wrong with the store, told apart by what it means for events and for whoever has to put it right.

use std::{io, path::PathBuf, time::Duration};

use super::db::Dialect;
use crate::webhook::shown;

/// Why the store cannot do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another gateway works in the data directory.
    #[error("{} is in use by another gateway (process {pid}): give each its own HARK_DATA_DIR, or let them share a PostgreSQL (database.url)", .path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who says so in the lock file.
        pid: String,
    },
    /// There is no database to look into.
    #[error("there is no database in {} yet; has a gateway that sends webhooks run with this HARK_DATA_DIR?", .path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// The data directory cannot be used.
    #[error("the data directory {} cannot be used: {reason}; make it writable for this user, or set HARK_DATA_DIR", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// `database.url` is nothing that can be connected to.
    #[error("database.url {0}; write it like postgres://user:password@host:5432/hark")]
    Url(String),
    /// The database's tables are not those of this version.
    #[error("the database was written by another version of Hark ({0}): use that version, or a new database")]
    Version(String),
    /// The database's tables are those of an earlier version, and who opens it only looks.
    #[error(
        "the database was written by an earlier version of Hark (tables {applied}, ours are {ours}): start this version's gateway, which brings it up to date"
    )]
    Older {
        /// The version of its tables.
        applied: usize,
        /// The version that this program works with.
        ours: usize,
    },
    /// The database's file is damaged.
    #[error(
        "the database is damaged ({0}): move hark.db, hark.db-wal and hark.db-shm away and start again; what was undelivered is in them"
    )]
    Corrupt(String),
    /// The server refuses this user, password or database.
    #[error("the database server refuses us ({0}): check user, password and database name in database.url")]
    Refused(String),
    /// No space is left.
    #[error("no space is left for the database ({0}): free some; events wait in memory until then")]
    Full(String),
    /// Nothing can be written.
    #[error(
        "the database cannot be written ({0}): check the permissions of its file and whether the disk is mounted read-only"
    )]
    ReadOnly(String),
    /// Somebody else holds a lock for long.
    #[error("the database is locked by another process ({0}): end whatever has it open for writing")]
    Busy(String),
    /// Two gateways got into each other's way; trying again helps.
    #[error("two gateways wrote the same at once ({0})")]
    Conflict(String),
    /// The database cannot be reached or read.
    #[error("the database cannot be reached ({0}): is it running?")]
    Unreachable(String),
    /// The file cannot be opened, read or written.
    #[error(
        "the database's file cannot be opened, read or written ({0}): check the disk, and that the data directory is there (HARK_DATA_DIR)"
    )]
    Io(String),
    /// The file that was written to is not at its place any more.
    #[error(
        "{} was deleted or replaced while it was in use: it is opened anew, and made anew where it is missing; to get back what waited in the old one, stop the gateway and put it back", .path.display()
    )]
    Gone {
        /// Where it was.
        path: PathBuf,
    },
    /// No answer in time.
    #[error("the database did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// A statement failed.
    #[error("the database refused a statement ({0})")]
    Sql(String),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// The stable code shown outside.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "store.locked",
            Self::Missing { .. } => "store.missing",
            Self::Directory { .. } => "store.directory",
            Self::Url(_) => "store.url",
            Self::Version(_) | Self::Older { .. } => "store.version",
            Self::Corrupt(_) => "store.corrupt",
            Self::Refused(_) => "store.refused",
            Self::Full(_) => "store.full",
            Self::ReadOnly(_) => "store.read_only",
            Self::Busy(_) => "store.busy",
            Self::Conflict(_) => "store.conflict",
            Self::Unreachable(_) => "store.unreachable",
            Self::Io(_) => "store.io",
            Self::Gone { .. } => "store.gone",
            Self::Timeout(_) => "store.timeout",
            Self::Sql(_) => "store.sql",
            Self::Closed => "store.closed",
        }
    }

    /// Whether waiting cannot help: a start fails on it.
    #[must_use]
    pub const fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Self::Locked { .. }
                | Self::Missing { .. }
                | Self::Directory { .. }
                | Self::Url(_)
                | Self::Version(_)
                | Self::Older { .. }
                | Self::Corrupt(_)
                | Self::Refused(_)
        )
    }

    pub(super) fn directory(path: &std::path::Path, error: &io::Error) -> Self {
        Self::Directory { path: path.to_owned(), reason: error.to_string() }
    }

    pub(super) fn of(error: &sqlx::Error, dialect: Dialect) -> Self {
        let text = shown::line(&error.to_string());
        let Some(database) = error.as_database_error() else {
            return match error {
                sqlx::Error::Configuration(_) => Self::Url(text),
                sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) | sqlx::Error::Decode(_) => {
                    Self::Sql(text)
                }
                _ if dialect == Dialect::Sqlite => Self::Io(text),
                _ => Self::Unreachable(text),
            };
        };
        let code = database.code().unwrap_or_default().into_owned();
        let text = shown::line(database.message());
        match dialect {
            // extended result codes keep the primary one in their low byte
            Dialect::Sqlite => match code.parse::<u32>().unwrap_or_default() & 0xff {
                5 | 6 => Self::Busy(text),
                8 => Self::ReadOnly(text),
                13 => Self::Full(text),
                11 | 26 => Self::Corrupt(text),
                10 | 14 => Self::Io(text),
                // no fault of what was to be written
                1 if text.starts_with("no such ") => Self::Version(text),
                _ => Self::Sql(text),
            },
            Dialect::Postgres => match code.as_str() {
                "40001" | "40P01" => Self::Conflict(text),
                "25006" => Self::ReadOnly(text),
                "53100" => Self::Full(text),
                "55P03" => Self::Busy(text),
                "3D000" | "42501" => Self::Refused(text),
                "42P01" | "42703" | "3F000" => Self::Version(text),
                other if other.starts_with("28") => Self::Refused(text),
                other if other.starts_with("57P") || other.starts_with("08") || other.starts_with("53") => {
                    Self::Unreachable(text)
                }
                _ => Self::Sql(text),
            },
        }
    }
}
