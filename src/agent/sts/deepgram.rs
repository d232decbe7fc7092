//! Deepgram's Voice Agent: its ears and voice around somebody's language model.

use std::time::Duration;

use bytes::Bytes;
use http::header;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{
    codec::{Coding, Formats},
    dialect::{Cut, Dialect, Fatal, Incoming, Past, Setup, Target, Told},
    number,
};
use crate::{
    agent::{Named, llm::ToolCall, tools::Outcome, websocket::escaped},
    audio::{Rate, g711::Law},
};

/// It hangs up on who says nothing for some 10 s.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A session.
#[derive(Debug)]
pub struct Agent {
    named: Named,
    formats: Formats,
    /// How the session is to be; sent when it has been opened.
    settings: Option<Value>,
    turn: u64,
    /// What still comes of the last turn is not wanted.
    dropping: bool,
    /// The caller has begun to speak, it says; it has stopped by itself.
    interrupted: bool,
    busy: bool,
    is_ready: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    role: String,
    content: String,
    functions: Vec<Function>,
    message: String,
    description: String,
    code: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Function {
    id: String,
    name: String,
    arguments: String,
    client_side: Option<bool>,
}

impl Agent {
    /// For a leg of `rate`.
    pub fn new(rate: Rate, named: Named) -> Self {
        let coding = if rate == Rate::R8K { Coding::g711(Law::Ulaw) } else { Coding::linear(Rate::R16K) };
        Self {
            named,
            formats: Formats::both(coding),
            settings: None,
            turn: 0,
            dropping: false,
            interrupted: false,
            busy: false,
            is_ready: false,
        }
    }

    fn settings(&self, setup: &Setup<'_>) -> Value {
        let option = |name: &str| self.named.option(name);
        let Coding { rate, law } = self.formats.up;
        let format = json!({"encoding": if law.is_some() { "mulaw" } else { "linear16" }, "sample_rate": rate.hz()});
        let mut output = format.clone();
        output["container"] = json!("none");
        let mut agent = json!({"listen": self.listen(setup.language)});
        let mut think = json!({"provider": provider(option("think").unwrap_or("gpt-5.4-mini"), "open_ai")});
        if let Some(temperature) = option("temperature") {
            think["provider"]["temperature"] = number(temperature);
        }
        if let Some(prompt) = setup.prompt {
            think["prompt"] = json!(prompt);
        }
        let function = |tool: &crate::agent::llm::Tool| json!({"name": tool.name, "description": tool.description, "parameters": tool.parameters});
        if !setup.tools.is_empty() {
            think["functions"] = setup.tools.iter().map(function).collect();
        }
        agent["think"] = think;
        agent["speak"] = json!({"provider": provider(option("speak").unwrap_or("aura-2-thalia-en"), "deepgram")});
        if let Some(greeting) = setup.greeting {
            agent["greeting"] = json!(greeting);
        }
        let past: Vec<_> = self.past(setup).iter().map(history).collect();
        if !past.is_empty() {
            agent["context"] = json!({"messages": past});
        }
        let mut settings = json!({"type": "Settings", "audio": {"input": format, "output": output}, "agent": agent});
        let tags: Vec<_> = self.named.options.iter().filter(|(name, _)| name == "tag").map(|(_, tag)| tag).collect();
        if !tags.is_empty() {
            settings["tags"] = json!(tags);
        }
        if let Some(out) = option("mip_opt_out") {
            settings["mip_opt_out"] = json!(out == "true");
        }
        settings
    }

    fn listen(&self, language: Option<&str>) -> Value {
        let option = |name: &str| self.named.option(name);
        let mut listen = provider(option("listen").unwrap_or("flux-general-en"), "deepgram");
        let flux = listen["model"].as_str().is_some_and(|model| model.starts_with("flux"));
        listen["version"] = json!(if flux { "v2" } else { "v1" });
        match (flux, option("eot_threshold"), option("language").or(language)) {
            (true, Some(threshold), _) => listen["eot_threshold"] = number(threshold),
            (false, _, Some(language)) => listen["language"] = json!(language),
            _ => {}
        }
        let terms: Vec<_> = self.named.options.iter().filter(|(name, _)| name == "keyterm").map(|(_, t)| t).collect();
        if !terms.is_empty() {
            listen["keyterms"] = json!(terms);
        }
        json!({"provider": listen})
    }

