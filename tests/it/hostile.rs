//! Bad input, end to end: real sockets on both sides of a whole gateway. After each abuse the next call works.

use std::{net::SocketAddr, time::Duration};

use hark::asterisk::audiosocket::wire;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, interval, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::support::{
    PATIENCE,
    gateway::{Gateway, Line, Said, frame_of, numbered},
    receiver::{Receiver, Reply},
    sts_server::{Mode, StsServer},
};

/// A call of a few words whose echo comes back as it was.
async fn a_call_works(gateway: &Gateway) {
    let mut line = Line::call(gateway.audiosocket).await;
    for number in 1..=10 {
        line.say(number).await;
    }
    assert_eq!(line.words(1600).await, numbered(10));
    line.stream.write_all(&wire::HANGUP).await.unwrap();
}

/// Memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn ten_thousand_connections_without_a_call() {
    const WAVE: usize = 400; // both ends are in this process, which may have 1,024 files
    let service = StsServer::start(Mode::Echo).await;
    let gateway = Gateway::start(&service.url()).await;
    a_call_works(&gateway).await;
    let mut before = 0;
    for wave in 0..25 {
        let mut lines = Vec::with_capacity(WAVE);
        for _ in 0..WAVE {
            lines.push(Line::connect(gateway.audiosocket).await);
        }
        // the oldest have gone for the newest, of which 256 stay
        for line in &mut lines[..WAVE - 256] {
            assert_eq!(line.hear().await, Said::End);
        }
        for line in &mut lines[WAVE - 256..] {
            let quiet = timeout(Duration::ZERO, line.stream.read_u8()).await;
            assert!(quiet.is_err(), "one of the newest was closed: {quiet:?}");
        }
        if wave % 8 == 0 {
            a_call_works(&gateway).await;
        }
        if wave == 4 {
            before = resident();
        }
        for (index, line) in lines.into_iter().enumerate() {
            if index % 2 == 0 { line.reset() } else { drop(line) }
        }
    }
    let grown = resident().saturating_sub(before) >> 20;
    assert!(grown < 32, "{grown} MB more after 8,000 further connections");
    let evicted = gateway.metric("hark_audiosocket_evicted_total").await;
    assert!(evicted >= 25 * (WAVE as u64 - 256), "{evicted}");
    a_call_works(&gateway).await;
    gateway.until("hark_calls_active", 0).await;
}

/// A proxy that passes bytes on one at a time, holding some of them back, with next to no buffers.
async fn splice(target: SocketAddr) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(2048).unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        let far = socket.connect(target).await.unwrap();
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        tokio::join!(trickle(near_in, far_out, 1), trickle(far_in, near_out, 2));
    });
    (address, AbortOnDropHandle::new(task))
}

async fn trickle(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut bytes = [0; 97];
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        for byte in &bytes[..n] {
            if rng.random_ratio(1, 500) {
                sleep(Duration::from_millis(rng.random_range(1..8))).await;
            }
            if to.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    }
    let _ = to.shutdown().await;
}

#[tokio::test]
async fn bytes_that_are_delayed_one_by_one_break_no_frame() {
    const FRAMES: i16 = 150;
    let service = StsServer::start(Mode::Echo).await;
    let gateway = Gateway::start(&service.url()).await;
    let (address, _splice) = splice(gateway.audiosocket).await;
    let Line { stream, .. } = Line::call(address).await;
    let (reader, mut writer) = stream.into_split();
    let speaking = tokio::spawn(async move {
        let mut clock = interval(Duration::from_millis(20));
        for number in 1..=FRAMES {
            clock.tick().await;
            let mut bytes = Vec::new();
            wire::put_audio(&mut bytes, &frame_of(number));
            writer.write_all(&bytes).await.unwrap();
        }
        writer
    });
    let heard = words(reader, 160 * FRAMES as usize).await;
    assert_eq!(heard, numbered(FRAMES), "agent to caller");
    let said = service.session(0).await.record().audio;
    assert_eq!(said.into_iter().filter(|sample| *sample != 0).collect::<Vec<_>>(), numbered(FRAMES), "caller to agent");
    drop(speaking.await.unwrap());
    a_call_works(&gateway).await;
}

/// What is not silence in the frames that come, which have to be whole.
async fn words(mut reader: OwnedReadHalf, samples: usize) -> Vec<i16> {
    let (mut decoder, mut words, since) = (wire::Decoder::new(), Vec::new(), Instant::now());
    while words.len() < samples {
        assert!(since.elapsed() < PATIENCE, "only {} of {samples} samples came", words.len());
        let read = timeout(PATIENCE, reader.read(decoder.room())).await.expect("the gateway is silent").unwrap();
        assert!(read > 0, "the gateway hung up after {} samples", words.len());
        decoder.filled(read);
        while let Some(message) = decoder.next_message() {
            let message = message.unwrap();
            let wire::Message::Audio { payload, .. } = message else { panic!("{message:?}") };
            assert_eq!(payload.len(), 320);
            let mut frame = Vec::new();
            wire::samples_from_le(payload, &mut frame);
            words.extend(frame.into_iter().filter(|sample| *sample != 0));
        }
    }
    words
}

