//! Every fault for every vendor of speech to speech.

use futures_util::future::join_all;
use hark::{
    agent::sts::Line,
    call::{AgentEvent, AgentInput, Link as _, Role, Sent, UtteranceId},
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::{
    Fake, KEY,
    sts_faults::{LEVEL, answers, begun, failed, started},
    sts_vendors::{ALL, Session, Vendor},
};
use crate::support::agent_call::AgentCall;

/// All vendors at once: each has fakes of its own.
async fn each<F: Future<Output = ()>>(test: impl Fn(Vendor) -> F) {
    join_all(ALL.map(test)).await;
}

fn without_key(call: &AgentCall<Line>, what: &str) {
    assert!(!format!("{:?}", call.events).contains(KEY), "{what}: the key is shown");
}

/// Whether a request comes before the WebSocket.
fn asks(vendor: Vendor) -> bool {
    matches!(vendor, Vendor::ElevenLabs | Vendor::Ultravox)
}

/// The next connection goes wrong.
async fn unconnected(fake: &Fake, trouble: &str) {
    match trouble {
        "half" => {
            let mut stream = fake.raw().await;
            stream.write_all(b"HTTP/1.1 101 Switching").await.unwrap();
        }
        "reset" => {
            let stream = fake.raw().await;
            socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        }
        "garbage" => {
            let mut stream = fake.raw().await;
            let _ = stream.write_all(&[0xFF; 200]).await;
        }
        status => fake.refuse(status, &json!({"error": {"message": format!("no luck with {KEY}")}}).to_string()).await,
    }
}

#[tokio::test]
async fn what_goes_wrong_before_a_session_is_tried_again() {
    each(async |vendor| {
        for trouble in ["500 Oh", "503 Busy", "429 Too Many Requests\r\nRetry-After: 0", "reset", "half", "garbage"] {
            // where a request comes first, with that, and then with the WebSocket
            for second in [false, true] {
                if second && !asks(vendor) {
                    continue;
                }
                let (mut call, fake) = started(vendor, |_| {}).await;
                if second {
                    call.during(vendor.ask(&fake)).await;
                }
                call.during(unconnected(&fake, trouble)).await;
                let mut session = begun(vendor, &mut call, &fake).await;
                answers(&mut call, &mut session, 0).await;
                let what = format!("{vendor:?}, {trouble}, {second}");
                assert!(call.others()[0].starts_with("degraded agent.sts."), "{what}: {:?}", call.others());
                assert_eq!(call.others()[1], "restored", "{what}");
                without_key(&call, &what);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_refusal_of_the_websocket_behind_a_request_is_for_good() {
    for vendor in ALL.into_iter().filter(|vendor| asks(*vendor)) {
        for (status, code) in [
            ("401 Unauthorized", "agent.sts.unauthorized"),
            ("402 Payment Required", "agent.sts.quota"),
            ("403 Forbidden", "agent.sts.unauthorized"),
        ] {
            let (mut call, fake) = started(vendor, |_| {}).await;
            call.during(vendor.ask(&fake)).await;
            call.during(unconnected(&fake, status)).await;
            call.end().await;
            let fault = failed(&call);
            assert_eq!(fault.code, code, "{vendor:?}: {fault:?}");
        }
        // an answer that names no address
        let (mut call, fake) = started(vendor, |_| {}).await;
        let nowhere = async {
            loop {
                fake.asked(|_, _| json!({"signed_url": "ftp://x", "joinUrl": 7})).await;
            }
        };
        tokio::select! {
            () = call.end() => {}
            () = nowhere => {}
        }
        assert_eq!(failed(&call).code, "agent.sts.failed", "{vendor:?}");
    }
}

#[tokio::test]
async fn who_wants_to_be_left_alone_for_long_is() {
    each(async |vendor| {
        let (mut call, fake) = started(vendor, |_| {}).await;
        call.during(unconnected(&fake, "429 Too Many Requests\r\nRetry-After: 60")).await;
        call.end().await;
        let fault = failed(&call);
        assert_eq!(fault.code, "agent.sts.quota", "{vendor:?}");
        assert!(
            fault.message.contains("left alone for 60 s") && fault.message.contains("no luck with ***"),
            "{fault:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn one_that_is_silent_for_ever_is_given_up() {
    each(async |vendor| {
        // a connection that is taken and never answered
        let (mut call, fake) = started(vendor, |config| config.connect_timeout_ms = 200).await;
        let silent = async {
            let mut taken = Vec::new();
            loop {
                taken.push(fake.raw().await);
            }
        };
        tokio::select! {
            () = call.end() => {}
            () = silent => {}
        }
        let fault = failed(&call);
        assert!(matches!(fault.code, "agent.sts.timeout" | "agent.sts.refused"), "{vendor:?}: {fault:?}");
        assert!(fault.message.contains("within 200 ms"), "{fault:?}");
        // and a session that takes what it is asked and never answers
        let (mut call, fake) = started(vendor, |config| config.silent_after_error_ms = 300).await;
        let _session = begun(vendor, &mut call, &fake).await;
        let _ = call.press('1');
        call.until(|call| call.others() == ["degraded agent.sts.silent"]).await;
        let _next = begun(vendor, &mut call, &fake).await;
        let _ = call.press('2');
        call.end().await;
        assert_eq!(failed(&call).code, "agent.sts.silent", "{vendor:?}");
    })
    .await;
}

#[tokio::test]
async fn garbage_below_the_protocol_within_a_word_is_a_broken_connection() {
    each(async |vendor| {
        let (mut call, fake) = started(vendor, |_| {}).await;
        let mut session = begun(vendor, &mut call, &fake).await;
        call.during(session.begin_answer()).await;
        call.during(session.speak(&vendor.speech(LEVEL, 200))).await;
        call.until(|call| call.heard() >= 1_500).await;
        call.during(session.peer.garbage()).await;
        let heard = call.heard();
        let mut session = begun(vendor, &mut call, &fake).await;
        answers(&mut call, &mut session, heard).await;
        assert!(!call.others().iter().any(|event| event.starts_with("failed")), "{vendor:?}: {:?}", call.others());
    })
    .await;
}

/// Codes of a vendor's own, and whether they are for good.
fn codes(vendor: Vendor) -> &'static [(u16, bool)] {
    match vendor {
        Vendor::ElevenLabs => &[(3000, true), (3003, true), (1002, false)],
        Vendor::Gemini => &[(1007, true)],
        _ => &[(1002, false)],
    }
}

#[tokio::test]
async fn codes_of_their_own_are_tried_again_or_for_good() {
    each(async |vendor| {
        for (code, is_final) in codes(vendor) {
            let (mut call, fake) = started(vendor, |_| {}).await;
            let mut session = begun(vendor, &mut call, &fake).await;
            call.during(session.peer.close(*code, &format!("why {KEY}"))).await;
            if *is_final {
                call.end().await;
                assert!(failed(&call).message.contains(&format!("code {code}: \"why ***\"")), "{vendor:?} {code}");
            } else {
                let mut session = begun(vendor, &mut call, &fake).await;
                answers(&mut call, &mut session, 0).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn errors_in_the_vendors_words_are_for_good_before_a_session_and_told_at_any_point_of_it() {
    each(async |vendor| {
        let (mut call, fake) = started(vendor, |_| {}).await;
        let mut session = call.during(Session::connected(vendor, &fake)).await;
        let Some(error) = session.error() else { return };
        call.during(session.say(std::slice::from_ref(&error))).await;
        call.end().await;
        assert!(failed(&call).message.contains("no luck with ***"), "{vendor:?}: {:?}", call.others());
        for point in ["before a word", "within a word", "behind an answer"] {
            let (mut call, fake) = started(vendor, |_| {}).await;
            let mut session = begun(vendor, &mut call, &fake).await;
            if point == "within a word" {
                call.during(session.begin_answer()).await;
                call.during(session.speak(&vendor.speech(LEVEL, 100)[..777])).await;
            } else if point == "behind an answer" {
                answers(&mut call, &mut session, 0).await;
            }
            call.during(session.say(std::slice::from_ref(&error))).await;
            call.until(|call| call.others().iter().any(|event| event.starts_with("degraded"))).await;
            if point == "within a word" {
                call.during(session.speak(&vendor.speech(LEVEL, 100)[777..])).await;
                call.during(session.end_answer()).await;
            }
            let heard = call.heard();
            answers(&mut call, &mut session, heard).await;
            without_key(&call, point);
            assert!(call.others().contains(&"restored".to_owned()), "{vendor:?}, {point}: {:?}", call.others());
        }
    })
    .await;
}

#[tokio::test]
async fn speech_that_is_none_is_left_out_and_speech_may_be_cut_anywhere() {
    each(async |vendor| {
        let (mut call, fake) = started(vendor, |_| {}).await;
        let mut session = begun(vendor, &mut call, &fake).await;
        call.during(session.begin_answer()).await;
        let audio = vendor.speech(LEVEL, 100);
        let (first, mut rest) = audio.split_at(301);
        call.during(session.speak(first)).await;
        if let Some(none) = session.no_base64() {
            call.during(session.say(&[none])).await;
        }
        call.during(session.speak(&[])).await;
        for len in (1..40).cycle() {
            let (piece, more) = rest.split_at(len.min(rest.len()));
            rest = more;
            call.during(session.speak(piece)).await;
            if rest.is_empty() {
                break;
            }
        }
        call.during(session.end_answer()).await;
        call.until(|call| call.others().iter().any(|event| event == "end 1" || event == "TurnDone")).await;
        let heard = call.audio();
        assert!((776..=830).contains(&heard.len()), "{vendor:?}: {} samples", heard.len());
        let right = heard.iter().filter(|sample| sample.abs_diff(LEVEL) < 500).count();
        // a filter takes a moment at both ends
        assert!(right > 740, "{vendor:?}: {right} of {} samples", heard.len());
    })
    .await;
}

#[tokio::test]
async fn a_format_that_was_not_asked_for_is_understood_or_refused() {
    // the server knows better
    let (mut call, fake) = started(Vendor::OpenAi, |_| {}).await;
    let mut session = call.during(Session::connected(Vendor::OpenAi, &fake)).await;
    let agree = |format: Value| json!({"type": "session.updated", "session": {"audio": {"input": {"format": format}, "output": {"format": format}}}});
    call.during(session.say(&[json!({"type": "session.created", "session": {}})])).await;
    assert_eq!(call.during(session.said()).await["type"], "session.update");
    call.during(session.say(&[agree(json!({"type": "audio/pcm", "rate": 24_000}))])).await;
    call.during(session.begin_answer()).await;
    call.during(session.speak(&LEVEL.to_le_bytes().repeat(2_400))).await;
    call.during(session.end_answer()).await;
    call.until(|call| call.others().contains(&"end 1".to_owned())).await;
    let heard = call.audio();
    assert!((776..=830).contains(&heard.len()), "{} samples", heard.len());
    assert!(heard.iter().filter(|sample| sample.abs_diff(LEVEL) < 500).count() > 740);
    // and one that nobody understands
    let (mut call, fake) = started(Vendor::OpenAi, |_| {}).await;
    let mut session = call.during(Session::connected(Vendor::OpenAi, &fake)).await;
    call.during(session.say(&[json!({"type": "session.created", "session": {}})])).await;
    call.during(session.said()).await;
    call.during(session.say(&[agree(json!({"type": "audio/opus"}))])).await;
    call.end().await;
    let fault = failed(&call);
    assert!(fault.code == "agent.sts.format" && fault.message.contains("audio/opus"), "{fault:?}");

    let (mut call, fake) = started(Vendor::ElevenLabs, |_| {}).await;
    let mut session = call.during(Session::connected(Vendor::ElevenLabs, &fake)).await;
    let formats = json!({"conversation_id": "c", "agent_output_audio_format": "mp3_44100", "user_input_audio_format": "ulaw_8000"});
    let metadata =
        json!({"type": "conversation_initiation_metadata", "conversation_initiation_metadata_event": formats});
    call.during(session.say(&[metadata])).await;
    call.end().await;
    assert_eq!(failed(&call).code, "agent.sts.format");

    let (mut call, fake) = started(Vendor::Gemini, |_| {}).await;
    let mut session = begun(Vendor::Gemini, &mut call, &fake).await;
    for mime in ["audio/pcm;rate=16000", "audio/mpeg", ""] {
        let part = json!({"inlineData": {"mimeType": mime, "data": "AAAA"}});
        call.during(session.say(&[json!({"serverContent": {"modelTurn": {"parts": [part]}}})])).await;
    }
    call.until(|call| call.others() == ["degraded agent.sts.error"]).await;
    assert_eq!(call.heard(), 0);
    answers(&mut call, &mut session, 0).await;
}

#[tokio::test]
async fn texts_that_are_cut_inside_of_characters_are_whole() {
    each(async |vendor| {
        let (mut call, fake) = started(vendor, |_| {}).await;
        let mut session = begun(vendor, &mut call, &fake).await;
        session.crumbs = true;
        let (asked, said) = ("abc, Gr\u{fc}\u{df}e \u{1f642} \u{4f60}", "Ren\u{e9}e, \u{597d} \u{1f642}.");
        call.during(session.caller(asked)).await;
        call.during(session.begin_answer()).await;
        call.during(session.words(said)).await;
        call.during(session.speak(&vendor.speech(LEVEL, 40))).await;
        call.during(session.end_answer()).await;
        call.until(|call| call.others().iter().any(|event| event == "end 1" || event == "TurnDone")).await;
        let _: Sent<_> = call.agent.send(AgentInput::Played(UtteranceId(1)));
        let (asked, said) = (format!("user: {asked}"), format!("agent: {said}"));
        call.until(|call| call.others().contains(&asked) && call.others().contains(&said)).await;
    })
    .await;
}

#[tokio::test]
async fn late_speech_of_an_answer_that_was_cut_is_not_heard() {
    const LATE: i16 = -7_932;
    for vendor in ALL {
        // its word for an interruption is the last of the answer
        if matches!(vendor, Vendor::Gemini | Vendor::Ultravox) {
            continue;
        }
        let (mut call, fake) = started(vendor, |_| {}).await;
        let mut session = begun(vendor, &mut call, &fake).await;
        call.during(session.begin_answer()).await;
        call.during(session.speak(&vendor.speech(LEVEL, 1_000))).await;
        call.until(|call| call.heard() >= 7_900).await;
        call.during(session.interrupts()).await;
        call.until(|call| call.others().contains(&"interruption".to_owned())).await;
        let cut =
            AgentInput::Interrupt { utterance: Some(UtteranceId(1)), heard: std::time::Duration::from_millis(300) };
        let _: Sent<_> = call.agent.send(cut);
        let late = vendor.speech(LATE, 200);
        if vendor == Vendor::ElevenLabs {
            use base64::{Engine as _, prelude::BASE64_STANDARD};
            let data = BASE64_STANDARD.encode(&late);
            let late = json!({"type": "audio", "audio_event": {"audio_base_64": data, "event_id": 1}});
            call.during(session.say(&[late])).await;
        } else {
            call.during(session.speak(&late)).await;
        }
        if vendor.is_openai() {
            let done = json!({"type": "response.done", "response": {"id": "resp_1", "status": "cancelled"}});
            call.during(session.say(&[done])).await;
        }
        call.during(session.caller("stop please")).await;
        let heard = call.heard();
        answers(&mut call, &mut session, heard).await;
        assert!(call.audio().iter().all(|sample| *sample > -500), "{vendor:?}: late speech is heard");
    }
}

#[tokio::test]
async fn words_of_the_caller_that_come_twice_are_told_once() {
    for vendor in ALL.into_iter().filter(|vendor| vendor.is_openai()) {
        let (mut call, fake) = started(vendor, |_| {}).await;
        let mut session = begun(vendor, &mut call, &fake).await;
        let completed = |item: &str, text: &str| json!({"type": "conversation.item.input_audio_transcription.completed", "item_id": item, "transcript": text});
        let committed = |item: &str| json!({"type": "input_audio_buffer.committed", "item_id": item});
        let messages = [
            committed("a"),
            completed("a", "one"),
            completed("a", "one"),
            committed("b"),
            completed("a", "one"),
            completed("b", "two"),
            completed("b", "two"),
            completed("c", "three"),
        ];
        call.during(session.say(&messages)).await;
        call.until(|call| call.others().contains(&"user: three".to_owned())).await;
        let said = call.events.iter().filter_map(|event| match event {
            AgentEvent::Transcript { role: Role::User, text, is_final: true } => Some(text.as_str()),
            _ => None,
        });
        assert_eq!(said.collect::<Vec<_>>(), ["one", "two", "three"], "{vendor:?}");
    }
}
