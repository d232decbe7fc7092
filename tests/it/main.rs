//! Integration tests, in one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod api;
mod audiosocket;
mod cli;
mod config;
mod support;
mod webhook;
