//! The only place where the rooms meet: a leg is accepted, its agent connected, the session spawned; events go to the outbox;
//! everything is taken down in order.

mod announced;
mod ari;
mod calls;
mod control;
mod durable;
mod embedded;
mod media;
mod outbound;
mod profiles;
mod recording;
mod services;
mod sound;
mod turns;
mod websocket;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    task::{JoinSet, LocalSet},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

pub use self::announced::Announced;
use self::{
    ari::Pbxs,
    calls::Calls,
    control::Controls,
    media::Media,
    outbound::{Answered, Outbounds},
    profiles::Profiles,
    recording::Recordings,
    services::Services,
};
use crate::{
    agent::{self, Outgoing, OutgoingError, Route, RouteError, builtin::Voice, mcp::Servers},
    api,
    asterisk::{Arrival, ari::Server, audiosocket, websocket::Listener as WebSocketListener},
    call::{Budget, CallEvent, Envelope},
    config::{Config, WhenBroken},
    net,
    session::Registry,
    telemetry::metrics::Metrics,
    webhook::{
        self, Clients, EndpointStore, MemoryOutbox, Outbox, Webhooks,
        store::{Store, StoreError},
    },
};

/// Memory for agent speech that waits to be played, over all calls.
const SPEECH_BYTES: usize = 512 << 20;
/// Events between the calls and the outbox.
const EVENTS: usize = 1_024;
/// Orders of agents' tools that wait.
const ORDERS: usize = 256;
/// Channels that wait for us and are not served yet.
const FETCHED: usize = 1_024;
/// How long the database may take for its last words.
const CLOSING: Duration = Duration::from_secs(2);
/// Of the time a stop may take: kept for ending calls (final words included) and for the last events.
const ENDING: Duration = Duration::from_millis(2_500);

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A port cannot be listened on.
    #[error(
        "cannot listen on {key} = {address}: {source} (is another gateway running? ss -ltnp shows who has the port)"
    )]
    Listen {
        /// The setting.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The services are not set as they must be.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// Outgoing connections cannot be prepared.
    #[error(transparent)]
    Outgoing(#[from] OutgoingError),
    /// The webhook client cannot be made.
    #[error("the webhook client cannot be set up: {0}")]
    Webhook(reqwest::Error),
    /// The database cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A sound cannot be read.
    #[error("{0}")]
    Sound(String),
    /// The thread that writes recordings cannot be started.
    #[error("the thread that writes recordings cannot be started: {0}")]
    Recorder(io::Error),
    /// There is no port for RTP.
    #[error("{0}")]
    Rtp(crate::asterisk::rtp::PortError),
    /// Threads cannot be started.
    #[error("the media threads cannot be started: {0}")]
    Media(io::Error),
}

/// A gateway that listens and has not begun to serve.
#[derive(Debug)]
pub struct App {
    config: Config,
    audiosocket: audiosocket::Listener,
    audiosocket_addr: SocketAddr,
    websocket: Option<WebSocketListener>,
    /// Channels of Asterisk's that wait for us.
    fetched: mpsc::Receiver<Arrival>,
    http: Option<TcpListener>,
    http_addr: Option<SocketAddr>,
    ari_addr: Option<SocketAddr>,
    media: Media,
    inline: Option<media::Inline>,
    calls: Arc<Calls>,
    events: mpsc::Receiver<Envelope>,
    state: api::State<Announced>,
    tracker: TaskTracker,
    delivery: CancellationToken,
    store: Option<Store>,
    pbxs: Pbxs,
    answered: Answered,
}

/// What was left when the gateway stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Calls that were ended because the grace was over.
    pub calls_ended: usize,
    /// Events that were not delivered.
    pub events_left: usize,
}

