//! Language models that stand in for one another.

use futures_util::StreamExt as _;
use hark::{
    agent::{
        Chain, Config, Context,
        cascade::{Cascade, Services},
    },
    audio::Rate,
    call::{AgentEvent, AgentInput, Digit, Replaced},
};
use serde_json::json;

use crate::support::{
    cascade::{Bench, config, context},
    connector::{nobody, soon},
    language_model::{Asked, KEY, Model, service},
};

/// A cascade with two models.
pub struct Talk {
    pub bench: Bench,
    ctx: Context,
    pub first: Model,
    pub second: Model,
    pub replaced: Vec<Replaced>,
}

impl Talk {
    async fn start() -> Self {
        Self::with(Config { failover_after_ms: 300, ..config() }).await
    }

    async fn with(config: Config) -> Self {
        Self::of("openai", config).await
    }

    /// The first is this vendor's.
    pub async fn of(vendor: &'static str, config: Config) -> Self {
        let (bench, ctx) = (Bench::start(config.clone(), None).await, context(config, Rate::R8K));
        let (first, second) = (Model::start(vendor).await, Model::start("openai").await);
        let mut talk = Self { bench, ctx, first, second, replaced: Vec::new() };
        let first = talk.first.service("");
        talk.call(first);
        talk
    }

    /// Another call of the same process.
    pub fn call(&mut self, first: hark::agent::Service) {
        let second = self.second.service("");
        self.call_with(vec![first, second]);
    }

    /// The same with the first alone.
    pub fn call_alone(&mut self) {
        let first = self.first.service("");
        self.call_with(vec![first]);
    }

    fn call_with(&mut self, models: Vec<hark::agent::Service>) {
        let services = Services {
            asr: self.bench.asr.url.clone().into(),
            llm: Chain::new(models).unwrap(),
            tts: self.bench.tts.url.clone().into(),
            greeting: None,
        };
        self.bench.cascade = Cascade::start(self.ctx.clone(), services);
    }

    /// The caller presses a key, which is a turn of theirs.
    pub fn press(&mut self, key: char) {
        self.bench.send(AgentInput::Dtmf(Digit::try_from(key).unwrap()));
    }

    /// The next sentence that is asked for and heard.
    pub async fn sentence(&mut self) -> Option<String> {
        let bench = &mut self.bench;
        let mut text = None;
        loop {
            tokio::select! {
                mut request = bench.tts.request() => {
                    text = Some(request.json().await["text"].as_str().unwrap().to_owned());
                    request.answer(&[&[1; 320]]).await;
                }
                event = soon("an event", bench.cascade.next()) => match event {
                    Some(AgentEvent::AudioEnd(id)) => {
                        bench.send(AgentInput::Played(id));
                        return text;
                    }
                    Some(AgentEvent::TurnDone) => return None,
                    Some(AgentEvent::Replaced(replaced)) => self.replaced.push(replaced),
                    Some(AgentEvent::Failed(fault)) => panic!("{fault:?}"),
                    Some(_) => {}
                    None => panic!("the agent has ended"),
                }
            }
        }
    }

    /// The sentences that are spoken until the turn is over.
    pub async fn spoken(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(text) = self.sentence().await {
            texts.push(text);
        }
        texts
    }
}

async fn asked(model: &mut Model) -> Asked {
    model.asked().await
}

