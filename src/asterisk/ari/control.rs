//! What can be done with the caller of a live call, by the call's UUID.
//!
//! Of a call through `Stasis()` everything. Of one that its dialplan gave to `AudioSocket()` or `Dial(AudioSocket/…)` the channel is found
//! too, by what its dialplan runs, and can be hung up with a cause and asked for variables. Whatever else is asked of a channel that is in no
//! application Asterisk 22 answers with 409: setting variables, `continue`, `redirect`, hold, keys, sounds.

use std::sync::Arc;

use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{
    Client, Error,
    client::Shared,
    rest::{Rest, Target},
    wire::Channel,
};

/// Orders at once; what comes on top is told to come later.
const AT_ONCE: usize = 64;

/// Does things with the callers of live calls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control {
    pub(super) pbxs: Arc<[Arc<Shared>]>,
    turns: Arc<Semaphore>,
}

/// Something to be done with a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// Hang up, with this cause (Q.850); the caller's side of the call ends by it as if they had hung up.
    Hangup(Option<u16>),
    /// Give the caller to this place of the dialplan: the PBX owns the call again.
    Continue(Target),
    /// Have the caller's far end call somebody else (SIP REFER), e.g. `PJSIP/sip:operator@pbx`.
    Redirect(String),
    /// Hold, on or off.
    Hold(bool),
    /// Nothing of the caller is heard, on or off.
    Mute(bool),
    /// Send keys to the caller.
    Dtmf(String),
    /// Music on hold, on or off.
    Moh(bool),
    /// Ringing, on or off.
    Ringback(bool),
    /// Set a channel variable.
    SetVariable(String, String),
    /// Play this, e.g. `sound:demo-congrats`, to the caller, as a playback of this name. Until it has ended nothing of the caller is heard, and
    /// a `tone:` does not end by itself.
    Play(String, String),
    /// End the playback of this name.
    StopPlayback(String),
    /// Record both sides into a file of Asterisk's own: name and format, e.g. `wav`.
    Record(String, String),
    /// End that recording.
    StopRecording(String),
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No PBX is configured.
    #[error("no PBX is configured: set ari.url (ARI_URL), so that calls can be hung up, transferred and held")]
    NoPbx,
    /// The caller's channel cannot be found.
    #[error("no PBX has a caller's channel of the call {0}: it has ended, or comes from a PBX without ARI")]
    NoCall(Uuid),
    /// It is not in the application.
    #[error(
        "the caller of {0} came by AudioSocket() or Dial(AudioSocket/…): such a channel can only be hung up. Give the call to Stasis() instead (asterisk-conf/ari)"
    )]
    NotInStasis(Uuid),
    /// Asterisk connects for calls of its own only.
    #[error(
        "the PBX connects for calls of its own only (ari.connect = \"per_call\"), and would not tell how calls that Hark makes go: set \
         ari.connect = \"persistent\", and connection_type = persistent in websocket_client.conf"
    )]
    PerCall,
    /// Too much is asked at once.
    #[error("{AT_ONCE} orders are being carried out already: try again")]
    Busy,
    /// Asterisk did not do it.
    #[error(transparent)]
    Refused(#[from] Error),
}

impl ControlError {
    /// The stable code shown outside.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoPbx => "ari.control.no_pbx",
            Self::NoCall(_) => "ari.control.no_call",
            Self::NotInStasis(_) => "ari.control.not_in_stasis",
            Self::PerCall => "ari.control.per_call",
            Self::Busy => "ari.control.busy",
            Self::Refused(error) => error.code(),
        }
    }
}

/// The caller's channel of a call.
#[derive(Debug)]
struct Caller {
    rest: Rest,
    channel: String,
    /// The bridge in which it is with its agent, if it is in the application.
    bridge: Option<String>,
}

