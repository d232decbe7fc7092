//! A database that does not work for a while: calls go on, and nothing that fits into memory is lost.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use hark::{
    call::{CallEvent, CallId},
    webhook::{
        Outbox,
        store::{Config, Store, StoreError},
    },
};
use tokio::time::timeout;

use crate::support::{
    PATIENCE,
    stores::{done, ended, event, next, open, said, sqlite},
};

async fn broken(store: &Store) {
    let mut health = store.health();
    timeout(PATIENCE, health.wait_for(Option::is_some)).await.expect("the database is said to work").unwrap();
}

async fn healthy(store: &Store) {
    let mut health = store.health();
    timeout(PATIENCE, health.wait_for(Option::is_none)).await.expect("the database stays broken").unwrap();
}

#[tokio::test]
async fn a_full_disk_keeps_events_in_memory_and_in_order_until_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let pages = Arc::new(AtomicU32::new(150));
    let store = open(&Config { max_pages: Some(Arc::clone(&pages)), ..sqlite(dir.path()) }).await;
    let call = CallId::new();
    let mut entries = Vec::new();
    while store.health().borrow().is_none() {
        entries.push(said(call, "x".repeat(10_000)));
        timeout(PATIENCE, store.put(entries.last().unwrap().clone())).await.expect("put hangs").unwrap();
    }
    assert!(entries.len() > 10, "full after {} events", entries.len());
    let reason = store.health().borrow().clone().unwrap();
    assert!(matches!(reason, StoreError::Full(_)) && !reason.needs_a_person(), "{reason:?}");
    entries.push(ended(call));
    timeout(PATIENCE, store.put(entries.last().unwrap().clone())).await.expect("put hangs").unwrap();
    pages.store(100_000, Relaxed);
    healthy(&store).await;
    for (seq, entry) in (1..).zip(&entries) {
        let due = next(&store).await;
        assert_eq!((due.id, due.seq), (entry.id, seq));
        done(&store, &due);
    }
    assert_eq!(store.lost(), 0);
}

#[tokio::test]
async fn while_another_process_holds_the_database_events_wait_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&sqlite(dir.path())).await;
    let call = CallId::new();
    store.put(said(call, "1")).await.unwrap();
    let first = next(&store).await;
    let url = format!("sqlite://{}", dir.path().join("hark.db").display());
    let mut other = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    done(&store, &first);
    timeout(PATIENCE, store.put(said(call, "2"))).await.expect("put hangs").unwrap();
    broken(&store).await;
    assert!(matches!(store.health().borrow().as_ref(), Some(StoreError::Busy(_))));
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    healthy(&store).await;
    assert_eq!(next(&store).await.seq, 2, "the success of the first is recorded");
}

#[tokio::test]
async fn what_the_database_refuses_is_lost_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&sqlite(dir.path())).await;
    let url = format!("sqlite://{}", dir.path().join("hark.db").display());
    let mut other = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let trigger =
        "CREATE TRIGGER t BEFORE INSERT ON events WHEN NEW.kind = 'interruption' BEGIN SELECT RAISE(ABORT, 'no'); END";
    sqlx::query(trigger).execute(&mut other).await.unwrap();
    let call = CallId::new();
    let entries = [said(call, "1"), event(call, CallEvent::Interruption), said(call, "2")];
    let puts: Vec<_> = entries.iter().map(|entry| store.put(entry.clone())).collect();
    let taken: Vec<_> = futures_util::future::join_all(puts).await.into_iter().map(|put| put.is_ok()).collect();
    assert_eq!(taken, [true, false, true]);
    for (seq, entry) in [(1, &entries[0]), (2, &entries[2])] {
        let due = next(&store).await;
        assert_eq!((due.id, due.seq), (entry.id, seq), "a gap where nothing is");
        done(&store, &due);
    }
    assert_eq!((store.lost(), store.left()), (1, 0));
    assert!(store.health().borrow().is_none(), "the database itself works");
}

#[tokio::test]
async fn a_full_memory_drops_the_oldest_transcriptions_and_no_end_of_a_call() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&sqlite(dir.path())).await;
    let url = format!("sqlite://{}", dir.path().join("hark.db").display());
    let mut other = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let call = CallId::new();
    let started = event(call, CallEvent::Started);
    store.put(started.clone()).await.unwrap();
    broken(&store).await;
    // 80 MB into 64
    let texts: Vec<_> = (0..80).map(|_| said(call, "x".repeat(1 << 20))).collect();
    for entry in &texts {
        store.put(entry.clone()).await.unwrap();
    }
    let end = ended(call);
    store.put(end.clone()).await.unwrap();
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    healthy(&store).await;
    let lost = usize::try_from(store.lost()).unwrap();
    assert!((17..40).contains(&lost), "{lost} of 80 are lost");
    let mut seen = Vec::new();
    for seq in 1..=texts.len() - lost + 2 {
        let due = next(&store).await;
        assert_eq!(due.seq, seq as u64);
        done(&store, &due);
        seen.push(due.id);
    }
    assert_eq!((seen[0], *seen.last().unwrap()), (started.id, end.id));
    assert_eq!(seen[seen.len() - 2], texts.last().unwrap().id, "the newest stay");
    assert_eq!(store.left(), 0);
}
