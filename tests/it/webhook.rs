//! Events reach webhook receivers as the contract says (section 11.5), whatever those receivers do.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, SystemTime},
};

use hark::{
    agent::Outgoing,
    call::{CallEvent, CallId, Digit, EndReason, Envelope, EventId, Role},
    webhook::{Config, Failed, Webhooks, client_builder, schedule::Retry},
};
use http::StatusCode;
use hyper_util::client::proxy::matcher::Matcher;
use serde_json::{Map, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::yield_now,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::{
    PATIENCE, client,
    log::Log,
    receiver::{Receiver, Reply},
    tls,
};

const SECRET: &str = "s3cr3t: {verbatim}, even this";
const UUID: Uuid = Uuid::from_u128(0x0192_f4c0_5a3e_7c1b_8d2e_0123_4567_89ab);

fn config(url: &str) -> Config {
    Config { url: Some(url.to_owned()), ..Config::default() }
}

fn start(config: &Config) -> Webhooks {
    Webhooks::start(config, client(), &TaskTracker::new(), CancellationToken::new())
}

fn event(call: CallId, event: CallEvent) -> Envelope {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_268_800_000);
    Envelope { id: EventId::new(), call, uuid: UUID, at, event }
}

fn said(call: CallId, text: impl ToString) -> Envelope {
    event(call, CallEvent::Transcription { role: Role::User, text: text.to_string() })
}

async fn flush(webhooks: &Webhooks) {
    assert_eq!(webhooks.flush(Instant::now() + PATIENCE).await, 0, "events are left");
}

/// delivered, failed, retried
fn counts(webhooks: &Webhooks) -> [u64; 3] {
    let stats = webhooks.stats();
    [&stats.delivered, &stats.failed, &stats.retried].map(|count| count.load(Relaxed))
}

fn whole_call(call: CallId) -> Vec<Envelope> {
    let digit = |c| CallEvent::Dtmf(Some(Digit::try_from(c).unwrap()));
    let text = |role, text: &str| CallEvent::Transcription { role, text: text.to_owned() };
    [
        CallEvent::Started,
        text(Role::Agent, "Hello \"you\""),
        CallEvent::Interruption,
        text(Role::User, "Ich hätte gern …"),
        digit('1'),
        digit('#'),
        CallEvent::Dtmf(None),
        CallEvent::Ended(EndReason::CallerHangup),
    ]
    .map(|what| event(call, what))
    .to_vec()
}

