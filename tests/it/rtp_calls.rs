//! Calls by RTP through a whole gateway: a bad network, both ends, and what cannot be served.

use std::time::Duration;

use hark::asterisk::{
    ari::{Media, MediaFormat},
    rtp::wire,
};
use serde_json::json;
use tokio::time::timeout;

use crate::rtp::{linear, packet, samples, typed};
use crate::support::{
    PATIENCE,
    ari::{FakeAri, RtpPeer},
    gateway::Gateway,
    sts_server::{Mode, Step, StsServer},
};

/// The whole gateway.
struct World {
    ari: FakeAri,
    hark: Gateway,
    service: StsServer,
}

impl World {
    async fn start(format: MediaFormat, mode: Mode) -> Self {
        let (ari, service) = (FakeAri::start().await, StsServer::start(mode).await);
        let hark = Gateway::with(&service.url(), |config| {
            config.ari.url = Some(format!("http://{}", ari.addr));
            config.ari.media = Media::Rtp;
            config.ari.format = format;
            // a busy machine is no bad network
            (config.rtp.jitter_min_ms, config.rtp.jitter_max_ms) = (100, 500);
        })
        .await;
        hark.until("hark_ari_connected", 1).await;
        Self { ari, hark, service }
    }

    async fn call(&self, number: usize) -> RtpPeer {
        let caller = self.ari.call(&format!("caller-{number}"), &[]);
        self.ari.until("bridged", |ari| ari.is_bridged(&caller)).await;
        self.ari.rtp(number).await
    }

    async fn rtp(&self, name: &str) -> u64 {
        self.hark.metric(&format!("hark_rtp_{name}_total")).await
    }
}

/// Sends numbered packets as a bad network does: some lost, some twice, some out of order, at a pace that is not ours.
async fn bad_network(peer: &RtpPeer, fates: &[(u16, u64)]) {
    let start = tokio::time::Instant::now();
    for &(n, at) in fates {
        tokio::time::sleep_until(start + Duration::from_micros(at)).await;
        peer.socket.send_to(&packet(n, 7, &linear(&samples(n))), peer.to).await.unwrap();
    }
}

