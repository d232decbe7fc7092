//! ARI when things break: whatever it is, callers are not left in silence and nothing is left in Asterisk.

use std::time::Duration;

use serde_json::Value;

use crate::ari::{World, empty};
use crate::calls::{SECOND, connect, greeted, operator_answers, speaks};
use crate::support::callee::Callee;
use crate::support::g711::Codec;
use crate::support::hark::{Hark, Process};
use crate::support::lab::{ARI_USER, Lab, free_port};
use crate::support::phone::Call;
use crate::support::proxy::{Line, Proxy};
use crate::support::sts_server::Step;

/// A world whose ARI connection can be cut.
async fn with_proxy() -> (World, Proxy) {
    let ari = free_port();
    let proxy = Proxy::start(ari).await;
    let world = World::at(ari, proxy.addr, |config| {
        // dead after a second and a half: less is mistaken on a machine under load
        config.ari.ping_ms = 500;
        config.ari.timeout_ms = 2_000;
    })
    .await;
    (world, proxy)
}

fn reasons(body: &Value) -> String {
    body.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_without_its_connection_and_is_adopted_after_it() {
    for line in [Line::Cut, Line::Silent] {
        let (world, proxy) = with_proxy().await;
        let (call, session, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
        proxy.set(line);
        let told = reasons(&world.ready(false).await);
        assert!(told.contains("ARI of 127.0.0.1"), "{told}");
        speaks(&session, &call, 21).await;
        // what was silent for so long would not come back whole
        proxy.set(Line::Cut);
        proxy.set(Line::Whole);
        world.ready(true).await;
        speaks(&session, &call, 22).await;
        session.step(Step::Close(Some((1_000, "bye"))));
        operator_answers(&world.lab, &call).await;
        let story = world.hark.story(uuid).await;
        assert_eq!(story[1..], ["call_started", "call_ended"], "{story:?}");
        call.hang_up().await;
        world.empty().await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_there_is_no_connection_is_missed_after_it() {
    let (world, proxy) = with_proxy().await;
    // the caller
    let (call, _, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    proxy.set(Line::Cut);
    world.ready(false).await;
    call.hang_up().await;
    proxy.set(Line::Whole);
    world.ready(true).await;
    world.empty().await;
    assert_eq!(world.hark.story(uuid).await[1..], ["call_started", "call_ended"]);
    // the agent
    let (call, session, _) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    proxy.set(Line::Cut);
    world.ready(false).await;
    session.step(Step::Close(Some((1_000, "bye"))));
    session.until(|record| record.ended.is_some()).await;
    proxy.set(Line::Whole);
    operator_answers(&world.lab, &call).await;
    call.hang_up().await;
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_gateway_leaves_is_ended_by_the_next() {
    let (ari, data) = (free_port(), tempfile::tempdir().expect("a directory"));
    let url = format!("http://{ari}");
    let dir = data.path().display().to_string();
    let env = [
        ("ARI_URL", url.as_str()),
        ("ARI_USERNAME", ARI_USER.0),
        ("ARI_PASSWORD", ARI_USER.1),
        ("HARK_DATA_DIR", &dir),
    ];
    let hark = Process::with(None, &env).await;
    let gateway = hark.gateway();
    let lab = Lab::with_ari(gateway, ari).await;
    lab.logged("Creating Stasis app 'hark'").await;
    let call = Call::dial(lab.sip(), "5011", Codec::Ulaw).await.expect("answered");
    greeted(&lab, &call, SECOND / 4).await;
    hark.kill().await;
    // Asterisk takes nothing down: the caller is alone in the bridge
    lab.channels(1).await;
    assert!(lab.cli("bridge show all").await.contains("hark-hark-"), "{}", lab.cli("bridge show all").await);
    assert!(!lab.log().contains("OPERATOR has the caller"));
    let hark = Process::with(Some(gateway), &env).await;
    operator_answers(&lab, &call).await;
    call.hang_up().await;
    empty(&lab).await;
    hark.kill().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_and_the_dialplan_goes_on() {
    let ari = free_port();
    let hark = Hark::with(crate::support::receiver::Receiver::strict(crate::support::hark::SECRET).await, |config| {
        config.ari.url = Some(format!("http://{ari}"));
        config.ari.password = "hunter2".to_owned();
    })
    .await;
    let lab = Lab::with_ari(hark.gateway, ari).await;
    let told = loop {
        let (status, body) = crate::ari::get(hark.gateway.http.expect("HTTP is on"), "/ready").await;
        if status != 200 && body.contains("HTTP 401") {
            break body;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(told.contains("ari.password") && !told.contains("hunter2"), "{told}");
    let call = Call::dial(lab.sip(), "5011", Codec::Ulaw).await.expect("the operator answers");
    operator_answers(&lab, &call).await;
    call.hang_up().await;
    empty(&lab).await;
    hark.stop().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_nobody_has_fails_and_the_dialplan_goes_on() {
    let world = World::start(|_| {}).await;
    let call = Call::dial(world.lab.sip(), "other", Codec::Ulaw).await;
    assert!(call.is_err(), "it was answered");
    world.lab.logged("BENCH stasis went on STASISSTATUS=FAILED").await;
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn audio_that_cannot_reach_the_gateway_costs_the_caller_nothing() {
    let nobody = free_port();
    let world = World::start(|config| config.ari.media_host = Some(nobody.to_string())).await;
    let call = Call::dial(world.lab.sip(), "5011", Codec::Ulaw).await.expect("the operator answers");
    operator_answers(&world.lab, &call).await;
    assert_eq!(world.service.session_count(), 0);
    call.hang_up().await;
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asterisk_crashes_and_the_next_one_is_served() {
    let World { service, hark, lab, ari_url } = World::start(|_| {}).await;
    let (_call, _, uuid) = connect(&lab, &service, "5011", Codec::Ulaw).await;
    let second = since_epoch().as_secs();
    let lab = lab.restart().await;
    let story = hark.story(uuid).await;
    assert_eq!(story[1..], ["call_started", "call_ended"], "{story:?}");
    let world = World { service, hark, lab, ari_url };
    // not by /ready, which may not have noticed yet
    world.connects(2).await;
    // Asterisk names channels by the second (of a clock that is some ms late) and a count that begins anew with it: within one second the
    // next caller would be this one
    while since_epoch() < Duration::from_secs(second + 1) + Duration::from_millis(50) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (call, session, _) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    session.until(|record| !record.audio.is_empty()).await;
    call.hang_up().await;
    world.empty().await;
    world.stop().await;
}

fn since_epoch() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970")
}

/// A second gateway with the same application, as when one is replaced by its next version.
async fn beside(world: &World, replaced_s: u64) -> Hark {
    let url = world.ari_url.clone();
    let receiver = crate::support::receiver::Receiver::strict(crate::support::hark::SECRET).await;
    Hark::with(receiver, |config| {
        config.agent.sts_url = Some(world.service.url().to_string());
        config.ari.url = Some(url);
        config.ari.password = ARI_USER.1.to_owned();
        config.ari.replaced_s = replaced_s;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_gateway_that_takes_the_application_is_told_of() {
    let world = World::start(|config| config.ari.replaced_s = 1).await;
    let (call, _, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    let second = beside(&world, 600).await;
    let told = reasons(&world.ready(false).await);
    assert!(told.contains("ari.app") && told.contains("another program"), "{told}");
    // and takes it back
    world.ready(true).await;
    second.stop().await;
    call.hang_up().await;
    world.hark.story(uuid).await;
    world.empty().await;
    world.stop().await;
}

/// Calls of the old gateway live on beside the new one, and end as if they were alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_replaced_by_the_next_without_losing_a_call() {
    let world = World::start(|config| {
        config.ari.replaced_s = 600;
        config.limits.shutdown_grace_s = 20;
    })
    .await;
    let (stays, talks, _) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    let (leaves, _, left) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    let next = beside(&world, 600).await;
    world.ready(false).await;
    let World { service, hark, lab, .. } = world;
    let (call, session, new) = connect(&lab, &service, "5011", Codec::Ulaw).await;
    // the next gateway has it
    next.events(new, |events| events.len() > 1).await;
    leaves.hang_up().await;
    assert_eq!(hark.story(left).await[1..], ["call_started", "call_ended"]);
    lab.channels(4).await;
    speaks(&talks, &stays, 51).await;
    talks.step(Step::Close(Some((1_000, "bye"))));
    operator_answers(&lab, &stays).await;
    hark.stop().await;
    speaks(&session, &call, 52).await;
    call.hang_up().await;
    stays.hang_up().await;
    empty(&lab).await;
    next.stop().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_killed_gateway_has_called_is_not_left_alone_in_asterisk() {
    let (ari, data) = (free_port(), tempfile::tempdir().expect("a directory"));
    let (url, dir) = (format!("http://{ari}"), data.path().display().to_string());
    let mut callee = Callee::start().await;
    let dial = format!("PJSIP/phone/sip:{{to}}@{}", callee.address);
    let env = [
        ("ARI_URL", url.as_str()),
        ("ARI_USERNAME", ARI_USER.0),
        ("ARI_PASSWORD", ARI_USER.1),
        ("HARK_DATA_DIR", &dir),
        ("HARK__OUTBOUND__DIAL__DEFAULT", &dial),
    ];
    let hark = Process::with(None, &env).await;
    let gateway = hark.gateway();
    let lab = Lab::with_ari(gateway, ari).await;
    lab.logged("Creating Stasis app 'hark'").await;
    let http = gateway.http.expect("HTTP is on");
    let (status, answer) = crate::control::post(http, "/api/calls", &serde_json::json!({"to": "answer"})).await;
    assert_eq!(status, 201, "{answer}");
    let phone = callee.answered.recv().await.expect("the phone lives");
    lab.channels(2).await;
    hark.kill().await;
    lab.channels(1).await;
    let hark = Process::with(Some(gateway), &env).await;
    empty(&lab).await;
    drop(phone);
    hark.kill().await;
    lab.stop().await;
}
