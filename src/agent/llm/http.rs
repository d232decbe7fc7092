//! The AVR contract over streaming HTTP (section 2).

use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use url::Url;

use super::{
    Message, NAME, Piece, Prompt,
    answer::{Reader, Unusable},
};
use crate::agent::{
    Context,
    health::{Failure, Health},
    retry::{self, Request, Unanswered, fault},
};

/// A language model behind `POST /prompt-stream`.
#[derive(Debug)]
pub struct Service {
    ctx: Context,
    url: Url,
    health: Health,
}

/// Both generations of connectors find what they read.
#[derive(Serialize)]
struct Body<'a> {
    uuid: String,
    message: &'a str,
    messages: Vec<&'a Message>,
}

impl Service {
    pub const fn new(ctx: Context, url: Url, health: Health) -> Self {
        Self { ctx, url, health }
    }

    pub async fn ask(&self, prompt: &Prompt, out: &mpsc::Sender<Piece>) -> Result<(), Failure> {
        // its connector has tools of its own, and knows nothing of ours
        let newest = prompt.messages.iter().rev().find(|message| message.role() == "user").map_or("", Message::text);
        let is_told = |message: &&Message| match message {
            Message::Assistant { text, .. } => !text.is_empty(),
            other => other.role() != "tool",
        };
        let messages = prompt.messages.iter().filter(is_told).collect();
        let body = Body { uuid: self.ctx.uuid.to_string(), message: newest, messages };
        let body =
            serde_json::to_string(&body).map_err(|error| Failure::Once(fault("agent.llm.failed", NAME, error)))?;
        let timeout = Duration::from_millis(self.ctx.config.llm_timeout_ms);
        let request = Request { ctx: &self.ctx, url: &self.url, timeout, health: &self.health };
        let trouble = |what| self.health.trouble(fault("agent.llm.unreachable", NAME, what));
        let mut response = request.post(body, trouble).await.map_err(|error| match error {
            Unanswered::Refused(_) => Failure::Final(fault("agent.llm.refused", NAME, error)),
            Unanswered::Timeout(_) => Failure::Once(fault("agent.llm.timeout", NAME, error)),
            _ => Failure::Once(fault("agent.llm.failed", NAME, error)),
        })?;
        let mut reader = Reader::default();
        loop {
            let chunk = match tokio::time::timeout(timeout, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break,
                Ok(Err(error)) => {
                    return Err(Failure::Once(fault("agent.llm.broken", NAME, retry::explain(&error))));
                }
                Err(_) => {
                    let limit = timeout.as_millis();
                    let what = format_args!("nothing came for {limit} ms in the middle of an answer");
                    return Err(Failure::Once(fault("agent.llm.timeout", NAME, what)));
                }
            };
            let pieces = match reader.push(&chunk) {
                Ok(pieces) => pieces,
                Err(error @ Unusable::TooLong) => {
                    tracing::warn!(code = "agent.llm.too_long", "{NAME}: {error}");
                    return Ok(());
                }
                Err(error) => return Err(Failure::Once(fault("agent.llm.unusable", NAME, error))),
            };
            for piece in pieces {
                if out.send(piece).await.is_err() {
                    return Ok(());
                }
            }
        }
        if reader.is_cut() {
            return Err(Failure::Once(fault("agent.llm.broken", NAME, "the answer broke off inside an object")));
        }
        self.health.fine();
        Ok(())
    }
}
