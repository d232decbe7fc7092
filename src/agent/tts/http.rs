//! The AVR contract over streaming HTTP (section 3).

use std::time::Duration;

use url::Url;

use super::Pcm;
use crate::agent::{
    Context,
    health::{Failure, Health},
    retry::{self, Request, Unanswered, fault},
};

const NAME: &str = "speech synthesis";
/// Rate of the contract.
const RATE: u32 = 8_000;

/// A service behind `POST /text-to-speech-stream`.
#[derive(Debug)]
pub struct Service {
    ctx: Context,
    url: Url,
    health: Health,
}

/// The answer to one sentence.
#[derive(Debug)]
pub struct Speech {
    response: Option<reqwest::Response>,
    pcm: Pcm,
    timeout: Duration,
    health: Health,
}

impl Service {
    pub const fn new(ctx: Context, url: Url, health: Health) -> Self {
        Self { ctx, url, health }
    }

    pub async fn speak(&self, text: &str) -> Result<Speech, Failure> {
        let body = serde_json::json!({ "text": text }).to_string();
        let timeout = Duration::from_millis(self.ctx.config.tts_timeout_ms);
        let request = Request { ctx: &self.ctx, url: &self.url, timeout, health: &self.health };
        let trouble = |what| self.health.trouble(fault("agent.tts.unreachable", NAME, what));
        let response = request.post(body, trouble).await.map_err(|error| match error {
            Unanswered::Refused(_) => Failure::Final(fault("agent.tts.refused", NAME, error)),
            Unanswered::Timeout(_) => Failure::Once(fault("agent.tts.timeout", NAME, error)),
            _ => Failure::Once(fault("agent.tts.failed", NAME, error)),
        })?;
        let pcm = Pcm::new(RATE, self.ctx.rate);
        Ok(Speech::new(response, pcm, timeout, self.health.clone()))
    }
}

impl Speech {
    pub const fn new(response: reqwest::Response, pcm: Pcm, timeout: Duration, health: Health) -> Self {
        Self { response: Some(response), pcm, timeout, health }
    }

    pub async fn next(&mut self) -> Result<Option<Vec<i16>>, Failure> {
        while let Some(response) = &mut self.response {
            let samples = match tokio::time::timeout(self.timeout, response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.pcm.push(&chunk),
                Ok(Ok(None)) => {
                    self.response = None;
                    self.health.fine();
                    self.pcm.finish()
                }
                Ok(Err(error)) => {
                    self.response = None;
                    return Err(Failure::Once(fault("agent.tts.broken", NAME, retry::explain(&error))));
                }
                Err(_) => {
                    self.response = None;
                    let limit = self.timeout.as_millis();
                    let what = format_args!("nothing came for {limit} ms in the middle of a sentence");
                    return Err(Failure::Once(fault("agent.tts.timeout", NAME, what)));
                }
            };
            if !samples.is_empty() {
                return Ok(Some(samples));
            }
        }
        Ok(None)
    }
}
