//! The fakes of speech to speech are checked by the vendors' own libraries, and both sides' messages by their models.

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use hark::{
    agent::{
        service::{Kind, Service},
        sts,
        tools::Toolbox,
    },
    audio::Rate,
    call::{AgentInput, Link as _, Say, Sent, UtteranceId},
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::{
    Fake, KEY, config,
    sdk::{Library, left_out, models, python},
    service,
    sts_vendors::{Session, Vendor},
};
use crate::support::{
    agent_call::{AgentCall, speech},
    cascade::context,
};

#[tokio::test]
async fn fakes_are_as_the_libraries_expect() {
    let Some(python) = python() else { return left_out() };
    for (name, vendor) in [("realtime", Vendor::OpenAi), ("agent", Vendor::Deepgram), ("convai", Vendor::ElevenLabs)] {
        let fake = Fake::start().await;
        let mut library = Library::start(&python, name, &fake.address);
        // without novelties: ElevenLabs' library gives up on what it does not know
        let mut session = Session::connected(vendor, &fake).await;
        session.set_up().await;
        assert!(session.heard(3_200).await.len() >= 3_200, "{name}");
        session.caller("hello there").await;
        session.answer("Good morning.", &vendor.speech(8_000, 200)).await;
        let mut lines = vec![library.line().await, library.line().await, library.line().await];
        lines.sort();
        let audio = if vendor == Vendor::OpenAi { "audio 1600 20" } else { "audio 1600" };
        assert_eq!(lines, [audio, "caller hello there", "text Good morning."], "{name}");
    }
}

/// All that both sides say in a conversation in which everything happens.
async fn conversation(vendor: Vendor) -> Vec<(&'static str, Value)> {
    let fake = Fake::start().await;
    let mut ctx = context(config(), Rate::R8K);
    ctx.tools = Arc::new(Toolbox::new(&["send_dtmf".to_owned()], &[], &[], &[]).unwrap());
    let Service::Named(named) = service(&vendor.at(&fake.address), Kind::Sts) else { panic!() };
    let mut call = AgentCall::new(sts::start(*named, ctx, None));
    let (mut session, _) = call.during(Session::begin(vendor, &fake)).await;
    call.say(Rate::R8K, &speech(320));
    call.during(session.heard(vendor.second() / 50)).await;
    call.during(session.caller("hello there")).await;
    call.during(session.begin_answer()).await;
    call.during(session.words("One two three.")).await;
    call.during(session.speak(&vendor.speech(8_000, 1_000))).await;
    call.until(|call| call.heard() >= 7_900).await;
    let cut = AgentInput::Interrupt { utterance: Some(UtteranceId(1)), heard: Duration::from_millis(400) };
    let _: Sent<_> = call.agent.send(cut);
    if vendor == Vendor::OpenAi {
        for kind in ["response.cancel", "conversation.item.truncate"] {
            assert_eq!(call.during(session.said()).await["type"], kind);
        }
        let done = json!({"type": "response.done", "response": {"id": "resp_2", "status": "cancelled"}});
        call.during(session.say(&[done])).await;
    }
    call.during(session.begin_answer()).await;
    call.during(session.wants("send_dtmf", &json!({"digits": "1"}))).await;
    // nobody takes orders here
    call.during(session.said()).await;
    if vendor == Vendor::OpenAi {
        assert_eq!(call.during(session.said()).await["type"], "response.create");
    }
    let _ = call.press('1');
    call.during(session.said()).await;
    if vendor == Vendor::OpenAi {
        call.during(session.said()).await;
    }
    let say = Say { text: "Hold on.".to_owned(), protect: false };
    let _: Sent<_> = call.agent.send(AgentInput::Say(say));
    call.during(session.said()).await;
    session.log
}

#[tokio::test]
async fn messages_are_what_the_libraries_models_take() {
    for (vendor, name) in [(Vendor::OpenAi, "openai"), (Vendor::Deepgram, "deepgram"), (Vendor::Gemini, "gemini")] {
        let Some(python) = models(name) else { return left_out() };
        let log = conversation(vendor).await;
        let lines: Vec<_> = log.iter().map(|line| json!(line).to_string()).collect();
        assert!(lines.len() > 8, "{lines:?}");
        assert_eq!(validated(&python, name, &lines.join("\n")).await, format!("valid {}", lines.len()));
    }
}

async fn validated(python: &Path, name: &str, lines: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/speech.py");
    let mut command = Command::new(python);
    command.args([script, "sts_models", name, KEY]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn().unwrap();
    let mut input = process.stdin.take().unwrap();
    input.write_all(lines.as_bytes()).await.unwrap();
    drop(input);
    let output = tokio::time::timeout(Duration::from_secs(60), process.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{name}: a message is not what its model takes");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
