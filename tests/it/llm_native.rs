//! Native language models: vendors' own interfaces in the place of a connector.

use std::time::Duration;

use hark::{
    agent::Config,
    audio::Rate,
    call::{AgentEvent, AgentInput, Digit},
};
use serde_json::json;

use crate::support::{
    cascade::{Bench, UUID, config},
    connector::{Connector, nobody, soon},
    language_model::{Asked, KEY, Model, header, openai_text},
};

/// A cascade with a vendor's model.
struct Talk {
    bench: Bench,
    model: Model,
}

impl Talk {
    async fn start(vendor: &'static str) -> Self {
        Self::with(vendor, config(), None).await
    }

    async fn with(vendor: &'static str, config: Config, greeting: Option<&str>) -> Self {
        let mut bench = Bench::start(config.clone(), None).await;
        let model = Model::start(vendor).await;
        bench.restart(Rate::R8K, config, greeting, |services| services.llm = model.service("").into());
        Self { bench, model }
    }

    /// The caller presses a key, which is a turn of theirs; the question for it.
    async fn asked(&mut self, key: char) -> Asked {
        self.bench.send(AgentInput::Dtmf(Digit::try_from(key).unwrap()));
        self.model.asked().await
    }

    /// The sentences that are spoken until the turn is over.
    async fn spoken(&mut self) -> Vec<String> {
        let bench = &mut self.bench;
        let mut texts = Vec::new();
        loop {
            tokio::select! {
                mut request = bench.tts.request() => {
                    texts.push(request.json().await["text"].as_str().unwrap().to_owned());
                    request.answer(&[&[1; 320]]).await;
                }
                event = soon("an event", futures_util::StreamExt::next(&mut bench.cascade)) => match event {
                    Some(AgentEvent::AudioEnd(id)) => bench.send(AgentInput::Played(id)),
                    Some(AgentEvent::TurnDone) => return texts,
                    Some(AgentEvent::Failed(fault)) => panic!("{fault:?}"),
                    Some(_) => {}
                    None => panic!("the agent has ended"),
                }
            }
        }
    }
}

#[tokio::test]
async fn text_streams_into_sentences_and_the_history_holds_what_was_heard() {
    let mut talk = Talk::with("openai", config(), Some("Hello, this is Hark.")).await;
    assert_eq!(talk.spoken().await, ["Hello, this is Hark."]);
    let mut asked = talk.asked('1').await;
    assert_eq!(header(&asked.head, "authorization"), Some(format!("Bearer {KEY}").as_str()));
    let messages = asked.messages();
    assert_eq!(messages[0].0, "system");
    assert!(messages[0].1.contains("telephone"), "{messages:?}");
    assert_eq!(messages[1..], [("assistant".into(), "Hello, this is Hark.".into()), ("user".into(), "1".into())]);
    asked.ok().await;
    // cut inside of characters and lines
    let body = openai_text("Grüße. Wie geht") + &openai_text(" es Ihnen? 你好。");
    for byte in body.as_bytes().chunks(7) {
        asked.chunk(byte).await;
    }
    asked.done().await;
    assert_eq!(talk.spoken().await, ["Grüße.", "Wie geht es Ihnen?", "你好。"]);
    let next = talk.asked('2').await;
    assert_eq!(next.messages()[3], ("assistant".to_owned(), "Grüße. Wie geht es Ihnen? 你好。".to_owned()));
    next.answer("Yes.").await;
    assert_eq!(talk.spoken().await, ["Yes."]);
}

#[tokio::test]
async fn the_connection_is_there_before_the_first_question() {
    let mut talk = Talk::start("openai").await;
    let asked = talk.asked('1').await;
    asked.answer("Yes.").await;
    assert_eq!(talk.spoken().await, ["Yes."]);
    // opened by the request that only opens it, or by the first question if that was sooner; never more than both
    assert!(talk.model.connections() <= 2, "{}", talk.model.connections());
}

