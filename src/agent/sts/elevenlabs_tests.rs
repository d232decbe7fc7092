use proptest::prelude::*;

use super::*;
use crate::agent::sts::testing::{address, call, messages, named, sent, setup, told};

fn metadata(up: &str, down: &str) -> Value {
    json!({"type": "conversation_initiation_metadata", "conversation_initiation_metadata_event": {
        "conversation_id": "c", "agent_output_audio_format": down, "user_input_audio_format": up}})
}

fn open(text: &str, setup: &Setup<'_>) -> (Agent, Value) {
    let mut dialect = Agent::new(Rate::R8K, named(text));
    let said = messages(dialect.open(setup)).remove(0);
    assert!(matches!(told(&mut dialect, &metadata("ulaw_8000", "pcm_16000"))[..], [Told::Ready]));
    (dialect, said)
}

fn audio(id: i64) -> Value {
    json!({"type": "audio", "audio_event": {"audio_base_64": "AAAA", "event_id": id, "alignment": null}})
}

#[test]
fn only_what_was_set_overrides_the_agent() {
    let (mut dialect, said) = open("elevenlabs:agent_1", &Setup { prompt: None, ..setup(&[]) });
    assert_eq!(said, json!({"type": "conversation_initiation_client_data", "dynamic_variables": {"from": "2000"}}));
    let (url, key) = address(&mut dialect, "xi-api-key");
    assert_eq!(url, "https://api.elevenlabs.io/v1/convai/conversation/get-signed-url?agent_id=agent_1");
    assert_eq!(key, "hunter2");
    let (_, said) = open("elevenlabs:a?voice=v&language=de", &Setup { greeting: Some("Hi."), ..setup(&[]) });
    let agent = json!({"prompt": {"prompt": "Be kind."}, "first_message": "Hi.", "language": "de"});
    assert_eq!(said["conversation_config_override"], json!({"agent": agent, "tts": {"voice_id": "v"}}));
}

#[test]
fn the_formats_are_the_agents() {
    let (dialect, _) = open("elevenlabs:a", &setup(&[]));
    assert_eq!(dialect.formats(), Formats { up: Coding::g711(Law::Ulaw), down: Coding::linear(Rate::R16K) });
    let mut other = Agent::new(Rate::R8K, named("elevenlabs:a"));
    let refused = told(&mut other, &metadata("pcm_16000", "mp3_44100"));
    assert!(matches!(&refused[..], [Told::Fatal(fatal)] if !fatal.again && fatal.what.contains("ulaw_8000")));
}

#[test]
fn a_ping_is_answered_and_what_was_interrupted_is_not_heard() {
    let (mut dialect, _) = open("elevenlabs:a", &setup(&[]));
    let pong = sent(&told(&mut dialect, &json!({"type": "ping", "ping_event": {"event_id": 7, "ping_ms": 50}})));
    assert_eq!(pong, json!({"type": "pong", "event_id": 7}));
    assert_eq!(told(&mut dialect, &audio(1)).len(), 1);
    let cut = told(&mut dialect, &json!({"type": "interruption", "interruption_event": {"event_id": 2}}));
    assert!(matches!(cut[..], [Told::Interrupted]));
    assert!(told(&mut dialect, &audio(2)).is_empty());
    assert_eq!(told(&mut dialect, &audio(3)).len(), 1);
    let correction = json!({"type": "agent_response_correction", "agent_response_correction_event": {"original_agent_response": "One two", "corrected_agent_response": "One"}});
    assert!(matches!(&told(&mut dialect, &correction)[..], [Told::Corrected(text)] if text == "One"));
}

#[test]
fn tools_of_the_agent_are_called_and_answered() {
    let (mut dialect, _) = open("elevenlabs:a", &setup(&[]));
    let wanted = json!({"type": "client_tool_call", "client_tool_call": {"tool_name": "crm", "tool_call_id": "c1", "parameters": {"id": "7"}}});
    let wanted = told(&mut dialect, &wanted);
    assert!(matches!(&wanted[..], [Told::Calls(calls)] if *calls == [call()]), "{wanted:?}");
    let said = messages(dialect.result(&call(), &Outcome::done("sent".into()), true, true));
    assert_eq!(
        said,
        [json!({"type": "client_tool_result", "tool_call_id": "c1", "result": "sent", "is_error": false})]
    );
}

#[test]
fn the_next_conversation_is_told_what_was_said() {
    let past = [Past::Agent("Hello.".into()), Past::Caller("And?".into())];
    let (mut dialect, said) = open("elevenlabs:a", &setup(&past));
    assert_eq!(said["conversation_config_override"]["agent"]["first_message"], "");
    let said = messages(dialect.ready(&Setup { owed: true, ..setup(&past) }));
    assert!(said[0]["text"].as_str().unwrap().ends_with("Agent: Hello.\nCaller: And?"), "{said:?}");
    assert_eq!(said[1], json!({"type": "user_message", "text": "And?"}));
}

proptest! {
    #[test]
    fn any_text_ends(text in any::<String>(), kind in "[a-z_]{0,30}", value in any::<String>()) {
        let (mut dialect, _) = open("elevenlabs:a", &setup(&[]));
        dialect.read(Incoming::Text(&text), &mut Vec::new());
        told(&mut dialect, &json!({"type": kind, "message": value, "audio_event": {"audio_base_64": value}}));
        let _ = coding(&value);
    }
}
