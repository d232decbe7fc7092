//! Attended transfer: somebody is asked whether they take the caller, who waits meanwhile, and is back where they do not.

use std::time::Duration;

use hark::asterisk::ari::Media;
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use crate::ari::World;
use crate::calls::{SECOND, connect, heard_by_phone};
use crate::control::{post, reason, reports};
use crate::support::callee::{Answered, Callee};
use crate::support::g711::Codec;
use crate::support::lab::Lab;
use crate::support::phone::Call;
use crate::support::rtp::Rtp;
use crate::support::services::Services;
use crate::support::sts_server::Step;
use crate::support::{PATIENCE, find, noise};

const SUMMARY: &str = "Somebody asks about Saturday, press one to take the call.";

async fn answered(callee: &mut Callee) -> Answered {
    timeout(PATIENCE, callee.answered.recv()).await.expect("in time").expect("the phone lives")
}

fn dial(callee: &Callee) -> impl FnOnce(&mut hark::config::Config) {
    let dial = format!("PJSIP/phone/sip:{{to}}@{}", callee.address);
    move |config| {
        config.outbound.dial.insert("default".to_owned(), dial);
        reports(config);
    }
}

async fn attend(world: &World, uuid: Uuid, body: Value) -> (u16, Value) {
    let http = world.hark.gateway.http.expect("HTTP is on");
    post(http, &format!("/api/calls/{uuid}/attend"), &body).await
}

async fn heard(what: &str, rtp: &Rtp, samples: &[i16], lab: &Lab) {
    let there = |rtp: &Rtp| find(&rtp.audio(), samples).is_some();
    assert!(rtp.wait(Duration::from_secs(15), there).await, "{what} is not heard\n{}", lab.log());
}

