//! What goes wrong with synthesis.

use std::time::Duration;

use futures_util::StreamExt as _;
use hark::{
    agent::service::Kind,
    audio::Rate,
    call::{AgentEvent, AgentInput, Fault, Role, Say},
};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::{
    Fake, KEY, config, service,
    tts_vendors::{ALL, AURA, CARTESIA, Vendor},
};
use crate::support::{
    cascade::{Bench, speech},
    connector::{Connector, soon},
};

/// A cascade with a vendor's voice that says `greeting`.
async fn speaking(vendor: &Vendor, greeting: Option<&str>) -> (Bench, Fake) {
    let fake = Fake::start().await;
    let mut bench = Bench::start(config(), None).await;
    let tts = service(&vendor.at(&fake.address), Kind::Tts);
    bench.restart(Rate::R8K, config(), greeting, |services| services.tts = tts.into());
    (bench, fake)
}

fn say(bench: &mut Bench, text: &str) {
    bench.send(AgentInput::Say(Say { text: text.to_owned(), protect: false }));
}

fn without_key(fault: &Fault) {
    assert!(!format!("{fault:?}").contains(KEY), "{fault:?}");
}

#[tokio::test]
async fn samples_arrive_as_they_are_and_words_with_their_times() {
    for vendor in &ALL {
        let (mut bench, fake) = speaking(vendor, Some("One two.")).await;
        let mut peer = fake.accept().await;
        vendor.begin(&mut peer).await;
        let (text, context) = vendor.sentence(&mut peer).await;
        assert_eq!(text, "One two.");
        let (samples, bytes) = speech(1_600, 3);
        vendor.speak(&mut peer, &context, &bytes).await;
        peer.say(&(vendor.end)(&context)).await;
        let (id, heard) = bench.utterance().await;
        assert!(heard == samples, "{}: {} samples", vendor.service, heard.len());
        // interrupted after 40 ms: a voice that tells times has said the first word
        bench.send(AgentInput::Interrupt { utterance: Some(id), heard: Duration::from_millis(40) });
        if vendor.words.is_some() {
            assert_eq!(bench.transcript().await, (Role::Agent, "One".to_owned()), "{}", vendor.service);
        }
    }
}

#[tokio::test]
async fn what_is_interrupted_is_cancelled_and_comes_too_late() {
    for vendor in &ALL {
        let (mut bench, fake) = speaking(vendor, Some("One two.")).await;
        let mut peer = fake.accept().await;
        vendor.begin(&mut peer).await;
        let (_, old) = vendor.sentence(&mut peer).await;
        peer.send((vendor.audio)(&old, &speech(1_600, 3).1)).await;
        let id = loop {
            if let Some(AgentEvent::Audio(id, _)) = bench.event().await {
                break id;
            }
        };
        bench.send(AgentInput::Interrupt { utterance: Some(id), heard: Duration::from_millis(40) });
        assert_eq!(peer.json().await, (vendor.cancel)(&old), "{}", vendor.service);
        say(&mut bench, "Three.");
        let (text, new) = vendor.sentence(&mut peer).await;
        assert_eq!(text, "Three.");
        // late audio, and only then what was asked for
        peer.send((vendor.audio)(&old, &[9; 640])).await;
        if let Some(cancelled) = vendor.cancelled {
            peer.say(&cancelled()).await;
        }
        let (samples, bytes) = speech(800, 5);
        vendor.speak(&mut peer, &new, &bytes).await;
        peer.say(&(vendor.end)(&new)).await;
        let heard = loop {
            let (next, heard) = bench.utterance().await;
            if next != id {
                break heard;
            }
        };
        assert!(heard == samples, "{}: {} samples", vendor.service, heard.len());
    }
}

