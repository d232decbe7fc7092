//! AssemblyAI streaming v3: the model says when a turn is over; errors come after the handshake.

use std::time::Duration;

use http::{HeaderMap, header::AUTHORIZATION};
use serde::Deserialize;
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::{
    Heard,
    dialect::{Dialect, Read, Sends},
};
use crate::agent::{Context, Named, websocket::escaped};

/// Messages of less than 50 ms are refused.
const FRAMES: usize = 3;
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A connection to `/v3/ws`.
#[derive(Debug)]
pub struct AssemblyAi {
    named: Named,
    sends: Sends,
    /// The turn that was ended last: some models tell it again with punctuation.
    ended: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    turn_order: u64,
    end_of_turn: bool,
    transcript: String,
    error_code: Option<u16>,
    error: String,
    warning: String,
}

impl AssemblyAi {
    pub fn new(ctx: &Context, named: Named) -> Self {
        let sends = Sends { padded: true, ..Sends::g711(ctx).at_least(FRAMES) };
        Self { named, sends, ended: None }
    }

    fn turn(&mut self, said: &Said) -> Vec<Read> {
        if self.ended.is_some_and(|ended| said.turn_order <= ended) {
            return Vec::new();
        }
        if !said.end_of_turn {
            let text = said.transcript.trim();
            let partial = (!text.is_empty()).then(|| Read::Heard(Heard::Partial(text.to_owned())));
            return partial.into_iter().collect();
        }
        self.ended = Some(said.turn_order);
        Read::piece(&said.transcript).into_iter().chain([Read::Heard(Heard::EndOfTurn)]).collect()
    }
}

impl Dialect for AssemblyAi {
    fn target(&self) -> (Url, HeaderMap) {
        let mut url = self.named.websocket("/v3/ws");
        let mut query = url.query_pairs_mut();
        query.append_pair("sample_rate", &self.sends.rate.hz().to_string());
        query.append_pair("encoding", self.sends.name("pcm_mulaw", "pcm_s16le"));
        query.append_pair("speech_model", &self.named.model);
        query.append_pair("format_turns", "false");
        query.extend_pairs(&self.named.options);
        drop(query);
        (url, self.named.signed(AUTHORIZATION, ""))
    }

    fn sends(&self) -> Sends {
        self.sends
    }

    fn open(&mut self) -> Vec<Message> {
        self.ended = None;
        Vec::new()
    }

    fn waits(&self) -> bool {
        true
    }

    fn finalize(&mut self) -> Vec<Message> {
        vec![Message::text(r#"{"type":"ForceEndpoint"}"#)]
    }

    fn idle(&mut self) -> Option<(Duration, Message)> {
        Some((KEEP_ALIVE, Message::text(r#"{"type":"KeepAlive"}"#)))
    }

    fn end(&mut self) -> Vec<Message> {
        vec![Message::text(r#"{"type":"Terminate"}"#)]
    }

    fn read(&mut self, text: &str) -> Vec<Read> {
        let Ok(said) = serde_json::from_str::<Said>(text) else { return vec![Read::Strange] };
        match said.kind.as_str() {
            "Begin" => vec![Read::Ready],
            "SpeechStarted" => vec![Read::Heard(Heard::Started)],
            "Turn" => self.turn(&said),
            "Warning" => vec![Read::Trouble(format!("it warns: \"{}\"", escaped(&said.warning)))],
            "Error" => {
                let code = said.error_code.unwrap_or_default();
                let what = format!("it reports {code}: \"{}\"", escaped(&said.error));
                vec![Read::Fatal { what, again: !self.is_final(code) }]
            }
            "Termination" => vec![Read::Done],
            _ => Vec::new(),
        }
    }

    fn is_final(&self, code: u16) -> bool {
        // who we are, what we sent, what we owe; not how busy it is
        matches!(code, 1008 | 3006 | 3007 | 4001 | 4002 | 4100 | 4101)
    }

    fn scrub(&self, text: String) -> String {
        self.named.scrub(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::agent::stt::tests::{context, heard, named};

    fn assemblyai() -> AssemblyAi {
        AssemblyAi::new(&context(), named("assemblyai:?min_turn_silence=300"))
    }

    #[test]
    fn the_handshake_has_a_bare_key() {
        let (url, headers) = assemblyai().target();
        assert_eq!(
            url.as_str(),
            "wss://streaming.assemblyai.com/v3/ws?sample_rate=8000&encoding=pcm_mulaw&speech_model=universal-streaming-english\
             &format_turns=false&min_turn_silence=300"
        );
        assert_eq!(headers["authorization"], "hunter2");
        assert!(assemblyai().sends().padded && assemblyai().sends().frames * 20 >= 50);
    }

    #[test]
    fn a_turn_that_comes_twice_counts_once() {
        let mut service = assemblyai();
        let turn = |text: &str, end: bool, formatted: bool| {
            json!({"type": "Turn", "turn_order": 2, "turn_is_formatted": formatted, "end_of_turn": end, "transcript": text}).to_string()
        };
        assert_eq!(heard(&mut service, r#"{"type":"Begin","id":"x","expires_at":1}"#), ["Ready"]);
        assert_eq!(heard(&mut service, &turn("i want", false, false)), ["Partial(\"i want\")"]);
        assert_eq!(heard(&mut service, &turn("i want one", true, false)), ["Piece(\" i want one\")", "EndOfTurn"]);
        assert_eq!(heard(&mut service, &turn("I want one.", true, true)), [""; 0]);
        for (code, wanted) in [(3006, false), (4001, false), (1008, false), (3005, true), (1013, true), (3009, true)] {
            let error = json!({"type": "Error", "error_code": code, "error": "why"}).to_string();
            let reads = service.read(&error);
            assert!(matches!(&reads[..], [Read::Fatal { again, .. }] if *again == wanted), "{code}");
        }
    }

    proptest! {
        #[test]
        fn any_text_ends(text in any::<String>()) {
            assemblyai().read(&text);
        }
    }
}
