//! Hark's promises on a real Asterisk, heard by a SIP phone that counts samples.
//!
//! Each test starts an Asterisk of its own (`support::lab`) with the files of `asterisk-conf/`, which users copy.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, dead_code)]

mod support;

mod announce;
mod ari;
mod ari_control;
mod ari_faults;
mod ari_outbound;
mod attended;
mod bench_call;
mod calls;
mod closed_loop;
mod control;
mod conversation;
mod doctor;
mod endings;
mod fallback;
mod outbound;
mod receptionist;
mod recordings;
mod rtp;
mod soak;
mod tools;
mod websocket;
