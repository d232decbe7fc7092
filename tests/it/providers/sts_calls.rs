//! Whole calls with vendors of speech to speech: AudioSocket in, a vendor's session, AudioSocket out, events at a receiver.

use std::time::Duration;

use hark::webhook::EndpointConfig;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    Fake, providers,
    sts_vendors::{ALL, Begun, Session, Vendor},
};
use crate::support::{
    PATIENCE,
    gateway::{Gateway, Line, Said},
    receiver::Receiver,
};

/// Loud enough to be told from silence, and what G.711 can say exactly.
const LEVEL: i16 = 7_932;

struct Bench {
    gateway: Gateway,
    fake: Fake,
    receiver: Receiver,
}

impl Bench {
    async fn start(vendor: Vendor, change: impl FnOnce(&mut hark::config::Config)) -> Self {
        let (fake, receiver) = (Fake::start().await, Receiver::kind().await);
        let service = vendor.at(&fake.address);
        let url = receiver_url(&receiver);
        let gateway = Gateway::with(&"ws://127.0.0.1:1".parse().unwrap(), |config| {
            config.agent.sts_url = Some(service);
            config.agent.providers = providers();
            config.agent.prompt = Some("You are kind.".to_owned());
            let events = vec!["*".to_owned()];
            let endpoint = EndpointConfig { url: Some(url), events, ..EndpointConfig::default() };
            config.webhooks.endpoints.insert("all".to_owned(), endpoint);
            change(config);
        })
        .await;
        Self { gateway, fake, receiver }
    }

    /// The events of a call that is over.
    async fn events(&self) -> Vec<(String, Value)> {
        let since = Instant::now();
        loop {
            let seen = self.receiver.seen();
            if seen.iter().any(|seen| seen.kind() == "call_completed") {
                return seen.iter().map(|seen| (seen.kind(), seen.json()["payload"].clone())).collect();
            }
            assert!(since.elapsed() < PATIENCE, "the call does not end: {seen:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn receiver_url(receiver: &Receiver) -> String {
    receiver.url.to_string()
}

fn of<'a>(events: &'a [(String, Value)], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|(known, _)| known == kind).map(|(_, payload)| payload).collect()
}

fn close(a: i16, b: i16) -> bool {
    a.abs_diff(b) < 400
}

/// Listens until the agent is silent, and tells for how many samples it was not.
async fn until_silence(line: &mut Line) -> usize {
    let (mut words, mut silent) = (0, 0);
    while silent < 10 {
        match line.hear().await {
            Said::Audio(samples) => {
                let loud = samples.iter().filter(|sample| **sample != 0).count();
                words += loud;
                silent = if loud == 0 { silent + 1 } else { 0 };
            }
            other => panic!("{other:?}"),
        }
    }
    words
}

#[tokio::test]
async fn every_vendor_listens_and_speaks_in_a_call() {
    for vendor in ALL {
        let bench = Bench::start(vendor, |_| {}).await;
        let mut line = Line::call(bench.gateway.audiosocket).await;
        let (mut session, begun) = Session::begin(vendor, &bench.fake).await;
        assert_eq!(begun, Begun { prompt: "You are kind.".to_owned(), tools: vec![] }, "{vendor:?}");
        for number in 1..=15 {
            line.say(number).await;
        }
        let heard = vendor.heard(&session.heard(vendor.second() / 5).await);
        assert!(heard.iter().filter(|sample| close(**sample, 1_005)).count() > 1_000, "{vendor:?}: {heard:?}");
        session.caller("hello there").await;
        session.answer("Good morning.", &vendor.speech(LEVEL, 600)).await;
        let words = line.words(4_700).await;
        assert!(words.iter().filter(|sample| close(**sample, LEVEL)).count() > 4_500, "{vendor:?}: {words:?}");
        assert!(until_silence(&mut line).await < 160);
        drop(line);
        let events = bench.events().await;
        let said: Vec<_> = of(&events, "transcription").into_iter().cloned().collect();
        let expected =
            [json!({"role": "user", "text": "hello there"}), json!({"role": "agent", "text": "Good morning."})];
        assert_eq!(said, expected, "{vendor:?}");
        if !vendor.is_openai() && vendor != Vendor::Gemini {
            continue;
        }
        let usage = &of(&events, "usage")[0]["llm"][0];
        assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(20), &json!(5)), "{vendor:?}: {usage}");
    }
}

