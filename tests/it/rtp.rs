//! RTP over real sockets on loopback: the side of Asterisk is played here, also by one that means ill, and by a bad network.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::StreamExt;
use hark::{
    asterisk::{
        rtp::{
            Config, Leg, Line, Sockets, Told,
            wire::{self, Packet},
        },
        telemetry::RtpStats,
    },
    audio::{AudioFormat, Encoding, Frame, Rate},
    call::{Cause, Digit, Leg as _, LegCommand, LegEvent, Link, Sent},
};
use tokio::{net::UdpSocket, time::timeout};
use uuid::Uuid;

use crate::support::{PATIENCE, log::Log};

const SLIN: AudioFormat = AudioFormat { encoding: Encoding::Linear16, rate: Rate::R8K };

/// Asterisk's end of a leg.
struct Peer {
    socket: UdpSocket,
    to: SocketAddr,
    stats: Arc<RtpStats>,
    line: Option<Line>,
}

/// A leg and its peer. `known`: the leg has been told where the peer is.
async fn call(format: AudioFormat, known: bool, change: impl FnOnce(&mut Config)) -> (Peer, Leg) {
    let mut config = Config::default();
    change(&mut config);
    let stats = Arc::<RtpStats>::default();
    let opened = Sockets::new(&config, Arc::clone(&stats)).open().unwrap();
    let (socket, to) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), opened.local);
    let told = known.then(|| socket.local_addr().unwrap());
    let (pending, line) = opened.call(Uuid::new_v4(), format, Told(told));
    let leg = pending.identify().unwrap().into_leg().await;
    (Peer { socket, to, stats, line: Some(line) }, leg)
}

/// A packet of slin: the n-th of a stream from `source`.
pub fn packet(n: u16, source: u32, payload: &[u8]) -> Vec<u8> {
    let timestamp = u32::from(n) * 160;
    typed(11, n, timestamp, source, payload)
}

pub fn typed(payload_type: u8, sequence: u16, timestamp: u32, source: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::put(&mut bytes, &Packet { marker: false, payload_type, sequence, timestamp, source, payload });
    bytes
}

/// 20 ms that can be told from others.
pub fn samples(n: u16) -> Vec<i16> {
    vec![1_000 + n as i16; 160]
}

pub fn linear(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_be_bytes()).collect()
}

impl Peer {
    async fn send(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.to).await.unwrap();
    }

    async fn say(&self, n: u16) {
        self.send(&packet(n, 7, &linear(&samples(n)))).await;
    }

    async fn hear(&self) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let (length, from) = timeout(PATIENCE, self.socket.recv_from(&mut bytes)).await.expect("in time").unwrap();
        assert_eq!(from, self.to, "it comes from where we send to");
        bytes.truncate(length);
        bytes
    }
}

async fn next(leg: &mut Leg) -> LegEvent {
    timeout(Duration::from_secs(5), leg.next()).await.expect("in time").expect("the leg lives")
}

/// The number of the next frame of [`samples`].
async fn heard(leg: &mut Leg) -> i16 {
    match next(leg).await {
        LegEvent::Audio(frame) => {
            let first = frame.samples()[0];
            assert!(frame.samples().iter().all(|&sample| sample == first), "frames are mixed");
            first - 1_000
        }
        other => panic!("{other:?}"),
    }
}

