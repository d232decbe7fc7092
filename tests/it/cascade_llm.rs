//! Contract section 11.2: the language model.

use hark::{
    audio::Rate,
    call::{AgentEvent, AgentInput, Digit},
};
use serde_json::{Value, json};

use crate::support::{
    cascade::{Bench, UUID, config, speech},
    connector::{Exchange, nobody},
};

/// A cascade whose caller has said `text`, and the request that the language model got for it.
async fn asked(text: &str) -> (Bench, Exchange, Exchange) {
    let mut bench = Bench::start(config(), None).await;
    let mut asr = bench.asr.request().await;
    asr.ok().await;
    asr.chunk(format!("{text}<end>").as_bytes()).await;
    let prompt = bench.llm.request().await;
    (bench, asr, prompt)
}

/// The sentences that speech synthesis is asked for, each of them answered, until the turn is over.
async fn spoken(bench: &mut Bench) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        tokio::select! {
            mut request = bench.tts.request() => {
                texts.push(request.json().await["text"].as_str().unwrap().to_owned());
                request.answer(&[&[1; 320]]).await;
            }
            event = crate::support::connector::soon("an event", futures_util::StreamExt::next(&mut bench.cascade)) => match event {
                Some(AgentEvent::AudioEnd(id)) => bench.send(AgentInput::Played(id)),
                Some(AgentEvent::TurnDone) => return texts,
                Some(_) => {}
                None => panic!("the agent has ended"),
            }
        }
    }
}

fn text(content: &str) -> Vec<u8> {
    json!({"type": "text", "content": content}).to_string().into_bytes()
}

#[tokio::test]
async fn the_body_has_uuid_message_and_messages() {
    let (mut bench, mut asr, mut prompt) = asked("hello").await;
    assert!(prompt.head.starts_with("POST /prompt-stream HTTP/1.1\r\n"), "{}", prompt.head);
    assert_eq!(prompt.header("content-type"), Some("application/json"));
    assert_eq!(prompt.header("x-uuid"), Some(UUID.to_string().as_str()));
    let expected =
        json!({"uuid": UUID.to_string(), "message": "hello", "messages": [{"role": "user", "content": "hello"}]});
    assert_eq!(prompt.json().await, expected);
    prompt.answer(&[&text("Hi. "), &text("What now?")]).await;
    assert_eq!(spoken(&mut bench).await, ["Hi.", "What now?"]);
    asr.chunk(b"nothing<end>").await;
    let body = bench.llm.request().await.json().await;
    assert_eq!(body["message"], "nothing");
    let expected = json!([
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hi. What now?"},
        {"role": "user", "content": "nothing"},
    ]);
    assert_eq!(body["messages"], expected);
}

#[tokio::test]
async fn the_greeting_is_spoken_and_is_the_system_message() {
    let mut bench = Bench::start(config(), Some("Hello, I am your assistant.")).await;
    let mut request = bench.tts.request().await;
    assert_eq!(request.json().await, json!({"text": "Hello, I am your assistant."}));
    request.answer(&[&[1; 320]]).await;
    let (id, _) = bench.utterance().await;
    bench.send(AgentInput::Played(id));
    assert_eq!(bench.transcript().await.1, "Hello, I am your assistant.");
    assert!(!bench.llm.has_request());
    let mut asr = bench.asr.request().await;
    asr.ok().await;
    asr.chunk(b"hi<end>").await;
    let messages = bench.llm.request().await.json().await["messages"].clone();
    let expected =
        json!([{"role": "system", "content": "Hello, I am your assistant."}, {"role": "user", "content": "hi"}]);
    assert_eq!(messages, expected);
}

#[tokio::test]
async fn three_objects_in_one_chunk() {
    let (mut bench, _asr, prompt) = asked("hello").await;
    prompt.answer(&[&[text("One. "), text("Two."), text(" Three.")].concat()]).await;
    assert_eq!(spoken(&mut bench).await, ["One.", "Two.", "Three."]);
}

