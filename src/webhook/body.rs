//! The body of a webhook request: exactly `uuid`, `type`, `timestamp`, `payload`, because strict receivers reject any other key.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::FormatItem, macros::format_description};
use uuid::Uuid;

use crate::call::{CallEvent, Envelope, Latency, ModelUsage};

/// `type` of the one request that is answered: a call announced by `POST /call`.
pub const CALL_INITIATED: &str = "call_initiated";

/// What `dtmf_digit` carries where digits are masked: a string that is not empty, so that receivers which require a digit accept it,
/// and no key of a telephone, so that none of them acts on it.
pub const MASKED_DIGIT: &str = "X";

const TIMESTAMP: &[FormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

#[derive(Serialize)]
struct Body<'a> {
    uuid: Uuid,
    r#type: &'a str,
    timestamp: String,
    payload: Payload<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Payload<'a> {
    Empty {},
    Transcription {
        role: &'a str,
        text: &'a str,
    },
    Dtmf {
        digit: &'a str,
    },
    Free(&'a Map<String, Value>),
    Recording {
        recording_url: &'a str,
        transcript_url: Option<&'a str>,
        duration_ms: Option<u64>,
        complete: bool,
    },
    AnsweredBy {
        answered_by: &'static str,
        after_ms: u64,
    },
    Lost {
        count: u64,
    },
    Status {
        status: &'a str,
        cause: Option<u16>,
        sip_code: Option<u16>,
    },
    Fault {
        code: &'a str,
        message: &'a str,
    },
    Replaced {
        code: &'a str,
        message: &'a str,
        service: &'a str,
        taken_over_by: &'a str,
    },
    ToolCall {
        name: &'a str,
        arguments: Value,
        result: &'a str,
        failed: bool,
        duration_ms: u64,
    },
    Usage {
        llm: Vec<Value>,
        tts_characters: u64,
        stt_seconds: f64,
    },
    Turn {
        cut: bool,
        heard_ms: u64,
        total_ms: Option<u64>,
        endpointing_ms: Option<u64>,
        stt_ms: Option<u64>,
        answer_ms: Option<u64>,
        llm_first_token_ms: Option<u64>,
        first_sentence_ms: Option<u64>,
        tts_first_byte_ms: Option<u64>,
        playout_ms: Option<u64>,
    },
}

/// The body of an event of a call.
#[must_use]
pub fn render(envelope: &Envelope) -> Bytes {
    let mut digit = [0; 4];
    let payload = match &envelope.event {
        CallEvent::Started | CallEvent::Interruption | CallEvent::Ended(_) => Payload::Empty {},
        CallEvent::Transcription { role, text } => Payload::Transcription { role: role.as_str(), text },
        CallEvent::Dtmf(Some(pressed)) => Payload::Dtmf { digit: pressed.as_char().encode_utf8(&mut digit) },
        CallEvent::Dtmf(None) => Payload::Dtmf { digit: MASKED_DIGIT },
        CallEvent::RecordingReady(recording) => Payload::Recording {
            recording_url: &recording.recording_url,
            transcript_url: recording.transcript_url.as_deref(),
            duration_ms: recording.duration.map(millis),
            complete: recording.complete,
        },
        CallEvent::Status(status) => {
            Payload::Status { status: status.status.as_str(), cause: status.cause, sip_code: status.sip_code }
        }
        CallEvent::AnsweredBy(who, after) => {
            Payload::AnsweredBy { answered_by: who.as_str(), after_ms: millis(*after) }
        }
        CallEvent::ToolCalled(called) => Payload::ToolCall {
            name: &called.name,
            // what is no JSON is shown as the text it is
            arguments: serde_json::from_str(&called.arguments).unwrap_or_else(|_| called.arguments.as_str().into()),
            result: &called.result,
            failed: called.failed,
            duration_ms: millis(called.took),
        },
        CallEvent::Usage(usage) => Payload::Usage {
            llm: usage.models.iter().map(tokens).collect(),
            tts_characters: usage.tts_characters,
            #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
            stt_seconds: millis(usage.stt) as f64 / 1_000.0,
        },
        CallEvent::EventsLost(count) => Payload::Lost { count: *count },
        CallEvent::ServiceFailed(fault) => Payload::Fault { code: fault.code, message: &fault.message },
        CallEvent::ServiceReplaced(replaced) => Payload::Replaced {
            code: replaced.fault.code,
            message: &replaced.fault.message,
            service: &replaced.service,
            taken_over_by: &replaced.by,
        },
        CallEvent::Turn(turn) => {
            let part = |part: fn(Latency) -> Option<Duration>| turn.latency.and_then(part).map(millis);
            Payload::Turn {
                cut: turn.cut,
                heard_ms: millis(turn.heard),
                total_ms: part(|latency| Some(latency.total())),
                endpointing_ms: part(|latency| latency.endpointing),
                stt_ms: part(|latency| latency.stt),
                answer_ms: part(|latency| Some(latency.answer)),
                llm_first_token_ms: part(|latency| latency.llm_first_token),
                first_sentence_ms: part(|latency| latency.first_sentence),
                tts_first_byte_ms: part(|latency| latency.tts_first_byte),
                playout_ms: part(|latency| Some(latency.playout)),
            }
        }
    };
    write(envelope.uuid, envelope.event.kind(), envelope.at, payload)
}

fn tokens(usage: &ModelUsage) -> Value {
    json!({
        "model": usage.model,
        "requests": usage.requests,
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The body of `call_initiated`; `payload` is that of `POST /call`.
#[must_use]
pub fn render_initiated(uuid: Uuid, payload: &Map<String, Value>, at: SystemTime) -> Bytes {
    render_free(uuid, CALL_INITIATED, payload, at)
}

/// The body of an event with any payload.
pub(super) fn render_free(uuid: Uuid, kind: &str, payload: &Map<String, Value>, at: SystemTime) -> Bytes {
    write(uuid, kind, at, Payload::Free(payload))
}

fn write(uuid: Uuid, r#type: &str, at: SystemTime, payload: Payload<'_>) -> Bytes {
    let body = Body { uuid, r#type, timestamp: timestamp(at), payload };
    // strings, string keys and no foreign Serialize inside: serde_json has nothing to fail on
    serde_json::to_vec(&body).unwrap_or_default().into()
}

/// `2026-01-01T12:00:00.000Z`, as JavaScript's `toISOString` writes it; a clock outside the years 0 to 9999 reads as 1970.
pub(super) fn timestamp(at: SystemTime) -> String {
    let millis = match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i128::try_from(since.as_millis()).unwrap_or_default(),
        Err(before) => -i128::try_from(before.duration().as_millis()).unwrap_or_default(),
    };
    OffsetDateTime::from_unix_timestamp_nanos(millis.saturating_mul(1_000_000))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        .format(&TIMESTAMP)
        .unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::call::{CallId, Digit, EndReason, EventId, Fault, Role, Turn};

    const UUID: &str = "0192f4c0-5a3e-7c1b-8d2e-0123456789ab";

    fn body(event: CallEvent) -> String {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_767_268_800_123_999);
        let envelope = Envelope { id: EventId::new(), call: CallId::new(), uuid: UUID.parse().unwrap(), at, event };
        String::from_utf8(render(&envelope).to_vec()).unwrap()
    }

    #[test]
    fn bodies_are_the_contracts_byte_for_byte() {
        let said = |role, text: &str| CallEvent::Transcription { role, text: text.to_owned() };
        let pressed = |c| CallEvent::Dtmf(Some(Digit::try_from(c).unwrap()));
        for (event, r#type, payload) in [
            (CallEvent::Started, "call_started", "{}"),
            (CallEvent::Interruption, "interruption", "{}"),
            (CallEvent::Ended(EndReason::CallerHangup), "call_ended", "{}"),
            (said(Role::User, "Grüß \"Gott\"\n"), "transcription", r#"{"role":"user","text":"Grüß \"Gott\"\n"}"#),
            (said(Role::Agent, ""), "transcription", r#"{"role":"agent","text":""}"#),
            (pressed('1'), "dtmf_digit", r#"{"digit":"1"}"#),
            (pressed('#'), "dtmf_digit", r##"{"digit":"#"}"##),
            (CallEvent::Dtmf(None), "dtmf_digit", r#"{"digit":"X"}"#),
            (
                CallEvent::ServiceFailed(Fault { code: "agent.sts.refused", message: "no \"luck\"".to_owned() }),
                "service_failed",
                r#"{"code":"agent.sts.refused","message":"no \"luck\""}"#,
            ),
            (
                CallEvent::Turn(Turn {
                    latency: Some(Latency {
                        answer: Duration::from_millis(7),
                        playout: Duration::from_micros(2_999),
                        ..Latency::default()
                    }),
                    heard: Duration::from_secs(3),
                    cut: true,
                }),
                "turn",
                r#"{"cut":true,"heard_ms":3000,"total_ms":9,"endpointing_ms":null,"stt_ms":null,"answer_ms":7,"llm_first_token_ms":null,"first_sentence_ms":null,"tts_first_byte_ms":null,"playout_ms":2}"#,
            ),
            (
                CallEvent::Turn(Turn { latency: None, heard: Duration::ZERO, cut: false }),
                "turn",
                r#"{"cut":false,"heard_ms":0,"total_ms":null,"endpointing_ms":null,"stt_ms":null,"answer_ms":null,"llm_first_token_ms":null,"first_sentence_ms":null,"tts_first_byte_ms":null,"playout_ms":null}"#,
            ),
        ] {
            let expected = format!(
                r#"{{"uuid":"{UUID}","type":"{type}","timestamp":"2026-01-01T12:00:00.123Z","payload":{payload}}}"#
            );
            assert_eq!(body(event), expected);
        }
    }

    #[test]
    fn call_initiated_carries_the_payload_as_it_came() {
        let payload =
            serde_json::from_str(r#"{"to":"5001","from":"2000","recording":false,"x":{"z":1,"a":[null]}}"#).unwrap();
        let body = render_initiated(UUID.parse().unwrap(), &payload, SystemTime::UNIX_EPOCH);
        let expected = format!(
            r#"{{"uuid":"{UUID}","type":"call_initiated","timestamp":"1970-01-01T00:00:00.000Z","payload":{{"to":"5001","from":"2000","recording":false,"x":{{"z":1,"a":[null]}}}}}}"#
        );
        assert_eq!(body, expected);
    }

    #[test]
    fn odd_clocks_give_a_timestamp_all_the_same() {
        for (at, expected) in [
            (SystemTime::UNIX_EPOCH - Duration::from_millis(1), "1969-12-31T23:59:59.999Z"),
            (SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 50), "1970-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(at), expected);
        }
    }
}
