//! The fakes of speech to speech are checked by the vendors' own libraries, and both sides' messages by their models.

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use hark::{
    agent::{
        service::{Kind, Service},
        sts,
        tools::Toolbox,
    },
    audio::Rate,
    call::{AgentEvent, AgentInput, Link as _, Say, Sent, UtteranceId},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::Command,
};

use super::{
    Fake, KEY, config,
    sdk::{Library, left_out, models, python},
    service,
    sts_vendors::{Session, Vendor},
    tts_vendors::ELEVENLABS,
};
use crate::{
    sts_network::authority,
    support::{
        agent_call::{AgentCall, speech},
        cascade::{Bench, context},
    },
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

#[tokio::test]
async fn fakes_of_dialects_are_as_openais_library_expects() {
    let Some(python) = python() else { return left_out() };
    for (name, vendor) in [("azure", Vendor::Azure), ("xai", Vendor::Xai)] {
        let fake = Fake::start().await;
        let mut library = Library::start(&python, name, &fake.address);
        let mut session = Session::connected(vendor, &fake).await;
        session.set_up().await;
        assert!(session.heard(3_200).await.len() >= 3_200, "{name}");
        session.caller("hello there").await;
        session.answer("Good morning.", &vendor.speech(8_000, 200)).await;
        let mut lines = vec![library.line().await, library.line().await, library.line().await];
        lines.sort();
        assert_eq!(lines, ["audio 1600", "caller hello there", "text Good morning."], "{name}");
    }
}

#[tokio::test]
async fn the_fake_of_gemini_is_as_its_library_expects() {
    let Some(python) = models("gemini") else { return left_out() };
    let fake = Fake::start().await;
    let (authority, acceptor) = authority(&["127.0.0.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, behind) = (listener.local_addr().unwrap().to_string(), fake.address.clone());
    let secured = tokio::spawn(async move {
        let mut outside = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut inside = TcpStream::connect(behind).await.unwrap();
        let _ = copy_bidirectional(&mut outside, &mut inside).await;
    });
    let mut library = Library::trusting(&python, "live", &address, Some(authority.path()));
    let mut session = Session::connected(Vendor::Gemini, &fake).await;
    let begun = session.set_up().await;
    assert_eq!(begun.prompt, "You are kind.");
    // the library mixes the two ways of writing names
    let said = session.peer.json().await;
    let audio = &said.get("realtimeInput").or_else(|| said.get("realtime_input")).unwrap_or(&Value::Null)["audio"];
    let mime = audio.get("mimeType").or_else(|| audio.get("mime_type"));
    assert!(mime == Some(&json!("audio/pcm;rate=16000")) && audio["data"].is_string(), "{said}");
    // without novelties: it takes what it does not know for an error
    session.caller("hello there").await;
    session.answer("Good morning.", &Vendor::Gemini.speech(8_000, 200)).await;
    for expected in ["audio 9600", "caller hello there", "text Good morning."] {
        assert_eq!(library.line().await, expected);
    }
    secured.abort();
}

#[tokio::test]
async fn what_is_said_to_elevenlabs_voices_fits_its_librarys_models_of_contexts() {
    let Some(python) = python() else { return left_out() };
    let fake = Fake::start().await;
    let mut bench = Bench::start(config(), None).await;
    let tts = service(&ELEVENLABS.at(&fake.address), Kind::Tts);
    bench.restart(Rate::R8K, config(), Some("One two."), |services| services.tts = tts.into());
    let mut peer = fake.accept().await;
    ELEVENLABS.begin(&mut peer).await;
    let mut said = vec![peer.json().await, peer.json().await, peer.json().await];
    peer.send((ELEVENLABS.audio)("c1", &[1; 1_600])).await;
    let id = loop {
        if let Some(AgentEvent::Audio(id, _)) = bench.event().await {
            break id;
        }
    };
    bench.send(AgentInput::Interrupt { utterance: Some(id), heard: Duration::from_millis(40) });
    said.push(peer.json().await);
    bench.send(AgentInput::Finish);
    said.push(peer.json().await);
    let lines: Vec<_> = said.iter().map(Value::to_string).collect();
    let told = piped(&python, "multi_models", "-", &lines.join("\n")).await;
    let fits: Vec<Vec<_>> = told.lines().map(|line| line.split(' ').collect()).collect();
    let expected = ["InitializeConnectionMulti", "FlushContext", "CloseContext", "CloseContext", "CloseSocket"];
    assert_eq!(fits.len(), expected.len(), "{said:?}: {told}");
    for ((fits, expected), said) in fits.iter().zip(expected).zip(&said) {
        assert!(fits.contains(&expected), "{said} fits {fits:?}");
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
    piped(python, "sts_models", name, lines).await
}

/// What the script says to `lines`.
async fn piped(python: &Path, what: &str, name: &str, lines: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/speech.py");
    let mut command = Command::new(python);
    command.args([script, what, name, KEY]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn().unwrap();
    let mut input = process.stdin.take().unwrap();
    input.write_all(lines.as_bytes()).await.unwrap();
    drop(input);
    let output = tokio::time::timeout(Duration::from_secs(60), process.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{name}: a message is not what its model takes");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
