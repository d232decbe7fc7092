//! The types of events there are. Their payloads are described under `fixtures/schema/`.

/// Types of the contract: all that the receiver of `WEBHOOK_URL` ever gets.
pub const CONTRACT: [&str; 6] =
    ["call_initiated", "call_started", "call_ended", "interruption", "transcription", "dtmf_digit"];
/// The last event of a call that a receiver of the contract gets.
pub(super) const CALL_ENDED: &str = "call_ended";
/// The last event of a call: one report about all of it.
pub const CALL_COMPLETED: &str = "call_completed";
/// A service of a call failed for good, or was refused.
pub const SERVICE_FAILED: &str = "service_failed";
/// How long the parts of one answer of the agent took.
pub const TURN: &str = "turn";
/// A receiver asked for no more events (410).
pub const ENDPOINT_DISABLED: &str = "endpoint_disabled";
/// Events of a call had to be dropped here.
pub const EVENTS_LOST: &str = "events_lost";
/// The recording of a call can be fetched.
pub const RECORDING_READY: &str = "recording_ready";
/// How a call that we make stands.
pub const CALL_STATUS: &str = "call_status";
/// Who has answered a call that we made.
pub const ANSWERED_BY: &str = "answered_by";

/// A tool was called.
pub const TOOL_CALL: &str = "tool_call";
/// What the agent's services were used for.
pub const USAGE: &str = "usage";

/// Types that other receivers can subscribe to as well.
pub const MORE: [&str; 10] = [
    CALL_COMPLETED,
    SERVICE_FAILED,
    TURN,
    ENDPOINT_DISABLED,
    EVENTS_LOST,
    RECORDING_READY,
    CALL_STATUS,
    ANSWERED_BY,
    TOOL_CALL,
    USAGE,
];

/// Whether there are events of this type.
#[must_use]
pub fn is_known(kind: &str) -> bool {
    CONTRACT.contains(&kind) || MORE.contains(&kind)
}
