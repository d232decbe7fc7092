//! Gateways that share a server, whole: one is killed in the middle of its work, or the server is.

use std::{
    collections::{HashMap, HashSet},
    io::Write as _,
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use hark::{
    app::App,
    call::{CallEvent, CallId, Envelope, EventId, Role},
    config,
    webhook::{
        Config, Webhooks,
        schedule::Retry,
        store::{self, Store},
    },
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::{
    PATIENCE, client,
    postgres::Postgres,
    receiver::{Receiver, Reply, Seen},
    stores::open,
};

const CALLS: usize = 20;
const DATABASE: &str = "HARK_TEST_SHARED_DATABASE";
const URL: &str = "HARK_TEST_SHARED_URL";

fn webhooks(url: &str, store: &Store) -> Webhooks {
    let config = Config { url: Some(url.to_owned()), retry: Retry::Times(100), backoff_ms: 1, ..Config::default() };
    Webhooks::with_outbox(&config, client(), Arc::new(store.clone()), &TaskTracker::new(), CancellationToken::new())
}

fn gateway(postgres: &Postgres, url: &str) -> config::Config {
    let mut config = config::Config::default();
    config.audiosocket.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.http.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.limits.media_threads = 1;
    config.limits.shutdown_grace_s = 0;
    config.webhooks.url = Some(url.to_owned());
    config.webhooks.retry = Retry::Times(100);
    config.webhooks.backoff_ms = 1;
    config.database.url = Some(postgres.url());
    config
}

fn envelope(call: CallId, event: CallEvent) -> Envelope {
    Envelope { id: EventId::new(), call, uuid: call.into(), at: SystemTime::now(), event }
}

fn said(call: CallId, n: usize) -> Envelope {
    envelope(call, CallEvent::Transcription { role: Role::User, text: n.to_string() })
}

/// Slow, and refuses now and then, so that always some are under way.
async fn receiver() -> Receiver {
    let counter = AtomicU64::new(0);
    Receiver::start(move |_| {
        let refuse = counter.fetch_add(1, Relaxed).is_multiple_of(11);
        Reply::new(if refuse { 503 } else { 200 }, "").after(Duration::from_millis(20))
    })
    .await
}

/// Not a test by itself: the gateway that is killed. Says on its standard output what is committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let (Ok(database), Ok(url)) = (std::env::var(DATABASE), std::env::var(URL)) else { return };
    let store = open(&store::Config { url: Some(database), ..store::Config::default() }).await;
    let webhooks = webhooks(&url, &store);
    let calls: Vec<_> = (0..CALLS).map(|_| CallId::new()).collect();
    let mut batch: Vec<_> = calls.iter().map(|call| envelope(*call, CallEvent::Started)).collect();
    for n in 0.. {
        webhooks.put_all(batch.clone()).await;
        let mut said_so = String::new();
        for envelope in &batch {
            said_so.push_str(&format!("\ncommitted {} {}\n", envelope.call, envelope.id));
        }
        std::io::stdout().lock().write_all(said_so.as_bytes()).unwrap();
        batch = calls.iter().map(|call| said(*call, n)).collect();
        sleep(Duration::from_millis(20)).await;
    }
}

/// First sight of each event, by call: its identity, its number, its type. The same event has the same body every time.
fn first_sights(seen: &[Seen]) -> HashMap<String, Vec<(String, usize, String)>> {
    let (mut calls, mut bodies) = (HashMap::<_, Vec<_>>::new(), HashMap::<String, &str>::new());
    for seen in seen {
        let (call, id) = (seen.header("hark-call-id").unwrap(), seen.header("webhook-id").unwrap());
        match bodies.insert(id.to_owned(), &seen.body) {
            Some(before) => assert_eq!(before, seen.body, "one event, two bodies"),
            None => {
                let number = seen.header("hark-sequence").unwrap().parse().unwrap();
                calls.entry(call.to_owned()).or_default().push((id.to_owned(), number, seen.kind()));
            }
        }
    }
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_gateway_owed_is_delivered_by_the_other_and_its_calls_are_ended() {
    let (postgres, receiver) = (Postgres::start().await, receiver().await);
    let app = App::bind(gateway(&postgres, &receiver.url)).await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run(stop.clone()));

    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "store_shared::child", "--nocapture", "--test-threads=1"]);
    command.env(DATABASE, postgres.url()).env(URL, &receiver.url);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut committed = HashMap::<String, Vec<String>>::new();
    let mut killed = None;
    let reading = async {
        while let Ok(Some(line)) = lines.next_line().await {
            // a kill may cut the last line
            if let ["committed", call, event] = line.split(' ').collect::<Vec<_>>()[..]
                && event.len() == 36
            {
                committed.entry(call.to_owned()).or_default().push(event.to_owned());
            }
            let total = committed.values().map(Vec::len).sum::<usize>();
            if killed.is_none() && total >= 600 {
                child.start_kill().unwrap();
                killed = Some((Instant::now(), receiver.seen().len()));
            }
        }
    };
    timeout(2 * PATIENCE, reading).await.unwrap();
    let (killed, seen) = killed.expect("the child ended by itself");
    let total = committed.values().map(Vec::len).sum::<usize>();
    assert!(seen > 0 && committed.len() == CALLS, "{seen} of {total} were sent when it was killed");

    let over = |seen: &[Seen]| {
        let ended = seen.iter().filter(|seen| seen.kind() == "call_ended");
        ended.map(|seen| seen.header("hark-call-id").unwrap()).collect::<HashSet<_>>().len() == CALLS
    };
    while !over(&receiver.seen()) {
        assert!(killed.elapsed() < Duration::from_secs(10), "not delivered within 10 s");
        sleep(Duration::from_millis(50)).await;
    }
    for (call, events) in first_sights(&receiver.seen()) {
        let numbers: Vec<_> = events.iter().map(|(_, number, _)| *number).collect();
        assert_eq!(numbers, (1..=events.len()).collect::<Vec<_>>(), "of call {call}: lost, or out of order");
        let ended: Vec<_> = events.iter().filter(|(.., kind)| kind == "call_ended").collect();
        assert_eq!((ended.len(), events.last()), (1, ended.last().copied()), "the end is said once, and last");
        let sent: Vec<_> = events.iter().map(|(id, ..)| id).collect();
        for event in committed.remove(&call).unwrap() {
            assert!(sent.contains(&&event), "{event} was committed and is lost");
        }
    }
    assert!(committed.is_empty(), "whole calls are lost");
    stop.cancel();
    assert_eq!(timeout(PATIENCE, running).await.unwrap().unwrap().events_left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_server_in_the_middle_of_deliveries_loses_and_reorders_nothing() {
    let (mut postgres, receiver) = (Postgres::start().await, receiver().await);
    let store = open(&store::Config { url: Some(postgres.url()), ..store::Config::default() }).await;
    let webhooks = webhooks(&receiver.url, &store);
    let calls: Vec<_> = (0..CALLS).map(|_| CallId::new()).collect();
    let mut put = HashMap::<String, Vec<String>>::new();
    for n in 0..30 {
        if n == 10 {
            receiver.wait_for(50).await;
            postgres.down();
        }
        if n == 20 {
            postgres.up().await;
        }
        let batch: Vec<_> = calls.iter().map(|call| said(*call, n)).collect();
        for envelope in &batch {
            put.entry(envelope.call.to_string()).or_default().push(envelope.id.to_string());
        }
        timeout(PATIENCE, webhooks.put_all(batch)).await.expect("calls are held up");
    }
    assert_eq!(webhooks.flush(Instant::now() + 2 * PATIENCE).await, 0, "not everything was delivered");
    for (call, events) in first_sights(&receiver.seen()) {
        let sent: Vec<_> = events.into_iter().map(|(id, ..)| id).collect();
        assert_eq!(sent, put[&call]);
    }
    assert_eq!(store.lost(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_taken_by_what_the_gateway_was_told_itself_when_the_database_does_not_answer() {
    let (postgres, receiver) = (Postgres::start().await, Receiver::kind().await);
    let mut config = gateway(&postgres, &receiver.url);
    config.audiosocket.require_registration = true;
    let app = App::bind(config).await.unwrap();
    let (audiosocket, http, stop) = (app.audiosocket_addr(), app.http_addr().unwrap(), CancellationToken::new());
    let running = tokio::spawn(app.run(stop.clone()));
    let uuid = Uuid::new_v4();
    let body = serde_json::json!({ "uuid": uuid, "payload": {} });
    let answer = client().post(format!("http://{http}/call")).json(&body).send().await.unwrap();
    assert!(answer.status().is_success());

    let mut other = <sqlx::PgConnection as sqlx::Connection>::connect(&postgres.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE announcements IN ACCESS EXCLUSIVE MODE").execute(&mut other).await.unwrap();
    let mut leg = TcpStream::connect(audiosocket).await.unwrap();
    leg.write_all(&[&[0x01, 0x00, 0x10], &uuid.into_bytes()[..]].concat()).await.unwrap();
    let mut first = [0; 3];
    timeout(PATIENCE, leg.read_exact(&mut first)).await.expect("nothing comes").unwrap();
    assert_ne!(first, [0, 0, 0], "the call was refused");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    // call_initiated was the first
    let seen = receiver.wait_for(2).await;
    assert_eq!(seen[1].kind(), "call_started");
    assert_eq!(seen[0].header("hark-call-id"), seen[1].header("hark-call-id"));
    stop.cancel();
    timeout(PATIENCE, running).await.unwrap().unwrap();
}
