//! The layers of settings, laid over one another.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::{
    Setting, fault,
    fault::Faults,
    layer::{DIALS, ENDPOINTS, Layer, PBXS, PROFILES, PROVIDERS, Schema, plain},
};

/// The layers, laid over one another.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// By dotted name.
    pub(super) values: BTreeMap<String, config::Value>,
    /// Name as written → value as written, fit to be shown.
    pub(super) shown: BTreeMap<String, String>,
}

impl Merged {
    pub(super) fn new(layers: &[Layer], faults: &mut Faults) -> Self {
        let builder = layers.iter().fold(config::Config::builder(), |builder, layer| builder.add_source(layer.clone()));
        let collected = builder.build().and_then(|built| config::Source::collect(&built));
        let mut merged = Self::default();
        match collected {
            Ok(root) => merged.flatten("", root),
            Err(error) => faults.push("config.file", ("settings", None), error.to_string(), "Correct them."),
        }
        for layer in layers {
            merged.shown.extend(layer.shown.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        merged
    }

    fn flatten(&mut self, prefix: &str, table: config::Map<String, config::Value>) {
        for (key, value) in table {
            let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            match value.kind {
                config::ValueKind::Table(inner) => self.flatten(&name, inner),
                _ => drop(self.values.insert(name, value)),
            }
        }
    }

    /// The section `name`. Its keys are tried one by one, so that each that does not fit is reported; those take their default.
    pub(super) fn section<T: DeserializeOwned + Default>(&mut self, name: &str, faults: &mut Faults) -> T {
        let prefix = format!("{name}.");
        let keys: Vec<String> = self.values.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
        for key in keys {
            if let Err(error) = self.deserialize::<T>(&prefix, |candidate| candidate == key) {
                let reason = match error {
                    config::ConfigError::Type { expected, .. } => format!("does not fit: expected {expected}"),
                    other => bare(other),
                };
                faults.push("config.type", self.written(&key), reason, advice_on_type(&key));
                self.values.remove(&key);
            }
        }
        self.deserialize(&prefix, |_| true).unwrap_or_default()
    }

    pub(super) fn deserialize<T: DeserializeOwned>(
        &self,
        prefix: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<T, config::ConfigError> {
        let values = self.values.iter().filter(|(key, _)| key.starts_with(prefix) && wanted(key));
        let mut builder = config::Config::builder();
        for (key, value) in values {
            builder = builder.set_override(&key[prefix.len()..], value.clone())?;
        }
        builder.build()?.try_deserialize()
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.values.get(key).and_then(|value| value.clone().into_string().ok())
    }

    /// How `key` and its value were written, for a fault.
    pub(super) fn written(&self, key: &str) -> (String, Option<String>) {
        match self.values.get(key).and_then(config::Value::origin) {
            Some(name) => (name.to_owned(), self.shown.get(name).cloned()),
            None => (format!("{key} (default)"), self.values.get(key).map(|value| plain(&value.kind))),
        }
    }

    pub(super) fn settings(&self, schema: &Schema) -> Vec<Setting> {
        let is_named =
            |key: &&str| [ENDPOINTS, PBXS, DIALS, PROFILES, PROVIDERS].iter().any(|section| key.starts_with(section));
        let named = self.values.keys().map(String::as_str).filter(is_named);
        schema
            .keys()
            .chain(named)
            .map(|key| {
                let value = self.values.get(key);
                Setting {
                    key: key.to_owned(),
                    value: value.map_or_else(|| "\"\"".to_owned(), |value| shown(key, &value.kind)),
                    origin: value.and_then(config::Value::origin).map(str::to_owned),
                }
            })
            .collect()
    }
}

/// The innermost words of an error: the key and its origin are said by the fault.
fn bare(error: config::ConfigError) -> String {
    match error {
        config::ConfigError::At { error, .. } => bare(*error),
        config::ConfigError::Type { expected, .. } => format!("does not fit: expected {expected}"),
        other => other.to_string(),
    }
}

fn advice_on_type(key: &str) -> &'static str {
    match key.rsplit('.').next() {
        Some("listen") => "Write an address and a port, e.g. 127.0.0.1:5001 or [::1]:5001.",
        Some("allow") => "Write networks, e.g. 10.0.0.0/8 or 192.168.1.20/32.",
        Some("g711") => "Write auto, ulaw or alaw.",
        Some("allow_hosts") => {
            "Write hosts, e.g. sts.example.org, *.example.org or 10.0.0.0/8, without scheme and port."
        }
        Some("auth") => "Write NONE, API_KEY, BEARER_TOKEN, BASIC_AUTH or CUSTOM_HEADER.",
        Some("format") => "Write human, json or auto.",
        _ => "See the README for what it may be.",
    }
}

/// The value of `key` as `hark.toml` would have it, without secrets.
fn shown(key: &str, value: &config::ValueKind) -> String {
    match value {
        config::ValueKind::String(text) => format!("{:?}", fault::redacted(key, text)),
        config::ValueKind::Array(items) => {
            format!("[{}]", items.iter().map(|item| shown(key, &item.kind)).collect::<Vec<_>>().join(", "))
        }
        config::ValueKind::Float(number) => format!("{number:?}"),
        other => plain(other),
    }
}
