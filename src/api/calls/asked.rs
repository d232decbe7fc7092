//! What is asked of live calls and of calls to be made: bodies of requests, read and checked.

use std::time::Duration;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::call::{Attended, Collect, Digit, OnMachine, Outbound, Request, Say, Target};

/// Longest text to be said, in bytes.
const MAX_TEXT: usize = 8 * 1024;
/// Most keys sent at once.
const MAX_KEYS: usize = 64;

/// A call that is to be made.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Placed {
    to: String,
    via: Option<String>,
    pbx: Option<String>,
    caller_id: Option<String>,
    timeout_s: Option<u32>,
    uuid: Option<Uuid>,
    metadata: Map<String, Value>,
    machine: Option<Machine>,
    message: Option<String>,
}

/// What is done with a machine that answers.
#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Machine {
    Speak,
    Hangup,
    Message,
}

/// What is asked about machines, as the call is told.
fn screened(machine: Option<Machine>, message: Option<String>) -> Result<Option<OnMachine>, String> {
    Ok(match (machine, message) {
        (None, None) => None,
        (Some(Machine::Speak), None) => Some(OnMachine::Speak),
        (Some(Machine::Hangup), None) => Some(OnMachine::Hangup),
        (Some(Machine::Message), Some(text)) if !text.trim().is_empty() && text.len() <= MAX_TEXT => {
            Some(OnMachine::Message(text))
        }
        _ => {
            return Err(format!(
                "\"machine\" is \"speak\", \"hangup\" or \"message\"; that alone needs a \"message\" of at most {MAX_TEXT} bytes"
            ));
        }
    })
}

/// How long the key is waited for by which somebody takes a caller, in s.
const ACCEPT_S: u32 = 15;
/// Longest number.
const MAX_NUMBER: usize = 64;
/// Longest key of a request.
const MAX_KEY: usize = 255;

/// It becomes part of a dial string: nothing in it may mean anything there.
fn check_number(to: &str) -> Result<(), String> {
    let is_number = |c: char| c.is_ascii_alphanumeric() || "+*#._-".contains(c);
    if to.is_empty() || to.len() > MAX_NUMBER || !to.chars().all(is_number) {
        return Err(format!("\"to\" is a number of at most {MAX_NUMBER} characters: digits, letters and + * # . _ -"));
    }
    Ok(())
}

fn check_dialling(caller_id: Option<&str>, timeout_s: Option<u32>) -> Result<(), String> {
    if caller_id.is_some_and(|id| id.len() > 256 || id.chars().any(char::is_control)) {
        return Err("\"caller_id\" is one line, e.g. \"Hark <2000>\"".to_owned());
    }
    if timeout_s.is_some_and(|seconds| !(1..=600).contains(&seconds)) {
        return Err("\"timeout_s\" is from 1 to 600".to_owned());
    }
    Ok(())
}

