//! Where events wait until they are delivered.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_core::future::BoxFuture;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use super::body;
use crate::call::{CallEvent, CallId, Envelope, EventId};

/// The outbox holds as much as it may; the event is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the webhook outbox is full ({events} events, {bytes} bytes); is the receiver reachable and fast enough?")]
pub struct Full {
    /// Events held.
    pub events: usize,
    /// Their bodies' bytes.
    pub bytes: usize,
}

/// An event to be delivered, rendered once: every attempt sends the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Identity of the event, the same at every attempt.
    pub id: EventId,
    /// The call: the key of order.
    pub call: CallId,
    /// The UUID in the body, for logs.
    pub uuid: Uuid,
    /// `type` in the body, for logs.
    pub kind: Cow<'static, str>,
    /// The request's body.
    pub body: Bytes,
    /// Which attempt this is, from 1.
    pub attempt: u32,
}

impl From<&Envelope> for Due {
    fn from(envelope: &Envelope) -> Self {
        Self {
            id: envelope.id,
            call: envelope.call,
            uuid: envelope.uuid,
            kind: Cow::Borrowed(envelope.event.kind()),
            body: body::render(envelope),
            attempt: 1,
        }
    }
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver has it.
    Delivered,
    /// It failed for good: the next event of the call may go.
    GivenUp,
    /// To be tried again after this time; until then the call's later events wait.
    RetryAfter(Duration),
}

/// Where events wait until they are delivered: in memory, or in a database that survives a restart.
///
/// Events of one call go out in the order in which they were put, never two at once; calls do not wait for each other.
pub trait Outbox: Send + Sync + 'static {
    /// Takes an event, as durably as this outbox can: once this resolves to `Ok`, the event will be handed out.
    fn put(&self, envelope: Envelope) -> BoxFuture<'_, Result<(), Full>>;

    /// Waits for an event whose turn has come. It stays in the outbox, and its call waits, until [`Outbox::mark`].
    ///
    /// Cancel-safe: what is not returned is not handed out.
    fn next(&self) -> BoxFuture<'_, Due>;

    /// Says what became of an event that [`Outbox::next`] handed out.
    fn mark<'a>(&'a self, due: &'a Due, outcome: Outcome) -> BoxFuture<'a, ()>;

    /// Events held: waiting or handed out.
    fn left(&self) -> BoxFuture<'_, usize>;
}

/// Bytes of bodies held at most, whatever the number of events: transcriptions have no length of their own.
const MAX_BYTES: usize = 64 << 20;

/// An outbox in this process's memory: bounded, and empty after a restart.
#[derive(Debug)]
pub struct MemoryOutbox {
    capacity: usize,
    max_bytes: usize,
    inner: Mutex<Inner>,
    /// Something may be ready.
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    lanes: HashMap<CallId, Lane>,
    /// Calls whose first event may go now; each call is here, in `later`, or has its first event out.
    ready: VecDeque<CallId>,
    later: BinaryHeap<Reverse<(Instant, CallId)>>,
    events: usize,
    bytes: usize,
}

/// The events of one call; never empty.
type Lane = VecDeque<Due>;

impl MemoryOutbox {
    /// Holds at most `capacity` events; the last tenth is kept for `call_started` and `call_ended`.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), max_bytes: MAX_BYTES, inner: Mutex::default(), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, envelope: &Envelope) -> Result<(), Full> {
        let due = Due::from(envelope);
        let mut inner = self.lock();
        let (events, bytes) = match envelope.event {
            CallEvent::Started | CallEvent::Ended(_) => (self.capacity, self.max_bytes),
            _ => (self.capacity - self.capacity / 10, self.max_bytes - self.max_bytes / 10),
        };
        if inner.events >= events || inner.bytes + due.body.len() > bytes {
            return Err(Full { events: inner.events, bytes: inner.bytes });
        }
        inner.events += 1;
        inner.bytes += due.body.len();
        let call = due.call;
        let lane = inner.lanes.entry(call).or_default();
        lane.push_back(due);
        if lane.len() == 1 {
            inner.ready.push_back(call);
        }
        Ok(())
    }

    fn take(&self) -> Result<Due, Option<Instant>> {
        self.lock().take(Instant::now())
    }
}

impl Inner {
    /// The next event, or when to look again.
    fn take(&mut self, now: Instant) -> Result<Due, Option<Instant>> {
        while let Some(&Reverse((at, call))) = self.later.peek()
            && at <= now
        {
            self.later.pop();
            self.ready.push_back(call);
        }
        while let Some(call) = self.ready.pop_front() {
            if let Some(due) = self.lanes.get(&call).and_then(VecDeque::front) {
                return Ok(due.clone());
            }
        }
        Err(self.later.peek().map(|&Reverse((at, _))| at))
    }

    fn mark(&mut self, due: &Due, outcome: Outcome, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&due.call) else { return };
        let Some(first) = lane.front_mut().filter(|first| first.id == due.id) else { return };
        if let Outcome::RetryAfter(wait) = outcome {
            first.attempt = first.attempt.saturating_add(1);
            self.later.push(Reverse((now + wait, due.call)));
            return;
        }
        self.events -= 1;
        self.bytes -= first.body.len();
        lane.pop_front();
        if lane.is_empty() {
            self.lanes.remove(&due.call);
        } else {
            self.ready.push_back(due.call);
        }
    }
}

