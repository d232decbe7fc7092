//! Settings.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::Deserialize;
use url::Url;

use crate::audio::{AudioFormat, Encoding, Rate};

/// Settings: the PBX of `ARI_URL`, and in it further ones.
pub type Config = Pbx;

/// One PBX.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pbx {
    /// Where its HTTP server is, e.g. `http://pbx:8088`; unset = there is none, or it connects to us.
    pub url: Option<String>,
    /// Who makes the connection.
    pub connect: Connect,
    /// How requests go; unset = over HTTP where there is a URL, else over the WebSocket.
    pub rest: Option<Requests>,
    /// User of ari.conf; where Asterisk connects to us, also the one that it names.
    pub username: String,
    /// That user's password.
    pub password: String,
    /// Our Stasis application.
    pub app: String,
    /// Where this Asterisk reaches the AudioSocket listener: a host, or a host and a port. Unset = the listener's own address.
    /// RTP goes to the same host, at ports of its own.
    pub media_host: Option<String>,
    /// How audio is carried.
    pub media: Media,
    /// What it is sent as.
    pub format: MediaFormat,
    /// What becomes of a caller when the agent has finished.
    pub after: After,
    /// Channel variables that become metadata of a call.
    pub variables: Vec<String>,
    /// SIP headers that do.
    pub headers: Vec<String>,
    /// How long a request may take, in ms.
    pub timeout_ms: u64,
    /// How often the events socket is pinged, in ms; three times as long without a sign of life is the end of it.
    pub ping_ms: u64,
    /// How long another subscriber of our application is left alone before it is taken back, in s.
    pub replaced_s: u64,
    /// Further PBXs, by name.
    pub pbx: BTreeMap<String, Pbx>,
}

impl Pbx {
    /// Every PBX that is configured, with its name.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Self)> {
        let further = self.pbx.iter().map(|(name, pbx)| (name.as_str(), pbx));
        std::iter::once(("default", self)).chain(further).filter(|(_, pbx)| pbx.is_configured())
    }

    /// Whether there is such a PBX.
    #[must_use]
    pub const fn is_configured(&self) -> bool {
        self.url.is_some() || self.connect.comes()
    }

    /// How requests go.
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.rest.unwrap_or(if self.url.is_some() { Requests::Http } else { Requests::WebSocket })
    }

    /// The host of [`Self::media_host`].
    #[must_use]
    pub fn media_name(&self) -> Option<&str> {
        let host = self.media_host.as_deref()?;
        if host.parse::<IpAddr>().is_ok() {
            return Some(host);
        }
        Some(host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name))
    }

    /// Where this Asterisk reaches the AudioSocket listener at `listen`, as `host:port`. `local`: our address on the way to the PBX.
    #[must_use]
    pub fn media_at(&self, listen: SocketAddr, local: Option<IpAddr>) -> String {
        let port = listen.port();
        if let Some(host) = &self.media_host {
            let bare_ip = host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port).to_string());
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            return bare_ip.unwrap_or_else(|| if has_port { host.clone() } else { format!("{host}:{port}") });
        }
        // listening everywhere: where the PBX sees us is where it will find us
        let ip = local.filter(|_| listen.ip().is_unspecified()).unwrap_or(listen.ip());
        SocketAddr::new(ip, port).to_string()
    }
}

impl Default for Pbx {
    fn default() -> Self {
        Self {
            url: None,
            connect: Connect::Hark,
            rest: None,
            username: "hark".to_owned(),
            password: String::new(),
            app: "hark".to_owned(),
            media_host: None,
            media: Media::AudioSocket,
            format: MediaFormat::Slin,
            after: After::Continue,
            variables: Vec::new(),
            headers: Vec::new(),
            timeout_ms: 5_000,
            ping_ms: 5_000,
            replaced_s: 30,
            pbx: BTreeMap::new(),
        }
    }
}

