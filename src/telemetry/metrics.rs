//! The numbers of one gateway, as Prometheus reads them. No globals: many gateways run in one process.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64},
    },
};

pub use prometheus_client::metrics::MetricType;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::{Metric, Registry},
};

/// Media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A label that says why or how: a short stable word, never a peer's text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// The word.
    pub reason: &'static str,
}

/// Times by part of a whole.
pub type ByPart = Family<Part, Histogram>;

/// Which part of a whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Part {
    /// The word.
    pub part: &'static str,
}

/// Names and values of labels.
pub type Labels = Vec<(&'static str, String)>;

/// Counts by reason.
pub type ByReason = Family<Reason, Counter<u64, AtomicU64>>;

/// The numbers of one gateway. All names begin with `hark_`.
///
/// The counters are shared by all threads: what happens on every frame is to be added up by the call and reported now and then.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Calls accepted.
    pub calls: Counter<u64, AtomicU64>,
    /// Calls in progress.
    pub active: Gauge<i64, AtomicI64>,
    /// Calls ended, by reason.
    pub ended: ByReason,
    /// Calls refused, by reason.
    pub refused: ByReason,
    /// How long calls took, in s.
    pub duration: Histogram,
    /// How long calls by ARI took to be set up, in s.
    pub setup: Histogram,
    /// Audio frames from callers.
    pub frames_in: Counter<u64, AtomicU64>,
    /// Audio frames to callers.
    pub frames_out: Counter<u64, AtomicU64>,
    /// Slots of the playout grid that found no agent speech within an utterance.
    pub underruns: Counter<u64, AtomicU64>,
    /// Times a caller cut the agent.
    pub interruptions: Counter<u64, AtomicU64>,
    /// How long callers waited for an answer, in s: `total` and its parts.
    pub turns: ByPart,
    /// Failures of the agents' services, by stable code.
    pub faults: ByReason,
    /// `POST /call` requests, by what became of them.
    pub announced: ByReason,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("hark");
        // 1 s to about 2 h
        let duration = Histogram::new([1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0]);
        let setup = Histogram::new([0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0]);
        let r = &mut registry;
        Self {
            calls: add(r, "calls", "Calls accepted", Counter::default()),
            active: add(r, "calls_active", "Calls in progress", Gauge::default()),
            ended: add(r, "calls_ended", "Calls ended", Family::default()),
            refused: add(r, "calls_refused", "Calls refused", Family::default()),
            duration: add(r, "call_duration_seconds", "How long calls took", duration),
            setup: add(r, "ari_setup_seconds", "How long calls took to be set up", setup),
            frames_in: add(r, "frames_in", "Audio frames from callers", Counter::default()),
            frames_out: add(r, "frames_out", "Audio frames to callers", Counter::default()),
            underruns: add(r, "underruns", "Playout slots without speech within an utterance", Counter::default()),
            interruptions: add(r, "interruptions", "Times a caller cut the agent", Counter::default()),
            turns: add(
                r,
                "turn_seconds",
                "How long callers waited for an answer",
                Family::new_with_constructor(turn_seconds),
            ),
            faults: add(r, "agent_faults", "Failures of the agents' services", Family::default()),
            announced: add(r, "calls_announced", "POST /call requests", Family::default()),
            registry: Mutex::new(registry),
        }
    }
}

