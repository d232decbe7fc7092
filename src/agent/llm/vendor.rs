//! What vendors' interfaces share: a request over HTTP, an answer of server-sent events.

use std::{sync::Mutex, time::Duration};

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};
use url::Url;

use super::{MAX_ANSWER, NAME, Piece, Prompt, Reply, anthropic, gemini, openai};
use crate::{
    agent::{
        Context,
        health::{Failure, Health},
        retry::{explain, fault},
        service::{Named, Secret, Vendor},
        sse::{Event, Events},
        vendor::{Codes, Post},
        websocket::escaped,
    },
    call::Fault,
};

/// Longest event: whole tool calls come in one.
const MAX_EVENT: usize = 1 << 20;
/// An idle connection is only trusted for this long: many servers close them after 5 s.
const TRUSTED: Duration = Duration::from_secs(4);
/// How long opening a connection in advance may take.
const WARM: Duration = Duration::from_secs(5);

const CODES: Codes = Codes {
    name: NAME,
    unauthorized: "agent.llm.unauthorized",
    quota: "agent.llm.quota",
    timeout: "agent.llm.timeout",
    unreachable: "agent.llm.unreachable",
    refused: "agent.llm.refused",
    failed: "agent.llm.failed",
    broken: "agent.llm.broken",
};

/// Reads one answer.
pub(super) trait Reader {
    /// What an event brings.
    fn event(&mut self, event: Event<'_>, text: &mut String) -> Result<(), Complaint>;

    /// Nothing more comes.
    fn finish(self) -> Result<Reply, Complaint>;
}

/// What is wrong with an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Complaint {
    /// The vendor says so, in its own words.
    Told(String),
    /// It is not what the interface promises.
    Unusable(String),
    /// It stops in the middle.
    Cut,
}

impl Complaint {
    /// In the vendor's own words.
    pub(super) fn told(words: &str) -> Self {
        Self::Told(escaped(words))
    }
}

/// A language model behind a vendor's own interface.
#[derive(Debug)]
pub struct Service {
    ctx: Context,
    named: Box<Named>,
    url: Url,
    headers: HeaderMap,
    timeout: Duration,
    health: Health,
    /// When its connection was last known to be open.
    used: Mutex<Option<Instant>>,
}

impl Service {
    pub fn new(ctx: Context, named: Box<Named>, health: Health) -> Result<Self, Failure> {
        let headers = headers(&named).map_err(|what| Failure::Final(fault("agent.llm.config", NAME, what)))?;
        let mut url = match named.vendor {
            Vendor::Anthropic => named.http("/messages"),
            Vendor::Gemini => named.http(&gemini::path(&named.model)),
            _ => named.http("/chat/completions"),
        };
        if let Some(version) = named.option("api_version") {
            url.query_pairs_mut().append_pair("api-version", version);
        }
        let timeout = Duration::from_millis(ctx.config.llm_timeout_ms);
        Ok(Self { ctx, named, url, headers, timeout, health, used: Mutex::default() })
    }

    pub async fn ask(&self, prompt: &Prompt, out: &mpsc::Sender<Piece>) -> Result<Reply, Failure> {
        match self.named.vendor {
            Vendor::Anthropic => {
                self.run(anthropic::body(&self.named, prompt), anthropic::Reader::default(), out).await
            }
            Vendor::Gemini => self.run(gemini::body(&self.named, prompt), gemini::Reader::default(), out).await,
            _ => self.run(openai::body(&self.named, prompt), openai::Reader::default(), out).await,
        }
    }

    /// The model.
    pub fn model(&self) -> &str {
        &self.named.model
    }

