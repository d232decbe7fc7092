//! One connection of Hark's own WebSocket contract: JSON in text frames, audio in binary ones, never waiting to write.

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::{
    Context,
    pipe::{Got, Pipe},
    websocket::{ConnectError, escaped},
};

/// A message of a service. Every message may carry unknown fields, and known ones may be missing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Reply {
    #[serde(rename = "type")]
    pub kind: String,
    pub id: Value,
    pub text: Option<String>,
    pub message: Option<String>,
    pub fatal: Option<bool>,
    pub sample_rate: Option<u32>,
    pub words: Value,
    pub call_id: Value,
    pub name: Value,
    pub arguments: Value,
    pub last: Value,
}

impl Reply {
    /// Whether it belongs to this request. Services may echo the number as they like.
    pub fn is_for(&self, id: u64) -> bool {
        match &self.id {
            Value::Number(number) => number.as_u64() == Some(id),
            Value::String(text) => text.parse() == Ok(id),
            _ => false,
        }
    }

    /// Whether nothing more comes for its request.
    pub fn ends(&self) -> bool {
        matches!(self.kind.as_str(), "done" | "end")
    }

    /// What an `error` says, for a log line.
    pub fn complaint(&self) -> String {
        format!("it reports an error: \"{}\"", escaped(self.message.as_deref().unwrap_or("no message")))
    }
}

/// What comes in.
#[derive(Debug)]
pub enum Incoming {
    Reply(Reply),
    Audio(Bytes),
    /// What waited to be written has been.
    Room,
}

/// A connection. Everything is written from inside [`Self::next`].
#[derive(Debug)]
pub struct Socket {
    pipe: Pipe,
    strange: u64,
}

impl Socket {
    /// Connects and says `start`.
    pub async fn connect(ctx: &Context, url: &Url, start: &Value) -> Result<Self, ConnectError> {
        let mut new = Self { pipe: Pipe::connect(ctx, url, &HeaderMap::new()).await?, strange: 0 };
        new.say(start);
        Ok(new)
    }

    /// Queues a message.
    pub fn say(&mut self, message: &Value) {
        self.pipe.send(Message::text(message.to_string()));
    }

    /// Whether audio should wait for [`Incoming::Room`].
    pub fn is_full(&mut self) -> bool {
        self.pipe.is_full()
    }

    /// Writes what can be written and waits for what comes. Loses nothing when dropped.
    pub async fn next(&mut self) -> Result<Incoming, String> {
        loop {
            match self.pipe.next().await.map_err(|lost| lost.what)? {
                Got::Audio(audio) => return Ok(Incoming::Audio(audio)),
                Got::Room => return Ok(Incoming::Room),
                Got::Text(text) => match serde_json::from_str(&text) {
                    Ok(reply) => return Ok(Incoming::Reply(reply)),
                    Err(_) => self.note(&text),
                },
            }
        }
    }

    /// Says `stop` and closes.
    pub async fn stop(mut self) {
        self.say(&serde_json::json!({"type": "stop"}));
        self.pipe.close().await;
    }

    /// One line for a connection, not one for each message.
    fn note(&mut self, text: &str) {
        self.strange += 1;
        if self.strange == 1 {
            tracing::debug!(text = escaped(text), "a service sent text that is no JSON object; ignored");
        }
    }
}

/// What a fuzzer calls: the line that a log would show of a message; `None` when it is none of the contract.
#[doc(hidden)]
#[must_use]
pub fn fuzz(text: &str) -> Option<String> {
    let reply: Reply = serde_json::from_str(text).ok()?;
    (!(reply.is_for(7) && reply.ends())).then(|| reply.complaint())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(json: &str) -> Reply {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn replies_with_unknown_and_missing_fields() {
        assert!(reply(r#"{"type":"text","id":7,"text":"x","more":[1]}"#).is_for(7));
        assert!(reply(r#"{"type":"done","id":"7"}"#).is_for(7));
        assert!(!reply(r#"{"type":"done"}"#).is_for(7));
        assert_eq!(reply(r#"{"id":null}"#).kind, "");
        assert_eq!(reply(r#"{"type":"error","message":"a\nb"}"#).complaint(), "it reports an error: \"a\\nb\"");
    }
}
