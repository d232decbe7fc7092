//! Tools about the call itself: what a model's arguments mean. Nothing is done here.

use std::time::Duration;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    agent::llm::Tool,
    call::{Attended, Collect, Digit, Request, Target, pattern},
};

/// Longest extension, context, name of a variable.
const MAX_NAME: usize = 64;
/// Longest value of a variable.
const MAX_VALUE: usize = 512;
/// Most keys sent at once.
const MAX_KEYS: usize = 64;

/// A tool of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    Hangup,
    Transfer,
    AttendedTransfer,
    SendDtmf,
    CollectDigits,
    PauseRecording,
    SetVariable,
    TakeMessage,
}

/// What a call of one comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// What is asked of the call; none: that it was called, which is an event, is all.
    pub request: Option<Request>,
    /// Only when what was said before has been heard.
    pub last: bool,
    /// What the model is told when it is done.
    pub done: &'static str,
}

/// The names there are, those of AVR's tools after our own.
pub const NAMES: [(&str, Builtin); 10] = [
    ("hangup", Builtin::Hangup),
    ("transfer", Builtin::Transfer),
    ("attended_transfer", Builtin::AttendedTransfer),
    ("send_dtmf", Builtin::SendDtmf),
    ("collect_digits", Builtin::CollectDigits),
    ("pause_recording", Builtin::PauseRecording),
    ("set_variable", Builtin::SetVariable),
    ("take_message", Builtin::TakeMessage),
    ("avr_hangup", Builtin::Hangup),
    ("avr_transfer", Builtin::Transfer),
];

impl Builtin {
    /// The tool of this name.
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, builtin)| *builtin)
    }

    /// As the model sees it under `name`. `places`: where callers may be transferred to.
    pub fn tool(self, name: &str, places: &[Place]) -> Tool {
        let (description, properties, required) = match self {
            Self::Hangup => (
                "End the call. Say goodbye first, in the same answer. Use it when the caller is done.",
                json!({}),
                json!([]),
            ),
            Self::Transfer => return Self::transfer(name, places),
            Self::AttendedTransfer => (
                "Call somebody while the caller waits with music, and give the caller to them when they answer. Say so first, in the same answer. Is nobody \
                 there, the caller is back with you, and you are told why.",
                json!({"to": exten(places)}),
                json!(["to"]),
            ),
            Self::SendDtmf => (
                "Press telephone keys towards the other side, e.g. in the menu of another system.",
                json!({"digits": {"type": "string", "description": "Keys: 0-9, *, #, A-D"}}),
                json!(["digits"]),
            ),
            Self::CollectDigits => (
                "Have the caller enter a number on their telephone's keys. Ask for it in the same answer; what they enter comes as their next words.",
                json!({
                    "max": {"type": "integer", "description": "How many keys at most (1-64)"},
                    "min": {"type": "integer", "description": "How many at least"},
                    "terminator": {"type": "string", "description": "The key that ends the number, e.g. #"},
                    "timeout_s": {"type": "number", "description": "Longest pause between two keys, in seconds"},
                }),
                json!(["max"]),
            ),
            Self::PauseRecording => (
                "Pause the recording of the call, e.g. while a card number is said, or go on with it.",
                json!({"paused": {"type": "boolean", "description": "true: pause, false: go on"}}),
                json!(["paused"]),
            ),
            Self::SetVariable => (
                "Set a channel variable that the telephone system reads after the call.",
                json!({"name": {"type": "string"}, "value": {"type": "string"}}),
                json!(["name", "value"]),
            ),
            Self::TakeMessage => (
                "Keep a message of the caller's for somebody. Ask for what is missing first, and read it back.",
                json!({
                    "name": {"type": "string", "description": "The caller's name"},
                    "number": {"type": "string", "description": "Where they can be reached"},
                    "message": {"type": "string"},
                    "for": {"type": ["string", "null"], "description": "Whom it is for"},
                }),
                json!(["message"]),
            ),
        };
        let parameters =
            json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
        Tool { name: name.to_owned(), description: description.to_owned(), parameters }
    }

    fn transfer(name: &str, places: &[Place]) -> Tool {
        let mut description =
            "Give the caller to somebody else. Say so first, in the same answer: it is heard before they go."
                .to_owned();
        let names: Vec<&str> = places.iter().filter_map(|place| place.name.as_deref()).collect();
        if !names.is_empty() {
            description = format!("{description} Known are: {}.", names.join(", "));
        }
        let exten = exten(places);
        // as AVR's own tool calls them
        let parameters = if name.starts_with("avr_") {
            let text = |what: &str| json!({"type": "string", "description": what});
            json!({
                "type": "object",
                "properties": {
                    "transfer_extension": exten,
                    "transfer_context": text("The context to call it in"),
                    "transfer_priority": text("The priority to begin at"),
                },
                "required": ["transfer_extension"],
            })
        } else {
            json!({"type": "object", "properties": {"to": exten}, "required": ["to"], "additionalProperties": false})
        };
        Tool { name: name.to_owned(), description, parameters }
    }

    /// What these arguments ask for; `Err` is told to the model.
    pub fn decide(self, arguments: &Value, places: &[Place]) -> Result<Deed, String> {
        let deed = |request, done| Deed { request: Some(request), last: false, done };
        Ok(match self {
            Self::Hangup => {
                let request = Some(Request::Hangup { cause: None, now: false });
                Deed { request, last: true, done: "The call is over." }
            }
            Self::Transfer => Deed {
                request: Some(Request::Transfer(place(read(arguments)?, places)?)),
                last: true,
                done: "The caller has been transferred.",
            },
            Self::AttendedTransfer => {
                let Target { exten, .. } = place(read(arguments)?, places)?;
                let attended = Attended { to: exten, music: true, ..Attended::default() };
                Deed { request: Some(Request::Attend(attended)), last: true, done: "They have taken the caller." }
            }
            Self::SendDtmf => {
                let Keys { digits } = read(arguments)?;
                let keys: Option<Vec<Digit>> =
                    digits.chars().filter(|c| !c.is_whitespace()).map(|c| Digit::try_from(c).ok()).collect();
                let keys = keys.filter(|keys| (1..=MAX_KEYS).contains(&keys.len()));
                let keys = keys.ok_or_else(|| format!("digits are 1 to {MAX_KEYS} of 0-9 * # A-D"))?;
                deed(Request::Dtmf(keys), "The keys have been sent.")
            }
            Self::CollectDigits => {
                let how = collect(&read(arguments)?)?;
                deed(Request::Collect(Some(how)), "What the caller enters comes as their next words.")
            }
            Self::PauseRecording => {
                let Pause { paused } = read(arguments)?;
                let done = if paused { "The recording is paused." } else { "The recording goes on." };
                deed(Request::Record(!paused), done)
            }
            Self::SetVariable => {
                let Variable { name, value } = read(arguments)?;
                let value = text(&value).ok_or("value is a text or a number")?;
                // a function such as SHELL() is no variable
                if !is_plain(&name, "_") || value.len() > MAX_VALUE || value.contains(char::is_control) {
                    return Err(format!(
                        "name is letters, digits and _ (at most {MAX_NAME}), value one line of at most {MAX_VALUE} bytes"
                    ));
                }
                deed(Request::Variable(name, value), "It is set.")
            }
            Self::TakeMessage => {
                let Taken { message, .. } = read(arguments)?;
                if message.trim().is_empty() {
                    return Err("the message is empty: ask for it".to_owned());
                }
                Deed { request: None, last: false, done: "The message is kept." }
            }
        })
    }
}

