//! What vendors themselves publish: their SDKs against our fakes, a server of the Model Context Protocol against our client.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use hark::agent::{
    mcp::{Declared, Server, Servers},
    tools::Toolbox,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::support::{
    client,
    connector::soon,
    language_model::{KEY, Model, openai_calls},
};

/// Python with the vendors' libraries, where `scripts/setup.sh test` puts them.
fn python() -> Option<PathBuf> {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let python = cache.join("hark/vendors/python/bin/python");
    if !python.is_file() {
        eprintln!("left out: no libraries of vendors at {} (scripts/setup.sh test installs them)", python.display());
        return None;
    }
    Some(python)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/vendors").join(name)
}

/// What the SDK makes of the answer that the fake gives.
async fn asked(python: &Path, vendor: &'static str, key: &str, answer: &str) -> Value {
    let mut model = Model::start(vendor).await;
    let mut command = Command::new(python);
    command.arg(script("llm.py")).args([vendor, model.base(), key]).kill_on_drop(true);
    // what the environment says about proxies is not for the loopback
    command.env("NO_PROXY", "127.0.0.1").stdout(Stdio::piped());
    let running = command.spawn().unwrap().wait_with_output();
    tokio::pin!(running);
    let patience = Duration::from_secs(60);
    let output = tokio::time::timeout(patience, async {
        tokio::select! {
            output = &mut running => output,
            asked = model.asked_late() => {
                asked.stream(answer).await;
                running.await
            }
        }
    });
    let output = output.await.expect("the SDK hangs").unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stdout)))
}

fn told() -> Value {
    json!({"text": "Wait.", "calls": [["crm", {"id": "7"}]], "input": 20, "output": 5})
}

#[tokio::test]
async fn the_fake_of_openai_is_what_its_sdk_knows() {
    let Some(python) = python() else { return };
    let answer = openai_calls("Wait.", &[("call_1", "crm", json!({"id": "7"}))]);
    assert_eq!(asked(&python, "openai", KEY, &answer).await, told());
    assert_eq!(asked(&python, "openai", "wrong", "").await, json!({"error": 401}));
}

#[tokio::test]
async fn the_fake_of_anthropic_is_what_its_sdk_knows() {
    let Some(python) = python() else { return };
    let usage = json!({"input_tokens": 20, "output_tokens": 1});
    let message = json!({"id": "m", "type": "message", "role": "assistant", "model": "model-1", "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage});
    let events = [
        json!({"type": "message_start", "message": message}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "ping"}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Wait."}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "crm", "input": {}}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"id\": \"7\"}"}}),
        json!({"type": "content_block_stop", "index": 1}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": null}, "usage": {"output_tokens": 5}}),
        json!({"type": "message_stop"}),
    ];
    let event = |event: &Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
    let answer: String = events.iter().map(event).collect();
    assert_eq!(asked(&python, "anthropic", KEY, &answer).await, told());
    assert_eq!(asked(&python, "anthropic", "wrong", "").await, json!({"error": 401}));
}

