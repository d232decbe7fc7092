//! What goes wrong with speech to speech: none of it ends a call that another session can save, and none shows the key.

use std::sync::Arc;

use hark::{
    agent::{
        Config,
        service::{Kind, Service},
        sts::{self, Line},
        tools::Toolbox,
    },
    audio::Rate,
    call::{AgentEvent, AgentInput, Fault, Link as _, Role, Sent, UtteranceId},
};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::{
    Fake, KEY, config, service,
    sts_vendors::{ALL, Session, Vendor},
};
use crate::support::{
    agent_call::{AgentCall, speech},
    cascade::context,
};

pub const LEVEL: i16 = 7_932;

pub async fn started(vendor: Vendor, change: impl FnOnce(&mut Config)) -> (AgentCall<Line>, Fake) {
    let fake = Fake::start().await;
    let mut settings = config();
    change(&mut settings);
    let mut ctx = context(settings, Rate::R8K);
    ctx.tools = Arc::new(Toolbox::new(&["send_dtmf".to_owned()], &[], &[], &[]).unwrap());
    let Service::Named(named) = service(&vendor.at(&fake.address), Kind::Sts) else { panic!() };
    (AgentCall::new(sts::start(*named, ctx, None)), fake)
}

/// A session that is set up.
pub async fn begun(vendor: Vendor, call: &mut AgentCall<Line>, fake: &Fake) -> Session {
    call.during(Session::begin(vendor, fake)).await.0
}

pub fn failed(call: &AgentCall<Line>) -> Fault {
    let fault = call.events.iter().find_map(|event| match event {
        AgentEvent::Failed(fault) => Some(fault.clone()),
        _ => None,
    });
    let fault = fault.unwrap_or_else(|| panic!("it did not fail: {:?}", call.others()));
    assert!(!format!("{:?}", call.events).contains(KEY), "the key is shown");
    fault
}

/// The vendor answers and is heard.
pub async fn answers(call: &mut AgentCall<Line>, session: &mut Session, before: usize) {
    let audio = session.vendor.speech(LEVEL, 200);
    call.during(session.answer("Still here.", &audio)).await;
    call.until(|call| call.heard() >= before + 1_500).await;
}

