//! Several receivers, each with its own events, requests, credentials and signatures.

use std::{collections::BTreeMap, io::Write as _, sync::Arc, time::Duration, time::SystemTime};

use futures_core::future::BoxFuture;
use hark::{
    call::{CallEvent, CallId, EndReason, Envelope, EventId, Fault, Role},
    webhook::{
        Config, EndpointConfig, EndpointStore, MemoryOutbox, Outbox, Webhooks,
        schedule::Retry,
        sign::Keys,
        store::{Filter, State, Store},
    },
};
use serde_json::{Map, Value, json};
use tokio::{sync::Mutex, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::{
    PATIENCE, client,
    log::Log,
    receiver::{Receiver, Reply, Seen},
    stores,
};

const UUID: Uuid = Uuid::from_u128(0x0192_f4c0_5a3e_7c1b_8d2e_0123_4567_89ab);
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn endpoint(url: &str, events: &[&str]) -> EndpointConfig {
    let events = events.iter().map(|event| (*event).to_owned()).collect();
    EndpointConfig { url: Some(url.to_owned()), events, retry: Retry::Times(0), ..EndpointConfig::default() }
}

fn config(endpoints: impl IntoIterator<Item = (&'static str, EndpointConfig)>) -> Config {
    let endpoints: BTreeMap<_, _> = endpoints.into_iter().map(|(name, to)| (name.to_owned(), to)).collect();
    Config { endpoints, ..Config::default() }
}

fn start(config: &Config) -> Webhooks {
    config.check().unwrap();
    Webhooks::start(config, client(), &TaskTracker::new(), CancellationToken::new())
}

fn whole_call(call: CallId) -> Vec<Envelope> {
    let begin = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_268_800_000);
    [
        CallEvent::Started,
        CallEvent::Transcription { role: Role::User, text: "Grüß Gott".to_owned() },
        CallEvent::ServiceFailed(Fault { code: "agent.sts.lost", message: "gone".to_owned() }),
        CallEvent::Ended(EndReason::AgentFailed),
    ]
    .into_iter()
    .enumerate()
    .map(|(n, event)| {
        let at = begin + Duration::from_secs(n as u64);
        Envelope { id: EventId::new(), call, uuid: UUID, at, event }
    })
    .collect()
}

async fn deliver(webhooks: &Webhooks, events: &[Envelope]) {
    for event in events {
        webhooks.put(event.clone()).await.unwrap();
    }
    assert_eq!(webhooks.flush(Instant::now() + PATIENCE).await, 0, "events are left");
}

fn metadata() -> Map<String, Value> {
    json!({"from": "2000", "name": "Ada \"L\"", "ticket": 7, "vip": true}).as_object().unwrap().clone()
}

fn kinds(seen: &[Seen]) -> Vec<String> {
    seen.iter().map(Seen::kind).collect()
}

fn verifies(seen: &Seen, keys: &str) -> bool {
    let timestamp = seen.header("webhook-timestamp").unwrap().parse().unwrap();
    let expected =
        keys.parse::<Keys>().unwrap().sign(seen.header("webhook-id").unwrap(), timestamp, seen.body.as_bytes());
    let fresh = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().abs_diff(timestamp) < 60;
    fresh && seen.header("webhook-signature") == Some(&expected)
}

#[tokio::test]
async fn each_gets_what_it_subscribed_to_with_numbers_of_its_own() {
    let [contract, all, few] = [Receiver::strict("s").await, Receiver::kind().await, Receiver::kind().await];
    let config =
        config([("all", endpoint(&all.url, &["*"])), ("few", endpoint(&few.url, &["call_completed", "call_ended"]))]);
    let webhooks = start(&Config { url: Some(contract.url.clone()), secret: Some("s".to_owned()), ..config });
    let call = CallId::new();
    webhooks.describe(call, &metadata());
    let events = whole_call(call);
    deliver(&webhooks, &events).await;

    let (contract, all, few) = (contract.seen(), all.seen(), few.seen());
    assert_eq!(kinds(&contract), ["call_started", "transcription", "call_ended"]);
    assert_eq!(kinds(&all), ["call_started", "transcription", "service_failed", "call_ended", "call_completed"]);
    assert_eq!(kinds(&few), ["call_ended", "call_completed"]);
    for seen in [&contract, &all, &few] {
        let numbers: Vec<_> = seen.iter().map(|seen| seen.header("hark-sequence").unwrap().to_owned()).collect();
        assert_eq!(numbers, (1..=seen.len()).map(|n| n.to_string()).collect::<Vec<_>>(), "gapless for each");
        assert!(seen.iter().all(|seen| seen.header("hark-call-id") == Some(&call.to_string())));
    }
    assert!(contract.iter().all(|seen| seen.header("x-avr-webhook-secret") == Some("s")));
    assert!(
        all.iter().chain(&few).all(|seen| seen.header("x-avr-webhook-secret").is_none()),
        "WEBHOOK_SECRET is not theirs"
    );
    assert_eq!(contract[2].header("webhook-id"), all[3].header("webhook-id"), "one event, one identity");
    assert_eq!(contract[2].body, all[3].body);
    let report = all[4].json();
    assert_eq!(report["payload"]["metadata"], Value::from(metadata()));
    assert_eq!(report["payload"]["transcript"][0]["text"], "Grüß Gott");
    assert_eq!((&report["payload"]["reason"], &report["payload"]["duration_s"]), (&json!("agent.failed"), &json!(3.0)));
    assert_eq!(report.as_object().unwrap().keys().collect::<Vec<_>>(), ["uuid", "type", "timestamp", "payload"]);
}

#[tokio::test]
async fn call_initiated_is_one_event_for_everybody_and_the_contracts_receiver_decides() {
    let deciding = Receiver::overriding(json!({"sts_url": "ws://h"})).await;
    let (other, refusing) = (Receiver::kind().await, Receiver::start(|_| Reply::new(500, "")).await);
    let to_other = config([("other", endpoint(&other.url, &["call_initiated"]))]);
    let webhooks = start(&Config { url: Some(deciding.url.clone()), ..to_other.clone() });
    assert_eq!(webhooks.initiate(CallId::new(), UUID, &metadata()).await.unwrap()["sts_url"], "ws://h");
    let (asked, told) = (deciding.wait_for(1).await.remove(0), other.wait_for(1).await.remove(0));
    assert_eq!((&asked.body, asked.header("webhook-id")), (&told.body, told.header("webhook-id")));
    assert_eq!(told.json()["payload"], Value::from(metadata()));

    let webhooks = start(&Config { url: Some(refusing.url.clone()), ..to_other });
    webhooks.initiate(CallId::new(), UUID, &metadata()).await.unwrap_err();
    other.wait_for(2).await;
    assert_eq!(refusing.seen().len(), 1, "it is asked once");
}

#[tokio::test]
async fn requests_are_signed_with_every_active_secret_and_the_same_bytes_at_each_attempt() {
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let receiver = Receiver::start(move |_| {
        let first = tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2;
        Reply::new(if first { 503 } else { 204 }, "")
    })
    .await;
    let two = format!("{} {KEY}", Keys::fresh().expose());
    let webhooks = start(&Config {
        url: Some(receiver.url.clone()),
        signing_secret: Some(two.clone()),
        retry: Retry::Times(2),
        backoff_ms: 1,
        ..Config::default()
    });
    deliver(&webhooks, &whole_call(CallId::new())[1..2]).await;
    let seen = receiver.seen();
    assert_eq!(seen.len(), 3);
    for (n, seen) in seen.iter().enumerate() {
        assert!(verifies(seen, &two), "{:?}", seen.headers);
        assert_eq!(seen.header("webhook-signature").unwrap().split(' ').count(), 2);
        assert_eq!(seen.header("hark-attempt"), Some((n + 1).to_string().as_str()));
    }
    let same = |of: fn(&Seen) -> String| seen.iter().all(|seen_now| of(seen_now) == of(&seen[0]));
    assert!(same(|seen| seen.body.clone()) && same(|seen| seen.header("webhook-id").unwrap().to_owned()));
    assert_eq!(seen[0].header("hark-sequence"), seen[2].header("hark-sequence"));
}

#[tokio::test]
async fn a_dograh_receiver_gets_its_own_body_headers_credential_and_address() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"t0ken\n").unwrap();
    // strict as a CRM is: exactly these members, this credential, this method
    let receiver = Receiver::start(|seen| {
        let wanted = json!({
            "run_id": UUID, "customer": {"Ada \"L\"": "2000"}, "ticket": "7", "vip": "True", "disposition": "agent.failed",
            "seconds": "3.0", "missing": "", "call": "nobody",
        });
        let authorised = seen.header("authorization") == Some("Bearer t0ken");
        let right = seen.method == "PUT" && seen.json() == wanted && authorised && seen.header("x-tenant") == Some("acme");
        if right { Reply::new(200, "") } else { Reply::new(422, "") }
    })
    .await;
    let payload = json!({
        "run_id": "{{workflow_run_id}}", "customer": {"{{initial_context.name}}": "{{initial_context.from}}"},
        "ticket": "{{initial_context.ticket}}", "vip": "{{ initial_context.vip }}",
        "disposition": "{{gathered_context.call_disposition}}", "seconds": "{{cost_info.call_duration_seconds}}",
        "missing": "{{transcript_url}}", "call": "{{no.such | nobody}}",
    })
    .to_string();
    let mut to = endpoint(
        &format!("{}/t/{{{{initial_context.name}}}}?n={{{{initial_context.ticket}}}}", receiver.url),
        &["call_ended"],
    );
    to.method = "put".to_owned();
    to.headers = [("X-Tenant".to_owned(), "acme".to_owned())].into();
    to.auth = serde_json::from_str("\"BEARER_TOKEN\"").unwrap();
    to.auth_from = Some(format!("file:{}", file.path().display()));
    (to.payload, to.signing_secret) = (Some(payload), Some(KEY.to_owned()));
    let webhooks = start(&config([("crm", to)]));
    let call = CallId::new();
    webhooks.describe(call, &metadata());
    deliver(&webhooks, &whole_call(call)).await;
    let seen = receiver.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(webhooks.stats().delivered.load(std::sync::atomic::Ordering::Relaxed), 1, "{}", seen[0].body);
    assert_eq!(seen[0].path, "/events/t/Ada%20%22L%22?n=7");
    assert!(verifies(&seen[0], KEY));
}

