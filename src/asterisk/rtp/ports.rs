//! The UDP ports of calls, and what waits on one to become a leg.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use serde::{Deserialize, Deserializer, de::Error as _};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{Config, Leg, codec::Codec};
use crate::{asterisk::telemetry::RtpStats, audio::AudioFormat, call::Digit};

/// Keys that a leg has not taken yet.
const KEYS: usize = 32;

/// Which ports may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Range {
    /// Whichever is free.
    #[default]
    Any,
    /// Those from the first to the last.
    Of(u16, u16),
}

impl std::str::FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let advice =
            || format!("{text:?} is no range of ports: write two numbers, e.g. \"20000-20999\", or \"\" for any");
        if text.trim().is_empty() {
            return Ok(Self::Any);
        }
        let (first, last) = text.split_once('-').ok_or_else(advice)?;
        let port = |text: &str| text.trim().parse::<u16>().map_err(|_| advice());
        match (port(first)?, port(last)?) {
            (first, last) if first >= 1_024 && first <= last => Ok(Self::Of(first, last)),
            _ => Err(format!("{text:?} must begin at 1024 or above, and not end before")),
        }
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // an empty text is not set
        Option::<String>::deserialize(deserializer)?.unwrap_or_default().parse().map_err(D::Error::custom)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Of(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// Why there is no port for a call.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The address is not this machine's.
    #[error("no UDP port of rtp.bind = {0} can be had: {1}")]
    Bind(IpAddr, io::Error),
    /// Every port of the range is taken.
    #[error("all UDP ports of rtp.ports = {0} on {1} are in use: each call needs one, and only even ones are taken")]
    Full(Range, IpAddr),
}

/// Opens ports.
#[derive(Debug)]
pub struct Ports {
    range: Range,
    bind: IpAddr,
    next: AtomicU32,
}

impl Ports {
    /// Of these settings.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { range: config.ports, bind: config.bind, next: AtomicU32::new(0) }
    }

    /// Opens one. Only even ones of a range: RTCP goes to the next odd one, which must not be another call's.
    ///
    /// # Errors
    /// There is none.
    pub fn open(&self) -> Result<UdpSocket, PortError> {
        let bind = |port| {
            let socket = UdpSocket::bind(SocketAddr::new(self.bind, port))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let Range::Of(first, last) = self.range else {
            return bind(0).map_err(|error| PortError::Bind(self.bind, error));
        };
        let first = first + first % 2;
        let count = (u32::from(last) + 2).saturating_sub(u32::from(first)) / 2;
        for _ in 0..count {
            // the one that was given back longest ago
            let turn = self.next.fetch_add(1, Ordering::Relaxed) % count;
            let port = u32::from(first) + 2 * turn;
            match bind(u16::try_from(port).unwrap_or(first)) {
                Ok(socket) => return Ok(socket),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(PortError::Bind(self.bind, error)),
            }
        }
        Err(PortError::Full(self.range, self.bind))
    }
}

/// Everything that legs by RTP share.
#[derive(Debug)]
pub struct Sockets {
    config: Arc<Config>,
    ports: Ports,
    stats: Arc<RtpStats>,
}

/// A port that Asterisk can be told of.
#[derive(Debug)]
pub struct Opened {
    socket: UdpSocket,
    /// Where it is.
    pub local: SocketAddr,
    config: Arc<Config>,
    stats: Arc<RtpStats>,
}

/// What Asterisk says of its side: the channel variables `UNICASTRTP_LOCAL_ADDRESS` and `UNICASTRTP_LOCAL_PORT`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told(pub Option<SocketAddr>);

impl Told {
    /// What the two say.
    #[must_use]
    pub fn of(address: Option<&str>, port: Option<&str>) -> Self {
        let read = || {
            let ip: IpAddr = address?.trim().trim_matches(['[', ']']).parse().ok()?;
            let port = port?.trim().parse().ok()?;
            (!ip.is_unspecified() && port != 0).then_some(SocketAddr::new(ip.to_canonical(), port))
        };
        Self(read())
    }
}

impl Sockets {
    /// With these settings.
    #[must_use]
    pub fn new(config: &Config, stats: Arc<RtpStats>) -> Self {
        Self { ports: Ports::new(config), config: Arc::new(config.clone()), stats }
    }

    /// Opens a port for a call.
    ///
    /// # Errors
    /// There is none.
    pub fn open(&self) -> Result<Opened, PortError> {
        let socket = self.ports.open().inspect_err(|_| self.stats.no_port.inc())?;
        let local = socket.local_addr().map_err(|error| PortError::Bind(self.config.bind, error))?;
        Ok(Opened { socket, local, config: Arc::clone(&self.config), stats: Arc::clone(&self.stats) })
    }

    /// Where Asterisk is to send to: the host of `host` where the PBX has one of its own, else as configured, else where `local` sees us.
    #[must_use]
    pub fn advertised(&self, opened: &Opened, host: Option<&str>, local: Option<IpAddr>) -> String {
        let port = opened.local.port();
        if let Some(host) = host.or(self.config.advertise.as_deref()) {
            let bare = host.trim_matches(['[', ']']);
            return bare.parse().map_or_else(|_| format!("{host}:{port}"), |ip| SocketAddr::new(ip, port).to_string());
        }
        // on all addresses: where the PBX sees us is where it will find us
        let ip = local.filter(|_| opened.local.ip().is_unspecified()).unwrap_or(opened.local.ip());
        SocketAddr::new(ip, port).to_string()
    }
}

impl Opened {
    /// The port itself.
    pub(in crate::asterisk) fn into_socket(self) -> UdpSocket {
        self.socket
    }

