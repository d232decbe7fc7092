//! Every fault for recognisers of whole utterances, and for Wyoming's voices.

use std::any::Any;

use hark::{
    agent::{
        Chain, Config,
        cascade::{Cascade, Services},
        service::Kind,
    },
    audio::Rate,
    call::{AgentEvent, Replaced, Role},
};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::{
    Fake, KEY, config, service,
    stt_vendors::VOSK,
    tts_failover::Talk,
    tts_vendors::AURA,
    utterances::{Peer, Wyoming, utterance},
};
use crate::support::{
    cascade::{Bench, context, speech},
    connector::Connector,
};

/// Ears with others that stand by, short of patience where that is what is tested.
async fn ears(first: &str, spare: Option<&Fake>, trouble: &str) -> Bench {
    let mut config = config();
    if trouble == "silence" {
        config.failover_after_ms = 1_000;
    }
    let mut bench = Bench::start(config.clone(), None).await;
    let spare = spare.map(|fake| service(&VOSK.at(&fake.address), Kind::Stt));
    let asr = std::iter::once(service(first, Kind::Stt)).chain(spare).collect();
    let (llm, tts) = (bench.llm.url.clone().into(), bench.tts.url.clone().into());
    let services = Services { asr: Chain::new(asr).unwrap(), llm, tts, greeting: None };
    bench.cascade = Cascade::start(context(config, Rate::R8K), services);
    bench
}

async fn replaced(bench: &mut Bench) -> Replaced {
    loop {
        match bench.event().await.expect("an event") {
            AgentEvent::Replaced(replaced) => return replaced,
            AgentEvent::Failed(fault) => panic!("{fault:?}"),
            _ => {}
        }
    }
}

/// The one that stands by has heard the utterance and understands it.
async fn saved(bench: &mut Bench, spare: &Fake, code: &str, what: &str) {
    let mut second = spare.accept().await;
    VOSK.begin(&mut second).await;
    let heard = second.audio(320 * 20).await;
    let said = speech(160 * 20, 9).1;
    assert!(heard.windows(said.len()).any(|window| window == said), "{what}: audio was lost");
    VOSK.tell(&mut second, (VOSK.last)("hello there", 0)).await;
    let replaced = replaced(bench).await;
    assert_eq!(replaced.fault.code, code, "{what}: {replaced:?}");
    assert!(!format!("{replaced:?}").contains(KEY), "{what}: {replaced:?}");
    assert_eq!(bench.transcript().await, (Role::User, "hello there".to_owned()), "{what}");
}

#[tokio::test]
async fn whatever_is_answered_to_an_utterance_the_next_one_hears_it() {
    for (trouble, code) in [
        ("401 Unauthorized", "agent.stt.unauthorized"),
        ("402 Payment Required", "agent.stt.quota"),
        ("403 Forbidden", "agent.stt.unauthorized"),
        ("404 Not Found", "agent.stt.failed"),
        ("429 Too Many Requests\r\nRetry-After: 7", "agent.stt.quota"),
        ("500 Oh", "agent.stt.failed"),
        ("503 Busy", "agent.stt.failed"),
        ("reset", "agent.stt.broken"),
        ("no HTTP", "agent.stt.broken"),
        ("<html>", "agent.stt.failed"),
        ("{\"text\":", "agent.stt.failed"),
        ("{\"text\":7}", "agent.stt.failed"),
        ("a mebibyte", "agent.stt.broken"),
        ("silence", "agent.stt.silent"),
    ] {
        let (mut first, spare) = (Connector::start("/v1").await, Fake::start().await);
        let mut bench = ears(&format!("openai:whisper-1?base_url={}", first.url), Some(&spare), trouble).await;
        utterance(&mut bench).await;
        let mut asked = first.request().await;
        asked.body().await;
        let mut held = None;
        match trouble {
            "reset" => asked.reset(),
            "no HTTP" => asked.write(&[0xFF; 200]).await,
            "silence" => held = Some(asked),
            "a mebibyte" => {
                asked.ok().await;
                while asked.try_write(&crate::support::connector::framed(&[b'x'; 64 * 1024])).await {}
            }
            status if status.as_bytes()[0].is_ascii_digit() => {
                asked.status(status, &json!({"error": {"message": format!("no luck with {KEY}")}}).to_string()).await;
            }
            body => asked.status("200 OK", body).await,
        }
        saved(&mut bench, &spare, code, trouble).await;
        drop(held);
    }
}

#[tokio::test]
async fn an_answer_to_an_utterance_may_be_cut_anywhere() {
    let mut first = Connector::start("/v1").await;
    let mut bench = ears(&format!("openai:whisper-1?base_url={}", first.url), None, "").await;
    utterance(&mut bench).await;
    let mut asked = first.request().await;
    asked.body().await;
    asked.ok().await;
    let text = "Gr\u{fc}\u{df}e, Ren\u{e9}e \u{1f642} \u{4f60}\u{597d}";
    let answer = json!({"novel": {"x": [1]}, "text": text, "segments": null}).to_string();
    for byte in answer.as_bytes() {
        asked.chunk(std::slice::from_ref(byte)).await;
    }
    asked.end().await;
    assert_eq!(bench.transcript().await, (Role::User, text.to_owned()));
}

