//! Vendors of speech synthesis over WebSockets.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{KEY, Peer};

/// What a fake has to know to play a vendor.
#[derive(Clone, Copy)]
pub struct Vendor {
    pub service: &'static str,
    pub path: &'static str,
    pub query: &'static [(&'static str, &'static str)],
    pub auth: (&'static str, &'static str),
    /// Reads what is to be spoken: its text and its context.
    pub asked: fn(&[Value]) -> (String, String),
    /// How many messages that are.
    pub messages: usize,
    /// Audio in the words of the vendor.
    pub audio: fn(&str, &[u8]) -> Message,
    /// When words are spoken; `None` = it does not tell.
    pub words: Option<fn(&str) -> Value>,
    pub end: fn(&str) -> Value,
    /// What the client says to cancel, and what the vendor answers.
    pub cancel: fn(&str) -> Value,
    pub cancelled: Option<fn() -> Value>,
    /// An error of one sentence.
    pub error: fn(&str) -> Option<Value>,
}

pub const AURA: Vendor = Vendor {
    service: "deepgram:aura-2-thalia-en",
    path: "/v1/speak",
    query: &[("model", "aura-2-thalia-en"), ("encoding", "linear16"), ("sample_rate", "8000")],
    auth: ("authorization", "Token "),
    asked: |messages| {
        assert_eq!((&messages[0]["type"], &messages[1]), (&json!("Speak"), &json!({"type": "Flush"})));
        (messages[0]["text"].as_str().unwrap().to_owned(), String::new())
    },
    messages: 2,
    audio: |_, audio| Message::binary(audio.to_vec()),
    words: None,
    end: |_| json!({"type": "Flushed", "sequence_id": 0, "novel": 1}),
    cancel: |_| json!({"type": "Clear"}),
    cancelled: Some(|| json!({"type": "Cleared", "sequence_id": 1})),
    error: |_| None,
};

pub const ELEVENLABS: Vendor = Vendor {
    service: "elevenlabs:eleven_flash_v2_5?voice=v1&stability=0.4",
    path: "/v1/text-to-speech/v1/multi-stream-input",
    query: &[
        ("model_id", "eleven_flash_v2_5"),
        ("output_format", "pcm_8000"),
        ("auto_mode", "true"),
        ("sync_alignment", "true"),
        ("inactivity_timeout", "180"),
    ],
    auth: ("xi-api-key", ""),
    asked: |messages| {
        let context = messages[0]["context_id"].as_str().unwrap();
        assert_eq!(messages[0], json!({"text": " ", "context_id": context, "voice_settings": {"stability": 0.4}}));
        assert_eq!((&messages[1]["context_id"], &messages[1]["flush"]), (&json!(context), &json!(true)));
        assert_eq!(messages[2], json!({"context_id": context, "close_context": true}));
        (messages[1]["text"].as_str().unwrap().trim_end().to_owned(), context.to_owned())
    },
    messages: 3,
    audio: |context, audio| {
        let message =
            json!({"audio": BASE64_STANDARD.encode(audio), "isFinal": null, "contextId": context, "novel": 1});
        Message::text(message.to_string())
    },
    words: Some(|context| {
        json!({"audio": null, "contextId": context, "alignment": {"chars": ["O", "n", "e", " "], "charStartTimesMs": [0, 10, 20, 30],
               "charDurationsMs": [10, 10, 10, 10]}})
    }),
    end: |context| json!({"isFinal": true, "context_id": context}),
    cancel: |context| json!({"context_id": context, "close_context": true}),
    cancelled: None,
    error: |context| Some(json!({"message": "no such voice", "error": "bad_request", "contextId": context})),
};

