//! Requests to ARI. What each does is Asterisk's own documentation; what it does not say is in the comments.

mod ops;

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Method, header};
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{sync::Semaphore, time::timeout};
use url::Url;

pub use self::ops::{ExternalMedia, Origin, Target};
use super::{
    Error, Stats,
    config::{Endpoint, Pbx, Requests},
    error::escaped,
    line::Line,
};

/// The longest answer: thousands of channels.
pub(super) const MAX_ANSWER: usize = 32 << 20;
/// The longest complaint that is read.
const MAX_COMPLAINT: usize = 4 << 10;
/// Requests at once to one PBX; Asterisk's HTTP server takes 100 sessions unless told otherwise.
const AT_ONCE: usize = 32;
/// Below Asterisk's `session_keep_alive` of 15 s, so that a pooled connection is not a dead one.
const POOL_IDLE: Duration = Duration::from_secs(10);

/// Asks one PBX. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rest {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    by: By,
    /// Asterisk's HTTP server, where it is known.
    endpoint: Option<Endpoint>,
    /// Who asks, as errors name them.
    user: String,
    at: String,
    limit: Duration,
    turns: Semaphore,
    stats: Arc<Stats>,
}

/// How requests go.
#[derive(Debug)]
enum By {
    Http { client: reqwest::Client, base: Url, authorization: Option<HeaderValue> },
    Line(Arc<Line>),
}

impl Rest {
    /// Asks `endpoint` over HTTP, which is reached directly: a PBX is not behind a proxy.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn new(
        name: &str,
        pbx: &Pbx,
        endpoint: Endpoint,
        tls: &ClientConfig,
        stats: Arc<Stats>,
    ) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .http1_only()
            .no_proxy()
            .pool_idle_timeout(POOL_IDLE)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let (base, authorization) = (endpoint.base().clone(), endpoint.authorization());
        Ok(Self::by(By::Http { client: http, base, authorization }, name, pbx, Some(endpoint), stats))
    }

    /// Asks over the WebSockets on which Asterisk tells of calls.
    pub(super) fn over_sockets(name: &str, pbx: &Pbx, endpoint: Option<Endpoint>, stats: Arc<Stats>) -> Self {
        Self::by(By::Line(Arc::default()), name, pbx, endpoint, stats)
    }

    /// As it is configured.
    pub(super) fn of(
        name: &str,
        pbx: &Pbx,
        endpoint: Option<Endpoint>,
        tls: &ClientConfig,
        stats: Arc<Stats>,
    ) -> Result<Self, String> {
        match (pbx.requests(), endpoint) {
            (Requests::Http, Some(endpoint)) => {
                Self::new(name, pbx, endpoint, tls, stats).map_err(|error| error.to_string())
            }
            (_, endpoint) => Ok(Self::over_sockets(name, pbx, endpoint, stats)),
        }
    }

    fn by(by: By, name: &str, pbx: &Pbx, endpoint: Option<Endpoint>, stats: Arc<Stats>) -> Self {
        let place = endpoint.as_ref().map(authority);
        let at = match (name, place) {
            ("default", Some(place)) => format!("ARI of {place}"),
            (name, Some(place)) => format!("ARI of {name} ({place})"),
            ("default", None) => "ARI of the PBX that connects to us".to_owned(),
            (name, None) => format!("ARI of {name}, which connects to us"),
        };
        let user = endpoint.as_ref().map_or(pbx.username.as_str(), Endpoint::username).to_owned();
        let (limit, turns) = (Duration::from_millis(pbx.timeout_ms), Semaphore::new(AT_ONCE));
        Self { inner: Arc::new(Inner { by, endpoint, user, at, limit, turns, stats }) }
    }

    /// The same for requests about one call, over sockets of its own where they go over sockets.
    pub(super) fn of_call(&self) -> Self {
        let By::Line(_) = &self.inner.by else { return self.clone() };
        let Inner { endpoint, user, at, limit, stats, .. } = &*self.inner;
        let (by, turns) = (By::Line(Arc::default()), Semaphore::new(AT_ONCE));
        let (endpoint, user, at) = (endpoint.clone(), user.clone(), at.clone());
        Self { inner: Arc::new(Inner { by, endpoint, user, at, limit: *limit, turns, stats: Arc::clone(stats) }) }
    }

    /// The sockets over which requests go, if they do.
    pub(super) fn line(&self) -> Option<&Arc<Line>> {
        match &self.inner.by {
            By::Line(line) => Some(line),
            By::Http { .. } => None,
        }
    }

    /// The PBX as errors and log lines name it.
    #[must_use]
    pub fn at(&self) -> &str {
        &self.inner.at
    }

    /// Where it is, as far as that is known.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.inner.endpoint.as_ref()
    }

    /// How long an answer may take.
    pub(super) fn limit(&self) -> Duration {
        self.inner.limit
    }

    /// What an answer other than 2xx means. `what`: what was asked.
    pub(super) fn refused(&self, what: &str, status: u16, said: &[u8]) -> Error {
        let (at, user) = (self.at().to_owned(), self.inner.user.clone());
        let (what, said) = (what.to_owned(), complaint(said));
        match status {
            401 => Error::Unauthorised { at, user },
            403 => Error::Forbidden { at, user, what, said },
            404 => Error::NotFound { at, what, said },
            409 | 412 | 422 => Error::Conflict { at, what, status, said },
            500.. => Error::Server { at, what, status, said },
            _ => Error::BadRequest { at, what, status, said },
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Vec<u8>, Error> {
        // identities say nothing to a person
        let words = path.iter().filter(|part| part.bytes().all(|byte| byte.is_ascii_alphabetic()));
        let what = format!("{method} {}", words.copied().collect::<Vec<_>>().join("/"));
        let limit = self.inner.limit;
        let answer = match timeout(limit, self.exchange(&what, method, path, query, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Timeout { at: self.at().to_owned(), what, limit }),
        };
        self.inner.stats.requests.inc();
        if answer.as_ref().is_err_and(|error| !error.is_gone()) {
            self.inner.stats.requests_failed.inc();
        }
        answer
    }

    async fn exchange(
        &self,
        what: &str,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Vec<u8>, Error> {
        // never closed
        let _turn = self.inner.turns.acquire().await;
        let (client, base, authorization) = match &self.inner.by {
            By::Http { client, base, authorization } => (client, base, authorization),
            By::Line(line) => {
                let wire = line.wire().await;
                let lost = || Error::Lost { at: self.at().to_owned(), reason: format!("before {what} was answered") };
                let answer = wire.ask(&method, path, query, body).await.ok_or_else(lost)?;
                return match answer.status {
                    200..=299 => Ok(answer.body),
                    status => Err(self.refused(what, status, &answer.body)),
                };
            }
        };
        let unusable = |reason: String| Error::Answer { at: self.at().to_owned(), what: what.to_owned(), reason };
        let mut url = base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = client.request(method, url);
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value.clone());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                return Err(Error::Unreachable { at: self.at().to_owned(), reason: fault(error) });
            }
        };
        let status = answer.status();
        let most = if status.is_success() { MAX_ANSWER } else { MAX_COMPLAINT };
        let mut bytes = Vec::new();
        loop {
            match answer.chunk().await {
                Ok(Some(chunk)) if bytes.len() + chunk.len() <= most => bytes.extend_from_slice(&chunk),
                Ok(Some(_)) if status.is_success() => return Err(unusable(format!("it is longer than {most} bytes"))),
                Ok(Some(_)) | Ok(None) => break,
                Err(error) if status.is_success() => return Err(unusable(fault(error))),
                Err(_) => break,
            }
        }
        if status.is_success() { Ok(bytes) } else { Err(self.refused(what, status.as_u16(), &bytes)) }
    }

    async fn read<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<T, Error> {
        let bytes = self.ask(method.clone(), path, query, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| Error::Answer {
            at: self.at().to_owned(),
            what: format!("{method} {}", path.first().copied().unwrap_or_default()),
            reason: format!("it is not the JSON it should be: {error}"),
        })
    }

    async fn tell(&self, method: Method, path: &[&str], query: &[(&str, &str)]) -> Result<(), Error> {
        self.ask(method, path, query, None).await.map(drop)
    }
}

