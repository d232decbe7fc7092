//! What the store promises, on both databases.

mod opening;

use std::time::{Duration, SystemTime};

use hark::{
    call::{CallEvent, CallId},
    webhook::{
        Entry, Outbox, Outcome, Recipient,
        store::{Config, Filter, Orphan, State, Store, StoreError, last_word},
    },
};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::support::{
    PATIENCE,
    postgres::Postgres,
    stores::{HERE, delivered, done, ended, event, failed, next, nothing_due, open, said, sqlite},
};

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Every promise, on a new file and on a new server each.
macro_rules! promises {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                super::$name(super::sqlite(dir.path())).await;
            })*
        }
        /// One server for all of them, a schema's worth of calls each.
        #[tokio::test]
        async fn on_postgres() {
            let postgres = Postgres::start().await;
            $({
                postgres.psql(concat!("CREATE DATABASE ", stringify!($name))).unwrap();
                let url = postgres.url().replace("/postgres?", concat!("/", stringify!($name), "?"));
                timeout(3 * PATIENCE, $name(Config { url: Some(url), ..Config::default() })).await.expect(stringify!($name));
            })*
        }
    };
}

promises!(
    events_come_in_order_with_numbers_and_survive_a_restart,
    a_crash_loses_no_event_and_no_lease,
    a_retry_waits_for_its_time_and_holds_back_its_call_only,
    each_endpoint_counts_for_itself_and_has_its_own_body,
    dead_letters_are_listed_shown_and_sent_again,
    whoever_sends_dead_letters_again_is_not_kept_by_those_that_die_again,
    a_delivery_sent_again_begins_its_schedule_anew_and_goes_on_counting,
    calls_that_were_live_are_handed_out_until_their_end_is_put,
    announcements_expire_and_are_replaced,
    secrets_rotate_with_an_overlap,
    old_deliveries_are_purged_and_numbers_go_on,
    a_question_has_the_first_number_and_holds_nothing_back,
    events_that_belong_together_are_committed_together,
    what_was_stored_of_a_live_call_can_be_read_again,
    the_same_event_twice_is_one,
    many_events_at_once_keep_their_order,
);

async fn events_come_in_order_with_numbers_and_survive_a_restart(config: Config) {
    let store = open(&config).await;
    let (a, b) = (CallId::new(), CallId::new());
    let entries = [event(a, CallEvent::Started), said(a, "1"), event(b, CallEvent::Started), said(a, "2")];
    for entry in &entries {
        store.put(entry.clone()).await.unwrap();
    }
    assert_eq!(store.left(), 4);
    let (first, second) = (next(&store).await, next(&store).await);
    let (a1, b1) = if first.call == a { (first, second) } else { (second, first) };
    assert_eq!((a1.id, a1.seq, a1.attempt, &a1.body), (entries[0].id, 1, 1, &entries[0].body));
    assert_eq!((b1.id, b1.seq, b1.call, b1.uuid), (entries[2].id, 1, b, Uuid::from(b)));
    nothing_due(&store).await;
    done(&store, &a1);
    let a2 = next(&store).await;
    assert_eq!((a2.id, a2.seq), (entries[1].id, 2));
    assert!(store.close(soon()).await);
    drop(store);

    let store = open(&config).await;
    let mut again = vec![next(&store).await, next(&store).await];
    again.sort_by_key(|due| due.seq);
    assert_eq!([&again[0].id, &again[1].id], [&b1.id, &a2.id], "what was handed out and not marked comes again");
    assert_eq!(again[1].body, entries[1].body);
    for due in &again {
        done(&store, due);
    }
    let a3 = next(&store).await;
    assert_eq!((a3.id, a3.seq), (entries[3].id, 3));
    done(&store, &a3);
    store.put(said(a, "3")).await.unwrap();
    assert_eq!(next(&store).await.seq, 4);
}

async fn a_crash_loses_no_event_and_no_lease(config: Config) {
    let store = open(&config).await;
    let call = CallId::new();
    let entries: Vec<_> = (0..3).map(|n| said(call, n)).collect();
    for entry in &entries {
        store.put(entry.clone()).await.unwrap();
    }
    let due = next(&store).await;
    // nothing is given back
    drop(store);
    let store = open(&config).await;
    let begin = Instant::now();
    let again = next(&store).await;
    assert!(begin.elapsed() < Duration::from_secs(10), "the lease of a dead owner moved after {:?}", begin.elapsed());
    assert_eq!(again, due);
    for entry in &entries {
        let due = if entry.id == again.id { again.clone() } else { next(&store).await };
        assert_eq!(due.id, entry.id);
        done(&store, &due);
    }
    assert!(store.close(soon()).await);
}

