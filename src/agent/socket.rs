//! One connection of Hark's own WebSocket contract: JSON in text frames, audio in binary ones, never waiting to write.

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::{
    Context,
    llm::{MAX_ARGUMENTS, ToolCall},
    pipe::{Got, Pipe},
    websocket::{ConnectError, escaped},
};

/// Longest name of a tool or of a call, in bytes.
const MAX_NAME: usize = 256;

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

    /// The tool that a `tool_call` wants called, and whether no other is to be called beside it. `nth`: for one without a name of its own.
    pub fn tool_call(&self, nth: usize) -> Result<(ToolCall, bool), String> {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        let (id, name) = (text(&self.call_id), text(&self.name));
        let id = if id.is_empty() { format!("call_{nth}") } else { id };
        let arguments = match &self.arguments {
            Value::Null => "{}".to_owned(),
            // as the model wrote them
            Value::String(arguments) => arguments.clone(),
            other => other.to_string(),
        };
        if name.is_empty() {
            return Err("a tool_call of its has no name".to_owned());
        }
        if arguments.len() > MAX_ARGUMENTS || name.len() > MAX_NAME || id.len() > MAX_NAME {
            return Err(format!("a tool call is longer than {MAX_ARGUMENTS} bytes"));
        }
        Ok((ToolCall { id, name, arguments, signature: None }, self.last != Value::Bool(false)))
    }

    /// What an `error` says, for a log line.
    pub fn complaint(&self) -> String {
        format!("it reports an error: \"{}\"", escaped(self.message.as_deref().unwrap_or("no message")))
    }
}

/// What comes in.
#[derive(Debug)]
pub enum Incoming {
    Reply(Box<Reply>),
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
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

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

    fn read(message: &Value) -> Result<(ToolCall, bool), String> {
        serde_json::from_value::<Reply>(message.clone()).unwrap().tool_call(3)
    }

    #[test]
    fn calls_of_tools_are_read_as_services_write_them() {
        let (call, last) =
            read(&json!({"type": "tool_call", "call_id": "a", "name": "f", "arguments": {"x": 1}})).unwrap();
        assert_eq!(
            (call.id.as_str(), call.name.as_str(), call.arguments.as_str(), last),
            ("a", "f", "{\"x\":1}", true)
        );
        let (call, last) = read(&json!({"call_id": 7, "name": "f", "arguments": "{\"x\": 1}", "last": false})).unwrap();
        assert_eq!((call.id.as_str(), call.arguments.as_str(), last), ("7", "{\"x\": 1}", false));
        let (call, _) = read(&json!({"name": "f", "last": "x"})).unwrap();
        assert_eq!((call.id.as_str(), call.arguments.as_str()), ("call_3", "{}"));
        for message in [
            json!({"call_id": "a"}),
            json!({"name": {"a": 1}}),
            json!({"name": "x".repeat(257)}),
            json!({"name": "f", "arguments": "x".repeat(70_000)}),
        ] {
            assert!(read(&message).is_err(), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_call_ends_in_one_or_in_words(id in any::<Option<i64>>(), name in "\\PC{0,300}", arguments in "\\PC{0,50}") {
            let message = json!({"type": "tool_call", "call_id": id, "name": name, "arguments": arguments});
            if let Ok((call, last)) = read(&message) {
                prop_assert!(last && !call.id.is_empty() && call.name == name && call.arguments == arguments);
            }
        }
    }
}