/// Where callers may be given to: `sales=200@internal`, `_3XX@internal`, `600`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What the model may call it.
    pub name: Option<String>,
    /// The extension, or a pattern of extensions.
    pub exten: String,
    /// The context; none: as the dialplan has it.
    pub context: Option<String>,
}

impl Place {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, rest) = match text.split_once('=') {
            Some((name, rest)) => (Some(name.trim().to_owned()), rest.trim()),
            None => (None, text.trim()),
        };
        let (exten, context) = match rest.rsplit_once('@') {
            Some((exten, context)) => (exten, Some(context.to_owned())),
            None => (rest, None),
        };
        let fits = !exten.is_empty()
            && exten.len() <= MAX_NAME
            && !exten.contains([',', '&', '|'])
            && context.as_deref().is_none_or(|context| is_plain(context, "_-"))
            && name.as_deref().is_none_or(|name| !name.is_empty() && name.len() <= MAX_NAME && !is_pattern(exten));
        if fits {
            return Ok(Self { name, exten: exten.to_owned(), context });
        }
        Err(format!("{text:?} is no place: write \"200\", \"200@context\", \"_2XX@context\" or \"sales=200@context\""))
    }
}

fn is_pattern(exten: &str) -> bool {
    exten.starts_with('_') || exten.contains(['*', '?'])
}

#[derive(Deserialize)]
struct To {
    #[serde(alias = "transfer_extension", alias = "exten", alias = "extension")]
    to: Value,
    #[serde(default, alias = "transfer_context")]
    context: Option<String>,
    #[serde(default, alias = "transfer_priority")]
    priority: Option<Value>,
}

