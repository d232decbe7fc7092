//! A service in one text: a URL, or a vendor with a model (`deepgram:nova-3?language=en`, `vosk:ws://127.0.0.1:2700`).

mod chain;
mod vendors;

use std::{collections::BTreeMap, fmt};

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use url::Url;

pub use self::{
    chain::{Chain, place, split},
    vendors::{VENDORS, Vendor, choices, known},
};
use super::{stt, websocket};

/// A part of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Speech recognition.
    Stt,
    /// Language model.
    Llm,
    /// Speech synthesis.
    Tts,
    /// All three in one.
    Sts,
}

impl Kind {
    /// In one word.
    #[must_use]
    pub const fn short(self) -> &'static str {
        match self {
            Self::Stt => "stt",
            Self::Llm => "llm",
            Self::Tts => "tts",
            Self::Sts => "sts",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stt => "speech recognition",
            Self::Llm => "a language model",
            Self::Tts => "speech synthesis",
            Self::Sts => "speech to speech",
        })
    }
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one who has to send it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How a vendor is reached: `[providers.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Provider {
    /// Who we are to it.
    pub api_key: Option<Secret>,
    /// Where it is, in place of its usual address.
    pub base_url: Option<String>,
    /// What is said in every request besides.
    pub headers: BTreeMap<String, Secret>,
}

/// How vendors are reached, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Providers(pub BTreeMap<String, Provider>);

/// One service of a call.
#[derive(Clone, PartialEq, Eq)]
pub enum Service {
    /// What a URL says all about: the contracts of AVR and of Hark.
    Url(Url),
    /// A vendor's own protocol.
    Named(Box<Named>),
}

/// A vendor's service, with all that is needed to reach it.
#[derive(Clone, PartialEq, Eq)]
pub struct Named {
    /// Who.
    pub vendor: Vendor,
    /// Which model; empty where there is nothing to choose.
    pub model: String,
    /// How, in the order in which it was written. All names are known ones.
    pub options: Vec<(String, String)>,
    /// Where. Its path has no slash at the end.
    pub base: Url,
    /// Who we are to it.
    pub key: Option<Secret>,
    /// What is said in every request besides; values are marked as sensitive.
    pub headers: HeaderMap,
}

/// What is wrong with a service. Holds neither key nor password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct ServiceError(pub Vec<String>);

impl Service {
    /// Whether it tells words while they are spoken, as a recogniser.
    #[must_use]
    pub fn tells_early(&self) -> bool {
        match self {
            Self::Url(url) => url.scheme().starts_with("ws"),
            // these hear whole utterances
            Self::Named(named) if named.vendor == Vendor::OpenAi => stt::is_realtime(named),
            Self::Named(named) => named.vendor != Vendor::Wyoming,
        }
    }

    /// Whether it is a part of the embedded engine.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        matches!(self, Self::Named(named) if named.vendor == Vendor::Builtin)
    }

    /// Whether the caller's turns are told to it, as a recogniser: when they begin and stop speaking.
    #[must_use]
    pub fn streams(&self) -> bool {
        match self {
            Self::Url(url) => url.scheme().starts_with("ws"),
            Self::Named(_) => true,
        }
    }

    /// Where it is, without credentials.
    #[must_use]
    pub fn address(&self) -> &Url {
        match self {
            Self::Url(url) => url,
            Self::Named(named) => &named.base,
        }
    }
}

impl From<Url> for Service {
    fn from(url: Url) -> Self {
        Self::Url(url)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(&websocket::display(url)),
            Self::Named(named) => write!(f, "{named}"),
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// The vendor and the model, and the address where it is not the usual one.
impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.vendor.name(), self.model)?;
        let usual = VENDORS.iter().filter(|row| row.vendor == self.vendor).flat_map(|row| row.offers);
        let shown = websocket::display(&self.base);
        if usual.filter_map(|offer| offer.base).any(|base| base == shown.trim_end_matches('/')) {
            return Ok(());
        }
        write!(f, " at {shown}")
    }
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// Whether `value` names a vendor rather than a URL: what stands before the colon and after it.
#[must_use]
pub fn vendor_of(value: &str) -> Option<(Vendor, &str)> {
    let (name, rest) = value.split_once(':').unwrap_or((value, ""));
    Some((Vendor::named(name)?, rest))
}

impl Named {
    /// Reads what `value` says behind the vendor's name, and takes the rest from `providers`.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn parse(vendor: Vendor, rest: &str, kind: Kind, providers: &Providers) -> Result<Self, ServiceError> {
        let name = vendor.name();
        let Some(offer) = vendor.offer(kind) else {
            return Err(ServiceError(vec![format!("{name} cannot be {kind} here; known are {}", known(kind))]));
        };
        let mut reasons = Vec::new();
        let provider = providers.0.get(name).cloned().unwrap_or_default();
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let at = place.contains("://").then_some(place);
        let mut model = if at.is_some() { String::new() } else { decoded(place) };
        let mut base = at.map(str::to_owned);
        let mut options = Vec::new();
        for (option, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*option {
                "base_url" => base = Some(value.into_owned()),
                "model" if model.is_empty() => model = value.into_owned(),
                known if offer.takes.contains(&known) || offer.needs.contains(&known) => {
                    if let Some(choices) = choices(known).filter(|choices| !choices.contains(&&*value)) {
                        reasons.push(format!("its option {known} can only be {}", choices.join(" or ")));
                    }
                    options.push((option.into_owned(), value.into_owned()));
                }
                other => reasons.push(unknown_option(vendor, other, offer.needs.iter().chain(offer.takes))),
            }
        }
        if model.is_empty() {
            match offer.model {
                Some(usual) => usual.clone_into(&mut model),
                None => reasons.push(format!("it names no model: write {name}:MODEL")),
            }
        }
        for needed in offer.needs.iter().filter(|needed| !options.iter().any(|(name, _)| name == *needed)) {
            reasons.push(format!("it needs ?{needed}=…"));
        }
        let own = base.is_some() || provider.base_url.is_some();
        let base = match base.as_deref().or(provider.base_url.as_deref()).or(offer.base) {
            Some(base) => base_url(base).map_err(|reason| reasons.push(reason)).ok(),
            None => {
                reasons.push(format!("it is not known where it is: write base_url into [providers.{name}]"));
                None
            }
        };
        if let (Some(variable), None, false) = (vendor.key(), &provider.api_key, own) {
            reasons.push(format!("it needs a key: set {variable}, or api_key in [providers.{name}]"));
        }
        let headers = headers(name, &provider, &mut reasons);
        match base {
            Some(base) if reasons.is_empty() => {
                Ok(Self { vendor, model, options, base, key: provider.api_key, headers })
            }
            _ => Err(ServiceError(reasons)),
        }
    }

    /// Has it speak or understand `language` (as in "de" or "de-CH"), where its text does not say another, and where its vendor is told one.
    pub fn speak_language(&mut self, language: &str, kind: Kind) {
        let (name, region) =
            language.split_once(['-', '_']).map_or((language, None), |(name, region)| (name, Some(region)));
        let is_code = |text: &str| matches!(text.len(), 2 | 3) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let takes = self.vendor.offer(kind).is_some_and(|offer| offer.takes.contains(&"language"));
        if !takes || self.option("language").is_some() || !is_code(name) || !region.is_none_or(is_code) {
            return;
        }
        let name = name.to_ascii_lowercase();
        let told = match (self.vendor, kind) {
            // this model is told by its name
            (Vendor::Deepgram, _) if self.model.starts_with("flux") => return,
            (Vendor::Deepgram, _) => {
                region.map_or(name.clone(), |region| format!("{name}-{}", region.to_ascii_uppercase()))
            }
            // others refuse to be told
            (Vendor::ElevenLabs, Kind::Tts) if !["_v2_5", "_v3"].iter().any(|known| self.model.ends_with(known)) => {
                return;
            }
            (Vendor::Rime, _) => match name.as_str() {
                "de" => "ger".to_owned(),
                "en" => "eng".to_owned(),
                "es" => "spa".to_owned(),
                "fr" => "fra".to_owned(),
                _ => return,
            },
            _ => name,
        };
        self.options.push(("language".to_owned(), told));
    }

    /// The first value of an option.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The address with `path` behind it, for requests.
    #[must_use]
    pub fn http(&self, path: &str) -> Url {
        self.at(path, ["http", "https"])
    }

    /// The address with `path` behind it, for WebSockets.
    #[must_use]
    pub fn websocket(&self, path: &str) -> Url {
        self.at(path, ["ws", "wss"])
    }

    /// What is said in the handshake or request: the key under `name`, behind `scheme`, and the headers that were configured, which win.
    #[must_use]
    pub fn signed(&self, name: HeaderName, scheme: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let value = self.key.as_ref().map(|key| HeaderValue::from_str(&format!("{scheme}{}", key.expose())));
        if let Some(Ok(mut value)) = value {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        headers.extend(self.headers.clone());
        headers
    }

    /// `text` without the key and what else is secret in requests, should a vendor have repeated it.
    #[must_use]
    pub fn scrub(&self, text: String) -> String {
        let key = self.key.as_ref().map(Secret::expose);
        let secrets = self.headers.values().filter_map(|value| value.to_str().ok()).chain(key);
        secrets.filter(|secret| secret.len() >= 4).fold(text, |text, secret| {
            // as escaping may have left it
            text.replace(secret, "***").replace(&websocket::escaped(secret), "***")
        })
    }

    fn at(&self, path: &str, [plain, secure]: [&str; 2]) -> Url {
        let base = self.base.as_str().trim_end_matches('/');
        let (scheme, rest) = base.split_once("://").unwrap_or(("", base));
        let scheme = if matches!(scheme, "https" | "wss") { secure } else { plain };
        // another scheme of the same sort, and a path: it stays a URL
        Url::parse(&format!("{scheme}://{rest}{path}")).unwrap_or_else(|_| self.base.clone())
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn unknown_option<'a>(vendor: Vendor, option: &str, known: impl Iterator<Item = &'a &'static str>) -> String {
    let name = vendor.name();
    let lower = option.to_ascii_lowercase();
    if ["key", "token", "secret", "auth"].iter().any(|word| lower.contains(word)) && !lower.starts_with("keyterm") {
        return match vendor.key() {
            Some(variable) => {
                format!("{option:?} does not belong here: set {variable}, or api_key in [providers.{name}]")
            }
            None => format!("{option:?} does not belong here: write it into [providers.{name}]"),
        };
    }
    let known: Vec<_> = known.copied().chain(["base_url"]).collect();
    format!("it does not know the option {option:?}; known are {}", known.join(", "))
}

/// The address of a vendor.
///
/// # Errors
/// What is wrong with it, in words.
pub fn base_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("its address is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https" | "ws" | "wss" | "tcp") {
        let scheme = url.scheme();
        return Err(format!("its address begins with {scheme}:, but only http:, https:, ws:, wss: and tcp: are known"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("its address names no host".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("its address has parameters; a base_url ends with its path".to_owned());
    }
    Ok(url)
}

fn headers(name: &str, provider: &Provider, reasons: &mut Vec<String>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if provider.api_key.as_ref().is_some_and(|key| HeaderValue::from_str(key.expose()).is_err()) {
        reasons.push("its key holds characters that cannot be sent in a header".to_owned());
    }
    for (header, value) in &provider.headers {
        let parsed = (HeaderName::from_bytes(header.as_bytes()), HeaderValue::from_str(value.expose()));
        match parsed {
            (Ok(header), Ok(mut value)) => {
                value.set_sensitive(true);
                headers.insert(header, value);
            }
            _ => reasons.push(format!("the header {header:?} of [providers.{name}] cannot be sent")),
        }
    }
    headers
}

#[cfg(test)]
mod tests;
