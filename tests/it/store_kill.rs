//! A gateway's events under `kill -9` at any moment: this test runs itself as a child that puts and delivers, and kills it.

use std::{
    collections::HashMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use hark::{
    call::{CallEvent, CallId, Envelope, EventId, Role},
    webhook::{
        Config, Webhooks,
        schedule::Retry,
        store::{self, Filter, State, Store},
    },
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::{
    PATIENCE, client,
    receiver::{Receiver, Reply, Seen},
    stores::open,
};

const KILLS: u64 = 220;
const CALLS: u128 = 5;
const DIR: &str = "HARK_TEST_KILL_DIR";
const URL: &str = "HARK_TEST_KILL_URL";

fn config(dir: &Path) -> store::Config {
    store::Config { data_dir: dir.to_owned(), prefetch: 8, ..store::Config::default() }
}

/// The same calls in every life.
fn call(n: u128) -> CallId {
    CallId::from(Uuid::from_u128(n + 1))
}

fn webhooks(url: &str, store: &Store) -> Webhooks {
    let config = Config { url: Some(url.to_owned()), retry: Retry::Times(100), backoff_ms: 1, ..Config::default() };
    Webhooks::with_outbox(&config, client(), Arc::new(store.clone()), &TaskTracker::new(), CancellationToken::new())
}

/// Not a test by itself: the gateway that is killed. Says on its standard output what is committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let (Some(dir), Ok(url)) = (std::env::var_os(DIR), std::env::var(URL)) else { return };
    let store = open(&config(&PathBuf::from(dir))).await;
    let webhooks = webhooks(&url, &store);
    let mut turns = (0..CALLS).cycle();
    loop {
        let envelopes: Vec<_> = turns
            .by_ref()
            .take(7)
            .map(|n| {
                let event = CallEvent::Transcription { role: Role::User, text: n.to_string() };
                Envelope { id: EventId::new(), call: call(n), uuid: Uuid::from(call(n)), at: SystemTime::now(), event }
            })
            .collect();
        webhooks.put_all(envelopes.clone()).await;
        let mut said = String::new();
        for envelope in envelopes {
            said.push_str(&format!("\ncommitted {} {}\n", envelope.call, envelope.id));
        }
        std::io::stdout().lock().write_all(said.as_bytes()).unwrap();
    }
}

/// One life of the child, ended after `life`. What it said was committed: call, event.
async fn live(dir: &Path, url: &str, life: Duration) -> Vec<(String, String)> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "store_kill::child", "--nocapture", "--test-threads=1"]);
    command.env(DIR, dir).env(URL, url).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reading = tokio::spawn(async move {
        let mut committed = Vec::new();
        while let Ok(Some(line)) = lines.next_line().await {
            let words: Vec<_> = line.split(' ').collect();
            // a kill may cut the last line
            if let ["committed", call, event] = words[..]
                && event.len() == 36
            {
                committed.push((call.to_owned(), event.to_owned()));
            }
        }
        committed
    });
    sleep(life).await;
    child.kill().await.unwrap();
    timeout(PATIENCE, reading).await.unwrap().unwrap()
}

/// First sight of each event, by call; the same event has the same body every time.
fn first_sights(seen: &[Seen]) -> HashMap<String, Vec<String>> {
    let (mut calls, mut bodies) = (HashMap::<String, Vec<String>>::new(), HashMap::<String, &str>::new());
    for seen in seen {
        let (call, id) = (seen.header("hark-call-id").unwrap(), seen.header("webhook-id").unwrap());
        match bodies.insert(id.to_owned(), &seen.body) {
            Some(before) => assert_eq!(before, seen.body, "one event, two bodies"),
            None => calls.entry(call.to_owned()).or_default().push(id.to_owned()),
        }
    }
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_committed_is_lost_or_out_of_order_when_the_process_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    // now and then it refuses, so that retries are under way too
    let counter = std::sync::atomic::AtomicU64::new(0);
    let receiver = Receiver::start(move |_| {
        let n = counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Reply::new(if n.is_multiple_of(11) { 503 } else { 200 }, "")
    })
    .await;
    let mut committed = HashMap::<String, Vec<String>>::new();
    for n in 0..KILLS {
        // from before main() to well into the work; odd steps, so that no two lives end at the same place
        let life = Duration::from_micros(2_000 + n * 7_919 % 60_000);
        for (call, event) in live(dir.path(), &receiver.url, life).await {
            committed.entry(call).or_default().push(event);
        }
    }
    let total: usize = committed.values().map(Vec::len).sum();
    assert!(total > 200, "only {total} events were committed: the kills came too early to mean anything");

    // a last life, to the end
    let store = open(&config(dir.path())).await;
    let last = webhooks(&receiver.url, &store);
    let deadline = Instant::now() + 3 * PATIENCE;
    while !store.count().await.unwrap().pending.is_empty() {
        assert!(Instant::now() < deadline, "events are left");
        last.flush(Instant::now() + Duration::from_millis(50)).await;
    }
    let seen = first_sights(&receiver.seen());
    for n in 0..CALLS {
        let call = call(n).to_string();
        let (sent, sure) = (&seen[&call], &committed[&call]);
        let mut rest = sent.iter();
        for event in sure {
            assert!(rest.any(|seen| seen == event), "{event} of call {n} was committed and is lost, or came too early");
        }
        numbers_have_no_gaps(&store, n, sent).await;
    }
}

/// The store's numbers of this call are those of the order in which its events came.
async fn numbers_have_no_gaps(store: &Store, n: u128, sent: &[String]) {
    let mut filter = Filter { uuid: Some(Uuid::from(call(n))), limit: 10_000, ..Filter::default() };
    let mut deliveries = Vec::new();
    loop {
        let page = store.list(&filter).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.before = Some(last.event);
        deliveries.extend(page);
    }
    deliveries.sort_by_key(|delivery| delivery.seq);
    assert!(deliveries.iter().all(|delivery| delivery.state == State::Done));
    let numbers: Vec<_> = deliveries.iter().map(|delivery| delivery.seq).collect();
    assert_eq!(numbers, (1..=deliveries.len() as u64).collect::<Vec<_>>());
    let order: Vec<_> = deliveries.iter().map(|delivery| delivery.event.to_string()).collect();
    assert_eq!(order, sent, "call {n}");
}
