//! Real engines that run on this machine, and whole calls with them.

mod piper;
mod vosk;
mod whisper;

use std::time::Duration;

use hark::{
    audio::Rate,
    cli::phone::{self, Codec, Options, Step},
};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    embedded::{errors, words},
    support::{connector::Connector, engines::LOADING, gateway::Gateway, receiver::Receiver},
};

/// A call to a gateway that listens by `asr`: what it understood of these recordings at 8 kHz, each of which it answers with a tone.
async fn understood(asr: &str, recordings: &[Vec<i16>]) -> Vec<String> {
    let (mut llm, mut voice) =
        (Connector::start("/prompt-stream").await, Connector::start("/text-to-speech-stream").await);
    let receiver = Receiver::kind().await;
    let gateway = Gateway::with(&llm.url.clone(), |config| {
        let agent = &mut config.agent;
        (agent.sts_url, agent.asr_url) = (None, Some(asr.to_owned()));
        (agent.llm_url, agent.tts_url) = (Some(llm.url.to_string()), Some(voice.url.to_string()));
        config.webhooks.url = Some(receiver.url.clone());
    })
    .await;
    let long = Duration::from_secs(30);
    let answered = || [Step::AwaitSpeech(long), Step::AwaitQuiet(Duration::from_millis(700), long)];
    let say = |recording: &Vec<i16>| std::iter::once(Step::Say(recording.clone())).chain(answered());
    let script = [Step::Pause(Duration::from_millis(500))].into_iter().chain(recordings.iter().flat_map(say));
    let options = Options {
        uuid: Uuid::new_v4(),
        codec: Codec::Slin(Rate::R8K),
        script: script.chain([Step::HangUp]).collect(),
        limit: LOADING,
        record: false,
    };
    let tone: Vec<u8> = (0..2_400_i32).flat_map(|at| ((at % 20 - 10) as i16 * 1_000).to_le_bytes()).collect();
    let spoken = [tone.as_slice()];
    let report = tokio::select! {
        report = phone::call(gateway.audiosocket, options, |_, _| {}) => report.unwrap(),
        () = llm.answer_all(&[br#"{"type":"text","content":"I see."}"#]) => unreachable!("it listens for ever"),
        () = voice.answer_all(&spoken) => unreachable!("it listens for ever"),
    };
    assert_eq!(report.ending, phone::Ending::Caller, "{:?}", report.moments);
    let ended = |seen: &[Value]| seen.iter().any(|event| event["type"] == "call_ended");
    let mut events = Vec::new();
    while !ended(&events) {
        let seen = receiver.wait_for(events.len() + 1).await;
        events = seen.iter().map(|request| request.json()).collect();
    }
    let said = events.iter().filter(|event| event["type"] == "transcription" && event["payload"]["role"] == "user");
    said.map(|event| event["payload"]["text"].as_str().unwrap().to_owned()).collect()
}

/// What was understood is what was said, but for one word of ten.
fn is_right(heard: &[String], said: &str) {
    println!("{heard:#?}");
    let (heard, said) = (words(&heard.join(" ")), words(said));
    let wrong = errors(&said, &heard);
    println!("{wrong} of {} words wrong", said.len());
    assert!(wrong * 10 <= said.len(), "{wrong} of {} words are wrong in {heard:?}", said.len());
}

/// The recording that everybody here calls with, and what is said in it.
fn caller() -> (Vec<i16>, &'static str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/audio/caller.wav");
    let (rate, samples) = hark::audio::wav::read(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(rate, 8_000);
    (samples, "hello i'm sorry something is terribly wrong goodbye")
}
