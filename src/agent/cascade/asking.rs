//! Questions to the language model: it is asked, has tools called, and is asked again with what they answered.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::speaker::{Gate, SLACK, Speaker, opened};
use crate::{
    agent::{
        health::Failure,
        llm::{Message, Piece, Prompt, Reply, ToolCall},
        tools::Outcome,
    },
    call::{AgentEvent, Fault},
};

/// How often a model may have tools called before it has to answer in words.
const MAX_ROUNDS: u32 = 8;
/// Pieces of one answer on their way.
const PIECES: usize = 8;
/// What a model says and a tool waits to be heard is waited for no longer.
const HEARD: Duration = Duration::from_secs(30);

impl Speaker {
    /// Asks until there is an answer in words. `said`: how many [`Piece::End`]s have been spoken.
    pub(super) async fn ask(
        &self,
        messages: Vec<Message>,
        out: &mpsc::Sender<Piece>,
        mut said: watch::Receiver<u32>,
        mut gate: Gate,
    ) -> Result<Option<Fault>, Fault> {
        let system = self.prompt.get().await.map(|text| Message::System(text.to_string()));
        let messages = system.into_iter().chain(messages).collect();
        let mut prompt = Prompt { messages, tools: self.ctx.tools.specs(), ..Prompt::default() };
        for round in 1.. {
            let (text, reply) = self.ask_once(&prompt, out).await;
            let (reply, model) = match reply {
                Ok(answered) => answered,
                Err(Failure::Once(fault)) => return Ok(Some(fault)),
                Err(Failure::Final(fault)) => return Err(fault),
            };
            if let Some(usage) = reply.usage {
                self.meter.answered(model, usage);
            }
            if reply.calls.is_empty() {
                return Ok(None);
            }
            // nothing is done for a turn that may not be one
            opened(&mut gate).await;
            if out.send(Piece::End).await.is_err() {
                return Ok(None);
            }
            let results = self.call_all(&reply.calls, out, (round, &mut said)).await;
            let is_over = |(call, outcome): (&ToolCall, &Outcome)| self.ctx.tools.is_last(call) && !outcome.failed;
            if reply.calls.iter().zip(&results).any(is_over) {
                return Ok(None);
            }
            let answers = reply.calls.iter().zip(results).map(|(call, outcome)| Message::Result {
                id: call.id.clone(),
                name: call.name.clone(),
                output: outcome.output,
                failed: outcome.failed,
            });
            let answers: Vec<Message> = answers.collect();
            prompt.messages.push(Message::Assistant { text, calls: reply.calls });
            prompt.messages.extend(answers);
            if round == MAX_ROUNDS {
                tracing::warn!(
                    code = "agent.llm.tool_loop",
                    "the language model had tools called {MAX_ROUNDS} times for one answer; now it has to answer in words"
                );
                prompt.tools = Arc::default();
            }
            if round > MAX_ROUNDS {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// One question; what it says goes on and is gathered.
    async fn ask_once(&self, prompt: &Prompt, out: &mpsc::Sender<Piece>) -> (String, Result<(Reply, &str), Failure>) {
        if prompt.tools.is_empty() {
            // nobody will want to know what was said
            return (String::new(), self.llm.ask(prompt, out).await);
        }
        let (pieces, mut told) = mpsc::channel(PIECES);
        let asking = async {
            // moved: the channel closes with the answer
            let pieces = pieces;
            self.llm.ask(prompt, &pieces).await
        };
        let passing = async {
            let mut text = String::new();
            while let Some(piece) = told.recv().await {
                match &piece {
                    Piece::Text(more) => text.push_str(more),
                    Piece::Resume(said) => text.clone_from(said),
                    _ => {}
                }
                if out.send(piece).await.is_err() {
                    break;
                }
            }
            text
        };
        let (reply, text) = tokio::join!(asking, passing);
        (text, reply)
    }

    /// All tools of one answer at once, but for those that end the conversation: they come last, and alone.
    async fn call_all(
        &self,
        calls: &[ToolCall],
        out: &mpsc::Sender<Piece>,
        (round, said): (u32, &mut watch::Receiver<u32>),
    ) -> Vec<Outcome> {
        self.account.history().called(calls);
        let (last, first): (Vec<_>, Vec<_>) =
            calls.iter().enumerate().partition(|(_, call)| self.ctx.tools.is_last(call));
        let mut outcomes: Vec<Option<Outcome>> = calls.iter().map(|_| None).collect();
        let working = join_all(first.iter().map(|(_, call)| self.call_one(call)));
        let fillers = self.fill_while(first.iter().map(|(_, call)| *call), out);
        tokio::pin!(working, fillers);
        let done = loop {
            tokio::select! {
                biased;
                done = &mut working => break done,
                () = &mut fillers => {}
            }
        };
        for ((at, _), outcome) in first.iter().zip(done) {
            outcomes[*at] = Some(outcome);
        }
        if !last.is_empty() {
            self.heard(round, said).await;
        }
        for (at, call) in last {
            let outcome = match outcomes.iter().flatten().any(|outcome| outcome.failed) {
                true if calls.len() > 1 => Outcome::failed(
                    "another tool failed, so this was not done: tell the caller, or call it again".to_owned(),
                ),
                _ => self.call_one(call).await,
            };
            self.account.history().returned(&call.id, &outcome);
            outcomes[at] = Some(outcome);
        }
        outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|| Outcome::failed("it was not called".to_owned())))
            .collect()
    }

    async fn call_one(&self, call: &ToolCall) -> Outcome {
        let mut watch = Watch { speaker: self, call, since: Instant::now(), outcome: None };
        let outcome = self.ctx.tools.call(&self.ctx, call).await;
        self.account.history().returned(&call.id, &outcome);
        watch.outcome = Some(outcome.clone());
        outcome
    }

    /// Says something while a slow tool works and the caller hears nothing. Never ends.
    async fn fill_while(&self, calls: impl Iterator<Item = &ToolCall>, out: &mpsc::Sender<Piece>) {
        let config = &self.ctx.config;
        let mut own = calls.filter_map(|call| self.ctx.tools.filler(&call.name)).map(str::to_owned);
        let text = own.next().or_else(|| self.next_filler());
        if let Some(text) = text {
            loop {
                tokio::time::sleep(Duration::from_millis(config.filler_after_ms)).await;
                if self.account.history().waiting().0 == 0 {
                    break;
                }
            }
            // closed: nobody wants to hear it
            let _ = out.send(Piece::Text(text)).await;
            let _ = out.send(Piece::Pause).await;
        }
        std::future::pending().await
    }

    /// Waits until the caller has heard what was said before.
    async fn heard(&self, round: u32, said: &mut watch::Receiver<u32>) {
        let heard = async {
            // closed: nothing more is said
            let _ = said.wait_for(|rounds| *rounds >= round).await;
            loop {
                let (count, duration) = self.account.history().waiting();
                if count == 0 || tokio::time::timeout(duration + SLACK, self.account.played.notified()).await.is_err() {
                    return;
                }
            }
        };
        // a speaker that is stuck must not keep the caller
        let _ = tokio::time::timeout(HEARD, heard).await;
    }
}

/// Tells of a call of a tool, however it ends.
struct Watch<'a> {
    speaker: &'a Speaker,
    call: &'a ToolCall,
    since: Instant,
    outcome: Option<Outcome>,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let took = self.since.elapsed();
        let (name, ms) = (self.call.name.escape_debug().to_string(), took.as_millis());
        let outcome = self.outcome.take();
        match &outcome {
            Some(outcome) if outcome.failed => {
                tracing::warn!(code = "agent.tool.failed", tool = name, ms, "a tool failed")
            }
            Some(_) => tracing::info!(tool = name, ms, "a tool was called"),
            None => tracing::info!(tool = name, ms, "a tool was given up: the caller spoke, or the call is over"),
        }
        let outcome =
            outcome.unwrap_or_else(|| Outcome::failed("given up: the caller spoke, or the call is over".to_owned()));
        tracing::debug!(arguments = %self.call.arguments.escape_debug(), result = %outcome.output.escape_debug(), "of this tool");
        let event = AgentEvent::ToolCalled(outcome.told(self.call, took));
        self.speaker.meter.tell(event);
    }
}
