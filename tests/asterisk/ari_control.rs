//! What can be done with the caller of a live call, on a real Asterisk.

use std::time::Duration;

use hark::asterisk::ari::{ControlError, Order, Target};
use uuid::Uuid;

use crate::ari::World;
use crate::calls::{SECOND, connect, operator_answers};
use crate::support::find;
use crate::support::g711::Codec;
use crate::support::noise;

async fn order(world: &World, uuid: Uuid, order: Order) {
    let said = format!("{order:?}");
    if let Err(error) = world.hark.control.order(uuid, order).await {
        panic!("{said}: {error}\n{}", world.lab.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_carries_its_cause_to_the_phone() {
    let world = World::start(|_| {}).await;
    let (mut call, session, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    order(&world, uuid, Order::Hangup(Some(17))).await;
    let reason = call.hung_up(Duration::from_secs(5)).await;
    assert!(reason.as_deref().is_some_and(|reason| reason.contains("cause=17")), "{reason:?}");
    session.until(|record| record.ended.is_some()).await;
    world.empty().await;
    let error = world.hark.control.order(uuid, Order::Hangup(None)).await.expect_err("it is over");
    assert_eq!(error, ControlError::NoCall(uuid));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_gives_the_caller_to_the_dialplan() {
    let world = World::start(|_| {}).await;
    let (call, session, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    let operator =
        Target { context: Some("operator".to_owned()), exten: Some("s".to_owned()), priority: Some("1".to_owned()) };
    order(&world, uuid, Order::Continue(operator)).await;
    operator_answers(&world.lab, &call).await;
    session.until(|record| record.ended.is_some()).await;
    // bridge and media channel are gone while the caller talks to the operator
    world.lab.channels(1).await;
    call.hang_up().await;
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_keys_hold_music_and_silence() {
    let world = World::start(|_| {}).await;
    let (call, session, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    session.until(|record| !record.audio.is_empty()).await;
    order(&world, uuid, Order::SetVariable("REASON".to_owned(), "too hard, a \"question\"".to_owned())).await;
    let value = world.hark.control.variable(uuid, "REASON").await.expect("asked");
    assert_eq!(value.as_deref(), Some("too hard, a \"question\""));
    assert_eq!(world.hark.control.variable(uuid, "NOT_SET").await.expect("asked"), None);
    order(&world, uuid, Order::Dtmf("5".to_owned())).await;
    let digits = |rtp: &crate::support::rtp::Rtp| rtp.packets().iter().any(|packet| packet.payload_type == 101);
    assert!(call.rtp.wait(Duration::from_secs(5), digits).await, "no key came");
    for switch in [Order::Hold, Order::Moh, Order::Ringback] {
        order(&world, uuid, switch(true)).await;
        order(&world, uuid, switch(false)).await;
    }
    order(&world, uuid, Order::Mute(true)).await;
    call.rtp.play(&noise(SECOND / 2, 41));
    call.rtp.played().await;
    order(&world, uuid, Order::Mute(false)).await;
    let words = noise(SECOND, 42);
    call.rtp.play(&words);
    let heard = Codec::Ulaw.heard(&words);
    let audio = session.until(|record| find(&record.audio, &heard).is_some()).await.audio;
    let muted = Codec::Ulaw.heard(&noise(SECOND / 2, 41));
    assert!(find(&audio, &muted[SECOND / 8..SECOND / 4]).is_none(), "what was muted was heard");
    call.hang_up().await;
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_sends_the_phone_elsewhere() {
    let world = World::start(|_| {}).await;
    let (call, _, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    order(&world, uuid, Order::Redirect("PJSIP/phone/sip:999@127.0.0.1:9".to_owned())).await;
    let to = call.referred().await;
    assert!(to.contains("sip:999@127.0.0.1:9"), "{to}");
    call.hang_up().await;
    world.empty().await;
    // killed: asked to stop, this Asterisk would wait for the NOTIFY of a phone that sends none
    world.hark.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asterisk_plays_and_records() {
    let world = World::start(|_| {}).await;
    let (call, session, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    session.until(|record| !record.audio.is_empty()).await;
    order(&world, uuid, Order::Play("tone:1004/1000".to_owned(), "a-tone".to_owned())).await;
    let tone =
        |rtp: &crate::support::rtp::Rtp| rtp.audio().iter().filter(|s| s.unsigned_abs() > 2_000).count() > SECOND / 4;
    assert!(call.rtp.wait(Duration::from_secs(5), tone).await, "no tone");
    order(&world, uuid, Order::StopPlayback("a-tone".to_owned())).await;
    order(&world, uuid, Order::Record("the-call".to_owned(), "wav".to_owned())).await;
    let before = session.record().audio.len();
    call.rtp.play(&noise(SECOND, 61));
    call.rtp.played().await;
    // a recorder is in the bridge, and the agent still hears the caller
    session.until(|record| record.audio[before..].iter().filter(|s| s.unsigned_abs() > 100).count() > SECOND / 2).await;
    order(&world, uuid, Order::StopRecording("the-call".to_owned())).await;
    call.hang_up().await;
    world.empty().await;
    let recording =
        hound::WavReader::open(world.lab.dir().join("spool/recording/the-call.wav")).expect("the recording");
    let loud = recording.into_samples::<i16>().filter(|s| s.as_ref().is_ok_and(|s| s.unsigned_abs() > 500)).count();
    assert!(loud > SECOND / 2, "only {loud} loud samples");
    world.stop().await;
}

/// Calls that no Stasis application has: what is found of them, and what Asterisk lets be done.
#[tokio::test(flavor = "multi_thread")]
async fn callers_of_plain_audiosocket_calls_are_found() {
    let world = World::start(|_| {}).await;
    for extension in ["5001", "5002", "app", "dial_slin"] {
        let (mut call, session, uuid) = connect(&world.lab, &world.service, extension, Codec::Ulaw).await;
        session.until(|record| !record.audio.is_empty()).await;
        let control = &world.hark.control;
        let (channel, in_stasis) = control.caller(uuid).await.expect("found");
        assert!(!in_stasis);
        let name = control.variable(uuid, "CHANNEL(name)").await.expect("asked");
        assert!(
            name.as_deref().is_some_and(|name| name.starts_with("PJSIP/phone-")),
            "{extension}: {channel} is {name:?}"
        );
        for refused in [
            Order::SetVariable("A".to_owned(), "b".to_owned()),
            Order::Continue(Target::default()),
            Order::Hold(true),
            Order::Dtmf("1".to_owned()),
            Order::Play("sound:beep".to_owned(), "a-beep".to_owned()),
            Order::Redirect("PJSIP/sip:1@127.0.0.1".to_owned()),
        ] {
            assert_eq!(control.order(uuid, refused).await, Err(ControlError::NotInStasis(uuid)));
        }
        order(&world, uuid, Order::Hangup(Some(17))).await;
        let reason = call.hung_up(Duration::from_secs(5)).await;
        assert!(reason.as_deref().is_some_and(|reason| reason.contains("cause=17")), "{extension}: {reason:?}");
        world.empty().await;
    }
    world.stop().await;
}