#[tokio::test]
async fn without_a_value_for_its_address_or_without_its_credential_an_event_is_not_sent() {
    let log = Log::start();
    let receiver = Receiver::kind().await;
    let by_url = endpoint(&format!("{}/{{{{initial_context.secret_word}}}}", receiver.url), &["call_ended"]);
    let mut by_credential = endpoint(&receiver.url, &["call_ended"]);
    by_credential.auth = serde_json::from_str("\"API_KEY\"").unwrap();
    by_credential.auth_from = Some("env:HARK_TEST_NOT_SET".to_owned());
    let webhooks = start(&config([("by-url", by_url), ("by-credential", by_credential)]));
    deliver(&webhooks, &whole_call(CallId::new())).await;
    assert!(receiver.seen().is_empty());
    assert_eq!(webhooks.stats().failed.load(std::sync::atomic::Ordering::Relaxed), 2);
    assert_eq!(log.count("{{initial_context.secret_word}} has no value"), 1, "{}", log.text());
    assert_eq!(log.count("HARK_TEST_NOT_SET"), 1, "{}", log.text());
}

#[tokio::test]
async fn get_and_delete_have_no_body_and_are_signed_all_the_same() {
    let receiver = Receiver::kind().await;
    let mut to = endpoint(&format!("{}/{{{{uuid}}}}", receiver.url), &["call_ended"]);
    (to.method, to.signing_secret) = ("DELETE".to_owned(), Some(KEY.to_owned()));
    deliver(&start(&config([("x", to)])), &whole_call(CallId::new())).await;
    let seen = receiver.seen().remove(0);
    assert_eq!((seen.method.as_str(), seen.body.as_str(), seen.path), ("DELETE", "", format!("/events/{UUID}")));
    assert!(seen.headers.get("content-type").is_none());
}

