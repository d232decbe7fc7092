//! Who works on the database, and what becomes of the work of those who died.
//!
//! SQLite: the lock on the data directory proves that every former owner is dead. PostgreSQL: an owner holds an advisory lock for as
//! long as its connection lives; a lock that stays free for [`SUSPICION`] proves its owner dead. The wait is for gateways that come
//! back, each at its own pace, after the server itself was restarted.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Write as _},
    path::Path,
    process,
    sync::Arc,
    time::Duration,
};

use sqlx::{AnyConnection, Connection, Row};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    Core, Orphan,
    batch::{bytes, uuid},
    clock,
    error::StoreError,
};
use crate::call::CallId;

/// How often owners look after their own lock and those of others.
const TICK: Duration = Duration::from_secs(1);
/// How often a lost lock is tried to be taken again.
const AGAIN: Duration = Duration::from_millis(200);
/// How long the lock of another owner has to be free.
const SUSPICION: Duration = Duration::from_secs(3);
/// How long a look may take.
const LOOK: Duration = Duration::from_secs(5);

/// Takes the data directory for this process.
pub(super) fn lock(dir: &Path) -> Result<File, StoreError> {
    let unusable = |error| StoreError::directory(dir, &error);
    std::fs::create_dir_all(dir).map_err(unusable)?;
    let path = dir.join("hark.lock");
    // not truncated: it may be another's, whose process it names
    let mut file =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.take(20).read_to_string(&mut pid);
            let pid = pid.trim().chars().filter(char::is_ascii_digit).collect();
            return Err(StoreError::Locked { path: dir.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(unusable(error)),
    }
    // only for whoever finds the directory locked; on a full disk it does not matter
    let _ = file.set_len(0);
    let _ = writeln!(file, "{}", process::id());
    Ok(file)
}

/// Whose work to take over.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dead {
    /// Everybody's but that of the one named.
    AllBut(Uuid),
    One(Uuid),
}

/// Makes the leases of the dead due and gives their live calls to `me`, who is to close them.
pub(super) async fn take_over(
    connection: &mut AnyConnection,
    dead: Dead,
    me: Uuid,
    now: i64,
) -> Result<Vec<Orphan>, sqlx::Error> {
    let (lanes, calls, mine, who) = match dead {
        Dead::AllBut(id) => (
            "UPDATE lanes SET owner = NULL, leased_seq = NULL, due_at = $1 WHERE owner IS NOT NULL AND owner <> $2",
            "SELECT call, uuid FROM live_calls WHERE owner <> $1 ORDER BY started_at",
            "UPDATE live_calls SET owner = $1 WHERE owner <> $2",
            id,
        ),
        Dead::One(id) => (
            "UPDATE lanes SET owner = NULL, leased_seq = NULL, due_at = $1 WHERE owner = $2",
            "SELECT call, uuid FROM live_calls WHERE owner = $1 ORDER BY started_at",
            "UPDATE live_calls SET owner = $1 WHERE owner = $2",
            id,
        ),
    };
    sqlx::query(lanes).bind(now).bind(bytes(who)).execute(&mut *connection).await?;
    let found = sqlx::query(calls).bind(bytes(who)).fetch_all(&mut *connection).await?;
    sqlx::query(mine).bind(bytes(me)).bind(bytes(who)).execute(&mut *connection).await?;
    found.iter().map(|row| Ok(Orphan { call: CallId::from(uuid(row, "call")?), uuid: uuid(row, "uuid")? })).collect()
}

/// Gives back what `me` has leased and ends its registration.
pub(super) async fn leave(connection: &mut AnyConnection, me: Uuid, now: i64) -> Result<(), sqlx::Error> {
    let lanes = "UPDATE lanes SET owner = NULL, leased_seq = NULL, due_at = $1 WHERE owner = $2";
    sqlx::query(lanes).bind(now).bind(bytes(me)).execute(&mut *connection).await?;
    // the row has to stay while a call is live: somebody has to find that call
    let row = "DELETE FROM owners WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM live_calls WHERE owner = $1)";
    sqlx::query(row).bind(bytes(me)).execute(&mut *connection).await.map(drop)
}

/// Keeps this owner's lock on PostgreSQL, and looks after those of the others.
pub(super) struct Keeper {
    core: Arc<Core>,
    connection: Option<AnyConnection>,
    /// Locks that were found free, and since when.
    free: HashMap<Uuid, Instant>,
}

