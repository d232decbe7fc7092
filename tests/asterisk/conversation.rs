//! Turn-taking of a cascade on a real Asterisk: what a caller hears when they interrupt, murmur, fall silent and press keys.

use std::time::Duration;

use hark::call::Policy;
use hark::config::Config;
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::g711::Codec;
use crate::support::hark::{Hark, SECRET};
use crate::support::lab::Lab;
use crate::support::phone::Call;
use crate::support::receiver::Receiver;
use crate::support::rtp::Rtp;
use crate::support::services::Services;
use crate::support::{find, noise};

const SECOND: usize = 8_000;
/// Samples that fade where the agent falls silent, and where it goes on: 5 ms each.
const FADES: usize = 80;

struct Conversation {
    services: Services,
    hark: Hark,
    lab: Lab,
    call: Call,
    uuid: Uuid,
}

impl Conversation {
    /// A call whose agent greets with `greeting`.
    async fn start(greeting: &[i16], change: impl FnOnce(&mut Config)) -> Self {
        let services = Services::start([("Welcome.", greeting.to_vec())].into(), "Fine.").await;
        let hark = Hark::with(Receiver::strict(SECRET).await, |config| {
            config.agent.asr_url = Some(services.asr.clone());
            config.agent.llm_url = Some(services.llm.clone());
            config.agent.tts_url = Some(services.tts.clone());
            config.agent.greeting = Some("Welcome.".to_owned());
            config.call.barge_in.policy = Policy::Words;
            change(config);
        })
        .await;
        let lab = hark.lab().await;
        let call = match Call::dial(lab.sip(), "5001", Codec::Ulaw).await {
            Ok(call) => call,
            Err(code) => panic!("refused with {code}\n{}", lab.log()),
        };
        services.spoken(1).await;
        let event = hark.events.wait_for(1).await[0].json();
        let uuid = event["uuid"].as_str().expect("a UUID").parse().expect("a UUID");
        Self { services, hark, lab, call, uuid }
    }

    async fn heard(&self, what: &str, done: impl FnMut(&Rtp) -> bool) {
        assert!(self.call.rtp.wait(Duration::from_secs(15), done).await, "{what}\n{}", self.lab.log());
    }

    /// Ends the call; its events.
    async fn end(self) -> Vec<String> {
        let Self { hark, lab, call, uuid, .. } = self;
        call.hang_up().await;
        let story = hark.story(uuid).await;
        lab.stop().await;
        hark.stop().await;
        story
    }
}

/// "I'm sorry. Something is terribly wrong."
fn voice() -> Vec<i16> {
    recording()[20_720..49_360].to_vec()
}

pub fn recording() -> Vec<i16> {
    let wav = hound::WavReader::new(&include_bytes!("../../fixtures/audio/caller.wav")[..]).expect("a recording");
    wav.into_samples().map(|sample| sample.expect("a sample")).collect()
}

fn loud(samples: &[i16]) -> usize {
    samples.iter().filter(|sample| sample.unsigned_abs() > 100).count()
}

