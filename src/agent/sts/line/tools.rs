//! Tools that the vendor's model has called.

use std::{
    sync::Arc,
    task::{Context as Poller, Poll},
    time::Duration,
};

use tokio::time::Instant;

use super::{Later, Line, Past};
use crate::{
    agent::{llm::ToolCall, tools::Outcome},
    call::AgentEvent,
};

/// Tools at work at once.
const MAX_RUNNING: usize = 16;
/// How often tools may be called before something has to be said.
const MAX_ROUNDS: u32 = 8;
/// What was said before a tool that ends the conversation is waited for no longer.
const HEARD: Duration = Duration::from_secs(30);

/// The tools of a call that are at work.
#[derive(Default)]
pub(super) struct Tools {
    running: Vec<Running>,
    /// Those that end the conversation wait until what was said has been heard, or then.
    last: Vec<ToolCall>,
    last_by: Option<Instant>,
    /// Calls since something was said.
    rounds: u32,
    /// When something is said while the caller waits, and what.
    filler: Option<(Instant, String)>,
    fillers: usize,
}

struct Running {
    call: ToolCall,
    since: Instant,
    work: Later<Outcome>,
}

impl Tools {
    /// None is at work.
    pub(super) const fn is_empty(&self) -> bool {
        self.running.is_empty() && self.last.is_empty()
    }

    /// The agent speaks.
    pub(super) fn spoke(&mut self) {
        self.rounds = 0;
    }

    /// The caller has said something.
    pub(super) fn heard_caller(&mut self) {
        self.rounds = 0;
    }

    pub(super) fn deadline(&self, heard: bool) -> Option<Instant> {
        let last = self.last_by.map(|by| if heard { Instant::now() } else { by });
        let filler = self.filler.as_ref().filter(|_| heard).map(|(at, _)| *at);
        last.into_iter().chain(filler).min()
    }
}

impl Line {
    /// The model wants these called.
    pub(super) fn begin_tools(&mut self, calls: Vec<ToolCall>) {
        self.tools.rounds += 1;
        // it is not its turn
        self.asked = None;
        let too_often = self.tools.rounds > MAX_ROUNDS;
        let mut refused = Vec::new();
        for call in calls {
            if too_often || self.tools.running.len() + self.tools.last.len() >= MAX_RUNNING {
                refused.push(call);
            } else if self.ctx.tools.is_last(&call) {
                self.tools.last.push(call);
                self.tools.last_by.get_or_insert_with(|| Instant::now() + HEARD);
            } else {
                self.begin_tool(call);
            }
        }
        for call in refused {
            let why = "tools were called too often for one answer: answer the caller in words";
            self.returned(call, Outcome::failed(why.to_owned()), Duration::ZERO);
        }
        self.prepare_filler();
    }

    fn begin_tool(&mut self, call: ToolCall) {
        let (ctx, wanted, tools) = (self.ctx.clone(), call.clone(), Arc::clone(&self.ctx.tools));
        let work: Later<_> = Box::pin(async move { tools.call(&ctx, &wanted).await });
        self.tools.running.push(Running { call, since: Instant::now(), work });
    }

    /// What the caller hears while tools take their time.
    fn prepare_filler(&mut self) {
        let config = &self.ctx.config;
        let own = self.tools.running.iter().find_map(|running| self.ctx.tools.filler(&running.call.name));
        let text = match own {
            Some(own) => own.to_owned(),
            None if config.fillers.is_empty() || self.tools.running.is_empty() => return,
            None => {
                self.tools.fillers += 1;
                config.fillers[(self.tools.fillers - 1) % config.fillers.len()].clone()
            }
        };
        self.tools.filler = Some((Instant::now() + Duration::from_millis(config.filler_after_ms), text));
    }

    /// Goes on with the tools at work; ready when one of them is done.
    pub(super) fn poll_tools(&mut self, cx: &mut Poller<'_>) -> Poll<()> {
        for at in 0..self.tools.running.len() {
            if let Poll::Ready(outcome) = self.tools.running[at].work.as_mut().poll(cx) {
                let Running { call, since, .. } = self.tools.running.remove(at);
                self.returned(call, outcome, since.elapsed());
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    pub(super) fn tools_due(&mut self, now: Instant) {
        let heard = self.turns.is_heard();
        if self.tools.last_by.is_some_and(|by| heard || now >= by) {
            self.tools.last_by = None;
            std::mem::take(&mut self.tools.last).into_iter().for_each(|call| self.begin_tool(call));
        }
        if let Some((_, text)) = self.tools.filler.take_if(|(at, _)| heard && now >= *at)
            && !self.tools.running.is_empty()
        {
            for message in self.dialect.say(&text).unwrap_or_default() {
                self.put(message);
            }
        }
    }

    /// The caller has spoken into the last words: what they would have led to is not done.
    pub(super) fn give_up_last(&mut self) {
        self.tools.last_by = None;
        for call in std::mem::take(&mut self.tools.last) {
            let why = "given up, because the caller spoke: hear them first".to_owned();
            self.returned(call, Outcome::failed(why), Duration::ZERO);
        }
    }

    /// The model does not want these any more.
    pub(super) fn drop_tools(&mut self, ids: &[String]) {
        let dropped = |call: &ToolCall| ids.contains(&call.id);
        self.tools.last.retain(|call| !dropped(call));
        let (gone, running) =
            std::mem::take(&mut self.tools.running).into_iter().partition(|running| dropped(&running.call));
        self.tools.running = running;
        self.given_up(gone, "the model does not want it any more");
    }

    pub(super) fn give_up_tools(&mut self, why: &str) {
        let running = std::mem::take(&mut self.tools.running);
        self.given_up(running, why);
    }

    fn given_up(&mut self, tools: Vec<Running>, why: &str) {
        for Running { call, since, .. } in tools {
            let outcome = Outcome::failed(format!("given up: {why}"));
            self.event(AgentEvent::ToolCalled(outcome.report(&call, since.elapsed())));
        }
    }

    /// A tool has answered: the model and the business are told.
    fn returned(&mut self, call: ToolCall, outcome: Outcome, took: Duration) {
        self.event(AgentEvent::ToolCalled(outcome.report(&call, took)));
        let last = self.tools.is_empty();
        if last {
            self.tools.filler = None;
        }
        // when it has ended the conversation there is nothing to add
        let answer = outcome.failed || !self.ctx.tools.is_last(&call);
        for message in self.dialect.result(&call, &outcome, last, answer) {
            self.put(message);
        }
        if last && answer && self.is_ready() {
            self.asked = Some(Instant::now());
        }
        self.remember(Past::Tool(call, outcome.output));
    }
}
