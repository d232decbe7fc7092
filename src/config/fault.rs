//! What is wrong with the settings, said so that it can be put right at once; and what must not be said.

use std::fmt;

use url::Url;

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Stable code: `config.file`, `config.unknown_key`, `config.type`, `config.range`, `config.url`, `config.conflict`.
    pub code: &'static str,
    /// The key as it was written: an environment variable, a key and its file, a command-line option.
    pub key: String,
    /// The value as it was written; secrets are `***`.
    pub value: Option<String>,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub advice: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // keys come from the environment and from files: they may hold anything
        write!(f, "{}", self.key.escape_debug())?;
        if let Some(value) = &self.value {
            write!(f, " = {value:?}")?;
        }
        write!(f, ": {}. {} [{}]", self.reason, self.advice, self.code)
    }
}

/// Everything that is wrong with the settings, in the order of the layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes one more.
    pub(super) fn push(
        &mut self,
        code: &'static str,
        (key, value): (impl Into<String>, Option<String>),
        reason: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.0.push(Fault { code, key: key.into(), value, reason: reason.into(), advice: advice.into() });
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => writeln!(f, "The configuration has a fault:")?,
            n => writeln!(f, "The configuration has {n} faults:")?,
        }
        for fault in &self.0 {
            writeln!(f, "  {fault}")?;
        }
        write!(f, "`hark check` tries a configuration without taking calls.")
    }
}

impl std::error::Error for Faults {}

/// `value` of the setting `key` (its dotted name) as it may be shown.
#[must_use]
pub fn redacted(key: &str, value: &str) -> String {
    let key = key.to_ascii_lowercase();
    if value.is_empty() {
        String::new()
    } else if names_a_place(&key, value) {
        value.to_owned()
    } else if names_a_secret(&key) || (key.starts_with("providers.") && key.contains(".headers.")) {
        "***".to_owned()
    } else if key.ends_with("url") {
        redacted_url(value)
    } else {
        value.to_owned()
    }
}

/// `text` without the password and the secret parameters that a URL may hold.
#[must_use]
pub fn redacted_url(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else {
        // nobody knows where in it the password is
        return if text.contains(['@', '?']) { "***".to_owned() } else { text.to_owned() };
    };
    let has_secret = |url: &Url| url.query_pairs().any(|(name, _)| names_a_secret(&name.to_ascii_lowercase()));
    let opaque_user = url.cannot_be_a_base() && url.path().contains('@');
    if opaque_user {
        return format!("{}:***", url.scheme());
    }
    if url.password().is_none() && !has_secret(&url) {
        return text.to_owned();
    }
    if url.password().is_some() && url.set_password(Some("***")).is_err() {
        return "***".to_owned();
    }
    if has_secret(&url) {
        let pairs: Vec<String> = url
            .query()
            .unwrap_or_default()
            .split('&')
            .map(|pair| match url::form_urlencoded::parse(pair.as_bytes()).next() {
                Some((name, _)) if names_a_secret(&name.to_ascii_lowercase()) => format!("{name}=***"),
                _ => pair.to_owned(),
            })
            .collect();
        url.set_query(Some(&pairs.join("&")));
    }
    url.into()
}

/// Whether the setting only says how or from where a receiver's credential is taken, and does say that.
fn names_a_place(key: &str, value: &str) -> bool {
    match key.split(' ').next().unwrap_or_default().rsplit(['.', '_']).next() {
        Some("auth") => ["NONE", "API_KEY", "BEARER_TOKEN", "BASIC_AUTH", "CUSTOM_HEADER"].contains(&value),
        Some("from") => value.starts_with("env:") || value.starts_with("file:"),
        Some("header" | "user") => key.contains("auth_"),
        _ => false,
    }
}

/// Whether something of this (lower-case) name is not for the eyes of whoever reads a log.
fn names_a_secret(name: &str) -> bool {
    [
        "secret",
        "password",
        "passwd",
        "token",
        "api_key",
        "apikey",
        "api-key",
        "auth",
        "signature",
        "cookie",
        "credential",
        "access-key",
    ]
    .iter()
    .any(|word| name.contains(word))
        || name == "key"
        || name.ends_with("_key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_the_rest_is_shown() {
        assert_eq!(redacted("webhooks.secret", "hunter2"), "***");
        assert_eq!(redacted("webhooks.secret", ""), "");
        assert_eq!(redacted("HARK__WEBHOOKS__SECRTE_TOKEN", "hunter2"), "***");
        assert_eq!(redacted("call.ambient_level", "1.5"), "1.5");
        assert_eq!(redacted("agent.sts_url", "ws://host:6030/?a=b"), "ws://host:6030/?a=b");
    }

    #[test]
    fn a_url_keeps_its_host_and_loses_its_password() {
        assert_eq!(redacted_url("wss://me:hunter2@host/x"), "wss://me:***@host/x");
        assert_eq!(redacted_url("wss://host/x?api_key=hunter2&lang=en"), "wss://host/x?api_key=***&lang=en");
        assert_eq!(redacted_url("wss://host/x?key=hunter2"), "wss://host/x?key=***");
        assert!(!redacted_url("wss://host/x?api%5Fkey=hunter2").contains("hunter2"));
        assert!(!redacted_url("http//me:hunter2@host").contains("hunter2"));
        assert!(!redacted_url("vosk:me:hunter2@host").contains("hunter2"));
    }
}
