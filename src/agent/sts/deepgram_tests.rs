use proptest::prelude::*;

use super::*;
use crate::agent::sts::testing::{address, call, messages, named, sent, setup, told, tool};

fn open(text: &str, setup: &Setup<'_>) -> (Agent, Value) {
    let mut dialect = Agent::new(Rate::R8K, named(text));
    assert!(dialect.open(setup).is_empty());
    let settings = sent(&told(&mut dialect, &json!({"type": "Welcome", "request_id": "r"})));
    assert!(matches!(told(&mut dialect, &json!({"type": "SettingsApplied"}))[..], [Told::Ready]));
    (dialect, settings)
}

#[test]
fn settings_are_for_a_telephone() {
    let (mut dialect, settings) = open(
        "deepgram:agent?think=anthropic/claude-x&speak=aura-2-x&eot_threshold=0.7&tag=a&temperature=0.5",
        &Setup { greeting: Some("Hello."), tools: &[tool()], ..setup(&[]) },
    );
    assert_eq!(
        address(&mut dialect, "authorization"),
        ("wss://agent.deepgram.com/v1/agent/converse".to_owned(), "Token hunter2".to_owned())
    );
    let function = json!({"name": "crm", "description": "Looks up.", "parameters": tool().parameters});
    assert_eq!(
        settings,
        json!({
            "type": "Settings",
            "audio": {"input": {"encoding": "mulaw", "sample_rate": 8_000}, "output": {"encoding": "mulaw", "sample_rate": 8_000, "container": "none"}},
            "agent": {
                "listen": {"provider": {"type": "deepgram", "model": "flux-general-en", "version": "v2", "eot_threshold": 0.7}},
                "think": {"provider": {"type": "anthropic", "model": "claude-x", "temperature": 0.5}, "prompt": "Be kind.", "functions": [function]},
                "speak": {"provider": {"type": "deepgram", "model": "aura-2-x"}},
                "greeting": "Hello.",
            },
            "tags": ["a"],
        })
    );
    let (_, settings) = open("deepgram:?listen=nova-3", &setup(&[]));
    let listen = &settings["agent"]["listen"]["provider"];
    assert_eq!((&listen["version"], &listen["language"]), (&json!("v1"), &json!("de-AT")));
}

#[test]
fn what_comes_behind_an_interruption_is_late_until_it_thinks_again() {
    let (mut dialect, _) = open("deepgram:agent", &setup(&[]));
    let audio = |dialect: &mut Agent| {
        let mut told = Vec::new();
        dialect.read(Incoming::Binary(Bytes::from_static(&[0xFF])), &mut told);
        told.len()
    };
    assert_eq!(audio(&mut dialect), 1);
    assert!(matches!(told(&mut dialect, &json!({"type": "UserStartedSpeaking"}))[..], [Told::Interrupted]));
    assert_eq!(audio(&mut dialect), 0);
    dialect.interrupt(&[]);
    told(&mut dialect, &json!({"type": "AgentThinking", "content": "x"}));
    assert_eq!(audio(&mut dialect), 1);
    // by us: until the turn is over
    dialect.interrupt(&[]);
    assert_eq!(audio(&mut dialect), 0);
    assert!(matches!(told(&mut dialect, &json!({"type": "AgentAudioDone"}))[..], [Told::TurnDone]));
    assert_eq!(audio(&mut dialect), 1);
}

#[test]
fn tools_of_ours_are_called_and_answered() {
    let (mut dialect, _) = open("deepgram:agent", &setup(&[]));
    let request = json!({"type": "FunctionCallRequest", "functions": [
        {"id": "c1", "name": "crm", "arguments": "{\"id\":\"7\"}", "client_side": true},
        {"id": "c2", "name": "theirs", "arguments": "{}", "client_side": false},
    ]});
    let wanted = told(&mut dialect, &request);
    assert!(matches!(&wanted[..], [Told::Calls(calls)] if *calls == [call()]), "{wanted:?}");
    let said = messages(dialect.result(&call(), &Outcome::done("sent".into()), true, true));
    assert_eq!(said, [json!({"type": "FunctionCallResponse", "id": "c1", "name": "crm", "content": "sent"})]);
}

#[test]
fn the_next_session_knows_what_was_said() {
    let past = [Past::Agent("Hello.".into()), Past::Tool(call(), "sent".into()), Past::Caller("And?".into())];
    let setup = Setup { owed: true, ..setup(&past) };
    let (mut dialect, settings) = open("deepgram:agent", &setup);
    assert_eq!(settings["agent"]["context"]["messages"].as_array().unwrap().len(), 2);
    assert_eq!(messages(dialect.ready(&setup)), [json!({"type": "InjectUserMessage", "content": "And?"})]);
}

#[test]
fn faults_are_told_in_its_words() {
    let error = json!({"type": "Error", "code": "X", "description": "No such voice."});
    let (mut dialect, _) = open("deepgram:agent", &setup(&[]));
    assert!(
        matches!(&told(&mut dialect, &error)[..], [Told::Trouble(what)] if what.ends_with("X: \"No such voice.\""))
    );
    dialect.open(&setup(&[]));
    assert!(matches!(&told(&mut dialect, &error)[..], [Told::Fatal(fatal)] if !fatal.again));
}

proptest! {
    #[test]
    fn any_text_ends(text in any::<String>(), kind in "[a-zA-Z]{0,30}", value in any::<String>()) {
        let (mut dialect, _) = open("deepgram:agent", &setup(&[]));
        dialect.read(Incoming::Text(&text), &mut Vec::new());
        told(&mut dialect, &json!({"type": kind, "content": value, "description": value}));
    }
}
