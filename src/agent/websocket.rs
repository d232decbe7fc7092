//! The one WebSocket client of all adapters: TCP, proxy, TLS and handshake under one time limit.

use std::{
    fmt::Write as _,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, Uri, header};
use hyper_util::client::proxy::matcher::Intercept;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpSocket, TcpStream, lookup_host},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, client::IntoClientRequest as _, handshake::client::Request, protocol::WebSocketConfig},
};
use url::{Host, Url};

use super::Outgoing;
use crate::net;

/// tungstenite's default of 128 kB twice costs 141 kB a call and up to a third of its CPU time.
const BUFFER: usize = 4 * 1024;
/// The longest message taken: minutes of speech sent at once fit, an endless one does not.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// What we queue towards the service before it counts as stalled.
const MAX_UNSENT: usize = 1024 * 1024;
/// About a second of audio: a service that stops reading is seen at once, and hears no old audio when it comes back.
const SEND_BUFFER: u32 = 16 * 1024;
/// A peer that acknowledges nothing for this long is gone (cable pulled, container frozen).
const DEAD_PEER: Duration = Duration::from_secs(10);
/// The longest answer of a proxy to CONNECT.
const MAX_PROXY_ANSWER: usize = 8 * 1024;

/// A connected WebSocket.
pub type Socket = WebSocketStream<Transport>;

/// The bytes below a WebSocket.
#[derive(Debug)]
pub enum Transport {
    /// `ws://`
    Plain(TcpStream),
    /// `wss://`, or an https proxy
    Tls(Box<TlsStream<Transport>>),
}

/// Why there is no connection. Its text holds no credentials of the URL.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot be connected to.
    #[error("{url}: {reason}")]
    Url {
        /// The URL without credentials.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The name has no address.
    #[error("the name {host:?} cannot be resolved: {source}")]
    Resolve {
        /// The host.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The address may not be connected to on the word of a URL from outside.
    #[error("{0}")]
    Forbidden(String),
    /// No TCP connection.
    #[error("cannot connect to {host}:{port}: {source}; is the service running?")]
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The proxy did not make the connection.
    #[error("proxy {proxy} gives no connection: {reason}")]
    Proxy {
        /// The proxy without credentials.
        proxy: String,
        /// Why.
        reason: String,
    },
    /// TLS failed.
    #[error("TLS with {host} failed: {source}")]
    Tls {
        /// The host.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The peer did not accept the WebSocket.
    #[error("{url} does not accept the WebSocket: {reason}")]
    Handshake {
        /// The URL without credentials.
        url: String,
        /// Why.
        reason: String,
        /// Whether it may soon accept it: it dropped the connection or answered with a status of its own trouble (5xx).
        passing: bool,
        /// The HTTP status, where it answered with one.
        status: Option<u16>,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// It took too long.
    #[error("{url} did not answer within {} ms", limit.as_millis())]
    Timeout {
        /// The URL without credentials.
        url: String,
        /// The limit.
        limit: Duration,
    },
}

impl ConnectError {
    /// Whether the service refused or dropped the connection, as one that is being restarted does: worth another try soon.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        matches!(
            self,
            Self::Tcp { .. } | Self::Resolve { .. } | Self::Handshake { passing: true, .. } | Self::Proxy { .. }
        )
    }
}

/// `url` without its credentials, for logs and messages.
#[must_use]
pub fn display(url: &Url) -> String {
    let mut url = url.clone();
    // Fails only for URLs that cannot have credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

/// Connects to a `ws://` or `wss://` URL; credentials in it are sent as Basic authorization.
///
/// # Errors
/// The URL is of another kind, or there is no WebSocket to it within `timeout`.
pub async fn connect(url: &Url, out: &Outgoing, timeout: Duration) -> Result<Socket, ConnectError> {
    connect_with(url, &HeaderMap::new(), out, timeout).await
}

/// The same, saying `headers` in the handshake.
///
/// # Errors
/// Likewise.
pub async fn connect_with(
    url: &Url,
    headers: &HeaderMap,
    out: &Outgoing,
    timeout: Duration,
) -> Result<Socket, ConnectError> {
    let mut request = request(url)?;
    request.headers_mut().extend(headers.clone());
    let attempt = async {
        let transport = transport(url, out).await?;
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER)
            .max_write_buffer_size(MAX_UNSENT)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        match client_async_with_config(request, transport, Some(config)).await {
            Ok((socket, _)) => Ok(socket),
            Err(error) => Err(refused(url, &error)),
        }
    };
    // On the heap: the future of a TLS handshake is large, and callers keep it inside theirs.
    match tokio::time::timeout(timeout, Box::pin(attempt)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout { url: display(url), limit: timeout }),
    }
}

