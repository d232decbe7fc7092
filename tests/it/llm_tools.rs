//! Tools that language models have called.

use std::{sync::Arc, time::Duration};

use hark::{
    agent::{
        Chain, Config,
        cascade::{Cascade, Services},
        service::{Provider, Providers},
        tools::{HttpTool, Order, Toolbox},
    },
    audio::Rate,
    call::{AgentEvent, AgentInput, Digit, Refusal, Refused, Request, Target, ToolCalled, Usage},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::{
    cascade::{Bench, UUID, config, context},
    connector::{Connector, soon},
    gateway::{Gateway, Line, Said, numbered},
    language_model::{Asked, KEY, Model, openai_calls},
};

/// A cascade whose model has tools.
pub struct Talk<M = Model> {
    pub bench: Bench,
    pub model: M,
    pub crm: Connector,
    pub orders: mpsc::Receiver<Order>,
    pub called: Vec<ToolCalled>,
    usage: Option<Usage>,
}

/// What the service of the operator's is declared as.
pub fn declared(url: &str) -> Vec<HttpTool> {
    let parameters = "{ type = \"object\", properties = { id = { type = \"string\" } }, required = [\"id\"] }";
    let read = format!(
        "name = \"crm_order\"\ndescription = \"Looks up an order.\"\nparameters = {parameters}\nurl = \"{url}/{{{{id}}}}?from={{{{call.from}}}}\"\n\
         headers = {{ Authorization = \"Bearer ${{TOKEN}}\" }}\ntimeout_ms = 2000\nsay = \"I'm looking.\"\nresult = \"data.state\""
    );
    let write = format!(
        "name = \"crm_note\"\ndescription = \"Writes a note.\"\nparameters = {parameters}\nmethod = \"POST\"\nurl = \"{url}\""
    );
    let make = |toml: &str| {
        HttpTool::new(toml::from_str(toml).unwrap(), |name| (name == "TOKEN").then(|| "hunter2".to_owned())).unwrap()
    };
    vec![make(&read), make(&write)]
}

impl Talk {
    async fn start() -> Self {
        Self::with("openai", config()).await
    }

    async fn with(vendor: &'static str, config: Config) -> Self {
        let model = Model::start(vendor).await;
        let llm = model.service("").into();
        Self::between(model, llm, &["hangup", "transfer", "collect_digits", "crm_*"], config).await
    }

    /// The caller presses a key, which is a turn of theirs; the question for it.
    async fn asked(&mut self, key: char) -> Asked {
        self.press(key);
        self.model.asked().await
    }
}

impl<M> Talk<M> {
    /// With this model, that is told of these tools.
    pub async fn between(model: M, llm: Chain, allowed: &[&str], config: Config) -> Self {
        let mut bench = Bench::start(config.clone(), None).await;
        let crm = Connector::start("/orders").await;
        let allowed: Vec<_> = allowed.iter().map(|name| (*name).to_owned()).collect();
        let places = ["sales=200@internal".to_owned()];
        let toolbox = Toolbox::new(&allowed, &places, &declared(crm.url.as_str()), &[]).unwrap();
        let (sender, orders) = mpsc::channel(8);
        let mut context = context(config, Rate::R8K);
        context.tools = Arc::new(toolbox);
        context.orders = Some(sender);
        context.about = Arc::new(json!({"from": "+49 30"}).as_object().unwrap().clone());
        let services =
            Services { asr: bench.asr.url.clone().into(), llm, tts: bench.tts.url.clone().into(), greeting: None };
        bench.cascade = Cascade::start(context, services);
        Self { bench, model, crm, orders, called: Vec::new(), usage: None }
    }

    pub fn press(&mut self, key: char) {
        self.bench.send(AgentInput::Dtmf(Digit::try_from(key).unwrap()));
    }

    /// Goes on until `done` is ready; what is spoken meanwhile is heard at once. The texts, and what `done` brought.
    pub async fn until<T>(
        &mut self,
        done: impl AsyncFnOnce(&mut mpsc::Receiver<Order>, &mut M) -> T,
    ) -> (Vec<String>, T) {
        let Self { bench, model, orders, called, .. } = self;
        let done = done(orders, model);
        tokio::pin!(done);
        let mut texts = Vec::new();
        loop {
            tokio::select! {
                biased;
                request = bench.tts.request() => texts.push(speak(request).await),
                event = soon("an event", futures_util::StreamExt::next(&mut bench.cascade)) => match event {
                    Some(AgentEvent::AudioEnd(id)) => bench.send(AgentInput::Played(id)),
                    Some(AgentEvent::ToolCalled(tool)) => called.push(tool),
                    Some(AgentEvent::Failed(fault)) => panic!("{fault:?}"),
                    Some(_) => {}
                    None => panic!("the agent has ended"),
                },
                done = &mut done => return (texts, done),
            }
        }
    }

    /// The sentences that are spoken until the turn is over.
    pub async fn spoken(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            tokio::select! {
                request = self.bench.tts.request() => texts.push(speak(request).await),
                event = soon("an event", futures_util::StreamExt::next(&mut self.bench.cascade)) => match event {
                    Some(AgentEvent::AudioEnd(id)) => self.bench.send(AgentInput::Played(id)),
                    Some(AgentEvent::ToolCalled(tool)) => self.called.push(tool),
                    Some(AgentEvent::TurnDone) => return texts,
                    Some(AgentEvent::Failed(fault)) => panic!("{fault:?}"),
                    Some(_) => {}
                    None => panic!("the agent has ended"),
                }
            }
        }
    }

    /// The end of the call: what its services were used for.
    pub async fn finish(mut self) -> Self {
        self.bench.send(AgentInput::Finish);
        while let Some(event) = self.bench.event().await {
            match event {
                AgentEvent::Usage(usage) => self.usage = Some(usage),
                AgentEvent::ToolCalled(tool) => self.called.push(tool),
                _ => {}
            }
        }
        self
    }
}