/// From what nobody notices to what nobody bears.
fn turn_seconds() -> Histogram {
    Histogram::new([0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0])
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// Adds one to the count of `reason`.
    pub fn count(&self, by: &ByReason, reason: &'static str) {
        by.get_or_create(&Reason { reason }).inc();
    }

    /// Notes how long `part` took.
    pub fn time(&self, by: &ByPart, part: &'static str, took: std::time::Duration) {
        by.get_or_create(&Part { part }).observe(took.as_secs_f64());
    }

    /// Shows a number that lives elsewhere and may fall, asked for at each scrape. `name` goes without `hark_`.
    pub fn register_gauge_fn(&self, name: &str, help: &str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        self.register(name, help, move |encoder, name, help| {
            let gauge = ConstGauge::new(read());
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        });
    }

    /// Shows a count that lives elsewhere and only grows, asked for at each scrape. `name` goes without `hark_` and `_total`.
    pub fn register_counter_fn(&self, name: &str, help: &str, read: impl Fn() -> u64 + Send + Sync + 'static) {
        self.register(name, help, move |encoder, name, help| {
            let counter = ConstCounter::new(read());
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
        });
    }

    /// Shows numbers that live elsewhere, one for each set of labels, asked for at each scrape. `name` goes without `hark_`, and `_total` if
    /// they only grow.
    pub fn register_labelled_fn(
        &self,
        name: &str,
        help: &str,
        kind: MetricType,
        read: impl Fn() -> Vec<(Labels, f64)> + Send + Sync + 'static,
    ) {
        self.register(name, help, move |encoder, name, help| {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (mut labels, value) in read() {
                labels.iter_mut().for_each(|(_, value)| *value = label(value));
                let one = family.encode_family(&labels)?;
                match kind {
                    MetricType::Counter => ConstCounter::new(value).encode(one)?,
                    _ => ConstGauge::new(value).encode(one)?,
                }
            }
            Ok(())
        });
    }

    fn register(
        &self,
        name: &str,
        help: &str,
        encode: impl Fn(&mut DescriptorEncoder<'_>, &str, &str) -> fmt::Result + Send + Sync + 'static,
    ) {
        // the registry ends the help of its own metrics with a full stop
        let (name, help) = (name.to_owned(), format!("{help}."));
        let encode = Box::new(move |mut encoder: DescriptorEncoder<'_>| encode(&mut encoder, &name, &help));
        self.lock().register_collector(Box::new(Elsewhere(encode)));
    }

    /// Everything in the text format, for `GET /metrics`.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // writing to a string does not fail
        let _ = text::encode(&mut text, &self.lock());
        text
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A label's value as the format wants it: the library writes it as it is.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

type Encode = dyn Fn(DescriptorEncoder<'_>) -> fmt::Result + Send + Sync;

/// A number that lives elsewhere.
struct Elsewhere(Box<Encode>);

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Elsewhere")
    }
}

impl Collector for Elsewhere {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(encoder)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering::Relaxed};

    use super::*;

    #[test]
    fn everything_is_shown_under_harks_name() {
        let metrics = Metrics::default();
        metrics.calls.inc();
        metrics.active.set(3);
        metrics.count(&metrics.ended, "caller.hangup");
        metrics.count(&metrics.ended, "caller.hangup");
        metrics.duration.observe(12.0);
        let lost = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&lost);
        metrics.register_counter_fn("webhook_lost", "Events lost", move || read.load(Relaxed));
        metrics.register_gauge_fn("webhook_queued", "Events waiting", || 0.5);
        lost.store(7, Relaxed);
        let labelled = |name: &str, value| (vec![("service", name.to_owned()), ("kind", "stt".to_owned())], value);
        let read = move || vec![labelled("a", 1.0), labelled("say \"b\"\n", 0.0)];
        metrics.register_labelled_fn("service_up", "Whether it is used", MetricType::Gauge, read);
        metrics.register_labelled_fn("service_failures", "Failures", MetricType::Counter, move || {
            vec![labelled("a", 3.0)]
        });

        let text = metrics.encode();
        for line in [
            "# HELP hark_calls Calls accepted.",
            "# TYPE hark_calls counter",
            "hark_calls_total 1",
            "hark_calls_active 3",
            "hark_calls_ended_total{reason=\"caller.hangup\"} 2",
            "hark_call_duration_seconds_bucket{le=\"15.0\"} 1",
            "# HELP hark_webhook_lost Events lost.",
            "# TYPE hark_webhook_lost counter",
            "hark_webhook_lost_total 7",
            "# TYPE hark_webhook_queued gauge",
            "hark_webhook_queued 0.5",
            "hark_service_up{service=\"a\",kind=\"stt\"} 1.0",
            "hark_service_up{service=\"say \\\"b\\\"\\n\",kind=\"stt\"} 0.0",
            "hark_service_failures_total{service=\"a\",kind=\"stt\"} 3.0",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line:?} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert!(text.lines().all(|line| line.starts_with('#') || line.starts_with("hark_")), "{text}");
    }

    #[test]
    fn two_gateways_in_one_process_count_apart() {
        let (a, b) = (Metrics::default(), Metrics::default());
        a.calls.inc();
        assert!(a.encode().contains("hark_calls_total 1") && b.encode().contains("hark_calls_total 0"));
    }
}
