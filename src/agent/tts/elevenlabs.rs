//! ElevenLabs, several contexts over one connection: an interruption closes one, and the next sentence has another.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName};
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

/// How long it may be left alone: the most that it allows is asked for.
const INACTIVITY: u64 = 180;
/// Well before that, something is said.
const KEEP_ALIVE: Duration = Duration::from_secs(90);
/// Longest word, in bytes.
const LONGEST_WORD: usize = 200;
/// Of which path components are made.
const SAFE: &percent_encoding::AsciiSet = percent_encoding::NON_ALPHANUMERIC;

/// A connection to `/multi-stream-input`.
#[derive(Debug)]
pub struct ElevenLabs {
    named: Named,
    rate: u32,
    /// The sentence that is spoken.
    current: Option<u64>,
    /// Bytes of its audio so far: times are told from the beginning of each piece.
    bytes: usize,
    /// Its word that is not whole.
    word: (String, Duration),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    audio: Option<String>,
    #[serde(rename = "isFinal", alias = "is_final")]
    is_final: Option<bool>,
    // the documents say one, servers the other
    #[serde(rename = "contextId", alias = "context_id")]
    context: Option<String>,
    alignment: Option<Alignment>,
    message: String,
    error: Option<String>,
    code: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Alignment {
    chars: Vec<String>,
    #[serde(rename = "charStartTimesMs", alias = "char_start_times_ms")]
    starts: Vec<f64>,
    #[serde(rename = "charDurationsMs", alias = "char_durations_ms")]
    durations: Vec<f64>,
}

impl ElevenLabs {
    pub fn new(ctx: &Context, named: Named) -> Self {
        Self { named, rate: rate_for(ctx.rate.hz()), current: None, bytes: 0, word: Default::default() }
    }

    fn voice_settings(&self) -> Value {
        let settings = ["stability", "similarity_boost", "style", "speed"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), number(self.named.option(name)?)?)));
        Value::Object(settings.collect::<Map<_, _>>())
    }

    /// The words that are whole with `alignment`.
    fn words(&mut self, alignment: &Alignment, begin: Duration) -> Vec<Word> {
        let mut words = Vec::new();
        let times = alignment.starts.iter().zip(&alignment.durations);
        for (text, (start, duration)) in alignment.chars.iter().zip(times) {
            let end = start + duration;
            if !(0.0..=3.6e6).contains(&end) {
                continue;
            }
            if text.chars().all(char::is_whitespace) {
                words.extend(self.word());
            } else if self.word.0.len() + text.len() <= LONGEST_WORD {
                self.word.0.push_str(text);
                self.word.1 = begin + Duration::from_secs_f64(end / 1_000.0);
            }
        }
        words
    }

    fn word(&mut self) -> Option<Word> {
        let (text, end) = std::mem::take(&mut self.word);
        (!text.is_empty()).then_some(Word { text, end })
    }

    fn begin(&mut self, id: Option<u64>) {
        (self.current, self.bytes) = (id, 0);
        self.word = Default::default();
    }

    fn spoken(&mut self, said: &Said) -> Vec<Part> {
        let mut parts = Vec::new();
        let begin = Duration::from_secs_f64(self.bytes as f64 / 2.0 / f64::from(self.rate));
        let words = said.alignment.as_ref().map_or_else(Vec::new, |alignment| self.words(alignment, begin));
        match said.audio.as_deref().map(|audio| BASE64_STANDARD.decode(audio)) {
            Some(Ok(audio)) => {
                self.bytes += audio.len();
                parts.push(Part::Audio(audio.into()));
            }
            Some(Err(_)) => return vec![Part::Error("it sent audio that is no base64".to_owned())],
            None => {}
        }
        if !words.is_empty() {
            parts.push(Part::Words(words));
        }
        if said.is_final == Some(true) {
            if let Some(word) = self.word() {
                parts.push(Part::Words(vec![word]));
            }
            self.begin(None);
            parts.push(Part::End);
        }
        parts
    }
}

impl Dialect for ElevenLabs {
    fn target(&self) -> (Url, HeaderMap) {
        let voice = self.named.option("voice").unwrap_or_default();
        let voice = percent_encoding::utf8_percent_encode(voice, SAFE);
        let mut url = self.named.websocket(&format!("/v1/text-to-speech/{voice}/multi-stream-input"));
        let mut query = url.query_pairs_mut();
        query.append_pair("model_id", &self.named.model);
        query.append_pair("output_format", &format!("pcm_{}", self.rate));
        query.append_pair("auto_mode", "true");
        query.append_pair("sync_alignment", "true");
        query.append_pair("inactivity_timeout", &INACTIVITY.to_string());
        if let Some(language) = self.named.option("language") {
            query.append_pair("language_code", language);
        }
        if let Some(normalization) = self.named.option("apply_text_normalization") {
            query.append_pair("apply_text_normalization", normalization);
        }
        drop(query);
        (url, self.named.signed(HeaderName::from_static("xi-api-key"), ""))
    }

    fn rate(&self) -> u32 {
        self.rate
    }

    fn open(&mut self) -> Vec<Message> {
        self.begin(None);
        Vec::new()
    }

