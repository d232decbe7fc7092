//! Integration tests, in one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod announced;
mod api;
mod audiosocket;
mod builtin;
mod cascade_asr;
mod cascade_llm;
mod cascade_talk;
mod cascade_tts;
mod cascade_turns;
mod cascade_ws;
mod cli;
mod config;
mod durable;
mod fuzz_smoke;
mod hostile;
mod image;
mod receivers;
mod recordings;
mod schema;
mod speech;
mod store;
mod store_clock;
mod store_faults;
mod store_kill;
mod store_model;
mod store_postgres;
mod store_shared;
mod sts;
mod sts_http;
mod sts_network;
mod support;
mod webhook;
mod webhook_admin;
mod webhook_endpoints;
mod webhook_faults;
