//! Tools that a language model behind Hark's own WebSocket contract has called.

use hark::{
    agent::{Config, tools::Order},
    call::{AgentInput, Refusal, Refused, Request},
};
use serde_json::{Value, json};

use crate::{
    cascade_ws::{Peer, Service, example, has_websockets},
    llm_tools::{Talk, order, speak},
    support::{
        cascade::config,
        connector::Connector,
        gateway::{Gateway, Line, Said, numbered},
    },
};

const TOOLS: &[&str] = &["hangup", "transfer", "collect_digits", "crm_*"];

/// A call whose language model is behind the contract, and what it is told first.
async fn talk(tools: &[&str], config: Config) -> (Talk<Service>, Peer, Value) {
    let service = Service::new().await;
    let llm = service.url.clone().into();
    let talk = Talk::between(service, llm, tools, config).await;
    let (peer, start) = talk.model.accept().await;
    (talk, peer, start)
}

/// The caller's next turn, and its question.
async fn asked(talk: &mut Talk<Service>, peer: &mut Peer, key: char) -> Value {
    talk.press(key);
    let prompt = peer.json().await;
    assert_eq!(prompt["type"], "prompt", "{prompt}");
    prompt
}

async fn call(peer: &mut Peer, prompt: &Value, id: &str, name: &str, arguments: Value) {
    peer.say(json!({"type": "tool_call", "id": prompt["id"], "call_id": id, "name": name, "arguments": arguments}))
        .await;
}

/// The answer in words.
async fn answer(peer: &mut Peer, prompt: &Value, text: &str) {
    peer.say(json!({"type": "text", "id": prompt["id"], "text": text})).await;
    peer.say(json!({"type": "done", "id": prompt["id"]})).await;
}

fn refuse(order: Order, why: &str) {
    let refused = Refused { kind: Refusal::Failed, code: "call.not_taken", message: why.to_owned() };
    order.done.send(Err(refused)).unwrap();
}

/// Whether `shown` is what `message` is, where "…" stands for whatever there is.
fn is_like(shown: &Value, message: &Value) -> bool {
    match (shown, message) {
        (Value::String(shown), _) if shown == "…" => true,
        (Value::Object(shown), Value::Object(message)) => {
            shown.len() == message.len()
                && shown.iter().all(|(name, value)| message.get(name).is_some_and(|it| is_like(value, it)))
        }
        (Value::Array(shown), Value::Array(message)) => {
            shown.len() == message.len() && shown.iter().zip(message).all(|(shown, message)| is_like(shown, message))
        }
        (shown, message) => shown == message,
    }
}

