//! Settings of one receiver beside the contract's own, and what can be wrong with them.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use url::Url;

use super::{
    Unusable,
    auth::{Auth, AuthKind, Source},
    catalogue,
    endpoint::{AVR_SECRET, DSAI_SECRET},
    schedule::{Retry, Schedule},
    shown,
    sign::Keys,
    template::{Template, UrlTemplate},
};
use crate::net::{self, Pattern};

/// Name of the receiver that `WEBHOOK_URL` sets.
pub const DEFAULT: &str = "default";

/// Settings of one receiver: `[webhooks.endpoints.NAME]`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointConfig {
    /// Where events are sent; may hold placeholders.
    pub url: Option<String>,
    /// Types of events it gets; `*` = all.
    pub events: Vec<String>,
    /// `POST`, `PUT`, `PATCH`, `GET` or `DELETE`; the last two are sent without a body.
    pub method: String,
    /// Further headers.
    pub headers: BTreeMap<String, String>,
    /// How the request is authorised.
    pub auth: AuthKind,
    /// Header of `API_KEY` and `CUSTOM_HEADER`.
    pub auth_header: Option<String>,
    /// User of `BASIC_AUTH`.
    pub auth_user: Option<String>,
    /// Where the credential is: `env:NAME` or `file:PATH`.
    pub auth_from: Option<String>,
    /// Sent verbatim in `X-AVR-WEBHOOK-SECRET` and `X-DSAI-WEBHOOK-SECRET`.
    pub secret: Option<String>,
    /// Signs requests; unset = made at the first start and stored.
    pub signing_secret: Option<String>,
    /// JSON object that is sent instead of the four keys; may hold placeholders.
    pub payload: Option<String>,
    /// Whether a text that is one placeholder and nothing else becomes the value itself.
    pub payload_typed: bool,
    /// Time-out of one attempt, in ms.
    pub timeout_ms: u64,
    /// Attempts beyond the first, or over hours.
    pub retry: Retry,
    /// Requests under way at once.
    pub concurrency: usize,
    /// Requests per second at most; 0 = no limit.
    pub rate: f64,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            url: None,
            events: catalogue::CONTRACT.map(str::to_owned).to_vec(),
            method: "POST".to_owned(),
            headers: BTreeMap::new(),
            auth: AuthKind::None,
            auth_header: None,
            auth_user: None,
            auth_from: None,
            secret: None,
            signing_secret: None,
            payload: None,
            payload_typed: false,
            timeout_ms: 15_000,
            retry: Retry::Durable,
            concurrency: 8,
            rate: 0.0,
        }
    }
}

/// Without secrets, and without the credentials that the URL may hold.
impl fmt::Debug for EndpointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |value: &Option<String>| value.as_ref().map(|_| "***");
        f.debug_struct("EndpointConfig")
            .field("url", &self.url.as_deref().map(shown::url))
            .field("events", &self.events)
            .field("method", &self.method)
            .field("headers", &self.headers.keys())
            .field("auth", &self.auth)
            .field("auth_header", &self.auth_header)
            .field("auth_from", &hidden(&self.auth_from))
            .field("secret", &hidden(&self.secret))
            .field("signing_secret", &hidden(&self.signing_secret))
            .field("payload", &self.payload.is_some())
            .field("payload_typed", &self.payload_typed)
            .field("timeout_ms", &self.timeout_ms)
            .field("retry", &self.retry)
            .field("concurrency", &self.concurrency)
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}

/// One thing that is wrong with an endpoint's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which setting.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub advice: &'static str,
}

/// Where requests of an endpoint go.
#[derive(Debug, Clone)]
pub(super) enum Target {
    Fixed(Url),
    Template(UrlTemplate),
}

/// As logs may show it.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(url) => f.write_str(&shown::url(url.as_str())),
            Self::Template(template) => f.write_str(&shown::line(template.text())),
        }
    }
}