/// Whether the phone has heard nothing for so many samples.
fn silent_for(rtp: &Rtp, samples: usize) -> bool {
    let audio = rtp.audio();
    audio.len() > samples && loud(&audio[audio.len() - samples..]) == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_false_alarm_the_agent_goes_on_where_it_stopped() {
    let greeting = Codec::Ulaw.heard(&noise(6 * SECOND, 41));
    let talk = Conversation::start(&greeting, |_| {}).await;
    talk.heard("the greeting", |rtp| loud(&rtp.audio()) > SECOND).await;
    // one word: what is said in two breaths holds twice
    talk.call.rtp.play(&recording()[4_800..11_200]);
    talk.heard("silence while the caller speaks", |rtp| silent_for(rtp, SECOND)).await;
    // no words come
    talk.heard("the rest of the greeting", |rtp| find(&rtp.audio(), &greeting[greeting.len() - SECOND..]).is_some())
        .await;
    let audio = talk.call.rtp.audio();
    let begin = find(&audio, &greeting[..SECOND]).expect("the beginning, whole");
    let exact =
        |at: usize, place: usize| audio[at..].iter().zip(&greeting[place..]).take_while(|(a, b)| a == b).count();
    let stopped = exact(begin, 0);
    let goes_on = (stopped..stopped + FADES + 1).find_map(|place| {
        find(&audio[begin + stopped..], greeting.get(place..place + 400)?).map(|at| (place, begin + stopped + at))
    });
    let (place, at) = goes_on.expect("it goes on within two fades of where it stopped");
    assert_eq!(place + exact(at, place), greeting.len(), "and from there to its end without a gap");
    let pause = at - begin - stopped;
    assert!((SECOND..3 * SECOND).contains(&pause), "{pause} samples of silence");
    assert_eq!(talk.end().await, ["call_started", r#"transcription:{"role":"agent","text":"Welcome."}"#, "call_ended"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn words_interrupt_and_a_back_channel_does_not() {
    let greeting = Codec::Ulaw.heard(&noise(20 * SECOND, 42));
    let talk = Conversation::start(&greeting, |_| {}).await;
    talk.heard("the greeting", |rtp| loud(&rtp.audio()) > SECOND).await;
    talk.call.rtp.play(&voice()[..SECOND]);
    talk.heard("silence", |rtp| silent_for(rtp, SECOND / 4)).await;
    talk.services.hear("final", "Mm-hm.");
    let before = loud(&talk.call.rtp.audio());
    talk.heard("the greeting again", |rtp| loud(&rtp.audio()) > before + SECOND).await;
    let onset = Instant::now();
    talk.call.rtp.play(&voice());
    talk.heard("silence", |rtp| silent_for(rtp, SECOND / 50)).await;
    println!("silent {} ms after the caller's first sample was sent", onset.elapsed().as_millis());
    talk.services.hear("partial", "Wait a moment");
    let interrupted = |events: &[serde_json::Value]| events.iter().any(|event| event["type"] == "interruption");
    talk.hark.events(talk.uuid, interrupted).await;
    talk.services.hear("final", "Wait a moment.");
    let prompts = talk.services.prompts(1).await;
    assert_eq!(
        prompts[0]["messages"].as_array().and_then(|list| list.last()).map(|last| &last["content"]),
        Some(&"Wait a moment.".into())
    );
    talk.services.spoken(2).await;
    assert!(loud(&talk.call.rtp.audio()) < 10 * SECOND, "the greeting was cut");
    let story = talk.end().await;
    assert_eq!(story.iter().filter(|event| *event == "interruption").count(), 1, "{story:?}");
    assert!(
        !story.contains(&r#"transcription:{"role":"agent","text":"Welcome."}"#.to_owned()),
        "it was not heard whole: {story:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_caller_is_asked_twice_and_let_go() {
    let greeting = Codec::Ulaw.heard(&noise(SECOND, 43));
    let talk = Conversation::start(&greeting, |config| {
        config.call.idle.prompts = vec!["Are you there?".to_owned(), "Hello?".to_owned()];
        config.call.idle.goodbye = Some("Goodbye.".to_owned());
        config.call.idle.after_ms = 700;
    })
    .await;
    assert_eq!(talk.services.spoken(4).await, ["Welcome.", "Are you there?", "Hello?", "Goodbye."]);
    talk.lab.logged("OPERATOR has the caller").await;
    let story = talk.hark.story(talk.uuid).await;
    assert_eq!(story.last().map(String::as_str), Some("call_ended"));
    assert!(story.contains(&r#"transcription:{"role":"agent","text":"Goodbye."}"#.to_owned()), "{story:?}");
    assert_eq!(talk.call.state(), crate::support::phone::State::Up, "the dialplan goes on");
    talk.call.hang_up().await;
    talk.lab.stop().await;
    talk.hark.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_collected_to_one_answer() {
    let greeting = Codec::Ulaw.heard(&noise(10 * SECOND, 44));
    let talk = Conversation::start(&greeting, |config| {
        config.call.dtmf.collect = true;
        config.call.dtmf.min = 4;
        config.call.dtmf_mask = true;
    })
    .await;
    talk.heard("the greeting", |rtp| loud(&rtp.audio()) > SECOND / 2).await;
    talk.call.rtp.dtmf("1234#");
    let prompts = talk.services.prompts(1).await;
    assert_eq!(prompts.len(), 1);
    assert_eq!(
        prompts[0]["messages"].as_array().and_then(|list| list.last()).map(|last| &last["content"]),
        Some(&"1234".into())
    );
    talk.services.spoken(2).await;
    let story = talk.end().await;
    let digits = story.iter().filter(|event| *event == r#"dtmf_digit:{"digit":"X"}"#).count();
    assert_eq!((digits, story.iter().filter(|event| *event == "interruption").count()), (5, 1), "{story:?}");
}
