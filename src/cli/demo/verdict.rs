//! Whether the demonstration showed what it is to show.

use std::{fmt, time::Duration};

use super::events::Event;
use crate::{
    audio::level,
    cli::phone::{Ending, Report, Span},
};

/// The greeting has to begin within this time.
const GREETING: Duration = Duration::from_secs(3);
/// The agent has to fall silent within this time once the caller speaks.
const BARGE_IN: Duration = Duration::from_secs(1);
/// How alike what was said and what came back have to be (1 = the same).
const ALIKE: f64 = 0.9;
/// Compared are the loudest 50 ms: enough samples that no other speech is that much like them.
const NEEDLE: Duration = Duration::from_millis(50);

/// Each thing that had to happen, and why it counts as not happened.
#[derive(Debug)]
pub struct Verdict(Vec<(&'static str, Result<(), String>)>);

impl Verdict {
    /// What to think of a call and the events that came.
    pub fn of(report: &Report, events: &[Event]) -> Self {
        Self(vec![
            ("the agent greeted", greeted(report)),
            ("it let itself be interrupted", interrupted(report, events)),
            ("it repeated \"Hello.\"", repeated(report, 0)),
            ("it repeated \"I'm sorry. Something is terribly wrong.\"", repeated(report, 1)),
            ("it read the key 5 back", digit(events, "5", "You pressed five.")),
            ("it said goodbye on #", digit(events, "#", "Goodbye.")),
            ("it hung up", hung_up(report)),
            ("events came, from call_started to call_ended", complete(events)),
        ])
    }

    /// What to think of a conversation with the receptionist.
    pub fn of_receptionist(report: &Report, events: &[Event]) -> Self {
        Self(vec![
            ("the agent greeted", greeted(report)),
            ("it let itself be interrupted", interrupted(report, events)),
            // "hours" and "our" are the same by telephone
            ("it understood \"opening hours\"", spoke(events, "user", "opening")),
            ("it said when it is open", spoke(events, "agent", "We are open from Monday to Friday")),
            ("it took a message", took_message(events)),
            ("it said goodbye", spoke(events, "agent", "Goodbye.")),
            ("it hung up", hung_up(report)),
            ("events came, from call_started to call_ended", complete(events)),
        ])
    }

    /// Whether everything happened.
    pub fn is_good(&self) -> bool {
        self.faults().is_empty()
    }

    /// What did not happen, and why.
    pub fn faults(&self) -> Vec<String> {
        let fault = |(what, result): &(&str, Result<(), String>)| {
            result.as_ref().err().map(|why| format!("not shown: {what} ({why})"))
        };
        self.0.iter().filter_map(fault).collect()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (what, result)) in self.0.iter().enumerate() {
            let end = if index + 1 < self.0.len() { "\n" } else { "" };
            match result {
                Ok(()) => write!(f, "  yes  {what}{end}")?,
                Err(why) => write!(f, "  NO   {what}: {why}{end}")?,
            }
        }
        Ok(())
    }
}

/// How long the agent went on speaking after the caller had begun for the first time.
pub fn interrupted_after(report: &Report) -> Option<Duration> {
    let said = report.said.first()?;
    let spoke = |heard: &&Span| heard.from < said.from && heard.until > said.from;
    report.heard.iter().find(spoke).map(|heard| heard.until - said.from)
}

fn ensure(holds: bool, otherwise: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

fn greeted(report: &Report) -> Result<(), String> {
    let first = report.first_sound().ok_or("the agent was never heard")?;
    ensure(first <= GREETING, format!("only after {:.1} s", first.as_secs_f64()))
}

fn interrupted(report: &Report, events: &[Event]) -> Result<(), String> {
    let after = interrupted_after(report).ok_or("the agent was not speaking when the caller began")?;
    ensure(after <= BARGE_IN, format!("it spoke on for {:.1} s", after.as_secs_f64()))?;
    ensure(events.iter().any(|event| event.kind == "interruption"), "no event `interruption` came")
}

fn repeated(report: &Report, index: usize) -> Result<(), String> {
    let said = report.said.get(index).ok_or("the caller did not come to say it")?;
    let until = report.said.get(index + 1).map_or(Duration::MAX, |next| next.from);
    let part = |samples: &[i16], from: Duration, until: Duration| -> Vec<i16> {
        let at = |time: Duration| report.rate.samples_in(time.min(report.length)).min(samples.len());
        samples[at(from)..at(until)].to_vec()
    };
    let words = part(&report.caller, said.from, said.until);
    let answer = part(&report.agent, said.until, until);
    let found = likeness(&words, &answer, report.rate.samples_in(NEEDLE));
    ensure(found >= ALIKE, format!("what came back is like it by {:.0} %", found * 100.0))
}

/// The largest correlation of the loudest part of `said` with any part of `heard`, −1 to 1.
fn likeness(said: &[i16], heard: &[i16], length: usize) -> f64 {
    let loudest = said.chunks_exact(length).max_by(|a, b| level::rms(a).total_cmp(&level::rms(b)));
    let Some(needle) = loudest else { return 0.0 };
    let product = |a: &[i16], b: &[i16]| -> f64 {
        a.iter().zip(b).map(|(a, b)| i64::from(i32::from(*a) * i32::from(*b))).sum::<i64>() as f64
    };
    let energy = product(needle, needle);
    let correlation = |window: &[i16]| {
        let norm = (energy * product(window, window)).sqrt();
        if norm > 0.0 { product(needle, window) / norm } else { 0.0 }
    };
    heard.windows(length).map(correlation).fold(0.0, f64::max)
}

fn digit(events: &[Event], key: &str, words: &str) -> Result<(), String> {
    let has = |kind: &str, name: &str, value: &str| {
        events.iter().any(|event| event.kind == kind && event.payload.get(name).is_some_and(|found| found == value))
    };
    ensure(has("dtmf_digit", "digit", key), format!("no event `dtmf_digit` with {key} came"))?;
    ensure(has("transcription", "text", words), format!("no event `transcription` with {words:?} came"))
}

fn spoke(events: &[Event], role: &str, words: &str) -> Result<(), String> {
    let texts = events.iter().filter(|event| event.kind == "transcription" && event.payload["role"] == role);
    let mut texts = texts.filter_map(|event| event.payload["text"].as_str());
    ensure(texts.any(|text| text.contains(words)), format!("no event `transcription` of the {role} holds {words:?}"))
}

/// A message whose words are there, whatever of them was misheard.
fn took_message(events: &[Event]) -> Result<(), String> {
    let calls = events.iter().filter(|event| event.kind == "tool_call" && event.payload["name"] == "take_message");
    let is_whole = |event: &Event| {
        let said = |part: &str| event.payload["arguments"][part].as_str().is_some_and(|text| !text.is_empty());
        event.payload["failed"] == false && ["name", "number", "message"].into_iter().all(said)
    };
    ensure(calls.into_iter().any(is_whole), "no event `tool_call` holds a name, a number and a message")
}

fn hung_up(report: &Report) -> Result<(), String> {
    ensure(report.ending == Ending::Gateway, report.ending.to_string())
}

fn complete(events: &[Event]) -> Result<(), String> {
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    let is_complete = matches!(kinds[..], ["call_started", .., "call_ended"]);
    ensure(is_complete, format!("came: {}", if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{Rate, tone::Tone};

    #[test]
    fn likeness_tells_the_same_from_another_sound() {
        let mut said = Tone::dtmf(Rate::R8K, '5', 8000).map(|mut tone| tone.take(1600)).unwrap_or_default();
        said.extend([0; 400]);
        let mut heard = vec![0; 333];
        heard.extend(said.iter().map(|sample| sample / 2));
        assert!(likeness(&said, &heard, 400) > 0.99);
        let other = Tone::dtmf(Rate::R8K, '1', 8000).map(|mut tone| tone.take(1600)).unwrap_or_default();
        assert!(likeness(&said, &other, 400) < 0.8);
        assert!(likeness(&said, &[0; 2000], 400).abs() < f64::EPSILON);
        assert!(likeness(&[], &heard, 400).abs() < f64::EPSILON);
    }

    #[test]
    fn events_have_to_be_whole() {
        let event = |kind: &str| Event { kind: kind.to_owned(), payload: serde_json::Value::Null };
        assert!(complete(&[event("call_started"), event("interruption"), event("call_ended")]).is_ok());
        assert!(complete(&[event("call_started")]).is_err_and(|why| why.contains("call_started")));
        assert!(complete(&[event("call_ended"), event("call_started")]).is_err());
        assert!(complete(&[]).is_err_and(|why| why.contains("none")));
    }

    #[test]
    fn a_message_has_to_be_whole() {
        let call = |number: &str, failed: bool| Event {
            kind: "tool_call".to_owned(),
            payload: serde_json::json!({
                "name": "take_message",
                "arguments": {"name": "Jane", "number": number, "message": "Hi."},
                "failed": failed,
            }),
        };
        assert!(took_message(&[call("555", false)]).is_ok());
        assert!(took_message(&[call("", false)]).is_err() && took_message(&[call("555", true)]).is_err());
        assert!(took_message(&[]).is_err());
    }

    #[test]
    fn a_key_is_read_back_only_if_both_events_came() {
        let pressed = Event { kind: "dtmf_digit".to_owned(), payload: serde_json::json!({"digit": "5"}) };
        let read = Event {
            kind: "transcription".to_owned(),
            payload: serde_json::json!({"role": "agent", "text": "You pressed five."}),
        };
        assert!(digit(&[pressed.clone(), read.clone()], "5", "You pressed five.").is_ok());
        assert!(digit(&[pressed], "5", "You pressed five.").is_err());
        assert!(digit(&[read], "5", "You pressed five.").is_err());
    }
}
