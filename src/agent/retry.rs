//! Trying again, briefly: connector services crash as processes and are back after seconds.

use std::{error::Error as _, time::Duration};

use tokio::time::Instant;

use super::{
    Context,
    health::Health,
    websocket::{escaped, seconds},
};
use crate::call::Fault;

/// First pause between two attempts; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How much of an error answer is read for the log, in bytes, and how long that may take.
const ERROR_BODY: usize = 512;
const ERROR_WAIT: Duration = Duration::from_secs(1);

/// A row of failures.
#[derive(Debug)]
pub struct Streak {
    budget: Duration,
    since: Option<Instant>,
    attempts: u32,
}

impl Streak {
    /// No failure yet; a row of them may last for `budget`.
    pub const fn new(budget: Duration) -> Self {
        Self { budget, since: None, attempts: 0 }
    }

    /// It works.
    pub const fn worked(&mut self) {
        self.since = None;
        self.attempts = 0;
    }

    /// It failed: how long to wait before the next attempt; `None` when the budget is spent, after at least `least` attempts.
    pub fn failed(&mut self, least: u32) -> Option<Duration> {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        self.attempts += 1;
        if self.attempts >= least && now.duration_since(since) >= self.budget {
            return None;
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.attempts.saturating_sub(1).min(8));
        Some(doubled.min(LONGEST_PAUSE))
    }

    /// Whether the last attempt failed.
    pub const fn is_failing(&self) -> bool {
        self.attempts > 0
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Connects were refused for as long as a restart may take.
    #[error("{0}")]
    Refused(String),
    /// It took too long.
    #[error("it did not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// It answered with a status that is no success.
    #[error("it answered with status {0}: \"{1}\"")]
    Status(u16, String),
    /// The connection broke, or something else.
    #[error("{0}")]
    Broken(String),
}

/// What of a JSON request is its service's.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The context of the call.
    pub ctx: &'a Context,
    /// Where to.
    pub url: &'a url::Url,
    /// Limit until the response headers.
    pub timeout: Duration,
    /// Who is told of refusals.
    pub health: &'a Health,
}

impl Request<'_> {
    /// Posts `body` and waits for a successful status. A refused connect is tried again for the reconnect time, a connection
    /// that breaks before the answer once; `trouble` is told of the first failure.
    pub async fn post(&self, body: String, mut trouble: impl FnMut(String)) -> Result<reqwest::Response, Unanswered> {
        let mut streak = Streak::new(Duration::from_millis(self.ctx.config.reconnect_ms));
        let mut broken = 0;
        loop {
            let error = match self.attempt(body.clone()).await? {
                Ok(response) => return self.checked(response).await,
                Err(error) => error,
            };
            let text = explain(&error);
            if !streak.is_failing() {
                trouble(text.clone());
            }
            if !error.is_connect() {
                broken += 1;
                if broken > 1 {
                    return Err(Unanswered::Broken(text));
                }
            }
            match streak.failed(2).filter(|_| !self.health.has_spare()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None if error.is_connect() => return Err(Unanswered::Refused(text)),
                None => return Err(Unanswered::Broken(text)),
            }
        }
    }

    async fn attempt(&self, body: String) -> Result<Result<reqwest::Response, reqwest::Error>, Unanswered> {
        let request = self
            .ctx
            .outgoing
            .http
            .post(self.url.clone())
            .header("X-UUID", self.ctx.uuid.to_string())
            .header("Content-Type", "application/json")
            .body(body);
        tokio::time::timeout(self.timeout, request.send()).await.map_err(|_| Unanswered::Timeout(self.timeout))
    }

    async fn checked(&self, response: reqwest::Response) -> Result<reqwest::Response, Unanswered> {
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        self.health.answered(status, seconds(response.headers()));
        Err(Unanswered::Status(status, error_body(response).await))
    }
}

/// The beginning of an error answer, escaped.
pub async fn error_body(response: reqwest::Response) -> String {
    escaped(&String::from_utf8_lossy(&beginning(response, ERROR_BODY).await))
}

/// The first `limit` bytes of an error answer, as far as they come soon.
pub async fn beginning(response: reqwest::Response, limit: usize) -> Vec<u8> {
    beginning_of(response, limit, ERROR_WAIT).await
}

/// The first `limit` bytes of an answer, as far as they come in `time`.
pub async fn beginning_of(mut response: reqwest::Response, limit: usize, time: Duration) -> Vec<u8> {
    let mut body = Vec::new();
    let read = async {
        while body.len() < limit {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(limit - body.len())]),
                _ => break,
            }
        }
    };
    // what has come until then will do
    let _ = tokio::time::timeout(time, read).await;
    body
}

/// The error with its causes, without the URL (it may hold a token).
pub fn explain(error: &reqwest::Error) -> String {
    let mut text = if error.is_connect() { "cannot connect" } else { "the connection broke" }.to_owned();
    let mut last = text.clone();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // hyper's wrappers repeat the cause's words
        if !last.contains(&words) {
            text = format!("{text}: {words}");
        }
        last = words;
        cause = error.source();
    }
    escaped(&text)
}

/// A fault of `code` whose message says which service it is.
pub fn fault(code: &'static str, service: &str, what: impl std::fmt::Display) -> Fault {
    Fault { code, message: format!("{service}: {what}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_row_of_failures_ends_with_its_budget() {
        let mut streak = Streak::new(Duration::from_secs(3));
        let start = Instant::now();
        let mut attempts = 1;
        while let Some(pause) = streak.failed(2) {
            tokio::time::sleep(pause).await;
            attempts += 1;
        }
        assert!(start.elapsed() >= Duration::from_secs(3) && start.elapsed() < Duration::from_millis(3_600));
        assert!(attempts >= 7, "{attempts}");
        streak.worked();
        assert_eq!(streak.failed(2), Some(FIRST_PAUSE));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_budget_there_is_one_more_attempt() {
        let mut streak = Streak::new(Duration::ZERO);
        assert!(streak.failed(2).is_some());
        assert!(streak.failed(2).is_none());
    }
}
