//! Whether the gateway can take calls, and if not, why.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

/// A reason why no calls should be sent here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotReady {
    /// Stable dotted code, e.g. `shutdown`.
    pub code: &'static str,
    /// In words.
    pub message: String,
}

/// The reasons that hold now; with none of them the gateway is ready.
#[derive(Debug, Default)]
pub struct Readiness {
    reasons: Mutex<BTreeMap<&'static str, String>>,
}

impl Readiness {
    /// From now on the gateway is not ready, for this reason among others.
    pub fn set(&self, code: &'static str, message: impl Into<String>) {
        self.lock().insert(code, message.into());
    }

    /// The reason does not hold any more.
    pub fn clear(&self, code: &'static str) {
        self.lock().remove(code);
    }

    /// What holds now, in the order of the codes.
    #[must_use]
    pub fn reasons(&self) -> Vec<NotReady> {
        self.lock().iter().map(|(&code, message)| NotReady { code, message: message.clone() }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
