//! `POST /call`: the dialplan announces a call, the webhook receiver may say which services it shall have.

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::{error, info, warn};
use url::Url;
use uuid::Uuid;

use super::{State, sts_url};
use crate::{
    call::{CallId, OnMachine},
    net,
    session::{Announcement, Announcements},
    webhook::{Failed, Undecided, shown},
};

/// Longest address or greeting that is taken from a receiver's answer, in bytes.
const MAX_TEXT: usize = 8 * 1024;

/// Code of an address that a receiver may not name.
const REFUSED: &str = "api.call.refused";

/// What a receiver may name, and what of it was refused.
struct Rules<'a> {
    allow: &'a [net::Pattern],
    refused: Vec<String>,
}

/// An announced call.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub uuid: Uuid,
    pub payload: Map<String, Value>,
}

/// Why a body announces no call.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRequest {
    #[error("the body is not JSON: {0}; does a value of the dialplan hold an unescaped quote?")]
    NotJson(String),
    #[error("the body is {0}; it has to be an object with \"uuid\" and \"payload\"")]
    NotAnObject(&'static str),
    #[error("\"uuid\" is missing")]
    NoUuid,
    #[error("\"uuid\" is {0}; it has to be a string")]
    UuidType(&'static str),
    #[error("\"uuid\" is {0}, which is not a UUID like 0192f4c0-5a3e-7c1b-8d2e-0123456789ab")]
    Uuid(String),
    #[error("\"payload\" is {0}; it has to be an object")]
    PayloadType(&'static str),
}

/// Reads the body of `POST /call`. A missing or null `payload` is an empty one; unknown keys are ignored.
pub(super) fn parse(body: &[u8]) -> Result<Request, BadRequest> {
    let value: Value = serde_json::from_slice(body).map_err(|error| BadRequest::NotJson(error.to_string()))?;
    let Value::Object(mut members) = value else { return Err(BadRequest::NotAnObject(type_name(&value))) };
    let uuid = match members.get("uuid") {
        None => return Err(BadRequest::NoUuid),
        Some(Value::String(text)) => Uuid::try_parse(text.trim()).map_err(|_| BadRequest::Uuid(quoted(text)))?,
        Some(other) => return Err(BadRequest::UuidType(type_name(other))),
    };
    let payload = match members.remove("payload") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(payload)) => payload,
        Some(other) => return Err(BadRequest::PayloadType(type_name(&other))),
    };
    Ok(Request { uuid, payload })
}

/// A peer's text as an error may repeat it.
fn quoted(text: &str) -> String {
    let cut = &text[..text.floor_char_boundary(60)];
    format!("{cut:?}{}", if cut.len() < text.len() { "…" } else { "" })
}

const fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The answer of `POST /call`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Answer {
    pub sts_url: Option<String>,
    pub r#override: bool,
}

/// The same for a call that somebody else than `POST /call` tells of.
///
/// # Errors
/// Why the call is not to be taken.
pub async fn announce_call<A: Announcements>(
    state: &State<A>,
    uuid: Uuid,
    payload: Map<String, Value>,
) -> Result<(), String> {
    announce(state, Request { uuid, payload }).await.map(drop)
}

/// The same for a call that we make, and that has this identity already.
///
/// # Errors
/// Why the call is not to be made.
pub async fn announce_outbound<A: Announcements>(
    state: &State<A>,
    call: CallId,
    uuid: Uuid,
    payload: Map<String, Value>,
    screen: Option<OnMachine>,
) -> Result<(), String> {
    announce_as(state, call, Request { uuid, payload }, screen).await.map(drop)
}

/// Remembers the call, asks the receiver, remembers what it said.
///
/// # Errors
/// Why the call is not to be taken.
pub(super) async fn announce<A: Announcements>(state: &State<A>, request: Request) -> Result<Answer, String> {
    announce_as(state, CallId::new(), request, None).await
}

