//! Where events wait until they are delivered, as delivery sees it.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_core::future::BoxFuture;
use uuid::Uuid;

use super::body;
use crate::call::{CallEvent, CallId, Envelope, EventId};

/// Bytes of bodies held in memory at most, whatever the number of events: transcriptions have no length of their own.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// The outbox holds as much as it may; the event is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the webhook outbox is full ({events} events, {bytes} bytes); is the receiver reachable and fast enough?")]
pub struct Full {
    /// Events held.
    pub events: usize,
    /// Their bodies' bytes.
    pub bytes: usize,
}

/// What an event means for the life of its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The call is live from now on.
    Start,
    /// Neither.
    Middle,
    /// The call is over: its last event.
    End,
}

/// Somebody who is to get an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The endpoint's name.
    pub endpoint: Arc<str>,
    /// The address, where it is not always the same.
    pub url: Option<Arc<str>>,
    /// The body, where it is not that of everybody.
    pub body: Option<Bytes>,
    /// Its only attempt is made by whoever puts the event: it has its place in the order and is never handed out.
    pub asked: bool,
}

impl Recipient {
    /// The endpoint `name`, which takes the body that everybody gets.
    #[must_use]
    pub const fn plain(name: Arc<str>) -> Self {
        Self { endpoint: name, url: None, body: None, asked: false }
    }
}

/// An event on its way into the outbox: rendered once, for everybody who is to get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Identity of the event.
    pub id: EventId,
    /// The call: the key of order.
    pub call: CallId,
    /// The UUID in the body.
    pub uuid: Uuid,
    /// `type` in the body.
    pub kind: Cow<'static, str>,
    /// When it happened.
    pub at: SystemTime,
    /// What it means for the call.
    pub phase: Phase,
    /// The body, except for those who have one of their own.
    pub body: Bytes,
    /// Who is to get it.
    pub to: Vec<Recipient>,
}

impl Entry {
    /// The contract's body of `envelope`, for `to`.
    #[must_use]
    pub fn of(envelope: &Envelope, to: Vec<Recipient>) -> Self {
        Self {
            id: envelope.id,
            call: envelope.call,
            uuid: envelope.uuid,
            kind: Cow::Borrowed(envelope.event.kind()),
            at: envelope.at,
            phase: match envelope.event {
                CallEvent::Started => Phase::Start,
                CallEvent::Ended(_) => Phase::End,
                _ => Phase::Middle,
            },
            body: body::render(envelope),
            to,
        }
    }

    /// How many deliveries it is: attempts that are made by whoever puts it are none.
    pub(super) fn deliveries(&self) -> usize {
        self.to.iter().filter(|to| !to.asked).count()
    }

    /// What this holds of the memory for bodies.
    pub(super) fn bytes(&self) -> usize {
        self.body.len() + self.to.iter().filter_map(|to| to.body.as_ref()).map(Bytes::len).sum::<usize>()
    }
}

/// An event to be delivered to one endpoint: every attempt sends the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Identity of the event, the same at every attempt and endpoint.
    pub id: EventId,
    /// Whose turn it is to get it.
    pub endpoint: Arc<str>,
    /// The call: the key of order.
    pub call: CallId,
    /// Its place among this call's events for this endpoint, from 1, without gaps.
    pub seq: u64,
    /// The UUID in the body, for logs.
    pub uuid: Uuid,
    /// `type` in the body, for logs.
    pub kind: Cow<'static, str>,
    /// The address, where it is this event's own.
    pub url: Option<Arc<str>>,
    /// The request's body.
    pub body: Bytes,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Attempts that were made before a person last had it sent again.
    pub tries_before: u32,
}

impl Due {
    /// Which attempt of its schedule this is, from 1: that begins anew when a person has the event sent again.
    #[must_use]
    pub const fn scheduled(&self) -> u32 {
        self.attempt.saturating_sub(self.tries_before)
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

/// An attempt as a person may want to see it later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The answer's status, if one came.
    pub status: Option<u16>,
    /// How long it took.
    pub latency: Duration,
    /// Why it failed.
    pub error: Option<String>,
    /// The first bytes of the answer.
    pub answer: Bytes,
}

/// Where events wait until they are delivered: in memory, or in a database that survives a restart.
///
/// Events of one call go out to an endpoint in the order in which they were put, never two at once; calls do not wait for each
/// other, nor do endpoints.
pub trait Outbox: Send + Sync + 'static {
    /// Takes an event, as durably as this outbox can: once this resolves to `Ok`, the event will be handed out.
    ///
    /// It has its place in the order when this returns, whether or not the future is waited for.
    fn put(&self, entry: Entry) -> BoxFuture<'static, Result<(), Full>> {
        self.put_all(vec![entry])
    }

    /// Takes events that belong together: either all of them survive a crash or none does. An error if one of them was not taken.
    fn put_all(&self, entries: Vec<Entry>) -> BoxFuture<'static, Result<(), Full>>;

    /// Nothing more comes of a call that never became one: its numbers can be forgotten.
    fn forget(&self, call: CallId) {
        let _ = call;
    }

    /// Waits for an event whose turn at `endpoint` has come. It stays in the outbox, and its call waits, until [`Outbox::mark`].
    ///
    /// Cancel-safe: what is not returned is not handed out.
    fn next<'a>(&'a self, endpoint: &'a str) -> BoxFuture<'a, Due>;

    /// Says what became of an event that [`Outbox::next`] handed out. Never waits; a store that fails to record a success hands the
    /// event out again.
    fn mark(&self, due: &Due, outcome: Outcome, report: Report);

    /// Deliveries held: waiting or handed out.
    fn left(&self) -> usize;
}