async fn digit(leg: &mut Leg) -> char {
    loop {
        match next(leg).await {
            LegEvent::Dtmf(digit) => return digit.as_char(),
            LegEvent::Audio(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn end(leg: &mut Leg) -> Cause {
    loop {
        if let LegEvent::Hangup(cause) = next(leg).await {
            assert!(leg.next().await.is_none() && leg.next().await.is_none());
            return cause;
        }
    }
}

#[tokio::test]
async fn every_format_goes_both_ways() {
    for (encoding, rate, kind, out, length) in [
        (Encoding::Ulaw, Rate::R8K, 0, 0, 160),
        (Encoding::Alaw, Rate::R8K, 8, 8, 160),
        (Encoding::G722, Rate::R16K, 9, 9, 160),
        (Encoding::Linear16, Rate::R8K, 11, 11, 320),
        (Encoding::Linear16, Rate::R8K, 10, 11, 320),
        // what Asterisk sends of this, it does not take
        (Encoding::Linear16, Rate::R16K, 118, 9, 640),
    ] {
        let (peer, mut leg) = call(AudioFormat { encoding, rate }, true, |_| {}).await;
        assert_eq!((leg.rate(), leg.lead()), (rate, Duration::ZERO));
        peer.send(&typed(kind, 1, 0, 7, &vec![0x11; length])).await;
        assert!(matches!(next(&mut leg).await, LegEvent::Audio(frame) if frame.rate() == rate), "{encoding:?}");
        assert!(matches!(leg.send(LegCommand::Audio(Frame::silence(rate))), Sent::Whole));
        let bytes = peer.hear().await;
        let said = wire::parse(&bytes).unwrap();
        assert_eq!((said.payload_type, said.marker), (out, true), "{encoding:?}");
        assert_eq!(said.payload.len(), if out == 11 { 320 } else { 160 });
    }
}

#[tokio::test]
async fn our_own_stream_is_one_and_says_where_it_paused() {
    let (peer, mut leg) = call(SLIN, true, |_| {}).await;
    // without waiting in between, so that a busy machine makes no pause of its own
    for stretch in [0..3, 3..5] {
        for n in stretch {
            assert!(matches!(leg.send(LegCommand::Audio(Frame::padded(Rate::R8K, &samples(n)))), Sent::Whole));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut last: Option<(u16, u32, u32)> = None;
    for n in 0..5_u16 {
        let bytes = peer.hear().await;
        let said = wire::parse(&bytes).unwrap();
        assert_eq!(said.payload, linear(&samples(n)), "big-endian, bit by bit");
        if let Some((sequence, timestamp, source)) = last {
            assert_eq!((said.sequence, said.source), (sequence.wrapping_add(1), source));
            let passed = said.timestamp.wrapping_sub(timestamp);
            assert_eq!(said.marker, n == 3);
            assert!(if n == 3 { passed >= 14 * 160 } else { passed == 160 }, "{passed}");
        }
        last = Some((said.sequence, said.timestamp, said.source));
    }
}

#[tokio::test]
async fn a_forged_source_is_heard_by_nobody_and_is_told_nothing() {
    let log = Log::start();
    let (peer, mut leg) = call(SLIN, true, |_| {}).await;
    let forger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..5 {
        forger.send_to(&packet(n, 7, &linear(&samples(500 + n))), peer.to).await.unwrap();
        forger.send_to(b"", peer.to).await.unwrap();
    }
    peer.say(0).await;
    assert_eq!(heard(&mut leg).await, 0);
    assert_eq!((peer.stats.foreign.get(), peer.stats.packets_in.get()), (10, 1));
    assert!(matches!(leg.send(LegCommand::Audio(Frame::silence(Rate::R8K))), Sent::Whole));
    peer.hear().await;
    assert!(forger.try_recv(&mut [0; 10]).is_err());
    assert_eq!(log.count("rtp.foreign"), 1, "{}", log.text());
}

#[tokio::test]
async fn without_knowing_better_the_first_valid_packet_decides_and_nothing_after_it() {
    for known in [false, true] {
        // Asterisk may say where it is and yet come from elsewhere, behind address translation
        let (stale, mut leg) = call(SLIN, known, |config| config.learn_peer = true).await;
        let peer = Peer { socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(), ..stale };
        // until then what is said goes where Asterisk says it is, or nowhere; it never stalls the call
        assert!(matches!(leg.send(LegCommand::Audio(Frame::silence(Rate::R8K))), Sent::Whole));
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for nothing in [
            &b""[..],
            b"GET / HTTP/1.1\r\n\r\n",
            &typed(34, 0, 0, 1, &[1; 100]),
            &[0x80, 200, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            stranger.send_to(nothing, peer.to).await.unwrap();
        }
        peer.say(0).await;
        assert_eq!(heard(&mut leg).await, 0);
        stranger.send_to(&packet(1, 7, &linear(&samples(99))), peer.to).await.unwrap();
        peer.say(1).await;
        assert_eq!(heard(&mut leg).await, 1);
        assert_eq!(peer.stats.foreign.get(), 1);
        assert!(matches!(leg.send(LegCommand::Audio(Frame::silence(Rate::R8K))), Sent::Whole));
        peer.hear().await;
    }
    let (peer, mut leg) = call(SLIN, false, |config| config.allow = vec!["10.0.0.0/8".parse().unwrap()]).await;
    peer.say(0).await;
    assert!(timeout(Duration::from_millis(100), leg.next()).await.is_err());
    assert_eq!(peer.stats.foreign.get(), 1);
}

#[tokio::test]
async fn what_is_no_audio_of_the_call_is_counted_and_skipped() {
    let log = Log::start();
    let (peer, mut leg) = call(SLIN, true, |_| {}).await;
    let audio = linear(&samples(1));
    for bytes in [
        vec![],
        vec![0x80; 11],
        vec![0xFF; 60],
        typed(11, 0, 0, 7, &audio[1..]),
        typed(11, 0, 0, 7, &[0; 1_999]),
        typed(11, 0, 0, 7, &[0; 9_000]),
        typed(11, 0, 0, 7, &[]),
    ] {
        peer.send(&bytes).await;
    }
    peer.send(&typed(0, 0, 0, 7, &audio)).await;
    peer.send(&typed(8, 0, 0, 7, &audio)).await;
    peer.send(&[0x80, 201, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0]).await;
    // comfort noise has a number, but no sound
    peer.send(&typed(13, 0, 0, 7, &[70])).await;
    peer.say(1).await;
    assert_eq!(heard(&mut leg).await, 1);
    let stats = &peer.stats;
    assert_eq!((stats.malformed.get(), stats.wrong_type.get(), stats.control.get()), (7, 2, 1));
    assert_eq!((stats.packets_in.get(), stats.lost.get()), (2, 0));
    assert_eq!((log.count("rtp.malformed"), log.count("rtp.payload_type")), (1, 1), "{}", log.text());
}

#[tokio::test]
async fn duplicates_and_late_packets_are_heard_once_or_not_at_all() {
    let (peer, mut leg) = call(SLIN, true, |config| config.jitter_min_ms = 50).await;
    for n in [0, 1, 1, 3, 2, 2, 4] {
        peer.say(n).await;
    }
    for n in 0..5 {
        assert_eq!(heard(&mut leg).await, n);
    }
    peer.say(6).await;
    // the last sound goes on, fading, for what never came
    let LegEvent::Audio(made) = next(&mut leg).await else { panic!("no audio") };
    assert!(made.samples()[0] == 1_004 && made.samples().is_sorted_by(|a, b| a >= b) && made.samples()[159] > 600);
    assert_eq!(heard(&mut leg).await, 6);
    peer.say(5).await;
    peer.say(7).await;
    assert_eq!(heard(&mut leg).await, 7);
    let stats = &peer.stats;
    assert_eq!((stats.duplicate.get(), stats.late.get(), stats.lost.get(), stats.concealed_ms.get()), (2, 1, 1, 20));
}

#[tokio::test]
async fn another_sender_and_another_sequence_go_on_at_once() {
    let (peer, mut leg) = call(SLIN, true, |_| {}).await;
    peer.say(0).await;
    assert_eq!(heard(&mut leg).await, 0);
    // an SSRC of its own, anywhere in its sequence
    peer.send(&packet(40_000, 8, &linear(&samples(1)))).await;
    assert_eq!(heard(&mut leg).await, 1);
    // the same SSRC, elsewhere: from the second packet on
    for n in [10, 11, 12] {
        peer.send(&packet(n, 8, &linear(&samples(n)))).await;
    }
    assert_eq!((heard(&mut leg).await, heard(&mut leg).await), (11, 12));
    assert_eq!((peer.stats.source_changes.get(), peer.stats.resets.get()), (1, 1));
}

#[tokio::test]
async fn keys_come_by_both_ways_and_once() {
    let (peer, mut leg) = call(SLIN, true, |_| {}).await;
    peer.say(0).await;
    let mut n = 1;
    for event in [1_u8, 11] {
        let timestamp = u32::from(n) * 160;
        for flags in [10_u8, 10, 0x8A, 0x8A, 0x8A] {
            peer.send(&typed(101, n, timestamp, 7, &[event, flags, 0, 160])).await;
            n += 1;
        }
    }
    peer.say(n).await;
    assert_eq!((digit(&mut leg).await, digit(&mut leg).await), ('1', '#'));
    let line = peer.line.as_ref().unwrap();
    line.keys.try_send(Digit::try_from('5').unwrap()).unwrap();
    assert_eq!(digit(&mut leg).await, '5');
    peer.say(n + 1).await;
    assert_eq!((peer.stats.lost.get(), peer.stats.wrong_type.get()), (0, 0));
}

#[tokio::test]
async fn every_end_is_told_apart() {
    // whoever made the channel says that it is over
    let (mut peer, mut leg) = call(SLIN, true, |_| {}).await;
    assert!(peer.line.as_mut().unwrap().taken.try_recv().is_ok());
    peer.line = None;
    assert_eq!(end(&mut leg).await, Cause::Normal);
    // nothing comes any more; a forger keeps nothing alive
    let (peer, mut leg) = call(SLIN, true, |config| config.idle_media_s = 1).await;
    peer.say(0).await;
    let forger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let forging = async {
        loop {
            let _ = forger.send_to(&packet(1, 7, &[0; 320]), peer.to).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let cause = tokio::select! {
        cause = end(&mut leg) => cause,
        () = forging => unreachable!(),
    };
    assert_eq!(cause, Cause::Idle);
    // Hark has enough: the line tells
    let (mut peer, mut leg) = call(SLIN, true, |_| {}).await;
    let _ = leg.send(LegCommand::Hangup);
    assert!(matches!(leg.send(LegCommand::Audio(Frame::silence(Rate::R8K))), Sent::Refused(_)));
    leg.close().await;
    peer.line.take().unwrap().keys.closed().await;
    // and a call that is refused
    let sockets = Sockets::new(&Config::default(), Arc::default());
    let (pending, mut line) = sockets.open().unwrap().call(Uuid::new_v4(), SLIN, Told(None));
    pending.identify().unwrap().refuse();
    line.keys.closed().await;
    assert!(line.taken.try_recv().is_err());
}

#[tokio::test]
async fn a_flood_holds_up_nobody_else() {
    let (peer, mut leg) = call(SLIN, true, |_| {}).await;
    for n in 0..200 {
        peer.say(n).await;
    }
    let mut polls = 0;
    let heard = std::future::poll_fn(|cx| {
        polls += 1;
        let mut taken = 0;
        while let std::task::Poll::Ready(event) = leg.poll_next_unpin(cx) {
            assert!(matches!(event, Some(LegEvent::Audio(_))));
            taken += 1;
            assert!(taken <= 16, "it does not give way");
        }
        if polls < 12 { std::task::Poll::Pending } else { std::task::Poll::Ready(taken) }
    });
    timeout(Duration::from_secs(5), heard).await.expect("it wakes itself");
}
