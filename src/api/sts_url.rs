//! The address of a speech-to-speech service with the parameters of a call.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};
use url::Url;

/// Schemes that reach a service over the network.
const SCHEMES: [&str; 4] = ["ws", "wss", "http", "https"];

/// A URL of a service over the network, or why it is none.
pub(super) fn parse(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
    match url.scheme() {
        scheme if SCHEMES.contains(&scheme) => Ok(url),
        scheme => Err(format!("begins with {scheme:?} instead of ws:, wss:, http: or https:")),
    }
}

/// `base` with the payload of `POST /call` as query parameters, in the form of the WHATWG URL standard: an existing query stays
/// byte for byte (Node would write its `%20` as `+`), the order of the keys stays, values are written as JavaScript's `String()` writes them, lists and objects as compact JSON.
///
/// What is no address on the network (an embedded or native service) comes back as it is.
#[must_use]
pub fn with_parameters(base: &str, payload: &Map<String, Value>) -> String {
    parse(base).map_or_else(|_| base.to_owned(), |url| append(url, payload))
}

pub(super) fn append(mut url: Url, payload: &Map<String, Value>) -> String {
    if !payload.is_empty() {
        let mut query = url.query_pairs_mut();
        for (name, value) in payload {
            query.append_pair(name, &text(value));
        }
    }
    url.into()
}

fn text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => text.into(),
        Value::Number(n) => number(n).into(),
        other => other.to_string().into(),
    }
}

/// As JavaScript writes it (`1.0` is `1`), except that long integers keep all their digits: they are identities, not quantities.
fn number(n: &Number) -> String {
    let Some(x) = n.as_f64().filter(|_| n.is_f64()) else { return n.to_string() };
    match x.abs() {
        0.0 => "0".to_owned(),
        1e-6..1e21 => x.to_string(),
        magnitude if magnitude >= 1.0 => format!("{x:e}").replace('e', "e+"),
        _ => format!("{x:e}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn built(base: &str, payload: &str) -> String {
        with_parameters(base, &serde_json::from_str(payload).unwrap())
    }

    #[test]
    fn the_documented_example_comes_out_byte_for_byte() {
        assert_eq!(
            built(
                "ws://localhost:6030",
                r#"{"from":"2000","to":"5001","uniqueid":"1770758888.32","channel":"PJSIP/2000-00000013"}"#
            ),
            "ws://localhost:6030/?from=2000&to=5001&uniqueid=1770758888.32&channel=PJSIP%2F2000-00000013"
        );
    }

    #[test]
    fn values_are_written_as_a_browser_would() {
        // as Node's URL and URLSearchParams write them; long integers, lists and objects aside
        for (payload, query) in [
            (r#"{"recording":false,"x":true}"#, "recording=false&x=true"),
            (
                r##"{"a b":"c d","#":"#1","u":"ü€😀","q":"a&b=c?d+e~f'(g)*!"}"##,
                "a+b=c+d&%23=%231&u=%C3%BC%E2%82%AC%F0%9F%98%80&q=a%26b%3Dc%3Fd%2Be%7Ef%27%28g%29*%21",
            ),
            (
                r#"{"z":1,"a":2.0,"m":-0.0,"n":1.5,"o":1e21,"p":1e-7,"q":123456789012345678}"#,
                "z=1&a=2&m=0&n=1.5&o=1e%2B21&p=1e-7&q=123456789012345678",
            ),
            (
                r#"{"n":null,"l":[1,"a"],"o":{"k":"v"},"e":""}"#,
                "n=null&l=%5B1%2C%22a%22%5D&o=%7B%22k%22%3A%22v%22%7D&e=",
            ),
            (r#"{"nl":"a\r\nb\u0000"}"#, "nl=a%0D%0Ab%00"),
        ] {
            assert_eq!(built("ws://h:1/p", payload), format!("ws://h:1/p?{query}"));
        }
    }

    #[test]
    fn what_the_base_holds_stays() {
        for (base, url) in [
            ("wss://h/sts?key=a%20b&from=1", "wss://h/sts?key=a%20b&from=1&from=2"),
            ("ws://h?", "ws://h/?from=2"),
            ("HTTP://H:80/x#f", "http://h/x?from=2#f"),
            ("openai-realtime:gpt?voice=x", "openai-realtime:gpt?voice=x"),
            ("builtin:", "builtin:"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(built(base, r#"{"from":"2"}"#), url);
        }
        assert_eq!(built("ws://localhost:6030", "{}"), "ws://localhost:6030/");
    }

    proptest! {
        #[test]
        fn any_payload_comes_back_from_the_query(pairs in vec((".{0,20}", ".{0,40}"), 1..10)) {
            let payload: Map<_, _> = pairs.into_iter().map(|(name, value)| (name, Value::from(value))).collect();
            let url = with_parameters("ws://localhost:6030?x=1", &payload);
            prop_assert!(url.bytes().all(|b| b.is_ascii_graphic()));
            let parsed = Url::parse(&url).unwrap();
            prop_assert_eq!(parsed.as_str(), &url, "the form is not stable");
            let back: Vec<_> = parsed.query_pairs().skip(1).map(|(n, v)| (n.into_owned(), v.into_owned())).collect();
            let put: Vec<_> = payload.iter().map(|(n, v)| (n.clone(), v.as_str().unwrap().to_owned())).collect();
            prop_assert_eq!(back, put);
        }

        #[test]
        fn any_base_and_number_give_some_text(base in ".{0,60}", x in any::<f64>()) {
            let mut payload = Map::new();
            payload.insert("n".to_owned(), Value::from(x));
            let _ = with_parameters(&base, &payload);
        }
    }
}