#[tokio::test]
async fn one_object_over_three_chunks_and_utf8_over_reads() {
    let (mut bench, _asr, mut prompt) = asked("hello").await;
    let object = r#"{"type":"text","content":"Grüße \"}{\" 你好。"}"#.as_bytes();
    prompt.ok().await;
    prompt.chunk(&object[..11]).await;
    prompt.chunk(&object[11..28]).await;
    prompt.chunk(&object[28..]).await;
    prompt.end().await;
    assert_eq!(spoken(&mut bench).await, ["Grüße \"}{\" 你好。"]);
    let (mut bench, _asr, mut prompt) = asked("hello").await;
    prompt.ok().await;
    for byte in object {
        prompt.chunk(&[*byte]).await;
    }
    prompt.end().await;
    assert_eq!(spoken(&mut bench).await, ["Grüße \"}{\" 你好。"]);
}

#[tokio::test]
async fn a_raw_text_body() {
    let (mut bench, _asr, prompt) = asked("hello").await;
    prompt.answer(&[b"\n Sure", b" thing. Any", b"thing else?"]).await;
    assert_eq!(spoken(&mut bench).await, ["Sure thing.", "Anything else?"]);
}

#[tokio::test]
async fn an_audio_buffer_with_a_wav_header_plays_in_order() {
    let (mut bench, _asr, mut prompt) = asked("hello").await;
    let (samples, pcm) = speech(400, 5);
    let clip = [crate::cascade_tts::LIST_HEADER, &pcm].concat();
    let audio =
        |bytes: &[u8]| json!({"type": "audio", "content": {"type": "Buffer", "data": bytes}}).to_string().into_bytes();
    prompt.ok().await;
    prompt.chunk(&text("Listen.")).await;
    prompt.chunk(&audio(&clip[..30])).await;
    prompt.chunk(&audio(&clip[30..201])).await;
    prompt.chunk(&audio(&clip[201..])).await;
    prompt.chunk(&text("Done.")).await;
    prompt.end().await;
    let mut request = bench.tts.request().await;
    assert_eq!(request.json().await["text"], "Listen.");
    request.answer(&[&[1; 320]]).await;
    let first = bench.utterance().await;
    assert_eq!(first.1, [257; 160]);
    let clip = bench.utterance().await;
    assert!(clip.1 == samples && clip.0 > first.0);
    bench.send(AgentInput::Played(first.0));
    bench.send(AgentInput::Played(clip.0));
    assert_eq!(bench.tts.request().await.json().await["text"], "Done.");
}

#[tokio::test]
async fn empty_and_missing_content_and_unknown_types_are_ignored() {
    let (mut bench, _asr, prompt) = asked("hello").await;
    let body =
        br#"{"type":"text","content":""}{"type":"text"}{"type":"text","content":null}{"type":"mood","content":"x"}
        {"type":"text","content":"Yes."}"#;
    prompt.answer(&[body]).await;
    assert_eq!(spoken(&mut bench).await, ["Yes."]);
    // an empty answer is none, and no fault
    let (mut bench, _asr, prompt) = asked("hello").await;
    prompt.answer(&[]).await;
    assert!(spoken(&mut bench).await.is_empty());
}

#[tokio::test]
async fn a_reset_before_the_headers_is_tried_once_more() {
    let (mut bench, _asr, mut prompt) = asked("hello").await;
    prompt.json().await;
    prompt.reset();
    assert_eq!(bench.degraded().await.code, "agent.llm.unreachable");
    let mut prompt = bench.llm.request().await;
    assert_eq!(prompt.json().await["message"], "hello");
    prompt.answer(&[&text("Here.")]).await;
    assert_eq!(spoken(&mut bench).await, ["Here."]);
    let (mut bench, mut asr, prompt) = asked("hello").await;
    prompt.reset();
    bench.llm.request().await.reset();
    bench.turn_done().await;
    // a turn that failed; the next one is asked for together with it
    asr.chunk(b"are you there?<end>").await;
    assert_eq!(bench.llm.request().await.json().await["message"], "hello are you there?");
}

#[tokio::test]
async fn citation_marks_split_over_chunks_vanish() {
    let (mut bench, _asr, prompt) = asked("hello").await;
    prompt.answer(&[&text("Yes【4:0†so"), &text("urce.pdf"), &text("】. No"), &text("【1】!")]).await;
    assert_eq!(spoken(&mut bench).await, ["Yes.", "No!"]);
}

