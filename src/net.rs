//! Where connections may go on whose word: which addresses are nobody's service, and which hosts an operator has named.
//!
//! An address that is configured is the operator's own word and is not looked at. One that comes from outside (the answer to
//! `call_initiated`, a template with a caller's data) could make the gateway talk to its own host's or cloud's internals.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde::{Deserialize, Deserializer, de::Error as _};
use url::{Host, Url};

/// Metadata services of clouds that are not at a link-local address.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),                  // Alibaba
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),                    // Azure
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),                      // Oracle
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), // AWS
];

/// Why a connection is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The address is nobody's service.
    #[error("{0} is {1}; only a configured URL may name it")]
    Address(IpAddr, &'static str),
    /// All addresses of the name are nobody's service.
    #[error("{0:?} resolves to {1}, which is {2}; only a configured URL may name it")]
    Resolved(String, IpAddr, &'static str),
    /// The host is not on the list.
    #[error("{0:?} is not in routing.allow_hosts")]
    Host(String),
    /// There is no host.
    #[error("it names no host")]
    NoHost,
}

/// What is wrong with an address that somebody outside wants connected to: `None` for everything that can be a service, on private
/// networks too, because services on the same premises are normal.
#[must_use]
pub fn forbidden(ip: IpAddr) -> Option<&'static str> {
    let ip = unwrapped(ip);
    if METADATA.contains(&ip) {
        return Some("a cloud's metadata service");
    }
    let (unspecified, link_local) = match ip {
        // 0.0.0.0/8 is "this host"
        IpAddr::V4(v4) => (v4.octets()[0] == 0, v4.is_link_local()),
        IpAddr::V6(v6) => (v6.is_unspecified(), v6.is_unicast_link_local()),
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    [
        (unspecified, "the unspecified address"),
        (link_local, "a link-local address (metadata services of clouds are there)"),
        (ip.is_multicast(), "a multicast address"),
        (broadcast, "the broadcast address"),
    ]
    .into_iter()
    .find_map(|(is, what)| is.then_some(what))
}

/// The IPv4 address inside an IPv6 one that is only another way to write or reach it (mapped, compatible, NAT64, 6to4).
fn unwrapped(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => ip,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => of(high, low),
        [0x2002, high, low, ..] => of(high, low),
        _ => ip,
    }
}

/// One entry of `routing.allow_hosts`: a name, `*.` and a name for everything below it, an address, or a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// This name.
    Name(String),
    /// Names below this one.
    Below(String),
    /// Addresses of this network.
    Net(IpNet),
}

/// A text that names no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "write a host name, *. and a name for all below it, an address or a network (10.0.0.0/8), without scheme and port"
)]
pub struct BadPattern;

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let text = text.trim();
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Net(net));
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Self::Net(ip.into()));
        }
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        match Host::parse(name) {
            // as URLs write them: lower case, punycode
            Ok(Host::Domain(name)) if !name.contains('*') => {
                Ok(if below { Self::Below(name) } else { Self::Name(name) })
            }
            _ => Err(BadPattern),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Net(net) => net.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Pattern {
    fn allows(&self, host: &Host<&str>) -> bool {
        match (self, host) {
            (Self::Name(name), Host::Domain(host)) => host.trim_end_matches('.') == name,
            (Self::Below(name), Host::Domain(host)) => {
                host.trim_end_matches('.').strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (Self::Net(net), Host::Ipv4(ip)) => net.contains(&IpAddr::V4(*ip)),
            (Self::Net(net), Host::Ipv6(ip)) => {
                net.contains(&IpAddr::V6(*ip)) || net.contains(&unwrapped(IpAddr::V6(*ip)))
            }
            _ => false,
        }
    }
}

/// Whether a URL from outside may be connected to at all; the addresses of a name are looked at when it is ([`lookup`]).
///
/// # Errors
/// It may not.
pub fn check(url: &Url, allow: &[Pattern]) -> Result<(), Refused> {
    let host = match url.host() {
        // schemes that URL parsers do not know (ws and wss they do) keep their host as it is written
        Some(Host::Domain(name)) => match name.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => Host::Ipv4(ip),
            Ok(IpAddr::V6(ip)) => Host::Ipv6(ip),
            Err(_) => Host::Domain(name),
        },
        Some(host) => host,
        None => return Err(Refused::NoHost),
    };
    let literal = match host {
        Host::Domain(_) => None,
        Host::Ipv4(ip) => Some(IpAddr::V4(ip)),
        Host::Ipv6(ip) => Some(IpAddr::V6(ip)),
    };
    if let Some((ip, what)) = literal.and_then(|ip| Some((ip, forbidden(ip)?))) {
        return Err(Refused::Address(ip, what));
    }
    if !allow.is_empty() && !allow.iter().any(|pattern| pattern.allows(&host)) {
        return Err(Refused::Host(host.to_string()));
    }
    Ok(())
}

/// The addresses of `host`, without the forbidden ones: what is connected to is what was looked at, however its name is changed.
///
/// # Errors
/// The name has no address, or forbidden ones only ([`Refused`] inside).
pub async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let all: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    permitted(host, all)
}