#[tokio::test]
async fn azure_anthropic_and_gemini_answer_too() {
    let mut azure = Talk::start("azure").await;
    azure.asked('1').await.answer("Azure.").await;
    assert_eq!(azure.spoken().await, ["Azure."]);
    let mut anthropic = Talk::with("anthropic", config(), Some("Hello.")).await;
    anthropic.spoken().await;
    let asked = anthropic.asked('1').await;
    assert!(asked.body["system"][0]["text"].as_str().unwrap().contains("telephone"));
    let body = concat!(
        "event: message_start\r\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":3}}}\r\n\r\n",
        "event: content_block_start\r\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\r\n\r\n",
        "event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Claude.\"}}\r\n\r\n",
        "event: novelty\r\ndata: {\"type\":\"novelty\"}\r\n\r\n",
        "event: message_delta\r\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":2}}\r\n\r\n",
        "event: message_stop\r\ndata: {\"type\":\"message_stop\"}\r\n\r\n",
    );
    asked.stream(body).await;
    assert_eq!(anthropic.spoken().await, ["Claude."]);
    let mut gemini = Talk::start("gemini").await;
    let asked = gemini.asked('1').await;
    asked.stream("data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Gemini.\"}]},\"finishReason\":\"STOP\"}]}\r\n\r\n").await;
    assert_eq!(gemini.spoken().await, ["Gemini."]);
}

#[tokio::test]
async fn an_interruption_ends_the_request() {
    let mut talk = Talk::start("openai").await;
    let mut asked = talk.asked('1').await;
    asked.ok().await;
    asked.say("One sentence. And then").await;
    talk.bench.tts.request().await.answer(&[&[1; 1600]]).await;
    let (id, _) = talk.bench.utterance().await;
    talk.bench.send(AgentInput::Interrupt { utterance: Some(id), heard: Duration::from_millis(50) });
    asked.closed().await;
    let next = talk.asked('2').await;
    // of the sentence of 100 ms half was heard
    assert_eq!(next.messages().last().unwrap(), &("user".to_owned(), "2".to_owned()));
    assert!(!next.messages().iter().any(|(_, text)| text.contains("And then")));
    next.answer("Sure.").await;
    assert_eq!(talk.spoken().await, ["Sure."]);
}

#[tokio::test]
async fn what_is_refused_is_told_in_the_vendors_words_without_the_key() {
    for (status, code, words) in [
        ("401 Unauthorized", "agent.llm.unauthorized", "Incorrect API key provided: ***"),
        ("402 Payment Required", "agent.llm.quota", "Top up"),
        ("403 Forbidden", "agent.llm.unauthorized", "Country"),
        ("404 Not Found", "agent.llm.failed", "no model"),
    ] {
        let mut talk = Talk::start("openai").await;
        let asked = talk.asked('1').await;
        let told = words.replace("***", KEY);
        asked.status(status, "", &json!({"error": {"message": told}}).to_string()).await;
        let fault = talk.bench.failed().await;
        assert_eq!(fault.code, code);
        assert!(fault.message.contains(words) && fault.message.contains(&status[..3]), "{}", fault.message);
        assert!(!fault.message.contains(KEY), "{}", fault.message);
    }
}

#[tokio::test]
async fn a_busy_vendor_is_asked_again_when_it_says_so() {
    let body = r#"{"error":{"message":"Slow down","type":"requests"}}"#;
    for (status, headers) in [
        ("429 Too Many Requests", "Retry-After: 0.05\r\n"),
        ("500 Internal Server Error", ""),
        ("503 Service Unavailable", "Retry-After: 0\r\n"),
    ] {
        let mut talk = Talk::start("openai").await;
        talk.asked('1').await.status(status, headers, body).await;
        let fault = talk.bench.degraded().await;
        assert!(fault.message.contains("Slow down"), "{}", fault.message);
        talk.model.asked().await.answer("Here.").await;
        assert_eq!(talk.spoken().await, ["Here."]);
    }
    // longer than a caller waits
    let mut talk = Talk::start("openai").await;
    talk.asked('1').await.status("429 Too Many Requests", "Retry-After: 60\r\n", body).await;
    talk.bench.turn_done().await;
    assert!(!talk.model.is_asked());
}

