//! Hark's own WebSocket contract.
//!
//! An answer that has tools called stays open between its rounds: what they answered goes back to it, and its words go on.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use url::Url;

use super::{
    MAX_ANSWER, Message, NAME, Piece, Prompt, Reply, Tool, ToolCall,
    openai::{MAX_CALLS, message, tool},
};
use crate::agent::{
    Context,
    health::{Failure, Health},
    requests::{Answer, Asked, Names, Requests},
    retry::fault,
    socket,
};

/// What a model is told that calls a tool where there is none.
const NO_TOOL: &str = "It failed: no tool can be called for this answer, or none any more: answer in words";

/// An answer whose tools are being called. Dropped, the service is told that nobody waits for it any more.
#[derive(Debug, Clone, Default)]
pub struct Open(Arc<Mutex<Option<Asked>>>);

impl Open {
    fn put(&self, asked: Asked) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
    }

    fn take(&self) -> Option<Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A language model behind a WebSocket.
#[derive(Debug)]
pub struct Service {
    requests: Requests,
    /// What it was told of at the beginning.
    offered: Arc<[Tool]>,
    timeout: Duration,
    health: Health,
}

impl Service {
    pub fn new(ctx: Context, url: Url, health: Health) -> Self {
        let mut start = json!({"type": "start", "uuid": ctx.uuid});
        let offered = ctx.tools.specs();
        if !offered.is_empty() {
            start["tools"] = tools(&offered);
        }
        let names = Names { name: NAME, unreachable: "agent.llm.unreachable" };
        let timeout = Duration::from_millis(ctx.config.llm_timeout_ms);
        Self { requests: Requests::start(ctx, url, start, names, health.clone()), offered, timeout, health }
    }

    pub async fn ask(&self, prompt: &Prompt, out: &mpsc::Sender<Piece>) -> Result<Reply, Failure> {
        let mut open = self.go_on(prompt).await;
        loop {
            let goes_on = open.is_some();
            let asked = match open.take() {
                Some(asked) => asked,
                None => self.begin(prompt).await,
            };
            match self.read(asked, prompt, out).await {
                // the service has been restarted while the tools worked: it is told everything once more
                Err(Ended { early: true, .. }) if goes_on => {}
                Err(ended) => return Err(ended.failure),
                Ok(reply) => return Ok(reply),
            }
        }
    }

    /// Asks anew.
    async fn begin(&self, prompt: &Prompt) -> Asked {
        let messages: Value = prompt.messages.iter().map(message).collect();
        let mut asked = json!({"type": "prompt", "messages": messages});
        if prompt.tools[..] != self.offered[..] {
            asked["tools"] = tools(&prompt.tools);
        }
        self.requests.ask(asked).await
    }

    /// Tells the answer that waits for tools what they answered; `None`: none waits, or not here.
    async fn go_on(&self, prompt: &Prompt) -> Option<Asked> {
        let asked = prompt.open.take().filter(|asked| self.requests.has(asked))?;
        let is_result = |message: &&Message| matches!(message, Message::Result { .. });
        let results = prompt.messages.iter().rev().take_while(is_result).count();
        if results == 0 {
            return None;
        }
        for message in &prompt.messages[prompt.messages.len() - results..] {
            if let Message::Result { id, output, failed, .. } = message {
                asked.tell(result(asked.id, id, output, *failed)).await;
            }
        }
        Some(asked)
    }

    /// Reads an answer until it is over or has tools called.
    async fn read(&self, mut asked: Asked, prompt: &Prompt, out: &mpsc::Sender<Piece>) -> Result<Reply, Ended> {
        let once = |code, what: String| Err(Ended::of(Failure::Once(fault(code, NAME, what))));
        let (mut length, mut calls, mut refused, mut come) = (0, Vec::new(), 0, false);
        loop {
            let reply = self.next(&mut asked).await.map_err(|ended| Ended { early: ended.early && !come, ..ended })?;
            come = true;
            match reply.kind.as_str() {
                "text" => {
                    let text = reply.text.unwrap_or_default();
                    length += text.len();
                    if length > MAX_ANSWER {
                        tracing::warn!(
                            code = "agent.llm.too_long",
                            "{NAME}: the answer is longer than {MAX_ANSWER} bytes; the rest is not spoken"
                        );
                        return Ok(Reply::default());
                    }
                    if !text.is_empty() && out.send(Piece::Text(text)).await.is_err() {
                        return Ok(Reply::default());
                    }
                }
                "tool_call" if calls.len() + refused >= MAX_CALLS => {
                    return once("agent.llm.unusable", format!("it calls more than {MAX_CALLS} tools at once"));
                }
                "tool_call" => match reply.tool_call(calls.len()) {
                    Err(what) => return once("agent.llm.unusable", what),
                    Ok((call, _)) if prompt.tools.is_empty() => {
                        refused += 1;
                        asked.tell(result(asked.id, &call.id, NO_TOOL, true)).await;
                    }
                    Ok((call, last)) => {
                        calls.push(call);
                        if last {
                            prompt.open.put(asked);
                            return Ok(self.complete(calls));
                        }
                    }
                },
                "done" => {
                    asked.done();
                    return Ok(self.complete(calls));
                }
                "error" if reply.fatal == Some(true) => {
                    return Err(Ended::of(Failure::Final(fault("agent.llm.failed", NAME, reply.complaint()))));
                }
                "error" => return once("agent.llm.failed", reply.complaint()),
                _ => {}
            }
        }
    }

    fn complete(&self, calls: Vec<ToolCall>) -> Reply {
        self.health.fine();
        Reply { calls, usage: None }
    }

    /// The next message of an answer.
    async fn next(&self, asked: &mut Asked) -> Result<socket::Reply, Ended> {
        let broken =
            |what: String| Ended { failure: Failure::Once(fault("agent.llm.broken", NAME, what)), early: true };
        loop {
            match tokio::time::timeout(self.timeout, asked.next()).await {
                Ok(Some(Answer::Reply(reply))) => return Ok(*reply),
                Ok(Some(Answer::Audio(_))) => {}
                Ok(Some(Answer::Refused(what))) => {
                    asked.done();
                    return Err(Ended::of(Failure::Final(fault("agent.llm.refused", NAME, what))));
                }
                Ok(Some(Answer::Broken(what))) => {
                    asked.done();
                    return Err(broken(what));
                }
                Ok(None) => return Err(broken("it is gone".to_owned())),
                Err(_) => {
                    let what = format!("nothing came for {} ms", self.timeout.as_millis());
                    return Err(Ended::of(Failure::Once(fault("agent.llm.timeout", NAME, what))));
                }
            }
        }
    }
}

/// Why an answer is not whole.
struct Ended {
    failure: Failure,
    /// The connection broke before anything came.
    early: bool,
}

impl Ended {
    const fn of(failure: Failure) -> Self {
        Self { failure, early: false }
    }
}

fn tools(tools: &[Tool]) -> Value {
    tools.iter().map(tool).collect()
}

fn result(id: u64, call: &str, output: &str, failed: bool) -> Value {
    json!({"type": "tool_result", "id": id, "call_id": call, "output": output, "failed": failed})
}
