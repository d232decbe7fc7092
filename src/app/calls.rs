//! From an accepted connection to a running session.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures_util::FutureExt;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error, info, info_span, warn};
use url::Url;
use uuid::Uuid;

use super::{
    announced::Announced,
    outbound::Answered,
    profiles::{Profile, Profiles},
    recording::Recordings,
    websocket::Announcer,
};
use crate::{
    agent::{self, AnyAgent, Context, Outgoing, Route, builtin::Voice, embedded, mcp::Servers, tools::Order},
    asterisk::{AnyLeg, Arrival, Identified, audiosocket},
    call::{Budget, CallEvent, CallId, EndReason, Envelope, EventId, Leg, Mode, Setup},
    config::Listener,
    session::{Announcement, Announcements, Entry, Registry, Session, Summary},
    telemetry::metrics::Metrics,
    webhook::{Webhooks, store::StoreError},
};

/// How long looking up an announced call may take; then the configured services serve it.
const LOOK_UP: Duration = Duration::from_millis(50);
/// Orders to one call that wait.
const COMMANDS: usize = 16;

/// What every call needs.
#[derive(Debug)]
pub(super) struct Calls {
    pub profiles: Profiles,
    pub audiosocket: audiosocket::Config,
    pub outgoing: Outgoing,
    /// For calls with services that a receiver chose.
    pub guarded: Outgoing,
    pub voice: Voice,
    pub budget: Arc<Budget>,
    pub permits: Arc<Semaphore>,
    pub max_calls: usize,
    pub announcements: Arc<Announced>,
    pub announcer: Announcer,
    pub registry: Arc<Registry>,
    pub recordings: Arc<Recordings>,
    pub metrics: Arc<Metrics>,
    pub webhooks: Webhooks,
    /// Calls that we make.
    pub answered: Answered,
    pub events: mpsc::Sender<Envelope>,
    /// What tools of agents want done with their calls.
    pub orders: mpsc::Sender<Order>,
    /// Connected as long as there are calls.
    pub _mcp: Servers,
    /// No new calls while the database does not work.
    pub refuse_while_broken: Option<watch::Receiver<Option<StoreError>>>,
    /// Ends every call.
    pub stop: CancellationToken,
    /// No new calls.
    pub refuse: CancellationToken,
}

/// Why a call is not taken.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("all {0} calls of limits.max_calls are in use")]
    Full(usize),
    #[error("{0}")]
    Embedded(embedded::Refused),
    #[error("its UUID was not announced by POST /call (audiosocket.require_registration)")]
    Unannounced,
    #[error("nobody said which services it shall have: {0} (webhooks.initiate.default = \"refuse\")")]
    Undecided(String),
    #[error("{0}, so that its events could be lost (database.when_broken = \"refuse\")")]
    Store(String),
    #[error("the gateway is stopping")]
    Stopping,
    #[error("{0}")]
    Route(#[from] agent::RouteError),
}

impl Refusal {
    const fn code(&self) -> &'static str {
        match self {
            Self::Full(_) => "call.refused.full",
            Self::Embedded(embedded::Refused::Full(_)) => "call.refused.embedded_full",
            Self::Embedded(embedded::Refused::Down) => "call.refused.embedded_down",
            Self::Unannounced => "call.refused.unannounced",
            Self::Undecided(_) => "call.refused.undecided",
            Self::Store(_) => "call.refused.store",
            Self::Stopping => "call.refused.stopping",
            Self::Route(_) => "call.refused.route",
        }
    }
}

impl Calls {
    /// Serves a connection to its end, on a media thread.
    pub fn serve(self: Arc<Self>, arrival: Arrival) -> impl Future<Output = ()> {
        // In a box that goes when the call has begun: what is in memory thousands of times is what a live call needs.
        let begin = Box::pin(Arc::clone(&self).begin(arrival));
        async move {
            let Some((session, span, live)) = begin.await else { return };
            let (id, uuid, ended) = (session.id, session.uuid, Arc::clone(&session.ended));
            let started = Instant::now();
            let summary = match AssertUnwindSafe(session.run()).catch_unwind().instrument(span.clone()).await {
                Ok(summary) => summary,
                Err(_) => Box::pin(self.panicked(id, uuid, started, &ended).instrument(span.clone())).await,
            };
            drop(live);
            span.in_scope(|| self.count(&summary));
        }
    }

    /// From a connection to a session that is ready to run; `None` when it became no call, which has been logged and counted.
    async fn begin(self: Arc<Self>, arrival: Arrival) -> Option<(Session<AnyLeg, AnyAgent>, Span, Live)> {
        let identified = arrival.identify(&self.audiosocket).await?;
        let uuid = identified.uuid();
        if uuid == audiosocket::PROBE {
            debug!(peer = %identified.peer(), "`hark doctor` has tried whether Asterisk reaches this gateway");
            identified.refuse().await;
            return None;
        }
        let mut announcement = timeout(LOOK_UP, self.announcements.take(uuid)).await.unwrap_or_else(|_| {
            warn!(%uuid, "looking up the announcement took too long: the configured services serve this call");
            None
        });
        if let Some(about) = identified.about().filter(|about| !about.is_empty()) {
            announcement = self.announcer.told(uuid, about, announcement).await;
        }
        // what was said about an announced call before it came is the same call's
        let announced = announcement.as_ref().and_then(|announced| announced.call);
        let id = announced.map_or_else(CallId::new, CallId::from);
        let span = info_span!("call", %id, %uuid);
        let (session, live) = self.take(id, identified, announcement).instrument(span.clone()).await?;
        Some((session, span, live))
    }

