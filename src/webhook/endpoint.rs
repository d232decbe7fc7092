//! One receiver: its address, headers and what a request to it can come to.

use std::{
    error::Error as _,
    io,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use futures_core::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE};
use reqwest::{Client, Response};
use tokio::time::timeout;
use url::Url;

use super::{
    Config, NotAPath,
    schedule::{self, Verdict},
    shown,
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
const EVENT_ID: HeaderName = HeaderName::from_static("hark-event-id");
const CALL_ID: HeaderName = HeaderName::from_static("hark-call-id");

/// Settings that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The address is no URL.
    #[error("webhook.url is not a URL ({0}); write it like http://host:9000/events")]
    NotAUrl(url::ParseError),
    /// The address is not HTTP.
    #[error("webhook.url begins with {0:?}; only http: and https: can be posted to")]
    Scheme(String),
    /// A value cannot be sent in a header.
    #[error("webhook.{0} holds a line break or another control character, which no HTTP header can carry")]
    Header(&'static str),
    /// Nobody could say what is to be redacted.
    #[error("webhook.redact: {0}")]
    Redact(#[from] NotAPath),
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
}

impl Failed {
    /// What it means for the delivery.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Status(status, asked) => schedule::judge(*status, *asked),
            _ => Verdict::Retry(None),
        }
    }
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub event: HeaderValue,
    pub call: Option<HeaderValue>,
    pub body: Bytes,
    /// Whether the answer's body is wanted.
    pub answer: bool,
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

/// A receiver reached over HTTP.
pub(super) struct Endpoint {
    client: Client,
    url: Url,
    headers: HeaderMap,
    timeout: Duration,
}

impl Endpoint {
    /// `None`: no URL is configured.
    pub(super) fn new(config: &Config, client: Client) -> Result<Option<Self>, Unusable> {
        let Some(url) = parse(config)? else { return Ok(None) };
        let headers = headers(config)?;
        Ok(Some(Self { client, url, headers, timeout: Duration::from_millis(config.timeout_ms.max(1)) }))
    }

    /// The address as logs may show it.
    pub(super) fn shown(&self) -> String {
        shown::url(self.url.as_str())
    }

    async fn exchange(&self, request: Request) -> Reply {
        let response = match self.send(&request).await {
            // Node closes idle connections after 5 s and may do so just as we write: the receiver has not seen this request
            Err(error) if was_reset(&error) => self.send(&request).await,
            other => other,
        };
        let response = match response {
            Ok(response) => response,
            Err(error) => return Failed::Transport(causes(error)).into(),
        };
        let status = response.status();
        if !status.is_success() {
            let asked = schedule::retry_after(response.headers(), SystemTime::now());
            let refusal = drain(response).await;
            return Reply { status: Some(status), result: Err(Failed::Status(status, asked)), refusal };
        }
        let result = if request.answer { read(response).await } else { Ok(drain(response).await) };
        Reply { status: Some(status), result, refusal: Bytes::new() }
    }

    async fn send(&self, request: &Request) -> Result<Response, reqwest::Error> {
        let mut headers = self.headers.clone();
        headers.insert(EVENT_ID, request.event.clone());
        if let Some(call) = &request.call {
            headers.insert(CALL_ID, call.clone());
        }
        self.client.post(self.url.clone()).headers(headers).body(request.body.clone()).send().await
    }
}

impl Post for Endpoint {
    fn post(&self, request: Request) -> BoxFuture<'_, Reply> {
        Box::pin(async move {
            timeout(self.timeout, self.exchange(request)).await.unwrap_or_else(|_| Failed::Timeout(self.timeout).into())
        })
    }
}

pub(super) fn parse(config: &Config) -> Result<Option<Url>, Unusable> {
    let Some(text) = config.url.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
    let url = Url::parse(text).map_err(Unusable::NotAUrl)?;
    match url.scheme() {
        "http" | "https" => Ok(Some(url)),
        other => Err(Unusable::Scheme(other.to_owned())),
    }
}

pub(super) fn headers(config: &Config) -> Result<HeaderMap, Unusable> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(secret) = config.secret.as_deref().filter(|secret| !secret.is_empty()) {
        let mut value = HeaderValue::from_bytes(secret.as_bytes()).map_err(|_| Unusable::Header("secret"))?;
        value.set_sensitive(true);
        headers.insert(AVR_SECRET, value.clone());
        headers.insert(DSAI_SECRET, value);
    }
    if let Some(agent) = config.agent_id.as_deref().filter(|agent| !agent.is_empty()) {
        headers.insert(AGENT_ID, HeaderValue::from_bytes(agent.as_bytes()).map_err(|_| Unusable::Header("agent_id"))?);
    }
    Ok(headers)
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