/// Without the password.
impl fmt::Debug for Pbx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.as_deref().map(|url| Endpoint::parse(self, url).map_err(|_| "***"));
        f.debug_struct("Pbx")
            .field("url", &url)
            .field("connect", &self.connect)
            .field("rest", &self.requests())
            .field("username", &self.username)
            .field("app", &self.app)
            .field("media_host", &self.media_host)
            .field("media", &self.media)
            .field("format", &self.format)
            .field("after", &self.after)
            .field("variables", &self.variables)
            .field("headers", &self.headers)
            .field("timeout_ms", &self.timeout_ms)
            .field("ping_ms", &self.ping_ms)
            .field("replaced_s", &self.replaced_s)
            .field("pbx", &self.pbx)
            .finish_non_exhaustive()
    }
}

/// Who makes the connection over which Asterisk tells of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connect {
    /// Hark, to Asterisk's HTTP server.
    #[default]
    Hark,
    /// Asterisk, once, and again whenever it is lost (`connection_type = persistent`).
    Persistent,
    /// Asterisk, for each call (`connection_type = per_call_config`).
    PerCall,
}

impl Connect {
    /// Whether Asterisk connects to us.
    #[must_use]
    pub const fn comes(self) -> bool {
        !matches!(self, Self::Hark)
    }
}

/// How requests go to Asterisk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Requests {
    /// To its HTTP server.
    Http,
    /// Over the WebSocket on which it tells of calls: Asterisk 22.4, 21.9, 20.14, 23.0 and later.
    WebSocket,
}

/// How audio is carried between Asterisk and Hark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Media {
    /// Asterisk connects to the AudioSocket listener.
    #[default]
    AudioSocket,
    /// Hark connects to Asterisk's HTTP server, where ARI is (chan_websocket).
    WebSocket,
    /// Packets go to and fro between UDP ports (chan_rtp).
    Rtp,
}

/// What a media leg carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaFormat {
    /// 8 kHz.
    #[default]
    Slin,
    /// 16 kHz: Asterisk 22.7, 21.12, 20.17, 23.1 and later.
    Slin16,
    /// G.711 µ-law.
    Ulaw,
    /// G.711 A-law.
    Alaw,
    /// G.722, 16 kHz.
    G722,
}

impl MediaFormat {
    /// Asterisk's name of it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slin => "slin",
            Self::Slin16 => "slin16",
            Self::Ulaw => "ulaw",
            Self::Alaw => "alaw",
            Self::G722 => "g722",
        }
    }

    /// What it is.
    #[must_use]
    pub const fn audio(self) -> AudioFormat {
        let (encoding, rate) = match self {
            Self::Slin => (Encoding::Linear16, Rate::R8K),
            Self::Slin16 => (Encoding::Linear16, Rate::R16K),
            Self::Ulaw => (Encoding::Ulaw, Rate::R8K),
            Self::Alaw => (Encoding::Alaw, Rate::R8K),
            Self::G722 => (Encoding::G722, Rate::R16K),
        };
        AudioFormat { encoding, rate }
    }

    /// Whether it can be told from others where it is carried so: AudioSocket has one kind for all of 8 kHz.
    #[must_use]
    pub fn fits(self, media: Media) -> bool {
        media != Media::AudioSocket || matches!(self, Self::Slin | Self::Slin16)
    }

    /// The format of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Slin, Self::Slin16, Self::Ulaw, Self::Alaw, Self::G722];
        all.into_iter().find(|format| format.as_str().eq_ignore_ascii_case(name))
    }
}

/// What becomes of a caller when the agent has finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum After {
    /// The dialplan goes on behind `Stasis()`, as it does behind `AudioSocket()`.
    #[default]
    Continue,
    /// Hark hangs up.
    Hangup,
}

/// Where ARI is, and who asks.
#[derive(Clone)]
pub struct Endpoint {
    /// `http(s)://host:port/ari/`, without credentials.
    base: Url,
    username: String,
    password: String,
}