    fn speak(&mut self, id: u64, text: &str) -> Vec<Message> {
        self.begin(Some(id));
        let context = format!("c{id}");
        // settings come with the first message of a context or never
        let init = json!({"text": " ", "context_id": context, "voice_settings": self.voice_settings()});
        let speak = json!({"text": format!("{text} "), "context_id": context, "flush": true});
        let close = json!({"context_id": context, "close_context": true});
        [init, speak, close].map(|message| Message::text(message.to_string())).into()
    }

    fn cancel(&mut self, id: u64) -> Vec<Message> {
        self.begin(None);
        let close = json!({"context_id": format!("c{id}"), "close_context": true});
        vec![Message::text(close.to_string())]
    }

    fn idle(&mut self) -> Option<(Duration, Message)> {
        // without a sentence there is no context to keep: the last one is spoken to, which is closed and says nothing
        self.current
            .map(|id| (KEEP_ALIVE, Message::text(json!({"text": "", "context_id": format!("c{id}")}).to_string())))
    }

    fn end(&mut self) -> Vec<Message> {
        vec![Message::text(json!({"close_socket": true}).to_string())]
    }

    fn read(&mut self, text: &str) -> Vec<Part> {
        let Ok(said) = serde_json::from_str::<Said>(text) else { return Vec::new() };
        let ours = match (&said.context, self.current) {
            (Some(context), Some(id)) => context.strip_prefix('c').and_then(|n| n.parse().ok()) == Some(id),
            (Some(_), None) => false,
            (None, _) => true,
        };
        if let Some(error) = &said.error {
            let what = format!("it reports {}: \"{}\"", escaped(error), escaped(&said.message));
            let again =
                !matches!(error.as_str(), "auth_error" | "quota_exceeded" | "invalid_api_key" | "voice_not_found");
            return match (said.code, ours) {
                // the connection closes behind it
                (Some(1008), _) => vec![Part::Fatal { what, again }],
                (_, true) => vec![Part::Error(what)],
                (_, false) => Vec::new(),
            };
        }
        if ours && self.current.is_some() { self.spoken(&said) } else { Vec::new() }
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

    fn elevenlabs() -> ElevenLabs {
        ElevenLabs::new(&context(), named("elevenlabs:eleven_flash_v2_5?voice=ab%2Fc&speed=1.1&language=en"))
    }

    #[test]
    fn the_handshake_names_voice_and_telephone_audio() {
        let (url, headers) = elevenlabs().target();
        assert_eq!(
            url.as_str(),
            "wss://api.elevenlabs.io/v1/text-to-speech/ab%2Fc/multi-stream-input?model_id=eleven_flash_v2_5&output_format=pcm_8000\
             &auto_mode=true&sync_alignment=true&inactivity_timeout=180&language_code=en"
        );
        assert_eq!(headers["xi-api-key"], "hunter2");
    }

    #[test]
    fn each_sentence_has_a_context_and_words_have_times() {
        let mut service = elevenlabs();
        assert_eq!(
            said(&service.speak(7, "Hi you.")),
            [
                r#"{"text":" ","context_id":"c7","voice_settings":{"speed":1.1}}"#,
                r#"{"text":"Hi you. ","context_id":"c7","flush":true}"#,
                r#"{"context_id":"c7","close_context":true}"#
            ]
        );
        let piece = |chars: &[&str], context: &str| {
            let starts: Vec<f64> = (0..chars.len()).map(|n| n as f64 * 10.0).collect();
            json!({"audio": BASE64_STANDARD.encode([1; 1600]), "isFinal": null, "contextId": context,
                   "alignment": {"chars": chars, "charStartTimesMs": starts, "charDurationsMs": vec![10.0; chars.len()]}})
            .to_string()
        };
        // late audio of another sentence
        assert_eq!(service.read(&piece(&["x"], "c6")), []);
        let first = service.read(&piece(&["H", "i", " ", "y"], "c7"));
        let word = |text: &str, ms| Word { text: text.to_owned(), end: Duration::from_millis(ms) };
        assert_eq!(first[1], Part::Words(vec![word("Hi", 20)]));
        let second = service.read(&piece(&["o", "u", ".", " "], "c7"));
        // 1,600 bytes are 100 ms
        assert_eq!(second[1], Part::Words(vec![word("you.", 130)]));
        assert_eq!(service.read(r#"{"is_final":true,"context_id":"c7"}"#), [Part::End]);
        assert_eq!(service.read(&piece(&["x"], "c7")), []);
    }

    #[test]
    fn errors_are_of_a_sentence_or_of_the_connection() {
        let mut service = elevenlabs();
        service.speak(1, "Hi.");
        let full = r#"{"message":"Maximum simultaneous contexts","error":"max_active_conversations","code":1008}"#;
        assert!(matches!(&service.read(full)[..], [Part::Fatal { again: true, .. }]));
        let quota = r#"{"message":"no credits","error":"quota_exceeded","code":1008}"#;
        assert!(matches!(&service.read(quota)[..], [Part::Fatal { again: false, .. }]));
        assert!(matches!(&service.read(r#"{"message":"x","error":"y"}"#)[..], [Part::Error(_)]));
    }

    proptest! {
        #[test]
        fn any_text_ends(text in any::<String>()) {
            elevenlabs().read(&text);
        }
    }
}
