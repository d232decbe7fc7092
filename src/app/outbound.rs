//! Calls that we make: whom to dial, what is told of how it goes, and one call for requests of one key.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Map, Value};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::announced::Announced;
use crate::{
    api,
    asterisk::ari::{self, Asked, Cause, Dial, Progress},
    call::{Attended, Begun, CallEvent, CallId, CallStatus, Envelope, EventId, Outbound, Refusal, Refused, Status},
    config,
    session::Announcements,
};

/// Keys of requests that are remembered, and how long.
const KEYS: usize = 10_000;
const REMEMBERED: Duration = Duration::from_secs(24 * 3_600);

/// How long the end of a call may take from Asterisk's word of it to its events.
const END_ON_ITS_WAY: Duration = Duration::from_secs(180);

/// Calls that we make.
#[derive(Debug)]
pub(super) struct Outbounds {
    config: config::Outbound,
    pbxs: ari::Control,
    state: api::State<Announced>,
    inner: Arc<Mutex<Inner>>,
}

/// What the event path has to know of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Answered(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// Those that nobody has answered yet.
    ringing: HashMap<Uuid, CancellationToken>,
    /// Those that have been, until they are over.
    answered: HashSet<CallId>,
    /// Those that are known here, and whether they have a session.
    sessions: HashMap<CallId, bool>,
    keys: HashMap<String, Kept>,
    order: VecDeque<String>,
}

#[derive(Debug, Clone)]
struct Kept {
    at: Instant,
    /// What was asked, so that another request with the same key is refused.
    asked: (Outbound, Map<String, Value>),
    /// `None`: it is being begun.
    begun: Option<Begun>,
}

impl Answered {
    /// A call has a session from now on, which tells of its end.
    pub fn begins(&self, call: CallId) {
        if let Some(begun) = lock(&self.0).sessions.get_mut(&call) {
            *begun = true;
        }
    }

    /// The status that goes before the end of a call, if we made it.
    pub fn completed(&self, ended: &Envelope) -> Option<Envelope> {
        lock(&self.0)
            .answered
            .remove(&ended.call)
            .then(|| envelope(ended.call, ended.uuid, ended.at, status(CallStatus::Completed, None)))
    }
}

impl Outbounds {
    pub fn new(
        config: &config::Outbound,
        pbxs: ari::Control,
        state: api::State<Announced>,
        answered: &Answered,
    ) -> Self {
        Self { config: config.clone(), pbxs, state, inner: Arc::clone(&answered.0) }
    }

    /// Takes a ringing call back; `false`: there is none.
    pub fn cancel(&self, uuid: Uuid) -> bool {
        let token = lock(&self.inner).ringing.get(&uuid).cloned();
        token.inspect(CancellationToken::cancel).is_some()
    }

    /// Begins a call. Metadata, services and greeting are what `call_initiated` makes of `about`, as for an announced one.
    pub async fn call(&self, order: Outbound, about: Map<String, Value>) -> Result<Begun, Refused> {
        let Some(key) = order.key.clone() else { return self.begin(order, about).await };
        match self.known(&key, &order, &about)? {
            Some(begun) => Ok(begun),
            None => {
                let begun = self.begin(order, about).await;
                let mut inner = lock(&self.inner);
                match &begun {
                    Ok(begun) => {
                        if let Some(kept) = inner.keys.get_mut(&key) {
                            kept.begun = Some(*begun);
                        }
                    }
                    // whoever asks again may have more luck
                    Err(_) => drop(inner.keys.remove(&key)),
                }
                begun
            }
        }
    }

    /// The call of a request with the same key; `None`: this is the first, and the key is taken.
    fn known(&self, key: &str, order: &Outbound, about: &Map<String, Value>) -> Result<Option<Begun>, Refused> {
        let mut inner = lock(&self.inner);
        let now = Instant::now();
        while let Some(oldest) = inner.order.front() {
            let stale = inner.keys.get(oldest).is_none_or(|kept| now.duration_since(kept.at) >= REMEMBERED);
            if !stale && inner.order.len() <= KEYS {
                break;
            }
            if let Some(oldest) = inner.order.pop_front() {
                inner.keys.remove(&oldest);
            }
        }
        let asked = (order.clone(), about.clone());
        match inner.keys.get(key) {
            Some(kept) if kept.asked != asked => {
                let message = "another request had this Idempotency-Key: give each call a key of its own".to_owned();
                Err(refused(Refusal::Impossible, "outbound.key", message))
            }
            Some(Kept { begun: Some(begun), .. }) => Ok(Some(Begun { again: true, ..*begun })),
            Some(_) => Err(refused(
                Refusal::Busy,
                "outbound.begins",
                "the call of this Idempotency-Key is being begun".to_owned(),
            )),
            None => {
                inner.keys.insert(key.to_owned(), Kept { at: now, asked, begun: None });
                inner.order.push_back(key.to_owned());
                Ok(None)
            }
        }
    }

