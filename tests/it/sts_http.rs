//! The older speech-to-speech contract over HTTP (contract section 4.2).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use futures_util::StreamExt as _;
use hark::{
    agent::{Overrides, Route, sts::StsHttp},
    audio::Rate,
    call::Sent,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use url::Url;

use crate::support::{
    agent_call::{AgentCall, UUID, context, set, speech},
    sts_server::{LIMIT, pcm},
};

const R8K: Rate = Rate::R8K;

/// What the service does with a request.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    /// Sends everything back as it comes; headers with the first audio; ends with the request.
    Echo,
    /// Hears 320 bytes, then answers 500 while the request goes on.
    Fail,
    /// Sends what `speech(4_001)` is, in odd pieces, and ends.
    Speak,
    /// Sends a little and then breaks off.
    Break,
    /// Never answers and never reads.
    Hang,
}

#[derive(Clone)]
struct Service {
    does: Does,
    requests: Arc<watch::Sender<Vec<Received>>>,
}

#[derive(Clone, Debug, Default)]
struct Received {
    headers: HeaderMap,
    body: Vec<u8>,
    ended: bool,
}

async fn serve(does: Does) -> (SocketAddr, watch::Receiver<Vec<Received>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap(), serve_on(listener, does))
}

fn serve_on(listener: TcpListener, does: Does) -> watch::Receiver<Vec<Received>> {
    let (requests, received) = watch::channel(Vec::new());
    let service = Service { does, requests: Arc::new(requests) };
    let app = Router::new().route("/speech-to-speech-stream", post(handle)).with_state(service);
    tokio::spawn(async move { axum::serve(listener, app).await });
    received
}

async fn handle(State(service): State<Service>, headers: HeaderMap, body: Body) -> Response {
    let mut number = 0;
    service.requests.send_modify(|requests| {
        number = requests.len();
        requests.push(Received { headers, ..Received::default() });
    });
    let requests = Arc::clone(&service.requests);
    let mut body = body.into_data_stream();
    match service.does {
        Does::Hang => std::future::pending::<()>().await,
        Does::Fail => {
            body.next().await;
            return (StatusCode::INTERNAL_SERVER_ERROR, r#"{"message":"no\tkey"}"#).into_response();
        }
        Does::Speak => {
            let pieces: Vec<_> =
                pcm(&speech(4_001)).chunks(997).map(Bytes::copy_from_slice).map(Ok::<_, String>).collect();
            return Body::from_stream(futures_util::stream::iter(pieces)).into_response();
        }
        Does::Break => {
            let pieces = [Ok(Bytes::from(pcm(&speech(160)))), Err("broken".to_owned())];
            let pieces = futures_util::stream::iter(pieces).then(|piece| async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                piece
            });
            return Body::from_stream(pieces).into_response();
        }
        Does::Echo => {}
    }
    let (sender, mut receiver) = mpsc::channel::<Bytes>(1_000);
    let (first, heard) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut first = Some(first);
        while let Some(Ok(bytes)) = body.next().await {
            requests.send_modify(|requests| requests[number].body.extend_from_slice(&bytes));
            let _ = sender.try_send(bytes);
            first.take().map(|first| first.send(()));
        }
        requests.send_modify(|requests| requests[number].ended = true);
    });
    let _ = heard.await;
    Body::from_stream(futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx)).map(Ok::<_, String>))
        .into_response()
}

fn url(address: SocketAddr) -> Url {
    let overrides = Overrides { sts: Some(format!("http://{address}")), ..Overrides::default() };
    match Route::parse(&hark::agent::Config::default(), &overrides).unwrap() {
        Route::StsHttp(url) => url,
        other => panic!("{other:?} is not the contract over HTTP"),
    }
}

async fn call(does: Does) -> (AgentCall<StsHttp>, watch::Receiver<Vec<Received>>) {
    let (address, received) = serve(does).await;
    (AgentCall::new(StsHttp::start(url(address), context(R8K))), received)
}

/// Says `samples` in the pace that the service takes them.
async fn say_all(call: &mut AgentCall<StsHttp>, received: &mut watch::Receiver<Vec<Received>>, samples: &[i16]) {
    let total = |all: &Vec<Received>| all.iter().map(|one| one.body.len()).sum::<usize>();
    for piece in samples.chunks(1_600) {
        let expected = total(&received.borrow()) + piece.len() * 2;
        call.say(R8K, piece);
        call.during(received.wait_for(|all| total(all) >= expected)).await.unwrap();
    }
}

#[tokio::test]
async fn audio_flows_both_ways_bit_exact_with_the_uuid() {
    let (mut call, mut received) = call(Does::Echo).await;
    let said = speech(160 * 100);
    say_all(&mut call, &mut received, &said).await;
    call.until(|call| call.heard() >= said.len()).await;
    assert_eq!(call.audio(), said);
    let all = received.borrow().clone();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].body, pcm(&said));
    assert_eq!(all[0].headers["x-uuid"], UUID);
    assert_eq!(all[0].headers["transfer-encoding"], "chunked");
    assert!(matches!(call.press('1'), Sent::Whole));
}

