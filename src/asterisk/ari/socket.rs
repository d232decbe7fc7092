//! The events socket, which may carry requests, too.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use http::header;
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit, mpsc},
    time::{Instant, Interval, MissedTickBehavior, interval_at, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Message,
        client::IntoClientRequest as _,
        protocol::{Role, WebSocketConfig},
    },
};

use super::{
    Error,
    error::escaped,
    line::Wire,
    rest::{MAX_ANSWER, Rest},
};

/// The longest event: a channel with many variables.
const MAX_EVENT: usize = 1 << 20;
/// How long a connection has to give a sign of life once another one claims to be its successor.
const SUCCEEDED: Duration = Duration::from_secs(1);

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connected events socket, with the watchdog of a peer that is silent.
pub(super) struct Socket {
    stream: WebSocketStream<Box<dyn Io>>,
    at: String,
    ping: Interval,
    every: Duration,
    heard: Instant,
    /// It has to give a sign of life until then.
    due: Option<Instant>,
    unsent: mpsc::Receiver<String>,
    /// The requests that go over it.
    pub wire: Arc<Wire>,
    /// Told when another connection claims to be its successor.
    pub succeeded: Arc<Notify>,
    _place: Option<OwnedSemaphorePermit>,
    /// Our own address on this connection: likely the one at which the PBX reaches us.
    pub local: Option<IpAddr>,
}

/// A connection that Asterisk has made, and that we have accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    pub stream: TcpStream,
    /// What came behind the request.
    pub read: Vec<u8>,
    pub peer: SocketAddr,
    /// Its place among the connections.
    pub place: OwnedSemaphorePermit,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.wire.close();
    }
}

impl Socket {
    /// A connection that Asterisk has made.
    pub async fn accepted(rest: &Rest, accepted: Accepted, every: Duration) -> Self {
        let Accepted { stream, read, place, .. } = accepted;
        let local = stream.local_addr().ok().map(|address| address.ip().to_canonical());
        let io: Box<dyn Io> = Box::new(stream);
        let stream = WebSocketStream::from_partially_read(io, read, Role::Server, Some(limits(rest))).await;
        Self::new(rest, stream, local, every, Some(place))
    }

    fn new(
        rest: &Rest,
        stream: WebSocketStream<Box<dyn Io>>,
        local: Option<IpAddr>,
        every: Duration,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let mut ping = interval_at(Instant::now() + every, every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (wire, unsent) = Wire::new();
        let (heard, succeeded) = (Instant::now(), Arc::default());
        Self {
            stream,
            at: rest.at().to_owned(),
            ping,
            every,
            heard,
            due: None,
            unsent,
            wire,
            succeeded,
            _place: place,
            local,
        }
    }

    /// Connects; from then on Asterisk tells us of `app`. The credentials travel in a header: a URL is logged by others.
    pub async fn connect(rest: &Rest, app: &str, every: Duration, tls: Arc<ClientConfig>) -> Result<Self, Error> {
        let what = "GET events";
        match timeout(rest.limit(), Box::pin(open(rest, app, what, tls))).await {
            Ok(Ok((stream, local))) => Ok(Self::new(rest, stream, local, every, None)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Timeout { at: rest.at().to_owned(), what: what.to_owned(), limit: rest.limit() }),
        }
    }

    /// The next message. A peer from which nothing, not even the answer to a ping, has come for three pings is dead.
    pub async fn next(&mut self) -> Result<Message, Error> {
        loop {
            let patience = self.heard + self.every * 3;
            let deadline = self.due.map_or(patience, |due| due.min(patience));
            tokio::select! {
                message = timeout_at(deadline, self.stream.next()) => {
                    let message = match message {
                        Err(_) => return Err(self.lost("nothing came, not even the answer to a ping")),
                        Ok(None | Some(Ok(Message::Close(_)))) => return Err(self.lost("Asterisk closed the connection")),
                        Ok(Some(Err(error))) => return Err(self.lost(&error.to_string())),
                        Ok(Some(Ok(message))) => message,
                    };
                    self.heard = Instant::now();
                    self.due = None;
                    if !matches!(message, Message::Ping(_) | Message::Pong(_)) {
                        return Ok(message);
                    }
                }
                _ = self.ping.tick() => self.write(Message::Ping(Default::default()), deadline).await?,
                // its wire is ours, so there may always be more
                Some(request) = self.unsent.recv() => self.write(Message::text(request), deadline).await?,
                () = self.succeeded.notified() => {
                    let due = Instant::now() + SUCCEEDED;
                    self.due = Some(due);
                    self.write(Message::Ping(Default::default()), due.min(patience)).await?;
                }
            }
        }
    }

    /// A peer that does not read is as dead as one that does not write.
    async fn write(&mut self, message: Message, deadline: Instant) -> Result<(), Error> {
        match timeout_at(deadline, self.stream.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.lost(&error.to_string())),
            Err(_) => Err(self.lost("it takes nothing, not even a ping")),
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

/// Answers to requests may be longer than any event.
fn limits(rest: &Rest) -> WebSocketConfig {
    let most = if rest.line().is_some() { MAX_ANSWER } else { MAX_EVENT };
    WebSocketConfig::default().max_message_size(Some(most)).max_frame_size(Some(most))
}

async fn open(
    rest: &Rest,
    app: &str,
    what: &str,
    tls: Arc<ClientConfig>,
) -> Result<(WebSocketStream<Box<dyn Io>>, Option<IpAddr>), Error> {
    let unreachable = |reason: String| Error::Unreachable { at: rest.at().to_owned(), reason };
    let Some(endpoint) = rest.endpoint() else { return Err(unreachable("it has no URL".to_owned())) };
    let mut url = endpoint.base().clone();
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
    if let Some(value) = endpoint.authorization() {
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    match client_async_with_config(request, io, Some(limits(rest))).await {
        Ok((stream, _)) => Ok((stream, local)),
        Err(tungstenite::Error::Http(answer)) => {
            Err(rest.refused(what, answer.status().as_u16(), answer.body().as_deref().unwrap_or_default()))
        }
        Err(error) => {
            Err(Error::Answer { at: rest.at().to_owned(), what: what.to_owned(), reason: escaped(&error.to_string()) })
        }
    }
}