    async fn take(
        self: Arc<Self>,
        id: CallId,
        identified: Identified,
        announcement: Option<Announcement>,
    ) -> Option<(Session<AnyLeg, AnyAgent>, Live)> {
        let (uuid, peer) = (identified.uuid(), identified.peer());
        if let Some(announced) = &announcement {
            self.webhooks.describe(id, &announced.payload);
        }
        let by = match identified {
            Identified::AudioSocket(_) => Listener::AudioSocket,
            Identified::WebSocket(_) => Listener::WebSocket,
            Identified::Rtp(_) => Listener::Ari,
        };
        let profile = Arc::clone(self.profiles.of(by, announcement.as_ref().map(|announced| &announced.payload)));
        let admitted = self.admit(id, &profile, &identified, announcement.as_ref());
        let outgoing = self.outgoing_for(&profile, announcement.as_ref());
        let (route, permit) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.metrics.count(&self.metrics.refused, refusal.code());
                warn!(code = refusal.code(), %peer, "call refused, the dialplan goes on: {refusal}");
                identified.refuse().await;
                self.webhooks.refused(id, uuid, refusal.code(), None).await;
                return None;
            }
        };
        let (commands, orders) = mpsc::channel(COMMANDS);
        let heard_out = Arc::new(Notify::new());
        let entry = Entry {
            uuid,
            started: Instant::now(),
            commands,
            heard_out: Arc::clone(&heard_out),
            giving: Arc::default(),
        };
        let same = self.registry.add(id, entry);
        self.answered.begins(id);
        self.metrics.calls.inc();
        self.metrics.active.inc();
        let live = Live { calls: Arc::clone(&self), id, _permits: permit };
        if same > 0 {
            warn!(
                others = same,
                "another live call has the same UUID: events of both carry it. Let the dialplan make one per call, e.g. with UUID()"
            );
        }
        match &profile.name {
            Some(name) => info!(%peer, profile = name, "call started, served by {}", described(&route)),
            None => info!(%peer, "call started, served by {}", described(&route)),
        }
        let announced = announcement.as_ref();
        Some((self.session(id, &profile, identified, (route, outgoing), (orders, heard_out), announced).await, live))
    }

    fn admit(
        &self,
        id: CallId,
        profile: &Profile,
        identified: &Identified,
        announcement: Option<&Announcement>,
    ) -> Result<(Route, Permits), Refusal> {
        if self.refuse.is_cancelled() {
            return Err(Refusal::Stopping);
        }
        let audiosocket = matches!(identified, Identified::AudioSocket(_));
        if audiosocket && self.audiosocket.require_registration && announcement.is_none() {
            return Err(Refusal::Unannounced);
        }
        if let Some(reason) = announcement.and_then(|announced| announced.refused.as_ref()) {
            return Err(Refusal::Undecided(reason.clone()));
        }
        let broken =
            self.refuse_while_broken.as_ref().and_then(|health| health.borrow().as_ref().map(ToString::to_string));
        if let Some(reason) = broken {
            return Err(Refusal::Store(reason));
        }
        let overrides = self.profiles.overrides(profile, announcement);
        let route = Route::parse(&profile.agent, &overrides)?.receptionist(&profile.agent)?;
        let call = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| Refusal::Full(self.max_calls))?;
        // where it only stands in for others it asks for its place when it does
        let engine = profile.agent.embedded.as_ref().filter(|_| route.needs_embedded());
        let talker = engine.map(|embedded| embedded.engine.admit(id).map_err(Refusal::Embedded)).transpose()?;
        Ok((route, Permits { _call: call, _talker: talker }))
    }

    /// Connections for a call: guarded where a receiver chose a service. The configured one with parameters of the call is the
    /// operator's own word still.
    fn outgoing_for(&self, profile: &Profile, announcement: Option<&Announcement>) -> Outgoing {
        let parsed = |url: Option<&str>| url.and_then(|url| Url::parse(url).ok());
        let own = parsed(profile.agent.sts_url.as_deref());
        let overrides = self.profiles.overrides(profile, announcement);
        let chosen = |url: &Option<String>| {
            let own_word = url.as_deref() == profile.agent.sts_url.as_deref();
            !own_word
                && parsed(url.as_deref()).is_some_and(|url| own.as_ref().is_none_or(|own| own.origin() != url.origin()))
        };
        let by_receiver = [&overrides.sts, &overrides.asr, &overrides.llm, &overrides.tts].into_iter().any(chosen);
        if by_receiver { self.guarded.clone() } else { self.outgoing.clone() }
    }

    async fn session(
        &self,
        id: CallId,
        profile: &Profile,
        identified: Identified,
        (route, outgoing): (Route, Outgoing),
        (commands, heard_out): (mpsc::Receiver<crate::call::Command>, Arc<Notify>),
        announcement: Option<&Announcement>,
    ) -> Session<AnyLeg, AnyAgent> {
        let uuid = identified.uuid();
        let recorded = announcement.and_then(|announced| announced.payload.get("recording")?.as_bool());
        let about = Arc::new(announcement.map(|announced| announced.payload.clone()).unwrap_or_default());
        let leg = identified.into_leg().await;
        let rate = leg.rate();
        let sounds = profile.sounds.at(rate).await;
        let setup = Setup {
            rules: Arc::clone(&profile.rules),
            rate,
            lead: leg.lead(),
            mode: mode(&route, profile.rules.config.interrupt_listening),
            ambience: sounds.ambience,
            apology: sounds.apology,
            budget: Arc::clone(&self.budget),
            screen: announcement.and_then(|announced| announced.screen.clone()),
        };
        let (tools, orders) = (Arc::clone(&profile.tools), Some(self.orders.clone()));
        let (config, rules) = (Arc::clone(&profile.agent), Arc::clone(&profile.rules));
        let context = Context { call: id, uuid, rate, about, tools, orders, config, rules, outgoing };
        let agent = agent::connect(route, context, &self.voice);
        let (events, stop) = (self.events.clone(), self.stop.clone());
        Session {
            id,
            uuid,
            setup,
            tape: self.recordings.begin(id, uuid, rate, recorded, profile.recorded),
            audio: Arc::clone(&profile.audio),
            leg,
            agent,
            events,
            commands,
            heard_out,
            stop,
            ended: Arc::default(),
        }
    }

    /// A session that panics ends its call alone; whoever counts calls still learns of its end.
    async fn panicked(&self, id: CallId, uuid: Uuid, started: Instant, ended: &AtomicBool) -> Summary {
        error!(
            code = EndReason::Internal.code(),
            "this call was ended by a fault of the gateway; please report it with the lines above"
        );
        if !ended.load(Ordering::Acquire) {
            let event = CallEvent::Ended(EndReason::Internal);
            let envelope = Envelope { id: EventId::new(), call: id, uuid, at: SystemTime::now(), event };
            // The event task lives as long as any call.
            let _ = self.events.send(envelope).await;
        }
        Summary::of(EndReason::Internal, started.elapsed())
    }

    fn count(&self, summary: &Summary) {
        let (metrics, stats) = (&self.metrics, &summary.stats);
        metrics.count(&metrics.ended, summary.reason.code());
        metrics.duration.observe(summary.duration.as_secs_f64());
        metrics.frames_out.inc_by(stats.frames_played);
        metrics.frames_in.inc_by(summary.frames_in);
        metrics.underruns.inc_by(stats.underruns);
        metrics.interruptions.inc_by(stats.interruptions);
        super::turns::report(&summary.turns, metrics);
        info!(
            reason = summary.reason.code(),
            seconds = format_args!("{:.1}", summary.duration.as_secs_f64()),
            interruptions = stats.interruptions,
            underruns = stats.underruns,
            stalls = stats.stalls,
            agent_refused = summary.agent_refused,
            events_lost = summary.events_lost,
            "call ended"
        );
    }
}