fn authority(endpoint: &Endpoint) -> String {
    let base = endpoint.base();
    let host = base.host_str().unwrap_or_default();
    base.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What Asterisk said, in the form in which it stands behind a status.
fn complaint(said: &[u8]) -> String {
    let value: Value = serde_json::from_slice(said).unwrap_or_default();
    let text = ["message", "error"].iter().find_map(|name| value.get(name)?.as_str());
    text.map(|text| format!(": {}", escaped(text))).unwrap_or_default()
}

/// Why there was no answer, with its causes and without the URL.
fn fault(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    let mut last = String::new();
    while let Some(cause) = source {
        last = cause.to_string();
        source = cause.source();
    }
    escaped(&last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest() -> Rest {
        let pbx = Pbx { username: "me".to_owned(), password: "hunter2".to_owned(), ..Pbx::default() };
        let endpoint = Endpoint::parse(&pbx, "http://pbx:8088").unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        Rest::new("default", &pbx, endpoint, &tls, Arc::default()).unwrap()
    }

    #[test]
    fn every_refusal_has_a_code_and_says_what_to_do() {
        for (status, code, part) in [
            (401, "ari.unauthorised", "ari.password"),
            (403, "ari.forbidden", "read_only = no"),
            (404, "ari.not_found", "ari.conf"),
            (409, "ari.conflict", "left the application"),
            (422, "ari.conflict", "left the application"),
            (400, "ari.bad_request", "does not understand"),
            (500, "ari.server", "own log"),
        ] {
            let error = rest().refused("POST bridges", status, br#"{"message":"no\nway"}"#);
            assert_eq!(error.code(), code);
            let text = error.to_string();
            assert!(text.contains(part) && text.contains("pbx:8088") && !text.contains('\n'), "{text}");
            assert!(status == 401 || text.contains(r"no\nway"), "{text}");
        }
    }

    #[test]
    fn nothing_shows_the_password() {
        let rest = rest();
        assert!(!format!("{rest:?}").contains("hunter2"));
        assert!(!rest.refused("x", 401, b"").to_string().contains("hunter2"));
    }
}
