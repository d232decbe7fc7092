//! A cascade between three connectors.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use hark::{
    agent::{
        Config, Context, Outgoing,
        cascade::{Cascade, Services},
        tls_config,
    },
    audio::{Frame, Rate},
    call::{AgentEvent, AgentInput, CallId, Fault, Link as _, Role, Sent, UtteranceId},
};
use uuid::Uuid;

use super::connector::{Connector, soon};

/// The call's UUID on the wire.
pub const UUID: Uuid = Uuid::from_u128(0x1234_5678_9abc_4def_8123_4567_89ab_cdef);

pub struct Bench {
    pub cascade: Cascade,
    pub asr: Connector,
    pub llm: Connector,
    pub tts: Connector,
}

/// Settings with short times.
pub fn config() -> Config {
    Config { debounce_ms: 40, reconnect_ms: 600, ..Config::default() }
}

pub fn context(config: Config, rate: Rate) -> Context {
    let tls = Arc::new(tls_config(None).unwrap());
    let outgoing = Outgoing::new(tls, Duration::from_millis(config.connect_timeout_ms)).unwrap();
    let rules = Arc::new(hark::call::Rules::new(hark::call::Config::default()));
    Context {
        call: CallId::new(),
        uuid: UUID,
        rate,
        about: Arc::default(),
        tools: Arc::default(),
        orders: None,
        config: Arc::new(config),
        rules,
        outgoing,
    }
}

/// A cascade of services that do not exist.
fn idle() -> Cascade {
    let url = url::Url::parse("none:").unwrap();
    let services = Services { asr: url.clone().into(), llm: url.clone().into(), tts: url.into(), greeting: None };
    Cascade::start(context(config(), Rate::R8K), services)
}

impl Bench {
    pub async fn start(config: Config, greeting: Option<&str>) -> Self {
        Self::at(Rate::R8K, config, greeting).await
    }

    pub async fn at(rate: Rate, config: Config, greeting: Option<&str>) -> Self {
        let asr = Connector::start("/speech-to-text-stream").await;
        let llm = Connector::start("/prompt-stream").await;
        let tts = Connector::start("/text-to-speech-stream").await;
        let mut bench = Self { cascade: idle(), asr, llm, tts };
        bench.restart(rate, config, greeting, |_| {});
        bench
    }

    /// Another cascade between the same services, but for what `change` changes.
    pub fn restart(&mut self, rate: Rate, config: Config, greeting: Option<&str>, change: impl FnOnce(&mut Services)) {
        let mut services = Services {
            asr: self.asr.url.clone().into(),
            llm: self.llm.url.clone().into(),
            tts: self.tts.url.clone().into(),
            greeting: greeting.map(str::to_owned),
        };
        change(&mut services);
        self.cascade = Cascade::start(context(config, rate), services);
    }

    pub fn send(&mut self, input: AgentInput) {
        assert!(matches!(self.cascade.send(input), Sent::Whole));
    }

    pub fn audio(&mut self, samples: &[i16]) {
        self.send(AgentInput::Audio(Frame::padded(Rate::R8K, samples)));
    }

    /// The next event of any kind.
    pub async fn event(&mut self) -> Option<AgentEvent> {
        soon("an event", self.cascade.next()).await
    }

    /// The next final transcript, whatever comes before it.
    pub async fn transcript(&mut self) -> (Role, String) {
        loop {
            if let AgentEvent::Transcript { role, text, is_final: true } = self.event().await.expect("a transcript") {
                return (role, text);
            }
        }
    }

    /// Everything up to the end of the next utterance.
    pub async fn utterance(&mut self) -> (UtteranceId, Vec<i16>) {
        let mut samples = Vec::new();
        loop {
            match self.event().await.expect("an utterance") {
                AgentEvent::Audio(_, more) => {
                    assert!(!more.is_empty(), "an empty piece of audio");
                    samples.extend(more);
                }
                AgentEvent::AudioEnd(id) => return (id, samples),
                _ => {}
            }
        }
    }

    /// The next fault, whatever comes before it.
    pub async fn degraded(&mut self) -> Fault {
        loop {
            if let AgentEvent::Degraded(fault) = self.event().await.expect("a fault") {
                return fault;
            }
        }
    }

    /// The final fault, and that nothing comes after it.
    pub async fn failed(&mut self) -> Fault {
        loop {
            if let AgentEvent::Failed(fault) = self.event().await.expect("a failure") {
                return fault;
            }
        }
    }

    /// Events until the agent's turn is over: their texts.
    pub async fn turn_done(&mut self) {
        while !matches!(self.event().await.expect("the end of a turn"), AgentEvent::TurnDone) {}
    }
}

/// `n` samples that can be told apart.
pub fn speech(n: usize, seed: i16) -> (Vec<i16>, Vec<u8>) {
    let samples: Vec<i16> = (0..n).map(|at| (at as i16).wrapping_mul(31).wrapping_add(seed)).collect();
    let bytes = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    (samples, bytes)
}
