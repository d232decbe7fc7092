//! What waits for the writer (events, outcomes, other work), and what the writer has fetched for delivery. Bounded, and never waits.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_core::future::BoxFuture;
use sqlx::AnyConnection;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::error::StoreError;
use crate::webhook::{Due, Entry, Full, Outcome, Phase, Report, outbox::MAX_BYTES};

/// What one transaction takes at most.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 8 << 20;
/// Jobs between two batches.
const JOBS: usize = 16;
/// An entry's own weight beside its body.
const OVERHEAD: usize = 256;

/// An event that waits for its commit.
#[derive(Debug)]
pub(super) struct Put {
    pub entry: Entry,
    /// `None`: the next one belongs to it, and says it for both.
    pub done: Option<oneshot::Sender<()>>,
}

/// An outcome that waits to be recorded.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub due: Due,
    pub outcome: Outcome,
    /// `None`: there was no attempt, the event is only given back.
    pub report: Option<Report>,
    /// When the next attempt is due, or when this one ended, by the store's clock.
    pub at: i64,
}

impl Mark {
    /// Gives `due` back untried.
    pub const fn release(due: Due, now: i64) -> Self {
        Self { due, outcome: Outcome::RetryAfter(Duration::ZERO), report: None, at: now }
    }
}

/// Other work, in a transaction of its own; it answers its caller itself.
pub(super) type Job =
    Box<dyn for<'c> FnOnce(&'c mut AnyConnection) -> BoxFuture<'c, Result<Answer, sqlx::Error>> + Send>;
/// Called with whether the transaction was committed.
pub(super) type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What waits for the writer.
#[derive(Debug, Default)]
pub(super) struct Intake {
    inner: Mutex<Inner>,
    /// There is work.
    pub wake: Notify,
}

#[derive(Default)]
struct Inner {
    puts: VecDeque<Put>,
    /// Of everything put and not committed, in the writer's hands too.
    bytes: usize,
    events: usize,
    marks: Vec<Mark>,
    jobs: VecDeque<(Job, Refuse)>,
    /// The writer has a batch in hand.
    busy: bool,
    closed: bool,
}

/// Tells the caller of a job that it was not done.
pub(super) type Refuse = Box<dyn FnOnce(StoreError) + Send>;

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("events", &self.events).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// What one transaction is to write.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub puts: Vec<Put>,
    pub marks: Vec<Mark>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.marks.is_empty()
    }

    /// Whether this changes something for `endpoint`.
    pub fn touches(&self, endpoint: &str) -> bool {
        self.marks.iter().any(|mark| &*mark.due.endpoint == endpoint)
            || self.puts.iter().any(|put| put.entry.to.iter().any(|to| &*to.endpoint == endpoint))
    }
}

fn weight(entry: &Entry) -> usize {
    OVERHEAD * (1 + entry.to.len()) + entry.bytes()
}

impl Intake {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes events that are to be committed together. Where the memory is full, the oldest transcriptions go; their deliveries.
    pub fn put(&self, entries: Vec<Entry>) -> Result<(oneshot::Receiver<()>, usize), Full> {
        let (done, committed) = oneshot::channel();
        let mut inner = self.lock();
        let bytes: usize = entries.iter().map(weight).sum();
        let mut dropped = 0;
        if inner.bytes + bytes > MAX_BYTES {
            dropped = inner.shed();
        }
        // what begins or ends a call is small and is never refused
        let middle = entries.iter().all(|entry| entry.phase == Phase::Middle);
        if inner.closed || (inner.bytes + bytes > MAX_BYTES && middle) {
            return Err(Full { events: inner.events, bytes: inner.bytes });
        }
        inner.bytes += bytes;
        inner.events += entries.len();
        let (mut done, mut left) = (Some(done), entries.len());
        for entry in entries {
            left -= 1;
            let done = if left == 0 { done.take() } else { None };
            inner.puts.push_back(Put { entry, done });
        }
        drop(inner);
        self.wake.notify_one();
        Ok((committed, dropped))
    }

    pub fn mark(&self, mark: Mark) {
        self.lock().marks.push(mark);
        self.wake.notify_one();
    }

    pub fn job(&self, job: Job, refuse: Refuse) {
        let mut inner = self.lock();
        if inner.closed {
            drop(inner);
            return refuse(StoreError::Closed);
        }
        inner.jobs.push_back((job, refuse));
        drop(inner);
        self.wake.notify_one();
    }

    /// Some of the jobs that wait. To be taken before the batch that is written before them: a job sees what was handed in before it.
    pub fn take_jobs(&self) -> Vec<(Job, Refuse)> {
        let mut inner = self.lock();
        let some = inner.jobs.len().min(JOBS);
        inner.jobs.drain(..some).collect()
    }

    /// Refuses all jobs that wait: the database is broken, and their callers are not to hang.
    pub fn refuse_jobs(&self, error: &StoreError) {
        let jobs = mem::take(&mut self.lock().jobs);
        for (_, refuse) in jobs {
            refuse(error.clone());
        }
    }

