//! Language models of a cascade.

mod answer;
mod anthropic;
mod chain;
mod gemini;
mod http;
mod message;
mod openai;
mod vendor;
mod ws;

pub use answer::fuzz;
pub use chain::Llm;
pub use message::{Message, Prompt, Reply, Tool, ToolCall, Usage};
pub(super) use openai::{MAX_ARGUMENTS, tool};
use tokio::sync::mpsc;
pub use vendor::fuzz as fuzz_vendor;
pub use ws::Open;

use super::{
    Context, Service,
    embedded::Receptionist,
    health::{Failure, Health},
    retry::fault,
    service::Vendor,
};

/// What it is called in messages.
const NAME: &str = "language model";
/// Longest answer, in bytes of text: more than an hour of speech.
const MAX_ANSWER: usize = 64 * 1024;

/// Something of an answer, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Any part of the text.
    Text(String),
    /// Any part of audio that is played as it is: a WAV stream.
    Audio(Vec<u8>),
    /// What comes next begins anew; what came is a sentence.
    Pause,
    /// The same, and it is told when what came has been spoken.
    End,
    /// What came and is no whole sentence yet is forgotten: the answer goes on behind these sentences.
    Resume(String),
}

/// One language model.
#[derive(Debug)]
enum Model {
    /// The AVR contract.
    Http(http::Service),
    /// Hark's own contract.
    Ws(ws::Service),
    /// A vendor's own interface.
    Vendor(Box<vendor::Service>),
    /// The script on this machine.
    Embedded(Receptionist),
}

impl Model {
    /// The service, which says what it speaks by the scheme of its URL or by its vendor's name.
    fn new(ctx: Context, service: Service, health: Health) -> Result<Self, Failure> {
        let url = match service {
            Service::Url(url) => url,
            Service::Named(named) if named.vendor == Vendor::Builtin => {
                return Ok(Self::Embedded(Receptionist::new(ctx, health)));
            }
            Service::Named(named) => return Ok(Self::Vendor(Box::new(vendor::Service::new(ctx, named, health)?))),
        };
        match url.scheme() {
            "http" | "https" => Ok(Self::Http(http::Service::new(ctx, url, health))),
            "ws" | "wss" => Ok(Self::Ws(ws::Service::new(ctx, url, health))),
            other => Err(Failure::Final(fault(
                "agent.llm.scheme",
                NAME,
                format_args!("{other:?} is no scheme of LLM_URL; use http, https, ws or wss"),
            ))),
        }
    }

    /// Asks for an answer and hands it to `out`; the tools that it calls come with its end. Dropping the future cancels the request.
    async fn ask(&self, prompt: &Prompt, out: &mpsc::Sender<Piece>) -> Result<Reply, Failure> {
        match self {
            Self::Http(service) => service.ask(prompt, out).await.map(|()| Reply::default()),
            Self::Ws(service) => service.ask(prompt, out).await,
            Self::Vendor(service) => service.ask(prompt, out).await,
            Self::Embedded(service) => service.ask(prompt, out).await,
        }
    }

    /// What it is called in accounts.
    fn name(&self) -> &str {
        match self {
            Self::Vendor(service) => service.model(),
            Self::Http(_) | Self::Ws(_) | Self::Embedded(_) => "",
        }
    }

    /// Sees to a connection that the next request finds open.
    async fn warm(&self) {
        if let Self::Vendor(service) = self {
            service.warm().await;
        }
    }
}
