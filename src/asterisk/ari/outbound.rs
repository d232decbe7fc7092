//! Calls that we make: from the order to the answer, or to why there was none.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, info_span, warn};
use uuid::Uuid;

use super::{
    Control, ControlError, client::Shared, config::Connect, registry::State, rest::Origin, stasis, wire::Cause,
};
use crate::call::AnsweredBy;

/// Asterisk ends what rings too long; where it says nothing of it, it is ended this long after.
pub(super) const SLACK: Duration = Duration::from_secs(10);

/// Where the dialplan leaves what `AMD()` says.
const AMD: &str = "SHARED(HARK_AMD)";

/// Whom to call, and how.
#[derive(Debug, Clone)]
pub struct Dial {
    /// The UUID of the call on the wire.
    pub uuid: Uuid,
    /// Whom to call, e.g. `PJSIP/+49301234567@trunk`.
    pub endpoint: String,
    /// Caller id, e.g. `Hark <2000>`; empty = the endpoint's own.
    pub caller_id: String,
    /// How long it may ring, in s.
    pub timeout_s: u32,
    /// Channel variables.
    pub variables: Map<String, Value>,
}

/// How a call of ours goes. Each comes once at most, in this order; [`Self::Over`] comes last, when nothing of the call is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The far end rings.
    Ringing,
    /// They have answered.
    Answered,
    /// It is over.
    Over {
        /// Whether they had answered.
        answered: bool,
        /// Why, where Asterisk said.
        cause: Option<Cause>,
        /// They had answered, but were never connected with the agent, for a reason with this code.
        fault: Option<&'static str>,
    },
}

impl Control {
    /// Calls somebody by this PBX, or by the first one. It goes on after this has returned; `cancel` ends the ringing.
    ///
    /// # Errors
    /// Asterisk did not begin to call.
    pub async fn dial(
        &self,
        pbx: Option<&str>,
        dial: Dial,
        cancel: CancellationToken,
    ) -> Result<mpsc::Receiver<Progress>, ControlError> {
        let shared = match pbx {
            None => self.pbxs.first(),
            Some(name) => self.pbxs.iter().find(|shared| shared.name == name),
        };
        let shared = Arc::clone(shared.ok_or(ControlError::NoPbx)?);
        if shared.pbx.connect == Connect::PerCall && !shared.connected.load(Ordering::Acquire) {
            return Err(ControlError::PerCall);
        }
        let permit = Arc::clone(&shared.permits).try_acquire_owned().map_err(|_| ControlError::Busy)?;
        if shared.refuse.is_cancelled() {
            return Err(ControlError::Busy);
        }
        let ids = shared.maker.ids();
        // before Asterisk is asked: events may come before its answer
        let called = shared.registry.watch(&ids.called);
        let origin = Origin {
            id: &ids.called,
            endpoint: &dial.endpoint,
            app: &shared.pbx.app,
            args: "",
            caller_id: &dial.caller_id,
            timeout_s: dial.timeout_s,
            // without, a Local channel takes the best there is, 192 kHz; a telephone knows better itself
            formats: if dial.endpoint.starts_with("Local/") { "slin" } else { "" },
        };
        shared.rest.originate(origin, &dial.variables).await?;
        // ringing, answered, over
        let (progress, receiver) = mpsc::channel(3);
        let span = info_span!("ari", pbx = shared.name, uuid = %dial.uuid, called = called.id);
        let (calls, until) = (shared.calls.clone(), Duration::from_secs(dial.timeout_s.into()) + SLACK);
        let work = async move {
            let state = ring(&shared, &called, until, &cancel, &progress).await;
            let answered = state.entered;
            if answered && !state.left {
                // nobody listens: nobody wants to know
                let _ = progress.try_send(Progress::Answered);
                info!("answered");
                let who = answered_by(&shared, &dial.endpoint, &called.id).await;
                let fault = stasis::serve_called(Arc::clone(&shared), dial.uuid, ids, called, who).await;
                let _ = progress.try_send(Progress::Over { answered, cause: None, fault });
            } else {
                info!(cause = ?state.cause, "not answered");
                // who hung up at once was not connected either
                let fault = answered.then_some("caller.hangup");
                let _ = progress.try_send(Progress::Over { answered, cause: state.cause, fault });
            }
            drop(permit);
        };
        calls.spawn(work.instrument(span));
        Ok(receiver)
    }
}

/// Who has answered, where the dialplan behind a Local channel has had `AMD()` find it out (asterisk-conf/ari/extensions-hark-amd.conf).
async fn answered_by(shared: &Shared, endpoint: &str, called: &str) -> Option<AnsweredBy> {
    if !endpoint.starts_with("Local/") {
        return None;
    }
    // without func_global there is none
    let found = shared.rest.variable(called, AMD).await.ok().flatten()?;
    match found.as_str() {
        "HUMAN" => Some(AnsweredBy::Human),
        "MACHINE" => Some(AnsweredBy::Machine),
        _ => Some(AnsweredBy::Unknown),
    }
}

/// Until they have answered, or will not.
pub(super) async fn ring(
    shared: &Shared,
    called: &super::registry::Watched,
    limit: Duration,
    cancel: &CancellationToken,
    progress: &mpsc::Sender<Progress>,
) -> State {
    let give_up = sleep_until(Instant::now() + limit);
    tokio::pin!(give_up);
    let (mut state, mut told, mut ended) = (State::default(), false, false);
    loop {
        tokio::select! { biased;
            now = called.changed(state) => state = now,
            () = cancel.cancelled(), if !ended => ended = true,
            () = shared.refuse.cancelled(), if !ended => ended = true,
            () = &mut give_up => {
                warn!(code = "ari.dial.late", "Asterisk says nothing of this call any more: it is given up");
                // gone or not: whoever looks for orphans ends it
                let _ = shared.rest.hang_up(&called.id, None).await;
                shared.look.notify_one();
                return State { left: true, ..state };
            }
        }
        if state.ringing && !told {
            told = true;
            // nobody listens: nobody wants to know
            let _ = progress.try_send(Progress::Ringing);
        }
        if state.entered || state.left {
            return state;
        }
        if ended {
            // its end is told by an event; for one that never comes there is a limit
            if let Err(error) = shared.rest.hang_up(&called.id, None).await {
                warn!(code = error.code(), "the call cannot be cancelled: {error}");
            }
            give_up.as_mut().reset(Instant::now() + SLACK);
        }
    }
}
