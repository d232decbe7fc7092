//! Recordings of calls through the real Asterisk.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    find,
    g711::Codec,
    hark::{Hark, SECRET},
    noise,
    phone::Call,
    receiver::Receiver,
    sts_server::{Mode, StsServer},
};

const SECOND: usize = 8_000;

/// The service says again whatever it hears: in the recording the caller's words are on the left, and the same ones, a little later
/// and by as much from the first sample to the last, on the right.
#[tokio::test(flavor = "multi_thread")]
async fn a_recording_holds_both_directions_aligned_to_the_sample() {
    let service = StsServer::start(Mode::Echo).await;
    let kept = tempfile::tempdir().unwrap();
    let events = Receiver::strict(SECRET).await;
    let hark = Hark::with(events, |config| {
        config.agent.sts_url = Some(service.url().to_string());
        config.recording.enabled = true;
        config.recording.dir = Some(kept.path().to_owned());
    })
    .await;
    let lab = hark.lab().await;
    let call = Call::dial(lab.sip(), "5001", Codec::Ulaw).await.expect("an answer");
    // what is said before Asterisk has connected nobody hears
    let session = service.session(0).await;
    session.until(|record| !record.audio.is_empty()).await;
    let said = noise(8 * SECOND, 21);
    let heard = Codec::Ulaw.heard(&said);
    call.rtp.play(&said);
    call.rtp.played().await;
    // the end of the echo
    tokio::time::sleep(Duration::from_millis(500)).await;
    call.hang_up().await;
    lab.idle().await;
    let ended = |events: &[Value]| events.iter().any(|event| event["type"] == "call_ended");
    let uuid = hark.events.seen()[0].json()["uuid"].as_str().unwrap().parse().unwrap();
    hark.events(uuid, ended).await;

    let files: Vec<_> = std::fs::read_dir(kept.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let wav = files.iter().find(|path| path.extension().is_some_and(|ending| ending == "wav")).expect("a recording");
    let reader = hound::WavReader::open(wav).unwrap();
    assert_eq!((reader.spec().channels, reader.spec().sample_rate), (2, 8_000));
    let samples: Vec<i16> = reader.into_samples().map(Result::unwrap).collect();
    let left: Vec<i16> = samples.iter().step_by(2).copied().collect();
    let right: Vec<i16> = samples.iter().skip(1).step_by(2).copied().collect();
    let said_at = find(&left, &heard).unwrap_or_else(|| {
        let places: Vec<_> = heard.chunks_exact(SECOND / 10).map(|piece| find(&left, piece)).collect();
        panic!("the caller is not there whole; tenths of a second of it are at {places:?} of {}", left.len());
    });
    // a machine that is busy may make the echo late, here and there, but neither early nor lost
    let mut found = 0;
    for (n, piece) in heard.chunks_exact(SECOND / 10).enumerate() {
        let Some(heard_at) = find(&right, piece) else { continue };
        let late = heard_at.checked_sub(said_at + n * piece.len()).expect("heard before it was said");
        assert!(late < SECOND / 2, "the echo is {late} samples late after {n} tenths of a second");
        found += 1;
    }
    assert!(found >= 60, "of 80 pieces of the agent only {found} are on the right");
    assert!(files.iter().any(|path| path.extension().is_some_and(|ending| ending == "vtt")));
    lab.stop().await;
    hark.stop().await;
}
