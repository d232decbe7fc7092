//! Conversations under a simulated clock, one for each policy.
#![allow(clippy::unwrap_used)]

mod ahead;
mod barge_in;
mod handing;
mod screening;
mod turns;

use super::*;
use crate::{
    audio::Frame,
    call::{AgentEvent, Digit, LegCommand, Policy, Role},
};

const MS: Duration = Duration::from_millis(1);
const RATE: Rate = Rate::R8K;
const CASCADE: Mode = Mode {
    agent_cuts: false,
    barge_in: true,
    deaf_while_speaking: false,
    speech_edges: true,
    digits_interrupt: true,
    obeys: true,
    transcribes: true,
};

/// A call, a caller and an agent.
struct Sim {
    call: Call,
    begin: Instant,
    now: Instant,
    out: Vec<Output>,
    /// Whether the caller speaks.
    speaks: bool,
    /// Frames that the caller heard, by time in ms.
    heard: Vec<(u64, Frame)>,
    /// What the agent was told but audio, by time in ms.
    told: Vec<(u64, String)>,
    /// The caller's audio towards the agent: whether it was silence.
    muted: Vec<bool>,
    events: Vec<(u64, CallEvent)>,
    spoken: usize,
    end: Option<EndReason>,
    /// A leg that buffers, in place of one that plays at once.
    leg: Option<ahead::Leg>,
}

impl Sim {
    fn new(mode: Mode, config: Config) -> Self {
        Self::on(None, mode, config)
    }

    fn on(leg: Option<ahead::Leg>, mode: Mode, config: Config) -> Self {
        Self::with(leg, mode, config, None)
    }

    /// A call that we made.
    fn screening(mode: Mode, config: Config, screen: Option<crate::call::OnMachine>) -> Self {
        Self::with(None, mode, config, screen)
    }

    fn with(leg: Option<ahead::Leg>, mode: Mode, config: Config, screen: Option<crate::call::OnMachine>) -> Self {
        let begin = Instant::now();
        let mut out = Vec::new();
        let setup = Setup {
            rules: Arc::new(Rules::new(config)),
            rate: RATE,
            lead: leg.as_ref().map_or(Duration::ZERO, |leg| leg.lead),
            mode,
            ambience: None,
            apology: Arc::new([]),
            budget: Budget::of_bytes(64 << 20),
            screen,
        };
        let call = Call::new(setup, begin, &mut out);
        let mut sim = Self {
            call,
            begin,
            now: begin,
            out,
            speaks: false,
            heard: Vec::new(),
            told: Vec::new(),
            muted: Vec::new(),
            events: Vec::new(),
            spoken: 0,
            end: None,
            leg,
        };
        // until the model is warm
        sim.run(320);
        sim
    }

    fn ms(&self) -> u64 {
        u64::try_from((self.now - self.begin).as_millis()).unwrap()
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            let at = self.ms();
            if at.is_multiple_of(20) {
                self.handle(Input::Leg(LegEvent::Audio(Frame::padded(
                    RATE,
                    &[if self.speaks { 5_000 } else { 1 }; 160],
                ))));
            }
            if at.is_multiple_of(32) {
                self.handle(Input::Voice(if self.speaks { 0.95 } else { 0.02 }));
            }
            self.play_leg();
            // a burst is one frame each
            for _ in 0..50 {
                if self.call.deadline() > self.now {
                    break;
                }
                self.handle(Input::Tick);
            }
            self.now += MS;
        }
    }

    fn say(&mut self, ms: u64) {
        self.speaks = true;
        self.run(ms);
        self.speaks = false;
    }

    fn handle(&mut self, input: Input) {
        self.call.handle(input, self.now, &mut self.out);
        let at = self.ms();
        let mut refused = None;
        for output in std::mem::take(&mut self.out) {
            match output {
                Output::Leg(command) if self.leg.is_some() => {
                    refused = refused.or(self.leg.as_mut().and_then(|leg| leg.send(command, at)));
                }
                Output::Leg(LegCommand::Audio(frame)) => self.heard.push((at, frame)),
                Output::Leg(_) | Output::Unheard(_) => {}
                Output::Agent(AgentInput::Audio(frame)) => self.muted.push(frame.samples()[0] == 0),
                Output::Agent(input) => self.told.push((at, format!("{input:?}"))),
                Output::Event(event, _) => self.events.push((at, event)),
                Output::HeardOut => self.told.push((at, "HeardOut".to_owned())),
                Output::End(reason) => self.end = Some(reason),
            }
        }
        if let Some(frame) = refused {
            self.handle(Input::Leg(LegEvent::Refused(frame)));
        }
    }

    fn agent(&mut self, event: AgentEvent) {
        self.handle(Input::Agent(event));
    }

    /// The agent sends speech, each sample of which tells its place.
    fn speak(&mut self, utterance: u32, ms: usize) {
        let samples: Vec<i16> = (self.spoken..self.spoken + ms * 8).map(value).collect();
        self.spoken += samples.len();
        self.agent(AgentEvent::Audio(UtteranceId(utterance), samples));
        self.agent(AgentEvent::AudioEnd(UtteranceId(utterance)));
        self.agent(AgentEvent::TurnDone);
    }

    fn words(&mut self, text: &str, is_final: bool) {
        self.agent(AgentEvent::Transcript { role: Role::User, text: text.to_owned(), is_final });
    }

    fn press(&mut self, keys: &str) {
        for key in keys.chars() {
            self.handle(Input::Leg(LegEvent::Dtmf(Digit::try_from(key).unwrap())));
            self.run(100);
        }
    }

    /// Whether the agent was heard within the last 20 ms.
    fn is_heard(&self) -> bool {
        self.heard.last().is_some_and(|(_, frame)| frame.samples().iter().any(|&sample| sample > 1))
    }

    /// Samples of the agent that were never heard as they are; what fades is among them.
    fn unheard(&self) -> usize {
        let mut missing: std::collections::BTreeSet<_> = (0..self.spoken).collect();
        let mut expected = 0;
        for sample in self.heard.iter().flat_map(|(_, frame)| frame.samples()) {
            if let Some(place) = (expected..(expected + 200).min(self.spoken)).find(|&place| value(place) == *sample) {
                missing.remove(&place);
                expected = place + 1;
            }
        }
        missing.len()
    }

    fn count(&self, kind: &str) -> usize {
        self.events.iter().filter(|(_, event)| event.kind() == kind).count()
    }

    fn told(&self, part: &str) -> Vec<u64> {
        self.told.iter().filter(|(_, told)| told.contains(part)).map(|(at, _)| *at).collect()
    }
}

/// The sample at a place: neighbours are far apart, so that a faded one is none of them.
fn value(place: usize) -> i16 {
    i16::try_from(2_000 + place * 7_919 % 29_989).unwrap()
}

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

fn policy(policy: Policy) -> Config {
    config(|config| config.barge_in.policy = policy)
}

/// A cascade whose speech recognition has shown that it streams, and which has been speaking for 500 ms of 10 s.
fn talking(config: Config) -> Sim {
    let mut sim = Sim::new(CASCADE, config);
    sim.words("hello", false);
    sim.words("hello", true);
    sim.run(200);
    sim.speak(1, 10_000);
    sim.run(500);
    assert!(sim.is_heard());
    sim
}