#[tokio::test]
async fn an_interruption_cuts_the_agent_and_the_vendor_learns_what_was_heard() {
    let vendor = Vendor::OpenAi;
    let bench = Bench::start(vendor, |_| {}).await;
    let mut line = Line::call(bench.gateway.audiosocket).await;
    let (mut session, _) = Session::begin(vendor, &bench.fake).await;
    // ten seconds at once
    session.begin_answer().await;
    session.words("One two three four five six seven eight nine ten.").await;
    session.speak(&vendor.speech(LEVEL, 10_000)).await;
    line.words(8_000).await;
    session.interrupts().await;
    let cut = session.said().await;
    assert_eq!((&cut["type"], &cut["item_id"]), (&json!("conversation.item.truncate"), &json!("item_1")), "{cut}");
    let heard = cut["audio_end_ms"].as_u64().unwrap();
    assert!((950..2_500).contains(&heard), "{heard} ms");
    // what was on its way is not heard
    session.speak(&vendor.speech(LEVEL, 1_000)).await;
    session.say(&[json!({"type": "response.done", "response": {"id": "resp_1", "status": "cancelled"}})]).await;
    assert!(until_silence(&mut line).await < 16_000);
    // the next answer is
    session.say(&[json!({"type": "input_audio_buffer.speech_stopped", "item_id": "user_x"})]).await;
    session.answer("Eleven.", &vendor.speech(LEVEL, 200)).await;
    line.words(1_600).await;
    drop(line);
    let events = bench.events().await;
    assert_eq!(of(&events, "interruption").len(), 1);
    let said: Vec<_> =
        of(&events, "transcription").iter().map(|said| said["text"].as_str().unwrap().to_owned()).collect();
    assert!(said[0].starts_with("One") && !said[0].contains("four"), "{said:?}");
}

#[tokio::test]
async fn every_vendor_interrupts_and_goes_on() {
    for vendor in ALL {
        let bench = Bench::start(vendor, |_| {}).await;
        let mut line = Line::call(bench.gateway.audiosocket).await;
        let (mut session, _) = Session::begin(vendor, &bench.fake).await;
        session.begin_answer().await;
        session.words("One two three four five six seven eight nine ten.").await;
        session.speak(&vendor.speech(LEVEL, 10_000)).await;
        line.words(8_000).await;
        session.interrupts().await;
        let rest = until_silence(&mut line).await;
        assert!(rest < 16_000, "{vendor:?}: {rest}");
        if vendor == Vendor::ElevenLabs {
            let words = json!({"original_agent_response": "One two", "corrected_agent_response": "One"});
            session
                .say(&[json!({"type": "agent_response_correction", "agent_response_correction_event": words})])
                .await;
        }
        session.caller("stop please").await;
        session.answer("Eleven.", &vendor.speech(LEVEL, 300)).await;
        line.words(2_300).await;
        drop(line);
        let events = bench.events().await;
        assert_eq!(of(&events, "interruption").len(), 1, "{vendor:?}: {events:?}");
        let said: Vec<_> =
            of(&events, "transcription").iter().map(|said| said["text"].as_str().unwrap().to_owned()).collect();
        assert!(said[0].starts_with("One") && !said[0].contains("four"), "{vendor:?}: {said:?}");
        assert_eq!(said[1], "stop please", "{vendor:?}: {said:?}");
        if vendor == Vendor::ElevenLabs {
            assert_eq!(said[0], "One");
        }
    }
}

#[tokio::test]
async fn a_tool_is_called_and_the_last_words_are_heard_before_the_call_ends() {
    for vendor in ALL {
        let bench =
            Bench::start(vendor, |config| config.agent.tools = vec!["send_dtmf".to_owned(), "hangup".to_owned()]).await;
        let mut line = Line::call(bench.gateway.audiosocket).await;
        let (mut session, begun) = Session::begin(vendor, &bench.fake).await;
        // those of ElevenLabs are set on the agent
        let expected: &[&str] = if vendor == Vendor::ElevenLabs { &[] } else { &["send_dtmf", "hangup"] };
        assert_eq!(begun.tools, expected, "{vendor:?}");
        session.caller("press one").await;
        session.begin_answer().await;
        session.wants("send_dtmf", &json!({"digits": "1"})).await;
        assert_eq!(session.result().await, "The keys have been sent.", "{vendor:?}");
        if vendor == Vendor::OpenAi {
            assert_eq!(session.said().await["type"], "response.create");
        }
        assert!(line.words(500).await.len() >= 500);
        session.begin_answer().await;
        session.words("Goodbye.").await;
        session.speak(&vendor.speech(LEVEL, 1_000)).await;
        session.wants("hangup", &json!({})).await;
        let mut words = 0;
        loop {
            match line.hear().await {
                Said::Audio(samples) => words += samples.iter().filter(|sample| close(**sample, LEVEL)).count(),
                Said::Hangup => break,
                Said::End => panic!("the connection just ends"),
            }
        }
        assert!(words > 7_500, "{vendor:?}: {words}");
        let events = bench.events().await;
        let tools: Vec<_> =
            of(&events, "tool_call").iter().map(|call| (call["name"].clone(), call["failed"].clone())).collect();
        assert_eq!(tools, [(json!("send_dtmf"), json!(false)), (json!("hangup"), json!(false))], "{vendor:?}");
        let said: Vec<_> = of(&events, "transcription").iter().map(|said| said["text"].clone()).collect();
        assert_eq!(said, ["press one", "Goodbye."], "{vendor:?}");
        drop(line);
    }
}
