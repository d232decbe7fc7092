//! Whose turn it is, and what was heard.

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use hark::call::{AgentEvent, AgentInput, Link as _, Role, Sent};
use serde_json::json;

use crate::support::{
    cascade::{Bench, config, speech},
    connector::Exchange,
};

fn text(content: &str) -> Vec<u8> {
    json!({"type": "text", "content": content}).to_string().into_bytes()
}

async fn listening() -> (Bench, Exchange) {
    let mut bench = Bench::start(config(), None).await;
    let mut asr = bench.asr.request().await;
    asr.ok().await;
    (bench, asr)
}

#[tokio::test]
async fn an_interruption_cancels_everything_and_history_holds_what_was_heard() {
    let (mut bench, mut asr) = listening().await;
    asr.chunk(b"tell me<end>").await;
    let mut prompt = bench.llm.request().await;
    prompt.ok().await;
    prompt.chunk(&text("First sentence. Second one here now. Third. ")).await;
    bench.tts.request().await.answer(&[&speech(8_000, 1).1]).await;
    let (first, _) = bench.utterance().await;
    let mut second = bench.tts.request().await;
    second.ok().await;
    second.chunk(&speech(16_000, 2).1).await;
    let AgentEvent::Audio(id, _) = bench.event().await.unwrap() else { panic!("no audio") };
    bench.send(AgentInput::Played(first));
    bench.send(AgentInput::Interrupt { utterance: Some(id), heard: Duration::from_millis(1_100) });
    // both requests are given up
    second.closed().await;
    prompt.closed().await;
    assert_eq!(bench.transcript().await, (Role::Agent, "First sentence. Second one".to_owned()));
    asr.chunk(b"stop<end>").await;
    let body = bench.llm.request().await.json().await;
    let expected = json!([
        {"role": "user", "content": "tell me"},
        {"role": "assistant", "content": "First sentence. Second one"},
        {"role": "user", "content": "stop"},
    ]);
    assert_eq!(body["messages"], expected);
}

#[tokio::test]
async fn no_audio_of_what_was_cut_comes_afterwards() {
    let mut bench = Bench::start(config(), Some("A long greeting that is cut.")).await;
    let mut request = bench.tts.request().await;
    request.ok().await;
    request.chunk(&speech(80_000, 1).1).await;
    let AgentEvent::Audio(id, _) = bench.event().await.unwrap() else { panic!("no audio") };
    // more is on its way to us, and the next event is asked for before the cascade's tasks can run
    assert!(matches!(
        bench.cascade.send(AgentInput::Interrupt { utterance: Some(id), heard: Duration::ZERO }),
        Sent::Whole
    ));
    bench.send(AgentInput::Finish);
    while let Some(event) = bench.event().await {
        assert!(!matches!(event, AgentEvent::Audio(..) | AgentEvent::AudioEnd(_)), "{event:?}");
    }
}

#[tokio::test]
async fn words_before_anything_was_heard_continue_the_turn() {
    let (mut bench, mut asr) = listening().await;
    asr.chunk(b"I want<end>").await;
    let first = bench.llm.request().await;
    asr.chunk(b" a table<end>").await;
    let mut second = bench.llm.request().await;
    assert_eq!(second.json().await["messages"], json!([{"role": "user", "content": "I want a table"}]));
    first.closed().await;
    assert_eq!(bench.transcript().await.1, "I want");
    assert_eq!(bench.transcript().await.1, "a table");
}

#[tokio::test]
async fn words_during_an_answer_wait_for_its_end() {
    let (mut bench, mut asr) = listening().await;
    asr.chunk(b"one<end>").await;
    let prompt = bench.llm.request().await;
    prompt.answer(&[&text("Answer.")]).await;
    let mut request = bench.tts.request().await;
    request.ok().await;
    request.chunk(&speech(800, 1).1).await;
    while !matches!(bench.event().await.unwrap(), AgentEvent::Audio(..)) {}
    asr.chunk(b"two<end>").await;
    assert_eq!(bench.transcript().await.1, "two");
    assert!(!bench.llm.has_request());
    request.end().await;
    let body = bench.llm.request().await.json().await;
    assert_eq!(body["message"], "two");
    assert_eq!(body["messages"][1], json!({"role": "assistant", "content": "Answer."}));
}

/// A debounce that only `<end>` cuts short.
fn patient() -> hark::agent::Config {
    hark::agent::Config { debounce_ms: 3_600_000, ..config() }
}

#[tokio::test]
async fn the_model_is_asked_before_the_debounce_is_over_and_nothing_is_heard_before_it() {
    let mut bench = Bench::start(patient(), None).await;
    let mut asr = bench.asr.request().await;
    asr.ok().await;
    asr.chunk(b"hello").await;
    let prompt = bench.llm.request().await;
    prompt.answer(&[&text("Hi.")]).await;
    bench.tts.request().await.answer(&[&speech(160, 1).1]).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert!(bench.cascade.next().now_or_never().is_none());
    }
    asr.chunk(b"<end>").await;
    assert!(
        matches!(bench.event().await, Some(AgentEvent::Transcript { role: Role::User, .. })),
        "the turn comes first"
    );
    assert_eq!(bench.utterance().await.1.len(), 160);
    assert!(!bench.llm.has_request());
}

#[tokio::test]
async fn a_guess_is_given_up_when_the_caller_goes_on_and_fragments_are_not_guessed_again() {
    let mut bench = Bench::start(patient(), None).await;
    let mut asr = bench.asr.request().await;
    asr.ok().await;
    asr.chunk(b"hello").await;
    let guess = bench.llm.request().await;
    asr.chunk(b" world").await;
    guess.closed().await;
    assert!(!bench.llm.has_request());
    asr.chunk(b"<end>").await;
    assert_eq!(bench.transcript().await.1, "hello world");
    let mut prompt = bench.llm.request().await;
    assert_eq!(prompt.json().await["messages"], json!([{"role": "user", "content": "hello world"}]));
    prompt.answer(&[&text("Hi.")]).await;
    bench.tts.request().await.answer(&[&speech(160, 1).1]).await;
    bench.turn_done().await;
    asr.chunk(b"bye").await;
    asr.chunk(b" now<end>").await;
    assert_eq!(bench.transcript().await.1, "bye now");
    assert_eq!(bench.llm.request().await.json().await["message"], "bye now");
}

#[tokio::test]
async fn dropping_it_closes_every_connection() {
    let (mut bench, mut asr) = listening().await;
    asr.chunk(b"hello<end>").await;
    let prompt = bench.llm.request().await;
    drop(bench.cascade);
    prompt.closed().await;
    asr.closed().await;
}

#[tokio::test]
async fn a_service_that_takes_no_audio_is_reported_once() {
    let mut bench = Bench::start(config(), None).await;
    let _asr = bench.asr.request().await;
    // the tasks of the cascade do not run meanwhile
    for _ in 0..1_000 {
        bench.audio(&[1; 160]);
    }
    let fault = bench.degraded().await;
    assert_eq!(fault.code, "agent.stt.slow");
    while !matches!(bench.event().await.unwrap(), AgentEvent::Restored) {}
}
