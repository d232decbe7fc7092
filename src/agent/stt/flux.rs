//! Deepgram Flux, listen v2: the model itself says when the caller's turn is over.

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

/// It wants 80 ms at a time.
const FRAMES: usize = 4;
/// It has no keep-alive: without audio a turn that has begun would never end, so it hears silence.
const SILENCE: Duration = Duration::from_millis(500);
/// Options that are listen v1's.
const LISTEN_ONLY: [&str; 9] = [
    "language",
    "endpointing",
    "utterance_end_ms",
    "smart_format",
    "punctuate",
    "redact",
    "replace",
    "search",
    "profanity_filter",
];

/// A connection to `/v2/listen`.
#[derive(Debug)]
pub struct Flux {
    named: Named,
    sends: Sends,
    /// The turn that was ended last.
    ended: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    event: String,
    turn_index: u64,
    transcript: String,
    code: String,
    description: String,
}

impl Said {
    fn complaint(&self) -> String {
        format!("it reports {}: \"{}\"", escaped(&self.code), escaped(&self.description))
    }
}

impl Flux {
    pub fn new(ctx: &Context, named: Named) -> Self {
        Self { named, sends: Sends::g711(ctx).at_least(FRAMES), ended: None }
    }

    fn turn(&mut self, said: &Said) -> Vec<Read> {
        if self.ended == Some(said.turn_index) {
            return Vec::new();
        }
        let partial = || {
            let text = said.transcript.trim();
            (!text.is_empty()).then(|| Read::Heard(Heard::Partial(text.to_owned())))
        };
        match said.event.as_str() {
            "StartOfTurn" => [Read::Heard(Heard::Started)].into_iter().chain(partial()).collect(),
            "EagerEndOfTurn" => partial().into_iter().chain([Read::Heard(Heard::Likely)]).collect(),
            "EndOfTurn" => {
                self.ended = Some(said.turn_index);
                Read::piece(&said.transcript).into_iter().chain([Read::Heard(Heard::EndOfTurn)]).collect()
            }
            // Update, TurnResumed, and what may come
            _ => partial().into_iter().collect(),
        }
    }
}

impl Dialect for Flux {
    fn target(&self) -> (Url, HeaderMap) {
        let mut url = self.named.websocket("/v2/listen");
        let mut query = url.query_pairs_mut();
        query.append_pair("model", &self.named.model);
        query.append_pair("encoding", self.sends.name("mulaw", "linear16"));
        query.append_pair("sample_rate", &self.sends.rate.hz().to_string());
        query.extend_pairs(self.named.options.iter().filter(|(name, _)| !LISTEN_ONLY.contains(&name.as_str())));
        drop(query);
        (url, self.named.signed(AUTHORIZATION, "Token "))
    }

    fn sends(&self) -> Sends {
        self.sends
    }

    fn open(&mut self) -> Vec<Message> {
        self.ended = None;
        Vec::new()
    }

    fn idle(&mut self) -> Option<(Duration, Message)> {
        let frames = usize::try_from(SILENCE.as_millis() / 20).unwrap_or_default();
        Some((SILENCE, Message::binary(vec![self.sends.silence(); self.sends.frame_bytes() * frames])))
    }

    fn end(&mut self) -> Vec<Message> {
        vec![Message::text(json!({"type": "CloseStream"}).to_string())]
    }

    fn read(&mut self, text: &str) -> Vec<Read> {
        let Ok(said) = serde_json::from_str::<Said>(text) else { return vec![Read::Strange] };
        match said.kind.as_str() {
            "TurnInfo" => self.turn(&said),
            "Warning" | "ConfigureFailure" => vec![Read::Trouble(said.complaint())],
            "Error" => vec![Read::Fatal { what: said.complaint(), again: true }],
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

    use super::*;
    use crate::agent::stt::tests::{context, heard, named};

    fn flux() -> Flux {
        Flux::new(&context(), named("deepgram:flux-general-en?eot_threshold=0.8&language=en"))
    }

    #[test]
    fn the_handshake_has_only_what_flux_knows() {
        let (url, _) = flux().target();
        assert_eq!(
            url.as_str(),
            "wss://api.deepgram.com/v2/listen?model=flux-general-en&encoding=mulaw&sample_rate=8000&eot_threshold=0.8"
        );
        assert_eq!((flux().sends().frames, flux().idle().map(|(_, m)| m.len())), (4, Some(4_000)));
    }

    #[test]
    fn turns_end_when_the_model_says_so_and_once() {
        let mut flux = flux();
        let turn = |event: &str, text: &str| {
            json!({"type": "TurnInfo", "event": event, "turn_index": 3, "transcript": text, "end_of_turn_confidence": 0.4})
                .to_string()
        };
        assert_eq!(heard(&mut flux, &turn("StartOfTurn", "I")), ["Started", "Partial(\"I\")"]);
        assert_eq!(heard(&mut flux, &turn("Update", "I want")), ["Partial(\"I want\")"]);
        assert_eq!(heard(&mut flux, &turn("EagerEndOfTurn", "I want one")), ["Partial(\"I want one\")", "Likely"]);
        assert_eq!(heard(&mut flux, &turn("TurnResumed", "I want one")), ["Partial(\"I want one\")"]);
        assert_eq!(heard(&mut flux, &turn("EndOfTurn", "I want one.")), ["Piece(\" I want one.\")", "EndOfTurn"]);
        assert_eq!(heard(&mut flux, &turn("EndOfTurn", "I want one.")), [""; 0]);
        assert_eq!(heard(&mut flux, r#"{"type":"Connected","request_id":"x"}"#), [""; 0]);
        let [Read::Fatal { what, again: true }] = &flux.read(r#"{"type":"Error","code":"X","description":"a\nb"}"#)[..]
        else {
            panic!()
        };
        assert_eq!(what, "it reports X: \"a\\nb\"");
    }

    proptest! {
        #[test]
        fn any_text_ends(text in any::<String>()) {
            flux().read(&text);
        }
    }
}