#[tokio::test]
async fn what_breaks_in_the_middle_is_spoken_as_far_as_it_came() {
    let mut talk = Talk::start("openai").await;
    let mut asked = talk.asked('1').await;
    asked.ok().await;
    asked.say("One sentence. Another sen").await;
    talk.bench.tts.request().await.answer(&[&[1; 320]]).await;
    asked.reset();
    assert_eq!(talk.bench.tts.request().await.json().await["text"], "Another sen");
    // an error inside of a stream that began well
    let mut talk = Talk::start("openai").await;
    let body = openai_text("Well. ") + "data: {\"error\":{\"code\":502,\"message\":\"Provider gone\"}}\n\n";
    talk.asked('1').await.stream(&body).await;
    assert_eq!(talk.spoken().await, ["Well."]);
    assert!(talk.bench.degraded().await.message.contains("Provider gone"));
    // a stream without an end
    let mut talk = Talk::start("openai").await;
    talk.asked('1').await.stream(&openai_text("Well. ")).await;
    assert_eq!(talk.spoken().await, ["Well."]);
    assert_eq!(talk.bench.degraded().await.code, "agent.llm.broken");
}

#[tokio::test]
async fn silence_garbage_and_a_mebibyte_fail_the_turn_only() {
    let mut bench = Bench::start(config(), None).await;
    let mut model = Model::start("openai").await;
    let short = Config { llm_timeout_ms: 80, ..config() };
    bench.restart(Rate::R8K, short, None, |services| services.llm = model.service("").into());
    bench.send(AgentInput::Dtmf(Digit::try_from('1').unwrap()));
    let silent = model.asked().await;
    assert_eq!(bench.degraded().await.code, "agent.llm.timeout");
    silent.closed().await;
    bench.send(AgentInput::Dtmf(Digit::try_from('2').unwrap()));
    let mut stuck = model.asked().await;
    stuck.ok().await;
    stuck.say("Half").await;
    bench.tts.request().await.answer(&[&[1; 320]]).await;
    bench.turn_done().await;
    stuck.closed().await;
    let mut talk = Talk::start("openai").await;
    let garbage = "data: {\"choices\": [\n\n".repeat(20) + "\u{1b}[2J";
    talk.asked('1').await.stream(&garbage).await;
    assert_eq!(talk.bench.degraded().await.code, "agent.llm.unusable");
    let mut talk = Talk::start("openai").await;
    let mut asked = talk.asked('1').await;
    asked.ok().await;
    asked.write(b"7fffffff\r\ndata: ").await;
    let megabyte = vec![b'x'; 1 << 20];
    let mut taken = 0;
    while taken < 50 && asked.try_write(&megabyte).await {
        taken += 1;
    }
    assert!(taken < 50, "all of it was read");
    assert_eq!(talk.bench.degraded().await.code, "agent.llm.unusable");
}

#[tokio::test]
async fn nobody_there_ends_the_call_within_the_reconnect_time() {
    let mut bench = Bench::start(config(), None).await;
    let (url, _socket) = nobody();
    let value = format!("openai:m?base_url={url}v1");
    let named = crate::support::language_model::service(&value);
    bench.restart(Rate::R8K, config(), None, |services| services.llm = named.into());
    bench.send(AgentInput::Dtmf(Digit::try_from('1').unwrap()));
    assert_eq!(bench.degraded().await.code, "agent.llm.unreachable");
    assert_eq!(bench.failed().await.code, "agent.llm.refused");
}