/// What stands in the README, word for word.
#[tokio::test]
async fn the_example_of_the_readme_is_what_happens() {
    let readme = include_str!("../../README.md");
    let (_, example) = readme.split_once("<!-- example of tools -->\n\n```text\n").expect("the example");
    let (example, _) = example.split_once("\n```\n").expect("its end");
    let service = Service::new().await;
    let llm = service.url.clone().into();
    let mut talk = Talk::between(service, llm, &["crm_order", "hangup"], config()).await;
    let mut asr = talk.bench.asr.request().await;
    asr.ok().await;
    let (mut peer, start) = talk.model.accept().await;
    let (mut first, mut over) = (Some(start), false);
    for line in example.lines() {
        let (who, message) =
            line.split_once('{').map_or((line, String::new()), |(who, rest)| (who, format!("{{{rest}")));
        let shown: Value = serde_json::from_str(&message).unwrap_or_else(|error| panic!("{error}: {line}"));
        match (who.trim(), shown["type"].as_str().unwrap()) {
            ("Hark", kind) => {
                if kind == "prompt" {
                    let said = shown["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap();
                    asr.chunk(format!("{said}<end>").as_bytes()).await;
                }
                let message = match first.take() {
                    Some(start) => start,
                    None if kind == "stop" => {
                        talk.bench.send(AgentInput::Finish);
                        peer.json().await
                    }
                    None => talk.until(async |_, _| peer.json().await).await.1,
                };
                assert!(is_like(&shown, &message), "the README has\n{shown}\nand this came\n{message}");
            }
            ("service", kind) => {
                peer.say(shown.clone()).await;
                match (kind, shown["name"].as_str()) {
                    ("tool_call", Some("crm_order")) => {
                        let request = talk.crm.request().await;
                        assert!(request.head.starts_with("GET /orders/7?"), "{}", request.head);
                        request.status("200 OK", r#"{"data":{"state":"sent"}}"#).await;
                    }
                    ("tool_call", Some("hangup")) => {
                        let (_, order) = talk.until(async |orders, _| order(orders).await).await;
                        assert_eq!(order.request, Request::Hangup { cause: None, now: false });
                        order.done.send(Ok(())).unwrap();
                        over = true;
                    }
                    ("done", _) => {
                        talk.spoken().await;
                    }
                    _ => {}
                }
            }
            (other, _) => panic!("{other:?} says nothing: {line}"),
        }
    }
    assert!(over, "the example ends with the call");
}

#[tokio::test]
async fn a_service_that_knows_no_tools_goes_on_as_before() {
    let (mut talk, mut peer, start) = talk(TOOLS, config()).await;
    let names: Vec<_> = start["tools"].as_array().unwrap().iter().map(|tool| &tool["function"]["name"]).collect();
    assert_eq!(names, ["hangup", "transfer", "collect_digits", "crm_order", "crm_note"]);
    let prompt = asked(&mut talk, &mut peer, '1').await;
    assert!(prompt.get("tools").is_none(), "{prompt}");
    answer(&mut peer, &prompt, "Hello.").await;
    assert_eq!(talk.spoken().await, ["Hello."]);
    // and one that has none offered hears nothing of them
    let (_, _, start) = self::talk(&[], config()).await;
    assert!(start.get("tools").is_none(), "{start}");
}

#[tokio::test]
async fn a_failed_transfer_is_told_to_the_answer_that_wanted_it() {
    let (mut talk, mut peer, _) = talk(TOOLS, config()).await;
    let prompt = asked(&mut talk, &mut peer, '1').await;
    peer.say(json!({"type": "text", "id": prompt["id"], "text": "I'll connect you"})).await;
    call(&mut peer, &prompt, "a", "transfer", json!({"to": "sales"})).await;
    let (texts, order) = talk.until(async |orders, _| order(orders).await).await;
    // heard before anything is done
    assert_eq!(texts, ["I'll connect you"]);
    refuse(order, "nobody took the call");
    let (_, told) = talk.until(async |_, _| peer.json().await).await;
    assert_eq!((&told["type"], &told["id"], &told["call_id"]), (&json!("tool_result"), &prompt["id"], &json!("a")));
    assert_eq!(told["failed"], true);
    assert!(told["output"].as_str().unwrap().contains("nobody took the call"), "{told}");
    answer(&mut peer, &prompt, "Sorry, nobody is there.").await;
    assert_eq!(talk.spoken().await, ["Sorry, nobody is there."]);
    assert_eq!((talk.called[0].name.as_str(), talk.called[0].failed), ("transfer", true));
}

#[tokio::test]
async fn tools_that_are_wanted_together_work_at_once_and_a_slow_one_is_filled() {
    let (mut talk, mut peer, _) = talk(TOOLS, Config { filler_after_ms: 40, ..config() }).await;
    let prompt = asked(&mut talk, &mut peer, '1').await;
    let both = |id: &str, last: bool| json!({"type": "tool_call", "id": prompt["id"], "call_id": id, "name": "crm_order", "arguments": {"id": id}, "last": last});
    peer.say(both("a", false)).await;
    peer.say(both("b", true)).await;
    let (one, two) = (talk.crm.request().await, talk.crm.request().await);
    assert_eq!(speak(talk.bench.tts.request().await).await, "I'm looking.");
    for request in [one, two] {
        let is_a = request.head.contains("/a?");
        let body = if is_a { r#"{"data":{"state":"sent"}}"# } else { "no" };
        request.status(if is_a { "200 OK" } else { "503 Service Unavailable" }, body).await;
    }
    let mut told = Vec::new();
    for _ in 0..2 {
        told.push(talk.until(async |_, _| peer.json().await).await.1);
    }
    let told: Vec<_> = told.iter().map(|result| (&result["call_id"], &result["failed"])).collect();
    assert_eq!(told, [(&json!("a"), &json!(false)), (&json!("b"), &json!(true))]);
    answer(&mut peer, &prompt, "The first has been sent.").await;
    assert_eq!(talk.spoken().await, ["The first has been sent."]);
}

#[tokio::test]
async fn a_caller_who_speaks_cancels_the_answer_at_once_and_the_next_question_tells_what_was_given_up() {
    let (mut talk, mut peer, _) = talk(TOOLS, config()).await;
    let prompt = asked(&mut talk, &mut peer, '1').await;
    call(&mut peer, &prompt, "a", "crm_order", json!({"id": "7"})).await;
    let request = talk.crm.request().await;
    talk.press('2');
    request.closed().await;
    assert_eq!(peer.json().await, json!({"type": "cancel", "id": prompt["id"]}));
    let next = peer.json().await;
    let messages = next["messages"].as_array().unwrap();
    let told = messages.iter().find(|message| message["role"] == "tool").expect("the tool is told of");
    assert_eq!(told["tool_call_id"], "a");
    assert!(told["content"].as_str().unwrap().contains("given up"), "{next}");
    // what comes late belongs to nothing
    call(&mut peer, &prompt, "b", "crm_order", json!({"id": "8"})).await;
    answer(&mut peer, &next, "Yes?").await;
    assert_eq!(talk.spoken().await, ["Yes?"]);
    assert!(!talk.crm.has_request());
}

#[tokio::test]
async fn a_service_that_restarts_while_a_tool_works_is_told_everything_again() {
    let (mut talk, mut peer, _) = talk(TOOLS, config()).await;
    let prompt = asked(&mut talk, &mut peer, '1').await;
    call(&mut peer, &prompt, "a", "crm_order", json!({"id": "7"})).await;
    let request = talk.crm.request().await;
    drop(peer);
    request.status("200 OK", r#"{"data":{"state":"sent"}}"#).await;
    let (_, (mut peer, _)) = talk.until(async |_, service| service.accept().await).await;
    let again = peer.json().await;
    let roles: Vec<_> = again["messages"].as_array().unwrap().iter().map(|message| &message["role"]).collect();
    assert_eq!(roles, ["user", "assistant", "tool"]);
    assert_eq!(again["messages"][1]["tool_calls"][0]["id"], "a");
    assert_eq!(again["messages"][2]["content"], "sent");
    answer(&mut peer, &again, "It has been sent.").await;
    assert_eq!(talk.spoken().await, ["It has been sent."]);
}

#[tokio::test]
async fn a_service_that_only_calls_tools_has_to_answer_at_last() {
    let (mut talk, mut peer, _) = talk(TOOLS, config()).await;
    let prompt = asked(&mut talk, &mut peer, '1').await;
    for round in 0..9 {
        call(&mut peer, &prompt, &round.to_string(), "collect_digits", json!({"max": 0})).await;
        let (_, told) = talk.until(async |_, _| peer.json().await).await;
        assert_eq!((&told["call_id"], &told["failed"]), (&json!(round.to_string()), &json!(true)), "{told}");
        let is_over = told["output"].as_str().unwrap().contains("answer in words");
        assert_eq!(is_over, round == 8, "{told}");
    }
    answer(&mut peer, &prompt, "Well.").await;
    assert_eq!(talk.spoken().await, ["Well."]);
}

#[tokio::test]
async fn calls_that_are_none_cost_the_turn_and_not_the_call() {
    for message in [json!({"name": {}}), json!({"name": "f", "arguments": "x".repeat(70_000)})] {
        let (mut talk, mut peer, _) = talk(TOOLS, config()).await;
        let prompt = asked(&mut talk, &mut peer, '1').await;
        let mut message = message;
        (message["type"], message["id"]) = (json!("tool_call"), prompt["id"].clone());
        peer.say(message).await;
        assert_eq!(talk.bench.degraded().await.code, "agent.llm.unusable");
        assert_eq!(peer.json().await, json!({"type": "cancel", "id": prompt["id"]}));
    }
}

#[tokio::test]
async fn a_whole_gateway_hangs_up_when_a_service_behind_the_contract_wants_it() {
    let llm = Service::new().await;
    let mut asr = Connector::start("/speech-to-text-stream").await;
    let mut tts = Connector::start("/text-to-speech-stream").await;
    let gateway = Gateway::with(&asr.url, |config| {
        let agent = &mut config.agent;
        agent.sts_url = None;
        agent.asr_url = Some(asr.url.to_string());
        agent.tts_url = Some(tts.url.to_string());
        agent.llm_url = Some(llm.url.to_string());
        agent.tools = vec!["hangup".to_owned()];
    })
    .await;
    let mut line = Line::call(gateway.audiosocket).await;
    let mut heard = asr.request().await;
    heard.ok().await;
    let (mut peer, start) = llm.accept_any().await;
    assert_eq!(start["tools"][0]["function"]["name"], "hangup");
    heard.chunk(b"that is all<end>").await;
    let prompt = peer.json().await;
    assert_eq!(prompt["messages"], json!([{"role": "user", "content": "that is all"}]));
    peer.say(json!({"type": "text", "id": prompt["id"], "text": "Goodbye."})).await;
    call(&mut peer, &prompt, "a", "hangup", json!({})).await;
    let request = tts.request().await;
    let pcm: Vec<u8> = numbered(25).iter().flat_map(|sample| sample.to_le_bytes()).collect();
    request.answer(&[&pcm]).await;
    // all of it is heard, then the call is over
    assert_eq!(line.words(25 * 160).await, numbered(25));
    loop {
        match line.hear().await {
            Said::Audio(samples) => assert!(samples.iter().all(|sample| *sample == 0)),
            Said::Hangup => break,
            Said::End => panic!("the connection just ends"),
        }
    }
    assert_eq!(peer.json().await, json!({"type": "cancel", "id": prompt["id"]}));
}

#[tokio::test]
async fn the_example_server_hangs_up_on_who_says_goodbye() {
    if !has_websockets().await {
        return;
    }
    let server = example("llm_tools.py").await;
    let llm = server.url.clone().into();
    let mut talk = Talk::between((), llm, &["hangup"], config()).await;
    let mut asr = talk.bench.asr.request().await;
    asr.ok().await;
    asr.chunk(b"hello<end>").await;
    assert_eq!(talk.spoken().await, ["You said: hello.", "What else?"]);
    asr.chunk(b"goodbye<end>").await;
    let (texts, order) = talk.until(async |orders, _| order(orders).await).await;
    assert_eq!(texts, ["Goodbye."]);
    refuse(order, "the PBX is away");
    let words = talk.spoken().await.join(" ");
    assert!(words.starts_with("I cannot hang up: It failed") && words.contains("the PBX is away"), "{words}");
}
