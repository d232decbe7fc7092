//! One PBX: its connection, made again whenever it is lost, and what everything about it shares.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::Rng as _;
use rustls::ClientConfig;
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, warn};
use uuid::Uuid;

use super::{
    Error, Host, Rest, Stats,
    coming::{self, Coming},
    config::{Connect, Endpoint, Pbx},
    ids::Maker,
    orphans,
    registry::Registry,
    server::{self, Door},
    socket::Accepted,
};
use crate::asterisk::rtp;

/// The waits between attempts to connect: doubling from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// The same fault is said again after so long.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// Calls at once that are set up or live; a flood beyond it goes back to the dialplan.
const MAX_CALLS: usize = 10_000;
/// How long calls may take to be taken down at the end.
const CLOSING: Duration = Duration::from_secs(2);
/// Connections of Asterisk's that wait to be looked at.
const ARRIVALS: usize = 64;

/// What a [`Client`] begins with.
#[derive(Debug)]
pub struct Started {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub pbx: Pbx,
    /// Where the AudioSocket listener is.
    pub media: SocketAddr,
    /// How long an accepted connection may take to its first event.
    pub start_timeout: Duration,
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
    arrivals: Mutex<(mpsc::Sender<Accepted>, Option<mpsc::Receiver<Accepted>>)>,
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
    pub look: Arc<Notify>,
    /// Whether we are told of events.
    pub connected: AtomicBool,
    /// No new calls.
    pub refuse: CancellationToken,
    pub calls: TaskTracker,
    pub permits: Arc<Semaphore>,
    media: SocketAddr,
    pub rtp: Arc<rtp::Sockets>,
    pub local: Mutex<Option<IpAddr>>,
    pub tls: Arc<ClientConfig>,
    stop: CancellationToken,
    pub start_timeout: Duration,
    /// A connection that Asterisk keeps, where it connects to us.
    pub coming: Coming,
    /// The applications of calls with connections of their own.
    pub own: Mutex<HashMap<String, Weak<Shared>>>,
    /// There has been a call.
    begun: AtomicBool,
    /// Its AudioSocket sends no digits: they are told by events.
    pub keys_by_events: AtomicBool,
}

impl Client {
    /// Prepares for a PBX; `None` where none is configured.
    ///
    /// # Errors
    /// What is wrong with its URL, or with TLS.
    pub fn new(started: Started) -> Result<Option<Self>, String> {
        let Started { name, pbx, media, start_timeout, rtp, host, tls, stats } = started;
        if !pbx.is_configured() {
            return Ok(None);
        }
        let endpoint = pbx.url.as_deref().map(|url| Endpoint::parse(&pbx, url)).transpose()?;
        let rest = Rest::of(&name, &pbx, endpoint, &tls, Arc::clone(&stats))?;
        let shared = Arc::new(Shared {
            maker: Maker::new(&pbx.app),
            name,
            pbx,
            rest,
            host,
            registry: Arc::default(),
            stats,
            look: Arc::default(),
            connected: AtomicBool::new(false),
            refuse: CancellationToken::new(),
            calls: TaskTracker::new(),
            permits: Arc::new(Semaphore::new(MAX_CALLS)),
            media,
            rtp,
            local: Mutex::default(),
            tls,
            stop: CancellationToken::new(),
            start_timeout,
            coming: Coming::default(),
            own: Mutex::default(),
            begun: AtomicBool::new(false),
            keys_by_events: AtomicBool::new(false),
        });
        let (arrive, arrivals) = mpsc::channel(ARRIVALS);
        Ok(Some(Self { shared, tasks: TaskTracker::new(), arrivals: Mutex::new((arrive, Some(arrivals))) }))
    }

    /// Where its Asterisk is let in, if that connects to us.
    pub(super) fn door(&self) -> Option<Door> {
        let Shared { name, pbx, .. } = &*self.shared;
        let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
        let (user, password) = (pbx.username.clone(), pbx.password.clone());
        pbx.connect.comes().then(|| Door { path: server::path(name), user, password, arrivals })
    }

    /// Connects, and keeps at it until [`Self::close`]. Has to be called on the control runtime, once.
    pub fn begin(&self) {
        let (shared, stop) = (&self.shared, &self.shared.stop);
        self.tasks.spawn(stop.clone().run_until_cancelled_owned(orphans::watch(Arc::clone(shared))));
        self.tasks.spawn(stop.clone().run_until_cancelled_owned(Arc::clone(shared).keep()));
        let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).1.take();
        if let Some(arrivals) = arrivals.filter(|_| shared.pbx.connect.comes()) {
            let arrivals = coming::arrive(Arc::clone(shared), arrivals, self.tasks.clone());
            self.tasks.spawn(stop.clone().run_until_cancelled_owned(arrivals));
        }
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

    /// For the calls of an application that one connection of Asterisk's was made for.
    pub fn of_call(&self, app: &str) -> Arc<Self> {
        Arc::new(Self {
            name: self.name.clone(),
            pbx: Pbx { app: app.to_owned(), ..self.pbx.clone() },
            rest: self.rest.of_call(),
            host: Arc::clone(&self.host),
            registry: Arc::clone(&self.registry),
            maker: self.maker.clone(),
            stats: Arc::clone(&self.stats),
            look: Arc::clone(&self.look),
            connected: AtomicBool::new(true),
            refuse: self.refuse.clone(),
            calls: self.calls.clone(),
            permits: Arc::clone(&self.permits),
            media: self.media,
            rtp: Arc::clone(&self.rtp),
            local: Mutex::default(),
            tls: Arc::clone(&self.tls),
            stop: self.stop.clone(),
            start_timeout: self.start_timeout,
            coming: Coming::default(),
            own: Mutex::default(),
            begun: AtomicBool::new(false),
            keys_by_events: AtomicBool::new(false),
        })
    }

    /// Cancelled at the end.
    pub fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Whether there has been a call.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// There is one.
    pub fn begins(&self) {
        self.begun.store(true, Ordering::Release);
    }

    /// The live calls of this application: the caller's channel and the UUID of each.
    pub fn live(&self) -> Vec<(String, Uuid)> {
        self.registry.calls_of(&self.pbx.app)
    }

    /// Whether what is left over may be ended: nobody else serves this application, as far as we are told.
    pub fn is_told(&self) -> bool {
        self.connected.load(Ordering::Acquire)
            || (self.pbx.connect == Connect::PerCall && self.rest.line().is_none_or(|line| line.is_open()))
    }

    /// Connects, and connects again, until the gateway stops.
    async fn keep(self: Arc<Self>) {
        let (mut wait, mut said) = (BACKOFF.0, None);
        if self.pbx.connect == Connect::PerCall {
            // there is none until there are calls
            self.host.health(&self.name, None);
        }
        loop {
            let (fault, was_connected) = self.connection().await;
            self.connected.store(false, Ordering::Release);
            if self.registry.calls() > 0 {
                // nobody tells any more who of them leaves: whoever looks must not wait as long as while somebody does
                self.look.notify_one();
            }
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
                // the next one is Asterisk's to make, at a pace of its own
                Error::Lost { .. } if self.pbx.connect.comes() => Duration::ZERO,
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
        let meanwhile = match self.pbx.connect {
            Connect::Hark => "no new ones come through this PBX's Stasis application meanwhile",
            _ => "callers of its Stasis application hear nothing until it has connected again",
        };
        error!(code, pbx = self.name, "{fault}; live calls go on, {meanwhile}");
    }
}
