//! Leg, agent and caller of one simulated call, and the invariants that are checked at every step.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use hark::{
    audio::{Frame, Rate},
    call::{
        AgentEvent, AgentInput, Budget, Call, CallEvent, Command, Digit, Edge, EndReason, Fault, Input, LegCommand,
        LegEvent, Output, Role, Rules, Setup, Stats, UtteranceId,
    },
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::plan::{Happening, MS, Plan};

const RATE: Rate = Rate::R8K;
/// Samples of the apology: told apart by their value.
const APOLOGY: [i16; 800] = [-777; 800];

/// What came out of a call.
pub struct Outcome {
    pub reason: EndReason,
    pub stats: Stats,
    pub simulated: Duration,
}

/// A call in progress.
pub struct World {
    plan: Plan,
    rng: StdRng,
    call: Call,
    start: Instant,
    now: Instant,
    queue: BinaryHeap<Reverse<(Duration, usize)>>,
    happenings: Vec<Happening>,
    held_back: Vec<Happening>,
    out: Vec<Output>,
    events: Vec<CallEvent>,
    end: Option<EndReason>,
    last_frame: Option<Instant>,
    /// Samples pushed, and heard, per utterance.
    pushed: BTreeMap<u32, usize>,
    heard: BTreeMap<u32, usize>,
    cut: HashSet<u32>,
    protected: HashSet<u32>,
    ids: BTreeMap<u32, UtteranceId>,
    cut_now: bool,
    /// The last frame ended in silence: what begins may fade in.
    was_silent: bool,
    /// The agent was heard since the last interruption.
    heard_since: bool,
    failed_at: Option<Instant>,
    agent_ended: bool,
    leg_gone: bool,
    handled: u64,
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let start = Instant::now();
        let config = plan.config.clone();
        let setup = Setup {
            rules: Arc::new(Rules::new(config)),
            rate: RATE,
            lead: Duration::ZERO,
            mode: plan.mode,
            ambience: None,
            apology: Arc::new(APOLOGY),
            budget: Budget::of_bytes(64 << 20),
            screen: None,
        };
        let mut out = Vec::new();
        let call = Call::new(setup, start, &mut out);
        let happenings: Vec<_> = plan.script.iter().map(|(_, what)| what.clone()).collect();
        let queue = plan.script.iter().enumerate().map(|(index, (at, _))| Reverse((*at, index))).collect();
        Self {
            rng: StdRng::seed_from_u64(plan.seed ^ 0xABCD),
            plan,
            call,
            start,
            now: start,
            queue,
            happenings,
            held_back: Vec::new(),
            out,
            events: Vec::new(),
            end: None,
            last_frame: None,
            pushed: BTreeMap::new(),
            heard: BTreeMap::new(),
            cut: HashSet::new(),
            protected: HashSet::new(),
            ids: BTreeMap::new(),
            cut_now: false,
            was_silent: true,
            heard_since: false,
            failed_at: None,
            agent_ended: false,
            leg_gone: false,
            handled: 0,
        }
    }

    pub fn run(mut self) -> Outcome {
        self.carry_out();
        while self.end.is_none() {
            let next = self.queue.peek().map(|Reverse((at, _))| self.start + *at);
            let late = if self.plan.lateness.is_zero() {
                Duration::ZERO
            } else {
                self.rng.random_range(Duration::ZERO..self.plan.lateness)
            };
            let wake = self.call.deadline().max(self.now) + late;
            match next {
                Some(at) if at <= wake => {
                    let Reverse((_, index)) = self.queue.pop().unwrap();
                    self.now = self.now.max(at);
                    let what = self.happenings[index].clone();
                    self.happen(what);
                }
                _ => {
                    self.now = wake;
                    self.handle(Input::Tick);
                }
            }
            if self.call.wants_agent() {
                for what in std::mem::take(&mut self.held_back) {
                    self.happen(what);
                }
            }
            self.check_progress();
        }
        self.check_end();
        Outcome { reason: self.end.unwrap(), stats: self.call.stats(), simulated: self.now - self.start }
    }

    fn later(&mut self, after: Duration, what: Happening) {
        self.happenings.push(what);
        self.queue.push(Reverse((self.now - self.start + after, self.happenings.len() - 1)));
    }

    fn happen(&mut self, what: Happening) {
        let of_agent = matches!(
            what,
            Happening::Speech { .. }
                | Happening::SpeechEnd(_)
                | Happening::Interruption
                | Happening::Words(_)
                | Happening::Partial(_)
                | Happening::Protected(_)
                | Happening::TurnDone
                | Happening::AgentHangup
                | Happening::AgentFails
        );
        let of_leg = matches!(what, Happening::Frame | Happening::Voice(_) | Happening::Dtmf | Happening::Leg(_));
        if (of_agent && self.agent_ended) || (of_leg && self.leg_gone) {
            return;
        }
        if of_agent && !self.call.wants_agent() {
            self.held_back.push(what);
            return;
        }
        let input = match what {
            Happening::Frame => Input::Leg(LegEvent::Audio(Frame::silence(RATE))),
            Happening::Voice(p) => Input::Voice(p),
            Happening::Dtmf => Input::Leg(LegEvent::Dtmf(Digit::try_from('5').unwrap())),
            Happening::Leg(cause) => {
                self.leg_gone = true;
                Input::Leg(LegEvent::Hangup(cause))
            }
            Happening::Speech { utterance, samples } => {
                let pushed = self.pushed.entry(utterance).or_default();
                let value = |index: usize| i16::try_from(utterance as usize * 1_000 + index % 997 + 1).unwrap();
                let samples: Vec<i16> = (*pushed..*pushed + samples).map(value).collect();
                *pushed += samples.len();
                Input::Agent(AgentEvent::Audio(self.id(utterance), samples))
            }
            Happening::SpeechEnd(utterance) => Input::Agent(AgentEvent::AudioEnd(self.id(utterance))),
            Happening::Interruption => Input::Agent(AgentEvent::Speech(Edge::Interrupted)),
            Happening::Words(role) => {
                Input::Agent(AgentEvent::Transcript { role, text: "words".to_owned(), is_final: true })
            }
            Happening::Partial(takes_turn) => {
                let text = if takes_turn { "wait a moment" } else { "mm-hm" }.to_owned();
                Input::Agent(AgentEvent::Transcript { role: Role::User, text, is_final: false })
            }
            Happening::Protected(utterance) => {
                self.protected.insert(utterance);
                Input::Agent(AgentEvent::Protected(self.id(utterance)))
            }
            Happening::TurnDone => Input::Agent(AgentEvent::TurnDone),
            Happening::Mute(muted) => Input::Command(Command::Mute(muted)),
            Happening::AgentHangup => Input::Agent(AgentEvent::Hangup),
            Happening::AgentFails => {
                self.agent_ended = true;
                self.failed_at = Some(self.now);
                Input::Agent(AgentEvent::Failed(Fault { code: "agent.test", message: String::new() }))
            }
            Happening::Command => Input::Command(Command::Hangup(EndReason::Hangup)),
        };
        self.handle(input);
    }

    /// Agents count their utterances as they begin; a script has numbered them before.
    fn id(&mut self, utterance: u32) -> UtteranceId {
        let next = UtteranceId(1 + u32::try_from(self.ids.len()).unwrap());
        *self.ids.entry(utterance).or_insert(next)
    }

    fn handle(&mut self, input: Input) {
        self.handled += 1;
        self.call.handle(input, self.now, &mut self.out);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        let mut refused = None;
        let mut frames = 0;
        for output in std::mem::take(&mut self.out) {
            assert!(self.end.is_none(), "seed {}: {output:?} after the end", self.plan.seed);
            match output {
                Output::Leg(LegCommand::Audio(frame)) => {
                    frames += 1;
                    // a frame that the leg refuses is on its way all the same
                    self.heard_since |= frame.samples()[159] > 1_000 || frame.samples()[0] > 1_000;
                    if self.is_stalled() { refused = Some(frame) } else { self.play(&frame) }
                }
                Output::Leg(LegCommand::Flush(_) | LegCommand::Mark(_) | LegCommand::Hangup) => {}
                Output::Agent(AgentInput::Interrupt { utterance, .. }) => self.cut(utterance),
                Output::Agent(AgentInput::Say(_)) => self.say(),
                Output::Agent(AgentInput::Finish) => {
                    self.protected.clear();
                    let after = self.plan.final_words_after;
                    self.later(after, Happening::Words(Role::User));
                    self.later(after, Happening::AgentFails);
                }
                Output::Agent(_) | Output::HeardOut | Output::Unheard(_) => {}
                Output::Event(event, at) => {
                    assert!(at <= self.now);
                    self.event(event);
                }
                Output::End(reason) => self.end = Some(reason),
            }
        }
        assert!(frames <= 1, "seed {}: {frames} frames in one wake-up", self.plan.seed);
        if let Some(frame) = refused {
            self.handle(Input::Leg(LegEvent::Refused(frame)));
        }
    }

    fn event(&mut self, event: CallEvent) {
        let seed = self.plan.seed;
        let ended = self.events.iter().any(|event| matches!(event, CallEvent::Ended(_)));
        assert!(!ended, "seed {seed}: {event:?} after call_ended");
        assert_eq!(self.events.is_empty(), matches!(event, CallEvent::Started), "seed {seed}: {event:?}");
        if event == CallEvent::Interruption && self.plan.mode.barge_in {
            assert!(std::mem::take(&mut self.heard_since), "seed {seed}: an interruption of nothing that was heard");
        }
        self.events.push(event);
    }

    /// Half a second of speech for a text, half a second later; sometimes none at all.
    fn say(&mut self) {
        if self.rng.random_bool(0.8) {
            // samples tell their utterance, and there is room for one more
            let utterance = 31;
            if !self.pushed.contains_key(&utterance) {
                self.later(500 * MS, Happening::Speech { utterance, samples: 4_000 });
                self.later(500 * MS, Happening::SpeechEnd(utterance));
            }
        }
        self.later(510 * MS, Happening::TurnDone);
    }

    fn is_stalled(&self) -> bool {
        let at = self.now - self.start;
        self.plan.stalls.iter().any(|(from, to)| (*from..*to).contains(&at))
    }

    /// Everything pushed so far is gone for the caller.
    fn cut(&mut self, playing: Option<UtteranceId>) {
        let ids = &self.ids;
        self.protected.retain(|utterance| playing.is_none() || ids.get(utterance) != playing.as_ref());
        self.cut.extend(self.pushed.keys().filter(|utterance| !self.protected.contains(utterance)));
        self.cut_now = true;
    }

    fn play(&mut self, frame: &Frame) {
        let seed = self.plan.seed;
        if let Some(last) = self.last_frame {
            let gap = self.now - last;
            assert!(gap >= 10 * MS, "seed {seed}: two frames {gap:?} apart");
        }
        self.last_frame = Some(self.now);
        let samples = frame.samples();
        // 5 ms fade where the agent is held or cut, and where it goes on; these cannot be told by their value
        let fades =
            self.plan.mode.barge_in && (self.was_silent || samples[40] == 0) || std::mem::take(&mut self.cut_now);
        self.was_silent = samples[159] == 0;
        let from = if fades { 40 } else { 0 };
        let slack = if self.plan.mode.barge_in || fades { 80 } else { 0 };
        for &sample in &samples[from..] {
            if sample > 1_000 {
                let (utterance, index) = (u32::from(sample.unsigned_abs()) / 1_000, sample as usize % 1_000 - 1);
                let heard = self.heard.entry(utterance).or_default();
                assert!(!self.cut.contains(&utterance), "seed {seed}: utterance {utterance} is heard after its cut");
                let skipped = (index + 997 - *heard % 997) % 997;
                assert!(skipped <= slack, "seed {seed}: {skipped} samples of utterance {utterance} lost, or repeated");
                *heard += skipped + 1;
            }
        }
    }

    fn check_progress(&self) {
        let seed = self.plan.seed;
        let simulated = self.now - self.start;
        assert!(simulated < Duration::from_secs(1_500), "seed {seed}: the call does not end");
        let most = 1_000 + self.happenings.len() as u64 * 2 + simulated.as_secs() * 400;
        assert!(self.handled < most, "seed {seed}: {} wake-ups in {simulated:?}", self.handled);
    }

    fn check_end(&self) {
        let seed = self.plan.seed;
        assert!(matches!(self.events.last(), Some(CallEvent::Ended(_))), "seed {seed}: {:?}", self.events);
        let failures = self.events.iter().filter(|event| matches!(event, CallEvent::ServiceFailed(_))).count();
        let of_agent = matches!(self.events.last(), Some(CallEvent::Ended(EndReason::AgentFailed)));
        assert!(failures <= 1 && (failures == 1 || !of_agent), "seed {seed}: {:?}", self.events);
        if let Some(failed) = self.failed_at {
            let waiting: usize = self.pushed.values().sum();
            let limit = RATE.duration_of(waiting) + Duration::from_secs(12);
            assert!(
                self.now - failed < limit,
                "seed {seed}: an open line {:?} after the agent failed",
                self.now - failed
            );
        }
        // Nothing the agent said is lost, unless it was cut or the call ended under it.
        let slack = if self.plan.mode.barge_in { 80 } else { 0 };
        if self.end == Some(EndReason::AgentClosed) {
            for (utterance, pushed) in &self.pushed {
                let heard = self.heard.get(utterance).copied().unwrap_or(0);
                assert!(
                    self.cut.contains(utterance) || heard + slack >= *pushed,
                    "seed {seed}: utterance {utterance}: {heard} of {pushed} samples heard"
                );
            }
        }
    }
}
