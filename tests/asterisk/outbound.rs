//! Calls that we make: the phone is called, and what is told of it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use crate::ari::World;
use crate::calls::SECOND;
use crate::control::{post, post_with, reports};
use crate::support::callee::{Answered, Callee};
use crate::support::g711::Codec;
use crate::support::services::Services;
use crate::support::sts_server::Step;
use crate::support::{PATIENCE, find, noise};

/// A world that dials this phone.
async fn world(callee: &Callee) -> World {
    let dial = format!("PJSIP/phone/sip:{{to}}@{}", callee.address);
    World::start(|config| {
        config.outbound.dial.insert("default".to_owned(), dial);
        config.outbound.dial.insert("nobody".to_owned(), "PJSIP/{to}@no-such-endpoint".to_owned());
        config.outbound.caller_id = Some("Hark <4711>".to_owned());
        reports(config);
        let report = config.webhooks.endpoints.get_mut("report").expect("it was made");
        report.events.push("call_status".to_owned());
    })
    .await
}

async fn call(world: &World, body: Value) -> (u16, Value) {
    post(world.hark.gateway.http.expect("HTTP is on"), "/api/calls", &body).await
}

fn uuid(answer: &Value) -> Uuid {
    answer["uuid"].as_str().expect("a UUID").parse().expect("a UUID")
}

/// Every status of a call, and why it was over.
async fn story(world: &World, uuid: Uuid) -> (Vec<Value>, Value) {
    let is_report = |event: &Value| event["type"] == "call_completed";
    let events = world.hark.events(uuid, |events| events.iter().any(is_report)).await;
    let of = |kind: &str| {
        events.iter().filter(|event| event["type"] == kind).map(|event| event["payload"].clone()).collect::<Vec<_>>()
    };
    let reports = of("call_completed");
    assert_eq!(reports.len(), 1, "{events:?}");
    (of("call_status"), reports[0].clone())
}

fn names(statuses: &[Value]) -> Vec<&str> {
    statuses.iter().map(|status| status["status"].as_str().expect("a status")).collect()
}

