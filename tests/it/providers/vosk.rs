//! Vosk's servers: many know no word but the one that ends the session, so each utterance has a session of its own.

use hark::{
    agent::service::Kind,
    audio::Rate,
    call::{AgentInput, Role},
};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::{Fake, Peer, config, service};
use crate::support::cascade::{Bench, speech};

const EOF: &str = r#"{"eof" : 1}"#;

async fn listening() -> (Bench, Fake) {
    let (fake, mut bench) = (Fake::start().await, Bench::start(config(), None).await);
    let asr = service(&format!("vosk:ws://{}", fake.address), Kind::Stt);
    bench.restart(Rate::R8K, config(), None, |services| services.asr = asr.into());
    (bench, fake)
}

/// A session with a server.
async fn session(fake: &Fake) -> Peer {
    let mut peer = fake.accept().await;
    assert_eq!(peer.json().await, json!({"config": {"sample_rate": 8000}}));
    peer
}

/// The caller says frames like no others: their bytes.
fn says(bench: &mut Bench, frames: usize, seed: i16) -> Vec<u8> {
    bench.send(AgentInput::CallerSpeech(true));
    let (samples, bytes) = speech(160 * frames, seed);
    samples.chunks(160).for_each(|frame| bench.audio(frame));
    bench.send(AgentInput::CallerSpeech(false));
    bytes
}

/// Everything up to the end of the session.
async fn heard(peer: &mut Peer) -> Vec<u8> {
    let mut audio = Vec::new();
    loop {
        match peer.message().await {
            Message::Binary(bytes) => audio.extend(bytes),
            Message::Text(text) => {
                assert_eq!(text.as_str(), EOF);
                return audio;
            }
            other => panic!("{other:?}"),
        }
    }
}

fn user(text: &str) -> (Role, String) {
    (Role::User, text.to_owned())
}

#[tokio::test]
async fn each_utterance_has_a_session_of_its_own_and_none_is_lost_between_them() {
    let (mut bench, fake) = listening().await;
    let mut first = session(&fake).await;
    let one = says(&mut bench, 15, 1);
    assert_eq!(heard(&mut first).await, one);
    // they go on before the first has become words
    let two = says(&mut bench, 20, 2);
    first.say(&json!({"text": "one"})).await;
    first.close(1000, "").await;
    assert_eq!(bench.transcript().await, user("one"));
    let mut second = session(&fake).await;
    assert_eq!(heard(&mut second).await, two, "all of it, and only that");
    second.say(&json!({"text": "two"})).await;
    second.close(1000, "").await;
    assert_eq!(bench.transcript().await, user("two"));
    // noise: no words, no fault
    let mut third = session(&fake).await;
    says(&mut bench, 5, 3);
    heard(&mut third).await;
    third.say(&json!({"text": ""})).await;
    third.close(1000, "").await;
    let mut fourth = session(&fake).await;
    says(&mut bench, 5, 4);
    heard(&mut fourth).await;
    fourth.say(&json!({"text": "four"})).await;
    loop {
        match bench.event().await.expect("the call goes on") {
            hark::call::AgentEvent::Degraded(fault) | hark::call::AgentEvent::Failed(fault) => panic!("{fault:?}"),
            hark::call::AgentEvent::Transcript { text, is_final: true, .. } => break assert_eq!(text, "four"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_session_that_breaks_without_words_is_had_again() {
    let (mut bench, fake) = listening().await;
    let mut first = session(&fake).await;
    let one = says(&mut bench, 15, 1);
    assert_eq!(heard(&mut first).await, one);
    first.reset();
    let mut second = session(&fake).await;
    assert_eq!(heard(&mut second).await, one, "and its end");
    second.say(&json!({"text": "one"})).await;
    assert_eq!(bench.transcript().await, user("one"));
}

#[tokio::test]
async fn who_hangs_up_behind_the_last_word_is_still_understood() {
    let (mut bench, fake) = listening().await;
    let mut peer = session(&fake).await;
    says(&mut bench, 15, 1);
    heard(&mut peer).await;
    bench.send(AgentInput::Finish);
    peer.say(&json!({"text": "goodbye"})).await;
    peer.close(1000, "").await;
    assert_eq!(bench.transcript().await, user("goodbye"));
}
