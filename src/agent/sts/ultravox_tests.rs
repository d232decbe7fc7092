use proptest::prelude::*;

use super::*;
use crate::agent::sts::testing::{address, call, messages, named, setup, told, tool as a_tool};

fn ultravox(text: &str) -> Ultravox {
    Ultravox::new(Rate::R8K, named(text))
}

fn asked(dialect: &mut Ultravox, setup: &Setup<'_>) -> Value {
    match dialect.target(setup) {
        Target::Ask { body: Some(body), field: "joinUrl", .. } => body,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_is_made_with_all_that_it_needs() {
    let mut dialect = ultravox("ultravox:ultravox-v0.7?voice=Mark&temperature=0.4&language=de");
    assert_eq!(
        address(&mut dialect, "x-api-key"),
        ("https://api.ultravox.ai/api/calls".to_owned(), "hunter2".to_owned())
    );
    let body = asked(&mut dialect, &Setup { greeting: Some("Hi."), tools: &[a_tool()], ..setup(&[]) });
    let parameter =
        json!({"name": "id", "location": "PARAMETER_LOCATION_BODY", "schema": {"type": "string"}, "required": true});
    let tool = json!({"temporaryTool": {"modelToolName": "crm", "description": "Looks up.", "dynamicParameters": [parameter], "client": {}}});
    assert_eq!(
        body,
        json!({
            "medium": {"serverWebSocket": {"inputSampleRate": 8_000, "outputSampleRate": 8_000, "clientBufferSizeMs": 30_000}},
            "firstSpeakerSettings": {"agent": {"text": "Hi."}}, "systemPrompt": "Be kind.", "model": "ultravox-v0.7",
            "voice": "Mark", "temperature": 0.4, "languageHint": "de", "selectedTools": [tool],
        })
    );
    let mut dialect = ultravox("ultravox:?agent=a%2F1");
    assert_eq!(address(&mut dialect, "").0, "https://api.ultravox.ai/api/agents/a%2F1/calls");
    assert!(asked(&mut dialect, &setup(&[])).get("systemPrompt").is_none());
    let body = asked(&mut dialect, &setup(&[Past::Caller("Hi.".into())]));
    assert_eq!(body["initialMessages"], json!([{"role": "MESSAGE_ROLE_USER", "text": "Hi."}]));
    assert_eq!(body["firstSpeakerSettings"], json!({"user": {}}));
}

#[test]
fn turns_end_with_its_state_and_are_taken_back_by_its_word() {
    let mut dialect = ultravox("ultravox:m");
    let state = |state: &str| json!({"type": "state", "state": state});
    assert!(told(&mut dialect, &state("speaking")).is_empty());
    let cut = Cut { turn: dialect.key(), heard: Duration::ZERO, whole: false };
    dialect.interrupt(&[cut]);
    let mut heard = Vec::new();
    dialect.read(Incoming::Binary(Bytes::from_static(&[0; 2])), &mut heard);
    assert!(heard.is_empty());
    assert!(matches!(told(&mut dialect, &state("listening"))[..], [Told::TurnDone]));
    assert!(matches!(told(&mut dialect, &json!({"type": "playback_clear_buffer"}))[..], [Told::Interrupted]));
    dialect.read(Incoming::Binary(Bytes::from_static(&[0; 2])), &mut heard);
    assert!(matches!(&heard[..], [Told::Audio { .. }]));
}

#[test]
fn words_come_in_pieces_or_whole() {
    let mut dialect = ultravox("ultravox:m");
    let said = |role: &str, field: &str, text: &str, last: bool| {
        let mut said = json!({"type": "transcript", "role": role, "medium": "voice", "final": last, "ordinal": 1});
        said[field] = json!(text);
        said
    };
    told(&mut dialect, &said("user", "delta", "Hel", false));
    let heard = told(&mut dialect, &said("user", "delta", "lo", true));
    assert!(matches!(&heard[..], [Told::Caller { text, is_final: true, .. }] if text == "Hello"), "{heard:?}");
    let heard = told(&mut dialect, &said("agent", "text", "Hi.", true));
    assert!(matches!(&heard[..], [Told::Words { text, whole: true, .. }] if text == "Hi."), "{heard:?}");
}

#[test]
fn tools_are_called_and_answered() {
    let mut dialect = ultravox("ultravox:m");
    let wanted =
        json!({"type": "client_tool_invocation", "toolName": "crm", "invocationId": "c1", "parameters": {"id": "7"}});
    let wanted = told(&mut dialect, &wanted);
    assert!(matches!(&wanted[..], [Told::Calls(calls)] if *calls == [call()]), "{wanted:?}");
    let said = messages(dialect.result(&call(), &Outcome::done("sent".into()), true, true));
    assert_eq!(
        said,
        [
            json!({"type": "client_tool_result", "invocationId": "c1", "result": "sent", "responseType": "tool-response"})
        ]
    );
    let said = messages(dialect.result(&call(), &Outcome::failed("why".into()), true, true));
    assert_eq!(said[0]["errorMessage"], "It failed: why");
}

proptest! {
    #[test]
    fn any_text_ends(text in any::<String>(), kind in "[a-z_]{0,30}", value in any::<String>()) {
        let mut dialect = ultravox("ultravox:m");
        dialect.read(Incoming::Text(&text), &mut Vec::new());
        told(&mut dialect, &json!({"type": kind, "role": "user", "delta": value, "state": value}));
    }
}
