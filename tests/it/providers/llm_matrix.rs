//! Every fault for every interface of language models: alone it costs a turn at most, and where another stands by not even that.

use futures_util::future::join_all;
use hark::{agent::Config, call::AgentEvent};
use serde_json::{Value, json};

use super::{config, llm_failover::Talk};
use crate::support::language_model::{Asked, KEY, openai_end, openai_text};

/// The three interfaces, and two who speak the first one elsewhere.
const ALL: [&str; 5] = ["openai", "azure", "xai", "anthropic", "gemini"];

/// All at once: each has models of its own.
async fn each<F: Future<Output = ()>>(test: impl Fn(&'static str) -> F) {
    join_all(ALL.into_iter().map(test)).await;
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// Words, with something unknown around them.
fn text(vendor: &str, text: &str) -> String {
    match vendor {
        "anthropic" => {
            let delta = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}, "novel": [1]});
            format!("event: novelty\ndata: {{\"type\":\"novelty\",\"x\":null}}\n\n{}", event(&delta))
        }
        "gemini" => {
            let content = json!({"role": "model", "parts": [{"text": text, "novel": {"x": 1}}]});
            event(&json!({"candidates": [{"content": content, "index": 0}], "novel": 1}))
        }
        _ => openai_text(text),
    }
}

/// The end of an answer.
fn end(vendor: &str) -> String {
    match vendor {
        "anthropic" => [
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}),
            json!({"type": "message_stop"}),
        ]
        .iter()
        .map(event)
        .collect(),
        "gemini" => event(
            &json!({"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 2, "candidatesTokenCount": 1}}),
        ),
        _ => openai_end("stop"),
    }
}

/// An error inside of a stream, with the key in it.
fn error(vendor: &str) -> String {
    let error = json!({"type": "overloaded_error", "code": 503, "message": format!("no luck with {KEY}")});
    match vendor {
        "anthropic" => format!("event: error\n{}", event(&json!({"type": "error", "error": error}))),
        _ => event(&json!({"error": error})),
    }
}

const TROUBLES: [(&str, &str); 16] = [
    ("401 Unauthorized", "agent.llm.unauthorized"),
    ("402 Payment Required", "agent.llm.quota"),
    ("403 Forbidden", "agent.llm.unauthorized"),
    ("404 Not Found", "agent.llm.failed"),
    ("429 Too Many Requests", "agent.llm.quota"),
    ("500 Oh", "agent.llm.failed"),
    ("503 Busy", "agent.llm.failed"),
    ("529 Overloaded", "agent.llm.failed"),
    ("reset", "agent.llm.broken"),
    ("no HTTP", "agent.llm.broken"),
    ("half a head", "agent.llm.timeout"),
    ("a page", "agent.llm.broken"),
    ("an error", "agent.llm.failed"),
    ("garbage", "agent.llm.unusable"),
    ("no end of an event", "agent.llm.unusable"),
    ("silence", "agent.llm.timeout"),
];

/// Lets it happen to a question; what is returned is to be kept.
async fn happens(mut asked: Asked, vendor: &str, trouble: &str) -> Option<Asked> {
    match trouble {
        "reset" => {
            asked.reset();
            return None;
        }
        "no HTTP" => asked.write(&[0xFF; 200]).await,
        "half a head" => asked.write(b"HTTP/1.1 200 OK\r\nContent-").await,
        "silence" => {}
        status if status.as_bytes()[0].is_ascii_digit() => {
            let body = json!({"error": {"message": format!("no luck with {KEY}")}}).to_string();
            asked.status(status, "Retry-After: 7\r\n", &body).await;
            return None;
        }
        _ => {
            asked.ok().await;
            within(&mut asked, vendor, trouble).await;
        }
    }
    Some(asked)
}