#[tokio::test]
async fn a_refused_key_or_account_is_for_good_and_told_in_the_vendors_words() {
    for vendor in ALL {
        for (status, code) in [
            ("401 Unauthorized", "agent.sts.unauthorized"),
            ("402 Payment Required", "agent.sts.quota"),
            ("403 Forbidden", "agent.sts.unauthorized"),
            ("404 Not Found", "agent.sts.refused"),
        ] {
            let (mut call, fake) = started(vendor, |_| {}).await;
            let body = json!({"error": {"message": format!("no luck with {KEY}")}}).to_string();
            call.during(fake.refuse(status, &body)).await;
            call.end().await;
            let fault = failed(&call);
            assert_eq!(fault.code, code, "{vendor:?}");
            assert!(fault.message.contains("no luck with ***") && fault.message.contains(&status[..3]), "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_vendor_in_trouble_is_tried_again_and_one_that_wants_peace_is_left_alone() {
    for vendor in ALL {
        let (mut call, fake) = started(vendor, |_| {}).await;
        call.during(fake.refuse("503 Service Unavailable", "{}")).await;
        call.during(fake.refuse("429 Too Many Requests\r\nRetry-After: 0", "{}")).await;
        let mut session = begun(vendor, &mut call, &fake).await;
        answers(&mut call, &mut session, 0).await;
        assert_eq!(call.others()[..2], ["degraded agent.sts.refused", "restored"], "{vendor:?}");
    }
    let (mut call, fake) = started(Vendor::OpenAi, |_| {}).await;
    call.during(fake.refuse("429 Too Many Requests\r\nRetry-After: 60", "{}")).await;
    call.end().await;
    let fault = failed(&call);
    assert_eq!(fault.code, "agent.sts.quota");
    assert!(fault.message.contains("left alone for 60 s"), "{fault:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_within_a_word_is_made_again_and_the_conversation_goes_on() {
    for vendor in ALL {
        let (mut call, fake) = started(vendor, |_| {}).await;
        let mut session = begun(vendor, &mut call, &fake).await;
        call.during(session.caller("hello there")).await;
        call.during(session.begin_answer()).await;
        call.during(session.speak(&vendor.speech(LEVEL, 100)[..777])).await;
        call.until(|call| call.heard() > 0).await;
        let heard = call.heard();
        let _: Sent<_> = call.agent.send(AgentInput::CallerSpeech(true));
        session.peer.reset();
        // what the caller says meanwhile is not lost
        call.say(Rate::R8K, &speech(3_200));
        let mut session = begun(vendor, &mut call, &fake).await;
        if vendor.is_openai() {
            let said = call.during(session.said()).await;
            let content = &said["item"]["content"][0]["text"];
            assert_eq!((&said["item"]["role"], content), (&json!("user"), &json!("hello there")), "{vendor:?}");
        } else if matches!(vendor, Vendor::Gemini | Vendor::ElevenLabs) {
            let said = call.during(session.said()).await.to_string();
            assert!(said.contains("hello there"), "{vendor:?}: {said}");
        }
        call.during(session.heard(vendor.second() * 3 / 10)).await;
        answers(&mut call, &mut session, heard).await;
        // the turn that broke is over, the next one is another
        let turns = call.utterances();
        assert_eq!(turns.len(), 2, "{vendor:?}");
        assert!(call.others().contains(&"end 1".to_owned()), "{vendor:?}: {:?}", call.others());
    }
}

#[tokio::test]
async fn closes_are_tried_again_or_for_good_as_their_codes_say() {
    for vendor in ALL {
        for code in [1001, 1011, 1012, 1013] {
            let (mut call, fake) = started(vendor, |_| {}).await;
            let mut session = begun(vendor, &mut call, &fake).await;
            answers(&mut call, &mut session, 0).await;
            call.during(session.peer.close(code, "bye")).await;
            begun(vendor, &mut call, &fake).await;
            assert!(!call.others().iter().any(|event| event.starts_with("failed")), "{vendor:?} {code}");
        }
        let (mut call, fake) = started(vendor, |_| {}).await;
        let mut session = begun(vendor, &mut call, &fake).await;
        call.during(session.peer.close(1008, &format!("policy, {KEY}"))).await;
        call.end().await;
        let fault = failed(&call);
        assert!(fault.message.contains("1008: \"policy, ***\""), "{vendor:?}: {fault:?}");
    }
    for vendor in [Vendor::ElevenLabs, Vendor::Ultravox] {
        let (mut call, fake) = started(vendor, |_| {}).await;
        let mut session = begun(vendor, &mut call, &fake).await;
        call.during(session.peer.close(1000, "")).await;
        call.end().await;
        assert!(call.others().contains(&"hangup".to_owned()), "{vendor:?}: {:?}", call.others());
    }
}

#[tokio::test]
async fn what_is_no_protocol_changes_nothing() {
    for vendor in ALL {
        let (mut call, fake) = started(vendor, |_| {}).await;
        let mut session = begun(vendor, &mut call, &fake).await;
        for text in ["", "{", "[]", "null", "{\"type\":7}", "{\"type\":\"error\"}", "\u{0}", "{\"serverContent\":7}"] {
            call.during(session.peer.send(Message::text(text))).await;
        }
        // a message of more than 1 MiB: half a minute of speech, and then words
        let size = if vendor == Vendor::Gemini { 17 } else { 100 };
        call.during(session.begin_answer()).await;
        call.during(session.speak(&vendor.speech(LEVEL, size * 1_000))).await;
        call.until(|call| call.heard() >= size * 8_000 - 400).await;
        call.during(session.words("All of it.")).await;
        call.during(session.end_answer()).await;
        call.until(|call| call.others().iter().any(|event| event == "end 1" || event == "TurnDone")).await;
        let _: Sent<_> = call.agent.send(AgentInput::Played(UtteranceId(1)));
        call.until(|call| call.others().contains(&"agent: All of it.".to_owned())).await;
    }
}

#[tokio::test]
async fn garbage_below_the_protocol_is_a_broken_connection() {
    let vendor = Vendor::OpenAi;
    let (mut call, fake) = started(vendor, |_| {}).await;
    let mut session = begun(vendor, &mut call, &fake).await;
    answers(&mut call, &mut session, 0).await;
    call.during(session.peer.garbage()).await;
    begun(vendor, &mut call, &fake).await;
}

#[tokio::test]
async fn a_vendor_that_is_silent_for_ever_is_given_up() {
    for vendor in [Vendor::OpenAi, Vendor::Gemini] {
        let (mut call, fake) = started(vendor, |config| config.connect_timeout_ms = 200).await;
        let silent = async {
            let mut taken = Vec::new();
            loop {
                taken.push(fake.accept().await);
            }
        };
        tokio::select! {
            () = call.end() => {}
            () = silent => {}
        }
        let fault = failed(&call);
        assert_eq!(fault.code, "agent.sts.timeout", "{fault:?}");
        assert!(fault.message.contains("did not begin within 200 ms"), "{fault:?}");
    }
    // and one that takes what it is asked and never answers
    let (mut call, fake) = started(Vendor::OpenAi, |config| config.silent_after_error_ms = 300).await;
    let _session = begun(Vendor::OpenAi, &mut call, &fake).await;
    let _ = call.press('1');
    call.until(|call| call.others() == ["degraded agent.sts.silent"]).await;
    let _next = begun(Vendor::OpenAi, &mut call, &fake).await;
    let _ = call.press('2');
    call.end().await;
    assert_eq!(failed(&call).code, "agent.sts.silent");
}

#[tokio::test]
async fn the_callers_words_come_in_order_and_those_of_the_agent_as_they_were_heard() {
    let vendor = Vendor::OpenAi;
    let (mut call, fake) = started(vendor, |_| {}).await;
    let mut session = begun(vendor, &mut call, &fake).await;
    let committed = |item: &str| json!({"type": "input_audio_buffer.committed", "item_id": item});
    let completed = |item: &str, text: &str| json!({"type": "conversation.item.input_audio_transcription.completed", "item_id": item, "transcript": text});
    let failed = json!({"type": "conversation.item.input_audio_transcription.failed", "item_id": "b", "error": {"message": "noise"}});
    call.during(session.say(&[
        committed("a"),
        committed("b"),
        committed("c"),
        completed("c", "three"),
        failed,
        completed("a", "one"),
    ]))
    .await;
    call.until(|call| call.others().contains(&"user: three".to_owned())).await;
    let said = call.events.iter().filter_map(|event| match event {
        AgentEvent::Transcript { role: Role::User, text, is_final: true } => Some(text.as_str()),
        _ => None,
    });
    let said: Vec<_> = said.collect();
    assert_eq!(said, ["one", "three"]);
}

#[tokio::test]
async fn a_session_is_renewed_before_the_vendor_ends_it() {
    let vendor = Vendor::Gemini;
    let (mut call, fake) = started(vendor, |_| {}).await;
    let mut session = begun(vendor, &mut call, &fake).await;
    let handle = json!({"sessionResumptionUpdate": {"newHandle": "h1", "resumable": true}});
    call.during(session.say(&[handle, json!({"goAway": {"timeLeft": "2s"}})])).await;
    // the old one still serves while the next one is made
    let mut next = call.during(Session::connected(vendor, &fake)).await;
    let setup = call.during(next.peer.json()).await;
    assert_eq!(setup["setup"]["sessionResumption"], json!({"handle": "h1"}));
    call.say(Rate::R8K, &speech(1_600));
    call.during(next.say(&[json!({"setupComplete": {}})])).await;
    call.during(next.heard(4_000)).await;
    answers(&mut call, &mut next, 0).await;
    assert!(!call.others().iter().any(|event| event.starts_with("degraded")), "{:?}", call.others());
}

#[tokio::test]
async fn errors_of_a_session_are_told_and_the_session_goes_on() {
    let vendor = Vendor::OpenAi;
    let (mut call, fake) = started(vendor, |_| {}).await;
    let mut session = begun(vendor, &mut call, &fake).await;
    let error = json!({"type": "error", "error": {"type": "invalid_request_error", "code": "odd", "message": format!("Not with {KEY}.")}});
    call.during(session.say(&[error])).await;
    call.until(|call| call.others() == ["degraded agent.sts.error"]).await;
    answers(&mut call, &mut session, 0).await;
    assert!(!format!("{:?}", call.events).contains(KEY));
    assert!(call.others().contains(&"restored".to_owned()));
    // before it is set up an error is about the settings: they would be wrong again
    let (mut call, fake) = started(vendor, |_| {}).await;
    let mut session = call.during(Session::connected(vendor, &fake)).await;
    let error = json!({"type": "error", "error": {"type": "invalid_request_error", "code": "invalid_value", "message": "No such voice."}});
    call.during(session.say(&[error])).await;
    call.end().await;
    assert!(failed(&call).message.ends_with("it reports invalid_value: \"No such voice.\""));
}
