//! Every fault for every voice: alone it costs a sentence at most, and where another stands by not even that.

use std::any::Any;

use futures_util::future::join_all;
use hark::{
    agent::{Config, service::Kind},
    audio::Rate,
    call::{AgentEvent, AgentInput, Say},
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::Message;

use super::{
    Fake, KEY, config, service,
    tts_failover::Talk,
    tts_vendors::{ALL, AURA, Vendor},
};
use crate::support::{
    cascade::{Bench, speech},
    connector::Connector,
};

const SENTENCE: &str = "Your appointment is on Thursday at nine.";

/// All vendors at once: each has fakes of its own.
async fn each<F: Future<Output = ()>>(test: impl Fn(Vendor) -> F) {
    join_all(ALL.into_iter().map(test)).await;
}

fn is_aura(vendor: &Vendor) -> bool {
    vendor.path == AURA.path
}

/// Audio that is none.
fn no_base64(vendor: &Vendor, context: &str) -> Option<Value> {
    let Message::Text(text) = (vendor.audio)(context, &[0; 3]) else { return None };
    serde_json::from_str(&text.replace("AAAA", "*!no")).ok()
}

const TROUBLES: [(&str, &str); 19] = [
    ("401 Unauthorized", "agent.tts.unauthorized"),
    ("402 Payment Required", "agent.tts.quota"),
    ("403 Forbidden", "agent.tts.unauthorized"),
    ("404 Not Found", "agent.tts.failed"),
    ("429 Too Many Requests\r\nRetry-After: 7", "agent.tts.quota"),
    ("500 Oh", "agent.tts.failed"),
    ("503 Busy", "agent.tts.failed"),
    ("reset before the handshake", "agent.tts.refused"),
    ("half a handshake", "agent.tts.refused"),
    ("reset", "agent.tts.broken"),
    ("garbage", "agent.tts.broken"),
    ("silence", "agent.tts.timeout"),
    ("nothing", "agent.tts.silent"),
    ("an error", "agent.tts.failed"),
    ("no base64", "agent.tts.failed"),
    ("1008", "agent.tts.refused"),
    ("1011", "agent.tts.broken"),
    ("1012", "agent.tts.broken"),
    ("1013", "agent.tts.broken"),
];

/// Says the sentence and lets it happen; `None` where the vendor has no such. What is returned is to be kept.
async fn happens(talk: &mut Talk, vendor: &Vendor, trouble: &str) -> Option<Box<dyn Any>> {
    let kept: Box<dyn Any> = Box::new(());
    let handshake = trouble.contains("handshake");
    if handshake || trouble.contains(' ') && trouble.as_bytes()[0].is_ascii_digit() {
        // once in advance, and once for the sentence
        for at in 0..2 {
            match trouble {
                "half a handshake" => {
                    let mut stream = talk.first.raw().await;
                    stream.write_all(b"HTTP/1.1 101 Switching").await.unwrap();
                }
                "reset before the handshake" => {
                    let stream = talk.first.raw().await;
                    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
                }
                status => {
                    talk.first.refuse(status, &json!({"message": format!("no luck with {KEY}")}).to_string()).await
                }
            }
            if at == 0 {
                talk.say(SENTENCE);
            }
        }
        return Some(kept);
    }
    let wrong = match trouble {
        "an error" => Some((vendor.error)("c1")?),
        "no base64" => Some(no_base64(vendor, "c1")?),
        _ => None,
    };
    let mut peer = talk.first().await;
    talk.say(SENTENCE);
    let (text, context) = vendor.sentence(&mut peer).await;
    assert_eq!(text, SENTENCE);
    match (trouble, wrong) {
        (_, Some(wrong)) => {
            assert_eq!(context, "c1");
            peer.say(&wrong).await;
        }
        ("reset", _) => {
            peer.reset();
            return Some(kept);
        }
        ("garbage", _) => {
            peer.garbage().await;
            return Some(kept);
        }
        ("nothing", _) => peer.say(&(vendor.end)(&context)).await,
        ("silence", _) => {}
        (code, _) => peer.close(code.parse().unwrap(), &format!("why {KEY}")).await,
    }
    Some(Box::new(peer))
}

#[tokio::test]
async fn whatever_happens_to_any_of_them_the_next_one_says_the_sentence() {
    each(async |vendor| {
        for (trouble, code) in TROUBLES {
            let wait = if trouble == "silence" { 1_000 } else { config().failover_after_ms };
            let mut talk = Talk::with(vendor, Config { failover_after_ms: wait, ..config() }).await;
            let Some(held) = happens(&mut talk, &vendor, trouble).await else { continue };
            talk.second(SENTENCE, 1_600).await;
            let (samples, replaced) = talk.heard().await;
            let what = format!("{}, {trouble}", vendor.service);
            assert_eq!(samples, [2; 1_600], "{what}");
            let [replaced] = &replaced[..] else { panic!("{what}: {replaced:?}") };
            assert_eq!(replaced.fault.code, code, "{what}: {replaced:?}");
            assert!(!format!("{replaced:?}").contains(KEY), "{what}: {replaced:?}");
            drop(held);
        }
    })
    .await;
}

#[tokio::test]
async fn a_sentence_that_stops_in_the_middle_is_gone_on_with_by_the_next_one() {
    each(async |vendor| {
        for end in ["reset", "garbage", "1011", "an error", "no base64", "silence"] {
            let wait = if end == "silence" { 1_000 } else { config().failover_after_ms };
            let mut talk = Talk::with(vendor, Config { failover_after_ms: wait, ..config() }).await;
            let what = format!("{}, {end}", vendor.service);
            let mut peer = talk.first().await;
            talk.say(SENTENCE);
            let (_, context) = vendor.sentence(&mut peer).await;
            peer.send((vendor.audio)(&context, &[1, 0].repeat(4_000))).await;
            let mut samples = 0;
            while samples < 4_000 {
                if let Some(AgentEvent::Audio(_, more)) = talk.bench.event().await {
                    samples += more.len();
                }
            }
            let mut held = None;
            match end {
                "reset" => peer.reset(),
                "garbage" => peer.garbage().await,
                "1011" => peer.close(1011, KEY).await,
                "silence" => held = Some(peer),
                wrong => {
                    let message =
                        if wrong == "an error" { (vendor.error)(&context) } else { no_base64(&vendor, &context) };
                    let Some(message) = message else { continue };
                    peer.say(&message).await;
                    held = Some(peer);
                }
            }
            let mut request = talk.bench.tts.request().await;
            let rest = request.json().await["text"].as_str().unwrap().to_owned();
            assert!(SENTENCE.ends_with(&rest) && rest.len() < SENTENCE.len(), "{what}: {rest}");
            request.answer(&[&[2, 0].repeat(800)]).await;
            let (samples, replaced) = talk.heard().await;
            assert_eq!((samples, replaced.len()), (vec![2; 800], 1), "{what}");
            assert!(!format!("{replaced:?}").contains(KEY), "{what}: {replaced:?}");
            drop(held);
        }
    })
    .await;
}

/// A cascade whose only voice is a vendor's.
async fn alone(vendor: &Vendor, config: Config) -> (Bench, Fake) {
    let fake = Fake::start().await;
    let mut bench = Bench::start(config.clone(), None).await;
    let tts = service(&vendor.at(&fake.address), Kind::Tts);
    bench.restart(Rate::R8K, config, None, |services| services.tts = tts.into());
    (bench, fake)
}

fn say(bench: &mut Bench, text: &str) {
    bench.send(AgentInput::Say(Say { text: text.to_owned(), protect: false }));
}

#[tokio::test]
async fn a_refusal_is_for_good_and_trouble_is_tried_again() {
    each(async |vendor| {
        for (status, code) in [
            ("400 Bad Request", "agent.tts.failed"),
            ("401 Unauthorized", "agent.tts.unauthorized"),
            ("402 Payment Required", "agent.tts.quota"),
            ("403 Forbidden", "agent.tts.unauthorized"),
            ("404 Not Found", "agent.tts.failed"),
            ("429 Too Many Requests\r\nRetry-After: 3600", "agent.tts.quota"),
        ] {
            let (mut bench, fake) = alone(&vendor, config()).await;
            let body = json!({"detail": {"message": format!("no luck with {KEY}")}}).to_string();
            fake.refuse(status, &body).await;
            say(&mut bench, "Hello.");
            fake.refuse(status, &body).await;
            let fault = bench.failed().await;
            assert_eq!(fault.code, code, "{}: {fault:?}", vendor.service);
            assert!(fault.message.contains("no luck with ***") && fault.message.contains(&status[..3]), "{fault:?}");
        }
        for status in ["429 Too Many Requests\r\nRetry-After: 0", "500 Oh", "503 Busy"] {
            let (mut bench, fake) = alone(&vendor, config()).await;
            fake.refuse(status, "{}").await;
            say(&mut bench, "Hello.");
            fake.refuse(status, KEY).await;
            assert!(!format!("{:?}", bench.degraded().await).contains(KEY));
            let mut peer = fake.accept().await;
            vendor.begin(&mut peer).await;
            let (text, context) = vendor.sentence(&mut peer).await;
            assert_eq!(text, "Hello.", "{}, {status}", vendor.service);
            vendor.speak(&mut peer, &context, &speech(640, 5).1).await;
            peer.say(&(vendor.end)(&context)).await;
            assert_eq!(bench.utterance().await.1.len(), 640, "{}, {status}", vendor.service);
        }
    })
    .await;
}

#[tokio::test]
async fn one_that_is_silent_for_ever_costs_a_sentence() {
    each(async |vendor| {
        let (mut bench, fake) = alone(&vendor, Config { tts_timeout_ms: 200, ..config() }).await;
        let mut peer = fake.accept().await;
        vendor.begin(&mut peer).await;
        say(&mut bench, "One two.");
        let (_, context) = vendor.sentence(&mut peer).await;
        assert_eq!(bench.degraded().await.code, "agent.tts.timeout", "{}", vendor.service);
        assert_eq!(peer.json().await, (vendor.cancel)(&context), "{}", vendor.service);
        if let Some(cancelled) = vendor.cancelled {
            peer.say(&cancelled()).await;
        }
        say(&mut bench, "Three.");
        let (_, context) = vendor.sentence(&mut peer).await;
        vendor.speak(&mut peer, &context, &speech(640, 5).1).await;
        peer.say(&(vendor.end)(&context)).await;
        assert_eq!(bench.utterance().await.1.len(), 640, "{}", vendor.service);
    })
    .await;
}

#[tokio::test]
async fn messages_of_a_mebibyte_and_half_a_minute_at_once_do_no_harm() {
    each(async |vendor| {
        let (mut bench, fake) = alone(&vendor, config()).await;
        let mut peer = fake.accept().await;
        vendor.begin(&mut peer).await;
        say(&mut bench, "One two.");
        let (_, context) = vendor.sentence(&mut peer).await;
        peer.send(Message::text("x".repeat(1 << 20))).await;
        peer.say(&json!({"type": "Novelty", "padding": "y".repeat(1 << 20)})).await;
        if !is_aura(&vendor) {
            // audio comes in texts there
            peer.send(Message::binary(vec![9; 1 << 20])).await;
        }
        for strange in [json!([]), json!(null), json!({"type": 7}), json!({"type": "chunk"})] {
            peer.say(&strange).await;
        }
        let (samples, bytes) = speech(8_000 * 32, 5);
        vendor.speak(&mut peer, &context, &bytes).await;
        peer.say(&(vendor.end)(&context)).await;
        let (_, heard) = bench.utterance().await;
        assert!(heard == samples, "{}: {} samples", vendor.service, heard.len());
    })
    .await;
}

#[tokio::test]
async fn audio_and_words_may_be_cut_anywhere() {
    each(async |vendor| {
        let (mut bench, fake) = alone(&vendor, config()).await;
        let mut peer = fake.accept().await;
        vendor.begin(&mut peer).await;
        say(&mut bench, "One two.");
        let (_, context) = vendor.sentence(&mut peer).await;
        let with_more = |mut message: Value| {
            message["novel"] = json!("Gr\u{fc}\u{df}e \u{1f642}");
            message
        };
        if let Some(words) = vendor.words {
            peer.crumbs(&with_more(words(&context))).await;
        }
        let (samples, bytes) = speech(400, 3);
        let mut rest = bytes.as_slice();
        for len in (1..8).cycle() {
            let (piece, more) = rest.split_at(len.min(rest.len()));
            rest = more;
            match (vendor.audio)(&context, piece) {
                Message::Text(text) => peer.crumbs(&with_more(serde_json::from_str(&text).unwrap())).await,
                message => peer.send(message).await,
            }
            if rest.is_empty() {
                break;
            }
        }
        peer.crumbs(&with_more((vendor.end)(&context))).await;
        let (_, heard) = bench.utterance().await;
        assert!(heard == samples, "{}: {} samples", vendor.service, heard.len());
        // half a sample at the end is none of the next sentence
        say(&mut bench, "Three.");
        let (_, context) = vendor.sentence(&mut peer).await;
        peer.send((vendor.audio)(&context, &[1, 0, 9])).await;
        peer.say(&(vendor.end)(&context)).await;
        assert_eq!(bench.utterance().await.1, [1], "{}", vendor.service);
        say(&mut bench, "Four.");
        let (_, context) = vendor.sentence(&mut peer).await;
        peer.send((vendor.audio)(&context, &[2, 0, 3, 0])).await;
        peer.say(&(vendor.end)(&context)).await;
        assert_eq!(bench.utterance().await.1, [2, 3], "{}", vendor.service);
    })
    .await;
}

#[tokio::test]
async fn an_end_that_comes_twice_ends_no_other_sentence() {
    // Aura's ends have no names
    each(async |vendor| {
        if is_aura(&vendor) {
            return;
        }
        let (mut bench, fake) = alone(&vendor, config()).await;
        let mut peer = fake.accept().await;
        vendor.begin(&mut peer).await;
        say(&mut bench, "One two.");
        let (_, old) = vendor.sentence(&mut peer).await;
        vendor.speak(&mut peer, &old, &speech(320, 3).1).await;
        peer.say(&(vendor.end)(&old)).await;
        let (id, _) = bench.utterance().await;
        bench.send(AgentInput::Played(id));
        say(&mut bench, "Three.");
        let (_, new) = vendor.sentence(&mut peer).await;
        peer.say(&(vendor.end)(&old)).await;
        if let Some(error) = (vendor.error)(&old) {
            peer.say(&error).await;
        }
        vendor.speak(&mut peer, &new, &speech(800, 5).1).await;
        peer.say(&(vendor.end)(&new)).await;
        assert_eq!(bench.utterance().await.1, speech(800, 5).0, "{}", vendor.service);
    })
    .await;
}

/// Voices that are asked over HTTP for each sentence.
const POSTED: [&str; 2] = ["openai:tts-1?base_url=", "piper:?base_url="];

const POSTED_TROUBLES: [(&str, &str); 18] = [
    ("401 Unauthorized", "agent.tts.unauthorized"),
    ("402 Payment Required", "agent.tts.quota"),
    ("403 Forbidden", "agent.tts.unauthorized"),
    ("404 Not Found", "agent.tts.failed"),
    ("429 Too Many Requests\r\nRetry-After: 7", "agent.tts.quota"),
    ("500 Oh", "agent.tts.failed"),
    ("503 Busy", "agent.tts.failed"),
    ("200 OK", "agent.tts.failed"),
    ("reset", "agent.tts.broken"),
    ("no HTTP", "agent.tts.broken"),
    ("half a head", "agent.tts.timeout"),
    ("silence", "agent.tts.timeout"),
    ("a silent answer", "agent.tts.timeout"),
    ("nothing", "agent.tts.silent"),
    ("audio/mpeg", "agent.tts.failed"),
    ("ID3 and the rest of a file of MP3", "agent.tts.failed"),
    ("OggS and what else may follow it", "agent.tts.failed"),
    ("<!DOCTYPE html><html><body>no", "agent.tts.failed"),
];

#[tokio::test]
async fn whatever_a_voice_answers_to_a_request_the_next_one_says_the_sentence() {
    join_all(POSTED.map(async |voice| {
        for (trouble, code) in POSTED_TROUBLES {
            let short = trouble.contains("silen") || trouble == "half a head";
            let wait = if short { 1_000 } else { config().failover_after_ms };
            let mut talk = Talk::with(AURA, Config { failover_after_ms: wait, ..config() }).await;
            let mut first = Connector::start("").await;
            talk.call(&format!("{voice}{}", first.url));
            talk.say(SENTENCE);
            let mut asked = first.request().await;
            asked.body().await;
            let mut held = None;
            match trouble {
                "reset" => asked.reset(),
                "no HTTP" => asked.write(&[0xFF; 64]).await,
                "half a head" => {
                    asked.write(b"HTTP/1.1 200 OK\r\nContent-").await;
                    held = Some(asked);
                }
                "silence" => held = Some(asked),
                "a silent answer" => {
                    asked.ok().await;
                    held = Some(asked);
                }
                "nothing" => asked.answer(&[]).await,
                "audio/mpeg" => {
                    asked
                        .write(b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nContent-Length: 4\r\n\r\n\xff\xfb\x90d")
                        .await;
                }
                status if status.as_bytes()[0].is_ascii_digit() => {
                    asked.status(status, &json!({"detail": format!("no luck with {KEY}")}).to_string()).await;
                }
                // a byte at a time
                body => asked.answer(&body.as_bytes().chunks(1).collect::<Vec<_>>()).await,
            }
            talk.second(SENTENCE, 1_600).await;
            let (samples, replaced) = talk.heard().await;
            let what = format!("{voice}, {trouble}");
            assert_eq!(samples, [2; 1_600], "{what}");
            let [replaced] = &replaced[..] else { panic!("{what}: {replaced:?}") };
            assert_eq!(replaced.fault.code, code, "{what}: {replaced:?}");
            assert!(voice.starts_with("piper") || !format!("{replaced:?}").contains(KEY), "{what}: {replaced:?}");
            drop(held);
        }
    }))
    .await;
}

#[tokio::test]
async fn what_is_asked_for_over_http_may_come_in_any_pieces_and_all_at_once() {
    for voice in POSTED {
        let mut bench = Bench::start(config(), None).await;
        let mut first = Connector::start("").await;
        // no resampling: sample by sample
        let rate = if voice.starts_with("openai") { "&pcm_rate=8000" } else { "" };
        let tts = service(&format!("{voice}{}{rate}", first.url), Kind::Tts);
        bench.restart(Rate::R8K, config(), None, |services| services.tts = tts.into());
        let wav = |samples: &[i16]| {
            let mut wav = std::io::Cursor::new(Vec::new());
            hark::audio::wav::write(&mut wav, 8_000, samples).unwrap();
            wav.into_inner()
        };
        let (short, long) = (speech(400, 3).0, speech(8_000 * 32, 5).0);
        for (samples, step) in [(&short, 1), (&short, 3), (&long, 1 << 20)] {
            say(&mut bench, "One two.");
            let bytes = match voice.starts_with("openai") {
                true => samples.iter().flat_map(|sample| sample.to_le_bytes()).collect(),
                false => wav(samples),
            };
            let mut asked = first.request().await;
            asked.body().await;
            let answered = tokio::spawn(async move {
                asked.answer(&bytes.chunks(step).collect::<Vec<_>>()).await;
            });
            let (id, heard) = bench.utterance().await;
            answered.await.unwrap();
            assert!(heard == *samples, "{voice} {step}: {} samples of {}", heard.len(), samples.len());
            bench.send(AgentInput::Played(id));
        }
    }
}
