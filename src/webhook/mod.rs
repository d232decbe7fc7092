//! Events on their way to webhooks: the outbox and the delivery.

mod auth;
mod body;
mod breaker;
pub mod catalogue;
mod deliver;
mod endpoint;
mod initiate;
mod memory;
mod outbox;
mod receiver;
mod receivers;
mod redact;
mod report;
pub mod schedule;
mod settings;
pub mod shown;
pub mod sign;
mod stats;
pub mod store;
pub mod template;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

pub use body::{CALL_INITIATED, MASKED_DIGIT, render, render_initiated};
pub use deliver::Webhooks;
pub use endpoint::{Clients, Failed, Unusable};
pub use memory::MemoryOutbox;
pub use outbox::{Due, Entry, Full, Outbox, Outcome, Phase, Recipient, Report};
pub use redact::{NotAPath, REDACTED, Redaction};
use serde::Deserialize;
pub use settings::{DEFAULT, EndpointConfig, Fault};
pub use sign::EndpointStore;
pub use stats::Stats;

use self::schedule::Retry;
use crate::net::Pattern;

/// Node's HTTP server closes a connection that was idle for 5 s; ours are given up before.
const IDLE: Duration = Duration::from_millis(3_500);

/// The HTTP client that delivery needs, on the TLS settings (roots of trust) that all outgoing connections share.
///
/// Redirects are not followed: a receiver that has moved is to be configured anew, and a `POST` would arrive as a `GET`.
/// Whoever builds it says which proxies there are: those of the environment would also be asked for receivers on loopback.
pub fn client_builder(tls: &Arc<rustls::ClientConfig>) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(rustls::ClientConfig::clone(tls))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .pool_idle_timeout(IDLE)
        .user_agent(concat!("hark/", env!("CARGO_PKG_VERSION")))
        .http1_only()
}

/// Settings of the webhook endpoint.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where events are posted; unset = nowhere.
    pub url: Option<String>,
    /// Sent verbatim in `X-AVR-WEBHOOK-SECRET` and `X-DSAI-WEBHOOK-SECRET`.
    pub secret: Option<String>,
    /// Time-out of one attempt, in ms.
    pub timeout_ms: u64,
    /// Attempts beyond the first, or over hours.
    pub retry: Retry,
    /// Wait before the first retry, in ms; doubles with each further one.
    pub backoff_ms: u64,
    /// Signs requests; unset = made at the first start and stored.
    pub signing_secret: Option<String>,
    /// Sent in `X-AVR-AGENT-ID`.
    pub agent_id: Option<String>,
    /// Events kept in memory; beyond it new ones are lost, counted and reported. The last tenth is kept for `call_started` and
    /// `call_ended`.
    pub capacity: usize,
    /// Requests under way at once.
    pub concurrency: usize,
    /// Further receivers, by name.
    pub endpoints: BTreeMap<String, EndpointConfig>,
    /// The request that an announced call waits for.
    pub initiate: Initiate,
    /// What of events is replaced before they are stored or sent: the event's type and a path in its payload.
    pub redact: Vec<String>,
    /// Hosts that a value of a call may choose (`routing.allow_hosts`).
    #[serde(skip)]
    pub allow_hosts: Vec<Pattern>,
}

/// What becomes of an announced call while nobody says which services it shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undecided {
    /// The configured services serve it.
    #[default]
    Configured,
    /// It is refused, and its dialplan goes on.
    Refuse,
}

/// The request about an announced call (`call_initiated`), which that call waits for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Initiate {
    /// How long it may take, in ms; 0 = as long as every other attempt.
    pub timeout_ms: u64,
    /// What to do without an answer.
    pub default: Undecided,
    /// After so many requests in a row without any answer the receiver is not asked for a while; 0 = it always is.
    pub failures: u32,
    /// For how long, in s.
    pub open_s: u64,
}

impl Default for Initiate {
    fn default() -> Self {
        Self { timeout_ms: 0, default: Undecided::default(), failures: 5, open_s: 30 }
    }
}

impl Initiate {
    fn timeout(&self) -> Option<Duration> {
        (self.timeout_ms > 0).then(|| Duration::from_millis(self.timeout_ms))
    }
}

impl Config {
    /// The signing secret that the configuration gives an endpoint.
    #[must_use]
    pub fn configured_secret(&self, endpoint: &str) -> Option<&str> {
        let secret = if endpoint == DEFAULT {
            self.signing_secret.as_deref()
        } else {
            self.endpoints.get(endpoint).and_then(|endpoint| endpoint.signing_secret.as_deref())
        };
        secret.filter(|secret| !secret.is_empty())
    }
}

/// Without the secret, and without the credentials that the URL may hold.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("url", &self.url.as_deref().map(shown::url))
            .field("secret", &self.secret.as_ref().map(|_| "***"))
            .field("timeout_ms", &self.timeout_ms)
            .field("retry", &self.retry)
            .field("backoff_ms", &self.backoff_ms)
            .field("signing_secret", &self.signing_secret.as_ref().map(|_| "***"))
            .field("agent_id", &self.agent_id)
            .field("capacity", &self.capacity)
            .field("concurrency", &self.concurrency)
            .field("endpoints", &self.endpoints)
            .field("initiate", &self.initiate)
            .field("redact", &self.redact)
            .finish()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            secret: None,
            timeout_ms: 3_000,
            retry: Retry::Times(0),
            backoff_ms: 1_000,
            signing_secret: None,
            agent_id: None,
            capacity: 10_000,
            concurrency: 64,
            endpoints: BTreeMap::new(),
            initiate: Initiate::default(),
            redact: Vec::new(),
            allow_hosts: Vec::new(),
        }
    }
}
