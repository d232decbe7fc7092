//! Language models of a cascade.

mod answer;
mod http;
mod ws;

pub use answer::fuzz;
use tokio::sync::mpsc;

use super::{
    Context, Service,
    cascade::Message,
    health::{Failure, Health},
    retry::fault,
};

/// Something of an answer, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Any part of the text.
    Text(String),
    /// Any part of audio that is played as it is: a WAV stream.
    Audio(Vec<u8>),
}

/// A language model.
#[derive(Debug)]
pub enum Llm {
    /// The AVR contract.
    Http(http::Service),
    /// Hark's own contract.
    Ws(ws::Service),
}

impl Llm {
    /// The service, which says what it speaks by the scheme of its URL or by its vendor's name.
    pub fn new(ctx: Context, service: Service, health: Health) -> Result<Self, Failure> {
        let url = match service {
            Service::Url(url) => url,
            Service::Named(named) => {
                let what = format_args!("there is no adapter for {}", named.vendor.name());
                return Err(Failure::Final(fault("agent.llm.vendor", "language model", what)));
            }
        };
        match url.scheme() {
            "http" | "https" => Ok(Self::Http(http::Service::new(ctx, url, health))),
            "ws" | "wss" => Ok(Self::Ws(ws::Service::new(ctx, url, health))),
            other => Err(Failure::Final(fault(
                "agent.llm.scheme",
                "language model",
                format_args!("{other:?} is no scheme of LLM_URL; use http, https, ws or wss"),
            ))),
        }
    }

    /// Asks for an answer to `messages` and hands it to `out`. Dropping the future cancels the request.
    pub async fn ask(&self, messages: Vec<Message>, out: &mpsc::Sender<Piece>) -> Result<(), Failure> {
        match self {
            Self::Http(service) => service.ask(messages, out).await,
            Self::Ws(service) => service.ask(messages, out).await,
        }
    }
}
