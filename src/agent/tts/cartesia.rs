//! Cartesia (sonic models), a context for each sentence.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::{
    Word,
    dialect::{Dialect, Part, rate_for},
    number,
};
use crate::agent::{Context, Named, websocket::escaped};

/// Which of its interfaces is meant.
const VERSION: &str = "2026-08-14";

/// A connection to `/tts/websocket`.
#[derive(Debug)]
pub struct Cartesia {
    named: Named,
    rate: u32,
    current: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    context_id: Option<String>,
    data: String,
    word_timestamps: Times,
    status_code: Option<u16>,
    title: String,
    message: String,
}

/// Words with their ends, as several vendors tell them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Times {
    words: Vec<String>,
    end: Vec<f64>,
}

impl Times {
    /// What of it makes sense.
    pub fn words(self) -> Vec<Word> {
        let words = self.words.into_iter().zip(self.end);
        let sane = words.filter(|(text, end)| text.len() <= 200 && (0.0..=3_600.0).contains(end));
        sane.map(|(text, end)| Word { text, end: Duration::from_secs_f64(end) }).collect()
    }
}

impl Cartesia {
    pub const fn new(ctx: &Context, named: Named) -> Self {
        Self { named, rate: rate_for(ctx.rate.hz()), current: None }
    }
}

impl Dialect for Cartesia {
    fn target(&self) -> (Url, HeaderMap) {
        let mut headers = self.named.signed(AUTHORIZATION, "Bearer ");
        headers.entry("cartesia-version").or_insert(HeaderValue::from_static(VERSION));
        (self.named.websocket("/tts/websocket"), headers)
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
        let mut request = json!({
            "model_id": self.named.model,
            "transcript": text,
            "voice": {"mode": "id", "id": self.named.option("voice")},
            "language": self.named.option("language").unwrap_or("en"),
            "context_id": format!("c{id}"),
            "output_format": {"container": "raw", "encoding": "pcm_s16le", "sample_rate": self.rate},
            "continue": false,
            "add_timestamps": true,
            // sentences come whole: there is nothing to wait for
            "max_buffer_delay_ms": 0,
        });
        let mut generation: Map<String, Value> = ["speed", "volume"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), number(self.named.option(name)?)?)))
            .collect();
        if let Some(emotion) = self.named.option("emotion") {
            generation.insert("emotion".to_owned(), emotion.into());
        }
        if !generation.is_empty() {
            request["generation_config"] = generation.into();
        }
        vec![Message::text(request.to_string())]
    }

    fn cancel(&mut self, id: u64) -> Vec<Message> {
        self.current = None;
        vec![Message::text(json!({"context_id": format!("c{id}"), "cancel": true}).to_string())]
    }

    fn read(&mut self, text: &str) -> Vec<Part> {
        let Ok(said) = serde_json::from_str::<Said>(text) else { return Vec::new() };
        let ours = match (&said.context_id, self.current) {
            (Some(context), Some(id)) => context.strip_prefix('c').and_then(|n| n.parse().ok()) == Some(id),
            (Some(_), None) => false,
            (None, _) => true,
        };
        match said.kind.as_str() {
            "error" => {
                let what = format!("it reports {}: \"{}\"", escaped(&said.title), escaped(&said.message));
                match said.status_code {
                    Some(401..=403) => vec![Part::Fatal { what, again: false }],
                    _ if ours => vec![Part::Error(what)],
                    _ => Vec::new(),
                }
            }
            _ if !ours || self.current.is_none() => Vec::new(),
            "chunk" => match BASE64_STANDARD.decode(&said.data) {
                Ok(audio) => vec![Part::Audio(audio.into())],
                Err(_) => vec![Part::Error("it sent audio that is no base64".to_owned())],
            },
            "timestamps" => vec![Part::Words(said.word_timestamps.words())],
            "done" => {
                self.current = None;
                vec![Part::End]
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

    use super::*;
    use crate::agent::tts::tests::{context, named, said};

    fn cartesia() -> Cartesia {
        Cartesia::new(&context(), named("cartesia:sonic-3?voice=v1&speed=1.2"))
    }

    #[test]
    fn a_sentence_is_a_context() {
        let mut service = cartesia();
        let (url, headers) = service.target();
        assert_eq!(url.as_str(), "wss://api.cartesia.ai/tts/websocket");
        assert_eq!(
            (&headers["authorization"], &headers["cartesia-version"]),
            (&HeaderValue::from_static("Bearer hunter2"), &HeaderValue::from_static(VERSION))
        );
        let request: Value = serde_json::from_str(&said(&service.speak(3, "Hi."))[0]).unwrap();
        assert_eq!(request["context_id"], "c3");
        assert_eq!(request["output_format"], json!({"container": "raw", "encoding": "pcm_s16le", "sample_rate": 8000}));
        assert_eq!((&request["generation_config"], &request["continue"]), (&json!({"speed": 1.2}), &json!(false)));
        let chunk = |context: &str| {
            json!({"type": "chunk", "context_id": context, "data": "AQI=", "done": false, "new": 1}).to_string()
        };
        assert_eq!(service.read(&chunk("c2")), []);
        assert_eq!(service.read(&chunk("c3")), [Part::Audio(vec![1, 2].into())]);
        let times = json!({"type": "timestamps", "context_id": "c3", "word_timestamps": {"words": ["Hi."], "start": [0.0], "end": [0.25]}});
        let words = vec![Word { text: "Hi.".to_owned(), end: Duration::from_millis(250) }];
        assert_eq!(service.read(&times.to_string()), [Part::Words(words)]);
        assert_eq!(service.read(r#"{"type":"done","context_id":"c3","done":true,"status_code":200}"#), [Part::End]);
        assert_eq!(said(&service.cancel(3)), [r#"{"context_id":"c3","cancel":true}"#]);
        assert_eq!(service.read(&chunk("c3")), []);
    }

    #[test]
    fn errors_are_of_a_sentence_or_of_the_account() {
        let mut service = cartesia();
        service.speak(3, "Hi.");
        let error = |status: u16, context: &str| {
            json!({"type": "error", "context_id": context, "status_code": status, "title": "T", "message": "m"})
                .to_string()
        };
        assert!(matches!(&service.read(&error(400, "c3"))[..], [Part::Error(what)] if what.contains("\"m\"")));
        assert_eq!(service.read(&error(400, "c2")), []);
        assert!(matches!(&service.read(&error(402, "c2"))[..], [Part::Fatal { again: false, .. }]));
    }

    proptest! {
        #[test]
        fn any_text_ends(text in any::<String>()) {
            cartesia().read(&text);
        }
    }
}
