//! The outbox in memory.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_core::future::BoxFuture;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    Due, Entry, Full, Outbox, Outcome, Phase, Report,
    outbox::{MAX_BYTES, Recipient},
};
use crate::call::CallId;

/// How long after a call's last event one more may come (its report): its number follows.
const FORGET: Duration = Duration::from_secs(60);

/// An outbox in this process's memory: bounded, and empty after a restart.
#[derive(Debug)]
pub struct MemoryOutbox {
    capacity: usize,
    max_bytes: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    endpoints: HashMap<Arc<str>, Lanes>,
    deliveries: usize,
    bytes: usize,
    /// Calls whose last event has come, and when: endpoints that did not get it have to forget the call too.
    ended: VecDeque<(Instant, CallId)>,
}

/// The deliveries to one endpoint.
#[derive(Debug, Default)]
struct Lanes {
    by_call: HashMap<CallId, Lane>,
    /// Calls whose first event may go now; each call with events is here, in `later`, or has its first event out.
    ready: VecDeque<CallId>,
    later: BinaryHeap<Reverse<(Instant, CallId)>>,
    /// Something may be ready.
    wake: Arc<Notify>,
}

/// The events of one call; it stays, empty, until the call's last event is delivered, for the sake of the numbers.
#[derive(Debug, Default)]
struct Lane {
    events: VecDeque<Due>,
    last_seq: u64,
    over: bool,
}

impl MemoryOutbox {
    /// Holds at most `capacity` deliveries; the last tenth is kept for `call_started` and `call_ended`.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), max_bytes: MAX_BYTES, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, entry: &Entry) -> Result<(), Full> {
        let mut inner = self.lock();
        let (capacity, max_bytes) = match entry.phase {
            Phase::Start | Phase::End => (self.capacity, self.max_bytes),
            Phase::Middle => (self.capacity - self.capacity / 10, self.max_bytes - self.max_bytes / 10),
        };
        let sent = entry.to.iter().filter(|to| !to.asked);
        let bytes = sent.map(|to| to.body.as_ref().unwrap_or(&entry.body).len()).sum::<usize>();
        let deliveries = entry.deliveries();
        if deliveries > 0 && (inner.deliveries + deliveries > capacity || inner.bytes + bytes > max_bytes) {
            return Err(Full { events: inner.deliveries, bytes: inner.bytes });
        }
        inner.deliveries += deliveries;
        inner.bytes += bytes;
        inner.forget(Instant::now());
        if entry.phase == Phase::End {
            inner.ended.push_back((Instant::now(), entry.call));
        }
        for to in &entry.to {
            inner.endpoints.entry(Arc::clone(&to.endpoint)).or_default().push(entry, to);
        }
        Ok(())
    }

    /// The next event for `endpoint`, or what to wait for.
    fn take(&self, endpoint: &str) -> Result<Due, (Arc<Notify>, Option<Instant>)> {
        let mut inner = self.lock();
        if let Some(lanes) = inner.endpoints.get_mut(endpoint) {
            return lanes.take(Instant::now()).map_err(|at| (Arc::clone(&lanes.wake), at));
        }
        let lanes = inner.endpoints.entry(endpoint.into()).or_default();
        Err((Arc::clone(&lanes.wake), None))
    }
}

impl Inner {
    /// Forgets calls that ended a while ago where nothing of them waits.
    fn forget(&mut self, now: Instant) {
        while let Some(&(at, call)) = self.ended.front()
            && now.duration_since(at) >= FORGET
        {
            self.ended.pop_front();
            for lanes in self.endpoints.values_mut() {
                match lanes.by_call.get_mut(&call) {
                    Some(lane) if lane.events.is_empty() => drop(lanes.by_call.remove(&call)),
                    Some(lane) => lane.over = true,
                    None => {}
                }
            }
        }
    }
}

impl Lanes {
    fn push(&mut self, entry: &Entry, to: &Recipient) {
        let lane = self.by_call.entry(entry.call).or_default();
        lane.last_seq += 1;
        lane.over |= entry.phase == Phase::End;
        if to.asked {
            return;
        }
        lane.events.push_back(Due {
            id: entry.id,
            endpoint: Arc::clone(&to.endpoint),
            call: entry.call,
            seq: lane.last_seq,
            uuid: entry.uuid,
            kind: entry.kind.clone(),
            url: to.url.clone(),
            body: to.body.clone().unwrap_or_else(|| entry.body.clone()),
            attempt: 1,
            tries_before: 0,
        });
        if lane.events.len() == 1 {
            self.ready.push_back(entry.call);
        }
        self.wake.notify_one();
    }

