//! The HTTP service: `/health`, `/ready`, `/metrics`, `POST /call`.

mod announce;
mod ready;
mod routes;
mod server;
mod sts_url;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

#[doc(hidden)]
pub use announce::{fuzz_answer, fuzz_body};
use ipnet::IpNet;
pub use ready::{NotReady, Readiness};
use serde::Deserialize;
pub use server::{bind, serve};
pub use sts_url::with_parameters;

use crate::{net, session::Announcements, telemetry::metrics::Metrics, webhook::Webhooks};

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
    /// Speech-to-speech service of all calls; `None`: calls go through recognition, language model and synthesis.
    pub sts_url: Option<Arc<str>>,
}

impl<A> Clone for State<A> {
    fn clone(&self) -> Self {
        Self {
            announcements: Arc::clone(&self.announcements),
            webhooks: self.webhooks.clone(),
            readiness: Arc::clone(&self.readiness),
            metrics: Arc::clone(&self.metrics),
            allow_hosts: Arc::clone(&self.allow_hosts),
            sts_url: self.sts_url.clone(),
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
            allow_hosts: Arc::default(),
            sts_url: None,
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
            announcement_ttl_s: 600,
            max_announcements: 10_000,
        }
    }
}
