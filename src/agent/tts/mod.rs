//! Speech synthesis of a cascade.

mod http;
mod pcm;
mod ws;

pub use pcm::{Pcm, fuzz};

use super::{
    Context, Service,
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

/// Part of what is spoken.
#[derive(Debug)]
pub enum Chunk {
    /// Samples at the leg's rate, at least one.
    Samples(Vec<i16>),
    /// When words of the text are spoken; these follow those that came before.
    Words(Vec<Word>),
}

/// A word, and when it has been spoken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// As it is in the text, or as it is spoken.
    pub text: String,
    /// From the beginning of the text's audio.
    pub end: std::time::Duration,
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
    /// The service, which says what it speaks by the scheme of its URL or by its vendor's name.
    pub fn new(ctx: Context, service: Service, health: Health) -> Result<Self, Failure> {
        let url = match service {
            Service::Url(url) => url,
            Service::Named(named) => {
                let what = format_args!("there is no adapter for {}", named.vendor.name());
                return Err(Failure::Final(fault("agent.tts.vendor", "speech synthesis", what)));
            }
        };
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
    /// More; `None` at the end. What is not asked for stays unread.
    pub async fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        match self {
            Self::Http(speech) => Ok(speech.next().await?.map(Chunk::Samples)),
            Self::Ws(speech) => speech.next().await,
        }
    }
}
