//! The listener: who may connect, for how long, and how many.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use ipnet::IpNet;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{Config, State, routes, webhooks::Peer};
use crate::session::Announcements;

/// Connections at once; further ones wait in the kernel.
const MAX_CONNECTIONS: usize = 1_024;
/// How long the head of a request may take, and a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest head of a request.
const MAX_HEAD: usize = 64 * 1024;
/// How long requests under way may take after the shutdown.
const GRACE: Duration = Duration::from_secs(5);
/// A refused peer is reported at most this often.
const LOUD_EVERY: Duration = Duration::from_secs(10);

/// Opens the listener.
///
/// # Errors
/// The address is in use, not ours, or not allowed.
pub async fn bind(config: &Config) -> io::Result<TcpListener> {
    TcpListener::bind(config.listen).await
}

/// Serves until `shutdown`, then lets requests under way end.
pub async fn serve<A: Announcements>(
    listener: TcpListener,
    config: &Config,
    state: State<A>,
    shutdown: CancellationToken,
) {
    if let Ok(address) = listener.local_addr() {
        info!(%address, "AVR HTTP Server listening on port {}", address.port());
    }
    let router = routes::router(state);
    let connections = TaskTracker::new();
    let accept = accept(&listener, &config.allow, &router, &connections, &shutdown);
    shutdown.run_until_cancelled(accept).await;
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn accept(
    listener: &TcpListener,
    allow: &[IpNet],
    router: &Router,
    connections: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut loud = Loud::default();
    // the semaphore is never closed
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // a connection that is gone already, or no file descriptors: the next attempt may do better
                loud.warn(|| warn!(code = "api.accept", %error, "The HTTP service could not accept a connection"));
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if !allowed(allow, peer) {
            loud.warn(
                || warn!(code = "api.denied", %peer, "HTTP connection refused: the address is not in the HTTP service's allow-list"),
            );
            continue;
        }
        let router = router.clone().layer(Extension(Peer(peer)));
        let connection = connection(stream, router, shutdown.clone());
        connections.spawn(async move {
            let _slot = slot;
            connection.await;
        });
    }
}

fn allowed(allow: &[IpNet], peer: SocketAddr) -> bool {
    // an IPv4 peer of an IPv6 listener comes as ::ffff:a.b.c.d
    let address: IpAddr = peer.ip().to_canonical();
    allow.is_empty() || allow.iter().any(|network| network.contains(&address))
}

async fn connection(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    // only a matter of speed
    let _ = stream.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            timeout(GRACE, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        debug!(%error, "HTTP connection ended early");
    }
}

/// Keeps a message that could come a thousand times a second at one now and then.
#[derive(Default)]
struct Loud(Option<Instant>);

impl Loud {
    fn warn(&mut self, message: impl FnOnce()) {
        let now = Instant::now();
        if self.0.is_none_or(|at| now.duration_since(at) >= LOUD_EVERY) {
            self.0 = Some(now);
            message();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_networks_may_connect() {
        let allow: Vec<IpNet> = ["192.0.2.0/24", "2001:db8::/32"].map(|net| net.parse().unwrap()).to_vec();
        for (peer, may) in [
            ("192.0.2.7:1", true),
            ("192.0.3.7:1", false),
            ("[::ffff:192.0.2.7]:1", true),
            ("[2001:db8::1]:1", true),
            ("[2001:db9::1]:1", false),
        ] {
            assert_eq!(allowed(&allow, peer.parse().unwrap()), may, "{peer}");
            assert!(allowed(&[], peer.parse().unwrap()));
        }
    }
}