#[tokio::test]
async fn a_value_of_a_call_cannot_choose_a_host_that_is_not_allowed() {
    let receiver = Receiver::kind().await;
    let port = receiver.address.port();
    let to = endpoint(&format!("http://{{{{initial_context.host}}}}:{port}/"), &["call_ended"]);
    let config = Config {
        allow_hosts: vec!["127.0.0.1".parse().unwrap(), "169.254.0.0/16".parse().unwrap()],
        ..config([("x", to)])
    };
    let webhooks = start(&config);
    for host in ["169.254.169.254", "127.0.0.2", "localhost", "evil.example", "127.0.0.1"] {
        let call = CallId::new();
        webhooks.describe(call, json!({ "host": host }).as_object().unwrap());
        deliver(&webhooks, &whole_call(call)[3..]).await;
    }
    let stats = webhooks.stats();
    let count = |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((receiver.seen().len(), count(&stats.delivered), count(&stats.failed)), (1, 1, 4));
}

#[tokio::test]
async fn what_is_redacted_is_so_in_every_event_report_and_template() {
    let receiver = Receiver::kind().await;
    let mut templated = endpoint(&receiver.url, &["*"]);
    templated.payload = Some(r#"{"all":"{{payload}} {{transcript}} {{initial_context}}"}"#.to_owned());
    let endpoints = config([("plain", endpoint(&receiver.url, &["*"])), ("templated", templated)]);
    let redact = vec!["transcription.text".to_owned(), "call_initiated.name".to_owned()];
    let webhooks = start(&Config { redact, ..endpoints });
    let call = CallId::new();
    webhooks.describe(call, &metadata());
    webhooks.initiate(CallId::new(), UUID, &metadata()).await.unwrap_err();
    deliver(&webhooks, &whole_call(call)).await;
    let seen = receiver.wait_for(12).await;
    assert!(seen.iter().all(|seen| !seen.body.contains("Gott") && !seen.body.contains("Ada")), "{seen:?}");
    assert!(seen.iter().filter(|seen| seen.body.contains("[redacted]")).count() >= 4);
}

/// A store as the outbox on a disk has one.
#[derive(Default)]
struct Table(Mutex<(Option<String>, Option<String>, bool)>);

impl EndpointStore for Table {
    fn load<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, String>> {
        Box::pin(async { Ok(self.0.lock().await.0.clone()) })
    }

    fn establish<'a>(&'a self, _: &'a str, keys: &'a str) -> BoxFuture<'a, Result<String, String>> {
        Box::pin(async {
            let mut table = self.0.lock().await;
            if table.2 {
                return Err("the database does not work".to_owned());
            }
            Ok(table.0.get_or_insert_with(|| keys.to_owned()).clone())
        })
    }

    fn disabled<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, String>> {
        Box::pin(async { Ok(self.0.lock().await.1.clone()) })
    }

    fn disable<'a>(&'a self, _: &'a str, reason: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async {
            self.0.lock().await.1 = Some(reason.to_owned());
            Ok(())
        })
    }
}

