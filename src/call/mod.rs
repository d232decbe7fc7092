//! The rules of a conversation: who may speak now, what an interruption cuts, what the caller really heard, when the call ends.
//!
//! A pure state machine: no socket, no task, no clock. [`Call::handle`] is the only way in.

pub mod apology;
mod config;
mod dtmf;
mod event;
mod grid;
mod id;
mod latency;
mod link;
mod machine;
pub mod pattern;
mod playout;
mod request;
mod tape;
mod tool;
mod turn;

pub use config::{BargeIn, Config, Dtmf, Endpoint, Idle, Policy, Vad};
pub use dtmf::Collect;
pub use event::{CallEvent, CallStatus, EndReason, Envelope, Recording, Role, Status};
pub use grid::{CATCH_UP, PERIOD};
pub use id::{CallId, Digit, EventId, NotADigit, UtteranceId};
pub use latency::{Latency, Timing, Turn};
pub use link::{
    Agent, AgentEvent, AgentInput, Cause, Command, Edge, Fault, Input, Leg, LegCommand, LegEvent, Link, Output,
    Replaced, Say, Sent,
};
pub use machine::{Call, Mode, Setup, Stats};
pub use playout::Budget;
pub use request::{Attended, Begun, Origination, Outbound, Refusal, Refused, Request, Target};
pub use tape::{Sink, Tap, Tape};
pub use tool::{ModelUsage, ToolCalled, Usage};
pub use turn::{AnsweredBy, Ending, Lexicon, OnMachine, Rules, VOICE_MS, Weight, languages};