/// A receiver, ready to be sent to.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    pub target: Target,
    pub events: Vec<String>,
    pub method: Method,
    pub headers: HeaderMap,
    pub auth: Auth,
    pub payload: Option<Template>,
    pub keys: Option<Keys>,
    pub timeout: Duration,
    pub schedule: Schedule,
    pub concurrency: usize,
    pub rate: f64,
}

impl EndpointConfig {
    /// Everything that is wrong with these settings. `allow` is `routing.allow_hosts`.
    #[must_use]
    pub fn faults(&self, allow: &[Pattern]) -> Vec<Fault> {
        self.ready(allow).err().unwrap_or_default()
    }

    pub(super) fn ready(&self, allow: &[Pattern]) -> Result<Ready, Vec<Fault>> {
        let mut faults = Collector::default();
        let target = faults.take(self.target(allow));
        self.events(&mut faults);
        let method = faults.take(self.method());
        let headers = self.headers(&mut faults);
        let auth = faults.take(self.auth());
        let payload = faults.take(self.payload());
        let keys = faults.take(self.keys());
        if !self.rate.is_finite() || !(0.0..=100_000.0).contains(&self.rate) {
            faults.push("rate", "must be between 0 and 100000", "Write requests per second, or 0 for no limit.");
        }
        match (target, method, auth, payload, keys) {
            (Some(target), Some(method), Some(auth), Some(payload), Some(keys)) if faults.0.is_empty() => Ok(Ready {
                target,
                events: self.events.clone(),
                method,
                headers,
                auth,
                payload,
                keys,
                timeout: Duration::from_millis(self.timeout_ms.max(1)),
                schedule: Schedule::new(self.retry, Duration::from_secs(1)),
                concurrency: self.concurrency.max(1),
                rate: self.rate,
            }),
            _ => Err(faults.0),
        }
    }

    fn target(&self, allow: &[Pattern]) -> Result<Target, Fault> {
        const WHOLE: &str = "Write a whole URL, e.g. https://crm.example.org/hark.";
        let fault = |reason: String, advice| Err(Fault { key: "url".to_owned(), reason, advice });
        let Some(text) = given(self.url.as_ref()) else { return fault("is not set".to_owned(), WHOLE) };
        if !UrlTemplate::is_one(text) {
            return match Url::parse(text) {
                Ok(url) if !matches!(url.scheme(), "http" | "https") => {
                    fault(format!("begins with {}:, but only http: and https: can be sent to", url.scheme()), WHOLE)
                }
                Ok(url) => Ok(Target::Fixed(url)),
                Err(error) => fault(format!("is not a URL: {error}"), WHOLE),
            };
        }
        let template = match UrlTemplate::new(text) {
            Ok(template) => template,
            Err(error) => {
                return fault(error.to_string(), "Write http:// or https:// and the host, then placeholders.");
            }
        };
        if template.chooses_host() && allow.is_empty() {
            let reason = "lets a value of a call choose the host".to_owned();
            return fault(reason, "Write the host out, or name the hosts that may be chosen in routing.allow_hosts.");
        }
        // a rendered address is kept with its event: nothing secret may be in it
        if text.split(['?', '#']).next().is_some_and(|before| before.contains('@')) || shown::has_secret_parameter(text)
        {
            let reason = "holds credentials beside placeholders, and rendered addresses are stored".to_owned();
            return fault(reason, "Give credentials with auth and auth_from; they are read when a request is sent.");
        }
        Ok(Target::Template(template))
    }

    fn events(&self, faults: &mut Collector) {
        const KNOWN: &str = "See the README's event catalogue, or write * for all.";
        if self.events.is_empty() {
            faults.push("events", "names no event", KNOWN);
        }
        for event in &self.events {
            if event != "*" && !catalogue::is_known(event) {
                faults.push("events", &format!("{event:?} is no type of event"), KNOWN);
            }
        }
    }

    fn method(&self) -> Result<Method, Fault> {
        let known = [Method::POST, Method::PUT, Method::PATCH, Method::GET, Method::DELETE];
        known.into_iter().find(|method| method.as_str().eq_ignore_ascii_case(self.method.trim())).ok_or_else(|| Fault {
            key: "method".to_owned(),
            reason: "is no method for events".to_owned(),
            advice: "Write POST, PUT, PATCH, GET or DELETE.",
        })
    }

