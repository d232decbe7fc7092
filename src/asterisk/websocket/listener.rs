//! Accepting connections.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::{Config, Pending};
use crate::asterisk::{
    gate::{Gate, Muffler, Place},
    telemetry::WebSocketStats,
};

/// Pause after accept() failed for want of something that only time gives back.
const BACK_OFF: Duration = Duration::from_millis(100);

/// The WebSocket listener.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    config: Arc<Config>,
    gate: Arc<Gate>,
    stats: Arc<WebSocketStats>,
    denied: Muffler,
    over_limit: Muffler,
    evicted: Muffler,
    failed: Muffler,
    unidentified: Arc<Muffler>,
}

impl Listener {
    /// Listens on `listen`.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(listen: SocketAddr, config: Arc<Config>, stats: Arc<WebSocketStats>) -> io::Result<Self> {
        let inner = TcpListener::bind(listen).await?;
        tracing::info!("WebSocket listener for Asterisk on {}", inner.local_addr()?);
        Ok(Self {
            inner,
            config,
            gate: Arc::default(),
            stats,
            denied: Muffler::default(),
            over_limit: Muffler::default(),
            evicted: Muffler::default(),
            failed: Muffler::default(),
            unidentified: Arc::default(),
        })
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// The counters of this listener and of all its legs.
    #[must_use]
    pub fn stats(&self) -> Arc<WebSocketStats> {
        Arc::clone(&self.stats)
    }

    /// The next connection that may come in. Errors do not end it; it can be dropped and called again at any time.
    pub async fn accept(&self) -> Pending {
        loop {
            let (stream, peer) = match self.inner.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.accept_failed(&error).await;
                    continue;
                }
            };
            // an IPv4 caller of an IPv6 socket is still the IPv4 address that the administrator wrote down
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            if !self.config.allow.is_empty() && !self.config.allow.iter().any(|network| network.contains(&peer.ip())) {
                self.stats.denied.inc();
                if let Some(left_out) = self.denied.pass() {
                    tracing::warn!(%peer, left_out, "WebSocket connection closed: its address is not in websocket.allow");
                }
                continue;
            }
            let Some(place) = self.gate.enter(peer.ip(), self.config.max_per_address) else {
                self.stats.over_limit.inc();
                if let Some(left_out) = self.over_limit.pass() {
                    let max = self.config.max_per_address;
                    tracing::warn!(%peer, max, left_out, "WebSocket connection closed: its address has as many as websocket.max_per_address allows");
                }
                continue;
            };
            // fails only for a connection that is gone already
            if let Ok(pending) = self.pending(stream, peer, place) {
                self.stats.connections.inc();
                return pending;
            }
        }
    }

    async fn accept_failed(&self, error: &io::Error) {
        self.stats.accept_errors.inc();
        if let Some(left_out) = self.failed.pass() {
            tracing::error!(%error, left_out, "accepting a WebSocket connection failed; with \"too many open files\" raise the limit (LimitNOFILE=, ulimit -n)");
        }
        // a connection that was reset before we took it is no reason to let the next one wait
        if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            tokio::time::sleep(BACK_OFF).await;
        }
    }

    /// Prepares the socket and gives it a place among those that have not begun.
    fn pending(&self, stream: TcpStream, peer: SocketAddr, place: Place) -> io::Result<Pending> {
        prepare(&stream, &self.config)?;
        let stream = stream.into_std()?;
        let (waiting, full) = self.gate.wait(self.config.max_pending);
        if full {
            self.stats.evicted.inc();
            if let Some(left_out) = self.evicted.pass() {
                let max = self.config.max_pending;
                tracing::warn!(%peer, max, left_out, "websocket.max_pending connections have not begun a call: the oldest is closed for a new one");
            }
        }
        Ok(Pending {
            stream,
            peer,
            since: Instant::now(),
            waiting,
            place,
            config: Arc::clone(&self.config),
            stats: Arc::clone(&self.stats),
            muffler: Arc::clone(&self.unidentified),
        })
    }
}

/// What the socket of every leg is to have.
pub(super) fn prepare(stream: &TcpStream, config: &Config) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(Duration::from_millis(config.dead_peer_ms.into())))?;
    #[cfg(not(target_os = "linux"))]
    let _ = config;
    Ok(())
}
