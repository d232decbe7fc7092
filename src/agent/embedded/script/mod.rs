//! The intent script: what the embedded receptionist says and understands, from TOML.

mod hear;
mod machine;
mod numbers;

use std::{collections::BTreeMap, fmt, io, path::Path};

use serde::{
    Deserialize, Deserializer,
    de::{Unexpected, Visitor},
};

pub use self::{
    hear::normal,
    machine::{Act, Machine, Message, Turn},
};

/// The script that is compiled in.
pub const DEFAULT: &str = include_str!("receptionist.toml");
/// Longest file, in bytes.
const MAX_FILE: u64 = 256 * 1024;
/// Longest sentence, in characters.
const MAX_SENTENCE: usize = 600;
/// Most intents, phrases of each, and places.
const MOST: usize = 500;
/// Which placeholders a sentence may have.
const PLACEHOLDERS: &[(&str, &[&str])] = &[
    ("confirm_transfer", &["name"]),
    ("transferring", &["name"]),
    ("not_connected", &["name"]),
    ("number_noted", &["number"]),
    ("confirm_message", &["name", "number", "message", "for"]),
];

/// What the receptionist says and understands, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    say: BTreeMap<String, String>,
    words: Words,
    fallback: Fallback,
    intents: Vec<Intent>,
    places: Vec<Place>,
}

/// A file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    say: BTreeMap<String, String>,
    words: BTreeMap<String, Vec<String>>,
    fallback: Option<Fallback>,
    intents: Vec<Intent>,
    places: Option<Vec<Place>>,
}

/// Answers to its questions, word by word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Words(BTreeMap<String, Vec<Vec<String>>>);

/// What is done when nothing is understood.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Fallback {
    after: u32,
    then: String,
}

impl Default for Fallback {
    fn default() -> Self {
        Self { after: 2, then: "help".to_owned() }
    }
}

/// Something that callers may want.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Intent {
    name: String,
    phrases: Vec<String>,
    #[serde(rename = "do")]
    deed: Deed,
    #[serde(default)]
    say: Option<String>,
    #[serde(default)]
    to: Option<String>,
    /// Whether it asks afterwards whether there is anything else.
    #[serde(default = "yes")]
    ask: bool,
    /// The phrases, word by word.
    #[serde(skip)]
    wanted: Vec<Vec<String>>,
}

/// What is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Deed {
    Answer,
    Transfer,
    Message,
    Repeat,
    Help,
    Goodbye,
}

/// Somebody to be connected to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    name: String,
    #[serde(deserialize_with = "extension")]
    exten: String,
    #[serde(default)]
    context: Option<String>,
    #[serde(default)]
    say: Option<String>,
    #[serde(default)]
    also: Vec<String>,
    #[serde(default = "yes")]
    confirm: bool,
    /// Its names, word by word.
    #[serde(skip)]
    names: Vec<Vec<String>>,
}

const fn yes() -> bool {
    true
}

/// An extension: a text, though one of digits alone is easily written as a number.
fn extension<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    struct Extension;
    impl Visitor<'_> for Extension {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an extension in quotes, as in \"201\"")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<String, E> {
            let wrong = |_| E::invalid_value(Unexpected::Signed(number), &self);
            u64::try_from(number).map(|number| number.to_string()).map_err(wrong)
        }
    }
    from.deserialize_any(Extension)
}

/// What is wrong with a script.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(io::Error),
    /// Its letters are not encoded as TOML's are.
    #[error("it is not UTF-8 (save it as such in the editor, or: iconv -f latin1 -t utf-8)")]
    Encoding,
    /// It is too long.
    #[error("it is longer than {} kB", MAX_FILE / 1024)]
    Long,
    /// It is no TOML, or has keys that are not known.
    #[error("{0}")]
    Toml(String),
    /// It makes no sense; everything at once.
    #[error("{}", .0.join("; "))]
    Faults(Vec<String>),
}

impl Default for Script {
    fn default() -> Self {
        // a test reads it: it is whole
        Self::parse("").unwrap_or_else(|_| Self {
            say: BTreeMap::new(),
            words: Words::default(),
            fallback: Fallback::default(),
            intents: Vec::new(),
            places: Vec::new(),
        })
    }
}

