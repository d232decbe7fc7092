//! The HTTP service: `/health`, `/ready`, `/metrics`, `POST /call`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use serde::Deserialize;

/// Settings of the HTTP service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether there is an HTTP service at all.
    pub enabled: bool,
    /// Address and TCP port to listen on.
    pub listen: SocketAddr,
    /// Networks that may connect; empty = everybody who can reach the listener.
    pub allow: Vec<IpNet>,
    /// How long an announced call is remembered, in s.
    pub announcement_ttl_s: u64,
    /// Announced calls remembered at once; the oldest goes first.
    pub max_announcements: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6001),
            allow: Vec::new(),
            announcement_ttl_s: 600,
            max_announcements: 10_000,
        }
    }
}
