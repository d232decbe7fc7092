//! What of an event nobody is to learn: replaced before it is stored or sent.

use bytes::Bytes;
use serde_json::Value;

use super::body::MASKED_DIGIT;

/// What stands in the place of a text.
pub const REDACTED: &str = "[redacted]";

/// The paths of `webhooks.redact`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redaction(Vec<Path>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Path {
    /// `type` of the event; `*` = any.
    kind: String,
    /// Members of the payload, from the outside in; `*` = every member or item.
    members: Vec<String>,
}

/// A path that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no path; write the event's type and what of its payload is to go, e.g. transcription.text or *.caller.number"
)]
pub struct NotAPath(String);

impl Redaction {
    /// Reads paths like `transcription.text`.
    ///
    /// # Errors
    /// The first that is none.
    pub fn parse(paths: &[String]) -> Result<Self, NotAPath> {
        let path = |text: &String| {
            let mut words = text.split('.').map(str::trim);
            let (kind, members) = (words.next().unwrap_or_default(), words.map(str::to_owned).collect::<Vec<_>>());
            if kind.is_empty() || members.is_empty() || members.iter().any(String::is_empty) {
                return Err(NotAPath(text.clone()));
            }
            Ok(Path { kind: kind.to_owned(), members })
        };
        paths.iter().map(path).collect::<Result<_, _>>().map(Self)
    }

    /// `body`, a whole event of type `kind`, without what is to go.
    #[must_use]
    pub fn apply(&self, kind: &str, body: Bytes) -> Bytes {
        if !self.concerns(kind) {
            return body;
        }
        // it was rendered by us: a body that is no JSON could not be told what is in it, and is not sent
        let Ok(mut event) = serde_json::from_slice::<Value>(&body) else { return Bytes::new() };
        if let Some(payload) = event.get_mut("payload") {
            self.apply_to(kind, payload);
        }
        serde_json::to_vec(&event).unwrap_or_default().into()
    }

    /// Takes what is to go out of a payload.
    pub fn apply_to(&self, kind: &str, payload: &mut Value) {
        for path in self.0.iter().filter(|path| path.kind == "*" || path.kind == kind) {
            redact(payload, &path.members);
        }
    }

    fn concerns(&self, kind: &str) -> bool {
        self.0.iter().any(|path| path.kind == "*" || path.kind == kind)
    }
}

fn redact(value: &mut Value, path: &[String]) {
    let Some((name, rest)) = path.split_first() else {
        mask(value, "");
        return;
    };
    match value {
        Value::Object(members) => {
            for (_, member) in members.iter_mut().filter(|(key, _)| name == "*" || *key == name) {
                if rest.is_empty() { mask(member, name) } else { redact(member, rest) }
            }
        }
        Value::Array(items) if name == "*" => items.iter_mut().for_each(|item| redact(item, rest)),
        // whoever writes calls.number means the number of each of the calls
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, path)),
        _ => {}
    }
}

/// Of the same type, so that a receiver that insists on a text still gets one.
fn mask(value: &mut Value, name: &str) {
    *value = match value {
        Value::String(_) if name == "digit" => MASKED_DIGIT.into(),
        Value::String(_) => REDACTED.into(),
        Value::Number(_) => 0.into(),
        Value::Bool(_) => false.into(),
        Value::Array(_) => Value::Array(Vec::new()),
        Value::Object(_) => Value::Object(serde_json::Map::new()),
        Value::Null => Value::Null,
    };
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redaction(paths: &[&str]) -> Redaction {
        Redaction::parse(&paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn apply(paths: &[&str], kind: &str, payload: &str) -> String {
        let body = format!(r#"{{"uuid":"u","type":"{kind}","timestamp":"t","payload":{payload}}}"#);
        let redacted = String::from_utf8(redaction(paths).apply(kind, body.into()).to_vec()).unwrap();
        let start = format!(r#"{{"uuid":"u","type":"{kind}","timestamp":"t","payload":"#);
        redacted.strip_prefix(&start).unwrap().strip_suffix('}').unwrap().to_owned()
    }

    #[test]
    fn what_is_named_goes_and_the_rest_stays_byte_for_byte() {
        for (paths, kind, payload, expected) in [
            (
                &["transcription.text"][..],
                "transcription",
                r#"{"role":"user","text":"secret"}"#,
                r#"{"role":"user","text":"[redacted]"}"#,
            ),
            (&["transcription.text"], "dtmf_digit", r#"{"digit":"1"}"#, r#"{"digit":"1"}"#),
            (&["dtmf_digit.digit"], "dtmf_digit", r#"{"digit":"1"}"#, r#"{"digit":"X"}"#),
            (
                &["*.caller.number", "x.y"],
                "call_initiated",
                r#"{"z":1,"caller":{"number":49,"name":"n"}}"#,
                r#"{"z":1,"caller":{"number":0,"name":"n"}}"#,
            ),
            (
                &["*.calls.number"],
                "k",
                r#"{"calls":[{"number":"1"},{"number":true}]}"#,
                r#"{"calls":[{"number":"[redacted]"},{"number":false}]}"#,
            ),
            (
                &["*.*"],
                "k",
                r#"{"a":"b","c":{"d":"e"},"f":[1],"g":null}"#,
                r#"{"a":"[redacted]","c":{},"f":[],"g":null}"#,
            ),
            (&["k.a.b"], "k", r#"{"a":"text"}"#, r#"{"a":"text"}"#),
        ] {
            assert_eq!(apply(paths, kind, payload), expected, "{paths:?}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in ["", "transcription", ".text", "transcription.", "a..b"] {
            assert!(Redaction::parse(&[text.to_owned()]).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_at_a_named_path_comes_through(secret in "[a-z]{12}", deep in 0_usize..5, many in 1_usize..4) {
            let mut payload = serde_json::json!({ "text": secret });
            let mut path = "text".to_owned();
            for level in 0..deep {
                payload = if level % 2 == 0 { serde_json::json!({ "m": payload }) } else {
                    serde_json::json!({ "m": vec![payload; many] })
                };
                path = format!("m.{path}");
            }
            let shown = apply(&[&format!("k.{path}")], "k", &payload.to_string());
            prop_assert!(!shown.contains(&secret), "{shown}");
        }
    }
}
