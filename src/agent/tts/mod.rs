//! Speech synthesis of a cascade.

mod aura;
mod cartesia;
mod chain;
mod dialect;
mod elevenlabs;
mod embedded;
mod fuzzing;
mod http;
mod line;
mod pcm;
mod post;
mod rime;
mod ws;
mod wyoming;

pub use chain::Tts;
pub use fuzzing::fuzz as fuzz_vendor;
pub use pcm::{Pcm, fuzz};
pub use post::number;

use self::dialect::Dialect;
use super::{
    Context, Named, Service,
    health::{Failure, Health},
    retry::fault,
    service::Vendor,
    vendor::Codes,
};

const CODES: Codes = Codes {
    name: "speech synthesis",
    unauthorized: "agent.tts.unauthorized",
    quota: "agent.tts.quota",
    timeout: "agent.tts.timeout",
    unreachable: "agent.tts.unreachable",
    refused: "agent.tts.refused",
    failed: "agent.tts.failed",
    broken: "agent.tts.broken",
};

/// One speech synthesis service.
#[derive(Debug)]
enum Voice {
    /// The AVR contract.
    Http(http::Service),
    /// Hark's own contract.
    Ws(ws::Service),
    /// A vendor, over HTTP.
    Post(post::Service),
    /// A vendor, over a WebSocket.
    Line(line::Service),
    /// Wyoming.
    Wyoming(wyoming::Service),
    /// The embedded voice.
    Embedded(embedded::Service),
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

/// Speech as one of them synthesises it. Dropping it cancels the request.
#[derive(Debug)]
enum Speech {
    /// The AVR contract.
    Http(http::Speech),
    /// Hark's own contract.
    Ws(ws::Speech),
    /// A vendor, over a WebSocket.
    Line(Box<line::Speech>),
    /// Wyoming.
    Wyoming(Box<wyoming::Speech>),
    /// The embedded voice.
    Embedded(embedded::Speech),
}

impl Voice {
    /// The service, which says what it speaks by the scheme of its URL or by its vendor's name.
    fn new(ctx: Context, service: Service, health: Health) -> Result<Self, Failure> {
        let url = match service {
            Service::Url(url) => url,
            Service::Named(named) => return Self::vendor(ctx, *named, health),
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

    fn vendor(ctx: Context, named: Named, health: Health) -> Result<Self, Failure> {
        let vendor = named.vendor;
        match vendor {
            Vendor::OpenAi | Vendor::Piper => return Ok(Self::Post(post::Service::new(ctx, named, health))),
            Vendor::Wyoming => return Ok(Self::Wyoming(wyoming::Service::new(ctx, named, health))),
            Vendor::Builtin => return embedded::Service::new(ctx, health).map(Self::Embedded),
            _ => {}
        }
        let Some(dialect) = dialect_of(&ctx, named) else {
            let what = format_args!("there is no adapter for {}", vendor.name());
            return Err(Failure::Final(fault("agent.tts.vendor", CODES.name, what)));
        };
        Ok(Self::Line(line::Service::start(ctx, dialect, health)))
    }

    /// Begins to speak `text`, which must not be blank.
    async fn speak(&self, text: &str) -> Result<Speech, Failure> {
        match self {
            Self::Http(service) => service.speak(text).await.map(Speech::Http),
            Self::Ws(service) => service.speak(text).await.map(Speech::Ws),
            Self::Post(service) => service.speak(text).await.map(Speech::Http),
            Self::Embedded(service) => Ok(Speech::Embedded(service.speak(text))),
            Self::Wyoming(service) => Ok(Speech::Wyoming(Box::new(service.speak(text).await?))),
            Self::Line(service) => Ok(Speech::Line(Box::new(service.speak(text).await))),
        }
    }
}

/// How a vendor speaks over a WebSocket.
fn dialect_of(ctx: &Context, named: Named) -> Option<Box<dyn Dialect>> {
    Some(match named.vendor {
        Vendor::Deepgram => Box::new(aura::Aura::new(ctx, named)),
        Vendor::ElevenLabs => Box::new(elevenlabs::ElevenLabs::new(ctx, named)),
        Vendor::Cartesia => Box::new(cartesia::Cartesia::new(ctx, named)),
        Vendor::Rime => Box::new(rime::Rime::new(ctx, named)),
        _ => return None,
    })
}

impl Speech {
    /// More; `None` at the end. What is not asked for stays unread.
    async fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        match self {
            Self::Http(speech) => Ok(speech.next().await?.map(Chunk::Samples)),
            Self::Ws(speech) => speech.next().await,
            Self::Line(speech) => speech.next().await,
            Self::Wyoming(speech) => Ok(speech.next().await?.map(Chunk::Samples)),
            Self::Embedded(speech) => Ok(speech.next().await?.map(Chunk::Samples)),
        }
    }
}

#[cfg(test)]
mod tests {
    //! What the tests of the dialects share.

    use super::{super::service, *};
    pub use crate::agent::stt::tests::{context, said};

    /// A voice whose key is `hunter2`.
    pub fn named(text: &str) -> Named {
        let (vendor, rest) = service::vendor_of(text).unwrap();
        let provider = service::Provider { api_key: Some("hunter2".into()), ..service::Provider::default() };
        let providers = service::Providers([(vendor.name().to_owned(), provider)].into());
        Named::parse(vendor, rest, service::Kind::Tts, &providers).unwrap()
    }
}
