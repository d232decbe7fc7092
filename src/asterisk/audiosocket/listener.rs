//! Accepting connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Config, Pending};
use crate::asterisk::gate::{Gate, Muffler};
use crate::asterisk::telemetry::Stats;

/// Refusals that are under way at once; beyond it a connection over the limit is just closed.
const MAX_REFUSALS: usize = 64;
/// Pause after accept() failed for want of something that only time gives back.
const BACK_OFF: Duration = Duration::from_millis(100);

/// The AudioSocket listener.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    config: Config,
    gate: Arc<Gate>,
    stats: Arc<Stats>,
    refusals: JoinSet<()>,
    muffled: Muffled,
}

/// One muffler for each thing that a flood could repeat.
#[derive(Debug, Default)]
struct Muffled {
    denied: Muffler,
    over_limit: Muffler,
    evicted: Muffler,
    accept: Muffler,
    unidentified: Arc<Muffler>,
}

impl Listener {
    /// Listens on `config.listen`.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(config: &Config) -> io::Result<Self> {
        let inner = TcpListener::bind(config.listen).await?;
        tracing::info!("AVR AudioSocket Server listening on port {}", inner.local_addr()?.port());
        Ok(Self {
            inner,
            config: config.clone(),
            gate: Arc::default(),
            stats: Arc::default(),
            refusals: JoinSet::new(),
            muffled: Muffled::default(),
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
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// The next connection that may come in. Errors do not end it; it can be dropped and called again at any time.
    pub async fn accept(&mut self) -> Pending {
        loop {
            let (stream, peer) = match self.inner.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.accept_failed(&error).await;
                    continue;
                }
            };
            while self.refusals.try_join_next().is_some() {}
            // an IPv4 caller of an IPv6 socket is still the IPv4 address that the administrator wrote down
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            if let Some(pending) = self.admit(stream, peer) {
                return pending;
            }
        }
    }

    async fn accept_failed(&self, error: &io::Error) {
        self.stats.accept_errors.inc();
        if let Some(left_out) = self.muffled.accept.pass() {
            tracing::error!(%error, left_out, "accepting an AudioSocket connection failed; with \"too many open files\" raise the limit (LimitNOFILE=, ulimit -n)");
        }
        // a connection that was reset before we took it is no reason to let the next one wait
        if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            tokio::time::sleep(BACK_OFF).await;
        }
    }

    /// Lets a connection in, or sees to its end.
    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) -> Option<Pending> {
        if !allowed(&self.config.allow, peer.ip()) {
            self.stats.denied.inc();
            if let Some(left_out) = self.muffled.denied.pass() {
                tracing::warn!(%peer, left_out, "AudioSocket connection closed: its address is not in audiosocket.allow");
            }
            return None;
        }
        let place = self.gate.enter(peer.ip(), self.config.max_per_address);
        let over_limit = place.is_none();
        if over_limit {
            self.stats.over_limit.inc();
            if let Some(left_out) = self.muffled.over_limit.pass() {
                let max = self.config.max_per_address;
                tracing::warn!(%peer, max, left_out, "AudioSocket connection refused: its address has as many as audiosocket.max_per_address allows");
            }
            if self.refusals.len() >= MAX_REFUSALS {
                return None;
            }
        }
        let pending = self.pending(stream, peer, place).ok()?;
        if over_limit {
            let config = self.config.clone();
            // the dialplan goes on with its next line only after an orderly refusal
            self.refusals.spawn(async move {
                if let Ok(identified) = pending.identify(&config).await {
                    identified.refuse().await;
                }
            });
            return None;
        }
        self.stats.connections.inc();
        Some(pending)
    }

    /// Prepares the socket and gives it a place among those without a UUID.
    fn pending(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        place: Option<crate::asterisk::gate::Place>,
    ) -> io::Result<Pending> {
        stream.set_nodelay(true)?;
        #[cfg(target_os = "linux")]
        socket2::SockRef::from(&stream)
            .set_tcp_user_timeout(Some(Duration::from_millis(self.config.dead_peer_ms.into())))?;
        let stream = stream.into_std()?;
        let (waiting, full) = self.gate.wait(self.config.max_pending);
        if full {
            self.stats.evicted.inc();
            if let Some(left_out) = self.muffled.evicted.pass() {
                let max = self.config.max_pending;
                tracing::warn!(%peer, max, left_out, "audiosocket.max_pending connections have not sent their UUID: the oldest is closed for a new one");
            }
        }
        Ok(Pending {
            stream,
            peer,
            since: Instant::now(),
            waiting,
            place,
            stats: Arc::clone(&self.stats),
            muffler: Arc::clone(&self.muffled.unidentified),
        })
    }
}

/// Whether an address is in one of the networks; no networks = everybody.
fn allowed(networks: &[IpNet], address: IpAddr) -> bool {
    networks.is_empty() || networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_allows_everybody_and_another_only_its_networks() {
        let networks: Vec<IpNet> = ["10.1.0.0/16", "fd00::/8"].map(|text| text.parse().unwrap()).into();
        for (address, expected) in
            [("10.1.2.3", true), ("10.2.0.1", false), ("fd00::1", true), ("::1", false), ("127.0.0.1", false)]
        {
            assert_eq!(allowed(&networks, address.parse().unwrap()), expected, "{address}");
            assert!(allowed(&[], address.parse().unwrap()));
        }
    }
}