#[tokio::test]
async fn a_refused_key_or_account_is_for_good() {
    for (status, code) in [
        ("401 Unauthorized", "agent.tts.unauthorized"),
        ("402 Payment Required", "agent.tts.quota"),
        ("403 Forbidden", "agent.tts.unauthorized"),
    ] {
        let fake = Fake::start().await;
        let mut bench = Bench::start(config(), None).await;
        let tts = service(&AURA.at(&fake.address), Kind::Tts);
        bench.restart(Rate::R8K, config(), Some("Hello."), |services| services.tts = tts.into());
        // in advance, and for the sentence
        let body = json!({"err_msg": format!("no luck with {KEY}")}).to_string();
        let fault = loop {
            tokio::select! {
                () = fake.refuse(status, &body) => {}
                fault = bench.failed() => break fault,
            }
        };
        assert_eq!(fault.code, code);
        assert!(fault.message.contains("no luck with ***"), "{fault:?}");
        without_key(&fault);
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    for vendor in &ALL {
        let (mut bench, fake) = speaking(vendor, None).await;
        fake.refuse("503 Busy", "{}").await;
        say(&mut bench, "One two.");
        fake.refuse("429 Too Many Requests\r\nRetry-After: 0", "{}").await;
        without_key(&bench.degraded().await);
        let mut peer = fake.accept().await;
        vendor.begin(&mut peer).await;
        let (_, context) = vendor.sentence(&mut peer).await;
        // before the first audio it may break: the sentence is asked for again
        peer.reset();
        let mut peer = fake.accept().await;
        vendor.begin(&mut peer).await;
        assert_eq!(vendor.sentence(&mut peer).await.1, context);
        vendor.speak(&mut peer, &context, &speech(800, 5).1).await;
        peer.say(&(vendor.end)(&context)).await;
        assert_eq!(bench.utterance().await.1.len(), 800, "{}", vendor.service);
    }
}

#[tokio::test]
async fn a_sentence_that_breaks_off_is_told_and_the_next_is_spoken() {
    for vendor in &ALL {
        for end in ["reset", "1011", "garbage", "error"] {
            let (mut bench, fake) = speaking(vendor, Some("One two.")).await;
            let mut peer = fake.accept().await;
            vendor.begin(&mut peer).await;
            let (_, context) = vendor.sentence(&mut peer).await;
            peer.send((vendor.audio)(&context, &speech(800, 5).1)).await;
            let first = bench.event().await;
            assert!(matches!(first, Some(AgentEvent::Audio(..))), "{first:?}");
            let mut same = None;
            match end {
                "reset" => peer.reset(),
                "garbage" => peer.garbage().await,
                "error" => match (vendor.error)(&context) {
                    Some(error) => {
                        peer.say(&error).await;
                        same = Some(peer);
                    }
                    None => continue,
                },
                code => peer.close(code.parse().unwrap(), &format!("NET-0001 {KEY}")).await,
            }
            let fault = bench.degraded().await;
            assert!(
                matches!(fault.code, "agent.tts.broken" | "agent.tts.failed"),
                "{} {end}: {fault:?}",
                vendor.service
            );
            without_key(&fault);
            say(&mut bench, "Three.");
            let mut peer = match same {
                Some(peer) => peer,
                None => {
                    let mut peer = fake.accept().await;
                    vendor.begin(&mut peer).await;
                    peer
                }
            };
            let (text, context) = vendor.sentence(&mut peer).await;
            assert_eq!(text, "Three.", "{} {end}", vendor.service);
            vendor.speak(&mut peer, &context, &speech(640, 5).1).await;
            peer.say(&(vendor.end)(&context)).await;
            assert_eq!(bench.utterance().await.1.len(), 640, "{} {end}", vendor.service);
        }
    }
}

#[tokio::test]
async fn silence_and_long_messages_do_no_harm() {
    let fake = Fake::start().await;
    let mut bench = Bench::start(config(), None).await;
    let settings = hark::agent::Config { tts_timeout_ms: 200, ..config() };
    let tts = service(&CARTESIA.at(&fake.address), Kind::Tts);
    bench.restart(Rate::R8K, settings, Some("One two."), |services| services.tts = tts.into());
    let mut peer = fake.accept().await;
    CARTESIA.begin(&mut peer).await;
    let (_, context) = CARTESIA.sentence(&mut peer).await;
    assert_eq!(bench.degraded().await.code, "agent.tts.timeout");
    assert_eq!(peer.json().await, (CARTESIA.cancel)(&context));
    say(&mut bench, "Three.");
    let (_, context) = CARTESIA.sentence(&mut peer).await;
    peer.send(Message::text("x".repeat(1 << 20))).await;
    // 32 s at once
    let (samples, bytes) = speech(8_000 * 32, 5);
    CARTESIA.speak(&mut peer, &context, &bytes).await;
    peer.say(&(CARTESIA.end)(&context)).await;
    let (_, heard) = bench.utterance().await;
    assert!(heard == samples, "{} samples", heard.len());
}

#[tokio::test]
async fn openais_speech_is_tried_again_or_told() {
    let mut voice = Connector::start("/v1").await;
    let mut bench = Bench::start(config(), None).await;
    let url = voice.url.clone();
    let tts = || service(&format!("openai:tts-1?base_url={url}"), Kind::Tts);
    let first = tts();
    bench.restart(Rate::R8K, config(), Some("Hello."), |services| services.tts = first.into());
    voice.request().await.status("429 Too Many Requests\r\nRetry-After: 0", "{\"error\":{\"message\":\"slow\"}}").await;
    let audio: Vec<u8> = speech(2_400, 1).1;
    voice.request().await.answer(&[&audio]).await;
    let (_, heard) = bench.utterance().await;
    assert!((770..=830).contains(&heard.len()), "{}", heard.len());

    let second = tts();
    bench.restart(Rate::R8K, config(), Some("Hello."), |services| services.tts = second.into());
    let words = format!("{{\"error\":{{\"message\":\"Incorrect API key provided: {KEY}\",\"type\":\"x\"}}}}");
    voice.request().await.status("401 Unauthorized", &words).await;
    let fault = bench.failed().await;
    assert_eq!(fault.code, "agent.tts.unauthorized");
    assert!(fault.message.contains("Incorrect API key provided: ***"), "{fault:?}");

    // an error in place of audio is not played
    let third = tts();
    bench.restart(Rate::R8K, config(), Some("Hello."), |services| services.tts = third.into());
    voice.request().await.status("200 OK", "{\"error\":\"no such voice\"}").await;
    let fault = bench.degraded().await;
    assert!(fault.message.contains("no such voice"), "{fault:?}");

    // in the middle of a word
    let fourth = tts();
    bench.restart(Rate::R8K, config(), Some("Hello."), |services| services.tts = fourth.into());
    let mut asked = voice.request().await;
    asked.ok().await;
    asked.chunk(&audio).await;
    soon("audio", bench.cascade.next()).await;
    asked.reset();
    assert_eq!(bench.degraded().await.code, "agent.tts.broken");
}

#[tokio::test]
async fn piper_answers_with_a_wav_of_its_own_rate() {
    let mut voice = Connector::start("").await;
    let mut bench = Bench::start(config(), None).await;
    let tts = service(&format!("piper:{}?voice=en_US-joe-medium&length_scale=1.1", voice.url), Kind::Tts);
    bench.restart(Rate::R8K, config(), Some("Hello."), |services| services.tts = tts.into());
    let mut asked = voice.request().await;
    assert!(asked.head.starts_with("POST /synthesize HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!(asked.json().await, json!({"text": "Hello.", "voice": "en_US-joe-medium", "length_scale": 1.1}));
    let mut wav = std::io::Cursor::new(Vec::new());
    hark::audio::wav::write(&mut wav, 22_050, &speech(22_050, 1).0).unwrap();
    let wav = wav.into_inner();
    asked.answer(&[&wav[..1_001], &wav[1_001..]]).await;
    let (_, heard) = bench.utterance().await;
    assert!((7_900..=8_100).contains(&heard.len()), "{}", heard.len());
}
