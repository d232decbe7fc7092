//! ElevenLabs Agents: prompt, voice, tools and formats are set on the agent.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::HeaderName;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{
    codec::{Coding, Formats},
    dialect::{Cut, Dialect, Fatal, Incoming, Past, Setup, Target, Told},
};
use crate::{
    agent::{Named, llm::ToolCall, tools::Outcome, websocket::escaped},
    audio::{Rate, g711::Law},
};

/// It does not tell when a turn is over.
const PAUSE: Duration = Duration::from_millis(1_500);
/// Most variables of a call.
const MAX_VARIABLES: usize = 64;

/// A session.
#[derive(Debug)]
pub struct Agent {
    named: Named,
    formats: Formats,
    turn: u64,
    /// The turn has words.
    has_words: bool,
    /// The last piece of audio, and the last one that is not to be heard.
    latest: i64,
    cut: i64,
    is_ready: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    conversation_initiation_metadata_event: Metadata,
    audio_event: Audio,
    ping_event: Numbered,
    interruption_event: Numbered,
    agent_response_event: Said,
    agent_response_correction_event: Said,
    user_transcription_event: Said,
    client_tool_call: Call,
    error_event: Value,
    message: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    agent_output_audio_format: String,
    user_input_audio_format: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Audio {
    audio_base_64: String,
    event_id: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Numbered {
    event_id: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    agent_response: String,
    corrected_agent_response: String,
    user_transcript: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Call {
    tool_name: String,
    tool_call_id: String,
    parameters: Value,
}

impl Agent {
    /// For a leg of `rate`.
    pub fn new(rate: Rate, named: Named) -> Self {
        let coding = if rate == Rate::R8K { Coding::g711(Law::Ulaw) } else { Coding::linear(Rate::R16K) };
        let formats = Formats::both(coding);
        Self { named, formats, turn: 0, has_words: false, latest: 0, cut: -1, is_ready: false }
    }

    fn initiation(&self, setup: &Setup<'_>) -> Value {
        let option = |name: &str| self.named.option(name);
        let mut agent = Map::new();
        // only what was set: the agent has to allow what is overridden
        if let Some(prompt) = setup.prompt {
            agent.insert("prompt".to_owned(), json!({"prompt": prompt}));
        }
        // not again after a reconnect
        let first = if setup.past.is_empty() { setup.greeting } else { setup.greeting.or(Some("")) };
        if let Some(greeting) = first {
            agent.insert("first_message".to_owned(), json!(greeting));
        }
        if let Some(language) = option("language") {
            agent.insert("language".to_owned(), json!(language));
        }
        let mut start = json!({"type": "conversation_initiation_client_data"});
        let mut overrides = Map::new();
        if !agent.is_empty() {
            overrides.insert("agent".to_owned(), agent.into());
        }
        if let Some(voice) = option("voice") {
            overrides.insert("tts".to_owned(), json!({"voice_id": voice}));
        }
        if !overrides.is_empty() {
            start["conversation_config_override"] = overrides.into();
        }
        let plain = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
        let known = setup.about.iter().filter(|(_, value)| plain(value)).take(MAX_VARIABLES);
        let variables: Map<_, _> = known.map(|(name, value)| (name.clone(), value.clone())).collect();
        if !variables.is_empty() {
            start["dynamic_variables"] = variables.into();
        }
        if let Some(user) = option("user_id") {
            start["user_id"] = json!(user);
        }
        start
    }

    fn key(&self) -> String {
        self.turn.to_string()
    }

    fn next_turn(&mut self) {
        self.turn += 1;
        self.has_words = false;
    }

    fn event(&mut self, event: Event, told: &mut Vec<Told>) {
        match event.kind.as_str() {
            "conversation_initiation_metadata" if !self.is_ready => {
                told.push(self.begun(&event.conversation_initiation_metadata_event));
            }
            "ping" => {
                let pong = json!({"type": "pong", "event_id": event.ping_event.event_id});
                told.push(Told::Send(Message::text(pong.to_string())));
            }
            "audio" => self.speech(&event.audio_event, told),
            "agent_response" => {
                if std::mem::replace(&mut self.has_words, true) {
                    self.turn += 1;
                }
                let text = event.agent_response_event.agent_response;
                told.push(Told::Words { turn: self.key(), text, whole: true });
            }
            "agent_response_correction" => {
                told.push(Told::Corrected(event.agent_response_correction_event.corrected_agent_response));
            }
            "user_transcript" => {
                self.next_turn();
                let text = event.user_transcription_event.user_transcript;
                told.push(Told::Caller { item: String::new(), text, is_final: true });
            }
            "interruption" => {
                self.cut = self.cut.max(event.interruption_event.event_id);
                self.next_turn();
                told.push(Told::Interrupted);
            }
            "client_tool_call" => {
                let Call { tool_name: name, tool_call_id: id, parameters } = event.client_tool_call;
                let arguments = if parameters.is_null() { "{}".to_owned() } else { parameters.to_string() };
                told.push(Told::Calls(vec![ToolCall { id, name, arguments, signature: None }]));
            }
            "error" | "client_error" => {
                let said = if event.error_event.is_null() { event.message } else { event.error_event };
                let words = crate::agent::vendor::message(&said).unwrap_or_default();
                let what = format!("it reports an error: \"{}\"", escaped(words));
                told.push(match self.is_ready {
                    true => Told::Trouble(what),
                    false => Told::Fatal(Fatal { code: None, what, again: false }),
                });
            }
            _ => {}
        }
    }

    fn begun(&mut self, metadata: &Metadata) -> Told {
        let down = metadata.agent_output_audio_format.as_str();
        let up = metadata.user_input_audio_format.as_deref().unwrap_or("pcm_16000");
        let (Some(up_coding), Some(down_coding)) = (coding(up), coding(down)) else {
            let (up, down) = (escaped(up), escaped(down));
            let what = format!(
                "its agent is set to hear {up:?} and to speak {down:?}: set both to \"ulaw_8000\" or \"pcm_16000\" there"
            );
            return Told::Fatal(Fatal { code: Some("agent.sts.format"), what, again: false });
        };
        self.formats = Formats { up: up_coding, down: down_coding };
        self.is_ready = true;
        Told::Ready
    }

    fn speech(&mut self, audio: &Audio, told: &mut Vec<Told>) {
        self.latest = self.latest.max(audio.event_id);
        if audio.event_id <= self.cut {
            return;
        }
        told.push(match BASE64_STANDARD.decode(&audio.audio_base_64) {
            Ok(audio) => Told::Audio { turn: self.key(), audio: Bytes::from(audio) },
            Err(_) => Told::Strange,
        });
    }
}

impl Dialect for Agent {
    fn target(&mut self, _: &Setup<'_>) -> Target {
        let path = "/v1/convai/conversation";
        let agent = |mut url: url::Url| {
            url.query_pairs_mut().append_pair("agent_id", &self.named.model);
            url
        };
        let headers = self.named.signed(HeaderName::from_static("xi-api-key"), "");
        if self.named.key.is_none() {
            return Target::Socket(agent(self.named.websocket(path)), headers);
        }
        let url = agent(self.named.http(&format!("{path}/get-signed-url")));
        Target::Ask { url, headers, body: None, field: "signed_url" }
    }

    fn formats(&self) -> Formats {
        self.formats
    }

    fn open(&mut self, setup: &Setup<'_>) -> Vec<Message> {
        self.next_turn();
        (self.latest, self.cut, self.is_ready) = (0, -1, false);
        vec![Message::text(self.initiation(setup).to_string())]
    }

    fn ready(&mut self, setup: &Setup<'_>) -> Vec<Message> {
        if setup.past.is_empty() {
            return Vec::new();
        }
        let line = |past: &Past| match past {
            Past::Caller(text) => format!("Caller: {text}"),
            Past::Agent(text) => format!("Agent: {text}"),
            Past::Tool(call, output) => format!("Tool {}: {output}", call.name),
        };
        let lines: Vec<_> = setup.past.iter().map(line).collect();
        let text = format!("The call goes on after a short break in the line. Said so far:\n{}", lines.join("\n"));
        let mut messages = vec![Message::text(json!({"type": "contextual_update", "text": text}).to_string())];
        if let (true, Some(Past::Caller(text))) = (setup.owed, setup.past.last()) {
            messages.extend(self.text(text));
        }
        messages
    }

    fn audio(&mut self, audio: &[u8]) -> Message {
        super::in_base64(r#"{"user_audio_chunk":""#, audio, "\"}")
    }

    fn read(&mut self, message: Incoming<'_>, told: &mut Vec<Told>) {
        let Incoming::Text(text) = message else { return told.push(Told::Strange) };
        match serde_json::from_str(text) {
            Ok(event) => self.event(event, told),
            Err(_) => told.push(Told::Strange),
        }
    }

    fn interrupt(&mut self, cuts: &[Cut]) -> Vec<Message> {
        // it knows no word for that: what has come so far is what is not to be heard
        if !cuts.is_empty() {
            self.cut = self.cut.max(self.latest);
        }
        Vec::new()
    }

    fn text(&mut self, text: &str) -> Vec<Message> {
        vec![Message::text(json!({"type": "user_message", "text": text}).to_string())]
    }

    fn result(&mut self, call: &ToolCall, outcome: &Outcome, _last: bool, _answer: bool) -> Vec<Message> {
        let result = json!({"type": "client_tool_result", "tool_call_id": call.id, "result": outcome.output, "is_error": outcome.failed});
        vec![Message::text(result.to_string())]
    }

    fn pause(&self) -> Option<Duration> {
        Some(PAUSE)
    }

    fn corrects(&self) -> bool {
        true
    }

    fn hangs_up(&self, code: Option<u16>) -> bool {
        code == Some(1000)
    }

    fn is_final(&self, code: u16) -> bool {
        code == 1008 || (3_000..4_000).contains(&code)
    }

    fn model(&self) -> &str {
        &self.named.model
    }

    fn scrub(&self, text: String) -> String {
        self.named.scrub(text)
    }
}

/// `ulaw_8000`, `pcm_16000` …; what else there is would have to be decoded.
fn coding(name: &str) -> Option<Coding> {
    let (kind, rate) = name.split_once('_')?;
    let rate = Rate::try_from(rate.parse::<u32>().ok()?).ok()?;
    match kind {
        "ulaw" if rate == Rate::R8K => Some(Coding::g711(Law::Ulaw)),
        "alaw" if rate == Rate::R8K => Some(Coding::g711(Law::Alaw)),
        "pcm" => Some(Coding::linear(rate)),
        _ => None,
    }
}

#[cfg(test)]
#[path = "elevenlabs_tests.rs"]
mod tests;
