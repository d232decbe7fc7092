//! chan_websocket: Asterisk dials us (`Dial(WebSocket/hark/…)`), or we connect to its `/media/…`.

mod client;
mod codec;
mod handshake;
mod leg;
mod listener;
mod socket;
pub mod wire;

use std::{fmt, net::SocketAddr};

use ipnet::IpNet;
use serde::Deserialize;

pub use client::{Dial, DialError};
pub use handshake::{Identified, Pending, Refused};
pub use leg::Leg;
pub use listener::Listener;

pub use super::upgrade::NoRequest;

/// Settings of the WebSocket listener and of all its legs.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and TCP port to listen on; unset = nobody listens.
    pub listen: Option<SocketAddr>,
    /// Networks that may connect; empty = everybody who can reach the listener.
    pub allow: Vec<IpNet>,
    /// User that websocket_client.conf names; unset = nobody is asked.
    pub username: Option<String>,
    /// That user's password.
    pub password: String,
    /// How long a connection may take from its beginning to `MEDIA_START`, in ms.
    pub start_timeout_ms: u64,
    /// End the call after this long without any message from Asterisk, in s.
    pub idle_media_s: u64,
    /// Give up a peer that acknowledges nothing for this long, in ms (`TCP_USER_TIMEOUT`).
    pub dead_peer_ms: u32,
    /// Connections that have not begun a call yet; the oldest is closed for a newcomer.
    pub max_pending: usize,
    /// Connections at once from one address; 0 = no limit (a PBX is one address).
    pub max_per_address: usize,
    /// How far ahead of the caller's ear speech is sent, in ms.
    pub lead_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: None,
            allow: Vec::new(),
            username: None,
            password: String::new(),
            start_timeout_ms: 5_000,
            idle_media_s: 600,
            dead_peer_ms: 10_000,
            max_pending: 256,
            max_per_address: 0,
            lead_ms: 200,
        }
    }
}

/// Without the password.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("allow", &self.allow)
            .field("username", &self.username)
            .field("lead_ms", &self.lead_ms)
            .finish_non_exhaustive()
    }
}

/// A peer's text as a log may hold it.
fn shown(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}
