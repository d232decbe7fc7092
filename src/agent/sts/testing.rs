//! What the tests of the dialects share.

use std::sync::LazyLock;

use serde_json::{Map, Value};
use tokio_tungstenite::tungstenite::Message;

use super::dialect::{Dialect, Incoming, Past, Setup, Target, Told};
use crate::agent::{
    Named,
    llm::{Tool, ToolCall},
    service::{self, Provider, Providers},
};

/// A service whose key is `hunter2`.
pub fn named(text: &str) -> Named {
    let (vendor, rest) = service::vendor_of(text).unwrap();
    let provider = Provider { api_key: Some("hunter2".into()), ..Provider::default() };
    let providers = Providers([(vendor.name().to_owned(), provider)].into());
    Named::parse(vendor, rest, service::Kind::Sts, &providers).unwrap()
}

/// What a session begins with that goes on from `past`.
pub fn setup(past: &[Past]) -> Setup<'_> {
    static ABOUT: LazyLock<Map<String, Value>> = LazyLock::new(|| Map::from_iter([("from".to_owned(), "2000".into())]));
    let (prompt, language) = (Some("Be kind."), Some("de-AT"));
    Setup { prompt, tools: &[], greeting: None, language, about: &ABOUT, past, owed: false }
}

/// A tool with one parameter.
pub fn tool() -> Tool {
    let parameters =
        serde_json::json!({"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]});
    Tool { name: "crm".to_owned(), description: "Looks up.".to_owned(), parameters }
}

/// A call of it.
pub fn call() -> ToolCall {
    ToolCall { id: "c1".to_owned(), name: "crm".to_owned(), arguments: "{\"id\":\"7\"}".to_owned(), signature: None }
}

/// What a message means.
pub fn told(dialect: &mut dyn Dialect, event: &Value) -> Vec<Told> {
    let mut told = Vec::new();
    dialect.read(Incoming::Text(&event.to_string()), &mut told);
    told
}

/// Messages as JSON.
pub fn messages(messages: Vec<Message>) -> Vec<Value> {
    messages.iter().map(|message| serde_json::from_str(message.to_text().unwrap()).unwrap()).collect()
}

/// The one message that is to be sent at once.
pub fn sent(told: &[Told]) -> Value {
    match told {
        [Told::Send(Message::Text(text))] => serde_json::from_str(text).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Where a session is begun, and the value of a header.
pub fn address(dialect: &mut dyn Dialect, header: &str) -> (String, String) {
    let (url, headers) = match dialect.target(&setup(&[])) {
        Target::Socket(url, headers) | Target::Ask { url, headers, .. } => (url, headers),
    };
    (url.into(), headers.get(header).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default())
}
