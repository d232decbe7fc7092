//! Orders for live calls over HTTP: transfers and hang-ups behind the last sentence, by ARI, by AMI, and as connectors of AVR ask for them.

use std::net::SocketAddr;
use std::time::Duration;

use hark::webhook::EndpointConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

use crate::ari::World;
use crate::calls::{SECOND, connect, heard_by_phone, operator_answers};
use crate::support::callee::Callee;
use crate::support::g711::Codec;
use crate::support::hark::{Hark, SECRET};
use crate::support::lab::{ARI_USER, Lab, free_port};
use crate::support::receiver::Receiver;
use crate::support::sts_server::{Mode, Step, StsServer};
use crate::support::{PATIENCE, find, noise};

/// Status and body of `POST path`.
pub async fn post(http: SocketAddr, path: &str, body: &Value) -> (u16, Value) {
    post_with(http, path, "", body).await
}

/// The same with a line of the head of the test's own.
pub async fn post_with(http: SocketAddr, path: &str, header: &str, body: &Value) -> (u16, Value) {
    let mut stream = TcpStream::connect(http).await.expect("it listens");
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n{header}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}")))
}

/// Why the call ended, as its report says.
pub async fn reason(hark: &Hark, uuid: Uuid) -> Value {
    let is_report = |event: &Value| event["type"] == "call_completed";
    let events = hark.events(uuid, |events| events.iter().any(is_report)).await;
    events.into_iter().find(is_report).expect("it was waited for")["payload"]["reason"].clone()
}