#[tokio::test]
async fn only_four_top_level_keys_both_secrets_and_201_is_success() {
    let receiver = Receiver::strict(SECRET).await;
    let config =
        Config { secret: Some(SECRET.to_owned()), agent_id: Some("agent-7".to_owned()), ..config(&receiver.url) };
    let webhooks = start(&config);
    let call = CallId::new();
    let events = whole_call(call);
    for event in &events {
        webhooks.put(event.clone()).await.unwrap();
    }
    flush(&webhooks).await;
    assert_eq!(counts(&webhooks), [8, 0, 0]);

    let payloads = [
        ("call_started", r#"{}"#),
        ("transcription", r#"{"role":"agent","text":"Hello \"you\""}"#),
        ("interruption", r#"{}"#),
        ("transcription", r#"{"role":"user","text":"Ich hätte gern …"}"#),
        ("dtmf_digit", r#"{"digit":"1"}"#),
        ("dtmf_digit", r##"{"digit":"#"}"##),
        ("dtmf_digit", r#"{"digit":"X"}"#),
        ("call_ended", r#"{}"#),
    ];
    let seen = receiver.seen();
    assert_eq!(seen.len(), payloads.len());
    for ((seen, (kind, payload)), event) in seen.iter().zip(payloads).zip(&events) {
        let body = format!(
            r#"{{"uuid":"0192f4c0-5a3e-7c1b-8d2e-0123456789ab","type":"{kind}","timestamp":"2026-01-01T12:00:00.000Z","payload":{payload}}}"#
        );
        assert_eq!(seen.body, body);
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/events"));
        let length = body.len().to_string();
        for (name, value) in [
            ("content-type", "application/json"),
            ("content-length", &length),
            ("x-dsai-webhook-secret", SECRET),
            ("x-avr-webhook-secret", SECRET),
            ("x-avr-agent-id", "agent-7"),
            ("webhook-id", &event.id.to_string()),
            ("hark-attempt", "1"),
            ("hark-call-id", &call.to_string()),
        ] {
            assert_eq!(seen.header(name), Some(value), "{name}");
        }
    }
}

#[tokio::test]
async fn without_a_secret_no_secret_header_is_sent() {
    let receiver = Receiver::kind().await;
    let webhooks = start(&config(&receiver.url));
    webhooks.put(event(CallId::new(), CallEvent::Started)).await.unwrap();
    flush(&webhooks).await;
    let seen = receiver.seen().remove(0);
    for name in ["x-dsai-webhook-secret", "x-avr-webhook-secret", "x-avr-agent-id"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn avr_webhook_as_shipped_500_on_call_initiated_is_a_failure_and_429_is_ignored() {
    let receiver = Receiver::as_shipped(SECRET, 5).await;
    let webhooks = start(&Config { secret: Some(SECRET.to_owned()), ..config(&receiver.url) });
    let answer = webhooks.initiate(CallId::new(), UUID, &Map::new()).await;
    assert_eq!(answer, Err(Failed::Status(StatusCode::INTERNAL_SERVER_ERROR, None)));
    for event in whole_call(CallId::new()) {
        webhooks.put(event).await.unwrap();
    }
    flush(&webhooks).await;
    assert_eq!(counts(&webhooks), [4, 4, 0], "5 requests were within the limit, one of them call_initiated");
}

#[tokio::test]
async fn events_of_a_call_keep_their_order_under_failures() {
    // every third request fails, over many calls at once
    let requests = std::sync::atomic::AtomicUsize::new(0);
    let receiver = Receiver::start(move |_| {
        Reply::new(if requests.fetch_add(1, Relaxed).is_multiple_of(3) { 503 } else { 200 }, "")
    })
    .await;
    let webhooks = start(&Config { retry: Retry::Times(50), backoff_ms: 1, ..config(&receiver.url) });
    let calls: Vec<_> = (0..10).map(|_| CallId::new()).collect();
    for n in 0..20 {
        for call in &calls {
            webhooks.put(said(*call, n)).await.unwrap();
        }
    }
    flush(&webhooks).await;
    assert_eq!(counts(&webhooks)[..2], [200, 0]);
    let seen = receiver.seen();
    for call in &calls {
        let call = call.to_string();
        let of_call = seen.iter().filter(|seen| seen.header("hark-call-id") == Some(&call));
        let mut texts: Vec<_> =
            of_call.map(|seen| seen.json()["payload"]["text"].as_str().unwrap().to_owned()).collect();
        texts.dedup();
        assert_eq!(texts, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_request_that_hangs_delays_no_other_call() {
    let receiver =
        Receiver::start(|seen| if seen.body.contains("stuck") { Reply::never() } else { Reply::new(200, "") }).await;
    let webhooks = start(&Config { timeout_ms: 3_600_000, ..config(&receiver.url) });
    let stuck = CallId::new();
    webhooks.put(said(stuck, "stuck")).await.unwrap();
    webhooks.put(said(stuck, "behind it")).await.unwrap();
    receiver.wait_for(1).await;
    for n in 0..20 {
        webhooks.put(said(CallId::new(), n)).await.unwrap();
    }
    let seen = receiver.wait_for(21).await;
    assert!(!seen.iter().any(|seen| seen.body.contains("behind it")));
    let only_the_stuck_are_left = async {
        while webhooks.flush(Instant::now()).await != 2 {
            yield_now().await;
        }
    };
    timeout(PATIENCE, only_the_stuck_are_left).await.unwrap();
}

#[tokio::test]
async fn a_dead_receiver_costs_its_time_out_and_the_guides_error_line() {
    let log = Log::start();
    let receiver = Receiver::dead().await;
    let webhooks = start(&Config { timeout_ms: 50, retry: Retry::Times(1), backoff_ms: 1, ..config(&receiver.url) });
    let call = CallId::new();
    webhooks.put(event(call, CallEvent::Started)).await.unwrap();
    webhooks.put(event(call, CallEvent::Ended(EndReason::CallerHangup))).await.unwrap();
    flush(&webhooks).await;
    assert_eq!(counts(&webhooks), [0, 2, 2]);
    assert_eq!(log.count("[WEBHOOK][CALL_STARTED] Retry failed"), 1, "{}", log.text());
    assert_eq!(log.count("[WEBHOOK][CALL_ENDED] Retry failed"), 1);
    assert_eq!(log.count("no answer within 50 ms"), 4);
}

#[tokio::test]
async fn a_redirect_is_a_failure() {
    let elsewhere = Receiver::kind().await;
    let location = elsewhere.url.clone();
    let receiver = Receiver::start(move |_| Reply::new(307, "").header("location", &location)).await;
    let webhooks = start(&config(&receiver.url));
    webhooks.put(event(CallId::new(), CallEvent::Started)).await.unwrap();
    flush(&webhooks).await;
    assert_eq!(counts(&webhooks), [0, 1, 0]);
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn neither_password_nor_secret_nor_words_nor_digits_reach_the_log() {
    let log = Log::start();
    let gone = Receiver::kind().await;
    let address = gone.address;
    drop(gone);
    let answering = Receiver::overriding(
        json!({"sts_url": "ws://u:passw0rd@h/?api_key=k3y", "token": "t0ken", "evil": "a\nb\u{1b}"}),
    )
    .await;
    for to in [address, answering.address] {
        let url = format!("http://admin:passw0rd@{to}/events?token=t0ken");
        let webhooks =
            start(&Config { secret: Some(SECRET.to_owned()), retry: Retry::Times(1), backoff_ms: 1, ..config(&url) });
        for event in whole_call(CallId::new()) {
            webhooks.put(event).await.unwrap();
        }
        let _ = webhooks.initiate(CallId::new(), UUID, &Map::new()).await;
        flush(&webhooks).await;
    }
    assert_eq!(answering.seen()[0].header("authorization"), Some("Basic YWRtaW46cGFzc3cwcmQ="));
    let ours: String =
        log.text().lines().filter(|line| line.contains("hark::")).map(|line| format!("{line}\n")).collect();
    assert_eq!(log.count("[WEBHOOK][TRANSCRIPTION] Retry failed"), 2, "{ours}");
    assert_eq!(log.count("Webhook response received: {"), 1, "{ours}");
    for secret in ["passw0rd", "t0ken", "k3y", SECRET, "Hello", "hätte", "digit\":"] {
        assert!(!ours.contains(secret), "{secret:?} is in the log:\n{ours}");
    }
    assert!(!log.text().contains('\u{1b}'));
}

#[tokio::test]
async fn answers_are_read_up_to_a_bound() {
    let huge = "x".repeat(10 << 20);
    let receiver = Receiver::start(move |_| Reply::new(200, &huge)).await;
    let webhooks = start(&config(&receiver.url));
    webhooks.put(event(CallId::new(), CallEvent::Started)).await.unwrap();
    flush(&webhooks).await;
    assert_eq!(counts(&webhooks), [1, 0, 0]);
    let answer = webhooks.initiate(CallId::new(), UUID, &Map::new()).await;
    assert!(matches!(&answer, Err(Failed::Answer(why)) if why.contains("65536")), "{answer:?}");
}

#[tokio::test]
async fn an_answer_that_is_no_json_is_a_failure_of_call_initiated_alone() {
    let receiver = Receiver::start(|_| Reply::new(200, "OK")).await;
    let webhooks = start(&config(&receiver.url));
    assert!(matches!(webhooks.initiate(CallId::new(), UUID, &Map::new()).await, Err(Failed::Answer(_))));
    webhooks.put(event(CallId::new(), CallEvent::Started)).await.unwrap();
    flush(&webhooks).await;
    assert_eq!(counts(&webhooks), [1, 0, 0]);
}

/// Reads one request with a body off a raw connection.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let n = timeout(PATIENCE, stream.read(&mut chunk)).await.unwrap().unwrap();
        bytes.extend_from_slice(&chunk[..n]);
        if n == 0 || bytes.ends_with(b"}}") {
            return String::from_utf8(bytes).unwrap();
        }
    }
}

#[tokio::test]
async fn a_connection_that_dies_before_an_answer_is_tried_again_without_counting() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let webhooks = start(&config(&format!("http://{}/", listener.local_addr().unwrap())));
    let call = CallId::new();
    webhooks.put(event(call, CallEvent::Started)).await.unwrap();
    webhooks.put(event(call, CallEvent::Ended(EndReason::CallerHangup))).await.unwrap();

    let (mut first, _) = listener.accept().await.unwrap();
    assert!(read_request(&mut first).await.contains("call_started"));
    first.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    let lost = read_request(&mut first).await;
    assert!(lost.contains("call_ended"), "the connection was not used again");
    drop(first);
    let (mut second, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    assert_eq!(read_request(&mut second).await, lost);
    second.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    flush(&webhooks).await;
    assert_eq!(counts(&webhooks), [2, 0, 0]);
}

#[tokio::test]
async fn a_receiver_that_closes_every_connection_is_given_up() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let webhooks = start(&config(&format!("http://{}/", listener.local_addr().unwrap())));
    webhooks.put(event(CallId::new(), CallEvent::Started)).await.unwrap();
    for _ in 0..2 {
        let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        read_request(&mut stream).await;
    }
    flush(&webhooks).await;
    assert_eq!(counts(&webhooks), [0, 1, 0]);
}

/// A proxy that answers every request itself with 200, and the first lines of what it was asked.
async fn answering_proxy() -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, requests) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let request = read_request(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            let _ = asked.send(request.lines().next().unwrap_or_default().to_owned()).await;
        }
    });
    (address, requests)
}

#[tokio::test]
async fn a_receiver_on_loopback_is_reached_past_the_proxy_and_others_through_it() {
    let (proxy, mut asked) = answering_proxy().await;
    let matcher = || Matcher::builder().all(format!("http://{proxy}")).build();
    let outgoing = || Outgoing::with_proxies(tls(), Duration::from_secs(5), matcher()).unwrap();
    let post = async |url: &str| {
        // as `App` puts it together
        let client = client_builder(&tls()).proxy(outgoing().http_proxy()).build().unwrap();
        let webhooks = Webhooks::start(&config(url), client, &TaskTracker::new(), CancellationToken::new());
        webhooks.put(event(CallId::new(), CallEvent::Started)).await.unwrap();
        flush(&webhooks).await;
        counts(&webhooks)
    };
    let receiver = Receiver::start(|_| Reply::new(200, "")).await;
    let port = receiver.address.port();
    for host in ["127.0.0.1", "localhost"] {
        assert_eq!(post(&format!("http://{host}:{port}")).await[0], 1, "{host}");
    }
    assert!(asked.try_recv().is_err(), "the proxy was asked for a receiver on loopback");
    post("http://receiver.example:9000/events").await;
    assert_eq!(asked.try_recv().as_deref(), Ok("POST http://receiver.example:9000/events HTTP/1.1"));
}
