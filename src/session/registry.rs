//! The calls that are live.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use crate::call::{CallId, Command};

/// The calls that are live, by our own identity.
#[derive(Debug, Default)]
pub struct Registry {
    calls: Mutex<HashMap<CallId, Entry>>,
}

/// A live call.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The UUID on the wire.
    pub uuid: Uuid,
    /// When it was accepted.
    pub started: Instant,
    /// Where it takes orders.
    pub commands: mpsc::Sender<Command>,
    /// Told when what the agent was saying has been heard, after [`Command::HandOver`].
    pub heard_out: Arc<Notify>,
    /// Held by whoever gives the caller away: one at a time.
    pub giving: Arc<tokio::sync::Mutex<()>>,
}

impl Registry {
    /// Adds a call; returns how many others with the same UUID are live.
    pub fn add(&self, id: CallId, entry: Entry) -> usize {
        let mut calls = self.lock();
        let same = calls.values().filter(|other| other.uuid == entry.uuid).count();
        calls.insert(id, entry);
        same
    }

    /// Takes a call out.
    pub fn remove(&self, id: CallId) {
        self.lock().remove(&id);
    }

    /// Where calls take orders that have this identity, or this UUID on the wire.
    #[must_use]
    pub fn find(&self, id: Uuid) -> Vec<(CallId, mpsc::Sender<Command>)> {
        let calls = self.lock();
        let wanted = calls.iter().filter(|(call, entry)| Uuid::from(**call) == id || entry.uuid == id);
        wanted.map(|(call, entry)| (*call, entry.commands.clone())).collect()
    }

    /// The calls that have this identity, or this UUID on the wire.
    #[must_use]
    pub fn entries(&self, id: Uuid) -> Vec<(CallId, Entry)> {
        let calls = self.lock();
        let wanted = calls.iter().filter(|(call, entry)| Uuid::from(**call) == id || entry.uuid == id);
        wanted.map(|(call, entry)| (*call, entry.clone())).collect()
    }

    /// All calls.
    #[must_use]
    pub fn all(&self) -> Vec<(CallId, Entry)> {
        self.lock().iter().map(|(call, entry)| (*call, entry.clone())).collect()
    }

    /// How many calls are live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no call is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<CallId, Entry>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
