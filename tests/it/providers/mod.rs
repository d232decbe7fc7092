//! Vendors of speech services, played by fakes that are strict about what they take: URL, authorization, parameters, frames. Each
//! says something unknown in every session. `tests/sdk/` has the vendors' own libraries talk to the same words.

mod engines;
mod gateway;
mod llm_failover;
mod llm_matrix;
mod model_server;
mod sdk;
mod sts_calls;
mod sts_faults;
mod sts_matrix;
mod sts_sdk;
mod sts_vendors;
mod stt_failover;
mod stt_faults;
mod stt_matrix;
mod stt_vendors;
mod tts_failover;
mod tts_faults;
mod tts_matrix;
mod tts_vendors;
mod utterance_matrix;
mod utterances;
mod vosk;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::{SinkExt as _, StreamExt as _};
use hark::agent::{
    Config, Named, Service,
    service::{Kind, Provider, Providers, VENDORS, vendor_of},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::support::connector::soon;

/// The key of every vendor in these tests. It must never be seen where people look.
pub const KEY: &str = "sk-hunter2-secret";

/// Keys for all vendors.
pub fn providers() -> Arc<Providers> {
    let provider = || Provider { api_key: Some(KEY.into()), ..Provider::default() };
    Arc::new(Providers(VENDORS.iter().map(|row| (row.name.to_owned(), provider())).collect()))
}

/// The service that a text names.
pub fn service(text: &str, kind: Kind) -> Service {
    let (vendor, rest) = vendor_of(text).unwrap();
    Service::Named(Box::new(Named::parse(vendor, rest, kind, &providers()).unwrap()))
}

/// Settings with short times and with keys.
pub fn config() -> Config {
    Config { providers: providers(), ..crate::support::cascade::config() }
}

/// A vendor of WebSockets.
pub struct Fake {
    listener: TcpListener,
    pub address: String,
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { listener, address }
    }

    /// The next connection, with whatever comes over it.
    pub async fn raw(&self) -> TcpStream {
        soon("a connection", self.listener.accept()).await.unwrap().0
    }

    /// The next connection, taken.
    pub async fn accept(&self) -> Peer {
        Self::shake(self.raw().await).await
    }

    /// The same of somebody who takes a while to start.
    pub async fn accept_slowly(&self) -> Peer {
        let (stream, _) =
            tokio::time::timeout(Duration::from_secs(60), self.listener.accept()).await.expect("nobody comes").unwrap();
        Self::shake(stream).await
    }

    #[allow(clippy::result_large_err)]
    async fn shake(stream: TcpStream) -> Peer {
        let mut asked = None;
        let note = |request: &Request, response: Response| {
            asked = Some((request.uri().clone(), request.headers().clone()));
            Ok(response)
        };
        let socket = soon("a handshake", accept_hdr_async(stream, note)).await.unwrap();
        let (uri, headers) = asked.unwrap();
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        Peer { socket, path: uri.path().to_owned(), query: pairs, headers: headers.collect() }
    }

    /// The next connection, a request over HTTP that `answer` answers: its head and its body.
    pub async fn asked(&self, answer: impl FnOnce(&str, &Value) -> Value) {
        // a library takes a while to start
        let (mut stream, _) =
            tokio::time::timeout(Duration::from_secs(60), self.listener.accept()).await.expect("nobody comes").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon("a request", stream.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next()?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        soon("a body", stream.read_exact(&mut body)).await.unwrap();
        let answer = answer(&head, &serde_json::from_slice(&body).unwrap_or(Value::Null)).to_string();
        let len = answer.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{answer}"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }

    /// The next connection, refused with a status.
    pub async fn refuse(&self, status: &str, body: &str) {
        let mut stream = self.raw().await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon("a request", stream.read_u8()).await.unwrap());
        }
        let len = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }
}

/// The vendor's side of a connection.
pub struct Peer {
    socket: WebSocketStream<TcpStream>,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: BTreeMap<String, String>,
}

impl Peer {
    /// The next message that is no ping.
    pub async fn message(&mut self) -> Message {
        loop {
            match soon("a message", self.socket.next()).await.expect("the client has left").unwrap() {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    /// The next text, past audio.
    pub async fn text(&mut self) -> String {
        loop {
            match self.message().await {
                Message::Text(text) => return text.to_string(),
                Message::Binary(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next text as JSON.
    pub async fn json(&mut self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
    }

    /// At least `len` bytes of audio, in whatever messages the vendor takes it.
    pub async fn audio(&mut self, len: usize) -> Vec<u8> {
        let mut audio = Vec::new();
        while audio.len() < len {
            match self.message().await {
                Message::Binary(bytes) => {
                    assert!(!bytes.is_empty(), "an empty message ends a session");
                    audio.extend_from_slice(&bytes);
                }
                Message::Text(text) => {
                    let chunk: Value = serde_json::from_str(&text).unwrap();
                    let data = if chunk["type"] == "input_audio_buffer.append" {
                        &chunk["audio"]
                    } else {
                        assert_eq!(chunk["message_type"], "input_audio_chunk", "{text}");
                        &chunk["audio_base_64"]
                    };
                    audio.extend(BASE64_STANDARD.decode(data.as_str().unwrap()).unwrap());
                }
                other => panic!("{other:?}"),
            }
        }
        audio
    }

    pub async fn say(&mut self, message: &Value) {
        self.send(Message::text(message.to_string())).await;
    }

    pub async fn send(&mut self, message: Message) {
        soon("a message to be taken", self.socket.send(message)).await.unwrap();
    }

    /// A text cut wherever it can be: a frame for each of its bytes, inside of characters too, and reads that end within frames.
    pub async fn crumbs(&mut self, message: &Value) {
        let text = message.to_string();
        let frames: Vec<u8> = text
            .bytes()
            .enumerate()
            .flat_map(|(at, byte)| {
                let (last, first) = (at + 1 == text.len(), at == 0);
                [(u8::from(last) << 7) | u8::from(first), 1, byte]
            })
            .collect();
        for piece in frames.chunks(7) {
            soon("bytes to be taken", self.socket.get_mut().write_all(piece)).await.unwrap();
            tokio::task::yield_now().await;
        }
    }

    /// Messages at once.
    pub async fn burst(&mut self, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            soon("a message to be taken", self.socket.feed(message)).await.unwrap();
        }
        soon("messages to be taken", self.socket.flush()).await.unwrap();
    }

    /// Something that no client knows yet.
    pub async fn novelty(&mut self) {
        for novelty in [
            json!({"type": "Novelty", "message": "Novelty", "message_type": "novelty", "mood": {"level": 3}}),
            json!({"unheard_of": [1, 2, null]}),
        ] {
            self.say(&novelty).await;
        }
    }

    pub async fn close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.to_owned().into() };
        let _ = self.socket.close(Some(frame)).await;
        // until the other side has answered, or gone
        while let Ok(Some(Ok(_))) = tokio::time::timeout(Duration::from_secs(5), self.socket.next()).await {}
    }

    /// The connection breaks.
    pub fn reset(self) {
        socket2::SockRef::from(self.socket.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// The bytes below, for what is no WebSocket.
    pub async fn garbage(self) {
        let mut stream = self.socket.into_inner();
        let _ = stream.write_all(&[0xFF; 64]).await;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    }
}