/// Lets it happen within an answer.
async fn within(asked: &mut Asked, vendor: &str, trouble: &str) {
    match trouble {
        "a page" => asked.chunk(b"<html><body>It works!</body></html>").await,
        "an error" => asked.chunk(error(vendor).as_bytes()).await,
        "garbage" => asked.chunk("data: {\"choices\": [\n\n".repeat(20).as_bytes()).await,
        "no end of an event" => {
            asked.chunk(b"data: ").await;
            // as much as is taken
            while asked.try_write(&crate::support::connector::framed(&[b'x'; 64 * 1024])).await {}
            return;
        }
        _ => return,
    }
    let _ = asked.try_write(b"0\r\n\r\n").await;
}

#[tokio::test]
async fn whatever_happens_to_any_of_them_the_next_one_answers() {
    each(async |vendor| {
        for (trouble, code) in TROUBLES {
            let short = matches!(trouble, "silence" | "half a head");
            let waits = if short { 1_000 } else { config().llm_timeout_ms };
            let mut talk = Talk::of(vendor, Config { llm_timeout_ms: waits, ..config() }).await;
            talk.press('1');
            let what = format!("{vendor}, {trouble}");
            let held = happens(talk.first.asked().await, vendor, trouble).await;
            let second = talk.second.asked().await;
            assert_eq!(second.messages().last().unwrap().1, "1", "{what}");
            second.answer("Here.").await;
            assert_eq!(talk.spoken().await, ["Here."], "{what}");
            let [replaced] = &talk.replaced[..] else { panic!("{what}: {:?}", talk.replaced) };
            // a chain waits for no longer than for another
            assert_eq!(replaced.fault.code, code, "{what}: {replaced:?}");
            assert!(!format!("{replaced:?}").contains(KEY), "{what}: {replaced:?}");
            drop(held);
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_stops_in_the_middle_is_gone_on_with_by_the_next_one() {
    each(async |vendor| {
        for trouble in ["reset", "an error", "garbage", "a page", "silence"] {
            let waits = if trouble == "silence" { 1_000 } else { config().llm_timeout_ms };
            let mut talk = Talk::of(vendor, Config { llm_timeout_ms: waits, ..config() }).await;
            talk.press('1');
            let mut first = talk.first.asked().await;
            first.ok().await;
            first.chunk(text(vendor, "One is said. Two is").as_bytes()).await;
            assert_eq!(talk.sentence().await.as_deref(), Some("One is said."), "{vendor}, {trouble}");
            let mut held = None;
            if trouble == "reset" {
                first.reset();
            } else {
                within(&mut first, vendor, trouble).await;
                held = Some(first);
            }
            let second = talk.second.asked().await;
            let messages = second.messages();
            let [.., (_, said), (_, go_on)] = &messages[..] else { panic!("{messages:?}") };
            assert!(said == "One is said." && go_on.contains("Do not repeat"), "{vendor}, {trouble}: {messages:?}");
            second.answer("Two is said.").await;
            assert_eq!(talk.spoken().await, ["Two is said."], "{vendor}, {trouble}");
            drop(held);
        }
    })
    .await;
}

#[tokio::test]
async fn alone_a_model_that_is_busy_is_asked_once_more_and_a_refusal_is_told_without_the_key() {
    each(async |vendor| {
        for status in ["429 Too Many Requests", "500 Oh", "503 Busy", "529 Overloaded"] {
            let mut talk = Talk::of(vendor, config()).await;
            talk.call_alone();
            talk.press('1');
            let body = json!({"error": {"message": format!("slow down {KEY}")}}).to_string();
            talk.first.asked().await.status(status, "Retry-After: 0\r\n", &body).await;
            let fault = talk.bench.degraded().await;
            assert!(fault.message.contains("slow down ***"), "{vendor}: {fault:?}");
            let again = talk.first.asked().await;
            again.stream(&(text(vendor, "Here.") + &end(vendor))).await;
            assert_eq!(talk.spoken().await, ["Here."], "{vendor}, {status}");
        }
        for (status, code) in [
            ("401 Unauthorized", "agent.llm.unauthorized"),
            ("402 Payment Required", "agent.llm.quota"),
            ("403 Forbidden", "agent.llm.unauthorized"),
            ("404 Not Found", "agent.llm.failed"),
        ] {
            let mut talk = Talk::of(vendor, config()).await;
            talk.call_alone();
            talk.press('1');
            let body = json!({"error": {"message": format!("no luck with {KEY}")}}).to_string();
            talk.first.asked().await.status(status, "", &body).await;
            let fault = talk.bench.failed().await;
            assert_eq!(fault.code, code, "{vendor}: {fault:?}");
            assert!(fault.message.contains("no luck with ***") && fault.message.contains(&status[..3]), "{fault:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn alone_what_is_no_answer_costs_the_turn_and_not_the_call() {
    each(async |vendor| {
        for trouble in ["an error", "garbage", "a page", "no end of an event"] {
            let mut talk = Talk::of(vendor, config()).await;
            talk.call_alone();
            talk.press('1');
            let held = happens(talk.first.asked().await, vendor, trouble).await;
            // told in any order
            let (mut fault, mut over) = (None, false);
            while fault.is_none() || !over {
                match talk.bench.event().await.expect("an event") {
                    AgentEvent::Degraded(told) => fault = Some(told),
                    AgentEvent::TurnDone => over = true,
                    AgentEvent::Failed(fault) => panic!("{vendor}, {trouble}: {fault:?}"),
                    _ => {}
                }
            }
            assert!(!format!("{fault:?}").contains(KEY), "{vendor}, {trouble}: {fault:?}");
            drop(held);
            talk.press('2');
            let asked = talk.first.asked().await;
            asked.stream(&(text(vendor, "Here.") + &end(vendor))).await;
            assert_eq!(talk.spoken().await, ["Here."], "{vendor}, {trouble}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_may_be_cut_anywhere_come_at_once_end_twice_and_have_a_mebibyte_of_something_else() {
    let novelty = |vendor: &str| {
        let padding = "y".repeat(1_000_000);
        match vendor {
            "gemini" => event(&json!({"candidates": [], "novel": padding})),
            "anthropic" => event(&json!({"type": "novelty", "padding": padding})),
            _ => event(&json!({"choices": [], "novel": padding})),
        }
    };
    each(async |vendor| {
        let said = "Gr\u{fc}\u{df}e, Ren\u{e9}e. \u{4f60}\u{597d} \u{1f642}.";
        let whole = text(vendor, said) + &end(vendor);
        let mut talk = Talk::of(vendor, config()).await;
        talk.call_alone();
        // a byte at a time, and some within the frames of HTTP
        talk.press('1');
        let mut asked = talk.first.asked().await;
        asked.ok().await;
        for byte in whole.as_bytes() {
            asked.chunk(std::slice::from_ref(byte)).await;
        }
        asked.write(b"0\r").await;
        asked.write(b"\n\r\n").await;
        drop(asked);
        assert_eq!(talk.spoken().await.join(" "), said, "{vendor}");
        // much at once, with something long and unknown before it, and two ends
        talk.press('2');
        let many: String = (0..400).map(|n| text(vendor, &format!("Word{n}. "))).collect();
        let asked = talk.first.asked().await;
        let answer = tokio::spawn(asked_stream(asked, novelty(vendor) + &many + &end(vendor) + &end(vendor)));
        let spoken = talk.spoken().await.join(" ");
        answer.await.unwrap();
        assert!(spoken.starts_with("Word0. Word1.") && spoken.ends_with("Word399."), "{vendor}: {spoken}");
        assert_eq!(spoken.split_whitespace().count(), 400, "{vendor}");
    })
    .await;
}

async fn asked_stream(asked: Asked, body: String) {
    asked.stream(&body).await;
}
