//! The state machine of one conversation.

mod agent;
mod ahead;
mod barge_in;
mod ending;
mod handing;
mod leg;
mod playing;
mod screening;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    AgentInput, CallEvent, Collect, Command, EndReason, Input, LegEvent, Output, Rules, UtteranceId,
    config::Config,
    dtmf::Collector,
    grid::{Grid, PATIENCE},
    latency::{Latency, Watch},
    playout::{Budget, OURS, Playout},
    turn::{Idle, OnMachine, Screening, Voice},
};
use crate::audio::{Frame, Rate, mix::Ambience};

/// How long final transcripts are awaited after the hang-up (contract types never follow `call_ended`).
const FINAL_WORDS: Duration = Duration::from_secs(2);
/// How long a leg may refuse audio before the call ends.
const STALL_LIMIT: Duration = Duration::from_secs(2);
/// Where words come only when the caller has finished: how long the agent may be held for them at all.
const HOLD_LIMIT: Duration = Duration::from_secs(10);
/// Without a result of the VAD for so long the caller's frames have stopped.
const NO_FRAMES: Duration = Duration::from_millis(500);
/// How long an answer is waited for until the caller's silence counts again.
const THINKING: Duration = Duration::from_secs(60);
/// How long the last words of the agent may take until the call ends without them.
const FAREWELL: Duration = Duration::from_secs(20);
/// Protected utterances that wait to be heard.
const MOST_PROTECTED: usize = 64;
/// A service that fails this early, unheard, was unreachable: no apology, the dialplan's next line takes over.
const UNREACHABLE_WITHIN: Duration = Duration::from_secs(6);
/// Silent slots after which a stream has paused instead of being late (500 ms).
const PAUSE_SLOTS: u32 = 25;
/// A stream that was ever this far ahead is sent in bursts, not in real time.
const BURST: Duration = Duration::from_millis(300);
/// Utterance of the apology: no agent reaches it.
const APOLOGY: UtteranceId = UtteranceId(OURS);
/// Utterance of keys that are sent.
const DIALLED: UtteranceId = UtteranceId(OURS + 1);
/// How long what the agent is saying is waited for when the call is to end, or to be given away.
const LAST_SENTENCE: Duration = Duration::from_secs(15);

/// What kind of agent the call has: decides who listens when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mode {
    /// The caller's voice interrupts the agent, by our own VAD.
    pub barge_in: bool,
    /// The agent hears silence while it speaks.
    pub deaf_while_speaking: bool,
    /// The agent wants to know when the caller begins and stops speaking.
    pub speech_edges: bool,
    /// A digit interrupts the agent.
    pub digits_interrupt: bool,
    /// The agent says what it is asked to, and takes digits as one answer.
    pub obeys: bool,
    /// The agent reports the caller's words.
    pub transcribes: bool,
    /// The agent's service says when the caller interrupts it: their voice only holds it, unless the settings say that it cuts.
    pub agent_cuts: bool,
}

/// What a call starts with.
#[derive(Debug)]
pub struct Setup {
    /// The rules of the conversation.
    pub rules: Arc<Rules>,
    /// The leg's rate.
    pub rate: Rate,
    /// How far ahead of the caller's ear the leg may be sent audio.
    pub lead: Duration,
    /// The kind of agent.
    pub mode: Mode,
    /// Mixed into everything the caller hears, at the leg's rate.
    pub ambience: Option<Ambience>,
    /// Said when a service has failed, at the leg's rate.
    pub apology: Arc<[i16]>,
    /// Memory for agent speech, shared by all calls.
    pub budget: Arc<Budget>,
    /// For a call that we made: whether a machine has answered is found out first, and what is done with it.
    pub screen: Option<OnMachine>,
}

/// Counts of one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames given to the leg.
    pub frames_played: u64,
    /// Times a running stream had nothing for a slot in time.
    pub underruns: u64,
    /// Frames that the leg refused.
    pub stalls: u64,
    /// Interruptions that found nothing to cut.
    pub idle_interruptions: u64,
    /// Interruptions.
    pub interruptions: u64,
    /// Onsets that turned out to be no speech.
    pub false_alarms: u64,
    /// Times the agent, held, went on because no words followed.
    pub resumed: u64,
    /// Answers taken back, because the caller went on before anything of them was heard.
    pub taken_back: u64,
    /// Silent frames left out to take back silence put into a stream that was late.
    pub skipped_frames: u64,
    /// Marks that a leg that buffers never reported.
    pub lost_marks: u64,
    /// Samples of agent speech dropped because their utterance had been cut.
    pub late_samples: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Live,
    /// The agent is done: what it said is played, then the call ends.
    Draining {
        reason: EndReason,
    },
    /// The caller is to be given to somebody else; the agent is heard out.
    HandingOver {
        reason: EndReason,
        until: Instant,
        told: bool,
    },
    /// Somebody else is at the leg and is told something.
    Announcing {
        reason: EndReason,
        words: Farewell,
        told: bool,
    },
    /// The call is over for the caller; final transcripts are awaited.
    Finishing {
        reason: EndReason,
        at: Instant,
        until: Instant,
    },
    Over,
}

