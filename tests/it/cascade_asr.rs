//! Contract section 11.1: speech recognition.

use hark::{
    audio::Rate,
    call::{AgentEvent, AgentInput, Role},
};

use crate::support::{
    cascade::{Bench, UUID, config},
    connector::{framed, nobody},
};

fn ramp(frame: i16) -> Vec<i16> {
    (0..160).map(|n| n * 7 + frame * 13 - 900).collect()
}

fn bytes(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

fn user(text: &str) -> (Role, String) {
    (Role::User, text.to_owned())
}

#[tokio::test]
async fn body_bytes_are_the_callers_audio_with_x_uuid_and_no_wait_for_headers() {
    let mut bench = Bench::start(config(), None).await;
    let mut request = bench.asr.request().await;
    assert!(request.head.starts_with("POST /speech-to-text-stream HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.header("x-uuid"), Some(UUID.to_string().as_str()));
    assert_eq!(request.header("transfer-encoding"), Some("chunked"));
    assert_eq!(request.header("content-type"), Some("application/octet-stream"));
    // no byte of an answer is sent, and yet all the audio comes, in pieces of 20 ms
    for n in 0..100 {
        bench.audio(&ramp(n));
        assert_eq!(request.piece().await.unwrap(), bytes(&ramp(n)));
    }
    bench.send(AgentInput::Finish);
    assert_eq!(request.piece().await, None);
}

#[tokio::test]
async fn wideband_is_sent_at_8_khz() {
    let mut bench = Bench::at(Rate::R16K, config(), None).await;
    let mut request = bench.asr.request().await;
    for _ in 0..50 {
        bench.send(AgentInput::Audio(hark::audio::Frame::silence(Rate::R16K)));
    }
    let audio = request.audio(15_000).await;
    assert_eq!(audio.len() % 320, 0);
    assert!(audio.len() <= 16_000);
}

#[tokio::test]
async fn two_texts_in_one_tcp_segment_are_joined_verbatim() {
    let mut bench = Bench::start(config(), None).await;
    let mut request = bench.asr.request().await;
    request.ok().await;
    request.write(&[framed(b"Hello"), framed(b" world")].concat()).await;
    assert_eq!(bench.transcript().await, user("Hello world"));
    request.chunk(b" again ").await;
    assert_eq!(bench.transcript().await, user("again"));
}

#[tokio::test]
async fn utf8_split_over_reads() {
    let mut bench = Bench::start(hark::agent::Config { debounce_ms: 3_600_000, ..config() }, None).await;
    let mut request = bench.asr.request().await;
    request.ok().await;
    let text = framed("Grüße, 你好<end>".as_bytes());
    for byte in text {
        request.write(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.transcript().await, user("Grüße, 你好"));
}

#[tokio::test]
async fn a_500_with_json_is_not_spoken_and_recognition_comes_back() {
    let mut bench = Bench::start(config(), None).await;
    bench.asr.request().await.status("500 Internal Server Error", r#"{"message":"bad key"}"#).await;
    let fault = bench.degraded().await;
    assert_eq!(fault.code, "agent.stt.failed");
    assert!(fault.message.contains("500") && fault.message.contains("bad key"), "{}", fault.message);
    let mut request = bench.asr.request().await;
    request.ok().await;
    request.chunk(b"hello").await;
    assert_eq!(bench.transcript().await, user("hello"));
    let mut prompt = bench.llm.request().await;
    assert_eq!(prompt.json().await["message"], "hello");
}

#[tokio::test]
async fn a_service_that_only_fails_ends_the_call() {
    let mut bench = Bench::start(config(), None).await;
    let failed = async {
        loop {
            bench.asr.request().await.status("500 Internal Server Error", "{}").await;
        }
    };
    let fault = tokio::select! {
        () = failed => unreachable!(),
        fault = async {
            use futures_util::StreamExt as _;
            loop {
                if let Some(AgentEvent::Failed(fault)) = bench.cascade.next().await {
                    break fault;
                }
            }
        } => fault,
    };
    assert_eq!(fault.code, "agent.stt.failed");
    assert!(bench.event().await.is_none());
}

#[tokio::test]
async fn a_408_or_a_close_is_reconnected_without_loss() {
    let mut bench = Bench::start(config(), None).await;
    let mut request = bench.asr.request().await;
    for n in 0..10 {
        bench.audio(&ramp(n));
    }
    let mut first = request.audio(3_200).await;
    request.ok().await;
    request.chunk(b"one").await;
    assert_eq!(bench.transcript().await, user("one"));
    for n in 10..40 {
        bench.audio(&ramp(n));
    }
    first.extend(request.audio(9_600).await);
    // destroyed in the middle of an answer
    request.reset();
    for n in 40..60 {
        bench.audio(&ramp(n));
    }
    let mut request = bench.asr.request().await;
    let wanted: Vec<u8> = (0..60).flat_map(|n| bytes(&ramp(n))).collect();
    let mut second = request.audio(320).await;
    while !wanted.ends_with(&second) || second.len() < 20 * 320 {
        second.extend(request.piece().await.unwrap());
        assert!(second.len() <= wanted.len());
    }
    // what comes again begins no later than what the first had got
    assert!(first.len() + second.len() >= wanted.len());
    // before the response: the status of Node
    request.status("408 Request Timeout", "").await;
    bench.asr.request().await;
}

#[tokio::test]
async fn a_request_is_rotated_in_silence_and_the_old_one_still_delivers() {
    let mut bench = Bench::start(hark::agent::Config { rotate_s: 0, ..config() }, None).await;
    let mut old = bench.asr.request().await;
    for n in 0..20 {
        bench.audio(&[20_000 + n; 160]);
        old.piece().await.unwrap();
    }
    let mut quiet = 0;
    let mut new = loop {
        bench.audio(&[0; 160]);
        quiet += 1;
        assert!(quiet < 20);
        if quiet >= 15 {
            break bench.asr.request().await;
        }
        old.piece().await.unwrap();
    };
    assert_eq!(old.piece().await.unwrap().len(), 320);
    assert_eq!(old.piece().await, None);
    bench.audio(&[77; 160]);
    assert_eq!(new.piece().await.unwrap(), bytes(&[77; 160]));
    old.ok().await;
    old.chunk(b"late words").await;
    old.end().await;
    assert_eq!(bench.transcript().await, user("late words"));
}

#[tokio::test]
async fn end_tokens_are_stripped_and_flush_at_once() {
    let mut bench = Bench::start(hark::agent::Config { debounce_ms: 3_600_000, ..config() }, None).await;
    let mut request = bench.asr.request().await;
    request.ok().await;
    request.chunk(b"Hello").await;
    request.chunk(b" wor").await;
    request.chunk(b"ld<e").await;
    request.chunk(b"nd>").await;
    assert_eq!(bench.transcript().await, user("Hello world"));
}

#[tokio::test]
async fn sentinels_are_not_passed_on() {
    let mut bench = Bench::start(config(), None).await;
    let mut request = bench.asr.request().await;
    request.ok().await;
    request.chunk(b"[VAD Service: Error during transcription process]\n").await;
    request.chunk(b"[No transcription]\n<end>").await;
    request.chunk(b"really<end>").await;
    assert_eq!(bench.transcript().await, user("really"));
}

#[tokio::test]
async fn finish_collects_the_last_words_and_ends() {
    let mut bench = Bench::start(config(), None).await;
    let mut request = bench.asr.request().await;
    bench.audio(&ramp(1));
    bench.send(AgentInput::Finish);
    while request.piece().await.is_some() {}
    request.ok().await;
    request.chunk(b"bye").await;
    request.end().await;
    assert_eq!(bench.transcript().await, user("bye"));
    assert!(bench.event().await.is_none());
    assert!(!bench.llm.has_request(), "nobody is there to hear an answer");
}

#[tokio::test]
async fn finish_does_not_wait_for_a_service_that_hangs() {
    let mut bench = Bench::start(config(), None).await;
    let _request = bench.asr.request().await;
    bench.send(AgentInput::Finish);
    assert!(bench.event().await.is_none());
}

#[tokio::test]
async fn nobody_listening_ends_the_call_within_the_reconnect_time() {
    let mut bench = Bench::start(config(), None).await;
    let (url, _socket) = nobody();
    bench.restart(Rate::R8K, config(), None, |services| services.asr = url.into());
    assert_eq!(bench.degraded().await.code, "agent.stt.refused");
    assert_eq!(bench.failed().await.code, "agent.stt.refused");
    assert!(bench.event().await.is_none());
}

#[tokio::test]
async fn endless_text_and_binary_are_not_passed_on() {
    let mut bench = Bench::start(config(), None).await;
    let mut request = bench.asr.request().await;
    request.ok().await;
    let text = framed(&[b'x'; 4_000]);
    while request.try_write(&text).await {}
    let mut request = bench.asr.request().await;
    request.ok().await;
    request.chunk(&[0xff, 0xfe, 0x00, 0x80]).await;
    let mut request = bench.asr.request().await;
    request.ok().await;
    request.chunk(b"fine<end>").await;
    while bench.transcript().await.1 != "fine" {}
}
