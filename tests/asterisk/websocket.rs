//! Calls over chan_websocket: phone → `Dial(WebSocket/hark/…)` → Hark ↔ speech-to-speech service.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hark::asterisk::websocket;
use hark::audio::{Frame, Rate};
use hark::call::{Leg as _, LegCommand, LegEvent, Link, Sent};
use hark::config::Config;

use crate::calls::{SECOND, assert_tone, connect, heard_by_phone, loud as loud_tone, operator_answers, tone};
use crate::support::g711::Codec;
use crate::support::hark::{Hark, SECRET};
use crate::support::lab::{Gateway, Lab, free_port};
use crate::support::phone::Call;
use crate::support::receiver::Receiver;
use crate::support::sts_server::{Mode, Step, StsServer};
use crate::support::{find, noise};

const CLIENT: &str = include_str!("../../asterisk-conf/websocket/websocket_client.conf");
const PLAN: &str = include_str!("../../asterisk-conf/websocket/extensions-hark-websocket.conf");

/// Phone, Asterisk, gateway and service, connected by WebSocket.
struct World {
    service: StsServer,
    hark: Hark,
    lab: Lab,
}

impl World {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let service = StsServer::start(Mode::Script(Vec::new())).await;
        let hark = Hark::with(Receiver::strict(SECRET).await, |config| {
            config.agent.sts_url = Some(service.url().to_string());
            config.websocket.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
            config.websocket.username = Some("hark".to_owned());
            "change-me".clone_into(&mut config.websocket.password);
            change(config);
        })
        .await;
        let listener = hark.websocket.expect("it listens");
        let lab = Lab::edited(hark.gateway, |etc| configure(etc, listener)).await;
        Self { service, hark, lab }
    }

    async fn stop(self) {
        self.lab.stop().await;
        self.hark.stop().await;
    }
}

/// The users' files, edited as a user would.
fn configure(etc: &Path, listener: SocketAddr) {
    let append = |name: &str, more: &str| {
        let text = std::fs::read_to_string(etc.join(name)).expect("written before");
        std::fs::write(etc.join(name), text + more).expect("write");
    };
    assert_eq!(CLIENT.matches("127.0.0.1:5002").count(), 1);
    let client = CLIENT.replace("127.0.0.1:5002", &listener.to_string());
    std::fs::write(etc.join("websocket_client.conf"), client).expect("write");
    std::fs::write(etc.join("extensions-hark-websocket.conf"), PLAN).expect("write");
    append("modules.conf", include_str!("etc/modules-websocket.conf"));
    append("extensions.conf", include_str!("etc/extensions-websocket.conf"));
    let plan = std::fs::read_to_string(etc.join("extensions.conf")).expect("written before");
    let more = "include => bench\ninclude => bench-websocket\ninclude => hark-websocket\n";
    std::fs::write(etc.join("extensions.conf"), plan.replace("include => bench\n", more)).expect("write");
}

