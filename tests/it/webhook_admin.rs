//! Operating webhooks: `hark webhooks` beside a gateway that runs, and the same by `/api/webhooks`.

use std::{
    path::Path,
    process::Output,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use hark::config::Config;
use serde_json::{Value, json};
use tokio::process::Command;
use url::Url;

use crate::support::{
    PATIENCE, client,
    gateway::{Gateway, Line},
    receiver::{Receiver, Reply},
};

async fn hark(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hark"));
    command.arg("webhooks").args(args).env_clear().env("HARK_DATA_DIR", dir).current_dir(dir);
    tokio::time::timeout(PATIENCE * 3, command.output()).await.unwrap().unwrap()
}

async fn told(dir: &Path, args: &[&str]) -> String {
    let output = hark(dir, args).await;
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {out}{err}");
    out
}

async fn refused(dir: &Path, args: &[&str]) -> String {
    let output = hark(dir, args).await;
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    assert!(output.stdout.is_empty(), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A receiver that answers with these, and then with 200.
async fn answering(statuses: &'static [u16]) -> Receiver {
    let asked = AtomicUsize::new(0);
    let status = move || statuses.get(asked.fetch_add(1, Relaxed)).copied().unwrap_or(200);
    Receiver::start(move |_| Reply::new(status(), "{}")).await
}

/// A gateway whose events go to `receiver` and are kept in `dir`.
async fn gateway(dir: &Path, receiver: &Receiver, change: impl FnOnce(&mut Config)) -> Gateway {
    let builtin = Url::parse("builtin:").unwrap();
    Gateway::with(&builtin, |config| {
        config.data_dir = dir.to_owned();
        config.webhooks.url = Some(receiver.url.clone());
        change(config);
    })
    .await
}

/// A call from beginning to end, by its events.
async fn call(gateway: &Gateway) {
    let line = Line::call(gateway.audiosocket).await;
    gateway.until("hark_calls_active", 1).await;
    drop(line);
    gateway.until("hark_calls_active", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_and_sent_again_beside_a_gateway_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = answering(&[422, 422]).await;
    let gateway = gateway(dir.path(), &receiver, |_| {}).await;
    call(&gateway).await;
    gateway.until("hark_webhook_failed_total", 2).await;

    let dead = lines(&told(dir.path(), &["list", "--state", "dead", "--json"]).await);
    let kinds: Vec<_> = dead.iter().map(|one| (one["type"].clone(), one["status"].clone())).collect();
    assert_eq!(kinds, [(json!("call_ended"), json!(422)), (json!("call_started"), json!(422))]);
    let table = told(dir.path(), &["list"]).await;
    assert!(table.starts_with("EVENT ") && table.lines().count() == 3, "{table}");
    let started = dead[1]["event"].as_str().unwrap();
    let shown: Value = serde_json::from_str(&told(dir.path(), &["show", started]).await).unwrap();
    assert_eq!(shown["body"]["type"], "call_started");
    assert_eq!(shown["attempts"][0]["status"], 422);
    assert_eq!(shown["attempts"].as_array().unwrap().len(), 1);

    assert_eq!(told(dir.path(), &["retry", started]).await, "1 to be sent again\n");
    gateway.until("hark_webhook_delivered_total", 1).await;
    assert_eq!(told(dir.path(), &["retry-dead", "--endpoint", "nobody"]).await, "0 to be sent again\n");
    assert_eq!(told(dir.path(), &["retry-dead"]).await, "1 to be sent again\n");
    gateway.until("hark_webhook_delivered_total", 2).await;
    let seen: Vec<Value> = receiver.seen().iter().map(|seen| serde_json::from_str(&seen.body).unwrap()).collect();
    let kinds: Vec<_> = seen.iter().map(|body| body["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["call_started", "call_ended", "call_started", "call_ended"]);
    assert_eq!(seen[0], seen[2], "the same bytes at every attempt");

    let why = refused(dir.path(), &["retry", "00000000-0000-0000-0000-000000000001"]).await;
    assert!(why.contains("there is no event"), "{why}");
    assert_eq!(told(dir.path(), &["purge", "--delivered-days", "0", "--dead-days", "0"]).await, "2 deleted\n");
    assert_eq!(told(dir.path(), &["list"]).await, "none\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_event_goes_through_the_gateway_and_its_answer_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = answering(&[201, 400]).await;
    let why = refused(dir.path(), &["test"]).await;
    assert!(why.contains("there is no database"), "{why}");
    let gateway = gateway(dir.path(), &receiver, |_| {}).await;
    let said = told(dir.path(), &["test"]).await;
    assert!(said.starts_with("default has taken it: ") && said.contains("\"status\":201"), "{said}");
    let why = refused(dir.path(), &["test"]).await;
    assert!(why.contains("has not taken it") && why.contains("400"), "{why}");
    let why = refused(dir.path(), &["test", "crm", "--wait", "0"]).await;
    assert!(why.contains("nobody has tried"), "{why}");
    drop(gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_says_the_same_to_whoever_may_ask() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = answering(&[404]).await;
    let gateway = gateway(dir.path(), &receiver, |_| {}).await;
    call(&gateway).await;
    gateway.until("hark_webhook_delivered_total", 1).await;
    let api = |path: &str| format!("http://{}/api/webhooks{path}", gateway.http);
    let get = async |path: &str| client().get(api(path)).send().await.unwrap();
    let post = async |path: &str, body: Value| client().post(api(path)).json(&body).send().await.unwrap();

    let all: Value = get("").await.json().await.unwrap();
    assert_eq!(all["endpoints"]["default"]["dead"], 1, "{all}");
    let page: Value = get("/deliveries?limit=1").await.json().await.unwrap();
    assert_eq!(page["deliveries"][0]["type"], "call_ended");
    let rest: Value =
        get(&format!("/deliveries?before={}", page["next"].as_str().unwrap())).await.json().await.unwrap();
    let started = &rest["deliveries"][0];
    assert_eq!(
        (&started["type"], &started["state"], &rest["next"]),
        (&json!("call_started"), &json!("dead"), &Value::Null)
    );
    let path = format!("/deliveries/{}", started["event"].as_str().unwrap());
    let shown: Value = get(&path).await.json().await.unwrap();
    assert_eq!(shown["deliveries"][0]["attempts"][0]["status"], 404);
    let answer: Value = post(&format!("{path}/retry"), json!({"endpoint": "default"})).await.json().await.unwrap();
    assert_eq!(answer, json!({"retried": 1}));
    gateway.until("hark_webhook_delivered_total", 2).await;
    let answer: Value = post("/retry-dead", json!({})).await.json().await.unwrap();
    assert_eq!(answer, json!({"retried": 0}));

    for path in ["/deliveries?state=gone", "/deliveries?colour=red", "/deliveries/x", "/deliveries?uuid=x"] {
        assert_eq!(get(path).await.status(), 400, "{path}");
    }
    for body in [json!({"endpoint": 7}), json!({"endpoints": "x"}), json!("x")] {
        assert_eq!(post("/retry-dead", body.clone()).await.status(), 400, "{body}");
    }
    let unknown = "/deliveries/00000000-0000-0000-0000-000000000001";
    assert_eq!(get(unknown).await.status(), 404);
    assert_eq!(post(&format!("{unknown}/retry"), json!({})).await.status(), 404);
    // what a page in somebody's browser could send
    let form = client().post(api("/retry-dead")).header("content-type", "text/plain").body("{}").send().await.unwrap();
    assert_eq!(form.status(), 403);
    let rebound = client().get(api("")).header("host", "evil.example").send().await.unwrap();
    assert_eq!(rebound.status(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_only_who_knows_it() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = answering(&[]).await;
    let token = "a-token".to_owned();
    let gateway = gateway(dir.path(), &receiver, |config| config.http.token = Some(token.into())).await;
    let url = format!("http://{}/api/webhooks", gateway.http);
    assert_eq!(client().get(&url).send().await.unwrap().status(), 401);
    assert_eq!(client().get(&url).bearer_auth("another").send().await.unwrap().status(), 401);
    assert_eq!(client().get(&url).bearer_auth("a-token").send().await.unwrap().status(), 200);
    let health = client().get(format!("http://{}/health", gateway.http)).send().await.unwrap();
    assert_eq!(health.status(), 200, "monitoring needs none");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_made_shown_and_changed() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = answering(&[]).await;
    let gateway = gateway(dir.path(), &receiver, |_| {}).await;
    let first = told(dir.path(), &["secret", "new"]).await;
    assert!(first.starts_with("whsec_"), "{first}");
    let second = told(dir.path(), &["secret", "new"]).await;
    let shown = told(dir.path(), &["secret", "show"]).await;
    assert!(shown.starts_with(&second), "{shown}");
    assert!(shown.lines().nth(1).unwrap().starts_with(&format!("{}  (the former one, used until ", first.trim())));
    let why = refused(dir.path(), &["secret", "show", "crm"]).await;
    assert!(why.contains("crm has no secret"), "{why}");
    drop(gateway);
}