pub async fn speak(mut request: crate::support::connector::Exchange) -> String {
    let text = request.json().await["text"].as_str().unwrap().to_owned();
    request.answer(&[&[1; 320]]).await;
    text
}

pub async fn order(orders: &mut mpsc::Receiver<Order>) -> Order {
    soon("an order", orders.recv()).await.unwrap()
}

fn results(asked: &Asked) -> Vec<String> {
    asked.messages().into_iter().filter(|(role, _)| role == "tool").map(|(_, text)| text).collect()
}

#[tokio::test]
async fn a_transfer_waits_for_what_was_said_and_a_failed_one_is_told_to_the_model() {
    let mut talk = Talk::start().await;
    let asked = talk.asked('1').await;
    let names: Vec<_> = asked.body["tools"].as_array().unwrap().iter().map(|tool| &tool["function"]["name"]).collect();
    assert_eq!(names, ["hangup", "transfer", "collect_digits", "crm_order", "crm_note"]);
    asked.call("I'll connect you to sales", &[("call_1", "transfer", json!({"to": "Sales"}))]).await;
    // the sentence has no full stop, and is spoken all the same; nothing is done before it has been heard
    let text = speak(talk.bench.tts.request().await).await;
    assert_eq!(text, "I'll connect you to sales");
    let (id, _) = talk.bench.utterance().await;
    assert!(talk.orders.try_recv().is_err());
    talk.bench.send(AgentInput::Played(id));
    let (_, order) = talk.until(async |orders, _| order(orders).await).await;
    let place = Target { context: Some("internal".to_owned()), exten: "200".to_owned(), priority: None };
    assert_eq!(order.request, Request::Transfer(place));
    let why = "the PBX accepted it, but has not taken the caller away".to_owned();
    order.done.send(Err(Refused { kind: Refusal::Failed, code: "call.not_taken", message: why })).unwrap();
    let (_, again) = talk.until(async |_, model| model.asked().await).await;
    let told = results(&again);
    assert!(told[0].contains("It failed") && told[0].contains("has not taken the caller away"), "{told:?}");
    assert_eq!(again.body["messages"][2]["content"], "I'll connect you to sales");
    again.answer("Sorry, nobody is there.").await;
    assert_eq!(talk.spoken().await, ["Sorry, nobody is there."]);
    let tool = &talk.called[0];
    assert_eq!((tool.name.as_str(), tool.failed), ("transfer", true));
    assert_eq!(tool.arguments, "{\"to\":\"Sales\"}");
}

#[tokio::test]
async fn after_hanging_up_the_model_is_not_asked_again() {
    let mut talk = Talk::start().await;
    let asked = talk.asked('1').await;
    asked.call("Goodbye.", &[("call_1", "hangup", json!({}))]).await;
    let (texts, order) = talk.until(async |orders, _| order(orders).await).await;
    assert_eq!((texts, order.request), (vec!["Goodbye.".to_owned()], Request::Hangup { cause: None, now: false }));
    order.done.send(Ok(())).unwrap();
    talk.spoken().await;
    assert!(!talk.model.is_asked());
    let talk = talk.finish().await;
    assert!(talk.called.iter().all(|tool| tool.name == "hangup" && !tool.failed));
    assert_eq!(talk.called.len(), 1);
}

