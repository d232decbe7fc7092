use proptest::prelude::*;

use super::*;
use crate::agent::sts::testing::{address, call, messages, named, setup, told, tool};

fn open(text: &str, setup: &Setup<'_>) -> (Live, Value) {
    let mut dialect = Live::new(named(text));
    let said = messages(dialect.open(setup)).remove(0);
    assert!(matches!(told(&mut dialect, &json!({"setupComplete": {"sessionId": "s"}}))[..], [Told::Ready]));
    (dialect, said)
}

fn audio(mime: &str) -> Value {
    json!({"serverContent": {"modelTurn": {"parts": [{"text": "Hm.", "thought": true}, {"inlineData": {"mimeType": mime, "data": "AAAA"}}]}}})
}

#[test]
fn a_session_is_set_up_at_the_address_of_its_model() {
    let (mut dialect, said) = open(
        "gemini:gemini-x?voice=Puck&end_sensitivity=low&silence_duration_ms=500",
        &Setup { tools: &[tool()], ..setup(&[]) },
    );
    let (url, key) = address(&mut dialect, "x-goog-api-key");
    let path = "ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent";
    assert_eq!((url, key.as_str()), (format!("wss://generativelanguage.googleapis.com/{path}"), "hunter2"));
    let setup = &said["setup"];
    assert_eq!(setup["model"], "models/gemini-x");
    assert_eq!(setup["generationConfig"]["speechConfig"]["voiceConfig"]["prebuiltVoiceConfig"]["voiceName"], "Puck");
    let detection = &setup["realtimeInputConfig"]["automaticActivityDetection"];
    assert_eq!(
        *detection,
        json!({"disabled": false, "endOfSpeechSensitivity": "END_SENSITIVITY_LOW", "silenceDurationMs": 500})
    );
    assert_eq!(setup["tools"][0]["functionDeclarations"][0]["name"], "crm");
    assert_eq!(
        (&setup["systemInstruction"]["parts"][0]["text"], &setup["sessionResumption"]),
        (&json!("Be kind."), &json!({}))
    );
}

#[test]
fn the_callers_words_are_whole_when_the_agent_answers() {
    let (mut dialect, _) = open("gemini:m", &setup(&[]));
    for (text, so_far) in [(" Hello", "Hello"), (" there.", "Hello there.")] {
        let heard = told(&mut dialect, &json!({"serverContent": {"inputTranscription": {"text": text}}}));
        assert!(matches!(&heard[..], [Told::Caller { text, is_final: false, .. }] if text == so_far), "{heard:?}");
    }
    let answer = told(&mut dialect, &audio("audio/pcm;rate=24000"));
    let [Told::Caller { text, is_final: true, .. }, Told::Audio { audio, .. }] = &answer[..] else {
        panic!("{answer:?}")
    };
    assert_eq!((text.as_str(), audio.len()), ("Hello there.", 3));
    let wrong = told(&mut dialect, &self::audio("audio/pcm;rate=48000"));
    assert!(matches!(&wrong[..], [Told::Trouble(_)]), "{wrong:?}");
    let done = json!({"serverContent": {"generationComplete": true, "turnComplete": true}, "usageMetadata": {"promptTokenCount": 7, "responseTokenCount": 3}});
    let done = told(&mut dialect, &done);
    assert!(
        matches!(&done[..], [Told::AudioDone(_), Told::TurnDone, Told::Usage { usage, .. }] if usage.input == 7 && usage.output == 3),
        "{done:?}"
    );
}

#[test]
fn an_interruption_begins_another_turn_and_ours_leaves_the_rest_out() {
    let (mut dialect, _) = open("gemini:m", &setup(&[]));
    told(&mut dialect, &audio("audio/pcm"));
    assert!(matches!(told(&mut dialect, &json!({"serverContent": {"interrupted": true}}))[..], [Told::Interrupted]));
    dialect.interrupt(&[]);
    assert_eq!(told(&mut dialect, &audio("audio/pcm")).len(), 1);
    dialect.interrupt(&[]);
    assert!(told(&mut dialect, &audio("audio/pcm")).is_empty());
    told(&mut dialect, &json!({"serverContent": {"turnComplete": true}}));
    assert_eq!(told(&mut dialect, &audio("audio/pcm")).len(), 1);
}

#[test]
fn tools_are_called_given_up_and_answered() {
    let (mut dialect, _) = open("gemini:m", &setup(&[]));
    let wanted =
        told(&mut dialect, &json!({"toolCall": {"functionCalls": [{"id": "c1", "name": "crm", "args": {"id": "7"}}]}}));
    assert!(matches!(&wanted[..], [Told::Calls(calls)] if *calls == [call()]), "{wanted:?}");
    let dropped = told(&mut dialect, &json!({"toolCallCancellation": {"ids": ["c1"]}}));
    assert!(matches!(&dropped[..], [Told::Dropped(ids)] if *ids == ["c1"]));
    let said = messages(dialect.result(&call(), &Outcome::failed("why".into()), true, true));
    let response = json!({"id": "c1", "name": "crm", "response": {"error": "It failed: why"}});
    assert_eq!(said, [json!({"toolResponse": {"functionResponses": [response]}})]);
}

#[test]
fn the_next_connection_goes_on_from_the_handle_or_from_what_was_said() {
    let past = [Past::Caller("Hi.".into()), Past::Agent("Hello.".into())];
    let (mut dialect, _) = open("gemini:m", &setup(&[]));
    assert!(told(&mut dialect, &json!({"sessionResumptionUpdate": {"newHandle": "h", "resumable": true}})).is_empty());
    let away = told(&mut dialect, &json!({"goAway": {"timeLeft": "9.5s"}}));
    assert!(matches!(away[..], [Told::Renew(left)] if left == Duration::from_millis(9_500)));
    let said = messages(dialect.open(&setup(&past)));
    assert_eq!(said[0]["setup"]["sessionResumption"], json!({"handle": "h"}));
    assert!(dialect.is_final(1008) && !dialect.is_final(1007));
    // it was not taken
    let said = messages(dialect.open(&setup(&past)));
    assert_eq!(said[0]["setup"]["sessionResumption"], json!({}));
    assert!(dialect.is_final(1007));
    let said = messages(dialect.ready(&Setup { owed: true, ..setup(&past) }));
    assert_eq!(
        (said[0]["clientContent"]["turns"].as_array().unwrap().len(), &said[0]["clientContent"]["turnComplete"]),
        (2, &json!(true))
    );
    let (mut dialect, _) = open("gemini:m", &setup(&[]));
    told(&mut dialect, &json!({"sessionResumptionUpdate": {"newHandle": "h", "resumable": true}}));
    dialect.open(&setup(&past));
    assert!(dialect.ready(&setup(&past)).is_empty());
}

proptest! {
    #[test]
    fn any_bytes_end(bytes in any::<Vec<u8>>(), left in ".{0,6}") {
        let (mut dialect, _) = open("gemini:m", &setup(&[]));
        dialect.read(Incoming::Binary(bytes.into()), &mut Vec::new());
        told(&mut dialect, &json!({"goAway": {"timeLeft": left}, "serverContent": {"outputTranscription": {"text": left}}}));
    }
}
