//! Calls announced by `POST /call` before their AudioSocket connection comes.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::warn;
use uuid::Uuid;

use crate::call::OnMachine;

/// What `POST /call` and the receiver of `call_initiated` said about a call to come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Announcement {
    /// The identity of the call to come, which the first connection takes: what is said about it before and after is one call's.
    pub call: Option<Uuid>,
    /// The free-form payload: metadata of the call.
    pub payload: Map<String, Value>,
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
    /// Why the call is not to be taken.
    pub refused: Option<String>,
    /// For a call that we make: what is done with a machine that answers; `None`: whether it is one is not asked.
    pub screen: Option<OnMachine>,
}

impl Announcement {
    /// The memory it takes, roughly: a list of small numbers takes many times what it took on the wire.
    fn weight(&self) -> usize {
        let texts = [&self.sts_url, &self.asr_url, &self.llm_url, &self.tts_url, &self.greeting, &self.refused];
        let message = match &self.screen {
            Some(OnMachine::Message(text)) => text.len(),
            _ => 0,
        };
        size_of::<(Uuid, Instant, Self)>()
            + message
            + weight_of_map(&self.payload)
            + texts.into_iter().flatten().map(String::len).sum::<usize>()
    }
}

fn weight_of_map(map: &Map<String, Value>) -> usize {
    // a member: its key, its value, its hash and its place in the table
    map.iter().map(|(key, value)| size_of::<(String, u64, u64)>() + key.len() + weight(value)).sum()
}

fn weight(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(weight).sum(),
            Value::Object(members) => weight_of_map(members),
        }
}

/// Where announcements are kept. In memory here; a store that several gateways share can take its place.
pub trait Announcements: Send + Sync + 'static {
    /// Remembers `announcement`; an older one of the same UUID is replaced.
    fn put(&self, uuid: Uuid, announcement: Announcement) -> impl Future<Output = ()> + Send;

    /// The announcement of `uuid`, unless it has expired. It stays, without [`Announcement::call`], which only the first one gets: a
    /// dialplan may connect the same UUID again, and that is another call.
    fn take(&self, uuid: Uuid) -> impl Future<Output = Option<Announcement>> + Send;
}

/// Memory that all announcements may take together, in bytes: room for 10,000 of some 6 kB.
const MOST_BYTES: usize = 64 << 20;
/// Announcements of calls that never came, kept for whoever reports them.
const MOST_GONE: usize = 1_000;

/// Announcements in this process's memory, bounded in number, bytes and age: the oldest go first.
#[derive(Debug)]
pub struct MemoryAnnouncements {
    ttl: Duration,
    capacity: usize,
    bytes: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_uuid: HashMap<Uuid, Kept>,
    /// Insertion order; an entry is stale when its number differs from the map's.
    order: VecDeque<(u64, Uuid)>,
    /// Numbers given so far.
    count: u64,
    /// The weight of all that is kept.
    bytes: usize,
    /// Calls that never came, until somebody has asked for them.
    gone: VecDeque<Gone>,
    said_full: bool,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    at: Instant,
    weight: usize,
    /// Somebody has asked for it.
    taken: bool,
    announcement: Announcement,
}

/// An announced call that never came.
#[derive(Debug, Clone, PartialEq)]
pub struct Gone {
    /// Its UUID on the wire.
    pub uuid: Uuid,
    /// What was said about it.
    pub announcement: Announcement,
    /// Another one took its place before it expired.
    pub replaced: bool,
}

impl Inner {
    fn put(&mut self, uuid: Uuid, announcement: Announcement, now: Instant) {
        self.count += 1;
        let mut kept = Kept { number: self.count, at: now, weight: announcement.weight(), taken: false, announcement };
        self.bytes += kept.weight;
        self.order.push_back((kept.number, uuid));
        if let Some(older) = self.by_uuid.remove(&uuid) {
            self.bytes -= older.weight;
            // more is known about the same call
            kept.taken = older.taken && older.announcement.call == kept.announcement.call;
            if older.announcement.call != kept.announcement.call {
                self.went(uuid, older, true);
            }
        }
        self.by_uuid.insert(uuid, kept);
        // one call announced over and over leaves only stale entries behind, which must not pile up behind a fresh one
        if self.order.len() > 2 * self.by_uuid.len() + 64 {
            let by_uuid = &self.by_uuid;
            self.order.retain(|(number, uuid)| by_uuid.get(uuid).is_some_and(|kept| kept.number == *number));
        }
    }

