//! What the HTTP service, or an agent's tool, asks to be done with a live call.

use uuid::Uuid;

use super::{CallId, Collect, Digit, OnMachine, Say};

/// Something to be done with a live call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// End the call.
    Hangup {
        /// Cause for the caller's side (ITU-T Q.850), e.g. 16.
        cause: Option<u16>,
        /// Without waiting for the end of what the agent is saying.
        now: bool,
    },
    /// Give the caller to a place in the PBX's dialplan: the PBX owns the call again.
    Transfer(Target),
    /// Ask somebody whether they take the caller, who waits meanwhile (attended transfer).
    Attend(Attended),
    /// Have the caller's telephone call somebody else (SIP REFER), e.g. `PJSIP/sip:operator@pbx`.
    Refer(String),
    /// Have the agent say something.
    Say(Say),
    /// The agent hears silence, on or off.
    Mute(bool),
    /// The caller is put on hold, on or off.
    Hold(bool),
    /// Music on hold, on or off.
    Music(bool),
    /// Send keys to the caller's side: as RFC 4733 where the PBX can be told so, else as tones.
    Dtmf(Vec<Digit>),
    /// Collect the caller's keys to one answer; `None`: as the settings say.
    Collect(Option<Collect>),
    /// Go on recording, or put silence into the recording from here.
    Record(bool),
    /// Set a channel variable of the caller's channel.
    Variable(String, String),
}

/// A place in the dialplan; what is missing stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Context.
    pub context: Option<String>,
    /// Extension.
    pub exten: String,
    /// Priority or label; `None`: 1.
    pub priority: Option<String>,
}

/// Somebody who is asked whether they take a caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attended {
    /// The number.
    pub to: String,
    /// The name of the dial string; `None`: `default`.
    pub via: Option<String>,
    /// Caller id; `None`: as the settings say.
    pub caller_id: Option<String>,
    /// How long it rings, in s; `None`: as the settings say.
    pub timeout_s: Option<u32>,
    /// What the agent tells them when they answer.
    pub announce: Option<String>,
    /// What Asterisk plays to them, e.g. `sound:transfer`.
    pub play: Option<String>,
    /// The key by which they take the caller; any other refuses. `None`: whoever answers takes them.
    pub accept: Option<Digit>,
    /// Whoever says something short, once everything has been said, takes them, too.
    pub accept_voice: bool,
    /// How long that is waited for, in s, once everything has been said.
    pub accept_s: u32,
    /// The caller hears music on hold; else ringing.
    pub music: bool,
}

/// A call that the PBX is to make between a channel and a place of its dialplan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origination {
    /// Whom to call, e.g. `PJSIP/2000`.
    pub channel: String,
    /// Where the answered call goes.
    pub target: Target,
    /// Caller id, e.g. `Hark <2000>`.
    pub caller_id: Option<String>,
}

/// A call that we are to make.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outbound {
    /// The number.
    pub to: String,
    /// The name of the dial string; `None`: `default`.
    pub via: Option<String>,
    /// The name of the PBX; `None`: the first one.
    pub pbx: Option<String>,
    /// Caller id, e.g. `Hark <2000>`; `None`: as the settings say.
    pub caller_id: Option<String>,
    /// How long it rings, in s; `None`: as the settings say.
    pub timeout_s: Option<u32>,
    /// Its UUID on the wire; `None`: a new one.
    pub uuid: Option<Uuid>,
    /// What is done with a machine that answers; `None`: whether it is one is not asked.
    pub screen: Option<OnMachine>,
    /// Requests of the same key make one call.
    pub key: Option<String>,
}

/// A call that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Its UUID on the wire.
    pub uuid: Uuid,
    /// Our identity of it.
    pub call: CallId,
    /// A request before this one had the same key, and this is its call.
    pub again: bool,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// What kind of reason.
    pub kind: Refusal,
    /// Stable dotted code.
    pub code: &'static str,
    /// What was wrong and what to do, for an operator.
    pub message: String,
}

/// Kinds of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such call, or its caller is gone.
    NoCall,
    /// This cannot be done with this call, or in its state.
    Impossible,
    /// Too much is asked at once: later it may be done.
    Busy,
    /// The PBX did not do it, or cannot be reached.
    Failed,
}
