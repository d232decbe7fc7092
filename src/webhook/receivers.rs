//! Who is to get events, by the settings.

use std::time::Duration;

use super::{Config, DEFAULT, Redaction, Unusable, schedule::Retry, settings::Ready};

impl Config {
    /// Every receiver with its settings as deliveries need them.
    pub(super) fn receivers(&self) -> Vec<(String, Result<Ready, Unusable>)> {
        let contract = match self.contract() {
            Ok(None) => None,
            Ok(Some(ready)) => Some((DEFAULT.to_owned(), Ok(ready))),
            Err(reason) => Some((DEFAULT.to_owned(), Err(reason))),
        };
        let more = self.endpoints.iter().map(|(name, endpoint)| {
            let ready = endpoint.ready(&self.allow_hosts).map_err(|faults| match faults.into_iter().next() {
                Some(fault) => Unusable::Setting(fault.key, fault.reason),
                None => Unusable::Setting("url".to_owned(), "cannot be used".to_owned()),
            });
            (name.clone(), ready)
        });
        contract.into_iter().chain(more).collect()
    }

    /// Whether these settings can work.
    ///
    /// # Errors
    /// The first thing that cannot.
    pub fn check(&self) -> Result<(), Unusable> {
        Redaction::parse(&self.redact)?;
        self.receivers().into_iter().try_for_each(|(_, ready)| ready.map(drop))
    }

    /// Whether anybody gets events.
    #[must_use]
    pub fn has_receivers(&self) -> bool {
        self.url.as_deref().is_some_and(|url| !url.is_empty()) || !self.endpoints.is_empty()
    }

    /// How long the slowest attempt may take.
    #[must_use]
    pub fn longest_attempt(&self) -> Duration {
        let of_endpoints = self.endpoints.values().map(|endpoint| endpoint.timeout_ms).max().unwrap_or_default();
        Duration::from_millis(self.timeout_ms.max(of_endpoints))
    }

    /// Whether an event that fails at the receiver of `WEBHOOK_URL` is not tried again.
    #[must_use]
    pub fn tries_once(&self) -> bool {
        self.url.as_deref().is_some_and(|url| !url.is_empty()) && self.retry == Retry::Times(0)
    }
}