/// Both hear each other, to the sample.
async fn talk(call: &Call, phone: &Answered, lab: &Lab) {
    // what is said while a channel joins is lost
    for (from, to) in [(&call.rtp, &phone.rtp), (&phone.rtp, &call.rtp)] {
        let before = to.audio().len();
        from.play(&noise(SECOND / 2, 30));
        let loud = |rtp: &Rtp| rtp.audio().iter().skip(before).filter(|s| s.unsigned_abs() > 100).count() > SECOND / 8;
        assert!(to.wait(Duration::from_secs(15), loud).await, "nothing is heard\n{}", lab.log());
    }
    let (theirs, ours) = (noise(SECOND, 31), noise(SECOND, 32));
    call.rtp.play(&theirs);
    phone.rtp.play(&ours);
    heard("the caller", &phone.rtp, &Codec::Ulaw.heard(&theirs), lab).await;
    heard("who took the call", &call.rtp, &Codec::Ulaw.heard(&ours), lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_tells_who_answers_what_it_is_about_and_a_key_brings_both_together() {
    let mut callee = Callee::start().await;
    let (greeting, summary) = (Codec::Ulaw.heard(&noise(SECOND / 2, 33)), Codec::Ulaw.heard(&noise(2 * SECOND, 34)));
    let texts = [("Welcome.", greeting.clone()), (SUMMARY, summary.clone())];
    let services = Services::start(texts.into(), "Fine.").await;
    let world = World::start(|config| {
        dial(&callee)(config);
        config.agent.sts_url = None;
        config.agent.asr_url = Some(services.asr.clone());
        config.agent.llm_url = Some(services.llm.clone());
        config.agent.tts_url = Some(services.tts.clone());
        config.agent.greeting = Some("Welcome.".to_owned());
    })
    .await;
    let call = Call::dial(world.lab.sip(), "5011", Codec::Ulaw).await.expect("answered");
    heard("the greeting", &call.rtp, &greeting, &world.lab).await;
    let uuid: Uuid = world.hark.events.wait_for(1).await[0].json()["uuid"].as_str().expect("one").parse().expect("one");
    let order = attend(&world, uuid, json!({"to": "answer", "announce": SUMMARY, "accept": "1", "music": false}));
    let side = async {
        let phone = answered(&mut callee).await;
        heard("the summary", &phone.rtp, &summary, &world.lab).await;
        assert!(find(&call.rtp.audio(), &summary[..SECOND]).is_none(), "the caller hears what is not for them");
        phone.rtp.dtmf("1");
        phone
    };
    let ((status, body), mut phone) = tokio::join!(order, side);
    assert_eq!(status, 200, "{body}\n{}", world.lab.log());
    assert_eq!(reason(&world.hark, uuid).await, "transferred");
    talk(&call, &phone, &world.lab).await;
    // the key was not the caller's
    let story = world.hark.story(uuid).await;
    assert!(!story.contains(&"dtmf_digit".to_owned()), "{story:?}");
    call.hang_up().await;
    assert_eq!(timeout(PATIENCE, phone.requests.recv()).await.expect("in time").expect("one").method(), "BYE");
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_refuses_or_is_not_there_leaves_the_caller_with_the_agent() {
    let mut callee = Callee::start().await;
    let world = World::start(dial(&callee)).await;
    let (call, session, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    for (number, (to, timeout_s, code)) in
        [("486", 30, "call.attended.busy"), ("ring", 1, "call.attended.no_answer"), ("404", 30, "call.attended.failed")]
            .into_iter()
            .enumerate()
    {
        let (status, body) = attend(&world, uuid, json!({"to": to, "timeout_s": timeout_s})).await;
        assert_eq!((status, &body["code"]), (502, &json!(code)), "{body}\n{}", world.lab.log());
        let sentence = Codec::Ulaw.heard(&noise(SECOND, 40 + number as u32));
        session.step(Step::Speak(sentence.clone(), 320));
        heard_by_phone(&call, &sentence).await;
    }
    // another key than the one, none at all, and one who hangs up
    for (keys, hangs_up) in [("2", false), ("", false), ("", true)] {
        let order = attend(&world, uuid, json!({"to": "answer", "accept": "1", "accept_s": 1, "music": false}));
        let side = async {
            let mut phone = answered(&mut callee).await;
            if !keys.is_empty() {
                phone.rtp.dtmf(keys);
            }
            if hangs_up {
                phone.hang_up().await;
            } else {
                let ended = timeout(PATIENCE, phone.requests.recv()).await.expect("in time").expect("one");
                assert_eq!(ended.method(), "BYE");
            }
        };
        let ((status, body), ()) = tokio::join!(order, side);
        assert_eq!((status, &body["code"]), (502, &json!("call.attended.declined")), "{body}\n{}", world.lab.log());
    }
    let words = noise(SECOND, 44);
    call.rtp.play(&words);
    let words = Codec::Ulaw.heard(&words);
    session.until(|record| find(&record.audio, &words).is_some()).await;
    // who leaves meanwhile has hung up
    let order = attend(&world, uuid, json!({"to": "ring"}));
    let leaves = async {
        world.lab.channels(3).await;
        call.hang_up().await;
    };
    let ((status, body), ()) = tokio::join!(order, leaves);
    assert_eq!((status, &body["code"]), (404, &json!("call.ended")), "{body}");
    assert_eq!(reason(&world.hark, uuid).await, "caller.hangup");
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_something_takes_the_caller_and_who_says_nothing_or_talks_on_does_not() {
    let mut callee = Callee::start().await;
    let world = World::start(dial(&callee)).await;
    let (call, session, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    // hello
    let word = crate::conversation::recording()[4_800..11_200].to_vec();
    // silence, then somebody who goes on talking like a machine
    for (said, accept_s) in [(vec![], 2), (crate::outbound::machine(), 5)] {
        let order = attend(
            &world,
            uuid,
            json!({"to": "answer", "accept": "1", "accept_voice": true, "accept_s": accept_s, "music": false}),
        );
        let side = async {
            let mut phone = answered(&mut callee).await;
            phone.rtp.play(&said);
            let ended = timeout(PATIENCE, phone.requests.recv()).await.expect("in time").expect("one");
            assert_eq!(ended.method(), "BYE");
        };
        let ((status, body), ()) = tokio::join!(order, side);
        assert_eq!((status, &body["code"]), (502, &json!("call.attended.declined")), "{body}\n{}", world.lab.log());
    }
    let sentence = Codec::Ulaw.heard(&noise(SECOND, 45));
    session.step(Step::Speak(sentence.clone(), 320));
    heard_by_phone(&call, &sentence).await;
    // one short word
    let order = attend(&world, uuid, json!({"to": "answer", "accept_voice": true, "accept_s": 15, "music": false}));
    let side = async {
        let phone = answered(&mut callee).await;
        phone.rtp.play(&vec![0; SECOND / 2]);
        phone.rtp.played().await;
        phone.rtp.play(&word);
        phone
    };
    let ((status, body), phone) = tokio::join!(order, side);
    assert_eq!(status, 200, "{body}\n{}", world.lab.log());
    assert_eq!(reason(&world.hark, uuid).await, "transferred");
    talk(&call, &phone, &world.lab).await;
    call.hang_up().await;
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_whoever_answers_takes_the_caller_and_both_need_no_gateway() {
    taken(Media::AudioSocket).await;
}

/// Nobody tells of the end of such a leg but the leg.
#[tokio::test(flavor = "multi_thread")]
async fn by_rtp_whoever_answers_takes_the_caller_and_both_need_no_gateway() {
    taken(Media::Rtp).await;
}

async fn taken(media: Media) {
    let mut callee = Callee::start().await;
    let world = World::start(|config| {
        dial(&callee)(config);
        config.ari.media = media;
    })
    .await;
    let (call, _, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    let (status, body) = attend(&world, uuid, json!({"to": "nobody", "via": "nowhere"})).await;
    assert_eq!((status, &body["code"]), (409, &json!("outbound.via")), "{body}");
    let ((status, body), phone) = tokio::join!(attend(&world, uuid, json!({"to": "answer"})), answered(&mut callee));
    assert_eq!(status, 200, "{body}\n{}", world.lab.log());
    talk(&call, &phone, &world.lab).await;
    // the gateway goes, they stay
    world.hark.stop().await;
    talk(&call, &phone, &world.lab).await;
    phone.hang_up().await;
    world.lab.stop().await;
}