fn with_table(config: &Config, table: &Arc<Table>) -> Webhooks {
    let store: Arc<dyn EndpointStore> = Arc::clone(table) as _;
    let outbox = Arc::new(MemoryOutbox::new(100));
    Webhooks::with_store(config, client(), (outbox, Some(store)), &TaskTracker::new(), CancellationToken::new())
}

#[tokio::test]
async fn a_secret_that_nobody_configured_is_made_kept_and_never_done_without() {
    let receiver = Receiver::overriding(json!({})).await;
    let config = Config { url: Some(receiver.url.clone()), retry: Retry::Times(1), backoff_ms: 1, ..Config::default() };
    let table = Arc::new(Table::default());
    table.0.lock().await.2 = true;
    let webhooks = with_table(&config, &table);
    deliver(&webhooks, &whole_call(CallId::new())[3..]).await;
    assert!(receiver.seen().is_empty(), "sent without a signature");
    table.0.lock().await.2 = false;
    deliver(&webhooks, &whole_call(CallId::new())[3..]).await;
    webhooks.initiate(CallId::new(), UUID, &Map::new()).await.unwrap();
    let again = with_table(&config, &table);
    deliver(&again, &whole_call(CallId::new())[3..]).await;
    let kept = table.0.lock().await.0.clone().unwrap();
    let seen = receiver.seen();
    assert!(seen.len() == 3 && seen.iter().all(|seen| verifies(seen, &kept)));
}

