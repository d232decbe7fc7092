//! The only task that writes: everything that waits goes into one transaction, and so costs one fsync.

use std::{fs::File, sync::Arc, time::Duration};

use futures_core::future::BoxFuture;
use rand::Rng as _;
use sqlx::{AnyConnection, Connection};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    Core, batch, clock,
    db::{Dialect, PATIENCE, close},
    error::StoreError,
    owner::{self, Dead, Keeper},
    queue::{Batch, Demand, Job, Put, Refuse},
};
use crate::webhook::{Due, Outcome};

/// How long a due event may go unnoticed that somebody else wrote.
const POLL: Duration = Duration::from_secs(1);
/// The wait after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// When nothing has been written for so long, the database is looked at all the same: who is idle should know too.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a look at a server may take.
const LOOK: Duration = Duration::from_secs(5);
/// A database that does not work is reported at most this often.
const LOUD_EVERY: Duration = Duration::from_secs(10);

/// What one claim got, for which endpoint, and when to look again.
type Claimed = (Demand, Vec<Due>, Option<i64>);

pub(super) struct Writer {
    core: Arc<Core>,
    /// The data directory is ours for as long as this lives.
    _lock: Option<File>,
    cancel: CancellationToken,
    connection: Option<AnyConnection>,
    registered: bool,
    /// It owns nothing.
    visits: bool,
    keeper: Option<JoinHandle<()>>,
    batch: Batch,
    /// Leases of transactions that failed: the commit may have reached the database all the same.
    doubtful: Vec<i64>,
    loud: Option<Instant>,
    /// When the database was last seen to take something.
    seen: Instant,
}

impl Writer {
    pub fn new(core: Arc<Core>, lock: Option<File>, cancel: CancellationToken) -> Self {
        Self {
            core,
            _lock: lock,
            cancel,
            connection: None,
            registered: false,
            visits: false,
            keeper: None,
            batch: Batch::default(),
            doubtful: Vec::new(),
            loud: None,
            seen: Instant::now(),
        }
    }

    /// For somebody who owns nothing: neither makes tables nor takes anything over.
    pub fn visitor(core: Arc<Core>, cancel: CancellationToken) -> Self {
        Self { registered: true, visits: true, ..Self::new(core, None, cancel) }
    }

    /// Makes the connection where there is none; the first time, prepares the database and takes over from the dead.
    pub async fn connect(&mut self) -> Result<(), StoreError> {
        if self.connection.is_some() {
            return Ok(());
        }
        let core = Arc::clone(&self.core);
        if core.db.moved() {
            core.db.let_go().await;
            // whatever is there now is to be made ready
            self.registered = self.visits;
        }
        let mut connection = core.db.connect().await?;
        core.db.settle();
        if !self.registered {
            core.db.migrate(&mut connection).await?;
            clock::follow(&core, &mut connection).await.map_err(|error| core.db.error(&error))?;
            let error = |error: sqlx::Error| core.db.error(&error);
            let mut transaction = connection.begin_with(core.db.begin()).await.map_err(error)?;
            clock::keep(&core, &mut transaction, false).await.map_err(error)?;
            transaction.commit().await.map_err(error)?;
            self.register(&mut connection).await?;
            self.registered = true;
        } else if self.visits {
            core.db.up_to_date(&mut connection).await?;
        }
        clock::follow(&core, &mut connection).await.map_err(|error| core.db.error(&error))?;
        self.connection = Some(connection);
        Ok(())
    }

    async fn register(&mut self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        let core = &self.core;
        match core.db.dialect {
            Dialect::Sqlite => {
                let error = |error: sqlx::Error| core.db.error(&error);
                let mut transaction = connection.begin_with(core.db.begin()).await.map_err(error)?;
                let dead = Dead::AllBut(core.owner);
                let orphans =
                    owner::take_over(&mut transaction, dead, core.owner, core.clock.now()).await.map_err(error)?;
                transaction.commit().await.map_err(error)?;
                core.adopt(orphans);
            }
            Dialect::Postgres => {
                let keeper = Keeper::start(Arc::clone(core)).await?;
                let cancel = self.cancel.clone();
                self.keeper = Some(tokio::spawn(async move {
                    cancel.run_until_cancelled_owned(keeper.run()).await;
                }));
            }
        }
        Ok(())
    }