/// Reads a call that is to be made, and what is to be known about it.
pub(super) fn placed(body: &[u8], key: Option<String>) -> Result<(Outbound, Map<String, Value>), String> {
    let Placed { to, via, pbx, caller_id, timeout_s, uuid, metadata, machine, message } =
        serde_json::from_slice(body).map_err(|reason| unread(&reason))?;
    check_number(&to)?;
    check_dialling(caller_id.as_deref(), timeout_s)?;
    if key.as_deref().is_some_and(|key| key.is_empty() || key.len() > MAX_KEY) {
        return Err(format!("Idempotency-Key has 1 to {MAX_KEY} characters"));
    }
    let screen = screened(machine, message)?;
    let mut about = metadata;
    about.insert("direction".to_owned(), "outbound".into());
    about.insert("to".to_owned(), to.as_str().into());
    Ok((Outbound { to, via, pbx, caller_id, timeout_s, uuid, screen, key }, about))
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Hangup {
    cause: Option<u16>,
    now: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Transfer {
    exten: Option<Text>,
    context: Option<String>,
    priority: Option<Text>,
    refer: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attend {
    to: String,
    via: Option<String>,
    caller_id: Option<String>,
    timeout_s: Option<u32>,
    announce: Option<String>,
    play: Option<String>,
    accept: Option<char>,
    #[serde(default)]
    accept_voice: bool,
    accept_s: Option<u32>,
    #[serde(default = "yes")]
    music: bool,
}

const fn yes() -> bool {
    true
}

impl Attend {
    fn checked(self) -> Result<Attended, String> {
        let Self { to, via, caller_id, timeout_s, announce, play, accept, accept_voice, accept_s, music } = self;
        check_number(&to)?;
        check_dialling(caller_id.as_deref(), timeout_s)?;
        if announce.as_ref().is_some_and(|text| text.len() > MAX_TEXT) {
            return Err(format!("\"announce\" is a text of at most {MAX_TEXT} bytes"));
        }
        if play
            .as_ref()
            .is_some_and(|media| !media.contains(':') || media.len() > 256 || media.chars().any(char::is_control))
        {
            return Err("\"play\" is something that Asterisk can play, e.g. \"sound:transfer\"".to_owned());
        }
        let accept_s = accept_s.unwrap_or(ACCEPT_S);
        if !(1..=120).contains(&accept_s) {
            return Err("\"accept_s\" is from 1 to 120".to_owned());
        }
        let accept = accept.map(Digit::try_from).transpose().map_err(|error| error.to_string())?;
        Ok(Attended { to, via, caller_id, timeout_s, announce, play, accept, accept_voice, accept_s, music })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    text: String,
    #[serde(default)]
    protect: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    on: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    digits: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Collection {
    min: usize,
    max: usize,
    terminator: Option<char>,
    timeout_ms: Option<u64>,
    #[serde(default)]
    interrupt: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

/// A string, or a number where connectors send one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    String(String),
    Number(u64),
}

impl Text {
    fn into_string(self) -> String {
        match self {
            Self::String(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }
}

/// Says why a body cannot be read, without repeating all of it.
fn unread(reason: &serde_json::Error) -> String {
    let reason = reason.to_string();
    let cut = &reason[..reason.floor_char_boundary(300)];
    format!("the body is not what this needs: {cut}{}", if cut.len() < reason.len() { "…" } else { "" })
}

const ACTIONS: &str = "hangup, transfer, attend, say, mute, hold, music, dtmf, collect, variable or recording";

/// Reads what is asked.
pub(super) fn request(action: &str, body: &[u8]) -> Result<Request, String> {
    fn of<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
        serde_json::from_slice(body).map_err(|reason| unread(&reason))
    }
    Ok(match action {
        "hangup" => {
            let Hangup { cause, now } = if body.is_empty() { Hangup::default() } else { of(body)? };
            if cause.is_some_and(|cause| !(1..=127).contains(&cause)) {
                return Err("\"cause\" is a cause of Q.850, from 1 to 127".to_owned());
            }
            Request::Hangup { cause, now }
        }
        "transfer" => match of(body)? {
            Transfer { refer: Some(endpoint), exten: None, context: None, priority: None } => Request::Refer(endpoint),
            Transfer { exten: Some(exten), context, priority, refer: None } => Request::Transfer(Target {
                exten: exten.into_string(),
                context,
                priority: priority.map(Text::into_string),
            }),
            _ => {
                return Err(
                    "\"exten\" (with \"context\" and \"priority\"), or \"refer\" alone, says where to".to_owned()
                );
            }
        },
        "attend" => Request::Attend(of::<Attend>(body)?.checked()?),
        "say" => {
            let Words { text, protect } = of(body)?;
            if text.trim().is_empty() || text.len() > MAX_TEXT {
                return Err(format!("\"text\" has to be a text of at most {MAX_TEXT} bytes"));
            }
            Request::Say(Say { text, protect })
        }
        "mute" => Request::Mute(of::<Switch>(body)?.on),
        "hold" => Request::Hold(of::<Switch>(body)?.on),
        "music" => Request::Music(of::<Switch>(body)?.on),
        "dtmf" => {
            let Keys { digits } = of(body)?;
            let digits: Result<Vec<Digit>, _> = digits.chars().take(MAX_KEYS + 1).map(Digit::try_from).collect();
            match digits {
                Ok(digits) if (1..=MAX_KEYS).contains(&digits.len()) => Request::Dtmf(digits),
                _ => return Err(format!("\"digits\" are 1 to {MAX_KEYS} of 0-9, *, # and A-D")),
            }
        }
        "collect" => {
            let Collection { min, max, terminator, timeout_ms, interrupt } = of(body)?;
            let terminator = terminator.map(Digit::try_from).transpose().map_err(|error| error.to_string())?;
            if !(1..=MAX_KEYS).contains(&min) || !(min..=MAX_KEYS).contains(&max) {
                return Err(format!("\"min\" and \"max\" are from 1 to {MAX_KEYS}, min not above max"));
            }
            let timeout = Duration::from_millis(timeout_ms.unwrap_or(3_000).clamp(100, 60_000));
            Request::Collect(Some(Collect { min, max, terminator, timeout, interrupt, once: true }))
        }
        "variable" => {
            let Variable { name, value } = of(body)?;
            Request::Variable(name, value)
        }
        _ => return Err(format!("there is no such thing to do with a call; it is {ACTIONS}")),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(action: &str, body: &str) -> Result<Request, String> {
        request(action, body.as_bytes())
    }

    #[test]
    fn what_is_asked_is_read_and_nonsense_is_refused_in_words() {
        assert_eq!(asked("hangup", ""), Ok(Request::Hangup { cause: None, now: false }));
        assert_eq!(asked("hangup", r#"{"cause":17,"now":true}"#), Ok(Request::Hangup { cause: Some(17), now: true }));
        let target = Target { exten: "600".to_owned(), context: None, priority: None };
        assert_eq!(asked("transfer", r#"{"exten":600}"#), Ok(Request::Transfer(target)));
        assert_eq!(asked("transfer", r#"{"refer":"PJSIP/sip:1@h"}"#), Ok(Request::Refer("PJSIP/sip:1@h".to_owned())));
        assert_eq!(
            asked("dtmf", r#"{"digits":"1#"}"#).unwrap(),
            Request::Dtmf("1#".chars().map(|c| c.try_into().unwrap()).collect())
        );
        for (action, body, says) in [
            ("hangup", r#"{"cause":0}"#, "Q.850"),
            ("transfer", "{}", "exten"),
            ("transfer", r#"{"exten":"1","refer":"x"}"#, "alone"),
            ("say", r#"{"text":" "}"#, "text"),
            ("say", "{", "not what this needs"),
            ("dtmf", r#"{"digits":"12x"}"#, "0-9"),
            ("dtmf", r#"{"digits":""}"#, "0-9"),
            ("collect", r#"{"min":3,"max":2}"#, "min"),
            ("collect", r#"{"min":1,"max":2,"terminator":"x"}"#, "x"),
            ("mute", r#"{"on":1}"#, "bool"),
            ("dance", "{}", "hangup"),
        ] {
            let reason = asked(action, body).unwrap_err();
            assert!(reason.contains(says), "{action} {body}: {reason}");
        }
    }

    #[test]
    fn a_number_is_a_number_and_no_part_of_a_dial_string() {
        let (order, about) = placed(br#"{"to":"+4930123","metadata":{"crm":7,"to":"x"}}"#, None).unwrap();
        assert_eq!((order.to.as_str(), &about["crm"], &about["to"]), ("+4930123", &json!(7), &json!("+4930123")));
        assert_eq!(about["direction"], "outbound");
        for (body, says) in [
            (r#"{"to":""}"#, "number"),
            (r#"{"to":"1@elsewhere"}"#, "number"),
            (r#"{"to":"1&PJSIP/2"}"#, "number"),
            (r#"{"to":"1/n"}"#, "number"),
            (r#"{"to":"1","timeout_s":0}"#, "600"),
            (r#"{"to":"1","caller_id":"a\r\nb"}"#, "one line"),
            (r#"{"to":"1","endpoint":"PJSIP/1"}"#, "endpoint"),
            ("7", "body"),
        ] {
            let reason = placed(body.as_bytes(), None).unwrap_err();
            assert!(reason.contains(says), "{body}: {reason}");
        }
        assert!(placed(br#"{"to":"1"}"#, Some(String::new())).is_err());
    }
}
