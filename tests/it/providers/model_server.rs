//! Language models as somebody else plays them: LLMock (PyPI) speaks the interfaces of OpenAI, Anthropic and Gemini, breaks them on demand,
//! and judges how its clients cope.

use std::sync::Arc;

use hark::{
    agent::{
        Chain, Config, Service,
        cascade::{Cascade, Services},
        tools::{HttpTool, Toolbox},
    },
    audio::Rate,
    call::{AgentEvent, AgentInput, Digit, ToolCalled},
};
use serde_json::{Value, json};
use tokio::process::Child;

use crate::support::{
    cascade::{Bench, config, context},
    connector::{Connector, soon},
    engines::{ask, language_models},
    language_model::{KEY, service},
};

const VENDORS: [(&str, &str); 3] = [("openai", "v1"), ("anthropic", "anthropic/v1"), ("gemini", "gemini/v1beta")];

/// The server; gone when dropped.
struct Server {
    port: u16,
    _process: Child,
}

impl Server {
    async fn start() -> Option<Self> {
        let (_process, port) = language_models().await?;
        Some(Self { port, _process })
    }

    fn model(&self, vendor: &str, path: &str, model: &str) -> Service {
        service(&format!("{vendor}:{model}?base_url=http://127.0.0.1:{}/{path}", self.port))
    }

    /// What it is to do with the next requests.
    async fn will(&self, behaviours: &[Value]) {
        let body = json!({"behaviors": behaviours}).to_string();
        ask(self.port, "POST /_llmock/scenario", body.as_bytes()).await;
    }

    async fn get(&self, what: &str) -> Value {
        ask(self.port, &format!("GET /_llmock/{what}"), &[]).await
    }

    async fn forget(&self) {
        ask(self.port, "POST /_llmock/reset", &[]).await;
    }

    /// It finds nothing wrong with us, however many faults there were.
    async fn approves(&self, faults: u64) {
        let verdict = self.get("verdict").await;
        assert_eq!((&verdict["passed"], &verdict["findings"]), (&json!(true), &json!([])), "{verdict:#}");
        assert_eq!(verdict["faults_injected"].as_u64(), Some(faults), "{verdict:#}");
        self.forget().await;
    }
}

fn says(text: &str) -> Value {
    json!({"type": "reply", "text": text, "match": {"stream": true}})
}

/// A caller who presses keys, and hears at once whatever is spoken.
struct Talk {
    bench: Bench,
    crm: Connector,
    called: Vec<ToolCalled>,
    replaced: usize,
}

impl Talk {
    async fn with(models: Vec<Service>) -> Self {
        let settings = Config { reconnect_ms: 5_000, failover_after_ms: 1_000, ..config() };
        let mut bench = Bench::start(settings.clone(), None).await;
        let crm = Connector::start("/orders").await;
        let declared = format!(
            "name = \"crm_order\"\ndescription = \"Looks up an order.\"\nurl = \"{}/{{{{id}}}}\"\n\
             parameters = {{ type = \"object\", properties = {{ id = {{ type = \"string\" }} }}, required = [\"id\"] }}",
            crm.url
        );
        let tool = HttpTool::new(toml::from_str(&declared).unwrap(), |_| None).unwrap();
        let mut context = context(settings, Rate::R8K);
        context.tools = Arc::new(Toolbox::new(&["crm_order".to_owned()], &[], &[tool], &[]).unwrap());
        let services = Services {
            asr: bench.asr.url.clone().into(),
            llm: Chain::new(models).unwrap(),
            tts: bench.tts.url.clone().into(),
            greeting: None,
        };
        bench.cascade = Cascade::start(context, services);
        Self { bench, crm, called: Vec::new(), replaced: 0 }
    }