impl App {
    /// Opens every port and prepares everything that can fail. Has to be called on the control runtime.
    ///
    /// # Errors
    /// A port is taken, or a setting cannot be served.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let route = Route::parse(&config.agent, &agent::Overrides::default())?;
        let tls = Arc::new(agent::tls_config(config.tls.ca_file.clone())?);
        let connect_timeout = Duration::from_millis(config.agent.connect_timeout_ms);
        let outgoing = Outgoing::new(Arc::clone(&tls), connect_timeout)?;
        let mcp = Servers::start(&config.mcp, &outgoing.vendors);
        let engine = embedded::engine(&config).await;
        let profiles = Profiles::load(&config, mcp.all(), engine.as_ref()).map_err(BindError::Sound)?;
        let route = profiles.usual_route(route)?;
        let listen = |key, address| move |source| BindError::Listen { key, address, source };
        let audiosocket = audiosocket::Listener::bind(&config.audiosocket)
            .await
            .map_err(listen("audiosocket.listen", config.audiosocket.listen))?;
        let audiosocket_addr =
            audiosocket.local_addr().map_err(listen("audiosocket.listen", config.audiosocket.listen))?;
        let (websocket_config, websocket_stats) = (Arc::new(config.websocket.clone()), Arc::default());
        let websocket = match config.websocket.listen {
            Some(address) => Some(
                WebSocketListener::bind(address, Arc::clone(&websocket_config), Arc::clone(&websocket_stats))
                    .await
                    .map_err(listen("websocket.listen", address))?,
            ),
            None => None,
        };
        let unset = SocketAddr::from(([0, 0, 0, 0], 0));
        let ari_server = Server::bind(&config.ari_server)
            .await
            .map_err(listen("ari_server.listen", config.ari_server.listen.unwrap_or(unset)))?;
        let http = match config.http.enabled {
            true => Some(api::bind(&config.http).await.map_err(listen("http.listen", config.http.listen))?),
            false => None,
        };
        let http_addr = http.as_ref().and_then(|listener| listener.local_addr().ok());
        let (media, inline) = Media::start(config.limits.media_threads).map_err(BindError::Media)?;
        let (tracker, delivery) = (TaskTracker::new(), CancellationToken::new());
        let client = || webhook::client_builder(&tls).proxy(outgoing.http_proxy());
        let clients = Clients {
            plain: client().build().map_err(BindError::Webhook)?,
            guarded: client().dns_resolver(net::Guarded).build().map_err(BindError::Webhook)?,
        };
        let store = durable::open(&config).await?;
        let outbox: Arc<dyn Outbox> = match &store {
            Some(store) => Arc::new(store.clone()),
            None => Arc::new(MemoryOutbox::new(config.webhooks.capacity)),
        };
        let kept = store.clone().map(|store| Arc::new(store) as Arc<dyn EndpointStore>);
        let webhooks = Webhooks::with_store(&config.webhooks, clients, (outbox, kept), &tracker, delivery.clone());
        let metrics = Arc::new(Metrics::default());
        export(&metrics, &audiosocket, &webhooks);
        if let Some(engine) = &engine {
            embedded::export(&metrics, engine);
        }
        websocket::export(&metrics, &websocket_stats);
        if let Some(store) = &store {
            durable::export(&metrics, store);
        }
        let ttl = Duration::from_secs(config.http.announcement_ttl_s);
        let announcements = Arc::new(Announced::new(ttl, config.http.max_announcements, store.clone()));
        let recordings = Arc::new(Recordings::start(&config, http_addr).map_err(BindError::Recorder)?);
        recordings.export(&metrics);
        let registry = Arc::new(Registry::default());
        let services = Services::new(outgoing.standings(), &config);
        services.export(&metrics);
        let mut state = api::State {
            services: Some(Arc::new(services)),
            recordings: Some(recordings.dir()),
            registry: Arc::clone(&registry),
            announcements: Arc::clone(&announcements),
            webhooks: webhooks.clone(),
            readiness: Arc::default(),
            metrics: Arc::clone(&metrics),
            undecided: config.webhooks.initiate.default,
            allow_hosts: config.routing.allow_hosts.clone().into(),
            sts_url: config.agent.sts_url.as_deref().filter(|url| *url != "builtin:").map(Into::into),
            store: store.clone(),
            control: None,
            token: config.http.token.clone().filter(|token| !token.is_empty()),
        };
        let (arrivals, fetched) = mpsc::channel(FETCHED);
        let fetcher = websocket::Fetcher { arrivals, config: websocket_config, stats: websocket_stats };
        let rtp = ari::sockets(&config, &metrics).map_err(BindError::Rtp)?;
        let ari_addr = ari_server.as_ref().and_then(|server| server.local_addr().ok());
        let pbxs = Pbxs::new(&config, ari_server, audiosocket_addr, &tls, &state, fetcher, &rtp);
        let answered = Answered::default();
        let outbounds = Arc::new(Outbounds::new(&config.outbound, pbxs.control(), state.clone(), &answered));
        let controls = Controls::new(Arc::clone(&registry), pbxs.control(), &config.ami, outbounds);
        state.control = Some(Arc::new(controls.clone()));
        let (orders, to_carry_out) = mpsc::channel(ORDERS);
        tracker.spawn(delivery.clone().run_until_cancelled_owned(controls.serve(to_carry_out)));
        let (sender, events) = mpsc::channel(EVENTS);
        let calls = Arc::new(Calls {
            profiles,
            audiosocket: config.audiosocket.clone(),
            guarded: outgoing.guarded(connect_timeout)?,
            outgoing,
            voice: Voice::new(&config.agent, config.call.dtmf_mask, tokio::runtime::Handle::current()),
            budget: Budget::of_bytes(SPEECH_BYTES),
            permits: Arc::new(Semaphore::new(config.limits.max_calls)),
            max_calls: config.limits.max_calls,
            announcements,
            announcer: websocket::Announcer::new(state.clone()),
            registry,
            recordings,
            metrics,
            webhooks,
            answered: answered.clone(),
            events: sender,
            orders,
            _mcp: mcp,
            refuse_while_broken: store
                .as_ref()
                .filter(|_| config.database.when_broken == WhenBroken::Refuse)
                .map(Store::health),
            stop: CancellationToken::new(),
            refuse: CancellationToken::new(),
        });
        info!("Calls are served by {}", calls::described(&route));
        Ok(Self {
            config,
            audiosocket,
            audiosocket_addr,
            websocket,
            fetched,
            http,
            http_addr,
            ari_addr,
            media,
            inline,
            calls,
            events,
            state,
            tracker,
            delivery,
            store,
            pbxs,
            answered,
        })
    }

    /// Where AudioSocket connections are taken.
    #[must_use]
    pub const fn audiosocket_addr(&self) -> SocketAddr {
        self.audiosocket_addr
    }

    /// Where Asterisk's WebSocket connections are taken, if at all.
    #[must_use]
    pub fn websocket_addr(&self) -> Option<SocketAddr> {
        self.websocket.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Where Asterisks connect that tell of calls by themselves, if at all.
    #[must_use]
    pub const fn ari_addr(&self) -> Option<SocketAddr> {
        self.ari_addr
    }

    /// Where HTTP requests are taken, if at all.
    #[must_use]
    pub const fn http_addr(&self) -> Option<SocketAddr> {
        self.http_addr
    }

    /// Control over the callers of live calls, where PBXs with ARI are configured.
    #[must_use]
    pub fn control(&self) -> crate::asterisk::ari::Control {
        self.pbxs.control()
    }

    /// Serves until `shutdown`, then lets calls end, ends the rest, delivers the last events, and says what was left.
    pub async fn run(mut self, shutdown: CancellationToken) -> Summary {
        match self.inline.take() {
            // No thread of its own to run calls on: they run beside this, on a thread made for a LocalSet.
            Some(inline) => {
                let handle = tokio::runtime::Handle::current();
                let local =
                    tokio::task::spawn_blocking(move || handle.block_on(LocalSet::new().run_until(inline.run())));
                let summary = self.serve(shutdown).await;
                let _ = local.await;
                summary
            }
            None => self.serve(shutdown).await,
        }
    }

    /// [`Self::run`] with everything in the caller's task and runtime (`media_threads = 0`), so that a test can pause the clock.
    pub async fn run_local(mut self, shutdown: CancellationToken) -> Summary {
        let Some(inline) = self.inline.take() else { return self.serve(shutdown).await };
        let local = LocalSet::new();
        let (summary, ()) = local.run_until(async { tokio::join!(self.serve(shutdown), inline.run()) }).await;
        summary
    }

    async fn serve(self, shutdown: CancellationToken) -> Summary {
        let Self {
            config,
            mut audiosocket,
            websocket,
            mut fetched,
            http,
            media,
            calls,
            events,
            state,
            tracker,
            delivery,
            store,
            mut pbxs,
            answered,
            ..
        } = self;
        pbxs.begin();
        let (webhooks, readiness) = (state.webhooks.clone(), Arc::clone(&state.readiness));
        let http_stop = CancellationToken::new();
        if let Some(listener) = http {
            let (http_config, stop) = (config.http.clone(), http_stop.clone());
            tracker.spawn(async move { api::serve(listener, &http_config, state, stop).await });
        } else {
            drop(state);
        }
        if let Some(store) = &store {
            let (watched, cancel) = (durable::watch(store.clone(), Arc::clone(&readiness)), delivery.clone());
            tracker.spawn(cancel.run_until_cancelled_owned(watched));
            let (ended, cancel) = (
                durable::end_orphans(store.clone(), webhooks.clone(), Arc::clone(&calls.recordings)),
                delivery.clone(),
            );
            tracker.spawn(cancel.run_until_cancelled_owned(ended));
        }
        let unconnected = durable::end_unconnected(store.clone(), Arc::clone(&calls.announcements), webhooks.clone());
        tracker.spawn(delivery.clone().run_until_cancelled_owned(unconnected));
        let event_task = tokio::spawn(deliver(events, webhooks.clone(), Arc::clone(&calls.recordings), answered));
        loop {
            let arrival = tokio::select! {
                () = shutdown.cancelled() => break,
                pending = audiosocket.accept() => Arrival::AudioSocket(pending),
                Some(arrival) = fetched.recv() => arrival,
                pending = websocket::accept(websocket.as_ref()) => Arrival::WebSocket(Box::new(pending)),
            };
            let calls = Arc::clone(&calls);
            media.run(Box::new(move || Box::pin(calls.serve(arrival)))).await;
        }
        pbxs.refuse();
        drop((audiosocket, websocket));
        readiness.set("shutdown", "the gateway is stopping");
        let deadline = Instant::now() + Duration::from_secs(config.limits.shutdown_grace_s);
        let calls_ended = drain(&calls, deadline).await;
        pbxs.close().await;
        drop(calls);
        // The threads' jobs hold the rest of the senders: once the last call is gone the event task ends.
        let threads = media.close();
        if timeout_at(deadline + ENDING, event_task).await.is_err() {
            warn!("the last events of some calls were not taken in time");
        }
        let events_left =
            webhooks.flush((deadline + Duration::from_secs(1)).max(Instant::now() + Duration::from_millis(300))).await;
        http_stop.cancel();
        delivery.cancel();
        tracker.close();
        if timeout_at(Instant::now() + Duration::from_secs(1), tracker.wait()).await.is_err() {
            debug!("some tasks had to be left");
        }
        if let Some(store) = store {
            store.close(Instant::now() + CLOSING).await;
        }
        drop(threads);
        info!(calls_ended, events_left, "stopped");
        Summary { calls_ended, events_left }
    }
}

