//! What goes wrong with recognition: none of it ends a call that another connection can save, and none shows the key.

use hark::{
    agent::service::Kind,
    audio::Rate,
    call::{AgentInput, Fault, Role},
};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::Message;

use super::{
    Fake, KEY, config, service,
    stt_vendors::{ALL, ASSEMBLYAI, FLUX, NOVA, SCRIBE, VOSK, Vendor},
};
use crate::support::cascade::{Bench, speech};

/// A cascade with a vendor's ears.
async fn listening(vendor: &Vendor) -> (Bench, Fake) {
    let fake = Fake::start().await;
    let mut bench = Bench::start(config(), None).await;
    let asr = service(&vendor.at(&fake.address), Kind::Stt);
    bench.restart(Rate::R8K, config(), None, |services| services.asr = asr.into());
    (bench, fake)
}

fn without_key(fault: &Fault) {
    assert!(!format!("{fault:?}").contains(KEY), "{fault:?}");
}

/// The caller says `frames` that can be told apart.
fn say(bench: &mut Bench, frames: usize) {
    for frame in speech(160 * frames, 9).0.chunks(160) {
        bench.audio(frame);
    }
}

/// Words come through `peer` and are understood.
async fn understood(vendor: &Vendor, bench: &mut Bench, peer: &mut super::Peer, at: u64) {
    vendor.tell(peer, (vendor.last)("still here", at)).await;
    assert_eq!(bench.transcript().await, (Role::User, "still here".to_owned()), "{}", vendor.service);
}

