//! What is known of the channels and bridges of live calls. States are kept, not queued: a flood of events takes no memory, and whoever
//! looks late sees the same.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::{Rest, consult::Consult, wire::Cause};
use crate::call::Digit;

/// How a channel or bridge stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct State {
    /// It has entered the application (a channel), or been made (a bridge).
    pub entered: bool,
    /// It rings.
    pub ringing: bool,
    /// It has been answered.
    pub up: bool,
    /// It has left the application, or is gone.
    pub left: bool,
    /// Why it is gone, once known.
    pub cause: Option<Cause>,
    /// How many keys were pressed there, and the last one.
    pub keys: (u32, Option<char>),
}

/// A live call that came through the application.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    /// Its UUID on the wire.
    pub uuid: Uuid,
    /// The caller's channel.
    pub caller: String,
    /// The bridge.
    pub bridge: String,
    /// The application that it came through.
    pub app: String,
    /// How its Asterisk is asked.
    pub rest: Rest,
    /// Takes orders to ask somebody whether they take the caller.
    pub asks: mpsc::Sender<Consult>,
}

/// The channels and bridges that somebody watches.
#[derive(Debug, Default)]
pub(super) struct Registry {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    count: u64,
    watched: HashMap<String, (u64, watch::Sender<State>)>,
    calls: HashMap<u64, Placed>,
    /// By the caller's channel: who takes its keys, where the leg brings none.
    keys: HashMap<String, (u64, mpsc::Sender<Digit>)>,
}

impl Registry {
    /// Watches `id` from now on, until the returned value is dropped: also before there is such a channel, so that no event can come
    /// too early.
    pub fn watch(self: &Arc<Self>, id: &str) -> Watched {
        let mut inner = self.lock();
        inner.count += 1;
        let (number, (sender, state)) = (inner.count, watch::channel(State::default()));
        inner.watched.insert(id.to_owned(), (number, sender));
        Watched { id: id.to_owned(), number, state, registry: Arc::clone(self) }
    }

    /// Notes a live call, until the returned value is dropped.
    pub fn place(self: &Arc<Self>, placed: Placed) -> Place {
        let mut inner = self.lock();
        inner.count += 1;
        let number = inner.count;
        inner.calls.insert(number, placed);
        Place { number, registry: Arc::clone(self) }
    }

    /// Gives the keys of `caller` to `keys`, until the returned value is dropped.
    pub fn listen(self: &Arc<Self>, caller: &str, keys: mpsc::Sender<Digit>) -> Listening {
        let mut inner = self.lock();
        inner.count += 1;
        let number = inner.count;
        inner.keys.insert(caller.to_owned(), (number, keys.clone()));
        Listening { caller: caller.to_owned(), number, keys, registry: Arc::clone(self) }
    }

    /// A key of `caller`. One that a leg does not take in time is lost, as it is for a caller who presses hundreds in a second.
    pub fn press(&self, caller: &str, key: &str) {
        let mut chars = key.chars();
        let digit = chars.next().filter(|_| chars.next().is_none()).and_then(|key| Digit::try_from(key).ok());
        if let (Some(digit), Some((_, keys))) = (digit, self.lock().keys.get(caller))
            && keys.try_send(digit).is_err()
        {
            tracing::debug!(caller, "a key is lost: the call takes none, or too many came at once");
        }
    }

    /// The live calls with this UUID on the wire.
    pub fn find(&self, uuid: Uuid) -> Vec<Placed> {
        self.lock().calls.values().filter(|placed| placed.uuid == uuid).cloned().collect()
    }

    /// The callers' channels and the UUIDs of the live calls that came through this application.
    pub fn calls_of(&self, app: &str) -> Vec<(String, Uuid)> {
        let inner = self.lock();
        let calls = inner.calls.values().filter(|placed| placed.app == app);
        calls.map(|placed| (placed.caller.clone(), placed.uuid)).collect()
    }

    /// The UUID of the live call of this caller's channel.
    pub fn uuid_of(&self, caller: &str) -> Option<Uuid> {
        self.lock().calls.values().find(|placed| placed.caller == caller).map(|placed| placed.uuid)
    }

    /// How many calls are live.
    pub fn calls(&self) -> usize {
        self.lock().calls.len()
    }

    /// Changes the state of `id`, if anybody watches it; returns how it stood before.
    pub fn update(&self, id: &str, change: impl FnOnce(&mut State)) -> Option<State> {
        let inner = self.lock();
        let (_, sender) = inner.watched.get(id)?;
        let before = *sender.borrow();
        sender.send_modify(change);
        Some(before)
    }

    /// How `id` stands, if anybody watches it.
    pub fn state(&self, id: &str) -> Option<State> {
        self.lock().watched.get(id).map(|(_, sender)| *sender.borrow())
    }