fn permitted(host: &str, mut addresses: Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    let refused = addresses.iter().find_map(|address| Some((address.ip(), forbidden(address.ip())?)));
    addresses.retain(|address| forbidden(address.ip()).is_none());
    match refused {
        Some((ip, what)) if addresses.is_empty() => {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, Refused::Resolved(host.to_owned(), ip, what)))
        }
        _ => Ok(addresses),
    }
}

/// [`lookup`] for HTTP clients that carry URLs from outside. Addresses written out do not pass through it: [`check`] has seen those.
#[derive(Debug, Clone, Copy, Default)]
pub struct Guarded;

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // the port is put in by the client
            let addresses = lookup(name.as_str(), 0).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checked(url: &str, allow: &[&str]) -> Result<(), Refused> {
        let allow: Vec<Pattern> = allow.iter().map(|text| text.parse().unwrap()).collect();
        check(&Url::parse(url).unwrap(), &allow)
    }

    #[test]
    fn addresses_that_are_nobodys_service() {
        for (ip, refused) in [
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("192.168.0.1", false),
            ("100.64.0.1", false),
            ("8.8.8.8", false),
            ("::1", false),
            ("fd00::1", false),
            ("2001:db8::1", false),
            ("0.0.0.0", true),
            ("0.1.2.3", true),
            ("169.254.169.254", true),
            ("169.254.0.1", true),
            ("224.0.0.1", true),
            ("255.255.255.255", true),
            ("100.100.100.200", true),
            ("168.63.129.16", true),
            ("::", true),
            ("fe80::1", true),
            ("ff02::1", true),
            ("fd00:ec2::254", true),
            ("::ffff:169.254.169.254", true),
            ("::169.254.169.254", true),
            ("64:ff9b::a9fe:a9fe", true),
            ("2002:a9fe:a9fe::1", true),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(forbidden(ip.parse().unwrap()).is_some(), refused, "{ip}");
        }
    }

    #[test]
    fn however_an_address_is_written_it_is_seen() {
        for url in [
            "ws://169.254.169.254/",
            "http://2852039166/",
            "http://0xa9fea9fe:80/",
            "http://0251.0376.0251.0376/",
            "wss://[::ffff:a9fe:a9fe]:6030/",
            "http://0/",
            "https://user@169.254.169.254:443/x",
            "ws://169.254.169.254./",
        ] {
            assert!(matches!(checked(url, &[]), Err(Refused::Address(..))), "{url}");
        }
        assert_eq!(checked("ws://localhost:6030/", &[]), Ok(()));
        assert_eq!(checked("mailto:a@b", &[]), Err(Refused::NoHost));
    }

    #[test]
    fn a_list_narrows() {
        let list = ["sts.example.org", "*.Bücher.example", "10.0.0.0/8", "::1"];
        for url in [
            "wss://STS.example.org:6030/x",
            "ws://sts.example.org./",
            "ws://a.b.xn--bcher-kva.example/",
            "ws://10.2.3.4/",
            "ws://[::1]:1/",
            "ws://[::ffff:10.2.3.4]/",
        ] {
            assert_eq!(checked(url, &list), Ok(()), "{url}");
        }
        for url in [
            "ws://example.org/",
            "ws://evilsts.example.org/",
            "ws://xn--bcher-kva.example/",
            "ws://sts.example.org.evil.example/",
            "ws://11.2.3.4/",
            "ws://10.2.3.4.evil.example/",
        ] {
            assert!(matches!(checked(url, &list), Err(Refused::Host(_))), "{url}");
        }
        assert!(matches!(checked("ws://169.254.169.254/", &["169.254.0.0/16"]), Err(Refused::Address(..))));
        for text in ["", "http://h", "h:80", "*", "a b", "*.*.x", "h/x"] {
            assert_eq!(text.parse::<Pattern>(), Err(BadPattern), "{text:?}");
        }
        for text in list {
            let pattern: Pattern = text.parse().unwrap();
            assert_eq!(pattern.to_string().parse::<Pattern>().unwrap(), pattern);
        }
    }

    #[tokio::test]
    async fn what_a_name_resolves_to_is_looked_at() {
        let well = lookup("127.0.0.1", 80).await.unwrap();
        assert_eq!(well, [SocketAddr::from(([127, 0, 0, 1], 80))]);
        let refused = lookup("169.254.169.254", 80).await.unwrap_err();
        assert!(refused.to_string().contains("link-local"), "{refused}");
        let mixed = permitted("h", vec!["169.254.1.1:1".parse().unwrap(), "10.0.0.1:1".parse().unwrap()]).unwrap();
        assert_eq!(mixed, ["10.0.0.1:1".parse().unwrap()], "the rest of a name may be used");
    }

    proptest! {
        #[test]
        fn any_text_is_a_pattern_or_none(text in ".{0,30}|[a-z0-9.*:/]{0,20}") {
            let _ = text.parse::<Pattern>();
        }
    }
}
