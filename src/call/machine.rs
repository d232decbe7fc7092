//! The state machine of one conversation.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    AgentEvent, AgentInput, CallEvent, Cause, Command, Digit, Edge, EndReason, Input, LegCommand, LegEvent, Output,
    Role, UtteranceId,
    config::Config,
    grid::{Grid, PATIENCE},
    latency::Watch,
    playout::{Budget, Playout},
    turn::{Turn, Voice},
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

    fn leg(&mut self, event: LegEvent, now: Instant, out: &mut Vec<Output>) {
        match event {
            LegEvent::Audio(frame) => {
                self.grid.arrived(now);
                if self.hears() {
                    let deaf = self.mode.deaf_while_speaking && self.is_agent_speaking();
                    out.push(Output::Agent(AgentInput::Audio(if deaf { Frame::silence(self.rate) } else { frame })));
                }
            }
            LegEvent::Dtmf(digit) => self.digit(digit, now, out),
            LegEvent::Refused(frame) => self.refused(frame, now, out),
            LegEvent::Hangup(cause) => {
                self.leg_gone = true;
                let reason = match (self.state, cause) {
                    (State::Draining { reason }, _) => reason,
                    (_, Cause::Normal) => EndReason::CallerHangup,
                    (_, Cause::Idle) => EndReason::LegIdle,
                    (_, Cause::Lost) => EndReason::LegLost,
                };
                self.finish(reason, now, out);
            }
        }
    }

    fn hears(&self) -> bool {
        !self.agent_gone && matches!(self.state, State::Live | State::Draining { .. })
    }

    fn digit(&mut self, digit: Digit, now: Instant, out: &mut Vec<Output>) {
        if !matches!(self.state, State::Live | State::Draining { .. }) {
            return;
        }
        out.push(Output::Event(CallEvent::Dtmf((!self.config.dtmf_mask).then_some(digit)), now));
        if self.state == State::Live {
            if self.mode.digits_interrupt && self.is_agent_speaking() {
                self.interrupt(now, out);
            }
            out.push(Output::Agent(AgentInput::Dtmf(digit)));
        }
    }

    fn refused(&mut self, frame: Frame, now: Instant, out: &mut Vec<Output>) {
        self.stats.stalls += 1;
        self.stats.frames_played = self.stats.frames_played.saturating_sub(1);
        if self.words_out {
            self.pending = Some(frame);
        }
        let since = *self.stalled_since.get_or_insert(now);
        if now.duration_since(since) >= STALL_LIMIT {
            self.finish(EndReason::LegStalled, now, out);
        }
    }

    fn agent(&mut self, event: AgentEvent, now: Instant, out: &mut Vec<Output>) {
        match event {
            AgentEvent::Audio(utterance, samples) => {
                if self.is_cut(utterance) {
                    self.stats.late_samples += samples.len() as u64;
                } else if self.takes_speech() {
                    self.agent_spoke = true;
                    self.latency.audio(now);
                    self.playout.push(utterance, samples);
                    self.bursty |= self.playout.queued_for() > BURST;
                }
            }
            AgentEvent::AudioEnd(utterance) => {
                if !self.is_cut(utterance) && self.takes_speech() {
                    self.playout.end(utterance);
                }
            }
            AgentEvent::Transcript { role, text, is_final: true } if !text.trim().is_empty() => {
                if role == Role::User {
                    self.latency.words(now);
                }
                out.push(Output::Event(CallEvent::Transcription { role, text }, now));
            }
            AgentEvent::Speech(Edge::Interrupted) => {
                if self.takes_speech() {
                    self.interrupt(now, out);
                }
            }
            AgentEvent::Hangup => {
                if self.state == State::Live {
                    self.state = State::Draining { reason: EndReason::AgentClosed };
                    self.release();
                }
            }
            AgentEvent::Failed(fault) => {
                // After the hang-up, or the agent's own, the end of the stream is in order.
                if self.state == State::Live {
                    out.push(Output::Event(CallEvent::ServiceFailed(fault), now));
                }
                self.agent_failed(now, out);
            }
            AgentEvent::Transcript { .. }
            | AgentEvent::Speech(Edge::Started | Edge::Stopped)
            | AgentEvent::TurnDone
            | AgentEvent::Degraded(_)
            | AgentEvent::Restored => {}
        }
    }

    fn is_cut(&self, utterance: UtteranceId) -> bool {
        self.cut_up_to.is_some_and(|cut| utterance <= cut)
    }

    fn takes_speech(&self) -> bool {
        !self.agent_gone && matches!(self.state, State::Live | State::Draining { .. })
    }

    fn agent_failed(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.agent_gone = true;
        match self.state {
            State::Finishing { reason, at, .. } => self.conclude(reason, at, out),
            State::Live if !self.agent_spoke && now.duration_since(self.started) < UNREACHABLE_WITHIN => {
                self.finish(EndReason::AgentFailed, now, out);
            }
            State::Live => {
                self.playout.push(APOLOGY, self.apology.to_vec());
                self.playout.end(APOLOGY);
                self.state = State::Draining { reason: EndReason::AgentFailed };
                self.release();
            }
            State::Draining { .. } => {
                // No more will come: a partial last frame may be played now.
                if let Some(latest) = self.playout.latest() {
                    self.playout.end(latest);
                }
            }
            State::Over => {}
        }
    }

    /// Lets a held agent go on: nothing will decide about the hold any more.
    fn release(&mut self) {
        self.playout.resume();
        self.held_since = None;
    }

    fn voice(&mut self, probability: f32, now: Instant, out: &mut Vec<Output>) {
        if !self.wants_voice() {
            return;
        }
        match self.voice.heard(probability) {
            Some(Turn::Onset) if self.mode.barge_in && self.is_agent_speaking() => {
                self.playout.hold();
                self.held_since = Some(now);
            }
            Some(Turn::Confirmed) => {
                if self.mode.barge_in && (self.is_agent_speaking() || self.playout.is_held()) {
                    self.interrupt(now, out);
                }
                if self.mode.speech_edges {
                    out.push(Output::Agent(AgentInput::CallerSpeech(true)));
                }
            }
            Some(Turn::FalseAlarm) => {
                self.stats.false_alarms += 1;
                self.release();
            }
            Some(Turn::Stopped) => {
                self.release();
                let silence = Duration::from_millis(self.config.vad.redemption_ms);
                self.latency.stopped(now.checked_sub(silence).unwrap_or(now));
                if self.mode.speech_edges {
                    out.push(Output::Agent(AgentInput::CallerSpeech(false)));
                }
            }
            Some(Turn::Onset) | None => {}
        }
    }

    /// Cuts what the agent says. Without anything to cut it does nothing but count: providers send it idle, or twice.
    fn interrupt(&mut self, now: Instant, out: &mut Vec<Output>) {
        if !self.is_agent_speaking() {
            self.stats.idle_interruptions += 1;
            return;
        }
        self.stats.interruptions += 1;
        self.cut(out);
        out.push(Output::Leg(LegCommand::Flush));
        out.push(Output::Event(CallEvent::Interruption, now));
    }

    /// Throws away what waits and tells the agent what was heard.
    fn cut(&mut self, out: &mut Vec<Output>) {
        self.cut_up_to = self.cut_up_to.max(self.playout.latest());
        let unheard = if self.pending.take().is_some() { Duration::from_millis(20) } else { Duration::ZERO };
        let delay = Duration::from_millis(self.config.network_delay_ms) + unheard;
        let current = self.playout.cut();
        self.latency.cut();
        self.running = false;
        self.owed = false;
        self.held_since = None;
        let utterance = current.map(|(utterance, _)| utterance);
        let heard = current.map_or(Duration::ZERO, |(_, played)| played.saturating_sub(delay));
        out.push(Output::Agent(AgentInput::Interrupt { utterance, heard }));
    }

    fn timers(&mut self, now: Instant, out: &mut Vec<Output>) {
        match self.state {
            State::Finishing { reason, at, until } if now >= until => self.conclude(reason, at, out),
            State::Live | State::Draining { .. } => {
                if self.max_duration().is_some_and(|limit| now >= limit) {
                    self.finish(EndReason::MaxDuration, now, out);
                } else if self.held_since.is_some_and(|since| now >= since + HOLD_LIMIT) {
                    self.voice.reset();
                    self.release();
                }
            }
            State::Finishing { .. } | State::Over => {}
        }
    }

    /// Plays at most one frame.
    fn play(&mut self, now: Instant, out: &mut Vec<Output>) {
        if !matches!(self.state, State::Live | State::Draining { .. }) || self.leg_gone {
            return;
        }
        let ready = self.pending.is_some() || self.playout.is_ready();
        let due = now >= self.grid.earliest();
        let late_frame_came = self.owed && ready && self.grid.may_send(now);
        if !due && !late_frame_came {
            return;
        }
        if !ready {
            if let State::Draining { reason } = self.state
                && self.playout.queued() == 0
            {
                self.finish(reason, now, out);
                return;
            }
            let waits = self.running && !self.playout.is_held();
            if waits && now < self.grid.slot() + PATIENCE {
                self.owed = true;
                return;
            }
        }
        self.play_slot(now, out);
    }

    fn play_slot(&mut self, now: Instant, out: &mut Vec<Output>) {
        if let Some(frame) = self.pending.take() {
            self.running = true;
            self.send(frame, true, now, out);
            return;
        }
        self.played.clear();
        let taken = self.playout.take(&mut self.played);
        let ended = !self.played.is_empty();
        for utterance in self.played.drain(..) {
            if utterance != APOLOGY {
                out.push(Output::Agent(AgentInput::Played(utterance)));
            }
        }
        let Some(mut frame) = taken else {
            self.silent_slot();
            let mut frame = Frame::silence(self.rate);
            self.mix(&mut frame);
            self.send(frame, false, now, out);
            return;
        };
        self.gap = 0;
        if let Some(latency) = self.latency.played(now) {
            out.push(Output::Event(CallEvent::Turn(latency), now));
        }
        // The end of an utterance is no lateness: nothing is owed after it.
        self.running = !(ended && self.playout.queued() == 0);
        self.mix(&mut frame);
        self.send(frame, true, now, out);
    }

    /// A slot without agent speech.
    fn silent_slot(&mut self) {
        if self.running {
            self.stats.underruns += 1;
        } else if self.gap == 0 {
            // The last utterance ended in order: this is a pause.
            self.gap = PAUSE_SLOTS;
        }
        self.running = false;
        self.gap = self.gap.saturating_add(1);
        if self.gap > PAUSE_SLOTS || self.bursty {
            self.playout.forgive();
            self.bursty &= self.gap <= PAUSE_SLOTS;
        } else {
            self.playout.inserted(self.rate.frame_samples());
        }
    }

    fn mix(&mut self, frame: &mut Frame) {
        if let Some(ambience) = &mut self.ambience {
            ambience.mix_into(frame.samples_mut());
        }
    }

    fn send(&mut self, frame: Frame, words: bool, now: Instant, out: &mut Vec<Output>) {
        self.owed = false;
        self.in_flight = true;
        self.words_out = words;
        self.stats.frames_played += 1;
        self.grid.sent(now);
        out.push(Output::Leg(LegCommand::Audio(frame)));
    }
}

impl Call {
    /// Ends the call for the caller; final transcripts may still come.
    fn finish(&mut self, reason: EndReason, now: Instant, out: &mut Vec<Output>) {
        if !matches!(self.state, State::Live | State::Draining { .. }) {
            return;
        }
        if self.is_agent_speaking() {
            self.cut(out);
        }
        self.state = State::Finishing { reason, at: now, until: now + FINAL_WORDS };
        if !self.leg_gone {
            out.push(Output::Leg(LegCommand::Hangup));
        }
        if self.agent_gone {
            self.conclude(reason, now, out);
        } else {
            out.push(Output::Agent(AgentInput::Finish));
        }
    }

    fn conclude(&mut self, reason: EndReason, at: Instant, out: &mut Vec<Output>) {
        self.state = State::Over;
        out.push(Output::Event(CallEvent::Ended(reason), at));
        out.push(Output::End(reason));
    }
}