async fn answered(callee: &mut Callee) -> Answered {
    timeout(PATIENCE, callee.answered.recv()).await.expect("in time").expect("the phone lives")
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_answers_and_talks_with_the_agent() {
    let mut callee = Callee::start().await;
    let world = world(&callee).await;
    let number = world.service.session_count();
    let (status, answer) = call(&world, json!({"to": "answer", "metadata": {"crm": "c-7"}})).await;
    assert_eq!(status, 201, "{answer}");
    let uuid = uuid(&answer);
    let mut phone = answered(&mut callee).await;
    assert!(phone.from.contains("Hark") && phone.from.contains("4711"), "{}", phone.from);
    let session = world.service.session(number).await;
    session.until(|record| !record.audio.is_empty()).await;
    let sentence = Codec::Ulaw.heard(&noise(SECOND, 21));
    session.step(Step::Speak(sentence.clone(), 320));
    let there = |rtp: &crate::support::rtp::Rtp| find(&rtp.audio(), &sentence).is_some();
    assert!(phone.rtp.wait(Duration::from_secs(10), there).await, "the phone never heard it whole");
    let words = noise(SECOND, 22);
    phone.rtp.play(&words);
    let heard = Codec::Ulaw.heard(&words);
    session.until(|record| find(&record.audio, &heard).is_some()).await;
    // the agent is done: there is no dialplan behind such a call
    let path = format!("/api/calls/{uuid}/hangup");
    assert_eq!(post(world.hark.gateway.http.expect("HTTP is on"), &path, &json!({})).await.0, 200);
    let bye = timeout(PATIENCE, phone.requests.recv()).await.expect("in time").expect("the phone lives");
    assert_eq!(bye.method(), "BYE");
    let (statuses, report) = story(&world, uuid).await;
    assert_eq!(names(&statuses), ["initiated", "ringing", "answered", "completed"]);
    assert_eq!((&report["reason"], &report["connected"]), (&json!("hangup"), &json!(true)));
    assert_eq!((&report["metadata"]["crm"], &report["metadata"]["direction"]), (&json!("c-7"), &json!("outbound")));
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_status_its_cause_and_one_report() {
    let callee = Callee::start().await;
    let world = world(&callee).await;
    for (number, end, code, sip) in [
        ("486", "busy", "call.busy", 486),
        ("600", "busy", "call.busy", 600),
        ("603", "failed", "call.failed", 603),
        ("404", "failed", "call.failed", 404),
        ("480", "no-answer", "call.no_answer", 480),
        ("500", "failed", "call.failed", 500),
        ("503", "failed", "call.failed", 503),
    ] {
        let (status, answer) = call(&world, json!({"to": number})).await;
        assert_eq!(status, 201, "{answer}");
        let (statuses, report) = story(&world, uuid(&answer)).await;
        assert_eq!(names(&statuses), ["initiated", "ringing", end], "{number}");
        assert_eq!(statuses[2]["sip_code"], sip, "{number}: {}", statuses[2]);
        assert_eq!((&report["reason"], &report["connected"]), (&json!(code), &json!(false)), "{number}");
        assert_eq!(report["metadata"]["to"], number);
    }
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_answers_and_a_call_is_taken_back() {
    let callee = Callee::start().await;
    let world = world(&callee).await;
    for (number, steps) in [("ring", &["initiated", "ringing", "no-answer"][..]), ("dead", &["initiated", "no-answer"])]
    {
        let (_, answer) = call(&world, json!({"to": number, "timeout_s": 1})).await;
        let (statuses, report) = story(&world, uuid(&answer)).await;
        assert_eq!(names(&statuses), steps);
        assert_eq!(report["reason"], "call.no_answer");
    }
    let (_, answer) = call(&world, json!({"to": "ring"})).await;
    let uuid = uuid(&answer);
    world.hark.events(uuid, |events| events.iter().any(|event| event["payload"]["status"] == "ringing")).await;
    let http = world.hark.gateway.http.expect("HTTP is on");
    assert_eq!(post(http, &format!("/api/calls/{uuid}/hangup"), &json!({})).await.0, 200);
    let (statuses, report) = story(&world, uuid).await;
    assert_eq!(names(&statuses), ["initiated", "ringing", "canceled"]);
    assert_eq!(report["reason"], "call.canceled");
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_called_is_said_at_once_and_a_key_makes_one_call() {
    let callee = Callee::start().await;
    let world = world(&callee).await;
    let (status, answer) = call(&world, json!({"to": "1", "via": "moon"})).await;
    assert_eq!((status, &answer["code"]), (409, &json!("outbound.via")), "{answer}");
    let (status, answer) = call(&world, json!({"to": "1", "via": "nobody"})).await;
    assert_eq!((status, &answer["code"]), (502, &json!("ari.server")), "{answer}");
    let (status, answer) = call(&world, json!({"to": "1@elsewhere"})).await;
    assert_eq!(status, 400, "{answer}");
    let http = world.hark.gateway.http.expect("HTTP is on");
    let ask = async |body: Value| post_with(http, "/api/calls", "Idempotency-Key: k-1\r\n", &body).await;
    let (first, one) = ask(json!({"to": "486"})).await;
    let (second, two) = ask(json!({"to": "486"})).await;
    assert_eq!((first, second, &one), (201, 200, &two));
    assert_eq!(ask(json!({"to": "600"})).await.0, 409, "another call with the same key");
    let (statuses, _) = story(&world, uuid(&one)).await;
    assert_eq!(names(&statuses), ["initiated", "ringing", "busy"]);
    world.empty().await;
    world.stop().await;
}

/// Says for a machine what machines say: ten seconds of somebody's recorded voice, and a beep.
pub fn machine() -> Vec<i16> {
    let wav = hound::WavReader::new(&include_bytes!("../../fixtures/audio/caller.wav")[..]).expect("a recording");
    let recording: Vec<i16> = wav.into_samples().map(|sample| sample.expect("a sample")).collect();
    // without the pauses in it
    let voiced: Vec<i16> = recording
        .chunks_exact(800)
        .filter(|part| part.iter().any(|s| s.unsigned_abs() > 1_500))
        .flatten()
        .copied()
        .collect();
    let mut said = voiced.repeat(4);
    said.truncate(6 * SECOND);
    said.extend(
        (0..SECOND / 2).map(|n| (6_000.0 * (std::f64::consts::TAU * 1_000.0 * n as f64 / 8_000.0).sin()) as i16),
    );
    said
}

async fn answered_by(world: &World, uuid: Uuid) -> Vec<Value> {
    let events = world.hark.events(uuid, |events| events.iter().any(|event| event["type"] == "call_completed")).await;
    let told = events.iter().filter(|event| event["type"] == "answered_by");
    told.map(|event| event["payload"]["answered_by"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_gets_a_message_behind_its_beep_or_nothing_and_a_person_is_greeted() {
    const MESSAGE: &str = "Please call us back.";
    let mut callee = Callee::start().await;
    let (greeting, message) = (Codec::Ulaw.heard(&noise(SECOND, 61)), Codec::Ulaw.heard(&noise(SECOND, 62)));
    let services = Services::start([("Welcome.", greeting.clone()), (MESSAGE, message.clone())].into(), "Fine.").await;
    let dial = format!("PJSIP/phone/sip:{{to}}@{}", callee.address);
    let world = World::start(|config| {
        config.outbound.dial.insert("default".to_owned(), dial);
        config.agent.sts_url = None;
        config.agent.asr_url = Some(services.asr.clone());
        config.agent.llm_url = Some(services.llm.clone());
        config.agent.tts_url = Some(services.tts.clone());
        config.agent.greeting = Some("Welcome.".to_owned());
        reports(config);
        let report = config.webhooks.endpoints.get_mut("report").expect("it was made");
        report.events.push("answered_by".to_owned());
    })
    .await;
    let heard = |samples: Vec<i16>| move |rtp: &crate::support::rtp::Rtp| find(&rtp.audio(), &samples).is_some();

    let (status, answer) = call(&world, json!({"to": "answer", "machine": "message", "message": MESSAGE})).await;
    assert_eq!(status, 201, "{answer}");
    let mut phone = self::answered(&mut callee).await;
    phone.rtp.play(&machine());
    assert!(phone.rtp.wait(Duration::from_secs(20), heard(message.clone())).await, "no message\n{}", world.lab.log());
    assert!(!heard(greeting[..SECOND / 2].to_vec())(&phone.rtp), "it is greeted");
    assert_eq!(timeout(PATIENCE, phone.requests.recv()).await.expect("in time").expect("one").method(), "BYE");
    assert_eq!(answered_by(&world, uuid(&answer)).await, ["machine", "beep"]);
    assert_eq!(story(&world, uuid(&answer)).await.1["reason"], "answering_machine");

    let (_, answer) = call(&world, json!({"to": "answer", "machine": "hangup"})).await;
    let mut phone = self::answered(&mut callee).await;
    phone.rtp.play(&machine());
    assert_eq!(timeout(PATIENCE, phone.requests.recv()).await.expect("in time").expect("one").method(), "BYE");
    assert_eq!(answered_by(&world, uuid(&answer)).await, ["machine"]);

    let (_, answer) = call(&world, json!({"to": "answer", "machine": "hangup"})).await;
    let phone = self::answered(&mut callee).await;
    // "hello?"
    phone.rtp.play(&machine()[..SECOND / 2]);
    assert!(phone.rtp.wait(Duration::from_secs(20), heard(greeting)).await, "no greeting\n{}", world.lab.log());
    phone.hang_up().await;
    assert_eq!(answered_by(&world, uuid(&answer)).await, ["human"]);

    for wrong in [json!({"machine": "message"}), json!({"machine": "kick"}), json!({"message": "Hello."})] {
        let mut body = wrong;
        body["to"] = "answer".into();
        assert_eq!(call(&world, body).await.0, 400);
    }
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_amd_of_asterisk_says_of_who_answers_is_told_and_obeyed() {
    let mut callee = Callee::start().await;
    let world = World::start(|config| {
        config.outbound.dial.insert("amd".to_owned(), "Local/{to}@hark-amd/n".to_owned());
        reports(config);
        let report = config.webhooks.endpoints.get_mut("report").expect("it was made");
        report.events.push("answered_by".to_owned());
    })
    .await;
    world.lab.cli(&format!("dialplan set global CALLEE {}", callee.address)).await;
    let hello = crate::conversation::recording()[4_800..11_200].to_vec();
    for (said, who) in [(machine(), "machine"), (hello, "human")] {
        let mut order = json!({"to": "answer", "via": "amd"});
        if who == "machine" {
            order["machine"] = json!("hangup");
        }
        let (status, answer) = call(&world, order).await;
        assert_eq!(status, 201, "{answer}");
        let mut phone = answered(&mut callee).await;
        phone.rtp.play(&said);
        let uuid = uuid(&answer);
        let is_told = |event: &Value| event["type"] == "answered_by";
        let events = world.hark.events(uuid, |events| events.iter().any(is_told)).await;
        let told = events.into_iter().find(is_told).expect("it came");
        assert_eq!(told["payload"]["answered_by"], who, "{told}\n{}", world.lab.log());
        if who == "human" {
            phone.hang_up().await;
        } else {
            let bye = timeout(PATIENCE, phone.requests.recv()).await.expect("in time").expect("the phone lives");
            assert_eq!(bye.method(), "BYE");
        }
        let (_, report) = story(&world, uuid).await;
        let expected = if who == "human" { "caller.hangup" } else { "answering_machine" };
        assert_eq!(report["reason"], expected, "{report}");
    }
    world.empty().await;
    world.stop().await;
}
