//! Audio as it should not be: what the caller's side makes of it, and what a speech synthesis may send.

use hark::{
    audio::{
        Frame, Rate,
        denoise::Denoiser,
        dtmf::{InbandDtmf, Suppressor},
        gain::GainControl,
        resample::Resampler,
        vad::Vad,
        wav,
    },
    call::AgentEvent,
};
use serde_json::json;

use crate::{
    cascade_ws::{Services, services},
    support::cascade::speech,
};

const CALLER: &[u8] = include_bytes!("../../fixtures/audio/caller.wav");

/// What becomes of a recording: an answer of the model of voice activity to every 32 ms, and the digits that were heard.
fn heard(samples: &[i16]) -> (Vec<f32>, String) {
    let rate = Rate::R8K;
    let (mut vad, mut gain, mut denoiser) = (Vad::new(rate), GainControl::new(rate), Denoiser::new(rate));
    let mut tones = Suppressor::new(rate, InbandDtmf::Remove).unwrap();
    let (mut probabilities, mut digits) = (Vec::new(), String::new());
    for piece in samples.chunks(160) {
        let mut frame = Frame::padded(rate, piece);
        probabilities.extend(vad.push(&frame));
        tones.pass(&mut frame, |digit| digits.push(digit));
        denoiser.process(&mut frame);
        gain.process(frame.samples_mut());
        assert_eq!(frame.samples().len(), 160);
    }
    assert!(probabilities.iter().all(|p| (0.0..=1.0).contains(p)), "{probabilities:?}");
    (probabilities, digits)
}

/// Share of what is speech in `clean` that still is.
fn kept(clean: &[f32], bad: &[f32]) -> f32 {
    let voiced = clean.iter().zip(bad).filter(|(clean, _)| **clean > 0.5);
    let both = voiced.clone().filter(|(_, bad)| **bad > 0.35).count();
    both as f32 / voiced.count() as f32
}

#[test]
fn speech_that_is_clipped_shifted_or_full_of_holes_is_still_speech() {
    let (_, clean) = wav::read(CALLER).unwrap();
    let (reference, digits) = heard(&clean);
    assert_eq!(digits, "");
    let clipped = |sample: i16| (i32::from(sample) * 20).clamp(-32_768, 32_767) as i16;
    let shifted = |sample: i16| sample.saturating_add(4_000);
    let inaudible_bits = |sample: i16| sample ^ 1;
    for (what, change, least) in [
        ("clipped", &clipped as &dyn Fn(i16) -> i16, 0.8),
        ("shifted", &shifted, 0.7),
        ("one bit off", &inaudible_bits, 0.95),
    ] {
        let bad: Vec<i16> = clean.iter().map(|sample| change(*sample)).collect();
        let (probabilities, digits) = heard(&bad);
        let kept = kept(&reference, &probabilities);
        assert!(kept >= least, "{what}: only {kept:.2} of the speech is still speech");
        assert_eq!(digits, "", "{what}");
    }
    // every other packet is lost: a leg without concealment hears silence instead
    let mut holes = clean.clone();
    holes.chunks_mut(320).for_each(|two| two[..160].fill(0));
    let (probabilities, digits) = heard(&holes);
    assert_eq!(digits, "");
    let kept = kept(&reference, &probabilities);
    assert!(kept >= 0.3, "with half of the packets lost only {kept:.2} of the speech is still speech");
}

#[test]
fn what_is_no_speech_is_none() {
    let second = 8_000;
    let silence = vec![0; 3 * second];
    let least: Vec<i16> = (0..3 * second).map(|at| if at % 7 < 3 { 1 } else { -1 }).collect();
    let shifted = vec![20_000; 3 * second];
    for (what, samples) in [("silence", silence), ("one bit", least), ("a constant", shifted)] {
        let (probabilities, digits) = heard(&samples);
        let loud = probabilities.iter().skip(10).filter(|p| **p > 0.5).count();
        assert_eq!((loud, digits.as_str()), (0, ""), "{what}");
    }
    // the bytes of every sample the wrong way round: loud noise, and nothing breaks
    let (_, clean) = wav::read(CALLER).unwrap();
    let swapped: Vec<i16> = clean.iter().map(|sample| sample.swap_bytes()).collect();
    assert_eq!(heard(&swapped).1, "");
}

/// Begins a turn and gives the request for its speech.
async fn asked() -> (Services, [crate::cascade_ws::Peer; 3], serde_json::Value) {
    let services = services(Rate::R8K, Some("Good morning.")).await;
    let mut peers = [services.stt.accept().await.0, services.llm.accept().await.0, services.tts.accept().await.0];
    let id = loop {
        let message = peers[2].json().await;
        if message["type"] == "speak" {
            break message["id"].clone();
        }
    };
    (services, peers, id)
}

#[tokio::test]
async fn three_samples_are_an_utterance() {
    let (mut services, mut peers, id) = asked().await;
    peers[2].say(json!({"type": "begin", "id": id, "sample_rate": 8_000})).await;
    peers[2].play(&speech(3, 1).1).await;
    peers[2].say(json!({"type": "end", "id": id})).await;
    assert_eq!(services.bench.utterance().await.1, speech(3, 1).0);
}

#[tokio::test]
async fn a_header_that_says_another_rate_and_two_channels_is_believed() {
    let (mut services, mut peers, id) = asked().await;
    let mut file = std::io::Cursor::new(Vec::new());
    let spec = hound::WavSpec {
        channels: 2,
        sample_rate: 24_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::new(&mut file, spec).unwrap();
    let tone: Vec<i16> = (0..24_000).map(|at| ((at as f32 * 0.05).sin() * 8_000.0) as i16).collect();
    for sample in &tone {
        (0..2).for_each(|_| writer.write_sample(*sample).unwrap());
    }
    writer.finalize().unwrap();
    peers[2].say(json!({"type": "begin", "id": id, "sample_rate": 8_000})).await;
    for piece in file.into_inner().chunks(1_001) {
        peers[2].play(piece).await;
    }
    peers[2].say(json!({"type": "end", "id": id})).await;
    let got = services.bench.utterance().await.1;
    let mut expected = Vec::new();
    Resampler::new(24_000, 8_000).process(&tone, &mut expected);
    assert!(got.len().abs_diff(8_000) < 60, "{}", got.len());
    let loudest = got.iter().map(|sample| sample.unsigned_abs()).max().unwrap();
    assert!((7_000..=9_000).contains(&loudest), "{loudest}");
}

#[tokio::test]
async fn an_hour_for_one_sentence_is_cut_after_ten_minutes_and_the_call_goes_on() {
    let (mut services, mut peers, id) = asked().await;
    peers[2].say(json!({"type": "begin", "id": id, "sample_rate": 8_000})).await;
    let minute = vec![7; 60 * 16_000];
    let sending = async {
        for _ in 0..60 {
            peers[2].play(&minute).await;
        }
        // nobody listens any more
        std::future::pending::<()>().await;
    };
    let bench = &mut services.bench;
    let hearing = async {
        let mut samples = 0;
        loop {
            match bench.event().await.expect("the call goes on") {
                AgentEvent::Audio(_, more) => samples += more.len(),
                AgentEvent::Degraded(fault) => return (samples, fault),
                _ => {}
            }
        }
    };
    let (samples, fault) = tokio::select! {
        heard = hearing => heard,
        () = sending => unreachable!(),
    };
    assert_eq!(fault.code, "agent.tts.endless");
    assert!((600 * 8_000..=670 * 8_000).contains(&samples), "{} s", samples / 8_000);
}
