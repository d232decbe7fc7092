//! Announced calls: in memory, and in the store where there is one, so that another gateway can take the call.

use std::time::Duration;

use tokio::{runtime::Handle, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::{
    call::CallId,
    session::{Announcement, Announcements, Gone, MemoryAnnouncements},
    webhook::store::{Store, StoreError},
};

/// How long the database may take to be asked about a call that is connecting: who asks waits 50 ms in all.
const LOOK_UP: Duration = Duration::from_millis(35);

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

    /// Calls that were announced here and never came. Where there is a store, it knows better.
    pub(super) fn gone(&self) -> Vec<Gone> {
        let gone = self.memory.gone();
        if self.store.is_some() { Vec::new() } else { gone }
    }

    /// What the store knows, and whether this is the first who asks.
    async fn stored(&self, store: &Store, uuid: Uuid) -> Option<(Announcement, bool)> {
        let asked = store.clone();
        // given up, it is not to hold a connection
        let looked = AbortOnDropHandle::new(self.control.spawn(async move { asked.take_announced(uuid).await }));
        match timeout(LOOK_UP, looked).await {
            Ok(Ok(Ok(Some((body, first))))) => match serde_json::from_str(&body) {
                Ok(announcement) => return Some((announcement, first)),
                Err(error) => warn!(%uuid, "this call's announcement cannot be read: {error}"),
            },
            Ok(Ok(Ok(None))) => {}
            Ok(Ok(Err(error))) => said(uuid, &error),
            Err(_) => {
                warn!(%uuid, code = "store.slow", "the database did not say in {} ms whether this call was announced", LOOK_UP.as_millis());
            }
            // the runtime is going down
            Ok(Err(_)) => {}
        }
        None
    }
}

fn said(uuid: Uuid, error: &StoreError) {
    warn!(%uuid, code = error.code(), "announcements cannot be looked up: {error}");
}

impl Announcements for Announced {
    async fn put(&self, uuid: Uuid, announcement: Announcement) {
        let call = announcement.call.map(CallId::from);
        let stored = self.store.as_ref().map(|store| (store, serde_json::to_string(&announcement)));
        self.memory.put(uuid, announcement).await;
        if let Some((store, Ok(body))) = stored
            && let Err(error) = store.announce(uuid, call.unwrap_or_default(), body, self.ttl).await
        {
            warn!(%uuid, code = error.code(), "this call's announcement is in memory only, no other gateway can take the call: {error}");
        }
    }

    async fn take(&self, uuid: Uuid) -> Option<Announcement> {
        let mut here = self.memory.take(uuid).await;
        let Some(store) = &self.store else { return here };
        if here.is_some() && !store.shared() {
            // nobody else can know it better; a call that comes late in its announcement's life is not to be given up meanwhile
            let store = store.clone();
            self.control.spawn(async move {
                if let Err(error) = store.take_announced(uuid).await {
                    debug!(%uuid, code = error.code(), "that this call has come could not be stored yet: {error}");
                }
            });
            return here;
        }
        match self.stored(store, uuid).await {
            Some((mut announcement, first)) => {
                if !first {
                    announcement.call = None;
                }
                Some(announcement)
            }
            None => here.take(),
        }
    }
}