    /// Whom to call, and how, where somebody is asked whether they take a caller.
    pub fn asked(&self, attended: &Attended) -> Result<Asked, Refused> {
        Ok(Asked {
            endpoint: self.endpoint(&attended.to, attended.via.as_deref())?,
            caller_id: attended.caller_id.clone().or_else(|| self.config.caller_id.clone()).unwrap_or_default(),
            timeout_s: attended.timeout_s.unwrap_or(self.config.timeout_s),
            music: attended.music,
            play: attended.play.clone(),
        })
    }

    fn endpoint(&self, to: &str, via: Option<&str>) -> Result<String, Refused> {
        let via = via.unwrap_or("default");
        let template = self.config.dial.get(via).ok_or_else(|| {
            let message = format!(
                "outbound.dial has no {via:?}: write how to dial into [outbound.dial], e.g. default = \"PJSIP/{{to}}@trunk\""
            );
            refused(Refusal::Impossible, "outbound.via", message)
        })?;
        Ok(template.replace("{to}", to))
    }

    async fn begin(&self, order: Outbound, mut about: Map<String, Value>) -> Result<Begun, Refused> {
        let endpoint = self.endpoint(&order.to, order.via.as_deref())?;
        let (call, uuid) = (CallId::new(), order.uuid.unwrap_or_else(Uuid::new_v4));
        let caller_id = order.caller_id.clone().or_else(|| self.config.caller_id.clone()).unwrap_or_default();
        about.entry("from").or_insert_with(|| caller_id.as_str().into());
        if let Err(reason) = api::announce_outbound(&self.state, call, uuid, about, order.screen.clone()).await {
            self.over(call, uuid, CallStatus::Failed, None).await;
            return Err(refused(Refusal::Impossible, "call.refused.undecided", reason));
        }
        let cancel = CancellationToken::new();
        {
            let mut inner = lock(&self.inner);
            inner.ringing.insert(uuid, cancel.clone());
            inner.sessions.insert(call, false);
        }
        let dial = Dial {
            uuid,
            endpoint: endpoint.clone(),
            caller_id,
            timeout_s: order.timeout_s.unwrap_or(self.config.timeout_s),
            variables: Map::new(),
        };
        match self.pbxs.dial(order.pbx.as_deref(), dial, cancel.clone()).await {
            Ok(progress) => {
                info!(%call, %uuid, "calling {endpoint:?}");
                self.say(call, uuid, status(CallStatus::Initiated, None)).await;
                tokio::spawn(self.follower().follow(call, uuid, progress, cancel));
                Ok(Begun { uuid, call, again: false })
            }
            Err(reason) => {
                lock(&self.inner).sessions.remove(&call);
                warn!(%call, %uuid, code = reason.code(), "{endpoint:?} cannot be called: {reason}");
                self.over(call, uuid, CallStatus::Failed, None).await;
                Err(reason.into())
            }
        }
    }

    fn follower(&self) -> Self {
        let (config, pbxs, state) = (self.config.clone(), self.pbxs.clone(), self.state.clone());
        Self { config, pbxs, state, inner: Arc::clone(&self.inner) }
    }

    async fn follow(self, call: CallId, uuid: Uuid, mut progress: mpsc::Receiver<Progress>, cancel: CancellationToken) {
        let mut answered = false;
        while let Some(step) = progress.recv().await {
            match step {
                Progress::Ringing => self.say(call, uuid, status(CallStatus::Ringing, None)).await,
                Progress::Answered => {
                    answered = true;
                    {
                        let mut inner = lock(&self.inner);
                        inner.ringing.remove(&uuid);
                        inner.answered.insert(call);
                    }
                    self.say(call, uuid, status(CallStatus::Answered, None)).await;
                }
                Progress::Over { fault, .. } if answered => self.unserved(call, uuid, fault).await,
                Progress::Over { cause, .. } => {
                    let end = if cancel.is_cancelled() { CallStatus::Canceled } else { outcome(cause) };
                    self.over(call, uuid, end, cause).await;
                }
            }
        }
        // its end is on its way
        sleep(END_ON_ITS_WAY).await;
        let mut inner = lock(&self.inner);
        inner.answered.remove(&call);
        inner.sessions.remove(&call);
    }

