//! Tools over the contract, for services that ask for them. Whoever does not (connectors of AVR have tools of their own) never hears of any.
//!
//! The service says `tools` and is told which there are; then it may say `tool_call`, and gets a `tool_result`.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use serde_json::json;
use tokio::time::Instant;
use tracing::warn;

use super::{Held, Sts, first};
use crate::{
    agent::{
        self,
        llm::{self, ToolCall},
        socket::Reply,
        tools::Outcome,
        websocket::escaped,
    },
    call::AgentEvent,
};

/// Tools at work, or waiting, at once.
const MAX_RUNNING: usize = 16;
/// How often tools may be called before somebody says something.
const MAX_CALLS: usize = 16;
/// Messages about tools held while the service takes none.
const MAX_TEXTS: usize = 32;
/// What was said before a tool that ends the conversation is waited for no longer.
const HEARD: Duration = Duration::from_secs(30);

/// How much later than it came speech is heard.
const SLACK: Duration = Duration::from_millis(300);

/// The tools of a session.
pub(super) struct Tools {
    ctx: agent::Context,
    running: Vec<Running>,
    /// Those that end the conversation wait until what was said has been heard.
    last: Vec<(ToolCall, Instant)>,
    /// Calls since somebody said something.
    calls: usize,
    /// The service has asked which there are: it is none that has tools of its own and tells of them.
    asked: bool,
}

struct Running {
    call: ToolCall,
    since: Instant,
    work: Pin<Box<dyn Future<Output = Outcome> + Send>>,
}

impl Tools {
    pub(super) const fn new(ctx: agent::Context) -> Self {
        Self { ctx, running: Vec::new(), last: Vec::new(), calls: 0, asked: false }
    }

    /// Somebody has said something.
    pub(super) const fn spoken(&mut self) {
        self.calls = 0;
    }

    /// When those that end the conversation are done. `heard`: when what was said will have been.
    pub(super) fn due(&self, heard: Option<Instant>) -> Option<Instant> {
        let (_, since) = self.last.first()?;
        Some(heard.map_or(*since, |heard| heard + SLACK).min(*since + HEARD))
    }
}

impl Sts {
    /// The service wants to know what it may have called.
    pub(super) fn offer_tools(&mut self) {
        self.tools.asked = true;
        let tools = self.tools.ctx.tools.specs().iter().map(llm::tool).collect::<serde_json::Value>();
        self.tell(json!({"type": "tools", "tools": tools}).to_string());
    }

    /// The service wants this called.
    pub(super) fn call_tool(&mut self, text: &str) {
        if !self.tools.asked {
            if first(&mut self.oddities.unknown) {
                warn!("the STS service wants tools called and has not asked for any (\"tools\"); that is ignored");
            }
            return;
        }
        let parsed = serde_json::from_str::<Reply>(text).map_err(|error| error.to_string());
        let call = match parsed.and_then(|reply| reply.tool_call(self.tools.calls)) {
            Ok((call, _)) => call,
            Err(what) => {
                if first(&mut self.oddities.json) {
                    warn!("the STS service sends a tool_call of no use ({}); it is ignored", escaped(&what));
                }
                return;
            }
        };
        self.recovered();
        self.tools.calls += 1;
        if self.tools.calls > MAX_CALLS || self.tools.running.len() + self.tools.last.len() >= MAX_RUNNING {
            let why = "tools were called too often: say something to the caller first";
            return self.returned(&call, Outcome::failed(why.to_owned()), Duration::ZERO);
        }
        if self.tools.ctx.tools.is_last(&call) {
            self.tools.last.push((call, Instant::now()));
        } else {
            self.begin_tool(call);
        }
    }

    fn begin_tool(&mut self, call: ToolCall) {
        let (ctx, wanted) = (self.tools.ctx.clone(), call.clone());
        let tools = Arc::clone(&ctx.tools);
        let work = Box::pin(async move { tools.call(&ctx, &wanted).await });
        self.tools.running.push(Running { call, since: Instant::now(), work });
    }

    /// Goes on with the tools at work; ready when one of them is done.
    pub(super) fn poll_tools(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for at in 0..self.tools.running.len() {
            if let Poll::Ready(outcome) = self.tools.running[at].work.as_mut().poll(cx) {
                let Running { call, since, .. } = self.tools.running.remove(at);
                self.returned(&call, outcome, since.elapsed());
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// What was said has been heard.
    pub(super) fn tools_due(&mut self) {
        for (call, _) in std::mem::take(&mut self.tools.last) {
            self.begin_tool(call);
        }
    }

    /// The caller has spoken into the last words: what they would have led to is not done.
    pub(super) fn give_up_last(&mut self) {
        for (call, since) in std::mem::take(&mut self.tools.last) {
            let why = "given up, because the caller spoke: hear them first".to_owned();
            self.returned(&call, Outcome::failed(why), since.elapsed());
        }
    }

    /// The call is over.
    pub(super) fn give_up_tools(&mut self) {
        let waiting = std::mem::take(&mut self.tools.last);
        let running = std::mem::take(&mut self.tools.running).into_iter().map(|running| (running.call, running.since));
        for (call, since) in waiting.into_iter().chain(running) {
            let outcome = Outcome::failed("given up: the call is over".to_owned());
            self.events.push_back(AgentEvent::ToolCalled(outcome.report(&call, since.elapsed())));
        }
    }

    /// A tool has answered: the service and the business are told.
    fn returned(&mut self, call: &ToolCall, outcome: Outcome, took: Duration) {
        self.events.push_back(AgentEvent::ToolCalled(outcome.report(call, took)));
        let Outcome { output, failed } = outcome;
        self.tell(json!({"type": "tool_result", "call_id": call.id, "output": output, "failed": failed}).to_string());
    }

    /// Says something about tools, in its place among the audio.
    fn tell(&mut self, text: String) {
        self.rest();
        let texts = self.held.iter().filter(|held| matches!(held, Held::Text(_))).count();
        if texts < MAX_TEXTS && !self.mute {
            self.held.push_back(Held::Text(text.into()));
        } else if first(&mut self.oddities.json) {
            warn!("the STS service reads nothing: what its tools answered is lost");
        }
    }
}