    fn headers(&self, faults: &mut Collector) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let key = format!("headers.{name}");
            let Ok(header) = HeaderName::from_str(name) else {
                faults.push(&key, "is no name of a header", "Use letters, digits and hyphens.");
                continue;
            };
            if shown::is_secret_header(header.as_str()) {
                let advice =
                    "Use auth = \"CUSTOM_HEADER\" with auth_header and auth_from, which reads the value when it sends.";
                faults.push(&key, "looks like a secret, which does not belong among the headers", advice);
            } else if is_ours(header.as_str()) {
                faults.push(&key, "is a header that Hark sets itself", "Leave it out.");
            } else if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(header, value);
            } else {
                faults.push(&key, "cannot be sent in an HTTP header", "Use printable characters, without line breaks.");
            }
        }
        let secret = self.secret.as_deref().filter(|secret| !secret.is_empty());
        match secret.map(|secret| HeaderValue::from_bytes(secret.as_bytes())) {
            Some(Ok(mut value)) => {
                value.set_sensitive(true);
                headers.insert(AVR_SECRET, value.clone());
                headers.insert(DSAI_SECRET, value);
            }
            Some(Err(_)) => {
                faults.push(
                    "secret",
                    "cannot be sent in an HTTP header",
                    "Use printable characters, without line breaks.",
                );
            }
            None => {}
        }
        headers
    }

    fn auth(&self) -> Result<Auth, Fault> {
        let fault =
            |key: &str, reason: &str, advice| Err(Fault { key: key.to_owned(), reason: reason.to_owned(), advice });
        const FROM: &str = "Write env:NAME of a variable, or file:PATH of a file, that holds the credential.";
        let from = given(self.auth_from.as_ref()).map(str::parse::<Source>);
        let kind = self.auth;
        let source = match from {
            None if kind == AuthKind::None => return Ok(Auth::None),
            None => return fault("auth_from", "is missing", FROM),
            Some(_) if kind == AuthKind::None => {
                return fault(
                    "auth",
                    "is NONE, but auth_from names a credential",
                    "Say how it is to be sent, or leave it out.",
                );
            }
            Some(Err(())) => return fault("auth_from", "is neither env: nor file:", FROM),
            Some(Ok(source)) => source,
        };
        let header = |default: &'static str| match given(self.auth_header.as_ref()) {
            None => Ok(HeaderName::from_static(default)),
            Some(name) => HeaderName::from_str(name),
        };
        const NAME: &str = "Use letters, digits and hyphens, e.g. X-API-Key.";
        match kind {
            AuthKind::None => Ok(Auth::None),
            AuthKind::BearerToken => Ok(Auth::Bearer(source)),
            AuthKind::ApiKey => match header("x-api-key") {
                Ok(header) => Ok(Auth::Header(header, source)),
                Err(_) => fault("auth_header", "is no name of a header", NAME),
            },
            AuthKind::CustomHeader => match header("x-custom") {
                Ok(header) => Ok(Auth::Header(header, source)),
                Err(_) => fault("auth_header", "is no name of a header", NAME),
            },
            AuthKind::BasicAuth => match given(self.auth_user.as_ref()) {
                Some(user) if user.contains(':') => {
                    fault("auth_user", "holds a colon", "Basic authentication allows none.")
                }
                Some(user) => Ok(Auth::Basic(user.to_owned(), source)),
                None => fault("auth_user", "is missing", "Write the user; auth_from names where its password is."),
            },
        }
    }

    fn payload(&self) -> Result<Option<Template>, Fault> {
        let fault = |reason: String| Fault {
            key: "payload".to_owned(),
            reason,
            advice: "Write a JSON object in single quotes, e.g. '{\"customer\": \"{{initial_context.from}}\"}'.",
        };
        let Some(text) = given(self.payload.as_ref()) else { return Ok(None) };
        match serde_json::from_str::<Value>(text) {
            Ok(json @ Value::Object(_)) => Ok(Some(Template::new(&json, self.payload_typed))),
            Ok(_) => Err(fault("is not a JSON object".to_owned())),
            Err(error) => Err(fault(format!("is not JSON: {error}"))),
        }
    }

    fn keys(&self) -> Result<Option<Keys>, Fault> {
        signing_keys(self.signing_secret.as_ref())
    }
}

