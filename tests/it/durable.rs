//! A whole gateway and its store: what is owed after a restart is delivered, and what was announced is remembered.

use std::net::{Ipv4Addr, SocketAddr};

use hark::{
    app::{App, BindError, Summary},
    call::{CallEvent, CallId},
    config::Config,
    webhook::{Outbox, Recipient, store::StoreError},
};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    PATIENCE, client,
    receiver::Receiver,
    stores::{event, open, said, sqlite},
};

pub fn config(data: &tempfile::TempDir, url: &str) -> Config {
    let mut config = Config::default();
    config.audiosocket.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.http.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.limits.media_threads = 1;
    config.limits.shutdown_grace_s = 0;
    config.webhooks.url = Some(url.to_owned());
    config.data_dir = data.path().to_owned();
    config
}

pub struct Running {
    pub audiosocket: SocketAddr,
    pub http: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Summary>,
}

impl Running {
    pub async fn start(config: Config) -> Self {
        Self::of(App::bind(config).await.unwrap())
    }

    pub fn of(app: App) -> Self {
        let (audiosocket, http) = (app.audiosocket_addr(), app.http_addr().unwrap());
        let stop = CancellationToken::new();
        let task = tokio::spawn(app.run(stop.clone()));
        Self { audiosocket, http, stop, task }
    }

    pub async fn stop(self) -> Summary {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("it does not stop").unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_was_killed_ends_its_calls_and_delivers_what_it_owes() {
    let data = tempfile::tempdir().unwrap();
    let call = CallId::new();
    let killed = open(&sqlite(data.path())).await;
    for mut entry in [event(call, CallEvent::Started), said(call, "hello")] {
        entry.to = vec![Recipient::plain(hark::webhook::DEFAULT.into())];
        killed.put(entry).await.unwrap();
    }
    drop(killed);
    // the writer of the killed one has to be gone: in one process it takes a moment
    drop(open(&sqlite(data.path())).await);

    let receiver = Receiver::kind().await;
    let running = loop {
        match App::bind(config(&data, &receiver.url)).await {
            Ok(app) => {
                let stop = CancellationToken::new();
                let (audiosocket, http) = (app.audiosocket_addr(), app.http_addr().unwrap());
                break Running { audiosocket, http, stop: stop.clone(), task: tokio::spawn(app.run(stop)) };
            }
            Err(BindError::Store(StoreError::Locked { .. })) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let seen = timeout(PATIENCE, receiver.wait_for(3)).await.expect("what was owed does not come");
    let kinds: Vec<_> = seen.iter().map(|seen| seen.kind()).collect();
    assert_eq!(kinds, ["call_started", "transcription", "call_ended"]);
    assert!(seen.iter().all(|seen| seen.header("hark-call-id") == Some(&call.to_string())));
    assert!(seen.iter().all(|seen| seen.json()["uuid"] == Uuid::from(call).to_string()));
    let metrics = client().get(format!("http://{}/metrics", running.http)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("hark_store_broken 0"), "{metrics}");
    running.stop().await;

    // said once: the next start has nothing to say
    let running = Running::start(config(&data, &receiver.url)).await;
    assert_eq!(running.stop().await.events_left, 0);
    assert_eq!(receiver.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_announced_before_a_restart_is_taken_after_it() {
    let data = tempfile::tempdir().unwrap();
    let receiver = Receiver::kind().await;
    let uuid = Uuid::new_v4();
    let running = Running::start(config(&data, &receiver.url)).await;
    let body = serde_json::json!({ "uuid": uuid, "payload": { "from": "2000" } });
    let answer = client().post(format!("http://{}/call", running.http)).json(&body).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    running.stop().await;

    let mut again = config(&data, &receiver.url);
    again.audiosocket.require_registration = true;
    let running = Running::start(again).await;
    let mut leg = TcpStream::connect(running.audiosocket).await.unwrap();
    leg.write_all(&[&[0x01, 0x00, 0x10], &uuid.into_bytes()[..]].concat()).await.unwrap();
    // call_initiated was the first
    let seen = timeout(PATIENCE, receiver.wait_for(2)).await.expect("the call was refused");
    assert_eq!(
        (seen[1].kind().as_str(), seen[1].json()["uuid"].as_str().unwrap()),
        ("call_started", uuid.to_string().as_str())
    );
    running.stop().await;
    let last = receiver.seen().pop().unwrap();
    assert_eq!(last.kind(), "call_ended");
}

#[tokio::test]
async fn two_gateways_in_one_directory_are_one_too_many() {
    let data = tempfile::tempdir().unwrap();
    let _first = App::bind(config(&data, "http://127.0.0.1:9/")).await.unwrap();
    let refused = App::bind(config(&data, "http://127.0.0.1:9/")).await.unwrap_err();
    assert!(matches!(refused, BindError::Store(StoreError::Locked { .. })), "{refused}");
    // without a receiver nothing is kept
    let idle = Config { webhooks: hark::webhook::Config::default(), ..config(&data, "") };
    App::bind(idle).await.unwrap();
}
