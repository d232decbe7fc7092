//! What is known about each live call, for its final report and for templates. Bounded, whatever is said on however many calls.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    body::{CALL_INITIATED, timestamp},
    catalogue::{CALL_ENDED, EVENTS_LOST, RECORDING_READY, SERVICE_FAILED, TURN, USAGE},
};
use crate::call::{CallEvent, CallId, EndReason, Envelope};

/// Calls that are followed at once; beyond it the oldest are forgotten (their report then says little).
const MAX_CALLS: usize = 20_000;
/// Bytes of words kept of one call.
const MAX_WORDS: usize = 256 * 1024;
/// Bytes of words kept of all calls.
const MAX_ALL_WORDS: usize = 128 << 20;
/// Digits kept of one call.
const MAX_DIGITS: usize = 1_024;

/// What is known about one call.
#[derive(Debug, Clone, Default)]
struct Record {
    started: Option<SystemTime>,
    /// When the last thing happened that is known.
    last: Option<SystemTime>,
    ended: Option<(SystemTime, EndReason)>,
    metadata: Map<String, Value>,
    transcript: Vec<Value>,
    words: usize,
    truncated: bool,
    digits: String,
    interruptions: u64,
    answers: u64,
    longest_answer_ms: u64,
    /// The payload of `usage`.
    used: Map<String, Value>,
    failures: Vec<Value>,
    recording: Option<Value>,
    transcript_url: Option<Value>,
}

/// The live calls.
#[derive(Debug, Default)]
pub(super) struct Calls {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Identities sort by their time: the first is the oldest.
    records: BTreeMap<CallId, Record>,
    words: usize,
}

impl Inner {
    fn record(&mut self, call: CallId) -> &mut Record {
        if self.records.len() >= MAX_CALLS
            && !self.records.contains_key(&call)
            && let Some((_, forgotten)) = self.records.pop_first()
        {
            self.words -= forgotten.words;
        }
        self.records.entry(call).or_default()
    }
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what `POST /call` said about a call.
    pub(super) fn describe(&self, call: CallId, metadata: Map<String, Value>) {
        self.lock().record(call).metadata = metadata;
    }

    /// Takes an event with its payload as receivers get it (what is redacted there is so here). After the last event of a call it is
    /// forgotten, once the returned record is used up.
    pub(super) fn take(&self, envelope: &Envelope, payload: &Value) -> Known {
        let mut inner = self.lock();
        let left = MAX_ALL_WORDS.saturating_sub(inner.words);
        let record = inner.record(envelope.call);
        let before = record.words;
        record.take(envelope.event.kind(), envelope.at, payload, left);
        if let CallEvent::Ended(reason) = envelope.event {
            record.ended = Some((envelope.at, reason));
        }
        let more = record.words - before;
        let known = Known { call: envelope.call, uuid: envelope.uuid, record: record.clone() };
        inner.words += more;
        if matches!(envelope.event, CallEvent::Ended(_))
            && let Some(record) = inner.records.remove(&envelope.call)
        {
            inner.words -= record.words;
        }
        known
    }

    /// Takes an event that was stored before a restart.
    pub(super) fn recall(&self, call: CallId, kind: &str, at: SystemTime, payload: &Value) {
        let mut inner = self.lock();
        let left = MAX_ALL_WORDS.saturating_sub(inner.words);
        let record = inner.record(call);
        let before = record.words;
        record.take(kind, at, payload, left);
        let more = record.words - before;
        inner.words += more;
    }

    /// Forgets a call that never became one, and says what is known about it.
    pub(super) fn refused(&self, call: CallId, uuid: Uuid) -> Known {
        let mut inner = self.lock();
        let record = inner.records.remove(&call).unwrap_or_default();
        inner.words -= record.words;
        Known { call, uuid, record }
    }
}

