//! AudioSocket over real sockets on loopback.

mod door;
mod strange;

use std::net::{Ipv4Addr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use hark::asterisk::audiosocket::wire::{self, Kind, Message};
use hark::asterisk::audiosocket::{Config, G711, Identified, Leg, Listener, Refused};
use hark::audio::g711::Law;
use hark::audio::{Frame, Rate};
use hark::call::{Cause, Digit, Leg as _, LegCommand, LegEvent, Link, Sent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use uuid::Uuid;

const UUID: Uuid = Uuid::from_u128(0x40fb_7a5c_2d1e_4b6f_9c80_1122_3344_5566);

fn config() -> Config {
    Config { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), ..Config::default() }
}

/// The side of Asterisk.
struct Phone {
    stream: TcpStream,
    decoder: wire::Decoder,
}

impl Phone {
    async fn connect(listener: &Listener) -> Self {
        Self::with_receive_buffer(listener, None).await
    }

    async fn with_receive_buffer(listener: &Listener, bytes: Option<u32>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = bytes {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        let stream = socket.connect(listener.local_addr().unwrap()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, decoder: wire::Decoder::new() }
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame as kind and payload; `None` at an orderly end. A reset is an error and fails the test.
    async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(message) = self.decoder.next_message() {
                return Some(match message.unwrap() {
                    Message::Audio { rate, payload } => (Kind::Audio(rate).byte(), payload.to_vec()),
                    Message::Hangup => (0, Vec::new()),
                    other => panic!("Asterisk takes no {other:?}"),
                });
            }
            match self.stream.read(self.decoder.room()).await.unwrap() {
                0 => {
                    assert!(!self.decoder.mid_frame(), "the connection ends in the middle of a frame");
                    return None;
                }
                n => self.decoder.filled(n),
            }
        }
    }
}

/// A frame that differs from those of other numbers.
fn numbered(rate: Rate, number: u16) -> Frame {
    let samples: Vec<i16> = (0..rate.frame_samples()).map(|i| (i as i16).wrapping_mul(3) ^ number as i16).collect();
    Frame::padded(rate, &samples)
}

fn uuid_frame() -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::put_uuid(&mut bytes, UUID);
    bytes
}

fn raw(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::put_raw(&mut bytes, Kind::from_byte(kind), payload);
    bytes
}

fn audio(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::put_audio(&mut bytes, frame);
    bytes
}

async fn identified(config: &Config, bytes: &[u8]) -> (Phone, Identified, Listener) {
    let mut listener = Listener::bind(config).await.unwrap();
    let mut phone = Phone::connect(&listener).await;
    phone.write(&uuid_frame()).await;
    phone.write(bytes).await;
    let identified = listener.accept().await.identify(config).await.unwrap();
    assert_eq!(identified.uuid, UUID);
    (phone, identified, listener)
}

/// A call that began with `bytes` behind its UUID.
async fn call_with(config: &Config, bytes: &[u8]) -> (Phone, Leg, Listener) {
    let (phone, identified, listener) = identified(config, bytes).await;
    (phone, identified.into_leg().await, listener)
}

async fn call() -> (Phone, Leg, Listener) {
    let (phone, mut leg, listener) = call_with(&config(), &audio(&numbered(Rate::R8K, 0))).await;
    assert_eq!(next_audio(&mut leg).await, numbered(Rate::R8K, 0));
    (phone, leg, listener)
}

async fn next_audio(leg: &mut Leg) -> Frame {
    match leg.next().await {
        Some(LegEvent::Audio(frame)) => frame,
        other => panic!("{other:?} instead of audio"),
    }
}

async fn hangup_of(leg: &mut Leg) -> Cause {
    loop {
        match leg.next().await {
            Some(LegEvent::Hangup(cause)) => {
                for _ in 0..3 {
                    assert!(leg.next().await.is_none(), "nothing comes after the end");
                }
                return cause;
            }
            Some(_) => {}
            None => panic!("the leg ends without saying why"),
        }
    }
}

#[tokio::test]
async fn every_rate_passes_bit_exact_and_is_answered_in_its_own_kind() {
    for (index, rate) in Rate::ALL.into_iter().enumerate() {
        let frames: Vec<Frame> = (1..4).map(|number| numbered(rate, number)).collect();
        let bytes: Vec<u8> = frames.iter().flat_map(audio).collect();
        let (mut phone, mut leg, _listener) = call_with(&config(), &bytes).await;
        assert_eq!(leg.rate(), rate);
        for frame in &frames {
            assert_eq!(&next_audio(&mut leg).await, frame);
        }
        assert!(matches!(leg.send(LegCommand::Audio(frames[0].clone())), Sent::Whole));
        let (kind, payload) = phone.read().await.unwrap();
        assert_eq!((usize::from(kind), &payload[..]), (0x10 + index, &audio(&frames[0])[3..]));
    }
}

