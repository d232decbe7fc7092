//! PBXs with ARI: the calls that come through their Stasis application are announced like those of `POST /call`, and their audio comes to
//! the AudioSocket listener like any other.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::ClientConfig;
use serde_json::{Map, Value};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error};
use url::Url;
use uuid::Uuid;

use super::{announced::Announced, websocket::Fetcher};
use crate::{
    api,
    asterisk::{
        ari::{self, Client, Error, Host, Later, Media, Server, Started, Stats},
        rtp::{self, PortError, Sockets},
        telemetry::RtpStats,
    },
    call::{AnsweredBy, CallId, Command, Digit, EndReason},
    config::Config,
    session::Announcements,
    telemetry::metrics::Metrics,
};

/// The code under which `/ready` shows that no PBX can be worked with.
const NOT_READY: &str = "ari";

/// How often, and after how long each time, it is looked for the session of a call that has just been connected.
const SESSION_BEGINS: usize = 40;
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// The connections to all PBXs.
#[derive(Debug, Default)]
pub(super) struct Pbxs {
    clients: Vec<Client>,
    server: Option<Server>,
    /// The listener, at work.
    serving: Option<AbortOnDropHandle<()>>,
}

impl Pbxs {
    /// Prepares for every PBX that is configured. `audiosocket`: where their audio is to come.
    pub fn new(
        config: &Config,
        server: Option<Server>,
        audiosocket: SocketAddr,
        tls: &Arc<ClientConfig>,
        state: &api::State<Announced>,
        fetcher: Fetcher,
        rtp: &Arc<Sockets>,
    ) -> Self {
        let pbxs: Vec<_> = config.ari.all().collect();
        if pbxs.is_empty() {
            return Self::default();
        }
        let stats = Arc::<Stats>::default();
        let faults = pbxs.iter().map(|(name, _)| ((*name).to_owned(), Some("not connected yet".to_owned()))).collect();
        let reception = Arc::new(Reception { state: state.clone(), fetcher, faults: Mutex::new(faults) });
        export(&state.metrics, &stats, &reception);
        reception.show();
        let start = |(name, pbx): (&str, &ari::Pbx)| {
            let started = Started {
                name: name.to_owned(),
                pbx: pbx.clone(),
                media: audiosocket,
                start_timeout: Duration::from_millis(config.ari_server.start_timeout_ms),
                rtp: Arc::clone(rtp),
                host: Arc::<Reception>::clone(&reception) as Arc<dyn Host>,
                tls: Arc::clone(tls),
                stats: Arc::clone(&stats),
            };
            Client::new(started).unwrap_or_else(|reason| {
                error!(code = "ari.settings", pbx = name, "this PBX cannot be worked with: ari.url {reason}");
                None
            })
        };
        let clients: Vec<_> = pbxs.into_iter().filter_map(start).collect();
        let server = server.map(|server| server.with(&clients, Arc::clone(&stats)));
        Self { clients, server, serving: None }
    }

    /// Connects to them, and lets them connect. Has to be called on the control runtime.
    pub fn begin(&mut self) {
        self.clients.iter().for_each(Client::begin);
        self.serving = self.server.take().map(|server| AbortOnDropHandle::new(tokio::spawn(server.run())));
    }

    /// Control over the callers of live calls.
    pub fn control(&self) -> ari::Control {
        ari::Control::of(&self.clients)
    }

    /// New calls go back to their dialplan from now on.
    pub fn refuse(&self) {
        self.clients.iter().for_each(Client::refuse);
    }

    /// Takes down what is left of calls, and disconnects.
    pub async fn close(self) {
        futures_util::future::join_all(self.clients.into_iter().map(Client::close)).await;
    }
}

/// Ports for RTP. Where a PBX needs them one is opened at once, so that a wrong address is known before the first call.
pub(super) fn sockets(config: &Config, metrics: &Metrics) -> Result<Arc<Sockets>, PortError> {
    let stats = Arc::<RtpStats>::default();
    let sockets = Sockets::new(&config.rtp, Arc::clone(&stats));
    if config.ari.all().any(|(_, pbx)| pbx.media == Media::Rtp) {
        sockets.open()?;
    }
    let names: Vec<_> = stats.read().into_iter().map(|(name, help, _)| (name, help)).collect();
    for (index, (name, help)) in names.into_iter().enumerate() {
        let stats = Arc::clone(&stats);
        metrics.register_counter_fn(&format!("rtp_{name}"), help.trim_end_matches('.'), move || {
            stats.read().get(index).map_or(0, |(.., value)| *value)
        });
    }
    Ok(Arc::new(sockets))
}

