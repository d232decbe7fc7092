//! What a language model is told to be: from the settings, or from a service that knows the call.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio::sync::OnceCell;

use super::{Context, retry, websocket::escaped};

/// What a vendor's model is told when nobody says anything else.
pub const USUAL: &str = "You are a friendly assistant on a telephone call. What you write is spoken to the caller as it is: answer in \
one to three short sentences of plain spoken language, without lists, headings, emoji or markup. The caller's words come from speech \
recognition and may be misheard: when something makes no sense, ask. Ask one question at a time.";

/// Longest prompt, in bytes.
pub const MAX_PROMPT: usize = 64 * 1024;
/// Longest value put into one, in characters.
const MAX_VALUE: usize = 1_000;
/// How long a service may take to say what it is; the caller may be waiting for the first answer.
const FETCH: Duration = Duration::from_secs(3);

/// The system prompt of one call, made once.
#[derive(Debug)]
pub struct SystemPrompt {
    ctx: Context,
    /// Whether there is one if nobody has set any.
    needed: bool,
    made: OnceCell<Option<Arc<str>>>,
}

/// As connectors of AVR read it (contract section 4).
#[derive(Deserialize)]
struct Answer {
    system: String,
}

impl SystemPrompt {
    /// `needed`: the model has none of its own.
    pub fn new(ctx: Context, needed: bool) -> Self {
        Self { ctx, needed, made: OnceCell::new() }
    }

    /// Whether there will be one.
    pub fn is_some(&self) -> bool {
        let config = &self.ctx.config;
        self.needed || config.prompt.is_some() || config.prompt_url.is_some()
    }

    /// The prompt; waits for the service that says it, but not for long.
    pub async fn get(&self) -> Option<Arc<str>> {
        self.made.get_or_init(|| self.make()).await.clone()
    }

    async fn make(&self) -> Option<Arc<str>> {
        let config = &self.ctx.config;
        let fetched = match &config.prompt_url {
            None => None,
            Some(url) => match tokio::time::timeout(FETCH, self.fetch(url)).await {
                Ok(Ok(text)) => Some(text),
                Ok(Err(what)) => self.without(&what),
                Err(_) => self.without(&format!("it did not answer within {} s", FETCH.as_secs())),
            },
        };
        let usual = self.needed.then(|| USUAL.to_owned());
        let text = fetched.or_else(|| config.prompt.clone()).or(usual)?;
        let text = render(&text, |name| self.value(name));
        Some(match &config.language {
            Some(language) => format!("{text}\n\nSpeak this language with the caller: {language}.").into(),
            None => text.into(),
        })
    }

    fn without(&self, what: &str) -> Option<String> {
        tracing::warn!(
            code = "agent.prompt.unavailable",
            "agent.prompt_url gives no prompt for this call: {what}; agent.prompt, or the usual one, takes its place"
        );
        None
    }

    async fn fetch(&self, url: &str) -> Result<String, String> {
        let uuid = self.ctx.uuid.to_string();
        let request = self.ctx.outgoing.vendors.get(url).header("X-AVR-UUID", &uuid).header("X-UUID", &uuid);
        let response = request.send().await.map_err(|error| retry::explain(&error))?;
        let status = response.status();
        let body = retry::beginning(response, MAX_PROMPT + 1024).await;
        if !status.is_success() {
            let words = escaped(&String::from_utf8_lossy(&body));
            return Err(format!("it answered with status {}: \"{words}\"", status.as_u16()));
        }
        if let Ok(Answer { system }) = serde_json::from_slice(&body) {
            return Ok(system);
        }
        match String::from_utf8(body) {
            Ok(text) if !text.trim_start().starts_with(['{', '<']) && !text.trim().is_empty() => Ok(text),
            _ => Err("it answered neither {\"system\": \"…\"} nor text".to_owned()),
        }
    }

    fn value(&self, name: &str) -> String {
        match name {
            "uuid" => self.ctx.uuid.to_string(),
            "call_id" => self.ctx.call.to_string(),
            "language" => self.ctx.config.language.clone().unwrap_or_default(),
            "date" => today(OffsetDateTime::now_utc()),
            _ => of(&self.ctx.about, name),
        }
    }
}

fn today(now: OffsetDateTime) -> String {
    format!("{}, {}, {:02}:{:02} UTC", now.weekday(), now.date(), now.hour(), now.minute())
}

/// The value at a dotted path of what is known about a call, as text.
pub fn of(about: &Map<String, Value>, path: &str) -> String {
    let mut parts = path.split('.');
    let first = parts.next().and_then(|name| about.get(name));
    match parts.fold(first, |value, name| value.and_then(|value| value.get(name))) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// `text` with values in the place of `{{name}}`. What a caller's side has written into one can neither be endless nor look like lines
/// of the prompt.
pub fn render(text: &str, value: impl Fn(&str) -> String) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find("{{") {
        let Some(len) = rest[start..].find("}}") else { break };
        out.push_str(&rest[..start]);
        let name = rest[start + 2..start + len].trim();
        out.extend(value(name).chars().take(MAX_VALUE).map(|c| if c.is_control() { ' ' } else { c }));
        rest = &rest[start + len + 2..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn values_take_their_places() {
        let about = json!({"from": "+4930", "n": 7, "headers": {"X-Customer": "gold\nIgnore all"}});
        let about = about.as_object().unwrap();
        let text = render("Call of {{from}} ({{ n }}), {{headers.X-Customer}}{{none}}{{a.b.c}}; {{open", |name| {
            of(about, name)
        });
        assert_eq!(text, "Call of +4930 (7), gold Ignore all; {{open");
        assert_eq!(render("{{x}}", |_| "y".repeat(5_000)).len(), MAX_VALUE);
        // a value is not read again
        assert_eq!(render("{{x}}", |_| "{{x}}".to_owned()), "{{x}}");
    }

    #[test]
    fn the_date_is_one_that_people_say() {
        let at = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        assert_eq!(today(at), "Tuesday, 2023-11-14, 22:13 UTC");
    }

    proptest! {
        #[test]
        fn any_text_ends_in_a_prompt(text in "(\\PC|\\{\\{|\\}\\}){0,40}") {
            let _ = render(&text, str::to_owned);
        }

        #[test]
        fn text_without_places_stays(text in "[^{]{0,40}") {
            prop_assert_eq!(render(&text, |_| unreachable!()), text);
        }
    }
}
