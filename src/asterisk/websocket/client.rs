//! Connecting to a channel of Asterisk's that waits for us at `/media/…`.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use serde_json::Map;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_tungstenite::tungstenite::{
    handshake::{
        client::{Response, generate_key},
        derive_accept_key,
        machine::TryParse as _,
    },
    protocol::Role,
};
use url::Url;
use uuid::Uuid;

use super::{Config, Identified, listener::prepare, shown};
use crate::asterisk::telemetry::WebSocketStats;

/// The longest answer.
const MAX_HEAD: usize = 16 * 1024;

/// A channel that waits for us.
#[derive(Debug)]
pub struct Dial {
    /// The call's UUID.
    pub uuid: Uuid,
    /// Where it waits: `ws://host:port/media/…`.
    pub url: Url,
    /// Settings of the leg.
    pub config: Arc<Config>,
    /// What is counted.
    pub stats: Arc<WebSocketStats>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Only plain connections can be made.
    #[error("{0} cannot be connected to: media needs ws://")]
    Url(String),
    /// No TCP connection, or it broke.
    #[error("the connection to {0} failed: {1}")]
    Io(String, io::Error),
    /// It took too long.
    #[error("{0} did not answer within websocket.start_timeout_ms")]
    Timeout(String),
    /// Asterisk does not accept it.
    #[error(
        "{0} does not accept the WebSocket ({1}): 404 = the channel is gone, or res_http_websocket.so and chan_websocket.so are not loaded"
    )]
    Refused(String, String),
}

impl DialError {
    /// The stable code shown outside.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Url(_) => "websocket.dial.url",
            Self::Io(..) => "websocket.dial.io",
            Self::Timeout(_) => "websocket.dial.timeout",
            Self::Refused(..) => "websocket.dial.refused",
        }
    }
}

impl Dial {
    /// Connects, on the runtime that will serve the call.
    ///
    /// # Errors
    /// There is no connection, for one of the reasons of [`DialError`].
    pub async fn connect(self) -> Result<Identified, DialError> {
        let start_by = Instant::now() + Duration::from_millis(self.config.start_timeout_ms);
        let at = self.url.host_str().unwrap_or_default().to_owned();
        match timeout_at(start_by, self.open()).await {
            Ok(Ok((stream, peer, read))) => {
                self.stats.connections.inc();
                Ok(Identified {
                    uuid: self.uuid,
                    peer,
                    about: Map::new(),
                    stream,
                    read,
                    accepted: Vec::new(),
                    role: Role::Client,
                    start_by,
                    place: None,
                    config: self.config,
                    stats: self.stats,
                })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(DialError::Timeout(at)),
        }
    }

    async fn open(&self) -> Result<(TcpStream, SocketAddr, Vec<u8>), DialError> {
        let host = self.url.host_str().filter(|_| self.url.scheme() == "ws");
        let host = host.ok_or_else(|| DialError::Url(format!("a {}: URL", self.url.scheme())))?;
        let port = self.url.port_or_known_default().unwrap_or(80);
        let at = format!("{host}:{port}");
        let failed = |error| DialError::Io(at.clone(), error);
        let mut stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await.map_err(failed)?;
        let peer = stream.peer_addr().map_err(failed)?;
        prepare(&stream, &self.config).map_err(failed)?;
        let key = generate_key();
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {at}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: media\r\n\r\n",
            self.url.path()
        );
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut head = Vec::with_capacity(1024);
        let (length, answer) = loop {
            if stream.read_buf(&mut head).await.map_err(failed)? == 0 {
                return Err(DialError::Refused(at, "it closed the connection".to_owned()));
            }
            match Response::try_parse(&head) {
                Ok(Some(parsed)) => break parsed,
                Ok(None) if head.len() < MAX_HEAD => {}
                Ok(None) => return Err(DialError::Refused(at, "an endless answer".to_owned())),
                Err(error) => return Err(DialError::Refused(at, shown(&error.to_string()))),
            }
        };
        let accept = answer.headers().get("Sec-WebSocket-Accept").map(http::HeaderValue::as_bytes);
        if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            return Err(DialError::Refused(at, answer.status().to_string()));
        }
        if accept != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            return Err(DialError::Refused(at, "its answer is to somebody else's request".to_owned()));
        }
        Ok((stream, peer, head.split_off(length)))
    }
}