#[derive(Deserialize)]
struct Keys {
    digits: String,
}

#[derive(Deserialize)]
struct Numbers {
    max: u64,
    #[serde(default)]
    min: Option<u64>,
    #[serde(default)]
    terminator: Option<String>,
    #[serde(default)]
    timeout_s: Option<f64>,
}

#[derive(Deserialize)]
struct Pause {
    paused: bool,
}

/// What is written down stands in the event; here it is only looked at.
#[derive(Deserialize)]
struct Taken {
    message: String,
    #[serde(default, rename = "name")]
    _name: Option<String>,
    #[serde(default, rename = "number")]
    _number: Option<Value>,
    #[serde(default, rename = "for")]
    _to: Option<String>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: Value,
}

/// Where to, as the model sees it.
fn exten(places: &[Place]) -> Value {
    let names: Vec<&str> = places.iter().filter_map(|place| place.name.as_deref()).collect();
    let description = match names.is_empty() {
        true => "The extension to call".to_owned(),
        false => format!("One of {}, or an extension", names.join(", ")),
    };
    json!({"type": "string", "description": description})
}

/// Models send empty texts for what they leave out.
fn read<T: DeserializeOwned>(arguments: &Value) -> Result<T, String> {
    T::deserialize(arguments).map_err(|error| format!("the arguments do not fit: {error}"))
}

/// Text, or the number that a model writes where text belongs.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn is_plain(name: &str, more: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

/// A place that the operator allows.
fn place(to: To, places: &[Place]) -> Result<Target, String> {
    let wanted = text(&to.to).map(|wanted| wanted.trim().to_owned()).unwrap_or_default();
    let context = to.context.filter(|context| !context.is_empty());
    let named = |place: &&Place| place.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(&wanted));
    if let Some(place) = places.iter().find(named) {
        return Ok(Target { context: place.context.clone(), exten: place.exten.clone(), priority: None });
    }
    let plain = is_plain(&wanted, "*#+._-");
    let allowed = places.iter().find(|place| {
        plain
            && pattern::matches(&place.exten, &wanted)
            && (context.is_none() || place.context.is_none() || place.context == context)
    });
    let Some(allowed) = allowed else {
        let names: Vec<&str> = places.iter().map(|place| place.name.as_deref().unwrap_or(&place.exten)).collect();
        return Err(format!(
            "{wanted:?} is no place that callers may be transferred to; there are: {}",
            names.join(", ")
        ));
    };
    let context = allowed.context.clone().or(context);
    if context.as_deref().is_some_and(|context| !is_plain(context, "_-")) {
        return Err("the context is letters, digits, _ and -".to_owned());
    }
    let priority = to.priority.as_ref().and_then(text).filter(|priority| !priority.is_empty());
    if priority.as_deref().is_some_and(|priority| !is_plain(priority, "_-")) {
        return Err("the priority is a number or a label".to_owned());
    }
    Ok(Target { context, exten: wanted, priority })
}