/// The agent's last words are on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Farewell {
    reason: EndReason,
    until: Instant,
    /// Something of them has come, and all of them.
    begun: bool,
    whole: bool,
}

/// The agent's turn, as far as the caller has heard it.
#[derive(Debug, Clone, Copy)]
struct Hearing {
    since: Instant,
    frames: u32,
    latency: Option<Latency>,
}

/// One conversation.
#[derive(Debug)]
pub struct Call {
    rules: Arc<Rules>,
    mode: Mode,
    lead: Duration,
    rate: Rate,
    apology: Arc<[i16]>,
    ambience: Option<Ambience>,
    budget: Arc<Budget>,
    playout: Playout,
    grid: Grid,
    voice: Voice,
    state: State,
    started: Instant,
    /// The slot has passed with nothing to play; the frame goes out as soon as it comes.
    owed: bool,
    /// The last slot carried agent speech.
    running: bool,
    /// Slots since the last one with agent speech.
    gap: u32,
    bursty: bool,
    held_since: Option<Instant>,
    /// The hold for the voice that is heard now is over: it holds no more.
    dismissed: bool,
    /// When a result of the VAD came last, and the last one that was speech.
    voice_at: Instant,
    voiced_at: Instant,
    /// There have been words since the onset.
    has_words: bool,
    /// Speech recognition has sent words that may change.
    partials: bool,
    /// How much silence ends the caller's turn, by what they have said so far.
    end_after: Duration,
    /// The turn of the agent that is going on, and how many slots ago it was heard last.
    hearing: Option<Hearing>,
    quiet: u32,
    /// When the caller last heard the agent, or the call began.
    spoke_at: Instant,
    /// The agent has sent all of its turn.
    turn_done: bool,
    protected: Vec<UtteranceId>,
    muted: bool,
    collector: Option<Collector>,
    idle: Idle,
    /// An answer is awaited until then.
    thinking: Option<Instant>,
    farewell: Option<Farewell>,
    /// Who has answered is not known yet: the agent is not heard.
    screening: Option<Box<Screening>>,
    /// Somebody in the caller's place is to say something.
    answer: Option<Box<Screening>>,
    has_warned: bool,
    /// A frame with words that the leg refused.
    pending: Option<Frame>,
    /// Whether the frame at the leg now has words in it.
    words_out: bool,
    in_flight: bool,
    stalled_since: Option<Instant>,
    /// The flush that the leg has not answered, and since when.
    flushing: Option<(u32, Instant)>,
    fence: u32,
    /// A mark has been reported.
    has_marks: bool,
    /// Frames that the leg is behind.
    backlog: u32,
    cut_up_to: Option<UtteranceId>,
    /// The agent is only heard out: what comes behind this utterance is not.
    last_of_all: Option<UtteranceId>,
    /// When the agent is heard out no longer.
    heard_out_by: Option<Instant>,
    agent_spoke: bool,
    agent_gone: bool,
    leg_gone: bool,
    played: Vec<UtteranceId>,
    latency: Watch,
    stats: Stats,
}

impl Call {
    /// A call whose UUID has just been received.
    #[must_use]
    pub fn new(setup: Setup, now: Instant, out: &mut Vec<Output>) -> Self {
        out.push(Output::Event(CallEvent::Started, now));
        let mut playout = Playout::new(setup.rate, Arc::clone(&setup.budget));
        if !setup.lead.is_zero() {
            playout.keep();
        }
        Self {
            playout,
            grid: Grid::new(Duration::from_millis(setup.rules.config.cushion_ms), now),
            voice: Voice::new(setup.rules.config.vad.clone()),
            end_after: Duration::from_millis(setup.rules.config.vad.redemption_ms),
            collector: Collect::of(&setup.rules.config.dtmf).filter(|_| setup.mode.obeys).map(Collector::new),
            rules: setup.rules,
            mode: setup.mode,
            lead: setup.lead,
            rate: setup.rate,
            apology: setup.apology,
            ambience: setup.ambience,
            budget: setup.budget,
            state: State::Live,
            started: now,
            owed: false,
            running: false,
            gap: 0,
            bursty: false,
            held_since: None,
            dismissed: false,
            voice_at: now,
            voiced_at: now,
            has_words: false,
            partials: false,
            hearing: None,
            quiet: 0,
            spoke_at: now,
            turn_done: false,
            protected: Vec::new(),
            muted: false,
            idle: Idle::default(),
            thinking: None,
            farewell: None,
            screening: setup.screen.map(|on_machine| Box::new(Screening::new(on_machine))),
            answer: None,
            has_warned: false,
            pending: None,
            words_out: false,
            in_flight: false,
            stalled_since: None,
            flushing: None,
            fence: 0,
            has_marks: false,
            backlog: 0,
            cut_up_to: None,
            last_of_all: None,
            heard_out_by: None,
            agent_spoke: false,
            agent_gone: false,
            leg_gone: false,
            played: Vec::with_capacity(4),
            latency: Watch::new(setup.mode.transcribes),
            stats: Stats::default(),
        }
    }

