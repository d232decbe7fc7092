//! Language models of a cascade.

mod answer;
mod http;
mod ws;

pub use answer::fuzz;
use tokio::sync::mpsc;
use url::Url;

use super::{
    Context,
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
    /// The service at `url`, whose scheme says what it speaks.
    pub fn new(ctx: Context, url: Url, health: Health) -> Result<Self, Failure> {
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
