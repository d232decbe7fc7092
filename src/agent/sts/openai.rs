//! OpenAI's realtime interface, with the dialects of Azure and xAI, and the names it had in its beta, which other servers still use.

mod session;

use std::{collections::VecDeque, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{
    codec::{Coding, Formats},
    dialect::{Cut, Dialect, Fatal, Incoming, Past, Setup, Target, Told},
};
use crate::{
    agent::{
        Named,
        llm::{ToolCall, Usage},
        service::Vendor,
        tools::Outcome,
        websocket::escaped,
    },
    audio::{Rate, g711::Law},
};

/// Sessions end after 60 minutes, without a warning.
const LIFETIME: Duration = Duration::from_secs(55 * 60);
/// Responses that were cut and may still send audio.
const MAX_CANCELLED: usize = 16;
/// Tools that one response may want.
const MAX_CALLS: usize = 32;

/// How its messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flavour {
    /// As OpenAI has them since the interface is generally available.
    Current,
    /// As they were before.
    Beta,
    Xai,
}

/// A session.
#[derive(Debug)]
pub struct OpenAi {
    named: Named,
    flavour: Flavour,
    formats: Formats,
    /// How the session is to be; sent when it has been created.
    update: Option<Value>,
    /// The response that is being made.
    active: Option<String>,
    cancelled: VecDeque<String>,
    /// A response is wanted once the one at work is done.
    wanted: bool,
    /// The caller speaks, says the vendor.
    speaking: bool,
    is_ready: bool,
    /// A response has failed and was asked for again.
    retried: bool,
    calls: Vec<ToolCall>,
    /// The part of its item that has the audio.
    part: u64,
    /// What has come of the caller's words of an item.
    partial: (String, String),
}

/// What is known of a message; the rest is ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    delta: String,
    item_id: String,
    response_id: String,
    content_index: u64,
    transcript: String,
    name: String,
    call_id: String,
    arguments: String,
    item: Value,
    response: Value,
    error: Value,
    usage: Value,
    session: Value,
}

impl OpenAi {
    /// For a leg of `rate`.
    pub fn new(rate: Rate, named: Named) -> Self {
        let beta = named.option("dialect") == Some("beta") || named.option("api_version").is_some();
        let flavour = match named.vendor {
            Vendor::Xai => Flavour::Xai,
            _ if beta => Flavour::Beta,
            _ => Flavour::Current,
        };
        let coding = match (named.option("format"), rate) {
            (Some("pcma"), _) => Coding::g711(Law::Alaw),
            (Some("pcmu"), _) | (None, Rate::R8K) => Coding::g711(Law::Ulaw),
            _ if flavour == Flavour::Xai && rate == Rate::R8K => Coding::linear(Rate::R8K),
            _ if flavour == Flavour::Xai => Coding::linear(Rate::R16K),
            _ => Coding::linear(Rate::R24K),
        };
        Self {
            named,
            flavour,
            formats: Formats::both(coding),
            update: None,
            active: None,
            cancelled: VecDeque::new(),
            wanted: false,
            speaking: false,
            is_ready: false,
            retried: false,
            calls: Vec::new(),
            part: 0,
            partial: <_>::default(),
        }
    }

