//! Vosk's server: one's own machine, and no end of turns but ours.

use http::HeaderMap;
use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::{
    Heard,
    dialect::{Dialect, Read, Sends},
};
use crate::agent::{Context, Named};

/// It answers each message: of 20 ms there would be fifty a second.
const FRAMES: usize = 5;
/// The server compares texts byte by byte: blanks belong to it.
const EOF: &str = r#"{"eof" : 1}"#;
/// Not every server knows it: older ones in Python break the connection over it, the one in C++ has no word for it.
const RESET: &str = r#"{"reset" : 1}"#;

/// A connection to the server.
#[derive(Debug)]
pub struct Vosk {
    named: Named,
    sends: Sends,
    /// What ends an utterance.
    last: &'static str,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    partial: Option<String>,
    text: Option<String>,
    alternatives: Vec<Alternative>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Alternative {
    text: String,
}

impl Vosk {
    pub fn new(ctx: &Context, named: Named) -> Self {
        let last = if named.option("finalize") == Some("reset") { RESET } else { EOF };
        Self { named, sends: Sends::linear(ctx).at_least(FRAMES), last }
    }
}

impl Dialect for Vosk {
    fn target(&self) -> (Url, HeaderMap) {
        (self.named.websocket(""), self.named.headers.clone())
    }

    fn sends(&self) -> Sends {
        self.sends
    }

    fn open(&mut self) -> Vec<Message> {
        let mut config = json!({"sample_rate": self.sends.rate.hz()});
        if let Some(phrases) = self.named.option("phrases") {
            let phrases = phrases.split(',').map(str::trim).filter(|phrase| !phrase.is_empty());
            config["phrase_list"] = phrases.collect::<Vec<_>>().into();
        }
        vec![Message::text(json!({"config": config}).to_string())]
    }

    fn finalize(&mut self) -> Vec<Message> {
        vec![Message::text(self.last)]
    }

    fn finalize_ends(&self) -> bool {
        self.last == EOF
    }

    fn end(&mut self) -> Vec<Message> {
        vec![Message::text(EOF)]
    }

    fn read(&mut self, text: &str) -> Vec<Read> {
        let Ok(said) = serde_json::from_str::<Said>(text) else { return vec![Read::Strange] };
        if let Some(partial) = said.partial {
            return vec![Read::Heard(Heard::Partial(partial))];
        }
        let best = said.text.or_else(|| said.alternatives.into_iter().next().map(|best| best.text));
        best.as_deref().and_then(Read::piece).into_iter().collect()
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

    fn vosk() -> Vosk {
        Vosk::new(&context(), named("vosk:ws://127.0.0.1:2700?phrases=yes,%20no"))
    }

    #[test]
    fn the_server_is_spoken_to_byte_by_byte() {
        let mut vosk = vosk();
        assert_eq!(vosk.target().0.as_str(), "ws://127.0.0.1:2700/");
        assert_eq!(said(&vosk.open()), [r#"{"config":{"sample_rate":8000,"phrase_list":["yes","no"]}}"#]);
        assert_eq!((said(&vosk.finalize()), said(&vosk.end())), (vec![EOF.to_owned()], vec![EOF.to_owned()]));
        assert!(vosk.finalize_ends());
        let mut vosk = Vosk::new(&context(), named("vosk:?finalize=reset"));
        assert_eq!((said(&vosk.finalize()), vosk.finalize_ends()), (vec![RESET.to_owned()], false));
        assert_eq!(vosk.sends().frame_bytes() * vosk.sends().frames, 1_600);
    }

    #[test]
    fn replies_are_pretty_printed_json() {
        let mut vosk = vosk();
        assert_eq!(heard(&mut vosk, "{\n  \"partial\" : \"one\"\n}"), ["Partial(\"one\")"]);
        assert_eq!(heard(&mut vosk, "{\n  \"text\" : \"one two\", \"result\": []\n}"), ["Piece(\" one two\")"]);
        assert_eq!(heard(&mut vosk, r#"{"text":""}"#), [""; 0]);
        assert_eq!(heard(&mut vosk, r#"{"alternatives":[{"text":"a","confidence":3}]}"#), ["Piece(\" a\")"]);
    }

    proptest! {
        #[test]
        fn any_text_ends(text in any::<String>()) {
            vosk().read(&text);
        }
    }
}