    /// Has a connection opened (and TLS spoken) before it is needed.
    pub async fn warm(&self) {
        let is_open = |used: &mut Option<Instant>| {
            let open = used.is_some_and(|at| at.elapsed() < TRUSTED);
            *used = Some(Instant::now());
            open
        };
        if is_open(&mut self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner)) {
            return;
        }
        let models = self.named.http("/models");
        let request = self.ctx.outgoing.vendors.head(models).headers(self.headers.clone()).timeout(WARM);
        // whatever it answers: the connection is there. What is wrong will be told by the first question
        if let Err(error) = request.send().await {
            tracing::debug!(code = "agent.llm.warm", "{NAME}: {}", explain(&error));
        }
    }

    fn touched(&self, at: Option<Instant>) {
        *self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = at;
    }

    async fn run<R: Reader>(&self, body: Value, mut reader: R, out: &mpsc::Sender<Piece>) -> Result<Reply, Failure> {
        let once = |code, what: &dyn std::fmt::Display| Failure::Once(self.fault(code, what));
        let complaint = |complaint| match complaint {
            Complaint::Told(what) => once("agent.llm.failed", &what),
            Complaint::Unusable(what) => once("agent.llm.unusable", &what),
            Complaint::Cut => once("agent.llm.broken", &"the answer broke off"),
        };
        let mut response = self.post(body.to_string()).await?;
        let (mut events, mut length) = (Events::new(MAX_EVENT), 0);
        loop {
            let chunk = match tokio::time::timeout(self.timeout, response.chunk()).await {
                Ok(Ok(chunk)) => chunk,
                Ok(Err(error)) => return Err(once("agent.llm.broken", &explain(&error))),
                Err(_) => {
                    let limit = self.timeout.as_millis();
                    let what = format_args!("nothing came for {limit} ms in the middle of an answer");
                    return Err(once("agent.llm.timeout", &what));
                }
            };
            let (mut text, mut wrong) = (String::new(), None);
            let mut found = |event: Event<'_>| {
                if wrong.is_none() {
                    wrong = reader.event(event, &mut text).err();
                }
            };
            let read = match &chunk {
                Some(chunk) => events.push(chunk, &mut found),
                None => events.finish(&mut found),
            };
            length += text.len();
            if !text.is_empty() && out.send(Piece::Text(text)).await.is_err() {
                return Ok(Reply::default());
            }
            if let Some(wrong) = wrong {
                return Err(complaint(wrong));
            }
            read.map_err(|error| once("agent.llm.unusable", &error))?;
            if length > MAX_ANSWER {
                tracing::warn!(
                    code = "agent.llm.too_long",
                    "{NAME}: the answer is longer than {MAX_ANSWER} bytes; the rest is not spoken"
                );
                return Ok(Reply::default());
            }
            if chunk.is_none() {
                break;
            }
        }
        self.touched(Some(Instant::now()));
        let reply = reader.finish().map_err(complaint)?;
        self.health.fine();
        Ok(reply)
    }

    /// Posts until there is a successful status.
    async fn post(&self, body: String) -> Result<reqwest::Response, Failure> {
        // given up in the middle, the connection is closed
        self.touched(None);
        self.request(body).send(&self.health).await
    }

    fn request(&self, body: String) -> Post<'_> {
        Post {
            ctx: &self.ctx,
            named: &self.named,
            codes: &CODES,
            url: self.url.clone(),
            headers: self.headers.clone(),
            content_type: HeaderValue::from_static("application/json"),
            body: body.into(),
            timeout: self.timeout,
        }
    }

    /// A fault in whose message the key does not stand, whoever wrote it there.
    fn fault(&self, code: &'static str, what: &dyn std::fmt::Display) -> Fault {
        fault(code, NAME, format_args!("{}: {}", self.named, self.named.scrub(what.to_string())))
    }
}

fn headers(named: &Named) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    if named.vendor == Vendor::Anthropic {
        let version = named.option("version").unwrap_or("2023-06-01");
        let version = HeaderValue::from_str(version).map_err(|_| "its version is no header's value".to_owned())?;
        headers.insert("anthropic-version", version);
    }
    if let Some(key) = named.key.as_ref().map(Secret::expose).filter(|key| !key.is_empty()) {
        let (name, value) = match named.vendor {
            Vendor::Azure => (HeaderName::from_static("api-key"), key.to_owned()),
            Vendor::Anthropic if named.option("auth") != Some("bearer") => {
                (HeaderName::from_static("x-api-key"), key.to_owned())
            }
            Vendor::Gemini => (HeaderName::from_static("x-goog-api-key"), key.to_owned()),
            _ => (AUTHORIZATION, format!("Bearer {key}")),
        };
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| "its key holds characters that no key has (a line break?); write it again".to_owned())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    headers.extend(named.headers.clone());
    Ok(headers)
}

pub(super) use crate::agent::vendor::message;

/// Arguments as the object that servers want back: what was none must not come to them again.
pub(super) fn object(arguments: &str) -> Value {
    serde_json::from_str(arguments).ok().filter(Value::is_object).unwrap_or_else(|| json!({}))
}

/// Why it stopped: what the caller does not notice by themselves is told.
pub(super) fn stopped(reason: &str, spoke: bool) -> Result<(), Complaint> {
    match reason.to_ascii_lowercase().as_str() {
        "length" | "max_tokens" | "model_context_window_exceeded" => {
            tracing::warn!(
                code = "agent.llm.max_tokens",
                "{NAME}: an answer was cut at its limit of tokens (option max_tokens)"
            );
            Ok(())
        }
        "error" => Err(Complaint::Told("the server behind it failed".to_owned())),
        "content_filter"
        | "refusal"
        | "safety"
        | "recitation"
        | "blocklist"
        | "prohibited_content"
        | "spii"
        | "malformed_function_call"
            if !spoke =>
        {
            Err(Complaint::told(&format!("it gave no answer: {reason}")))
        }
        _ => Ok(()),
    }
}

