//! One PBX: the events socket with its reconnects, and what becomes of events.

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::Rng as _;
use rustls::ClientConfig;
use tokio::{
    sync::{Notify, Semaphore},
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, info, warn};

use super::{
    Error, Host, Rest, Stats,
    config::{Endpoint, Pbx},
    error::escaped,
    ids::{Maker, Owner},
    orphans,
    proof::Proof,
    registry::{Registry, State},
    socket::Socket,
    stasis,
    wire::{Channel, Event, Kind},
};
use crate::asterisk::rtp;

/// Events that come in floods and mean nothing here.
const UNWANTED: &[&str] = &["ChannelVarset", "ChannelDialplan", "ChannelCallerId", "ChannelConnectedLine"];
/// The waits between attempts to connect: doubling from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// The same fault is said again after so long.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// Calls at once that are set up or live; a flood beyond it goes back to the dialplan.
const MAX_CALLS: usize = 10_000;
/// How long calls may take to be taken down at the end.
const CLOSING: Duration = Duration::from_secs(2);

/// Whether events come is tried at once and after a second, when the old connection's end has been noticed …
const EARLY_PROOFS: [Duration; 2] = [Duration::ZERO, Duration::from_secs(1)];
/// … and then every so many pings.
const PINGS_PER_PROOF: u32 = 12;

/// What a [`Client`] begins with.
#[derive(Debug)]
pub struct Started {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub pbx: Pbx,
    /// Where the AudioSocket listener is.
    pub media: SocketAddr,
    /// Ports for RTP.
    pub rtp: Arc<rtp::Sockets>,
    /// Who takes the calls.
    pub host: Arc<dyn Host>,
    /// For https.
    pub tls: Arc<ClientConfig>,
    /// What is counted.
    pub stats: Arc<Stats>,
}

/// Keeps one PBX.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

/// What everything about one PBX shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub name: String,
    pub pbx: Pbx,
    pub rest: Rest,
    pub host: Arc<dyn Host>,
    pub registry: Arc<Registry>,
    /// Makes the identities of what is ours.
    pub maker: Maker,
    pub stats: Arc<Stats>,
    /// Something of ours may be left behind in Asterisk: look.
    pub look: Notify,
    /// Whether we are told of events.
    pub connected: AtomicBool,
    /// No new calls.
    pub refuse: CancellationToken,
    pub calls: TaskTracker,
    pub permits: Arc<Semaphore>,
    media: SocketAddr,
    pub rtp: Arc<rtp::Sockets>,
    local: Mutex<Option<IpAddr>>,
    tls: Arc<ClientConfig>,
    stop: CancellationToken,
}

impl Client {
    /// Prepares for a PBX; `None` where no URL is configured.
    ///
    /// # Errors
    /// What is wrong with its URL, or with TLS.
    pub fn new(started: Started) -> Result<Option<Self>, String> {
        let Started { name, pbx, media, rtp, host, tls, stats } = started;
        let Some(url) = &pbx.url else { return Ok(None) };
        let endpoint = Endpoint::parse(&pbx, url)?;
        let rest = Rest::new(&name, &pbx, endpoint, &tls, Arc::clone(&stats)).map_err(|error| error.to_string())?;
        let shared = Arc::new(Shared {
            maker: Maker::new(&pbx.app),
            name,
            pbx,
            rest,
            host,
            registry: Arc::default(),
            stats,
            look: Notify::new(),
            connected: AtomicBool::new(false),
            refuse: CancellationToken::new(),
            calls: TaskTracker::new(),
            permits: Arc::new(Semaphore::new(MAX_CALLS)),
            media,
            rtp,
            local: Mutex::default(),
            tls,
            stop: CancellationToken::new(),
        });
        Ok(Some(Self { shared, tasks: TaskTracker::new() }))
    }

    /// Connects, and keeps at it until [`Self::close`]. Has to be called on the control runtime, once.
    pub fn begin(&self) {
        let (shared, stop) = (&self.shared, &self.shared.stop);
        self.tasks.spawn(stop.clone().run_until_cancelled_owned(orphans::watch(Arc::clone(shared))));
        self.tasks.spawn(stop.clone().run_until_cancelled_owned(Arc::clone(shared).keep()));
        self.tasks.close();
    }

    /// No new calls from now on: they go back to their dialplan.
    pub fn refuse(&self) {
        self.shared.refuse.cancel();
    }

