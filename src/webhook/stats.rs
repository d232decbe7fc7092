//! Counts of the webhook room.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }
}
