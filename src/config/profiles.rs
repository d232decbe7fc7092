//! Profiles: other settings for some calls, and which calls those are.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{Faults, Merged, layer::PROFILES, validate};
use crate::{
    agent, audio,
    call::{self, pattern::matches},
};

/// Sections that a profile may hold keys of.
pub(super) const SECTIONS: [&str; 5] = ["agent.", "call.", "audio.", "recording.enabled", "embedded.script"];

/// The settings of some calls: those of all, but for what the profile says.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    /// The AI services.
    pub agent: agent::Config,
    /// The conversation.
    pub call: call::Config,
    /// The caller's audio.
    pub audio: audio::Config,
    /// Whether they are recorded.
    pub recording: bool,
    /// The script of the embedded agent.
    pub script: Option<String>,
}

/// How a call came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Listener {
    /// `AudioSocket()`, `Dial(AudioSocket/…)`.
    AudioSocket,
    /// `Dial(WebSocket/…)`.
    WebSocket,
    /// `Stasis()`.
    Ari,
    /// `POST /api/calls`.
    Outbound,
}

/// One of `[[routes]]`: calls for which all of this holds have this profile. What is not said holds for every call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The profile.
    pub profile: String,
    /// The language of such calls, in place of the profile's.
    #[serde(default)]
    pub language: Option<String>,
    /// How the call came.
    pub listener: Option<Listener>,
    /// The PBX that it came from, by ARI.
    #[serde(default)]
    pub pbx: Option<String>,
    /// The number called: patterns, of which one has to match.
    #[serde(default)]
    pub to: Vec<String>,
    /// The caller's number: likewise.
    #[serde(default)]
    pub from: Vec<String>,
    /// SIP headers (`ari.headers`), each with a pattern.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Metadata (the payload of `POST /call`, arguments of `Stasis()`, parameters of a dial string), each with a pattern.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

impl Rule {
    /// Whether it is about a call that came by `listener` and of which this is known.
    #[must_use]
    pub fn holds(&self, listener: Listener, about: &Map<String, Value>) -> bool {
        let text = |value: Option<&Value>| match value {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        };
        let one_of = |patterns: &[String], name: &str| {
            let value = text(about.get(name));
            patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, &value))
        };
        let all = |wanted: &BTreeMap<String, String>, known: Option<&Map<String, Value>>| {
            wanted.iter().all(|(name, pattern)| {
                let found = known.and_then(|known| known.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)));
                found.is_some_and(|(_, value)| matches(pattern, &text(Some(value))))
            })
        };
        self.listener.is_none_or(|wanted| wanted == listener)
            && self.pbx.as_ref().is_none_or(|pbx| *pbx == text(about.get("pbx")))
            && one_of(&self.to, "to")
            && one_of(&self.from, "from")
            && all(&self.headers, about.get("headers").and_then(Value::as_object))
            && all(&self.metadata, Some(about))
    }
}

/// The profiles there are, each laid over `merged`, and checked like the settings of all calls. `config`: those.
pub(super) fn read(config: &super::Config, merged: &Merged, faults: &mut Faults) -> BTreeMap<String, Profile> {
    let names =
        merged.values.keys().filter_map(|key| key.strip_prefix(PROFILES)?.split_once('.').map(|(name, _)| name));
    let names: std::collections::BTreeSet<String> = names.map(str::to_owned).collect();
    names.into_iter().map(|name| (name.clone(), profile(&name, config, merged, faults))).collect()
}

fn profile(name: &str, config: &super::Config, merged: &Merged, faults: &mut Faults) -> Profile {
    let prefix = format!("{PROFILES}{name}.");
    let own: Vec<_> =
        merged.values.iter().filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?, value))).collect();
    let mut values = merged.values.clone();
    let sets = |names: &[&str]| own.iter().any(|(key, _)| names.contains(key));
    // one kind of agent takes the place of the other
    if sets(&["agent.asr_url", "agent.llm_url", "agent.tts_url"]) && !sets(&["agent.sts_url"]) {
        values.remove("agent.sts_url");
    }
    if sets(&["agent.sts_url"]) {
        for service in ["agent.asr_url", "agent.llm_url", "agent.tts_url"] {
            values.remove(service);
        }
    }
    values.extend(own.iter().map(|(key, value)| ((*key).to_owned(), (*value).clone())));
    let mut laid = Merged { values, shown: merged.shown.clone() };
    let mut found = Faults::default();
    let whole = super::Config {
        agent: agent::Config { providers: Arc::clone(&config.agent.providers), ..laid.section("agent", &mut found) },
        call: laid.section("call", &mut found),
        audio: laid.section("audio", &mut found),
        recording: laid.section("recording", &mut found),
        embedded: laid.section("embedded", &mut found),
        ..config.clone()
    };
    let whole = validate::validate(whole, &laid, &mut found);
    // what is wrong with the settings of all calls has been said
    faults.0.extend(found.0.into_iter().filter(|fault| fault.key.contains(&prefix)));
    Profile {
        agent: whole.agent,
        call: whole.call,
        audio: whole.audio,
        recording: whole.recording.enabled,
        script: whole.embedded.script,
    }
}

