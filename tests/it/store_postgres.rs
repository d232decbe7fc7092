//! What only a server can do: be away, be shared, lose an owner.

use std::time::Duration;

use hark::{
    call::{CallEvent, CallId},
    webhook::{
        Outbox, Outcome,
        store::{Config, Orphan, Store, StoreError},
    },
};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    PATIENCE,
    postgres::Postgres,
    stores::{HERE, done, ended, event, failed, next, nothing_due, open, said},
};

fn config(postgres: &Postgres) -> Config {
    Config { url: Some(postgres.url()), ..Config::default() }
}

async fn healthy(store: &Store) {
    let mut health = store.health();
    timeout(PATIENCE, health.wait_for(Option::is_none)).await.expect("the database stays broken").unwrap();
}

#[tokio::test]
async fn what_a_dead_gateway_had_moves_within_ten_seconds_and_what_a_live_one_has_does_not() {
    let postgres = Postgres::start().await;
    let (a, b) = (open(&config(&postgres)).await, open(&config(&postgres)).await);
    let (lost, kept) = (CallId::new(), CallId::new());
    a.put(event(lost, CallEvent::Started)).await.unwrap();
    let lost_event = next(&a).await;
    // b looks for itself from here on, so that what it puts is claimed with its commit
    nothing_due(&b).await;
    b.put(event(kept, CallEvent::Started)).await.unwrap();
    let kept_event = next(&b).await;
    // longer than a lock has to be free
    sleep(Duration::from_secs(5)).await;
    nothing_due(&a).await;
    nothing_due(&b).await;
    let died = Instant::now();
    drop(a);
    let moved = next(&b).await;
    assert_eq!(moved, lost_event);
    let orphan = timeout(PATIENCE, b.orphans()).await.unwrap();
    assert_eq!(orphan, Some(vec![Orphan { call: lost, uuid: lost.into() }]));
    assert!(died.elapsed() < Duration::from_secs(10), "it took {:?}", died.elapsed());
    assert!(timeout(Duration::from_millis(50), b.orphans()).await.is_err(), "a live gateway's call was handed out");
    done(&b, &kept_event);
    done(&b, &moved);
    b.put(ended(lost)).await.unwrap();
    b.put(ended(kept)).await.unwrap();
    assert_eq!((next(&b).await.seq, next(&b).await.seq), (2, 2));
    assert!(b.close(Instant::now() + PATIENCE).await);
    assert_eq!(postgres.psql("SELECT count(*) FROM owners").unwrap(), "0");
}

#[tokio::test]
async fn a_restart_of_the_server_loses_nothing_and_takes_nothing_from_the_living() {
    let mut postgres = Postgres::start().await;
    let (a, b) = (open(&config(&postgres)).await, open(&config(&postgres)).await);
    let call = CallId::new();
    a.put(event(call, CallEvent::Started)).await.unwrap();
    let first = next(&a).await;
    postgres.down();
    done(&a, &first);
    // taken into memory: calls go on
    let held = said(call, "while the server is away");
    timeout(PATIENCE, a.put(held.clone())).await.expect("put hangs").unwrap();
    assert!(a.health().borrow().as_ref().is_some_and(|error| !error.needs_a_person()));
    let asked = timeout(PATIENCE, a.announce(call.into(), call, "{}".to_owned(), PATIENCE)).await.expect("it hangs");
    assert!(asked.is_err());
    postgres.up().await;
    healthy(&a).await;
    let due = next(&a).await;
    assert_eq!((due.id, due.seq), (held.id, 2), "the success was recorded, and the event written");
    sleep(Duration::from_secs(5)).await;
    assert!(timeout(Duration::from_millis(50), b.orphans()).await.is_err(), "a live gateway's call was taken away");
    done(&a, &due);
    b.put(ended(call)).await.unwrap();
    let third = tokio::select! { due = next(&a) => due, due = next(&b) => due };
    assert_eq!(third.seq, 3);
}

#[tokio::test]
async fn a_gateway_starts_while_its_server_is_away() {
    let mut postgres = Postgres::start().await;
    postgres.down();
    let store = open(&config(&postgres)).await;
    assert!(store.health().borrow().is_some());
    let entry = said(CallId::new(), "early");
    timeout(PATIENCE, store.put(entry.clone())).await.expect("put hangs").unwrap();
    postgres.up().await;
    healthy(&store).await;
    assert_eq!(next(&store).await.id, entry.id);
}

