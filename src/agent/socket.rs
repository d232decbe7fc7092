//! One connection of Hark's own WebSocket contract: JSON in text frames, audio in binary ones, never waiting to write.

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context as Poller, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Sink as _, SinkExt as _, Stream as _};
use serde::Deserialize;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::{
    Context,
    websocket::{self, ConnectError, escaped},
};

/// Messages that wait to be written: a second of audio.
pub const MAX_OUTGOING: usize = 50;
/// How long an orderly end may take.
const CLOSE: Duration = Duration::from_millis(500);

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
    socket: Box<websocket::Socket>,
    outgoing: VecDeque<Message>,
    unflushed: bool,
    was_full: bool,
    strange: u64,
}

impl Socket {
    /// Connects and says `start`.
    pub async fn connect(ctx: &Context, url: &Url, start: &Value) -> Result<Self, ConnectError> {
        let timeout = Duration::from_millis(ctx.config.connect_timeout_ms);
        let socket = Box::new(websocket::connect(url, &ctx.outgoing, timeout).await?);
        let mut new = Self { socket, outgoing: VecDeque::new(), unflushed: false, was_full: false, strange: 0 };
        new.say(start);
        Ok(new)
    }

    /// Queues a message.
    pub fn say(&mut self, message: &Value) {
        self.outgoing.push_back(Message::text(message.to_string()));
    }

    /// Queues audio.
    pub fn play(&mut self, audio: Bytes) {
        self.outgoing.push_back(Message::binary(audio));
    }

    /// Whether audio should wait for [`Incoming::Room`].
    pub fn is_full(&mut self) -> bool {
        self.was_full = self.outgoing.len() >= MAX_OUTGOING;
        self.was_full
    }

    /// Writes what can be written and waits for what comes. Loses nothing when dropped.
    pub async fn next(&mut self) -> Result<Incoming, String> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Says `stop` and closes.
    pub async fn stop(mut self) {
        self.say(&serde_json::json!({"type": "stop"}));
        let closing = async {
            for message in std::mem::take(&mut self.outgoing) {
                if self.socket.send(message).await.is_err() {
                    return;
                }
            }
            // broken: it is closed
            let _ = self.socket.close().await;
        };
        let _ = tokio::time::timeout(CLOSE, closing).await;
    }

    fn poll(&mut self, cx: &mut Poller<'_>) -> Poll<Result<Incoming, String>> {
        self.poll_write(cx)?;
        if self.was_full && self.outgoing.len() < MAX_OUTGOING {
            self.was_full = false;
            return Poll::Ready(Ok(Incoming::Room));
        }
        loop {
            let message = match std::pin::Pin::new(&mut *self.socket).poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Err("it closed the connection".to_owned())),
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(format!("the connection broke: {}", escaped(&error.to_string()))));
                }
                Poll::Ready(Some(Ok(message))) => message,
            };
            match message {
                Message::Binary(audio) => return Poll::Ready(Ok(Incoming::Audio(audio))),
                Message::Text(text) => match serde_json::from_str(&text) {
                    Ok(reply) => return Poll::Ready(Ok(Incoming::Reply(reply))),
                    Err(_) => self.note(&text),
                },
                Message::Close(_) => return Poll::Ready(Err("it closed the connection".to_owned())),
                _ => {}
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Poller<'_>) -> Result<(), String> {
        let broke = |error: tokio_tungstenite::tungstenite::Error| {
            format!("the connection broke: {}", escaped(&error.to_string()))
        };
        let mut socket = std::pin::Pin::new(&mut *self.socket);
        while !self.outgoing.is_empty() && socket.as_mut().poll_ready(cx).map_err(broke)?.is_ready() {
            if let Some(message) = self.outgoing.pop_front() {
                socket.as_mut().start_send(message).map_err(broke)?;
                self.unflushed = true;
            }
        }
        if self.unflushed && socket.as_mut().poll_flush(cx).map_err(broke)?.is_ready() {
            self.unflushed = false;
        }
        Ok(())
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