#[tokio::test]
async fn a_500_with_json_is_not_spoken_and_three_in_a_row_end_the_call() {
    let (mut bench, mut asr, prompt) = asked("hello").await;
    prompt.status("500 Internal Server Error", r#"{"message":"no credit"}"#).await;
    let fault = bench.degraded().await;
    assert_eq!(fault.code, "agent.llm.failed");
    assert!(fault.message.contains("no credit"), "{}", fault.message);
    for _ in 0..2 {
        asr.chunk(b"hello<end>").await;
        bench.llm.request().await.status("500 Internal Server Error", "{}").await;
    }
    assert_eq!(bench.failed().await.code, "agent.llm.failed");
    assert!(bench.event().await.is_none());
    assert!(!bench.tts.has_request());
}

#[tokio::test]
async fn nobody_listening_ends_the_call_within_the_reconnect_time() {
    let mut bench = Bench::start(config(), None).await;
    let (url, _socket) = nobody();
    bench.restart(Rate::R8K, config(), None, |services| services.llm = url.into());
    bench.send(AgentInput::Dtmf(Digit::try_from('1').unwrap()));
    assert_eq!(bench.degraded().await.code, "agent.llm.unreachable");
    assert_eq!(bench.failed().await.code, "agent.llm.refused");
}

#[tokio::test]
async fn a_model_that_hangs_fails_its_turn() {
    let mut bench = Bench::start(config(), None).await;
    bench.restart(Rate::R8K, hark::agent::Config { llm_timeout_ms: 50, ..config() }, None, |_| {});
    bench.send(AgentInput::Dtmf(Digit::try_from('1').unwrap()));
    let prompt = bench.llm.request().await;
    assert_eq!(bench.degraded().await.code, "agent.llm.timeout");
    drop(prompt);
}

#[tokio::test]
async fn a_crash_in_mid_word_speaks_what_came() {
    let (mut bench, _asr, mut prompt) = asked("hello").await;
    prompt.ok().await;
    prompt.chunk(&text("One sentence. Another sen")).await;
    prompt.chunk(br#"{"type":"te"#).await;
    let mut request = bench.tts.request().await;
    assert_eq!(request.json().await["text"], "One sentence.");
    prompt.reset();
    request.answer(&[&[1; 320]]).await;
    assert_eq!(bench.utterance().await.1.len(), 160);
    assert_eq!(bench.tts.request().await.json().await["text"], "Another sen");
}

#[tokio::test]
async fn fifty_megabytes_and_binary_are_refused_in_bounded_memory() {
    let (mut bench, _asr, mut prompt) = asked("hello").await;
    prompt.ok().await;
    prompt.chunk(br#"{"type":"text","content":""#).await;
    let (megabyte, mut taken) = (vec![b'x'; 1 << 20], 0);
    let frame = crate::support::connector::framed(&megabyte);
    while taken < 50 && prompt.try_write(&frame).await {
        taken += 1;
    }
    assert!(taken < 50, "all of it was read");
    assert_eq!(bench.degraded().await.code, "agent.llm.unusable");
    let (mut bench, _asr, prompt) = asked("hello").await;
    prompt.answer(&[&[0xff, 0xd8, 0xff, 0xe0, 0x00]]).await;
    assert_eq!(bench.degraded().await.code, "agent.llm.unusable");
    assert!(!bench.tts.has_request());
}

#[tokio::test]
async fn endless_text_is_spoken_in_sentences_of_bounded_length_and_then_cut() {
    let (mut bench, _asr, mut prompt) = asked("hello").await;
    prompt.ok().await;
    let writer = tokio::spawn(async move {
        let object = text(&"na ".repeat(300));
        let frame = crate::support::connector::framed(&object);
        while prompt.try_write(&frame).await {}
    });
    let texts = spoken(&mut bench).await;
    assert!(texts.iter().all(|text| text.chars().count() <= 300));
    let total: usize = texts.iter().map(String::len).sum();
    assert!((50_000..70_000).contains(&total), "{total}");
    writer.await.unwrap();
}

#[tokio::test]
async fn a_digit_is_a_turn_of_its_own() {
    let mut bench = Bench::start(config(), None).await;
    bench.send(AgentInput::Dtmf(Digit::try_from('1').unwrap()));
    let first = bench.llm.request().await;
    bench.send(AgentInput::Dtmf(Digit::try_from('#').unwrap()));
    let mut second = bench.llm.request().await;
    let body = second.json().await;
    assert_eq!(body["message"], "#");
    let expected: Value = json!([{"role": "user", "content": "1"}, {"role": "user", "content": "#"}]);
    assert_eq!(body["messages"], expected);
    first.closed().await;
}
