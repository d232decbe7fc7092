//! What outgoing connections of all adapters share: TLS roots, proxies, one HTTP client.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use rustls_platform_verifier::Verifier;
use url::{Host, Url};

use super::failover::Standings;
use crate::net;

/// Node closes idle connections after 5 s: shorter, so that a pooled connection is not a dead one.
const POOL_IDLE: Duration = Duration::from_millis(3_500);

/// Vendors keep connections for minutes.
const VENDOR_IDLE: Duration = Duration::from_secs(90);
/// How often one is looked at, and how long an answer to that may take.
const VENDOR_PING: Duration = Duration::from_secs(20);

/// What outgoing connections of all adapters share: TLS roots, proxy, HTTP client. Made once per media thread.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Client for streaming HTTP services (HTTP/1.1, no response timeout).
    pub http: reqwest::Client,
    /// Client for vendors' interfaces: HTTP/2 where they speak it, connections kept.
    pub vendors: reqwest::Client,
    /// TLS settings of WebSocket connections.
    pub tls: Arc<ClientConfig>,
    proxies: Arc<Matcher>,
    /// How each service is doing.
    standings: Arc<Standings>,
    /// Whether the addresses of names are looked at: for URLs that come from outside.
    guarded: bool,
}

/// Why outgoing connections cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    /// The file of `tls.ca_file` cannot be read.
    #[error("tls.ca_file = {path:?} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file of `tls.ca_file` holds no usable certificate.
    #[error(
        "tls.ca_file = {path:?} is of no use: {reason} (it must hold PEM certificates: -----BEGIN CERTIFICATE-----)"
    )]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The TLS library refuses its settings.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The HTTP client refuses its settings.
    #[error("the HTTP client cannot be set up: {0}")]
    Http(#[from] reqwest::Error),
}

impl Outgoing {
    /// Prepares connections with the proxies of the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn new(tls: Arc<ClientConfig>, connect_timeout: Duration) -> Result<Self, OutgoingError> {
        Self::with_proxies(tls, connect_timeout, Matcher::from_env())
    }

    /// Prepares connections that go through `proxies`. Loopback is always reached directly.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn with_proxies(
        tls: Arc<ClientConfig>,
        connect_timeout: Duration,
        proxies: Matcher,
    ) -> Result<Self, OutgoingError> {
        let proxies = Arc::new(proxies);
        let http = client(&tls, connect_timeout, &proxies).build()?;
        let vendors = vendors(&tls, connect_timeout, &proxies).build()?;
        Ok(Self { http, vendors, tls, proxies, standings: Arc::default(), guarded: false })
    }

    /// The same for services whose URLs come from outside: no connection to what [`net::forbidden`] names.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn guarded(&self, connect_timeout: Duration) -> Result<Self, OutgoingError> {
        let http = client(&self.tls, connect_timeout, &self.proxies).dns_resolver(net::Guarded).build()?;
        let vendors = vendors(&self.tls, connect_timeout, &self.proxies).dns_resolver(net::Guarded).build()?;
        Ok(Self { http, vendors, guarded: true, ..self.clone() })
    }

    /// How each service is doing, over all calls with these connections or guarded ones.
    #[must_use]
    pub const fn standings(&self) -> &Arc<Standings> {
        &self.standings
    }

    /// Whether the addresses of names have to be looked at.
    pub(super) const fn is_guarded(&self) -> bool {
        self.guarded
    }

    /// The same proxies for another HTTP client, under the same rule: loopback is always reached directly.
    #[must_use]
    pub fn http_proxy(&self) -> reqwest::Proxy {
        proxy_for_http(Arc::clone(&self.proxies))
    }

    /// The proxy that a connection to `url` has to go through.
    pub(super) fn proxy(&self, url: &Url) -> Option<Intercept> {
        intercept(&self.proxies, url)
    }
}

fn client(tls: &ClientConfig, connect_timeout: Duration, proxies: &Arc<Matcher>) -> reqwest::ClientBuilder {
    base(tls.clone(), connect_timeout, proxies).http1_only().pool_idle_timeout(POOL_IDLE)
}

/// A request that is given up then costs a stream, not the connection.
fn vendors(tls: &ClientConfig, connect_timeout: Duration, proxies: &Arc<Matcher>) -> reqwest::ClientBuilder {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    base(tls, connect_timeout, proxies)
        .pool_idle_timeout(VENDOR_IDLE)
        .http2_keep_alive_interval(VENDOR_PING)
        .http2_keep_alive_timeout(VENDOR_PING)
        .http2_keep_alive_while_idle(true)
        .user_agent(concat!("hark/", env!("CARGO_PKG_VERSION")))
}

fn base(tls: ClientConfig, connect_timeout: Duration, proxies: &Arc<Matcher>) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(connect_timeout)
        .redirect(reqwest::redirect::Policy::none())
        .proxy(proxy_for_http(Arc::clone(proxies)))
}