/// What goes wrong with a connection of Wyoming's; what is returned is to be kept.
async fn wrong(mut peer: Peer, trouble: &str) -> Box<dyn Any> {
    match trouble {
        "reset" => {
            socket2::SockRef::from(peer.0.get_ref()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            return Box::new(());
        }
        "closed" => return Box::new(()),
        "garbage" => peer.0.get_mut().write_all(&[0xFF, b'\n'].repeat(50)).await.unwrap(),
        "no end of a line" => {
            let megabyte = vec![b'x'; 1 << 20];
            let _ = peer.0.get_mut().write_all(&megabyte).await;
        }
        "too much" => peer.0.get_mut().write_all(b"{\"type\":\"x\",\"payload_length\":99999999999}\n").await.unwrap(),
        "an error" => peer.say("error", json!({"text": "no\nmodel", "code": "x"}), &[]).await,
        "half an event" => {
            peer.0.get_mut().write_all(b"{\"type\":\"audio-start\",\"data_length\":40}\n{\"rate\":").await.unwrap();
            return Box::new(());
        }
        "eight bits" => peer.say("audio-start", json!({"rate": 8_000, "width": 1, "channels": 1}), &[]).await,
        "no rate" => peer.say("audio-start", json!({"rate": 1, "width": 2, "channels": 1}), &[]).await,
        "no beginning" => {
            let format = json!({"rate": 8_000, "width": 2, "channels": 1});
            peer.say("audio-chunk", format, &[1; 320]).await;
            peer.say("audio-stop", json!({}), &[]).await;
        }
        _ => {}
    }
    Box::new(peer)
}

const WYOMING: [(&str, &str); 8] = [
    ("reset", "broken"),
    ("closed", "broken"),
    ("garbage", "broken"),
    ("no end of a line", "broken"),
    ("too much", "broken"),
    ("half an event", "broken"),
    ("an error", "failed"),
    ("silence", "silent"),
];

#[tokio::test]
async fn whatever_happens_to_wyomings_ears_the_next_one_hears_the_utterance() {
    for (trouble, code) in WYOMING {
        let (first, spare) = (Wyoming::start().await, Fake::start().await);
        let mut bench = ears(&format!("wyoming:{}", first.address), Some(&spare), trouble).await;
        utterance(&mut bench).await;
        let mut peer = first.accept().await;
        assert_eq!(peer.event().await.0["type"], "transcribe");
        let held = wrong(peer, trouble).await;
        saved(&mut bench, &spare, &format!("agent.stt.{code}"), trouble).await;
        drop(held);
    }
    let first = Wyoming::start().await;
    let mut bench = ears(&format!("wyoming:{}", first.address), None, "").await;
    utterance(&mut bench).await;
    let mut peer = first.accept().await;
    peer.say("novelty", json!({"padding": "y".repeat(900_000)}), &vec![7; 1 << 20]).await;
    let text = "Gr\u{fc}\u{df}e, Ren\u{e9}e \u{1f642}";
    peer.say_in(1, "transcript", json!({"text": text, "novel": 1}), &[]).await;
    assert_eq!(bench.transcript().await, (Role::User, text.to_owned()));
}

const SENTENCE: &str = "Your appointment is on Thursday at nine.";

#[tokio::test]
async fn whatever_happens_to_wyomings_voice_the_next_one_says_the_sentence() {
    let own = [("eight bits", "failed"), ("no rate", "failed"), ("no beginning", "silent")];
    for (trouble, code) in WYOMING.into_iter().chain(own) {
        let short = trouble == "silence";
        let wait = if short { 1_000 } else { config().failover_after_ms };
        let mut talk = Talk::with(AURA, Config { failover_after_ms: wait, ..config() }).await;
        let first = Wyoming::start().await;
        talk.call(&format!("wyoming:{}", first.address));
        talk.say(SENTENCE);
        let mut peer = first.accept().await;
        assert_eq!(peer.event().await.0["data"]["text"], SENTENCE);
        let held = wrong(peer, trouble).await;
        talk.second(SENTENCE, 1_600).await;
        let (samples, replaced) = talk.heard().await;
        assert_eq!(samples, [2; 1_600], "{trouble}");
        let [replaced] = &replaced[..] else { panic!("{trouble}: {replaced:?}") };
        let code = if short { "timeout" } else { code };
        assert_eq!(replaced.fault.code, format!("agent.tts.{code}"), "{trouble}: {replaced:?}");
        drop(held);
    }
}

#[tokio::test]
async fn what_wyomings_voice_says_may_be_cut_anywhere_and_what_breaks_off_is_gone_on_with() {
    let format = json!({"rate": 8_000, "width": 2, "channels": 1, "timestamp": null, "novel": "Gr\u{fc}\u{df}e"});
    for trouble in ["", "reset", "garbage", "an error"] {
        let mut talk = Talk::with(AURA, config()).await;
        let first = Wyoming::start().await;
        talk.call(&format!("wyoming:{}", first.address));
        talk.say(SENTENCE);
        let mut peer = first.accept().await;
        peer.event().await;
        let (samples, bytes) = speech(4_000, 3);
        peer.say_in(1, "audio-start", format.clone(), &[]).await;
        peer.say("novelty", json!({}), &vec![7; 1 << 20]).await;
        for piece in bytes.chunks(333) {
            peer.say_in(7, "audio-chunk", format.clone(), piece).await;
        }
        if trouble.is_empty() {
            peer.say_in(1, "audio-stop", json!({}), &[]).await;
            assert!(talk.heard().await.0 == samples);
            continue;
        }
        let mut heard = 0;
        while heard < 4_000 {
            if let Some(AgentEvent::Audio(_, more)) = talk.bench.event().await {
                heard += more.len();
            }
        }
        let held = wrong(peer, trouble).await;
        let mut request = talk.bench.tts.request().await;
        let rest = request.json().await["text"].as_str().unwrap().to_owned();
        assert!(SENTENCE.ends_with(&rest) && rest.len() < SENTENCE.len(), "{trouble}: {rest}");
        request.answer(&[&[2, 0].repeat(800)]).await;
        assert_eq!(talk.heard().await.0, [2; 800], "{trouble}");
        drop(held);
    }
}
