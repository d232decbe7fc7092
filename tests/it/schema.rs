//! Every event that is sent is described by `fixtures/schema/event.json`, exactly.

use std::time::{Duration, SystemTime};

use hark::{
    call::{
        AnsweredBy, CallEvent, CallId, CallStatus, Digit, EndReason, Envelope, EventId, Fault, Latency, ModelUsage,
        Recording, Replaced, Role, Status, ToolCalled, Turn, Usage,
    },
    webhook::{Config, EndpointConfig, Webhooks, catalogue, schedule::Retry},
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::{
    PATIENCE, client,
    receiver::{Receiver, Reply},
};

fn schema() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/schema/event.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn is_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the schema uses the type {other}"),
    }
}

/// Checks the keywords that the schema uses; an unknown one is a fault of the test.
fn fault(value: &Value, schema: &Value, at: &str) -> Option<String> {
    let wrong = |what: &str| Some(format!("{at}: {value} {what}"));
    for (keyword, rule) in schema.as_object().unwrap() {
        let found = match keyword.as_str() {
            "description" | "$schema" | "title" => None,
            "type" => {
                let names: Vec<&str> = match rule {
                    Value::String(name) => vec![name],
                    other => other.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect(),
                };
                (!names.into_iter().any(|name| is_type(value, name))).then(|| wrong("has another type")).flatten()
            }
            "const" => (value != rule).then(|| wrong("is another")).flatten(),
            "enum" => (!rule.as_array().unwrap().contains(value)).then(|| wrong("is not one of them")).flatten(),
            "minimum" => value.as_f64().filter(|n| *n < rule.as_f64().unwrap()).and_then(|_| wrong("is too small")),
            "format" => match (rule.as_str().unwrap(), value.as_str()) {
                (_, None) => None,
                ("uuid", Some(text)) => text.parse::<Uuid>().err().and_then(|_| wrong("is no UUID")),
                ("date-time", Some(text)) => {
                    (text.len() != 24 || !text.ends_with('Z')).then(|| wrong("is no time")).flatten()
                }
                (other, _) => panic!("the schema uses the format {other}"),
            },
            "required" => {
                let missing = |name: &&Value| value.get(name.as_str().unwrap()).is_none();
                rule.as_array().unwrap().iter().find(missing).and_then(|name| wrong(&format!("lacks {name}")))
            }
            "properties" => {
                let members = value.as_object().into_iter().flatten();
                members.filter_map(|(name, value)| fault(value, rule.get(name)?, &format!("{at}.{name}"))).next()
            }
            "additionalProperties" => {
                let known = |name: &String| schema["properties"].get(name).is_some();
                let more = value.as_object().into_iter().flatten().find(|(name, _)| !known(name));
                more.filter(|_| rule == &json!(false)).and_then(|(name, _)| wrong(&format!("has {name:?} too")))
            }
            "items" => value.as_array().into_iter().flatten().find_map(|item| fault(item, rule, &format!("{at}[]"))),
            "oneOf" => {
                let faults: Vec<_> = rule.as_array().unwrap().iter().map(|one| fault(value, one, at)).collect();
                match faults.iter().filter(|fault| fault.is_none()).count() {
                    1 => None,
                    _ => Some(
                        faults.into_iter().flatten().find(|fault| !fault.contains("is another")).unwrap_or_default(),
                    ),
                }
            }
            other => panic!("the schema uses {other}"),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[tokio::test]
async fn every_event_is_as_its_schema_says() {
    let gone = Receiver::start(|_| Reply::new(410, "")).await;
    let receiver = Receiver::kind().await;
    let endpoint = |url: &str| EndpointConfig {
        url: Some(url.to_owned()),
        events: vec!["*".to_owned()],
        retry: Retry::Times(0),
        ..EndpointConfig::default()
    };
    let endpoints = [("gone".to_owned(), endpoint(&gone.url)), ("all".to_owned(), endpoint(&receiver.url))].into();
    let config = Config { endpoints, ..Config::default() };
    let webhooks = Webhooks::start(&config, client(), &TaskTracker::new(), CancellationToken::new());
    let metadata = json!({"from": "2000", "deep": [{"x": null}]}).as_object().unwrap().clone();
    webhooks.initiate(CallId::new(), Uuid::now_v7(), &metadata).await.unwrap_err();
    webhooks.refused(CallId::new(), Uuid::now_v7(), "call.refused.full", None).await;
    webhooks.service_refused(Uuid::now_v7(), "api.call.refused", "x").await;
    let (call, uuid) = (CallId::new(), Uuid::now_v7());
    webhooks.describe(call, &metadata);
    let turn = |latency| CallEvent::Turn(Turn { latency, heard: Duration::from_secs(3), cut: true });
    let whole = Latency { stt: Some(Duration::from_millis(5)), answer: Duration::from_millis(3), ..Latency::default() };
    let recording = |duration: Option<Duration>| {
        CallEvent::RecordingReady(Recording {
            recording_url: "http://h/x.wav".to_owned(),
            transcript_url: duration.map(|_| "http://h/x.json".to_owned()),
            duration,
            complete: duration.is_some(),
        })
    };
    for event in [
        CallEvent::Started,
        CallEvent::Transcription { role: Role::User, text: "a".to_owned() },
        CallEvent::Transcription { role: Role::Agent, text: String::new() },
        CallEvent::Interruption,
        CallEvent::Dtmf(Some(Digit::try_from('#').unwrap())),
        CallEvent::Dtmf(None),
        turn(None),
        turn(Some(whole)),
        CallEvent::ToolCalled(ToolCalled {
            name: "crm".to_owned(),
            arguments: "{\"id\": 1}".to_owned(),
            result: "sent".to_owned(),
            failed: false,
            took: Duration::from_millis(5),
        }),
        CallEvent::Usage(Usage {
            models: vec![ModelUsage { model: "m".to_owned(), requests: 1, ..ModelUsage::default() }],
            tts_characters: 7,
            stt: Duration::from_millis(1_500),
        }),
        CallEvent::EventsLost(3),
        CallEvent::Status(Status { status: CallStatus::Ringing, cause: None, sip_code: None }),
        CallEvent::Status(Status { status: CallStatus::NoAnswer, cause: Some(19), sip_code: Some(480) }),
        CallEvent::AnsweredBy(AnsweredBy::Human, Duration::from_millis(1_344)),
        recording(Some(Duration::from_secs(3))),
        recording(None),
        CallEvent::ServiceFailed(Fault { code: "a.b", message: "c".to_owned() }),
        CallEvent::ServiceReplaced(Replaced {
            fault: Fault { code: "a.b", message: "c".to_owned() },
            service: "deepgram:nova-3".to_owned(),
            by: "vosk:".to_owned(),
        }),
        CallEvent::Ended(EndReason::CallerHangup),
    ] {
        let envelope = Envelope { id: EventId::new(), call, uuid, at: SystemTime::now(), event };
        webhooks.put(envelope).await.unwrap();
    }
    assert_eq!(webhooks.flush(Instant::now() + PATIENCE).await, 0);
    let (schema, seen) = (schema(), receiver.wait_for(22).await);
    for seen in &seen {
        assert_eq!(fault(&seen.json(), &schema, "event"), None);
    }
    let all: Vec<&str> = catalogue::CONTRACT.iter().chain(&catalogue::MORE).copied().collect();
    let sent = |kind: &str| seen.iter().any(|seen| seen.kind() == kind);
    assert!(all.iter().all(|kind| sent(kind)), "{:?}", seen.iter().map(|seen| seen.kind()).collect::<Vec<_>>());
    let mut described: Vec<_> = schema["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["properties"]["type"]["const"].as_str().unwrap())
        .collect();
    let mut known = all;
    described.sort_unstable();
    known.sort_unstable();
    assert_eq!(described, known);
}

#[test]
fn the_check_sees_what_is_wrong() {
    let schema = schema();
    let right = json!({"uuid": Uuid::nil(), "type": "transcription", "timestamp": "2026-01-01T12:00:00.000Z", "payload": {"role": "user", "text": "a"}});
    assert_eq!(fault(&right, &schema, "event"), None);
    for (path, value) in [
        ("/type", json!("x")),
        ("/payload/role", json!("system")),
        ("/payload", json!({"role": "user"})),
        ("/uuid", json!("1")),
        ("/payload", json!({"role": "user", "text": "a", "more": 1})),
        ("/payload/text", json!(null)),
    ] {
        let mut wrong = right.clone();
        *wrong.pointer_mut(path).unwrap() = value;
        assert!(fault(&wrong, &schema, "event").is_some(), "{wrong}");
    }
}
