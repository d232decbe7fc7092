//! Tools over the speech-to-speech contract, for services that ask for them.

use std::{sync::Arc, time::Duration};

use hark::{
    agent::{
        sts::Sts,
        tools::{Order, Toolbox},
    },
    audio::Rate,
    call::{AgentEvent, Request, ToolCalled},
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    llm_tools::declared,
    support::{
        agent_call::{AgentCall, context, speech},
        connector::{Connector, soon},
        gateway::{Gateway, Line, Said},
        sts_server::{Mode, Record, Session, Step, StsServer},
    },
};

struct Talk {
    call: AgentCall<Sts>,
    session: Arc<Session>,
    orders: mpsc::Receiver<Order>,
    crm: Connector,
    _server: StsServer,
}

fn text(message: &Value) -> Step {
    Step::Text(message.to_string())
}

fn tool_call(id: &str, name: &str, arguments: Value) -> Step {
    text(&json!({"type": "tool_call", "call_id": id, "name": name, "arguments": arguments}))
}

/// The messages of this type that the service has got.
fn of(record: &Record, kind: &str) -> Vec<Value> {
    let all = record.texts.iter().map(|text| serde_json::from_str::<Value>(text).unwrap());
    all.filter(|message| message["type"] == kind).collect()
}

impl Talk {
    async fn start() -> Self {
        let server = StsServer::start(Mode::Script(Vec::new())).await;
        let crm = Connector::start("/orders").await;
        let allowed = ["hangup", "crm_*"].map(str::to_owned);
        let (sender, orders) = mpsc::channel(8);
        let mut context = context(Rate::R8K);
        context.tools = Arc::new(Toolbox::new(&allowed, &[], &declared(crm.url.as_str()), &[]).unwrap());
        context.orders = Some(sender);
        let mut call = AgentCall::new(Sts::start(server.url(), context));
        let session = call.during(server.session(0)).await;
        call.during(session.until(|record| !record.texts.is_empty())).await;
        Self { call, session, orders, crm, _server: server }
    }

    /// The service asks for tools; what it is told.
    async fn asking() -> (Self, Value) {
        let mut talk = Self::start().await;
        talk.session.step(text(&json!({"type": "tools"})));
        let told = talk.got("tools", 1).await.remove(0);
        (talk, told)
    }

    async fn got(&mut self, kind: &str, count: usize) -> Vec<Value> {
        let session = Arc::clone(&self.session);
        let record = self.call.during(session.until(|record| of(record, kind).len() >= count)).await;
        of(&record, kind)
    }

    fn called(&self) -> Vec<&ToolCalled> {
        let all = self.call.events.iter();
        all.filter_map(|event| if let AgentEvent::ToolCalled(tool) = event { Some(tool) } else { None }).collect()
    }
}