/// Waits for the calls, then ends those that are left. Returns how many had to be ended.
async fn drain(calls: &Calls, deadline: Instant) -> usize {
    calls.refuse.cancel();
    let live = calls.registry.len();
    if live > 0 {
        info!(calls = live, "stopping: no new calls are taken, those that are live may end by themselves");
    }
    let soft = deadline.checked_sub(ENDING).unwrap_or(deadline).max(Instant::now());
    while !calls.registry.is_empty() && Instant::now() < soft {
        sleep(Duration::from_millis(50)).await;
    }
    let left = calls.registry.len();
    if left > 0 {
        warn!(calls = left, "the grace is over: these calls are ended now");
    }
    calls.stop.cancel();
    while !calls.registry.is_empty() && Instant::now() < deadline + ENDING {
        sleep(Duration::from_millis(20)).await;
    }
    left
}

/// The event task: what a call reported goes to the outbox, in order.
async fn deliver(
    mut events: mpsc::Receiver<Envelope>,
    webhooks: Webhooks,
    recordings: Arc<Recordings>,
    answered: Answered,
) {
    let (mut batch, mut finishing) = (Vec::new(), JoinSet::new());
    // what came while the last ones were written to disk is written together
    while events.recv_many(&mut batch, EVENTS).await > 0 {
        batch.iter().for_each(|envelope| recordings.said(envelope));
        if batch.iter().any(|envelope| matches!(envelope.event, CallEvent::Ended(_))) {
            let with_status = |envelope: Envelope| {
                let ended = matches!(envelope.event, CallEvent::Ended(_));
                [ended.then(|| answered.completed(&envelope)).flatten(), Some(envelope)].into_iter().flatten()
            };
            batch = std::mem::take(&mut batch).into_iter().flat_map(with_status).collect();
        }
        let waits = |envelope: &Envelope| {
            matches!(envelope.event, CallEvent::Ended(_)) && recordings.is_recorded(envelope.call)
        };
        let (ended, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut batch).into_iter().partition(waits);
        webhooks.put_all(rest).await;
        for ended in ended {
            let (webhooks, recordings) = (webhooks.clone(), Arc::clone(&recordings));
            finishing.spawn(async move {
                let ready = recordings.finish(&ended).await;
                webhooks.put_all(vec![ready, ended]).await;
            });
        }
        while finishing.try_join_next().is_some() {}
    }
    finishing.join_all().await;
}

/// Shows what the rooms count under `/metrics`.
fn export(metrics: &Metrics, audiosocket: &audiosocket::Listener, webhooks: &Webhooks) {
    let names: Vec<_> = audiosocket.stats().read().into_iter().map(|(name, help, _)| (name, help)).collect();
    for (index, (name, help)) in names.into_iter().enumerate() {
        let stats = audiosocket.stats();
        metrics.register_counter_fn(&format!("audiosocket_{name}"), help.trim_end_matches('.'), move || {
            stats.read().get(index).map_or(0, |(.., value)| *value)
        });
    }
    webhooks.stats().show(metrics);
}