#[tokio::test]
async fn an_answer_of_odd_pieces_arrives_whole_and_its_end_is_the_end() {
    let (mut call, _received) = call(Does::Speak).await;
    call.end().await;
    assert_eq!(call.utterances(), [(1, speech(4_001))]);
    assert_eq!(call.others(), ["end 1", "hangup"]);
}

#[tokio::test]
async fn a_500_is_a_failure_and_not_speech() {
    let (mut call, _received) = call(Does::Fail).await;
    call.say(R8K, &speech(160));
    call.end().await;
    assert_eq!(call.others(), ["failed agent.sts.status"]);
    assert!(call.audio().is_empty());
    let message = call.failure();
    assert!(message.starts_with("HTTP status 500 Internal Server Error {\\\"message\\\""), "{message}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_failure() {
    let (mut call, _received) = call(Does::Break).await;
    call.end().await;
    assert_eq!(
        (call.others(), call.audio()),
        (vec!["end 1".to_owned(), "failed agent.sts.lost".to_owned()], speech(160))
    );
}

#[tokio::test]
async fn the_end_of_the_call_ends_the_request_and_then_the_response() {
    let (mut call, mut received) = call(Does::Echo).await;
    say_all(&mut call, &mut received, &speech(1_600)).await;
    call.finish();
    call.end().await;
    let all = received.wait_for(|all| all[0].ended).await.unwrap().clone();
    assert_eq!(all[0].body, pcm(&speech(1_600)));
    assert_eq!(call.others(), Vec::<String>::new());
}

#[tokio::test]
async fn a_request_is_rotated_and_no_audio_is_lost() {
    let (address, mut received) = serve(Does::Echo).await;
    let mut context = context(R8K);
    set(&mut context, |config| config.rotate_s = 1);
    let mut call = AgentCall::new(StsHttp::start(url(address), context));
    let said = speech(160 * 40);
    say_all(&mut call, &mut received, &said[..160 * 20]).await;
    // The agent falls silent, a second passes: a new request takes over.
    call.during(received.wait_for(|all| all.len() == 2)).await.unwrap();
    say_all(&mut call, &mut received, &said[160 * 20..]).await;
    call.until(|call| call.heard() >= said.len()).await;
    assert_eq!(call.audio(), said);
    let all = call.during(received.wait_for(|all| all[0].ended)).await.unwrap().clone();
    assert_eq!([all[0].body.clone(), all[1].body.clone()].concat(), pcm(&said));
    assert!(!all[1].ended);
    assert_eq!(call.others(), Vec::<String>::new());
}

#[tokio::test]
async fn a_refused_connection_is_tried_again_then_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut context = context(R8K);
    let mut call = AgentCall::new(StsHttp::start(url(address), context.clone()));
    assert!(tokio::time::timeout(Duration::from_millis(100), call.until(|_| false)).await.is_err());
    let received = serve_on(TcpListener::bind(address).await.unwrap(), Does::Echo);
    call.say(R8K, &speech(160));
    call.until(|call| call.heard() == 160).await;
    assert_eq!((call.others(), received.borrow().len()), (vec![], 1));

    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    set(&mut context, |config| config.reconnect_ms = 300);
    let mut call = AgentCall::new(StsHttp::start(url(dead), context));
    call.end().await;
    assert_eq!(call.others(), ["failed agent.sts.refused"]);
    assert!(call.failure().contains("refused"), "{}", call.failure());
}

#[tokio::test]
async fn a_service_that_hangs_costs_the_oldest_audio_and_no_memory() {
    let (address, _received) = serve(Does::Hang).await;
    let mut context = context(R8K);
    set(&mut context, |config| config.reconnect_ms = 0);
    let mut call = AgentCall::new(StsHttp::start(url(address), context));
    let mut frames = 0;
    while call.agent.dropped() < 100 {
        call.say(R8K, &speech(160));
        frames += 1;
        assert!(frames < 100_000, "what waits has no bound");
        if frames % 10 == 0 {
            call.during(tokio::task::yield_now()).await;
        }
    }
    call.until(|call| !call.events.is_empty()).await;
    assert_eq!(call.others()[0], "degraded agent.sts.slow");
    hark::call::Agent::close(call.agent).await;
}

#[tokio::test]
async fn dropping_the_agent_ends_the_request() {
    let (mut call, mut received) = call(Does::Echo).await;
    say_all(&mut call, &mut received, &speech(160)).await;
    assert!(!received.borrow()[0].ended);
    drop(call);
    tokio::time::timeout(LIMIT, received.wait_for(|all| all[0].ended)).await.expect("the request goes on").unwrap();
}
