//! The intent script: what the embedded receptionist says and understands, from TOML.

mod hear;
mod machine;
mod numbers;

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

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
#[serde(deny_unknown_fields)]
struct Fallback {
    after: u32,
    then: String,
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

/// What is wrong with a script.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(std::io::Error),
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
            fallback: Fallback { after: 2, then: "goodbye".to_owned() },
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
        Self::parse(&std::fs::read_to_string(path).map_err(ScriptError::Read)?)
    }

    /// Lays `text` over the script that is compiled in.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let read = |text| toml::from_str::<File>(text).map_err(|error| ScriptError::Toml(error.to_string()));
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
        let mut intents = usual.intents;
        for intent in own.intents {
            match intents.iter_mut().find(|usual| usual.name == intent.name) {
                Some(usual) => *usual = intent,
                None => intents.push(intent),
            }
        }
        let places = own.places.or(usual.places).unwrap_or_default();
        let none = || Fallback { after: 2, then: "help".to_owned() };
        let fallback = own.fallback.or(usual.fallback).unwrap_or_else(none);
        let words = words.into_iter().map(|(name, list)| (name, list.iter().map(|text| normal(text)).collect()));
        let mut script = Self { say, words: Words(words.collect()), fallback, intents, places };
        script.prepare();
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
