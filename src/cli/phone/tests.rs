#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use tokio::net::TcpListener;

use super::*;
use crate::audio::{Rate, g711::Law, tone::Tone};

/// A frame as the gateway of a test got it: kind and payload.
type Got = (u8, Vec<u8>);

/// A gateway that answers each frame with what `answer` gives, and says what it got once the phone is gone.
async fn gateway(
    mut answer: impl FnMut(usize, &Got) -> Option<Vec<u8>> + Send + 'static,
) -> (SocketAddr, tokio::task::JoinHandle<Vec<Got>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all: Vec<Got> = Vec::new();
        let mut header = [0; wire::HEADER];
        while stream.read_exact(&mut header).await.is_ok() {
            let mut payload = vec![0; usize::from(u16::from_be_bytes([header[1], header[2]]))];
            stream.read_exact(&mut payload).await.unwrap();
            all.push((header[0], payload));
            match answer(all.len(), all.last().unwrap()) {
                Some(bytes) => stream.write_all(&bytes).await.unwrap(),
                None => stream.shutdown().await.unwrap(),
            }
        }
        all
    });
    (address, task)
}

fn options(codec: Codec, script: Vec<Step>, millis: u64) -> Options {
    Options { uuid: Uuid::from_u128(7), codec, script, limit: Duration::from_millis(millis), record: true }
}

fn tone(rate: Rate, millis: u64) -> Vec<i16> {
    Tone::sine(rate, 440.0, 8000).take(rate.samples_in(Duration::from_millis(millis)))
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Answers audio with itself and everything else with nothing.
fn echo(_: usize, got: &Got) -> Option<Vec<u8>> {
    Some(if got.0 >= 0x10 { frame(got.0, &got.1) } else { Vec::new() })
}

#[tokio::test]
async fn it_calls_as_asterisk_does() {
    let (address, gateway) = gateway(echo).await;
    let digit = Digit::try_from('5').unwrap();
    let script = vec![Step::Say(tone(Rate::R16K, 100)), Step::Press(digit), Step::Pause(FRAME), Step::HangUp];
    let report = call(address, options(Codec::Slin(Rate::R16K), script, 5_000), |_, _| ()).await.unwrap();
    let got = gateway.await.unwrap();
    assert_eq!(got[0], (0x01, Uuid::from_u128(7).as_bytes().to_vec()));
    assert!(got[1..6].iter().all(|(kind, payload)| *kind == 0x12 && payload.len() == 640));
    assert_eq!(got[6], (0x03, b"5".to_vec()));
    assert!(got[7..].iter().all(|(kind, payload)| *kind == 0x12 && payload.iter().all(|byte| *byte == 0)));
    assert_eq!(report.ending, Ending::Caller);
    assert_eq!(report.frames_sent, got.len() as u64 - 2);
    assert_eq!(report.fault(), None);
    assert_eq!(report.said.len(), 1);
    assert_eq!(report.heard.len(), 1);
    // no audio during the digit, as on a telephone
    let pressed = report.moments.iter().find(|(_, moment)| *moment == Moment::Pressed(digit)).unwrap().0;
    assert!(pressed - report.said[0].until >= Duration::from_millis(120));
    let said: Vec<i16> = tone(Rate::R16K, 100);
    assert_eq!(report.caller[..said.len()], said);
    let heard = report.agent.windows(100).position(|window| window == &said[..100]);
    assert!(heard.is_some(), "the echo is not in the recording");
}

#[tokio::test]
async fn g711_is_raw_bytes_and_linear_comes_back() {
    let answer = |_: usize, got: &Got| Some(if got.0 == 0x10 { frame(0x10, &[0; 320]) } else { Vec::new() });
    let (address, gateway) = gateway(answer).await;
    let script = vec![Step::Say(tone(Rate::R8K, 60)), Step::HangUp];
    let report = call(address, options(Codec::G711(Law::Alaw), script, 5_000), |_, _| ()).await.unwrap();
    let got = gateway.await.unwrap();
    let mut codes = Vec::new();
    Law::Alaw.encode(&tone(Rate::R8K, 20), &mut codes);
    assert_eq!(got[1], (0x10, codes));
    assert_eq!((report.first_sound(), report.odd_frames), (None, 0));
}

#[tokio::test]
async fn a_refusal_is_a_fault_that_says_what_to_do() {
    let (address, _gateway) = gateway(|_, _| Some(wire::HANGUP.to_vec())).await;
    let report = call(address, options(Codec::Slin(Rate::R8K), Vec::new(), 5_000), |_, _| ()).await.unwrap();
    assert_eq!(report.ending, Ending::Gateway);
    assert!(report.fault().unwrap().contains("refuses"));
}

#[tokio::test]
async fn what_asterisk_would_not_take_is_a_fault() {
    for bytes in [frame(0x10, &[]), frame(0x42, &[1]), frame(0x03, b"5"), frame(0xff, &[4])] {
        let (address, _gateway) = gateway(move |_, _| Some(bytes.clone())).await;
        let report = call(address, options(Codec::Slin(Rate::R8K), Vec::new(), 5_000), |_, _| ()).await.unwrap();
        assert!(matches!(report.ending, Ending::Protocol(_) | Ending::Error(Some(4))), "{}", report.ending);
        assert!(report.fault().is_some());
    }
}

#[tokio::test]
async fn a_connection_cut_within_a_frame_is_a_fault() {
    // the third frame is half a frame, and then the gateway goes
    let answer = |count: usize, _: &Got| match count {
        1 | 2 => Some(frame(0x10, &[0; 320])),
        3 => Some(vec![0x10, 1]),
        4 => None,
        _ => Some(Vec::new()),
    };
    let (address, _gateway) = gateway(answer).await;
    let report = call(address, options(Codec::Slin(Rate::R8K), Vec::new(), 5_000), |_, _| ()).await.unwrap();
    assert_eq!(report.ending, Ending::Cut);
    assert_eq!(report.arrivals.len(), 2);
}

#[tokio::test]
async fn nobody_there() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = call(address, options(Codec::Slin(Rate::R8K), Vec::new(), 100), |_, _| ()).await.unwrap_err();
    assert!(matches!(error, CallError::Connect { .. }));
}

