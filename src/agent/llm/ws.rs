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
    openai::{MAX_ARGUMENTS, MAX_CALLS, message, tool},
};
use crate::agent::{
    Context,
    health::{Failure, Health},
    requests::{Answer, Asked, Names, Requests},
    retry::fault,
    socket,
};

/// Longest name of a tool or of a call, in bytes.
const MAX_NAME: usize = 256;
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
                "tool_call" => match call(&reply, calls.len()) {
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
                Ok(Some(Answer::Reply(reply))) => return Ok(reply),
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

/// The tool that is to be called, and whether no other is to be called beside it.
fn call(reply: &socket::Reply, nth: usize) -> Result<(ToolCall, bool), String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    let (id, name) = (text(&reply.call_id), text(&reply.name));
    let id = if id.is_empty() { format!("call_{nth}") } else { id };
    let arguments = match &reply.arguments {
        Value::Null => "{}".to_owned(),
        // as the model wrote them
        Value::String(arguments) => arguments.clone(),
        other => other.to_string(),
    };
    if name.is_empty() {
        return Err("a tool_call of its has no name".to_owned());
    }
    if arguments.len() > MAX_ARGUMENTS || name.len() > MAX_NAME || id.len() > MAX_NAME {
        return Err(format!("a tool call is longer than {MAX_ARGUMENTS} bytes"));
    }
    Ok((ToolCall { id, name, arguments, signature: None }, reply.last != Value::Bool(false)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(message: &Value) -> Result<(ToolCall, bool), String> {
        call(&serde_json::from_value(message.clone()).unwrap(), 3)
    }

    #[test]
    fn calls_of_tools_are_read_as_services_write_them() {
        let (call, last) =
            read(&json!({"type": "tool_call", "call_id": "a", "name": "f", "arguments": {"x": 1}})).unwrap();
        assert_eq!(
            (call.id.as_str(), call.name.as_str(), call.arguments.as_str(), last),
            ("a", "f", "{\"x\":1}", true)
        );
        let (call, last) = read(&json!({"call_id": 7, "name": "f", "arguments": "{\"x\": 1}", "last": false})).unwrap();
        assert_eq!((call.id.as_str(), call.arguments.as_str(), last), ("7", "{\"x\": 1}", false));
        let (call, _) = read(&json!({"name": "f", "last": "x"})).unwrap();
        assert_eq!((call.id.as_str(), call.arguments.as_str()), ("call_3", "{}"));
        for message in [
            json!({"call_id": "a"}),
            json!({"name": {"a": 1}}),
            json!({"name": "x".repeat(257)}),
            json!({"name": "f", "arguments": "x".repeat(70_000)}),
        ] {
            assert!(read(&message).is_err(), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_call_ends_in_one_or_in_words(id in any::<Option<i64>>(), name in "\\PC{0,300}", arguments in "\\PC{0,50}") {
            let message = json!({"type": "tool_call", "call_id": id, "name": name, "arguments": arguments});
            if let Ok((call, last)) = read(&message) {
                prop_assert!(last && !call.id.is_empty() && call.name == name && call.arguments == arguments);
            }
        }
    }
}
