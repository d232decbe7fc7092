//! One receiver over HTTP: the request, its headers, and what it can come to.

use std::{
    error::Error as _,
    io,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use futures_core::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header::CONTENT_TYPE};
use reqwest::{Client, Response};
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::{
    Due, NotAPath,
    schedule::{self, Verdict},
    settings::{self, Ready, Target},
    shown,
    sign::{self, Keyring},
};
use crate::{
    call::{CallId, EventId},
    net::Pattern,
};

/// Largest answer that is read; one that is longer is an error where the answer matters and cut off where it does not.
pub(super) const MAX_ANSWER: usize = 64 * 1024;
/// How much of an answer is kept for whoever asks later what became of an event.
const SHOWN: usize = 1_024;
/// How long the rest of an answer that nobody reads may take, so that its connection can be used again.
const DRAIN: Duration = Duration::from_millis(250);

pub(super) const AVR_SECRET: HeaderName = HeaderName::from_static("x-avr-webhook-secret");
pub(super) const DSAI_SECRET: HeaderName = HeaderName::from_static("x-dsai-webhook-secret");
const AGENT_ID: HeaderName = HeaderName::from_static("x-avr-agent-id");
const CALL_ID: HeaderName = HeaderName::from_static("hark-call-id");
const SEQUENCE: HeaderName = HeaderName::from_static("hark-sequence");
const ATTEMPT: HeaderName = HeaderName::from_static("hark-attempt");

/// Settings that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The address is no URL.
    #[error("webhooks.url is not a URL ({0}); write it like http://host:9000/events")]
    NotAUrl(url::ParseError),
    /// The address is not HTTP.
    #[error("webhooks.url begins with {0:?}; only http: and https: can be posted to")]
    Scheme(String),
    /// A value cannot be sent in a header.
    #[error("webhooks.{0} holds a line break or another control character, which no HTTP header can carry")]
    Header(&'static str),
    /// Nobody could say what is to be redacted.
    #[error("webhooks.redact: {0}")]
    Redact(#[from] NotAPath),
    /// A setting of a receiver.
    #[error("{0} {1}")]
    Setting(String, String),
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// No webhook is configured.
    #[error("no webhook is configured")]
    Disabled,
    /// No answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The receiver said no; how long it asked us to wait.
    #[error("the receiver answered {0}")]
    Status(StatusCode, Option<Duration>),
    /// The request did not get through; the cause, without the URL.
    #[error("{0}")]
    Transport(String),
    /// The answer is not what was asked for.
    #[error("the receiver's answer is unusable: {0}")]
    Answer(String),
    /// Something of ours that the request needs is not there: a credential, a signing secret.
    #[error("the request cannot be made: {0}")]
    Unprepared(String),
    /// The receiver has asked for no more (410).
    #[error("the endpoint is disabled: its receiver has answered 410 Gone")]
    Gone,
    /// The receiver has not answered for a while and is not asked (again in this time).
    #[error("the receiver has not answered for a while; it is asked again in {} s", .0.as_secs() + 1)]
    Silent(Duration),
    /// There is no address, or none that may be connected to.
    #[error("there is no address to send it to: {0}")]
    Address(String),
}

impl Failed {
    /// What it means for the delivery.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Status(status, asked) => schedule::judge(*status, *asked),
            Self::Address(_) | Self::Gone => Verdict::Dead,
            _ => Verdict::Retry(None),
        }
    }
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub id: EventId,
    /// The call and the event's place in it; `None`: an event outside of any order.
    pub place: Option<(CallId, u64)>,
    pub attempt: u32,
    /// The address, where it is this event's own.
    pub url: Option<std::sync::Arc<str>>,
    pub body: Bytes,
    /// Whether the answer's body is wanted.
    pub answer: bool,
    /// How long it may take, where that is not the receiver's own time-out.
    pub timeout: Option<Duration>,
}

impl Request {
    pub(super) fn of(due: &Due) -> Self {
        let place = Some((due.call, due.seq));
        let (url, body) = (due.url.clone(), due.body.clone());
        Self { id: due.id, place, attempt: due.attempt, url, body, answer: false, timeout: None }
    }
}

/// What a request came to.
#[derive(Debug)]
pub(super) struct Reply {
    /// The answer's status, if one came.
    pub status: Option<StatusCode>,
    /// The answer's body, all of it if it was wanted, else how it begins; or why there is none.
    pub result: Result<Bytes, Failed>,
    /// How the body of a refusal begins.
    pub refusal: Bytes,
}

impl From<Failed> for Reply {
    fn from(failed: Failed) -> Self {
        Self { status: None, result: Err(failed), refusal: Bytes::new() }
    }
}

/// Where requests go: HTTP, or a script in tests with a stopped clock.
pub(super) trait Post: Send + Sync + 'static {
    /// Sends one request.
    fn post(&self, request: Request) -> BoxFuture<'_, Reply>;
}

/// HTTP clients of deliveries.
#[derive(Debug, Clone)]
pub struct Clients {
    /// For addresses that are configured.
    pub plain: Client,
    /// For addresses whose host a value of a call has chosen: does not connect to what [`crate::net::forbidden`] names.
    pub guarded: Client,
}

impl From<Client> for Clients {
    fn from(client: Client) -> Self {
        Self { plain: client.clone(), guarded: client }
    }
}

/// A receiver reached over HTTP.
pub(super) struct Endpoint {
    client: Client,
    target: Target,
    method: Method,
    headers: HeaderMap,
    auth: super::auth::Auth,
    keyring: Keyring,
    timeout: Duration,
    allow: Vec<Pattern>,
}

