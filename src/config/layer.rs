//! Layers of settings: what each may say is learnt from `default.toml`, and checked before they are laid over one another.

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use config::{Map, Source, Value, ValueKind};

mod table;

use self::table::{endpoints_by_name, flatten};
use super::{
    fault::{Faults, redacted},
    profiles, tools,
};
use crate::agent::{
    mcp::McpConfig,
    service::{VENDORS, Vendor},
    tools::HttpConfig,
};

/// The compiled-in settings, with every key explained.
pub const DEFAULTS: &str = include_str!("default.toml");
/// The same for each further webhook receiver, `webhooks.endpoints.NAME`.
pub const ENDPOINT_DEFAULTS: &str = include_str!("endpoint.toml");
/// Before the name of a further webhook receiver.
pub(super) const ENDPOINTS: &str = "webhooks.endpoints.";
/// Before the name of a further PBX, whose keys are those of `[ari]`.
pub(super) const PBXS: &str = "ari.pbx.";
/// Dial strings, by name.
pub(super) const DIALS: &str = "outbound.dial.";

/// Before the name of a vendor.
pub(super) const PROVIDERS: &str = "providers.";
/// What each of the sections [`PROVIDERS`]… may hold, beside headers.
const PROVIDER_KEYS: [&str; 2] = ["api_key", "base_url"];
/// Before the name of a profile, which holds keys of other sections.
pub(super) const PROFILES: &str = "profiles.";

