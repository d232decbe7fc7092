//! Speech synthesis of a cascade.

mod http;
mod pcm;
mod ws;

pub use pcm::{Pcm, fuzz};
use url::Url;

use super::{
    Context,
    health::{Failure, Health},
    retry::fault,
};

/// A speech synthesis service.
#[derive(Debug)]
pub enum Tts {
    /// The AVR contract.
    Http(http::Service),
    /// Hark's own contract.
    Ws(ws::Service),
}

/// Speech as it is being synthesised. Dropping it cancels the request.
#[derive(Debug)]
pub enum Speech {
    /// The AVR contract.
    Http(http::Speech),
    /// Hark's own contract.
    Ws(ws::Speech),
}

impl Tts {
    /// The service at `url`, whose scheme says what it speaks.
    pub fn new(ctx: Context, url: Url, health: Health) -> Result<Self, Failure> {
        match url.scheme() {
            "http" | "https" => Ok(Self::Http(http::Service::new(ctx, url, health))),
            "ws" | "wss" => Ok(Self::Ws(ws::Service::new(ctx, url, health))),
            other => Err(Failure::Final(fault(
                "agent.tts.scheme",
                "speech synthesis",
                format_args!("{other:?} is no scheme of TTS_URL; use http, https, ws or wss"),
            ))),
        }
    }

    /// Begins to speak `text`, which must not be blank.
    pub async fn speak(&self, text: &str) -> Result<Speech, Failure> {
        match self {
            Self::Http(service) => service.speak(text).await.map(Speech::Http),
            Self::Ws(service) => service.speak(text).await.map(Speech::Ws),
        }
    }
}

impl Speech {
    /// More samples at the leg's rate, at least one; `None` at the end. What is not asked for stays unread.
    pub async fn next(&mut self) -> Result<Option<Vec<i16>>, Failure> {
        match self {
            Self::Http(speech) => speech.next().await,
            Self::Ws(speech) => speech.next().await,
        }
    }
}
