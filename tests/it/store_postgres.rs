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
    let orphan = timeout(PATIENCE, b.orphan()).await.unwrap();
    assert_eq!(orphan, Some(Orphan { call: lost, uuid: lost.into() }));
    assert!(died.elapsed() < Duration::from_secs(10), "it took {:?}", died.elapsed());
    assert!(timeout(Duration::from_millis(50), b.orphan()).await.is_err(), "a live gateway's call was handed out");
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
    let asked = timeout(PATIENCE, a.announce(call.into(), "{}".to_owned(), PATIENCE)).await.expect("it hangs");
    assert!(asked.is_err());
    postgres.up().await;
    healthy(&a).await;
    let due = next(&a).await;
    assert_eq!((due.id, due.seq), (held.id, 2), "the success was recorded, and the event written");
    sleep(Duration::from_secs(5)).await;
    assert!(timeout(Duration::from_millis(50), b.orphan()).await.is_err(), "a live gateway's call was taken away");
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
