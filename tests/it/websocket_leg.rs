//! chan_websocket over real sockets on loopback: the side of Asterisk is played here, also by one that means ill.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hark::asterisk::websocket::{Config, Identified, Leg, Listener, NoRequest, Refused, wire};
use hark::audio::{Frame, Rate};
use hark::call::{Cause, Leg as _, LegCommand, LegEvent, Link, Sent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::support::log::Log;

const PLAIN: &str = "MEDIA_START connection_id:c channel:WebSocket/hark/0x1 channel_id:lab-1.1 format:slin optimal_frame_size:320 ptime:20";
const JSON: &str = r#"{"event":"MEDIA_START","connection_id":"c","channel":"WebSocket/hark/0x1","channel_id":"1.1","format":"slin16","optimal_frame_size":640,"ptime":20}"#;

async fn listener(change: impl FnOnce(&mut Config)) -> Listener {
    let mut config = Config::default();
    change(&mut config);
    Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Arc::new(config), Arc::default()).await.unwrap()
}

/// Asterisk's end of a connection.
type Phone = WebSocketStream<TcpStream>;

/// What Asterisk asks.
async fn dial(address: SocketAddr, query: String) -> Result<Phone, Error> {
    let mut request = format!("ws://{address}/media?{query}").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "media".parse().unwrap());
    request.headers_mut().insert("Authorization", "Basic aGFyazpzZWNyZXQ=".parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    client_async(request, stream).await.map(|(phone, _)| phone)
}

/// Both ends while the call is neither taken nor refused: until then Asterisk has no answer.
async fn asked(listener: &Listener, query: &str) -> (JoinHandle<Result<Phone, Error>>, Result<Identified, Refused>) {
    let client = tokio::spawn(dial(listener.local_addr().unwrap(), query.to_owned()));
    (client, listener.accept().await.identify().await)
}

/// A phone and a leg that waits for its `MEDIA_START`.
async fn starting() -> (Listener, Phone, JoinHandle<Leg>) {
    let listener = listener(|_| {}).await;
    let (phone, identified) = asked(&listener, "uuid=0192f4c0-5a3e-7c1b-8d2e-0123456789ab&a=b").await;
    let identified = identified.unwrap();
    assert_eq!((identified.uuid.as_u128() >> 112, &identified.about["a"]), (0x0192, &"b".into()));
    let leg = tokio::spawn(identified.into_leg());
    (listener, phone.await.unwrap().unwrap(), leg)
}

/// A call that has begun.
async fn begun(start: &str) -> (Listener, Phone, Leg) {
    let (listener, mut phone, leg) = starting().await;
    phone.send(Message::text(start)).await.unwrap();
    (listener, phone, leg.await.unwrap())
}

async fn next(leg: &mut Leg) -> Option<LegEvent> {
    tokio::time::timeout(Duration::from_secs(5), leg.next()).await.expect("in time")
}

/// The end of the call, whatever comes before it.
async fn end(leg: &mut Leg) -> Cause {
    loop {
        if let LegEvent::Hangup(cause) = next(leg).await.expect("an end") {
            assert!(next(leg).await.is_none() && next(leg).await.is_none());
            return cause;
        }
    }
}

