//! Outbound ARI WebSockets with every fault: whoever connects, and whatever they say, nothing is left behind and nobody in silence.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use hark::{asterisk::ari::Connect, config::Config};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{self, Message},
};
use tokio_util::task::AbortOnDropHandle;

use crate::ari::{ACTS, End, World, each_point};
use crate::support::{
    PATIENCE,
    ari::{
        Act, FakeAri,
        outbound::{connect, registered, request},
    },
};

/// A gateway to which a fake Asterisk may connect, and where.
async fn listening(kind: Connect, change: impl FnOnce(&mut Config)) -> (World, SocketAddr) {
    let world = World::unready(FakeAri::start().await, |config| {
        (config.ari.url, config.ari.connect) = (None, kind);
        config.ari.password = "secret".to_owned();
        config.ari_server.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        change(config);
    })
    .await;
    let at = world.hark.ari.unwrap();
    (world, at)
}

/// The same, and it does.
async fn connected() -> (World, AbortOnDropHandle<()>) {
    let (world, at) = listening(Connect::Persistent, |_| {}).await;
    let connection = world.ari.connects(at, "hark");
    world.hark.until("hark_ari_connected", 1).await;
    (world, connection)
}

async fn every_point(act: Act, end: End) -> usize {
    let (world, _connection) = connected().await;
    each_point(&world, act, end).await
}

