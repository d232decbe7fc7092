//! Events on their way to webhooks: the outbox and the delivery.

use serde::Deserialize;

/// Settings of the webhook endpoint.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where events are posted; unset = nowhere.
    pub url: Option<String>,
    /// Sent verbatim in `X-AVR-WEBHOOK-SECRET` and `X-DSAI-WEBHOOK-SECRET`.
    pub secret: Option<String>,
    /// Time-out of one attempt, in ms.
    pub timeout_ms: u64,
    /// Attempts beyond the first.
    pub retry: u32,
    /// Wait before the first retry, in ms; doubles with each further one.
    pub backoff_ms: u64,
    /// Sent in `X-AVR-AGENT-ID`.
    pub agent_id: Option<String>,
    /// Events kept in memory; beyond it new ones are lost, counted and reported.
    pub capacity: usize,
    /// Requests under way at once.
    pub concurrency: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            secret: None,
            timeout_ms: 3_000,
            retry: 0,
            backoff_ms: 1_000,
            agent_id: None,
            capacity: 10_000,
            concurrency: 64,
        }
    }
}
