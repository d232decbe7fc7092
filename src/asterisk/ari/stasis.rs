//! One call through the application: media channel, bridge, and taking both down again.
//!
//! Asterisk takes nothing down by itself: a caller who hangs up leaves the media channel, a media channel that ends leaves the caller in
//! the bridge. Until the media channel is there the caller is not answered, so that a gateway that cannot serve costs them nothing.

mod asking;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tracing::{Instrument as _, debug, info, info_span, warn};
use uuid::Uuid;

use self::asking::Then;
use super::{
    Error,
    client::Shared,
    config::{After, Media, MediaFormat},
    consult::Consult,
    ids::Ids,
    metadata::{self, Wanted},
    registry::{Listening, Placed, State, Watched},
    rest::{ExternalMedia, Target},
    wire::Channel,
};
use crate::{
    asterisk::rtp::{PortError, Told},
    call::AnsweredBy,
};

/// How long a media channel may take from its making to its `StasisStart`; Asterisk itself gives up connecting after 2 s.
const MEDIA: Duration = Duration::from_secs(5);

/// Why a call was not set up.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the gateway is stopping")]
    Stopping,
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Request(#[from] Error),
    #[error(
        "Asterisk cannot connect to {host}: {source}; if that is not where it reaches Hark's AudioSocket listener, set ari.media_host (and \
         audiosocket.listen, audiosocket.allow); chan_audiosocket.so and res_audiosocket.so have to be loaded"
    )]
    Media { host: String, source: Error },
    #[error(
        "the media channel ended at once: Hark refused the call (see the lines before), or something else listens at {0}"
    )]
    MediaEnded(String),
    #[error(
        "Asterisk makes no WebSocket channel: {0}; chan_websocket.so and res_http_websocket.so have to be loaded (Asterisk 22.8, 21.12, 20.18, \
         23.2 or later), or set ari.media = \"audiosocket\""
    )]
    NoWebSocket(String),
    #[error("{0}")]
    Port(#[from] PortError),
    #[error(
        "Asterisk makes no RTP channel to {host}: {source}; chan_rtp.so and res_rtp_asterisk.so have to be loaded, or set ari.media to \
         another kind"
    )]
    NoRtp { host: String, source: Error },
    #[error("the media channel did not come within {} s", MEDIA.as_secs())]
    MediaLate,
    #[error("the caller hung up")]
    CallerGone,
}

impl Fault {
    const fn code(&self) -> &'static str {
        match self {
            Self::Stopping => "call.refused.stopping",
            Self::Refused(_) => "call.refused.undecided",
            Self::Request(error) => error.code(),
            Self::Media { .. } => "ari.media.failed",
            Self::MediaEnded(_) => "ari.media.ended",
            Self::NoWebSocket(_) => "ari.media.websocket",
            Self::Port(_) => "ari.media.port",
            Self::NoRtp { .. } => "ari.media.rtp",
            Self::MediaLate => "ari.media.late",
            Self::CallerGone => "caller.hangup",
        }
    }
}

/// A leg by RTP, and whether Hark has taken it.
type Rtp = (Listening, oneshot::Receiver<()>);

/// A call with everything that belongs to it.
struct Call {
    shared: Arc<Shared>,
    uuid: Uuid,
    channel: Channel,
    caller: Watched,
    media: Watched,
    bridge: Watched,
    /// The leg, where it is one that has no connection which would tell its end.
    leg: Option<Listening>,
    /// Whether the call is known to whoever takes calls, and its end has to be.
    announced: bool,
    /// Whether there may be a bridge and a media channel.
    begun: bool,
    /// What becomes of the caller when the agent has finished.
    after: After,
    /// Orders to ask somebody whether they take the caller.
    asked: mpsc::Receiver<Consult>,
}