/// What a setting can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Count,
    Number,
    Text,
    /// A text, or a list of them.
    TextOrList,
    List,
    /// A count, or this word.
    CountOr(&'static str),
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// Settings that name a service, or several that stand in for one another.
const SERVICES: [&str; 3] = ["agent.asr_url", "agent.llm_url", "agent.tts_url"];
/// Settings that take certain words only.
const WORDS: [(&str, &[&str]); 7] = [
    ("webhooks.initiate.default", &["configured", "refuse"]),
    ("database.when_broken", &["accept", "refuse"]),
    ("ari.after", &["continue", "hangup"]),
    ("ari.connect", &["hark", "persistent", "per_call"]),
    ("ari.format", &["slin", "slin16", "ulaw", "alaw", "g722"]),
    ("ari.media", &["audiosocket", "websocket", "rtp"]),
    ("ari.rest", &["http", "websocket"]),
];

/// Every setting there is, by dotted name.
#[derive(Debug)]
pub(super) struct Schema {
    keys: Keys,
    /// What each of the sections [`ENDPOINTS`]… may hold, beside headers.
    endpoint: Keys,
}

type Keys = BTreeMap<String, (Kind, ValueKind)>;

impl Schema {
    /// Learnt from [`DEFAULTS`] and [`ENDPOINT_DEFAULTS`].
    pub(super) fn new() -> Self {
        Self { keys: learnt(DEFAULTS), endpoint: learnt(ENDPOINT_DEFAULTS) }
    }

    /// The names of all settings.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// The compiled-in settings as a layer.
    pub(super) fn defaults(&self) -> Layer {
        let mut layer = Layer::default();
        for (key, (_, value)) in &self.keys {
            if *value != ValueKind::String(String::new()) {
                layer.values.insert(key.clone(), Value::new(None, value.clone()));
            }
        }
        layer
    }

    fn entry(&self, key: &str) -> Option<(Kind, Option<&ValueKind>)> {
        if let Some((name, setting)) = key.strip_prefix(ENDPOINTS).and_then(|rest| rest.split_once('.')) {
            return match setting.strip_prefix("headers.") {
                _ if !is_endpoint_name(name) => None,
                Some(header) => (!header.contains('.')).then_some((Kind::Text, None)),
                None => self.endpoint.get(setting).map(|(kind, default)| (*kind, Some(default))),
            };
        }
        if let Some((name, setting)) = key.strip_prefix(PROFILES).and_then(|rest| rest.split_once('.')) {
            let known = is_endpoint_name(name) && profiles::may_set(setting);
            return known.then(|| self.entry(setting)).flatten();
        }
        if let Some((name, setting)) = key.strip_prefix(PROVIDERS).and_then(|rest| rest.split_once('.')) {
            let header = setting.strip_prefix("headers.").is_some_and(|header| !header.contains('.'));
            let known = Vendor::named(name).is_some() && (header || PROVIDER_KEYS.contains(&setting));
            return known.then_some((Kind::Text, None));
        }
        if let Some(name) = key.strip_prefix(DIALS) {
            return (name == "default" || is_endpoint_name(name)).then_some((Kind::Text, None));
        }
        let key = of_pbx(key).map_or(Cow::Borrowed(key), |setting| format!("ari.{setting}").into());
        self.keys.get(key.as_ref()).map(|(kind, default)| (*kind, Some(default)))
    }

    fn kind(&self, key: &str) -> Option<Kind> {
        self.entry(key).map(|(kind, _)| kind)
    }

    fn is_section(&self, key: &str) -> bool {
        let endpoint = format!("{key}.").strip_prefix(ENDPOINTS).is_some_and(|rest| {
            let (name, setting) = rest.split_once('.').unwrap_or_default();
            rest.is_empty() || (is_endpoint_name(name) && matches!(setting, "" | "headers."))
        });
        let pbx = format!("{key}.")
            .strip_prefix(PBXS)
            .is_some_and(|rest| rest.is_empty() || is_endpoint_name(rest.trim_end_matches('.')));
        let profile = format!("{key}.").strip_prefix(PROFILES).is_some_and(|rest| {
            let (name, setting) = rest.split_once('.').unwrap_or_default();
            rest.is_empty()
                || (is_endpoint_name(name) && (setting.is_empty() || self.is_section(setting.trim_end_matches('.'))))
        });
        let provider = format!("{key}.").strip_prefix(PROVIDERS).is_some_and(|rest| {
            let (name, setting) = rest.split_once('.').unwrap_or_default();
            rest.is_empty() || (Vendor::named(name).is_some() && matches!(setting, "" | "headers."))
        });
        endpoint
            || provider
            || pbx
            || profile
            || format!("{key}.") == DIALS
            || self.keys.keys().any(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
    }

    /// The name that was probably meant.
    fn nearest(&self, key: &str) -> Option<String> {
        let (prefix, keys) = match key.strip_prefix(ENDPOINTS).and_then(|rest| rest.split_once('.')) {
            Some((name, _)) => (format!("{ENDPOINTS}{name}."), &self.endpoint),
            None => (String::new(), &self.keys),
        };
        let known = keys.keys().map(|known| format!("{prefix}{known}"));
        known.map(|known| (distance(&known, key), known)).min().filter(|(d, _)| *d <= 3).map(|(_, known)| known)
    }

    fn default_text(&self, key: &str) -> String {
        match self.entry(key).and_then(|(_, default)| default) {
            Some(ValueKind::String(text)) if text.is_empty() => String::new(),
            Some(ValueKind::Array(_)) | None => String::new(),
            Some(value) => format!(", e.g. {value}, the default"),
        }
    }
}

/// What may be set, learnt from a compiled-in file.
fn learnt(defaults: &str) -> Keys {
    let mut leaves = Vec::new();
    // a fault in a compiled-in file would be caught by this module's tests; then there are no keys
    flatten("", toml::from_str(defaults).unwrap_or_default(), &mut leaves);
    leaves
        .into_iter()
        .map(|(key, value)| {
            let words = WORDS.iter().find(|(name, _)| *name == key);
            let kind = match &value {
                _ if words.is_some() => Kind::OneOf(words.map_or(&[], |(_, words)| words)),
                _ if SERVICES.contains(&key.as_str()) => Kind::TextOrList,
                _ if key == "limits.media_threads" => Kind::CountOr("auto"),
                _ if key == "webhooks.retry" || key == "retry" => Kind::CountOr("durable"),
                toml::Value::Boolean(_) => Kind::Bool,
                toml::Value::Integer(_) => Kind::Count,
                toml::Value::Float(_) => Kind::Number,
                toml::Value::Array(_) => Kind::List,
                _ => Kind::Text,
            };
            (key, (kind, to_kind(value)))
        })
        .collect()
}

/// The setting of a further PBX that `key` names.
pub(super) fn of_pbx(key: &str) -> Option<&str> {
    let (name, setting) = key.strip_prefix(PBXS)?.split_once('.')?;
    (is_endpoint_name(name) && !setting.contains('.')).then_some(setting)
}

/// Whether a further webhook receiver, or PBX, can have this name.
fn is_endpoint_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    (1..=64).contains(&name.len()) && name.bytes().all(fits) && name != "default"
}

/// Settings from one place, by dotted name; each knows under which name it was written there.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    values: BTreeMap<String, Value>,
    /// Name as written → value as written, fit to be shown.
    pub(super) shown: BTreeMap<String, String>,
    /// `[[routes]]`, each with its place.
    pub(super) routes: Vec<(profiles::Rule, String)>,
    /// `[[tools]]`, likewise.
    pub(super) tools: Vec<(HttpConfig, String)>,
    /// `[mcp.NAME]`, likewise.
    pub(super) servers: Vec<(String, McpConfig, String)>,
}

