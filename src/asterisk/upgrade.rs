//! The request that makes a connection of Asterisk's a WebSocket: reading it, who asks, and refusing it.

use std::{io, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, header};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::handshake::{machine::TryParse as _, server::Request};

use super::gate::Waiting;

/// The longest request.
const MAX_HEAD: usize = 16 * 1024;
/// How long a refused peer may take to read the refusal.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub enum NoRequest {
    /// Nothing, or not enough, came in time.
    #[error("no request within {0:?} of connecting; something other than Asterisk?")]
    Timeout(Duration),
    /// Its place went to a newcomer.
    #[error("closed for a newer connection before its request had come")]
    Evicted,
    /// It was closed first.
    #[error("closed before its request had come")]
    Closed,
    /// It asks for something else.
    #[error("it asks for no WebSocket ({0}); something other than Asterisk?")]
    Wrong(String),
    /// The socket failed.
    #[error("the connection broke before its request had come: {0}")]
    Io(#[from] io::Error),
}

/// What the reasons of [`NoRequest`] are called outside, by the listener that they are of.
#[derive(Debug)]
pub(super) struct Codes {
    pub timeout: &'static str,
    pub evicted: &'static str,
    pub closed: &'static str,
    pub wrong: &'static str,
    pub io: &'static str,
}

impl NoRequest {
    pub(super) const fn code(&self, codes: &Codes) -> &'static str {
        match self {
            Self::Timeout(_) => codes.timeout,
            Self::Evicted => codes.evicted,
            Self::Closed => codes.closed,
            Self::Wrong(_) => codes.wrong,
            Self::Io(_) => codes.io,
        }
    }
}

/// Waits for the request of a connection that was made at `since`, for as long as it has its place; also returns what came behind it. What is no
/// request is refused already.
pub(super) async fn awaited(
    stream: &mut TcpStream,
    waiting: &Waiting,
    since: Instant,
    limit: Duration,
) -> Result<(Request, Vec<u8>), NoRequest> {
    tokio::select! {
        biased;
        () = waiting.evicted.cancelled() => Err(NoRequest::Evicted),
        request = request(stream) => request,
        () = sleep_until(since + limit) => Err(NoRequest::Timeout(limit)),
    }
}

async fn request(stream: &mut TcpStream) -> Result<(Request, Vec<u8>), NoRequest> {
    let mut head = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(NoRequest::Closed);
        }
        match Request::try_parse(&head) {
            Ok(Some((length, request))) => return Ok((request, head.split_off(length))),
            Ok(None) if head.len() < MAX_HEAD => {}
            Ok(None) => {
                refuse(stream, "431 Request Header Fields Too Large", "").await;
                return Err(NoRequest::Wrong(format!("more than {MAX_HEAD} bytes")));
            }
            Err(error) => {
                refuse(stream, "400 Bad Request", "").await;
                return Err(NoRequest::Wrong(shown(&error.to_string())));
            }
        }
    }
}

/// Answers with a refusal and closes.
pub(super) async fn refuse(stream: &mut TcpStream, status: &str, headers: &str) {
    let answer = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n");
    let goodbye = async {
        if stream.write_all(answer.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
            // closed with something unread, the answer would be lost to a reset
            let mut rest = [0; 1024];
            while matches!(stream.read(&mut rest).await, Ok(1..)) {}
        }
    };
    let _ = timeout(GOODBYE, goodbye).await;
}

/// What goes with a refusal for want of the right user and password.
pub(super) const CHALLENGE: &str = "WWW-Authenticate: Basic realm=\"hark\"\r\n";

/// The subprotocols that are asked for.
pub(super) fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let asked = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    asked.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// Whether this user asks, with this password.
pub(super) fn is_user(headers: &HeaderMap, user: &str, password: &str) -> bool {
    let expected = format!("{user}:{password}");
    let given = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, credentials) = value.to_str().ok()?.split_once(' ')?;
        let credentials = BASE64_STANDARD.decode(credentials.trim()).ok()?;
        scheme.eq_ignore_ascii_case("basic").then_some(credentials)
    });
    given.is_some_and(|given| same(&given, expected.as_bytes()))
}

/// Compares in a time that does not tell how much was right.
fn same(given: &[u8], expected: &[u8]) -> bool {
    let digest = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes);
    let (given, expected) = (digest(given), digest(expected));
    given.as_ref().iter().zip(expected.as_ref()).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

fn shown(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn who_may_connect() {
        let headers = |value: Option<String>| {
            let mut headers = HeaderMap::new();
            headers.extend(value.map(|value| (header::AUTHORIZATION, HeaderValue::try_from(value).unwrap())));
            headers
        };
        let basic = |text: &str| Some(format!("Basic {}", BASE64_STANDARD.encode(text)));
        assert!(is_user(&headers(basic("hark:secret")), "hark", "secret"));
        for wrong in [None, basic("hark:secre"), basic("hark"), Some("Basic %".to_owned()), Some("Basic".to_owned())] {
            assert!(!is_user(&headers(wrong.clone()), "hark", "secret"), "{wrong:?}");
        }
    }

    #[test]
    fn subprotocols_may_be_in_one_header_or_in_many() {
        let mut headers = HeaderMap::new();
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("media, x"));
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("ari"));
        assert_eq!(protocols(&headers).collect::<Vec<_>>(), ["media", "x", "ari"]);
    }
}
