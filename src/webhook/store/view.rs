//! Deliveries as JSON, for the command line and the HTTP API.

use std::time::SystemTime;

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Attempt, Delivery, Shown};

/// An RFC 3339 time in UTC.
#[must_use]
pub fn time(at: SystemTime) -> String {
    OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default()
}

impl Delivery {
    /// As an object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "event": self.event.to_string(),
            "endpoint": self.endpoint,
            "call": self.call.to_string(),
            "uuid": self.uuid,
            "sequence": self.seq,
            "type": self.kind,
            "at": time(self.at),
            "state": self.state.as_str(),
            "attempt": self.attempt,
            "tried_at": self.tried_at.map(time),
            "status": self.status,
            "error": self.error,
        })
    }
}

impl Attempt {
    /// As an object. The answer is text; bytes that are none are replaced.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "attempt": self.number,
            "at": time(self.at),
            "status": self.report.status,
            "latency_ms": u64::try_from(self.report.latency.as_millis()).unwrap_or(u64::MAX),
            "error": self.report.error,
            "answer": String::from_utf8_lossy(&self.report.answer),
        })
    }
}

impl Shown {
    /// As an object: the delivery with `body` (JSON where it is JSON) and `attempts`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let body = serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&self.body).into_owned()));
        let mut object = self.delivery.to_json();
        object["body"] = body;
        object["attempts"] = self.attempts.iter().map(Attempt::to_json).collect();
        object
    }
}