/// A call's place among the live ones, given back however it ends.
struct Live {
    calls: Arc<Calls>,
    id: CallId,
    _permits: Permits,
}

/// What a call takes that others cannot have meanwhile.
struct Permits {
    _call: OwnedSemaphorePermit,
    /// Of the embedded engine, if it has one.
    _talker: Option<embedded::Talker>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.calls.registry.remove(self.id);
        self.calls.metrics.active.dec();
    }
}

/// Who listens when, by the kind of agent (contract section 8: a speech-to-speech service interrupts by itself).
fn mode(route: &Route, interrupt_listening: bool) -> Mode {
    match route {
        Route::StsWebSocket(_) | Route::StsHttp(_) => Mode::default(),
        Route::StsVendor { service, .. } => Mode {
            barge_in: !interrupt_listening,
            deaf_while_speaking: interrupt_listening,
            speech_edges: true,
            digits_interrupt: true,
            obeys: agent::sts::obeys(service),
            transcribes: true,
            agent_cuts: true,
        },
        Route::Cascade { asr, .. } => Mode {
            barge_in: !interrupt_listening,
            deaf_while_speaking: interrupt_listening,
            speech_edges: asr.streams(),
            digits_interrupt: true,
            obeys: true,
            transcribes: true,
            agent_cuts: false,
        },
        Route::Builtin { .. } => Mode {
            barge_in: !interrupt_listening,
            deaf_while_speaking: interrupt_listening,
            speech_edges: true,
            digits_interrupt: true,
            obeys: true,
            transcribes: false,
            agent_cuts: false,
        },
    }
}

/// The services in one line, without credentials.
pub(super) fn described(route: &Route) -> String {
    format!("{route:?}")
}