/// TLS settings that trust the system's roots and those in `ca_file` (PEM).
///
/// # Errors
/// `ca_file` cannot be read or holds no certificate.
pub fn tls_config(ca_file: Option<PathBuf>) -> Result<ClientConfig, OutgoingError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let extra = ca_file.map(certificates).transpose()?;
    let builder = || ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    match verifier(extra, &provider) {
        Ok(verifier) => {
            // "dangerous" is how rustls calls any verifier of one's own; this one verifies.
            Ok(builder()?.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
        }
        Err(VerifierError::CaFile(error)) => Err(error),
        Err(VerifierError::NoRoots(reason)) => {
            // A slim container without ca-certificates still has to serve ws:// and http:// services.
            tracing::warn!(%reason, "no TLS roots: https and wss services will be refused; install ca-certificates or set tls.ca_file");
            Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
        }
    }
}

enum VerifierError {
    CaFile(OutgoingError),
    NoRoots(rustls::Error),
}

fn verifier(
    extra: Option<(PathBuf, Vec<CertificateDer<'static>>)>,
    provider: &Arc<CryptoProvider>,
) -> Result<Verifier, VerifierError> {
    let Some((path, certificates)) = extra else {
        return Verifier::new(Arc::clone(provider)).map_err(VerifierError::NoRoots);
    };
    Verifier::new_with_extra_roots(certificates, Arc::clone(provider))
        .map_err(|error| VerifierError::CaFile(OutgoingError::Certificate { path, reason: error.to_string() }))
}

fn certificates(path: PathBuf) -> Result<(PathBuf, Vec<CertificateDer<'static>>), OutgoingError> {
    let pem = match std::fs::read(&path) {
        Ok(pem) => pem,
        Err(source) => return Err(OutgoingError::Read { path, source }),
    };
    match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if found.is_empty() => {
            Err(OutgoingError::Certificate { path, reason: "no certificate in it".to_owned() })
        }
        Ok(found) => Ok((path, found)),
        Err(error) => Err(OutgoingError::Certificate { path, reason: error.to_string() }),
    }
}

/// What went wrong with a request, with its causes and without the URL (which may hold credentials).
#[must_use]
pub fn http_fault(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    super::websocket::escaped(&text)
}

fn proxy_for_http(proxies: Arc<Matcher>) -> reqwest::Proxy {
    reqwest::Proxy::custom(move |url| intercept(&proxies, url).as_ref().and_then(proxy_url))
}

/// Proxies know http and https only; WebSockets go where these go.
fn intercept(proxies: &Matcher, url: &Url) -> Option<Intercept> {
    if is_loopback(url.host()?) {
        return None;
    }
    let scheme = match url.scheme() {
        "ws" | "http" => "http",
        "wss" | "https" => "https",
        _ => return None,
    };
    let host = url.host_str()?;
    let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    proxies.intercept(&format!("{scheme}://{authority}/").parse().ok()?)
}

fn is_loopback(host: Host<&str>) -> bool {
    match host {
        Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    }
}

/// The proxy's address with its credentials, in the one form that reqwest takes.
fn proxy_url(proxy: &Intercept) -> Option<Url> {
    let mut url = Url::parse(&proxy.uri().to_string()).ok()?;
    let credentials = proxy
        .basic_auth()
        .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "))
        .and_then(|encoded| String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok());
    if let Some((user, password)) = credentials.as_deref().and_then(|both| both.split_once(':')) {
        url.set_username(user).ok()?;
        url.set_password(Some(password)).ok()?;
    }
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(proxies: Matcher, url: &str) -> Option<String> {
        let tls = Arc::new(tls_config(None).unwrap());
        let outgoing = Outgoing::with_proxies(tls, Duration::from_secs(1), proxies).unwrap();
        outgoing.proxy(&Url::parse(url).unwrap()).map(|proxy| proxy.uri().to_string())
    }

    fn proxies() -> Matcher {
        Matcher::builder().http("http://plain:3128").https("http://secure:3128").no("pbx.example, 10.0.0.0/8").build()
    }

    #[test]
    fn websockets_go_through_the_proxy_of_their_http_twin() {
        assert_eq!(through(proxies(), "ws://sts.example/").as_deref(), Some("http://plain:3128/"));
        assert_eq!(through(proxies(), "wss://sts.example:8443/a?b=c").as_deref(), Some("http://secure:3128/"));
        assert_eq!(through(proxies(), "https://sts.example/").as_deref(), Some("http://secure:3128/"));
    }

    #[test]
    fn loopback_and_no_proxy_are_reached_directly() {
        for url in [
            "ws://localhost:6030/",
            "ws://127.0.0.1:6030/",
            "ws://[::1]:6030/",
            "ws://a.pbx.example/",
            "ws://10.1.2.3/",
        ] {
            assert_eq!(through(proxies(), url), None, "{url}");
        }
    }

    #[test]
    fn credentials_of_a_proxy_survive() {
        let proxies = Matcher::builder().all("http://us%40er:p%3Ass@proxy:3128").build();
        let proxy = intercept(&proxies, &Url::parse("https://sts.example/").unwrap()).unwrap();
        assert_eq!(proxy_url(&proxy).unwrap().as_str(), "http://us%40er:p%3Ass@proxy:3128/");
    }

    #[test]
    fn a_bad_ca_file_is_named_with_its_reason() {
        let missing = tls_config(Some("no/such/file.pem".into())).unwrap_err().to_string();
        assert!(missing.contains("no/such/file.pem") && missing.contains("No such file"), "{missing}");
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, b"hello").unwrap();
        let empty = tls_config(Some(file.path().to_owned())).unwrap_err().to_string();
        assert!(empty.contains("no certificate in it"), "{empty}");
    }
}