    /// The caller presses a key: the sentences that answer it.
    async fn answer(&mut self) -> Vec<String> {
        self.bench.send(AgentInput::Dtmf(Digit::try_from('1').unwrap()));
        let mut texts = Vec::new();
        loop {
            let bench = &mut self.bench;
            tokio::select! {
                mut request = bench.tts.request() => {
                    texts.push(request.json().await["text"].as_str().unwrap().to_owned());
                    request.answer(&[&[1; 320]]).await;
                }
                asked = self.crm.request() => {
                    assert!(asked.head.starts_with("GET /orders/7 "), "{}", asked.head);
                    asked.status("200 OK", r#"{"state": "shipped"}"#).await;
                }
                event = soon("an event", futures_util::StreamExt::next(&mut bench.cascade)) => match event {
                    Some(AgentEvent::AudioEnd(id)) => bench.send(AgentInput::Played(id)),
                    Some(AgentEvent::ToolCalled(tool)) => self.called.push(tool),
                    Some(AgentEvent::Replaced(_)) => self.replaced += 1,
                    Some(AgentEvent::TurnDone) => return texts,
                    Some(AgentEvent::Failed(fault)) => panic!("{fault:?}"),
                    Some(_) => {}
                    None => panic!("the agent has ended"),
                }
            }
        }
    }
}

#[tokio::test]
async fn another_server_of_language_models_is_understood() {
    let Some(server) = Server::start().await else { return };
    for (vendor, path) in VENDORS {
        let mut talk = Talk::with(vec![server.model(vendor, path, "model-1")]).await;
        server.will(&[says("Good morning. Grüße aus Köln! What may I do for you?")]).await;
        assert_eq!(talk.answer().await, ["Good morning.", "Grüße aus Köln!", "What may I do for you?"], "{vendor}");
        let call = json!({"name": "crm_order", "arguments": {"id": "7"}});
        let calls = json!({"type": "reply", "text": "One moment.", "tool_calls": [call], "match": {"stream": true}});
        server.will(&[calls, says("It was shipped.")]).await;
        let answer = talk.answer().await;
        assert_eq!(answer.last().map(String::as_str), Some("It was shipped."), "{vendor}: {answer:?}");
        let called = &talk.called[0];
        assert_eq!((called.name.as_str(), called.failed), ("crm_order", false), "{vendor}: {called:?}");
        assert_eq!(serde_json::from_str::<Value>(&called.arguments).unwrap(), json!({"id": "7"}), "{vendor}");
        server.approves(0).await;
    }
}

#[tokio::test]
async fn what_such_a_server_breaks_is_survived_as_it_should_be() {
    let Some(server) = Server::start().await else { return };
    for (vendor, path) in VENDORS {
        let mut talk = Talk::with(vec![server.model(vendor, path, "model-1")]).await;
        let overloaded = if vendor == "anthropic" { 529 } else { 503 };
        for mut fault in [
            json!({"type": "fail", "status": 429, "retry_after": 1}),
            json!({"type": "fail", "status": 500}),
            json!({"type": "fail", "status": overloaded}),
        ] {
            // not the request that only opens the connection
            fault["match"] = json!({"stream": true});
            server.will(&[fault.clone(), says("Here I am again.")]).await;
            assert_eq!(talk.answer().await, ["Here I am again."], "{vendor}: {fault}");
            // after the wait that was asked for, once, with the same words
            server.approves(1).await;
        }
    }
}

#[tokio::test]
async fn the_next_model_answers_where_such_a_server_fails_for_good() {
    let Some(server) = Server::start().await else { return };
    for (vendor, path) in VENDORS {
        for fault in [
            json!({"type": "fail", "status": 401}),
            json!({"type": "fail", "status": 503}),
            json!({"type": "stream_fault", "kind": "disconnect", "after_chunks": 0}),
            json!({"type": "stream_fault", "kind": "truncate", "after_chunks": 0}),
            json!({"type": "stream_fault", "kind": "stall", "after_chunks": 0, "stall_seconds": 30}),
        ] {
            let models = ["first", "second"].map(|model| server.model(vendor, path, model));
            let mut talk = Talk::with(models.into()).await;
            let mut broken = fault.clone();
            broken["match"] = json!({"model": "first", "stream": true});
            let answer = json!({"type": "reply", "text": "I am the second.", "match": {"model": "second"}});
            server.will(&[broken, answer]).await;
            assert_eq!(talk.answer().await, ["I am the second."], "{vendor}: {fault}");
            assert_eq!(talk.replaced, 1, "{vendor}: {fault}");
            let seen = server.get("requests").await;
            assert!(!seen.to_string().contains(KEY), "a key is where it should not be: {seen}");
            server.forget().await;
        }
    }
}
