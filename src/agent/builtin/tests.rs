#![allow(clippy::unwrap_used)]

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::*;
use crate::{
    agent::{Config, Outgoing},
    audio::Frame,
    call::CallId,
};

const RATE: Rate = Rate::R8K;

fn start(config: Config) -> Builtin {
    start_with(config, false)
}

fn start_with(config: Config, mask_digits: bool) -> Builtin {
    let outgoing = Outgoing::new(Arc::new(crate::agent::tls_config(None).unwrap()), Duration::from_secs(1)).unwrap();
    let voice = Voice::new(&config, mask_digits, Handle::current());
    let (call, uuid) = (CallId::new(), Uuid::from_u128(1));
    Builtin::start(
        Context {
            call,
            uuid,
            rate: RATE,
            about: Arc::default(),
            tools: Arc::default(),
            orders: None,
            config: Arc::new(config),
            rules: Arc::default(),
            outgoing,
        },
        voice,
    )
}

fn tell(agent: &mut Builtin, input: AgentInput) {
    assert!(matches!(agent.send(input), Sent::Whole));
}

fn press(agent: &mut Builtin, key: char) {
    tell(agent, AgentInput::Dtmf(Digit::try_from(key).unwrap()));
}

fn hear(agent: &mut Builtin, millis: usize, amplitude: f64) {
    for frame in 0..millis / 20 {
        let samples: Vec<i16> = (0..160).map(|n| (amplitude * ((frame * 160 + n) as f64 * 0.5).sin()) as i16).collect();
        tell(agent, AgentInput::Audio(Frame::padded(RATE, &samples)));
    }
}

/// The next utterance, which must come whole: audio, its end, the end of the turn.
async fn utterance(agent: &mut Builtin) -> (UtteranceId, Vec<i16>) {
    let Some(AgentEvent::Audio(id, samples)) = agent.next().await else { panic!("no audio") };
    assert!(matches!(agent.next().await, Some(AgentEvent::AudioEnd(end)) if end == id));
    assert!(matches!(agent.next().await, Some(AgentEvent::TurnDone)));
    (id, samples)
}

/// The transcript that comes next, if anything does.
fn transcript(agent: &mut Builtin) -> Option<String> {
    match agent.next().now_or_never() {
        Some(Some(AgentEvent::Transcript { role: Role::Agent, text, is_final: true })) => Some(text),
        None => None,
        Some(other) => panic!("{other:?} instead of a transcript"),
    }
}

#[tokio::test]
async fn it_greets_and_writes_down_what_was_played() {
    let mut agent = start(Config::default());
    let (id, samples) = utterance(&mut agent).await;
    assert_eq!(id, UtteranceId(1));
    assert!(samples.len() > 40_000);
    assert_eq!(transcript(&mut agent), None);
    tell(&mut agent, AgentInput::Played(id));
    assert!(transcript(&mut agent).unwrap().starts_with("Hello, this is Hark."));
}

#[tokio::test]
async fn it_repeats_the_caller_word_for_word_without_a_transcript() {
    let mut agent = start(Config::default());
    let (greeting, _) = utterance(&mut agent).await;
    tell(&mut agent, AgentInput::Played(greeting));
    assert!(transcript(&mut agent).is_some());
    hear(&mut agent, 240, 6000.0);
    tell(&mut agent, AgentInput::CallerSpeech(true));
    hear(&mut agent, 760, 6000.0);
    hear(&mut agent, 500, 0.0);
    tell(&mut agent, AgentInput::CallerSpeech(false));
    let (id, samples) = utterance(&mut agent).await;
    assert_eq!(RATE.duration_of(samples.len()).as_millis(), 1060);
    tell(&mut agent, AgentInput::Played(id));
    assert_eq!(transcript(&mut agent), None);
}

#[tokio::test]
async fn a_click_is_not_repeated() {
    let mut agent = start(Config::default());
    utterance(&mut agent).await;
    tell(&mut agent, AgentInput::CallerSpeech(true));
    hear(&mut agent, 100, 9000.0);
    hear(&mut agent, 500, 0.0);
    tell(&mut agent, AgentInput::CallerSpeech(false));
    assert!(agent.next().now_or_never().is_none());
}

#[tokio::test]
async fn it_reads_digits_back_and_hangs_up_after_goodbye() {
    let mut agent = start(Config::default());
    let (greeting, _) = utterance(&mut agent).await;
    press(&mut agent, '5');
    let (five, _) = utterance(&mut agent).await;
    press(&mut agent, '#');
    let (goodbye, _) = utterance(&mut agent).await;
    assert!(matches!(agent.next().await, Some(AgentEvent::Hangup)));
    for id in [greeting, five, goodbye] {
        tell(&mut agent, AgentInput::Played(id));
    }
    let said: Vec<_> = std::iter::from_fn(|| transcript(&mut agent)).skip(1).collect();
    assert_eq!(said, ["You pressed five.", "Goodbye."]);
    press(&mut agent, '1');
    assert!(agent.next().now_or_never().is_none());
    tell(&mut agent, AgentInput::Finish);
    assert!(agent.next().await.is_none());
    assert!(agent.next().await.is_none());
}

#[tokio::test]
async fn masked_digits_are_spoken_and_not_written_down() {
    let mut agent = start_with(Config::default(), true);
    let (greeting, _) = utterance(&mut agent).await;
    tell(&mut agent, AgentInput::Played(greeting));
    assert!(transcript(&mut agent).is_some());
    press(&mut agent, '7');
    let (seven, _) = utterance(&mut agent).await;
    tell(&mut agent, AgentInput::Played(seven));
    assert_eq!(transcript(&mut agent).as_deref(), Some("You pressed a key."));
}

#[tokio::test]
async fn of_a_cut_utterance_the_heard_words_are_written_down() {
    let mut agent = start(Config::default());
    let (id, samples) = utterance(&mut agent).await;
    press(&mut agent, '3');
    let heard = RATE.duration_of(samples.len()) / 5;
    tell(&mut agent, AgentInput::Interrupt { utterance: Some(id), heard });
    // five of the greeting's 27 words; "You pressed three." was forgotten
    assert_eq!(transcript(&mut agent).as_deref(), Some("Hello, this is Hark. Say"));
    assert_eq!(transcript(&mut agent), None);
    tell(&mut agent, AgentInput::Played(id));
    assert_eq!(transcript(&mut agent), None);
}

#[tokio::test]
async fn an_interruption_does_not_take_back_the_hangup() {
    let mut agent = start(Config::default());
    utterance(&mut agent).await;
    press(&mut agent, '#');
    tell(&mut agent, AgentInput::Interrupt { utterance: None, heard: Duration::ZERO });
    assert!(matches!(agent.next().await, Some(AgentEvent::Hangup)));
}

#[tokio::test]
async fn keys_pressed_without_end_are_bounded() {
    let mut agent = start(Config::default());
    utterance(&mut agent).await;
    for _ in 0..1000 {
        press(&mut agent, '1');
    }
    assert!(agent.outbox.len() < MOST_UTTERANCES);
}

#[tokio::test]
async fn a_missing_flite_does_not_leave_the_line_silent() {
    let config =
        Config { greeting: Some("Welcome.".to_owned()), flite: "/nonexistent/flite".to_owned(), ..Config::default() };
    let mut agent = start(config);
    let (id, samples) = utterance(&mut agent).await;
    assert!(samples.len() > 40_000);
    tell(&mut agent, AgentInput::Played(id));
    assert!(transcript(&mut agent).unwrap().starts_with("Hello, this is Hark."));
}
