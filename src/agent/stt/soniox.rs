//! Soniox.

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
use crate::agent::{Context, Named, tts::number, websocket::escaped};

/// It gives up after 20 s without audio or a word.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A connection to `/transcribe-websocket`.
#[derive(Debug)]
pub struct Soniox {
    named: Named,
    sends: Sends,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    tokens: Vec<Token>,
    finished: bool,
    error_code: Option<u16>,
    error_message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Token {
    text: String,
    is_final: bool,
}

impl Soniox {
    pub fn new(ctx: &Context, named: Named) -> Self {
        Self { named, sends: Sends::g711(ctx) }
    }
}

impl Dialect for Soniox {
    fn target(&self) -> (Url, HeaderMap) {
        (self.named.websocket("/transcribe-websocket"), self.named.signed(AUTHORIZATION, "Bearer "))
    }

    fn sends(&self) -> Sends {
        self.sends
    }

    fn open(&mut self) -> Vec<Message> {
        let mut config = json!({
            "model": self.named.model,
            "audio_format": self.sends.name("mulaw", "pcm_s16le"),
            "num_channels": 1,
            "sample_rate": self.sends.rate.hz(),
            "enable_endpoint_detection": true,
        });
        if let Some(languages) = self.named.option("language") {
            config["language_hints"] = languages.split(',').map(str::trim).collect::<Vec<_>>().into();
        }
        for name in ["max_endpoint_delay_ms", "endpoint_sensitivity"] {
            if let Some(value) = self.named.option(name).and_then(number) {
                config[name] = value;
            }
        }
        if let Some(reference) = self.named.option("client_reference_id") {
            config["client_reference_id"] = reference.into();
        }
        vec![Message::text(config.to_string())]
    }

    fn finalize(&mut self) -> Vec<Message> {
        vec![Message::text(r#"{"type":"finalize"}"#)]
    }

    fn idle(&mut self) -> Option<(Duration, Message)> {
        Some((KEEP_ALIVE, Message::text(r#"{"type":"keepalive"}"#)))
    }

    fn end(&mut self) -> Vec<Message> {
        vec![Message::text("")]
    }

    fn read(&mut self, text: &str) -> Vec<Read> {
        let Ok(said) = serde_json::from_str::<Said>(text) else { return vec![Read::Strange] };
        if let Some(code) = said.error_code {
            let what = format!("it reports {code}: \"{}\"", escaped(&said.error_message));
            // numbers as HTTP has them
            let again = !matches!(code, 400..=404);
            return vec![Read::Fatal { what, again }];
        }
        let (mut words, mut maybe, mut reads) = (String::new(), String::new(), Vec::new());
        for token in said.tokens {
            match (token.text.as_str(), token.is_final) {
                ("<end>", true) => {
                    // as it is: a word may come in several tokens
                    if !words.is_empty() {
                        reads.push(Read::Heard(Heard::Piece(std::mem::take(&mut words))));
                    }
                    reads.push(Read::Heard(Heard::EndOfTurn));
                }
                ("<fin>" | "<end>", _) => {}
                (text, true) => words.push_str(text),
                (text, false) => maybe.push_str(text),
            }
        }
        if !words.is_empty() {
            reads.push(Read::Heard(Heard::Piece(words)));
        }
        if !maybe.trim().is_empty() {
            reads.push(Read::Heard(Heard::Partial(maybe)));
        }
        if said.finished {
            reads.push(Read::Done);
        }
        reads
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

    fn soniox() -> Soniox {
        Soniox::new(&context(), named("soniox:stt-rt-v5?language=en,de&max_endpoint_delay_ms=900"))
    }

    #[test]
    fn the_first_text_says_what_comes() {
        let mut soniox = soniox();
        let (url, headers) = soniox.target();
        assert_eq!(url.as_str(), "wss://stt-rt.soniox.com/transcribe-websocket");
        assert_eq!(headers["authorization"], "Bearer hunter2");
        assert_eq!(
            said(&soniox.open()),
            [
                r#"{"model":"stt-rt-v5","audio_format":"mulaw","num_channels":1,"sample_rate":8000,"enable_endpoint_detection":true,"language_hints":["en","de"],"max_endpoint_delay_ms":900}"#
            ]
        );
        assert_eq!(said(&soniox.end()), [""]);
    }

    #[test]
    fn final_tokens_come_once_and_others_may_change() {
        let mut soniox = soniox();
        let tokens = r#"{"tokens":[{"text":" hel","is_final":true},{"text":"lo","is_final":true,"x":1},{"text":" th","is_final":false}],"total_audio_proc_ms":3}"#;
        assert_eq!(heard(&mut soniox, tokens), ["Piece(\" hello\")", "Partial(\" th\")"]);
        let end = r#"{"tokens":[{"text":" there","is_final":true},{"text":"<end>","is_final":true}]}"#;
        assert_eq!(heard(&mut soniox, end), ["Piece(\" there\")", "EndOfTurn"]);
        assert_eq!(heard(&mut soniox, r#"{"tokens":[{"text":"<fin>","is_final":true}]}"#), [""; 0]);
        assert_eq!(heard(&mut soniox, r#"{"tokens":[],"finished":true}"#), ["Done"]);
        let refused = soniox.read(r#"{"error_code":402,"error_message":"no credit"}"#);
        assert!(matches!(&refused[..], [Read::Fatal { again: false, what }] if what.contains("no credit")));
        let busy = soniox.read(r#"{"error_code":503,"error_message":"later"}"#);
        assert!(matches!(&busy[..], [Read::Fatal { again: true, .. }]));
    }

    proptest! {
        #[test]
        fn any_text_ends(text in any::<String>()) {
            soniox().read(&text);
        }
    }
}
