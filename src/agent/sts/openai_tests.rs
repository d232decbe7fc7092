use proptest::prelude::*;

use super::*;
use crate::agent::sts::testing::{self, messages, named, setup};

fn told(dialect: &mut OpenAi, event: Value) -> Vec<Told> {
    testing::told(dialect, &event)
}

/// A session that is set up, and what it was told.
fn open(text: &str) -> (OpenAi, Value) {
    let mut dialect = OpenAi::new(Rate::R8K, named(text));
    assert!(dialect.open(&setup(&[])).is_empty());
    let created = told(&mut dialect, json!({"type": "session.created", "session": {}}));
    let [Told::Send(Message::Text(update))] = &created[..] else { panic!("{created:?}") };
    let update = serde_json::from_str(update).unwrap();
    assert!(told(&mut dialect, json!({"type": "conversation.created"})).is_empty());
    assert!(matches!(told(&mut dialect, json!({"type": "session.updated"}))[..], [Told::Ready]));
    (dialect, update)
}

fn address(text: &str) -> (String, http::HeaderMap) {
    match OpenAi::new(Rate::R8K, named(text)).target(&setup(&[])) {
        Target::Socket(url, headers) => (url.into(), headers),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_dialect_has_its_address_and_key() {
    let (url, headers) = address("openai:gpt-realtime-2.1");
    assert_eq!(url, "wss://api.openai.com/v1/realtime?model=gpt-realtime-2.1");
    assert_eq!((headers["authorization"].to_str().unwrap(), headers.len()), ("Bearer hunter2", 1));
    let (url, headers) = address("azure:voice?base_url=https://x.openai.azure.com/openai/v1");
    assert_eq!(url, "wss://x.openai.azure.com/openai/v1/realtime?model=voice");
    assert_eq!(headers["api-key"], "hunter2");
    let preview = "azure:voice?api_version=2024-10-01-preview&base_url=https://x.openai.azure.com/openai/v1";
    let (url, _) = address(preview);
    assert_eq!(url, "wss://x.openai.azure.com/openai/realtime?api-version=2024-10-01-preview&deployment=voice");
    let (url, headers) = address("openai:m?dialect=beta&base_url=http://speaches:8000/v1");
    assert_eq!(url, "ws://speaches:8000/v1/realtime?model=m");
    assert_eq!(headers["openai-beta"], "realtime=v1");
    assert_eq!(address("xai:").0, "wss://api.x.ai/v1/realtime?model=grok-voice-latest");
}

#[test]
fn a_session_is_set_up_for_a_telephone() {
    let (_, update) = open("openai:m?voice=marin&threshold=0.6&noise_reduction=near_field");
    let detection =
        json!({"type": "server_vad", "threshold": 0.6, "create_response": true, "interrupt_response": true});
    assert_eq!(
        update,
        json!({"type": "session.update", "session": {
            "type": "realtime", "output_modalities": ["audio"], "instructions": "Be kind.",
            "audio": {
                "input": {"format": {"type": "audio/pcmu"}, "turn_detection": detection,
                    "transcription": {"model": "gpt-transcribe", "language": "de"}, "noise_reduction": {"type": "near_field"}},
                "output": {"format": {"type": "audio/pcmu"}, "voice": "marin"},
            },
        }})
    );
    let (_, update) = open("azure:m?api_version=1&voice=alloy&base_url=https://x.example/openai");
    let session = &update["session"];
    assert_eq!((&session["input_audio_format"], &session["voice"]), (&json!("g711_ulaw"), &json!("alloy")));
    assert!(session.get("type").is_none() && session.get("audio").is_none());
    let (_, update) = open("xai:?voice=ara&format=pcm");
    let session = &update["session"];
    assert_eq!(session["audio"]["input"]["format"], json!({"type": "audio/pcm", "rate": 8_000}));
    assert_eq!((&session["voice"], &session["turn_detection"]), (&json!("ara"), &json!({"type": "server_vad"})));
}

#[test]
fn what_was_said_before_is_told_to_the_next_session() {
    let (mut dialect, _) = open("openai:m");
    let call = ToolCall { id: "c".into(), name: "crm".into(), arguments: "{}".into(), signature: None };
    let past = [Past::Caller("Hi.".into()), Past::Agent("Hello.".into()), Past::Tool(call, "seven".into())];
    let said = messages(dialect.ready(&Setup { owed: true, ..setup(&past) }));
    let kinds: Vec<_> = said.iter().map(|message| message["item"]["type"].as_str().unwrap_or("response")).collect();
    assert_eq!(kinds, ["message", "message", "function_call", "function_call_output", "response"]);
    assert_eq!(said[1]["item"]["content"][0], json!({"type": "output_text", "text": "Hello."}));
}

#[test]
fn an_interruption_cuts_what_was_not_heard_and_drops_what_comes_late() {
    let (mut dialect, _) = open("openai:m");
    told(&mut dialect, json!({"type": "response.created", "response": {"id": "r1"}}));
    let delta = json!({"type": "response.output_audio.delta", "response_id": "r1", "item_id": "i1", "content_index": 1, "delta": "////"});
    assert!(matches!(&told(&mut dialect, delta.clone())[..], [Told::Audio { turn, .. }] if turn == "i1"));
    let cut = |turn: &str, ms, whole| Cut { turn: turn.into(), heard: Duration::from_millis(ms), whole };
    let said = messages(dialect.interrupt(&[cut("i0", 900, true), cut("i1", 420, false), cut("i2", 0, false)]));
    assert_eq!(
        said,
        [
            json!({"type": "response.cancel", "response_id": "r1"}),
            json!({"type": "conversation.item.truncate", "item_id": "i1", "content_index": 1, "audio_end_ms": 420}),
            json!({"type": "conversation.item.delete", "item_id": "i2"}),
        ]
    );
    assert!(told(&mut dialect, delta).is_empty());
    let done = json!({"type": "response.done", "response": {"id": "r1", "status": "cancelled"}});
    assert!(matches!(told(&mut dialect, done)[..], [Told::TurnDone]));
    // when the vendor has heard the caller it cancels by itself
    told(&mut dialect, json!({"type": "response.created", "response": {"id": "r2"}}));
    let started = told(&mut dialect, json!({"type": "input_audio_buffer.speech_started", "item_id": "u"}));
    assert!(matches!(started[..], [Told::Interrupted]));
    assert!(dialect.interrupt(&[]).is_empty());
}

#[test]
fn a_tool_is_wanted_once_however_often_it_is_told_and_answered_when_the_response_is_done() {
    let (mut dialect, _) = open("openai:m");
    told(&mut dialect, json!({"type": "response.created", "response": {"id": "r"}}));
    let item = json!({"type": "function_call", "call_id": "c", "name": "crm", "arguments": "{\"id\":7}"});
    told(
        &mut dialect,
        json!({"type": "response.function_call_arguments.done", "call_id": "c", "arguments": "{\"id\":7}"}),
    );
    told(&mut dialect, json!({"type": "response.output_item.done", "item": item}));
    let usage = json!({"input_tokens": 20, "output_tokens": 5, "input_token_details": {"cached_tokens": 3}});
    let done = told(
        &mut dialect,
        json!({"type": "response.done", "response": {"id": "r", "status": "completed", "output": [item], "usage": usage}}),
    );
    let [Told::Usage { model: None, usage }, Told::Calls(calls)] = &done[..] else { panic!("{done:?}") };
    assert_eq!((usage.input, usage.cached, usage.output), (20, 3, 5));
    assert_eq!((calls.len(), calls[0].name.as_str(), calls[0].arguments.as_str()), (1, "crm", "{\"id\":7}"));
    // while another response is made its own waits
    told(&mut dialect, json!({"type": "response.created", "response": {"id": "r2"}}));
    let said = messages(dialect.result(&calls[0], &Outcome::done("sent".into()), true, true));
    assert_eq!(
        said,
        [
            json!({"type": "conversation.item.create", "item": {"type": "function_call_output", "call_id": "c", "output": "sent"}})
        ]
    );
    let done = told(&mut dialect, json!({"type": "response.done", "response": {"id": "r2", "status": "completed"}}));
    assert!(
        matches!(&done[..], [Told::TurnDone, Told::Send(message)] if message.to_string().contains("response.create"))
    );
}

#[test]
fn faults_are_told_in_the_vendors_words() {
    let (mut dialect, _) = open("openai:m");
    let error = |code: &str| json!({"type": "error", "error": {"type": "invalid_request_error", "code": code, "message": "Why."}});
    assert!(told(&mut dialect, error("response_cancel_not_active")).is_empty());
    assert!(matches!(&told(&mut dialect, error("x"))[..], [Told::Trouble(what)] if what == "it reports x: \"Why.\""));
    assert!(matches!(&told(&mut dialect, error("session_expired"))[..], [Told::Fatal(fatal)] if fatal.again));
    let failed = json!({"type": "response.done", "response": {"id": "r", "status": "failed", "status_details": {"error": {"code": "rate_limit_exceeded", "message": "Slow."}}}});
    let first = told(&mut dialect, failed.clone());
    assert!(matches!(&first[..], [Told::Trouble(_), Told::Send(_)]), "{first:?}");
    let second = told(&mut dialect, failed);
    assert!(matches!(&second[..], [Told::Fatal(fatal)] if !fatal.again && fatal.code == Some("agent.sts.quota")));
    let mut young = OpenAi::new(Rate::R8K, named("openai:m"));
    young.open(&setup(&[]));
    assert!(matches!(&told(&mut young, error("invalid_value"))[..], [Told::Fatal(fatal)] if !fatal.again));
}

#[test]
fn names_of_the_beta_are_understood() {
    let (mut dialect, _) = open("openai:m?dialect=beta&base_url=http://speaches:8000/v1");
    let delta = json!({"type": "response.audio.delta", "response_id": "r", "item_id": "i", "delta": "////"});
    assert!(matches!(told(&mut dialect, delta)[..], [Told::Audio { .. }]));
    let words = json!({"type": "response.audio_transcript.done", "item_id": "i", "transcript": "Hi."});
    assert!(matches!(&told(&mut dialect, words)[..], [Told::Words { text, whole: true, .. }] if text == "Hi."));
}

proptest! {
    #[test]
    fn any_text_ends(text in any::<String>(), kind in "[a-z_.]{0,40}", value in any::<String>()) {
        let (mut dialect, _) = open("openai:m");
        dialect.read(Incoming::Text(&text), &mut Vec::new());
        told(&mut dialect, json!({"type": kind, "delta": value, "item_id": value, "response": {"id": value}}));
    }
}

#[test]
fn what_transcription_costs_is_put_down_to_its_model() {
    for (service, model) in [
        ("openai:m", "gpt-transcribe"),
        ("openai:m?transcribe=gpt-4o-transcribe", "gpt-4o-transcribe"),
        ("openai:m?dialect=beta", "whisper-1"),
        ("azure:m?base_url=https://x.openai.azure.com/openai/v1", "gpt-4o-mini-transcribe"),
        ("xai:grok", "grok"),
    ] {
        let (mut dialect, _) = open(service);
        let usage = json!({"type": "tokens", "input_tokens": 9, "output_tokens": 3});
        let done = json!({"type": "conversation.item.input_audio_transcription.completed", "item_id": "a", "transcript": "Hi.", "usage": usage});
        let done = told(&mut dialect, done);
        let [Told::Usage { model: Some(told), usage }, Told::Caller { .. }] = &done[..] else { panic!("{done:?}") };
        assert_eq!((told.as_str(), usage.input, usage.output), (model, 9, 3), "{service}");
    }
}
