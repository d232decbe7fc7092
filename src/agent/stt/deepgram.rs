//! Deepgram, listen v1 (nova models).

use std::time::Duration;

use http::{HeaderMap, header::AUTHORIZATION};
use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::{
    Heard,
    dialect::{Dialect, Read, Sends},
};
use crate::agent::{Context, Named, websocket::escaped};

/// It gives up after 10 s without audio or a word.
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// What is asked for unless an option says otherwise.
const USUAL: [(&str, &str); 5] = [
    ("interim_results", "true"),
    ("vad_events", "true"),
    ("endpointing", "300"),
    ("utterance_end_ms", "1000"),
    ("smart_format", "true"),
];

/// A connection to `/v1/listen`.
#[derive(Debug)]
pub struct Listen {
    named: Named,
    sends: Sends,
    /// Where the last final result began and how long it was: some come twice.
    last: Option<(f64, f64)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    start: f64,
    duration: f64,
    is_final: bool,
    channel: serde_json::Value,
    description: String,
    message: String,
}

impl Listen {
    pub fn new(ctx: &Context, named: Named) -> Self {
        Self { named, sends: Sends::g711(ctx), last: None }
    }

    fn result(&mut self, said: &Said) -> Option<Read> {
        let text = said.channel.pointer("/alternatives/0/transcript").and_then(serde_json::Value::as_str)?;
        if !said.is_final {
            return (!text.is_empty()).then(|| Read::Heard(Heard::Partial(text.to_owned())));
        }
        let place = Some((said.start, said.duration));
        // one that says nothing answers Finalize, and may have the place of the last
        if text.is_empty() || (self.last == place && said.duration > 0.0) {
            return None;
        }
        self.last = place;
        Read::piece(text)
    }
}

impl Dialect for Listen {
    fn target(&self) -> (Url, HeaderMap) {
        let mut url = self.named.websocket("/v1/listen");
        let mut query = url.query_pairs_mut();
        query.append_pair("model", &self.named.model);
        query.append_pair("encoding", self.sends.name("mulaw", "linear16"));
        query.append_pair("sample_rate", &self.sends.rate.hz().to_string());
        query.append_pair("channels", "1");
        for (name, value) in USUAL {
            if self.named.option(name).is_none() {
                query.append_pair(name, value);
            }
        }
        query.extend_pairs(&self.named.options);
        drop(query);
        (url, self.named.signed(AUTHORIZATION, "Token "))
    }

    fn sends(&self) -> Sends {
        self.sends
    }

    fn open(&mut self) -> Vec<Message> {
        self.last = None;
        Vec::new()
    }

    fn finalize(&mut self) -> Vec<Message> {
        vec![say("Finalize")]
    }

    fn idle(&mut self) -> Option<(Duration, Message)> {
        Some((KEEP_ALIVE, say("KeepAlive")))
    }

    fn end(&mut self) -> Vec<Message> {
        vec![say("CloseStream")]
    }

    fn read(&mut self, text: &str) -> Vec<Read> {
        let Ok(said) = serde_json::from_str::<Said>(text) else { return vec![Read::Strange] };
        let read = match said.kind.as_str() {
            "Results" => self.result(&said),
            "SpeechStarted" => Some(Read::Heard(Heard::Started)),
            // a second without words: whatever our own ears say
            "UtteranceEnd" => Some(Read::Heard(Heard::EndOfTurn)),
            "Error" => {
                let words = escaped(format!("{} {}", said.description, said.message).trim());
                Some(Read::Trouble(format!("it reports an error: \"{words}\"")))
            }
            _ => None,
        };
        read.into_iter().collect()
    }

    fn scrub(&self, text: String) -> String {
        self.named.scrub(text)
    }
}

fn say(kind: &str) -> Message {
    Message::text(json!({"type": kind}).to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent::stt::tests::{context, heard, named};

    fn listen() -> Listen {
        Listen::new(&context(), named("deepgram:nova-3?language=en&endpointing=200&keyterm=a%20b&keyterm=c"))
    }

    #[test]
    fn the_handshake_asks_for_telephone_audio_and_hides_the_key() {
        let (url, headers) = listen().target();
        assert_eq!(
            url.as_str(),
            "wss://api.deepgram.com/v1/listen?model=nova-3&encoding=mulaw&sample_rate=8000&channels=1&interim_results=true\
             &vad_events=true&utterance_end_ms=1000&smart_format=true&language=en&endpointing=200&keyterm=a+b&keyterm=c"
        );
        assert_eq!(headers["authorization"], "Token hunter2");
        assert!(!format!("{headers:?} {:?}", listen()).contains("hunter2"));
        assert_eq!(listen().scrub("bad key hunter2!".to_owned()), "bad key ***!");
    }

    #[test]
    fn results_become_words_once() {
        let mut listen = listen();
        let result = |text: &str, start: f64, is_final: bool| {
            json!({"type": "Results", "channel_index": [0, 1], "start": start, "duration": 1.2, "is_final": is_final, "new": 1,
                   "channel": {"alternatives": [{"transcript": text, "confidence": 0.9, "words": []}]}})
            .to_string()
        };
        assert_eq!(heard(&mut listen, &result("hel", 0.0, false)), ["Partial(\"hel\")"]);
        assert_eq!(heard(&mut listen, &result("hello", 0.0, true)), ["Piece(\" hello\")"]);
        assert_eq!(heard(&mut listen, &result("hello", 0.0, true)), [""; 0]);
        assert_eq!(heard(&mut listen, &result("", 1.2, true)), [""; 0]);
        assert_eq!(heard(&mut listen, &result("there", 1.2, true)), ["Piece(\" there\")"]);
        assert_eq!(heard(&mut listen, r#"{"type":"SpeechStarted","channel":[0],"timestamp":1}"#), ["Started"]);
        assert_eq!(heard(&mut listen, r#"{"type":"UtteranceEnd","last_word_end":2.4}"#), ["EndOfTurn"]);
        assert_eq!(heard(&mut listen, r#"{"type":"Metadata"}"#), [""; 0]);
        assert!(matches!(listen.read("{").as_slice(), [Read::Strange]));
    }

    proptest! {
        #[test]
        fn any_text_ends(text in any::<String>()) {
            listen().read(&text);
        }
    }
}