/// Where each numbered frame begins in what the service heard.
fn places(audio: &[i16]) -> Vec<(i16, usize)> {
    let whole = |n: i16| {
        let sample = 1_000 + n;
        let at = audio.windows(160).position(|window| window.iter().all(|&heard| heard == sample))?;
        Some((n, at))
    };
    (0..400).filter_map(whole).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifth_lost_and_the_rest_disordered_shifts_nothing() {
    let world = World::start(MediaFormat::Slin, Mode::Script(Vec::new())).await;
    let peer = world.call(0).await;
    let session = world.service.session(0).await;
    session.until(|record| !record.texts.is_empty()).await;
    let lost = |n: u16| n > 0 && n < 99 && n % 5 == 3;
    let mut fates: Vec<_> = (0..100).filter(|&n| !lost(n)).map(|n| (n, u64::from(n) * 20_000)).collect();
    // every tenth is overtaken by the next one, every seventh comes twice
    for fate in &mut fates {
        fate.1 += if fate.0 % 10 == 5 { 25_000 } else { 0 };
    }
    let again: Vec<_> = fates.iter().filter(|(n, _)| n % 7 == 0).map(|(n, at)| (*n, at + 3_000)).collect();
    fates.extend(&again);
    fates.sort_by_key(|(_, at)| *at);
    bad_network(&peer, &fates).await;
    let record = session.until(|record| record.audio.ends_with(&samples(99))).await;
    let places = places(&record.audio);
    let (_, first) = places[0];
    for (n, at) in &places {
        assert_eq!(*at - first, *n as usize * 160, "frame {n} is elsewhere");
    }
    assert_eq!(places.len(), 80, "{places:?}");
    world.ari.hang_up("caller-0");
    world.hark.until("hark_calls_active", 0).await;
    let counted = (world.rtp("lost").await, world.rtp("duplicate").await, world.rtp("concealed_ms").await);
    assert_eq!(counted, (20, again.len() as u64, 400));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_not_ours_loses_and_adds_nothing() {
    let world = World::start(MediaFormat::Slin, Mode::Script(Vec::new())).await;
    // a hundred times more than telephones have, because nobody waits for hours here
    for (number, period) in [19_600, 20_400].into_iter().enumerate() {
        let peer = world.call(number).await;
        let session = world.service.session(number).await;
        let fates: Vec<_> = (0..120).map(|n| (n, u64::from(n) * period)).collect();
        bad_network(&peer, &fates).await;
        let expected: Vec<i16> = (0..120).flat_map(samples).collect();
        let record = session.until(|record| record.audio.len() >= expected.len()).await;
        // silence follows
        assert!(record.audio[..expected.len()] == expected, "{period}");
        world.ari.hang_up(&format!("caller-{number}"));
    }
    assert_eq!(world.rtp("lost").await + world.rtp("late").await + world.rtp("concealed_ms").await, 0);
}

/// A sender that leaves out its silences, numbering on: in the recording everything is where it was said.
#[tokio::test(flavor = "multi_thread")]
async fn a_recording_does_not_shift_where_the_sender_was_silent() {
    let dir = tempfile::tempdir().unwrap();
    let (ari, service) = (FakeAri::start().await, StsServer::start(Mode::Script(Vec::new())).await);
    let hark = Gateway::with(&service.url(), |config| {
        config.ari.url = Some(format!("http://{}", ari.addr));
        config.ari.media = Media::Rtp;
        config.recording.enabled = true;
        config.recording.dir = Some(dir.path().to_owned());
    })
    .await;
    hark.until("hark_ari_connected", 1).await;
    let world = World { ari, hark, service };
    let peer = world.call(0).await;
    let session = world.service.session(0).await;
    session.until(|record| !record.texts.is_empty()).await;
    let start = tokio::time::Instant::now();
    // three sentences of 0.5 s with 0.7 s between them
    for n in 0..75_u16 {
        let place = u32::from(n) + u32::from(n / 25) * 35;
        tokio::time::sleep_until(start + Duration::from_millis(20) * place).await;
        let packet = typed(11, n, place * 160, 7, &linear(&samples(n)));
        peer.socket.send_to(&packet, peer.to).await.unwrap();
    }
    session.until(|record| record.audio.ends_with(&samples(74))).await;
    world.ari.hang_up("caller-0");
    world.hark.until("hark_calls_active", 0).await;
    let wav = async {
        loop {
            let found = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
            if let Some(path) = found.into_iter().find(|path| path.extension().is_some_and(|end| end == "wav")) {
                return path;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let path = timeout(PATIENCE, wav).await.expect("it is recorded");
    let both = hound::WavReader::open(path).unwrap().into_samples::<i16>().map(Result::unwrap);
    let caller: Vec<i16> = both.step_by(2).collect();
    // a recording lets 60 ms pass before it takes something for a gap, and after it
    for (audio, frames) in [(&session.record().audio, 3), (&caller, 6)] {
        let places = places(audio);
        // on a busy machine the first after a silence may come too late
        assert!(places.len() >= 70, "{places:?}");
        let (_, first) = places[0];
        for (n, at) in places {
            let said = (n as usize + n as usize / 25 * 35) * 160;
            assert!((at - first).abs_diff(said) <= frames * 160, "frame {n} is at {} instead of {said}", at - first);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn speech_comes_back_and_both_sides_can_hang_up() {
    let world = World::start(MediaFormat::Ulaw, Mode::Script(Vec::new())).await;
    let peer = world.call(0).await;
    assert_eq!(peer.format, "ulaw");
    let session = world.service.session(0).await;
    peer.socket.send_to(&typed(0, 1, 160, 9, &[0xFF; 160]), peer.to).await.unwrap();
    session.step(Step::Speak(vec![8_031; 160 * 10], 320));
    let mut bytes = [0; 2_048];
    let loud = async {
        let mut loud = 0;
        while loud < 10 {
            let length = peer.socket.recv(&mut bytes).await.unwrap();
            let packet = wire::parse(&bytes[..length]).unwrap();
            assert_eq!((packet.payload_type, packet.payload.len()), (0, 160));
            loud += usize::from(packet.payload[80] != 0xFF && packet.payload[80] != 0x7F);
        }
    };
    timeout(PATIENCE, loud).await.expect("speech comes");
    // keys are told by ARI alone
    let key = |channel: &str| json!({"type": "ChannelDtmfReceived", "channel": {"id": channel}, "digit": "7", "duration_ms": 90});
    world.ari.event(&key("somebody"));
    world.ari.event(&key("caller-0"));
    session.until(|record| record.digits == "7").await;
    world.ari.hang_up("caller-0");
    session.until(|record| record.ended.is_some()).await;
    world.ari.until("empty", FakeAri::is_empty).await;
    world.hark.until("hark_calls_active", 0).await;
    // the agent ends the next one: the dialplan goes on
    world.call(1).await;
    let session = world.service.session(1).await;
    session.step(Step::Close(Some((1_000, "bye"))));
    world.ari.until("given back", |ari| ari.continued() == ["caller-1"]).await;
    world.ari.until("empty", FakeAri::is_empty).await;
    assert_eq!(session.record().digits, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_gateway_answers_nobody_by_rtp() {
    let (ari, service) = (FakeAri::start().await, StsServer::start(Mode::Echo).await);
    let hark = Gateway::with(&service.url(), |config| {
        config.ari.url = Some(format!("http://{}", ari.addr));
        config.ari.media = Media::Rtp;
        config.limits.max_calls = 1;
    })
    .await;
    hark.until("hark_ari_connected", 1).await;
    let first = ari.call("first", &[]);
    ari.until("bridged", |ari| ari.is_bridged(&first)).await;
    let answered = |ari: &FakeAri| ari.requests().iter().filter(|request| *request == "POST channels/answer").count();
    assert_eq!(answered(&ari), 1);
    ari.call("second", &[]);
    ari.until("given back", |ari| ari.continued() == ["second"]).await;
    assert!(answered(&ari) == 1 && ari.is_bridged(&first));
    ari.hang_up(&first);
    ari.until("empty", FakeAri::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_free_port_the_dialplan_goes_on() {
    // one port: the second call finds none
    let free = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = std::iter::repeat_with(free).find(|port| port % 2 == 0).unwrap();
    let (ari, service) = (FakeAri::start().await, StsServer::start(Mode::Echo).await);
    let hark = Gateway::with(&service.url(), |config| {
        config.ari.url = Some(format!("http://{}", ari.addr));
        config.ari.media = Media::Rtp;
        config.rtp.ports = format!("{port}-{port}").parse().unwrap();
    })
    .await;
    hark.until("hark_ari_connected", 1).await;
    let first = ari.call("first", &[]);
    ari.until("bridged", |ari| ari.is_bridged(&first)).await;
    ari.call("second", &[]);
    ari.until("given back", |ari| ari.continued() == ["second"]).await;
    assert_eq!(hark.metric("hark_rtp_no_port_total").await, 1);
    ari.hang_up(&first);
    ari.until("empty", FakeAri::is_empty).await;
}
