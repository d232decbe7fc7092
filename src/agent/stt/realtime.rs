//! OpenAI's realtime transcription: texts while the caller speaks; we say when an utterance is over.

use std::collections::VecDeque;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::{
    Heard,
    dialect::{Dialect, Read, Sends},
};
use crate::{
    agent::{Context, Named, websocket::escaped},
    audio::{Rate, resample::Resampler},
};

/// A commit of less than 100 ms is an error.
const LEAST: usize = 5;
/// Utterances whose texts are awaited.
const MAX_AWAITED: usize = 32;
/// Longest text that may still change, in bytes.
const MAX_TEXT: usize = 16 * 1024;

/// A connection to `/v1/realtime`.
#[derive(Debug)]
pub struct Realtime {
    named: Named,
    sends: Sends,
    language: Option<String>,
    /// It does not take G.711 here: what we have is turned into its 24 kHz.
    wide: Option<Resampler>,
    refused: bool,
    is_ready: bool,
    /// Frames since the last commit, in bytes.
    uncommitted: usize,
    ending: bool,
    /// Utterances in the order in which they were spoken, and their texts, which come in any other.
    awaited: VecDeque<(String, Option<String>)>,
    /// Those whose texts were told last: some come twice.
    told: VecDeque<String>,
    partial: (String, String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    item_id: String,
    delta: String,
    transcript: String,
    error: Value,
}

/// Whether this model is spoken to over a WebSocket.
pub fn serves(named: &Named) -> bool {
    let by_name = named.model.contains("realtime") || named.model.contains("live");
    named.option("realtime").map_or(by_name, |wish| wish == "true")
}

impl Realtime {
    pub fn new(ctx: &Context, named: Named) -> Self {
        let mut sends = Sends::g711(ctx);
        if sends.law.is_none() {
            sends.rate = Rate::R24K;
        }
        let language = named.option("language").or(ctx.config.language.as_deref()).map(str::to_owned);
        Self {
            named,
            sends,
            language,
            wide: None,
            refused: false,
            is_ready: false,
            uncommitted: 0,
            ending: false,
            awaited: VecDeque::new(),
            told: VecDeque::new(),
            partial: <_>::default(),
        }
    }

    fn update(&self) -> Message {
        let option = |name: &str| self.named.option(name);
        let format = match self.sends.law {
            Some(_) if self.wide.is_none() => json!({"type": "audio/pcmu"}),
            _ => json!({"type": "audio/pcm", "rate": 24_000}),
        };
        let mut transcription = json!({"model": self.named.model});
        let code = self.language.as_deref().and_then(|language| language.split(['-', '_']).next());
        for (name, value) in [
            ("language", code.filter(|code| code.len() == 2)),
            ("prompt", option("prompt")),
            ("delay", option("delay")),
        ] {
            if let Some(value) = value {
                transcription[name] = json!(value);
            }
        }
        // the caller's turns are found here
        let mut input = json!({"format": format, "transcription": transcription, "turn_detection": null});
        if let Some(kind) = option("noise_reduction") {
            input["noise_reduction"] = json!({"type": kind});
        }
        let session = json!({"type": "transcription", "audio": {"input": input}});
        Message::text(json!({"type": "session.update", "session": session}).to_string())
    }

