//! Whole calls: AudioSocket in, a vendor's recognition, a connector's language model, a vendor's voice, AudioSocket out.

use hark::{audio::g711::Law, webhook::EndpointConfig};
use serde_json::json;

use super::{Fake, providers, stt_vendors as stt, tts_vendors as tts};
use crate::support::{
    client,
    connector::{Connector, Exchange, nobody, soon},
    gateway::{Gateway, Line, frame_of},
    receiver::Receiver,
};

async fn gateway(asr: String, llm: &Connector, tts: String) -> Gateway {
    Gateway::with(&llm.url.clone(), |config| {
        let agent = &mut config.agent;
        (agent.sts_url, agent.asr_url, agent.tts_url) = (None, Some(asr), Some(tts));
        agent.llm_url = Some(llm.url.to_string());
        agent.providers = providers();
        agent.debounce_ms = 50;
    })
    .await
}

/// What OpenAI's synthesis is asked, by us and by its library.
pub fn openai_speech() -> serde_json::Value {
    json!({"model": "tts-1", "input": "All right.", "voice": "nova", "response_format": "pcm", "speed": 1.5})
}

/// The language model is asked for an answer to `text` and gives one.
async fn answered(llm: &mut Connector, text: &str) {
    loop {
        let mut asked = llm.request().await;
        let messages = asked.json().await;
        let last = messages["messages"].as_array().unwrap().last().unwrap()["content"].clone();
        // what was asked before the caller had finished is taken back
        if last == text {
            return asked.answer(&[br#"{"type":"text","content":"All right."}"#]).await;
        }
    }
}

#[tokio::test]
async fn every_recogniser_is_understood_in_a_call() {
    for vendor in stt::ALL {
        let (fake, mut llm, mut voice) =
            (Fake::start().await, Connector::start("/prompt-stream").await, Connector::start("/v1").await);
        let speech = format!("openai:tts-1?voice=nova&speed=1.5&base_url={}", voice.url);
        let gateway = gateway(vendor.at(&fake.address), &llm, speech).await;
        let mut line = Line::call(gateway.audiosocket).await;
        let mut peer = fake.accept().await;
        vendor.begin(&mut peer).await;
        for number in 1..=15 {
            line.say(number).await;
        }
        // what the caller said, in their order, behind the frame of silence that begins the call
        let heard = peer.audio(vendor.frame * 10).await;
        let frames: Vec<_> = heard.chunks(vendor.frame).collect();
        let mut sample = Vec::new();
        match vendor.frame {
            160 => Law::Ulaw.encode(frame_of(5).samples(), &mut sample),
            _ => sample.extend(frame_of(5).samples().iter().flat_map(|sample| sample.to_le_bytes())),
        }
        assert!(frames.contains(&sample.as_slice()), "{}", vendor.service);
        vendor.tell(&mut peer, (vendor.partial)("hello")).await;
        vendor.tell(&mut peer, (vendor.last)("hello there", 0)).await;
        answered(&mut llm, "hello there").await;

        let mut asked = voice.request().await;
        assert!(asked.head.starts_with("POST /v1/audio/speech HTTP/1.1\r\n"), "{}", asked.head);
        assert_eq!(asked.header("authorization"), Some(format!("Bearer {}", super::KEY).as_str()));
        assert_eq!(asked.json().await, openai_speech());
        let audio: Vec<u8> = [0x10, 0x20].repeat(24_000 / 5);
        // in pieces that end within a sample
        asked.answer(&[&audio[..333], &audio[333..]]).await;
        let words = line.words(1_000).await;
        assert!(words.iter().filter(|sample| (0x1F00..0x2100).contains(*sample)).count() > 800, "{words:?}");
        drop(line);
    }
}

#[tokio::test]
async fn every_voice_is_heard_in_a_call() {
    for vendor in tts::ALL {
        let (ears, voice, mut llm) =
            (Fake::start().await, Fake::start().await, Connector::start("/prompt-stream").await);
        let gateway = gateway(stt::FLUX.at(&ears.address), &llm, vendor.at(&voice.address)).await;
        let mut line = Line::call(gateway.audiosocket).await;
        let mut peer = ears.accept().await;
        let mut speaker = voice.accept().await;
        vendor.begin(&mut speaker).await;
        stt::FLUX.begin(&mut peer).await;
        line.say(1).await;
        stt::FLUX.tell(&mut peer, (stt::FLUX.last)("hello", 0)).await;
        answered(&mut llm, "hello").await;
        let (text, context) = vendor.sentence(&mut speaker).await;
        assert_eq!(text, "All right.");
        let audio: Vec<u8> = [0x10, 0x20].repeat(1_600);
        vendor.speak(&mut speaker, &context, &audio).await;
        speaker.say(&(vendor.end)(&context)).await;
        let words = line.words(1_500).await;
        assert!(words.iter().filter(|sample| **sample == 0x2010).count() > 1_400, "{}: {words:?}", vendor.service);
        drop(line);
    }
}

#[tokio::test]
async fn a_call_whose_services_all_fail_once_goes_on_and_everybody_is_told() {
    let (dead_ear, ear, dead_voice) = (Fake::start().await, Fake::start().await, Fake::start().await);
    let (dead_llm, mut llm, mut voice) =
        (nobody(), Connector::start("/prompt-stream").await, Connector::start("/text-to-speech-stream").await);
    let receiver = Receiver::kind().await;
    let gateway = Gateway::with(&llm.url.clone(), |config| {
        let (url, events) = (Some(receiver.url.clone()), vec!["*".to_owned()]);
        let endpoint = EndpointConfig { url, events, ..EndpointConfig::default() };
        config.webhooks.endpoints.insert("all".to_owned(), endpoint);
        let agent = &mut config.agent;
        agent.sts_url = None;
        agent.asr_url = Some(format!("{}, {}", stt::NOVA.at(&dead_ear.address), stt::VOSK.at(&ear.address)));
        agent.llm_url = Some(format!("{}, {}", dead_llm.0, llm.url));
        agent.tts_url = Some(format!("{}, {}", tts::AURA.at(&dead_voice.address), voice.url));
        agent.providers = providers();
        agent.debounce_ms = 50;
    })
    .await;
    let services = || async {
        let url = format!("http://{}/api/services", gateway.http);
        client().get(url).send().await.unwrap().json::<serde_json::Value>().await.unwrap()
    };
    let before = services().await;
    assert_eq!(before["services"].as_array().unwrap().len(), 6, "{before}");
    assert!(before["services"].as_array().unwrap().iter().all(|service| service["state"] == "closed"), "{before}");

    let mut line = Line::call(gateway.audiosocket).await;
    let mut peer = dead_ear.accept().await;
    stt::NOVA.begin(&mut peer).await;
    for number in 1..=15 {
        line.say(number).await;
    }
    peer.audio(160 * 10).await;
    peer.reset();
    let mut peer = ear.accept().await;
    stt::VOSK.begin(&mut peer).await;
    // all that was said, in its order
    let heard = peer.audio(320 * 15).await;
    let samples: Vec<i16> = heard.as_chunks::<2>().0.iter().map(|bytes| i16::from_le_bytes(*bytes)).collect();
    let spoken: Vec<i16> = samples.into_iter().filter(|sample| *sample != 0).collect();
    let expected = crate::support::gateway::numbered(15);
    assert!(expected.starts_with(&spoken) && spoken.len() >= 160 * 13, "{} samples", spoken.len());
    stt::VOSK.tell(&mut peer, (stt::VOSK.last)("hello there", 0)).await;
    dead_voice
        .refuse("401 Unauthorized", &json!({"err_msg": format!("no luck with {}", super::KEY)}).to_string())
        .await;
    answered(&mut llm, "hello there").await;
    dead_voice
        .refuse("401 Unauthorized", &json!({"err_msg": format!("no luck with {}", super::KEY)}).to_string())
        .await;
    let mut asked = voice.request().await;
    assert_eq!(asked.json().await["text"], "All right.");
    asked.answer(&[&[0x10, 0x20].repeat(1_600)]).await;
    assert!(line.words(1_500).await.contains(&0x2010));

    let after = services().await;
    let of = |service: &str, kind: &str| {
        let all = after["services"].as_array().unwrap().iter();
        let mut found = all.filter(|one| one["kind"] == kind && one["service"].as_str().unwrap().starts_with(service));
        found.next().unwrap_or_else(|| panic!("{service} is not in {after}")).clone()
    };
    assert_eq!(of("deepgram", "tts")["state"], "open", "{after}");
    assert_eq!(of("deepgram", "tts")["last_error"]["code"], "agent.tts.unauthorized");
    assert_eq!(of("deepgram", "stt")["consecutive_failures"], 1);
    assert_eq!((&of("vosk", "stt")["calls"], &of("vosk", "stt")["state"]), (&json!(1), &json!("closed")));
    assert!(!of("vosk", "stt")["last_success"].is_null());
    assert!(!after.to_string().contains(super::KEY), "{after}");
    let metrics = client().get(format!("http://{}/metrics", gateway.http)).send().await.unwrap().text().await.unwrap();
    let shown = |name: &str, service: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name) && line.contains(service));
        line.unwrap_or_else(|| panic!("{name} of {service} is not in {metrics}")).rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(shown("hark_service_up", "service=\"deepgram:aura"), "0.0");
    assert_eq!(shown("hark_service_takeovers_total", "service=\"deepgram:nova"), "1.0");
    drop(line);
    let told = taken_over(&receiver).await;
    let (dead_llm, voice) = (dead_llm.0.as_str().trim_end_matches('/'), voice.url.as_str());
    for (service, by, code) in [
        ("deepgram:nova-3", "vosk:", "agent.stt.failed"),
        (dead_llm, llm.url.as_str(), "agent.llm.refused"),
        ("deepgram:aura-2-thalia-en", voice, "agent.tts.unauthorized"),
    ] {
        let of = |event: &&serde_json::Value| event["service"].as_str().is_some_and(|shown| shown.starts_with(service));
        let event = told.iter().find(of).unwrap_or_else(|| panic!("{service} is not in {told:?}"));
        assert!(event["taken_over_by"].as_str().unwrap().starts_with(by), "{event}");
        assert_eq!(event["code"], code, "{event}");
    }
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(!receiver.seen().iter().any(|seen| seen.body.contains(super::KEY)), "{told:?}");
}