#[tokio::test]
async fn a_caller_who_stops_reading_for_a_second_hears_everything_and_after_five_is_ended() {
    const FRAMES: i16 = 200;
    let service = StsServer::start(Mode::Burst(numbered(FRAMES))).await;
    let gateway = Gateway::start(&service.url()).await;
    let mut line = Line::call(gateway.audiosocket).await;
    let mut heard = line.words(160 * 50).await;
    let began = Instant::now();
    // this is the abuse, not a wait for something to happen
    sleep(Duration::from_secs(1)).await;
    heard.extend(line.words(160 * (FRAMES as usize - 50)).await);
    assert_eq!(heard, numbered(FRAMES));
    let took = began.elapsed();
    // 3 s of speech were left; where the kernel had swallowed all of the second, this would have tested nothing
    assert!(took > Duration::from_millis(3_200), "nothing stalled: the rest was heard within {took:?}");
    line.stream.write_all(&wire::HANGUP).await.unwrap();
    gateway.until("hark_calls_ended_total{reason=\"caller.hangup\"}", 1).await;

    let mut line = Line::call(gateway.audiosocket).await;
    let mut heard = line.words(160 * 10).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(gateway.metric("hark_calls_ended_total{reason=\"leg.stalled\"}").await, 1);
    // what the kernel still holds is the same words, in order, in whole frames as far as it goes
    while let Ok(Said::Audio(frame)) = timeout(PATIENCE, line.hear()).await {
        heard.extend(frame.into_iter().filter(|sample| *sample != 0));
        if heard.len() >= 160 * 40 {
            break;
        }
    }
    assert_eq!(heard, numbered(FRAMES)[..heard.len()]);
    gateway.until("hark_calls_active", 0).await;
    let mut line = Line::call(gateway.audiosocket).await;
    assert_eq!(line.words(1600).await, numbered(10), "the next call works");
}

#[tokio::test]
async fn a_minute_of_speech_at_once_is_played_in_order_and_costs_the_next_call_nothing() {
    let minute = numbered(3_000);
    let service = StsServer::start(Mode::Burst(minute.clone())).await;
    let gateway = Gateway::start(&service.url()).await;
    for _ in 0..2 {
        let mut line = Line::call(gateway.audiosocket).await;
        let (began, heard) = (Instant::now(), line.words(160 * 100).await);
        assert_eq!(heard, minute[..160 * 100]);
        // neither in a lump nor late: 2 s of speech, of which the first frame comes at once
        let took = began.elapsed();
        assert!((1_900..3_000).contains(&took.as_millis()), "2 s of speech were heard in {took:?}");
        line.stream.write_all(&wire::HANGUP).await.unwrap();
        while line.hear().await != Said::End {}
    }
    gateway.until("hark_calls_active", 0).await;
    gateway.until("hark_calls_ended_total{reason=\"caller.hangup\"}", 2).await;
}

#[tokio::test]
async fn a_reset_at_any_byte_ends_that_call_alone() {
    let receiver = Receiver::start(|_| Reply::new(200, "")).await;
    let service = StsServer::start(Mode::Echo).await;
    let url = receiver.url.clone();
    let gateway = Gateway::with(&service.url(), |config| config.webhooks.url = Some(url)).await;
    let mut bytes = Vec::new();
    wire::put_uuid(&mut bytes, Uuid::new_v4());
    wire::put_audio(&mut bytes, &frame_of(7));
    wire::put_raw(&mut bytes, wire::Kind::Dtmf, b"5");
    wire::put_audio(&mut bytes, &frame_of(8));
    bytes.extend(wire::HANGUP);
    let cuts: Vec<usize> = (0..24).chain((24..bytes.len()).step_by(23)).chain(bytes.len() - 4..=bytes.len()).collect();
    for &cut in &cuts {
        for answered in [false, true] {
            let mut line = Line::connect(gateway.audiosocket).await;
            line.stream.write_all(&bytes[..cut]).await.unwrap();
            // also in mid-conversation: once the gateway has said something
            if answered && cut >= 19 {
                line.hear().await;
            }
            line.reset();
        }
    }
    gateway.until("hark_calls_active", 0).await;
    a_call_works(&gateway).await;
    gateway.until("hark_calls_active", 0).await;
    gateway.until("hark_webhook_queued", 0).await;
    let seen = receiver.seen();
    let count = |kind: &str| seen.iter().filter(|seen| seen.kind() == kind).count();
    let whole = cuts.iter().filter(|cut| **cut >= 19).count();
    assert!(count("call_started") > whole, "{} of at least {whole} calls", count("call_started"));
    assert_eq!(count("call_started"), count("call_ended"), "every call that began has ended, once");
}