impl Record {
    fn take(&mut self, kind: &str, at: SystemTime, payload: &Value, left: usize) {
        let text = |name: &str| payload.get(name).and_then(Value::as_str).unwrap_or_default();
        if kind != CALL_ENDED {
            self.last = Some(at);
        }
        match kind {
            CALL_INITIATED => self.metadata = payload.as_object().cloned().unwrap_or_default(),
            "call_started" => self.started = Some(at),
            "interruption" => self.interruptions += 1,
            "transcription" => {
                let words = text("text").len();
                if words <= left && self.words + words <= MAX_WORDS {
                    self.words += words;
                    let said = json!({"role": text("role"), "text": text("text"), "at": timestamp(at)});
                    self.transcript.push(said);
                } else {
                    self.truncated = true;
                }
            }
            "dtmf_digit" if self.digits.len() < MAX_DIGITS => self.digits.push_str(text("digit")),
            SERVICE_FAILED if self.failures.len() < 16 => self.failures.push(payload.clone()),
            // a greeting answers nobody
            TURN if payload.get("total_ms").is_some_and(Value::is_u64) => {
                self.answers += 1;
                let ms = payload.get("total_ms").and_then(Value::as_u64).unwrap_or_default();
                self.longest_answer_ms = self.longest_answer_ms.max(ms);
            }
            USAGE => self.used = payload.as_object().cloned().unwrap_or_default(),
            RECORDING_READY => {
                self.recording = payload.get("recording_url").cloned();
                self.transcript_url = payload.get("transcript_url").cloned();
            }
            // what was lost may have been words
            EVENTS_LOST => self.truncated = true,
            _ => {}
        }
    }

    /// In s. Of a call whose gateway was killed: until the last thing that is known of it.
    fn duration(&self) -> Option<f64> {
        let (ended, reason) = self.ended?;
        let ended = if reason == EndReason::GatewayRestarted { self.last? } else { ended };
        let duration = ended.duration_since(self.started?).unwrap_or_default();
        // whole ms: what a receiver computes from the two times
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let seconds = duration.as_millis() as f64 / 1_000.0;
        Some(seconds)
    }
}

/// What is known about a call at one moment.
#[derive(Debug, Clone)]
pub(super) struct Known {
    call: CallId,
    uuid: Uuid,
    record: Record,
}

impl Known {
    /// A call of which nothing but one event is known; the payload of `call_initiated` is what `POST /call` said.
    pub(super) fn nothing(call: CallId, uuid: Uuid, payload: &Value, is_metadata: bool) -> Self {
        let metadata = payload.as_object().filter(|_| is_metadata).cloned().unwrap_or_default();
        Self { call, uuid, record: Record { metadata, ..Record::default() } }
    }

    /// The payload of `call_completed`. `refused`: why the call never connected.
    pub(super) fn report(self, refused: Option<&str>) -> Map<String, Value> {
        let usage = self.usage();
        let Record {
            started,
            ended,
            metadata,
            transcript,
            truncated,
            digits,
            interruptions,
            failures,
            recording,
            transcript_url,
            ..
        } = self.record;
        let reason = refused.or(ended.map(|(_, reason)| reason.code()));
        let report = json!({
            "call_id": self.call.to_string(),
            "connected": refused.is_none(),
            "reason": reason,
            "started_at": started.map(timestamp),
            "ended_at": ended.map(|(at, _)| timestamp(at)),
            "duration_s": usage["call_duration_seconds"],
            "interruptions": interruptions,
            "digits": digits,
            "transcript": transcript,
            "transcript_truncated": truncated,
            "failures": failures,
            "metadata": metadata,
            "recording_url": recording,
            "transcript_url": transcript_url,
            "usage": usage,
        });
        match report {
            Value::Object(members) => members,
            _ => Map::new(),
        }
    }

    fn usage(&self) -> Value {
        let mut usage = json!({
            "call_duration_seconds": self.record.duration(),
            "answers": self.record.answers,
            "longest_answer_ms": (self.record.answers > 0).then_some(self.record.longest_answer_ms),
        });
        if let Some(members) = usage.as_object_mut() {
            members.extend(self.record.used.clone());
        }
        usage
    }