#[tokio::test]
async fn a_refused_key_or_account_is_for_good_and_told_in_the_vendors_words() {
    for (status, code) in [
        ("401 Unauthorized", "agent.stt.unauthorized"),
        ("402 Payment Required", "agent.stt.quota"),
        ("403 Forbidden", "agent.stt.unauthorized"),
        ("400 Bad Request", "agent.stt.failed"),
    ] {
        let (mut bench, fake) = listening(&NOVA).await;
        fake.refuse(status, &json!({"err_code": "X", "err_msg": format!("no luck with {KEY}")}).to_string()).await;
        let fault = bench.failed().await;
        assert_eq!(fault.code, code);
        assert!(fault.message.contains("no luck with ***") && fault.message.contains(&status[..3]), "{fault:?}");
        without_key(&fault);
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_nothing_is_lost() {
    for vendor in &ALL {
        for status in ["429 Too Many Requests\r\nRetry-After: 0", "500 Oh", "503 Busy"] {
            let (mut bench, fake) = listening(vendor).await;
            fake.refuse(status, &json!({"error": KEY}).to_string()).await;
            say(&mut bench, 15);
            let degraded = bench.degraded().await;
            without_key(&degraded);
            let mut peer = fake.accept().await;
            vendor.begin(&mut peer).await;
            let heard = peer.audio(vendor.frame * 12).await;
            if vendor.frame == 320 {
                assert!(heard.starts_with(&speech(160 * 10, 9).1), "{}: audio was lost", vendor.service);
            }
            understood(vendor, &mut bench, &mut peer, 0).await;
        }
    }
}

#[tokio::test]
async fn a_vendor_that_wants_to_be_left_alone_for_long_is_not_waited_for() {
    let (mut bench, fake) = listening(&NOVA).await;
    fake.refuse("429 Too Many Requests\r\nRetry-After: 3600", "{}").await;
    let fault = bench.failed().await;
    assert_eq!(fault.code, "agent.stt.quota");
    assert!(fault.message.contains("3600 s"), "{fault:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_is_replaced_and_the_audio_is_sent_again() {
    for vendor in &ALL {
        for end in ["reset", "1011", "1012", "garbage", "error"] {
            let (mut bench, fake) = listening(vendor).await;
            let mut peer = fake.accept().await;
            vendor.begin(&mut peer).await;
            say(&mut bench, 15);
            let heard = peer.audio(vendor.frame * 12).await;
            vendor.tell(&mut peer, (vendor.partial)("stil")).await;
            match end {
                "reset" => peer.reset(),
                "garbage" => peer.garbage().await,
                "error" => match (vendor.error)(false) {
                    Some(error) => {
                        peer.say(&error).await;
                    }
                    None => continue,
                },
                code => peer.close(code.parse().unwrap(), &format!("NET-0001 {KEY}")).await,
            }
            let mut second = fake.accept().await;
            vendor.begin(&mut second).await;
            let again = second.audio(vendor.frame * 8).await;
            assert!(heard.starts_with(&again[..vendor.frame * 8]), "{} {end}: audio was lost", vendor.service);
            understood(vendor, &mut bench, &mut second, 0).await;
        }
    }
}

#[tokio::test]
async fn an_error_that_is_for_good_ends_it_without_the_key() {
    for vendor in &ALL {
        let Some(error) = (vendor.error)(true) else { continue };
        let (mut bench, fake) = listening(vendor).await;
        let mut peer = fake.accept().await;
        vendor.begin(&mut peer).await;
        peer.say(&error).await;
        let fault = bench.failed().await;
        assert_eq!(fault.code, "agent.stt.refused", "{}", vendor.service);
        assert!(fault.message.contains('"'), "{fault:?}");
        without_key(&fault);
    }
    let (mut bench, fake) = listening(&NOVA).await;
    let mut peer = fake.accept().await;
    NOVA.begin(&mut peer).await;
    peer.close(1008, &format!("DATA-0000 {KEY}")).await;
    let fault = bench.failed().await;
    assert!(fault.message.contains("1008: \"DATA-0000 ***\""), "{fault:?}");
}

#[tokio::test]
async fn long_and_strange_messages_do_no_harm() {
    for vendor in &ALL {
        let (mut bench, fake) = listening(vendor).await;
        let mut peer = fake.accept().await;
        vendor.begin(&mut peer).await;
        peer.send(Message::text("x".repeat(1 << 20))).await;
        peer.send(Message::binary(vec![1; 1 << 20])).await;
        peer.say(&json!({"type": "Novelty", "padding": "y".repeat(1 << 20)})).await;
        for strange in [
            json!([]),
            json!(null),
            json!({"type": 7}),
            json!({"channel": "none", "type": "Results", "is_final": true}),
        ] {
            peer.say(&strange).await;
        }
        say(&mut bench, 1);
        understood(vendor, &mut bench, &mut peer, 0).await;
    }
}

#[tokio::test]
async fn the_end_of_speech_is_told_in_the_vendors_words() {
    for vendor in &ALL {
        let Some(finalize) = vendor.finalize else { continue };
        let (mut bench, fake) = listening(vendor).await;
        let mut peer = fake.accept().await;
        vendor.begin(&mut peer).await;
        say(&mut bench, 15);
        bench.send(AgentInput::CallerSpeech(true));
        bench.send(AgentInput::CallerSpeech(false));
        // byte by byte: one server compares so
        assert_eq!(peer.text().await, finalize);
        understood(vendor, &mut bench, &mut peer, 0).await;
    }
    let (mut bench, fake) = listening(&SCRIBE).await;
    let mut peer = fake.accept().await;
    SCRIBE.begin(&mut peer).await;
    say(&mut bench, 15);
    bench.send(AgentInput::CallerSpeech(false));
    let mut audio = 0;
    loop {
        let chunk = peer.json().await;
        audio += chunk["audio_base_64"].as_str().unwrap().len() / 4 * 3;
        if chunk["commit"] == true {
            break;
        }
    }
    assert!(audio >= 2_400, "{audio}");
}

#[tokio::test]
async fn a_final_that_comes_twice_is_one_turn_and_the_next_is_another() {
    for vendor in &ALL {
        let (mut bench, fake) = listening(vendor).await;
        let mut peer = fake.accept().await;
        vendor.begin(&mut peer).await;
        for (at, text) in ["one", "two"].into_iter().enumerate() {
            vendor.tell(&mut peer, (vendor.last)(text, at as u64)).await;
            assert_eq!(bench.transcript().await.1, text, "{}", vendor.service);
        }
    }
}

#[tokio::test]
async fn messages_are_as_long_as_the_vendor_wants_them() {
    for (vendor, least) in [(&ASSEMBLYAI, 400), (&FLUX, 640), (&VOSK, 1_600)] {
        let (mut bench, fake) = listening(vendor).await;
        let mut peer = fake.accept().await;
        vendor.begin(&mut peer).await;
        say(&mut bench, 11);
        bench.send(AgentInput::CallerSpeech(false));
        let Message::Binary(audio) = peer.message().await else { panic!("audio comes first") };
        assert!(audio.len() >= least, "{}: {}", vendor.service, audio.len());
    }
}

#[tokio::test]
async fn half_a_handshake_is_no_connection() {
    let (mut bench, fake) = listening(&NOVA).await;
    let mut stream = fake.raw().await;
    stream.write_all(b"HTTP/1.1 101 Switching").await.unwrap();
    drop(stream);
    let mut peer = fake.accept().await;
    NOVA.begin(&mut peer).await;
    understood(&NOVA, &mut bench, &mut peer, 0).await;
}

#[tokio::test]
async fn a_session_that_never_begins_is_given_up_for_another() {
    let fake = Fake::start().await;
    let mut bench = Bench::start(config(), None).await;
    let settings = hark::agent::Config { connect_timeout_ms: 200, ..config() };
    let asr = service(&ASSEMBLYAI.at(&fake.address), Kind::Stt);
    bench.restart(Rate::R8K, settings, None, |services| services.asr = asr.into());
    let silent = fake.accept().await;
    let fault = bench.degraded().await;
    assert!(fault.message.contains("did not begin within 200 ms"), "{fault:?}");
    drop(silent);
    let mut peer = fake.accept().await;
    ASSEMBLYAI.begin(&mut peer).await;
    understood(&ASSEMBLYAI, &mut bench, &mut peer, 0).await;
}
