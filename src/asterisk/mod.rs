//! Asterisk's side of a call: legs, listeners and the bytes they speak.

pub mod ami;
pub mod ari;
pub mod audiosocket;
pub mod telemetry;