    fn remove(&mut self, uuid: Uuid) {
        if let Some(kept) = self.by_uuid.remove(&uuid) {
            self.bytes -= kept.weight;
            self.went(uuid, kept, false);
        }
    }

    /// Nobody will ask for this one any more.
    fn went(&mut self, uuid: Uuid, kept: Kept, replaced: bool) {
        if !kept.taken && self.gone.len() < MOST_GONE {
            self.gone.push_back(Gone { uuid, announcement: kept.announcement, replaced });
        }
    }
}

impl MemoryAnnouncements {
    /// Keeps at most `capacity` announcements and 64 MB of them, each for `ttl`.
    #[must_use]
    pub fn new(ttl: Duration, capacity: usize) -> Self {
        Self { ttl, capacity: capacity.max(1), bytes: MOST_BYTES, inner: Mutex::default() }
    }

    /// Calls that were announced here and never came, since it was last asked.
    pub fn gone(&self) -> Vec<Gone> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.expire(&mut inner, Instant::now());
        std::mem::take(&mut inner.gone).into()
    }

    fn expire(&self, inner: &mut Inner, now: Instant) {
        while let Some(&(number, uuid)) = inner.order.front() {
            let Some(kept) = inner.by_uuid.get(&uuid).filter(|kept| kept.number == number) else {
                inner.order.pop_front();
                continue;
            };
            let expired = now.duration_since(kept.at) >= self.ttl;
            let full = inner.by_uuid.len() > self.capacity || inner.bytes > self.bytes;
            if !expired && !full {
                break;
            }
            let age = now.duration_since(kept.at);
            if !expired && !std::mem::replace(&mut inner.said_full, true) {
                self.say_full(inner.by_uuid.len(), inner.bytes, age);
            }
            inner.order.pop_front();
            inner.remove(uuid);
        }
    }

    /// One line, not one for each that is forgotten.
    fn say_full(&self, calls: usize, bytes: usize, oldest: Duration) {
        warn!(
            code = "session.announcements.full",
            calls,
            bytes,
            "more calls are announced by POST /call than are remembered (http.max_announcements = {}, {} MB in all): the oldest, \
             {} s old, are forgotten before their audio came; who announces calls that never come?",
            self.capacity,
            self.bytes >> 20,
            oldest.as_secs(),
        );
    }
}

impl Announcements for MemoryAnnouncements {
    async fn put(&self, uuid: Uuid, announcement: Announcement) {
        let now = Instant::now();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.put(uuid, announcement, now);
        self.expire(&mut inner, now);
    }

