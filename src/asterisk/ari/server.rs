//! The listener to which Asterisks connect that tell of calls by themselves (`outbound_websocket` in ari.conf).

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, header};
use ipnet::IpNet;
use serde::Deserialize;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::handshake::server::{create_response, write_response};
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::socket::Accepted;
use crate::asterisk::{
    gate::{Gate, Muffler, Waiting},
    telemetry::AriStats,
    upgrade::{self, Codes, NoRequest},
};

/// What Asterisk asks for.
const SUBPROTOCOL: &str = "ari";
/// Pause after accept() failed for want of something that only time gives back.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and TCP port to listen on; unset = nobody listens.
    pub listen: Option<SocketAddr>,
    /// Networks that may connect; empty = everybody who can reach the listener.
    pub allow: Vec<IpNet>,
    /// How long a connection may take to its request, and from there to its first event, in ms.
    pub start_timeout_ms: u64,
    /// Connections that have sent no request yet; the oldest is closed for a newcomer.
    pub max_pending: usize,
    /// Connections at once.
    pub max_connections: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: None, allow: Vec::new(), start_timeout_ms: 5_000, max_pending: 256, max_connections: 4_096 }
    }
}

/// Where the Asterisk of one PBX is let in.
#[derive(Debug)]
pub(super) struct Door {
    pub path: String,
    pub user: String,
    pub password: String,
    pub arrivals: mpsc::Sender<Accepted>,
}

/// The path of a PBX of this name.
#[must_use]
pub fn path(pbx: &str) -> String {
    if pbx == "default" { "/ari".to_owned() } else { format!("/ari/{pbx}") }
}

/// Why a connection is not taken.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Request(#[from] NoRequest),
    #[error(
        "it asks for other subprotocols than \"ari\": its entry in websocket_client.conf needs protocols = ari (or is it the one for media, and meant for websocket.listen?)"
    )]
    Protocol,
    #[error("no PBX has the path {0:?}: the uri of its entry in websocket_client.conf has to end in {1}")]
    Path(String, String),
    #[error(
        "its user or password is wrong: username and password of its entry in websocket_client.conf have to be ari.username and ari.password"
    )]
    Unauthorised,
    #[error("there are ari_server.max_connections already")]
    Full,
}

const CODES: Codes = Codes {
    timeout: "ari.request.timeout",
    evicted: "ari.request.evicted",
    closed: "ari.request.closed",
    wrong: "ari.request.wrong",
    io: "ari.request.io",
};

impl Refused {
    const fn code(&self) -> &'static str {
        match self {
            Self::Request(error) => error.code(&CODES),
            Self::Protocol => "ari.request.protocol",
            Self::Path(..) => "ari.request.path",
            Self::Unauthorised => "ari.request.unauthorised",
            Self::Full => "ari.request.full",
        }
    }
}

/// The listener.
#[derive(Debug)]
pub struct Server {
    inner: TcpListener,
    config: Config,
    gate: Arc<Gate>,
    places: Arc<Semaphore>,
    muffler: Muffler,
    failed: Muffler,
    stats: Arc<AriStats>,
    doors: Vec<Door>,
}

impl Server {
    /// Listens where it is configured; `None` where it is not.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(config: &Config) -> io::Result<Option<Self>> {
        let Some(listen) = config.listen else { return Ok(None) };
        let inner = TcpListener::bind(listen).await?;
        info!("Asterisks may tell of calls by themselves (outbound ARI WebSockets) at {}", inner.local_addr()?);
        Ok(Some(Self {
            inner,
            gate: Arc::default(),
            places: Arc::new(Semaphore::new(config.max_connections)),
            config: config.clone(),
            muffler: Muffler::default(),
            failed: Muffler::default(),
            stats: Arc::default(),
            doors: Vec::new(),
        }))
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Lets the Asterisks of these clients in.
    #[must_use]
    pub fn with(mut self, clients: &[super::Client], stats: Arc<AriStats>) -> Self {
        self.doors = clients.iter().filter_map(super::Client::door).collect();
        self.stats = stats;
        self
    }

