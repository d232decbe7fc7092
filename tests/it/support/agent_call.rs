//! An agent with nobody but the test on the other side.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use hark::{
    agent::{self, Outgoing, tls_config},
    audio::{Frame, Rate},
    call::{Agent, AgentEvent, AgentInput, CallId, Digit, Edge, Sent},
};
use hyper_util::client::proxy::matcher::Matcher;
use tokio::time::timeout;
use uuid::Uuid;

use super::sts_server::LIMIT;

/// The UUID of the call on the wire, as the contract writes it.
pub const UUID: &str = "0198a7f3-40fe-7b3c-9d1e-5c3f2a10beef";

/// A context on loopback, without proxies.
pub fn context(rate: Rate) -> agent::Context {
    let tls = Arc::new(tls_config(None).unwrap());
    let limit = Duration::from_secs(5);
    agent::Context {
        call: CallId::new(),
        uuid: Uuid::parse_str(UUID).unwrap(),
        rate,
        about: Arc::default(),
        tools: Arc::default(),
        orders: None,
        config: Arc::default(),
        rules: Arc::default(),
        outgoing: Outgoing::with_proxies(tls, limit, Matcher::builder().build()).unwrap(),
    }
}

/// Changes the settings of a context.
pub fn set(context: &mut agent::Context, change: impl FnOnce(&mut agent::Config)) {
    change(Arc::make_mut(&mut context.config));
}

/// Samples that tell where they belong: no two stretches of 20 ms are alike.
pub fn speech(samples: usize) -> Vec<i16> {
    (0..samples)
        .map(|n| (n as u32).wrapping_mul(2_654_435_761).to_be_bytes())
        .map(|b| i16::from_be_bytes([b[0], b[1]]))
        .collect()
}

/// An agent, and everything it has reported so far.
pub struct AgentCall<A> {
    pub agent: A,
    pub events: Vec<AgentEvent>,
    pub open: bool,
}

impl<A: Agent> AgentCall<A> {
    pub fn new(agent: A) -> Self {
        Self { agent, events: Vec::new(), open: true }
    }

    /// Awaits `future` while the agent goes on.
    pub async fn during<F: Future>(&mut self, future: F) -> F::Output {
        tokio::pin!(future);
        let run = async {
            loop {
                tokio::select! { biased;
                    output = &mut future => return output,
                    event = self.agent.next(), if self.open => match event {
                        Some(event) => self.events.push(event),
                        None => self.open = false,
                    },
                }
            }
        };
        timeout(LIMIT, run).await.expect("waited in vain while the agent ran")
    }

    /// Waits until `condition` holds for what was reported.
    pub async fn until(&mut self, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                match self.agent.next().await {
                    Some(event) => self.events.push(event),
                    None => panic!("the agent's stream ended early: {:?}", self.others()),
                }
            }
        };
        if timeout(LIMIT, wait).await.is_err() {
            panic!("the agent did not report it; it has {:?}", self.others());
        }
    }

    /// Waits for the end of the stream.
    pub async fn end(&mut self) {
        let wait = async {
            while let Some(event) = self.agent.next().await {
                self.events.push(event);
            }
        };
        timeout(LIMIT, wait).await.expect("the agent's stream did not end");
        self.open = false;
    }

    /// Says `samples`, a frame at a time, without waiting.
    pub fn say(&mut self, rate: Rate, samples: &[i16]) {
        for piece in samples.chunks(rate.frame_samples()) {
            let _: Sent<_> = self.agent.send(AgentInput::Audio(Frame::padded(rate, piece)));
        }
    }

    pub fn press(&mut self, digit: char) -> Sent<AgentInput> {
        self.agent.send(AgentInput::Dtmf(Digit::try_from(digit).unwrap()))
    }

    pub fn finish(&mut self) {
        let _: Sent<_> = self.agent.send(AgentInput::Finish);
    }

    /// All speech, whatever its utterance.
    pub fn audio(&self) -> Vec<i16> {
        self.utterances().into_iter().flat_map(|(_, samples)| samples).collect()
    }

    /// How much speech came.
    pub fn heard(&self) -> usize {
        self.events.iter().map(|event| if let AgentEvent::Audio(_, samples) = event { samples.len() } else { 0 }).sum()
    }

    /// The speech of each utterance.
    pub fn utterances(&self) -> Vec<(u32, Vec<i16>)> {
        let mut all: Vec<(u32, Vec<i16>)> = Vec::new();
        for event in &self.events {
            let AgentEvent::Audio(utterance, samples) = event else { continue };
            match all.last_mut() {
                Some((last, heard)) if *last == utterance.0 => heard.extend(samples),
                _ => all.push((utterance.0, samples.clone())),
            }
        }
        all
    }

    /// Everything but speech, in words.
    pub fn others(&self) -> Vec<String> {
        let word = |event: &AgentEvent| match event {
            AgentEvent::Audio(..) => None,
            AgentEvent::AudioEnd(utterance) => Some(format!("end {}", utterance.0)),
            AgentEvent::Transcript { role, text, is_final: true } => Some(format!("{}: {text}", role.as_str())),
            AgentEvent::Speech(Edge::Interrupted) => Some("interruption".to_owned()),
            AgentEvent::Hangup => Some("hangup".to_owned()),
            AgentEvent::Degraded(fault) => Some(format!("degraded {}", fault.code)),
            AgentEvent::Restored => Some("restored".to_owned()),
            AgentEvent::Failed(fault) => Some(format!("failed {}", fault.code)),
            other => Some(format!("{other:?}")),
        };
        self.events.iter().filter_map(word).collect()
    }

    /// The message of the failure.
    pub fn failure(&self) -> String {
        let failed = |event: &AgentEvent| match event {
            AgentEvent::Failed(fault) => Some(fault.message.clone()),
            _ => None,
        };
        self.events.iter().find_map(failed).unwrap_or_else(|| panic!("it did not fail: {:?}", self.others()))
    }
}
