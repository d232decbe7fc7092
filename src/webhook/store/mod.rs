//! The durable outbox: events, what became of them, live calls, announcements and secrets, in SQLite or PostgreSQL.
//!
//! One task writes (`writer`): whatever waits goes into one transaction. Nothing in here runs on a media thread.

mod admin;
mod batch;
mod calls;
mod clock;
mod db;
mod endpoints;
mod error;
mod housekeeping;
mod owner;
mod queue;
mod secrets;
pub mod view;
mod visit;
mod writer;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_core::future::BoxFuture;
use sqlx::AnyConnection;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};
use uuid::Uuid;

pub use self::{
    admin::{Attempt, Delivery, Filter, Shown, State},
    calls::{Orphan, Past, Unconnected, last_word},
    error::StoreError,
    housekeeping::Counters,
    secrets::{Disabled, Secret},
};
use self::{
    clock::Clock,
    db::{Db, Dialect},
    queue::{Intake, Mark, Shelves},
    writer::Writer,
};
use super::{Due, Entry, Full, Outbox, Outcome, Report};

/// Settings of the store.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the database's file is, and the lock that makes its directory ours.
    pub data_dir: PathBuf,
    /// A PostgreSQL that several gateways share, instead of the file.
    pub url: Option<String>,
    /// How long an event is leased to a sender: more than twice the longest time-out of an attempt.
    pub lease: Duration,
    /// Events fetched ahead for each endpoint.
    pub prefetch: usize,
    /// How long delivered events are kept.
    pub keep_done: Duration,
    /// How long dead ones are kept.
    pub keep_dead: Duration,
    /// Whether a commit waits for the disk. Only a test would not.
    pub fsync: bool,
    /// For a test that needs a full disk: the most pages of 4 kB that the file may have.
    pub max_pages: Option<Arc<AtomicU32>>,
    /// For a test that needs a read-only disk: connections made from now on write nothing.
    pub read_only: Option<Arc<AtomicBool>>,
    /// For a test that sets clocks: by how many ms those of the system and of the server are ahead of the truth.
    pub clock: Option<Arc<AtomicI64>>,
}

impl Default for Config {
    fn default() -> Self {
        const DAY: u64 = 24 * 3600;
        Self {
            data_dir: "hark-data".into(),
            url: None,
            lease: Duration::from_secs(60),
            prefetch: 128,
            keep_done: Duration::from_secs(7 * DAY),
            keep_dead: Duration::from_secs(30 * DAY),
            fsync: true,
            max_pages: None,
            read_only: None,
            clock: None,
        }
    }
}

/// The durable outbox. Cheap to clone; when the last clone is dropped without [`Store::close`], leases are left behind as in a crash.
#[derive(Clone)]
pub struct Store {
    core: Arc<Core>,
    running: Arc<Running>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("database", &self.core.db.shown).finish_non_exhaustive()
    }
}

struct Running {
    writer: Mutex<Option<JoinHandle<()>>>,
    orphans: Mutex<Option<mpsc::UnboundedReceiver<Orphan>>>,
    cancel: CancellationToken,
    _guard: DropGuard,
}

/// What the store's tasks share.
#[derive(Debug)]
struct Core {
    db: Db,
    clock: Clock,
    owner: Uuid,
    intake: Intake,
    shelves: Shelves,
    prefetch: usize,
    lease: Duration,
    keep: (Duration, Duration),
    last_lease: AtomicI64,
    /// The server's clock has been read.
    followed: AtomicBool,
    health: watch::Sender<Option<StoreError>>,
    orphans: mpsc::UnboundedSender<Orphan>,
    counters: Mutex<Counters>,
    left: AtomicI64,
    /// Puts and marks so far: whoever counts rows sees whether the count was overtaken.
    changes: AtomicU64,
    lost: AtomicU64,
}

