//! Vendors of speech to speech.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hark::audio::g711::Law;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{Fake, KEY, Peer};

/// Whom a fake plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    OpenAi,
    /// Azure's preview, with the names of the beta.
    Azure,
    Xai,
}

pub const ALL: [Vendor; 3] = [Vendor::OpenAi, Vendor::Azure, Vendor::Xai];

/// What a session was begun with.
#[derive(Debug, PartialEq, Eq)]
pub struct Begun {
    pub prompt: String,
    pub tools: Vec<String>,
}

/// The vendor's side of a session.
pub struct Session {
    pub vendor: Vendor,
    pub peer: Peer,
    /// Turns and tools so far.
    turns: u32,
}

impl Vendor {
    /// The service, at a fake.
    pub fn at(self, address: &str) -> String {
        match self {
            Self::OpenAi => format!("openai:gpt-realtime-2.1?voice=marin&base_url=http://{address}/v1"),
            Self::Azure => format!("azure:voice-1?api_version=2024-10-01-preview&base_url=http://{address}/openai/v1"),
            Self::Xai => format!("xai:grok-voice-latest?voice=ara&base_url=http://{address}/v1"),
        }
    }

    /// What comes of one second of the caller, in bytes.
    pub const fn second(self) -> usize {
        8_000
    }

    /// The samples (8 kHz) of the caller that these bytes are.
    pub fn heard(self, bytes: &[u8]) -> Vec<i16> {
        let mut samples = Vec::new();
        Law::Ulaw.decode(bytes, &mut samples);
        samples
    }

    /// Speech at a level, as the vendor sends it.
    pub fn speech(self, level: i16, ms: usize) -> Vec<u8> {
        vec![Law::Ulaw.encode_sample(level); 8 * ms]
    }

    fn check(self, peer: &Peer) {
        let query = |name: &str| peer.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let bearer = format!("Bearer {KEY}");
        match self {
            Self::OpenAi | Self::Xai => {
                let model = if self == Self::Xai { "grok-voice-latest" } else { "gpt-realtime-2.1" };
                assert_eq!((peer.path.as_str(), query("model")), ("/v1/realtime", Some(model)));
                assert_eq!(peer.headers.get("authorization"), Some(&bearer));
                assert!(!peer.headers.contains_key("openai-beta"));
            }
            Self::Azure => {
                assert_eq!((peer.path.as_str(), query("deployment")), ("/openai/realtime", Some("voice-1")));
                assert_eq!(query("api-version"), Some("2024-10-01-preview"));
                assert_eq!(peer.headers.get("api-key").map(String::as_str), Some(KEY));
            }
        }
    }
}

impl Session {
    /// Takes the next connection and sets the session up.
    pub async fn begin(vendor: Vendor, fake: &Fake) -> (Self, Begun) {
        let mut session = Self::connected(vendor, fake).await;
        let begun = session.set_up().await;
        session.peer.novelty().await;
        (session, begun)
    }

    /// The next connection, not set up.
    pub async fn connected(vendor: Vendor, fake: &Fake) -> Self {
        let peer = fake.accept().await;
        vendor.check(&peer);
        Self { vendor, peer, turns: 0 }
    }

    /// Sets the session up.
    pub async fn set_up(&mut self) -> Begun {
        let first = if self.vendor == Vendor::Xai { "conversation.created" } else { "session.created" };
        self.peer.say(&json!({"type": first, "event_id": "e", "session": {"id": "s", "novel": 1}})).await;
        let update = self.peer.json().await;
        assert_eq!(update["type"], "session.update", "{update}");
        let session = &update["session"];
        match self.vendor {
            Vendor::OpenAi => {
                assert_eq!(session["type"], "realtime");
                assert_eq!(session["output_modalities"], json!(["audio"]));
                assert_eq!(session["audio"]["input"]["format"], json!({"type": "audio/pcmu"}));
                assert_eq!(session["audio"]["output"], json!({"format": {"type": "audio/pcmu"}, "voice": "marin"}));
                assert_eq!(session["audio"]["input"]["turn_detection"]["interrupt_response"], true);
            }
            Vendor::Azure => assert_eq!(session["input_audio_format"], "g711_ulaw"),
            Vendor::Xai => assert_eq!(
                (&session["voice"], &session["turn_detection"]["type"]),
                (&json!("ara"), &json!("server_vad"))
            ),
        }
        let begun = Begun {
            prompt: session["instructions"].as_str().unwrap().to_owned(),
            tools: session["tools"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|tool| tool["name"].as_str().unwrap().to_owned())
                .collect(),
        };
        self.peer.say(&json!({"type": "session.updated", "session": session})).await;
        begun
    }

    /// What the client says next that is no audio.
    pub async fn said(&mut self) -> Value {
        loop {
            let said = self.peer.json().await;
            if said["type"] != "input_audio_buffer.append" {
                return said;
            }
        }
    }

