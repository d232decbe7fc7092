//! Signatures as [Standard Webhooks](https://www.standardwebhooks.com/) has them, so that a receiver can prove with any of the
//! official libraries that a request is Hark's, and fresh.
//!
//! The key is an endpoint's own, never `WEBHOOK_SECRET`: that one travels in clear with every request.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_core::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue};
use rand::Rng as _;
use ring::hmac;

use super::{Outcome, Report};
use crate::call::EventId;

/// Header: identity of the event, the same at every attempt. Receivers use it to recognise what they have had before.
pub const ID: HeaderName = HeaderName::from_static("webhook-id");
/// Header: when this attempt was signed, in s since 1970. Receivers refuse what is too old.
pub const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// Header: signatures, separated by spaces.
pub const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

const PREFIX: &str = "whsec_";
/// Bytes of a secret that we make.
const FRESH: usize = 32;
/// Bytes that a secret may have (Standard Webhooks, "Signature scheme").
const LENGTH: std::ops::RangeInclusive<usize> = 24..=64;

/// A text that is no signing secret. Its message does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// No prefix.
    #[error("a signing secret begins with whsec_; `openssl rand -base64 32` gives what comes after it")]
    Prefix,
    /// Not base64.
    #[error("what follows whsec_ is not base64 with its padding; `openssl rand -base64 32` gives a good one")]
    Base64,
    /// Too short or too long.
    #[error("the signing secret has {0} bytes; 24 to 64 are allowed, `openssl rand -base64 32` gives a good one")]
    Length(usize),
    /// None, or more than two.
    #[error("{0} signing secrets are given; write one, or two separated by a space while receivers change over")]
    Count(usize),
}

/// A signing secret. Never shown by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A new secret, from the system's randomness.
    #[must_use]
    pub fn fresh() -> Self {
        let mut bytes = vec![0; FRESH];
        rand::rng().fill(bytes.as_mut_slice());
        Self(bytes)
    }

    /// As a receiver is to be told: `whsec_…`. For the store and for whoever asks for it, never for a log.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}", BASE64_STANDARD.encode(&self.0))
    }

    fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        context.update(id.as_bytes());
        context.update(format!(".{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", BASE64_STANDARD.encode(context.sign()))
    }
}

impl FromStr for Secret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Self, BadSecret> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(BadSecret::Prefix)?;
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| BadSecret::Base64)?;
        if LENGTH.contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(BadSecret::Length(bytes.len())) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The active secrets of an endpoint: one, or two while its receivers change over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// What receivers should verify with.
    pub current: Secret,
    /// What some still verify with.
    pub previous: Option<Secret>,
}

impl Keys {
    /// One new secret.
    #[must_use]
    pub fn fresh() -> Self {
        Self { current: Secret::fresh(), previous: None }
    }

    /// A new secret beside the present one, which stays active until the next rotation.
    #[must_use]
    pub fn rotated(&self) -> Self {
        Self { current: Secret::fresh(), previous: Some(self.current.clone()) }
    }

    /// The value of `webhook-signature`: one signature for each active secret.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let mut signatures = self.current.sign(id, timestamp, body);
        if let Some(previous) = &self.previous {
            signatures.push(' ');
            signatures.push_str(&previous.sign(id, timestamp, body));
        }
        signatures
    }

    /// The three headers of a request sent at `now`.
    #[must_use]
    pub fn headers(&self, id: &str, now: SystemTime, body: &[u8]) -> HeaderMap {
        let timestamp = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (ID, HeaderValue::try_from(id)),
            (TIMESTAMP, HeaderValue::try_from(timestamp.to_string())),
            (SIGNATURE, HeaderValue::try_from(self.sign(id, timestamp, body))),
        ] {
            // base64, digits and our own identities are always header values
            if let Ok(value) = value {
                headers.insert(name, value);
            }
        }
        headers
    }

    /// As settings and the store write them: one secret, or the current and the previous one separated by a space.
    #[must_use]
    pub fn expose(&self) -> String {
        match &self.previous {
            Some(previous) => format!("{} {}", self.current.expose(), previous.expose()),
            None => self.current.expose(),
        }
    }
}

