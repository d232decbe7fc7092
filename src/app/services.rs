//! How the services of the agents are doing: under `/metrics` and `/api/services`.

use std::{sync::Arc, time::SystemTime};

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    agent::{
        self, Overrides, Route,
        failover::{Shown, Standings},
        service::Kind,
    },
    api,
    config::Config,
    telemetry::metrics::{Labels, MetricType, Metrics},
};

/// All services that calls have used, or would.
#[derive(Debug)]
pub(super) struct Services(Arc<Standings>);

impl Services {
    /// Those in the settings are known before the first call.
    pub fn new(standings: &Arc<Standings>, config: &Config) -> Self {
        let agents = std::iter::once(&config.agent).chain(config.profiles.values().map(|profile| &profile.agent));
        agents.for_each(|agent| know(standings, agent));
        Self(Arc::clone(standings))
    }

    /// Shows them under `/metrics`.
    pub fn export(&self, metrics: &Metrics) {
        let gauge =
            |name: &str, help: &str, read: fn(&Shown) -> f64| self.show(metrics, (name, help, MetricType::Gauge), read);
        let counter = |name: &str, help: &str, read: fn(&Shown) -> f64| {
            self.show(metrics, (name, help, MetricType::Counter), read)
        };
        gauge("service_up", "Whether calls use this service: 0 while its breaker is open", |shown| {
            f64::from(u8::from(shown.state != "open"))
        });
        gauge("service_half_open", "Whether one call tries this service out", |shown| {
            f64::from(u8::from(shown.state == "half_open"))
        });
        gauge("service_calls", "Calls that use this service", |shown| shown.calls as f64);
        gauge("service_consecutive_failures", "Failures since this service last worked", |shown| {
            f64::from(shown.consecutive_failures)
        });
        counter("service_failures", "Failures of this service", |shown| shown.failures as f64);
        counter("service_takeovers", "Times that another service took over from this one", |shown| {
            shown.takeovers as f64
        });
    }

    fn show(&self, metrics: &Metrics, (name, help, kind): (&str, &str, MetricType), read: fn(&Shown) -> f64) {
        let standings = Arc::clone(&self.0);
        metrics.register_labelled_fn(name, help, kind, move || {
            standings.shown().iter().map(|shown| (labels(shown), read(shown))).collect()
        });
    }
}

impl api::Services for Services {
    fn all(&self) -> Vec<Value> {
        self.0.shown().iter().map(told).collect()
    }
}

fn know(standings: &Standings, agent: &agent::Config) {
    if let Ok(Route::Cascade { asr, llm, tts, .. }) = Route::parse(agent, &Overrides::default()) {
        for (kind, chain) in [(Kind::Stt, asr), (Kind::Llm, llm), (Kind::Tts, tts)] {
            chain.iter().for_each(|service| drop(standings.of(kind, service)));
        }
    }
}

fn labels(shown: &Shown) -> Labels {
    vec![("service", shown.service.clone()), ("kind", shown.kind.to_owned())]
}

fn told(shown: &Shown) -> Value {
    json!({
        "service": shown.service,
        "kind": shown.kind,
        "state": shown.state,
        "consecutive_failures": shown.consecutive_failures,
        "retry_in_ms": shown.retry_in_ms,
        "last_error": shown.last_error.as_ref().map(|(fault, at)| {
            json!({"code": fault.code, "message": fault.message, "at": timestamp(*at)})
        }),
        "last_success": shown.last_success.map(timestamp),
        "calls": shown.calls,
        "failures": shown.failures,
        "takeovers": shown.takeovers,
    })
}

fn timestamp(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    // a whole millisecond is a nanosecond that there is
    let at = at.replace_nanosecond(u32::from(at.millisecond()) * 1_000_000).unwrap_or(at);
    at.format(&Rfc3339).unwrap_or_default()
}