    async fn take(&self, uuid: Uuid) -> Option<Announcement> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.expire(&mut inner, Instant::now());
        let kept = inner.by_uuid.get_mut(&uuid)?;
        let mut announcement = kept.announcement.clone();
        if std::mem::replace(&mut kept.taken, true) {
            announcement.call = None;
        }
        Some(announcement)
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
        assert_eq!(store.take(a).await, Some(named("a2")));
        assert_eq!(store.take(b).await, None);
        assert_eq!(store.take(c).await, Some(named("c")));
    }

    #[tokio::test]
    async fn an_announcement_expires() {
        let store = MemoryAnnouncements::new(Duration::ZERO, 10);
        store.put(Uuid::from_u128(1), named("a")).await;
        assert_eq!(store.take(Uuid::from_u128(1)).await, None);
    }

    #[tokio::test]
    async fn the_first_who_asks_is_the_call_and_one_that_never_came_is_known() {
        let store = MemoryAnnouncements::new(Duration::from_secs(600), 2);
        let [a, b, c] = [Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3)];
        let of = |call: u128| Announcement { call: Some(Uuid::from_u128(call)), ..Announcement::default() };
        store.put(a, of(10)).await;
        assert_eq!(store.take(a).await, Some(of(10)));
        store.put(a, Announcement { greeting: Some("more is known".to_owned()), ..of(10) }).await;
        assert_eq!(store.take(a).await.map(|again| (again.call, again.greeting.is_some())), Some((None, true)));
        store.put(b, of(20)).await;
        store.put(b, of(21)).await;
        let gone = store.gone();
        assert_eq!(gone, [Gone { uuid: b, announcement: of(20), replaced: true }]);
        store.put(a, of(11)).await;
        store.put(c, of(30)).await;
        assert_eq!(store.gone(), [Gone { uuid: b, announcement: of(21), replaced: false }], "the oldest had to go");
        assert_eq!(store.take(a).await, Some(of(11)));
        assert_eq!(store.gone(), []);
    }

    /// What the store holds against what it says it holds.
    fn check(store: &MemoryAnnouncements) -> (usize, usize, usize) {
        let inner = store.inner.lock().unwrap();
        assert_eq!(inner.bytes, inner.by_uuid.values().map(|kept| kept.announcement.weight()).sum::<usize>());
        (inner.by_uuid.len(), inner.bytes, inner.order.len())
    }

    fn with_payload(json: &str) -> Announcement {
        Announcement { payload: serde_json::from_str(json).unwrap(), ..Announcement::default() }
    }

    #[test]
    fn the_weight_is_that_of_the_memory_not_of_the_wire() {
        let list = |numbers: usize| with_payload(&format!(r#"{{"a":[{}]}}"#, vec!["0"; numbers].join(","))).weight();
        assert_eq!(list(20_001) - list(10_001), 10_000 * size_of::<Value>());
        let members = |n: usize| {
            with_payload(&format!("{{{}}}", (0..n).map(|i| format!("\"{i}\":{{}}")).collect::<Vec<_>>().join(",")))
        };
        assert!(members(1_000).weight() > 1_000 * 64);
        assert!(named(&"x".repeat(5_000)).weight() - named("").weight() == 5_000);
    }

    #[tokio::test]
    async fn the_oldest_go_when_the_bytes_are_used_up() {
        let big = with_payload(&format!(r#"{{"a":[{}0]}}"#, "0,".repeat(32_000)));
        let each = big.weight();
        let store =
            MemoryAnnouncements { bytes: 10 * each, ..MemoryAnnouncements::new(Duration::from_secs(600), 1_000) };
        for n in 0..100 {
            store.put(Uuid::from_u128(n), big.clone()).await;
        }
        assert_eq!(check(&store).0, 10);
        assert_eq!(store.take(Uuid::from_u128(89)).await, None);
        assert_eq!(store.take(Uuid::from_u128(90)).await, Some(big));
        // a small one in place of a large one makes room again
        for n in 90..100 {
            store.put(Uuid::from_u128(n), named("a")).await;
        }
        let (calls, bytes, _) = check(&store);
        assert!(calls == 10 && bytes < each, "{calls} calls, {bytes} bytes");
    }

    #[tokio::test]
    async fn one_call_announced_over_and_over_takes_the_room_of_one() {
        let store = MemoryAnnouncements::new(Duration::from_secs(600), 10_000);
        store.put(Uuid::from_u128(1), named("first")).await;
        for n in 0..10_000 {
            store.put(Uuid::from_u128(2), named(&n.to_string())).await;
        }
        let (calls, _, order) = check(&store);
        assert!(calls == 2 && order < 100, "{calls} calls, {order} entries");
        assert_eq!(store.take(Uuid::from_u128(1)).await, Some(named("first")));
        assert_eq!(store.take(Uuid::from_u128(2)).await, Some(named("9999")));
    }
}
