//! Calls through ARI whose audio goes by RTP: phone → `Stasis(hark)` → `externalMedia` → Hark.

use std::time::Duration;

use hark::asterisk::ari::{After, Media, MediaFormat};
use hark::config::Config;

use crate::ari::{World, get};
use crate::calls::{SECOND, assert_tone, connect, exact_both_ways, heard_by_phone, loud, operator_answers, tone};
use crate::support::g711::Codec;
use crate::support::lab::Lab;
use crate::support::noise;
use crate::support::phone::Call;
use crate::support::sts_server::Step;

async fn world(change: impl FnOnce(&mut Config)) -> World {
    World::start(|config| {
        config.ari.media = Media::Rtp;
        change(config);
    })
    .await
}

/// A number that the gateway counts.
async fn counted(world: &World, name: &str) -> u64 {
    let (_, metrics) = get(world.hark.gateway.http.expect("HTTP is on"), "/metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("hark_rtp_{name}_total ")));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().expect("a number")
}

/// Words both ways sample by sample, digits, hang-up by the caller, nothing left.
async fn exact(format: MediaFormat) {
    let world = world(|config| config.ari.format = format).await;
    let (call, session, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    exact_both_ways(&call, &session, Codec::Ulaw).await;
    for name in ["lost", "late", "duplicate", "foreign", "wrong_type", "malformed", "packets_refused", "concealed_ms"] {
        assert_eq!(counted(&world, name).await, 0, "{name}");
    }
    // where it only passes packets on Asterisk keeps the phone's numbers, so that keys leave a gap like lost packets
    call.rtp.dtmf("1#");
    let record = session.until(|record| record.digits == "1#").await;
    assert!(record.faults.is_empty(), "{:?}", record.faults);
    call.hang_up().await;
    let story = world.hark.story(uuid).await;
    let expected = ["call_started", r#"dtmf_digit:{"digit":"1"}"#, r##"dtmf_digit:{"digit":"#"}"##, "call_ended"];
    assert_eq!(story[1..], expected, "{story:?}");
    world.empty().await;
    assert!(counted(&world, "packets_in").await > 50 && counted(&world, "packets_out").await > 100);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ulaw_is_exact_both_ways_and_leaves_nothing_behind() {
    exact(MediaFormat::Ulaw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slin_is_exact_both_ways_and_leaves_nothing_behind() {
    exact(MediaFormat::Slin).await;
}

/// The tone that is said arrives as that tone, and the answer too.
#[tokio::test(flavor = "multi_thread")]
async fn wideband_carries_sound_both_ways() {
    for format in [MediaFormat::Slin16, MediaFormat::G722] {
        let world = world(|config| config.ari.format = format).await;
        let (call, session, uuid) = connect(&world.lab, &world.service, "5011", Codec::Slin16).await;
        call.rtp.play(&tone(1_013.0, 16_000.0, 16_000));
        call.rtp.played().await;
        let record = session.until(|record| loud(&record.audio) > 7_500).await;
        assert_tone(&record.audio, 1_013.0, 8_000.0);
        session.step(Step::Speak(tone(719.0, 8_000.0, SECOND), 320));
        let there = call.rtp.wait(Duration::from_secs(5), |rtp| loud(&rtp.audio()) > 15_000).await;
        let types: std::collections::BTreeSet<_> =
            call.rtp.packets().iter().map(|packet| packet.payload_type).collect();
        assert!(there, "{format:?}: {types:?} {}", world.lab.log());
        assert_tone(&call.rtp.audio(), 719.0, 16_000.0);
        call.hang_up().await;
        assert_eq!(world.hark.story(uuid).await[1..], ["call_started", "call_ended"]);
        world.empty().await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_agent_has_finished_the_dialplan_goes_on() {
    let world = world(|_| {}).await;
    // 5012 asks for slin16
    for extension in ["5011", "5012"] {
        let (call, session, uuid) = connect(&world.lab, &world.service, extension, Codec::Ulaw).await;
        let words = noise(SECOND / 2, 31);
        session.step(Step::Speak(words, 320));
        session.step(Step::Close(Some((1_000, "bye"))));
        operator_answers(&world.lab, &call).await;
        let story = world.hark.story(uuid).await;
        assert_eq!(story[1..], ["call_started", "call_ended"], "{story:?}");
        call.hang_up().await;
        world.empty().await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn or_hark_hangs_up_where_that_is_configured() {
    let world = world(|config| config.ari.after = After::Hangup).await;
    let (mut call, session, _) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    session.step(Step::Close(Some((1_000, "bye"))));
    let reason = call.hung_up(Duration::from_secs(5)).await;
    assert!(reason.is_some_and(|reason| reason.contains("cause=16")));
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_gateway_does_not_answer_and_gives_the_caller_back() {
    let world = world(|config| config.limits.max_calls = 1).await;
    let (first, ..) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    let second = Call::dial(world.lab.sip(), "5011", Codec::Ulaw).await.expect("the operator answers");
    operator_answers(&world.lab, &second).await;
    second.hang_up().await;
    // the first has kept what is its own
    world.lab.channels(2).await;
    first.hang_up().await;
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_calls_at_once_do_not_mix() {
    let world = world(|config| config.ari.format = MediaFormat::Ulaw).await;
    let mut calls = Vec::new();
    for number in 0..5 {
        let (call, session, _) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
        calls.push((call, session, Codec::Ulaw.heard(&noise(SECOND, 40 + number))));
    }
    for (_, session, words) in &calls {
        session.step(Step::Speak(words.clone(), 320));
    }
    for (call, _, words) in calls {
        heard_by_phone(&call, &words).await;
        call.hang_up().await;
    }
    world.empty().await;
    assert_eq!(counted(&world, "foreign").await, 0);
    world.stop().await;
}

/// Asterisk goes without a word to anybody, and the call with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_when_its_asterisk_is_gone() {
    let world = world(|config| config.rtp.idle_media_s = 1).await;
    let (call, _, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    let World { hark, lab, service, .. } = world;
    let lab: Lab = lab.restart().await;
    let story = hark.story(uuid).await;
    assert_eq!(story.last().map(String::as_str), Some("call_ended"), "{story:?}");
    drop((call, service));
    hark.stop().await;
    lab.stop().await;
}