/// Words both ways sample by sample, digits, hang-up by the caller.
async fn exact(extensions: &[&str]) {
    let world = World::start(|_| {}).await;
    for extension in extensions {
        let (call, session, uuid) = connect(&world.lab, &world.service, extension, Codec::Ulaw).await;
        let said = noise(SECOND, 11);
        let heard = Codec::Ulaw.heard(&said);
        call.rtp.play(&said);
        session.until(|record| find(&record.audio, &heard).is_some()).await;
        let answer = Codec::Ulaw.heard(&noise(2 * SECOND, 12));
        // all at once, in pieces that fit nothing
        session.step(Step::Speak(answer.clone(), 1_001));
        heard_by_phone(&call, &answer).await;
        call.rtp.dtmf("1#");
        let record = session.until(|record| record.digits == "1#").await;
        assert!(record.faults.is_empty(), "{:?}", record.faults);
        call.hang_up().await;
        session.until(|record| record.ended.is_some()).await;
        let story = world.hark.story(uuid).await;
        let story: Vec<_> = story.iter().filter(|event| !event.starts_with("call_initiated")).collect();
        assert_eq!(
            story,
            ["call_started", r#"dtmf_digit:{"digit":"1"}"#, r##"dtmf_digit:{"digit":"#"}"##, "call_ended"],
            "{extension}"
        );
        world.lab.idle().await;
    }
    let log = world.lab.log();
    assert!(!log.contains("command unknown") && !log.contains("Unable to parse"), "{log}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_are_exact_and_tell_of_the_call() {
    exact(&["5021", "ws_slin", "wj_ulaw"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_dial_string_says_is_metadata() {
    let world = World::start(|_| {}).await;
    let (call, session, uuid) = connect(&world.lab, &world.service, "5021", Codec::Ulaw).await;
    let target = session.record().target;
    assert!(target.contains("from=2000") && target.contains("to=5021"), "{target}");
    call.hang_up().await;
    let story = world.hark.story(uuid).await;
    assert!(story[0].starts_with("call_initiated:") && story[0].contains(r#""to":"5021""#), "{story:?}");
    assert_eq!(story[1..], ["call_started", "call_ended"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_ends_the_call_and_the_dialplan_goes_on() {
    let world = World::start(|_| {}).await;
    let (call, session, uuid) = connect(&world.lab, &world.service, "5021", Codec::Ulaw).await;
    let words = Codec::Ulaw.heard(&noise(SECOND, 5));
    session.step(Step::Speak(words.clone(), 320));
    session.step(Step::Close(Some((1_000, "bye"))));
    // what was said last is heard to its end
    heard_by_phone(&call, &words).await;
    operator_answers(&world.lab, &call).await;
    assert_eq!(world.hark.story(uuid).await[1..], ["call_started", "call_ended"]);
    call.hang_up().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_calls_at_once_do_not_mix() {
    let world = World::start(|_| {}).await;
    let mut calls = Vec::new();
    for number in 0..5 {
        let (call, session, _) = connect(&world.lab, &world.service, "5021", Codec::Ulaw).await;
        let words = Codec::Ulaw.heard(&noise(SECOND, 40 + number));
        calls.push((call, session, words));
    }
    for (_, session, words) in &calls {
        session.step(Step::Speak(words.clone(), 320));
    }
    for (call, _, words) in calls {
        heard_by_phone(&call, &words).await;
        call.hang_up().await;
    }
    world.lab.idle().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_hark_and_with_a_wrong_password_the_fallback_takes_the_call() {
    let world = World::start(|config| "other".clone_into(&mut config.websocket.password)).await;
    let call = Call::dial(world.lab.sip(), "ws_slin", Codec::Ulaw).await.expect("the operator answers");
    operator_answers(&world.lab, &call).await;
    let line = world.lab.logged("BENCH websocket went on").await;
    assert!(line.contains("DIALSTATUS=CHANUNAVAIL"), "{line}");
    call.hang_up().await;
    let World { hark, lab, .. } = world;
    hark.stop().await;
    let call = Call::dial(lab.sip(), "5021", Codec::Ulaw).await.expect("the operator answers");
    assert!(call.rtp.wait(Duration::from_secs(5), |rtp| rtp.audio().len() > SECOND / 5).await);
    call.hang_up().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_gateway_does_not_answer() {
    let world = World::start(|config| config.limits.max_calls = 1).await;
    let (first, _, _) = connect(&world.lab, &world.service, "5021", Codec::Ulaw).await;
    let second = Call::dial(world.lab.sip(), "ws_slin", Codec::Ulaw).await.expect("the operator answers");
    operator_answers(&world.lab, &second).await;
    assert!(world.lab.logged("BENCH websocket went on").await.contains("DIALSTATUS=CHANUNAVAIL"));
    first.hang_up().await;
    second.hang_up().await;
    world.stop().await;
}

/// The lead is thrown away in Asterisk: the caller hears nothing after the interruption but the next words.
#[tokio::test(flavor = "multi_thread")]
async fn an_interruption_silences_the_agent_at_once_and_the_next_words_are_whole() {
    let world = World::start(|config| config.websocket.lead_ms = 500).await;
    for extension in ["ws_slin", "wj_slin"] {
        let (call, session, uuid) = connect(&world.lab, &world.service, extension, Codec::Ulaw).await;
        let long = Codec::Ulaw.heard(&noise(20 * SECOND, 21));
        session.step(Step::Speak(long.clone(), 320));
        assert!(call.rtp.wait(Duration::from_secs(10), |rtp| loud(&rtp.audio()) > SECOND).await);
        session.step(Step::Interruption);
        world.hark.events(uuid, |events| events.iter().any(|event| event["type"] == "interruption")).await;
        let before = loud(&call.rtp.audio());
        let next = Codec::Ulaw.heard(&noise(SECOND, 22));
        session.step(Step::Speak(next.clone(), 320));
        heard_by_phone(&call, &next).await;
        let audio = call.rtp.audio();
        // the event took its time, the audio did not wait for it
        let after = (loud(&audio) - loud(&next)).saturating_sub(before);
        assert!(after < SECOND / 5, "{after} samples of the interrupted words came after the interruption");
        // what was played of it is its beginning, without a gap (the last frame fades)
        assert!(find(&audio, &long[..SECOND]).is_some(), "the beginning, whole");
        call.hang_up().await;
        assert_eq!(world.hark.story(uuid).await, ["call_started", "interruption", "call_ended"]);
        world.lab.idle().await;
    }
    world.stop().await;
}

fn loud(samples: &[i16]) -> usize {
    samples.iter().filter(|sample| sample.unsigned_abs() > 100).count()
}

/// Every kind of codec on the wire: a tone arrives as that tone, in both directions.
#[tokio::test(flavor = "multi_thread")]
async fn every_codec_carries_sound_both_ways() {
    let world = World::start(|_| {}).await;
    for extension in ["5022", "ws_alaw", "wj_g722", "ws_slin48", "wj_opus"] {
        let (call, session, uuid) = connect(&world.lab, &world.service, extension, Codec::Ulaw).await;
        call.rtp.play(&tone(1_013.0, 8_000.0, SECOND));
        call.rtp.played().await;
        let record = session.until(|record| loud_tone(&record.audio) > SECOND * 9 / 10).await;
        assert_tone(&record.audio, 1_013.0, 8_000.0);
        session.step(Step::Speak(tone(719.0, 8_000.0, SECOND), 320));
        let heard = |rtp: &crate::support::rtp::Rtp| loud_tone(&rtp.audio()) > SECOND * 9 / 10;
        assert!(call.rtp.wait(Duration::from_secs(5), heard).await, "{extension}");
        assert_tone(&call.rtp.audio(), 719.0, 8_000.0);
        call.hang_up().await;
        assert_eq!(world.hark.story(uuid).await.last().map(String::as_str), Some("call_ended"), "{extension}");
        world.lab.idle().await;
    }
    world.stop().await;
}

/// What a mark means: the frame behind it has gone to the phone, and no other; after a flush nothing more does.
#[tokio::test(flavor = "multi_thread")]
async fn marks_tell_to_the_frame_what_the_phone_heard() {
    let settings = websocket::Config { lead_ms: 500, ..websocket::Config::default() };
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = websocket::Listener::bind(anywhere, Arc::new(settings), Arc::default()).await.expect("it listens");
    let address = listener.local_addr().expect("a bound socket");
    let lab = Lab::edited(Gateway { audiosocket: free_port(), http: None }, |etc| configure(etc, address)).await;
    for extension in ["ws_slin", "wj_slin"] {
        let taken = async { listener.accept().await.identify().await.expect("a call").into_leg().await };
        let (call, mut leg) = tokio::join!(Call::dial(lab.sip(), extension, Codec::Ulaw), taken);
        let call = call.expect("answered");
        let said = Codec::Ulaw.heard(&noise(50 * 160, 7));
        for (number, frame) in said.chunks(160).enumerate() {
            let mut frame = Frame::padded(Rate::R8K, frame);
            loop {
                let _ = leg.send(LegCommand::Mark(number as u32 + 1));
                match leg.send(LegCommand::Audio(frame)) {
                    Sent::Refused(LegCommand::Audio(again)) => frame = again,
                    _ => break,
                }
                leg.next().await.expect("the call lasts");
            }
        }
        let mut marked = 0;
        loop {
            match leg.next().await.expect("the call lasts") {
                LegEvent::Marked(20) => {
                    marked = 20;
                    let _ = leg.send(LegCommand::Flush(1));
                }
                LegEvent::Marked(mark) => marked = mark,
                LegEvent::Flushed(1) => break,
                LegEvent::Hangup(cause) => panic!("{cause:?}"),
                _ => {}
            }
        }
        let tail = Codec::Ulaw.heard(&noise(5 * 160, 8));
        for frame in tail.chunks(160) {
            let _ = leg.send(LegCommand::Audio(Frame::padded(Rate::R8K, frame)));
        }
        let listening = async { while !matches!(leg.next().await, Some(LegEvent::Hangup(_)) | None) {} };
        let heard = async {
            heard_by_phone(&call, &tail).await;
            let audio = call.rtp.audio();
            (1..=50).take_while(|frames| find(&audio, &said[..frames * 160]).is_some()).count()
        };
        let heard = tokio::select! {
            heard = heard => heard,
            () = listening => panic!("the call ended"),
        };
        assert_eq!(heard, marked as usize, "{extension}");
        tokio::join!(call.hang_up(), leg.close());
        lab.idle().await;
    }
    lab.stop().await;
}
