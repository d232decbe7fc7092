//! What is reported about a call.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::{AnsweredBy, CallId, Digit, EventId, Fault, Replaced, ToolCalled, Turn, Usage};

/// Who spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The caller.
    User,
    /// The agent.
    Agent,
}

impl Role {
    /// As the webhook body writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Agent => "agent",
        }
    }
}

/// Where a call's recording is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// The WAV file.
    pub recording_url: String,
    /// The transcript beside it, as JSON.
    pub transcript_url: Option<String>,
    /// Its length; `None`: the gateway was killed while it was written.
    pub duration: Option<Duration>,
    /// Whether all of the call is in it.
    pub complete: bool,
}

/// How a call that we make stands. The last five are ends; one of them comes for every such call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallStatus {
    /// The PBX has been told to call.
    Initiated,
    /// It rings.
    Ringing,
    /// Somebody has answered.
    Answered,
    /// The answered call is over.
    Completed,
    /// Busy.
    Busy,
    /// Nobody answered.
    NoAnswer,
    /// It could not be made.
    Failed,
    /// It was taken back before anybody answered.
    Canceled,
}

impl CallStatus {
    /// As the webhook body writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initiated => "initiated",
            Self::Ringing => "ringing",
            Self::Answered => "answered",
            Self::Completed => "completed",
            Self::Busy => "busy",
            Self::NoAnswer => "no-answer",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

/// How a call that we make stands, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// How.
    pub status: CallStatus,
    /// Why it was not answered: a cause of Q.850.
    pub cause: Option<u16>,
    /// And the SIP code.
    pub sip_code: Option<u16>,
}

/// Something that happened on a call and that the rest of the business may want to know.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum CallEvent {
    /// The AudioSocket UUID was received.
    Started,
    /// The caller interrupted the agent.
    Interruption,
    /// Somebody's final words.
    Transcription {
        /// Who spoke.
        role: Role,
        /// What was said.
        text: String,
    },
    /// The caller pressed a key. `None` where digits are masked.
    Dtmf(Option<Digit>),
    /// A service of the call failed for good. Not one of the contract's types.
    ServiceFailed(Fault),
    /// A service of the call failed, and another has taken its place. Not one of the contract's types.
    ServiceReplaced(Replaced),
    /// The agent has finished, or was cut. Not one of the contract's types.
    Turn(Turn),
    /// The call's recording is whole, or as whole as it will be. Not one of the contract's types.
    RecordingReady(Recording),
    /// A tool was called. Not one of the contract's types.
    ToolCalled(ToolCalled),
    /// What the agent's services were used for, at the end of the call. Not one of the contract's types.
    Usage(Usage),
    /// How a call that we make stands. Not one of the contract's types.
    Status(Status),
    /// Who has answered a call that we made, and how long after. Not one of the contract's types.
    AnsweredBy(AnsweredBy, Duration),
    /// So many events had to be dropped here. Not one of the contract's types.
    EventsLost(u64),
    /// The call is over: the last event of the contract's types.
    Ended(EndReason),
}

impl CallEvent {
    /// The event's `type` in the webhook body (contract section 5).
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Started => "call_started",
            Self::Interruption => "interruption",
            Self::Transcription { .. } => "transcription",
            Self::Dtmf(_) => "dtmf_digit",
            Self::ServiceFailed(_) | Self::ServiceReplaced(_) => "service_failed",
            Self::Turn(_) => "turn",
            Self::RecordingReady(_) => "recording_ready",
            Self::ToolCalled(_) => "tool_call",
            Self::Usage(_) => "usage",
            Self::Status(_) => "call_status",
            Self::AnsweredBy(..) => "answered_by",
            Self::EventsLost(_) => "events_lost",
            Self::Ended(_) => "call_ended",
        }
    }
}

/// Why a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The caller (or Asterisk on their behalf) hung up.
    CallerHangup,
    /// The connection to Asterisk broke.
    LegLost,
    /// Asterisk took no audio for too long.
    LegStalled,
    /// No audio came from Asterisk for too long.
    LegIdle,
    /// The agent ended the call: its service closed the session in order, or the embedded agent said goodbye.
    AgentClosed,
    /// The agent's service failed and did not come back.
    AgentFailed,
    /// Somebody else asked for it: a command from outside of the call.
    Hangup,
    /// The caller was given to somebody else.
    Transferred,
    /// The caller said nothing for too long.
    CallerIdle,
    /// A machine had answered, and the call was not for it, or its message has been left.
    AnsweringMachine,
    /// The maximum duration of a call was reached.
    MaxDuration,
    /// The gateway is being stopped.
    Shutdown,
    /// The gateway was killed while the call was live; said by its next start, or by another gateway.
    GatewayRestarted,
    /// A fault of our own.
    Internal,
}

impl EndReason {
    /// The stable code shown outside.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::CallerHangup => "caller.hangup",
            Self::LegLost => "leg.lost",
            Self::LegStalled => "leg.stalled",
            Self::LegIdle => "leg.idle",
            Self::AgentClosed => "agent.closed",
            Self::AgentFailed => "agent.failed",
            Self::Hangup => "hangup",
            Self::Transferred => "transferred",
            Self::CallerIdle => "caller.idle",
            Self::AnsweringMachine => "answering_machine",
            Self::MaxDuration => "max_duration",
            Self::Shutdown => "shutdown",
            Self::GatewayRestarted => "gateway_restarted",
            Self::Internal => "internal",
        }
    }
}

/// An event with its identity, stamped by whoever decides it.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// Identity of the event.
    pub id: EventId,
    /// The call: the key of order.
    pub call: CallId,
    /// The UUID of the call on the wire: `uuid` in the webhook body.
    pub uuid: Uuid,
    /// When it happened.
    pub at: SystemTime,
    /// What happened.
    pub event: CallEvent,
}
