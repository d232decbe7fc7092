//! Who a call's packets may come from, and where ours go.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::Config;

/// The other end.
#[derive(Debug)]
pub(super) struct Peer {
    /// Where it is, as far as that is known.
    pub address: Option<SocketAddr>,
    /// Nobody else is listened to any more.
    locked: bool,
    allow: Vec<IpNet>,
    /// Our socket speaks IPv6 only.
    v6: bool,
}

impl Peer {
    /// The one that Asterisk has told of, or the one that will send first.
    pub fn new(told: Option<SocketAddr>, config: &Config) -> Self {
        Self {
            address: told,
            locked: told.is_some() && !config.learn_peer,
            allow: config.allow.clone(),
            v6: config.bind.is_ipv6(),
        }
    }

    /// Whether a packet from there may be of this call.
    pub fn may_be(&self, from: SocketAddr) -> bool {
        match self.locked {
            true => self.address == Some(from),
            false => self.allow.is_empty() || self.allow.iter().any(|net| net.contains(&from.ip())),
        }
    }

    /// A packet from there is of this call.
    pub const fn is(&mut self, from: SocketAddr) {
        if !self.locked {
            (self.address, self.locked) = (Some(from), true);
        }
    }

    /// Where packets go, as the socket wants it.
    pub fn to(&self) -> Option<SocketAddr> {
        self.address.map(|address| match address.ip() {
            IpAddr::V4(ip) if self.v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            _ => address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_packet_locks_out_all_others() {
        let config = Config { allow: vec!["10.0.0.0/8".parse().unwrap()], ..Config::default() };
        let mut peer = Peer::new(None, &config);
        assert!(!peer.may_be(at("192.168.0.1:5")) && peer.may_be(at("10.0.0.1:5")));
        peer.is(at("10.0.0.1:5"));
        peer.is(at("10.0.0.2:5"));
        assert!(peer.may_be(at("10.0.0.1:5")) && !peer.may_be(at("10.0.0.2:5")) && !peer.may_be(at("10.0.0.1:6")));
        // what Asterisk tells needs no allow-list
        let told = Peer::new(Some(at("192.168.0.1:5")), &config);
        assert!(told.may_be(at("192.168.0.1:5")) && !told.may_be(at("10.0.0.1:5")));
    }

    #[test]
    fn a_socket_of_ipv6_reaches_ipv4() {
        let config = Config { bind: "::".parse().unwrap(), ..Config::default() };
        assert_eq!(Peer::new(Some(at("10.0.0.1:5")), &config).to(), Some(at("[::ffff:10.0.0.1]:5")));
        assert_eq!(Peer::new(Some(at("[::1]:5")), &config).to(), Some(at("[::1]:5")));
    }
}
