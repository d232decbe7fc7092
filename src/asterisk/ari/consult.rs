//! Asking somebody whether they take a caller (attended transfer): what is asked of the task that serves the call, and what it tells.

use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Control, ControlError, wire::Cause};

/// Whom to ask, and what the caller hears meanwhile.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Whom to call, e.g. `PJSIP/2000`.
    pub endpoint: String,
    /// Caller id, e.g. `Hark <2000>`; empty = the endpoint's own.
    pub caller_id: String,
    /// How long it may ring, in s.
    pub timeout_s: u32,
    /// The caller hears music on hold; else ringing.
    pub music: bool,
    /// Played by Asterisk to whoever answers, e.g. `sound:transfer`.
    pub play: Option<String>,
}

/// How it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consulted {
    /// They have answered, and are with the agent.
    Answered,
    /// They pressed a key.
    Key(char),
    /// The caller and they are together; the agent has to leave the call.
    Joined,
    /// They do not take the caller, who is back with the agent. Comes last.
    Back {
        /// Whether they had answered.
        answered: bool,
        /// Why not, where Asterisk said.
        cause: Option<Cause>,
    },
    /// The caller or the agent is gone. Comes last.
    Over,
}

/// What is decided when they have answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Bring them together.
    Join,
    /// The caller goes back to the agent.
    Return,
}

/// Somebody is being asked. Dropped, the caller goes back to the agent.
#[derive(Debug)]
pub struct Consulting {
    /// How it goes; it ends without a last word where the call ends otherwise.
    pub told: mpsc::Receiver<Consulted>,
    /// What is decided, once.
    pub decide: mpsc::Sender<Decision>,
}

/// The other ends.
#[derive(Debug)]
pub(super) struct Consult {
    pub asked: Asked,
    pub told: mpsc::Sender<Consulted>,
    pub decided: mpsc::Receiver<Decision>,
}

impl Control {
    /// Asks somebody whether they take the caller of the live call with this UUID on the wire, who waits meanwhile.
    ///
    /// # Errors
    /// The call did not come through `Stasis()`, or somebody is being asked already.
    pub fn consult(&self, uuid: Uuid, asked: Asked) -> Result<Consulting, ControlError> {
        let placed = self.pbxs.iter().find_map(|pbx| pbx.registry.find(uuid).into_iter().next());
        let placed =
            placed.ok_or(if self.pbxs.is_empty() { ControlError::NoPbx } else { ControlError::NotInStasis(uuid) })?;
        // keys are as many as somebody presses
        let ((tell, told), (decide, decided)) = (mpsc::channel(8), mpsc::channel(1));
        placed.asks.try_send(Consult { asked, told: tell, decided }).map_err(|_| ControlError::Busy)?;
        Ok(Consulting { told, decide })
    }
}
