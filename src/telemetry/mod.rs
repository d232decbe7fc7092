//! Tracing and metrics set-up.

pub mod logging;
pub mod metrics;