async fn text(phone: &mut Phone) -> String {
    match tokio::time::timeout(Duration::from_secs(5), phone.next()).await.expect("in time").unwrap().unwrap() {
        Message::Text(text) => text.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn binary(phone: &mut Phone) -> Bytes {
    match tokio::time::timeout(Duration::from_secs(5), phone.next()).await.expect("in time").unwrap().unwrap() {
        Message::Binary(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

fn ramp(rate: Rate) -> Frame {
    let samples: Vec<i16> = (0..rate.frame_samples()).map(|n| n as i16 * 50 - 4_000).collect();
    Frame::padded(rate, &samples)
}

fn bytes(frame: &Frame) -> Vec<u8> {
    frame.samples().iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

#[tokio::test]
async fn audio_digits_and_commands_in_both_styles() {
    for (start, rate, hang_up, flush, fence, mark) in [
        (PLAIN, Rate::R8K, "HANGUP", "FLUSH_MEDIA", "MARK_MEDIA f9", "MARK_MEDIA m7"),
        (
            JSON,
            Rate::R16K,
            r#"{"command":"HANGUP"}"#,
            r#"{"command":"FLUSH_MEDIA"}"#,
            r#"{"command":"MARK_MEDIA","correlation_id":"f9"}"#,
            r#"{"command":"MARK_MEDIA","correlation_id":"m7"}"#,
        ),
    ] {
        let (listener, mut phone, mut leg) = begun(start).await;
        assert_eq!((leg.rate(), leg.lead()), (rate, Duration::from_millis(200)));
        let frame = ramp(rate);
        // a message of any length
        phone.send(Message::binary([bytes(&frame), bytes(&frame)].concat())).await.unwrap();
        for _ in 0..2 {
            let Some(LegEvent::Audio(heard)) = next(&mut leg).await else { panic!("no audio") };
            assert_eq!(heard, frame);
        }
        phone.send(Message::text(r#"{"event":"DTMF_END","digit":"5"}"#)).await.unwrap();
        assert!(matches!(next(&mut leg).await, Some(LegEvent::Dtmf(digit)) if digit.as_char() == '5'));
        // a mark waits for the audio behind it
        let _ = leg.send(LegCommand::Mark(7));
        assert!(matches!(leg.send(LegCommand::Audio(frame.clone())), Sent::Whole));
        assert_eq!(text(&mut phone).await, mark);
        assert_eq!(binary(&mut phone).await, bytes(&frame));
        let _ = leg.send(LegCommand::Flush(9));
        assert_eq!((text(&mut phone).await, text(&mut phone).await), (flush.to_owned(), fence.to_owned()));
        for event in ["MEDIA_MARK_PROCESSED m7", "MEDIA_MARK_PROCESSED somebody", "MEDIA_MARK_PROCESSED f9"] {
            phone.send(Message::text(event)).await.unwrap();
        }
        assert!(matches!(next(&mut leg).await, Some(LegEvent::Marked(7))));
        assert!(matches!(next(&mut leg).await, Some(LegEvent::Flushed(9))));
        let closing = tokio::spawn(leg.close());
        assert_eq!(text(&mut phone).await, hang_up);
        phone.close(None).await.unwrap();
        closing.await.unwrap();
        assert_eq!((listener.stats().frames_in.get(), listener.stats().frames_out.get()), (1, 1));
    }
}

#[tokio::test]
async fn audio_before_the_start_is_dropped_and_counted() {
    let (listener, mut phone, leg) = starting().await;
    for _ in 0..3 {
        phone.send(Message::binary(vec![1; 320])).await.unwrap();
    }
    phone.send(Message::text("DTMF_END digit:1")).await.unwrap();
    phone.send(Message::text(PLAIN)).await.unwrap();
    let mut leg = leg.await.unwrap();
    assert!(matches!(next(&mut leg).await, Some(LegEvent::Dtmf(_))));
    phone.send(Message::binary(bytes(&ramp(Rate::R8K)))).await.unwrap();
    assert!(matches!(next(&mut leg).await, Some(LegEvent::Audio(frame)) if frame == ramp(Rate::R8K)));
    assert_eq!(listener.stats().frames_early.get(), 3);
}

#[tokio::test]
async fn messages_hold_whole_frames_of_asterisks_size() {
    // 40 ms: two of ours
    let (_listener, mut phone, mut leg) = begun("MEDIA_START format:slin optimal_frame_size:640 ptime:40").await;
    let frame = ramp(Rate::R8K);
    for _ in 0..4 {
        assert!(matches!(leg.send(LegCommand::Audio(frame.clone())), Sent::Whole));
    }
    for _ in 0..2 {
        assert_eq!(binary(&mut phone).await, [bytes(&frame), bytes(&frame)].concat());
    }
}

#[tokio::test]
async fn a_full_queue_takes_nothing_until_it_has_room() {
    let (listener, mut phone, mut leg) = begun(JSON).await;
    phone.send(Message::text(r#"{"event":"MEDIA_XOFF","channel_id":"1"}"#)).await.unwrap();
    phone.send(Message::text("DTMF_END digit:1")).await.unwrap();
    assert!(matches!(next(&mut leg).await, Some(LegEvent::Dtmf(_))));
    for number in 0..100 {
        let _ = leg.send(LegCommand::Mark(number));
        assert!(matches!(leg.send(LegCommand::Audio(ramp(Rate::R16K))), Sent::Refused(LegCommand::Audio(_))));
    }
    phone.send(Message::text(r#"{"event":"MEDIA_XON"}"#)).await.unwrap();
    phone.send(Message::text("DTMF_END digit:1")).await.unwrap();
    assert!(matches!(next(&mut leg).await, Some(LegEvent::Dtmf(_))));
    assert!(matches!(leg.send(LegCommand::Audio(ramp(Rate::R16K))), Sent::Whole));
    // no mark of what was refused
    assert_eq!(binary(&mut phone).await, bytes(&ramp(Rate::R16K)));
    assert_eq!((listener.stats().xoffs.get(), listener.stats().frames_refused.get()), (1, 100));
}

#[tokio::test]
async fn half_and_unknown_messages_are_skipped() {
    let log = Log::start();
    let (listener, mut phone, mut leg) = begun(PLAIN).await;
    for text in [
        r#"{"event":"MEDIA_X"#,
        "",
        "{}",
        "LATER\u{1b}[31m x:1",
        PLAIN,
        "STATUS queue_length:x",
        "ERROR error_text:no\nway",
    ] {
        phone.send(Message::text(text)).await.unwrap();
    }
    phone.send(Message::binary(vec![0; 321])).await.unwrap();
    assert!(matches!(next(&mut leg).await, Some(LegEvent::Audio(_))));
    let stats = listener.stats();
    let counted =
        (stats.bad_messages.get(), stats.unknown_events.get(), stats.errors.get(), stats.frames_damaged.get());
    assert_eq!(counted, (4, 1, 1, 1));
    assert_eq!(log.count("websocket.message"), 1, "{}", log.text());
    assert!(
        log.text().contains("Asterisk refuses a command: no\\nway") && !log.text().contains('\u{1b}'),
        "{}",
        log.text()
    );
}

#[tokio::test]
async fn every_end_is_told_apart() {
    let close = |code| Message::Close(Some(CloseFrame { code, reason: "x".into() }));
    for (message, cause) in [
        (Some(close(CloseCode::Normal)), Cause::Normal),
        (Some(close(CloseCode::Size)), Cause::Lost),
        (Some(Message::Close(None)), Cause::Normal),
        (Some(Message::text("x".repeat(1 << 20))), Cause::Lost),
        (Some(Message::binary(vec![0; 1 << 20])), Cause::Lost),
        (None, Cause::Lost),
    ] {
        let (_listener, mut phone, mut leg) = begun(PLAIN).await;
        match message {
            Some(message) => {
                // what is too long may be closed before all of it is out
                let _ = phone.send(message).await;
            }
            None => drop(phone),
        }
        assert_eq!(end(&mut leg).await, cause);
        tokio::time::timeout(Duration::from_secs(3), leg.close()).await.expect("it closes");
    }
}

#[tokio::test]
async fn a_format_that_nobody_speaks_ends_the_call() {
    let log = Log::start();
    let (_listener, _phone, mut leg) = begun("MEDIA_START format:gsm optimal_frame_size:33").await;
    assert_eq!(end(&mut leg).await, Cause::Lost);
    assert!(log.text().contains("c(slin16)"), "{}", log.text());
}

#[tokio::test]
async fn a_peer_that_stops_reading_is_noticed_and_a_hang_up_waits_its_turn() {
    let (_listener, phone, mut leg) = begun("MEDIA_START format:slin192 optimal_frame_size:7680").await;
    let mut sent = 0;
    while matches!(leg.send(LegCommand::Audio(Frame::silence(Rate::R192K))), Sent::Whole | Sent::Held) {
        sent += 1;
        assert!(sent < 20_000, "no end");
    }
    assert!(matches!(leg.send(LegCommand::Hangup), Sent::Held));
    drop(phone);
    assert!(matches!(end(&mut leg).await, Cause::Normal | Cause::Lost));
}

#[tokio::test]
async fn what_asks_for_no_call_is_refused_and_counted() {
    let listener = listener(|config| {
        config.username = Some("hark".to_owned());
        "other".clone_into(&mut config.password);
    })
    .await;
    let (phone, refused) = asked(&listener, "").await;
    assert!(matches!(phone.await.unwrap(), Err(Error::Http(answer)) if answer.status() == 401));
    assert!(matches!(refused, Err(Refused::Unauthorized)));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), "400"),
        ("\u{1}\u{2}\r\n\r\n".to_owned(), "400"),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000)), "431"),
    ] {
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let pending = listener.accept().await;
        let identified = tokio::spawn(pending.identify());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        drop(stream);
        assert!(matches!(identified.await.unwrap(), Err(Refused::Request(NoRequest::Wrong(_)))));
    }
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let pending = listener.accept().await;
    drop(stream);
    assert!(matches!(pending.identify().await, Err(Refused::Request(NoRequest::Closed))));
    assert_eq!((listener.stats().unauthorized.get(), listener.stats().unidentified.get()), (1, 4));
    assert_eq!(listener.stats().connections.get(), 5);
}

#[tokio::test]
async fn a_refused_call_is_not_answered() {
    let listener = listener(|_| {}).await;
    let (phone, identified) = asked(&listener, "").await;
    identified.unwrap().refuse().await;
    assert!(matches!(phone.await.unwrap(), Err(Error::Http(answer)) if answer.status() == 503));
}

#[tokio::test]
async fn a_newcomer_takes_the_place_of_the_oldest_that_says_nothing() {
    let listener = listener(|config| config.max_pending = 1).await;
    let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let oldest = tokio::spawn(listener.accept().await.identify());
    let _second = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let _pending = listener.accept().await;
    assert!(matches!(oldest.await.unwrap(), Err(Refused::Request(NoRequest::Evicted))));
    assert_eq!(listener.stats().evicted.get(), 1);
}

#[tokio::test]
async fn an_address_has_only_so_many_connections_and_gets_its_places_back() {
    let listener = listener(|config| config.max_per_address = 1).await;
    let address = listener.local_addr().unwrap();
    let (_first, first) = asked(&listener, "a=b").await;
    let first = first.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    tokio::select! {
        _ = listener.accept() => panic!("it was taken"),
        read = tokio::io::AsyncReadExt::read_u8(&mut second) => assert!(read.is_err()),
    }
    assert_eq!(listener.stats().over_limit.get(), 1);
    drop(first);
    let _third = TcpStream::connect(address).await.unwrap();
    listener.accept().await;
}

#[test]
fn no_command_is_too_long() {
    for style in [wire::Style::Json, wire::Style::Plain] {
        assert!(wire::write(wire::Command::Mark(u32::MAX), style).len() <= wire::MAX_COMMAND);
    }
}
