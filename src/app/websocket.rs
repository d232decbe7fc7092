//! Calls whose dialplan says, in the connection itself, what they are about: announced like those of `POST /call`.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::task::AbortOnDropHandle;
use url::Url;
use uuid::Uuid;

use super::announced::Announced;
use crate::{
    api,
    asterisk::{
        Arrival, rtp,
        telemetry::WebSocketStats,
        websocket::{Config, Dial, Listener},
    },
    session::{Announcement, Announcements as _},
    telemetry::metrics::Metrics,
};

/// Announces calls that have come.
#[derive(Debug)]
pub(super) struct Announcer {
    state: api::State<Announced>,
    /// Calls ask from their media threads, which do no such work.
    control: Handle,
}

impl Announcer {
    /// Has to be called on the control runtime.
    pub fn new(state: api::State<Announced>) -> Self {
        Self { state, control: Handle::current() }
    }

    /// What is known of a call of which its connection says this too. What was announced before wins.
    pub async fn told(
        &self,
        uuid: Uuid,
        about: &Map<String, Value>,
        known: Option<Announcement>,
    ) -> Option<Announcement> {
        if let Some(mut known) = known {
            for (name, value) in about {
                known.payload.entry(name.clone()).or_insert_with(|| value.clone());
            }
            return Some(known);
        }
        let (state, about) = (self.state.clone(), about.clone());
        let announced = self.control.spawn(async move {
            // why a call is not to be taken stands in its announcement
            let _ = api::announce_call(&state, uuid, about).await;
            state.announcements.take(uuid).await
        });
        // the runtime is going down: so does the call
        AbortOnDropHandle::new(announced).await.ok().flatten()
    }
}

/// Connections to channels that wait for us.
#[derive(Debug)]
pub(super) struct Fetcher {
    pub arrivals: mpsc::Sender<Arrival>,
    pub config: Arc<Config>,
    pub stats: Arc<WebSocketStats>,
}

impl Fetcher {
    /// Has a connection made, and served, by a media thread.
    pub async fn fetch(&self, uuid: Uuid, url: Url) {
        let dial = Dial { uuid, url, config: Arc::clone(&self.config), stats: Arc::clone(&self.stats) };
        // nobody takes it once the gateway is going down
        let _ = self.arrivals.send(Arrival::Dial(Box::new(dial))).await;
    }

    /// Has RTP served by a media thread.
    pub async fn serve(&self, pending: rtp::Pending) {
        // nobody takes it once the gateway is going down, which whoever made its channel sees
        let _ = self.arrivals.send(Arrival::Rtp(Box::new(pending))).await;
    }
}

/// The next connection; none ever where nobody listens.
pub(super) async fn accept(listener: Option<&Listener>) -> crate::asterisk::websocket::Pending {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Shows what is counted under `/metrics`.
pub(super) fn export(metrics: &Metrics, stats: &Arc<WebSocketStats>) {
    let names: Vec<_> = stats.read().into_iter().map(|(name, help, _)| (name, help)).collect();
    for (index, (name, help)) in names.into_iter().enumerate() {
        let stats = Arc::clone(stats);
        metrics.register_counter_fn(&format!("websocket_{name}"), help.trim_end_matches('.'), move || {
            stats.read().get(index).map_or(0, |(.., value)| *value)
        });
    }
}
