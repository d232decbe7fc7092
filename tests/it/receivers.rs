//! The receivers of `fixtures/receivers/`, with the official libraries, take Hark's real deliveries, each once, and nobody else's.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use hark::{
    call::{CallEvent, CallId, EndReason, Envelope, EventId, Role},
    webhook::{Config, EndpointConfig, Webhooks, schedule::Retry, sign::Keys},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::{PATIENCE, client};

/// A receiver in a process of its own; killed when dropped.
struct Running {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    url: String,
}

impl Running {
    async fn start(mut command: Command, secret: &str, state: &Path) -> Self {
        command.env("WEBHOOK_SIGNING_SECRET", secret).env("PORT", "0").env("STATE", state);
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().expect("it ended at once");
        let port = first.strip_prefix("listening on ").unwrap_or_else(|| panic!("{first}"));
        Self { _process: process, lines, url: format!("http://127.0.0.1:{port}/events") }
    }

    async fn processed(&mut self, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        for _ in 0..count {
            let line = timeout(PATIENCE, self.lines.next_line()).await.expect("an event is missing").unwrap();
            events.push(serde_json::from_str(&line.expect("it has ended")).unwrap());
        }
        events
    }
}

fn receivers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/receivers")
}

/// Where `scripts/setup.sh test` puts the official libraries.
fn cache() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache");
    env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("hark/receivers")
}

fn python() -> Option<Command> {
    let own = cache().join("python/bin/python");
    let has = |python: &Path| {
        let mut command = std::process::Command::new(python);
        command.args(["-c", "import standardwebhooks"]).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let python = [own, PathBuf::from("python3")].into_iter().find(|python| has(python))?;
    let mut command = Command::new(python);
    command.arg(receivers().join("receiver.py"));
    Some(command)
}

/// Node looks for libraries beside the program: it is run where they are.
fn node() -> Option<Command> {
    let dir = cache().join("node");
    if !dir.join("node_modules/standardwebhooks").is_dir() {
        return None;
    }
    let copy = dir.join(format!("receiver-{}.mjs", Uuid::now_v7()));
    std::fs::copy(receivers().join("receiver.mjs"), &copy).ok()?;
    let mut command = Command::new("node");
    // gone once it is loaded: an import of the module, then its removal
    let (path, url) = (copy.display(), format!("file://{}", copy.display()));
    command.args([
        "--input-type=module",
        "-e",
        &format!("import {{unlinkSync}} from 'node:fs'; await import('{url}'); unlinkSync('{path}');"),
    ]);
    Some(command)
}

fn left_out(what: &str) {
    eprintln!(
        "\n**** SKIPPED: the {what} receiver has not been tested, its standardwebhooks library is missing: scripts/setup.sh test installs it ****\n"
    );
}

fn whole_call(call: CallId) -> Vec<Envelope> {
    [
        CallEvent::Started,
        CallEvent::Transcription { role: Role::User, text: "Ich hätte gern \"zwei\" …\u{1f600}\n".to_owned() },
        CallEvent::Ended(EndReason::CallerHangup),
    ]
    .map(|event| Envelope { id: EventId::new(), call, uuid: Uuid::now_v7(), at: SystemTime::now(), event })
    .to_vec()
}

fn webhooks(url: &str, secrets: &str) -> Webhooks {
    let endpoint = EndpointConfig {
        url: Some(url.to_owned()),
        events: vec!["*".to_owned()],
        signing_secret: Some(secrets.to_owned()),
        retry: Retry::Times(0),
        ..EndpointConfig::default()
    };
    let config = Config { endpoints: [("x".to_owned(), endpoint)].into(), ..Config::default() };
    Webhooks::start(&config, client(), &TaskTracker::new(), CancellationToken::new())
}

/// Delivers; how many were taken and how many refused.
async fn deliver(webhooks: &Webhooks, events: &[Envelope]) -> [u64; 2] {
    for event in events {
        webhooks.put(event.clone()).await.unwrap();
    }
    assert_eq!(webhooks.flush(Instant::now() + PATIENCE).await, 0);
    let stats = webhooks.stats();
    [&stats.delivered, &stats.failed].map(|count| count.load(std::sync::atomic::Ordering::Relaxed))
}

async fn takes_ours_once_and_nobody_elses(command: impl Fn() -> Command) {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let [old, new, foreign] = [Keys::fresh(), Keys::fresh(), Keys::fresh()].map(|keys| keys.expose());
    let mut running = Running::start(command(), &old, &state).await;
    let events = whole_call(CallId::new());
    // a call_completed comes by itself
    let expected = json!([
        {"event": "call_started", "sequence": "1"}, {"event": "transcription", "sequence": "2"},
        {"event": "call_ended", "sequence": "3"}, {"event": "call_completed", "sequence": "4"},
    ]);
    assert_eq!(deliver(&webhooks(&running.url, &old), &events).await, [4, 0]);
    assert_eq!(Value::from(running.processed(4).await), expected);

    assert_eq!(deliver(&webhooks(&running.url, &foreign), &events).await, [0, 4], "taken with a foreign signature");
    let rotating = webhooks(&running.url, &format!("{new} {old}"));
    assert_eq!(deliver(&rotating, &events[..2]).await, [2, 0], "what is known is taken again");
    let next = whole_call(CallId::new());
    assert_eq!(deliver(&rotating, &next[..1]).await, [3, 0]);
    assert_eq!(running.processed(1).await, [expected[0].clone()], "processed twice, or not at all");

    let replay = Keys::clone(&old.parse().unwrap()).headers("x", SystemTime::now() - Duration::from_secs(900), b"{}");
    let tampered = Keys::clone(&old.parse().unwrap()).headers("x", SystemTime::now(), b"{}");
    for (headers, body) in [(replay, "{}"), (tampered, "{} ")] {
        let answer = client().post(&running.url).headers(headers).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 401);
    }

    drop(running);
    let mut running = Running::start(command(), &new, &state).await;
    let rotated = webhooks(&running.url, &new);
    assert_eq!(deliver(&rotated, &events[..2]).await, [2, 0]);
    assert_eq!(deliver(&rotated, &next[1..2]).await, [3, 0]);
    assert_eq!(running.processed(1).await[0]["event"], "transcription", "forgotten over a restart");
}

#[tokio::test]
async fn the_python_receiver_takes_ours_once_and_nobody_elses() {
    if python().is_none() {
        return left_out("Python");
    }
    takes_ours_once_and_nobody_elses(|| python().unwrap()).await;
}

#[tokio::test]
async fn the_node_receiver_takes_ours_once_and_nobody_elses() {
    if node().is_none() {
        return left_out("Node");
    }
    takes_ours_once_and_nobody_elses(|| node().unwrap()).await;
}