pub const CARTESIA: Vendor = Vendor {
    service: "cartesia:sonic-3?voice=v1",
    path: "/tts/websocket",
    query: &[],
    auth: ("authorization", "Bearer "),
    asked: |messages| {
        let request = &messages[0];
        let expected = json!({"model_id": "sonic-3", "transcript": request["transcript"], "voice": {"mode": "id", "id": "v1"}, "language": "en",
            "context_id": request["context_id"], "output_format": {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 8000},
            "continue": false, "add_timestamps": true, "max_buffer_delay_ms": 0});
        assert_eq!(*request, expected);
        (request["transcript"].as_str().unwrap().to_owned(), request["context_id"].as_str().unwrap().to_owned())
    },
    messages: 1,
    audio: |context, audio| {
        let chunk = json!({"type": "chunk", "context_id": context, "data": BASE64_STANDARD.encode(audio), "done": false, "status_code": 206,
            "step_time": 1.5, "novel": null});
        Message::text(chunk.to_string())
    },
    words: Some(|context| {
        json!({"type": "timestamps", "context_id": context, "done": false, "status_code": 206,
               "word_timestamps": {"words": ["One"], "start": [0.0], "end": [0.03]}})
    }),
    end: |context| json!({"type": "done", "context_id": context, "done": true, "status_code": 200}),
    cancel: |context| json!({"context_id": context, "cancel": true}),
    cancelled: None,
    error: |context| {
        Some(
            json!({"type": "error", "context_id": context, "done": true, "status_code": 400, "title": "Bad", "message": "no such voice"}),
        )
    },
};

pub const RIME: Vendor = Vendor {
    service: "rime:mistv2?voice=cove",
    path: "/ws3",
    query: &[
        ("speaker", "cove"),
        ("modelId", "mistv2"),
        ("audioFormat", "pcm"),
        ("samplingRate", "8000"),
        ("lang", "eng"),
        ("segment", "immediate"),
    ],
    auth: ("authorization", "Bearer "),
    asked: |messages| {
        assert_eq!(messages[1], json!({"operation": "flush"}));
        (messages[0]["text"].as_str().unwrap().to_owned(), messages[0]["contextId"].as_str().unwrap().to_owned())
    },
    messages: 2,
    audio: |context, audio| {
        let chunk = json!({"type": "chunk", "data": BASE64_STANDARD.encode(audio), "contextId": context});
        Message::text(chunk.to_string())
    },
    words: Some(
        |context| json!({"type": "timestamps", "word_timestamps": {"words": ["One"], "start": [0.0], "end": [0.03]}, "contextId": context}),
    ),
    end: |context| json!({"type": "done", "done": true, "contextId": context}),
    cancel: |_| json!({"operation": "clear"}),
    cancelled: None,
    error: |context| Some(json!({"type": "error", "message": "no such voice", "contextId": context})),
};

pub const ALL: [Vendor; 4] = [AURA, ELEVENLABS, CARTESIA, RIME];

impl Vendor {
    /// The service at an address.
    pub fn at(&self, address: &str) -> String {
        let separator = if self.service.contains('?') { '&' } else { '?' };
        format!("{}{separator}base_url=ws://{address}", self.service)
    }

    /// Checks the handshake.
    pub async fn begin(&self, peer: &mut Peer) {
        assert_eq!(peer.path, self.path);
        let query: Vec<_> = peer.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(query, self.query, "{}", self.service);
        let (header, scheme) = self.auth;
        assert_eq!(peer.headers.get(header), Some(&format!("{scheme}{KEY}")), "{}", self.service);
        peer.novelty().await;
    }

    /// The next sentence and its context.
    pub async fn sentence(&self, peer: &mut Peer) -> (String, String) {
        let mut messages = Vec::new();
        for _ in 0..self.messages {
            messages.push(peer.json().await);
        }
        (self.asked)(&messages)
    }

    /// Speaks `audio` in pieces of odd length where the vendor has such.
    pub async fn speak(&self, peer: &mut Peer, context: &str, audio: &[u8]) {
        let (first, rest) = audio.split_at((audio.len() / 2) | 1);
        if let Some(words) = self.words {
            peer.say(&words(context)).await;
        }
        peer.send((self.audio)(context, first)).await;
        peer.send((self.audio)(context, rest)).await;
        peer.novelty().await;
    }
}