async fn announce_as<A: Announcements>(
    state: &State<A>,
    call: CallId,
    request: Request,
    screen: Option<OnMachine>,
) -> Result<Answer, String> {
    let Request { uuid, payload } = request;
    let sts_url = state.sts_url.as_deref().map(|base| sts_url::with_parameters(base, &payload));
    let mut announcement =
        Announcement { call: Some(call.into()), payload, sts_url, screen, ..Announcement::default() };
    // before the receiver is asked: the caller may be connected before a slow one answers
    state.announcements.put(uuid, announcement.clone()).await;
    info!(%call, %uuid, parameters = announcement.payload.len(), "Call announced");

    let mut answer = Answer { sts_url: announcement.sts_url.clone(), r#override: false };
    if !state.webhooks.enabled() {
        return Ok(answer);
    }
    // a failure has been logged there
    let said = match state.webhooks.initiate(call, uuid, &announcement.payload).await {
        Ok(said) => said,
        Err(reason) if state.undecided == Undecided::Refuse && reason != Failed::Disabled => {
            let reason = reason.to_string();
            announcement.refused = Some(reason.clone());
            state.announcements.put(uuid, announcement).await;
            warn!(%call, %uuid, code = "api.call.undecided", "the announced call is to be refused (webhooks.initiate.default): {reason}");
            return Err(reason);
        }
        Err(_) => return Ok(answer),
    };
    let mut rules = Rules { allow: &state.allow_hosts, refused: Vec::new() };
    if let Some(url) = overriding(uuid, &said, &announcement.payload, &mut rules) {
        info!(%uuid, "Overriding STS URL: {}", shown::url(&url));
        announcement.sts_url = Some(url.clone());
        answer = Answer { sts_url: Some(url), r#override: true };
    }
    if route(uuid, &said, &mut announcement, &mut rules) || answer.r#override {
        state.announcements.put(uuid, announcement).await;
    }
    for refused in rules.refused {
        state.webhooks.service_refused(uuid, REFUSED, &refused).await;
    }
    Ok(answer)
}

/// The speech-to-speech service that the receiver wants, with the payload appended to it as well.
fn overriding(uuid: Uuid, said: &Value, payload: &Map<String, Value>, rules: &mut Rules<'_>) -> Option<String> {
    service(uuid, said, "sts_url", rules).map(|url| sts_url::append(url, payload))
}

/// A service of the receiver's choice: its own word, but not every address is one.
fn service(uuid: Uuid, said: &Value, name: &'static str, rules: &mut Rules<'_>) -> Option<Url> {
    let text = member(uuid, said, name)?;
    let url = match sts_url::parse(text) {
        Ok(url) => url,
        Err(reason) => return ignored(uuid, name, &reason),
    };
    match net::check(&url, rules.allow) {
        Ok(()) => Some(url),
        Err(refused) => {
            error!(%uuid, code = REFUSED, "{name} of the webhook's answer is refused, the call goes on without: {refused}");
            rules.refused.push(format!("{name} of the webhook's answer: {refused}"));
            None
        }
    }
}

/// Takes what the answer may hold beyond the contract; whether there was anything.
fn route(uuid: Uuid, said: &Value, announcement: &mut Announcement, rules: &mut Rules<'_>) -> bool {
    let [asr_url, llm_url, tts_url] =
        ["asr_url", "llm_url", "tts_url"].map(|name| service(uuid, said, name, rules).map(String::from));
    if let (Some(_), true) = (&announcement.sts_url, asr_url.is_some() || llm_url.is_some() || tts_url.is_some()) {
        warn!(%uuid, code = "api.call.unused", "asr_url, llm_url and tts_url of the webhook's answer have no effect beside an STS URL");
    }
    let greeting = member(uuid, said, "greeting").map(str::to_owned);
    let any = [&asr_url, &llm_url, &tts_url, &greeting].into_iter().any(Option::is_some);
    *announcement = Announcement { asr_url, llm_url, tts_url, greeting, ..std::mem::take(announcement) };
    any
}

/// A text of the receiver's answer, if it is there and usable.
fn member<'a>(uuid: Uuid, said: &'a Value, name: &'static str) -> Option<&'a str> {
    match said.get(name)? {
        Value::Null => None,
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) if text.len() > MAX_TEXT => ignored(uuid, name, &format!("longer than {MAX_TEXT} bytes")),
        Value::String(text) => Some(text.trim()),
        other => ignored(uuid, name, &format!("{} instead of a string", type_name(other))),
    }
}

fn ignored<T>(uuid: Uuid, name: &str, reason: &str) -> Option<T> {
    warn!(%uuid, code = "api.call.ignored", "{name} of the webhook's answer is ignored: {}", shown::line(reason));
    None
}

/// What a fuzzer calls: the STS URL of a call whose `POST /call` has this body, or why it announces none.
#[doc(hidden)]
pub fn fuzz_body(body: &[u8]) -> Result<String, String> {
    let request = parse(body).map_err(|error| error.to_string())?;
    Ok(sts_url::with_parameters("ws://127.0.0.1:6030/?a=b%20c", &request.payload))
}

