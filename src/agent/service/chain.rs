//! Services that stand in for one another: the first that works is used.

use std::fmt;

use url::Url;

use super::{Service, Vendor};

/// Services of one kind, the preferred one first. There is at least one.
#[derive(Clone, PartialEq, Eq)]
pub struct Chain {
    first: Box<Service>,
    spares: Vec<Service>,
}

impl Chain {
    /// These; `None` without any.
    #[must_use]
    pub fn new(services: Vec<Service>) -> Option<Self> {
        let mut services = services.into_iter();
        services.next().map(|first| Self { first: Box::new(first), spares: services.collect() })
    }

    /// The preferred one.
    #[must_use]
    pub fn first(&self) -> &Service {
        &self.first
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        std::iter::once(&*self.first).chain(&self.spares)
    }

    /// Whether any of them is told the caller's turns, as a recogniser.
    #[must_use]
    pub fn streams(&self) -> bool {
        self.iter().any(Service::streams)
    }

    /// Whether all of them tell words while they are spoken, as recognisers.
    #[must_use]
    pub fn tells_early(&self) -> bool {
        self.iter().all(Service::tells_early)
    }
}

impl From<Service> for Chain {
    fn from(first: Service) -> Self {
        Self { first: Box::new(first), spares: Vec::new() }
    }
}

impl From<Url> for Chain {
    fn from(url: Url) -> Self {
        Service::Url(url).into()
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.spares.is_empty() {
            true => self.first.fmt(f),
            false => f.debug_list().entries(self.iter()).finish(),
        }
    }
}

/// The services that a setting names, separated by commas. A comma is one only where a service begins behind it: options and paths of
/// URLs may hold others.
pub fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut from = 0;
    for (at, _) in text.match_indices(',') {
        if begins_service(text[at + 1..].trim_start()) {
            parts.push(text[from..at].trim());
            from = at + 1;
        }
    }
    parts.push(text[from..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

fn begins_service(text: &str) -> bool {
    let Some((name, rest)) = text.split_once(':') else { return Vendor::named(text.trim()).is_some() };
    // a scheme that nobody knows is a fault of that service, not a part of the one before it
    let is_scheme = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
    (is_scheme && rest.starts_with("//")) || name == "builtin" || Vendor::named(name).is_some()
}

/// Where a URL leads to, without credentials and parameters.
pub fn place(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    crate::agent::websocket::display(&url)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commas_separate_services_and_nothing_else() {
        for (text, expected) in [
            ("deepgram:nova-3, vosk:ws://127.0.0.1:2700", vec!["deepgram:nova-3", "vosk:ws://127.0.0.1:2700"]),
            ("deepgram:nova-3?keyterm=a,b,http://x/", vec!["deepgram:nova-3?keyterm=a,b", "http://x/"]),
            ("deepgram:nova-3?keyterm=Hello, world: x", vec!["deepgram:nova-3?keyterm=Hello, world: x"]),
            ("http://a/b,c", vec!["http://a/b,c"]),
            ("http://a, festival://b", vec!["http://a", "festival://b"]),
            ("deepgram,vosk", vec!["deepgram", "vosk"]),
            (" ,", vec![","]),
            ("", vec![]),
        ] {
            assert_eq!(split(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_but_separators(parts in prop::collection::vec("(vosk|https?|openai):[/a-z?=,]{2,8}", 1..5)) {
            let joined = parts.join(", ");
            let shown: String = split(&joined).concat();
            prop_assert_eq!(shown.replace([',', ' '], ""), joined.replace([',', ' '], ""));
        }
    }
}
