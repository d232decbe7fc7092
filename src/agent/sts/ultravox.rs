//! Ultravox: a call is made by a request, then joined.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{
    codec::{Coding, Formats},
    dialect::{Cut, Dialect, Incoming, Past, Setup, Target, Told},
    number,
};
use crate::{
    agent::{
        Named,
        llm::{Tool, ToolCall},
        tools::Outcome,
    },
    audio::Rate,
};

/// Its calls end after an hour.
const LIFETIME: Duration = Duration::from_secs(55 * 60);
/// How far it may send ahead: what is cut it takes back.
const AHEAD_MS: u32 = 30_000;

/// A call.
#[derive(Debug)]
pub struct Ultravox {
    named: Named,
    rate: Rate,
    turn: u64,
    speaking: bool,
    /// What still comes of the turn is not wanted.
    dropping: bool,
    /// The caller's words so far, and which they are.
    caller: (i64, String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    state: String,
    role: String,
    text: Option<String>,
    delta: Option<String>,
    r#final: bool,
    ordinal: i64,
    tool_name: String,
    invocation_id: String,
    parameters: Value,
}

impl Ultravox {
    /// For a leg of `rate`.
    pub const fn new(rate: Rate, named: Named) -> Self {
        let rate = if rate.hz() == 8_000 { Rate::R8K } else { Rate::R16K };
        Self { named, rate, turn: 0, speaking: false, dropping: false, caller: (0, String::new()) }
    }

    fn call(&self, setup: &Setup<'_>) -> Value {
        let option = |name: &str| self.named.option(name);
        let hz = self.rate.hz();
        let medium =
            json!({"serverWebSocket": {"inputSampleRate": hz, "outputSampleRate": hz, "clientBufferSizeMs": AHEAD_MS}});
        let mut call = json!({"medium": medium});
        match (setup.greeting, setup.past.is_empty()) {
            (Some(greeting), _) => call["firstSpeakerSettings"] = json!({"agent": {"text": greeting}}),
            (None, false) if !setup.owed => call["firstSpeakerSettings"] = json!({"user": {}}),
            _ => {}
        }
        let past: Vec<_> = setup.past.iter().filter_map(said).collect();
        if !past.is_empty() {
            call["initialMessages"] = past.into();
        }
        if let Some(longest) = option("max_duration") {
            call["maxDuration"] = json!(longest);
        }
        if option("agent").is_some() {
            // the rest is the agent's own
            return call;
        }
        if let Some(prompt) = setup.prompt {
            call["systemPrompt"] = json!(prompt);
        }
        if !self.named.model.is_empty() {
            call["model"] = json!(self.named.model);
        }
        for (name, theirs) in [("voice", "voice"), ("temperature", "temperature"), ("language", "languageHint")] {
            if let Some(value) = option(name) {
                call[theirs] = if name == "temperature" { number(value) } else { json!(value) };
            }
        }
        if !setup.tools.is_empty() {
            call["selectedTools"] = setup.tools.iter().map(tool).collect();
        }
        call
    }

    fn key(&self) -> String {
        self.turn.to_string()
    }