async fn every_fault(end: End) {
    let points = futures_util::future::join_all(ACTS.map(|act| every_point(act, end))).await;
    assert!(points.iter().all(|points| *points >= 5), "too few points were reached: {points:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_at_every_point_of_a_call_that_the_caller_ends() {
    every_fault(End::Caller).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_at_every_point_of_a_call_that_the_agent_ends() {
    every_fault(End::Agent).await;
}

/// The status with which a request is refused.
async fn refused(to: SocketAddr, path: &str, password: &str, protocol: &'static str) -> u16 {
    match connect_async(request(to, path, password, protocol)).await {
        Err(tungstenite::Error::Http(answer)) => answer.status().as_u16(),
        other => panic!("not refused but {:?}", other.map(|_| ())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_connect_is_told_why() {
    let (world, at) = listening(Connect::Persistent, |config| {
        config.ari_server.start_timeout_ms = 200;
        config.ari_server.max_connections = 1;
    })
    .await;
    assert_eq!(refused(at, "/ari", "wrong", "ari").await, 401);
    assert_eq!(refused(at, "/ari/branch", "secret", "ari").await, 404);
    assert_eq!(refused(at, "/", "secret", "ari").await, 404);
    assert_eq!(refused(at, "/ari", "secret", "media").await, 400);
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\0\x01", b"", &[b'x'; 40_000]] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        // it may have enough before the end
        let _ = stream.write_all(garbage).await;
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is not kept waiting");
        assert!(read.is_err() || !String::from_utf8_lossy(&answer).contains("101"), "{answer:?}");
    }
    // with one there is no room for a second
    let _one = connect(at).await.unwrap();
    assert_eq!(refused(at, "/ari", "secret", "ari").await, 503);
    assert!(world.hark.metric("hark_ari_denied_total").await >= 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_allowed_is_not_listened_to() {
    let (world, at) =
        listening(Connect::Persistent, |config| config.ari_server.allow = vec!["10.0.0.0/8".parse().unwrap()]).await;
    assert!(connect(at).await.is_err());
    world.hark.until("hark_ari_denied_total", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_nothing_of_use_does_not_stand_in_the_way() {
    let (world, at) = listening(Connect::Persistent, |config| config.ari_server.start_timeout_ms = 100).await;
    let mut useless = Vec::new();
    for message in [
        None,
        Some(Message::text("{")),
        Some(Message::binary(vec![0; 100])),
        Some(Message::text(r#"{"type":"ApplicationRegistered"}"#)),
        Some(registered("other")),
        Some(registered("hark:")),
    ] {
        let mut socket = connect(at).await.unwrap();
        if let Some(message) = message {
            socket.send(message).await.unwrap();
        }
        useless.push(socket);
    }
    // one that closes at once, as Asterisk without [general] does
    let mut socket = connect(at).await.unwrap();
    socket.close(None).await.unwrap();
    let _connection = world.ari.connects(at, "hark");
    world.hark.until("hark_ari_connected", 1).await;
    let caller = world.ari.call("caller", &[]);
    world.ari.until("bridged", |ari| ari.is_bridged(&caller)).await;
    world.ari.hang_up(&caller);
    world.empty().await;
    // they are kept for a while: Asterisk would come back at once
    for socket in &mut useless {
        assert!(timeout(Duration::from_millis(10), socket.next()).await.is_err(), "it was closed at once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_nonsense_and_of_answers_that_nobody_asked_for() {
    let (world, _connection) = connected().await;
    let ari = &world.ari;
    for n in 0..5_000 {
        ari.event(&json!({"type": "ChannelTalkingStarted", "channel": {"id": format!("x{n}")}}));
        ari.raw(Message::text(format!(r#"{{"type":"RESTResponse","request_id":"{n}0000","status_code":200}}"#)));
    }
    for text in ["", "{", "null", "[]", r#"{"type":"RESTResponse"}"#, r#"{"type":"RESTResponse","request_id":{}}"#] {
        ari.raw(Message::text(text));
    }
    ari.raw(Message::binary(vec![0; 1_000]));
    let caller = ari.call("caller", &[]);
    ari.until("bridged", |ari| ari.is_bridged(&caller)).await;
    ari.hang_up(&caller);
    world.empty().await;
    assert_eq!(world.hark.metric("hark_ari_losses_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_came_while_nobody_was_connected_are_served() {
    let (world, connection) = connected().await;
    let ari = &world.ari;
    let (stays, leaves) = (ari.call("stays", &[]), ari.call("leaves", &[]));
    ari.until("bridged", |ari| ari.is_bridged(&stays) && ari.is_bridged(&leaves)).await;
    drop(connection);
    world.unready_with("have stopped").await;
    let _connection = ari.connects(world.hark.ari.unwrap(), "hark");
    // told of with the first words of the new connection, before it says whose it is
    ari.hang_up(&leaves);
    let new = ari.call("new", &[]);
    ari.until("bridged", |ari| ari.is_bridged(&new) && ari.is_bridged(&stays)).await;
    ari.hang_up(&new);
    ari.hang_up(&stays);
    world.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_dead_gives_way_to_its_successor() {
    let (world, at) = listening(Connect::Persistent, |config| config.ari.ping_ms = 60_000).await;
    // takes what it is sent, and says nothing, not even to a ping
    let mut dead = connect(at).await.unwrap();
    dead.send(registered("hark")).await.unwrap();
    // it is in use once it is asked something
    assert!(matches!(timeout(PATIENCE, dead.next()).await, Ok(Some(Ok(Message::Text(_))))));
    let _connection = world.ari.connects(at, "hark");
    world.hark.until("hark_ari_connected", 1).await;
}

/// The requests that come on a connection until one of this method and path.
async fn asked(socket: &mut crate::support::ari::outbound::Socket, method: &str, uri: &str) -> Value {
    let wait = async {
        loop {
            let Some(Ok(message)) = socket.next().await else { panic!("closed before {method} {uri}") };
            if let Message::Text(text) = message {
                let asked: Value = serde_json::from_str(&text).unwrap();
                if asked["method"] == method && asked["uri"].as_str().unwrap().starts_with(uri) {
                    return asked;
                }
            }
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never {method} {uri}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_a_connection_of_its_own_ends_with_it_when_it_does_not_come_back() {
    let (world, at) = listening(Connect::PerCall, |_| {}).await;
    assert!(world.ready().await.0, "there is none until there are calls");
    let connection = world.ari.connects(at, "hark:PJSIP/phone-1");
    let caller = world.ari.call("caller", &[]);
    world.ari.until("bridged", |ari| ari.is_bridged(&caller)).await;
    let requests = world.ari.requests();
    assert!(requests.iter().any(|request| request == "POST channels/externalMedia"), "{requests:?}");
    // Asterisk gives the caller back, and nobody is told
    drop(connection);
    world.ari.take_away(&caller);
    world.hark.until("hark_calls_active", 0).await;
    // what is left is ended with the next connection
    let _connection = world.ari.connects(at, "hark:PJSIP/phone-2");
    world.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_a_call_that_nobody_knows_gives_the_caller_back() {
    let (world, at) = listening(Connect::PerCall, |config| config.ari.timeout_ms = 5_000).await;
    let mut socket = connect(at).await.unwrap();
    let app = "hark:PJSIP/phone-7";
    socket.send(registered(app)).await.unwrap();
    let answer = |asked: &Value, body: Value| {
        let answer = json!({"type": "RESTResponse", "request_id": asked["request_id"], "status_code": 200, "message_body": body.to_string()});
        Message::text(answer.to_string())
    };
    let channel =
        json!({"id": "lost", "name": "PJSIP/phone-7", "dialplan": {"app_name": "Stasis", "app_data": "hark"}});
    let work = async {
        loop {
            let Some(Ok(message)) = socket.next().await else { panic!("closed") };
            let Message::Text(text) = message else { continue };
            let asked: Value = serde_json::from_str(&text).unwrap();
            let body = match (asked["method"].as_str().unwrap(), asked["uri"].as_str().unwrap()) {
                ("GET", "channels") => json!([channel]),
                ("GET", "bridges") => json!([]),
                ("GET", "applications/hark") => json!({"name": "hark", "channel_ids": []}),
                ("GET", uri) if uri.starts_with("applications/") => json!({"name": app, "channel_ids": ["lost"]}),
                ("POST", "channels/lost/continue") => return,
                other => panic!("{other:?}"),
            };
            socket.send(answer(&asked, body)).await.unwrap();
        }
    };
    timeout(PATIENCE, work).await.expect("the caller is given back");
    drop(world);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_cannot_be_made_where_asterisk_connects_for_its_own_only() {
    let (world, _at) =
        listening(Connect::PerCall, |config| drop(config.outbound.dial.insert("default".into(), "PJSIP/{to}".into())))
            .await;
    let answer = crate::support::client()
        .post(format!("http://{}/api/calls", world.hark.http))
        .json(&json!({"to": "2000"}))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 409);
    let body = answer.text().await.unwrap();
    assert!(body.contains("ari.control.per_call") && body.contains("persistent"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_gateway_asks_nothing_new() {
    let (world, at) = listening(Connect::Persistent, |_| {}).await;
    let mut socket = connect(at).await.unwrap();
    socket.send(registered("hark")).await.unwrap();
    asked(&mut socket, "GET", "channels").await;
    drop(world);
    assert!(timeout(PATIENCE, async { while let Some(Ok(_)) = socket.next().await {} }).await.is_ok(), "it is kept");
}