impl Core {
    /// When a lease that begins now ends; no two are the same.
    fn lease_until(&self) -> i64 {
        let until = self.clock.now().saturating_add(i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX));
        let next = |last: i64| Some(until.max(last.saturating_add(1)));
        let last = self.last_lease.fetch_update(Relaxed, Relaxed, next).unwrap_or_else(|last| last);
        until.max(last.saturating_add(1))
    }

    /// Calls whose gateway died: somebody has to say that they are over.
    fn adopt(&self, orphans: Vec<Orphan>) {
        for orphan in orphans {
            // the receiver lives as long as the store
            let _ = self.orphans.send(orphan);
        }
        self.shelves.look_now();
        self.intake.wake.notify_one();
    }

    /// Counts deliveries that are lost.
    fn lose(&self, deliveries: usize) {
        self.lost.fetch_add(deliveries as u64, Relaxed);
        self.changed(-i64::try_from(deliveries).unwrap_or_default());
    }

    fn changed(&self, by: i64) {
        self.left.fetch_add(by, Relaxed);
        self.changes.fetch_add(1, Relaxed);
    }
}

impl Store {
    /// Opens the store, makes its tables, and takes over what dead owners left. Has to be called on the control runtime.
    ///
    /// A database that cannot be reached now, or has no space, is waited for: events are kept in memory until then.
    ///
    /// # Errors
    /// What waiting cannot help ([`StoreError::needs_a_person`]).
    pub async fn open(config: &Config) -> Result<Self, StoreError> {
        let (db, lock) = match &config.url {
            Some(url) => (Db::postgres(url)?, None),
            None => {
                let lock = owner::lock(&config.data_dir)?;
                (Db::sqlite(config)?, Some(lock))
            }
        };
        let (core, orphaned) = Self::core(db, config);
        let cancel = CancellationToken::new();
        let mut writer = Writer::new(Arc::clone(&core), lock, cancel.clone());
        match writer.connect().await {
            Ok(()) => info!("events are kept in {}", core.db.shown),
            Err(error) if error.needs_a_person() => {
                cancel.cancel();
                return Err(error);
            }
            Err(error) => {
                warn!(code = error.code(), "events are kept in memory until {} works: {error}", core.db.shown);
                core.health.send_replace(Some(error));
            }
        }
        tokio::spawn(cancel.clone().run_until_cancelled_owned(housekeeping::run(Arc::clone(&core))));
        Ok(Self::start(core, writer, orphaned, cancel))
    }

    fn core(db: Db, config: &Config) -> (Arc<Core>, mpsc::UnboundedReceiver<Orphan>) {
        // holds no more than dead gateways had live calls, each of which limits.max_calls has bounded
        let (orphans, orphaned) = mpsc::unbounded_channel();
        let core = Core {
            db,
            clock: Clock::new(config.clock.clone()),
            owner: Uuid::now_v7(),
            intake: Intake::default(),
            shelves: Shelves::default(),
            prefetch: config.prefetch.max(1),
            lease: config.lease,
            keep: (config.keep_done, config.keep_dead),
            last_lease: AtomicI64::new(0),
            followed: AtomicBool::new(false),
            health: watch::Sender::new(None),
            orphans,
            counters: Mutex::default(),
            left: AtomicI64::new(0),
            changes: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        };
        (Arc::new(core), orphaned)
    }

    fn start(
        core: Arc<Core>,
        writer: Writer,
        orphaned: mpsc::UnboundedReceiver<Orphan>,
        cancel: CancellationToken,
    ) -> Self {
        let running = Running {
            writer: Mutex::new(Some(tokio::spawn(writer.run()))),
            orphans: Mutex::new(Some(orphaned)),
            cancel: cancel.clone(),
            _guard: cancel.drop_guard(),
        };
        Self { core, running: Arc::new(running) }
    }

    /// What is wrong with the database, if something is; calls and events go on all the same.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Option<StoreError>> {
        self.core.health.subscribe()
    }

    /// Deliveries that were lost: the database did not work until the memory was full, or refused them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.core.lost.load(Relaxed)
    }

    /// Writes what waits, gives leases back and ends, at most until `deadline`. Whether everything was written.
    pub async fn close(&self, deadline: Instant) -> bool {
        self.core.intake.close();
        let writer = self.running.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut writer) = writer else { return self.core.intake.idle() };
        if timeout_at(deadline, &mut writer).await.is_err() {
            self.running.cancel.cancel();
            let _ = writer.await;
        }
        let (events, bytes) = self.core.intake.waiting();
        if events > 0 {
            warn!(events, bytes, "the database did not work to the end: these events are lost");
        }
        events == 0
    }

    /// Runs `work` in a transaction of its own, on the writer's connection.
    async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut AnyConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static,
    {
        write(&self.core, work).await
    }

    fn error(&self, error: &sqlx::Error) -> StoreError {
        self.core.db.error(error)
    }
}