/// What a fuzzer calls: what the answer of a webhook receiver changes for a call.
#[doc(hidden)]
#[must_use]
pub fn fuzz_answer(body: &[u8]) -> Option<(Option<String>, Announcement)> {
    let said: Value = serde_json::from_slice(body).ok()?;
    let mut announcement = Announcement::default();
    let mut rules = Rules { allow: &[], refused: Vec::new() };
    let url = overriding(Uuid::nil(), &said, &Map::new(), &mut rules);
    route(Uuid::nil(), &said, &mut announcement, &mut rules);
    Some((url, announcement))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "0192f4c0-5a3e-7c1b-8d2e-0123456789ab";

    #[test]
    fn a_uuid_is_folded_and_the_payload_keeps_its_order() {
        let body = format!(r#"{{"x":1,"payload":{{"z":1,"a":2}},"uuid":" {} "}}"#, UUID.to_uppercase());
        let request = parse(body.as_bytes()).unwrap();
        assert_eq!(request.uuid.to_string(), UUID);
        assert_eq!(request.payload.keys().collect::<Vec<_>>(), ["z", "a"]);
        for body in [format!(r#"{{"uuid":"{UUID}"}}"#), format!(r#"{{"uuid":"{UUID}","payload":null}}"#)] {
            assert_eq!(parse(body.as_bytes()).unwrap().payload, Map::new());
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, named) in [
            ("", "not JSON"),
            (r#"{"uuid":"x" "#, "not JSON"),
            (r#"{"uuid":"x","payload":{"from":"Bob "the" Builder"}}"#, "unescaped quote"),
            ("[]", "the body is a list"),
            ("\"x\"", "the body is a string"),
            ("{}", "\"uuid\" is missing"),
            (r#"{"uuid":7}"#, "\"uuid\" is a number"),
            (r#"{"uuid":"1770758888.32"}"#, "\"uuid\" is \"1770758888.32\", which is not a UUID"),
            (r#"{"uuid":"a\nb"}"#, "\"a\\nb\""),
            (&format!(r#"{{"uuid":"{UUID}","payload":[]}}"#), "\"payload\" is a list"),
            (&format!(r#"{{"uuid":"{UUID}","payload":"x"}}"#), "\"payload\" is a string"),
            (&"[".repeat(60_000), "not JSON"),
        ] {
            let message = parse(body.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(named) && message.len() < 300, "{message}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
            Just(Value::from(UUID)),
        ];
        leaf.prop_recursive(3, 20, 5, |inner| {
            let key =
                prop_oneof![Just("uuid".to_owned()), Just("payload".to_owned()), Just("sts_url".to_owned()), ".{0,5}"];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((key, inner), 0..5).prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    #[test]
    fn a_receiver_may_not_choose_every_address() {
        let allow: [net::Pattern; 1] = ["sts.example".parse().unwrap()];
        for (url, open, narrowed) in [
            ("ws://sts.example:6030/x", true, true),
            ("ws://192.168.1.5:6030", true, false),
            ("ws://localhost:6030", true, false),
            ("http://169.254.169.254/latest", false, false),
            ("ws://[fe80::1]:6030", false, false),
            ("ws://0.0.0.0:6030", false, false),
        ] {
            let said = serde_json::json!({"sts_url": url, "llm_url": url});
            let mut announcement = Announcement::default();
            let mut anywhere = Rules { allow: &[], refused: Vec::new() };
            assert_eq!(overriding(Uuid::nil(), &said, &Map::new(), &mut anywhere).is_some(), open, "{url}");
            let mut rules = Rules { allow: &allow, refused: Vec::new() };
            assert_eq!(overriding(Uuid::nil(), &said, &Map::new(), &mut rules).is_some(), narrowed, "{url}");
            assert_eq!(route(Uuid::nil(), &said, &mut announcement, &mut rules), narrowed, "{url}");
            assert_eq!(
                (anywhere.refused.len(), rules.refused.len()),
                (usize::from(!open), if narrowed { 0 } else { 2 })
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_call_or_an_error_on_one_line(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Err(error) = parse(&body) {
                prop_assert!(!error.to_string().contains(char::is_control));
            }
        }

        #[test]
        fn any_json_is_a_call_exactly_if_it_has_a_uuid_and_no_wrong_payload(value in json()) {
            let usable = value.get("uuid").and_then(Value::as_str).is_some_and(|text| text.trim().parse::<Uuid>().is_ok())
                && value.get("payload").is_none_or(|payload| payload.is_object() || payload.is_null());
            let request = parse(value.to_string().as_bytes());
            prop_assert_eq!(request.is_ok(), usable, "{:?}", request);
        }

        #[test]
        fn any_answer_of_a_receiver_is_taken_or_ignored(said in json()) {
            let mut rules = Rules { allow: &[], refused: Vec::new() };
            let url = overriding(Uuid::nil(), &said, &Map::new(), &mut rules);
            prop_assert_eq!(url, None, "no generated string is an address");
            route(Uuid::nil(), &said, &mut Announcement::default(), &mut rules);
        }
    }
}