    /// The only way in. Outputs are added to `out`, to be carried out in order.
    pub fn handle(&mut self, input: Input, now: Instant, out: &mut Vec<Output>) {
        if self.state == State::Over {
            return;
        }
        // A refusal is reported before anything else: whatever else comes first means that the last frame was taken.
        if std::mem::take(&mut self.in_flight) && !matches!(input, Input::Leg(LegEvent::Refused(_))) {
            self.stalled_since = None;
        }
        match input {
            Input::Leg(event) => self.leg(event, now, out),
            Input::Agent(event) => self.agent(event, now, out),
            Input::Voice(probability) => self.voice(probability, now, out),
            Input::Beep => self.beeped(now, out),
            Input::Command(command) => self.command(command, now, out),
            Input::Tick => {}
        }
        self.timers(now, out);
        self.play(now, out);
    }

    /// [`Self::handle`] wants a [`Input::Tick`] no later than this: the loop's only timer.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let ready = self.is_ready();
        let play = if self.owed && !ready {
            self.grid.earliest().max(self.grid.slot() + PATIENCE)
        } else {
            self.next_slot(ready)
        };
        match self.state {
            State::Over => self.started + Duration::from_secs(86_400 * 365),
            State::Finishing { until, .. } => until,
            State::Live | State::Draining { .. } | State::HandingOver { .. } | State::Announcing { .. } => {
                // everything else that takes time is looked at in each slot
                let limits = [self.max_duration().filter(|_| self.farewell.is_none()), self.held_until()];
                limits.into_iter().flatten().fold(play, Instant::min)
            }
        }
    }

    /// Whether a VAD result could change anything now.
    #[must_use]
    pub fn wants_voice(&self) -> bool {
        let talks = !self.muted && (self.mode.barge_in || self.mode.speech_edges);
        (self.state == State::Live && (talks || self.screening.is_some())) || self.answer.is_some()
    }

    /// Whether a beep of the caller's line would mean anything now.
    #[must_use]
    pub fn wants_beep(&self) -> bool {
        self.state == State::Live && self.screening.is_some()
    }

    /// Whether the agent may go on sending. Only past minutes of waiting speech its socket is left unread.
    #[must_use]
    pub fn wants_agent(&self) -> bool {
        self.playout.queued() == 0
            || (self.playout.queued_for() < Duration::from_secs(self.config().max_queue_s) && !self.budget.is_spent())
    }

    /// What was counted.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        Stats { skipped_frames: self.playout.skipped_frames(), ..self.stats }
    }

    /// Whether the agent's voice is, or is about to be, in the caller's ear.
    fn is_agent_speaking(&self) -> bool {
        self.running || self.pending.is_some() || self.playout.queued() > 0 || self.playout.unheard() > 0
    }

    fn max_duration(&self) -> Option<Instant> {
        let limit = self.config().max_duration_s;
        (limit > 0).then(|| self.started + Duration::from_secs(limit))
    }

    fn config(&self) -> &Config {
        &self.rules.config
    }

    fn command(&mut self, command: Command, now: Instant, out: &mut Vec<Output>) {
        match command {
            Command::Hangup(reason) => self.finish(reason, now, out),
            Command::Finish(reason) => {
                if matches!(self.state, State::Live | State::HandingOver { .. } | State::Announcing { .. }) {
                    self.hear_out(now);
                    self.state = State::Draining { reason };
                }
            }
            Command::HandOver(reason) => {
                if self.state == State::Live {
                    self.state = State::HandingOver { reason, until: self.hear_out(now), told: false };
                }
            }
            Command::Announce(say) => self.announce(say, now, out),
            Command::Listen => self.listen(),
            Command::TakeBack(say) => self.take_back(say, now, out),
            Command::Press(digit) => self.leg(LegEvent::Dtmf(digit), now, out),
            Command::AnsweredBy(who) => self.told_who(who, now, out),
            Command::Dial(digits) => self.dial(&digits),
            // the session's own
            Command::Record(_) => {}
            Command::Say(say) => {
                if self.state == State::Live && !self.agent_gone {
                    out.push(Output::Agent(AgentInput::Say(say)));
                }
            }
            Command::Mute(muted) => {
                self.muted = muted;
                if muted {
                    self.voice.reset();
                    self.release();
                }
            }
            Command::Collect(how) => {
                let how = how.or_else(|| Collect::of(&self.config().dtmf)).filter(|_| self.mode.obeys);
                self.collector = how.map(Collector::new);
            }
        }
    }
}

#[cfg(test)]
mod tests;
