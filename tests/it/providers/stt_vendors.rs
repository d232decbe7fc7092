//! Vendors of speech recognition.

use serde_json::{Value, json};

use super::{KEY, Peer};

/// What a fake has to know to play a vendor.
#[derive(Clone, Copy)]
pub struct Vendor {
    /// The service, without address.
    pub service: &'static str,
    pub path: &'static str,
    /// Parameters, all of them.
    pub query: &'static [(&'static str, &'static str)],
    /// The header with the key, and what stands before it.
    pub auth: Option<(&'static str, &'static str)>,
    /// Bytes of 20 ms.
    pub frame: usize,
    /// What the client says first, checked.
    pub opening: Option<fn(&Value)>,
    /// What the vendor says then.
    pub ready: Option<&'static str>,
    /// How the client says that the caller has stopped; `None` = not at all.
    pub finalize: Option<&'static str>,
    /// How the vendor tells a text that may change, and one that will not, with the end of the turn where it knows.
    pub partial: fn(&str) -> Vec<Value>,
    pub last: fn(&str, u64) -> Vec<Value>,
    /// An error that is for good, one that may pass.
    pub error: fn(bool) -> Option<Value>,
}

fn result(text: &str, is_final: bool, at: u64) -> Value {
    json!({"type": "Results", "channel_index": [0, 1], "start": at as f64 * 2.0, "duration": 1.2, "is_final": is_final,
           "speech_final": is_final, "from_finalize": false, "novel": {"a": 1},
           "channel": {"alternatives": [{"transcript": text, "confidence": 0.98, "words": []}]},
           "metadata": {"request_id": "r", "model_uuid": "m", "model_info": {}}})
}

fn turn_info(event: &str, text: &str, turn: u64) -> Value {
    json!({"type": "TurnInfo", "request_id": "r", "sequence_id": 7, "event": event, "turn_index": turn, "audio_window_start": 0.0,
           "audio_window_end": 1.0, "transcript": text, "words": [], "end_of_turn_confidence": 0.8, "novel": []})
}