/// Events that cannot be read.
#[derive(Debug, Default)]
pub(super) struct Strange(u64);

impl Strange {
    /// A stream that is nothing but strange is of no use; one strange event among others is passed over.
    pub fn note(&mut self, data: &[u8], error: &serde_json::Error) -> Result<(), Complaint> {
        self.0 += 1;
        if self.0 == 1 {
            let data = escaped(&String::from_utf8_lossy(&data[..data.len().min(400)]));
            tracing::debug!(data, "the {NAME} sent an event that cannot be read ({error}); ignored");
        }
        if self.0 > 8 {
            return Err(Complaint::Unusable("its events are not those of its interface".to_owned()));
        }
        Ok(())
    }
}

/// What a fuzzer calls: the text and the end of an answer that arrives in `pieces`, in words.
#[doc(hidden)]
pub fn fuzz(vendor: u8, pieces: &[&[u8]]) -> String {
    fn read<R: Reader>(mut reader: R, pieces: &[&[u8]]) -> String {
        let (mut events, mut text, mut wrong) = (Events::new(MAX_EVENT), String::new(), None);
        let mut found = |event: Event<'_>| {
            if wrong.is_none() {
                wrong = reader.event(event, &mut text).err();
            }
        };
        let read = pieces.iter().try_for_each(|piece| events.push(piece, &mut found));
        let read = read.and_then(|()| events.finish(&mut found));
        match (read, wrong) {
            (Err(error), _) => format!("{text} {error}"),
            (_, Some(wrong)) => format!("{text} {wrong:?}"),
            // identities of calls may be our own, new ones
            _ => format!("{text} {:?}", reader.finish().map(|reply| reply.calls.len())),
        }
    }
    match vendor % 3 {
        0 => read(openai::Reader::default(), pieces),
        1 => read(anthropic::Reader::default(), pieces),
        _ => read(gemini::Reader::default(), pieces),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::{
        super::{Tool, ToolCall},
        *,
    };
    use crate::agent::service::{Kind, Provider, Providers, vendor_of};

    /// A service with a key.
    pub fn named(value: &str) -> Named {
        let (vendor, rest) = vendor_of(value).unwrap();
        let provider = Provider { api_key: Some("sk-secret-key".into()), ..Provider::default() };
        Named::parse(vendor, rest, Kind::Llm, &Providers([(vendor.name().to_owned(), provider)].into())).unwrap()
    }

    pub fn call(id: &str, name: &str, arguments: &str) -> ToolCall {
        ToolCall { id: id.to_owned(), name: name.to_owned(), arguments: arguments.to_owned(), signature: None }
    }

    pub fn tool(name: &str) -> Tool {
        Tool { name: name.to_owned(), description: "Does it.".to_owned(), parameters: json!({"type": "object"}) }
    }

    /// The text and the end of an answer that comes at once.
    pub fn read<R: Reader>(reader: R, body: &[u8]) -> (String, Result<Reply, Complaint>) {
        read_in(reader, [body].into_iter())
    }

    /// The same in pieces.
    pub fn read_in<'a, R: Reader>(
        mut reader: R,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> (String, Result<Reply, Complaint>) {
        let (mut events, mut text, mut wrong) = (Events::new(MAX_EVENT), String::new(), None);
        let mut found = |event: Event<'_>| {
            if wrong.is_none() {
                wrong = reader.event(event, &mut text).err();
            }
        };
        pieces.for_each(|piece| events.push(piece, &mut found).unwrap());
        events.finish(&mut found).unwrap();
        match wrong {
            Some(wrong) => (text, Err(wrong)),
            None => (text, reader.finish()),
        }
    }

    #[test]
    fn keys_go_where_each_vendor_wants_them_and_are_not_shown() {
        for (value, header, expected) in [
            ("openai:m", "authorization", "Bearer sk-secret-key"),
            ("azure:m?base_url=https://x.openai.azure.com/openai/v1", "api-key", "sk-secret-key"),
            ("anthropic:m", "x-api-key", "sk-secret-key"),
            ("gemini:m", "x-goog-api-key", "sk-secret-key"),
        ] {
            let headers = headers(&named(value)).unwrap();
            assert_eq!(headers[header], expected);
            assert!(!format!("{headers:?}").contains("secret"), "{value}");
        }
    }
}