#[tokio::test]
async fn a_service_is_asked_and_its_answer_goes_to_the_model() {
    let mut talk = Talk::start().await;
    let asked = talk.asked('1').await;
    let calls = [("call_1", "crm_order", json!({"id": "A/7 ü"})), ("call_2", "crm_note", json!({"id": "x"}))];
    asked.call("", &calls).await;
    let (mut one, mut two) = (talk.crm.request().await, talk.crm.request().await);
    if one.head.starts_with("POST") {
        std::mem::swap(&mut one, &mut two);
    }
    assert!(one.head.starts_with("GET /orders/A%2F7%20%C3%BC?from=%2B49%2030 HTTP/1.1\r\n"), "{}", one.head);
    assert_eq!(one.header("authorization"), Some("Bearer hunter2"));
    assert_eq!(one.header("x-uuid"), Some(UUID.to_string().as_str()));
    assert!(two.head.starts_with("POST /orders HTTP/1.1\r\n"));
    assert_eq!(two.json().await, json!({"id": "x"}));
    one.status("200 OK", r#"{"data":{"state":"sent"}}"#).await;
    two.status("500 Internal Server Error", "{\"error\":\"no disk\"}").await;
    let (_, again) = talk.until(async |_, model| model.asked().await).await;
    let told = results(&again);
    assert_eq!(told[0], "sent");
    assert!(told[1].contains("It failed") && told[1].contains("500") && told[1].contains("no disk"), "{told:?}");
    again.answer("It has been sent.").await;
    assert_eq!(talk.spoken().await, ["It has been sent."]);
    // and it stays in the history, before what was said
    let next = talk.asked('2').await;
    let roles: Vec<String> = next.messages().into_iter().map(|(role, _)| role).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "tool", "assistant", "user"]);
    next.answer("Bye.").await;
    talk.spoken().await;
    let talk = talk.finish().await;
    let usage = talk.usage.unwrap();
    assert_eq!((usage.models[0].model.as_str(), usage.models[0].requests), ("model-1", 3));
    assert_eq!((usage.models[0].input_tokens, usage.models[0].output_tokens), (60, 15));
    assert_eq!(usage.tts_characters, "It has been sent.Bye.".len() as u64);
}