async fn a_retry_waits_for_its_time_and_holds_back_its_call_only(config: Config) {
    let store = open(&config).await;
    let (a, b) = (CallId::new(), CallId::new());
    for entry in [said(a, "1"), said(a, "2")] {
        store.put(entry).await.unwrap();
    }
    let first = next(&store).await;
    let begin = Instant::now();
    store.mark(&first, Outcome::RetryAfter(Duration::from_millis(400)), failed(503));
    store.put(said(b, "1")).await.unwrap();
    let other = next(&store).await;
    assert_eq!(other.call, b);
    done(&store, &other);
    let again = next(&store).await;
    assert_eq!((again.id, again.attempt, &again.body), (first.id, 2, &first.body));
    assert!(begin.elapsed() >= Duration::from_millis(390), "came after {:?}", begin.elapsed());
    store.mark(&again, Outcome::RetryAfter(Duration::from_secs(3600)), failed(503));
    nothing_due(&store).await;
    assert!(store.close(soon()).await);
    drop(store);
    let store = open(&config).await;
    nothing_due(&store).await;
    assert_eq!(store.retry(first.id, None).await.unwrap(), 1, "now, says a person");
    let third = next(&store).await;
    assert_eq!((third.id, third.attempt), (first.id, 3));
    store.mark(&third, Outcome::GivenUp, failed(400));
    assert_eq!(next(&store).await.seq, 2);
}

async fn each_endpoint_counts_for_itself_and_has_its_own_body(config: Config) {
    let store = open(&config).await;
    let call = CallId::new();
    let templated =
        Recipient { endpoint: "other".into(), url: Some("http://h/x".into()), body: Some("{}".into()), asked: false };
    let both = vec![Recipient::plain(HERE.into()), templated];
    let only = Entry { to: vec![Recipient::plain("other".into())], ..event(call, CallEvent::Started) };
    let shared = Entry { to: both, ..said(call, "text") };
    store.put(only).await.unwrap();
    store.put(shared.clone()).await.unwrap();
    let here = next(&store).await;
    assert_eq!((here.seq, &here.body, &here.url), (1, &shared.body, &None));
    let other = timeout(PATIENCE, store.next("other")).await.unwrap();
    assert_eq!((other.seq, &*other.kind), (1, "call_started"));
    done(&store, &other);
    let other = timeout(PATIENCE, store.next("other")).await.unwrap();
    assert_eq!((other.seq, &*other.body, other.url.as_deref()), (2, &b"{}"[..], Some("http://h/x")));
    let counters = store.count().await.unwrap();
    assert_eq!(counters.pending.into_iter().collect::<Vec<_>>(), [(HERE.to_owned(), 1), ("other".to_owned(), 1)]);
}

async fn dead_letters_are_listed_shown_and_sent_again(config: Config) {
    let store = open(&config).await;
    let call = CallId::new();
    let entries: Vec<_> = (0..4).map(|n| said(call, n)).collect();
    for entry in &entries {
        store.put(entry.clone()).await.unwrap();
    }
    for n in 0..3 {
        let due = next(&store).await;
        let outcome = if n == 1 { Outcome::Delivered } else { Outcome::GivenUp };
        store.mark(&due, outcome, if n == 1 { delivered() } else { failed(500) });
    }
    let last = next(&store).await;
    let dead = Filter { state: Some(State::Dead), limit: 10, ..Filter::default() };
    let listed = store.list(&dead).await.unwrap();
    assert_eq!(listed.iter().map(|d| d.event).collect::<Vec<_>>(), [entries[2].id, entries[0].id], "the newest first");
    assert_eq!((listed[0].status, listed[0].attempt, listed[0].seq), (Some(500), 1, 3));
    assert_eq!(listed[0].error.as_deref(), Some("the receiver answered 500"));
    let older =
        Filter { before: Some(entries[2].id), endpoint: Some(HERE.to_owned()), uuid: Some(call.into()), ..dead };
    assert_eq!(store.list(&older).await.unwrap().len(), 1);
    assert_eq!(store.count().await.unwrap().dead[HERE], 2);

    // the last one is out; those sent again come before what is behind it, in their order
    assert_eq!(store.retry_dead(None, SystemTime::UNIX_EPOCH).await.unwrap(), 2);
    done(&store, &last);
    for (entry, attempt) in [(&entries[0], 2), (&entries[2], 2)] {
        let due = next(&store).await;
        assert_eq!((due.id, due.attempt, due.scheduled()), (entry.id, attempt, 1));
        done(&store, &due);
    }
    nothing_due(&store).await;
    let shown = store.show(entries[0].id).await.unwrap().remove(0);
    assert_eq!((shown.delivery.state, &shown.body), (State::Done, &entries[0].body));
    let attempts: Vec<_> = shown.attempts.iter().map(|a| (a.number, a.report.status)).collect();
    assert_eq!(attempts, [(1, Some(500)), (2, Some(204))]);
    assert_eq!(shown.attempts[0].report, failed(500));
    assert_eq!(store.retry(entries[1].id, Some(HERE)).await.unwrap(), 1, "a delivered one, once more");
    assert_eq!(next(&store).await.id, entries[1].id);
    assert_eq!(store.retry(entries[1].id, Some("nowhere")).await.unwrap(), 0);
}

