//! ARI: Asterisk tells of calls that enter our Stasis application, and does with them what we say.
//!
//! A [`Client`] keeps one PBX: it is told of events over a WebSocket, acts by REST, and leaves neither bridges nor media channels behind,
//! whatever breaks in between. Every channel and bridge that is ours carries an identity of ours (`ids`), so that even another process
//! knows it again. What a call is about is none of this room's business: a [`Host`] is told of each, and its audio comes to the AudioSocket
//! listener like any other.

mod client;
mod coming;
mod config;
mod connection;
mod consult;
mod control;
mod error;
mod ids;
mod line;
mod metadata;
mod orphans;
mod outbound;
pub mod probe;
mod proof;
mod registry;
mod rest;
pub mod server;
mod socket;
mod stasis;
pub mod version;
pub mod wire;

use std::{fmt, pin::Pin, time::Duration};

use serde_json::{Map, Value};
use url::Url;
use uuid::Uuid;

pub use self::wire::Cause;
pub use self::{
    client::{Client, Started},
    config::{After, Config, Connect, Endpoint, Media, MediaFormat, Pbx, Requests},
    consult::{Asked, Consulted, Consulting, Decision},
    control::{Control, ControlError, Order},
    error::Error,
    outbound::{Dial, Progress},
    rest::{ExternalMedia, Origin, Rest, Target},
    server::Server,
};
pub use crate::asterisk::telemetry::AriStats as Stats;
use crate::{
    asterisk::rtp,
    call::{AnsweredBy, Digit},
};

/// What a [`Host`] answers some time later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever takes the calls.
pub trait Host: fmt::Debug + Send + Sync + 'static {
    /// A call comes; its audio will, to the AudioSocket listener, with this UUID.
    ///
    /// # Errors
    /// Why it is not to be taken.
    fn announce(&self, uuid: Uuid, about: Map<String, Value>) -> Later<'_, Result<(), String>>;

    /// The audio of an announced call waits for us at this URL (`ws://…`).
    fn fetch(&self, uuid: Uuid, media: Url) -> Later<'_, ()>;

    /// The audio of an announced call comes by RTP.
    fn serve(&self, pending: rtp::Pending) -> Later<'_, ()>;

    /// An announced call does not come after all, for a reason with this code.
    fn failed(&self, uuid: Uuid, code: &'static str) -> Later<'_, ()>;

    /// The caller of a call has pressed a key, of which its audio does not tell.
    fn press(&self, uuid: Uuid, digit: Digit);

    /// Asterisk has found out who has answered a call that we made.
    fn answered_by(&self, uuid: Uuid, who: AnsweredBy);

    /// A call is over of which Asterisk says nothing any more.
    fn end(&self, uuid: Uuid);

    /// A caller and their audio have been connected, this long after they entered the application.
    fn connected(&self, took: Duration);

    /// Whether a PBX can be worked with, and if not, why.
    fn health(&self, pbx: &str, fault: Option<&Error>);
}