    /// What templates are filled from: `event` is the whole body of the event, four keys.
    pub(super) fn context(&self, event: &Value) -> Map<String, Value> {
        let record = &self.record;
        let disposition = record.ended.map(|(_, reason)| reason.code());
        let mut members = event.as_object().cloned().unwrap_or_default();
        let gathered = json!({
            "call_id": self.call.to_string(),
            "call_disposition": disposition,
            "digits": record.digits,
            "interruptions": record.interruptions,
        });
        for (name, value) in [
            ("call_id", Value::from(self.call.to_string())),
            // as Dograh's templates know it
            ("workflow_run_id", Value::from(self.uuid.to_string())),
            ("call_time", record.started.map(timestamp).into()),
            ("call_disposition", disposition.into()),
            ("duration_s", record.duration().into()),
            ("initial_context", record.metadata.clone().into()),
            ("gathered_context", gathered),
            ("transcript", record.transcript.clone().into()),
            ("recording_url", record.recording.clone().unwrap_or_default()),
            ("transcript_url", record.transcript_url.clone().unwrap_or_default()),
            ("cost_info", self.usage()),
        ] {
            members.insert(name.to_owned(), value);
        }
        members
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::call::{Digit, EventId, Fault, Latency, Role, Turn};

    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_268_800_000 + ms)
    }

    fn event(call: CallId, ms: u64, event: CallEvent) -> Envelope {
        Envelope { id: EventId::new(), call, uuid: Uuid::nil(), at: at(ms), event }
    }

    fn take(calls: &Calls, envelope: &Envelope) -> Known {
        let body: Value = serde_json::from_slice(&super::super::render(envelope)).unwrap();
        calls.take(envelope, &body["payload"])
    }

    fn said(text: &str) -> CallEvent {
        CallEvent::Transcription { role: Role::User, text: text.to_owned() }
    }

    #[test]
    fn a_call_is_reported_as_a_whole_and_then_forgotten() {
        let (calls, call) = (Calls::default(), CallId::new());
        calls.describe(call, json!({"from": "2000"}).as_object().unwrap().clone());
        let latency = Latency { answer: Duration::from_millis(300), ..Latency::default() };
        let turn = Turn { latency: Some(latency), heard: Duration::from_secs(1), cut: false };
        for (ms, what) in [
            (0, CallEvent::Started),
            (900, said("Hallo")),
            (1_000, CallEvent::Interruption),
            (1_100, CallEvent::Turn(turn)),
            (1_200, CallEvent::Dtmf(Some(Digit::try_from('7').unwrap()))),
            (1_300, CallEvent::Dtmf(None)),
            (1_400, CallEvent::ServiceFailed(Fault { code: "a.b", message: "m".to_owned() })),
        ] {
            take(&calls, &event(call, ms, what));
        }
        let known = take(&calls, &event(call, 12_345, CallEvent::Ended(EndReason::AgentFailed)));
        let context = known.context(&json!({"uuid": "u", "type": "call_ended", "payload": {}}));
        assert_eq!((&context["type"], &context["initial_context"]["from"]), (&json!("call_ended"), &json!("2000")));
        assert_eq!(context["gathered_context"]["call_disposition"], "agent.failed");
        assert_eq!(context["cost_info"]["call_duration_seconds"], 12.345);
        let report = Value::from(known.report(None));
        let expected = json!({
            "call_id": call.to_string(), "connected": true, "reason": "agent.failed",
            "started_at": "2026-01-01T12:00:00.000Z", "ended_at": "2026-01-01T12:00:12.345Z", "duration_s": 12.345,
            "interruptions": 1, "digits": "7X",
            "transcript": [{"role": "user", "text": "Hallo", "at": "2026-01-01T12:00:00.900Z"}], "transcript_truncated": false,
            "failures": [{"code": "a.b", "message": "m"}], "metadata": {"from": "2000"},
            "recording_url": null, "transcript_url": null,
            "usage": {"call_duration_seconds": 12.345, "answers": 1, "longest_answer_ms": 300},
        });
        assert_eq!(report, expected);
        assert!(calls.lock().records.is_empty() && calls.lock().words == 0);
    }

    #[test]
    fn a_call_of_which_only_the_end_is_known_and_one_that_never_was_are_reported_too() {
        let calls = Calls::default();
        let known = take(&calls, &event(CallId::new(), 0, CallEvent::Ended(EndReason::Internal)));
        let report = known.report(None);
        assert_eq!((&report["reason"], &report["duration_s"]), (&json!("internal"), &Value::Null));
        let call = CallId::new();
        calls.describe(call, json!({"from": "1"}).as_object().unwrap().clone());
        let report = calls.refused(call, Uuid::nil()).report(Some("call.refused.full"));
        assert_eq!(
            (&report["connected"], &report["reason"], &report["metadata"]["from"]),
            (&json!(false), &json!("call.refused.full"), &json!("1"))
        );
        assert!(calls.lock().records.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (calls, call) = (Calls::default(), CallId::new());
        let long = "a".repeat(MAX_WORDS / 2);
        for _ in 0..3 {
            take(&calls, &event(call, 0, said(&long)));
        }
        assert_eq!(calls.lock().words, 2 * long.len());
        let report = calls.refused(call, Uuid::nil()).report(None);
        assert_eq!(
            (report["transcript"].as_array().unwrap().len(), &report["transcript_truncated"]),
            (2, &json!(true))
        );
        for _ in 0..=MAX_CALLS {
            take(&calls, &event(CallId::new(), 0, said("x")));
        }
        let inner = calls.lock();
        assert_eq!((inner.records.len(), inner.words), (MAX_CALLS, MAX_CALLS));
    }
}