#[tokio::test]
async fn who_asks_is_told_which_there_are_and_has_them_called() {
    let (mut talk, told) = Talk::asking().await;
    let names: Vec<_> = told["tools"].as_array().unwrap().iter().map(|tool| &tool["function"]["name"]).collect();
    assert_eq!(names, ["hangup", "crm_order", "crm_note"]);
    talk.session.step(tool_call("a", "crm_order", json!({"id": "7"})));
    let request = talk.call.during(talk.crm.request()).await;
    assert!(request.head.starts_with("GET /orders/7?"), "{}", request.head);
    // it goes on meanwhile
    talk.session.step(Step::Transcript("agent", "One moment."));
    talk.call.until(|call| call.others() == ["agent: One moment."]).await;
    request.status("200 OK", r#"{"data":{"state":"sent"}}"#).await;
    let results = talk.got("tool_result", 1).await;
    assert_eq!(results[0], json!({"type": "tool_result", "call_id": "a", "output": "sent", "failed": false}));
    talk.session.step(tool_call("b", "crm_order", json!({})));
    talk.session.step(tool_call("c", "fly", json!({})));
    let mut results = talk.got("tool_result", 3).await.split_off(1);
    results.sort_by_key(|result| result["call_id"].to_string());
    for (result, id) in results.iter().zip(["b", "c"]) {
        assert_eq!((&result["call_id"], &result["failed"]), (&json!(id), &json!(true)), "{result}");
        assert!(result["output"].as_str().unwrap().contains("It failed"), "{result}");
    }
    let mut called: Vec<_> = talk.called().iter().map(|tool| (tool.name.as_str(), tool.failed)).collect();
    called.sort_unstable();
    assert_eq!(called, [("crm_order", false), ("crm_order", true), ("fly", true)]);
}

#[tokio::test]
async fn who_does_not_ask_hears_of_none_and_has_none_called() {
    let mut talk = Talk::start().await;
    talk.session.step(tool_call("a", "crm_order", json!({"id": "7"})));
    talk.session.step(Step::Transcript("agent", "Hello."));
    talk.call.until(|call| !call.others().is_empty()).await;
    assert_eq!(talk.call.others(), ["agent: Hello."]);
    assert_eq!(talk.session.record().kinds(), ["init"]);
    assert!(!talk.crm.has_request());
}

#[tokio::test]
async fn the_call_is_ended_when_what_was_said_before_has_been_heard() {
    let (mut talk, _) = Talk::asking().await;
    let since = Instant::now();
    talk.session.step(Step::Speak(speech(8_000), 320));
    talk.session.step(tool_call("a", "hangup", json!({})));
    let order = talk.call.during(soon("an order", talk.orders.recv())).await.unwrap();
    assert!(since.elapsed() >= Duration::from_secs(1), "after {:?}", since.elapsed());
    assert_eq!(order.request, Request::Hangup { cause: None, now: false });
    assert_eq!(talk.call.heard(), 8_000);
    order.done.send(Ok(())).unwrap();
    let results = talk.got("tool_result", 1).await;
    assert_eq!(results[0]["failed"], false);
}

#[tokio::test]
async fn a_caller_who_speaks_into_the_goodbye_stays() {
    let (mut talk, _) = Talk::asking().await;
    talk.session.step(Step::Speak(speech(8_000 * 20), 3_200));
    talk.session.step(tool_call("a", "hangup", json!({})));
    talk.session.step(Step::Interruption);
    let results = talk.got("tool_result", 1).await;
    assert!(results[0]["output"].as_str().unwrap().contains("the caller spoke"), "{results:?}");
    assert_eq!(results[0]["failed"], true);
    assert!(talk.orders.try_recv().is_err());
    // and with nothing to wait for it is done at once
    talk.session.step(tool_call("b", "hangup", json!({})));
    assert!(talk.call.during(soon("an order", talk.orders.recv())).await.is_some());
}

#[tokio::test]
async fn a_flood_of_calls_and_calls_that_are_none_do_no_harm() {
    let (mut talk, _) = Talk::asking().await;
    talk.session.step(text(&json!({"type": "tool_call", "call_id": "x"})));
    for n in 0..40 {
        talk.session.step(tool_call(&n.to_string(), "fly", json!({})));
    }
    let results = talk.got("tool_result", 40).await;
    let often = results.iter().filter(|result| result["output"].as_str().unwrap().contains("too often")).count();
    assert_eq!(often, 24);
    // whoever says something may have tools called again
    talk.session.step(Step::Transcript("user", "And now?"));
    talk.session.step(tool_call("b", "crm_note", json!({"id": "7"})));
    talk.call.during(talk.crm.request()).await.status("200 OK", "noted").await;
    assert_eq!(talk.got("tool_result", 41).await[40]["output"], "noted");
}

#[tokio::test]
async fn what_is_at_work_when_the_call_ends_is_told_of() {
    let (mut talk, _) = Talk::asking().await;
    talk.session.step(tool_call("a", "crm_order", json!({"id": "7"})));
    let request = talk.call.during(talk.crm.request()).await;
    talk.call.finish();
    request.closed().await;
    talk.call.end().await;
    let called = talk.called();
    assert!(called.len() == 1 && called[0].failed && called[0].result.contains("the call is over"), "{called:?}");
}

#[tokio::test]
async fn a_whole_gateway_hangs_up_when_the_service_wants_it() {
    let server = StsServer::start(Mode::Script(Vec::new())).await;
    let gateway = Gateway::with(&server.url(), |config| config.agent.tools = vec!["hangup".to_owned()]).await;
    let mut line = Line::call(gateway.audiosocket).await;
    let session = server.session(0).await;
    session.step(text(&json!({"type": "tools"})));
    session.until(|record| !of(record, "tools").is_empty()).await;
    session.step(tool_call("a", "hangup", json!({})));
    loop {
        match line.hear().await {
            Said::Audio(_) => {}
            Said::Hangup => break,
            Said::End => panic!("the connection just ends"),
        }
    }
}