    fn append(&mut self, audio: &[u8]) -> Message {
        let wide = match (&mut self.wide, self.sends.law) {
            (Some(resampler), Some(law)) => {
                let (mut samples, mut wide) = (Vec::new(), Vec::new());
                law.decode(audio, &mut samples);
                resampler.process(&samples, &mut wide);
                wide.iter().flat_map(|sample| sample.to_le_bytes()).collect()
            }
            _ => Vec::new(),
        };
        let audio = if wide.is_empty() { audio } else { &wide };
        let mut text = String::with_capacity(64 + audio.len().div_ceil(3) * 4);
        text.push_str(r#"{"type":"input_audio_buffer.append","audio":""#);
        BASE64_STANDARD.encode_string(audio, &mut text);
        text.push_str("\"}");
        Message::text(text)
    }

    fn commit(&mut self) -> Vec<Message> {
        if self.uncommitted == 0 {
            return Vec::new();
        }
        let missing = (self.sends.frame_bytes() * LEAST).saturating_sub(self.uncommitted);
        let silence = vec![self.sends.silence(); missing];
        self.uncommitted = 0;
        let padding = (missing > 0).then(|| self.append(&silence));
        padding.into_iter().chain([Message::text(r#"{"type":"input_audio_buffer.commit"}"#)]).collect()
    }

    fn event(&mut self, event: Event) -> Vec<Read> {
        let Event { kind, item_id: item, delta, transcript, error } = event;
        match kind.as_str() {
            "session.updated" | "transcription_session.updated" if !self.is_ready => {
                self.is_ready = true;
                vec![Read::Ready]
            }
            "input_audio_buffer.committed" => {
                if self.awaited.len() >= MAX_AWAITED {
                    self.awaited.pop_front();
                }
                self.awaited.push_back((item, None));
                Vec::new()
            }
            "conversation.item.input_audio_transcription.delta" => self.more(item, &delta),
            "conversation.item.input_audio_transcription.completed" => self.came(item, transcript),
            "conversation.item.input_audio_transcription.failed" => {
                let mut reads = vec![Read::Trouble(complaint(&error))];
                reads.extend(self.came(item, String::new()));
                reads
            }
            "error" => self.error(&error),
            _ => Vec::new(),
        }
    }

    fn more(&mut self, item: String, delta: &str) -> Vec<Read> {
        if self.told.contains(&item) {
            return Vec::new();
        }
        if self.partial.0 != item {
            self.partial = (item, String::new());
        }
        let room = MAX_TEXT.saturating_sub(self.partial.1.len());
        self.partial.1.push_str(&delta[..delta.floor_char_boundary(room)]);
        let text = self.partial.1.trim().to_owned();
        if text.is_empty() { Vec::new() } else { vec![Read::Heard(Heard::Partial(text))] }
    }

    /// The text of an utterance; those that were spoken before it are told first.
    fn came(&mut self, item: String, text: String) -> Vec<Read> {
        if self.told.contains(&item) {
            return Vec::new();
        }
        match self.awaited.iter_mut().find(|(known, _)| *known == item) {
            Some((_, known)) => *known = Some(text),
            None => self.awaited.push_back((item, Some(text))),
        }
        let mut reads = Vec::new();
        while let Some((item, Some(text))) = self.awaited.pop_front_if(|(_, text)| text.is_some()) {
            reads.extend(Read::piece(&text));
            if self.told.len() >= MAX_AWAITED {
                self.told.pop_front();
            }
            self.told.push_back(item);
        }
        if self.ending && self.awaited.is_empty() {
            reads.push(Read::Done);
        }
        reads
    }

    fn error(&mut self, error: &Value) -> Vec<Read> {
        let field = |name: &str| error[name].as_str().unwrap_or_default();
        let what = complaint(error);
        let fatal = |again| vec![Read::Fatal { what: what.clone(), again }];
        match (field("code"), field("type")) {
            ("input_audio_buffer_commit_empty", _) => Vec::new(),
            ("invalid_api_key" | "insufficient_quota", _) => fatal(false),
            ("session_expired", _) | (_, "server_error") => fatal(true),
            _ if self.is_ready => vec![Read::Trouble(what)],
            _ if field("param").contains("format") && self.sends.law.is_some() && !self.refused => {
                self.refused = true;
                fatal(true)
            }
            _ => fatal(false),
        }
    }
}

fn complaint(error: &Value) -> String {
    let field = |name: &str| error[name].as_str().unwrap_or_default();
    let code = if field("code").is_empty() { field("type") } else { field("code") };
    format!("it reports {}: \"{}\"", escaped(code), escaped(field("message")))
}

impl Dialect for Realtime {
    fn target(&self) -> (Url, HeaderMap) {
        let mut url = self.named.websocket("/realtime");
        url.query_pairs_mut().append_pair("intent", "transcription");
        (url, self.named.signed(header::AUTHORIZATION, "Bearer "))
    }

    fn sends(&self) -> Sends {
        self.sends
    }

    fn open(&mut self) -> Vec<Message> {
        (self.is_ready, self.uncommitted, self.ending) = (false, 0, false);
        self.awaited.clear();
        self.told.clear();
        self.partial = <_>::default();
        self.wide = self.refused.then(|| Resampler::new(self.sends.rate.hz(), Rate::R24K.hz()));
        vec![self.update()]
    }

    fn waits(&self) -> bool {
        true
    }

    fn audio(&mut self, audio: Bytes) -> Message {
        self.uncommitted += audio.len();
        self.append(&audio)
    }

    fn finalize(&mut self) -> Vec<Message> {
        self.commit()
    }

    fn end(&mut self) -> Vec<Message> {
        self.ending = true;
        self.commit()
    }

    fn read(&mut self, text: &str) -> Vec<Read> {
        match serde_json::from_str(text) {
            Ok(event) => self.event(event),
            Err(_) => vec![Read::Strange],
        }
    }

    fn scrub(&self, text: String) -> String {
        self.named.scrub(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent::stt::tests::{context, heard, named, said};

    fn realtime() -> Realtime {
        let mut realtime = Realtime::new(&context(), named("openai:gpt-realtime-whisper?language=en-GB&delay=low"));
        realtime.open();
        realtime
    }

    fn completed(item: &str, text: &str) -> String {
        json!({"type": "conversation.item.input_audio_transcription.completed", "item_id": item, "transcript": text})
            .to_string()
    }

    #[test]
    fn a_session_is_for_transcription_of_telephone_audio() {
        let mut realtime = realtime();
        let (url, headers) = realtime.target();
        assert_eq!(url.as_str(), "wss://api.openai.com/v1/realtime?intent=transcription");
        assert_eq!(headers["authorization"], "Bearer hunter2");
        let update: Value = serde_json::from_str(&said(&realtime.open())[0]).unwrap();
        let input = &update["session"]["audio"]["input"];
        assert_eq!(
            (&update["session"]["type"], &input["format"]),
            (&json!("transcription"), &json!({"type": "audio/pcmu"}))
        );
        assert_eq!(input["transcription"], json!({"model": "gpt-realtime-whisper", "language": "en", "delay": "low"}));
        assert!(input["turn_detection"].is_null());
        assert!(serves(&named("openai:gpt-realtime-whisper")) && !serves(&named("openai:whisper-1")));
        assert!(serves(&named("openai:gpt-4o-transcribe?realtime=true")));
    }

    #[test]
    fn a_server_that_takes_no_g711_gets_its_own_rate() {
        let mut realtime = realtime();
        let error = json!({"type": "error", "error": {"type": "invalid_request_error", "param": "session.audio.input.format", "message": "24 kHz only"}}).to_string();
        assert!(matches!(realtime.read(&error)[..], [Read::Fatal { again: true, .. }]));
        let update: Value = serde_json::from_str(&said(&realtime.open())[0]).unwrap();
        assert_eq!(update["session"]["audio"]["input"]["format"], json!({"type": "audio/pcm", "rate": 24_000}));
        let audio: Value = serde_json::from_str(&realtime.audio(Bytes::from(vec![0xFF; 800])).to_string()).unwrap();
        let bytes = BASE64_STANDARD.decode(audio["audio"].as_str().unwrap()).unwrap();
        assert!((4_600..=4_800).contains(&bytes.len()), "{}", bytes.len());
        assert!(matches!(realtime.read(&error)[..], [Read::Fatal { again: false, .. }]));
    }

    #[test]
    fn a_commit_has_always_enough_audio() {
        let mut realtime = realtime();
        assert!(realtime.finalize().is_empty());
        realtime.audio(Bytes::from(vec![0; 160]));
        let said = said(&realtime.finalize());
        let padding: Value = serde_json::from_str(&said[0]).unwrap();
        assert_eq!(BASE64_STANDARD.decode(padding["audio"].as_str().unwrap()).unwrap().len(), 640);
        assert_eq!(said[1], r#"{"type":"input_audio_buffer.commit"}"#);
    }

    #[test]
    fn texts_are_told_in_the_order_in_which_they_were_spoken() {
        let mut realtime = realtime();
        for item in ["a", "b"] {
            heard(&mut realtime, &json!({"type": "input_audio_buffer.committed", "item_id": item}).to_string());
        }
        let delta = json!({"type": "conversation.item.input_audio_transcription.delta", "item_id": "a", "delta": "o"});
        assert_eq!(heard(&mut realtime, &delta.to_string()), ["Partial(\"o\")"]);
        assert_eq!(heard(&mut realtime, &delta.to_string()), ["Partial(\"oo\")"]);
        assert_eq!(heard(&mut realtime, &completed("b", "two")), [""; 0]);
        assert_eq!(heard(&mut realtime, &completed("a", "one")), ["Piece(\" one\")", "Piece(\" two\")"]);
        realtime.end();
        assert_eq!(heard(&mut realtime, &completed("c", "three")), ["Piece(\" three\")", "Done"]);
    }

    proptest! {
        #[test]
        fn any_text_ends(text in any::<String>(), kind in "[a-z_.]{0,40}") {
            let mut realtime = realtime();
            realtime.read(&text);
            realtime.read(&json!({"type": kind, "item_id": text, "delta": text}).to_string());
        }
    }
}