#[tokio::test]
async fn a_slow_service_is_filled_with_words_of_its_own() {
    let mut talk = Talk::with("openai", Config { filler_after_ms: 40, ..config() }).await;
    let asked = talk.asked('1').await;
    asked.call("", &[("call_1", "crm_order", json!({"id": "7"}))]).await;
    let request = talk.crm.request().await;
    assert_eq!(speak(talk.bench.tts.request().await).await, "I'm looking.");
    request.status("200 OK", r#"{"data":{"state":"lost"}}"#).await;
    let (_, again) = talk.until(async |_, model| model.asked().await).await;
    again.answer("It is lost.").await;
    assert_eq!(talk.spoken().await, ["It is lost."]);
}

#[tokio::test]
async fn what_leads_elsewhere_is_not_asked() {
    let mut talk = Talk::start().await;
    let asked = talk.asked('1').await;
    let calls = [
        ("a", "crm_order", json!({"id": ".."})),
        ("b", "crm_order", json!({})),
        ("c", "crm_order", json!({"id": "x".repeat(2_000)})),
        ("d", "nothing", json!({})),
        ("e", "transfer", json!({"to": "0900123"})),
    ];
    asked.call("", &calls).await;
    let (_, again) = talk.until(async |_, model| model.asked().await).await;
    let told = results(&again);
    assert!(told.iter().all(|text| text.contains("It failed")), "{told:?}");
    assert!(!talk.crm.has_request() && talk.orders.try_recv().is_err());
    again.answer("No.").await;
    talk.spoken().await;
}

#[tokio::test]
async fn a_caller_who_speaks_ends_a_tool_and_the_model_knows() {
    let mut talk = Talk::start().await;
    let asked = talk.asked('1').await;
    asked.call("", &[("call_1", "crm_order", json!({"id": "7"}))]).await;
    let request = talk.crm.request().await;
    talk.press('2');
    request.closed().await;
    let next = talk.model.asked().await;
    let told = results(&next);
    assert!(told[0].contains("given up"), "{told:?}");
    next.answer("Yes?").await;
    talk.spoken().await;
    assert!(talk.called[0].failed && talk.called[0].result.contains("given up"), "{:?}", talk.called);
}

#[tokio::test]
async fn a_model_that_only_calls_tools_has_to_answer_at_last() {
    let mut talk = Talk::start().await;
    talk.press('1');
    for round in 0..8 {
        let asked = talk.model.asked().await;
        assert!(asked.body["tools"].is_array(), "{round}");
        asked.call("", &[(&format!("call_{round}"), "collect_digits", json!({"max": 0}))]).await;
    }
    let last = talk.model.asked().await;
    assert!(last.body.get("tools").is_none());
    last.call("", &[("call_x", "collect_digits", json!({"max": 0}))]).await;
    talk.spoken().await;
    assert!(!talk.model.is_asked());
}

#[tokio::test]
async fn anthropic_and_gemini_call_tools_too() {
    let mut talk = Talk::with("anthropic", config()).await;
    let asked = talk.asked('1').await;
    assert_eq!(asked.body["tools"][0]["name"], "hangup");
    let block = json!({"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t1", "name": "collect_digits", "input": {}}});
    let delta = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{\"max\":4}"}});
    asked.stream(&format!("data: {block}\n\ndata: {delta}\n\ndata: {{\"type\":\"message_stop\"}}\n\n")).await;
    let (_, order_) = talk.until(async |orders, _| order(orders).await).await;
    assert!(matches!(order_.request, Request::Collect(Some(how)) if how.max == 4));
    order_.done.send(Ok(())).unwrap();
    // the fake wants roles to alternate and results to come first
    let again = talk.model.asked().await;
    assert_eq!(again.body["messages"][2]["content"][0]["tool_use_id"], "t1");
    again.stream("data: {\"type\":\"message_stop\"}\n\n").await;
    talk.spoken().await;
    let mut talk = Talk::with("gemini", config()).await;
    let asked = talk.asked('1').await;
    let part = json!({"functionCall": {"name": "collect_digits", "args": {"max": 4}}, "thoughtSignature": "c2ln"});
    let answer = json!({"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]});
    asked.stream(&format!("data: {answer}\r\n\r\n")).await;
    let (_, order_) = talk.until(async |orders, _| order(orders).await).await;
    order_.done.send(Ok(())).unwrap();
    let again = talk.model.asked().await;
    assert_eq!(again.body["contents"][1]["parts"][0], part);
    let response: &Value = &again.body["contents"][2]["parts"][0]["functionResponse"];
    assert_eq!((&response["name"], response["response"]["output"].is_string()), (&json!("collect_digits"), true));
    again.stream("data: {\"candidates\":[{\"finishReason\":\"STOP\"}]}\n\n").await;
    talk.spoken().await;
}

#[tokio::test]
async fn nothing_is_done_for_a_turn_that_may_not_be_one() {
    let body = openai_calls("", &[("call_1", "collect_digits", json!({"max": 4}))]);
    let settings = Config { debounce_ms: 400, ..config() };
    let mut talk = Talk::with("openai", settings).await;
    let mut asr = talk.bench.asr.request().await;
    asr.ok().await;
    // asked before it is sure that the caller has said everything
    asr.chunk(b"one two three").await;
    let asked = talk.model.asked().await;
    asked.stream(&body).await;
    let early = tokio::time::timeout(Duration::from_millis(150), talk.orders.recv()).await;
    assert!(early.is_err(), "{early:?}");
    let (_, order) = talk.until(async |orders, _| order(orders).await).await;
    order.done.send(Ok(())).unwrap();
    talk.model.asked().await.answer("Thanks.").await;
    assert_eq!(talk.spoken().await, ["Thanks."]);
}

#[tokio::test]
async fn a_whole_gateway_hangs_up_when_the_model_wants_it() {
    let mut model = Model::start("openai").await;
    let mut asr = Connector::start("/speech-to-text-stream").await;
    let mut tts = Connector::start("/text-to-speech-stream").await;
    let gateway = Gateway::with(&asr.url, |config| {
        let agent = &mut config.agent;
        agent.sts_url = None;
        agent.asr_url = Some(asr.url.to_string());
        agent.tts_url = Some(tts.url.to_string());
        agent.llm_url = Some(format!("openai:model-1?base_url={}", model.base()));
        let provider = Provider { api_key: Some(KEY.into()), ..Provider::default() };
        agent.providers = Arc::new(Providers([("openai".to_owned(), provider)].into()));
        agent.tools = vec!["hangup".to_owned()];
    })
    .await;
    let mut line = Line::call(gateway.audiosocket).await;
    let mut heard = asr.request().await;
    heard.ok().await;
    heard.chunk(b"that is all<end>").await;
    let asked = model.asked().await;
    assert_eq!(asked.messages()[1], ("user".to_owned(), "that is all".to_owned()));
    asked.call("Goodbye.", &[("call_1", "hangup", json!({}))]).await;
    let request = tts.request().await;
    let pcm: Vec<u8> = numbered(25).iter().flat_map(|sample| sample.to_le_bytes()).collect();
    request.answer(&[&pcm]).await;
    // all of it is heard, then the call is over and the dialplan goes on
    let words = line.words(25 * 160).await;
    assert_eq!(words, numbered(25));
    loop {
        match line.hear().await {
            Said::Audio(samples) => assert!(samples.iter().all(|sample| *sample == 0)),
            Said::Hangup => break,
            Said::End => panic!("the connection just ends"),
        }
    }
    assert!(!model.is_asked());
}