    fn take(&mut self, now: Instant) -> Result<Due, Option<Instant>> {
        while let Some(&Reverse((at, call))) = self.later.peek()
            && at <= now
        {
            self.later.pop();
            self.ready.push_back(call);
        }
        while let Some(call) = self.ready.pop_front() {
            if let Some(due) = self.by_call.get(&call).and_then(|lane| lane.events.front()) {
                // somebody else may be waiting for what is left
                self.wake.notify_one();
                return Ok(due.clone());
            }
        }
        Err(self.later.peek().map(|&Reverse((at, _))| at))
    }

    /// The bytes that are free now, if the event is settled.
    fn mark(&mut self, due: &Due, outcome: Outcome, now: Instant) -> Option<usize> {
        let lane = self.by_call.get_mut(&due.call)?;
        let first = lane.events.front_mut().filter(|first| first.id == due.id)?;
        self.wake.notify_one();
        if let Outcome::RetryAfter(wait) = outcome {
            first.attempt = first.attempt.saturating_add(1);
            self.later.push(Reverse((now + wait, due.call)));
            return None;
        }
        let settled = lane.events.pop_front()?;
        if !lane.events.is_empty() {
            self.ready.push_back(due.call);
        } else if lane.over {
            self.by_call.remove(&due.call);
        }
        Some(settled.body.len())
    }
}