/// The configured signing secrets.
pub(super) fn signing_keys(text: Option<&String>) -> Result<Option<Keys>, Fault> {
    given(text).map(str::parse::<Keys>).transpose().map_err(|reason| Fault {
        key: "signing_secret".to_owned(),
        reason: format!("is of no use: {reason}"),
        advice: "Leave it out to have one made.",
    })
}

impl super::Config {
    /// The receiver of `WEBHOOK_URL`, which gets exactly the contract's events; `None`: there is none.
    pub(super) fn contract(&self) -> Result<Option<Ready>, Unusable> {
        let Some(text) = given(self.url.as_ref()) else { return Ok(None) };
        let url = Url::parse(text).map_err(Unusable::NotAUrl)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Unusable::Scheme(url.scheme().to_owned()));
        }
        let mut headers = HeaderMap::new();
        if let Some(secret) = self.secret.as_deref().filter(|secret| !secret.is_empty()) {
            let mut value = HeaderValue::from_bytes(secret.as_bytes()).map_err(|_| Unusable::Header("secret"))?;
            value.set_sensitive(true);
            headers.insert(AVR_SECRET, value.clone());
            headers.insert(DSAI_SECRET, value);
        }
        if self.agent_id.as_deref().is_some_and(|id| HeaderValue::from_bytes(id.as_bytes()).is_err()) {
            return Err(Unusable::Header("agent_id"));
        }
        let keys = signing_keys(self.signing_secret.as_ref())
            .map_err(|fault| Unusable::Setting(format!("webhooks.{}", fault.key), fault.reason))?;
        Ok(Some(Ready {
            target: Target::Fixed(url),
            events: catalogue::CONTRACT.map(str::to_owned).to_vec(),
            method: Method::POST,
            headers,
            auth: Auth::None,
            payload: None,
            keys,
            timeout: Duration::from_millis(self.timeout_ms.max(1)),
            schedule: Schedule::new(self.retry, Duration::from_millis(self.backoff_ms)),
            concurrency: self.concurrency.max(1),
            rate: 0.0,
        }))
    }

    /// What is wrong with `signing_secret`.
    #[must_use]
    pub fn signing_fault(&self) -> Option<Fault> {
        signing_keys(self.signing_secret.as_ref()).err()
    }
}

/// Whether a rendered address may be connected to.
pub(super) fn permitted(url: &Url, allow: &[Pattern]) -> Result<(), net::Refused> {
    net::check(url, allow)
}

#[derive(Default)]
struct Collector(Vec<Fault>);

impl Collector {
    fn push(&mut self, key: &str, reason: &str, advice: &'static str) {
        self.0.push(Fault { key: key.to_owned(), reason: reason.to_owned(), advice });
    }

    fn take<T>(&mut self, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.0.push(fault)).ok()
    }
}

fn given(value: Option<&String>) -> Option<&str> {
    value.map(|value| value.trim()).filter(|value| !value.is_empty())
}

fn is_ours(header: &str) -> bool {
    ["webhook-", "hark-", "x-avr-", "x-dsai-"].iter().any(|prefix| header.starts_with(prefix))
        || [
            "content-type",
            "content-length",
            "host",
            "connection",
            "transfer-encoding",
            "expect",
            "upgrade",
            "te",
            "trailer",
        ]
        .contains(&header)
}

impl<'de> Deserialize<'de> for Retry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Times(u32),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Times(times) => Ok(Self::Times(times)),
            Written::Text(text) if text.eq_ignore_ascii_case("durable") => Ok(Self::Durable),
            Written::Text(_) => Err(D::Error::custom("expected a whole number or \"durable\"")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "settings_tests.rs"]
mod tests;