    /// Writes until the store is closed and everything is written, or until the task is cancelled.
    pub async fn run(mut self) {
        let cancel = self.cancel.clone();
        // boxed, like others here: the compiler loses the thread of the lifetimes otherwise
        let work: BoxFuture<'_, ()> = Box::pin(self.work());
        if cancel.run_until_cancelled(work).await.is_some() {
            self.leave().await;
        }
        cancel.cancel();
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.await;
        }
    }

    async fn work(&mut self) {
        let core = Arc::clone(&self.core);
        loop {
            let jobs = core.intake.take_jobs();
            core.intake.fill(&mut self.batch);
            if self.batch.is_empty()
                && self.look_at() <= Instant::now()
                && let Err(error) = self.look().await
            {
                for (_, refuse) in jobs {
                    refuse(error.clone());
                }
                self.failed(error).await;
                continue;
            }
            let demands = self.demands();
            if self.batch.is_empty() && demands.is_empty() {
                if jobs.is_empty() && core.intake.idle() {
                    if core.intake.closed() {
                        return;
                    }
                    wait(&core, self.look_at()).await;
                }
            } else {
                match self.write(&demands).await {
                    Ok(claimed) => self.written(claimed),
                    Err(StoreError::Sql(_)) if !self.batch.is_empty() => self.one_by_one().await,
                    Err(error) => self.failed(error).await,
                }
            }
            self.jobs(jobs).await;
        }
    }

    fn demands(&self) -> Vec<Demand> {
        if self.core.intake.closed() {
            return Vec::new();
        }
        self.core.shelves.demands(self.core.prefetch, Instant::now(), |endpoint| self.batch.touches(endpoint))
    }

    /// One transaction.
    async fn write(&mut self, demands: &[Demand]) -> Result<Vec<Claimed>, StoreError> {
        self.connect().await?;
        let Some(mut connection) = self.connection.take() else { return Err(StoreError::Closed) };
        let leases: Vec<i64> = demands.iter().map(|_| self.core.lease_until()).collect();
        let core = Arc::clone(&self.core);
        let work: BoxFuture<'_, _> =
            Box::pin(transact(&core, &mut connection, &self.batch, &self.doubtful, demands, &leases));
        let done = match core.db.dialect {
            // a slow disk is slow: giving up would not make it faster
            Dialect::Sqlite => work.await,
            Dialect::Postgres => timeout(PATIENCE, work).await.unwrap_or(Err(StoreError::Timeout(PATIENCE))),
        };
        // a commit to a file that is at its path no more is none
        let done = done.and_then(|claimed| if core.db.moved() { Err(core.db.gone()) } else { Ok(claimed) });
        match &done {
            Ok(_) => {
                self.doubtful.clear();
                self.connection = Some(connection);
            }
            // whatever is wrong with it, a new connection begins anew
            Err(_) => {
                self.doubtful.extend(leases);
                close(connection).await;
            }
        }
        done
    }

    fn written(&mut self, claimed: Vec<Claimed>) {
        let core = Arc::clone(&self.core);
        let wrote = !self.batch.is_empty() || claimed.iter().any(|(_, fetched, _)| !fetched.is_empty());
        let puts = std::mem::take(&mut self.batch.puts);
        self.batch.marks.clear();
        core.intake.committed(puts);
        for (demand, fetched, next) in claimed {
            let now = Instant::now();
            let look_at = match next {
                None => now + POLL,
                Some(due) => {
                    let wait = u64::try_from(due.saturating_sub(core.clock.now())).unwrap_or_default();
                    now + Duration::from_millis(wait).min(POLL)
                }
            };
            core.shelves.fill(&demand.endpoint, fetched, now, look_at);
        }
        if wrote || self.visits {
            self.works();
        }
    }

    /// Something was written, or could have been.
    fn works(&mut self) {
        self.seen = Instant::now();
        if self.core.health.borrow().is_some() {
            info!("the database works again: everything that waited for it is written");
            self.core.health.send_replace(None);
            self.loud = None;
        }
    }

    /// When to look whether the database works, if nothing is written until then. Only to read is no proof.
    fn look_at(&self) -> Instant {
        if self.visits || self.core.intake.closed() {
            return self.seen + Duration::from_secs(365 * 24 * 3600);
        }
        if self.core.health.borrow().is_some() { self.seen } else { self.seen + LOOK_EVERY }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        self.connect().await?;
        let Some(mut connection) = self.connection.take() else { return Err(StoreError::Closed) };
        match timeout(LOOK, self.core.db.look(&mut connection)).await.unwrap_or(Err(StoreError::Timeout(LOOK))) {
            Ok(()) => {
                self.connection = Some(connection);
                self.works();
                Ok(())
            }
            Err(error) => {
                close(connection).await;
                Err(error)
            }
        }
    }

    async fn failed(&mut self, reason: StoreError) {
        if matches!(reason, StoreError::Conflict(_)) {
            let wait = rand::rng().random_range(1..50);
            return sleep(Duration::from_millis(wait)).await;
        }
        let core = &self.core;
        let now = Instant::now();
        if self.loud.is_none_or(|at| now.duration_since(at) >= LOUD_EVERY) {
            let (events, bytes) = core.intake.waiting();
            error!(
                code = reason.code(),
                events,
                bytes,
                "events cannot be written to {}; they wait in memory, calls go on: {reason}",
                core.db.shown
            );
            self.loud = Some(now);
        }
        core.intake.refuse_jobs(&reason);
        core.health.send_replace(Some(reason));
        sleep(AGAIN).await;
    }

    /// Something in the batch is refused by the database for what it is: without that, the rest must go on.
    async fn one_by_one(&mut self) {
        let Batch { puts, marks } = std::mem::take(&mut self.batch);
        let singles = marks.into_iter().map(|mark| Batch { puts: Vec::new(), marks: vec![mark] });
        let singles = singles.chain(puts.into_iter().map(|put| Batch { puts: vec![put], marks: Vec::new() }));
        let mut rest = Batch::default();
        for single in singles {
            if !rest.is_empty() {
                rest.puts.extend(single.puts);
                rest.marks.extend(single.marks);
                continue;
            }
            self.batch = single;
            match self.write(&[]).await {
                Ok(claimed) => self.written(claimed),
                Err(StoreError::Sql(reason)) => self.refused(&reason),
                Err(error) => {
                    rest = std::mem::take(&mut self.batch);
                    self.failed(error).await;
                }
            }
        }
        self.batch = rest;
    }

    fn refused(&mut self, reason: &str) {
        let Batch { puts, marks } = std::mem::take(&mut self.batch);
        for Put { entry, .. } in &puts {
            error!(code = "store.sql", call = %entry.call, event = %entry.id, kind = %entry.kind, "this event is lost, the database refuses it: {reason}");
            self.core.lose(entry.deliveries());
        }
        for mark in &marks {
            let settled = !matches!(mark.outcome, Outcome::RetryAfter(_));
            error!(code = "store.sql", event = %mark.due.id, settled, "what became of this event cannot be recorded, it will be sent again: {reason}");
        }
        // whoever waits learns that it is not committed
        self.core.intake.committed(puts.into_iter().map(|put| Put { done: None, ..put }).collect());
    }

    /// Other work, each in a transaction of its own.
    async fn jobs(&mut self, jobs: Vec<(Job, Refuse)>) {
        let core = Arc::clone(&self.core);
        for (job, refuse) in jobs {
            let broken = core.health.borrow().clone();
            // while events cannot be written nobody is kept waiting; whoever has no events to write tries
            if let Some(error) = broken.filter(|_| !self.batch.is_empty()) {
                refuse(error);
                continue;
            }
            if let Err(error) = self.connect().await {
                refuse(error);
                continue;
            }
            let Some(mut connection) = self.connection.take() else { return };
            if core.db.moved() {
                refuse(core.db.gone());
                close(connection).await;
                continue;
            }
            let done = async {
                let mut transaction = connection.begin_with(core.db.begin()).await?;
                let answer = job(&mut transaction).await?;
                Ok::<_, sqlx::Error>((transaction.commit().await, answer))
            };
            match timeout(PATIENCE, done).await {
                Ok(Ok((Ok(()), answer))) => {
                    answer(Ok(()));
                    self.connection = Some(connection);
                }
                Ok(Ok((Err(error), answer))) => answer(Err(core.db.error(&error))),
                Ok(Err(error)) => refuse(core.db.error(&error)),
                Err(_) => refuse(StoreError::Timeout(PATIENCE)),
            }
        }
    }

    /// In order: gives back the leases, so that others need not wait for their end.
    async fn leave(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            let core = &self.core;
            if let Err(error) = owner::leave(&mut connection, core.owner, core.clock.now()).await {
                info!("the leases could not be given back: {}", core.db.error(&error));
            }
            close(connection).await;
        }
        self.core.db.close().await;
    }
}

