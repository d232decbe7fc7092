//! The AI services of a call. One string names a service: the scheme of a URL picks the adapter, or a vendor's name does.

mod any;
pub mod builtin;
pub mod cascade;
pub mod embedded;
pub mod failover;
mod fuzzing;
mod health;
pub mod json_stream;
mod llm;
pub mod mcp;
mod outgoing;
mod pipe;
mod prompt;
mod requests;
mod retry;
mod route;
pub mod sentence;
pub mod service;
mod socket;
pub mod sse;
pub mod sts;
mod stt;
pub mod tools;
mod tts;
pub mod utf8;
mod vendor;
pub mod websocket;
mod wyoming;

/// What a fuzzer calls (`fuzz/`): parsers that are nobody else's business.
#[doc(hidden)]
pub mod fuzz {
    pub use super::{
        llm::{fuzz as llm_answer, fuzz_vendor as vendor_answer},
        sentence::fuzz as sentences,
        socket::fuzz as contract_reply,
        sts::fuzz as sts_vendor,
        stt::{fuzz as stt_text, fuzz_vendor as stt_vendor},
        tts::{fuzz as tts_audio, fuzz_vendor as tts_vendor},
        wyoming::fuzz as wyoming_events,
    };
}

use std::sync::Arc;

pub use any::{AnyAgent, connect};
pub use outgoing::{Outgoing, OutgoingError, http_fault, tls_config};
pub use route::{Overrides, Route, RouteError};
pub use service::{Chain, Named, Service};

pub use prompt::MAX_PROMPT;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    audio::Rate,
    call::{CallId, Rules},
};

/// Settings of the agent side. URLs are kept as text here; [`Route`] parses them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Speech recognition service, and those that take over from it, separated by commas.
    #[serde(deserialize_with = "one_or_more")]
    pub asr_url: Option<String>,
    /// Language model service, likewise.
    #[serde(deserialize_with = "one_or_more")]
    pub llm_url: Option<String>,
    /// Speech synthesis service, likewise.
    #[serde(deserialize_with = "one_or_more")]
    pub tts_url: Option<String>,
    /// Speech-to-speech service; set: the other three are ignored.
    pub sts_url: Option<String>,
    /// Spoken at the start of a call in cascade mode (`SYSTEM_MESSAGE`).
    pub greeting: Option<String>,
    /// What the language model is told to be, with `{{from}}` and other things known about the call.
    pub prompt: Option<String>,
    /// A file with that; read at the start.
    pub prompt_file: Option<String>,
    /// A service that says it for each call.
    pub prompt_url: Option<String>,
    /// The language to be spoken with the caller.
    pub language: Option<String>,
    /// The tools that the language model may have called, by name; `*` stands for any characters.
    pub tools: Vec<String>,
    /// Where it may have callers transferred to.
    pub transfer_to: Vec<String>,
    /// How much of a conversation a vendor's language model is told, in tokens.
    pub history_tokens: usize,
    /// Whether such a model summarises the oldest turns before they have to be left out.
    pub summarise_history: bool,
    /// How long a connect to a service may take, in ms.
    pub connect_timeout_ms: u64,
    /// How long a refused or reset connect is tried again before a service counts as failed, in ms.
    pub reconnect_ms: u64,
    /// Texts of speech recognition that arrive within this time are one utterance, in ms.
    pub debounce_ms: u64,
    /// Speech recognition and speech-to-speech requests over HTTP are rotated after this long, in s (Node ends them at 300).
    pub rotate_s: u64,
    /// How long the language model may take to its first byte, in ms.
    pub llm_timeout_ms: u64,
    /// How long speech synthesis may take to its first byte, in ms.
    pub tts_timeout_ms: u64,
    /// How long a service may keep silent before another takes over, where there is one, in ms.
    pub failover_after_ms: u64,
    /// After how many failures in a row a service is left alone by all calls.
    pub breaker_failures: u32,
    /// For how long, in s.
    pub breaker_open_s: u64,
    /// What is said while the language model has not begun to answer, in turn; none = nothing.
    pub fillers: Vec<String>,
    /// How long after the caller's turn one is said, in ms.
    pub filler_after_ms: u64,
    /// How much of the caller goes into one message to a service over WebSocket, in ms: 20, 40 or 60.
    pub message_ms: u64,
    /// After an `error` message, how long a speech-to-speech service may stay silent until the call is given up, in ms.
    pub silent_after_error_ms: u64,
    /// The program of the embedded voice.
    pub flite: String,
    /// How vendors are reached; a section of its own.
    #[serde(skip)]
    pub providers: Arc<service::Providers>,
    /// Ears, voice and script of the embedded agent, where its models are installed.
    #[serde(skip)]
    pub embedded: Option<embedded::Embedded>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            asr_url: None,
            llm_url: None,
            tts_url: None,
            sts_url: None,
            greeting: None,
            prompt: None,
            prompt_file: None,
            prompt_url: None,
            language: None,
            tools: Vec::new(),
            transfer_to: Vec::new(),
            history_tokens: 16_000,
            summarise_history: true,
            connect_timeout_ms: 5_000,
            reconnect_ms: 3_000,
            debounce_ms: 250,
            rotate_s: 240,
            llm_timeout_ms: 60_000,
            tts_timeout_ms: 20_000,
            failover_after_ms: 4_000,
            breaker_failures: 3,
            breaker_open_s: 30,
            fillers: Vec::new(),
            filler_after_ms: 1_500,
            message_ms: 20,
            silent_after_error_ms: 10_000,
            flite: "flite".to_owned(),
            providers: Arc::default(),
            embedded: None,
        }
    }
}

/// A text, or a list of them as one.
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    Ok(match Option::<OneOrMore>::deserialize(deserializer)? {
        None => None,
        Some(OneOrMore::One(text)) => Some(text),
        Some(OneOrMore::More(texts)) => (!texts.is_empty()).then(|| texts.join(", ")),
    })
}

impl Config {
    /// Frames of 20 ms in one message of the caller's audio.
    #[must_use]
    pub fn frames_per_message(&self) -> usize {
        usize::try_from(self.message_ms / 20).unwrap_or(1).clamp(1, 3)
    }
}

/// What an adapter has to know about the call it serves.
#[derive(Debug, Clone)]
pub struct Context {
    /// Our own identity of the call.
    pub call: CallId,
    /// The UUID on the wire, sent to services.
    pub uuid: Uuid,
    /// The leg's rate: all audio in [`crate::call::AgentEvent::Audio`] and [`crate::call::AgentInput::Audio`] has it.
    pub rate: Rate,
    /// What is known about it: its metadata.
    pub about: Arc<Map<String, Value>>,
    /// Settings.
    pub config: Arc<Config>,
    /// The rules of the conversation.
    pub rules: Arc<Rules>,
    /// What the language model can have done.
    pub tools: Arc<tools::Toolbox>,
    /// Who does what tools want done with the call.
    pub orders: Option<mpsc::Sender<tools::Order>>,
    /// Shared means of connecting.
    pub outgoing: Outgoing,
}