impl Layer {
    /// Whether this layer says something about `key`.
    pub(super) fn says(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The text of `key`, where this layer has one.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).and_then(|value| match &value.kind {
            ValueKind::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Sets `key` to a value that is known to be right.
    pub(super) fn set(&mut self, key: &str, name: &str, shown: &str, value: impl Into<ValueKind>) {
        let name = name.to_owned();
        self.values.insert(key.to_owned(), Value::new(Some(&name), value));
        self.shown.insert(name, redacted(key, shown));
    }

    /// Sets `key` from text (the environment, the command line), written as `name`.
    pub(super) fn set_text(&mut self, schema: &Schema, key: &str, name: &str, text: &str, faults: &mut Faults) {
        let Some(kind) = schema.kind(key) else { return unknown(schema, key, name, faults) };
        let trimmed = text.trim();
        let value = match kind {
            Kind::Bool => parse_bool(trimmed).map(ValueKind::Boolean),
            Kind::Count => trimmed.parse::<i64>().ok().filter(|n| *n >= 0).map(ValueKind::I64),
            Kind::Number => trimmed.parse::<f64>().ok().filter(|n| n.is_finite()).map(ValueKind::Float),
            Kind::Text | Kind::TextOrList => Some(ValueKind::String(text.to_owned())),
            Kind::List => Some(list(trimmed.split(',').map(str::trim).filter(|item| !item.is_empty()), name)),
            Kind::CountOr(word) if trimmed.eq_ignore_ascii_case(word) => Some(ValueKind::String(word.to_owned())),
            Kind::OneOf(words) => words
                .iter()
                .find(|word| trimmed.eq_ignore_ascii_case(word))
                .map(|word| ValueKind::String((*word).to_owned())),
            Kind::CountOr(_) => trimmed.parse::<i64>().ok().filter(|n| *n >= 0).map(ValueKind::I64),
        };
        match value {
            Some(value) => self.set(key, name, text, value),
            None => wrong_type(schema, key, kind, name, text, faults),
        }
    }

    /// Reads a `hark.toml`; a file that cannot be parsed is one fault.
    pub(super) fn from_file(schema: &Schema, path: &Path, text: &str, faults: &mut Faults) -> Self {
        let mut layer = Self::default();
        let table: toml::Table = match toml::from_str(text) {
            Ok(table) => table,
            Err(error) => {
                // not the error's own text: it quotes the line, which may hold a secret
                let line =
                    error.span().map_or(0, |span| text.get(..span.start).map_or(0, |t| t.matches('\n').count())) + 1;
                let reason = format!("line {line} cannot be read: {}", error.message().replace('\n', ", "));
                faults.push(
                    "config.file",
                    (path.display().to_string(), None),
                    reason,
                    "Correct that line (TOML syntax).",
                );
                return layer;
            }
        };
        let mut table = table;
        layer.routes = profiles::rules(&mut table, &path.display().to_string(), faults);
        layer.tools = tools::declared(&mut table, &path.display().to_string(), faults);
        layer.servers = tools::servers(&mut table, &path.display().to_string(), faults);
        let mut leaves = Vec::new();
        flatten("", endpoints_by_name(table, path, faults), &mut leaves);
        for (key, value) in leaves {
            if value.is_table() && schema.is_section(&key) {
                continue; // an empty section
            }
            let name = format!("{key} (in {})", path.display());
            layer.set_toml(schema, &key, &name, value, faults);
        }
        layer
    }

    fn set_toml(&mut self, schema: &Schema, key: &str, name: &str, value: toml::Value, faults: &mut Faults) {
        let Some(kind) = schema.kind(key) else { return unknown(schema, key, name, faults) };
        let shown = plain(&to_kind(value.clone()));
        let fits = match (&value, kind) {
            (toml::Value::String(text), Kind::Text | Kind::TextOrList | Kind::CountOr(_) | Kind::OneOf(_))
                if text.is_empty() =>
            {
                return;
            }
            (toml::Value::Boolean(_), Kind::Bool) | (toml::Value::String(_), Kind::Text | Kind::TextOrList) => true,
            (toml::Value::Integer(n), Kind::Count | Kind::CountOr(_)) => *n >= 0,
            (toml::Value::String(text), Kind::CountOr(word)) => text == word,
            (toml::Value::String(text), Kind::OneOf(words)) => words.contains(&text.as_str()),
            (toml::Value::Float(n), Kind::Number) => n.is_finite(),
            (toml::Value::Integer(_), Kind::Number) => true,
            (toml::Value::Array(items), Kind::List | Kind::TextOrList) => items.iter().all(toml::Value::is_str),
            _ => false,
        };
        if fits {
            self.set(key, name, &shown, to_kind(value));
        } else {
            wrong_type(schema, key, kind, name, &shown, faults);
        }
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.values.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

fn unknown(schema: &Schema, key: &str, name: &str, faults: &mut Faults) {
    let reason = if schema.is_section(key) { "is a section, not a setting" } else { "there is no such setting" };
    let advice = match schema.nearest(key) {
        _ if schema.is_section(key) => "Set one of the keys inside it.".to_owned(),
        _ if key.starts_with(PROVIDERS) => {
            let names: Vec<_> = VENDORS.iter().map(|row| row.name).collect();
            format!("Write [providers.NAME] with api_key, base_url and headers; the names are {}.", names.join(", "))
        }
        Some(near) => format!("Did you mean {near}?"),
        None => "Remove it, or see the README for the names there are.".to_owned(),
    };
    // without its value: a misspelt name does not tell whether that is a secret
    faults.push("config.unknown_key", (name, None), reason, advice);
}

fn wrong_type(schema: &Schema, key: &str, kind: Kind, name: &str, shown: &str, faults: &mut Faults) {
    let expected = match kind {
        Kind::Bool => "true or false".to_owned(),
        Kind::Count => "a whole number, 0 or more".to_owned(),
        Kind::Number => "a number".to_owned(),
        Kind::Text => "a text in quotes".to_owned(),
        Kind::TextOrList => "a text in quotes, or a list of them".to_owned(),
        Kind::List => "a list of texts".to_owned(),
        Kind::OneOf(words) => words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or "),
        Kind::CountOr(word) => format!("a whole number or {word:?}"),
    };
    let advice = format!("Write {expected}{}.", schema.default_text(key));
    faults.push("config.type", (name, Some(redacted(key, shown))), format!("is not {expected}"), advice);
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn list<'a>(items: impl Iterator<Item = &'a str>, name: &str) -> ValueKind {
    let name = name.to_owned();
    ValueKind::Array(items.map(|item| Value::new(Some(&name), item)).collect())
}

/// `kind` as text.
pub(super) fn plain(kind: &ValueKind) -> String {
    match kind {
        ValueKind::Array(items) => items.iter().map(|item| plain(&item.kind)).collect::<Vec<_>>().join(", "),
        kind => kind.to_string(),
    }
}

fn to_kind(value: toml::Value) -> ValueKind {
    match value {
        toml::Value::Boolean(b) => ValueKind::Boolean(b),
        toml::Value::Integer(n) => ValueKind::I64(n),
        toml::Value::Float(n) => ValueKind::Float(n),
        toml::Value::String(text) => ValueKind::String(text),
        toml::Value::Array(items) => {
            ValueKind::Array(items.into_iter().map(|v| Value::new(None, to_kind(v))).collect())
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => ValueKind::Nil,
    }
}

/// How many letters have to change to make `a` into `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(100).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_letters() {
        assert_eq!(distance("listen", "listen"), 0);
        assert_eq!(distance("listen", "lisen"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn an_empty_known_section_is_no_fault_but_an_unknown_one_is() {
        let mut faults = Faults::default();
        Layer::from_file(&Schema::new(), Path::new("hark.toml"), "[webhooks]\n[wehbooks]\n", &mut faults);
        assert_eq!(faults.0.len(), 1, "{faults}");
        assert!(faults.0[0].key.starts_with("wehbooks"), "{faults}");
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named_but_not_quoted() {
        let mut faults = Faults::default();
        Layer::from_file(
            &Schema::new(),
            Path::new("hark.toml"),
            "[webhooks]\nsecret = \"hunter2\nretry = 1\n",
            &mut faults,
        );
        let text = faults.to_string();
        assert!(text.contains("line 2"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