pub const NOVA: Vendor = Vendor {
    service: "deepgram:nova-3?language=en",
    path: "/v1/listen",
    query: &[
        ("model", "nova-3"),
        ("encoding", "mulaw"),
        ("sample_rate", "8000"),
        ("channels", "1"),
        ("interim_results", "true"),
        ("vad_events", "true"),
        ("endpointing", "300"),
        ("utterance_end_ms", "1000"),
        ("smart_format", "true"),
        ("language", "en"),
    ],
    auth: Some(("authorization", "Token ")),
    frame: 160,
    opening: None,
    ready: None,
    finalize: Some(r#"{"type":"Finalize"}"#),
    partial: |text| vec![json!({"type": "SpeechStarted", "channel": [0], "timestamp": 0.1}), result(text, false, 0)],
    last: |text, at| {
        let utterance_end = json!({"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": 2.4});
        // some come twice
        vec![result(text, true, at), result(text, true, at), utterance_end]
    },
    error: |_| None,
};

pub const FLUX: Vendor = Vendor {
    service: "deepgram:flux-general-en?eot_threshold=0.8",
    path: "/v2/listen",
    query: &[("model", "flux-general-en"), ("encoding", "mulaw"), ("sample_rate", "8000"), ("eot_threshold", "0.8")],
    auth: Some(("authorization", "Token ")),
    frame: 160,
    opening: None,
    ready: None,
    finalize: None,
    partial: |text| vec![turn_info("StartOfTurn", "", 0), turn_info("Update", text, 0)],
    last: |text, at| {
        vec![turn_info("EagerEndOfTurn", text, at), turn_info("EndOfTurn", text, at), turn_info("EndOfTurn", text, at)]
    },
    error: |last| {
        (!last)
            .then(|| json!({"type": "Error", "sequence_id": 4, "code": "INTERNAL_SERVER_ERROR", "description": "oh"}))
    },
};

pub const VOSK: Vendor = Vendor {
    service: "vosk:?phrases=hello&finalize=reset",
    path: "/",
    query: &[],
    auth: None,
    frame: 320,
    opening: Some(|config| {
        assert_eq!(*config, json!({"config": {"sample_rate": 8000, "phrase_list": ["hello"]}}));
    }),
    ready: None,
    finalize: Some(r#"{"reset" : 1}"#),
    partial: |text| vec![json!({"partial": text, "novel": 1})],
    last: |text, _| vec![json!({"result": [], "text": text})],
    error: |_| None,
};

pub const SONIOX: Vendor = Vendor {
    service: "soniox:stt-rt-v5?language=en",
    path: "/transcribe-websocket",
    query: &[],
    auth: Some(("authorization", "Bearer ")),
    frame: 160,
    opening: Some(|config| {
        assert_eq!(
            *config,
            json!({"model": "stt-rt-v5", "audio_format": "mulaw", "num_channels": 1, "sample_rate": 8000,
                   "enable_endpoint_detection": true, "language_hints": ["en"]})
        );
    }),
    ready: None,
    finalize: Some(r#"{"type":"finalize"}"#),
    partial: |text| vec![json!({"tokens": [{"text": text, "is_final": false}], "final_audio_proc_ms": 0, "novel": 1})],
    last: |text, _| {
        let mut tokens: Vec<Value> =
            text.split_inclusive(' ').map(|part| json!({"text": part, "is_final": true, "confidence": 0.9})).collect();
        tokens.push(json!({"text": "<end>", "is_final": true}));
        vec![json!({"tokens": tokens})]
    },
    error: |last| {
        let (code, message) = if last { (401, "Incorrect API key provided: sk-hunter2-secret") } else { (503, "busy") };
        Some(json!({"error_code": code, "error_message": message}))
    },
};

pub const ASSEMBLYAI: Vendor = Vendor {
    service: "assemblyai:universal-streaming-english?min_turn_silence=400",
    path: "/v3/ws",
    query: &[
        ("sample_rate", "8000"),
        ("encoding", "pcm_mulaw"),
        ("speech_model", "universal-streaming-english"),
        ("format_turns", "false"),
        ("min_turn_silence", "400"),
    ],
    auth: Some(("authorization", "")),
    frame: 160,
    opening: None,
    ready: Some(r#"{"type":"Begin","id":"x","expires_at":1893456000,"novel":{}}"#),
    finalize: Some(r#"{"type":"ForceEndpoint"}"#),
    partial: |text| {
        vec![
            json!({"type": "Turn", "turn_order": 0, "turn_is_formatted": false, "end_of_turn": false, "end_of_turn_confidence": 0.1, "transcript": text, "words": []}),
        ]
    },
    last: |text, at| {
        let turn = |formatted: bool| json!({"type": "Turn", "turn_order": at, "turn_is_formatted": formatted, "end_of_turn": true, "end_of_turn_confidence": 0.9, "transcript": text, "words": []});
        vec![turn(false), turn(true)]
    },
    error: |last| {
        let (code, error) = if last { (4001, "Not authorized: sk-hunter2-secret") } else { (3005, "server error") };
        Some(json!({"type": "Error", "error_code": code, "error": error}))
    },
};

pub const SPEECHMATICS: Vendor = Vendor {
    service: "speechmatics:enhanced?language=en",
    path: "/v2",
    query: &[],
    auth: Some(("authorization", "Bearer ")),
    frame: 160,
    opening: Some(|start| {
        assert_eq!(
            *start,
            json!({"message": "StartRecognition", "audio_format": {"type": "raw", "encoding": "mulaw", "sample_rate": 8000},
                   "transcription_config": {"language": "en", "model": "enhanced", "max_delay": 1.0, "max_delay_mode": "flexible",
                                            "enable_partials": true, "conversation_config": {"end_of_utterance_silence_trigger": 0.5}}})
        );
    }),
    ready: Some(r#"{"message":"RecognitionStarted","id":"x","language_pack_info":{}}"#),
    finalize: Some(r#"{"message":"ForceEndOfUtterance","timestamp":0.3}"#),
    partial: |text| {
        vec![
            json!({"message": "AddPartialTranscript", "format": "2.9", "metadata": {"transcript": text}, "results": []}),
        ]
    },
    last: |text, _| {
        vec![
            json!({"message": "AddTranscript", "format": "2.9", "metadata": {"transcript": text, "start_time": 0.1}, "results": []}),
            json!({"message": "EndOfUtterance", "metadata": {}}),
        ]
    },
    error: |last| {
        let (kind, reason) =
            if last { ("not_authorised", "key sk-hunter2-secret") } else { ("job_error", "worker died") };
        Some(json!({"message": "Error", "type": kind, "reason": reason}))
    },
};

pub const SCRIBE: Vendor = Vendor {
    service: "elevenlabs:scribe_v2_realtime?language=en",
    path: "/v1/speech-to-text/realtime",
    query: &[
        ("model_id", "scribe_v2_realtime"),
        ("audio_format", "ulaw_8000"),
        ("commit_strategy", "manual"),
        ("language_code", "en"),
    ],
    auth: Some(("xi-api-key", "")),
    frame: 160,
    opening: None,
    ready: Some(r#"{"message_type":"session_started","session_id":"x","config":{}}"#),
    finalize: None,
    partial: |text| vec![json!({"message_type": "partial_transcript", "text": text})],
    last: |text, _| {
        vec![
            json!({"message_type": "committed_transcript", "text": text}),
            json!({"message_type": "committed_transcript_with_timestamps", "text": text, "words": []}),
        ]
    },
    error: |last| {
        let (kind, error) =
            if last { ("auth_error", "bad key sk-hunter2-secret") } else { ("transcriber_error", "oh") };
        Some(json!({"message_type": kind, "error": error}))
    },
};

pub const REALTIME: Vendor = Vendor {
    service: "openai:gpt-realtime-whisper?language=en",
    path: "/realtime",
    query: &[("intent", "transcription")],
    auth: Some(("authorization", "Bearer ")),
    frame: 160,
    opening: Some(|update| {
        let input = json!({"format": {"type": "audio/pcmu"}, "transcription": {"model": "gpt-realtime-whisper", "language": "en"}, "turn_detection": null});
        assert_eq!(
            *update,
            json!({"type": "session.update", "session": {"type": "transcription", "audio": {"input": input}}})
        );
    }),
    ready: Some(r#"{"type":"session.updated","event_id":"e","session":{"type":"transcription"}}"#),
    finalize: None,
    partial: |text| {
        vec![
            json!({"type": "conversation.item.input_audio_transcription.delta", "event_id": "e", "item_id": "p", "content_index": 0, "delta": text}),
        ]
    },
    last: |text, at| {
        let item = format!("item_{at}");
        vec![
            json!({"type": "input_audio_buffer.committed", "event_id": "e", "item_id": item, "previous_item_id": null}),
            json!({"type": "conversation.item.input_audio_transcription.completed", "event_id": "e", "item_id": item, "content_index": 0, "transcript": text,
                   "usage": {"type": "duration", "seconds": 1.0}}),
        ]
    },
    error: |last| {
        let (kind, code, message) = if last {
            ("invalid_request_error", "invalid_api_key", "bad key sk-hunter2-secret")
        } else {
            ("server_error", "oh", "oh")
        };
        Some(
            json!({"type": "error", "event_id": "e", "error": {"type": kind, "code": code, "message": message, "param": null}}),
        )
    },
};

pub const ALL: [Vendor; 8] = [NOVA, FLUX, VOSK, SONIOX, ASSEMBLYAI, SPEECHMATICS, SCRIBE, REALTIME];

impl Vendor {
    /// The service at an address.
    pub fn at(&self, address: &str) -> String {
        let separator = if self.service.contains('?') { '&' } else { '?' };
        format!("{}{separator}base_url=ws://{address}", self.service)
    }

    /// Checks the handshake and takes the session up to where audio may come.
    pub async fn begin(&self, peer: &mut Peer) {
        self.greeted(peer).await;
        if let Some(ready) = self.ready {
            peer.say(&serde_json::from_str(ready).unwrap()).await;
        }
        peer.novelty().await;
    }

    /// Checks the handshake and what is said first.
    pub async fn greeted(&self, peer: &mut Peer) {
        assert_eq!(peer.path, self.path);
        let mut query: Vec<_> = peer.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut expected = self.query.to_vec();
        query.sort_unstable();
        expected.sort_unstable();
        assert_eq!(query, expected, "{}", self.service);
        if let Some((header, scheme)) = self.auth {
            assert_eq!(peer.headers.get(header), Some(&format!("{scheme}{KEY}")), "{}", self.service);
        }
        assert!(!peer.headers.contains_key("x-uuid"));
        if let Some(check) = self.opening {
            match peer.message().await {
                tokio_tungstenite::tungstenite::Message::Text(text) => check(&serde_json::from_str(&text).unwrap()),
                other => panic!("{other:?} comes first"),
            }
        }
    }

    pub async fn tell(&self, peer: &mut Peer, messages: Vec<Value>) {
        for message in messages {
            peer.say(&message).await;
        }
    }
}