    /// At least so many bytes of the caller.
    pub async fn heard(&mut self, len: usize) -> Vec<u8> {
        let mut audio = Vec::new();
        while audio.len() < len {
            match self.peer.message().await {
                Message::Binary(bytes) => audio.extend_from_slice(&bytes),
                Message::Text(text) => {
                    let said: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(said["type"], "input_audio_buffer.append", "{text}");
                    audio.extend(BASE64_STANDARD.decode(said["audio"].as_str().unwrap()).unwrap());
                }
                other => panic!("{other:?}"),
            }
        }
        audio
    }

    /// The caller has said something.
    pub async fn caller(&mut self, text: &str) {
        self.turns += 1;
        let item = format!("user_{}", self.turns);
        self.say(&[
            json!({"type": "input_audio_buffer.speech_started", "audio_start_ms": 1, "item_id": item}),
            json!({"type": "input_audio_buffer.speech_stopped", "audio_end_ms": 9, "item_id": item}),
            json!({"type": "input_audio_buffer.committed", "previous_item_id": null, "item_id": item}),
            json!({"type": "conversation.item.input_audio_transcription.delta", "item_id": item, "content_index": 0, "delta": text}),
            json!({"type": "conversation.item.input_audio_transcription.completed", "item_id": item, "content_index": 0, "transcript": text}),
        ])
        .await;
    }

    /// The caller interrupts.
    pub async fn interrupts(&mut self) {
        self.say(&[json!({"type": "input_audio_buffer.speech_started", "audio_start_ms": 1, "item_id": "user_x"})])
            .await;
    }

    /// The names of the response and its item.
    fn names(&self) -> (String, String) {
        (format!("resp_{}", self.turns), format!("item_{}", self.turns))
    }

    fn name<'a>(&self, current: &'a str, beta: &'a str) -> &'a str {
        if self.vendor == Vendor::Azure { beta } else { current }
    }

    /// The agent begins to answer.
    pub async fn begin_answer(&mut self) {
        self.turns += 1;
        let (response, _) = self.names();
        self.say(&[json!({"type": "response.created", "response": {"id": response, "status": "in_progress"}})]).await;
    }

    /// Speech of the answer.
    pub async fn speak(&mut self, audio: &[u8]) {
        let kind = self.name("response.output_audio.delta", "response.audio.delta");
        let (response, item) = self.names();
        let delta = json!({"type": kind, "response_id": response, "item_id": item, "output_index": 0, "content_index": 0, "delta": BASE64_STANDARD.encode(audio)});
        self.say(&[delta]).await;
    }

    /// Words of the answer.
    pub async fn words(&mut self, text: &str) {
        let (response, item) = self.names();
        let delta = self.name("response.output_audio_transcript.delta", "response.audio_transcript.delta");
        let done = self.name("response.output_audio_transcript.done", "response.audio_transcript.done");
        self.say(&[
            json!({"type": delta, "response_id": response, "item_id": item, "output_index": 0, "content_index": 0, "delta": text}),
            json!({"type": done, "response_id": response, "item_id": item, "output_index": 0, "content_index": 0, "transcript": text}),
        ])
        .await;
    }

    /// The answer is whole.
    pub async fn end_answer(&mut self) {
        let (response, item) = self.names();
        let done = self.name("response.output_audio.done", "response.audio.done");
        let usage = json!({"total_tokens": 25, "input_tokens": 20, "output_tokens": 5, "input_token_details": {"cached_tokens": 3}});
        self.say(&[
            json!({"type": done, "response_id": response, "item_id": item, "output_index": 0, "content_index": 0}),
            json!({"type": "response.done", "response": {"id": response, "status": "completed", "output": [], "usage": usage}}),
            json!({"type": "rate_limits.updated", "rate_limits": []}),
        ])
        .await;
    }

    /// The agent says something, all at once.
    pub async fn answer(&mut self, text: &str, audio: &[u8]) {
        self.begin_answer().await;
        self.words(text).await;
        // in pieces of any length
        for piece in audio.chunks(1_001) {
            self.speak(piece).await;
        }
        self.end_answer().await;
    }

    /// The agent wants a tool called, in the answer that it has begun.
    pub async fn wants(&mut self, name: &str, arguments: &Value) {
        let (response, _) = self.names();
        let call = json!({"type": "function_call", "id": "f", "call_id": "call_1", "name": name, "arguments": arguments.to_string(), "status": "completed"});
        self.say(&[
            json!({"type": "response.function_call_arguments.done", "response_id": response, "item_id": "f", "output_index": 1, "call_id": "call_1", "name": name, "arguments": arguments.to_string()}),
            json!({"type": "response.output_item.done", "response_id": response, "output_index": 1, "item": call}),
            json!({"type": "response.done", "response": {"id": response, "status": "completed", "output": [call]}}),
        ])
        .await;
    }

    /// What the tool answered.
    pub async fn result(&mut self) -> String {
        let said = self.said().await;
        assert_eq!(said["type"], "conversation.item.create");
        let item = &said["item"];
        assert_eq!((&item["type"], &item["call_id"]), (&json!("function_call_output"), &json!("call_1")));
        item["output"].as_str().unwrap().to_owned()
    }

    pub async fn say(&mut self, messages: &[Value]) {
        for message in messages {
            self.peer.say(message).await;
        }
    }
}
