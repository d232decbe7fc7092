//! Vendors of language models, strict about what they take, driven by a test byte by byte.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hark::agent::{
    Named, Service,
    service::{Kind, Provider, Providers, vendor_of},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

use super::connector::{framed, soon};

/// The key that every vendor wants.
pub const KEY: &str = "sk-test-0123456789";

/// A listening vendor.
pub struct Model {
    vendor: &'static str,
    base: String,
    connections: Arc<AtomicUsize>,
    asked: mpsc::Receiver<Asked>,
    task: JoinHandle<()>,
}

impl Drop for Model {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request and its answer.
pub struct Asked {
    pub head: String,
    pub body: Value,
    stream: TcpStream,
}

impl Model {
    pub async fn start(vendor: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/v1", listener.local_addr().unwrap());
        let (sender, asked) = mpsc::channel(16);
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(vendor, stream, sender.clone()));
            }
        });
        Self { vendor, base, connections, asked, task }
    }

    /// The service that the gateway is given.
    pub fn service(&self, options: &str) -> Service {
        service(&format!("{}:model-1?base_url={}{options}", self.vendor, self.base))
    }

    /// Where it is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The next question.
    pub async fn asked(&mut self) -> Asked {
        soon("a question", self.asked.recv()).await.unwrap()
    }

    /// The same from somebody who needs long to ask.
    pub async fn asked_late(&mut self) -> Asked {
        self.asked.recv().await.unwrap()
    }

    /// Whether a question is there already.
    pub fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A service with the key.
pub fn service(value: &str) -> Service {
    let (vendor, rest) = vendor_of(value).unwrap();
    let provider = Provider { api_key: Some(KEY.into()), ..Provider::default() };
    let providers = Providers([(vendor.name().to_owned(), provider)].into());
    Service::Named(Box::new(Named::parse(vendor, rest, Kind::Llm, &providers).unwrap()))
}

async fn serve(vendor: &str, mut stream: TcpStream, asked: mpsc::Sender<Asked>) {
    loop {
        let Some((head, body)) = request(&mut stream).await else { return };
        if head.starts_with("HEAD /v1/models ") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await;
            continue;
        }
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let found = match vendor {
            "anthropic" => anthropic(&head, &body),
            "gemini" => gemini(&head, &body),
            _ => openai(vendor, &head, &body),
        };
        if let Err((status, what)) = found {
            let body = json!({"error": {"message": what, "type": "invalid_request_error"}}).to_string();
            let _ = stream.write_all(answer(status, "", &body).as_bytes()).await;
            continue;
        }
        let _ = asked.send(Asked { head, body, stream }).await;
        return;
    }
}

async fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut unread = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        if let Some(at) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(unread[..at + 4].to_vec()).unwrap();
            let len = header(&head, "content-length").map_or(0, |len| len.parse().unwrap());
            if unread.len() >= at + 4 + len {
                return Some((head, unread[at + 4..].to_vec()));
            }
        }
        let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        unread.extend_from_slice(&buffer[..n]);
    }
}

pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

