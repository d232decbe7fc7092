//! `POST /call` and its neighbours as the contract says (sections 5 and 11.5), whatever dialplans, webhook receivers and strangers send.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hark::{
    api::{self, Config, State},
    session::{Announcement, Announcements, MemoryAnnouncements},
    telemetry::metrics::Metrics,
    webhook::{self, Webhooks},
};
use http::StatusCode;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use uuid::Uuid;

use crate::support::{
    PATIENCE, client,
    log::Log,
    receiver::{Receiver, Reply},
};

const UUID: &str = "0192f4c0-5a3e-7c1b-8d2e-0123456789ab";
const QUERY: &str = "from=2000&to=5001&uniqueid=1770758888.32&channel=PJSIP%2F2000-00000013&recording=false";

fn body() -> Value {
    json!({"uuid": UUID, "payload": {
        "from": "2000", "to": "5001", "uniqueid": "1770758888.32", "channel": "PJSIP/2000-00000013", "recording": false
    }})
}

/// A gateway's HTTP service; gone when dropped.
struct Service {
    address: SocketAddr,
    client: Client,
    state: State<MemoryAnnouncements>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    _guard: DropGuard,
}

impl Service {
    async fn start(sts_url: Option<&str>, webhook: Option<webhook::Config>) -> Self {
        Self::with_config(sts_url, webhook, Config::default()).await
    }