    /// Somebody who had answered is gone. The end of their call is told by its session, if there was one.
    async fn unserved(&self, call: CallId, uuid: Uuid, fault: Option<&'static str>) {
        {
            let mut inner = lock(&self.inner);
            if inner.sessions.get(&call) == Some(&true) {
                return;
            }
            inner.answered.remove(&call);
        }
        // where there is none, it was refused, and that is reported
        let announced = self.state.announcements.take(uuid).await;
        if let Some(announced) = &announced {
            self.state.webhooks.describe(call, &announced.payload);
        }
        self.say(call, uuid, status(CallStatus::Failed, None)).await;
        let code = fault.unwrap_or("ari.media.ended");
        warn!(%call, %uuid, code, "the call was answered, but never connected with the agent");
        if announced.is_some() {
            self.state.webhooks.refused(call, uuid, code, None).await;
        }
    }

    /// Nobody has answered, and nobody will.
    async fn over(&self, call: CallId, uuid: Uuid, end: CallStatus, cause: Option<Cause>) {
        lock(&self.inner).ringing.remove(&uuid);
        // so that nobody reports it as one that never came
        let announced = self.state.announcements.take(uuid).await;
        if let Some(announced) = &announced {
            self.state.webhooks.describe(call, &announced.payload);
        }
        self.say(call, uuid, status(end, cause)).await;
        let code = match end {
            CallStatus::Busy => "call.busy",
            CallStatus::NoAnswer => "call.no_answer",
            CallStatus::Canceled => "call.canceled",
            _ => "call.failed",
        };
        info!(%call, %uuid, code, "the call was not answered");
        self.state.webhooks.refused(call, uuid, code, None).await;
    }

    async fn say(&self, call: CallId, uuid: Uuid, event: CallEvent) {
        // counted and reported
        let _ = self.state.webhooks.put(envelope(call, uuid, SystemTime::now(), event)).await;
    }
}

fn envelope(call: CallId, uuid: Uuid, at: SystemTime, event: CallEvent) -> Envelope {
    Envelope { id: EventId::new(), call, uuid, at, event }
}

fn status(status: CallStatus, cause: Option<Cause>) -> CallEvent {
    let positive = |code: i64| u16::try_from(code).ok().filter(|code| *code > 0);
    let (cause, sip_code) = cause.map_or((None, None), |cause| (positive(cause.cause), positive(cause.tech_cause)));
    CallEvent::Status(Status { status, cause, sip_code })
}

/// What became of a call that was not answered, by what Asterisk 22 says of it: its own dial status calls 404 and 603 "no answer".
fn outcome(cause: Option<Cause>) -> CallStatus {
    let Some(Cause { cause, tech_cause }) = cause else { return CallStatus::NoAnswer };
    match (tech_cause, cause) {
        (486 | 600, _) | (_, 17) => CallStatus::Busy,
        (408 | 480, _) | (0, 18 | 19) => CallStatus::NoAnswer,
        (487, _) | (0, 16) => CallStatus::Canceled,
        _ => CallStatus::Failed,
    }
}

/// Why somebody who was asked did not answer.
pub(super) fn not_answered(cause: Option<Cause>) -> Refused {
    let (code, what) = match outcome(cause) {
        CallStatus::Busy => ("call.attended.busy", "is busy"),
        CallStatus::NoAnswer | CallStatus::Canceled => ("call.attended.no_answer", "does not answer"),
        _ => ("call.attended.failed", "cannot be reached (the number, or the trunk)"),
    };
    refused(Refusal::Failed, code, format!("who was asked {what}; the caller is back with the agent"))
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

const fn refused(kind: Refusal, code: &'static str, message: String) -> Refused {
    Refused { kind, code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of Asterisk 22.10: answers of a far end, and what `ChannelDestroyed` says of them.
    #[test]
    fn outcomes_are_told_by_cause_and_sip_code() {
        for (cause, tech_cause, expected) in [
            (17, 486, CallStatus::Busy),
            (19, 486, CallStatus::Busy),
            (17, 0, CallStatus::Busy),
            (21, 603, CallStatus::Failed),
            (1, 404, CallStatus::Failed),
            (19, 480, CallStatus::NoAnswer),
            (38, 500, CallStatus::Failed),
            (34, 503, CallStatus::Failed),
            (19, 0, CallStatus::NoAnswer),
            (16, 0, CallStatus::Canceled),
            (0, 0, CallStatus::Failed),
        ] {
            assert_eq!(outcome(Some(Cause { cause, tech_cause })), expected, "{cause} {tech_cause}");
        }
        assert_eq!(outcome(None), CallStatus::NoAnswer);
    }
}