/// Takes the calls of all PBXs.
#[derive(Debug)]
struct Reception {
    state: api::State<Announced>,
    fetcher: Fetcher,
    /// What is wrong with each PBX, by its name.
    faults: Mutex<BTreeMap<String, Option<String>>>,
}

impl Reception {
    /// While one PBX can be worked with, the gateway is of use.
    fn show(&self) {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        match faults.values().flatten().next() {
            Some(fault) if faults.values().all(Option::is_some) => self.state.readiness.set(NOT_READY, fault),
            _ => self.state.readiness.clear(NOT_READY),
        }
    }

    fn working(&self) -> usize {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.values().filter(|fault| fault.is_none()).count()
    }
}

impl Host for Reception {
    fn announce(&self, uuid: Uuid, about: Map<String, Value>) -> Later<'_, Result<(), String>> {
        Box::pin(api::announce_call(&self.state, uuid, about))
    }

    fn fetch(&self, uuid: Uuid, media: Url) -> Later<'_, ()> {
        Box::pin(self.fetcher.fetch(uuid, media))
    }

    fn serve(&self, pending: rtp::Pending) -> Later<'_, ()> {
        Box::pin(self.fetcher.serve(pending))
    }

    fn failed(&self, uuid: Uuid, code: &'static str) -> Later<'_, ()> {
        Box::pin(async move {
            // only of a call that nobody has taken
            let announced = self.state.announcements.take(uuid).await;
            if let Some(announced) = announced
                && let Some(call) = announced.call.map(CallId::from)
            {
                self.state.webhooks.describe(call, &announced.payload);
                self.state.webhooks.refused(call, uuid, code, None).await;
            }
        })
    }

    fn press(&self, uuid: Uuid, digit: Digit) {
        for (_, commands) in self.state.registry.find(uuid) {
            if commands.try_send(Command::Press(digit)).is_err() {
                debug!(%uuid, "a key is lost: too many orders at once, or the call is ending");
            }
        }
    }

    fn answered_by(&self, uuid: Uuid, who: AnsweredBy) {
        let registry = Arc::clone(&self.state.registry);
        // its session may be about to begin
        tokio::spawn(async move {
            for _ in 0..SESSION_BEGINS {
                let found = registry.find(uuid);
                if found.is_empty() {
                    sleep(LOOK_AGAIN).await;
                    continue;
                }
                for (_, commands) in found {
                    // full or gone: who it is is found out without it
                    let _ = commands.try_send(Command::AnsweredBy(who));
                }
                return;
            }
        });
    }

    fn end(&self, uuid: Uuid) {
        for (_, commands) in self.state.registry.find(uuid) {
            // full or gone: it ends by itself, as its audio has
            let _ = commands.try_send(Command::Hangup(EndReason::CallerHangup));
        }
    }

    fn connected(&self, took: Duration) {
        self.state.metrics.setup.observe(took.as_secs_f64());
    }

    fn health(&self, pbx: &str, fault: Option<&Error>) {
        let fault = fault.map(ToString::to_string);
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).insert(pbx.to_owned(), fault);
        self.show();
    }
}

/// Shows what is counted under `/metrics`.
fn export(metrics: &Metrics, stats: &Arc<Stats>, reception: &Arc<Reception>) {
    let names: Vec<_> = stats.read().into_iter().map(|(name, help, _)| (name, help)).collect();
    for (index, (name, help)) in names.into_iter().enumerate() {
        let stats = Arc::clone(stats);
        metrics.register_counter_fn(&format!("ari_{name}"), help.trim_end_matches('.'), move || {
            stats.read().get(index).map_or(0, |(.., value)| *value)
        });
    }
    let reception = Arc::downgrade(reception);
    #[allow(clippy::cast_precision_loss, reason = "a number of PBXs")]
    let connected = move || reception.upgrade().map_or(0.0, |reception| reception.working() as f64);
    metrics.register_gauge_fn("ari_connected", "PBXs that tell of calls", connected);
}
