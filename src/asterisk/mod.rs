//! Asterisk's side of a call: legs, listeners and the bytes they speak.

pub mod ami;
mod any;
pub mod ari;
pub mod audiosocket;
mod gate;
pub mod rtp;
pub mod telemetry;
mod upgrade;
pub mod websocket;

pub use any::{AnyLeg, Arrival, Identified};