/// Serves a caller who has entered the application until nothing of the call is left.
pub(super) async fn serve(shared: Arc<Shared>, channel: Channel, args: Vec<String>, caller: Watched) {
    let wanted = Wanted::parse(&args);
    let uuid = wanted.uuid.unwrap_or_else(Uuid::new_v4);
    let ids = shared.maker.ids();
    let span = info_span!("ari", pbx = shared.name, %uuid, caller = channel.id);
    let (media, bridge) = (shared.registry.watch(&ids.media), shared.registry.watch(&ids.bridge));
    let (asks, asked) = mpsc::channel(1);
    let (app, rest) = (shared.pbx.app.clone(), shared.rest.clone());
    let placed = Placed { uuid, caller: channel.id.clone(), bridge: ids.bridge, app, rest, asks };
    let place = shared.registry.place(placed);
    let after = shared.pbx.after;
    let (announced, begun, leg) = (false, false, None);
    let mut call = Call { shared, uuid, channel, caller, media, bridge, leg, announced, begun, after, asked };
    async move {
        match call.set_up(wanted).await {
            Ok(()) => call.live().await,
            Err(fault) => call.failed(&fault).await,
        }
        call.take_down().await;
        drop(place);
    }
    .instrument(span)
    .await;
}

/// Serves somebody whom we have called, who is known to whoever takes calls, and has answered. Returns why they were never connected; whoever has
/// called reports that.
pub(super) async fn serve_called(
    shared: Arc<Shared>,
    uuid: Uuid,
    ids: Ids,
    called: Watched,
    who: Option<AnsweredBy>,
) -> Option<&'static str> {
    let (media, bridge) = (shared.registry.watch(&ids.media), shared.registry.watch(&ids.bridge));
    let (asks, asked) = mpsc::channel(1);
    let (app, rest) = (shared.pbx.app.clone(), shared.rest.clone());
    let placed = Placed { uuid, caller: called.id.clone(), bridge: ids.bridge, app, rest, asks };
    let place = shared.registry.place(placed);
    let (channel, format) = (Channel::default(), shared.pbx.format);
    // nobody's dialplan goes on behind a call of ours
    let after = After::Hangup;
    let (announced, begun, leg) = (false, false, None);
    let mut call = Call { shared, uuid, channel, caller: called, media, bridge, leg, announced, begun, after, asked };
    let fault = match call.connect(format, None).await {
        Ok(()) => {
            if let Some(who) = who {
                call.shared.host.answered_by(uuid, who);
            }
            call.live().await;
            None
        }
        Err(fault) => {
            call.failed(&fault).await;
            Some(fault.code())
        }
    };
    call.take_down().await;
    drop(place);
    fault
}

impl Call {
    async fn set_up(&mut self, wanted: Wanted) -> Result<(), Fault> {
        let shared = Arc::clone(&self.shared);
        let (rest, pbx) = (&shared.rest, &shared.pbx);
        if shared.refuse.is_cancelled() {
            return Err(Fault::Stopping);
        }
        for argument in &wanted.ignored {
            warn!(
                code = "ari.argument",
                "argument {argument:?} of Stasis() is ignored: it is no UUID, or no format (slin, slin16)"
            );
        }
        let (early, format) =
            (wanted.early, wanted.format.filter(|format| format.fits(pbx.media)).unwrap_or(pbx.format));
        if let Some(other) = wanted.format.filter(|wanted| *wanted != format) {
            let other = other.as_str();
            warn!(
                code = "ari.argument",
                "format={other} of Stasis() is ignored: AudioSocket cannot carry it (ari.media)"
            );
        }
        let about = metadata::collect(rest, &shared.name, pbx, &self.channel, wanted).await;
        self.announced = true;
        shared.host.announce(self.uuid, about).await.map_err(Fault::Refused)?;
        self.connect(format, Some(early)).await
    }

    /// Connects the caller with the agent. `early`: whether they are not answered; `None`: they have answered.
    async fn connect(&mut self, format: MediaFormat, early: Option<bool>) -> Result<(), Fault> {
        let (shared, uuid, begun) = (Arc::clone(&self.shared), self.uuid.to_string(), Instant::now());
        let rest = &shared.rest;
        self.still_there()?;
        self.begun = true;
        // together: each is a round trip, and none waits for the other
        let (bridge, media) = tokio::join!(self.make_bridge(), self.make_media(&uuid, format));
        self.leg = media?;
        bridge?;
        self.still_there()?;
        match early {
            None => {}
            Some(false) => rest.answer(&self.caller.id).await?,
            // Asterisks that do not know it begin early media with the first audio
            Some(true) => drop(rest.progress(&self.caller.id).await),
        }
        rest.add_to_bridge(&self.bridge.id, &[&self.caller.id, &self.media.id]).await?;
        shared.host.connected(begun.elapsed());
        info!(setup_ms = begun.elapsed().as_millis(), "caller and media channel are connected");
        Ok(())
    }