impl Endpoint {
    /// The endpoint of `pbx`, whose URL may end in `/ari` or not, and may hold credentials.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn parse(pbx: &Pbx, url: &str) -> Result<Self, String> {
        let mut base = Url::parse(url).map_err(|error| format!("is not a URL: {error}"))?;
        match base.scheme() {
            "http" | "https" => {}
            "ws" => base.set_scheme("http").map_err(|()| "cannot be used".to_owned())?,
            "wss" => base.set_scheme("https").map_err(|()| "cannot be used".to_owned())?,
            other => return Err(format!("begins with {other}:, but only http: and https: are understood")),
        }
        if base.host_str().is_none_or(str::is_empty) {
            return Err("names no host".to_owned());
        }
        let given = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (username, password) = match (base.username(), base.password()) {
            ("", _) => (pbx.username.clone(), pbx.password.clone()),
            (user, password) => (given(user), password.map_or_else(|| pbx.password.clone(), given)),
        };
        // fails only for URLs that cannot have them
        let _ = base.set_username("");
        let _ = base.set_password(None);
        base.set_query(None);
        base.set_fragment(None);
        let path = base.path().trim_end_matches('/');
        let path = match path.strip_suffix("/events").unwrap_or(path) {
            path if path.ends_with("/ari") => format!("{path}/"),
            path => format!("{path}/ari/"),
        };
        base.set_path(&path);
        Ok(Self { base, username, password })
    }

    /// `http(s)://…/ari/`.
    #[must_use]
    pub const fn base(&self) -> &Url {
        &self.base
    }

    /// `ws(s)://…/media/ID`: where a channel of chan_websocket waits for us.
    #[must_use]
    pub fn media(&self, id: &str) -> Url {
        let mut url = self.base.clone();
        // both are changed to what they may be changed to: a special scheme, and a URL that has a path
        let _ = url.set_scheme(if self.base.scheme() == "https" { "wss" } else { "ws" });
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().pop().push("media").push(id);
        }
        url
    }

    /// The value of an `Authorization` header.
    pub(super) fn authorization(&self) -> Option<http::HeaderValue> {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        let credentials = BASE64_STANDARD.encode(format!("{}:{}", self.username, self.password));
        let mut value = http::HeaderValue::try_from(format!("Basic {credentials}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The user that asks.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }
}

/// Without the password.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint::parse(&Pbx { password: "p".to_owned(), ..Pbx::default() }, url).unwrap()
    }

    #[test]
    fn the_host_for_media_may_have_a_port() {
        for (host, name) in
            [("10.0.0.5", "10.0.0.5"), ("hark:5001", "hark"), ("2001:db8::1", "2001:db8::1"), ("[::1]:5", "[::1]")]
        {
            let pbx = Pbx { media_host: Some(host.to_owned()), ..Pbx::default() };
            assert_eq!(pbx.media_name(), Some(name));
        }
        assert_eq!(Pbx::default().media_name(), None);
    }

    #[test]
    fn media_waits_beside_ari() {
        for (url, media) in [
            ("http://pbx:8088", "ws://pbx:8088/media/a%2Fb"),
            ("https://pbx/asterisk/ari", "wss://pbx/asterisk/media/a%2Fb"),
        ] {
            assert_eq!(endpoint(url).media("a/b").as_str(), media);
        }
    }

    #[test]
    fn a_url_may_be_written_in_many_ways() {
        for url in ["http://pbx:8088", "http://pbx:8088/", "http://pbx:8088/ari", "ws://pbx:8088/ari/events?app=x"] {
            assert_eq!(endpoint(url).base().as_str(), "http://pbx:8088/ari/", "{url}");
        }
        assert_eq!(endpoint("https://pbx/asterisk").base().as_str(), "https://pbx/asterisk/ari/");
        assert!(Endpoint::parse(&Pbx::default(), "pbx:8088").is_err());
        assert!(Endpoint::parse(&Pbx::default(), "ftp://pbx").is_err());
    }

    #[test]
    fn credentials_are_taken_from_the_url_and_never_shown() {
        let endpoint = endpoint("http://me%40pbx:hunter%3A2@pbx:8088");
        assert_eq!(endpoint.username(), "me@pbx");
        assert_eq!(endpoint.password, "hunter:2");
        assert_eq!(format!("{endpoint:?}"), "http://pbx:8088/ari/");
        assert!(format!("{:?}", endpoint.authorization().unwrap()).contains("Sensitive"));
        let pbx =
            Pbx { password: "hunter2".to_owned(), url: Some("http://a:hunter2@pbx".to_owned()), ..Pbx::default() };
        assert!(!format!("{pbx:?}").contains("hunter2"), "{pbx:?}");
    }
}