    /// A call on it, and what whoever made its channel keeps.
    #[must_use]
    pub fn call(self, uuid: Uuid, format: AudioFormat, told: Told) -> (Pending, Line) {
        let (sender, keys) = mpsc::channel(KEYS);
        let (take, taken) = oneshot::channel();
        (Pending { uuid, format, told, tie: Tie { keys, take }, opened: self }, Line { keys: sender, taken })
    }
}

/// What whoever made the channel of a leg keeps of it. The leg ends when `keys` is dropped.
#[derive(Debug)]
pub struct Line {
    /// Takes keys that Asterisk tells of by other ways than RTP; closed when the leg is gone, or was refused.
    pub keys: mpsc::Sender<Digit>,
    /// Told when the call is taken.
    pub taken: oneshot::Receiver<()>,
}

/// The leg's end of a [`Line`].
#[derive(Debug)]
pub(super) struct Tie {
    pub keys: mpsc::Receiver<Digit>,
    pub take: oneshot::Sender<()>,
}

/// A call that has its port.
#[derive(Debug)]
pub struct Pending {
    /// The UUID of the call.
    pub uuid: Uuid,
    format: AudioFormat,
    told: Told,
    tie: Tie,
    opened: Opened,
}

impl Pending {
    /// Takes it to the runtime that will serve it.
    ///
    /// # Errors
    /// The runtime does not take the socket, or RTP does not carry the format.
    pub fn identify(self) -> io::Result<Identified> {
        let Opened { socket, local, config, stats } = self.opened;
        let codec = Codec::new(self.format).ok_or(io::ErrorKind::Unsupported)?;
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let peer = self.told.0.unwrap_or(local);
        Ok(Identified { uuid: self.uuid, peer, socket, codec, told: self.told, tie: self.tie, config, stats })
    }
}

/// A call that waits to be taken or refused.
#[derive(Debug)]
#[must_use = "take it or refuse it"]
pub struct Identified {
    /// The UUID of the call.
    pub uuid: Uuid,
    /// Where its packets come from, as far as that is known; else where they go to.
    pub peer: SocketAddr,
    pub(super) socket: tokio::net::UdpSocket,
    pub(super) codec: Codec,
    pub(super) told: Told,
    pub(super) tie: Tie,
    pub(super) config: Arc<Config>,
    pub(super) stats: Arc<RtpStats>,
}

impl Identified {
    /// Takes the call.
    pub async fn into_leg(self) -> Leg {
        Leg::start(self).await
    }

    /// Refuses it: whoever made the channel sees by its line that nobody takes it.
    pub fn refuse(self) {
        drop(self);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn ranges_are_read_or_explained() {
        let read = |text: &str| text.parse::<Range>();
        assert_eq!((read(""), read(" 20000 - 20999")), (Ok(Range::Any), Ok(Range::Of(20_000, 20_999))));
        for text in ["20000", "x-y", "20000-70000", "20999-20000", "0-10", "-"] {
            assert!(read(text).unwrap_err().contains(&format!("{text:?}")), "{text}");
        }
    }

    #[test]
    fn a_range_gives_its_even_ports_and_then_says_that_it_is_full() {
        // nobody knows which ports are free here: the machine is asked for the beginning
        let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let first = probe.clamp(1_024, u16::MAX - 40);
        let config = Config { ports: Range::Of(first, first + 30), ..Config::default() };
        let ports = Ports::new(&config);
        let mut open = Vec::new();
        let full = loop {
            match ports.open() {
                Ok(socket) => open.push(socket),
                Err(error) => break error,
            }
        };
        let numbers: Vec<_> = open.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        assert!((1..=16).contains(&open.len()), "{numbers:?}");
        assert!(numbers.iter().all(|port| port % 2 == 0 && (first..=first + 30).contains(port)), "{numbers:?}");
        assert!(matches!(full, PortError::Full(..)), "{full}");
        // given back, it is to be had again
        open.pop();
        assert!(ports.open().is_ok());
    }

    #[test]
    fn what_asterisk_is_told_and_tells() {
        let config = |bind: &str, advertise: Option<&str>| Config {
            bind: bind.parse().unwrap(),
            advertise: advertise.map(str::to_owned),
            ..Config::default()
        };
        let told = |config: &Config, host, local: Option<&str>| {
            let sockets = Sockets::new(config, Arc::default());
            let opened = sockets.open().unwrap();
            let port = format!(":{}", opened.local.port());
            sockets
                .advertised(&opened, host, local.map(|ip| ip.parse().unwrap()))
                .strip_suffix(&port)
                .unwrap()
                .to_owned()
        };
        assert_eq!(told(&config("127.0.0.1", None), None, Some("10.0.0.5")), "127.0.0.1");
        assert_eq!(told(&config("0.0.0.0", None), None, Some("10.0.0.5")), "10.0.0.5");
        assert_eq!(told(&config("0.0.0.0", Some("hark.example.org")), None, Some("10.0.0.5")), "hark.example.org");
        assert_eq!(told(&config("0.0.0.0", Some("a")), Some("2001:db8::1"), None), "[2001:db8::1]");
        assert_eq!(Told::of(Some("10.0.0.1"), Some("4000")).0, Some("10.0.0.1:4000".parse().unwrap()));
        assert_eq!(Told::of(Some("::ffff:10.0.0.1"), Some("4000")).0, Some("10.0.0.1:4000".parse().unwrap()));
        for (address, port) in
            [(None, Some("1")), (Some("0.0.0.0"), Some("1")), (Some("x"), Some("1")), (Some("::1"), None)]
        {
            assert_eq!(Told::of(address, port), Told::default());
        }
    }
}