    async fn make_bridge(&self) -> Result<(), Fault> {
        self.shared.rest.create_bridge(&self.bridge.id).await?;
        self.bridge.exists();
        Ok(())
    }

    async fn make_media(&self, uuid: &str, format: MediaFormat) -> Result<Option<Listening>, Fault> {
        let (host, leg) = match self.shared.pbx.media {
            Media::AudioSocket => (self.ask_for_media(uuid, format).await?, None),
            Media::WebSocket => (self.fetch_media(format).await?, None),
            Media::Rtp => self.send_media(uuid, format).await?,
        };
        let (leg, taken) = leg.unzip();
        let there = async {
            let state = self.media.entered().await;
            match taken {
                // it has no connection: whether Hark takes the call is asked of Hark
                Some(taken) if !state.left => taken.await.map_or(State { left: true, ..state }, |()| state),
                _ => state,
            }
        };
        tokio::select! {
            state = timeout(MEDIA, there) => match state {
                Ok(State { left: false, .. }) => Ok(leg),
                Ok(_) => Err(Fault::MediaEnded(host)),
                Err(_) => Err(Fault::MediaLate),
            },
            _ = self.caller.left() => Err(Fault::CallerGone),
        }
    }

    /// Has Asterisk make a channel that sends RTP to a port of ours.
    async fn send_media(&self, uuid: &str, format: MediaFormat) -> Result<(String, Option<Rtp>), Fault> {
        let (rest, app) = (&self.shared.rest, self.shared.pbx.app.as_str());
        let opened = self.shared.rtp.open()?;
        let host = self.shared.rtp_host(&opened);
        let media = ExternalMedia { id: &self.media.id, app, host: &host, format: format.as_str(), uuid };
        let channel = match rest.external_rtp(media).await {
            Ok(channel) => channel,
            Err(source @ (Error::Server { .. } | Error::BadRequest { .. })) => {
                return Err(Fault::NoRtp { host, source });
            }
            Err(other) => return Err(other.into()),
        };
        let said = |name: &str| channel.channelvars.get(name).and_then(serde_json::Value::as_str);
        let told = Told::of(said("UNICASTRTP_LOCAL_ADDRESS"), said("UNICASTRTP_LOCAL_PORT"));
        if told.0.is_none() {
            warn!(
                code = "ari.media.told",
                "Asterisk does not say where it takes RTP: whoever sends the first packet is taken for it"
            );
        }
        let (pending, line) = opened.call(self.uuid, format.audio(), told);
        self.shared.host.serve(pending).await;
        Ok((host, Some((self.shared.registry.listen(&self.caller.id, line.keys), line.taken))))
    }

    /// Has Asterisk make a channel that waits, and connect to it.
    async fn fetch_media(&self, format: MediaFormat) -> Result<String, Fault> {
        let (rest, app) = (&self.shared.rest, self.shared.pbx.app.as_str());
        let made = rest.external_websocket(&self.media.id, app, format.as_str()).await;
        let channel = made.map_err(|source| match source {
            Error::Server { .. } | Error::BadRequest { .. } => Fault::NoWebSocket(source.to_string()),
            other => other.into(),
        })?;
        let id = channel.channelvars.get("MEDIA_WEBSOCKET_CONNECTION_ID").and_then(serde_json::Value::as_str);
        let id = id.ok_or_else(|| Fault::NoWebSocket("it does not say where the channel waits".to_owned()))?;
        let no_url = || Fault::NoWebSocket("Hark would have to connect to it, and ari.url is not set".to_owned());
        let endpoint = rest.endpoint().ok_or_else(no_url)?;
        self.shared.host.fetch(self.uuid, endpoint.media(id)).await;
        Ok(rest.at().to_owned())
    }

    /// Has Asterisk connect to the AudioSocket listener.
    async fn ask_for_media(&self, uuid: &str, format: MediaFormat) -> Result<String, Fault> {
        let host = self.shared.media_host();
        let (id, app) = (self.media.id.as_str(), self.shared.pbx.app.as_str());
        let media = ExternalMedia { id, app, host: &host, format: format.as_str(), uuid };
        if let Err(source) = self.shared.rest.external_media(media).await {
            return Err(match source {
                Error::Server { .. } | Error::BadRequest { .. } => Fault::Media { host, source },
                other => other.into(),
            });
        }
        Ok(host)
    }

