//! Recordings through a whole gateway: which calls, what is said about them, who may fetch them.

use std::{path::Path, time::Duration};

use hark::{config::Config, webhook::EndpointConfig};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{interval, timeout},
};
use uuid::Uuid;

use super::durable::{Running, config};
use crate::support::{
    PATIENCE, client,
    receiver::{Receiver, Seen},
};

fn with_crm(data: &tempfile::TempDir, crm: &Receiver) -> Config {
    let mut config = config(data, "");
    config.webhooks.url = None;
    let endpoint =
        EndpointConfig { url: Some(crm.url.clone()), events: vec!["*".to_owned()], ..EndpointConfig::default() };
    config.webhooks.endpoints.insert("crm".to_owned(), endpoint);
    config
}

async fn announce(running: &Running, uuid: Uuid, recording: bool) {
    let body = json!({ "uuid": uuid, "payload": { "recording": recording } });
    let answer = client().post(format!("http://{}/call", running.http)).json(&body).send().await.unwrap();
    assert!(answer.status().is_success());
}

/// Sends frames of 20 ms, each of one value, and returns what came back meanwhile.
async fn talk(leg: &mut TcpStream, values: std::ops::Range<i16>) -> Vec<i16> {
    let mut tick = interval(Duration::from_millis(20));
    let mut heard = Vec::new();
    for value in values {
        tick.tick().await;
        let samples: Vec<u8> = [value; 160].iter().flat_map(|sample| sample.to_le_bytes()).collect();
        leg.write_all(&[&[0x10, 0x01, 0x40][..], &samples].concat()).await.unwrap();
        let mut buffer = [0; 4096];
        while let Ok(read) = leg.try_read(&mut buffer) {
            heard.extend_from_slice(&buffer[..read]);
        }
    }
    audio(&heard)
}

/// The samples of audio frames.
fn audio(bytes: &[u8]) -> Vec<i16> {
    let (mut rest, mut samples) = (bytes, Vec::new());
    while let [kind, high, low, more @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(more.len());
        if *kind == 0x10 {
            samples.extend(more[..length].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
        }
        rest = &more[length..];
    }
    samples
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

fn channels(path: &Path) -> (Vec<i16>, Vec<i16>) {
    let samples: Vec<i16> = hound::WavReader::open(path).unwrap().into_samples().map(Result::unwrap).collect();
    (samples.iter().step_by(2).copied().collect(), samples.iter().skip(1).step_by(2).copied().collect())
}

fn find(whole: &[i16], part: &[i16]) -> Option<usize> {
    whole.windows(part.len()).position(|window| window == part)
}

async fn until(receiver: &Receiver, kind: &str, count: usize) -> Vec<Seen> {
    let mut requests = 0;
    loop {
        let seen = timeout(PATIENCE, receiver.wait_for(requests + 1)).await.expect("no such event");
        if seen.iter().filter(|seen| seen.kind() == kind).count() >= count {
            return seen;
        }
        requests = seen.len();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_asks_for_it_is_recorded_and_reported_and_its_pause_is_silent() {
    let data = tempfile::tempdir().unwrap();
    let crm = Receiver::kind().await;
    let running = Running::start(with_crm(&data, &crm)).await;
    let (recorded, not) = (Uuid::new_v4(), Uuid::new_v4());
    announce(&running, recorded, true).await;
    announce(&running, not, false).await;
    hang_up(connect(&running, not).await).await;

    let mut leg = connect(&running, recorded).await;
    let heard = talk(&mut leg, 1..60).await;
    let order = format!("http://{}/api/calls/{recorded}/recording", running.http);
    let pause = client().post(&order).json(&json!({"on": false})).send().await.unwrap();
    assert_eq!(pause.status(), 200);
    talk(&mut leg, 60..90).await;
    let bad = client().post(&order).json(&json!({"off": 1})).send().await.unwrap();
    assert_eq!(bad.status(), 400);
    client().post(&order).json(&json!({"on": true})).send().await.unwrap();
    talk(&mut leg, 90..120).await;
    hang_up(leg).await;

    let seen = until(&crm, "call_completed", 2).await;
    let of = |uuid: Uuid| -> Vec<Value> {
        seen.iter().map(Seen::json).filter(|event| event["uuid"] == uuid.to_string()).collect()
    };
    assert!(of(not).iter().all(|event| event["type"] != "recording_ready"));
    let events = of(recorded);
    let kinds: Vec<_> = events.iter().rev().take(3).map(|event| event["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["call_completed", "call_ended", "recording_ready"]);
    let (ready, report) = (&events[events.len() - 3]["payload"], &events[events.len() - 1]["payload"]);
    assert_eq!(ready["complete"], true);
    assert_eq!(
        (&report["recording_url"], &report["transcript_url"]),
        (&ready["recording_url"], &ready["transcript_url"])
    );
    assert!(ready["duration_ms"].as_u64().unwrap() >= 2_000, "{ready}");

    // whoever is told can fetch it
    let wav = client().get(ready["recording_url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!((wav.status().as_u16(), wav.headers()["content-type"].to_str().unwrap()), (200, "audio/wav"));
    let path = data.path().join("fetched.wav");
    std::fs::write(&path, wav.bytes().await.unwrap()).unwrap();
    let (left, right) = channels(&path);
    assert_eq!(left.len(), right.len());
    let said: Vec<i16> = (1..59).flat_map(|value| [value; 160]).collect();
    assert!(find(&left, &said).is_some(), "what the caller said is not there as it was said");
    // the frames at the edges may belong to either side of the pause
    for value in 65..85 {
        assert!(!left.contains(&value), "what was said in the pause ({value}) is recorded");
    }
    let again: Vec<i16> = (100..119).flat_map(|value| [value; 160]).collect();
    let (before, after) = (find(&left, &said).unwrap(), find(&left, &again).expect("it does not go on"));
    assert!((after - before).abs_diff(99 * 160) <= 3 * 160, "the pause took {} samples", after - before);
    assert!(heard.iter().any(|&sample| sample != 0), "the agent said nothing in a second");
    assert!(find(&right, &heard).is_some(), "what the caller heard is not there as it was heard");
    let json: Value =
        client().get(ready["transcript_url"].as_str().unwrap()).send().await.unwrap().json().await.unwrap();
    assert_eq!(json["uuid"], recorded.to_string());
    let missing = client().get(format!("http://{}/api/recordings/{}.wav", running.http, Uuid::now_v7())).send();
    assert_eq!(missing.await.unwrap().status(), 404);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_cannot_be_used_is_said_and_the_call_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let crm = Receiver::kind().await;
    let mut config = with_crm(&data, &crm);
    std::fs::write(data.path().join("file"), "").unwrap();
    config.recording.enabled = true;
    config.recording.dir = Some(data.path().join("file/recordings"));
    let running = Running::start(config).await;
    let mut leg = connect(&running, Uuid::new_v4()).await;
    assert!(!talk(&mut leg, 1..30).await.is_empty(), "no audio");
    hang_up(leg).await;
    let seen = until(&crm, "call_completed", 1).await;
    let failed = seen.iter().find(|seen| seen.kind() == "service_failed").expect("nobody is told").json();
    assert_eq!(failed["payload"]["code"], "recording.failed");
    let report = seen.iter().find(|seen| seen.kind() == "call_completed").unwrap().json();
    assert_eq!(
        (&report["payload"]["reason"], &report["payload"]["recording_url"]),
        (&json!("caller.hangup"), &Value::Null)
    );
    running.stop().await;
}
