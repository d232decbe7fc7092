//! AudioSocket: the `AudioSocket()` application and `Dial(AudioSocket/…)`.

mod closing;
mod g722;
mod identify;
mod intake;
mod leg;
mod listener;
pub mod wire;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use serde::Deserialize;
use uuid::Uuid;

pub use identify::{Identified, Pending, Refused};
#[doc(hidden)]
pub use intake::fuzz as fuzz_intake;
pub use leg::Leg;
pub use listener::Listener;

/// The UUID of a connection that only tries whether Asterisk reaches us (`hark doctor`): it is ended at once, and is no call.
pub const PROBE: Uuid = Uuid::from_u128(0x6861_726b_2d64_8f63_b46f_722d_7072_6f62);

/// Settings of the AudioSocket listener.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and TCP port to listen on.
    pub listen: SocketAddr,
    /// Networks that may connect; empty = everybody who can reach the listener.
    pub allow: Vec<IpNet>,
    /// The law of 160-byte frames of kind 0x10: found out by listening, or fixed. g722 has frames of the same size: it cannot be played,
    /// is found out by listening too, and left out with advice in the log.
    pub g711: G711,
    /// How long a connection may take to send its UUID, in ms.
    pub uuid_timeout_ms: u64,
    /// End the call after this long without any frame from Asterisk, in s (hold is legal, so minutes).
    pub idle_media_s: u64,
    /// Give up a peer that acknowledges nothing for this long, in ms (`TCP_USER_TIMEOUT`).
    pub dead_peer_ms: u32,
    /// Connections that have not sent their UUID yet; the oldest is closed for a newcomer.
    pub max_pending: usize,
    /// Connections at once from one address; 0 = no limit (a PBX is one address).
    pub max_per_address: usize,
    /// Take only calls whose UUID was announced by `POST /call`.
    pub require_registration: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5001),
            allow: Vec::new(),
            g711: G711::Auto,
            uuid_timeout_ms: 5_000,
            idle_media_s: 600,
            dead_peer_ms: 10_000,
            max_pending: 256,
            max_per_address: 0,
            require_registration: false,
        }
    }
}

/// What 160-byte frames of kind 0x10 hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum G711 {
    /// Found out by listening.
    #[default]
    Auto,
    /// G.711 µ-law.
    Ulaw,
    /// G.711 A-law.
    Alaw,
}
