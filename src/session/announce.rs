//! Calls announced by `POST /call` before their AudioSocket connection comes.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

/// What `POST /call` and the receiver of `call_initiated` said about a call to come.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Announcement {
    /// The free-form payload: metadata of the call.
    pub payload: serde_json::Map<String, serde_json::Value>,
    /// Speech-to-speech service of this call, final form (parameters appended).
    pub sts_url: Option<String>,
    /// Speech recognition service of this call.
    pub asr_url: Option<String>,
    /// Language model service of this call.
    pub llm_url: Option<String>,
    /// Speech synthesis service of this call.
    pub tts_url: Option<String>,
    /// Greeting of this call.
    pub greeting: Option<String>,
}

/// Where announcements are kept. In memory here; a store that several gateways share can take its place.
pub trait Announcements: Send + Sync + 'static {
    /// Remembers `announcement`; an older one of the same UUID is replaced.
    fn put(&self, uuid: Uuid, announcement: Announcement) -> impl Future<Output = ()> + Send;

    /// The announcement of `uuid`, unless it has expired. It stays: a dialplan may connect the same UUID again.
    fn get(&self, uuid: Uuid) -> impl Future<Output = Option<Announcement>> + Send;
}

/// Announcements in this process's memory, bounded in number and age.
#[derive(Debug)]
pub struct MemoryAnnouncements {
    ttl: Duration,
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_uuid: HashMap<Uuid, (Instant, Announcement)>,
    /// Insertion order; an entry is stale when its instant differs from the map's.
    order: VecDeque<(Instant, Uuid)>,
}

impl MemoryAnnouncements {
    /// Keeps at most `capacity` announcements, each for `ttl`.
    #[must_use]
    pub fn new(ttl: Duration, capacity: usize) -> Self {
        Self { ttl, capacity: capacity.max(1), inner: Mutex::default() }
    }

    fn expire(&self, inner: &mut Inner, now: Instant) {
        while let Some(&(at, uuid)) = inner.order.front() {
            let stale = inner.by_uuid.get(&uuid).is_none_or(|(latest, _)| *latest != at);
            let expired = now.duration_since(at) >= self.ttl;
            if !stale && !expired && inner.by_uuid.len() <= self.capacity {
                break;
            }
            inner.order.pop_front();
            if !stale {
                inner.by_uuid.remove(&uuid);
            }
        }
    }
}

impl Announcements for MemoryAnnouncements {
    async fn put(&self, uuid: Uuid, announcement: Announcement) {
        let now = Instant::now();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.by_uuid.insert(uuid, (now, announcement));
        inner.order.push_back((now, uuid));
        self.expire(&mut inner, now);
    }

    async fn get(&self, uuid: Uuid) -> Option<Announcement> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.expire(&mut inner, Instant::now());
        inner.by_uuid.get(&uuid).map(|(_, announcement)| announcement.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(greeting: &str) -> Announcement {
        Announcement { greeting: Some(greeting.to_owned()), ..Announcement::default() }
    }

    #[tokio::test]
    async fn the_oldest_goes_when_full_and_a_renewed_one_counts_as_new() {
        let store = MemoryAnnouncements::new(Duration::from_secs(600), 2);
        let [a, b, c] = [Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3)];
        store.put(a, named("a")).await;
        store.put(b, named("b")).await;
        store.put(a, named("a2")).await;
        store.put(c, named("c")).await;
        assert_eq!(store.get(a).await, Some(named("a2")));
        assert_eq!(store.get(b).await, None);
        assert_eq!(store.get(c).await, Some(named("c")));
    }

    #[tokio::test]
    async fn an_announcement_expires() {
        let store = MemoryAnnouncements::new(Duration::ZERO, 10);
        store.put(Uuid::from_u128(1), named("a")).await;
        assert_eq!(store.get(Uuid::from_u128(1)).await, None);
    }
}