impl Control {
    /// Control over the calls of all these.
    #[must_use]
    pub fn of(clients: &[Client]) -> Self {
        Self { pbxs: clients.iter().map(Client::shared).collect(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Carries out an order for the caller of the live call with this UUID on the wire. Where several have it, for the first found.
    ///
    /// # Errors
    /// Why it was not carried out. A place in the dialplan that does not exist is none: Asterisk accepts it and ends the call.
    pub async fn order(&self, uuid: Uuid, order: Order) -> Result<(), ControlError> {
        let _turn = self.turns.try_acquire().map_err(|_| ControlError::Busy)?;
        let caller = self.find(uuid).await?;
        match carry_out(&caller, order).await {
            Err(Error::Conflict { .. }) if caller.bridge.is_none() => Err(ControlError::NotInStasis(uuid)),
            result => Ok(result?),
        }
    }

    /// Has the first PBX make a call between an endpoint and a place of its dialplan: context, extension, priority.
    ///
    /// # Errors
    /// There is no PBX, or it does not.
    pub async fn place(&self, endpoint: &str, place: [&str; 3], caller_id: Option<&str>) -> Result<(), ControlError> {
        let _turn = self.turns.try_acquire().map_err(|_| ControlError::Busy)?;
        let pbx = self.pbxs.first().ok_or(ControlError::NoPbx)?;
        Ok(pbx.rest.place(endpoint, place, caller_id).await?)
    }

    /// The value of a variable or dialplan function of the caller's channel.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn variable(&self, uuid: Uuid, name: &str) -> Result<Option<String>, ControlError> {
        let _turn = self.turns.try_acquire().map_err(|_| ControlError::Busy)?;
        let caller = self.find(uuid).await?;
        Ok(caller.rest.variable(&caller.channel, name).await?)
    }

    /// The identity of the caller's channel, and whether it is in the application.
    ///
    /// # Errors
    /// There is none, or no PBX can be asked.
    pub async fn caller(&self, uuid: Uuid) -> Result<(String, bool), ControlError> {
        let caller = self.find(uuid).await?;
        Ok((caller.channel, caller.bridge.is_some()))
    }

    async fn find(&self, uuid: Uuid) -> Result<Caller, ControlError> {
        for pbx in &*self.pbxs {
            if let Some(placed) = pbx.registry.find(uuid).into_iter().next() {
                return Ok(Caller { rest: placed.rest, channel: placed.caller, bridge: Some(placed.bridge) });
            }
        }
        let mut fault = None;
        for pbx in &*self.pbxs {
            match plain(&pbx.rest, uuid).await {
                Ok(Some(channel)) => return Ok(Caller { rest: pbx.rest.clone(), channel, bridge: None }),
                Ok(None) => {}
                Err(error) => fault = Some(error),
            }
        }
        match fault {
            _ if self.pbxs.is_empty() => Err(ControlError::NoPbx),
            Some(error) => Err(error.into()),
            None => Err(ControlError::NoCall(uuid)),
        }
    }
}

async fn carry_out(caller: &Caller, order: Order) -> Result<(), Error> {
    let Caller { rest, channel, bridge } = caller;
    match order {
        Order::Hangup(cause) => rest.hang_up(channel, cause).await,
        Order::Continue(target) => rest.go_on(channel, &target).await,
        Order::Redirect(endpoint) => rest.redirect(channel, &endpoint).await,
        Order::Hold(on) => rest.hold(channel, on).await,
        Order::Mute(on) => rest.mute(channel, on).await,
        Order::Dtmf(digits) => rest.dtmf(channel, &digits).await,
        Order::Moh(on) => rest.moh(channel, on).await,
        Order::Ringback(on) => rest.ringback(channel, on).await,
        Order::SetVariable(name, value) => rest.set_variable(channel, &name, &value).await,
        Order::Play(media, playback) => rest.play(channel, &media, &playback).await,
        Order::StopPlayback(playback) => rest.stop_playback(&playback).await,
        Order::Record(name, format) => match bridge {
            Some(bridge) => rest.record_bridge(bridge, &name, &format).await,
            None => rest.record(channel, &name, &format).await,
        },
        Order::StopRecording(name) => rest.stop_recording(&name).await,
    }
}

/// The caller's channel of a call that is not in the application: its dialplan is at an application that names the UUID. Where that is
/// not so (`Dial()` in a Local channel, a macro of FreePBX), it is what is bridged with the AudioSocket channel of that UUID.
async fn plain(rest: &Rest, uuid: Uuid) -> Result<Option<String>, Error> {
    let (channels, text) = (rest.channels().await?, uuid.to_string());
    let is_leg = |channel: &Channel| channel.name.starts_with("AudioSocket/");
    let names_it = |channel: &Channel| channel.dialplan.app_data.to_ascii_lowercase().contains(&text);
    if let Some(caller) = channels.iter().find(|channel| !is_leg(channel) && names_it(channel)) {
        return Ok(Some(caller.id.clone()));
    }
    for leg in channels.iter().filter(|channel| is_leg(channel)) {
        if rest.variable(&leg.id, "AUDIOSOCKET_UUID").await?.is_some_and(|found| found.eq_ignore_ascii_case(&text)) {
            let bridges = rest.bridges().await?;
            let peer = bridges.iter().find(|bridge| bridge.channels.contains(&leg.id));
            return Ok(peer.and_then(|bridge| bridge.channels.iter().find(|id| **id != leg.id)).cloned());
        }
    }
    Ok(None)
}