    /// What was said before; words that have no answer are said again when the session is set up.
    fn past<'a>(&self, setup: &Setup<'a>) -> &'a [Past] {
        match setup.past {
            [rest @ .., Past::Caller(_)] if setup.owed => rest,
            all => all,
        }
    }

    fn key(&self) -> String {
        self.turn.to_string()
    }

    fn event(&mut self, event: Event, told: &mut Vec<Told>) {
        let complaint = || {
            let words = if event.description.is_empty() { &event.message } else { &event.description };
            format!("it reports {} {}: \"{}\"", event.kind, escaped(&event.code), escaped(words))
        };
        match event.kind.as_str() {
            "Welcome" => {
                told.extend(self.settings.take().map(|settings| Told::Send(Message::text(settings.to_string()))));
            }
            "SettingsApplied" if !std::mem::replace(&mut self.is_ready, true) => told.push(Told::Ready),
            "ConversationText" if event.role == "user" => {
                told.push(Told::Caller { item: String::new(), text: event.content, is_final: true });
            }
            "ConversationText" => {
                self.speaks();
                told.push(Told::Words { turn: self.key(), text: format!("{} ", event.content), whole: false });
            }
            "UserStartedSpeaking" => {
                self.turn += 1;
                (self.dropping, self.interrupted, self.busy) = (true, true, false);
                told.push(Told::Interrupted);
            }
            "AgentThinking" | "AgentStartedSpeaking" => self.speaks(),
            "AgentAudioDone" => {
                told.push(Told::TurnDone);
                self.turn += 1;
                (self.dropping, self.interrupted, self.busy) = (false, false, false);
            }
            "FunctionCallRequest" => self.wants(event.functions, told),
            "FunctionCallCancelled" => {
                told.push(Told::Dropped(event.functions.into_iter().map(|function| function.id).collect()));
            }
            "Error" if !self.is_ready => {
                told.push(Told::Fatal(Fatal { code: None, what: complaint(), again: false }));
            }
            "Error" | "Warning" | "InjectionRefused" => told.push(Told::Trouble(complaint())),
            _ => {}
        }
    }

    /// It is at work on an answer.
    const fn speaks(&mut self) {
        (self.dropping, self.interrupted, self.busy) = (false, false, true);
    }

    fn wants(&mut self, functions: Vec<Function>, told: &mut Vec<Told>) {
        let ours = functions.into_iter().filter(|function| function.client_side != Some(false));
        let calls: Vec<_> = ours
            .map(|Function { id, name, arguments, .. }| ToolCall { id, name, arguments, signature: None })
            .collect();
        if !calls.is_empty() {
            told.push(Told::Calls(calls));
            self.turn += 1;
        }
    }
}

impl Dialect for Agent {
    fn target(&mut self, _: &Setup<'_>) -> Target {
        Target::Socket(self.named.websocket("/v1/agent/converse"), self.named.signed(header::AUTHORIZATION, "Token "))
    }

    fn formats(&self) -> Formats {
        self.formats
    }

    fn open(&mut self, setup: &Setup<'_>) -> Vec<Message> {
        self.settings = Some(self.settings(setup));
        self.turn += 1;
        (self.dropping, self.interrupted, self.busy, self.is_ready) = (false, false, false, false);
        Vec::new()
    }

    fn ready(&mut self, setup: &Setup<'_>) -> Vec<Message> {
        match setup.past.last() {
            Some(Past::Caller(text)) if setup.owed => self.text(text),
            _ => Vec::new(),
        }
    }

    fn audio(&mut self, audio: &[u8]) -> Message {
        Message::binary(Bytes::copy_from_slice(audio))
    }

    fn read(&mut self, message: Incoming<'_>, told: &mut Vec<Told>) {
        match message {
            Incoming::Binary(_) if self.dropping => {}
            Incoming::Binary(audio) => {
                self.busy = true;
                told.push(Told::Audio { turn: self.key(), audio });
            }
            Incoming::Text(text) => match serde_json::from_str(text) {
                Ok(event) => self.event(event, told),
                Err(_) => told.push(Told::Strange),
            },
        }
    }

    fn interrupt(&mut self, _: &[Cut]) -> Vec<Message> {
        // it knows no word for that: what still comes of the turn is left out
        if !self.interrupted && self.busy {
            self.dropping = true;
        }
        Vec::new()
    }

    fn text(&mut self, text: &str) -> Vec<Message> {
        vec![Message::text(json!({"type": "InjectUserMessage", "content": text}).to_string())]
    }

    fn say(&mut self, text: &str) -> Option<Vec<Message>> {
        let message = json!({"type": "InjectAgentMessage", "message": text, "behavior": "queue"});
        Some(vec![Message::text(message.to_string())])
    }

    fn result(&mut self, call: &ToolCall, outcome: &Outcome, _last: bool, _answer: bool) -> Vec<Message> {
        let response =
            json!({"type": "FunctionCallResponse", "id": call.id, "name": call.name, "content": outcome.output});
        vec![Message::text(response.to_string())]
    }

    fn is_busy(&self) -> bool {
        self.busy
    }

    fn idle(&mut self) -> Option<(Duration, Message)> {
        Some((KEEP_ALIVE, Message::text(r#"{"type":"KeepAlive"}"#)))
    }

    fn model(&self) -> &str {
        &self.named.model
    }

    fn scrub(&self, text: String) -> String {
        self.named.scrub(text)
    }
}

/// `PROVIDER/MODEL`, or a model of the usual provider.
fn provider(text: &str, usual: &str) -> Value {
    let (kind, model) = text.split_once('/').unwrap_or((usual, text));
    json!({"type": kind, "model": model})
}

fn history(past: &Past) -> Value {
    match past {
        Past::Caller(text) => json!({"type": "History", "role": "user", "content": text}),
        Past::Agent(text) => json!({"type": "History", "role": "assistant", "content": text}),
        Past::Tool(call, output) => json!({"type": "History", "function_calls": [
            {"id": call.id, "name": call.name, "client_side": true, "arguments": call.arguments, "response": output}
        ]}),
    }
}

#[cfg(test)]
#[path = "deepgram_tests.rs"]
mod tests;