#[tokio::test]
async fn the_prompt_of_a_service_is_asked_for_by_the_calls_uuid() {
    let mut service = Connector::start("/prompt").await;
    let url = service.url.to_string();
    let settings = Config { prompt_url: Some(url), language: Some("German".to_owned()), ..config() };
    let mut talk = Talk::with("openai", settings, None).await;
    let request = service.request().await;
    assert!(request.head.starts_with("GET /prompt "), "{}", request.head);
    assert_eq!(request.header("x-avr-uuid"), Some(UUID.to_string().as_str()));
    talk.bench.send(AgentInput::Dtmf(Digit::try_from('1').unwrap()));
    request.status("200 OK", r#"{"system":"You are {{uuid}}.","more":1}"#).await;
    let asked = talk.model.asked().await;
    let expected = format!("You are {UUID}.\n\nSpeak this language with the caller: German.");
    assert_eq!(asked.messages()[0], ("system".to_owned(), expected));
    asked.answer("Ja.").await;
    assert_eq!(talk.spoken().await, ["Ja."]);
    // asked once, for all of the call
    talk.asked('2').await.answer("Ja.").await;
    talk.spoken().await;
    assert!(!service.has_request());
}

#[tokio::test]
async fn without_its_service_the_configured_prompt_holds_for_connectors_too() {
    let mut service = Connector::start("/prompt").await;
    let settings =
        Config { prompt_url: Some(service.url.to_string()), prompt: Some("Be kind.".to_owned()), ..config() };
    let mut bench = Bench::start(settings, Some("Hello.")).await;
    service.request().await.status("500 Internal Server Error", "{}").await;
    let mut greeting = bench.tts.request().await;
    assert_eq!(greeting.json().await["text"], "Hello.");
    greeting.answer(&[&[1; 320]]).await;
    let (id, _) = bench.utterance().await;
    bench.send(AgentInput::Played(id));
    bench.turn_done().await;
    bench.send(AgentInput::Dtmf(Digit::try_from('1').unwrap()));
    let messages = bench.llm.request().await.json().await["messages"].clone();
    let expected = json!([
        {"role": "system", "content": "Be kind."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "1"},
    ]);
    assert_eq!(messages, expected);
}

#[tokio::test]
async fn old_turns_become_a_summary_that_no_answer_waits_for() {
    // room for 600 bytes
    let mut talk = Talk::with("openai", Config { history_tokens: 150, ..config() }, None).await;
    let answer = "A".repeat(150) + ".";
    for key in ['1', '2', '3'] {
        talk.asked(key).await.answer(&answer).await;
        assert_eq!(talk.spoken().await, [answer.as_str()]);
    }
    let summary = talk.model.asked().await;
    let messages = summary.messages();
    assert!(messages[0].1.contains("Summarise"), "{messages:?}");
    assert!(messages[1].1.starts_with(&format!("Caller: 1\nAgent: {answer}\nCaller: 2")), "{messages:?}");
    assert!(!messages[1].1.contains("Caller: 3"), "{messages:?}");
    // the next turn does not wait for it
    talk.asked('4').await.answer("Yes.").await;
    assert_eq!(talk.spoken().await, ["Yes."]);
    summary.answer("They pressed one and two.").await;
    let next = loop {
        let next = talk.asked('5').await;
        if next.messages()[1].0 == "system" {
            break next;
        }
        next.answer("Hm.").await;
        talk.spoken().await;
    };
    let messages = next.messages();
    assert!(messages[1].1.ends_with("in short: They pressed one and two."), "{messages:?}");
    assert_eq!(messages[2], ("user".to_owned(), "3".to_owned()), "{messages:?}");
}

#[tokio::test]
async fn without_a_summary_the_oldest_turns_are_left_out() {
    let mut talk = Talk::with("openai", Config { history_tokens: 150, ..config() }, None).await;
    let answer = "A".repeat(150) + ".";
    for key in ['1', '2', '3'] {
        talk.asked(key).await.answer(&answer).await;
        talk.spoken().await;
    }
    talk.model.asked().await.status("400 Bad Request", "", "{}").await;
    let next = talk.asked('4').await;
    let messages = next.messages();
    assert_eq!(messages.iter().filter(|(role, _)| role == "system").count(), 1, "{messages:?}");
    assert!(!messages.iter().any(|(_, text)| text == "1"), "{messages:?}");
    assert_eq!(messages.last().unwrap().1, "4");
    next.answer("Yes.").await;
    assert_eq!(talk.spoken().await, ["Yes."]);
}
