//! Clocks that are set back and forward by hours: no event is lost, none held for long, no order broken.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use hark::{
    call::{CallEvent, CallId},
    webhook::{
        Outbox, Outcome,
        store::{Config, Store},
    },
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::{
    PATIENCE,
    postgres::Postgres,
    stores::{done, event, failed, next, open, said, sqlite},
};

const HOUR: i64 = 3_600_000;
/// A wait that every test has time for.
const SHORT: Duration = Duration::from_millis(400);

/// An event that waits for its second attempt, and one behind it; the third is another call's.
async fn waiting(store: &Store, wait: Duration) -> [hark::webhook::Entry; 3] {
    let call = CallId::new();
    let entries = [said(call, "1"), said(call, "2"), said(CallId::new(), "3")];
    store.put(entries[0].clone()).await.unwrap();
    store.put(entries[1].clone()).await.unwrap();
    // a clock that leaps ends leases: an event of before may come twice, with the same identity
    let first = loop {
        let due = next(store).await;
        if entries.iter().any(|entry| entry.id == due.id) {
            break due;
        }
        done(store, &due);
    };
    assert_eq!(first.id, entries[0].id);
    store.mark(&first, Outcome::RetryAfter(wait), failed(503));
    entries
}

/// All three come, those of one call in their order, in less than [`PATIENCE`] each.
async fn all_come(store: &Store, entries: &[hark::webhook::Entry; 3]) {
    let mut seen = Vec::new();
    while entries.iter().any(|entry| !seen.contains(&entry.id)) {
        let due = next(store).await;
        seen.push(due.id);
        done(store, &due);
    }
    let at = |n: usize| seen.iter().position(|id| *id == entries[n].id).unwrap();
    assert!(at(0) < at(1), "out of order");
    at(2);
}

#[tokio::test]
async fn while_it_runs_sqlite_does_not_care_for_the_systems_clock() {
    for hours in [-5, 5] {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicI64::new(0));
        let store = open(&Config { clock: Some(Arc::clone(&clock)), ..sqlite(dir.path()) }).await;
        let begin = Instant::now();
        let entries = waiting(&store, SHORT).await;
        clock.store(hours * HOUR, Relaxed);
        // a new connection is where the clock could be read again
        let url = format!("sqlite://{}", dir.path().join("hark.db").display());
        let mut other = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        store.put(entries[2].clone()).await.unwrap();
        assert!(store.health().borrow().is_some());
        sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
        all_come(&store, &entries).await;
        assert!(begin.elapsed() >= SHORT, "set forward, it came too early");
    }
}

#[tokio::test]
async fn a_clock_set_back_or_forward_before_a_start_holds_nothing_for_hours() {
    for (hours, crash) in [(-5, false), (-5, true), (5, false)] {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicI64::new(0));
        let config = Config { clock: Some(Arc::clone(&clock)), ..sqlite(dir.path()) };
        let store = open(&config).await;
        let entries = waiting(&store, SHORT).await;
        store.put(entries[2].clone()).await.unwrap();
        if !crash {
            assert!(store.close(Instant::now() + PATIENCE).await);
        }
        drop(store);
        clock.store(hours * HOUR, Relaxed);
        let store = open(&config).await;
        all_come(&store, &entries).await;
    }
}

#[tokio::test]
async fn a_wait_of_hours_stays_one_when_the_clock_is_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicI64::new(0));
    let config = Config { clock: Some(Arc::clone(&clock)), ..sqlite(dir.path()) };
    let store = open(&config).await;
    waiting(&store, Duration::from_secs(7_200)).await;
    assert!(store.close(Instant::now() + PATIENCE).await);
    drop(store);
    clock.store(-5 * HOUR, Relaxed);
    drop(open(&config).await);
    let url = format!("sqlite://{}", dir.path().join("hark.db").display());
    let mut other = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let (due,): (i64,) = sqlx::query_as("SELECT due_at FROM lanes").fetch_one(&mut other).await.unwrap();
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap() - 5 * HOUR;
    let left = due - now;
    assert!((7_100_000..=7_201_000).contains(&left), "it waits {left} ms");
}

#[tokio::test]
async fn the_servers_clock_may_be_set_too() {
    let postgres = Postgres::start().await;
    let clock = Arc::new(AtomicI64::new(0));
    let config = Config { url: Some(postgres.url()), clock: Some(Arc::clone(&clock)), ..Config::default() };
    let (a, b) = (open(&config).await, open(&config).await);
    for hours in [-5, 3, -9] {
        let entries = waiting(&a, SHORT).await;
        clock.store(hours * HOUR, Relaxed);
        // one that has not noticed yet
        b.put(entries[2].clone()).await.unwrap();
        all_come(&a, &entries).await;
    }
    assert_eq!((a.lost(), b.lost()), (0, 0));
}

#[tokio::test]
async fn numbers_of_calls_that_are_long_over_go_and_those_of_live_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicI64::new(0));
    let config = Config { clock: Some(Arc::clone(&clock)), ..sqlite(dir.path()) };
    let store = open(&config).await;
    let live = CallId::new();
    store.put(event(live, CallEvent::Started)).await.unwrap();
    // more than one page of them
    let over: Vec<_> = (0..1_200).map(|n| said(CallId::new(), n)).collect();
    futures_util::future::try_join_all(over.iter().map(|entry| store.put(entry.clone()))).await.unwrap();
    for _ in 0..=over.len() {
        let due = next(&store).await;
        done(&store, &due);
    }
    let dead = said(CallId::new(), "dead");
    store.put(dead.clone()).await.unwrap();
    let due = next(&store).await;
    store.mark(&due, Outcome::GivenUp, failed(404));
    assert!(store.close(Instant::now() + PATIENCE).await);
    drop(store);
    clock.store(10 * 24 * HOUR, Relaxed);
    // nobody takes live calls over from whoever only looks
    let store = Store::visit(&config).await.unwrap();
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(store.purge(7 * day, 30 * day).await.unwrap(), 1_201);
    let url = format!("sqlite://{}", dir.path().join("hark.db").display());
    let mut other = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let rows: Vec<(Vec<u8>,)> =
        sqlx::query_as("SELECT call FROM lanes ORDER BY call").fetch_all(&mut other).await.unwrap();
    let left: Vec<_> = rows.into_iter().map(|(call,)| call).collect();
    assert_eq!(left, [live, dead.call].map(|call| Uuid::from(call).into_bytes().to_vec()));
}
