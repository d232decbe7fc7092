//! The gateway itself, in the test's process, with every port free and its events kept.

use std::net::SocketAddr;
use std::time::Duration;

use hark::app::{App, Summary};
use hark::config::Config;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::PATIENCE;
use super::lab::{Gateway, Lab};
use super::receiver::Receiver;

pub const SECRET: &str = "lab-secret";

pub struct Hark {
    pub gateway: Gateway,
    /// Where it takes WebSocket connections.
    pub websocket: Option<SocketAddr>,
    /// Where Asterisk connects to tell of calls.
    pub ari: Option<SocketAddr>,
    pub events: Receiver,
    pub control: hark::asterisk::ari::Control,
    stop: CancellationToken,
    running: JoinHandle<Summary>,
    _data: TempDir,
}

impl Hark {
    /// A gateway served by this speech-to-speech service; the embedded agent when there is none.
    pub async fn start(sts_url: Option<String>) -> Self {
        Self::with(Receiver::strict(SECRET).await, |config| config.agent.sts_url = sts_url).await
    }

    /// A gateway with settings of the test's own and its events at this receiver.
    pub async fn with(events: Receiver, change: impl FnOnce(&mut Config)) -> Self {
        if let Ok(filter) = std::env::var("HARK_TEST_LOG") {
            // of one test at a time; already there when it starts several
            let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
        }
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config::default();
        config.audiosocket.listen = anywhere;
        config.http.enabled = true;
        config.http.listen = anywhere;
        config.webhooks.url = Some(events.url.clone());
        config.webhooks.secret = Some(SECRET.to_owned());
        let data = tempfile::tempdir().expect("a directory for the gateway");
        config.data_dir = data.path().to_owned();
        config.limits.media_threads = 1;
        config.limits.shutdown_grace_s = 1;
        change(&mut config);
        let app = App::bind(config).await.expect("the gateway starts");
        let gateway = Gateway { audiosocket: app.audiosocket_addr(), http: app.http_addr() };
        let (websocket, ari) = (app.websocket_addr(), app.ari_addr());
        let stop = CancellationToken::new();
        let control = app.control();
        let running = tokio::spawn(app.run(stop.clone()));
        Self { gateway, websocket, ari, events, control, stop, running, _data: data }
    }

    pub async fn lab(&self) -> Lab {
        Lab::start(self.gateway).await
    }

    /// Wait until `done` holds of the events of one call so far, and return them.
    pub async fn events(&self, uuid: Uuid, done: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut requests = self.events.seen().len();
        let wait = async {
            loop {
                let events = self.seen(uuid);
                if done(&events) {
                    return events;
                }
                requests = self.events.wait_for(requests + 1).await.len();
            }
        };
        match timeout(PATIENCE, wait).await {
            Ok(events) => events,
            Err(_) => panic!("the events never came; these did: {:?}", self.seen(uuid)),
        }
    }

    /// The events of one call until it ended, as `type` or `type:payload`.
    pub async fn story(&self, uuid: Uuid) -> Vec<String> {
        let ended = |events: &[Value]| events.iter().any(|event| event["type"] == "call_ended");
        let events = self.events(uuid, ended).await;
        events.iter().map(told).collect()
    }

    fn seen(&self, uuid: Uuid) -> Vec<Value> {
        let uuid = uuid.to_string();
        self.events.seen().iter().map(|request| request.json()).filter(|event| event["uuid"] == uuid).collect()
    }

    /// Stop it as SIGTERM does.
    pub async fn stop(self) -> Summary {
        self.stop.cancel();
        let stopped = timeout(Duration::from_secs(15), self.running).await;
        stopped.expect("the gateway stops").expect("without a panic")
    }
}

fn told(event: &Value) -> String {
    let kind = event["type"].as_str().expect("a type");
    match event["payload"].as_object() {
        Some(payload) if payload.is_empty() => kind.to_owned(),
        _ => format!("{kind}:{}", event["payload"]),
    }
}

/// The program itself, served by the embedded agent, to be killed.
pub struct Process {
    child: tokio::process::Child,
    gateway: Gateway,
}

impl Process {
    /// Start it on the ports that one before it had, or on free ones, and wait until it is ready.
    pub async fn start(ports: Option<Gateway>) -> Self {
        Self::with(ports, &[]).await
    }

    /// The same with variables of the test's own.
    pub async fn with(ports: Option<Gateway>, env: &[(&str, &str)]) -> Self {
        let address = |ours: Option<SocketAddr>| ours.map_or_else(|| "127.0.0.1:0".to_owned(), |a| a.to_string());
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_hark"))
            .args(["serve", "--log-format", "json"])
            .env("HARK__AUDIOSOCKET__LISTEN", address(ports.map(|p| p.audiosocket)))
            .env("HARK__HTTP__LISTEN", address(ports.and_then(|p| p.http)))
            // models that whoever runs this has installed
            .env("XDG_DATA_HOME", "/nonexistent")
            .envs(env.iter().copied())
            .current_dir(std::env::temp_dir())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("hark starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await.expect("text") {
                let line: Value = serde_json::from_str(&line).expect("JSON");
                if let Some(gateway) = ready(&line) {
                    return gateway;
                }
            }
            panic!("hark ended before it was ready");
        };
        let gateway = timeout(PATIENCE, ready).await.expect("hark is ready in time");
        // a full pipe would stop its log; what it complains of tells why a test fails
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("\"WARN\"") || line.contains("\"ERROR\"") {
                    eprintln!("hark: {line}");
                }
            }
        });
        Self { child, gateway }
    }

    pub fn gateway(&self) -> Gateway {
        self.gateway
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub async fn kill(mut self) {
        self.child.kill().await.expect("it ran");
    }
}

/// Where it listens, from the line that says that it is ready.
fn ready(line: &Value) -> Option<Gateway> {
    let find = |key: &str| line.get(key).or_else(|| line["fields"].get(key))?.as_str()?.parse().ok();
    Some(Gateway { audiosocket: find("audiosocket")?, http: find("http") })
}
