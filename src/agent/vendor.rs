//! Requests over HTTP to vendors: what may pass by itself is tried again, and errors are told in their words.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use serde_json::Value;
use url::Url;

use super::{
    Context, Named,
    health::{Failure, Health},
    retry::{Streak, beginning, explain, fault},
    websocket::{escaped, seconds},
};
use crate::call::Fault;

/// A vendor that is busy is waited for no longer than this: the caller waits too.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// How much of an error's body is read.
const ERROR_BODY: usize = 16 * 1024;

/// What a kind of service is called outside.
#[derive(Debug)]
pub struct Codes {
    pub name: &'static str,
    pub unauthorized: &'static str,
    pub quota: &'static str,
    pub timeout: &'static str,
    pub unreachable: &'static str,
    pub refused: &'static str,
    pub failed: &'static str,
    pub broken: &'static str,
}

impl Codes {
    /// The code of an HTTP status.
    pub const fn of(&self, status: u16) -> &'static str {
        match status {
            401 | 403 => self.unauthorized,
            402 | 429 => self.quota,
            408 | 504 => self.timeout,
            _ => self.failed,
        }
    }
}

/// What to do about a status.
pub const fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => " (check the key of this provider)",
        402 => " (look at the account of this provider)",
        404 => " (check the model and base_url)",
        _ => "",
    }
}

/// A request that can be sent again.
#[derive(Debug)]
pub struct Post<'a> {
    pub ctx: &'a Context,
    pub named: &'a Named,
    pub codes: &'static Codes,
    pub url: Url,
    pub headers: HeaderMap,
    pub content_type: HeaderValue,
    pub body: Bytes,
    /// Until the response headers.
    pub timeout: Duration,
}

impl Post<'_> {
    /// Posts until there is a successful status, or it is certain that there will be none soon.
    pub async fn send(&self, health: &Health) -> Result<reqwest::Response, Failure> {
        let mut streak = Streak::new(Duration::from_millis(self.ctx.config.reconnect_ms));
        let mut failures = 0;
        loop {
            let request = self.ctx.outgoing.vendors.post(self.url.clone()).headers(self.headers.clone());
            let request = request.header(header::CONTENT_TYPE, self.content_type.clone()).body(self.body.clone());
            let (fault, wait) = match tokio::time::timeout(self.timeout, request.send()).await {
                Err(_) => {
                    let what = format_args!("it did not answer within {} ms", self.timeout.as_millis());
                    return Err(Failure::Once(self.fault(self.codes.timeout, &what)));
                }
                Ok(Ok(response)) if response.status().is_success() => return Ok(response),
                Ok(Ok(response)) => self.refused(response, health).await?,
                Ok(Err(error)) => {
                    let code = if error.is_connect() { self.codes.unreachable } else { self.codes.broken };
                    (self.fault(code, &explain(&error)), None)
                }
            };
            let unreachable = fault.code == self.codes.unreachable;
            failures += u32::from(!unreachable);
            if !streak.is_failing() {
                health.trouble(fault.clone());
            }
            match streak.failed(2) {
                // one that answers is asked once more, one that is not there until the time is over
                Some(pause) if (unreachable || failures < 2) && !health.has_spare() => {
                    tokio::time::sleep(wait.unwrap_or(pause)).await
                }
                _ if unreachable => return Err(Failure::Final(Fault { code: self.codes.refused, ..fault })),
                _ => return Err(Failure::Once(fault)),
            }
        }
    }

    /// What a status means: `Ok` where it may pass, with how long to wait for that.
    async fn refused(
        &self,
        response: reqwest::Response,
        health: &Health,
    ) -> Result<(Fault, Option<Duration>), Failure> {
        let status = response.status().as_u16();
        let after = seconds(response.headers());
        health.answered(status, after);
        let words = words(&beginning(response, ERROR_BODY).await);
        let what = format_args!("it answered with status {status}: \"{words}\"{}", advice(status));
        let fault = self.fault(self.codes.of(status), &what);
        match status {
            401..=404 => Err(Failure::Final(fault)),
            408 | 409 | 425 | 429 | 500..=599 if after.is_none_or(|after| after <= MAX_WAIT) => Ok((fault, after)),
            _ => Err(Failure::Once(fault)),
        }
    }

    /// A fault in whose message no secret stands, whoever wrote it there.
    pub fn fault(&self, code: &'static str, what: &dyn std::fmt::Display) -> Fault {
        let what = self.named.scrub(what.to_string());
        fault(code, self.codes.name, format_args!("{}: {what}", self.named))
    }
}

/// The vendor's words in the body of an error, escaped: `{"error":{"message":…}}` and its kin; else its beginning.
fn words(body: &[u8]) -> String {
    let told = serde_json::from_slice::<Value>(body).ok().and_then(|value| message(&value).map(str::to_owned));
    escaped(&told.unwrap_or_else(|| String::from_utf8_lossy(&body[..body.len().min(512)]).into_owned()))
}

/// What an error says, wherever vendors put it.
pub fn message(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text),
        Value::Array(values) => values.first().and_then(message),
        Value::Object(fields) => {
            ["error", "message", "detail", "err_msg", "msg", "reason", "description", "title", "type"]
                .iter()
                .find_map(|name| fields.get(*name).and_then(message))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendors_own_words_are_found() {
        for (body, expected) in [
            (r#"{"error":{"message":"No \"luck\".","type":"x"}}"#, r#"No \"luck\"."#),
            (r#"{"error":"model not found"}"#, "model not found"),
            (r#"{"object":"error","message":"old vLLM"}"#, "old vLLM"),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            (r#"[{"error":{"code":429,"message":"Quota"}}]"#, "Quota"),
            (r#"{"err_code":"X","err_msg":"Bad key"}"#, "Bad key"),
            (r#"{"detail":[{"msg":"field required"}]}"#, "field required"),
            (r#"{"detail":{"status":"x","message":"voice"}}"#, "voice"),
            ("<html>\u{7}", "<html>\\u{7}"),
            ("", ""),
        ] {
            assert_eq!(words(body.as_bytes()), expected);
        }
    }
}
