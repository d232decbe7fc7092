//! What of a URL or an answer may be shown in a log line.

use serde_json::{Map, Value};
use url::Url;

const MASK: &str = "***";
const SECRETIVE: [&str; 8] =
    ["secret", "token", "password", "passwd", "apikey", "authorization", "signature", "credential"];
/// Longer values are cut in log lines.
const MAX_SHOWN: usize = 1_000;

fn secretive(name: &str) -> bool {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    matches!(name.as_str(), "key" | "auth" | "sig" | "pwd") || SECRETIVE.iter().any(|word| name.contains(word))
}

/// Whether a header of this (lower-case) name seems to carry a secret, which belongs into the settings made for that.
pub(super) fn is_secret_header(name: &str) -> bool {
    const WORDS: [&str; 10] = [
        "authorization",
        "token",
        "secret",
        "password",
        "passwd",
        "cookie",
        "credential",
        "api-key",
        "apikey",
        "access-key",
    ];
    let name = name.replace('_', "-");
    WORDS.iter().any(|word| name.contains(word)) || name.split('-').any(|part| part == "auth")
}

/// Whether a secret-looking parameter is in the query of what may be the template of a URL.
pub(super) fn has_secret_parameter(text: &str) -> bool {
    let Some((_, query)) = text.split_once('?') else { return false };
    url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| secretive(&name))
}

/// A URL for a log line: without user name and password, values of secret-looking parameters masked, escaped and cut.
#[must_use]
pub fn url(text: &str) -> String {
    let Some(mut url) = Url::parse(text).ok().filter(Url::has_host) else {
        // whatever it is, a password may be in it
        return if text.contains('@') { "(not a URL)".to_owned() } else { line(text) };
    };
    // both fail only where a URL cannot have credentials
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    if url.query_pairs().any(|(name, _)| secretive(&name)) {
        let pairs: Vec<_> = url.query_pairs().into_owned().collect();
        let mut query = url.query_pairs_mut();
        query.clear();
        for (name, value) in &pairs {
            query.append_pair(name, if secretive(name) { MASK } else { value });
        }
    }
    line(url.as_str())
}

/// A JSON value for a log line: members with secret-looking names masked, URLs as [`url()`] shows them, escaped and cut.
#[must_use]
pub fn json(value: &Value) -> String {
    line(&masked(value).to_string())
}

fn masked(value: &Value) -> Value {
    match value {
        Value::String(text) if text.contains("://") => Value::String(url(text)),
        Value::Array(items) => Value::Array(items.iter().map(masked).collect()),
        Value::Object(members) => Value::Object(members.iter().map(mask_member).collect::<Map<_, _>>()),
        other => other.clone(),
    }
}

fn mask_member((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), if secretive(name) { Value::from(MASK) } else { masked(value) })
}

/// A peer's text for a log line: control characters escaped, cut after 1,000 bytes.
#[must_use]
pub fn line(text: &str) -> String {
    let cut = &text[..text.floor_char_boundary(MAX_SHOWN)];
    let mut shown: String = cut.chars().flat_map(escape).collect();
    if cut.len() < text.len() {
        shown.push('…');
    }
    shown
}

fn escape(c: char) -> impl Iterator<Item = char> {
    // quotes and backslashes stay: JSON would become unreadable
    let plain = matches!(c, '"' | '\'' | '\\');
    let escaped = (!plain).then(|| c.escape_debug());
    plain.then_some(c).into_iter().chain(escaped.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        for (given, shown) in [
            ("https://user:pass@host/p?x=1", "https://host/p?x=1"),
            ("ws://h:6030/?from=2000&api_key=abc&X-Token=1", "ws://h:6030/?from=2000&api_key=***&X-Token=***"),
            ("ws://h:6030/?from=2000&channel=PJSIP%2F2000-1", "ws://h:6030/?from=2000&channel=PJSIP%2F2000-1"),
            ("http://h/#secret", "http://h/"),
            ("user:pass@host", "(not a URL)"),
            ("no\nsuch\u{1b}[2J", "no\\nsuch\\u{1b}[2J"),
        ] {
            assert_eq!(url(given), shown);
        }
    }

    #[test]
    fn answers_are_shown_without_secrets() {
        let value = serde_json::json!({"sts_url": "ws://u:p@h/?key=k", "Secret": {"deep": 1}, "list": [{"apiKey": "x"}], "text": "a\nb"});
        assert_eq!(
            json(&value),
            r#"{"sts_url":"ws://h/?key=***","Secret":"***","list":[{"apiKey":"***"}],"text":"a\nb"}"#
        );
    }

    proptest! {
        #[test]
        fn whatever_comes_fits_one_short_line(text in ".{0,3000}") {
            for shown in [line(&text), url(&text), json(&Value::from(text.as_str()))] {
                prop_assert!(!shown.chars().any(char::is_control));
                prop_assert!(shown.chars().count() <= 10 * (MAX_SHOWN + 1));
            }
        }
    }
}