fn collect(numbers: &Numbers) -> Result<Collect, String> {
    let terminator = numbers.terminator.as_deref().filter(|key| !key.is_empty());
    let terminator = match terminator.map(|key| key.parse::<char>().ok().and_then(|key| Digit::try_from(key).ok())) {
        Some(None) => return Err("terminator is one key: 0-9 * # A-D".to_owned()),
        found => found.flatten(),
    };
    let (max, min) = (numbers.max, numbers.min.unwrap_or(1).max(1));
    if !(1..=64).contains(&max) || min > max {
        return Err("max is 1 to 64, min at most max".to_owned());
    }
    let timeout = numbers.timeout_s.unwrap_or(5.0);
    if !(0.5..=60.0).contains(&timeout) {
        return Err("timeout_s is 0.5 to 60".to_owned());
    }
    Ok(Collect {
        min: usize::try_from(min).unwrap_or(1),
        max: usize::try_from(max).unwrap_or(1),
        terminator,
        timeout: Duration::from_secs_f64(timeout),
        interrupt: true,
        once: true,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places() -> Vec<Place> {
        ["sales=200@internal", "_3XX@internal", "600"].iter().map(|text| Place::parse(text).unwrap()).collect()
    }

    fn transferred(arguments: Value) -> Result<Target, String> {
        Builtin::Transfer.decide(&arguments, &places()).map(|deed| match deed.request {
            Some(Request::Transfer(target)) => target,
            other => panic!("{other:?}"),
        })
    }

    fn target(exten: &str, context: Option<&str>) -> Target {
        Target { exten: exten.to_owned(), context: context.map(str::to_owned), priority: None }
    }

    #[test]
    fn callers_go_only_where_the_operator_allows() {
        assert_eq!(transferred(json!({"to": "Sales"})), Ok(target("200", Some("internal"))));
        assert_eq!(transferred(json!({"to": 312})), Ok(target("312", Some("internal"))));
        assert_eq!(transferred(json!({"to": "600"})), Ok(target("600", None)));
        let avr = json!({"transfer_extension": "600", "transfer_context": "demo", "transfer_priority": 1});
        assert_eq!(transferred(avr), Ok(Target { priority: Some("1".to_owned()), ..target("600", Some("demo")) }));
        for wrong in [
            json!({"to": "0900123456"}),
            json!({"to": "312", "context": "world"}),
            json!({"to": "312,1)&System(x"}),
            json!({"to": ""}),
            json!({}),
            json!({"to": "600", "context": "a,b"}),
            json!({"to": null}),
        ] {
            assert!(transferred(wrong.clone()).is_err(), "{wrong}");
        }
        let told = transferred(json!({"to": "0900123456"})).unwrap_err();
        assert!(told.contains("sales, _3XX, 600"), "{told}");
    }

    #[test]
    fn places_are_read_or_refused() {
        for wrong in ["", "=200", "sales=_2XX", "200@a b", "200,1@x", "sales=", &"2".repeat(65)] {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Place::parse("*").unwrap().exten, "*");
    }

    #[test]
    fn arguments_become_requests() {
        let request = |builtin: Builtin, arguments| builtin.decide(&arguments, &[]).map(|deed| deed.request);
        let keys = |keys: &str| keys.chars().map(|c| Digit::try_from(c).unwrap()).collect();
        assert_eq!(request(Builtin::SendDtmf, json!({"digits": "1 2#"})), Ok(Some(Request::Dtmf(keys("12#")))));
        assert!(request(Builtin::SendDtmf, json!({"digits": "12x"})).is_err());
        assert!(request(Builtin::SendDtmf, json!({"digits": ""})).is_err());
        assert_eq!(request(Builtin::PauseRecording, json!({"paused": true})), Ok(Some(Request::Record(false))));
        assert_eq!(
            request(Builtin::SetVariable, json!({"name": "RESULT", "value": 7})),
            Ok(Some(Request::Variable("RESULT".to_owned(), "7".to_owned())))
        );
        assert!(request(Builtin::SetVariable, json!({"name": "SHELL(reboot)", "value": "x"})).is_err());
        assert!(request(Builtin::SetVariable, json!({"name": "A", "value": "x\ny"})).is_err());
        let collected = request(Builtin::CollectDigits, json!({"max": 4, "terminator": "#"}));
        let Ok(Some(Request::Collect(Some(how)))) = collected else { panic!() };
        assert_eq!((how.min, how.max, how.once, how.terminator), (1, 4, true, Digit::try_from('#').ok()));
        for wrong in [json!({"max": 0}), json!({"max": 3, "min": 4}), json!({"max": 1, "terminator": "##"}), json!({})]
        {
            assert!(request(Builtin::CollectDigits, wrong.clone()).is_err(), "{wrong}");
        }
        assert!(Builtin::Hangup.decide(&json!({}), &[]).unwrap().last);
        let message = json!({"name": "Bob", "number": 5551234, "message": "Hi.", "for": null});
        assert_eq!(request(Builtin::TakeMessage, message), Ok(None));
        assert!(request(Builtin::TakeMessage, json!({"message": " "})).is_err());
    }

    #[test]
    fn every_tool_is_described_by_an_objects_schema() {
        for (name, builtin) in NAMES {
            let tool = builtin.tool(name, &places());
            assert_eq!((tool.name.as_str(), &tool.parameters["type"]), (name, &json!("object")));
        }
        assert!(Builtin::Transfer.tool("transfer", &places()).description.contains("sales"));
        assert!(Builtin::Transfer.tool("avr_transfer", &[]).parameters["properties"]["transfer_extension"].is_object());
    }

    proptest! {
        #[test]
        fn any_arguments_end_in_a_deed_or_words(to in "\\PC{0,12}", context in "\\PC{0,6}", n in any::<i64>()) {
            let arguments = json!({"to": to, "context": context, "digits": to, "max": n, "name": to, "value": n, "paused": n});
            for (_, builtin) in NAMES {
                if let Ok(Deed { request: Some(Request::Transfer(target)), .. }) = builtin.decide(&arguments, &places()) {
                    prop_assert!(!target.exten.contains([',', '(', ')']) && ["200", "600"].contains(&target.exten.as_str())
                        || target.exten.len() == 3);
                }
            }
        }
    }
}