#[tokio::test]
async fn that_an_endpoint_is_disabled_outlives_a_restart() {
    let receiver = Receiver::start(|_| Reply::new(410, "")).await;
    let config = Config { url: Some(receiver.url.clone()), retry: Retry::Durable, ..Config::default() };
    let table = Arc::new(Table::default());
    deliver(&with_table(&config, &table), &whole_call(CallId::new())[..2]).await;
    deliver(&with_table(&config, &table), &whole_call(CallId::new())[..2]).await;
    assert_eq!(receiver.seen().len(), 1);
}

fn with_sqlite(config: &Config, store: &Store) -> Webhooks {
    let kept: Arc<dyn EndpointStore> = Arc::new(store.clone());
    let outbox: Arc<dyn Outbox> = Arc::new(store.clone());
    Webhooks::with_store(config, client(), (outbox, Some(kept)), &TaskTracker::new(), CancellationToken::new())
}

#[tokio::test]
async fn a_real_store_keeps_secrets_numbers_dead_letters_and_what_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let deciding = Receiver::as_shipped("s", 1_000).await;
    let gone = Receiver::start(|_| Reply::new(410, "")).await;
    let crm = Receiver::kind().await;
    let endpoints =
        config([("crm", endpoint(&crm.url, &["*"])), ("gone", endpoint(&gone.url, &["call_started", "call_ended"]))]);
    let config = Config { url: Some(deciding.url.clone()), secret: Some("s".to_owned()), ..endpoints };
    for round in 1..=2 {
        let store = stores::open(&stores::sqlite(dir.path())).await;
        let webhooks = with_sqlite(&config, &store);
        webhooks.initiate(CallId::new(), UUID, &metadata()).await.unwrap_err();
        let call = CallId::new();
        webhooks.describe(call, &metadata());
        deliver(&webhooks, &whole_call(call)).await;
        crm.wait_for(round * 6 + 1).await;
        assert_eq!(gone.seen().len(), 1, "a disabled endpoint is asked again in round {round}");
        let key = store.secrets("crm").await.unwrap().remove(0).secret;
        assert!(crm.seen().iter().all(|seen| verifies(seen, &key)), "another secret in round {round}");
        assert_ne!(key, store.secrets("default").await.unwrap().remove(0).secret, "one secret for two");
        let filter = Filter { state: Some(State::Dead), limit: 100, ..Filter::default() };
        let dead = || store.list(&filter);
        let asked = async {
            loop {
                let dead = dead().await.unwrap();
                let asked = dead.iter().filter(|dead| dead.kind == "call_initiated").count();
                let of_gone = dead.iter().filter(|dead| dead.endpoint == "gone").count();
                if (asked, of_gone) == (round, round * 2) {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("what was given up is no dead letter");
        store.close(Instant::now() + PATIENCE).await;
    }
    let of_calls = |seen: &[Seen]| {
        seen.iter()
            .filter(|seen| seen.kind() == "call_completed")
            .map(|seen| seen.header("hark-sequence").unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(of_calls(&crm.seen()), ["5", "5"]);
}