fn request(url: &Url) -> Result<Request, ConnectError> {
    let fault = |reason: String| ConnectError::Url { url: display(url), reason };
    let mut bare = url.clone();
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    let mut request = bare.as_str().into_client_request().map_err(|error| fault(error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        let credentials = format!("{}:{}", decoded(url.username()), decoded(url.password().unwrap_or_default()));
        let value = format!("Basic {}", BASE64_STANDARD.encode(credentials));
        let mut value = HeaderValue::try_from(value).map_err(|error| fault(error.to_string()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    Ok(request)
}

/// Undoes the percent-encoding of a URL's user or password.
fn decoded(text: &str) -> String {
    // A form parser also turns "+" into a space, so plus signs are hidden from it.
    let form = format!("x={}", text.replace('+', "%2B").replace('&', "%26"));
    url::form_urlencoded::parse(form.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

async fn transport(url: &Url, out: &Outgoing) -> Result<Transport, ConnectError> {
    let fault = |reason: &str| ConnectError::Url { url: display(url), reason: reason.to_owned() };
    let secure = match url.scheme() {
        "ws" => false,
        "wss" => true,
        _ => return Err(fault("a WebSocket URL starts with ws:// or wss://")),
    };
    let host = url.host().ok_or_else(|| fault("it names no host"))?;
    let port = url.port_or_known_default().ok_or_else(|| fault("it names no port"))?;
    let below = match out.proxy(url) {
        Some(proxy) => through(&proxy, &host, port, out).await?,
        None => Transport::Plain(tcp(&bare(&host), port, out.is_guarded()).await?),
    };
    if secure { tls(below, &bare(&host), out).await } else { Ok(below) }
}

/// A host as resolvers and certificates want it: IPv6 without brackets.
fn bare(host: &Host<&str>) -> String {
    match host {
        Host::Domain(name) => (*name).to_owned(),
        Host::Ipv4(ip) => ip.to_string(),
        Host::Ipv6(ip) => ip.to_string(),
    }
}

async fn tcp(host: &str, port: u16, guarded: bool) -> Result<TcpStream, ConnectError> {
    let addresses = match guarded {
        true => net::lookup(host, port).await,
        false => lookup_host((host, port)).await.map(Iterator::collect),
    };
    let addresses = match addresses {
        Ok(addresses) => addresses,
        Err(refused) if refused.kind() == io::ErrorKind::PermissionDenied => {
            return Err(ConnectError::Forbidden(refused.to_string()));
        }
        Err(source) => return Err(ConnectError::Resolve { host: host.to_owned(), source }),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match open(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(ConnectError::Tcp { host: host.to_owned(), port, source: last })
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(&socket).set_tcp_user_timeout(Some(DEAD_PEER))?;
    socket.connect(address).await
}

async fn tls(below: Transport, host: &str, out: &Outgoing) -> Result<Transport, ConnectError> {
    let fault = |source| ConnectError::Tls { host: host.to_owned(), source };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| fault(io::Error::other(error)))?;
    let stream = TlsConnector::from(out.tls.clone()).connect(name, below).await.map_err(fault)?;
    Ok(Transport::Tls(Box::new(stream)))
}

/// A tunnel through an HTTP proxy (RFC 9110 section 9.3.6).
async fn through(proxy: &Intercept, host: &Host<&str>, port: u16, out: &Outgoing) -> Result<Transport, ConnectError> {
    let uri = proxy.uri();
    let fault = |reason: String| ConnectError::Proxy { proxy: uri.to_string(), reason };
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        other => return Err(fault(format!("only http and https proxies are known, not {}", other.unwrap_or("?")))),
    };
    let (proxy_host, proxy_port) = proxy_address(uri, secure).ok_or_else(|| fault("it names no host".to_owned()))?;
    let below = tcp(&proxy_host, proxy_port, false).await.map_err(|error| fault(error.to_string()))?;
    let mut below = Transport::Plain(below);
    if secure {
        below = Box::pin(tls(below, &proxy_host, out)).await.map_err(|error| fault(error.to_string()))?;
    }
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some(credentials) = proxy.basic_auth().and_then(|value| value.to_str().ok()) {
        // Writing to a String cannot fail.
        let _ = write!(request, "Proxy-Authorization: {credentials}\r\n");
    }
    request.push_str("\r\n");
    let answer = ask_proxy(&mut below, &request).await.map_err(|error| fault(error.to_string()))?;
    let status = answer.split_ascii_whitespace().nth(1).and_then(|code| code.parse::<u16>().ok());
    match status {
        Some(200..=299) => Ok(below),
        _ => Err(fault(format!("it answered {:?}", answer.lines().next().unwrap_or_default()))),
    }
}

fn proxy_address(uri: &Uri, secure: bool) -> Option<(String, u16)> {
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    Some((host, uri.port_u16().unwrap_or(if secure { 443 } else { 80 })))
}

/// Sends `request` and reads the head of the answer, byte by byte so as not to take what belongs to the tunnel.
async fn ask_proxy(proxy: &mut Transport, request: &str) -> io::Result<String> {
    proxy.write_all(request.as_bytes()).await?;
    proxy.flush().await?;
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_PROXY_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer has no end"));
        }
        head.push(proxy.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// What a failed handshake means, in words; text of the peer is escaped and cut.
fn refused(url: &Url, error: &tungstenite::Error) -> ConnectError {
    let (mut status, mut retry_after) = (None, None);
    let (reason, passing) = match error {
        tungstenite::Error::Http(response) => {
            (status, retry_after) = (Some(response.status().as_u16()), seconds(response.headers()));
            let body = response.body().as_deref().unwrap_or_default();
            let body = escaped(&String::from_utf8_lossy(body));
            (
                format!("HTTP status {} {body}", response.status()).trim_end().to_owned(),
                response.status().is_server_error(),
            )
        }
        other => (escaped(&other.to_string()), true),
    };
    ConnectError::Handshake { url: display(url), reason, passing, status, retry_after }
}

/// `Retry-After` in seconds; its form with a date is for caches.
pub(super) fn seconds(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).unwrap_or_default(),
    };
    (wait <= Duration::from_secs(86_400)).then_some(wait)
}

/// Text of a peer for a log line: escaped, at most 200 characters.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    if text.chars().nth(200).is_some() {
        out.push('…');
    }
    out
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let of = |text: &str| seconds(&HeaderMap::from_iter([(header::RETRY_AFTER, text.parse().unwrap())]));
        assert_eq!((of("1"), of("0.5")), (Some(Duration::from_secs(1)), Some(Duration::from_millis(500))));
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!((of("-1"), of("soon"), of("1e300"), of("100000")), (None, None, None, None));
    }

    #[test]
    fn credentials_become_basic_authorization_and_leave_the_text() {
        let url = Url::parse("ws://us%40er:a+b%26c@sts.example:6030/x?from=2000&channel=PJSIP%2F2000").unwrap();
        assert_eq!(display(&url), "ws://sts.example:6030/x?from=2000&channel=PJSIP%2F2000");
        let request = request(&url).unwrap();
        let value = request.headers()[header::AUTHORIZATION].to_str().unwrap().to_owned();
        let credentials = BASE64_STANDARD.decode(value.strip_prefix("Basic ").unwrap()).unwrap();
        assert_eq!(credentials, b"us@er:a+b&c");
        assert_eq!(request.uri().path_and_query().unwrap(), "/x?from=2000&channel=PJSIP%2F2000");
        assert_eq!(request.headers()[header::HOST], "sts.example:6030");
    }

    #[test]
    fn text_of_a_peer_is_escaped_and_cut() {
        assert_eq!(escaped("a\r\n\u{1b}[31mb"), "a\\r\\n\\u{1b}[31mb");
        assert_eq!(escaped(&"x".repeat(300)).chars().count(), 201);
    }
}