impl Endpoint {
    pub(super) fn new(
        ready: &Ready,
        agent_id: Option<HeaderValue>,
        clients: &Clients,
        keyring: Keyring,
        allow: Vec<Pattern>,
    ) -> Self {
        let mut headers = ready.headers.clone();
        if let Some(agent_id) = agent_id {
            headers.insert(AGENT_ID, agent_id);
        }
        let guarded = matches!(&ready.target, Target::Template(template) if template.chooses_host());
        Self {
            client: if guarded { clients.guarded.clone() } else { clients.plain.clone() },
            target: ready.target.clone(),
            method: ready.method.clone(),
            headers,
            auth: ready.auth.clone(),
            keyring,
            timeout: ready.timeout,
            allow: if guarded { allow } else { Vec::new() },
        }
    }

    /// The address of this request.
    fn url(&self, request: &Request) -> Result<Url, Failed> {
        if let Target::Fixed(url) = &self.target {
            return Ok(url.clone());
        }
        let text = request
            .url
            .as_deref()
            .ok_or_else(|| Failed::Address("its template had no value for this call".to_owned()))?;
        let url = Url::parse(text).map_err(|error| Failed::Address(error.to_string()))?;
        if !self.allow.is_empty() {
            settings::permitted(&url, &self.allow).map_err(|refused| Failed::Address(refused.to_string()))?;
        }
        Ok(url)
    }

    /// One request. An answer has to begin by `deadline`; one that is wanted, to end by then.
    async fn exchange(&self, request: Request) -> Reply {
        let limit = request.timeout.unwrap_or(self.timeout);
        let deadline = Instant::now() + limit;
        let url = match self.url(&request) {
            Ok(url) => url,
            Err(failed) => return failed.into(),
        };
        let sent = async {
            match self.send(&request, &url).await {
                // Node closes idle connections after 5 s and may do so just as we write: the receiver has not seen this request
                Err(Unsent::Http(error)) if was_reset(&error) => self.send(&request, &url).await,
                other => other,
            }
        };
        let late = || Failed::Timeout(limit);
        let response = match timeout_at(deadline, sent).await {
            Ok(Ok(response)) => response,
            Ok(Err(Unsent::Http(error))) => return Failed::Transport(causes(error)).into(),
            Ok(Err(Unsent::Unprepared(reason))) => return Failed::Unprepared(reason).into(),
            Err(_) => return late().into(),
        };
        let status = response.status();
        if !status.is_success() {
            let asked = schedule::retry_after(response.headers(), SystemTime::now());
            let refusal = drain(response).await;
            return Reply { status: Some(status), result: Err(Failed::Status(status, asked)), refusal };
        }
        let result = if request.answer {
            timeout_at(deadline, read(response)).await.unwrap_or_else(|_| Err(late()))
        } else {
            Ok(drain(response).await)
        };
        Reply { status: Some(status), result, refusal: Bytes::new() }
    }

    async fn send(&self, request: &Request, url: &Url) -> Result<Response, Unsent> {
        let with_body = !matches!(self.method, Method::GET | Method::DELETE);
        let body = if with_body { request.body.clone() } else { Bytes::new() };
        let mut headers = self.headers.clone();
        if with_body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        self.auth.apply(&mut headers).await.map_err(Unsent::Unprepared)?;
        // what follows is ours, whatever else is configured
        let id = request.id.to_string();
        match self.keyring.keys() {
            Some(keys) => headers.extend(keys.headers(&id, SystemTime::now(), &body)),
            None => drop(headers.insert(sign::ID, value(&id))),
        }
        headers.insert(ATTEMPT, value(request.attempt));
        if let Some((call, seq)) = request.place {
            headers.insert(CALL_ID, value(call));
            headers.insert(SEQUENCE, value(seq));
        }
        let mut built = self.client.request(self.method.clone(), url.clone()).headers(headers);
        if with_body {
            built = built.body(body);
        }
        built.send().await.map_err(Unsent::Http)
    }
}

enum Unsent {
    Http(reqwest::Error),
    Unprepared(String),
}

impl Post for Endpoint {
    fn post(&self, request: Request) -> BoxFuture<'_, Reply> {
        Box::pin(self.exchange(request))
    }
}

/// An identity or a number as a header value.
fn value(shown: impl std::fmt::Display) -> HeaderValue {
    // hexadecimal digits and hyphens: always a header value
    HeaderValue::try_from(shown.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Whether the connection went away under the request before an answer began.
fn was_reset(error: &reqwest::Error) -> bool {
    if error.is_connect() || error.is_timeout() {
        return false;
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && (error.is_incomplete_message() || error.is_canceled() || error.is_closed())
        {
            return true;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
            return matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset);
        }
        cause = error.source();
    }
    false
}

/// An error with its causes on one line, without the URL (it may hold a password).
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    shown::line(&text)
}

async fn read(mut response: Response) -> Result<Bytes, Failed> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Failed::Transport(causes(error)))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(Failed::Answer(format!("longer than {MAX_ANSWER} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Reads what nobody wants, so that the connection can be used again; how it begins.
async fn drain(mut response: Response) -> Bytes {
    let (mut left, mut first) = (MAX_ANSWER, BytesMut::new());
    // whatever happens here, the answer is known
    let _ = timeout(DRAIN, async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = SHOWN.saturating_sub(first.len()).min(chunk.len());
            first.extend_from_slice(&chunk[..room]);
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    })
    .await;
    first.freeze()
}
