//! RTP: the audio of a call by ARI's `externalMedia`, in packets of UDP.
//!
//! Nothing listens: each call has a port of its own, made when Asterisk is told of it, and takes packets from where Asterisk says that they
//! come from, and from nowhere else.

mod codec;
mod conceal;
mod jitter;
mod leg;
mod peer;
mod ports;
mod sender;
pub mod wire;

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use ipnet::IpNet;
use serde::Deserialize;

pub use leg::Leg;
pub use ports::{Identified, Line, Opened, Pending, PortError, Ports, Range, Sockets, Told};

/// Settings of all RTP legs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The address whose ports are used.
    pub bind: IpAddr,
    /// What Asterisk is told to send to, if it is another: a host.
    pub advertise: Option<String>,
    /// The UDP ports that may be used.
    pub ports: Range,
    /// Take packets from whoever sends the first one, rather than from where Asterisk says.
    pub learn_peer: bool,
    /// Networks of which the first packet may come then; empty = all.
    pub allow: Vec<IpNet>,
    /// How long a missing packet is waited for at least, in ms.
    pub jitter_min_ms: u64,
    /// And at most.
    pub jitter_max_ms: u64,
    /// End the call after this long without any packet, in s.
    pub idle_media_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::LOCALHOST.into(),
            advertise: None,
            ports: Range::Any,
            learn_peer: false,
            allow: Vec::new(),
            jitter_min_ms: 20,
            jitter_max_ms: 200,
            idle_media_s: 600,
        }
    }
}

impl Config {
    fn limits(&self) -> jitter::Limits {
        let least = Duration::from_millis(self.jitter_min_ms);
        jitter::Limits { least, most: Duration::from_millis(self.jitter_max_ms).max(least) }
    }
}

/// What a fuzzer calls: a jitter buffer under any packets at any times; 8 bytes each.
#[doc(hidden)]
pub fn fuzz_jitter(data: &[u8]) {
    let mut now = std::time::Instant::now();
    let mut jitter = jitter::Jitter::new(8_000, Config::default().limits(), now);
    for &[s0, s1, t0, t1, t2, t3, ticks, wait] in data.as_chunks::<8>().0 {
        now += Duration::from_millis(u64::from(wait));
        let place = jitter::Place {
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ticks: u32::from(ticks),
        };
        let _ = jitter.put(place, &[ticks], now);
        // a time has so many frames, whatever comes
        let due = std::iter::from_fn(|| jitter.pop(now)).take(1_000).count();
        assert!(due < 1_000, "there is no end of what is due");
    }
}
