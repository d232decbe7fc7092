//! Announced calls from `POST /call` to their last event, through a whole gateway.

use std::time::Duration;

use hark::{
    call::{CallEvent, CallId},
    config::{Config, WhenBroken},
    webhook::{EndpointConfig, Entry, Outbox, Undecided},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use uuid::Uuid;

use super::durable::{Running, config};
use crate::support::{
    PATIENCE, client,
    receiver::{Receiver, Reply, Seen},
    stores::{event, open, said, sqlite},
};

/// A second receiver, for these events.
fn beside(config: &mut Config, receiver: &Receiver, events: &[&str]) {
    let endpoint = EndpointConfig {
        url: Some(receiver.url.clone()),
        events: events.iter().map(ToString::to_string).collect(),
        ..EndpointConfig::default()
    };
    config.webhooks.endpoints.insert("crm".to_owned(), endpoint);
}

async fn announce(running: &Running, uuid: Uuid) -> (u16, Value) {
    let body = json!({ "uuid": uuid, "payload": { "from": "2000" } });
    let answer = client().post(format!("http://{}/call", running.http)).json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn connect(running: &Running, uuid: Uuid) -> TcpStream {
    let mut leg = TcpStream::connect(running.audiosocket).await.unwrap();
    leg.write_all(&[&[0x01, 0x00, 0x10], &uuid.into_bytes()[..]].concat()).await.unwrap();
    leg
}

async fn hang_up(mut leg: TcpStream) {
    leg.write_all(&[0, 0, 0]).await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, leg.read_to_end(&mut rest)).await.expect("the connection is not closed");
}

/// Whether the gateway says goodbye at once, before any audio.
async fn is_refused(mut leg: TcpStream) -> bool {
    let mut first = [0; 3];
    timeout(PATIENCE, leg.read_exact(&mut first)).await.expect("nothing comes").unwrap();
    first == [0, 0, 0]
}

async fn wait(receiver: &Receiver, count: usize) -> Vec<Seen> {
    let Ok(seen) = timeout(PATIENCE, receiver.wait_for(count)).await else {
        panic!("only {:?} came", receiver.seen().iter().map(Seen::kind).collect::<Vec<_>>());
    };
    seen
}

fn headers(seen: &[Seen], name: &str) -> Vec<String> {
    seen.iter().map(|seen| seen.header(name).unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_before_a_call_and_after_is_one_calls_and_a_second_connection_is_another() {
    let data = tempfile::tempdir().unwrap();
    let (contract, other) = (Receiver::overriding(json!({})).await, Receiver::kind().await);
    let mut config = config(&data, &contract.url);
    beside(&mut config, &other, &["call_initiated", "call_ended", "call_completed"]);
    let running = Running::start(config).await;
    let uuid = Uuid::new_v4();
    assert_eq!(announce(&running, uuid).await.0, 200);
    hang_up(connect(&running, uuid).await).await;
    let (first, told) = (wait(&contract, 3).await, wait(&other, 3).await);
    assert_eq!(first.iter().map(Seen::kind).collect::<Vec<_>>(), ["call_initiated", "call_started", "call_ended"]);
    assert_eq!(told.iter().map(Seen::kind).collect::<Vec<_>>(), ["call_initiated", "call_ended", "call_completed"]);
    for seen in [&first, &told] {
        assert_eq!(headers(seen, "hark-sequence"), ["1", "2", "3"]);
        assert_eq!(headers(seen, "hark-attempt"), ["1", "1", "1"]);
    }
    let call = headers(&first, "hark-call-id").remove(0);
    assert!(headers(&first, "hark-call-id").iter().chain(&headers(&told, "hark-call-id")).all(|id| *id == call));
    assert_eq!(first[0].header("webhook-id"), told[0].header("webhook-id"));
    assert_eq!(told[2].json()["payload"]["metadata"], json!({"from": "2000"}));
    // what became of the question can be looked up, and nobody sends it again
    let shown =
        client().get(format!("http://{}/api/webhooks/deliveries?uuid={uuid}", running.http)).send().await.unwrap();
    let shown = shown.text().await.unwrap();
    assert!(shown.contains("call_initiated"), "{shown}");

    hang_up(connect(&running, uuid).await).await;
    let again = wait(&contract, 5).await.split_off(3);
    assert_eq!(headers(&again, "hark-sequence"), ["1", "2"]);
    assert!(headers(&again, "hark-call-id").iter().all(|id| *id != call), "another call");
    assert_eq!(wait(&other, 5).await[4].json()["payload"]["metadata"], json!({"from": "2000"}), "of the same UUID");
    assert_eq!(running.stop().await.events_left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_never_comes_is_reported_once_also_over_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let (contract, crm) = (Receiver::kind().await, Receiver::kind().await);
    let short = || {
        let mut config = config(&data, &contract.url);
        config.http.announcement_ttl_s = 5;
        beside(&mut config, &crm, &["call_completed"]);
        config
    };
    let running = Running::start(short()).await;
    let (again, never, comes) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    for uuid in [again, again, never, comes] {
        announce(&running, uuid).await;
    }
    hang_up(connect(&running, comes).await).await;
    hang_up(connect(&running, again).await).await;
    wait(&crm, 2).await;
    running.stop().await;

    let running = Running::start(short()).await;
    let mut seen = wait(&crm, 4).await;
    // longer than anybody looks for more of them
    tokio::time::sleep(Duration::from_secs(3)).await;
    let said: Vec<_> = crm.seen().iter().map(|seen| seen.json()["payload"]["reason"].clone()).collect();
    assert_eq!(said.len(), 4, "{said:?}");
    running.stop().await;
    seen.sort_by_key(|seen| seen.json()["payload"]["reason"].to_string());
    let said = |seen: &Seen| {
        let body = seen.json();
        (body["uuid"].clone(), body["payload"]["reason"].clone(), body["payload"]["connected"].clone())
    };
    assert_eq!(said(&seen[0]), (json!(again), json!("call.announced_again"), json!(false)));
    assert_eq!(said(&seen[1]), (json!(never), json!("call.never_connected"), json!(false)));
    assert!(seen[2..].iter().all(|seen| said(seen).1 == "caller.hangup" && said(seen).2 == true));
    assert!(seen.iter().all(|seen| seen.json()["payload"]["metadata"] == json!({"from": "2000"})));
    assert_eq!(contract.seen().len(), 4 + 4, "the contract's receiver is told of no such thing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_report_on_a_call_of_a_killed_gateway_holds_what_was_said() {
    let data = tempfile::tempdir().unwrap();
    let call = CallId::new();
    let killed = open(&sqlite(data.path())).await;
    // as a gateway puts them whose receivers want the report only
    for entry in [event(call, CallEvent::Started), said(call, "hello"), said(call, "world")] {
        killed.put(Entry { to: Vec::new(), ..entry }).await.unwrap();
    }
    drop(killed);
    drop(open(&sqlite(data.path())).await);

    let crm = Receiver::kind().await;
    let mut config = config(&data, "");
    config.webhooks.url = None;
    beside(&mut config, &crm, &["call_completed"]);
    let running = loop {
        // the writer of the killed one has to be gone: in one process it takes a moment
        match open_or_wait(&config).await {
            Some(running) => break running,
            None => tokio::task::yield_now().await,
        }
    };
    let report = wait(&crm, 1).await.remove(0).json();
    let payload = &report["payload"];
    assert_eq!((&payload["reason"], &payload["connected"]), (&json!("gateway_restarted"), &json!(true)));
    let words: Vec<_> = payload["transcript"].as_array().unwrap().iter().map(|said| said["text"].clone()).collect();
    assert_eq!(words, ["hello", "world"]);
    assert!(payload["started_at"].is_string() && payload["duration_s"].is_number(), "{payload}");
    running.stop().await;
    assert_eq!(crm.seen().len(), 1);
}

async fn open_or_wait(config: &Config) -> Option<Running> {
    match hark::app::App::bind(config.clone()).await {
        Ok(app) => Some(Running::of(app)),
        Err(hark::app::BindError::Store(_)) => None,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_does_not_answer_is_not_asked_for_every_call() {
    let data = tempfile::tempdir().unwrap();
    let silent = Receiver::start(|_| Reply::never()).await;
    let mut config = config(&data, &silent.url);
    config.webhooks.initiate.timeout_ms = 50;
    config.webhooks.initiate.failures = 3;
    let running = Running::start(config).await;
    for _ in 0..10 {
        let (status, answer) = announce(&running, Uuid::new_v4()).await;
        assert_eq!((status, &answer["override"]), (200, &json!(false)), "the configured services serve it");
    }
    assert_eq!(silent.seen().len(), 3);
    // what was not sent is a dead letter all the same
    let dead =
        client().get(format!("http://{}/api/webhooks/deliveries?state=dead", running.http)).send().await.unwrap();
    let dead = dead.text().await.unwrap();
    assert!(dead.contains("asked again in"), "{dead}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_decision_a_call_can_be_refused() {
    let data = tempfile::tempdir().unwrap();
    let (undecided, crm) = (Receiver::start(|_| Reply::new(500, "no idea")).await, Receiver::kind().await);
    let mut config = config(&data, &undecided.url);
    config.webhooks.initiate.default = Undecided::Refuse;
    beside(&mut config, &crm, &["call_completed"]);
    let running = Running::start(config).await;
    let uuid = Uuid::new_v4();
    let (status, answer) = announce(&running, uuid).await;
    assert_eq!(status, 503, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("500"), "{answer}");
    assert!(is_refused(connect(&running, uuid).await).await);
    let report = wait(&crm, 1).await.remove(0).json();
    assert_eq!(report["payload"]["reason"], "call.refused.undecided");
    assert!(!is_refused(connect(&running, Uuid::new_v4()).await).await, "nobody was asked about this one");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_can_be_refused_while_their_events_cannot_be_stored() {
    let data = tempfile::tempdir().unwrap();
    let receiver = Receiver::kind().await;
    for (policy, refused) in [(WhenBroken::Accept, false), (WhenBroken::Refuse, true)] {
        let mut config = config(&data, &receiver.url);
        // nobody listens there
        config.database.url = Some("postgres://hark@127.0.0.1:9/hark".to_owned());
        config.database.when_broken = policy;
        let running = Running::start(config).await;
        assert_eq!(is_refused(connect(&running, Uuid::new_v4()).await).await, refused, "{policy:?}");
        running.stop().await;
    }
}
