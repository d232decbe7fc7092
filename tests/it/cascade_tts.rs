//! Contract section 11.3: speech synthesis.

use hark::{
    audio::Rate,
    call::{AgentEvent, AgentInput},
};

use crate::support::{
    cascade::{Bench, UUID, config, speech},
    connector::{Exchange, nobody},
};

/// What ffmpeg streams: 78 bytes, with a LIST chunk and sizes of 0xFFFFFFFF.
pub const LIST_HEADER: &[u8] =
    b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0\
    LIST\x1a\0\0\0INFOISFT\x0e\0\0\0Lavf59.27.100\0data\xff\xff\xff\xff";

/// A cascade that says `text`, and the first request.
async fn saying(text: &str) -> (Bench, Exchange) {
    let mut bench = Bench::start(config(), Some(text)).await;
    let request = bench.tts.request().await;
    (bench, request)
}

#[tokio::test]
async fn the_request() {
    let (_bench, mut request) = saying("Hello.").await;
    assert!(request.head.starts_with("POST /text-to-speech-stream HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.header("x-uuid"), Some(UUID.to_string().as_str()));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.json().await, serde_json::json!({"text": "Hello."}));
}

#[tokio::test]
async fn a_wav_header_with_a_list_chunk_and_no_sizes_is_stripped() {
    assert_eq!(LIST_HEADER.len(), 78);
    let (mut bench, mut request) = saying("Hello.").await;
    let (samples, bytes) = speech(800, 3);
    request.ok().await;
    for byte in LIST_HEADER {
        request.chunk(&[*byte]).await;
    }
    request.chunk(&bytes).await;
    request.end().await;
    assert_eq!(bench.utterance().await.1, samples);
}

#[tokio::test]
async fn odd_byte_pieces() {
    let (mut bench, mut request) = saying("Hello.").await;
    let (samples, bytes) = speech(500, 9);
    request.ok().await;
    for piece in bytes.chunks(7) {
        request.chunk(piece).await;
    }
    // half a sample at the end is none
    request.chunk(&[1]).await;
    request.end().await;
    assert_eq!(bench.utterance().await.1, samples);
}

#[tokio::test]
async fn a_wideband_leg_hears_it_at_its_own_rate() {
    let mut bench = Bench::at(Rate::R16K, config(), Some("Hello.")).await;
    let request = bench.tts.request().await;
    request.answer(&[&speech(8_000, 1).1]).await;
    let samples = bench.utterance().await.1.len();
    assert!((15_900..=16_200).contains(&samples), "{samples}");
}

#[tokio::test]
async fn no_empty_piece_and_an_end_after_each_sentence_in_order() {
    let (mut bench, first) = saying("One. Two. Three.").await;
    let mut request = Some(first);
    let mut ids = Vec::new();
    for (seed, text) in (1..).zip(["One.", "Two.", "Three."]) {
        let mut current = match request.take() {
            Some(first) => first,
            None => bench.tts.request().await,
        };
        assert_eq!(current.json().await["text"], text);
        let (samples, bytes) = speech(333, seed);
        current.ok().await;
        current.chunk(&bytes[..100]).await;
        // a request at a time: connectors mix up parallel ones
        assert!(!bench.tts.has_request());
        current.chunk(&bytes[100..]).await;
        current.end().await;
        let (id, heard) = bench.utterance().await;
        assert_eq!(heard, samples);
        ids.push(id);
        bench.send(AgentInput::Played(id));
    }
    assert!(ids.is_sorted());
    bench.turn_done().await;
}

#[tokio::test]
async fn only_one_sentence_is_fetched_ahead() {
    let (mut bench, request) = saying("One. Two. Three.").await;
    request.answer(&[&speech(80_000, 1).1]).await;
    let (one, _) = bench.utterance().await;
    bench.tts.request().await.answer(&[&speech(800, 1).1]).await;
    bench.utterance().await;
    tokio::task::yield_now().await;
    assert!(!bench.tts.has_request());
    bench.send(AgentInput::Played(one));
    assert_eq!(bench.tts.request().await.json().await["text"], "Three.");
}

#[tokio::test]
async fn a_500_is_skipped_whatever_its_content_type_says() {
    let (mut bench, mut request) = saying("One. Two.").await;
    request
        .write(b"HTTP/1.1 500 Oops\r\nContent-Type: audio/l16\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{\"a\":\"b\"}")
        .await;
    let mut next = bench.tts.request().await;
    assert_eq!(next.json().await["text"], "Two.");
    let (samples, bytes) = speech(200, 4);
    next.answer(&[&bytes]).await;
    assert_eq!(bench.degraded().await.code, "agent.tts.failed");
    assert_eq!(bench.utterance().await.1, samples);
}

#[tokio::test]
async fn five_failures_in_a_row_end_the_call() {
    let (mut bench, request) = saying("One. Two. Three. Four. Five. Six.").await;
    request.status("500 Oops", "{}").await;
    for _ in 0..4 {
        bench.tts.request().await.status("500 Oops", "{}").await;
    }
    assert_eq!(bench.failed().await.code, "agent.tts.failed");
    assert!(bench.event().await.is_none());
}

#[tokio::test]
async fn a_crash_in_mid_word_ends_the_sentence_and_the_next_is_spoken() {
    let (mut bench, mut request) = saying("One. Two.").await;
    let (samples, bytes) = speech(300, 4);
    request.ok().await;
    request.chunk(&bytes).await;
    assert!(matches!(bench.event().await, Some(AgentEvent::Audio(_, heard)) if heard == samples));
    request.reset();
    assert!(matches!(bench.event().await, Some(AgentEvent::AudioEnd(_))));
    assert_eq!(bench.tts.request().await.json().await["text"], "Two.");
}

#[tokio::test]
async fn nobody_listening_ends_the_call_within_the_reconnect_time() {
    let mut bench = Bench::start(config(), None).await;
    let (url, _socket) = nobody();
    bench.restart(Rate::R8K, config(), Some("Hello."), |services| services.tts = url.into());
    assert_eq!(bench.degraded().await.code, "agent.tts.unreachable");
    assert_eq!(bench.failed().await.code, "agent.tts.refused");
}

#[tokio::test]
async fn a_service_that_hangs_loses_its_sentence() {
    let mut bench = Bench::start(config(), None).await;
    let settings = hark::agent::Config { tts_timeout_ms: 50, ..config() };
    bench.restart(Rate::R8K, settings, Some("One. Two."), |_| {});
    let _hangs = bench.tts.request().await;
    assert_eq!(bench.degraded().await.code, "agent.tts.timeout");
    assert_eq!(bench.tts.request().await.json().await["text"], "Two.");
}

#[tokio::test]
async fn fifty_megabytes_wait_in_the_socket_until_they_are_wanted() {
    let (mut bench, mut request) = saying("Hello.").await;
    request.ok().await;
    let writer = tokio::spawn(async move {
        let frame = crate::support::connector::framed(&vec![3; 1 << 20]);
        let mut taken = 0;
        while taken < 50 && request.try_write(&frame).await {
            taken += 1;
        }
        taken
    });
    let mut samples = 0;
    loop {
        match bench.event().await.unwrap() {
            AgentEvent::Audio(_, more) => {
                assert!(more.len() <= 8_000);
                samples += more.len();
            }
            AgentEvent::AudioEnd(_) => break,
            _ => {}
        }
    }
    // ten minutes, and not all of it
    assert!((4_800_000..5_300_000).contains(&samples), "{samples}");
    assert!(writer.await.unwrap() < 50);
}