impl Script {
    /// Reads a file and lays it over the script that is compiled in.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ScriptError> {
        if std::fs::metadata(path).map_err(ScriptError::Read)?.len() > MAX_FILE {
            return Err(ScriptError::Long);
        }
        let read = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => ScriptError::Encoding,
            _ => ScriptError::Read(error),
        });
        Self::parse(&read?)
    }

    /// Lays `text` over the script that is compiled in.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let read = |text| {
            toml::from_str::<File>(text).map_err(|error| ScriptError::Toml(error.to_string().trim_end().to_owned()))
        };
        let (usual, own) = (read(DEFAULT)?, read(text)?);
        let mut faults = Vec::new();
        let mut say = usual.say;
        for (name, sentence) in own.say {
            match say.get_mut(&name) {
                Some(usual) => *usual = sentence,
                None => faults.push(format!("say.{name}: there is no such sentence; there are {}", names(say.keys()))),
            }
        }
        let mut words = usual.words;
        for (name, list) in own.words {
            match words.get_mut(&name) {
                Some(usual) => *usual = list,
                None => faults.push(format!("words.{name}: there is no such list; there are {}", names(words.keys()))),
            }
        }
        // one's own are meant where a phrase of theirs is also one of the usual
        let own_intents = own.intents.len();
        let mut intents = own.intents;
        let replaced: Vec<String> = intents.iter().map(|intent| intent.name.clone()).collect();
        intents.extend(usual.intents.into_iter().filter(|intent| !replaced.contains(&intent.name)));
        let places = own.places.or(usual.places).unwrap_or_default();
        let fallback = own.fallback.or(usual.fallback).unwrap_or_default();
        let words = words.into_iter().map(|(name, list)| (name, list.iter().map(|text| normal(text)).collect()));
        let mut script = Self { say, words: Words(words.collect()), fallback, intents, places };
        script.prepare();
        check_twice(&script.intents[..own_intents], &mut faults);
        script.check(&mut faults);
        if faults.is_empty() { Ok(script) } else { Err(ScriptError::Faults(faults)) }
    }

    fn prepare(&mut self) {
        for intent in &mut self.intents {
            intent.wanted = intent.phrases.iter().map(|phrase| normal(phrase)).collect();
        }
        for place in &mut self.places {
            place.names = [&place.name].into_iter().chain(&place.also).map(|name| normal(name)).collect();
        }
    }

    fn check(&self, faults: &mut Vec<String>) {
        for (name, sentence) in &self.say {
            let known = PLACEHOLDERS.iter().find(|(known, _)| known == name).map_or(&[][..], |(_, known)| *known);
            check_sentence(&format!("say.{name}"), sentence, known, faults);
        }
        if self.intents.len() > MOST || self.places.len() > MOST {
            faults.push(format!("there are more than {MOST} intents or places"));
        }
        for intent in &self.intents {
            self.check_intent(intent, faults);
        }
        for (at, place) in self.places.iter().enumerate() {
            let name = &place.name;
            let text = place.as_text();
            if let Err(fault) = crate::agent::tools::Place::parse(&text) {
                faults.push(format!("places: {name:?}: {fault}"));
            } else if place.exten.starts_with('_') || place.exten.contains(['*', '?']) {
                faults.push(format!("places: {name:?}: exten {:?} is a pattern; write one extension", place.exten));
            }
            if place.names.iter().any(Vec::is_empty) {
                faults.push(format!("places: {name:?}: a name without letters would match anything"));
            }
            if self.places[..at].iter().any(|other| other.name == *name) {
                faults.push(format!("places: {name:?} is there twice"));
                continue;
            }
            for other in &self.places[..at] {
                if let Some(both) = place.names.iter().find(|both| other.names.contains(both)) {
                    let (both, other) = (both.join(" "), &other.name);
                    faults.push(format!("places: {both:?} is a name of both {other:?} and {name:?}: who is meant?"));
                }
            }
        }
        let then = self.fallback.then.as_str();
        if !["help", "message", "goodbye"].contains(&then) && self.place_named(then).is_none() {
            faults.push(format!(
                "fallback.then = {then:?}: write \"help\", \"message\", \"goodbye\" or the name of a place"
            ));
        }
        if !(1..=10).contains(&self.fallback.after) {
            faults.push(format!("fallback.after = {}: write a number from 1 to 10", self.fallback.after));
        }
    }

    fn check_intent(&self, intent: &Intent, faults: &mut Vec<String>) {
        let name = &intent.name;
        if intent.wanted.len() > MOST || intent.wanted.iter().any(Vec::is_empty) {
            faults.push(format!("intents: {name:?}: a phrase without letters would match anything"));
        }
        match (intent.deed, &intent.say, &intent.to) {
            (Deed::Answer, None, _) => faults.push(format!("intents: {name:?}: do = \"answer\" needs `say`")),
            (_, Some(sentence), _) => check_sentence(&format!("intents: {name:?}: say"), sentence, &[], faults),
            _ => {}
        }
        if intent.to.is_some() && intent.deed != Deed::Transfer {
            faults.push(format!("intents: {name:?}: `to` goes with do = \"transfer\" only"));
        }
        // the compiled-in intent to reach an operator stands there until there is one
        if let Some(to) = &intent.to
            && !self.places.is_empty()
            && self.place_named(to).is_none()
            && to != "operator"
        {
            faults.push(format!("intents: {name:?}: to = {to:?} is no place; there are {}", {
                names(self.places.iter().map(|place| &place.name))
            }));
        }
    }

    /// How many intents it has.
    #[must_use]
    pub const fn intents(&self) -> usize {
        self.intents.len()
    }

    /// The opening hours that callers are told, where they are still those of the script that is compiled in, which are nobody's.
    #[must_use]
    pub fn usual_hours(&self) -> Option<&str> {
        let say = |script: &'_ Self| {
            let hours = script.intents.iter().find(|intent| intent.name == "opening_hours");
            hours.and_then(|intent| intent.say.clone())
        };
        let own = self.intents.iter().find(|intent| intent.name == "opening_hours" && !intent.wanted.is_empty())?;
        own.say.as_deref().filter(|own| say(&Self::default()).as_deref() == Some(*own))
    }

    fn place_named(&self, name: &str) -> Option<usize> {
        self.places.iter().position(|place| place.name == name)
    }

    fn sentence(&self, name: &str) -> String {
        self.say.get(name).cloned().unwrap_or_default()
    }

    /// What it says first.
    #[must_use]
    pub fn greeting(&self) -> String {
        self.sentence("greeting")
    }

    /// Where callers may be connected to, as `agent.transfer_to` writes it.
    #[must_use]
    pub fn transfer_to(&self) -> Vec<String> {
        self.places.iter().map(Place::as_text).collect()
    }
}