type Checked = Result<(), (&'static str, String)>;

fn wants(right: bool, what: &str) -> Checked {
    if right { Ok(()) } else { Err(("400 Bad Request", what.to_owned())) }
}

fn key(right: bool) -> Checked {
    if right { Ok(()) } else { Err(("401 Unauthorized", format!("Incorrect API key provided: {KEY}"))) }
}

fn only(value: &Value, names: &[&str]) -> Checked {
    let strange = value.as_object().and_then(|map| map.keys().find(|name| !names.contains(&name.as_str())));
    wants(strange.is_none() && value.is_object(), &format!("unknown parameter {strange:?} in {value}"))
}

fn openai(vendor: &str, head: &str, body: &Value) -> Checked {
    wants(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "wrong path")?;
    match vendor {
        "azure" => key(header(head, "api-key") == Some(KEY))?,
        _ => key(header(head, "authorization") == Some(&format!("Bearer {KEY}")))?,
    }
    wants(header(head, "content-type") == Some("application/json"), "wrong content type")?;
    only(
        body,
        &["model", "messages", "stream", "stream_options", "tools", "temperature", "max_tokens", "reasoning_effort"],
    )?;
    wants(body["model"] == "model-1" && body["stream"] == true, "model or stream")?;
    wants(body["stream_options"]["include_usage"] == true, "no usage asked for")?;
    let mut open: Vec<&str> = Vec::new();
    for message in body["messages"].as_array().into_iter().flatten() {
        let role = message["role"].as_str().unwrap_or_default();
        if role == "tool" {
            only(message, &["role", "content", "tool_call_id"])?;
            let id = message["tool_call_id"].as_str().unwrap_or_default();
            let at = open.iter().position(|known| *known == id);
            wants(at.is_some() && message["content"].is_string(), "a tool message that answers no tool_calls")?;
            open.remove(at.unwrap_or_default());
            continue;
        }
        wants(open.is_empty(), "tool_calls must be followed by tool messages")?;
        only(message, &["role", "content", "tool_calls"])?;
        wants(["system", "user", "assistant"].contains(&role), "unknown role")?;
        let calls = message["tool_calls"].as_array();
        wants(message["content"].is_string() || (role == "assistant" && calls.is_some()), "no content")?;
        for call in calls.into_iter().flatten() {
            only(call, &["id", "type", "function"])?;
            let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
            wants(serde_json::from_str::<Value>(arguments).is_ok_and(|value| value.is_object()), "arguments")?;
            open.push(call["id"].as_str().unwrap_or_default());
        }
    }
    wants(
        open.is_empty() && !body["messages"].as_array().is_none_or(Vec::is_empty),
        "no messages, or open tool_calls",
    )?;
    for tool in body["tools"].as_array().into_iter().flatten() {
        only(tool, &["type", "function"])?;
        only(&tool["function"], &["name", "description", "parameters"])?;
        schema(&tool["function"]["name"], &tool["function"]["parameters"])?;
    }
    Ok(())
}

fn schema(name: &Value, parameters: &Value) -> Checked {
    let name = name.as_str().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    wants((1..=64).contains(&name.len()) && name.chars().all(plain), "the name of a tool")?;
    wants(parameters["type"] == "object", "parameters are no object's schema")
}

fn anthropic(head: &str, body: &Value) -> Checked {
    wants(head.starts_with("POST /v1/messages HTTP/1.1\r\n"), "wrong path")?;
    key(header(head, "x-api-key") == Some(KEY) || header(head, "authorization") == Some(&format!("Bearer {KEY}")))?;
    wants(header(head, "anthropic-version").is_some_and(|version| version.len() == 10), "anthropic-version")?;
    only(body, &["model", "max_tokens", "system", "messages", "tools", "stream", "temperature", "top_p"])?;
    wants(body["max_tokens"].is_u64() && body["stream"] == true, "max_tokens or stream")?;
    let mut last = "assistant";
    let mut open: Vec<&str> = Vec::new();
    for message in body["messages"].as_array().into_iter().flatten() {
        let role = message["role"].as_str().unwrap_or_default();
        wants(["user", "assistant"].contains(&role) && role != last, "roles must alternate, the user begins")?;
        last = role;
        let parts = message["content"].as_array().ok_or(("400 Bad Request", "no content".to_owned()))?;
        wants(!parts.is_empty(), "empty content")?;
        for part in parts {
            match part["type"].as_str() {
                Some("text") => {
                    wants(open.is_empty() || role == "assistant", "tool_result blocks come first")?;
                    wants(part["text"].as_str().is_some_and(|text| !text.trim().is_empty()), "blank text")?;
                }
                Some("tool_use") => {
                    wants(part["input"].is_object(), "input is no object")?;
                    open.push(part["id"].as_str().unwrap_or_default());
                }
                Some("tool_result") => open.retain(|id| *id != part["tool_use_id"]),
                _ => wants(false, "unknown block")?,
            }
        }
        wants(role == "assistant" || open.is_empty(), "tool_use without tool_result")?;
    }
    for tool in body["tools"].as_array().into_iter().flatten() {
        only(tool, &["name", "description", "input_schema", "cache_control"])?;
        schema(&tool["name"], &tool["input_schema"])?;
    }
    wants(last == "user", "the conversation must end with the user")
}

fn gemini(head: &str, body: &Value) -> Checked {
    wants(head.starts_with("POST /v1/models/model-1:streamGenerateContent?alt=sse HTTP/1.1\r\n"), "wrong path")?;
    key(header(head, "x-goog-api-key") == Some(KEY))?;
    only(body, &["contents", "systemInstruction", "tools", "generationConfig"])?;
    let mut called = 0;
    for content in body["contents"].as_array().into_iter().flatten() {
        only(content, &["role", "parts"])?;
        let role = content["role"].as_str().unwrap_or_default();
        wants(["user", "model"].contains(&role), "unknown role")?;
        let parts = content["parts"].as_array().filter(|parts| !parts.is_empty());
        for part in parts.ok_or(("400 Bad Request", "no parts".to_owned()))? {
            only(part, &["text", "functionCall", "functionResponse", "thoughtSignature"])?;
            called += usize::from(part.get("functionCall").is_some());
            if let Some(response) = part.get("functionResponse") {
                wants(called > 0 && response["response"].is_object(), "a response to no call")?;
                called -= 1;
            }
        }
    }
    for tool in body["tools"][0]["functionDeclarations"].as_array().into_iter().flatten() {
        // both are legal names of the field; the SDK writes the second
        let parameters = tool.get("parametersJsonSchema").or_else(|| tool.get("parameters_json_schema"));
        schema(&tool["name"], parameters.unwrap_or(&Value::Null))?;
    }
    wants(called == 0, "functionCall without functionResponse")
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let len = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Content-Length: {len}\r\n\r\n{body}")
}

impl Asked {
    /// The contents of the messages, with their roles.
    pub fn messages(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = self.body["messages"].as_array().unwrap();
        all.iter().map(|message| (text(&message["role"]), text(&message["content"]))).collect()
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        soon("bytes to be taken", self.stream.write_all(bytes)).await.unwrap();
    }

    pub async fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The head of a streamed answer.
    pub async fn ok(&mut self) {
        self.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    }

    /// One HTTP chunk.
    pub async fn chunk(&mut self, bytes: &[u8]) {
        self.write(&framed(bytes)).await;
    }

    /// Text of OpenAI's.
    pub async fn say(&mut self, text: &str) {
        self.chunk(openai_text(text).as_bytes()).await;
    }

    /// The end of OpenAI's answer.
    pub async fn done(mut self) {
        self.chunk(openai_end("stop").as_bytes()).await;
        self.write(b"0\r\n\r\n").await;
    }

    /// A whole answer of OpenAI's.
    pub async fn answer(mut self, text: &str) {
        self.ok().await;
        self.say(text).await;
        self.done().await;
    }

    /// A whole stream, as it is.
    pub async fn stream(mut self, body: &str) {
        self.ok().await;
        self.chunk(body.as_bytes()).await;
        self.write(b"0\r\n\r\n").await;
    }

    /// OpenAI's answer that calls tools.
    pub async fn call(self, text: &str, calls: &[(&str, &str, Value)]) {
        self.stream(&openai_calls(text, calls)).await;
    }

    /// A whole answer with a status.
    pub async fn status(mut self, status: &str, headers: &str, body: &str) {
        self.write(answer(status, headers, body).as_bytes()).await;
    }

    /// The connection breaks with an RST.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Waits until the other side has closed.
    pub async fn closed(mut self) {
        let mut buffer = [0; 1024];
        while soon("the end of a request", self.stream.read(&mut buffer)).await.is_ok_and(|n| n > 0) {}
    }
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// Text of OpenAI's, with an unknown event and an unknown field beside it.
pub fn openai_text(text: &str) -> String {
    let delta = json!({"role": "assistant", "content": text});
    let chunk = json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "model-1", "from_the_future": {"x": [1]},
        "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}],
    });
    format!(": keep-alive\n\nevent: from.the.future\ndata: {{\"choices\": null}}\n\n{}", event(&chunk))
}

/// The end of OpenAI's answer.
pub fn openai_end(reason: &str) -> String {
    let end = json!({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]});
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}});
    format!("{}{}data: [DONE]\n\n", event(&end), event(&usage))
}

/// An answer of OpenAI's that calls tools: identity, name, arguments.
pub fn openai_calls(text: &str, calls: &[(&str, &str, Value)]) -> String {
    let mut body = if text.is_empty() { String::new() } else { openai_text(text) };
    let part = |index: usize, more: Value| {
        let mut part = json!({"index": index});
        part.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event(&json!({"choices": [{"index": 0, "delta": {"tool_calls": [part]}, "finish_reason": null}]}))
    };
    for (index, (id, name, arguments)) in calls.iter().enumerate() {
        body += &part(index, json!({"id": id, "type": "function", "function": {"name": name, "arguments": ""}}));
        // in two pieces, as it comes
        let arguments = arguments.to_string();
        let (first, second) = arguments.split_at(arguments.len() / 2);
        body += &part(index, json!({"function": {"arguments": first}}));
        body += &part(index, json!({"function": {"arguments": second}}));
    }
    body + &openai_end("tool_calls")
}