/// Runs `work` in a transaction of its own, on the writer's connection.
async fn write<T, F>(core: &Core, work: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut AnyConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static,
{
    let (answer, answered) = oneshot::channel::<Result<T, StoreError>>();
    let answer = Arc::new(Mutex::new(Some(answer)));
    let refuse = Arc::clone(&answer);
    let say = |answer: &Mutex<Option<oneshot::Sender<_>>>, what| {
        if let Some(answer) = answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // who asked may have gone
            let _ = answer.send(what);
        }
    };
    let job: queue::Job = Box::new(move |connection| {
        Box::pin(async move {
            let value = work(connection).await?;
            let done: queue::Answer = Box::new(move |committed| say(&answer, committed.map(|()| value)));
            Ok(done)
        })
    });
    core.intake.job(job, Box::new(move |error| say(&refuse, Err(error))));
    answered.await.unwrap_or(Err(StoreError::Closed))
}

impl Outbox for Store {
    fn put_all(&self, entries: Vec<Entry>) -> BoxFuture<'static, Result<(), Full>> {
        let core = Arc::clone(&self.core);
        let deliveries: usize = entries.iter().map(Entry::deliveries).sum();
        let committed = match core.intake.put(entries) {
            Ok((committed, dropped)) => {
                core.changed(i64::try_from(deliveries).unwrap_or_default());
                if dropped > 0 {
                    core.lose(dropped);
                }
                committed
            }
            Err(full) => {
                core.lost.fetch_add(deliveries as u64, Relaxed);
                return Box::pin(std::future::ready(Err(full)));
            }
        };
        Box::pin(async move {
            let mut health = core.health.subscribe();
            tokio::select! {
                // a dropped sender: the event had to go, and has been counted
                done = committed => done.map_err(|_| { let (events, bytes) = core.intake.waiting(); Full { events, bytes } }),
                // in memory, and written as soon as that is possible
                _ = health.wait_for(Option::is_some) => Ok(()),
            }
        })
    }

    fn next<'a>(&'a self, endpoint: &'a str) -> BoxFuture<'a, Due> {
        let core = &self.core;
        Box::pin(async move {
            loop {
                let (taken, more) = core.shelves.take(endpoint, core.prefetch / 2);
                if more {
                    core.intake.wake.notify_one();
                }
                match taken {
                    // what is left of the lease has to do for an attempt
                    Ok((due, since)) if since.elapsed() < core.lease / 2 => return due,
                    Ok((due, _)) => {
                        let at = core.clock.now();
                        core.intake.mark(Mark::release(due, at));
                    }
                    Err(wake) => wake.notified().await,
                }
            }
        })
    }

    fn mark(&self, due: &Due, outcome: Outcome, report: Report) {
        let core = &self.core;
        let wait = match outcome {
            Outcome::RetryAfter(wait) => i64::try_from(wait.as_millis()).unwrap_or(i64::MAX),
            Outcome::Delivered | Outcome::GivenUp => {
                core.changed(-1);
                0
            }
        };
        let at = core.clock.now().saturating_add(wait);
        core.intake.mark(Mark { due: due.clone(), outcome, report: Some(report), at });
    }

    fn left(&self) -> usize {
        usize::try_from(self.core.left.load(Relaxed)).unwrap_or_default()
    }
}

/// Whether events are kept in one file for one gateway, or on a server for several.
impl Store {
    /// Whether other gateways may work on the same database.
    #[must_use]
    pub fn shared(&self) -> bool {
        self.core.db.dialect == Dialect::Postgres
    }
}