    /// Waits, not for long, until the last calls are taken down, and disconnects.
    pub async fn close(self) {
        self.refuse();
        self.shared.calls.close();
        // where somebody else is told of events, their media channels are only found to be gone by looking
        self.shared.look.notify_one();
        if timeout(CLOSING, self.shared.calls.wait()).await.is_err() {
            let calls = self.shared.registry.calls();
            warn!(
                calls,
                "calls of {} could not be taken down in time; the next start ends what is left",
                self.shared.rest.at()
            );
        }
        self.shared.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

impl Shared {
    /// Where this Asterisk reaches the AudioSocket listener.
    pub fn media_host(&self) -> String {
        let local = *self.local.lock().unwrap_or_else(PoisonError::into_inner);
        self.pbx.media_at(self.media, local)
    }

    /// Where this Asterisk is to send RTP for this port.
    pub fn rtp_host(&self, opened: &rtp::Opened) -> String {
        let local = *self.local.lock().unwrap_or_else(PoisonError::into_inner);
        self.rtp.advertised(opened, self.pbx.media_name(), local)
    }

    /// Connects, and connects again, until the gateway stops.
    async fn keep(self: Arc<Self>) {
        let (mut wait, mut said) = (BACKOFF.0, None);
        loop {
            let (fault, was_connected) = self.connection().await;
            self.connected.store(false, Ordering::Release);
            if was_connected {
                self.stats.losses.inc();
                (wait, said) = (BACKOFF.0, None);
            }
            self.host.health(&self.name, Some(&fault));
            self.say(&fault, &mut said);
            let jitter = rand::rng().random_range(0.5..1.0);
            let pause = match &fault {
                // by its successor: it only has its last calls to end, for which it need not be told of events
                Error::Replaced { .. } if self.refuse.is_cancelled() => return,
                Error::Replaced { retry, .. } => *retry,
                _ => wait.mul_f64(jitter),
            };
            wait = (wait * 2).min(BACKOFF.1);
            sleep(pause).await;
        }
    }

    /// One line for each new kind of fault, and one a minute for one that stays.
    fn say(&self, fault: &Error, said: &mut Option<(&'static str, tokio::time::Instant)>) {
        let code = fault.code();
        if said.is_some_and(|(last, at)| last == code && at.elapsed() < SAY_AGAIN) {
            return debug!(code, pbx = self.name, "{fault}");
        }
        *said = Some((code, tokio::time::Instant::now()));
        error!(
            code,
            pbx = self.name,
            "{fault}; live calls go on, no new ones come through this PBX's Stasis application meanwhile"
        );
    }

    /// One connection from its beginning to its end: why it ended, and whether it had begun.
    async fn connection(self: &Arc<Self>) -> (Error, bool) {
        let (app, every) = (&self.pbx.app, Duration::from_millis(self.pbx.ping_ms));
        let mut socket = match Socket::connect(&self.rest, app, every, Arc::clone(&self.tls)).await {
            Ok(socket) => socket,
            Err(error) => return (error, false),
        };
        // a user that may only read, or a module that is missing, is found out here and not by the first caller
        let (filter, channels) = tokio::join!(self.rest.event_filter(app, UNWANTED), self.rest.channels());
        if let Some(error) = filter.err().or(channels.err()) {
            socket.close().await;
            return (error, false);
        }
        *self.local.lock().unwrap_or_else(PoisonError::into_inner) = socket.local;
        let proof = Proof::default();
        let mut watch = pin!(self.watch(&proof));
        let error = loop {
            let message = tokio::select! {
                message = socket.next() => message,
                error = &mut watch => break error,
            };
            match message {
                Ok(Message::Text(text)) => {
                    proof.told();
                    if self.take(text.as_bytes(), &proof) {
                        self.stats.replaced.inc();
                        let retry = Duration::from_secs(self.pbx.replaced_s);
                        break Error::Replaced { at: self.rest.at().to_owned(), app: app.clone(), retry };
                    }
                }
                Ok(_) => self.stats.events_bad.inc(),
                Err(error) => break error,
            }
        };
        socket.close().await;
        (error, proof.is_there())
    }

    /// Proves again and again that Asterisk tells us of the application: a socket may stand and be deaf. Asterisk 22 switches the application
    /// off when it notices the end of an old connection just after the new one was made.
    async fn watch(&self, proof: &Proof) -> Error {
        let (app, limit) = (&self.pbx.app, Duration::from_millis(self.pbx.timeout_ms));
        let mut pauses = EARLY_PROOFS.into_iter();
        loop {
            sleep(pauses.next().unwrap_or(Duration::from_millis(self.pbx.ping_ms) * PINGS_PER_PROOF)).await;
            let name = proof.next();
            match self.rest.user_event(app, &name).await {
                Ok(()) if timeout(limit, proof.came.notified()).await.is_ok() => {}
                // a flood of events: ours is in it
                Ok(()) if proof.was_told() => continue,
                Ok(()) => {
                    self.stats.deaf.inc();
                    return Error::Deaf { at: self.rest.at().to_owned(), app: app.clone(), limit };
                }
                // it may be busy; whether it lives is the business of the pings
                Err(error) => debug!(pbx = self.name, "events cannot be tried: {error}"),
            }
            if proof.first() {
                self.ready().await;
            }
        }
    }

    /// From now on we are told of calls.
    async fn ready(&self) {
        let version = self.rest.info().await.map(|info| escaped(&info.system.version)).unwrap_or_default();
        info!(
            pbx = self.name,
            app = self.pbx.app,
            version,
            media = self.media_host(),
            "{} tells of calls",
            self.rest.at()
        );
        self.stats.connects.inc();
        self.connected.store(true, Ordering::Release);
        self.host.health(&self.name, None);
        self.look.notify_one();
    }

    /// Takes one message; whether somebody else has the application now.
    fn take(self: &Arc<Self>, message: &[u8], proof: &Proof) -> bool {
        self.stats.events.inc();
        let event = match Event::parse(message) {
            Ok(event) => event,
            Err(error) => {
                self.stats.events_bad.inc();
                debug!(pbx = self.name, "a message of the events socket is no event: {}", escaped(&error.to_string()));
                return false;
            }
        };
        match event.kind {
            Kind::StasisStart { channel, args } => self.entered(*channel, args),
            Kind::StasisEnd { channel } => self.update(&channel, |state| state.left = true),
            Kind::ChannelDestroyed { channel, cause } => self.update(&channel, |state| {
                state.left = true;
                state.cause = Some(cause);
            }),
            Kind::ChannelStateChange { channel, state } if state == "Up" => {
                self.update(&channel, |state| state.up = true);
            }
            Kind::ChannelStateChange { channel, state } if state == "Ringing" => {
                self.update(&channel, |state| state.ringing = true);
            }
            Kind::ChannelDtmfReceived { channel, digit, .. } => {
                // heard by legs by RTP; all others bring keys by themselves
                self.registry.press(&channel, &digit);
                self.update(&channel, |state| state.keys = (state.keys.0.wrapping_add(1), digit.chars().next()));
            }
            Kind::BridgeDestroyed { bridge } => self.update(&bridge, |state| state.left = true),
            Kind::ChannelUserevent { name } => proof.seen(&name),
            Kind::ApplicationReplaced => return true,
            Kind::Unknown { .. } => self.stats.events_unknown.inc(),
            // of no meaning here
            _ => {}
        }
        false
    }

    /// What nobody watches is nobody's business.
    fn update(&self, id: &str, change: impl FnOnce(&mut State)) {
        let _ = self.registry.update(id, change);
    }

    fn entered(self: &Arc<Self>, channel: Channel, args: Vec<String>) {
        match self.registry.state(&channel.id) {
            Some(state) if !state.left => self.update(&channel.id, |state| state.entered = true),
            // a media channel whose call is over already
            None if self.maker.owner(&channel.id) != Owner::Stranger => self.look.notify_one(),
            // a caller, maybe one who comes back
            _ if channel.id.is_empty() => self.stats.events_bad.inc(),
            _ => self.call(channel, args),
        }
    }

    fn call(self: &Arc<Self>, channel: Channel, args: Vec<String>) {
        let caller = self.registry.watch(&channel.id);
        caller.exists();
        self.stats.calls.inc();
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            // whoever looks for orphans gives it back to its dialplan
            self.stats.calls_over_limit.inc();
            return self.look.notify_one();
        };
        let shared = Arc::clone(self);
        self.calls.spawn(async move {
            stasis::serve(shared, channel, args, caller).await;
            drop(permit);
        });
    }
}
