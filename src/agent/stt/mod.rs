//! Speech recognition of a cascade.

mod cutter;
mod http;
mod joiner;
mod ws;

use std::sync::Arc;

pub use joiner::{Joiner, fuzz};
use tokio::sync::mpsc;
use url::Url;

use super::{Context, Service, cascade::Inbox, health::Health, retry::fault};
use crate::{audio::Frame, call::Fault};

/// What a service hears.
#[derive(Debug)]
pub enum Heard {
    /// Text that will not change: an utterance or a fragment of one.
    Piece(String),
    /// Text that may still change.
    Partial(String),
    /// The caller began to speak.
    Started,
    /// The caller has said everything.
    EndOfTurn,
    /// Nothing more comes: asked for (`Ok`), or the service has failed.
    Ended(Result<(), Fault>),
}

/// What a service is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The caller has stopped speaking: do not wait for more.
    Flush,
    /// No more audio comes: deliver the last texts and end.
    Finish,
}

/// The ends that a service needs.
#[derive(Debug)]
pub struct Ends {
    /// The caller.
    pub audio: Arc<Inbox<Frame>>,
    /// Orders; closed means finish.
    pub orders: mpsc::Receiver<Order>,
    /// Where to put what is heard.
    pub heard: mpsc::Sender<Heard>,
    /// Where to report.
    pub health: Health,
}

/// Listens until told to finish or failed; `Heard::Ended` comes last.
pub async fn listen(ctx: Context, service: Service, ends: Ends) {
    let heard = ends.heard.clone();
    let end = match service {
        Service::Url(url) => contract(ctx, url, ends).await,
        Service::Named(named) => Err(fault(
            "agent.stt.vendor",
            "speech recognition",
            format_args!("there is no adapter for {}", named.vendor.name()),
        )),
    };
    // closed: nobody wants to know any more
    let _ = heard.send(Heard::Ended(end)).await;
}

/// One of the two contracts, as the scheme says.
async fn contract(ctx: Context, url: Url, ends: Ends) -> Result<(), Fault> {
    match url.scheme() {
        "http" | "https" => http::Line::new(ctx, url, ends).run().await,
        "ws" | "wss" => ws::Line::new(ctx, url, ends).run().await,
        other => Err(fault(
            "agent.stt.scheme",
            "speech recognition",
            format_args!("{other:?} is no scheme of ASR_URL; use http, https, ws or wss"),
        )),
    }
}