/// Adds what is wrong with the rules.
pub(super) fn check(rules: &[(Rule, String)], profiles: &BTreeMap<String, Profile>, faults: &mut Faults) {
    for (rule, place) in rules.iter().filter(|(rule, _)| !profiles.contains_key(&rule.profile)) {
        let reason = format!("there is no profile {:?}", rule.profile);
        let advice = match profiles.is_empty() {
            true => format!("Write its settings into [profiles.{}], e.g. agent.greeting = \"Hello.\".", rule.profile),
            false => format!("There are {}.", profiles.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
        };
        faults.push("config.conflict", (place.clone(), None), reason, advice);
    }
}

/// Whether a profile may set this, the name within the profile.
pub(super) fn may_set(setting: &str) -> bool {
    SECTIONS
        .iter()
        .any(|section| if section.ends_with('.') { setting.starts_with(section) } else { setting == *section })
}

/// Takes `[[routes]]` out of a file.
pub(super) fn rules(table: &mut toml::Table, path: &str, faults: &mut Faults) -> Vec<(Rule, String)> {
    let advice =
        "A route has profile, and of language, listener, pbx, to, from, headers and metadata those that matter.";
    list(table, "routes", path, advice, faults)
}

/// Takes a list of tables out of a file, each with its place.
pub(super) fn list<T: DeserializeOwned>(
    table: &mut toml::Table,
    name: &str,
    path: &str,
    advice: &str,
    faults: &mut Faults,
) -> Vec<(T, String)> {
    let list = match table.remove(name) {
        None => return Vec::new(),
        Some(toml::Value::Array(list)) => list,
        Some(_) => {
            let advice = format!("Write [[{name}]] and its keys below.");
            faults.push("config.type", (format!("{name} (in {path})"), None), "is not a list", &advice);
            return Vec::new();
        }
    };
    let mut all = Vec::new();
    for (index, value) in list.into_iter().enumerate() {
        let place = format!("{name}, number {} (in {path})", index + 1);
        match value.try_into::<T>() {
            Ok(one) => all.push((one, place)),
            Err(error) => {
                let reason = format!("cannot be read: {}", error.message().replace('\n', ", "));
                faults.push("config.type", (place, None), reason, advice);
            }
        }
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_are_asterisks_own_or_simple_ones() {
        for (pattern, text, expected) in [
            ("600", "600", true),
            ("600", "6001", false),
            ("+4930*", "+4930123", true),
            ("*", "", true),
            ("6?0", "610", true),
            ("*00*", "1200345", true),
            ("_6XX", "612", true),
            ("_6XX", "6123", false),
            ("_NXX.", "2001", true),
            ("_NXX.", "200", false),
            ("_NXX!", "200", true),
            ("_Z[25-7]", "16", true),
            ("_Z[25-7]", "14", false),
            ("_[1", "1", false),
            ("_+49.", "+4930", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_rule_holds_when_all_of_it_does() {
        let rule: Rule = toml::from_str(
            "profile = \"sales\"\nlistener = \"ari\"\npbx = \"branch\"\nto = [\"6*\", \"_7XX\"]\nheaders = { X-Customer = \"gold*\" }\nmetadata = { crm = \"7\" }",
        )
        .unwrap();
        let about = json!({"pbx": "branch", "to": "712", "headers": {"x-customer": "gold-1"}, "crm": 7});
        let about = about.as_object().unwrap();
        assert!(rule.holds(Listener::Ari, about) && !rule.holds(Listener::AudioSocket, about));
        for (key, value) in [("pbx", json!("x")), ("to", json!("812")), ("headers", json!({})), ("crm", json!(8))] {
            let mut other = about.clone();
            other.insert(key.to_owned(), value);
            assert!(!rule.holds(Listener::Ari, &other), "{key}");
        }
        assert!(!rule.holds(Listener::Ari, &Map::new()));
        let all: Rule = toml::from_str("profile = \"x\"").unwrap();
        assert!(all.holds(Listener::Outbound, &Map::new()));
    }

    proptest! {
        #[test]
        fn any_pattern_ends(pattern in "_?[*?a-zX.!\\[\\]0-9-]{0,12}", text in "[a-z0-9+]{0,20}") {
            let _ = matches(&pattern, &text);
        }

        #[test]
        fn a_text_is_its_own_pattern(text in "[a-z0-9+]{0,20}") {
            prop_assert!(matches(&text, &text) && matches("*", &text));
        }
    }
}