    async fn with_config(sts_url: Option<&str>, webhook: Option<webhook::Config>, config: Config) -> Self {
        let config = Config { listen: (Ipv4Addr::LOCALHOST, 0).into(), ..config };
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let announcements = Arc::new(MemoryAnnouncements::new(Duration::from_secs(600), 10_000));
        let mut state = State { sts_url: sts_url.map(Arc::from), ..State::new(announcements) };
        if let Some(webhook) = webhook {
            state.webhooks = Webhooks::start(&webhook, client(), &tasks, shutdown.clone());
        }
        let listener = api::bind(&config).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (serving, token) = (state.clone(), shutdown.clone());
        tasks.spawn(async move { api::serve(listener, &config, serving, token).await });
        let guard = shutdown.clone().drop_guard();
        Self { address, client: client(), state, tasks, shutdown, _guard: guard }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = self.client.get(self.url(path)).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    async fn post(&self, body: impl Into<reqwest::Body>) -> (StatusCode, Value) {
        let response = timeout(PATIENCE, self.client.post(self.url("/call")).body(body).send()).await.unwrap().unwrap();
        assert_eq!(response.headers()["content-type"], "application/json");
        (response.status(), response.json().await.unwrap())
    }

    /// What is answered to the usual body.
    async fn call(&self) -> Value {
        let (status, answer) = self.post(body().to_string()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    async fn announced(&self) -> Option<Announcement> {
        self.state.announcements.take(UUID.parse().unwrap()).await
    }

    /// Sends raw bytes and reads to the end of the connection.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // the service may answer and close before it has read everything
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let ended = timeout(PATIENCE / 4, stream.read_to_end(&mut answer)).await;
        let shown = String::from_utf8_lossy(request);
        assert!(
            ended.is_ok(),
            "the connection stays open after {:?}, answered {answer:?}",
            &shown[..shown.floor_char_boundary(200)]
        );
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn to(receiver: &Receiver) -> Option<webhook::Config> {
    Some(webhook::Config { url: Some(receiver.url.clone()), ..webhook::Config::default() })
}

const STS: Option<&str> = Some("ws://localhost:6030");

fn plain() -> Value {
    json!({"sts_url": format!("ws://localhost:6030/?{QUERY}"), "override": false})
}

#[tokio::test]
async fn the_url_is_exact() {
    let service = Service::start(STS, None).await;
    assert_eq!(service.call().await.to_string(), plain().to_string());
    let announced = service.announced().await.unwrap();
    assert_eq!(announced.sts_url.as_deref(), plain()["sts_url"].as_str());
    assert_eq!(Value::Object(announced.payload), body()["payload"]);
}

#[tokio::test]
async fn call_initiated_carries_the_payload_and_an_override_gets_the_parameters_as_well() {
    let log = Log::start();
    let receiver = Receiver::overriding(json!({"sts_url": format!("wss://other:7000/sts?uuid={UUID}")})).await;
    let service = Service::start(STS, to(&receiver)).await;
    let url = format!("wss://other:7000/sts?uuid={UUID}&{QUERY}");
    assert_eq!(service.call().await.to_string(), json!({"sts_url": url, "override": true}).to_string());
    assert_eq!(service.announced().await.unwrap().sts_url, Some(url.clone()));
    let seen = receiver.seen().remove(0).json();
    assert_eq!(seen.as_object().unwrap().keys().collect::<Vec<_>>(), ["uuid", "type", "timestamp", "payload"]);
    assert_eq!((&seen["uuid"], &seen["type"]), (&json!(UUID), &json!("call_initiated")));
    assert_eq!(seen["payload"].to_string(), body()["payload"].to_string());
    assert_eq!(log.count(&format!("Overriding STS URL: {url}")), 1, "{}", log.text());
    assert_eq!(log.count("Webhook response received: {\"sts_url\":"), 1, "{}", log.text());
}

#[tokio::test]
async fn a_strict_receiver_takes_call_initiated_and_its_201_overrides_nothing() {
    let receiver = Receiver::strict("secret").await;
    let webhook = webhook::Config { secret: Some("secret".to_owned()), ..to(&receiver).unwrap() };
    let service = Service::start(STS, Some(webhook)).await;
    assert_eq!(service.call().await, plain());
    assert_eq!(service.state.webhooks.stats().initiated.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn avr_webhook_as_shipped_a_time_out_and_a_missing_receiver_fall_back() {
    let shipped = Receiver::as_shipped("secret", 100).await;
    let dead = Receiver::dead().await;
    let nobody = Receiver::kind().await;
    let gone = to(&nobody);
    drop(nobody);
    for webhook in [to(&shipped), to(&dead), gone] {
        let webhook = webhook::Config { timeout_ms: 100, secret: Some("secret".to_owned()), ..webhook.unwrap() };
        let service = Service::start(STS, Some(webhook)).await;
        assert_eq!(service.call().await, plain());
        assert_eq!(service.announced().await.unwrap().sts_url.as_deref(), plain()["sts_url"].as_str());
    }
    assert_eq!((shipped.seen().len(), dead.seen().len()), (1, 1));
}

#[tokio::test]
async fn the_uuid_is_folded_to_lower_case() {
    let receiver = Receiver::kind().await;
    let service = Service::start(STS, to(&receiver)).await;
    service.post(json!({"uuid": UUID.to_uppercase(), "payload": {"from": "1"}}).to_string()).await;
    assert_eq!(service.announced().await.unwrap().sts_url.unwrap(), "ws://localhost:6030/?from=1");
    assert_eq!(receiver.seen()[0].json()["uuid"], UUID);
}

#[tokio::test]
async fn a_pipeline_has_no_sts_url_and_a_receiver_may_route_it() {
    let said = json!({"asr_url": "http://asr:6010/speech-to-text-stream", "llm_url": "https://llm/prompt-stream?x=1",
        "tts_url": "ws://tts:6012/", "greeting": "Guten Tag!", "unknown": [1]});
    let receiver = Receiver::overriding(said).await;
    let service = Service::start(None, to(&receiver)).await;
    assert_eq!(service.call().await.to_string(), r#"{"sts_url":null,"override":false}"#);
    let expected = Announcement {
        payload: body()["payload"].as_object().unwrap().clone(),
        sts_url: None,
        asr_url: Some("http://asr:6010/speech-to-text-stream".to_owned()),
        llm_url: Some("https://llm/prompt-stream?x=1".to_owned()),
        tts_url: Some("ws://tts:6012/".to_owned()),
        greeting: Some("Guten Tag!".to_owned()),
        ..Announcement::default()
    };
    let announced = service.announced().await.map(|announced| Announcement { call: None, ..announced });
    assert_eq!(announced, Some(expected));
}

#[tokio::test]
async fn unusable_answers_are_ignored_with_a_warning() {
    for (said, warnings) in [
        (json!({"sts_url": "not a url"}), 1),
        (json!({"sts_url": "file:///etc/passwd"}), 1),
        (json!({"sts_url": 7, "llm_url": ["x"], "tts_url": "javascript:1", "greeting": "x".repeat(10_000)}), 4),
        (json!({"sts_url": null, "asr_url": "", "greeting": "  "}), 0),
        (json!({"STS_URL": "ws://x"}), 0),
        (json!(["ws://x"]), 0),
        (json!("ws://x"), 0),
        (json!(null), 0),
    ] {
        let log = Log::start();
        let receiver = Receiver::overriding(said.clone()).await;
        let service = Service::start(STS, to(&receiver)).await;
        assert_eq!(service.call().await, plain(), "{said}");
        let announced = service.announced().await.unwrap();
        assert_eq!(
            (announced.asr_url, announced.llm_url, announced.tts_url, announced.greeting),
            (None, None, None, None)
        );
        assert_eq!(log.count("of the webhook's answer is ignored"), warnings, "{}", log.text());
    }
}

#[tokio::test]
async fn a_call_is_known_while_the_receiver_still_thinks() {
    let receiver = Receiver::dead().await;
    let webhook = webhook::Config { timeout_ms: 3_600_000, ..to(&receiver).unwrap() };
    let service = Service::start(STS, Some(webhook)).await;
    let call = tokio::spawn(service.client.post(service.url("/call")).body(body().to_string()).send());
    receiver.wait_for(1).await;
    assert_eq!(service.announced().await.unwrap().sts_url.as_deref(), plain()["sts_url"].as_str());
    call.abort();
}

#[tokio::test]
async fn a_dialplan_that_gives_up_waiting_does_not_lose_the_answer() {
    let (answer, wait) = (json!({"sts_url": "ws://other"}), Duration::from_millis(300));
    let receiver = Receiver::slow(wait, answer).await;
    let service = Service::start(STS, to(&receiver)).await;
    let call = tokio::spawn(service.client.post(service.url("/call")).body(body().to_string()).send());
    receiver.wait_for(1).await;
    call.abort();
    let overridden = async {
        let expected = format!("ws://other/?{QUERY}");
        while service.announced().await.unwrap().sts_url.as_ref() != Some(&expected) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, overridden).await.unwrap();
}

#[tokio::test]
async fn broken_json_and_wrong_types_are_answered_400_with_what_is_wrong() {
    let log = Log::start();
    let receiver = Receiver::kind().await;
    let service = Service::start(STS, to(&receiver)).await;
    let broken = format!(r#"{{"uuid":"{UUID}","payload":{{"from":"Bob "the" Builder"}}}}"#);
    for (body, named) in [
        (broken.as_bytes(), "not JSON"),
        (b"", "not JSON"),
        (b"{\"uuid\":\"\xff\xfe\"}", "not JSON"),
        (b"null", "the body is null"),
        (b"{}", "\"uuid\" is missing"),
        (b"{\"uuid\":{}}", "\"uuid\" is an object"),
        (b"{\"uuid\":\"asterisk-1770758888.32\"}", "not a UUID"),
        (b"{\"uuid\":\"0192f4c0-5a3e-7c1b-8d2e-0123456789ab\",\"payload\":7}", "\"payload\" is a number"),
    ] {
        let (status, answer) = service.post(body.to_vec()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(answer["message"].as_str().unwrap().contains(named), "{answer}");
    }
    assert_eq!(log.count("POST /call refused"), 8, "{}", log.text());
    assert!(receiver.seen().is_empty());
    assert_eq!(service.call().await, plain());
}

#[tokio::test]
async fn a_huge_body_is_answered_413_whether_or_not_its_length_is_told() {
    let service = Service::start(STS, None).await;
    let huge = format!(r#"{{"uuid":"{UUID}","payload":{{"x":"{}"}}}}"#, "x".repeat(64 * 1024));
    let chunks: Vec<_> = huge.as_bytes().chunks(1_000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
    for body in [reqwest::Body::from(huge), reqwest::Body::wrap_stream(futures_util::stream::iter(chunks))] {
        let (status, answer) = service.post(body).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(answer["message"].as_str().unwrap().contains("65536"), "{answer}");
    }
    assert_eq!(service.announced().await, None);
    assert_eq!(service.call().await, plain());
}

#[tokio::test]
async fn hostile_values_stay_values() {
    let log = Log::start();
    let receiver = Receiver::kind().await;
    let service = Service::start(STS, to(&receiver)).await;
    let payload =
        json!({"from": "x\r\nX-Evil: 1\u{0}\u{1b}[2J", "\u{202e}&a=b#": "?&=%", "__proto__": {"a": [1, null]}, "": ""});
    let (status, answer) = service.post(json!({"uuid": UUID, "payload": payload}).to_string()).await;
    assert_eq!(status, StatusCode::OK);
    let url = url::Url::parse(answer["sts_url"].as_str().unwrap()).unwrap();
    assert_eq!((url.host_str(), url.port(), url.path(), url.fragment()), (Some("localhost"), Some(6030), "/", None));
    let pairs: Vec<_> = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    let expected = [
        ("from", "x\r\nX-Evil: 1\u{0}\u{1b}[2J"),
        ("\u{202e}&a=b#", "?&=%"),
        ("__proto__", r#"{"a":[1,null]}"#),
        ("", ""),
    ];
    assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(receiver.seen()[0].json()["payload"], payload);
    assert!(!log.text().contains(['\u{1b}', '\u{0}', '\r']));
}

#[tokio::test]
async fn hostile_requests_harm_nobody_else() {
    let service = Service::start(STS, None).await;
    let json = body().to_string();
    let long = "a".repeat(300_000);
    for (request, status) in [
        (
            format!(
                "POST /call HTTP/1.1\r\nHost: \u{fffd}\r\nX: \u{7f}\u{1}\r\nContent-Length: {}\r\n\r\n{json}",
                json.len()
            ),
            "400",
        ),
        (format!("POST /call HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{json}"), "400"),
        (format!("POST /call HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n{json}"), "400"),
        (format!("POST /call HTTP/1.1\r\nX: {long}\r\n\r\n"), "431"),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), ""),
        ("\u{0}\u{1}\u{2}garbage\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = service.raw(request.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) || status.is_empty(),
            "{answer:?} to {:?}",
            &request[..request.floor_char_boundary(200)]
        );
    }
    let header =
        b"POST /call HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: \xff\xfe\r\nX-A: '; DROP TABLE\r\n";
    let request = [&header[..], format!("Content-Length: {}\r\n\r\n{json}", json.len()).as_bytes()].concat();
    assert!(service.raw(&request).await.starts_with("HTTP/1.1 200"), "a header that nobody reads broke a call");
    assert_eq!(service.call().await, plain());
}

#[tokio::test]
async fn calls_that_wait_for_the_receiver_are_bounded() {
    let receiver = Receiver::dead().await;
    let webhook = webhook::Config { timeout_ms: 3_600_000, ..to(&receiver).unwrap() };
    let service = Service::start(STS, Some(webhook)).await;
    let waiting: Vec<_> = (0..256)
        .map(|_| {
            let body = json!({"uuid": Uuid::new_v4()}).to_string();
            tokio::spawn(service.client.post(service.url("/call")).body(body).send())
        })
        .collect();
    receiver.wait_for(256).await;
    let (status, answer) = service.post(body().to_string()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    assert_eq!(service.get("/health").await.0, StatusCode::OK);
    waiting.into_iter().for_each(|call| call.abort());
}

#[tokio::test]
async fn health_readiness_and_metrics_are_shown() {
    let service = Service::start(STS, None).await;
    assert_eq!(service.get("/health").await, (StatusCode::OK, r#"{"status":"ok"}"#.to_owned()));
    assert_eq!(service.get("/ready").await, (StatusCode::OK, r#"{"status":"ready"}"#.to_owned()));
    service.state.readiness.set("shutdown", "the gateway is being stopped");
    let not = r#"{"status":"not ready","reasons":[{"code":"shutdown","message":"the gateway is being stopped"}]}"#;
    assert_eq!(service.get("/ready").await, (StatusCode::SERVICE_UNAVAILABLE, not.to_owned()));
    service.state.readiness.clear("shutdown");
    assert_eq!(service.get("/ready").await.0, StatusCode::OK);

    service.call().await;
    service.post("{}").await;
    let metrics: &Metrics = &service.state.metrics;
    metrics.calls.inc();
    let (status, text) = service.get("/metrics").await;
    assert_eq!(status, StatusCode::OK);
    for line in [
        "hark_calls_total 1",
        r#"hark_calls_announced_total{reason="ok"} 1"#,
        r#"hark_calls_announced_total{reason="bad"} 1"#,
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn unknown_routes_and_wrong_methods_are_answered_in_json() {
    let service = Service::start(STS, None).await;
    let (status, body) = service.get("/nowhere").await;
    assert_eq!((status, body.as_str()), (StatusCode::NOT_FOUND, r#"{"message":"there is no such route"}"#));
    assert_eq!(service.get("/call").await.0, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn only_allowed_networks_may_connect() {
    let config = |net: &str| Config { allow: vec![net.parse().unwrap()], ..Config::default() };
    let log = Log::start();
    let closed = Service::with_config(STS, None, config("192.0.2.0/24")).await;
    for _ in 0..3 {
        assert_eq!(closed.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await, "");
    }
    assert_eq!(log.count("HTTP connection refused"), 1, "{}", log.text());
    let open = Service::with_config(STS, None, config("127.0.0.0/8")).await;
    assert_eq!(open.get("/health").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_request_under_way_is_answered_after_the_shutdown_and_no_new_one_is_taken() {
    let (go, gone) = (Arc::new(std::sync::atomic::AtomicBool::new(false)), Duration::from_millis(200));
    let flag = Arc::clone(&go);
    let receiver = Receiver::start(move |_| {
        flag.store(true, std::sync::atomic::Ordering::Relaxed);
        Reply::new(200, "{}").after(gone)
    })
    .await;
    let service = Service::start(STS, to(&receiver)).await;
    let call = tokio::spawn(service.client.post(service.url("/call")).body(body().to_string()).send());
    receiver.wait_for(1).await;
    service.shutdown.cancel();
    let response = timeout(PATIENCE, call).await.unwrap().unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    service.tasks.close();
    timeout(PATIENCE, service.tasks.wait()).await.expect("the service did not end");
    assert!(TcpStream::connect(service.address).await.is_err());
}
