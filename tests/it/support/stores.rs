//! Stores to test, and what goes into them.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use hark::{
    call::{CallEvent, CallId, EndReason, Envelope, EventId, Role},
    webhook::{
        Due, Entry, Outbox, Outcome, Recipient, Report,
        store::{Config, Store, StoreError},
    },
};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::PATIENCE;

pub const HERE: &str = "here";

/// A file in `dir`. The disk is not waited for: a killed process loses nothing by that, and no test cuts the power.
pub fn sqlite(dir: &Path) -> Config {
    Config { data_dir: dir.to_owned(), fsync: false, ..Config::default() }
}

/// Opens the store; where the former owner is just going, waits for that.
pub async fn open(config: &Config) -> Store {
    let opened = async {
        loop {
            match Store::open(config).await {
                Ok(store) => return store,
                Err(StoreError::Locked { .. }) => sleep(Duration::from_millis(2)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(PATIENCE, opened).await.unwrap()
}

pub fn event(call: CallId, event: CallEvent) -> Entry {
    let uuid = Uuid::from(call);
    let envelope = Envelope { id: EventId::new(), call, uuid, at: SystemTime::now(), event };
    Entry::of(&envelope, vec![Recipient::plain(HERE.into())])
}

pub fn said(call: CallId, text: impl ToString) -> Entry {
    event(call, CallEvent::Transcription { role: Role::User, text: text.to_string() })
}

pub fn ended(call: CallId) -> Entry {
    event(call, CallEvent::Ended(EndReason::CallerHangup))
}

pub async fn next(store: &Store) -> Due {
    timeout(PATIENCE, store.next(HERE)).await.expect("nothing became due")
}

/// Nothing is due: whatever is written goes through the writer, and so has been seen by it.
pub async fn nothing_due(store: &Store) {
    store.announce(Uuid::nil(), Uuid::nil().into(), String::new(), Duration::ZERO).await.unwrap();
    let due = timeout(Duration::from_millis(30), store.next(HERE)).await;
    assert!(due.is_err(), "{due:?} is due");
}

pub fn failed(status: u16) -> Report {
    Report {
        status: Some(status),
        latency: Duration::from_millis(7),
        error: Some(format!("the receiver answered {status}")),
        answer: "no\n".into(),
    }
}

pub fn delivered() -> Report {
    Report { status: Some(204), latency: Duration::from_millis(3), ..Report::default() }
}

pub fn done(store: &Store, due: &Due) {
    store.mark(due, Outcome::Delivered, delivered());
}
