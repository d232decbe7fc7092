//! Gemini Live: 16 kHz in, 24 kHz out, JSON in text or binary frames.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
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
        llm::{ToolCall, Usage},
        tools::Outcome,
        websocket::escaped,
    },
    audio::Rate,
};

/// It speaks at this rate only.
const DOWN: Rate = Rate::R24K;
/// When it does not say how soon it ends the connection.
const LEFT: Duration = Duration::from_secs(5);

/// A session.
#[derive(Debug)]
pub struct Live {
    named: Named,
    turn: u64,
    /// What the next connection goes on from.
    handle: Option<String>,
    /// This connection goes on from one, and has not begun.
    resuming: bool,
    /// It went on from one.
    resumed: bool,
    /// What still comes of the turn is not wanted.
    dropping: bool,
    busy: bool,
    /// The caller's words so far.
    caller: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Server {
    setup_complete: Option<Value>,
    server_content: Option<Content>,
    tool_call: Option<Calls>,
    tool_call_cancellation: Option<Cancelled>,
    go_away: Option<GoAway>,
    session_resumption_update: Option<Resumption>,
    usage_metadata: Option<Metadata>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Content {
    model_turn: Option<Turn>,
    input_transcription: Option<Transcription>,
    output_transcription: Option<Transcription>,
    interrupted: bool,
    generation_complete: bool,
    turn_complete: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Turn {
    parts: Vec<Part>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Part {
    inline_data: Option<Blob>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Blob {
    mime_type: String,
    data: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Transcription {
    text: String,
    finished: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Calls {
    function_calls: Vec<Call>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Call {
    id: String,
    name: String,
    args: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cancelled {
    ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct GoAway {
    time_left: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Resumption {
    new_handle: String,
    resumable: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    prompt_token_count: u64,
    cached_content_token_count: u64,
    response_token_count: u64,
    candidates_token_count: u64,
}

impl Live {
    /// A session; its rates are the same for every leg.
    pub const fn new(named: Named) -> Self {
        Self {
            named,
            turn: 0,
            handle: None,
            resuming: false,
            resumed: false,
            dropping: false,
            busy: false,
            caller: String::new(),
        }
    }

    fn setup(&self, setup: &Setup<'_>) -> Value {
        let option = |name: &str| self.named.option(name);
        let mut speech = Map::new();
        if let Some(voice) = option("voice") {
            speech.insert("voiceConfig".to_owned(), json!({"prebuiltVoiceConfig": {"voiceName": voice}}));
        }
        if let Some(language) = option("language") {
            speech.insert("languageCode".to_owned(), json!(language));
        }
        let mut generation = json!({"responseModalities": ["AUDIO"], "speechConfig": speech});
        if let Some(temperature) = option("temperature") {
            generation["temperature"] = number(temperature);
        }
        let mut detection = json!({"disabled": false});
        for (name, theirs, prefix) in [
            ("start_sensitivity", "startOfSpeechSensitivity", "START_SENSITIVITY_"),
            ("end_sensitivity", "endOfSpeechSensitivity", "END_SENSITIVITY_"),
        ] {
            if let Some(level) = option(name) {
                detection[theirs] = json!(format!("{prefix}{}", level.to_ascii_uppercase()));
            }
        }
        for (name, theirs) in [("prefix_padding_ms", "prefixPaddingMs"), ("silence_duration_ms", "silenceDurationMs")] {
            if let Some(ms) = option(name) {
                detection[theirs] = number(ms);
            }
        }
        let mut body = json!({
            "model": format!("models/{}", self.named.model),
            "generationConfig": generation,
            "inputAudioTranscription": {}, "outputAudioTranscription": {},
            "realtimeInputConfig": {"automaticActivityDetection": detection},
            "sessionResumption": self.handle.as_ref().map_or_else(|| json!({}), |handle| json!({"handle": handle})),
            "contextWindowCompression": {"slidingWindow": {}},
        });
        if let Some(prompt) = setup.prompt {
            body["systemInstruction"] = json!({"parts": [{"text": prompt}]});
        }
        if !setup.tools.is_empty() {
            let tools = setup.tools.iter();
            let declared: Vec<_> = tools.map(|tool| json!({"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.parameters})).collect();
            body["tools"] = json!([{"functionDeclarations": declared}]);
        }
        json!({"setup": body})
    }

    fn key(&self) -> String {
        self.turn.to_string()
    }

    fn server(&mut self, server: Server, told: &mut Vec<Told>) {
        if server.setup_complete.is_some() {
            self.resuming = false;
            told.push(Told::Ready);
        }
        if let Some(content) = server.server_content {
            self.content(content, told);
        }
        if let Some(Calls { function_calls }) = server.tool_call {
            self.caller_done(told);
            let call = |call: Call| ToolCall {
                id: call.id,
                name: call.name,
                arguments: Value::Object(call.args).to_string(),
                signature: None,
            };
            told.push(Told::Calls(function_calls.into_iter().map(call).collect()));
            self.turn += 1;
            self.busy = false;
        }
        if let Some(Cancelled { ids }) = server.tool_call_cancellation {
            told.push(Told::Dropped(ids));
        }
        if let Some(Resumption { new_handle, resumable: true }) = server.session_resumption_update
            && !new_handle.is_empty()
        {
            self.handle = Some(new_handle);
        }
        if let Some(GoAway { time_left }) = server.go_away {
            told.push(Told::Renew(seconds(&time_left).unwrap_or(LEFT)));
        }
        if let Some(usage) = server.usage_metadata {
            let output = usage.response_token_count.max(usage.candidates_token_count);
            let usage = Usage { input: usage.prompt_token_count, cached: usage.cached_content_token_count, output };
            told.push(Told::Usage { model: None, usage });
        }
    }

    fn content(&mut self, content: Content, told: &mut Vec<Told>) {
        if let Some(Transcription { text, finished }) = content.input_transcription {
            if self.caller.len() + text.len() <= super::MAX_PARTIAL {
                self.caller.push_str(&text);
            }
            let (item, text) = (String::new(), self.caller.trim().to_owned());
            told.push(Told::Caller { item, text, is_final: false });
            if finished {
                self.caller_done(told);
            }
        }
        if content.interrupted {
            self.turn += 1;
            (self.dropping, self.busy) = (false, false);
            told.push(Told::Interrupted);
        }
        for blob in content.model_turn.into_iter().flat_map(|turn| turn.parts).filter_map(|part| part.inline_data) {
            self.speech(&blob, told);
        }
        if let Some(Transcription { text, .. }) = content.output_transcription
            && !self.dropping
        {
            self.caller_done(told);
            told.push(Told::Words { turn: self.key(), text, whole: false });
        }
        if content.generation_complete {
            told.push(Told::AudioDone(self.key()));
        }
        if content.turn_complete {
            self.caller_done(told);
            told.push(Told::TurnDone);
            self.turn += 1;
            (self.dropping, self.busy) = (false, false);
        }
    }

    fn speech(&mut self, blob: &Blob, told: &mut Vec<Told>) {
        self.caller_done(told);
        if self.dropping {
            return;
        }
        if rate(&blob.mime_type).is_some_and(|rate| rate != DOWN.hz()) || !blob.mime_type.starts_with("audio/pcm") {
            let what = format!("it sends audio as {:?}, which is left out", escaped(&blob.mime_type));
            return told.push(Told::Trouble(what));
        }
        self.busy = true;
        told.push(match BASE64_STANDARD.decode(&blob.data) {
            Ok(audio) => Told::Audio { turn: self.key(), audio: Bytes::from(audio) },
            Err(_) => Told::Strange,
        });
    }

    /// The agent answers: the caller has said everything.
    fn caller_done(&mut self, told: &mut Vec<Told>) {
        let text = std::mem::take(&mut self.caller).trim().to_owned();
        if !text.is_empty() {
            told.push(Told::Caller { item: String::new(), text, is_final: true });
        }
    }

    fn turns(turns: &[Value], complete: bool) -> Message {
        Message::text(json!({"clientContent": {"turns": turns, "turnComplete": complete}}).to_string())
    }
}

impl Dialect for Live {
    fn target(&mut self, _: &Setup<'_>) -> Target {
        let mut url = self.named.websocket("");
        // the address is that of the language model, with its version
        let path = url.path().trim_end_matches('/').to_owned();
        let (path, version) = match path.rsplit_once('/') {
            Some((before, version @ ("v1" | "v1beta" | "v1alpha"))) => (before, version),
            _ => (path.as_str(), "v1beta"),
        };
        url.set_path(&format!(
            "{path}/ws/google.ai.generativelanguage.{version}.GenerativeService.BidiGenerateContent"
        ));
        Target::Socket(url, self.named.signed(HeaderName::from_static("x-goog-api-key"), ""))
    }

    fn formats(&self) -> Formats {
        Formats { up: Coding::linear(Rate::R16K), down: Coding::linear(DOWN) }
    }

    fn open(&mut self, setup: &Setup<'_>) -> Vec<Message> {
        if self.resuming {
            // it was not taken: the conversation is told anew
            self.handle = None;
        }
        self.resuming = self.handle.is_some();
        self.resumed = self.resuming;
        self.turn += 1;
        (self.dropping, self.busy) = (false, false);
        self.caller.clear();
        vec![Message::text(self.setup(setup).to_string())]
    }

    fn ready(&mut self, setup: &Setup<'_>) -> Vec<Message> {
        let mut messages = Vec::new();
        let past: Vec<_> = setup.past.iter().filter_map(said).collect();
        if !self.resumed && !past.is_empty() {
            messages.push(Self::turns(&past, setup.owed && setup.greeting.is_none()));
        }
        if let Some(greeting) = setup.greeting {
            messages.extend(self.say(greeting).unwrap_or_default());
        }
        messages
    }

    fn audio(&mut self, audio: &[u8]) -> Message {
        super::in_base64(r#"{"realtimeInput":{"audio":{"mimeType":"audio/pcm;rate=16000","data":""#, audio, "\"}}}")
    }

    fn read(&mut self, message: Incoming<'_>, told: &mut Vec<Told>) {
        let server = match &message {
            Incoming::Text(text) => serde_json::from_str(text),
            Incoming::Binary(bytes) => serde_json::from_slice(bytes),
        };
        match server {
            Ok(server) => self.server(server, told),
            Err(_) => told.push(Told::Strange),
        }
    }

    fn interrupt(&mut self, _: &[Cut]) -> Vec<Message> {
        // it knows no word for that; when it has interrupted by itself it is not at work
        self.dropping = self.busy;
        Vec::new()
    }

    fn text(&mut self, text: &str) -> Vec<Message> {
        vec![Self::turns(&[json!({"role": "user", "parts": [{"text": text}]})], true)]
    }

    fn say(&mut self, text: &str) -> Option<Vec<Message>> {
        let wish = format!("(Say exactly this to the caller, word for word, and nothing else: {text})");
        Some(self.text(&wish))
    }

    fn result(&mut self, call: &ToolCall, outcome: &Outcome, _last: bool, answer: bool) -> Vec<Message> {
        let name = if outcome.failed { "error" } else { "output" };
        let mut response = Map::new();
        response.insert(name.to_owned(), json!(outcome.output));
        let mut answered = json!({"id": call.id, "name": call.name, "response": response});
        if !answer {
            answered["scheduling"] = json!("SILENT");
        }
        vec![Message::text(json!({"toolResponse": {"functionResponses": [answered]}}).to_string())]
    }

    fn is_busy(&self) -> bool {
        self.busy
    }

    fn is_final(&self, code: u16) -> bool {
        code == 1008 || (code == 1007 && !self.resuming)
    }

    fn model(&self) -> &str {
        &self.named.model
    }

    fn scrub(&self, text: String) -> String {
        self.named.scrub(text)
    }
}

/// Tools are left out: their calls have no meaning without the session that made them.
fn said(past: &Past) -> Option<Value> {
    let (role, text) = match past {
        Past::Caller(text) => ("user", text),
        Past::Agent(text) => ("model", text),
        Past::Tool(..) => return None,
    };
    Some(json!({"role": role, "parts": [{"text": text}]}))
}

/// A duration as protocol buffers write it, `10s` or `9.5s`.
fn seconds(text: &str) -> Option<Duration> {
    let seconds = text.strip_suffix('s')?.parse::<f64>().ok()?;
    (0.0..=3_600.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// The rate of `audio/pcm;rate=24000`.
fn rate(mime: &str) -> Option<u32> {
    mime.split(';').find_map(|part| part.trim().strip_prefix("rate=")?.parse().ok())
}

#[cfg(test)]
#[path = "gemini_tests.rs"]
mod tests;