async fn a_delivery_sent_again_begins_its_schedule_anew_and_goes_on_counting(config: Config) {
    let store = open(&config).await;
    let entry = said(CallId::new(), "x");
    store.put(entry.clone()).await.unwrap();
    let mut numbers = Vec::new();
    for (last, outcome) in [
        (1, Outcome::RetryAfter(Duration::ZERO)),
        (2, Outcome::GivenUp),
        (3, Outcome::RetryAfter(Duration::ZERO)),
        (4, Outcome::GivenUp),
        (5, Outcome::Delivered),
    ] {
        let due = next(&store).await;
        numbers.push((due.attempt, due.scheduled()));
        store.mark(&due, outcome, failed(500));
        if outcome == Outcome::GivenUp {
            assert_eq!(store.retry(entry.id, None).await.unwrap(), 1, "attempt {last}");
        }
    }
    assert_eq!(numbers, [(1, 1), (2, 2), (3, 1), (4, 2), (5, 1)]);
    nothing_due(&store).await;
    let attempts = store.show(entry.id).await.unwrap().remove(0).attempts;
    assert_eq!(attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

async fn whoever_sends_dead_letters_again_is_not_kept_by_those_that_die_again(config: Config) {
    let store = open(&config).await;
    let entries: Vec<_> = (0..600).map(|n| said(CallId::new(), n)).collect();
    futures_util::future::try_join_all(entries.iter().map(|entry| store.put(entry.clone()))).await.unwrap();
    let worker = store.clone();
    // refuses everything at once, for ever
    let refusing = tokio::spawn(async move {
        loop {
            let due = next(&worker).await;
            worker.mark(&due, Outcome::GivenUp, failed(404));
        }
    });
    let all_dead = async || {
        while store.left() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, all_dead()).await.unwrap();
    let sent = timeout(PATIENCE, store.retry_dead(None, SystemTime::UNIX_EPOCH)).await.expect("it goes on for ever");
    assert_eq!(sent.unwrap(), 600);
    refusing.abort();
}

async fn calls_that_were_live_are_handed_out_until_their_end_is_put(config: Config) {
    let store = open(&config).await;
    let (over, live) = (CallId::new(), CallId::new());
    for entry in [event(over, CallEvent::Started), event(live, CallEvent::Started), ended(over)] {
        store.put(entry).await.unwrap();
    }
    drop(store);
    let orphan = Orphan { call: live, uuid: live.into() };
    for _ in 0..2 {
        let store = open(&config).await;
        assert_eq!(
            timeout(PATIENCE, store.orphans()).await.unwrap(),
            Some(vec![orphan]),
            "not closed: handed out again"
        );
    }
    let store = open(&config).await;
    assert_eq!(timeout(PATIENCE, store.orphans()).await.unwrap(), Some(vec![orphan]));
    store.put(ended(live)).await.unwrap();
    assert!(store.close(soon()).await);
    drop(store);
    let store = open(&config).await;
    assert!(timeout(Duration::from_millis(50), store.orphans()).await.is_err());
}

async fn announcements_expire_and_are_replaced(config: Config) {
    let store = open(&config).await;
    let (uuid, hour) = (Uuid::now_v7(), Duration::from_secs(3600));
    let [first, second, third] = [(); 3].map(|()| CallId::new());
    assert_eq!(store.take_announced(uuid).await.unwrap(), None);
    store.announce(uuid, first, "{}".to_owned(), hour).await.unwrap();
    store.announce(uuid, first, r#"{"a":1}"#.to_owned(), hour).await.unwrap();
    assert_eq!(store.take_announced(uuid).await.unwrap(), Some((r#"{"a":1}"#.to_owned(), true)));
    assert_eq!(store.take_announced(uuid).await.unwrap().map(|(_, first)| first), Some(false), "another call");
    store.announce(uuid, first, "{}".to_owned(), hour).await.unwrap();
    assert_eq!(store.take_announced(uuid).await.unwrap().map(|(_, first)| first), Some(false), "still another call");
    store.put(event(first, CallEvent::Started)).await.unwrap();

    // announced anew, and anew: the second one never came
    store.announce(uuid, second, r#"{"b":2}"#.to_owned(), hour).await.unwrap();
    assert_eq!(store.unconnected().await.unwrap(), []);
    store.announce(uuid, third, "{}".to_owned(), Duration::ZERO).await.unwrap();
    assert_eq!(store.take_announced(uuid).await.unwrap(), None);
    let found = loop {
        let found = store.unconnected().await.unwrap();
        if found.len() == 2 {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let shown: Vec<_> = found.iter().map(|one| (one.call, one.uuid, &*one.body, one.replaced)).collect();
    assert_eq!(shown, [(second, uuid, r#"{"b":2}"#, true), (third, uuid, "{}", false)]);
    assert_eq!(last_word(third, found[1].at), last_word(third, found[1].at));
    assert_ne!(last_word(third, found[1].at), last_word(second, found[1].at));
    store.give_up(second).await.unwrap();
    store.put(ended(third)).await.unwrap();
    assert_eq!(store.unconnected().await.unwrap(), []);
}

async fn what_was_stored_of_a_live_call_can_be_read_again(config: Config) {
    let store = open(&config).await;
    let [call, other] = [CallId::new(), CallId::new()];
    let nobody = |entry: Entry| Entry { to: Vec::new(), ..entry };
    let mut kept = vec![nobody(event(call, CallEvent::Started))];
    kept.extend((0..600).map(|n| nobody(said(call, n))));
    for entry in kept.iter().cloned() {
        store.put(entry).await.unwrap();
        store.put(said(other, "x")).await.unwrap();
    }
    store.put(event(other, CallEvent::Started)).await.unwrap();
    let mut past = Vec::new();
    store.past(&[call], |event| past.push(event)).await.unwrap();
    let bodies: Vec<_> = past.iter().map(|past| &*past.body).collect();
    assert_eq!(bodies, kept.iter().map(|entry| &*entry.body).collect::<Vec<_>>());
    assert_eq!((&*past[0].kind, &*past[600].kind, past[0].call), ("call_started", "transcription", call));
    store.past(&[], |_| panic!("of no call")).await.unwrap();
}

async fn secrets_rotate_with_an_overlap(config: Config) {
    let store = open(&config).await;
    let names = |secrets: Vec<hark::webhook::store::Secret>| {
        secrets.into_iter().map(|secret| (secret.secret, secret.expires_at.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(names(store.ensure_secret(HERE, "one").await.unwrap()), [("one".to_owned(), false)]);
    assert_eq!(names(store.ensure_secret(HERE, "other").await.unwrap()), [("one".to_owned(), false)]);
    store.rotate_secret(HERE, "two", Duration::from_secs(3600)).await.unwrap();
    let both = [("two".to_owned(), false), ("one".to_owned(), true)];
    assert_eq!(names(store.secrets(HERE).await.unwrap()), both);
    store.rotate_secret(HERE, "three", Duration::from_secs(3600)).await.unwrap();
    let both = [("three".to_owned(), false), ("two".to_owned(), true)];
    assert_eq!(names(store.secrets(HERE).await.unwrap()), both);
    assert_eq!(names(store.secrets("other").await.unwrap()), []);
    assert!(!format!("{:?}", store.secrets(HERE).await.unwrap()).contains("three"));

    store.set_disabled(HERE, Some("410")).await.unwrap();
    assert_eq!(store.disabled().await.unwrap()[0].reason, "410");
    store.set_disabled(HERE, None).await.unwrap();
    assert_eq!(store.disabled().await.unwrap(), []);
}

async fn old_deliveries_are_purged_and_numbers_go_on(config: Config) {
    let store = open(&config).await;
    let call = CallId::new();
    let entries: Vec<_> = (0..3).map(|n| said(call, n)).collect();
    for entry in &entries {
        store.put(entry.clone()).await.unwrap();
    }
    let due = next(&store).await;
    done(&store, &due);
    let due = next(&store).await;
    store.mark(&due, Outcome::GivenUp, failed(404));
    let waiting = next(&store).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let hour = Duration::from_secs(3600);
    assert_eq!(store.purge(hour, hour).await.unwrap(), 0);
    assert_eq!(store.purge(Duration::ZERO, hour).await.unwrap(), 1);
    assert_eq!(store.show(entries[0].id).await.unwrap(), []);
    assert_eq!(store.purge(Duration::ZERO, Duration::ZERO).await.unwrap(), 1);
    assert_eq!(store.show(entries[1].id).await.unwrap(), []);
    done(&store, &waiting);
    store.put(said(call, "x")).await.unwrap();
    assert_eq!(next(&store).await.seq, 4);
}

async fn a_question_has_the_first_number_and_holds_nothing_back(config: Config) {
    let store = open(&config).await;
    let call = CallId::new();
    let both = vec![Recipient { asked: true, ..Recipient::plain(HERE.into()) }, Recipient::plain("other".into())];
    let question = Entry { to: both, ..said(call, "call_initiated") };
    let started = event(call, CallEvent::Started);
    // in one batch: what is pending at one endpoint is not at the other
    store.put_all(vec![question.clone(), started.clone()]).await.unwrap();
    assert_eq!(store.left(), 2);
    let state = async || {
        let shown = store.show(question.id).await.unwrap();
        shown.into_iter().find(|shown| shown.delivery.endpoint == HERE).unwrap()
    };
    assert_eq!((state().await.delivery.state, state().await.delivery.seq), (State::Asking, 1));
    let due = next(&store).await;
    assert_eq!((due.id, due.seq), (started.id, 2), "it is never handed out");
    let other = timeout(PATIENCE, store.next("other")).await.unwrap();
    assert_eq!((other.id, other.seq), (question.id, 1));
    store.settle(question.id, HERE, Outcome::Delivered, delivered()).await.unwrap();
    assert_eq!((state().await.delivery.state, state().await.attempts.len()), (State::Done, 1));
    done(&store, &due);
    nothing_due(&store).await;
    // a dead one can be sent by a person
    let question =
        Entry { to: vec![Recipient { asked: true, ..Recipient::plain(HERE.into()) }], ..said(call, "again") };
    store.put(question.clone()).await.unwrap();
    store.settle(question.id, HERE, Outcome::GivenUp, failed(500)).await.unwrap();
    nothing_due(&store).await;
    assert_eq!(store.retry(question.id, None).await.unwrap(), 1);
    assert_eq!(next(&store).await.id, question.id);
}

async fn events_that_belong_together_are_committed_together(config: Config) {
    let store = open(&config).await;
    let calls: Vec<CallId> = (0..700).map(|_| CallId::new()).collect();
    let puts: Vec<_> =
        calls.iter().map(|&call| store.put_all(vec![said(call, "a"), said(call, "b"), ended(call)])).collect();
    for put in puts {
        put.await.unwrap();
    }
    assert_eq!(store.left(), 2_100);
    assert_eq!(store.count().await.unwrap().pending[HERE], 2_100);
}

async fn the_same_event_twice_is_one(config: Config) {
    let store = open(&config).await;
    let call = CallId::new();
    let entry = said(call, "once");
    store.put(entry.clone()).await.unwrap();
    store.put(entry.clone()).await.unwrap();
    let due = next(&store).await;
    done(&store, &due);
    done(&store, &due);
    nothing_due(&store).await;
    store.put(said(call, "2")).await.unwrap();
    assert_eq!(next(&store).await.seq, 2);
}

async fn many_events_at_once_keep_their_order(config: Config) {
    let store = open(&config).await;
    let calls: Vec<_> = (0..50).map(|_| CallId::new()).collect();
    let entries: Vec<_> = (0..3_000).map(|n| said(calls[n * 7 % calls.len()], n)).collect();
    let puts: Vec<_> = entries.iter().map(|entry| store.put(entry.clone())).collect();
    futures_util::future::try_join_all(puts).await.unwrap();
    let mut seen = std::collections::HashMap::<CallId, Vec<_>>::new();
    for _ in 0..entries.len() {
        let due = next(&store).await;
        let lane = seen.entry(due.call).or_default();
        lane.push(due.id);
        assert_eq!(due.seq, lane.len() as u64);
        done(&store, &due);
    }
    for call in calls {
        let expected: Vec<_> = entries.iter().filter(|entry| entry.call == call).map(|entry| entry.id).collect();
        assert_eq!(seen[&call], expected);
    }
    assert_eq!(store.left(), 0);
}