impl Place {
    fn as_text(&self) -> String {
        match &self.context {
            Some(context) => format!("{}={}@{context}", self.name, self.exten),
            None => format!("{}={}", self.name, self.exten),
        }
    }

    fn spoken(&self) -> &str {
        self.say.as_deref().unwrap_or(&self.name)
    }
}

/// What is there twice in a file of one's own: the second would never be meant.
fn check_twice(own: &[Intent], faults: &mut Vec<String>) {
    for (at, intent) in own.iter().enumerate() {
        let name = &intent.name;
        for other in &own[..at] {
            if other.name == *name {
                faults.push(format!("intents: {name:?} is there twice"));
            } else if let Some(both) = intent.wanted.iter().find(|both| other.wanted.contains(both)) {
                let (both, other) = (both.join(" "), &other.name);
                faults.push(format!("intents: the phrase {both:?} is in both {other:?} and {name:?}: which is meant?"));
            }
        }
    }
}

fn check_sentence(what: &str, sentence: &str, known: &[&str], faults: &mut Vec<String>) {
    if sentence.chars().nth(MAX_SENTENCE).is_some() {
        faults.push(format!("{what} is longer than {MAX_SENTENCE} characters"));
    }
    let mut rest = sentence;
    while let Some((_, after)) = rest.split_once('{') {
        let Some((name, behind)) = after.split_once('}') else {
            faults.push(format!("{what} has a {{ without a }}"));
            return;
        };
        if !known.contains(&name) {
            let may = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            faults.push(format!("{what}: {{{name}}} is not known here; known are: {may}"));
        }
        rest = behind;
    }
}

fn names<'a>(all: impl Iterator<Item = &'a String>) -> String {
    all.map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
