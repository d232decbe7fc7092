//! Rime, ws3: one connection, a context for each sentence.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, header::AUTHORIZATION};
use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::{
    cartesia::Times,
    dialect::{Dialect, Part, rate_for},
};
use crate::agent::{Context, Named, websocket::escaped};

/// A connection to `/ws3`.
#[derive(Debug)]
pub struct Rime {
    named: Named,
    rate: u32,
    current: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "contextId")]
    context: Option<String>,
    data: String,
    word_timestamps: Times,
    message: String,
}

impl Rime {
    pub const fn new(ctx: &Context, named: Named) -> Self {
        Self { named, rate: rate_for(ctx.rate.hz()), current: None }
    }
}

impl Dialect for Rime {
    fn target(&self) -> (Url, HeaderMap) {
        let mut url = self.named.websocket("/ws3");
        let mut query = url.query_pairs_mut();
        query.append_pair("speaker", self.named.option("voice").unwrap_or_default());
        query.append_pair("modelId", &self.named.model);
        query.append_pair("audioFormat", "pcm");
        query.append_pair("samplingRate", &self.rate.to_string());
        query.append_pair("lang", self.named.option("language").unwrap_or("eng"));
        query.append_pair("segment", "immediate");
        drop(query);
        (url, self.named.signed(AUTHORIZATION, "Bearer "))
    }

    fn rate(&self) -> u32 {
        self.rate
    }

    fn open(&mut self) -> Vec<Message> {
        self.current = None;
        Vec::new()
    }

    fn speak(&mut self, id: u64, text: &str) -> Vec<Message> {
        self.current = Some(id);
        let speak = json!({"text": text, "contextId": format!("c{id}")});
        [speak, json!({"operation": "flush"})].map(|message| Message::text(message.to_string())).into()
    }

    fn cancel(&mut self, _id: u64) -> Vec<Message> {
        self.current = None;
        vec![Message::text(json!({"operation": "clear"}).to_string())]
    }

    fn end(&mut self) -> Vec<Message> {
        vec![Message::text(json!({"operation": "eos"}).to_string())]
    }

    fn read(&mut self, text: &str) -> Vec<Part> {
        let Ok(said) = serde_json::from_str::<Said>(text) else { return Vec::new() };
        let Some(id) = self.current else { return Vec::new() };
        let ours = |context: &String| context.strip_prefix('c').and_then(|n| n.parse().ok()) == Some(id);
        if said.context.as_ref().is_some_and(|context| !ours(context)) {
            return Vec::new();
        }
        match said.kind.as_str() {
            "chunk" => match BASE64_STANDARD.decode(&said.data) {
                Ok(audio) => vec![Part::Audio(audio.into())],
                Err(_) => vec![Part::Error("it sent audio that is no base64".to_owned())],
            },
            "timestamps" => vec![Part::Words(said.word_timestamps.words())],
            "done" => {
                self.current = None;
                vec![Part::End]
            }
            "error" => vec![Part::Error(format!("it reports an error: \"{}\"", escaped(&said.message)))],
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
    use crate::agent::tts::tests::{context, named, said};

    fn rime() -> Rime {
        Rime::new(&context(), named("rime:mistv2?voice=cove"))
    }

    #[test]
    fn a_sentence_is_a_context() {
        let mut rime = rime();
        assert_eq!(
            rime.target().0.as_str(),
            "wss://users-ws.rime.ai/ws3?speaker=cove&modelId=mistv2&audioFormat=pcm&samplingRate=8000&lang=eng&segment=immediate"
        );
        assert_eq!(said(&rime.speak(1, "Hi.")), [r#"{"text":"Hi.","contextId":"c1"}"#, r#"{"operation":"flush"}"#]);
        assert_eq!(rime.read(r#"{"type":"chunk","data":"AQI=","contextId":"c1"}"#), [Part::Audio(vec![1, 2].into())]);
        assert_eq!(rime.read(r#"{"type":"chunk","data":"AQI=","contextId":"c0"}"#), []);
        assert_eq!(rime.read(r#"{"type":"done","done":true,"contextId":"c1"}"#), [Part::End]);
        rime.speak(2, "Ho.");
        assert_eq!(said(&rime.cancel(2)), [r#"{"operation":"clear"}"#]);
        assert_eq!(rime.read(r#"{"type":"chunk","data":"AQI=","contextId":"c2"}"#), []);
    }

    proptest! {
        #[test]
        fn any_text_ends(text in any::<String>()) {
            rime().read(&text);
        }
    }
}
