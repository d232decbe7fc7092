//! Hark: an open, low-latency voice gateway.
//!
//! `call` decides, `session` does. Each room below may name only the rooms listed after it; `tests/layers.rs` checks it.
//!
//! - [`audio`]: pure arithmetic on samples: formats, codecs, framing, resampling, voice activity. Names nothing.
//! - [`telemetry`]: tracing and metrics set-up. Names nothing.
//! - [`net`]: where connections may go on whose word. Names nothing.
//! - [`call`]: the pure state machine of one conversation: no socket, no task, no clock. Names `audio`.
//! - [`session`]: the async loop that drives one [`call::Call`]. Names `call`, `audio`, `telemetry`.
//! - [`asterisk`]: legs and listeners towards Asterisk. Names `call`, `audio`, `telemetry`.
//! - [`agent`]: the AI services of a call. Names `call`, `audio`, `telemetry`, `net`.
//! - [`recording`]: recordings of calls, and transcripts beside them. Names `call`, `audio`, `telemetry`.
//! - [`webhook`]: the outbox and the delivery of events. Names `call`, `telemetry`, `net`.
//! - [`api`]: the HTTP service. Names `session`, `webhook`, `call`, `telemetry`, `net`.
//! - [`config`]: default < file < environment. Names the `Config` type of every room.
//! - [`app`]: the only place where the rooms meet.
//! - [`cli`]: one file per subcommand.

pub mod agent;
pub mod api;
pub mod app;
pub mod asterisk;
pub mod audio;
pub mod call;
pub mod cli;
pub mod config;
pub mod net;
pub mod recording;
pub mod session;
pub mod telemetry;
pub mod webhook;
