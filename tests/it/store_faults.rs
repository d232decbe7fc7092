//! A database that does not work for a while: calls go on, and nothing that fits into memory is lost.

use std::{
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
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

/// Whoever is idle learns of it too: nothing is put, and nobody asks for what is due.
async fn broken_while_idle(store: &Store) -> StoreError {
    broken(store).await;
    store.health().borrow().clone().unwrap()
}

async fn checkpoint(dir: &Path) {
    let url = format!("sqlite://{}", dir.join("hark.db").display());
    let mut other = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut other).await.unwrap();
    sqlx::Connection::close(other).await.unwrap();
}

/// Puts bytes into the file behind the database's back.
fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all(bytes).unwrap();
}

#[tokio::test]
async fn a_file_that_was_deleted_is_noticed_and_made_anew_and_nothing_new_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&sqlite(dir.path())).await;
    let call = CallId::new();
    store.put(said(call, "in the file that goes")).await.unwrap();
    assert_eq!(store.list(&Default::default()).await.unwrap().len(), 0, "a reader has it open");
    for name in ["hark.db", "hark.db-wal", "hark.db-shm"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    let mut health = store.health();
    health.mark_unchanged();
    // held in memory or written to the new file, never to one that nobody finds
    let kept = said(CallId::new(), "kept");
    timeout(PATIENCE, store.put(kept.clone())).await.expect("put hangs").unwrap();
    timeout(PATIENCE, health.changed()).await.expect("it is not noticed").unwrap();
    healthy(&store).await;
    assert_eq!(next(&store).await.id, kept.id);
    assert_eq!(store.show(kept.id).await.unwrap().len(), 1, "readers read the new file");
    drop(store);
    let store = open(&sqlite(dir.path())).await;
    assert_eq!(next(&store).await.id, kept.id, "it was written where the next start finds it");
}

#[tokio::test]
async fn a_gateway_that_is_idle_notices_that_its_directory_went_away_and_came_back() {
    let dir = tempfile::tempdir().unwrap();
    let (data, away) = (dir.path().join("data"), dir.path().join("away"));
    let store = open(&sqlite(&data)).await;
    let before = said(CallId::new(), "before");
    store.put(before.clone()).await.unwrap();
    std::fs::rename(&data, &away).unwrap();
    std::fs::write(&data, "not a directory").unwrap();
    let reason = broken_while_idle(&store).await;
    assert!(matches!(reason, StoreError::Gone { .. } | StoreError::Io(_)), "{reason:?}");
    let during = said(CallId::new(), "during");
    timeout(PATIENCE, store.put(during.clone())).await.expect("put hangs").unwrap();
    while !matches!(store.health().borrow().as_ref(), Some(StoreError::Io(reason)) if !reason.is_empty()) {
        tokio::task::yield_now().await;
    }
    let told = store.health().borrow().as_ref().map(ToString::to_string).unwrap();
    assert!(told.contains("HARK_DATA_DIR"), "{told}");
    std::fs::remove_file(&data).unwrap();
    std::fs::rename(&away, &data).unwrap();
    healthy(&store).await;
    let mut ids = [next(&store).await.id, next(&store).await.id];
    ids.sort();
    assert_eq!(ids, [before.id, during.id]);
}

#[tokio::test]
async fn a_database_that_became_read_only_keeps_events_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let read_only = Arc::new(AtomicBool::new(false));
    let store = open(&Config { read_only: Some(Arc::clone(&read_only)), ..sqlite(dir.path()) }).await;
    read_only.store(true, Relaxed);
    let reason = broken_while_idle(&store).await;
    assert!(matches!(reason, StoreError::ReadOnly(_)) && reason.to_string().contains("permissions"), "{reason:?}");
    let kept = said(CallId::new(), "kept");
    timeout(PATIENCE, store.put(kept.clone())).await.expect("put hangs").unwrap();
    read_only.store(false, Relaxed);
    healthy(&store).await;
    assert_eq!((next(&store).await.id, store.lost()), (kept.id, 0));
}

#[tokio::test]
async fn a_damaged_file_is_told_with_what_to_do_and_doing_it_helps_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&sqlite(dir.path())).await;
    store.put(said(CallId::new(), "before")).await.unwrap();
    checkpoint(dir.path()).await;
    overwrite(&dir.path().join("hark.db"), &[0x55; 4096]);
    let reason = broken_while_idle(&store).await;
    assert!(matches!(reason, StoreError::Corrupt(_)), "{reason:?}");
    assert!(reason.to_string().contains("move hark.db, hark.db-wal and hark.db-shm away"), "{reason}");
    let kept = said(CallId::new(), "kept");
    timeout(PATIENCE, store.put(kept.clone())).await.expect("put hangs").unwrap();
    for name in ["hark.db", "hark.db-wal", "hark.db-shm"] {
        // the log may have gone with the last connection
        let _ = std::fs::rename(dir.path().join(name), dir.path().join(format!("{name}.damaged")));
    }
    healthy(&store).await;
    assert_eq!(next(&store).await.id, kept.id);
}
