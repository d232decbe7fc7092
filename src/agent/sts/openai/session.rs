//! How a session is to be, and what was said before, as each dialect writes it.

use serde_json::{Map, Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{Flavour, OpenAi, code, item, put};
use crate::{
    agent::{
        service::Vendor,
        sts::{
            codec::Coding,
            dialect::{Past, Setup},
            number,
        },
        websocket::escaped,
    },
    audio::{Rate, g711::Law},
};

/// What all of its dialects call it; a rate that is not told is the one that was asked for, or the usual one.
fn coding(name: &str, rate: &Value, asked: Coding) -> Option<Coding> {
    match name {
        "audio/pcmu" | "g711_ulaw" => Some(Coding::g711(Law::Ulaw)),
        "audio/pcma" | "g711_alaw" => Some(Coding::g711(Law::Alaw)),
        "audio/pcm" | "pcm16" => match rate.as_u64() {
            None if asked.law.is_none() => Some(asked),
            None => Some(Coding::linear(Rate::R24K)),
            Some(rate) => Some(Coding::linear(Rate::try_from(u32::try_from(rate).ok()?).ok()?)),
        },
        _ => None,
    }
}

impl OpenAi {
    fn format(&self) -> Value {
        let Coding { rate, law } = self.formats.up;
        match (self.flavour, law) {
            (Flavour::Beta, Some(Law::Ulaw)) => json!("g711_ulaw"),
            (Flavour::Beta, Some(Law::Alaw)) => json!("g711_alaw"),
            (Flavour::Beta, None) => json!("pcm16"),
            (_, Some(Law::Ulaw)) => json!({"type": "audio/pcmu"}),
            (_, Some(Law::Alaw)) => json!({"type": "audio/pcma"}),
            (_, None) => json!({"type": "audio/pcm", "rate": rate.hz()}),
        }
    }

    /// Takes the formats that the session has: those that were asked for, unless the server knows better.
    pub(super) fn agree(&mut self, session: &Value) -> Result<(), String> {
        for (direction, current, beta) in [
            ("hears", &session["audio"]["input"]["format"], "input_audio_format"),
            ("speaks", &session["audio"]["output"]["format"], "output_audio_format"),
        ] {
            let told = if current.is_null() { &session[beta] } else { current };
            let Some(name) = told.as_str().or_else(|| told["type"].as_str()) else { continue };
            let asked = if direction == "hears" { self.formats.up } else { self.formats.down };
            let Some(coding) = coding(name, &told["rate"], asked) else {
                return Err(format!(
                    "its session {direction} {:?}, which is not understood: set option format",
                    escaped(name)
                ));
            };
            if direction == "hears" {
                self.formats.up = coding;
            } else {
                self.formats.down = coding;
            }
        }
        Ok(())
    }

    /// When the caller has finished, and how they interrupt.
    fn turn_detection(&self) -> Value {
        let kind = self.named.option("turn_detection").unwrap_or("server_vad");
        let mut detection = Map::new();
        detection.insert("type".to_owned(), kind.into());
        for name in ["threshold", "prefix_padding_ms", "silence_duration_ms", "idle_timeout_ms", "eagerness"] {
            if let Some(value) = self.named.option(name) {
                let value = if name == "eagerness" { value.into() } else { number(value) };
                detection.insert(name.to_owned(), value);
            }
        }
        if self.flavour != Flavour::Xai {
            detection.insert("create_response".to_owned(), true.into());
            detection.insert("interrupt_response".to_owned(), true.into());
        }
        detection.into()
    }

    /// The model that writes down what the caller says; of xAI's nothing is known but that it does.
    pub(super) fn transcriber(&self) -> &str {
        let usual = match self.flavour {
            Flavour::Beta => "whisper-1",
            Flavour::Xai => self.named.model.as_str(),
            Flavour::Current if self.named.vendor == Vendor::Azure => "gpt-4o-mini-transcribe",
            Flavour::Current => "gpt-transcribe",
        };
        self.named.option("transcribe").unwrap_or(usual)
    }

    fn transcription(&self, language: Option<&str>) -> Value {
        match self.transcriber() {
            "none" => Value::Null,
            model => match self.named.option("language").or(language).and_then(code) {
                Some(language) => json!({"model": model, "language": language}),
                None => json!({"model": model}),
            },
        }
    }

    pub(super) fn session(&self, setup: &Setup<'_>) -> Value {
        let tools: Vec<_> = setup.tools.iter().map(|tool| json!({"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters})).collect();
        let (format, detection) = (self.format(), self.turn_detection());
        let option = |name: &str| self.named.option(name);
        let mut session = match self.flavour {
            Flavour::Current => {
                let mut input = json!({"format": format, "turn_detection": detection});
                input["transcription"] = self.transcription(setup.language);
                if let Some(kind) = option("noise_reduction") {
                    input["noise_reduction"] = if kind == "none" { Value::Null } else { json!({"type": kind}) };
                }
                let mut output = json!({"format": format});
                put(&mut output, "voice", option("voice").map(Value::from));
                put(&mut output, "speed", option("speed").map(number));
                json!({"type": "realtime", "output_modalities": ["audio"], "audio": {"input": input, "output": output}})
            }
            Flavour::Beta => json!({
                "modalities": ["audio", "text"], "input_audio_format": format, "output_audio_format": format,
                "turn_detection": detection, "input_audio_transcription": self.transcription(setup.language),
            }),
            Flavour::Xai => json!({
                "audio": {"input": {"format": format}, "output": {"format": format}}, "turn_detection": detection,
            }),
        };
        put(&mut session, "instructions", setup.prompt.map(Value::from));
        if self.flavour != Flavour::Current {
            put(&mut session, "voice", option("voice").map(Value::from));
        }
        let most = if self.flavour == Flavour::Beta { "max_response_output_tokens" } else { "max_output_tokens" };
        put(&mut session, most, option("max_output_tokens").map(number));
        put(&mut session, "reasoning", option("reasoning_effort").map(|effort| json!({"effort": effort})));
        if !tools.is_empty() {
            session["tools"] = tools.into();
            session["tool_choice"] = json!("auto");
        }
        session
    }

    pub(super) fn item(&self, past: &Past) -> Vec<Message> {
        let said = if self.flavour == Flavour::Beta { "text" } else { "output_text" };
        let message = |role: &str, kind: &str, text: &str| {
            item(json!({"type": "message", "role": role, "content": [{"type": kind, "text": text}]}))
        };
        match past {
            Past::Caller(text) => vec![message("user", "input_text", text)],
            Past::Agent(text) => vec![message("assistant", said, text)],
            Past::Tool(call, output) => vec![
                item(
                    json!({"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}),
                ),
                item(json!({"type": "function_call_output", "call_id": call.id, "output": output})),
            ],
        }
    }
}