/// What a receiver was told of services that others took over from, once the call is over.
async fn taken_over(receiver: &Receiver) -> Vec<serde_json::Value> {
    let completed = async {
        while !receiver.seen().iter().any(|seen| seen.kind() == "call_completed") {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    soon("the end of the call", completed).await;
    let seen = receiver.seen().into_iter().filter(|seen| seen.kind() == "service_failed");
    seen.map(|seen| seen.json()["payload"].clone()).filter(|payload| !payload["taken_over_by"].is_null()).collect()
}

/// What the first of a list does to whoever comes to it.
async fn trouble(connector: &mut Connector, what: &str, held: &mut Vec<Exchange>) {
    match what {
        "nobody" => {}
        "reset" => connector.request().await.reset(),
        "silence" => held.push(connector.request().await),
        status => connector.request().await.status(status, r#"{"error":"no luck"}"#).await,
    }
}

#[tokio::test]
async fn whatever_happens_to_the_first_of_each_kind_the_caller_is_answered() {
    for what in ["nobody", "401 Unauthorized", "429 Too Many Requests", "503 Busy", "reset", "silence"] {
        let (bad_ear, ear) = (Fake::start().await, Fake::start().await);
        let (mut bad_llm, mut llm) =
            (Connector::start("/prompt-stream").await, Connector::start("/prompt-stream").await);
        let path = "/text-to-speech-stream";
        let (mut bad_voice, mut voice) = (Connector::start(path).await, Connector::start(path).await);
        let nobody = [nobody(), nobody(), nobody()];
        let gone = what == "nobody";
        let gateway = Gateway::with(&llm.url.clone(), |config| {
            let first = |at: usize, usual: String| if gone { nobody[at].0.to_string() } else { usual };
            let agent = &mut config.agent;
            agent.sts_url = None;
            let bad = if gone { nobody[0].0.authority().to_owned() } else { bad_ear.address.clone() };
            agent.asr_url = Some(format!("{}, {}", stt::NOVA.at(&bad), stt::VOSK.at(&ear.address)));
            agent.llm_url = Some(format!("{}, {}", first(1, bad_llm.url.to_string()), llm.url));
            agent.tts_url = Some(format!("{}, {}", first(2, bad_voice.url.to_string()), voice.url));
            agent.providers = providers();
            agent.debounce_ms = 50;
            // the next has words before it seems to be silent too
            agent.failover_after_ms = if what == "silence" { 1_500 } else { 300 };
        })
        .await;
        let (mut line, mut held, mut silent) = (Line::call(gateway.audiosocket).await, Vec::new(), None);
        match what {
            "nobody" => {}
            "reset" => {
                let mut peer = bad_ear.accept().await;
                stt::NOVA.begin(&mut peer).await;
                line.speak(10).await;
                peer.audio(160 * 5).await;
                peer.reset();
            }
            // somebody has to be heard speaking, to be missed
            "silence" => {
                let mut peer = bad_ear.accept().await;
                stt::NOVA.begin(&mut peer).await;
                line.speak(100).await;
                silent = Some(peer);
            }
            status => bad_ear.refuse(status, &json!({"err_msg": super::KEY}).to_string()).await,
        }
        let others = async {
            let mut peer = ear.accept().await;
            stt::VOSK.begin(&mut peer).await;
            stt::VOSK.tell(&mut peer, (stt::VOSK.last)("hello there", 0)).await;
            trouble(&mut bad_llm, what, &mut held).await;
            answered(&mut llm, "hello there").await;
            trouble(&mut bad_voice, what, &mut held).await;
            (voice.request().await, peer)
        };
        // a phone that takes no audio for seconds is gone
        let (mut asked, _peer) = tokio::select! {
            asked = others => asked,
            () = line.listen() => panic!("the call is over"),
        };
        assert_eq!(asked.json().await["text"], "All right.", "{what}");
        asked.answer(&[&[0x10, 0x20].repeat(1_600)]).await;
        let words = line.words(1_590).await;
        assert!(words.iter().filter(|sample| **sample == 0x2010).count() > 1_500, "{what}: {words:?}");
        let url = format!("http://{}/api/services", gateway.http);
        let shown = client().get(url).send().await.unwrap().json::<serde_json::Value>().await.unwrap();
        let taken = shown["services"].as_array().unwrap().iter().filter(|service| service["takeovers"] == 1).count();
        assert_eq!(taken, 3, "{what}: {shown}");
        assert!(!shown.to_string().contains(super::KEY), "{shown}");
        drop((line, held, silent));
    }
}
