//! The HTTP service: `/health`, `/ready`, `/metrics`, `POST /call`, `/api/webhooks`, `/api/recordings`, `/api/calls`, `/api/services`.

mod announce;
mod avr_ami;
mod calls;
mod ready;
mod recordings;
mod routes;
mod server;
mod services;
mod sts_url;
mod webhooks;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

pub use announce::{announce_call, announce_outbound};
pub use announce::{fuzz_answer, fuzz_body};
#[doc(hidden)]
pub use calls::fuzz as fuzz_calls;
pub use calls::{Control, Later};
#[doc(hidden)]
use ipnet::IpNet;
pub use ready::{NotReady, Readiness};
use serde::Deserialize;
pub use server::{bind, serve};
pub use services::Services;
pub use sts_url::with_parameters;

use crate::{
    net,
    session::{Announcements, Registry},
    telemetry::metrics::Metrics,
    webhook::{Undecided, Webhooks, store::Store},
};

/// What whoever asks `/api` has to know. Never shown by `{:?}`.
#[derive(Clone, Deserialize)]
#[serde(from = "String")]
pub struct Token(Arc<str>);

impl From<String> for Token {
    fn from(token: String) -> Self {
        Self(token.into())
    }
}

impl Token {
    /// Whether `given` is it, in a time that does not tell how much of it is right.
    fn is(&self, given: &[u8]) -> bool {
        let digest = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes);
        digest(given).as_ref() == digest(self.0.as_bytes()).as_ref()
    }

    /// Whether there is nothing to know.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What the routes work on.
#[derive(Debug)]
pub struct State<A> {
    /// Where announced calls are remembered.
    pub announcements: Arc<A>,
    /// Who is asked about an announced call.
    pub webhooks: Webhooks,
    /// Whether calls can be taken.
    pub readiness: Arc<Readiness>,
    /// What `GET /metrics` shows.
    pub metrics: Arc<Metrics>,
    /// Hosts that a receiver's answer may name; empty = see [`net::check`].
    pub allow_hosts: Arc<[net::Pattern]>,
    /// What becomes of an announced call when the receiver does not say.
    pub undecided: Undecided,
    /// Speech-to-speech service of all calls; `None`: calls go through recognition, language model and synthesis.
    pub sts_url: Option<Arc<str>>,
    /// Where events are kept, for `/api/webhooks`.
    pub store: Option<Store>,
    /// Where recordings are, for `/api/recordings`.
    pub recordings: Option<Arc<Path>>,
    /// The live calls, for `/api/calls`.
    pub registry: Arc<Registry>,
    /// Whoever can do things with live calls.
    pub control: Option<Arc<dyn Control>>,
    /// How the agents' services are doing, for `/api/services`.
    pub services: Option<Arc<dyn Services>>,
    /// What `/api` wants to be told; `None`: it answers on loopback only.
    pub token: Option<Token>,
}

impl<A> Clone for State<A> {
    fn clone(&self) -> Self {
        Self {
            announcements: Arc::clone(&self.announcements),
            webhooks: self.webhooks.clone(),
            readiness: Arc::clone(&self.readiness),
            metrics: Arc::clone(&self.metrics),
            undecided: self.undecided,
            allow_hosts: Arc::clone(&self.allow_hosts),
            sts_url: self.sts_url.clone(),
            store: self.store.clone(),
            recordings: self.recordings.clone(),
            registry: Arc::clone(&self.registry),
            control: self.control.clone(),
            services: self.services.clone(),
            token: self.token.clone(),
        }
    }
}

impl<A: Announcements> State<A> {
    /// A state with no webhook and nothing to report.
    #[must_use]
    pub fn new(announcements: Arc<A>) -> Self {
        Self {
            announcements,
            webhooks: Webhooks::disabled(),
            readiness: Arc::default(),
            metrics: Arc::default(),
            undecided: Undecided::default(),
            allow_hosts: Arc::default(),
            sts_url: None,
            store: None,
            recordings: None,
            registry: Arc::default(),
            control: None,
            services: None,
            token: None,
        }
    }
}

/// Settings of the HTTP service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether there is an HTTP service at all.
    pub enabled: bool,
    /// Address and TCP port to listen on.
    pub listen: SocketAddr,
    /// Networks that may connect; empty = everybody who can reach the listener.
    pub allow: Vec<IpNet>,
    /// Bearer token that `/api` wants; unset = it answers on loopback only.
    pub token: Option<Token>,
    /// How long an announced call is remembered, in s.
    pub announcement_ttl_s: u64,
    /// Announced calls remembered at once, and never more of them than fit in 64 MB; the oldest goes first.
    pub max_announcements: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6001),
            allow: Vec::new(),
            token: None,
            announcement_ttl_s: 600,
            max_announcements: 10_000,
        }
    }
}
