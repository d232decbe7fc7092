//! The state machine of one conversation.

mod agent;
mod barge_in;
mod ending;
mod leg;
mod playing;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    CallEvent, Command, EndReason, Input, LegEvent, Output, UtteranceId,
    config::Config,
    grid::{Grid, PATIENCE},
    latency::Watch,
    playout::{Budget, Playout},
    turn::Voice,
};
use crate::audio::{Frame, Rate, mix::Ambience};

/// How long final transcripts are awaited after the hang-up (contract types never follow `call_ended`).
const FINAL_WORDS: Duration = Duration::from_secs(2);
/// How long a leg may refuse audio before the call ends.
const STALL_LIMIT: Duration = Duration::from_secs(2);
/// How long the agent may be held without a verdict of the caller's voice (which needs their frames).
const HOLD_LIMIT: Duration = Duration::from_secs(2);
/// A service that fails this early, unheard, was unreachable: no apology, the dialplan's next line takes over.
const UNREACHABLE_WITHIN: Duration = Duration::from_secs(6);
/// Silent slots after which a stream has paused instead of being late (500 ms).
const PAUSE_SLOTS: u32 = 25;
/// A stream that was ever this far ahead is sent in bursts, not in real time.
const BURST: Duration = Duration::from_millis(300);
/// Utterance of the apology: no agent reaches it.
const APOLOGY: UtteranceId = UtteranceId(u32::MAX);

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
}

/// What a call starts with.
#[derive(Debug)]
pub struct Setup {
    /// Settings.
    pub config: Arc<Config>,
    /// The leg's rate.
    pub rate: Rate,
    /// The kind of agent.
    pub mode: Mode,
    /// Mixed into everything the caller hears, at the leg's rate.
    pub ambience: Option<Ambience>,
    /// Said when a service has failed, at the leg's rate.
    pub apology: Arc<[i16]>,
    /// Memory for agent speech, shared by all calls.
    pub budget: Arc<Budget>,
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
    /// Silent frames left out to take back silence put into a stream that was late.
    pub skipped_frames: u64,
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
    /// The call is over for the caller; final transcripts are awaited.
    Finishing {
        reason: EndReason,
        at: Instant,
        until: Instant,
    },
    Over,
}

/// One conversation.
#[derive(Debug)]
pub struct Call {
    config: Arc<Config>,
    mode: Mode,
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
    /// A frame with words that the leg refused.
    pending: Option<Frame>,
    /// Whether the frame at the leg now has words in it.
    words_out: bool,
    in_flight: bool,
    stalled_since: Option<Instant>,
    cut_up_to: Option<UtteranceId>,
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
        Self {
            playout: Playout::new(setup.rate, Arc::clone(&setup.budget)),
            grid: Grid::new(Duration::from_millis(setup.config.cushion_ms), now),
            voice: Voice::new(setup.config.vad.clone()),
            config: setup.config,
            mode: setup.mode,
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
            pending: None,
            words_out: false,
            in_flight: false,
            stalled_since: None,
            cut_up_to: None,
            agent_spoke: false,
            agent_gone: false,
            leg_gone: false,
            played: Vec::with_capacity(4),
            latency: Watch::default(),
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
            Input::Command(Command::Hangup(reason)) => self.finish(reason, now, out),
            Input::Tick => {}
        }
        self.timers(now, out);
        self.play(now, out);
    }

    /// [`Self::handle`] wants a [`Input::Tick`] no later than this: the loop's only timer.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let play = if self.owed && !self.playout.is_ready() {
            self.grid.earliest().max(self.grid.slot() + PATIENCE)
        } else {
            self.grid.earliest()
        };
        match self.state {
            State::Over => self.started + Duration::from_secs(86_400 * 365),
            State::Finishing { until, .. } => until,
            State::Live | State::Draining { .. } => {
                let limits = [self.max_duration(), self.held_since.map(|since| since + HOLD_LIMIT)];
                limits.into_iter().flatten().fold(play, Instant::min)
            }
        }
    }

    /// Whether a VAD result could change anything now.
    #[must_use]
    pub fn wants_voice(&self) -> bool {
        self.state == State::Live && (self.mode.barge_in || self.mode.speech_edges)
    }

    /// Whether the agent may go on sending. Only past minutes of waiting speech its socket is left unread.
    #[must_use]
    pub fn wants_agent(&self) -> bool {
        self.playout.queued() == 0
            || (self.playout.queued_for() < Duration::from_secs(self.config.max_queue_s) && !self.budget.is_spent())
    }

    /// What was counted.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        Stats { skipped_frames: self.playout.skipped_frames(), ..self.stats }
    }

    /// Whether the agent's voice is, or is about to be, in the caller's ear.
    fn is_agent_speaking(&self) -> bool {
        self.running || self.pending.is_some() || self.playout.queued() > 0
    }

    fn max_duration(&self) -> Option<Instant> {
        (self.config.max_duration_s > 0).then(|| self.started + Duration::from_secs(self.config.max_duration_s))
    }
}