    fn event(&mut self, event: Event, told: &mut Vec<Told>) {
        match event.kind.as_str() {
            "state" => {
                let speaks = event.state == "speaking";
                if std::mem::replace(&mut self.speaking, speaks) && !speaks {
                    told.push(Told::TurnDone);
                    self.turn += 1;
                    self.dropping = false;
                }
            }
            "transcript" if event.role == "user" => self.words(event, told),
            "transcript" if !self.dropping => {
                if let Some(text) = event.text {
                    told.push(Told::Words { turn: self.key(), text, whole: event.r#final });
                } else if let Some(text) = event.delta {
                    told.push(Told::Words { turn: self.key(), text, whole: false });
                }
            }
            "playback_clear_buffer" => {
                self.turn += 1;
                self.dropping = false;
                told.push(Told::Interrupted);
            }
            "client_tool_invocation" => {
                let arguments = if event.parameters.is_null() { json!({}) } else { event.parameters };
                let (id, name) = (event.invocation_id, event.tool_name);
                told.push(Told::Calls(vec![ToolCall { id, name, arguments: arguments.to_string(), signature: None }]));
                self.turn += 1;
            }
            _ => {}
        }
    }

    fn words(&mut self, event: Event, told: &mut Vec<Told>) {
        if self.caller.0 != event.ordinal {
            self.caller = (event.ordinal, String::new());
        }
        match (event.text, event.delta) {
            (Some(text), _) => self.caller.1 = text,
            (None, Some(delta)) if self.caller.1.len() < super::MAX_PARTIAL => self.caller.1.push_str(&delta),
            _ => {}
        }
        let (item, text) = (String::new(), self.caller.1.clone());
        told.push(Told::Caller { item, text, is_final: event.r#final });
    }
}

impl Dialect for Ultravox {
    fn target(&mut self, setup: &Setup<'_>) -> Target {
        let url = match self.named.option("agent") {
            None => self.named.http("/api/calls"),
            Some(agent) => {
                let mut url = self.named.http("/api/agents");
                if let Ok(mut path) = url.path_segments_mut() {
                    path.extend([agent, "calls"]);
                }
                url
            }
        };
        let headers = self.named.signed(HeaderName::from_static("x-api-key"), "");
        Target::Ask { url, headers, body: Some(self.call(setup)), field: "joinUrl" }
    }

    fn formats(&self) -> Formats {
        Formats::both(Coding::linear(self.rate))
    }

    fn open(&mut self, _: &Setup<'_>) -> Vec<Message> {
        self.turn += 1;
        (self.speaking, self.dropping) = (false, false);
        Vec::new()
    }

    fn waits(&self) -> bool {
        false
    }

    fn audio(&mut self, audio: &[u8]) -> Message {
        Message::binary(Bytes::copy_from_slice(audio))
    }

    fn read(&mut self, message: Incoming<'_>, told: &mut Vec<Told>) {
        match message {
            Incoming::Binary(_) if self.dropping => {}
            Incoming::Binary(audio) => told.push(Told::Audio { turn: self.key(), audio }),
            Incoming::Text(text) => match serde_json::from_str(text) {
                Ok(event) => self.event(event, told),
                Err(_) => told.push(Told::Strange),
            },
        }
    }

    fn interrupt(&mut self, cuts: &[Cut]) -> Vec<Message> {
        // its own word for it comes with another turn
        let key = self.key();
        self.dropping = self.speaking && cuts.iter().any(|cut| cut.turn == key);
        Vec::new()
    }

    fn text(&mut self, text: &str) -> Vec<Message> {
        vec![Message::text(json!({"type": "user_text_message", "text": text}).to_string())]
    }

    fn say(&mut self, text: &str) -> Option<Vec<Message>> {
        Some(vec![Message::text(json!({"type": "forced_agent_message", "content": text}).to_string())])
    }

    fn result(&mut self, call: &ToolCall, outcome: &Outcome, _last: bool, answer: bool) -> Vec<Message> {
        let mut result = json!({"type": "client_tool_result", "invocationId": call.id});
        if outcome.failed {
            result["errorType"] = json!("implementation-error");
            result["errorMessage"] = json!(outcome.output);
        } else {
            result["result"] = json!(outcome.output);
            result["responseType"] = json!("tool-response");
        }
        if !answer {
            result["agentReaction"] = json!("listens");
        }
        vec![Message::text(result.to_string())]
    }

    fn is_busy(&self) -> bool {
        self.speaking
    }

    fn end(&mut self) -> Vec<Message> {
        vec![Message::text(r#"{"type":"hang_up"}"#)]
    }

    fn lifetime(&self) -> Option<Duration> {
        Some(LIFETIME)
    }

    fn hangs_up(&self, code: Option<u16>) -> bool {
        code == Some(1000)
    }

    fn model(&self) -> &str {
        &self.named.model
    }

    fn scrub(&self, text: String) -> String {
        self.named.scrub(text)
    }
}

fn said(past: &Past) -> Option<Value> {
    match past {
        Past::Caller(text) => Some(json!({"role": "MESSAGE_ROLE_USER", "text": text})),
        Past::Agent(text) => Some(json!({"role": "MESSAGE_ROLE_AGENT", "text": text})),
        Past::Tool(..) => None,
    }
}

/// Its parameters one by one, as Ultravox wants them.
fn tool(tool: &Tool) -> Value {
    let nothing = Map::new();
    let properties = tool.parameters["properties"].as_object().unwrap_or(&nothing);
    let required = tool.parameters["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    let parameter = |(name, schema): (&String, &Value)| {
        let needed = required.iter().any(|required| required == name);
        json!({"name": name, "location": "PARAMETER_LOCATION_BODY", "schema": schema, "required": needed})
    };
    let parameters: Vec<_> = properties.iter().map(parameter).collect();
    json!({"temporaryTool": {"modelToolName": tool.name, "description": tool.description, "dynamicParameters": parameters, "client": {}}})
}

#[cfg(test)]
#[path = "ultravox_tests.rs"]
mod tests;