/// The name of an owner's advisory lock.
const fn key(owner: Uuid) -> i64 {
    // the random part of a UUIDv7
    (owner.as_u128() & 0x3fff_ffff_ffff_ffff) as i64
}

impl Keeper {
    /// Takes the lock and registers.
    pub async fn start(core: Arc<Core>) -> Result<Self, StoreError> {
        let mut keeper = Self { core, connection: None, free: HashMap::new() };
        keeper.register().await?;
        Ok(keeper)
    }

    async fn register(&mut self) -> Result<(), StoreError> {
        let core = &self.core;
        let mut connection = core.db.connect().await?;
        let error = |error: sqlx::Error| core.db.error(&error);
        // a host that vanishes says no good-bye: the server is to find out
        let keepalive = "SET tcp_keepalives_idle = 2; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 3";
        sqlx::raw_sql(keepalive).execute(&mut connection).await.map_err(error)?;
        let lock = sqlx::query("SELECT pg_try_advisory_lock($1) AS locked").bind(key(core.owner));
        if !lock.fetch_one(&mut connection).await.and_then(|row| row.try_get("locked")).map_err(error)? {
            return Err(StoreError::Busy("another gateway is checking whether this one is alive".to_owned()));
        }
        let sql =
            "INSERT INTO owners (id, lock_key, name, started_at) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING";
        let row = sqlx::query(sql)
            .bind(bytes(core.owner))
            .bind(key(core.owner))
            .bind(format!("process {}", process::id()))
            .bind(core.clock.now());
        row.execute(&mut connection).await.map_err(error)?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Goes on until the task is ended.
    pub async fn run(mut self) {
        let mut lost = false;
        loop {
            let looked = match &mut self.connection {
                Some(_) => timeout(LOOK, self.look()).await.unwrap_or(Err(StoreError::Timeout(LOOK))),
                None => timeout(LOOK, self.register()).await.unwrap_or(Err(StoreError::Timeout(LOOK))),
            };
            match looked {
                Ok(()) => {
                    if std::mem::take(&mut lost) {
                        info!("the lock on the database is held again");
                    }
                    sleep(TICK).await;
                }
                Err(error) => {
                    if !std::mem::replace(&mut lost, true) {
                        warn!(code = error.code(), "the lock on the database was lost and is taken again: {error}");
                    }
                    self.connection = None;
                    self.free.clear();
                    sleep(AGAIN).await;
                }
            }
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let core = &self.core;
        let error = |error: sqlx::Error| core.db.error(&error);
        clock::follow(core, connection).await.map_err(error)?;
        let sql = "SELECT id, lock_key, name FROM owners WHERE id <> $1";
        let others = sqlx::query(sql).bind(bytes(core.owner)).fetch_all(&mut *connection).await.map_err(error)?;
        let mut free = HashMap::new();
        for row in &others {
            let id = uuid(row, "id").map_err(error)?;
            let key: i64 = row.try_get("lock_key").map_err(error)?;
            let since = self.free.get(&id).copied();
            let mut transaction = connection.begin().await.map_err(error)?;
            let lock = sqlx::query("SELECT pg_try_advisory_xact_lock($1) AS locked").bind(key);
            let dead = lock.fetch_one(&mut *transaction).await.and_then(|row| row.try_get("locked")).map_err(error)?;
            if dead && since.is_some_and(|since| since.elapsed() >= SUSPICION) {
                let orphans =
                    take_over(&mut transaction, Dead::One(id), core.owner, core.clock.now()).await.map_err(error)?;
                let gone = sqlx::query("DELETE FROM owners WHERE id = $1").bind(bytes(id));
                gone.execute(&mut *transaction).await.map_err(error)?;
                transaction.commit().await.map_err(error)?;
                let name: String = row.try_get("name").map_err(error)?;
                warn!(calls = orphans.len(), "another gateway ({name}) is gone: its undelivered events are taken over");
                core.adopt(orphans);
                continue;
            }
            transaction.rollback().await.map_err(error)?;
            if dead {
                free.insert(id, since.unwrap_or_else(Instant::now));
            }
        }
        self.free = free;
        Ok(())
    }
}