pub fn reports(config: &mut hark::config::Config) {
    let report = EndpointConfig {
        url: config.webhooks.url.clone(),
        secret: config.webhooks.secret.clone(),
        events: vec!["call_completed".to_owned()],
        ..EndpointConfig::default()
    };
    config.webhooks.endpoints.insert("report".to_owned(), report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_waits_for_the_sentence_and_the_operator_has_the_caller() {
    let world = World::start(reports).await;
    let World { service, hark, lab, .. } = &world;
    let http = hark.gateway.http.expect("HTTP is on");
    let (call, session, uuid) = connect(lab, service, "5011", Codec::Ulaw).await;
    session.until(|record| !record.audio.is_empty()).await;
    let sentence = Codec::Ulaw.heard(&noise(2 * SECOND, 12));
    session.step(Step::Speak(sentence.clone(), 320));
    assert!(call.rtp.wait(Duration::from_secs(5), |rtp| rtp.audio().iter().any(|s| s.unsigned_abs() > 1_000)).await);
    let path = format!("/api/calls/{uuid}/transfer");
    let place = json!({"context": "operator", "exten": "s"});
    // of two at once one is done, the other is told to wait
    let ((first, body), (second, other)) = tokio::join!(post(http, &path, &place), post(http, &path, &place));
    let both = [(first, &body["message"], &body["code"]), (second, &other["message"], &other["code"])];
    assert!(both.iter().any(|(status, message, _)| *status == 200 && **message == "done"), "{both:?}");
    assert!(both.iter().any(|(status, _, code)| *status == 503 && **code == "call.busy"), "{both:?}");
    heard_by_phone(&call, &sentence).await;
    operator_answers(lab, &call).await;
    session.until(|record| record.ended.is_some()).await;
    assert_eq!(reason(hark, uuid).await, "transferred");
    // the PBX owns the call: nothing of it is here any more
    assert_eq!(post(http, &path, &json!({"exten": "s"})).await.0, 404);
    call.hang_up().await;
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_waits_for_the_sentence_and_carries_its_cause() {
    let world = World::start(reports).await;
    let World { service, hark, lab, .. } = &world;
    let http = hark.gateway.http.expect("HTTP is on");
    let (mut call, session, uuid) = connect(lab, service, "5011", Codec::Ulaw).await;
    session.until(|record| !record.audio.is_empty()).await;
    let sentence = Codec::Ulaw.heard(&noise(SECOND, 13));
    session.step(Step::Speak(sentence.clone(), 320));
    assert!(call.rtp.wait(Duration::from_secs(5), |rtp| rtp.audio().iter().any(|s| s.unsigned_abs() > 1_000)).await);
    let (status, _) = post(http, &format!("/api/calls/{uuid}/hangup"), &json!({"cause": 17})).await;
    assert_eq!(status, 200);
    heard_by_phone(&call, &sentence).await;
    let cause = call.hung_up(Duration::from_secs(5)).await;
    assert!(cause.as_deref().is_some_and(|cause| cause.contains("cause=17")), "{cause:?}");
    assert_eq!(reason(hark, uuid).await, "hangup");
    world.empty().await;
    world.stop().await;
}

/// A gateway that knows AMI and no ARI, as avr-ami does.
async fn with_ami() -> (StsServer, Hark, Lab) {
    let service = StsServer::start(Mode::Script(Vec::new())).await;
    let ami = free_port();
    let hark = Hark::with(Receiver::strict(SECRET).await, |config| {
        config.agent.sts_url = Some(service.url().to_string());
        config.ami.host = Some(ami.ip().to_string());
        config.ami.port = ami.port();
        (config.ami.username, config.ami.password) = (ARI_USER.0.to_owned(), ARI_USER.1.to_owned());
        reports(config);
    })
    .await;
    let lab = Lab::with_ami(hark.gateway, ami).await;
    (service, hark, lab)
}

#[tokio::test(flavor = "multi_thread")]
async fn connectors_of_avr_transfer_and_hang_up_calls_of_both_dialplans() {
    let (service, hark, lab) = with_ami().await;
    let http = hark.gateway.http.expect("HTTP is on");
    for extension in ["5001", "5002"] {
        let (call, session, uuid) = connect(&lab, &service, extension, Codec::Ulaw).await;
        session.until(|record| !record.audio.is_empty()).await;
        let place = json!({"uuid": uuid, "exten": "s", "context": "operator", "priority": 1});
        let (status, body) = post(http, "/transfer", &place).await;
        let begin = format!("Call with UUID {uuid} redirect with action: ");
        assert!(status == 200 && body["message"].as_str().is_some_and(|said| said.starts_with(&begin)), "{body}");
        operator_answers(&lab, &call).await;
        assert_eq!(reason(&hark, uuid).await, "transferred", "{extension}");
        call.hang_up().await;
        lab.idle().await;

        let (mut call, session, uuid) = connect(&lab, &service, extension, Codec::Ulaw).await;
        session.until(|record| !record.audio.is_empty()).await;
        let (status, body) = post(http, "/hangup", &json!({"uuid": uuid})).await;
        assert!(
            status == 200 && body["message"].as_str().is_some_and(|said| said.contains("hangup with action")),
            "{body}"
        );
        call.hung_up(Duration::from_secs(5)).await;
        assert_eq!(reason(&hark, uuid).await, "hangup", "{extension}");
        lab.idle().await;
        let (status, body) = post(http, "/hangup", &json!({"uuid": uuid})).await;
        assert_eq!(
            (status, body["message"].as_str()),
            (404, Some(format!("Call with UUID {uuid} not found").as_str()))
        );
    }
    lab.stop().await;
    hark.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_to_a_pbx_that_does_not_do_it_leaves_the_caller_with_the_agent() {
    let (service, hark, lab) = with_ami().await;
    let http = hark.gateway.http.expect("HTTP is on");
    let (call, session, uuid) = connect(&lab, &service, "5002", Codec::Ulaw).await;
    session.until(|record| !record.audio.is_empty()).await;
    let nowhere = json!({"context": "no-such-context", "exten": "1"});
    let (status, body) = post(http, &format!("/api/calls/{uuid}/transfer"), &nowhere).await;
    assert_eq!((status, &body["code"]), (409, &json!("call.no_such_place")), "{body}");
    let sentence = Codec::Ulaw.heard(&noise(SECOND, 14));
    session.step(Step::Speak(sentence.clone(), 320));
    heard_by_phone(&call, &sentence).await;
    // and it hears the caller again
    let heard = session.record().audio.len();
    session.until(|record| record.audio.len() > heard + SECOND).await;
    call.hang_up().await;
    assert_eq!(reason(&hark, uuid).await, "caller.hangup");
    lab.stop().await;
    hark.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_ari_too_a_place_that_does_not_exist_is_refused() {
    let world = World::start(reports).await;
    let World { service, hark, lab, .. } = &world;
    let http = hark.gateway.http.expect("HTTP is on");
    let (call, session, uuid) = connect(lab, service, "5011", Codec::Ulaw).await;
    session.until(|record| !record.audio.is_empty()).await;
    for place in [json!({"context": "operator", "exten": "nobody"}), json!({"exten": "77"})] {
        let (status, body) = post(http, &format!("/api/calls/{uuid}/transfer"), &place).await;
        assert_eq!((status, &body["code"]), (409, &json!("call.no_such_place")), "{body}");
    }
    let sentence = Codec::Ulaw.heard(&noise(SECOND, 15));
    session.step(Step::Speak(sentence.clone(), 320));
    heard_by_phone(&call, &sentence).await;
    let (status, body) = post(http, &format!("/api/calls/{uuid}/dtmf"), &json!({"digits": "5"})).await;
    assert_eq!(status, 200, "{body}");
    let key = |rtp: &crate::support::rtp::Rtp| rtp.packets().iter().any(|packet| packet.payload_type == 101);
    assert!(call.rtp.wait(Duration::from_secs(5), key).await, "no key came");
    call.hang_up().await;
    assert_eq!(reason(hark, uuid).await, "caller.hangup");
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_nobody_takes_comes_back_to_the_agent_with_the_reason() {
    let mut callee = Callee::start().await;
    let world = World::start(reports).await;
    let World { service, hark, lab, .. } = &world;
    let http = hark.gateway.http.expect("HTTP is on");
    lab.cli(&format!("dialplan set global CALLEE {}", callee.address)).await;
    let (call, session, uuid) = connect(lab, service, "5011", Codec::Ulaw).await;
    session.until(|record| !record.audio.is_empty()).await;
    let next = service.session_count();
    let place = |exten: &str| json!({"context": "hark-transfer", "exten": exten});
    let (status, body) = post(http, &format!("/api/calls/{uuid}/transfer"), &place("486")).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(reason(hark, uuid).await, "transferred");
    // the agent again, who knows why
    let session = service.session(next).await;
    let record = session.until(|record| !record.audio.is_empty()).await;
    assert!(
        record.target.contains("transfer=486") && record.target.contains("transfer_status=BUSY"),
        "{}",
        record.target
    );
    let init: Value = serde_json::from_str(&record.texts[0]).expect("JSON");
    let again: Uuid = init["uuid"].as_str().expect("a UUID").parse().expect("a UUID");
    assert_ne!(again, uuid);
    let sentence = Codec::Ulaw.heard(&noise(SECOND, 16));
    session.step(Step::Speak(sentence.clone(), 320));
    heard_by_phone(&call, &sentence).await;
    // and this time somebody does
    let (status, body) = post(http, &format!("/api/calls/{again}/transfer"), &place("answer")).await;
    assert_eq!(status, 200, "{body}");
    let phone = timeout(PATIENCE, callee.answered.recv()).await.expect("in time").expect("the phone lives");
    let words = noise(SECOND, 17);
    call.rtp.play(&words);
    let heard = Codec::Ulaw.heard(&words);
    let there = |rtp: &crate::support::rtp::Rtp| find(&rtp.audio(), &heard).is_some();
    assert!(phone.rtp.wait(Duration::from_secs(10), there).await, "the two do not hear each other\n{}", lab.log());
    call.hang_up().await;
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn originate_rings_a_phone_and_gives_it_to_the_dialplan() {
    let (_service, hark, lab) = with_ami().await;
    let http = hark.gateway.http.expect("HTTP is on");
    let asked = json!({"channel": "Local/5001@hark", "exten": "s", "context": "operator"});
    let (status, body) = post(http, "/originate", &asked).await;
    assert!(status == 200 && body["message"].as_str().is_some_and(|said| said.starts_with("Call originate")), "{body}");
    lab.logged("OPERATOR has the caller").await;
    lab.cli("channel request hangup all").await;
    lab.idle().await;
    lab.stop().await;
    hark.stop().await;
}
