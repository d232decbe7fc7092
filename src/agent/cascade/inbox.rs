//! What a call has told its cascade and the cascade has not yet taken: controls and, apart from them, the caller's audio.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// A bounded queue whose sender never waits.
#[derive(Debug)]
pub struct Inbox<T> {
    capacity: usize,
    inner: Mutex<Inner<T>>,
    filled: Notify,
}

#[derive(Debug)]
struct Inner<T> {
    queue: VecDeque<T>,
    dropped: u64,
}

impl<T> Inbox<T> {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, inner: Mutex::new(Inner { queue: VecDeque::new(), dropped: 0 }), filled: Notify::new() }
    }

    /// Adds `item`; gives it back when full.
    pub fn offer(&self, item: T) -> Result<(), T> {
        let mut inner = self.lock();
        if inner.queue.len() >= self.capacity {
            return Err(item);
        }
        inner.queue.push_back(item);
        drop(inner);
        self.filled.notify_one();
        Ok(())
    }

    /// Adds `item`; when full the oldest goes. Returns how many have gone so since [`Self::take_dropped`].
    pub fn force(&self, item: T) -> u64 {
        let mut inner = self.lock();
        if inner.queue.len() >= self.capacity {
            inner.queue.pop_front();
            inner.dropped += 1;
        }
        inner.queue.push_back(item);
        let dropped = inner.dropped;
        drop(inner);
        self.filled.notify_one();
        dropped
    }

    /// The oldest item; waits for one. One receiver only.
    pub async fn take(&self) -> T {
        loop {
            if let Some(item) = self.lock().queue.pop_front() {
                return item;
            }
            self.filled.notified().await;
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lock().queue.is_empty()
    }

    /// The oldest item, if there is one.
    pub fn try_take(&self) -> Option<T> {
        self.lock().queue.pop_front()
    }

    /// How many were dropped, once the queue has been emptied; counting starts anew.
    pub fn take_dropped(&self) -> Option<u64> {
        let mut inner = self.lock();
        let caught_up = inner.queue.is_empty() && inner.dropped > 0;
        caught_up.then(|| std::mem::take(&mut inner.dropped))
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_goes_and_is_counted() {
        let inbox = Inbox::new(2);
        assert_eq!((inbox.force(1), inbox.force(2), inbox.force(3)), (0, 0, 1));
        assert_eq!(inbox.take_dropped(), None);
        assert_eq!((inbox.take().await, inbox.take().await), (2, 3));
        assert_eq!(inbox.take_dropped(), Some(1));
        assert_eq!(inbox.take_dropped(), None);
    }

    #[tokio::test]
    async fn what_does_not_fit_comes_back() {
        let inbox = Inbox::new(1);
        assert_eq!(inbox.offer('a'), Ok(()));
        assert_eq!(inbox.offer('b'), Err('b'));
        assert_eq!(inbox.take().await, 'a');
        assert_eq!(inbox.try_take(), None);
    }
}
