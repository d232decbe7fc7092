//! Turn-taking of a cascade over Hark's own contract: when the model is asked, what is no turn, what is spoken to its end.

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use hark::{
    agent::Config,
    audio::Rate,
    call::{AgentEvent, AgentInput, Digit, Role, Say},
};
use serde_json::{Value, json};

use crate::cascade_ws::{Peer, Services, services_with};
use crate::support::cascade::{Bench, speech};

struct Talk {
    bench: Bench,
    stt: Peer,
    llm: Peer,
    tts: Peer,
    _services: (crate::cascade_ws::Service, crate::cascade_ws::Service, crate::cascade_ws::Service),
}

impl Talk {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let Services { bench, stt, llm, tts } = services_with(Rate::R8K, None, change).await;
        let (peer, llm_peer, tts_peer) = (stt.accept().await.0, llm.accept().await.0, tts.accept().await.0);
        Self { bench, stt: peer, llm: llm_peer, tts: tts_peer, _services: (stt, llm, tts) }
    }

    async fn prompt(&mut self) -> (Value, Vec<Value>) {
        loop {
            let message = self.llm.json().await;
            if message["type"] == "prompt" {
                return (message["id"].clone(), message["messages"].as_array().unwrap().clone());
            }
        }
    }

    async fn answer(&mut self, id: &Value, text: &str) {
        self.llm.say(json!({"type": "text", "id": id, "text": text})).await;
        self.llm.say(json!({"type": "done", "id": id})).await;
    }

    /// Speaks the next text, with the times of its words when there are any; which it was.
    async fn speak(&mut self, samples: usize, words: Value) -> String {
        let message = loop {
            let message = self.tts.json().await;
            if message["type"] == "speak" {
                break message;
            }
        };
        let id = &message["id"];
        self.tts.say(json!({"type": "begin", "id": id, "sample_rate": 8_000})).await;
        if !words.is_null() {
            self.tts.say(json!({"type": "words", "id": id, "words": words})).await;
        }
        self.tts.play(&speech(samples, 1).1).await;
        self.tts.say(json!({"type": "end", "id": id})).await;
        message["text"].as_str().unwrap().to_owned()
    }

    fn say(&mut self, text: &str, protect: bool) {
        self.bench.send(AgentInput::Say(Say { text: text.to_owned(), protect }));
    }

    async fn says(&mut self, kind: &str, text: &str) {
        self.stt.say(json!({"type": kind, "text": text})).await;
    }
}

#[tokio::test]
async fn a_model_that_thinks_long_is_filled_with_words_in_turn_and_a_quick_one_is_not() {
    let fillers = ["One moment.".to_owned(), "Let me see.".to_owned()];
    let change = |config: &mut Config| (config.fillers, config.filler_after_ms) = (fillers.to_vec(), 50);
    let mut talk = Talk::start_with(change).await;
    for (question, filler) in [("when", "One moment."), ("where", "Let me see."), ("who", "One moment.")] {
        talk.says("final", question).await;
        talk.says("end_of_turn", "").await;
        let (id, _) = talk.prompt().await;
        assert_eq!(talk.speak(160, Value::Null).await, filler);
        talk.answer(&id, "This is the answer.").await;
        assert_eq!(talk.speak(160, Value::Null).await, "This is the answer.");
        for _ in 0..2 {
            let (utterance, _) = talk.bench.utterance().await;
            talk.bench.send(AgentInput::Played(utterance));
        }
        talk.bench.turn_done().await;
    }
    let mut talk =
        Talk::start_with(|config| (config.fillers, config.filler_after_ms) = (fillers.to_vec(), 60_000)).await;
    talk.says("final", "why").await;
    talk.says("end_of_turn", "").await;
    let (id, _) = talk.prompt().await;
    talk.answer(&id, "At once.").await;
    assert_eq!(talk.speak(160, Value::Null).await, "At once.");
}

#[tokio::test]
async fn a_pause_asks_and_the_same_words_keep_the_answer() {
    let mut talk = Talk::start().await;
    talk.bench.send(AgentInput::CallerSpeech(true));
    talk.says("partial", "a table for two").await;
    assert!(matches!(talk.bench.event().await, Some(AgentEvent::Transcript { is_final: false, .. })));
    talk.bench.send(AgentInput::CallerPauses);
    let (id, messages) = talk.prompt().await;
    assert_eq!(messages, [json!({"role": "user", "content": "a table for two"})]);
    talk.answer(&id, "For two.").await;
    assert_eq!(talk.speak(800, Value::Null).await, "For two.");
    for _ in 0..50 {
        tokio::task::yield_now().await;
        assert!(talk.bench.cascade.next().now_or_never().is_none(), "nothing is heard before the turn is over");
    }
    talk.bench.send(AgentInput::CallerSpeech(false));
    assert_eq!(talk.stt.json().await, json!({"type": "flush"}));
    talk.says("final", "A table for two.").await;
    assert_eq!(talk.bench.transcript().await, (Role::User, "A table for two.".to_owned()));
    let Some(AgentEvent::Timing(timing)) = talk.bench.event().await else { panic!("no timing") };
    assert!(timing.token.unwrap() <= timing.words.unwrap() && timing.words <= timing.turn, "{timing:?}");
    assert!(timing.sentence >= timing.token && timing.speech >= timing.sentence, "{timing:?}");
    assert_eq!(talk.bench.utterance().await.1.len(), 800);
}

