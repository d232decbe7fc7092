//! Templates of payloads and addresses, by the rules of Dograh's webhook node, so that its templates can be taken over as they are.
//!
//! `{{a.b}}` is looked up in objects, member by member; what is missing or null is `""`. `{{a | text}}` (also `{{a | fallback:text}}`)
//! puts `text` where the value is missing, null or `""`; `{{a | fallback}}` puts the path itself in title case. Lists and objects
//! become JSON, booleans that stand alone `True` and `False`. `initial_context.k` also finds `k` at the root. A literal `\n` is a line
//! break. `current_time_Europe/Berlin` and `current_weekday_Europe/Berlin` are those of a time zone; without one, that of the other in the
//! same text, else UTC.

use std::time::SystemTime;

use jiff::{Timestamp, tz::TimeZone};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use url::Url;

/// What is left as it is in a value put into an address (RFC 3986, unreserved).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// A rendered text or address that is longer is an error: values come from callers.
const MAX_URL: usize = 8 * 1024;
/// What is filled in beside the members, and how it is written.
const BUILT_IN: [(&str, &str); 2] = [("current_time", "%Y-%m-%d %H:%M:%S %Z"), ("current_weekday", "%A")];

/// What templates are filled from: the members of a call's context, and the time.
#[derive(Debug, Clone)]
pub struct Context {
    /// The members.
    pub members: Map<String, Value>,
    /// `current_time`.
    pub now: SystemTime,
}

impl Context {
    fn find(&self, path: &str, zone: Option<&str>) -> Option<Value> {
        let found = self.at(path).or_else(|| self.at(path.strip_prefix("initial_context.")?));
        found.cloned().or_else(|| self.built_in(path, zone))
    }

    fn at(&self, path: &str) -> Option<&Value> {
        let mut parts = path.split('.');
        let first = self.members.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.as_object()?.get(part)).filter(|value| !value.is_null())
    }

    /// The time or the weekday in the zone that the path names, or in `zone`. Nothing if there is no such zone.
    fn built_in(&self, path: &str, zone: Option<&str>) -> Option<Value> {
        let (own, format) = built_in(path)?;
        let zone = match own.or(zone) {
            None | Some("UTC") => TimeZone::UTC,
            Some(name) => TimeZone::get(name).ok()?,
        };
        let now = Timestamp::try_from(self.now).ok()?.to_zoned(zone);
        Some(Value::from(now.strftime(format).to_string()))
    }
}

/// The zone that a built-in names, if it names one, and how it is written.
fn built_in(path: &str) -> Option<(Option<&str>, &'static str)> {
    BUILT_IN.iter().find_map(|&(name, format)| match path.strip_prefix(name)? {
        "" => Some((None, format)),
        zone => Some((Some(zone.strip_prefix('_')?), format)),
    })
}

/// A text with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Text(Vec<Part>);

/// A text that names a time zone once means it throughout.
fn zone(parts: &[Part]) -> Option<&str> {
    parts.iter().find_map(|part| match part {
        Part::Placeholder(placeholder) => built_in(&placeholder.path)?.0,
        Part::Literal(_) => None,
    })
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Placeholder(Placeholder),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Placeholder {
    path: String,
    fallback: Option<String>,
}

impl Placeholder {
    /// What stands between `{{` and `}}`; nothing if that is no placeholder.
    fn parse(inner: &str) -> Option<Self> {
        let (path, filter) = match inner.split_once('|') {
            Some((path, filter)) => (path.trim(), Some(filter.trim())),
            None => (inner.trim(), None),
        };
        if path.is_empty() || path.contains(char::is_whitespace) || inner.contains(['{', '}']) {
            return None;
        }
        let fallback = filter.map(|filter| match filter.strip_prefix("fallback").map(str::trim_start) {
            Some("") => title(path),
            Some(rest) => rest.strip_prefix(':').map_or(filter, str::trim).to_owned(),
            None => filter.to_owned(),
        });
        Some(Self { path: path.to_owned(), fallback })
    }

    /// The value, or what stands in for it.
    fn value(&self, context: &Context, zone: Option<&str>) -> Value {
        let found = context.find(&self.path, zone).filter(|value| value.as_str() != Some(""));
        found.or_else(|| self.fallback.clone().map(Value::from)).unwrap_or_else(|| Value::from(""))
    }
}

fn title(path: &str) -> String {
    let mut inside = false;
    let letters = path.chars().map(|c| {
        let c = if c == '_' { ' ' } else { c };
        let cased = if inside { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() };
        inside = c.is_alphanumeric();
        cased
    });
    letters.collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        // as Python writes them
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        other => other.to_string(),
    }
}

impl Text {
    /// Every text is a template: what is no placeholder is itself.
    fn parse(text: &str) -> Self {
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(start) = rest.find("{{") {
            // "{{{a}}" is a brace and a placeholder
            let start = start + rest[start..].bytes().take_while(|byte| *byte == b'{').count() - 2;
            let Some(length) = rest[start..].find("}}") else { break };
            match Placeholder::parse(&rest[start + 2..start + length]) {
                Some(placeholder) => {
                    literal.push_str(&rest[..start]);
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Placeholder(placeholder));
                    rest = &rest[start + length + 2..];
                }
                None => {
                    literal.push_str(&rest[..start + 2]);
                    rest = &rest[start + 2..];
                }
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        for part in &mut parts {
            if let Part::Literal(text) = part {
                *text = text.replace("\\n", "\n");
            }
        }
        Self(parts)
    }

    fn render(&self, context: &Context) -> String {
        let zone = zone(&self.0);
        let parts = self.0.iter().map(|part| match part {
            Part::Literal(text) => text.clone(),
            Part::Placeholder(placeholder) => plain(&placeholder.value(context, zone)),
        });
        parts.collect()
    }

    /// The value of a lone placeholder with its own type, else text.
    fn value(&self, context: &Context, typed: bool) -> Value {
        match self.0.as_slice() {
            [Part::Placeholder(lone)] if typed => match context.find(&lone.path, None) {
                Some(value) if value.as_str() != Some("") => value,
                _ => lone.fallback.clone().map_or(Value::Null, Value::from),
            },
            _ => Value::from(self.render(context)),
        }
    }

    fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Placeholder(placeholder) => Some(placeholder.path.as_str()),
            Part::Literal(_) => None,
        })
    }
}

