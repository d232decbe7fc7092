//! Hark's own WebSocket contract.

use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use url::Url;

use super::{MAX_ANSWER, NAME, Piece, Prompt};
use crate::agent::{
    Context,
    health::{Failure, Health},
    requests::{Answer, Names, Requests},
    retry::fault,
};

/// A language model behind a WebSocket.
#[derive(Debug)]
pub struct Service {
    requests: Requests,
    timeout: Duration,
    health: Health,
}

impl Service {
    pub fn new(ctx: Context, url: Url, health: Health) -> Self {
        let start = json!({"type": "start", "uuid": ctx.uuid});
        let names = Names { name: NAME, unreachable: "agent.llm.unreachable" };
        let timeout = Duration::from_millis(ctx.config.llm_timeout_ms);
        Self { requests: Requests::start(ctx, url, start, names, health.clone()), timeout, health }
    }

    pub async fn ask(&self, prompt: &Prompt, out: &mpsc::Sender<Piece>) -> Result<(), Failure> {
        let once = |code, what: String| Err(Failure::Once(fault(code, NAME, what)));
        let mut asked = self.requests.ask(json!({"type": "prompt", "messages": prompt.messages})).await;
        let mut length = 0;
        loop {
            let reply = match tokio::time::timeout(self.timeout, asked.next()).await {
                Ok(Some(Answer::Reply(reply))) => reply,
                Ok(Some(Answer::Audio(_))) => continue,
                Ok(Some(Answer::Refused(what))) => {
                    asked.done();
                    return Err(Failure::Final(fault("agent.llm.refused", NAME, what)));
                }
                Ok(Some(Answer::Broken(what))) => {
                    asked.done();
                    return once("agent.llm.broken", what);
                }
                Ok(None) => return once("agent.llm.broken", "it is gone".to_owned()),
                Err(_) => {
                    return once("agent.llm.timeout", format!("nothing came for {} ms", self.timeout.as_millis()));
                }
            };
            match reply.kind.as_str() {
                "text" => {
                    let text = reply.text.unwrap_or_default();
                    length += text.len();
                    if length > MAX_ANSWER {
                        tracing::warn!(
                            code = "agent.llm.too_long",
                            "{NAME}: the answer is longer than {MAX_ANSWER} bytes; the rest is not spoken"
                        );
                        return Ok(());
                    }
                    if !text.is_empty() && out.send(Piece::Text(text)).await.is_err() {
                        return Ok(());
                    }
                }
                "done" => {
                    asked.done();
                    self.health.fine();
                    return Ok(());
                }
                "error" if reply.fatal == Some(true) => {
                    return Err(Failure::Final(fault("agent.llm.failed", NAME, reply.complaint())));
                }
                "error" => return once("agent.llm.failed", reply.complaint()),
                _ => {}
            }
        }
    }
}