/// Waits until there may be work.
async fn wait(core: &Core, until: Instant) {
    let until = core.shelves.look_at(core.prefetch).map_or(until, |at| at.min(until));
    tokio::select! { () = core.intake.wake.notified() => {}, () = sleep_until(until) => {} }
}

async fn transact(
    core: &Core,
    connection: &mut AnyConnection,
    batch: &Batch,
    doubtful: &[i64],
    demands: &[Demand],
    leases: &[i64],
) -> Result<Vec<Claimed>, StoreError> {
    let error = |error: sqlx::Error| core.db.error(&error);
    let (owner, now) = (core.owner, core.clock.now());
    if batch.is_empty() && doubtful.is_empty() && !batch::any_due(connection, demands, now).await.map_err(error)? {
        let mut looked = Vec::new();
        for demand in demands {
            let next = batch::next_due(connection, &demand.endpoint).await.map_err(error)?;
            looked.push((demand.clone(), Vec::new(), next));
        }
        return Ok(looked);
    }
    let mut transaction = connection.begin_with(core.db.begin()).await.map_err(error)?;
    for &until in doubtful {
        batch::unclaim(&mut transaction, owner, until, now).await.map_err(error)?;
    }
    if !batch.marks.is_empty() {
        batch::mark(&mut transaction, core.db.dialect, &batch.marks, owner, now).await.map_err(error)?;
    }
    if !batch.puts.is_empty() {
        batch::put(&mut transaction, &batch.puts, owner, now).await.map_err(error)?;
    }
    let mut claimed = Vec::new();
    for (demand, &until) in demands.iter().zip(leases) {
        let fetched = batch::claim(&mut transaction, &core.db, demand, owner, (now, until)).await.map_err(error)?;
        let next = batch::next_due(&mut transaction, &demand.endpoint).await.map_err(error)?;
        claimed.push((demand.clone(), fetched, next));
    }
    transaction.commit().await.map_err(error)?;
    Ok(claimed)
}