#[tokio::test]
async fn a_question_that_fails_before_its_first_word_goes_to_the_next() {
    for (trouble, code) in [
        ("401 Unauthorized", "agent.llm.unauthorized"),
        ("402 Payment Required", "agent.llm.quota"),
        ("429 Too Many Requests", "agent.llm.quota"),
        ("503 Service Unavailable", "agent.llm.failed"),
        ("nobody", "agent.llm.refused"),
        ("reset", "agent.llm.broken"),
        ("silence", "agent.llm.timeout"),
        ("garbage", "agent.llm.unusable"),
    ] {
        let mut talk = Talk::start().await;
        let (url, _socket) = nobody();
        if trouble == "nobody" {
            talk.call(service(&format!("openai:model-1?base_url={url}v1")));
        }
        talk.press('1');
        let mut held = None;
        if trouble != "nobody" {
            let mut first = asked(&mut talk.first).await;
            match trouble {
                "reset" => first.reset(),
                "silence" => held = Some(first),
                "garbage" => {
                    first.ok().await;
                    first.chunk("data: [1\n\n".repeat(20).as_bytes()).await;
                    held = Some(first);
                }
                status => {
                    let body = json!({"error": {"message": format!("no luck with {KEY}")}}).to_string();
                    first.status(status, "Retry-After: 2\r\n", &body).await;
                }
            }
        }
        let second = asked(&mut talk.second).await;
        assert_eq!(second.messages().last().unwrap(), &("user".to_owned(), "1".to_owned()), "{trouble}");
        second.answer("Here.").await;
        assert_eq!(talk.spoken().await, ["Here."], "{trouble}");
        assert_eq!(talk.replaced.len(), 1, "{trouble}");
        let replaced = &talk.replaced[0];
        assert_eq!(replaced.fault.code, code, "{replaced:?}");
        assert!(!format!("{replaced:?}").contains(KEY), "{replaced:?}");
        assert!(replaced.by.contains(talk.second.base()), "{replaced:?}");
        // and so does the next question of this call, at once
        talk.press('2');
        asked(&mut talk.second).await.answer("Here too.").await;
        assert_eq!(talk.spoken().await, ["Here too."], "{trouble}");
        drop(held);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_gone_on_with_behind_what_was_said() {
    let mut talk = Talk::start().await;
    talk.press('1');
    let mut first = asked(&mut talk.first).await;
    first.ok().await;
    first.say("One is said. Two is sa").await;
    first.say("id. Three is not wh").await;
    assert_eq!(talk.sentence().await.as_deref(), Some("One is said."));
    first.reset();
    let second = asked(&mut talk.second).await;
    let messages = second.messages();
    let [.., (user, one), (assistant, said), (last, go_on)] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!([user, assistant, last], ["user", "assistant", "user"]);
    assert_eq!((one.as_str(), said.as_str()), ("1", "One is said. Two is said."));
    assert!(go_on.contains("Do not repeat"), "{go_on}");
    second.answer("Three is said now.").await;
    assert_eq!(talk.spoken().await, ["Two is said.", "Three is said now."]);
    // nobody is told of it in the next turn
    talk.press('2');
    let next = asked(&mut talk.second).await;
    let texts: Vec<_> = next.messages().into_iter().skip(1).map(|(_, text)| text).collect();
    assert_eq!(texts, ["1", "One is said. Two is said. Three is said now.", "2"]);
}

#[tokio::test]
async fn what_was_no_whole_sentence_is_said_by_the_next_alone() {
    let mut talk = Talk::start().await;
    talk.press('1');
    let mut first = asked(&mut talk.first).await;
    first.ok().await;
    first.say("Not a whole sen").await;
    first.reset();
    let second = asked(&mut talk.second).await;
    assert_eq!(second.messages().last().unwrap().1, "1");
    second.answer("A whole one.").await;
    assert_eq!(talk.spoken().await, ["A whole one."]);
}

#[tokio::test]
async fn when_all_fail_the_turn_is_lost_and_the_call_is_not() {
    let mut talk = Talk::start().await;
    talk.press('1');
    asked(&mut talk.first).await.status("401 Unauthorized", "", "{}").await;
    asked(&mut talk.second).await.status("503 Busy", "Retry-After: 60\r\n", "{}").await;
    assert_eq!(talk.spoken().await, Vec::<String>::new());
    talk.press('2');
    // both are left alone: the one that may be asked soonest is
    asked(&mut talk.first).await.answer("Here.").await;
    assert_eq!(talk.spoken().await, ["Here."]);
}

#[tokio::test]
async fn calls_come_back_to_the_first_when_it_has_recovered() {
    let mut talk = Talk::with(Config { breaker_open_s: 1, ..config() }).await;
    talk.press('1');
    asked(&mut talk.first).await.status("401 Unauthorized", "", "{}").await;
    asked(&mut talk.second).await.answer("Second.").await;
    assert_eq!(talk.spoken().await, ["Second."]);
    let first = talk.first.service("");
    talk.call(first);
    talk.press('1');
    asked(&mut talk.second).await.answer("Second.").await;
    assert_eq!(talk.spoken().await, ["Second."]);
    tokio::time::sleep(std::time::Duration::from_millis(1_050)).await;
    // a call that has not asked anything has not tried it out either
    let first = talk.first.service("");
    talk.call(first);
    talk.press('2');
    asked(&mut talk.first).await.answer("First.").await;
    assert_eq!(talk.spoken().await, ["First."]);
    let shown = talk.ctx.outgoing.standings().shown();
    assert!(shown.iter().all(|service| service.state == "closed"), "{shown:?}");
}
