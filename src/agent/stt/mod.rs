//! Speech recognition of a cascade.

mod assemblyai;
mod batch;
mod cutter;
mod deepgram;
mod dialect;
mod echo;
mod embedded;
mod flux;
mod fuzzing;
mod http;
mod joiner;
mod kept;
mod line;
mod packets;
mod realtime;
mod relay;
mod scribe;
mod soniox;
mod speechmatics;
mod utterances;
mod vosk;
mod ws;

use std::sync::Arc;

use futures_util::FutureExt as _;

pub use fuzzing::fuzz as fuzz_vendor;
pub use joiner::{Joiner, fuzz};
pub use realtime::serves as is_realtime;
pub use relay::listen;
use tokio::sync::mpsc;
use url::Url;

use self::{dialect::Dialect, line::Line};
use super::{Context, Named, Service, cascade::Inbox, health::Health, retry::fault, service::Vendor, vendor::Codes};
use crate::{audio::Frame, call::Fault};

const CODES: Codes = Codes {
    name: "speech recognition",
    unauthorized: "agent.stt.unauthorized",
    quota: "agent.stt.quota",
    timeout: "agent.stt.timeout",
    unreachable: "agent.stt.unreachable",
    refused: "agent.stt.refused",
    failed: "agent.stt.failed",
    broken: "agent.stt.broken",
};

/// What a service hears.
#[derive(Debug)]
pub enum Heard {
    /// Text that will not change: an utterance or a fragment of one.
    Piece(String),
    /// Text that may still change.
    Partial(String),
    /// The caller began to speak.
    Started,
    /// The caller has probably said everything, as far as a text has come.
    Likely,
    /// The caller has said everything.
    EndOfTurn,
    /// Nothing more comes: asked for (`Ok`), or the service has failed.
    Ended(Result<(), Fault>),
}

/// What a service is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The caller begins to speak.
    Start,
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

/// Listens by one service until told to finish, or it has failed.
async fn listen_by(ctx: Context, service: Service, ends: Ends) -> Result<(), Fault> {
    match service {
        Service::Url(url) => contract(ctx, url, ends).await,
        Service::Named(named) => vendor(ctx, *named, ends).await,
    }
}

/// A vendor's own protocol.
async fn vendor(ctx: Context, named: Named, ends: Ends) -> Result<(), Fault> {
    let vendor = named.vendor;
    match vendor {
        Vendor::Builtin => return here(&ctx, ends).await,
        Vendor::OpenAi if !realtime::serves(&named) => return batch::Line::new(ctx, named, ends).run().await,
        Vendor::Wyoming => return batch::Line::new(ctx, named, ends).run().await,
        _ => {}
    }
    match dialect_of(&ctx, named) {
        Some(dialect) => Line::new(ctx, dialect, ends).run().await,
        None => {
            let what = format_args!("there is no adapter for {}", vendor.name());
            Err(fault("agent.stt.vendor", "speech recognition", what))
        }
    }
}

/// How a vendor speaks over a WebSocket.
fn dialect_of(ctx: &Context, named: Named) -> Option<Box<dyn Dialect>> {
    Some(match named.vendor {
        Vendor::Deepgram if named.model.starts_with("flux") => Box::new(flux::Flux::new(ctx, named)),
        Vendor::Deepgram => Box::new(deepgram::Listen::new(ctx, named)),
        Vendor::Vosk => Box::new(vosk::Vosk::new(ctx, named)),
        Vendor::Soniox => Box::new(soniox::Soniox::new(ctx, named)),
        Vendor::AssemblyAi => Box::new(assemblyai::AssemblyAi::new(ctx, named)),
        Vendor::Speechmatics => Box::new(speechmatics::Speechmatics::new(ctx, named)),
        Vendor::ElevenLabs => Box::new(scribe::Scribe::new(ctx, named)),
        Vendor::OpenAi => Box::new(realtime::Realtime::new(ctx, named)),
        _ => return None,
    })
}

/// The recogniser on this machine.
async fn here(ctx: &Context, ends: Ends) -> Result<(), Fault> {
    let Some(embedded) = &ctx.config.embedded else {
        let what = "the models are not installed: run `hark models install`";
        return Err(fault("agent.embedded.missing", CODES.name, what));
    };
    let engine = embedded.engine.clone();
    let _place = engine.admit(ctx.call).map_err(|refused| fault("agent.embedded.refused", CODES.name, refused))?;
    let recognise = move |samples, rate, is_final| {
        let engine = engine.clone();
        async move {
            match is_final {
                true => engine.recognise(samples, rate).await,
                false => engine.guess(samples, rate).await,
            }
        }
        .boxed()
    };
    embedded::Line::new(recognise, ends).run().await
}

/// One of the two contracts, as the scheme says.
async fn contract(ctx: Context, url: Url, ends: Ends) -> Result<(), Fault> {
    match url.scheme() {
        "http" | "https" => http::Line::new(ctx, url, ends).run().await,
        "ws" | "wss" => Line::new(ctx.clone(), Box::new(ws::Contract::new(ctx, url)), ends).run().await,
        other => Err(fault(
            "agent.stt.scheme",
            "speech recognition",
            format_args!("{other:?} is no scheme of ASR_URL; use http, https, ws or wss"),
        )),
    }
}

#[cfg(test)]
pub(super) mod tests {
    //! What the tests of the dialects share.

    use std::time::Duration;

    use uuid::Uuid;

    use super::{super::service, *};
    use crate::{
        agent::{Config, Outgoing, tls_config},
        audio::Rate,
        call::{CallId, Rules},
    };

    pub fn context() -> Context {
        let tls = Arc::new(tls_config(None).unwrap());
        let outgoing = Outgoing::new(tls, Duration::from_secs(1)).unwrap();
        let rules = Arc::new(Rules::new(crate::call::Config::default()));
        let config = Arc::new(Config::default());
        Context {
            call: CallId::new(),
            uuid: Uuid::nil(),
            rate: Rate::R8K,
            about: Arc::default(),
            tools: Arc::default(),
            orders: None,
            config,
            rules,
            outgoing,
        }
    }

    /// A recogniser whose key is `hunter2`.
    pub fn named(text: &str) -> Named {
        let (vendor, rest) = service::vendor_of(text).unwrap();
        let provider = service::Provider { api_key: Some("hunter2".into()), ..service::Provider::default() };
        let providers = service::Providers([(vendor.name().to_owned(), provider)].into());
        Named::parse(vendor, rest, service::Kind::Stt, &providers).unwrap()
    }

    pub fn said(messages: &[tokio_tungstenite::tungstenite::Message]) -> Vec<String> {
        messages.iter().map(ToString::to_string).collect()
    }

    /// What is heard in a message, as text.
    pub fn heard(dialect: &mut dyn Dialect, text: &str) -> Vec<String> {
        let heard = |read| match read {
            dialect::Read::Heard(heard) => format!("{heard:?}"),
            other => format!("{other:?}"),
        };
        dialect.read(text).into_iter().map(heard).collect()
    }
}
