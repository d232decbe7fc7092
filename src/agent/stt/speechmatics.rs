//! Speechmatics RT v2.

use bytes::Bytes;
use http::{HeaderMap, header::AUTHORIZATION};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::{
    Heard,
    dialect::{Dialect, Read, Sends},
};
use crate::agent::{Context, Named, tts::number, websocket::escaped};

/// A connection to `/v2`.
#[derive(Debug)]
pub struct Speechmatics {
    named: Named,
    sends: Sends,
    /// Messages of audio that were acknowledged.
    acknowledged: u64,
    /// Bytes of audio that were sent.
    bytes: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    message: String,
    seq_no: u64,
    metadata: Metadata,
    #[serde(rename = "type")]
    kind: String,
    reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    transcript: String,
}

impl Speechmatics {
    pub fn new(ctx: &Context, named: Named) -> Self {
        Self { named, sends: Sends::g711(ctx), acknowledged: 0, bytes: 0 }
    }

    fn config(&self) -> Value {
        let option = |name, usual| self.named.option(name).and_then(number).unwrap_or(usual);
        let mut config = json!({
            "language": self.named.option("language").unwrap_or("en"),
            "model": self.named.model,
            "max_delay": option("max_delay", json!(1.0)),
            "max_delay_mode": "flexible",
            "enable_partials": true,
            "conversation_config": {
                "end_of_utterance_silence_trigger": option("end_of_utterance_silence_trigger", json!(0.5)),
            },
        });
        if let Some(words) = self.named.option("vocabulary") {
            let words = words.split(',').map(str::trim).filter(|word| !word.is_empty());
            config["additional_vocab"] = words.map(|word| json!({"content": word})).collect();
        }
        config
    }
}

impl Dialect for Speechmatics {
    fn target(&self) -> (Url, HeaderMap) {
        (self.named.websocket("/v2"), self.named.signed(AUTHORIZATION, "Bearer "))
    }

    fn sends(&self) -> Sends {
        self.sends
    }

    fn open(&mut self) -> Vec<Message> {
        (self.acknowledged, self.bytes) = (0, 0);
        let format = json!({"type": "raw", "encoding": self.sends.name("mulaw", "pcm_s16le"), "sample_rate": self.sends.rate.hz()});
        let start =
            json!({"message": "StartRecognition", "audio_format": format, "transcription_config": self.config()});
        vec![Message::text(start.to_string())]
    }

    fn waits(&self) -> bool {
        true
    }

    fn audio(&mut self, audio: Bytes) -> Message {
        self.bytes += audio.len();
        Message::binary(audio)
    }

    fn finalize(&mut self) -> Vec<Message> {
        // where in the audio: else it may end before what is still on its way
        let samples = (self.bytes / self.sends.sample_bytes()) as f64;
        let end = json!({"message": "ForceEndOfUtterance", "timestamp": samples / f64::from(self.sends.rate.hz())});
        vec![Message::text(end.to_string())]
    }

    fn end(&mut self) -> Vec<Message> {
        let end = json!({"message": "EndOfStream", "last_seq_no": self.acknowledged});
        vec![Message::text(end.to_string())]
    }

    fn read(&mut self, text: &str) -> Vec<Read> {
        let Ok(said) = serde_json::from_str::<Said>(text) else { return vec![Read::Strange] };
        let complaint = || format!("it reports {}: \"{}\"", escaped(&said.kind), escaped(&said.reason));
        let transcript = &said.metadata.transcript;
        match said.message.as_str() {
            "RecognitionStarted" => vec![Read::Ready],
            "AudioAdded" => {
                self.acknowledged = said.seq_no;
                Vec::new()
            }
            "AddPartialTranscript" if !transcript.trim().is_empty() => {
                vec![Read::Heard(Heard::Partial(transcript.clone()))]
            }
            // with the blanks that belong to it: what follows may be a comma
            "AddTranscript" if !transcript.is_empty() => vec![Read::Heard(Heard::Piece(transcript.clone()))],
            "EndOfUtterance" => vec![Read::Heard(Heard::EndOfTurn)],
            "EndOfTranscript" => vec![Read::Done],
            "Warning" => vec![Read::Trouble(complaint())],
            "Error" => {
                let last = ["not_authorised", "not_allowed", "quota_exceeded", "invalid"];
                let again = !last.iter().any(|kind| said.kind.starts_with(kind));
                vec![Read::Fatal { what: complaint(), again }]
            }
            _ => Vec::new(),
        }
    }

    fn is_final(&self, code: u16) -> bool {
        matches!(code, 1008 | 4001 | 4003 | 4004 | 4005)
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

    fn speechmatics() -> Speechmatics {
        Speechmatics::new(&context(), named("speechmatics:?language=de&max_delay=0.7&vocabulary=Asterisk"))
    }

    #[test]
    fn recognition_is_started_first() {
        let mut service = speechmatics();
        assert_eq!(service.target().0.as_str(), "wss://eu2.rt.speechmatics.com/v2");
        let start: Value = serde_json::from_str(&said(&service.open())[0]).unwrap();
        assert_eq!(start["audio_format"], json!({"type": "raw", "encoding": "mulaw", "sample_rate": 8000}));
        let config = &start["transcription_config"];
        assert_eq!(
            (&config["language"], &config["max_delay"], &config["model"]),
            (&json!("de"), &json!(0.7), &json!("enhanced"))
        );
        assert_eq!(config["additional_vocab"], json!([{"content": "Asterisk"}]));
        service.audio(Bytes::from(vec![0xFF; 6_400]));
        assert_eq!(said(&service.finalize()), [r#"{"message":"ForceEndOfUtterance","timestamp":0.8}"#]);
        service.read(r#"{"message":"AudioAdded","seq_no":9}"#);
        assert_eq!(said(&service.end()), [r#"{"message":"EndOfStream","last_seq_no":9}"#]);
    }

    #[test]
    fn transcripts_are_pieces_of_text() {
        let mut service = speechmatics();
        let add = |kind: &str, text: &str| {
            json!({"message": kind, "format": "2.9", "metadata": {"transcript": text}, "results": []}).to_string()
        };
        assert_eq!(heard(&mut service, r#"{"message":"RecognitionStarted","id":"x"}"#), ["Ready"]);
        assert_eq!(heard(&mut service, &add("AddPartialTranscript", "hi")), ["Partial(\"hi\")"]);
        assert_eq!(heard(&mut service, &add("AddTranscript", "hi ")), ["Piece(\"hi \")"]);
        assert_eq!(heard(&mut service, r#"{"message":"EndOfUtterance"}"#), ["EndOfTurn"]);
        let quota = service.read(r#"{"message":"Error","type":"quota_exceeded","reason":"too many"}"#);
        assert!(matches!(&quota[..], [Read::Fatal { again: false, .. }]));
        let broken = service.read(r#"{"message":"Error","type":"job_error","reason":"worker died"}"#);
        assert!(matches!(&broken[..], [Read::Fatal { again: true, .. }]));
    }

    proptest! {
        #[test]
        fn any_text_ends(text in any::<String>()) {
            speechmatics().read(&text);
        }
    }
}
