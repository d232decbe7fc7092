//! `POST /call` as the examples send it, and the recording that Asterisk makes.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::audiosocket::{HANGUP, SLIN, Server, UUID};
use crate::support::g711::Codec;
use crate::support::lab::{Gateway, Lab};
use crate::support::noise;
use crate::support::phone::Call;

type Requests = mpsc::Receiver<(HeaderMap, Value)>;

/// An HTTP service that keeps what `POST /call` brings.
async fn call_service() -> (SocketAddr, Requests) {
    async fn keep(
        State(requests): State<mpsc::Sender<(HeaderMap, Value)>>,
        headers: HeaderMap,
        Json(body): Json<Value>,
    ) -> Json<Value> {
        requests.send((headers, body)).await.expect("the test listens");
        Json(json!({"sts_url": null, "override": false}))
    }
    let (sender, requests) = mpsc::channel(8);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("a bound listener");
    let routes = axum::Router::new().route("/call", post(keep)).with_state(sender);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (addr, requests)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_call_is_announced_under_the_uuid_it_connects_with() {
    let server = Server::bind().await;
    let (http, mut requests) = call_service().await;
    let lab = Lab::start(Gateway { audiosocket: server.addr(), http: Some(http) }).await;
    // a caller id that tries to break out of the JSON
    let caller = r#""Eve \", \"x" <sip:+49301234%22%2C%22x%22@127.0.0.1>"#;
    for (dialled, to) in [("5004", "5004"), ("5005", "5005"), ("4276", "")] {
        let (call, connection) =
            tokio::join!(Call::dial_as(lab.sip(), dialled, Codec::Ulaw, caller), server.accept(false));
        let call = call.expect("answered");
        let request = timeout(Duration::from_secs(5), requests.recv()).await.expect("announced");
        let (headers, body) = request.expect("announced");
        connection.wait(|c| !c.frames().is_empty()).await;
        assert_eq!(headers["content-type"], "application/json");
        let frame = &connection.frames()[0];
        assert_eq!(frame.kind, UUID);
        let uuid = uuid::Uuid::from_slice(&frame.payload).expect("16 bytes");
        assert_eq!(body["uuid"], uuid.to_string());
        let payload = &body["payload"];
        assert_eq!(payload["from"], "+49301234x", "{body}");
        assert_eq!(payload["to"], to);
        assert_eq!(payload["recording"], json!(false));
        assert!(payload["uniqueid"].as_str().expect("a string").starts_with("hark-lab-"), "{body}");
        assert!(payload["channel"].as_str().expect("a string").starts_with("PJSIP/phone-"), "{body}");
        let mut keys: Vec<_> = payload.as_object().expect("an object").keys().collect();
        keys.sort();
        assert_eq!(keys, ["channel", "from", "recording", "to", "uniqueid"]);
        call.hang_up().await;
        lab.idle().await;
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recording_holds_both_sides() {
    let server = Server::bind().await;
    let lab = Lab::start(Gateway { audiosocket: server.addr(), http: None }).await;
    let (call, connection) = tokio::join!(Call::dial(lab.sip(), "5006", Codec::Ulaw), server.accept(true));
    let call = call.expect("answered");
    connection.wait(|c| c.audio(SLIN).len() > 3_200).await;
    let uuid = uuid::Uuid::from_slice(&connection.frames()[0].payload).expect("16 bytes");
    call.rtp.play(&noise(8_000, 7));
    call.rtp.played().await;
    connection.send(HANGUP, &[]).await;
    // the operator has the caller now: the recording is finished
    lab.logged("OPERATOR has the caller").await;
    drop(connection);
    let path = lab.dir().join(format!("spool/monitor/hark-{uuid}.wav"));
    lab.logged("End MixMonitor Recording").await;
    let wav = hound::WavReader::open(&path).expect("the recording");
    assert_eq!((wav.spec().channels, wav.spec().sample_rate), (1, 8_000));
    let samples: Vec<i16> = wav.into_samples().map(|s| s.expect("a sample")).collect();
    let loud = samples.iter().filter(|s| s.abs() > 500).count();
    assert!(loud > 4_000, "{loud} loud samples of {}", samples.len());
    // caller plus echo is louder than the caller alone ever was
    let peak = samples.iter().map(|s| s.unsigned_abs()).max().expect("samples");
    assert!(peak > 9_000, "only one side was recorded: peak {peak}");
    call.rtp.stop();
    call.hang_up().await;
    lab.stop().await;
}