impl FromStr for Keys {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<Self, BadSecret> {
        let secrets = text.split_whitespace().map(str::parse).collect::<Result<Vec<Secret>, _>>()?;
        match <[Secret; 2]>::try_from(secrets) {
            Ok([current, previous]) => Ok(Self { current, previous: Some(previous) }),
            Err(mut others) if others.len() == 1 => Ok(Self { current: others.remove(0), previous: None }),
            Err(others) => Err(BadSecret::Count(others.len())),
        }
    }
}

/// The keys of an endpoint as its deliveries read them, shared with whoever changes them: a rotation needs no restart.
#[derive(Debug, Clone, Default)]
pub struct Keyring(Arc<RwLock<Option<Arc<Keys>>>>);

impl Keyring {
    /// Signs with `keys`.
    #[must_use]
    pub fn new(keys: Keys) -> Self {
        let ring = Self::default();
        ring.set(keys);
        ring
    }

    /// Signs with `keys` from the next request on.
    pub fn set(&self, keys: Keys) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
    }

    /// The present keys; `None`: requests go out unsigned.
    #[must_use]
    pub fn keys(&self) -> Option<Arc<Keys>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is kept of an endpoint beside its deliveries: the signing secrets that nobody configured, as [`Keys::expose`] writes them, and
/// whether it is disabled. Errors are words for a log line.
pub trait EndpointStore: Send + Sync + 'static {
    /// The stored secrets.
    fn load<'a>(&'a self, endpoint: &'a str) -> BoxFuture<'a, Result<Option<String>, String>>;

    /// Stores `keys` unless there are some already, and returns those that are there then: two gateways that start at once on one
    /// database must not sign with different secrets.
    fn establish<'a>(&'a self, endpoint: &'a str, keys: &'a str) -> BoxFuture<'a, Result<String, String>>;

    /// Why the endpoint is disabled, if it is.
    fn disabled<'a>(&'a self, endpoint: &'a str) -> BoxFuture<'a, Result<Option<String>, String>>;

    /// Disables the endpoint until somebody enables it.
    fn disable<'a>(&'a self, endpoint: &'a str, reason: &'a str) -> BoxFuture<'a, Result<(), String>>;

    /// Records the only attempt at an event that the endpoint that decides about a call was asked with: a dead letter unless it was
    /// delivered.
    fn answered<'a>(
        &'a self,
        event: EventId,
        endpoint: &'a str,
        outcome: Outcome,
        report: Report,
    ) -> BoxFuture<'a, Result<(), String>> {
        let _ = (event, endpoint, outcome, report);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The stored keys of `endpoint`, made and stored at the first start.