    /// Takes connections until it is dropped.
    pub async fn run(self) {
        let server = Arc::new(self);
        let tasks = TaskTracker::new();
        loop {
            let (stream, peer) = match server.inner.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    if let Some(left_out) = server.failed.pass() {
                        error!(%error, left_out, "accepting a connection of Asterisk's failed; with \"too many open files\" raise the limit (LimitNOFILE=, ulimit -n)");
                    }
                    tokio::time::sleep(BACK_OFF).await;
                    continue;
                }
            };
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            if !server.config.allow.is_empty() && !server.config.allow.iter().any(|net| net.contains(&peer.ip())) {
                server.stats.denied.inc();
                if let Some(left_out) = server.muffler.pass() {
                    warn!(%peer, left_out, "a connection for ARI is closed: its address is not in ari_server.allow");
                }
                continue;
            }
            let (waiting, _) = server.gate.wait(server.config.max_pending);
            let server = Arc::clone(&server);
            tasks.spawn(async move { server.take(stream, peer, waiting).await });
        }
    }

    /// Takes a connection, or refuses it and says why.
    async fn take(&self, stream: TcpStream, peer: SocketAddr, waiting: Waiting) {
        let Err(refused) = self.let_in(stream, peer, waiting).await else { return };
        self.stats.denied.inc();
        if !matches!(refused, Refused::Request(NoRequest::Evicted))
            && let Some(left_out) = self.muffler.pass()
        {
            warn!(%peer, code = refused.code(), left_out, "a connection for ARI is refused: {refused}");
        }
    }

    async fn let_in(&self, mut stream: TcpStream, peer: SocketAddr, waiting: Waiting) -> Result<(), Refused> {
        let limit = Duration::from_millis(self.config.start_timeout_ms);
        stream.set_nodelay(true).map_err(NoRequest::Io)?;
        let (request, read) = upgrade::awaited(&mut stream, &waiting, Instant::now(), limit).await?;
        drop(waiting);
        let (refused, status, headers) = match self.examine(&request) {
            Ok((door, accepted, place)) => {
                // a peer that does not take it is found out by its silence
                let _ = timeout(limit, stream.write_all(&accepted)).await;
                // nobody takes it once the gateway is going down
                let _ = door.arrivals.send(Accepted { stream, read, peer, place }).await;
                return Ok(());
            }
            Err(refused @ Refused::Unauthorised) => (refused, "401 Unauthorized", upgrade::CHALLENGE),
            Err(refused @ Refused::Path(..)) => (refused, "404 Not Found", ""),
            Err(refused @ Refused::Full) => (refused, "503 Service Unavailable", ""),
            Err(refused) => (refused, "400 Bad Request", ""),
        };
        upgrade::refuse(&mut stream, status, headers).await;
        Err(refused)
    }

    /// Whose Asterisk asks, and what it is answered.
    fn examine(&self, request: &http::Request<()>) -> Result<(&Door, Vec<u8>, OwnedSemaphorePermit), Refused> {
        let mut answer = create_response(request).map_err(|error| NoRequest::Wrong(error.to_string()))?;
        let path = request.uri().path().trim_end_matches('/');
        let door = self.doors.iter().find(|door| door.path == path).ok_or_else(|| {
            let known: Vec<_> = self.doors.iter().map(|door| door.path.as_str()).collect();
            Refused::Path(path.chars().take(100).collect(), known.join(" or "))
        })?;
        if !upgrade::is_user(request.headers(), &door.user, &door.password) {
            return Err(Refused::Unauthorised);
        }
        let mut asked = upgrade::protocols(request.headers()).peekable();
        if asked.peek().is_some() {
            if !asked.any(|one| one == SUBPROTOCOL) {
                return Err(Refused::Protocol);
            }
            answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        }
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refused::Full)?;
        let mut accepted = Vec::new();
        // status and headers are ours: they can be written
        let _ = write_response(&mut accepted, &answer);
        Ok((door, accepted, place))
    }
}