#[tokio::test]
async fn g711_is_decoded_and_answered_in_linear() {
    for (law, setting) in
        [(Law::Ulaw, G711::Ulaw), (Law::Alaw, G711::Alaw), (Law::Ulaw, G711::Auto), (Law::Alaw, G711::Auto)]
    {
        // a pause, as in front of every call: the codes next to zero of this law and no other
        let mut codes = Vec::new();
        law.encode(&[0; 160], &mut codes);
        codes.extend((0..160).map(|i| (i * 37) as u8));
        let bytes: Vec<u8> = codes.chunks(160).flat_map(|codes| raw(0x10, codes)).collect();
        let (mut phone, mut leg, _listener) = call_with(&Config { g711: setting, ..config() }, &bytes).await;
        assert_eq!(leg.rate(), Rate::R8K);
        let mut expected = Vec::new();
        law.decode(&codes, &mut expected);
        for expected in expected.chunks(160) {
            assert_eq!(next_audio(&mut leg).await.samples(), expected, "{law:?} {setting:?}");
        }
        let _ = leg.send(LegCommand::Audio(numbered(Rate::R8K, 1)));
        assert_eq!(phone.read().await.unwrap(), (0x10, audio(&numbered(Rate::R8K, 1))[3..].to_vec()));
    }
}

#[tokio::test]
async fn bytes_may_come_one_at_a_time() {
    let config = config();
    let mut listener = Listener::bind(&config).await.unwrap();
    let mut phone = Phone::connect(&listener).await;
    let frame = numbered(Rate::R8K, 7);
    let bytes =
        [uuid_frame(), audio(&frame), raw(0x03, b"5"), raw(0x77, &[1, 2]), audio(&frame), raw(0x00, &[])].concat();
    let writer = tokio::spawn(async move {
        for byte in bytes {
            phone.write(&[byte]).await;
            tokio::task::yield_now().await;
        }
        phone
    });
    let mut leg = listener.accept().await.identify(&config).await.unwrap().into_leg().await;
    assert_eq!(next_audio(&mut leg).await, frame);
    assert!(matches!(leg.next().await, Some(LegEvent::Dtmf(digit)) if digit.as_char() == '5'));
    assert_eq!(next_audio(&mut leg).await, frame);
    assert_eq!(hangup_of(&mut leg).await, Cause::Normal);
    drop(writer.await.unwrap());
}

#[tokio::test]
async fn odd_sizes_are_cut_into_frames_of_20_ms() {
    let samples: Vec<i16> = (0..1600).map(|i| i * 7).collect();
    let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    // one frame of 100 ms, then 10 ms at a time in other lengths than that of G.711, then a stream cut between the bytes of samples
    let framed = [raw(0x10, &bytes[..1600]), raw(0x10, &bytes[1600..1602]), raw(0x10, &bytes[1602..2400])];
    let odd: Vec<u8> = bytes[2400..3200].chunks(401).flat_map(|piece| raw(0x10, piece)).collect();
    let (_phone, mut leg, listener) = call_with(&config(), &[framed.concat(), odd].concat()).await;
    for expected in samples.chunks(160) {
        assert_eq!(next_audio(&mut leg).await.samples(), expected);
    }
    assert_eq!(listener.stats().odd_frames.get(), 2);
}

#[tokio::test]
async fn an_odd_byte_does_not_shift_the_frames_behind_it() {
    let mut wrong = audio(&numbered(Rate::R16K, 1))[3..].to_vec();
    wrong.push(0x55);
    let bytes = [raw(0x12, &wrong), audio(&numbered(Rate::R16K, 2)), audio(&numbered(Rate::R16K, 3))].concat();
    let (_phone, mut leg, _listener) = call_with(&config(), &bytes).await;
    for number in 1..4 {
        assert_eq!(next_audio(&mut leg).await, numbered(Rate::R16K, number));
    }
}

#[tokio::test]
async fn a_peer_that_stops_reading_gets_an_unbroken_sequence_later() {
    let mut held = 0;
    for rate in [Rate::R8K, Rate::R16K, Rate::R48K, Rate::R192K] {
        held += stop_and_go(rate).await;
    }
    assert!(held > 0, "the kernel took no frame in parts, so this has not tested what it is for");
}