impl Outbox for MemoryOutbox {
    fn put(&self, envelope: Envelope) -> BoxFuture<'_, Result<(), Full>> {
        let result = self.insert(&envelope);
        self.wake.notify_one();
        Box::pin(std::future::ready(result))
    }

    fn next(&self) -> BoxFuture<'_, Due> {
        Box::pin(async move {
            loop {
                let woken = self.wake.notified();
                match self.take() {
                    Ok(due) => {
                        // somebody else may be waiting for what is left
                        self.wake.notify_one();
                        return due;
                    }
                    Err(None) => woken.await,
                    Err(Some(at)) => tokio::select! { () = woken => {}, () = sleep_until(at) => {} },
                }
            }
        })
    }

    fn mark<'a>(&'a self, due: &'a Due, outcome: Outcome) -> BoxFuture<'a, ()> {
        self.lock().mark(due, outcome, Instant::now());
        self.wake.notify_one();
        Box::pin(std::future::ready(()))
    }

    fn left(&self) -> BoxFuture<'_, usize> {
        let left = self.lock().events;
        Box::pin(std::future::ready(left))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::SystemTime;

    use futures_util::FutureExt;

    use super::*;
    use crate::call::{EndReason, Role};

    fn event(call: CallId, event: CallEvent) -> Envelope {
        Envelope { id: EventId::new(), call, uuid: Uuid::nil(), at: SystemTime::UNIX_EPOCH, event }
    }

    fn said(call: CallId, text: &str) -> Envelope {
        event(call, CallEvent::Transcription { role: Role::User, text: text.to_owned() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_its_own_events_and_for_no_other_calls() {
        let outbox = MemoryOutbox::new(100);
        let (a, b) = (CallId::new(), CallId::new());
        let events = [said(a, "1"), said(a, "2"), said(b, "1")];
        for event in &events {
            outbox.put(event.clone()).await.unwrap();
        }
        let a1 = outbox.next().await;
        let b1 = outbox.next().await;
        assert_eq!((a1.id, b1.id), (events[0].id, events[2].id));
        assert!(outbox.next().now_or_never().is_none(), "a's second event went out beside its first");

        outbox.mark(&a1, Outcome::RetryAfter(Duration::from_secs(4))).await;
        outbox.mark(&b1, Outcome::Delivered).await;
        assert!(outbox.next().now_or_never().is_none(), "a's second event overtook its first");
        let before = Instant::now();
        let again = outbox.next().await;
        assert_eq!((again.id, again.attempt, before.elapsed()), (a1.id, 2, Duration::from_secs(4)));
        assert_eq!(again.body, a1.body);

        outbox.mark(&again, Outcome::GivenUp).await;
        let a2 = outbox.next().await;
        assert_eq!((a2.id, a2.attempt), (events[1].id, 1));
        assert_eq!(outbox.left().await, 1);
        outbox.mark(&a2, Outcome::Delivered).await;
        assert_eq!(outbox.left().await, 0);
        assert!(outbox.lock().lanes.is_empty() && outbox.lock().bytes == 0);
    }

    #[tokio::test]
    async fn an_event_put_or_marked_wakes_who_waits() {
        let outbox = MemoryOutbox::new(100);
        let call = CallId::new();
        let (first, second) = (said(call, "1"), said(call, "2"));
        let (due, ()) = tokio::join!(outbox.next(), async { outbox.put(first.clone()).await.unwrap() });
        assert_eq!(due.id, first.id);
        outbox.put(second.clone()).await.unwrap();
        let (due, ()) = tokio::join!(outbox.next(), outbox.mark(&due, Outcome::Delivered));
        assert_eq!(due.id, second.id);
    }

    #[tokio::test]
    async fn the_last_tenth_is_for_starts_and_ends_and_marking_makes_room() {
        let outbox = MemoryOutbox::new(10);
        let call = CallId::new();
        for n in 0..9 {
            outbox.put(said(call, &n.to_string())).await.unwrap();
        }
        assert_eq!(outbox.put(said(call, "9")).await.unwrap_err().events, 9);
        outbox.put(event(call, CallEvent::Ended(EndReason::CallerHangup))).await.unwrap();
        assert_eq!(outbox.put(event(call, CallEvent::Started)).await.unwrap_err().events, 10);
        for _ in 0..2 {
            let due = outbox.next().await;
            outbox.mark(&due, Outcome::Delivered).await;
        }
        outbox.put(said(call, "10")).await.unwrap();
    }

    #[tokio::test]
    async fn long_texts_are_bounded_by_their_bytes() {
        let outbox = MemoryOutbox { max_bytes: 2_000, ..MemoryOutbox::new(100) };
        let call = CallId::new();
        outbox.put(said(call, &"a".repeat(700))).await.unwrap();
        assert!(outbox.put(said(call, &"a".repeat(1_200))).await.is_err());
        outbox.put(said(call, "short")).await.unwrap();
    }

    #[tokio::test]
    async fn marking_twice_or_what_was_never_out_changes_nothing() {
        let outbox = MemoryOutbox::new(10);
        let call = CallId::new();
        outbox.put(said(call, "1")).await.unwrap();
        outbox.put(said(call, "2")).await.unwrap();
        let due = outbox.next().await;
        outbox.mark(&due, Outcome::Delivered).await;
        outbox.mark(&due, Outcome::Delivered).await;
        outbox.mark(&Due::from(&said(CallId::new(), "x")), Outcome::GivenUp).await;
        assert_eq!(outbox.left().await, 1);
    }
}