#[tokio::test]
async fn a_gateway_that_is_idle_notices_that_its_server_went_away_or_became_read_only() {
    let mut postgres = Postgres::start().await;
    let store = open(&config(&postgres)).await;
    let mut health = store.health();
    postgres.down();
    timeout(PATIENCE, health.wait_for(Option::is_some)).await.expect("nobody notices").unwrap();
    assert_eq!(store.health().borrow().as_ref().unwrap().code(), "store.unreachable");
    postgres.up().await;
    healthy(&store).await;
    // as after a switch to a standby
    postgres.psql("ALTER SYSTEM SET default_transaction_read_only = on").unwrap();
    postgres.psql("SELECT pg_reload_conf()").unwrap();
    timeout(PATIENCE, health.wait_for(Option::is_some)).await.expect("nobody notices").unwrap();
    assert_eq!(store.health().borrow().as_ref().unwrap().code(), "store.read_only");
    let kept = said(CallId::new(), "kept");
    timeout(PATIENCE, store.put(kept.clone())).await.expect("put hangs").unwrap();
    let mut other = <sqlx::PgConnection as sqlx::Connection>::connect(&postgres.url()).await.unwrap();
    for sql in ["SET default_transaction_read_only = off", "ALTER SYSTEM RESET default_transaction_read_only"] {
        sqlx::raw_sql(sql).execute(&mut other).await.unwrap();
    }
    postgres.psql("SELECT pg_reload_conf()").unwrap();
    healthy(&store).await;
    assert_eq!(next(&store).await.id, kept.id);
}

#[tokio::test]
async fn tables_that_are_not_there_are_no_fault_of_the_events() {
    let postgres = Postgres::start().await;
    let store = open(&config(&postgres)).await;
    postgres.psql("ALTER TABLE events RENAME TO elsewhere").unwrap();
    let kept = said(CallId::new(), "kept");
    timeout(PATIENCE, store.put(kept.clone())).await.expect("put hangs").unwrap();
    assert_eq!(store.health().borrow().as_ref().map(StoreError::code), Some("store.version"));
    postgres.psql("ALTER TABLE elsewhere RENAME TO events").unwrap();
    healthy(&store).await;
    assert_eq!((next(&store).await.id, store.lost()), (kept.id, 0));
}

#[tokio::test]
async fn a_wrong_user_or_database_is_told_at_the_start() {
    let postgres = Postgres::start().await;
    let url = postgres.url().replace("/postgres?", "/nosuch?");
    let refused = Store::open(&Config { url: Some(url), ..Config::default() }).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused(_)) && refused.needs_a_person(), "{refused:?}");
}

#[tokio::test]
async fn a_frozen_gateway_loses_its_lease_and_its_late_word_changes_nothing() {
    let postgres = Postgres::start().await;
    let brief = Config { lease: Duration::from_millis(600), ..config(&postgres) };
    let (a, b) = (open(&brief).await, open(&config(&postgres)).await);
    let call = CallId::new();
    for text in ["1", "2"] {
        a.put(said(call, text)).await.unwrap();
    }
    let stale = next(&a).await;
    let again = next(&b).await;
    assert_eq!(again, stale);
    a.mark(&stale, Outcome::GivenUp, failed(400));
    nothing_due(&a).await;
    nothing_due(&b).await;
    done(&b, &again);
    assert_eq!(next(&b).await.seq, 2);
}

#[tokio::test]
async fn an_event_put_by_another_gateway_while_an_outcome_is_recorded_is_not_passed_over() {
    let postgres = Postgres::start().await;
    let store = open(&config(&postgres)).await;
    let call = CallId::new();
    store.put(said(call, "1")).await.unwrap();
    let first = next(&store).await;
    // as another gateway puts the second event, with its commit still to come
    let mut other = <sqlx::PgConnection as sqlx::Connection>::connect(&postgres.url()).await.unwrap();
    let put = "BEGIN; UPDATE lanes SET next_seq = 3, pending = 2;
        INSERT INTO events SELECT decode(md5('2'), 'hex'), call, uuid, kind, at, body FROM events;
        INSERT INTO deliveries (endpoint, call, seq, event, at, state, attempt)
        SELECT endpoint, call, 2, decode(md5('2'), 'hex'), at, 'pending', 1 FROM deliveries";
    sqlx::raw_sql(put).execute(&mut other).await.unwrap();
    done(&store, &first);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    while postgres.psql(waits).unwrap() == "0" {
        sleep(Duration::from_millis(10)).await;
    }
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    assert_eq!(next(&store).await.seq, 2);
}

#[tokio::test]
async fn two_gateways_number_one_call_without_gaps_and_share_the_work() {
    let postgres = Postgres::start().await;
    let stores = [open(&config(&postgres)).await, open(&config(&postgres)).await];
    let calls = [CallId::new(), CallId::new(), CallId::new()];
    let mut puts = Vec::new();
    for n in 0..600 {
        puts.push(stores[n % 2].put(said(calls[n % 3], n)));
    }
    futures_util::future::try_join_all(puts).await.unwrap();
    let drain = async |store: &Store| {
        let mut seen = Vec::new();
        // a second without anything is the end: both poll more often than that
        while let Ok(due) = timeout(Duration::from_millis(2_500), store.next(HERE)).await {
            done(store, &due);
            seen.push((Instant::now(), due.call, due.seq));
        }
        seen
    };
    let (one, two) = tokio::join!(drain(&stores[0]), drain(&stores[1]));
    let mut seen: Vec<_> = one.into_iter().chain(two).collect();
    seen.sort();
    for call in calls {
        let numbers: Vec<_> = seen.iter().filter(|(_, of, _)| *of == call).map(|(.., seq)| *seq).collect();
        assert_eq!(numbers, (1..=200).collect::<Vec<_>>());
    }
}
