//! `[mcp.NAME]`: a server of the Model Context Protocol, and what is wrong with how it is declared.

use std::{collections::BTreeMap, collections::HashMap, fmt};

use reqwest::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use url::Url;

use crate::agent::{service::Secret, tools::from_env};

/// As it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct McpConfig {
    /// Streamable HTTP: where it is.
    pub url: Option<String>,
    /// Standard input and output: the program and its arguments.
    pub command: Vec<String>,
    /// Sent with every request. `${NAME}` is the environment's.
    pub headers: BTreeMap<String, Secret>,
    /// What the program's environment holds, beside PATH, HOME and LANG.
    pub env: BTreeMap<String, Secret>,
    /// How long a tool of it may take, in ms.
    pub timeout_ms: Option<u64>,
    /// What is said while the caller waits for one.
    pub say: Option<String>,
}

/// A server that can be connected.
#[derive(Clone)]
pub struct Declared {
    /// Its name.
    pub name: String,
    pub(super) place: Place,
    /// How long a tool of it may take.
    pub timeout_ms: u64,
    /// What is said while the caller waits for one.
    pub say: Option<String>,
}

/// Where a server is.
#[derive(Clone)]
pub(super) enum Place {
    Http { url: Url, headers: HashMap<HeaderName, HeaderValue> },
    Program { command: Vec<String>, env: Vec<(String, String)> },
}

/// Without headers and environment.
impl fmt::Debug for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.place {
            Place::Http { url, .. } => crate::agent::websocket::display(url),
            Place::Program { command, .. } => command.first().cloned().unwrap_or_default(),
        };
        f.debug_struct("Declared").field("name", &self.name).field("place", &place).finish_non_exhaustive()
    }
}

impl Declared {
    /// Checks what is declared; `env` looks up `${NAME}`.
    ///
    /// # Errors
    /// Everything that is wrong with it, in words and without secrets.
    pub fn new(name: &str, config: McpConfig, env: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !(1..=24).contains(&name.len()) || !name.chars().all(plain) || name.contains("__") {
            faults.push("its name is 1 to 24 letters, digits, - and single _".to_owned());
        }
        let mut filled = |what: &str, secrets: &BTreeMap<String, Secret>| {
            let mut all = Vec::new();
            for (name, value) in secrets {
                match from_env(value.expose(), &env) {
                    Ok(value) => all.push((name.clone(), value)),
                    Err(variable) => faults.push(format!("{what}.{name}: the environment has no {variable}")),
                }
            }
            all
        };
        let (sent, own) = (filled("headers", &config.headers), filled("env", &config.env));
        let mut headers = HashMap::new();
        for (name, value) in sent {
            match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value)) {
                (Ok(name), Ok(mut value)) => {
                    value.set_sensitive(true);
                    headers.insert(name, value);
                }
                _ => faults.push(format!("headers.{name} holds characters that no header has")),
            }
        }
        let timeout_ms = config.timeout_ms.unwrap_or(5_000);
        if !(1..=120_000).contains(&timeout_ms) {
            faults.push("timeout_ms is 1 to 120000".to_owned());
        }
        let place = match (&config.url, config.command.is_empty()) {
            (Some(url), true) => match Url::parse(url) {
                Ok(url) if matches!(url.scheme(), "http" | "https") => Some(Place::Http { url, headers }),
                _ => {
                    faults.push("url begins with http:// or https://".to_owned());
                    None
                }
            },
            (None, false) => Some(Place::Program { command: config.command, env: own }),
            _ => {
                faults.push("it has either url or command".to_owned());
                None
            }
        };
        match place {
            Some(place) if faults.is_empty() => Ok(Self { name: name.to_owned(), place, timeout_ms, say: config.say }),
            _ => Err(faults),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn made(name: &str, toml: &str) -> Result<Declared, Vec<String>> {
        Declared::new(name, toml::from_str(toml).unwrap(), |name| (name == "TOKEN").then(|| "hunter2".to_owned()))
    }

    #[test]
    fn a_server_is_a_url_or_a_program() {
        let http = made("crm", "url = \"https://crm/mcp\"\nheaders = { Authorization = \"Bearer ${TOKEN}\" }").unwrap();
        let Place::Http { headers, .. } = &http.place else { panic!() };
        assert_eq!(headers[&HeaderName::from_static("authorization")], "Bearer hunter2");
        assert!(!format!("{http:?}").contains("hunter2"));
        let program =
            made("files", "command = [\"mcp\", \"x\"]\nenv = { KEY = \"${TOKEN}\" }\ntimeout_ms = 7").unwrap();
        assert!(matches!(program.place, Place::Program { .. }) && program.timeout_ms == 7);
    }

    #[test]
    fn faults_are_told_at_once_and_without_secrets() {
        for (name, toml) in
            [("a__b", "url = \"https://x\""), ("a", ""), ("a", "url = \"x\""), ("a b", "command = [\"x\"]")]
        {
            assert_eq!(made(name, toml).unwrap_err().len(), 1, "{name} {toml}");
        }
        let both =
            "url = \"https://x\"\ncommand = [\"x\"]\nheaders = { A = \"${NOPE}\", B = \"hunter\\n2\" }\ntimeout_ms = 0";
        let faults = made("a", both).unwrap_err();
        assert!(faults.len() == 4 && !format!("{faults:?}").contains("hunter"), "{faults:?}");
    }
}
