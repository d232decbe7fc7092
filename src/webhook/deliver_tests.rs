//! Delivery against a scripted receiver under a stopped clock; real sockets are in `tests/it/webhook.rs`.

use std::collections::HashMap;

use bytes::Bytes;
use futures_core::future::BoxFuture;
use http::StatusCode;
use tokio::time::{advance, sleep};

use super::*;
use crate::{
    call::{EndReason, Role},
    webhook::{
        EndpointConfig, Failed, Unusable,
        endpoint::{Post, Reply, Request},
        schedule::Retry,
    },
};

/// What it does with a request whose body contains the text.
#[derive(Clone, Copy)]
enum Answer {
    Fail(u32),
    Hang(Duration),
    Status(u16, Option<Duration>),
}

#[derive(Default)]
struct Script {
    answers: Vec<(&'static str, Answer)>,
    seen: Mutex<Vec<(Duration, String, String)>>,
    tries: Mutex<HashMap<&'static str, u32>>,
    busy: Mutex<(usize, usize)>,
    start: Mutex<Option<Instant>>,
}

impl Script {
    fn new(answers: &[(&'static str, Answer)]) -> Arc<Self> {
        let start = Mutex::new(Some(Instant::now()));
        Arc::new(Self { answers: answers.to_vec(), start, ..Self::default() })
    }

    fn seen(&self) -> Vec<(Duration, String, String)> {
        self.seen.lock().unwrap().clone()
    }

    fn times_of(&self, text: &str) -> Vec<u64> {
        self.seen().iter().filter(|(_, _, body)| body.contains(text)).map(|(at, ..)| at.as_millis() as u64).collect()
    }

    fn answer(&self, body: &str) -> (Duration, Result<Bytes, Failed>) {
        let Some((text, answer)) = self.answers.iter().find(|(text, _)| body.contains(text)) else {
            return (Duration::ZERO, Ok(Bytes::new()));
        };
        let mut tries = self.tries.lock().unwrap();
        let tries = tries.entry(text).or_default();
        *tries += 1;
        match *answer {
            Answer::Fail(times) if *tries <= times => {
                (Duration::ZERO, Err(Failed::Status(StatusCode::BAD_GATEWAY, None)))
            }
            Answer::Fail(_) => (Duration::ZERO, Ok(Bytes::new())),
            Answer::Hang(time) => (time, Err(Failed::Timeout(time))),
            Answer::Status(status, asked) => {
                (Duration::ZERO, Err(Failed::Status(StatusCode::from_u16(status).unwrap(), asked)))
            }
        }
    }
}

impl Post for Script {
    fn post(&self, request: Request) -> BoxFuture<'_, Reply> {
        Box::pin(async move {
            let body = String::from_utf8(request.body.to_vec()).unwrap();
            let at = self.start.lock().unwrap().unwrap().elapsed();
            self.seen.lock().unwrap().push((at, request.id.to_string(), body.clone()));
            {
                let mut busy = self.busy.lock().unwrap();
                busy.0 += 1;
                busy.1 = busy.1.max(busy.0);
            }
            let (wait, result) = self.answer(&body);
            sleep(wait).await;
            self.busy.lock().unwrap().0 -= 1;
            Reply { status: None, result, refusal: Bytes::new() }
        })
    }
}

fn started(script: &Arc<Script>, config: &Config) -> (Webhooks, TaskTracker, CancellationToken) {
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let outbox = Arc::new(MemoryOutbox::new(config.capacity));
    let config = Config { url: Some("http://h/".to_owned()), ..config.clone() };
    let receivers = config.receivers().into_iter().map(|(name, ready)| {
        receiver(&name, ready.unwrap(), Arc::clone(script) as Arc<dyn Post>, Keyring::default(), None)
    });
    let webhooks = Webhooks::run(&config, receivers.collect(), (outbox, false), &tracker, cancel.clone());
    (webhooks, tracker, cancel)
}

fn envelope(call: CallId, event: CallEvent) -> Envelope {
    Envelope { id: EventId::new(), call, uuid: Uuid::nil(), at: SystemTime::UNIX_EPOCH, event }
}

fn said(call: CallId, text: &str) -> Envelope {
    envelope(call, CallEvent::Transcription { role: Role::User, text: text.to_owned() })
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

#[tokio::test(start_paused = true)]
async fn retries_double_their_wait_and_repeat_the_same_bytes() {
    let script = Script::new(&[("one", Answer::Fail(u32::MAX))]);
    let (webhooks, ..) = started(&script, &Config { retry: Retry::Times(4), ..Config::default() });
    let call = CallId::new();
    webhooks.put(said(call, "one")).await.unwrap();
    webhooks.put(said(call, "two")).await.unwrap();
    assert_eq!(webhooks.flush(far()).await, 0);

    assert_eq!(script.times_of("one"), [0, 1_000, 3_000, 7_000, 15_000]);
    assert_eq!(script.times_of("two"), [15_000], "the next event of the call came before the first was given up");
    let seen = script.seen();
    assert!(seen[..5].iter().all(|request| request.1 == seen[0].1 && request.2 == seen[0].2));
    let stats = webhooks.stats();
    let counts = [&stats.queued, &stats.delivered, &stats.failed, &stats.lost, &stats.retried];
    assert_eq!(counts.map(|count| count.load(Relaxed)), [0, 1, 1, 0, 4]);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_taken_at_last_lets_the_next_go_at_once() {
    let script = Script::new(&[("one", Answer::Fail(2))]);
    let (webhooks, ..) = started(&script, &Config { retry: Retry::Times(5), ..Config::default() });
    let call = CallId::new();
    for text in ["one", "two", "three"] {
        webhooks.put(said(call, text)).await.unwrap();
    }
    assert_eq!(webhooks.flush(far()).await, 0);
    assert_eq!(
        [script.times_of("one"), script.times_of("two"), script.times_of("three")],
        [vec![0, 1_000, 3_000], vec![3_000], vec![3_000]]
    );
    assert_eq!(webhooks.stats().failed.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn one_call_that_fails_delays_no_other_and_takes_no_slot_while_it_waits() {
    let script = Script::new(&[("bad", Answer::Fail(u32::MAX))]);
    let (webhooks, ..) = started(&script, &Config { retry: Retry::Times(8), concurrency: 1, ..Config::default() });
    webhooks.put(said(CallId::new(), "bad")).await.unwrap();
    for n in 0..50 {
        webhooks.put(said(CallId::new(), &format!("good {n}"))).await.unwrap();
    }
    assert_eq!(webhooks.flush(far()).await, 0);
    assert_eq!(script.times_of("good"), vec![0; 50]);
}

#[tokio::test(start_paused = true)]
async fn the_contracts_receiver_gets_the_contracts_types_only() {
    let script = Script::new(&[]);
    let (webhooks, ..) = started(&script, &Config::default());
    let call = CallId::new();
    let fault = crate::call::Fault { code: "agent.sts.refused", message: "x".to_owned() };
    for event in [CallEvent::Started, CallEvent::ServiceFailed(fault), CallEvent::Ended(EndReason::AgentFailed)] {
        webhooks.put(envelope(call, event)).await.unwrap();
    }
    assert_eq!(webhooks.flush(far()).await, 0);
    assert_eq!(script.seen().len(), 2);
    assert!(script.times_of("service_failed").is_empty());
}

#[tokio::test(start_paused = true)]
async fn requests_under_way_are_bounded() {
    let script = Script::new(&[("e", Answer::Hang(Duration::from_secs(3)))]);
    let (webhooks, ..) = started(&script, &Config { concurrency: 4, ..Config::default() });
    for _ in 0..10 {
        webhooks.put(envelope(CallId::new(), CallEvent::Started)).await.unwrap();
    }
    assert_eq!(webhooks.flush(far()).await, 0);
    assert_eq!(script.busy.lock().unwrap().1, 4);
    assert_eq!(script.times_of("call_started"), [0, 0, 0, 0, 3_000, 3_000, 3_000, 3_000, 6_000, 6_000]);
}

#[tokio::test(start_paused = true)]
async fn flush_says_what_is_left_at_its_deadline_and_cancelling_ends_everything() {
    let script = Script::new(&[("stuck", Answer::Hang(Duration::from_secs(600)))]);
    let (webhooks, tracker, cancel) = started(&script, &Config::default());
    let stuck = CallId::new();
    webhooks.put(said(stuck, "stuck")).await.unwrap();
    webhooks.put(envelope(stuck, CallEvent::Ended(EndReason::Shutdown))).await.unwrap();
    webhooks.put(said(CallId::new(), "fine")).await.unwrap();
    let begin = Instant::now();
    assert_eq!(webhooks.flush(begin + Duration::from_secs(5)).await, 2);
    assert_eq!(begin.elapsed(), Duration::from_secs(5));

    cancel.cancel();
    assert_eq!(webhooks.flush(far()).await, 2);
    tracker.close();
    tracker.wait().await;
    assert_eq!(begin.elapsed(), Duration::from_secs(5), "a task outlived its cancellation");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_lost_counted_and_reported_now_and_then() {
    let script = Script::new(&[("e", Answer::Hang(Duration::from_secs(600)))]);
    let (webhooks, ..) = started(&script, &Config { capacity: 10, ..Config::default() });
    let call = CallId::new();
    let mut lost = 0;
    for n in 0..1_000 {
        lost += u64::from(webhooks.put(said(call, &n.to_string())).await.is_err());
    }
    let stats = webhooks.stats();
    assert_eq!((lost, stats.lost.load(Relaxed), stats.queued.load(Relaxed)), (991, 991, 9));
    let unreported = |webhooks: &Webhooks| webhooks.shared.loud.lock().unwrap().lost;
    assert_eq!(unreported(&webhooks), 990, "one line for the first, then silence");
    advance(LOUD_EVERY).await;
    assert!(webhooks.put(said(call, "x")).await.is_err());
    assert_eq!(unreported(&webhooks), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failing_call_initiated_is_one_attempt_that_no_event_waits_for() {
    let script = Script::new(&[("call_initiated", Answer::Hang(Duration::from_secs(3)))]);
    let (webhooks, ..) = started(&script, &Config { retry: Retry::Times(5), concurrency: 1, ..Config::default() });
    let payload = Map::new();
    let (answer, ()) = tokio::join!(webhooks.initiate(CallId::new(), Uuid::nil(), &payload), async {
        webhooks.put(envelope(CallId::new(), CallEvent::Started)).await.unwrap();
        webhooks.flush(far()).await;
    });
    assert_eq!(answer, Err(Failed::Timeout(Duration::from_secs(3))));
    assert_eq!(script.times_of("call_initiated"), [0]);
    assert_eq!(script.times_of("call_started"), [0]);
}

#[tokio::test]
async fn without_a_usable_receiver_everything_is_taken_and_nothing_sent() {
    let client = || reqwest::Client::builder().tls_backend_preconfigured(tls()).build().unwrap();
    let tracker = TaskTracker::new();
    for url in [None, Some(""), Some("no url"), Some("ftp://host/"), Some("http://")] {
        let config = Config { url: url.map(str::to_owned), ..Config::default() };
        assert_eq!(config.check().is_err(), url.is_some_and(|url| !url.is_empty()), "{url:?}");
        let webhooks = Webhooks::start(&config, client(), &tracker, CancellationToken::new());
        assert!(!webhooks.enabled());
        webhooks.put(envelope(CallId::new(), CallEvent::Started)).await.unwrap();
        assert_eq!(webhooks.flush(far()).await, 0);
        assert_eq!(webhooks.initiate(CallId::new(), Uuid::nil(), &Map::new()).await, Err(Failed::Disabled));
    }
    assert!(tracker.is_empty());
    let config = Config { url: Some("http://h/".to_owned()), secret: Some("a\r\nb".to_owned()), ..Config::default() };
    assert_eq!(config.check(), Err(Unusable::Header("secret")));
}

fn tls() -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

fn also(name: &str, endpoint: EndpointConfig) -> Config {
    let endpoint = EndpointConfig { url: Some("http://other/".to_owned()), ..endpoint };
    Config { endpoints: [(name.to_owned(), endpoint)].into(), ..Config::default() }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_gets_no_more_than_its_rate() {
    let script = Script::new(&[]);
    let config =
        also("slow", EndpointConfig { rate: 4.0, events: vec!["turn".to_owned()], ..EndpointConfig::default() });
    let (webhooks, ..) = started(&script, &config);
    let turn = crate::call::Turn { latency: None, heard: Duration::ZERO, cut: false };
    sleep(Duration::from_secs(60)).await;
    for _ in 0..5 {
        webhooks.put(envelope(CallId::new(), CallEvent::Turn(turn))).await.unwrap();
        webhooks.put(envelope(CallId::new(), CallEvent::Started)).await.unwrap();
    }
    assert_eq!(webhooks.flush(far()).await, 0);
    assert_eq!(script.times_of("\"turn\""), [60_000, 60_250, 60_500, 60_750, 61_000], "a pause saves nothing up");
    assert_eq!(script.times_of("call_started"), vec![60_000; 5], "endpoints do not wait for each other");
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for_and_a_refusal_is_final() {
    let script = Script::new(&[
        ("busy", Answer::Status(429, Some(Duration::from_secs(40)))),
        ("never", Answer::Status(400, None)),
    ]);
    let (webhooks, ..) = started(&script, &Config { retry: Retry::Times(2), ..Config::default() });
    webhooks.put(said(CallId::new(), "busy")).await.unwrap();
    webhooks.put(said(CallId::new(), "never")).await.unwrap();
    assert_eq!(webhooks.flush(far()).await, 0);
    assert_eq!(script.times_of("busy"), [0, 40_000, 80_000]);
    assert_eq!(script.times_of("never"), [0]);
    assert_eq!(webhooks.stats().failed.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn who_answers_410_gets_nothing_more_and_the_others_hear_of_it() {
    let script = Script::new(&[("gone", Answer::Status(410, None))]);
    let config =
        also("ops", EndpointConfig { events: vec!["endpoint_disabled".to_owned()], ..EndpointConfig::default() });
    let (webhooks, ..) = started(&script, &Config { retry: Retry::Times(5), ..config });
    let call = CallId::new();
    webhooks.put(said(call, "gone")).await.unwrap();
    for n in 0..10 {
        webhooks.put(said(call, &format!("later {n}"))).await.unwrap();
    }
    assert_eq!(webhooks.flush(far()).await, 0);
    let seen = script.seen();
    assert_eq!(seen.len(), 2, "{seen:?}");
    let told: Value = serde_json::from_str(&seen[1].2).unwrap();
    assert_eq!(told["type"], "endpoint_disabled");
    assert_eq!(told["payload"]["endpoint"], "default");
    let stats = webhooks.stats();
    assert_eq!((stats.failed.load(Relaxed), stats.delivered.load(Relaxed)), (11, 1));
    assert_eq!(webhooks.initiate(CallId::new(), Uuid::nil(), &Map::new()).await, Err(Failed::Gone));
}
