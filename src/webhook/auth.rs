//! How a request is authorised towards its receiver. Credentials are read when a request is sent, so that a changed one counts at
//! once and none is ever stored with an event.

use std::{path::PathBuf, str::FromStr};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use serde::Deserialize;

/// A credential that is longer is none.
const MAX_CREDENTIAL: u64 = 16 * 1024;

/// Ways to authorise a request, as Dograh calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum AuthKind {
    /// Not at all.
    #[default]
    #[serde(rename = "NONE", alias = "none")]
    None,
    /// The credential in a header, `X-API-Key` unless `auth_header` says otherwise.
    #[serde(rename = "API_KEY", alias = "api_key")]
    ApiKey,
    /// `Authorization: Bearer …`
    #[serde(rename = "BEARER_TOKEN", alias = "bearer_token")]
    BearerToken,
    /// `Authorization: Basic …`
    #[serde(rename = "BASIC_AUTH", alias = "basic_auth")]
    BasicAuth,
    /// The credential in the header `auth_header`.
    #[serde(rename = "CUSTOM_HEADER", alias = "custom_header")]
    CustomHeader,
}

/// Where a credential is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Env(String),
    File(PathBuf),
}

impl FromStr for Source {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(()),
        }
    }
}

impl Source {
    /// The credential, without the line break that files end with; or why there is none, without the credential.
    async fn read(&self) -> Result<String, String> {
        let text = match self {
            Self::Env(name) => std::env::var(name).map_err(|error| format!("variable {name}: {error}"))?,
            Self::File(path) => {
                let fault = |reason: String| format!("file {}: {reason}", path.display());
                let meta = tokio::fs::metadata(path).await.map_err(|error| fault(error.to_string()))?;
                if !meta.is_file() || meta.len() > MAX_CREDENTIAL {
                    return Err(fault(format!("not a file of at most {MAX_CREDENTIAL} bytes")));
                }
                tokio::fs::read_to_string(path).await.map_err(|error| fault(error.to_string()))?
            }
        };
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(format!("{} is empty", self.named())),
            text => Ok(text.to_owned()),
        }
    }

    fn named(&self) -> String {
        match self {
            Self::Env(name) => format!("variable {name}"),
            Self::File(path) => format!("file {}", path.display()),
        }
    }
}

/// How requests of an endpoint are authorised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Auth {
    None,
    Bearer(Source),
    Basic(String, Source),
    Header(HeaderName, Source),
}

impl Auth {
    /// Puts the credential into `headers`, or says why there is none.
    pub(super) async fn apply(&self, headers: &mut HeaderMap) -> Result<(), String> {
        let (name, value, source) = match self {
            Self::None => return Ok(()),
            Self::Bearer(source) => (&AUTHORIZATION, format!("Bearer {}", source.read().await?), source),
            Self::Basic(user, source) => {
                let both = format!("{user}:{}", source.read().await?);
                (&AUTHORIZATION, format!("Basic {}", BASE64_STANDARD.encode(both)), source)
            }
            Self::Header(name, source) => (name, source.read().await?, source),
        };
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| format!("{} holds what no HTTP header can carry", source.named()))?;
        value.set_sensitive(true);
        headers.insert(name, value);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn applied(auth: &Auth) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        auth.apply(&mut headers).await.map(|()| headers)
    }

    #[tokio::test]
    async fn credentials_are_read_anew_for_each_request() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let source: Source = format!("file:{}", file.path().display()).parse().unwrap();
        let auth = Auth::Bearer(source.clone());
        let empty = applied(&auth).await.unwrap_err();
        assert!(empty.contains("is empty"), "{empty}");
        std::fs::write(file.path(), "one\n").unwrap();
        assert_eq!(applied(&auth).await.unwrap()[AUTHORIZATION], "Bearer one");
        std::fs::write(file.path(), "two\r\n").unwrap();
        let headers = applied(&auth).await.unwrap();
        assert_eq!(headers[AUTHORIZATION], "Bearer two");
        assert!(!format!("{headers:?}").contains("two"));
        let basic = applied(&Auth::Basic("me".to_owned(), source.clone())).await.unwrap();
        assert_eq!(basic[AUTHORIZATION], "Basic bWU6dHdv");
        let header = applied(&Auth::Header(HeaderName::from_static("x-api-key"), source.clone())).await.unwrap();
        assert_eq!(header["x-api-key"], "two");
        std::fs::write(file.path(), "hunter2\u{1}").unwrap();
        let bad = applied(&auth).await.unwrap_err();
        assert!(bad.contains("no HTTP header") && !bad.contains("hunter2"), "{bad}");
        std::fs::write(file.path(), vec![b'x'; 20_000]).unwrap();
        assert!(applied(&auth).await.unwrap_err().contains("at most"));
    }

    #[tokio::test]
    async fn what_is_not_there_is_named() {
        let gone = applied(&Auth::Bearer("file:/no/such/file".parse().unwrap())).await.unwrap_err();
        assert!(gone.contains("/no/such/file"), "{gone}");
        let unset = applied(&Auth::Bearer("env:HARK_TEST_NOT_SET".parse().unwrap())).await.unwrap_err();
        assert!(unset.contains("HARK_TEST_NOT_SET"), "{unset}");
        let set = applied(&Auth::Bearer("env:CARGO_MANIFEST_DIR".parse().unwrap())).await.unwrap();
        assert!(set[AUTHORIZATION].to_str().unwrap().starts_with("Bearer /"));
        for text in ["", "hunter2", "env:", "file:", "env:a=b", "vault:x"] {
            assert_eq!(text.parse::<Source>(), Err(()), "{text}");
        }
        assert_eq!(applied(&Auth::None).await.unwrap(), HeaderMap::new());
    }
}
