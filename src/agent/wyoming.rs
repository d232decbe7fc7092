//! Wyoming, Home Assistant's protocol: events over TCP, each a line of JSON with data and audio behind it. No authorization, no TLS.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use url::Url;

use super::websocket::escaped;

/// Longest line, data and payload, in bytes.
const MAX_LINE: usize = 64 * 1024;
const MAX_DATA: usize = 1024 * 1024;
const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// Something that was said.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub kind: String,
    pub data: Map<String, Value>,
    pub payload: Bytes,
}

impl Event {
    /// A number in its data.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.data.get(name)?.as_u64()
    }

    /// A text in its data.
    pub fn text(&self, name: &str) -> &str {
        self.data.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// What an `error` says.
    pub fn complaint(&self) -> String {
        format!("it reports an error: \"{}\"", escaped(self.text("text")))
    }
}

#[derive(Debug, Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    data: Option<Map<String, Value>>,
    #[serde(default)]
    data_length: Option<usize>,
    #[serde(default)]
    payload_length: Option<usize>,
}

/// Why bytes are no events.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A line does not end.
    #[error("a line is longer than {MAX_LINE} bytes")]
    Line,
    /// A line is no event.
    #[error("a line is no event: {0}")]
    Head(String),
    /// Data that is no JSON object.
    #[error("the data of an event is no JSON object")]
    Data,
    /// An event is too long.
    #[error("an event of {0} bytes is too long")]
    Long(usize),
}

/// Bytes to events.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    head: Option<Head>,
}

impl Decoder {
    /// Adds what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event.
    pub fn event(&mut self) -> Result<Option<Event>, WireError> {
        if self.head.is_none() {
            let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else {
                return if self.buffer.len() > MAX_LINE { Err(WireError::Line) } else { Ok(None) };
            };
            if end > MAX_LINE {
                return Err(WireError::Line);
            }
            let line = self.buffer.split_to(end);
            self.buffer.advance(1);
            let head: Head =
                serde_json::from_slice(&line).map_err(|error| WireError::Head(escaped(&error.to_string())))?;
            let (data, payload) = (head.data_length.unwrap_or(0), head.payload_length.unwrap_or(0));
            if data > MAX_DATA || payload > MAX_PAYLOAD {
                return Err(WireError::Long(data.saturating_add(payload)));
            }
            self.head = Some(head);
        }
        let Some(head) = self
            .head
            .take_if(|head| self.buffer.len() >= head.data_length.unwrap_or(0) + head.payload_length.unwrap_or(0))
        else {
            return Ok(None);
        };
        let mut data = head.data.unwrap_or_default();
        let more = self.buffer.split_to(head.data_length.unwrap_or(0));
        if !more.is_empty() {
            data.extend(serde_json::from_slice::<Map<_, _>>(&more).map_err(|_| WireError::Data)?);
        }
        let payload = self.buffer.split_to(head.payload_length.unwrap_or(0)).freeze();
        Ok(Some(Event { kind: head.kind, data, payload }))
    }
}

/// What a fuzzer calls: the events of a connection that arrives in `pieces`, with what is wrong with it, and the most bytes that ever waited.
#[doc(hidden)]
#[must_use]
pub fn fuzz(pieces: &[&[u8]]) -> (Vec<String>, usize) {
    let (mut decoder, mut found, mut most) = (Decoder::default(), Vec::new(), 0);
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.event() {
                Ok(Some(event)) => found.push(format!("{event:?} {:?} {}", event.number("rate"), event.complaint())),
                Ok(None) => break,
                Err(error) => {
                    found.push(error.to_string());
                    return (found, most);
                }
            }
        }
        most = most.max(decoder.buffer.len());
    }
    (found, most)
}

/// An event as bytes.
pub fn encode(kind: &str, data: &Value, payload: &[u8]) -> Vec<u8> {
    let mut bytes = json!({"type": kind, "data": data, "payload_length": payload.len()}).to_string().into_bytes();
    bytes.push(b'\n');
    bytes.extend_from_slice(payload);
    bytes
}

/// The format of audio in the data of an event.
pub fn format(rate: u32) -> Value {
    json!({"rate": rate, "width": 2, "channels": 1})
}

/// A connection, which is one request.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    decoder: Decoder,
    read: Vec<u8>,
}

impl Connection {
    /// Connects to a `tcp://` address.
    pub async fn open(url: &Url, limit: Duration) -> Result<Self, String> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let Some(port) = url.port() else { return Err(format!("{url} names no port")) };
        match tokio::time::timeout(limit, TcpStream::connect((host.as_str(), port))).await {
            Ok(Ok(stream)) => {
                // best effort: it saves milliseconds
                let _ = stream.set_nodelay(true);
                Ok(Self { stream, decoder: Decoder::default(), read: vec![0; 8 * 1024] })
            }
            Ok(Err(error)) => Err(format!("cannot connect to {host}:{port}: {error}; is the service running?")),
            Err(_) => Err(format!("{host}:{port} did not answer within {} ms", limit.as_millis())),
        }
    }

    pub async fn say(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).await.map_err(|error| format!("the connection broke: {error}"))
    }

    /// The next event.
    pub async fn next(&mut self) -> Result<Event, String> {
        loop {
            match self.decoder.event() {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(error) => return Err(format!("it does not speak Wyoming: {error}")),
            }
            match self.stream.read(&mut self.read).await {
                Ok(0) => return Err("it closed the connection".to_owned()),
                Ok(n) => self.decoder.push(&self.read[..n]),
                Err(error) => return Err(format!("the connection broke: {error}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn data_comes_in_the_line_or_behind_it() {
        let mut decoder = Decoder::default();
        decoder.push(b"{\"type\":\"audio-chunk\",\"version\":\"1.10.2\",\"data\":{\"rate\":8000},\"data_length\":11,\"payload_length\":2}\n{\"width\":2}ab{\"type\":\"x\"}\n");
        let event = decoder.event().unwrap().unwrap();
        assert_eq!(
            (event.kind.as_str(), event.number("rate"), event.number("width")),
            ("audio-chunk", Some(8_000), Some(2))
        );
        assert_eq!(&event.payload[..], b"ab");
        assert_eq!(decoder.event().unwrap().unwrap().kind, "x");
        assert_eq!(decoder.event(), Ok(None));
    }

    #[test]
    fn what_has_no_end_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&[b'x'; MAX_LINE + 1]);
        assert_eq!(decoder.event(), Err(WireError::Line));
        let mut decoder = Decoder::default();
        decoder.push(b"{\"type\":\"x\",\"payload_length\":99999999999}\n");
        assert!(matches!(decoder.event(), Err(WireError::Long(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.event() {}
        }

        #[test]
        fn what_is_said_is_understood_in_any_pieces(payload in prop::collection::vec(any::<u8>(), 0..300), cut in 1..50usize) {
            let bytes = [encode("audio-chunk", &format(16_000), &payload), encode("audio-stop", &json!({}), &[])].concat();
            let (mut decoder, mut events) = (Decoder::default(), Vec::new());
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                while let Some(event) = decoder.event().unwrap() {
                    events.push(event);
                }
            }
            prop_assert_eq!(events.len(), 2);
            prop_assert_eq!(&events[0].payload[..], &payload[..]);
            prop_assert_eq!(events[0].number("rate"), Some(16_000));
        }
    }
}