    /// What is watched and should exist.
    pub fn entered(&self) -> Vec<String> {
        let inner = self.lock();
        let entered = inner.watched.iter().filter(|(_, (_, sender))| sender.borrow().entered && !sender.borrow().left);
        entered.map(|(id, _)| id.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A channel or bridge that is watched.
#[derive(Debug)]
pub(super) struct Watched {
    /// Its identity.
    pub id: String,
    number: u64,
    state: watch::Receiver<State>,
    registry: Arc<Registry>,
}

impl Watched {
    /// How it stands now.
    pub fn now(&self) -> State {
        *self.state.borrow()
    }

    /// It exists: we made it, or were told of it.
    pub fn exists(&self) {
        self.registry.update(&self.id, |state| state.entered = true);
    }

    /// Waits until it has entered the application, or has left again.
    pub async fn entered(&self) -> State {
        self.until(|state| state.entered || state.left).await
    }

    /// Waits until it has left, or is gone.
    pub async fn left(&self) -> State {
        self.until(|state| state.left).await
    }

    /// Waits until it stands otherwise than `before`.
    pub async fn changed(&self, before: State) -> State {
        self.until(|state| *state != before).await
    }

    async fn until(&self, holds: impl FnMut(&State) -> bool) -> State {
        let mut state = self.state.clone();
        // somebody else watches the same identity now: for this one it is over
        state.wait_for(holds).await.map_or(State { left: true, ..State::default() }, |state| *state)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut inner = self.registry.lock();
        if inner.watched.get(&self.id).is_some_and(|(number, _)| *number == self.number) {
            inner.watched.remove(&self.id);
        }
    }
}

/// Somebody takes the keys of a caller.
#[derive(Debug)]
pub(super) struct Listening {
    caller: String,
    number: u64,
    keys: mpsc::Sender<Digit>,
    registry: Arc<Registry>,
}

impl Listening {
    /// Whether nobody takes them any more.
    pub fn is_over(&self) -> bool {
        self.keys.is_closed()
    }

    /// Waits until nobody takes them any more.
    pub async fn over(&self) {
        self.keys.closed().await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut inner = self.registry.lock();
        if inner.keys.get(&self.caller).is_some_and(|(number, _)| *number == self.number) {
            inner.keys.remove(&self.caller);
        }
    }
}

/// A live call's place.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    registry: Arc<Registry>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.lock().calls.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_happens_before_anybody_waits_is_not_lost() {
        let registry = Arc::new(Registry::default());
        let media = registry.watch("m");
        assert_eq!(registry.update("m", |state| state.entered = true), Some(State::default()));
        assert!(media.entered().await.entered);
        assert_eq!(registry.entered(), ["m"]);
        registry.update("m", |state| state.left = true);
        assert!(media.left().await.left);
        assert_eq!(registry.entered(), [""; 0]);
        drop(media);
        assert_eq!(registry.update("m", |state| state.left = false), None);
    }

    #[tokio::test]
    async fn a_channel_that_comes_again_is_watched_anew() {
        let registry = Arc::new(Registry::default());
        let first = registry.watch("c");
        registry.update("c", |state| state.left = true);
        let second = registry.watch("c");
        // replaced, so over; and its end takes nothing away from the second
        assert!(first.left().await.left);
        drop(first);
        assert!(registry.update("c", |state| state.entered = true).is_some());
        assert!(second.now().entered);
    }

    #[tokio::test]
    async fn keys_go_to_whoever_listens_and_to_nobody_else() {
        let registry = Arc::new(Registry::default());
        let (sender, mut keys) = mpsc::channel(2);
        let listening = registry.listen("c", sender);
        for (caller, key) in [("d", "1"), ("c", "x"), ("c", "12"), ("c", ""), ("c", "5"), ("c", "#"), ("c", "7")] {
            registry.press(caller, key);
        }
        assert_eq!(keys.recv().await.map(Digit::as_char), Some('5'));
        assert_eq!(keys.recv().await.map(Digit::as_char), Some('#'));
        // the third found no room
        assert!(keys.try_recv().is_err());
        drop(listening);
        // also the leg sees that it is over
        assert_eq!(keys.recv().await, None);
        let (sender, keys) = mpsc::channel(2);
        let listening = registry.listen("c", sender);
        drop(keys);
        listening.over().await;
        registry.press("c", "1");
    }

    #[test]
    fn live_calls_are_found_by_their_uuid() {
        let registry = Arc::new(Registry::default());
        let rest = Rest::over_sockets("default", &super::super::Pbx::default(), None, Arc::default());
        let placed = |n: u128| Placed {
            uuid: Uuid::from_u128(n),
            caller: n.to_string(),
            bridge: String::new(),
            app: format!("hark:{n}"),
            rest: rest.clone(),
            asks: mpsc::channel(1).0,
        };
        let places = [1, 1, 2].map(|n| registry.place(placed(n)));
        assert_eq!((registry.find(Uuid::from_u128(1)).len(), registry.calls()), (2, 3));
        assert_eq!(registry.calls_of("hark:2"), [("2".to_owned(), Uuid::from_u128(2))]);
        drop(places);
        assert_eq!(registry.calls(), 0);
    }
}