#[tokio::test]
async fn a_guess_is_taken_back_when_the_caller_goes_on_and_none_is_made_in_the_middle() {
    let mut talk = Talk::start().await;
    talk.bench.send(AgentInput::CallerSpeech(true));
    talk.says("partial", "a table and").await;
    talk.bench.event().await;
    talk.bench.send(AgentInput::CallerPauses);
    talk.says("partial", "a table and a chair").await;
    talk.bench.event().await;
    let (id, messages) = talk.prompt().await;
    assert_eq!(messages[0]["content"], "a table and a chair", "not asked behind \"and\"");
    talk.says("partial", "a table and a chair please").await;
    assert_eq!(talk.llm.json().await, json!({"type": "cancel", "id": id}));
    talk.says("final", "A table and a chair, please.").await;
    talk.says("end_of_turn", "").await;
    assert_eq!(talk.bench.transcript().await.1, "A table and a chair, please.");
}

#[tokio::test]
async fn final_words_are_waited_for_while_the_caller_speaks() {
    let mut talk = Talk::start().await;
    talk.bench.send(AgentInput::CallerSpeech(true));
    talk.says("final", "I want").await;
    talk.says("final", "a table").await;
    for text in ["I want", "I want a table"] {
        let Some(AgentEvent::Transcript { text: heard, is_final: false, .. }) = talk.bench.event().await else {
            panic!("not {text}")
        };
        assert_eq!(heard, text);
    }
    talk.bench.send(AgentInput::CallerSpeech(false));
    assert_eq!(talk.stt.json().await, json!({"type": "flush"}));
    talk.says("final", "for two").await;
    assert_eq!(talk.bench.transcript().await.1, "I want a table for two");
    // asked for in the pause, and taken back
    while talk.prompt().await.1.last().unwrap()["content"] != "I want a table for two" {}
}

#[tokio::test]
async fn a_murmur_into_the_agents_words_is_no_turn_but_an_answer_to_their_end_is() {
    let mut talk = Talk::start().await;
    talk.say("Do you want to go on?", false);
    talk.speak(80_000, Value::Null).await;
    let (id, _) = talk.bench.utterance().await;
    talk.bench.turn_done().await;
    talk.says("final", "Yes.").await;
    talk.says("end_of_turn", "").await;
    assert_eq!(talk.bench.transcript().await, (Role::User, "Yes.".to_owned()));
    talk.bench.turn_done().await;
    // the end of the question has been heard just now
    talk.bench.send(AgentInput::Played(id));
    let (prompt, messages) = talk.prompt().await;
    assert_eq!(messages.last().unwrap()["content"], "Yes.");
    talk.answer(&prompt, "One. Two.").await;
    talk.speak(80_000, Value::Null).await;
    let (id, _) = talk.bench.utterance().await;
    talk.says("final", "Okay.").await;
    talk.says("end_of_turn", "").await;
    talk.bench.turn_done().await;
    talk.says("final", "Stop there.").await;
    talk.says("end_of_turn", "").await;
    assert_eq!(talk.bench.transcript().await.1, "Stop there.");
    talk.bench.send(AgentInput::Interrupt { utterance: Some(id), heard: Duration::from_secs(10) });
    let contents: Vec<_> = talk.prompt().await.1.iter().map(|message| message["content"].clone()).collect();
    assert_eq!(contents[contents.len() - 2..], ["One.", "Stop there."], "the murmur is none of them");
}

#[tokio::test]
async fn protected_speech_outlives_an_interruption_and_keeps_what_the_caller_says() {
    let mut talk = Talk::start().await;
    talk.say("This call is recorded. Please agree.", true);
    talk.speak(8_000, Value::Null).await;
    let Some(AgentEvent::Protected(notice)) = talk.bench.event().await else { panic!("not protected") };
    // what played before it was cut
    talk.bench.send(AgentInput::Interrupt { utterance: None, heard: Duration::ZERO });
    let (first, samples) = talk.bench.utterance().await;
    assert_eq!((first, samples.len()), (notice, 8_000));
    talk.says("final", "I have a question").await;
    talk.says("end_of_turn", "").await;
    assert_eq!(talk.bench.transcript().await.1, "I have a question");
    talk.bench.send(AgentInput::Dtmf(Digit::try_from('1').unwrap()));
    assert_eq!(talk.speak(8_000, Value::Null).await, "Please agree.");
    let (second, _) = talk.bench.utterance().await;
    for id in [first, second] {
        talk.bench.send(AgentInput::Played(id));
    }
    assert_eq!(talk.prompt().await.1.last().unwrap()["content"], "I have a question 1");
}

#[tokio::test]
async fn an_interrupted_answer_ends_at_the_word_that_was_heard() {
    let mut talk = Talk::start().await;
    talk.say("Well, ten o'clock is late.", false);
    let word = |text, end| json!({"text": text, "start_ms": 0, "end_ms": end});
    let words = json!([word("Well", 900), word("ten", 950), {"no": 1}, word("o'clock", 1_000), word("is", 1_900)]);
    talk.speak(16_000, words).await;
    let (id, _) = talk.bench.utterance().await;
    talk.bench.send(AgentInput::Interrupt { utterance: Some(id), heard: Duration::from_millis(970) });
    assert_eq!(talk.bench.transcript().await, (Role::Agent, "Well, ten".to_owned()));
}

#[tokio::test]
async fn collected_digits_are_one_message() {
    let mut talk = Talk::start().await;
    let digits = "1234".chars().map(|c| Digit::try_from(c).unwrap()).collect();
    talk.bench.send(AgentInput::Digits(digits));
    assert_eq!(talk.prompt().await.1, [json!({"role": "user", "content": "1234"})]);
}

#[tokio::test]
async fn words_of_a_caller_whose_voice_is_too_faint_are_asked_for() {
    let mut talk = Talk::start().await;
    talk.says("partial", "hello").await;
    assert_eq!(talk.stt.json().await, json!({"type": "flush"}));
}