/// A payload template: JSON whose texts, member names included, may hold placeholders.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    root: Node,
    typed: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(Text),
    List(Vec<Node>),
    Object(Vec<(Text, Node)>),
    Other(Value),
}

impl Template {
    /// A template from its JSON. With `typed` a text that is one placeholder and nothing else becomes the value itself (a number
    /// stays a number, what is missing is null) instead of its text.
    #[must_use]
    pub fn new(json: &Value, typed: bool) -> Self {
        Self { root: Node::new(json), typed }
    }

    /// The payload of a call.
    #[must_use]
    pub fn render(&self, context: &Context) -> Value {
        self.root.render(context, self.typed)
    }
}

impl Node {
    fn new(json: &Value) -> Self {
        match json {
            Value::String(text) => Self::Text(Text::parse(text)),
            Value::Array(items) => Self::List(items.iter().map(Self::new).collect()),
            Value::Object(members) => {
                Self::Object(members.iter().map(|(name, value)| (Text::parse(name), Self::new(value))).collect())
            }
            other => Self::Other(other.clone()),
        }
    }

    fn render(&self, context: &Context, typed: bool) -> Value {
        match self {
            Self::Text(text) => text.value(context, typed),
            Self::List(items) => items.iter().map(|item| item.render(context, typed)).collect(),
            Self::Object(members) => {
                members.iter().map(|(name, value)| (name.render(context), value.render(context, typed))).collect()
            }
            Self::Other(value) => value.clone(),
        }
    }
}

/// Why a template of an address cannot work, or gives none for a call. Without the values: they may be the caller's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// The scheme is not written out.
    #[error("begins with neither http:// nor https://, written out: a placeholder cannot choose it")]
    Scheme,
    /// A value is missing.
    #[error("{{{{{0}}}}} has no value; give it one with {{{{{0} | …}}}}")]
    Empty(String),
    /// A value is a list or an object.
    #[error("{{{{{0}}}}} is a list or an object, which has no place in an address")]
    Structure(String),
    /// A value would lead out of its place in the path.
    #[error("a value makes a path segment \".\" or \"..\"")]
    Dots,
    /// Too long.
    #[error("it would be longer than {MAX_URL} bytes")]
    Long,
    /// The result is no URL.
    #[error("it is not a URL: {0}")]
    Parse(url::ParseError),
}

/// The template of an address: values are percent-encoded, so that each stays in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlTemplate(Text, String);

impl UrlTemplate {
    /// Whether `text` has placeholders at all.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        Text::parse(text).placeholders().next().is_some()
    }

    /// The template of `text`.
    ///
    /// # Errors
    /// The scheme is not written out.
    pub fn new(text: &str) -> Result<Self, BadUrl> {
        let lower = text.get(..8.min(text.len())).unwrap_or_default().to_ascii_lowercase();
        if !lower.starts_with("http://") && !lower.starts_with("https://") {
            return Err(BadUrl::Scheme);
        }
        Ok(Self(Text::parse(text), text.to_owned()))
    }

    /// As it is written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.1
    }

    /// Whether values choose the host (or credentials, or the port), and not only what is behind it.
    #[must_use]
    pub fn chooses_host(&self) -> bool {
        // the scheme is written out, so a literal comes first
        let [Part::Literal(head), _, ..] = self.0.0.as_slice() else { return false };
        // as URL parsers read it: these are left out wherever they stand, and any number of slashes leads to the host
        let head = head.replace(['\t', '\n', '\r'], "");
        let authority = head.split_once(':').map_or("", |(_, rest)| rest).trim_start_matches(['/', '\\']);
        !authority.contains(['/', '\\', '?', '#'])
    }

    /// The address for a call.
    ///
    /// # Errors
    /// A value is missing, unfit, or makes something else than a URL.
    pub fn render(&self, context: &Context) -> Result<Url, BadUrl> {
        let (mut text, zone) = (String::new(), zone(&self.0.0));
        for part in &self.0.0 {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Placeholder(placeholder) => match placeholder.value(context, zone) {
                    Value::Array(_) | Value::Object(_) => return Err(BadUrl::Structure(placeholder.path.clone())),
                    value => {
                        let value = plain(&value);
                        if value.is_empty() {
                            return Err(BadUrl::Empty(placeholder.path.clone()));
                        }
                        text.extend(utf8_percent_encode(&value, RESERVED));
                    }
                },
            }
            if text.len() > MAX_URL {
                return Err(BadUrl::Long);
            }
        }
        if climbs(&text) {
            return Err(BadUrl::Dots);
        }
        Url::parse(&text).map_err(BadUrl::Parse)
    }
}

/// Whether a segment of the path is one that URL parsers resolve instead of keeping it.
fn climbs(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.split(['/', '\\']).any(|segment| {
        let segment = segment.to_ascii_lowercase().replace("%2e", ".");
        segment == "." || segment == ".."
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "template_tests.rs"]
mod tests;