#[tokio::test]
async fn the_fake_of_gemini_is_what_its_sdk_knows() {
    let Some(python) = python() else { return };
    let usage = json!({"promptTokenCount": 20, "candidatesTokenCount": 5, "totalTokenCount": 25});
    let parts = json!([
        {"text": "Hm.", "thought": true},
        {"text": "Wait."},
        {"functionCall": {"name": "crm", "args": {"id": "7"}}, "thoughtSignature": "c2ln"},
    ]);
    let answer = json!({"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}], "usageMetadata": usage});
    assert_eq!(asked(&python, "gemini", KEY, &format!("data: {answer}\r\n\r\n")).await, told());
    assert_eq!(asked(&python, "gemini", "wrong", "").await, json!({"error": 401}));
}

fn declared(toml: &str) -> Declared {
    let secret = |name: &str| (name == "TOKEN").then(|| "hunter2".to_owned());
    Declared::new("lab", toml::from_str(toml).unwrap(), secret).unwrap()
}

/// Waits until the server has so many tools.
async fn tools(server: &Server, count: usize) -> Vec<String> {
    let listed = async {
        while server.tools().len() != count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), listed)
        .await
        .unwrap_or_else(|_| panic!("it has {:?}", server.tools()));
    server.tools().iter().map(|tool| tool.name.clone()).collect()
}

async fn done(server: &Server, tool: &str, arguments: Value) -> String {
    let outcome = soon("a tool", server.call(tool, arguments)).await;
    assert!(!outcome.failed, "{outcome:?}");
    outcome.output
}

/// Everything that calls need of a server.
async fn serves(declared: Declared) -> (Servers, Arc<Server>) {
    let servers = Servers::start(&[declared], &client());
    let server = Arc::clone(&servers.all()[0]);
    let names = tools(&server, 7).await;
    assert!(names.contains(&"lab__add".to_owned()), "{names:?}");
    let allowed = ["lab__add".to_owned(), "hangup".to_owned()];
    let toolbox = Toolbox::new(&allowed, &[], &[], &["lab"]).unwrap().with_servers(&allowed, servers.all());
    let specs = toolbox.specs();
    let names: Vec<_> = specs.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["hangup", "lab__add"]);
    assert_eq!(specs[1].description, "Adds two numbers.");
    assert_eq!(specs[1].parameters["properties"]["a"]["type"], "integer");
    assert_eq!(done(&server, "add", json!({"a": 2, "b": 3})).await, "5");
    let failed = soon("a failure", server.call("fail", json!({}))).await;
    assert!(failed.failed && failed.output.contains("Error executing tool fail"), "{failed:?}");
    let failed = soon("a refusal", server.call("add", json!({"a": "x"}))).await;
    assert!(failed.failed, "{failed:?}");
    // whoever speaks into a tool gives it up, and the server is told
    let waiting = tokio::time::timeout(Duration::from_millis(300), server.call("wait", json!({})));
    assert!(waiting.await.is_err());
    let told = async {
        while done(&server, "count", json!({})).await != "1" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("the server to give up", told).await;
    (servers, server)
}

#[tokio::test]
async fn a_program_is_a_server_of_tools_and_sees_nothing_of_our_environment() {
    let Some(python) = python() else { return };
    let command = [python.to_str().unwrap().to_owned(), script("mcp_server.py").to_str().unwrap().to_owned()];
    let (_servers, server) =
        serves(declared(&format!("command = {command:?}\nenv = {{ KEY = \"${{TOKEN}}\" }}"))).await;
    assert_eq!(done(&server, "grow", json!({})).await, "grown");
    assert!(tools(&server, 8).await.contains(&"lab__more".to_owned()));
    let names = done(&server, "environment", json!({})).await;
    let expected = ["HOME", "KEY", "LANG", "LC_CTYPE", "PATH"];
    assert!(names.split(' ').all(|name| expected.contains(&name)) && names.contains("KEY"), "{names}");
}

#[tokio::test]
async fn a_server_over_http_serves_and_one_that_is_gone_is_a_failure() {
    let Some(python) = python() else { return };
    let (process, port) = http(&python, 0).await;
    let (_servers, server) = serves(declared(&format!("url = \"http://127.0.0.1:{port}/mcp\""))).await;
    drop(process);
    let gone = soon("a failure", server.call("add", json!({"a": 1, "b": 1}))).await;
    assert!(gone.failed, "{gone:?}");
    // started again it knows nothing of the session
    let (_process, _) = http(&python, port).await;
    back(&server).await;
}

#[tokio::test]
async fn a_program_that_ends_is_started_again() {
    let Some(python) = python() else { return };
    let command = [python.to_str().unwrap().to_owned(), script("mcp_server.py").to_str().unwrap().to_owned()];
    let (_servers, server) = serves(declared(&format!("command = {command:?}"))).await;
    let left = soon("a failure", server.call("leave", json!({}))).await;
    assert!(left.failed, "{left:?}");
    back(&server).await;
}

/// The server's tools can be called again, by whoever asks then.
async fn back(server: &Server) {
    let again = async {
        while server.call("add", json!({"a": 2, "b": 2})).await.failed {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), again).await.expect("the server is not used again");
    assert!(server.tools().iter().any(|tool| tool.name == "lab__add"));
}

#[tokio::test]
async fn each_profile_has_the_tools_that_it_names() {
    let Some(python) = python() else { return };
    let command = [python.to_str().unwrap().to_owned(), script("mcp_server.py").to_str().unwrap().to_owned()];
    let (servers, _) = serves(declared(&format!("command = {command:?}"))).await;
    let of = |allowed: &[&str]| {
        let allowed: Vec<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
        let toolbox = Toolbox::new(&allowed, &[], &[], &["lab"]).unwrap().with_servers(&allowed, servers.all());
        toolbox.specs().iter().map(|tool| tool.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(&["lab__count", "lab__a*"]), ["lab__add", "lab__count"]);
    assert_eq!(of(&["hangup"]), ["hangup"]);
    assert_eq!(of(&["lab__*"]).len(), 7);
    assert_eq!(of(&[]), Vec::<String>::new());
}

async fn http(python: &Path, port: u16) -> (Child, u16) {
    let mut command = Command::new(python);
    command.arg(script("mcp_server.py")).arg("http").arg(port.to_string()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap().unwrap();
    (process, line.strip_prefix("listening on ").unwrap().parse().unwrap())
}