    /// Asks for a response, at once or when the one at work is done.
    fn respond(&mut self) -> Vec<Message> {
        if self.active.is_some() {
            self.wanted = true;
            return Vec::new();
        }
        self.wanted = false;
        vec![Message::text(r#"{"type":"response.create"}"#)]
    }

    /// What still comes of the response at work is not wanted.
    fn cancel(&mut self) -> Option<String> {
        let active = self.active.clone()?;
        if !self.cancelled.contains(&active) {
            if self.cancelled.len() >= MAX_CANCELLED {
                self.cancelled.pop_front();
            }
            self.cancelled.push_back(active.clone());
        }
        Some(active)
    }

    fn event(&mut self, event: Event, told: &mut Vec<Told>) {
        let late = !event.response_id.is_empty() && self.cancelled.contains(&event.response_id);
        match event.kind.as_str() {
            "session.created" | "conversation.created" => told.extend(self.update.take().map(|session| {
                Told::Send(Message::text(json!({"type": "session.update", "session": session}).to_string()))
            })),
            "session.updated" if !std::mem::replace(&mut self.is_ready, true) => {
                told.push(match self.agree(&event.session) {
                    Ok(()) => Told::Ready,
                    Err(what) => Told::Fatal(Fatal { code: Some("agent.sts.format"), what, again: false }),
                });
            }
            "input_audio_buffer.speech_started" => {
                self.speaking = true;
                // the vendor cancels it by itself
                self.cancel();
                told.push(Told::Interrupted);
            }
            "input_audio_buffer.speech_stopped" => self.speaking = false,
            "input_audio_buffer.committed" => {
                self.speaking = false;
                if self.named.option("transcribe") != Some("none") && !event.item_id.is_empty() {
                    told.push(Told::Committed(event.item_id));
                }
            }
            kind if kind.starts_with("conversation.item.input_audio_transcription.") => self.words(event, told),
            "response.created" => self.active = text(&event.response["id"]),
            _ if late => {}
            "response.output_audio.delta" | "response.audio.delta" => {
                self.part = event.content_index;
                told.push(match BASE64_STANDARD.decode(&event.delta) {
                    Ok(audio) => Told::Audio { turn: event.item_id, audio: Bytes::from(audio) },
                    Err(_) => Told::Strange,
                });
            }
            "response.output_audio.done" | "response.audio.done" => told.push(Told::AudioDone(event.item_id)),
            "response.output_audio_transcript.delta" | "response.audio_transcript.delta" => {
                told.push(Told::Words { turn: event.item_id, text: event.delta, whole: false });
            }
            "response.output_audio_transcript.done" | "response.audio_transcript.done" => {
                told.push(Told::Words { turn: event.item_id, text: event.transcript, whole: true });
            }
            "response.function_call_arguments.done" => {
                self.wants(event.call_id, event.name, event.arguments);
            }
            "response.output_item.done" if event.item["type"] == "function_call" => self.wants_item(&event.item),
            "response.done" => self.done(&event.response, told),
            "error" => self.error(&event.error, told),
            _ => {}
        }
    }

    /// The caller's words, whenever they come.
    fn words(&mut self, event: Event, told: &mut Vec<Told>) {
        let item = event.item_id;
        match event.kind.rsplit('.').next() {
            Some("delta") => {
                if self.partial.0 != item {
                    self.partial = (item.clone(), String::new());
                }
                if self.partial.1.len() < super::MAX_PARTIAL {
                    self.partial.1.push_str(&event.delta);
                }
                told.push(Told::Caller { item, text: self.partial.1.clone(), is_final: false });
            }
            Some("completed") => {
                if let Some(usage) = usage(&event.usage) {
                    let model = self.transcriber().to_owned();
                    told.push(Told::Usage { model: Some(model), usage });
                }
                told.push(Told::Caller { item, text: event.transcript, is_final: true });
            }
            Some("failed") => told.push(Told::Lost(item)),
            // xAI: all of it so far
            Some("updated") => told.push(Told::Caller { item, text: event.transcript, is_final: false }),
            _ => {}
        }
    }

    fn wants_item(&mut self, item: &Value) {
        let field = |name: &str| text(&item[name]).unwrap_or_default();
        self.wants(field("call_id"), field("name"), field("arguments"));
    }

    /// A tool is wanted; servers tell so in up to three ways.
    fn wants(&mut self, id: String, name: String, arguments: String) {
        let room = self.calls.len() < MAX_CALLS;
        match self.calls.iter_mut().find(|call| call.id == id) {
            Some(call) if call.name.is_empty() => call.name = name,
            Some(_) => {}
            None if room && !id.is_empty() => {
                self.calls.push(ToolCall { id, name, arguments, signature: None });
            }
            None => {}
        }
    }

    fn done(&mut self, response: &Value, told: &mut Vec<Told>) {
        let id = text(&response["id"]).unwrap_or_default();
        if self.active.as_ref().is_none_or(|active| *active == id || id.is_empty()) {
            self.active = None;
        }
        if let Some(usage) = usage(&response["usage"]) {
            told.push(Told::Usage { model: None, usage });
        }
        let mut calls = Vec::new();
        match response["status"].as_str() {
            _ if self.cancelled.contains(&id) => self.calls.clear(),
            Some("cancelled") => self.calls.clear(),
            Some("failed") => {
                self.calls.clear();
                return self.failed(&response["status_details"], told);
            }
            _ => {
                for item in response["output"].as_array().into_iter().flatten() {
                    if item["type"] == "function_call" {
                        self.wants_item(item);
                    }
                }
                self.retried = false;
                calls = std::mem::take(&mut self.calls);
                calls.retain(|call| !call.name.is_empty());
            }
        }
        match calls.is_empty() {
            true => told.push(Told::TurnDone),
            false => told.push(Told::Calls(calls)),
        }
        if self.wanted && !self.speaking {
            told.extend(self.respond().into_iter().map(Told::Send));
        }
    }

    /// A response has failed: it is asked for once more.
    fn failed(&mut self, details: &Value, told: &mut Vec<Told>) {
        let (code, what) = complaint(&details["error"]);
        let what = format!("its response failed: {what}");
        if code == "insufficient_quota" || std::mem::replace(&mut self.retried, true) {
            let code = (code == "insufficient_quota" || code.starts_with("rate_limit")).then_some("agent.sts.quota");
            return told.push(Told::Fatal(Fatal { code, what, again: false }));
        }
        told.push(Told::Trouble(what));
        told.extend(self.respond().into_iter().map(Told::Send));
    }

    fn error(&mut self, error: &Value, told: &mut Vec<Told>) {
        let (code, what) = complaint(error);
        let fatal = |code, again| Told::Fatal(Fatal { code, what: what.clone(), again });
        told.push(match code.as_str() {
            // two messages have crossed each other on their way
            "response_cancel_not_active" => return,
            "conversation_already_has_active_response" => {
                self.wanted = true;
                return;
            }
            "session_expired" => fatal(None, true),
            "invalid_api_key" => fatal(Some("agent.sts.unauthorized"), false),
            "insufficient_quota" => fatal(Some("agent.sts.quota"), false),
            // what is wrong with the session would be wrong with the next one
            _ if !self.is_ready => fatal(None, error["type"] == "server_error"),
            _ => Told::Trouble(what),
        });
    }
}

impl Dialect for OpenAi {
    fn target(&mut self, _: &Setup<'_>) -> Target {
        let azure = self.named.vendor == Vendor::Azure;
        let preview = self.named.option("api_version");
        let mut url = self.named.websocket("/realtime");
        if preview.is_some()
            && let Some(path) = url.path().strip_suffix("/v1/realtime").map(|path| format!("{path}/realtime"))
        {
            // it was there before there were versions
            url.set_path(&path);
        }
        let mut query = url.query_pairs_mut();
        match preview {
            Some(version) => {
                query.append_pair("api-version", version).append_pair("deployment", &self.named.model);
            }
            None => {
                query.append_pair("model", &self.named.model);
            }
        }
        drop(query);
        let mut headers = match azure {
            true => self.named.signed(HeaderName::from_static("api-key"), ""),
            false => self.named.signed(header::AUTHORIZATION, "Bearer "),
        };
        if self.flavour == Flavour::Beta && !azure {
            headers.insert("openai-beta", HeaderValue::from_static("realtime=v1"));
        }
        Target::Socket(url, headers)
    }

    fn formats(&self) -> Formats {
        self.formats
    }

    fn open(&mut self, setup: &Setup<'_>) -> Vec<Message> {
        let named = self.named.clone();
        let formats = self.formats;
        *self = Self { formats, ..Self::new(Rate::R8K, named) };
        self.update = Some(self.session(setup));
        Vec::new()
    }

    fn ready(&mut self, setup: &Setup<'_>) -> Vec<Message> {
        let mut messages: Vec<_> = setup.past.iter().flat_map(|past| self.item(past)).collect();
        if let Some(greeting) = setup.greeting {
            messages.extend(self.say(greeting).unwrap_or_default());
        } else if setup.owed {
            messages.extend(self.respond());
        }
        messages
    }

    fn audio(&mut self, audio: &[u8]) -> Message {
        super::in_base64(r#"{"type":"input_audio_buffer.append","audio":""#, audio, "\"}")
    }

    fn read(&mut self, message: Incoming<'_>, told: &mut Vec<Told>) {
        let Incoming::Text(text) = message else { return told.push(Told::Strange) };
        match serde_json::from_str(text) {
            Ok(event) => self.event(event, told),
            Err(_) => told.push(Told::Strange),
        }
    }

    fn interrupt(&mut self, cuts: &[Cut]) -> Vec<Message> {
        let mut messages = Vec::new();
        // it has cancelled what it was saying by itself when it heard the caller
        if let (Some(active), false) = (self.cancel(), self.speaking) {
            messages.push(json!({"type": "response.cancel", "response_id": active}));
        }
        for Cut { turn, heard, whole } in cuts {
            if heard.is_zero() {
                messages.push(json!({"type": "conversation.item.delete", "item_id": turn}));
            } else if !whole {
                let ms = u64::try_from(heard.as_millis()).unwrap_or(u64::MAX);
                let part = self.part;
                messages.push(json!({"type": "conversation.item.truncate", "item_id": turn, "content_index": part, "audio_end_ms": ms}));
            }
        }
        messages.into_iter().map(|message| Message::text(message.to_string())).collect()
    }

    fn text(&mut self, text: &str) -> Vec<Message> {
        let mut messages = Vec::new();
        if let Some(active) = self.cancel() {
            messages.push(Message::text(json!({"type": "response.cancel", "response_id": active}).to_string()));
        }
        messages.extend(self.item(&Past::Caller(text.to_owned())));
        messages.extend(self.respond());
        messages
    }

    fn say(&mut self, text: &str) -> Option<Vec<Message>> {
        if self.active.is_some() && !self.speaking {
            // what it is saying goes first; it would refuse a second response
            let wish = format!("Say this next, word for word: {text}");
            self.wanted = true;
            return Some(vec![item(
                json!({"type": "message", "role": "system", "content": [{"type": "input_text", "text": wish}]}),
            )]);
        }
        let wish = format!("Say exactly this to the caller, word for word, and nothing else: {text}");
        let create = json!({"type": "response.create", "response": {"instructions": wish, "tool_choice": "none"}});
        Some(vec![Message::text(create.to_string())])
    }

    fn result(&mut self, call: &ToolCall, outcome: &Outcome, last: bool, answer: bool) -> Vec<Message> {
        let output = json!({"type": "function_call_output", "call_id": call.id, "output": outcome.output});
        let mut messages = vec![item(output)];
        // the answer to what the caller is saying will take it into account
        if last && answer && !self.speaking {
            messages.extend(self.respond());
        }
        messages
    }

    fn is_busy(&self) -> bool {
        self.active.is_some()
    }

    fn lifetime(&self) -> Option<Duration> {
        Some(LIFETIME)
    }

    fn model(&self) -> &str {
        &self.named.model
    }

    fn scrub(&self, text: String) -> String {
        self.named.scrub(text)
    }
}

fn item(item: Value) -> Message {
    Message::text(json!({"type": "conversation.item.create", "item": item}).to_string())
}

fn put(object: &mut Value, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        object[name] = value;
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// The two letters of a language, where it was written so (`de`, `de-AT`).
fn code(language: &str) -> Option<&str> {
    let code = language.split(['-', '_']).next().unwrap_or_default();
    (code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_alphabetic())).then_some(code)
}

fn usage(usage: &Value) -> Option<Usage> {
    let count = |name: &str| usage[name].as_u64();
    let input = count("input_tokens")?;
    let cached = usage["input_token_details"]["cached_tokens"].as_u64().unwrap_or_default();
    Some(Usage { input, cached, output: count("output_tokens").unwrap_or_default() })
}

/// An error's code, and all of it in words.
fn complaint(error: &Value) -> (String, String) {
    let field = |name: &str| error[name].as_str().unwrap_or_default();
    let code = if field("code").is_empty() { field("type") } else { field("code") };
    (code.to_owned(), format!("it reports {}: \"{}\"", escaped(code), escaped(field("message"))))
}

#[cfg(test)]
#[path = "openai_tests.rs"]
mod tests;
