//! Webhook receivers as they are out there: strict like avr-app's, faulty like avr-webhook as shipped, overriding, slow, dead.

use std::{
    convert::Infallible,
    future::pending,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::PATIENCE;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    pub fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// What a receiver answers.
pub struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    after: Option<Duration>,
}

impl Reply {
    pub fn new(status: u16, body: impl ToString) -> Self {
        Self { status, headers: Vec::new(), body: body.to_string(), after: Some(Duration::ZERO) }
    }

    pub fn after(self, wait: Duration) -> Self {
        Self { after: Some(wait), ..self }
    }

    pub fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    pub fn never() -> Self {
        Self { after: None, ..Self::new(200, "") }
    }
}

/// A receiver on a port of its own; gone when dropped.
pub struct Receiver {
    pub address: std::net::SocketAddr,
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    count: watch::Receiver<usize>,
    _task: AbortOnDropHandle<()>,
}

impl Receiver {
    pub async fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (counted, count) = watch::channel(0);
        let shared = Arc::new((answer, Arc::clone(&seen), counted));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                let service = service_fn(move |request| {
                    let shared = Arc::clone(&shared);
                    async move {
                        let seen = receive(request).await;
                        let reply = (shared.0)(&seen);
                        shared.1.lock().unwrap().push(seen);
                        shared.2.send_modify(|count| *count += 1);
                        Ok::<_, Infallible>(respond(reply).await)
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        let url = format!("http://{address}/events");
        Self { address, url, seen, count, _task: AbortOnDropHandle::new(task) }
    }

    /// Takes everything.
    pub async fn kind() -> Self {
        Self::start(|_| Reply::new(200, "")).await
    }

    /// avr-app's: secret mandatory, unknown keys and types forbidden, UUID, timestamp and payload checked, answers 201.
    pub async fn strict(secret: &'static str) -> Self {
        Self::start(move |seen| match strict_fault(seen, secret) {
            None => Reply::new(201, json!({"status": "ok"})),
            Some((status, message)) => Reply::new(status, json!({"statusCode": status, "message": message})),
        })
        .await
    }

    /// avr-webhook 1.1.0: `call_initiated` always 500, 429 after `limit` requests.
    pub async fn as_shipped(secret: &'static str, limit: usize) -> Self {
        let requests = AtomicUsize::new(0);
        Self::start(move |seen| {
            let body = seen.json();
            if requests.fetch_add(1, Relaxed) >= limit {
                Reply::new(429, "Too many requests from this IP, please try again later.")
            } else if seen.header("x-avr-webhook-secret") != Some(secret) {
                Reply::new(401, json!({"error": "Unauthorized", "message": "Invalid secret", "timestamp": ""}))
            } else if ["uuid", "type", "timestamp"].iter().any(|key| body[key].is_null()) {
                Reply::new(400, json!({"error": "Bad Request", "message": "Missing field", "timestamp": ""}))
            } else if seen.kind() == "call_initiated" {
                Reply::new(500, json!({"error": "Internal Server Error", "message": "sts_url is not defined"}))
            } else {
                Reply::new(
                    200,
                    json!({"success": true, "message": "Event processed", "eventId": "1", "processedAt": ""}),
                )
            }
        })
        .await
    }

    /// Answers `call_initiated` with `answer`.
    pub async fn overriding(answer: Value) -> Self {
        Self::start(move |seen| match seen.kind().as_str() {
            "call_initiated" => Reply::new(200, &answer),
            _ => Reply::new(200, ""),
        })
        .await
    }

    /// Accepts and never answers.
    pub async fn dead() -> Self {
        Self::start(|_| Reply::never()).await
    }

    /// Answers everything with `answer` after `wait`.
    pub async fn slow(wait: Duration, answer: Value) -> Self {
        Self::start(move |_| Reply::new(200, &answer).after(wait)).await
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until `count` requests have come.
    pub async fn wait_for(&self, count: usize) -> Vec<Seen> {
        let mut counted = self.count.clone();
        let arrived = timeout(PATIENCE, counted.wait_for(|n| *n >= count)).await;
        assert!(arrived.is_ok(), "{} of {count} requests came", self.seen().len());
        self.seen()
    }
}

fn strict_fault(seen: &Seen, secret: &str) -> Option<(u16, String)> {
    if seen.header("x-avr-webhook-secret") != Some(secret) {
        return Some((401, "Unauthorized".to_owned()));
    }
    let body = seen.json();
    let Some(members) = body.as_object() else { return Some((400, "not an object".to_owned())) };
    if let Some(key) = members.keys().find(|key| !["uuid", "type", "timestamp", "payload"].contains(&key.as_str())) {
        return Some((400, format!("property {key} should not exist")));
    }
    let text = |key: &str| body[key].as_str().unwrap_or_default();
    let types = ["call_initiated", "call_started", "call_ended", "interruption", "transcription", "dtmf_digit"];
    let digits = |c: char| if c.is_ascii_digit() { '0' } else { c };
    let iso = text("timestamp").chars().map(digits).collect::<String>() == "0000-00-00T00:00:00.000Z";
    let faults = [
        (Uuid::try_parse(text("uuid")).is_err() || text("uuid").len() != 36, "uuid must be a UUID"),
        (!types.contains(&text("type")), "type must be one of the following values"),
        (!iso, "timestamp must be a valid ISO 8601 date string"),
        (!body["payload"].is_object(), "payload must be an object"),
    ];
    faults.into_iter().find(|(wrong, _)| *wrong).map(|(_, message)| (400, message.to_owned()))
}

async fn receive(request: Request<Incoming>) -> Seen {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    Seen {
        method: head.method,
        path: head.uri.to_string(),
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

async fn respond(reply: Reply) -> Response<Full<Bytes>> {
    match reply.after {
        Some(wait) => sleep(wait).await,
        None => pending().await,
    }
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response.body(Full::from(reply.body)).unwrap()
}
