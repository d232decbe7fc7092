//! Deepgram Aura, speak v1.

use bytes::Bytes;
use http::{HeaderMap, header::AUTHORIZATION};
use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::dialect::{Dialect, Part, rate_for};
use crate::agent::{Context, Named, websocket::escaped};

/// Longest text that it takes at once, in characters.
const MAX_TEXT: usize = 2_000;

/// A connection to `/v1/speak`. Its audio has no name: what comes between `Clear` and `Cleared` is of a sentence that was cancelled.
#[derive(Debug)]
pub struct Aura {
    named: Named,
    rate: u32,
    speaking: bool,
    /// How many `Cleared` have still to come.
    clearing: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    code: String,
    err_code: String,
    description: String,
    message: String,
}

impl Aura {
    pub const fn new(ctx: &Context, named: Named) -> Self {
        Self { named, rate: rate_for(ctx.rate.hz()), speaking: false, clearing: 0 }
    }
}

impl Dialect for Aura {
    fn target(&self) -> (Url, HeaderMap) {
        let mut url = self.named.websocket("/v1/speak");
        let mut query = url.query_pairs_mut();
        query.append_pair("model", &self.named.model);
        query.append_pair("encoding", "linear16");
        query.append_pair("sample_rate", &self.rate.to_string());
        query.extend_pairs(&self.named.options);
        drop(query);
        (url, self.named.signed(AUTHORIZATION, "Token "))
    }

    fn rate(&self) -> u32 {
        self.rate
    }

    fn open(&mut self) -> Vec<Message> {
        (self.speaking, self.clearing) = (false, 0);
        Vec::new()
    }

    fn speak(&mut self, _id: u64, text: &str) -> Vec<Message> {
        self.speaking = true;
        let text: String = text.chars().take(MAX_TEXT).collect();
        [json!({"type": "Speak", "text": text}), json!({"type": "Flush"})].map(|m| Message::text(m.to_string())).into()
    }

    fn cancel(&mut self, _id: u64) -> Vec<Message> {
        self.speaking = false;
        self.clearing += 1;
        vec![Message::text(json!({"type": "Clear"}).to_string())]
    }

    fn end(&mut self) -> Vec<Message> {
        vec![Message::text(json!({"type": "Close"}).to_string())]
    }

    fn read(&mut self, text: &str) -> Vec<Part> {
        let Ok(said) = serde_json::from_str::<Said>(text) else { return Vec::new() };
        let code = if said.code.is_empty() { &said.err_code } else { &said.code };
        let words = if said.description.is_empty() { &said.message } else { &said.description };
        let complaint = || format!("it reports {}: \"{}\"", escaped(code), escaped(words));
        match said.kind.as_str() {
            "Flushed" if self.clearing == 0 && self.speaking => {
                self.speaking = false;
                vec![Part::End]
            }
            "Cleared" => {
                self.clearing = self.clearing.saturating_sub(1);
                Vec::new()
            }
            "Warning" => {
                tracing::warn!(code = "agent.tts.warning", "speech synthesis: {}", self.scrub(complaint()));
                Vec::new()
            }
            "Error" => vec![Part::Fatal { what: complaint(), again: true }],
            _ => Vec::new(),
        }
    }

    fn audio(&mut self, audio: Bytes) -> Vec<Part> {
        if self.clearing > 0 { Vec::new() } else { vec![Part::Audio(audio)] }
    }

    fn scrub(&self, text: String) -> String {
        self.named.scrub(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent::tts::tests::{context, named, said};

    fn aura() -> Aura {
        Aura::new(&context(), named("deepgram:aura-2-thalia-en?speed=1.1"))
    }

    #[test]
    fn a_sentence_is_spoken_and_flushed() {
        let mut aura = aura();
        let (url, headers) = aura.target();
        assert_eq!(
            url.as_str(),
            "wss://api.deepgram.com/v1/speak?model=aura-2-thalia-en&encoding=linear16&sample_rate=8000&speed=1.1"
        );
        assert_eq!(headers["authorization"], "Token hunter2");
        assert_eq!(said(&aura.speak(1, "Hi.")), ["{\"type\":\"Speak\",\"text\":\"Hi.\"}", "{\"type\":\"Flush\"}"]);
        assert_eq!(aura.audio(Bytes::from_static(b"ab")), [Part::Audio(Bytes::from_static(b"ab"))]);
        assert_eq!(aura.read(r#"{"type":"Flushed","sequence_id":0}"#), [Part::End]);
        assert_eq!(aura.read(r#"{"type":"Flushed","sequence_id":0}"#), []);
    }

    #[test]
    fn audio_of_a_cancelled_sentence_is_thrown_away() {
        let mut aura = aura();
        aura.speak(1, "Hi.");
        assert_eq!(said(&aura.cancel(1)), ["{\"type\":\"Clear\"}"]);
        aura.speak(2, "Ho.");
        assert_eq!(aura.audio(Bytes::from_static(b"ab")), []);
        assert_eq!(aura.read(r#"{"type":"Flushed"}"#), []);
        assert_eq!(aura.read(r#"{"type":"Cleared"}"#), []);
        assert_eq!(aura.audio(Bytes::from_static(b"cd")).len(), 1);
        assert_eq!(aura.read(r#"{"type":"Flushed"}"#), [Part::End]);
    }

    proptest! {
        #[test]
        fn any_text_ends(text in any::<String>()) {
            aura().read(&text);
        }
    }
}
