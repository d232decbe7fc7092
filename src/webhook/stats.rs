//! Counts of the webhook room.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::telemetry::metrics::Metrics;

/// Counts since the start; [`Stats::queued`] is the present number.
#[derive(Debug, Default)]
pub struct Stats {
    /// Events that wait or are under way now.
    pub queued: AtomicU64,
    /// Events that the receiver has taken.
    pub delivered: AtomicU64,
    /// Events given up after the last attempt.
    pub failed: AtomicU64,
    /// Events that found the outbox full.
    pub lost: AtomicU64,
    /// Attempts beyond an event's first.
    pub retried: AtomicU64,
    /// `call_initiated` requests that were answered.
    pub initiated: AtomicU64,
    /// `call_initiated` requests that failed.
    pub initiate_failed: AtomicU64,
}

impl Stats {
    /// Shows all counts in `metrics`, as `hark_webhook_…`.
    pub fn show(self: &Arc<Self>, metrics: &Metrics) {
        let stats = Arc::clone(self);
        // far below 2^53
        let queued = move || stats.queued.load(Relaxed) as f64;
        metrics.register_gauge_fn("webhook_queued", "Webhook events that wait or are under way", queued);
        type Read = fn(&Stats) -> &AtomicU64;
        let counters: [(&str, &str, Read); 6] = [
            ("webhook_delivered", "Webhook events that the receiver has taken", |stats| &stats.delivered),
            ("webhook_failed", "Webhook events given up after the last attempt", |stats| &stats.failed),
            ("webhook_lost", "Webhook events that found the outbox full", |stats| &stats.lost),
            ("webhook_retried", "Attempts beyond an event's first", |stats| &stats.retried),
            ("webhook_initiated", "Answered call_initiated requests", |stats| &stats.initiated),
            ("webhook_initiate_failed", "Failed call_initiated requests", |stats| &stats.initiate_failed),
        ];
        for (name, help, read) in counters {
            let stats = Arc::clone(self);
            metrics.register_counter_fn(name, help, move || read(&stats).load(Relaxed));
        }
    }

    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_is_shown_under_its_own_name() {
        let (stats, metrics) = (Arc::new(Stats::default()), Metrics::default());
        stats.show(&metrics);
        let Stats { queued, delivered, failed, lost, retried, initiated, initiate_failed } = &*stats;
        for (n, counter) in
            [queued, delivered, failed, lost, retried, initiated, initiate_failed].into_iter().enumerate()
        {
            counter.store(n as u64 + 1, Relaxed);
        }
        let text = metrics.encode();
        for line in [
            "hark_webhook_queued 1.0",
            "hark_webhook_delivered_total 2",
            "hark_webhook_failed_total 3",
            "hark_webhook_lost_total 4",
            "hark_webhook_retried_total 5",
            "hark_webhook_initiated_total 6",
            "hark_webhook_initiate_failed_total 7",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
    }
}