#[tokio::test]
async fn the_caller_waits_for_the_agent_but_not_for_ever() {
    let (address, _gateway) = gateway(echo).await;
    let limit = Duration::from_millis(100);
    let script = vec![
        Step::AwaitSpeech(limit),
        Step::Say(tone(Rate::R8K, 100)),
        Step::AwaitSpeech(Duration::from_secs(5)),
        Step::AwaitQuiet(Duration::from_millis(100), Duration::from_secs(5)),
        Step::HangUp,
    ];
    let mut moments = Vec::new();
    let options = options(Codec::Slin(Rate::R8K), script, 10_000);
    let report = call(address, options, |_, moment| moments.push(moment)).await.unwrap();
    assert!(report.length < Duration::from_secs(5));
    let count = |wanted: Moment| moments.iter().filter(|moment| **moment == wanted).count();
    assert_eq!(count(Moment::WaitedInVain), 1);
    assert_eq!(count(Moment::Said(true)), 1);
    assert_eq!(count(Moment::Heard(true)), 1);
}

#[test]
fn quantiles_of_few_and_many() {
    let ms = Duration::from_millis;
    assert_eq!(Quantiles::of(Vec::new()), None);
    assert_eq!(Quantiles::of(vec![ms(3)]), Some(Quantiles { p50: ms(3), p99: ms(3), max: ms(3) }));
    let many = (0..=100).rev().map(ms).collect();
    assert_eq!(Quantiles::of(many), Some(Quantiles { p50: ms(50), p99: ms(99), max: ms(100) }));
}

#[test]
fn answers_belong_to_what_was_said_last() {
    let mut report = Report::new(Uuid::nil(), Rate::R8K, Duration::ZERO, false);
    let span = |from, until| Span { from: Duration::from_secs(from), until: Duration::from_secs(until) };
    report.heard = vec![span(0, 2), span(5, 6), span(12, 13)];
    report.said = vec![span(1, 4), span(7, 8), span(9, 10)];
    let answers: Vec<_> = report.answers().map(|answer| answer.map(|answer| answer.as_secs())).collect();
    assert_eq!(answers, [Some(1), None, Some(2)]);
}

#[test]
fn a_saved_call_has_the_caller_left_and_the_agent_right() {
    let mut report = Report::new(Uuid::nil(), Rate::R16K, Duration::ZERO, true);
    report.caller = vec![1, 2, 3];
    report.agent = vec![7];
    let mut file = io::Cursor::new(Vec::new());
    stereo(&mut file, &report).unwrap();
    let reader = hound::WavReader::new(io::Cursor::new(file.into_inner())).unwrap();
    assert_eq!((reader.spec().channels, reader.spec().sample_rate), (2, 16_000));
    assert_eq!(reader.into_samples::<i16>().collect::<Result<Vec<_>, _>>().unwrap(), [1, 7, 2, 0, 3, 0]);
}
