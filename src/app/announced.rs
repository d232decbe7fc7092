//! Announced calls: in memory, and in the store where there is one, so that another gateway can take the call.

use std::time::Duration;

use tokio::{runtime::Handle, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;
use uuid::Uuid;

use crate::{
    session::{Announcement, Announcements, MemoryAnnouncements},
    webhook::store::Store,
};

/// How long the store may take: less than a call waits, so that there is time for what the memory knows.
const STORED: Duration = Duration::from_millis(35);

/// Where announcements are kept.
#[derive(Debug)]
pub struct Announced {
    memory: MemoryAnnouncements,
    store: Option<Store>,
    ttl: Duration,
    /// Calls ask from their media threads, which touch no database.
    control: Handle,
}

impl Announced {
    /// Has to be called on the control runtime.
    pub(super) fn new(ttl: Duration, capacity: usize, store: Option<Store>) -> Self {
        Self { memory: MemoryAnnouncements::new(ttl, capacity), store, ttl, control: Handle::current() }
    }
}

impl Announcements for Announced {
    async fn put(&self, uuid: Uuid, announcement: Announcement) {
        let stored = self.store.as_ref().map(|store| (store, serde_json::to_string(&announcement)));
        self.memory.put(uuid, announcement).await;
        if let Some((store, Ok(body))) = stored
            && let Err(error) = store.announce(uuid, body, self.ttl).await
        {
            warn!(%uuid, code = error.code(), "this call's announcement is in memory only, no other gateway can take the call: {error}");
        }
    }

    async fn get(&self, uuid: Uuid) -> Option<Announcement> {
        if let Some(store) = self.store.clone() {
            // given up, it is not to hold a connection
            let stored = AbortOnDropHandle::new(self.control.spawn(async move { store.announced(uuid).await }));
            let Ok(stored) = timeout(STORED, stored).await else {
                warn!(%uuid, "the database takes too long to look up this call's announcement: only what this gateway was told itself is used");
                return self.memory.get(uuid).await;
            };
            match stored {
                Ok(Ok(Some(body))) => match serde_json::from_str(&body) {
                    Ok(announcement) => return Some(announcement),
                    Err(error) => warn!(%uuid, "this call's announcement cannot be read: {error}"),
                },
                Ok(Ok(None)) => {}
                Ok(Err(error)) => warn!(%uuid, code = error.code(), "announcements cannot be looked up: {error}"),
                // the runtime is going down
                Err(_) => {}
            }
        }
        self.memory.get(uuid).await
    }
}