    fn still_there(&self) -> Result<(), Fault> {
        if self.caller.now().left { Err(Fault::CallerGone) } else { Ok(()) }
    }

    /// Until somebody goes.
    async fn live(&mut self) {
        loop {
            tokio::select! { biased;
                _ = self.caller.left() => return debug!("the caller is gone"),
                () = agent_left(&self.media, self.leg.as_ref()) => return debug!("the agent's side has ended"),
                _ = self.bridge.left() => {
                    return warn!(code = "ari.bridge.destroyed", "somebody else destroyed the bridge of this call");
                }
                Some(consult) = self.asked.recv() => {
                    if self.ask(consult).await == Then::Over {
                        return;
                    }
                }
            }
        }
    }

    async fn agent_left(&self) {
        agent_left(&self.media, self.leg.as_ref()).await;
    }

    fn has_agent_left(&self) -> bool {
        self.media.now().left || self.leg.as_ref().is_some_and(Listening::is_over)
    }

    async fn failed(&self, fault: &Fault) {
        let code = fault.code();
        // a caller gone in between looks to a request like one who was never there
        if matches!(fault, Fault::CallerGone) || self.caller.now().left {
            info!(code, "the caller hung up before the call was set up");
        } else {
            self.shared.stats.calls_failed.inc();
            let end = if self.channel.id.is_empty() { "it is hung up" } else { "its dialplan goes on" };
            warn!(code, "the call cannot be set up, {end}: {fault}");
        }
        // with its audio connected it is a call that ends like any other
        if self.announced && !self.media.now().entered {
            self.shared.host.failed(self.uuid, code).await;
        }
    }

    /// Leaves nothing behind: the caller goes on, channel and bridge go.
    async fn take_down(&mut self) {
        // a leg without a connection has nobody else to tell it
        self.leg = None;
        let rest = &self.shared.rest;
        // first the caller, who hears nothing meanwhile
        let caller = match self.caller.now().left {
            true => Ok(()),
            false => self.let_go().await,
        };
        let (mut media, mut bridge) = (Ok(()), Ok(()));
        if self.begun {
            let hang_up = async {
                match self.media.now().left {
                    true => Ok(()),
                    false => rest.hang_up(&self.media.id, None).await,
                }
            };
            (media, bridge) = tokio::join!(hang_up, rest.destroy_bridge(&self.bridge.id));
        }
        let all = [(caller, &self.caller), (media, &self.media), (bridge, &self.bridge)];
        for (result, what) in all {
            match result {
                Ok(()) => {}
                Err(_) if what.now().left => {}
                // its event may be on its way
                Err(error) if error.is_gone() => self.shared.look.notify_one(),
                Err(error) => {
                    warn!(
                        code = error.code(),
                        "something of this call may be left in Asterisk, and is looked for: {error}"
                    );
                    self.shared.look.notify_one();
                }
            }
        }
    }

    async fn let_go(&self) -> Result<(), Error> {
        match self.after {
            // called by us, but never connected
            After::Hangup if self.channel.id.is_empty() => self.shared.rest.hang_up(&self.caller.id, Some(16)).await,
            After::Hangup if self.media.now().entered => self.shared.rest.hang_up(&self.caller.id, Some(16)).await,
            _ => self.give_back().await,
        }
    }

    /// The dialplan goes on behind `Stasis()`; where it cannot, the caller is hung up rather than left in silence.
    async fn give_back(&self) -> Result<(), Error> {
        let rest = &self.shared.rest;
        match rest.go_on(&self.caller.id, &Target::default()).await {
            Err(error) if !error.is_gone() && !self.caller.now().left => {
                warn!(code = error.code(), "the caller cannot be given back to the dialplan and is hung up: {error}");
                rest.hang_up(&self.caller.id, Some(16)).await
            }
            result => result,
        }
    }
}

/// The media channel is gone, or the leg, of which its channel does not know.
async fn agent_left(media: &Watched, leg: Option<&Listening>) {
    let over = async {
        match leg {
            Some(leg) => leg.over().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = media.left() => {}
        () = over => {}
    }
}
