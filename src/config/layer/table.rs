//! What a file holds, as keys with dotted names.

use std::path::Path;

use crate::config::Faults;

/// `[[webhooks.endpoints]]`, or `[[webhooks]]` by itself, as sections with the names that they give.
pub(super) fn endpoints_by_name(mut table: toml::Table, path: &Path, faults: &mut Faults) -> toml::Table {
    let mut named = |list: Vec<toml::Value>, key: &str| {
        let mut sections = toml::Table::new();
        for (index, value) in list.into_iter().enumerate() {
            let place = format!("{key}, number {} (in {})", index + 1, path.display());
            let toml::Value::Table(mut section) = value else {
                faults.push(
                    "config.type",
                    (place, None),
                    "is not a section",
                    "Write [[webhooks.endpoints]] and its keys below.",
                );
                continue;
            };
            match section.remove("name") {
                Some(toml::Value::String(name)) if !sections.contains_key(&name) && !name.contains('.') => {
                    sections.insert(name, toml::Value::Table(section));
                }
                name => {
                    let reason = match name {
                        None => "has no name",
                        Some(toml::Value::String(_)) => "has a name that cannot be used, or is used twice",
                        Some(_) => "has a name that is no text",
                    };
                    faults.push(
                        "config.type",
                        (place, None),
                        reason,
                        "Give each a name of its own, e.g. name = \"crm\".",
                    );
                }
            }
        }
        toml::Value::Table(sections)
    };
    match table.remove("webhooks") {
        Some(toml::Value::Array(list)) => {
            let webhooks = toml::Table::from_iter([("endpoints".to_owned(), named(list, "webhooks"))]);
            table.insert("webhooks".to_owned(), toml::Value::Table(webhooks));
        }
        Some(toml::Value::Table(mut webhooks)) => {
            if let Some(toml::Value::Array(list)) = webhooks.get_mut("endpoints") {
                let list = std::mem::take(list);
                webhooks.insert("endpoints".to_owned(), named(list, "webhooks.endpoints"));
            }
            table.insert("webhooks".to_owned(), toml::Value::Table(webhooks));
        }
        Some(other) => drop(table.insert("webhooks".to_owned(), other)),
        None => {}
    }
    table
}

/// The leaves of `table` with their dotted names; an empty section has none, unless it is one that cannot exist.
pub(super) fn flatten(prefix: &str, table: toml::Table, leaves: &mut Vec<(String, toml::Value)>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) if !inner.is_empty() => flatten(&name, inner, leaves),
            other => leaves.push((name, other)),
        }
    }
}
