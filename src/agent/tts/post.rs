//! Vendors that are asked for each sentence over HTTP: OpenAI's speech interface and its many kin, Piper.

use std::time::Duration;

use http::{HeaderValue, header::AUTHORIZATION};
use serde_json::{Map, Value, json};

use super::{CODES, Pcm, http::Speech};
use crate::agent::{
    Context, Named,
    health::{Failure, Health},
    retry::error_body,
    service::Vendor,
    vendor::Post,
};

/// What OpenAI sends as `pcm`.
const PCM_RATE: u32 = 24_000;
/// Longest text that OpenAI takes.
const MAX_TEXT: usize = 4_096;

/// A service that answers a sentence with its audio.
#[derive(Debug)]
pub struct Service {
    ctx: Context,
    named: Named,
    health: Health,
}

impl Service {
    pub const fn new(ctx: Context, named: Named, health: Health) -> Self {
        Self { ctx, named, health }
    }

    pub async fn speak(&self, text: &str) -> Result<Speech, Failure> {
        let text: String = text.chars().take(MAX_TEXT).collect();
        let (path, body) = match self.named.vendor {
            Vendor::Piper => ("/synthesize", self.piper(&text)),
            _ => ("/audio/speech", self.openai(&text)),
        };
        let timeout = Duration::from_millis(self.ctx.config.tts_timeout_ms);
        let post = Post {
            ctx: &self.ctx,
            named: &self.named,
            codes: &CODES,
            url: self.named.http(path),
            headers: self.named.signed(AUTHORIZATION, "Bearer "),
            content_type: HeaderValue::from_static("application/json"),
            body: body.to_string().into(),
            timeout,
        };
        let response = post.send(&self.health).await?;
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if let Some(coding) = coded(kind) {
            let what = format_args!("it sends {coding}, though samples were asked for (response_format \"pcm\")");
            return Err(Failure::Once(post.fault(CODES.failed, &what)));
        }
        if kind.starts_with("application/json") {
            let words = error_body(response).await;
            return Err(Failure::Once(
                post.fault(CODES.failed, &format_args!("it answered with no audio: \"{words}\"")),
            ));
        }
        // clones that speak otherwise are told apart by an option, or send a header
        let rate = self.named.option("pcm_rate").and_then(|rate| rate.parse().ok()).unwrap_or(PCM_RATE);
        Ok(Speech::new(response, Pcm::new(rate, self.ctx.rate), timeout, self.health.clone()))
    }

    fn openai(&self, text: &str) -> Value {
        let mut body = json!({
            "model": self.named.model,
            "input": text,
            "voice": self.named.option("voice").unwrap_or("alloy"),
            "response_format": "pcm",
        });
        if let Some(instructions) = self.named.option("instructions") {
            body["instructions"] = instructions.into();
        }
        if let Some(speed) = self.number("speed") {
            body["speed"] = speed;
        }
        body
    }

    fn piper(&self, text: &str) -> Value {
        let mut body = Map::from_iter([("text".to_owned(), text.into())]);
        for name in ["voice", "speaker"] {
            if let Some(value) = self.named.option(name) {
                body.insert(name.to_owned(), value.into());
            }
        }
        for name in ["speaker_id", "length_scale", "noise_scale", "noise_w_scale"] {
            if let Some(value) = self.number(name) {
                body.insert(name.to_owned(), value);
            }
        }
        body.into()
    }

    fn number(&self, name: &str) -> Option<Value> {
        number(self.named.option(name)?)
    }
}

/// What a content type says that would have to be decoded. Types are not to be trusted further: Piper's server calls WAV `text/html`.
fn coded(content_type: &str) -> Option<&'static str> {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    ["audio/mpeg", "audio/mp3", "audio/ogg", "audio/opus", "audio/aac", "audio/flac", "audio/webm"]
        .into_iter()
        .find(|coded| *coded == kind)
}

/// A number as JSON has it.
pub fn number(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(Value::is_number)
}