///
/// # Errors
/// The store fails, or holds something that is no secret; in words for a log line.
pub async fn stored(store: &dyn EndpointStore, endpoint: &str) -> Result<Keys, String> {
    let text = match store.load(endpoint).await? {
        Some(text) => text,
        None => store.establish(endpoint, &Keys::fresh().expose()).await?,
    };
    text.parse().map_err(|reason: BadSecret| format!("the stored signing secret is damaged: {reason}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;

    const SPEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_vectors_of_the_official_libraries() {
        let keys: Keys = SPEC.parse().unwrap();
        assert_eq!(
            keys.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn two_active_secrets_are_two_signatures() {
        let old: Keys = SPEC.parse().unwrap();
        let both = old.rotated();
        let of = |keys: &Keys| keys.sign("id", 1, b"body");
        let alone = Keys { current: both.current.clone(), previous: None };
        assert_eq!(of(&both), format!("{} {}", of(&alone), of(&old)));
        assert_eq!(both.expose().parse::<Keys>().unwrap(), both);
        assert_eq!(both.rotated().previous, Some(both.current), "only two are active");
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_repeated() {
        let encoded = |n: usize| format!("whsec_{}", BASE64_STANDARD.encode(vec![7; n]));
        for (text, reason) in [
            ("", BadSecret::Count(0)),
            ("hunter2-hunter2-hunter2-hunter2", BadSecret::Prefix),
            ("whsec_hunter2 ", BadSecret::Base64),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", BadSecret::Base64),
            (&encoded(23), BadSecret::Length(23)),
            (&encoded(65), BadSecret::Length(65)),
            (&format!("{SPEC} {SPEC} {SPEC}"), BadSecret::Count(3)),
            (&format!("{SPEC} hunter2"), BadSecret::Prefix),
        ] {
            assert_eq!(text.parse::<Keys>(), Err(reason), "{text}");
            assert!(!reason.to_string().contains("hunter2"));
        }
        assert!(encoded(24).parse::<Keys>().is_ok() && encoded(64).parse::<Keys>().is_ok());
        assert!(!format!("{:?}", SPEC.parse::<Keys>().unwrap()).contains("MfKQ"));
    }

    #[test]
    fn a_secret_of_ours_is_new_each_time_and_long_enough() {
        let (a, b) = (Secret::fresh(), Secret::fresh());
        assert!(a != b && a.0.len() == FRESH);
        assert_eq!(a.expose().parse::<Secret>().unwrap(), a);
    }

    #[test]
    fn a_keyring_changes_for_everybody_who_holds_it() {
        let ring = Keyring::default();
        let sender = ring.clone();
        assert_eq!(sender.keys(), None);
        ring.set(SPEC.parse().unwrap());
        assert_eq!(sender.keys().unwrap().expose(), SPEC);
    }

    #[derive(Default)]
    struct Table(Mutex<Option<String>>);

    impl EndpointStore for Table {
        fn load<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, String>> {
            Box::pin(std::future::ready(Ok(self.0.lock().unwrap().clone())))
        }

        fn establish<'a>(&'a self, _: &'a str, keys: &'a str) -> BoxFuture<'a, Result<String, String>> {
            let kept = self.0.lock().unwrap().get_or_insert_with(|| keys.to_owned()).clone();
            Box::pin(std::future::ready(Ok(kept)))
        }

        fn disabled<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, String>> {
            Box::pin(std::future::ready(Ok(None)))
        }

        fn disable<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<(), String>> {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    #[tokio::test]
    async fn the_first_start_makes_a_secret_and_later_ones_keep_it() {
        let table = Table::default();
        let first = stored(&table, "crm").await.unwrap();
        assert_eq!(stored(&table, "crm").await.unwrap(), first);
        *table.0.lock().unwrap() = Some("gone wrong".to_owned());
        assert!(stored(&table, "crm").await.unwrap_err().contains("damaged"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_secret_that_comes_back_or_an_error(text in "(whsec_)?[A-Za-z0-9+/=]{0,100}|.{0,40}") {
            if let Ok(secret) = text.parse::<Secret>() {
                prop_assert_eq!(secret.expose(), text.trim());
            }
        }

        #[test]
        fn whatever_changes_changes_the_signature(id in "[a-z0-9-]{1,40}", at in 0u64..1 << 40, body in proptest::collection::vec(any::<u8>(), 0..200), flip in any::<prop::sample::Index>()) {
            let keys: Keys = SPEC.parse().unwrap();
            let signature = keys.sign(&id, at, &body);
            prop_assert_eq!(signature.len(), 3 + 44);
            prop_assert_ne!(&signature, &keys.sign(&id, at + 1, &body));
            prop_assert_ne!(&signature, &Keys::fresh().sign(&id, at, &body));
            let mut other = body.clone();
            if other.is_empty() { other.push(0) } else { let at = flip.index(other.len()); other[at] ^= 1 }
            prop_assert_ne!(&signature, &keys.sign(&id, at, &other));
            let headers = keys.headers(&id, UNIX_EPOCH + std::time::Duration::from_secs(at), &body);
            prop_assert_eq!(headers[SIGNATURE].to_str().unwrap(), signature);
            prop_assert_eq!(headers[TIMESTAMP].to_str().unwrap(), at.to_string());
            prop_assert_eq!(headers[ID].to_str().unwrap(), id);
        }
    }
}