/// Fills the socket until nothing goes in, then has the peer read again; returns how many frames were taken in parts.
async fn stop_and_go(rate: Rate) -> u16 {
    let config = config();
    let mut listener = Listener::bind(&config).await.unwrap();
    let mut phone = Phone::with_receive_buffer(&listener, Some(4096)).await;
    phone.write(&[uuid_frame(), audio(&numbered(rate, 0))].concat()).await;
    let mut leg = listener.accept().await.identify(&config).await.unwrap().into_leg().await;
    let _ = next_audio(&mut leg).await;
    let (mut number, mut held, mut refused) = (0, 0, 0);
    while refused < 50 {
        match leg.send(LegCommand::Audio(numbered(rate, number))) {
            Sent::Whole => number += 1,
            Sent::Held => (number, held) = (number + 1, held + 1),
            Sent::Refused(_) => refused += 1,
        }
        let _ = futures_util::poll!(leg.next());
        assert!(number < 100, "a stall is noticed late: {number} frames went into the kernel");
    }
    let stalled_at = number;
    // now it reads again, and as much again is said, and goodbye
    let reader = tokio::spawn(read_to_the_end(phone));
    while number < stalled_at * 2 + 20 {
        match leg.send(LegCommand::Audio(numbered(rate, number))) {
            Sent::Whole => number += 1,
            Sent::Held => (number, held) = (number + 1, held + 1),
            Sent::Refused(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
        let _ = futures_util::poll!(leg.next());
    }
    leg.close().await;
    let frames = reader.await.unwrap();
    assert_eq!(frames.len(), usize::from(number), "{rate}: stalled at {stalled_at}, {held} held");
    for (number, frame) in frames.iter().enumerate() {
        assert!(frame[..] == audio(&numbered(rate, number as u16))[3..], "{rate}: frame {number} is another");
    }
    held
}

/// The payloads of all audio up to the hang-up and the end of the stream, with Asterisk's own part in it.
async fn read_to_the_end(mut phone: Phone) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some((kind, payload)) = phone.read().await {
        if kind == 0 {
            phone.stream.shutdown().await.unwrap();
        } else {
            frames.push(payload);
        }
    }
    frames
}

#[tokio::test]
async fn hanging_up_behind_half_a_frame_breaks_no_frame() {
    let config = config();
    let mut listener = Listener::bind(&config).await.unwrap();
    let mut phone = Phone::with_receive_buffer(&listener, Some(4096)).await;
    phone.write(&[uuid_frame(), audio(&numbered(Rate::R48K, 0))].concat()).await;
    let mut leg = listener.accept().await.identify(&config).await.unwrap().into_leg().await;
    let mut sent = 0_usize;
    while !matches!(leg.send(LegCommand::Audio(numbered(Rate::R48K, sent as u16))), Sent::Refused(_)) {
        sent += 1;
    }
    assert!(matches!(leg.send(LegCommand::Hangup), Sent::Held), "there is no room left for a hang-up");
    assert!(matches!(leg.send(LegCommand::Audio(Frame::silence(Rate::R48K))), Sent::Refused(_)));
    let reader = tokio::spawn(async move {
        let mut frames = 0;
        loop {
            match phone.read().await.unwrap() {
                (0x00, _) => break,
                (0x16, payload) if payload.len() == 1920 => frames += 1,
                (kind, payload) => panic!("kind {kind} with {} bytes", payload.len()),
            }
        }
        phone.stream.shutdown().await.unwrap();
        assert!(phone.read().await.is_none(), "one hang-up is enough");
        frames
    });
    leg.close().await;
    assert_eq!(reader.await.unwrap(), sent);
}

/// Asterisk's side of an orderly end with much unread: the hang-up, then the end of the stream, never a reset.
async fn expect_orderly_end(mut phone: Phone) {
    assert_eq!(phone.read().await, Some((0, Vec::new())));
    for number in 0..100 {
        phone.write(&audio(&numbered(Rate::R8K, number))).await;
    }
    phone.stream.shutdown().await.unwrap();
    assert_eq!(phone.read().await, None);
}

#[tokio::test]
async fn a_refusal_with_unread_audio_is_no_reset() {
    let bytes: Vec<u8> = (0..100).flat_map(|number| audio(&numbered(Rate::R8K, number))).collect();
    let (phone, identified, _listener) = identified(&config(), &bytes).await;
    tokio::join!(identified.refuse(), expect_orderly_end(phone));
}

#[tokio::test]
async fn closing_a_leg_with_unread_audio_is_no_reset() {
    let bytes: Vec<u8> = (0..100).flat_map(|number| audio(&numbered(Rate::R8K, number))).collect();
    let (phone, leg, _listener) = call_with(&config(), &bytes).await;
    tokio::join!(leg.close(), expect_orderly_end(phone));
}

#[tokio::test]
async fn a_peer_that_never_closes_is_left_after_2_seconds() {
    let (phone, leg, _listener) = call().await;
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    leg.close().await;
    assert!(before.elapsed() >= Duration::from_secs(2));
    drop(phone);
}

#[tokio::test]
async fn ways_to_end() {
    let (mut phone, mut leg, _listener) = call().await;
    phone.write(&wire::HANGUP).await;
    assert_eq!(hangup_of(&mut leg).await, Cause::Normal);

    let (phone, mut leg, _listener) = call().await;
    drop(phone);
    assert_eq!(hangup_of(&mut leg).await, Cause::Normal);

    let (mut phone, mut leg, _listener) = call().await;
    phone.write(&raw(0xff, &[4])).await;
    assert_eq!(hangup_of(&mut leg).await, Cause::Lost);

    let (phone, mut leg, _listener) = call().await;
    socket2::SockRef::from(&phone.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(phone);
    // Asterisk's hang-up while our audio was under way is a reset between frames
    assert_eq!(hangup_of(&mut leg).await, Cause::Normal);
    assert!(matches!(leg.send(LegCommand::Audio(Frame::silence(Rate::R8K))), Sent::Refused(_)));
    leg.close().await;
}

#[tokio::test]
async fn a_reset_in_the_middle_of_writing_ends_the_leg() {
    let (phone, mut leg, _listener) = call().await;
    socket2::SockRef::from(&phone.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(phone);
    while !matches!(leg.send(LegCommand::Audio(Frame::silence(Rate::R8K))), Sent::Refused(_)) {
        tokio::task::yield_now().await;
    }
    assert_eq!(hangup_of(&mut leg).await, Cause::Normal);
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_frame_is_no_hang_up() {
    let (mut phone, mut leg, _listener) = call().await;
    // the first half of a frame, and once it has been read, a reset
    phone.write(&wire_half()).await;
    let read = tokio::time::timeout(Duration::from_millis(200), leg.next()).await;
    assert!(read.is_err(), "{read:?}");
    socket2::SockRef::from(&phone.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(phone);
    assert_eq!(hangup_of(&mut leg).await, Cause::Lost);
}

fn wire_half() -> Vec<u8> {
    raw(0x10, &[0; 320])[..100].to_vec()
}

#[tokio::test]
async fn silence_on_the_wire_for_too_long_ends_the_call() {
    let (phone, mut leg, _listener) = call().await;
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    assert_eq!(hangup_of(&mut leg).await, Cause::Idle);
    assert!(before.elapsed() >= Duration::from_secs(599));
    drop(phone);
}

#[tokio::test]
async fn without_audio_the_call_begins_after_300_ms_at_8_khz() {
    let (mut phone, identified, _listener) = identified(&config(), &raw(0x03, b"1")).await;
    tokio::time::pause();
    let mut leg = identified.into_leg().await;
    tokio::time::resume();
    assert_eq!(leg.rate(), Rate::R8K);
    assert!(matches!(leg.next().await, Some(LegEvent::Dtmf(digit)) if digit == Digit::try_from('1').unwrap()));
    assert!(matches!(leg.send(LegCommand::Audio(numbered(Rate::R8K, 9))), Sent::Whole));
    assert_eq!(phone.read().await.unwrap().0, 0x10);
}

#[tokio::test]
async fn another_kind_in_mid_call_is_resampled() {
    let (mut phone, mut leg, _listener) = call().await;
    let loud = Frame::padded(Rate::R16K, &[8000; 320]);
    for _ in 0..5 {
        phone.write(&audio(&loud)).await;
    }
    let mut frame = next_audio(&mut leg).await;
    for _ in 0..3 {
        frame = next_audio(&mut leg).await;
    }
    assert_eq!((frame.rate(), leg.rate()), (Rate::R8K, Rate::R8K));
    assert!((7900..8100).contains(&frame.samples()[80]), "{}", frame.samples()[80]);
}
