//! Whether Asterisk really tells of the application.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// The events made on purpose of one connection, and what became of them.
#[derive(Debug, Default)]
pub(super) struct Proof {
    /// The event that was made last has come.
    pub came: Notify,
    expected: Mutex<(u64, String)>,
    told: AtomicBool,
    first: AtomicBool,
}

impl Proof {
    /// The name of the next event.
    pub fn next(&self) -> String {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.0 += 1;
        expected.1 = format!("hark-{:016x}-{}", rand::random::<u64>(), expected.0);
        self.told.store(false, Ordering::Release);
        expected.1.clone()
    }

    /// Such an event has come.
    pub fn seen(&self, name: &str) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        if !name.is_empty() && expected.1 == name {
            expected.1.clear();
            self.came.notify_one();
        }
    }

    /// Anything has come.
    pub fn told(&self) {
        self.told.store(true, Ordering::Release);
    }

    /// Whether anything has come since the last event was made.
    pub fn was_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// The first proof is there: true, once.
    pub fn first(&self) -> bool {
        !self.first.swap(true, Ordering::AcqRel)
    }

    /// Whether there was one.
    pub fn is_there(&self) -> bool {
        self.first.load(Ordering::Acquire)
    }
}