impl Outbox for MemoryOutbox {
    fn put_all(&self, entries: Vec<Entry>) -> BoxFuture<'static, Result<(), Full>> {
        let mut taken = Ok(());
        for entry in &entries {
            taken = taken.and(self.insert(entry));
        }
        Box::pin(std::future::ready(taken))
    }

    fn forget(&self, call: CallId) {
        self.lock().ended.push_back((Instant::now(), call));
    }

    fn next<'a>(&'a self, endpoint: &'a str) -> BoxFuture<'a, Due> {
        Box::pin(async move {
            loop {
                let (wake, at) = match self.take(endpoint) {
                    Ok(due) => return due,
                    Err(wait) => wait,
                };
                // a permit that came since is kept for us
                match at {
                    None => wake.notified().await,
                    Some(at) => tokio::select! { () = wake.notified() => {}, () = sleep_until(at) => {} },
                }
            }
        })
    }

    fn mark(&self, due: &Due, outcome: Outcome, _: Report) {
        let mut inner = self.lock();
        let freed = inner.endpoints.get_mut(&due.endpoint).and_then(|lanes| lanes.mark(due, outcome, Instant::now()));
        if let Some(bytes) = freed {
            inner.deliveries -= 1;
            inner.bytes -= bytes;
        }
    }

    fn left(&self) -> usize {
        self.lock().deliveries
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::SystemTime;

    use futures_util::FutureExt;
    use uuid::Uuid;

    use super::*;
    use crate::call::{CallEvent, EndReason, Envelope, EventId, Role};

    const HERE: &str = "here";

    fn event(call: CallId, event: CallEvent) -> Entry {
        let envelope = Envelope { id: EventId::new(), call, uuid: Uuid::nil(), at: SystemTime::UNIX_EPOCH, event };
        Entry::of(&envelope, vec![Recipient::plain(HERE.into())])
    }

    fn said(call: CallId, text: &str) -> Entry {
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
        let a1 = outbox.next(HERE).await;
        let b1 = outbox.next(HERE).await;
        assert_eq!((a1.id, b1.id), (events[0].id, events[2].id));
        assert!(outbox.next(HERE).now_or_never().is_none(), "a's second event went out beside its first");

        outbox.mark(&a1, Outcome::RetryAfter(Duration::from_secs(4)), Report::default());
        outbox.mark(&b1, Outcome::Delivered, Report::default());
        assert!(outbox.next(HERE).now_or_never().is_none(), "a's second event overtook its first");
        let before = Instant::now();
        let again = outbox.next(HERE).await;
        assert_eq!((again.id, again.attempt, before.elapsed()), (a1.id, 2, Duration::from_secs(4)));
        assert_eq!(again.body, a1.body);

        outbox.mark(&again, Outcome::GivenUp, Report::default());
        let a2 = outbox.next(HERE).await;
        assert_eq!((a2.id, a2.attempt), (events[1].id, 1));
        assert_eq!(outbox.left(), 1);
        outbox.mark(&a2, Outcome::Delivered, Report::default());
        assert_eq!(outbox.left(), 0);
        let inner = outbox.lock();
        assert_eq!((inner.deliveries, inner.bytes), (0, 0));
    }

    #[tokio::test]
    async fn an_event_put_or_marked_wakes_who_waits() {
        let outbox = MemoryOutbox::new(100);
        let call = CallId::new();
        let (first, second) = (said(call, "1"), said(call, "2"));
        let (due, ()) = tokio::join!(outbox.next(HERE), async { outbox.put(first.clone()).await.unwrap() });
        assert_eq!(due.id, first.id);
        outbox.put(second.clone()).await.unwrap();
        let (due, ()) =
            tokio::join!(outbox.next(HERE), async { outbox.mark(&due, Outcome::Delivered, Report::default()) });
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
            let due = outbox.next(HERE).await;
            outbox.mark(&due, Outcome::Delivered, Report::default());
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
        let due = outbox.next(HERE).await;
        outbox.mark(&due, Outcome::Delivered, Report::default());
        outbox.mark(&due, Outcome::Delivered, Report::default());
        outbox.mark(&Due { call: CallId::new(), ..due }, Outcome::GivenUp, Report::default());
        assert_eq!(outbox.left(), 1);
    }

    #[tokio::test]
    async fn endpoints_do_not_wait_for_each_other_and_count_for_themselves() {
        let outbox = MemoryOutbox::new(100);
        let call = CallId::new();
        let to = |names: &[&str]| names.iter().map(|name| Recipient::plain((*name).into())).collect::<Vec<_>>();
        outbox.put(Entry { to: to(&["a", "b"]), ..event(call, CallEvent::Started) }).await.unwrap();
        outbox.put(Entry { to: to(&["b"]), ..said(call, "1") }).await.unwrap();
        outbox.put(Entry { to: to(&["a", "b"]), ..event(call, CallEvent::Ended(EndReason::Hangup)) }).await.unwrap();
        let mut seen = Vec::new();
        for endpoint in ["b", "b", "b", "a", "a"] {
            let due = outbox.next(endpoint).await;
            outbox.mark(&due, Outcome::Delivered, Report::default());
            seen.push((due.endpoint.to_string(), due.seq, due.kind.into_owned()));
        }
        let seen: Vec<_> = seen.iter().map(|(endpoint, seq, kind)| (endpoint.as_str(), *seq, kind.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("b", 1, "call_started"),
                ("b", 2, "transcription"),
                ("b", 3, "call_ended"),
                ("a", 1, "call_started"),
                ("a", 2, "call_ended")
            ]
        );
        assert!(outbox.lock().endpoints.values().all(|lanes| lanes.by_call.is_empty()), "lanes of dead calls stay");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_forgotten_by_endpoints_that_do_not_get_its_end() {
        let outbox = MemoryOutbox::new(100);
        let call = CallId::new();
        let mut ended = event(call, CallEvent::Ended(EndReason::CallerHangup));
        ended.to = vec![Recipient::plain("elsewhere".into())];
        outbox.put(said(call, "1")).await.unwrap();
        let due = outbox.next(HERE).await;
        outbox.mark(&due, Outcome::Delivered, Report::default());
        outbox.put(ended).await.unwrap();
        outbox.put(said(call, "its report")).await.unwrap();
        let due = outbox.next(HERE).await;
        assert_eq!(due.seq, 2, "the number of what comes right after the end does not follow");
        outbox.mark(&due, Outcome::Delivered, Report::default());
        tokio::time::advance(FORGET).await;
        outbox.put(said(CallId::new(), "x")).await.unwrap();
        let inner = outbox.lock();
        assert!(!inner.endpoints[HERE].by_call.contains_key(&call) && inner.ended.is_empty());
    }
}
