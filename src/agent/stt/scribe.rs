//! ElevenLabs Scribe, realtime: we say when an utterance is over.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::{
    Heard,
    dialect::{Dialect, Read, Sends},
};
use crate::agent::{Context, Named, websocket::escaped};

/// A commit with less than 300 ms since the last one ends the session.
const LEAST: usize = 15;
/// Audio in one message, in frames of 20 ms.
const FRAMES: usize = 3;

/// A connection to `/v1/speech-to-text/realtime`.
#[derive(Debug)]
pub struct Scribe {
    named: Named,
    sends: Sends,
    /// Bytes of audio since the last commit.
    uncommitted: usize,
    ending: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    message_type: String,
    text: String,
    error: String,
}

impl Scribe {
    pub fn new(ctx: &Context, named: Named) -> Self {
        Self { named, sends: Sends::g711(ctx).at_least(FRAMES), uncommitted: 0, ending: false }
    }

    fn chunk(&self, audio: &[u8], commit: bool) -> Message {
        let chunk = json!({
            "message_type": "input_audio_chunk",
            "audio_base_64": BASE64_STANDARD.encode(audio),
            "commit": commit,
            "sample_rate": self.sends.rate.hz(),
        });
        Message::text(chunk.to_string())
    }

    fn commit(&mut self) -> Vec<Message> {
        if self.uncommitted == 0 {
            return Vec::new();
        }
        let missing = (self.sends.frame_bytes() * LEAST).saturating_sub(self.uncommitted);
        self.uncommitted = 0;
        vec![self.chunk(&vec![self.sends.silence(); missing], true)]
    }
}

impl Dialect for Scribe {
    fn target(&self) -> (Url, HeaderMap) {
        let mut url = self.named.websocket("/v1/speech-to-text/realtime");
        let mut query = url.query_pairs_mut();
        query.append_pair("model_id", &self.named.model);
        let wide = if self.sends.rate.hz() == 8_000 { "pcm_8000" } else { "pcm_16000" };
        query.append_pair("audio_format", self.sends.name("ulaw_8000", wide));
        query.append_pair("commit_strategy", "manual");
        for (name, value) in &self.named.options {
            query.append_pair(if name == "language" { "language_code" } else { name }, value);
        }
        drop(query);
        (url, self.named.signed(HeaderName::from_static("xi-api-key"), ""))
    }

    fn sends(&self) -> Sends {
        self.sends
    }

    fn open(&mut self) -> Vec<Message> {
        (self.uncommitted, self.ending) = (0, false);
        Vec::new()
    }

    fn waits(&self) -> bool {
        true
    }

    fn audio(&mut self, audio: Bytes) -> Message {
        self.uncommitted += audio.len();
        self.chunk(&audio, false)
    }

    fn finalize(&mut self) -> Vec<Message> {
        self.commit()
    }

    fn end(&mut self) -> Vec<Message> {
        self.ending = true;
        self.commit()
    }

    fn read(&mut self, text: &str) -> Vec<Read> {
        let Ok(said) = serde_json::from_str::<Said>(text) else { return vec![Read::Strange] };
        let complaint = || format!("it reports {}: \"{}\"", escaped(&said.message_type), escaped(&said.error));
        match said.message_type.as_str() {
            "session_started" => vec![Read::Ready],
            "partial_transcript" if !said.text.trim().is_empty() => vec![Read::Heard(Heard::Partial(said.text))],
            // the same with times comes besides
            "committed_transcript" => {
                let done = self.ending.then_some(Read::Done);
                Read::piece(&said.text).into_iter().chain(done).collect()
            }
            "warning" | "commit_throttled" | "insufficient_audio_activity" => vec![Read::Trouble(complaint())],
            "auth_error" | "quota_exceeded" | "input_error" | "invalid_request" | "unaccepted_terms" => {
                vec![Read::Fatal { what: complaint(), again: false }]
            }
            kind if kind == "error" || kind.ends_with("_error") || !said.error.is_empty() => {
                vec![Read::Fatal { what: complaint(), again: true }]
            }
            _ => Vec::new(),
        }
    }

    fn scrub(&self, text: String) -> String {
        self.named.scrub(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::agent::stt::tests::{context, heard, named, said};

    fn scribe() -> Scribe {
        Scribe::new(&context(), named("elevenlabs:?language=en"))
    }

    #[test]
    fn the_handshake_asks_for_telephone_audio() {
        let (url, headers) = scribe().target();
        assert_eq!(
            url.as_str(),
            "wss://api.elevenlabs.io/v1/speech-to-text/realtime?model_id=scribe_v2_realtime&audio_format=ulaw_8000\
             &commit_strategy=manual&language_code=en"
        );
        assert_eq!(headers["xi-api-key"], "hunter2");
    }

    #[test]
    fn a_commit_has_always_enough_audio() {
        let mut scribe = scribe();
        assert!(scribe.finalize().is_empty());
        scribe.audio(Bytes::from(vec![0; 480]));
        let commit: Value = serde_json::from_str(&said(&scribe.finalize())[0]).unwrap();
        let padding = BASE64_STANDARD.decode(commit["audio_base_64"].as_str().unwrap()).unwrap();
        assert_eq!((padding.len() + 480, &commit["commit"]), (2_400, &json!(true)));
        assert!(scribe.finalize().is_empty());
    }

    #[test]
    fn a_transcript_that_comes_with_times_too_counts_once() {
        let mut scribe = scribe();
        assert_eq!(heard(&mut scribe, r#"{"message_type":"session_started","session_id":"x"}"#), ["Ready"]);
        assert_eq!(heard(&mut scribe, r#"{"message_type":"partial_transcript","text":"hel"}"#), ["Partial(\"hel\")"]);
        assert_eq!(
            heard(&mut scribe, r#"{"message_type":"committed_transcript","text":"hello"}"#),
            ["Piece(\" hello\")"]
        );
        let timed = r#"{"message_type":"committed_transcript_with_timestamps","text":"hello","words":[]}"#;
        assert_eq!(heard(&mut scribe, timed), [""; 0]);
        for (kind, wanted) in
            [("auth_error", false), ("quota_exceeded", false), ("rate_limited", true), ("transcriber_error", true)]
        {
            let error = json!({"message_type": kind, "error": "why"}).to_string();
            let reads = scribe.read(&error);
            assert!(matches!(&reads[..], [Read::Fatal { again, .. }] if *again == wanted), "{kind}");
        }
    }

    proptest! {
        #[test]
        fn any_text_ends(text in any::<String>()) {
            scribe().read(&text);
        }
    }
}