    /// Adds to `batch` what fits into one transaction.
    pub fn fill(&self, batch: &mut Batch) {
        let mut inner = self.lock();
        batch.marks.append(&mut inner.marks);
        let mut bytes: usize = batch.puts.iter().map(|put| put.entry.bytes()).sum();
        let mut whole = true;
        while (!whole || (batch.puts.len() < BATCH && bytes < BATCH_BYTES))
            && let Some(put) = inner.puts.pop_front()
        {
            whole = put.done.is_some();
            bytes += put.entry.bytes();
            batch.puts.push(put);
        }
        inner.busy = !batch.is_empty();
    }

    /// These are committed.
    pub fn committed(&self, puts: Vec<Put>) {
        let bytes: usize = puts.iter().map(|put| weight(&put.entry)).sum();
        let mut inner = self.lock();
        inner.bytes = inner.bytes.saturating_sub(bytes);
        inner.events = inner.events.saturating_sub(puts.len());
        inner.busy = false;
        drop(inner);
        for put in puts {
            if let Some(done) = put.done {
                // nobody need wait for it
                let _ = done.send(());
            }
        }
    }

    /// Events that are not committed, and their bytes.
    pub fn waiting(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.events, inner.bytes)
    }

    /// Whether everything that was handed in has been written.
    pub fn idle(&self) -> bool {
        let inner = self.lock();
        !inner.busy && inner.puts.is_empty() && inner.marks.is_empty() && inner.jobs.is_empty()
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    pub fn closed(&self) -> bool {
        self.lock().closed
    }
}

impl Inner {
    /// Drops the oldest transcriptions until an eighth of the memory is free.
    fn shed(&mut self) -> usize {
        let (mut bytes, before, mut deliveries) = (self.bytes, self.puts.len(), 0);
        self.puts.retain(|put| {
            let keep = bytes <= MAX_BYTES - MAX_BYTES / 8 || put.entry.kind != "transcription" || put.done.is_none();
            if !keep {
                bytes -= weight(&put.entry);
                deliveries += put.entry.deliveries();
            }
            keep
        });
        self.bytes = bytes;
        self.events -= before - self.puts.len();
        deliveries
    }
}

/// What has been fetched for delivery, by endpoint.
#[derive(Debug, Default)]
pub(super) struct Shelves(Mutex<HashMap<Arc<str>, Shelf>>);

#[derive(Debug)]
struct Shelf {
    ready: VecDeque<(Due, Instant)>,
    wake: Arc<Notify>,
    /// When to look for more.
    look_at: Instant,
}

/// An endpoint for which more is to be fetched.
#[derive(Debug, Clone)]
pub(super) struct Demand {
    pub endpoint: Arc<str>,
    pub limit: usize,
}

impl Shelves {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Shelf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is ready for `endpoint`, and says whether more should be fetched; else what to wait for.
    pub fn take(&self, endpoint: &str, low: usize) -> (Result<(Due, Instant), Arc<Notify>>, bool) {
        let mut shelves = self.lock();
        let shelf = match shelves.get_mut(endpoint) {
            Some(shelf) => shelf,
            None => shelves.entry(endpoint.into()).or_insert_with(|| Shelf {
                ready: VecDeque::new(),
                wake: Arc::default(),
                look_at: Instant::now(),
            }),
        };
        match shelf.ready.pop_front() {
            Some(due) => (Ok(due), shelf.ready.len() == low),
            None => (Err(Arc::clone(&shelf.wake)), true),
        }
    }

    /// Endpoints that have room and something to fetch: those in `touched`, and those whose time has come.
    pub fn demands(&self, size: usize, now: Instant, touched: impl Fn(&str) -> bool) -> Vec<Demand> {
        let shelves = self.lock();
        let wanting = shelves
            .iter()
            .filter(|(name, shelf)| shelf.ready.len() <= size / 2 && (shelf.look_at <= now || touched(name)));
        wanting.map(|(name, shelf)| Demand { endpoint: Arc::clone(name), limit: size - shelf.ready.len() }).collect()
    }

    /// Puts what was fetched on the shelf of `endpoint`.
    pub fn fill(&self, endpoint: &str, fetched: Vec<Due>, at: Instant, look_at: Instant) {
        let mut shelves = self.lock();
        if let Some(shelf) = shelves.get_mut(endpoint) {
            shelf.ready.extend(fetched.into_iter().map(|due| (due, at)));
            shelf.look_at = look_at;
            shelf.wake.notify_one();
        }
    }

    /// When to look next for an endpoint that has room.
    pub fn look_at(&self, size: usize) -> Option<Instant> {
        self.lock().values().filter(|shelf| shelf.ready.len() <= size / 2).map(|shelf| shelf.look_at).min()
    }

    /// Something may be due for everybody.
    pub fn look_now(&self) {
        let now = Instant::now();
        self.lock().values_mut().for_each(|shelf| shelf.look_at = now);
    }
}
