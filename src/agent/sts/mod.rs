//! Speech-to-speech services: one service listens, thinks and speaks.
//!
//! Of the AVR contract: [`websocket`] is the contract proper (JSON text, base64 audio), [`http`] its older form (raw audio both ways, no
//! events); their wire is always s16le 8 kHz mono, and `edge` converts to and from the leg's rate, once. Of vendors: [`mod@line`] is what they
//! share, and each has a small dialect of its own.

mod codec;
mod deepgram;
mod dialect;
mod edge;
mod elevenlabs;
mod fuzzing;
mod gemini;
pub mod http;
pub mod line;
mod openai;
#[cfg(test)]
mod testing;
mod turns;
mod ultravox;
pub mod websocket;
pub mod wire;

use base64::{Engine as _, prelude::BASE64_STANDARD};
pub use fuzzing::fuzz;
pub use http::StsHttp;
pub use line::Line;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
pub use websocket::Sts;

use self::dialect::Dialect;
use super::{Context, Named, service::Vendor};
use crate::audio::Rate;

/// Longest words of the caller that may still change, in bytes.
const MAX_PARTIAL: usize = 16 * 1024;

/// Begins a session with a vendor. The stream reports how it goes.
#[must_use]
pub fn start(named: Named, ctx: Context, greeting: Option<String>) -> Line {
    let needs_prompt = !has_prompt(&named);
    let dialect = dialect_of(ctx.rate, named);
    Line::start(ctx, dialect, greeting, needs_prompt)
}

/// Whether the agent was told what it is where it was made.
fn has_prompt(named: &Named) -> bool {
    match named.vendor {
        Vendor::ElevenLabs => true,
        Vendor::Ultravox => named.option("agent").is_some(),
        _ => false,
    }
}

/// Whether it says what it is asked to.
#[must_use]
pub fn obeys(named: &Named) -> bool {
    !matches!(named.vendor, Vendor::ElevenLabs)
}

fn dialect_of(rate: Rate, named: Named) -> Box<dyn Dialect> {
    match named.vendor {
        Vendor::Deepgram => Box::new(deepgram::Agent::new(rate, named)),
        Vendor::ElevenLabs => Box::new(elevenlabs::Agent::new(rate, named)),
        Vendor::Gemini => Box::new(gemini::Live::new(named)),
        Vendor::Ultravox => Box::new(ultravox::Ultravox::new(rate, named)),
        // the table of vendors has only these besides
        _ => Box::new(openai::OpenAi::new(rate, named)),
    }
}

/// A message that holds audio between `head` and `tail`.
fn in_base64(head: &str, audio: &[u8], tail: &str) -> Message {
    let mut text = String::with_capacity(head.len() + audio.len().div_ceil(3) * 4 + tail.len());
    text.push_str(head);
    BASE64_STANDARD.encode_string(audio, &mut text);
    text.push_str(tail);
    Message::text(text)
}

/// The value of an option: a number where it is one.
fn number(text: &str) -> Value {
    serde_json::from_str::<serde_json::Number>(text).map_or_else(|_| text.into(), Value::Number)
}
