//! The events socket.

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use http::header;
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, Interval, MissedTickBehavior, interval_at, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, Message, client::IntoClientRequest as _, protocol::WebSocketConfig},
};

use super::{Error, error::escaped, rest::Rest};

/// The longest event: a channel with many variables.
const MAX_EVENT: usize = 1 << 20;

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connected events socket, with the watchdog of a peer that is silent.
pub(super) struct Socket {
    stream: WebSocketStream<Box<dyn Io>>,
    at: String,
    ping: Interval,
    every: Duration,
    heard: Instant,
    /// Our own address on this connection: likely the one at which the PBX reaches us.
    pub local: Option<IpAddr>,
}

impl Socket {
    /// Connects; from then on Asterisk tells us of `app`. The credentials travel in a header: a URL is logged by others.
    pub async fn connect(rest: &Rest, app: &str, every: Duration, tls: Arc<ClientConfig>) -> Result<Self, Error> {
        let what = "GET events";
        match timeout(rest.limit(), Box::pin(open(rest, app, what, tls))).await {
            Ok(Ok((stream, local))) => {
                let mut ping = interval_at(Instant::now() + every, every);
                ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
                Ok(Self { stream, at: rest.at().to_owned(), ping, every, heard: Instant::now(), local })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Timeout { at: rest.at().to_owned(), what: what.to_owned(), limit: rest.limit() }),
        }
    }

    /// The next message. A peer from which nothing, not even the answer to a ping, has come for three pings is dead.
    pub async fn next(&mut self) -> Result<Message, Error> {
        loop {
            let deadline = self.heard + self.every * 3;
            tokio::select! {
                message = timeout_at(deadline, self.stream.next()) => {
                    let message = match message {
                        Err(_) => return Err(self.lost("nothing came, not even the answer to a ping")),
                        Ok(None | Some(Ok(Message::Close(_)))) => return Err(self.lost("Asterisk closed the connection")),
                        Ok(Some(Err(error))) => return Err(self.lost(&error.to_string())),
                        Ok(Some(Ok(message))) => message,
                    };
                    self.heard = Instant::now();
                    if !matches!(message, Message::Ping(_) | Message::Pong(_)) {
                        return Ok(message);
                    }
                }
                _ = self.ping.tick() => {
                    // a peer that does not read is as dead as one that does not write
                    match timeout_at(deadline, self.stream.send(Message::Ping(Default::default()))).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return Err(self.lost(&error.to_string())),
                        Err(_) => return Err(self.lost("it takes nothing, not even a ping")),
                    }
                }
            }
        }
    }

    /// Closes in order, if that is quick.
    pub async fn close(mut self) {
        let _ = timeout(Duration::from_millis(200), self.stream.close(None)).await;
    }

    fn lost(&self, reason: &str) -> Error {
        Error::Lost { at: self.at.clone(), reason: escaped(reason) }
    }
}

async fn open(
    rest: &Rest,
    app: &str,
    what: &str,
    tls: Arc<ClientConfig>,
) -> Result<(WebSocketStream<Box<dyn Io>>, Option<IpAddr>), Error> {
    let unreachable = |reason: String| Error::Unreachable { at: rest.at().to_owned(), reason };
    let mut url = rest.endpoint().base().clone();
    let secure = url.scheme() == "https";
    let (Some(host), Some(port)) = (url.host_str().map(str::to_owned), url.port_or_known_default()) else {
        return Err(unreachable("its URL names no host".to_owned()));
    };
    let host = host.trim_matches(['[', ']']);
    let tcp = TcpStream::connect((host, port)).await.map_err(|error| unreachable(error.to_string()))?;
    // not worth a connection
    let _ = (tcp.set_nodelay(true), SockRef::from(&tcp).set_keepalive(true));
    let local = tcp.local_addr().ok().map(|address| address.ip());
    let io: Box<dyn Io> = if secure {
        let fault = |reason: String| unreachable(format!("TLS failed: {reason}"));
        let name = ServerName::try_from(host.to_owned()).map_err(|error| fault(error.to_string()))?;
        let tls = TlsConnector::from(tls).connect(name, tcp).await;
        Box::new(tls.map_err(|error| fault(escaped(&error.to_string())))?)
    } else {
        Box::new(tcp)
    };
    // from http(s), which cannot fail
    let _ = url.set_scheme(if secure { "wss" } else { "ws" });
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().push("events");
    }
    url.query_pairs_mut().append_pair("app", app);
    let mut request = url.as_str().into_client_request().map_err(|error| unreachable(error.to_string()))?;
    if let Some(value) = rest.endpoint().authorization() {
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    let config = WebSocketConfig::default().max_message_size(Some(MAX_EVENT)).max_frame_size(Some(MAX_EVENT));
    match client_async_with_config(request, io, Some(config)).await {
        Ok((stream, _)) => Ok((stream, local)),
        Err(tungstenite::Error::Http(answer)) => {
            Err(rest.refused(what, answer.status().as_u16(), answer.body().as_deref().unwrap_or_default()))
        }
        Err(error) => {
            Err(Error::Answer { at: rest.at().to_owned(), what: what.to_owned(), reason: escaped(&error.to_string()) })
        }
    }
}
