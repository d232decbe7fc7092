//! The loop of one call: feeds [`Call`] and carries out what it returns. It owns no policy and never waits for a peer.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::{Duration, SystemTime},
};

use std::pin::Pin;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    hearing::Hearing,
    sources::{Source, Sources},
    unsent::Unsent,
    voice::Ear,
};
use crate::{
    audio::{self, beep::Detector},
    call::{
        Agent, AgentEvent, AgentInput, Call, CallEvent, CallId, Cause, Command, EndReason, Envelope, EventId, Fault,
        Input, Leg, LegCommand, LegEvent, Output, Sent, Setup, Stats, Tape, Turn,
    },
};

/// Turns of the agent that are remembered until the end of the call.
const MAX_TURNS: usize = 500;
/// How long leg and agent may take to close, each in its own orderly way.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);
/// How long the last events of a call may wait for the event task.
const FLUSH_LIMIT: Duration = Duration::from_secs(120);

/// One call, ready to run.
#[derive(Debug)]
pub struct Session<L, A> {
    /// Our identity of the call.
    pub id: CallId,
    /// The UUID on the wire.
    pub uuid: Uuid,
    /// What the call starts with.
    pub setup: Setup,
    /// The call's recording, if it is recorded.
    pub tape: Option<Box<Tape>>,
    /// What is done to the caller's audio.
    pub audio: Arc<audio::Config>,
    /// Asterisk's side.
    pub leg: L,
    /// The AI's side.
    pub agent: A,
    /// To the event task.
    pub events: mpsc::Sender<Envelope>,
    /// From operator and API.
    pub commands: mpsc::Receiver<Command>,
    /// Told when what the agent was saying has been heard, after [`Command::HandOver`].
    pub heard_out: Arc<Notify>,
    /// Ends the call with [`EndReason::Shutdown`].
    pub stop: CancellationToken,
    /// Set once `call_ended` has been decided, so that whoever catches a panic knows whether to report it.
    pub ended: Arc<AtomicBool>,
}

/// How a call went.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Why it ended.
    pub reason: EndReason,
    /// How long it took.
    pub duration: Duration,
    /// What was counted.
    pub stats: Stats,
    /// Frames of the caller.
    pub frames_in: u64,
    /// Frames of the caller that the agent did not take.
    pub agent_refused: u64,
    /// Transcriptions dropped because nobody took the call's events.
    pub events_lost: u64,
    /// Turns of the agent, the first ones.
    pub turns: Vec<Turn>,
}

impl Summary {
    /// A call of which only this is known.
    #[must_use]
    pub fn of(reason: EndReason, duration: Duration) -> Self {
        Self {
            reason,
            duration,
            stats: Stats::default(),
            frames_in: 0,
            agent_refused: 0,
            events_lost: 0,
            turns: Vec::new(),
        }
    }
}

/// Wall-clock times of a call, from one anchor, so that they never run backwards.
struct Clock {
    instant: Instant,
    system: SystemTime,
}

impl<L: Leg, A: Agent> Session<L, A> {
    /// Runs the call to its end, then closes leg and agent.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn keeps two copies of `self`, and there are thousands of these"
    )]
    pub fn run(mut self) -> impl Future<Output = Summary> {
        async move {
            let clock = Clock { instant: Instant::now(), system: SystemTime::now() };
            let mut driver = Driver {
                out: Vec::with_capacity(16),
                refused: None,
                unsent: Unsent::default(),
                clock,
                frames_in: 0,
                agent_refused: 0,
                turns: Vec::new(),
                end: None,
                sources: Sources::new(),
                ear: None,
                beep: None,
            };
            let mut call = Call::new(self.setup_taken(), driver.clock.instant.into_std(), &mut driver.out);
            driver.carry_out(&mut self);
            let reason = self.drive(&mut call, &mut driver).await;
            let stats = call.stats();
            drop(call);
            let summary = Summary {
                reason,
                duration: driver.clock.instant.elapsed(),
                stats,
                frames_in: driver.frames_in,
                agent_refused: driver.agent_refused,
                events_lost: driver.unsent.lost,
                turns: driver.turns,
            };
            // Boxed, because it is larger than all of a call that lives.
            Box::pin(self.wind_up(driver.unsent)).await;
            summary
        }
    }

    fn setup_taken(&mut self) -> Setup {
        Setup {
            rules: Arc::clone(&self.setup.rules),
            rate: self.setup.rate,
            lead: self.setup.lead,
            mode: self.setup.mode,
            ambience: self.setup.ambience.take(),
            apology: Arc::clone(&self.setup.apology),
            budget: Arc::clone(&self.setup.budget),
            screen: self.setup.screen.take(),
        }
    }

    async fn drive(&mut self, call: &mut Call, driver: &mut Driver) -> EndReason {
        let mut open = Open { leg: true, agent: true, commands: true, leg_first: true };
        let mut hearing = Hearing::new(&self.audio, self.setup.rate);
        let wake = sleep_until(call.deadline().into());
        let stop = self.stop.clone();
        let stopped = stop.cancelled();
        tokio::pin!(wake, stopped);
        let mut stopping = false;
        loop {
            let read_agent = call.wants_agent();
            let mut input = poll_fn(|cx| {
                driver.sources.begin(cx);
                if !stopping && driver.sources.poll(Source::Stop, |cx| stopped.as_mut().poll(cx)).is_ready() {
                    stopping = true;
                    return Poll::Ready(Input::Command(Command::Hangup(EndReason::Shutdown)));
                }
                if driver.sources.poll(Source::Timer, |cx| wake.as_mut().poll(cx)).is_ready() {
                    return Poll::Ready(Input::Tick);
                }
                self.poll_input(&mut driver.sources, &mut open, read_agent)
            })
            .await;
            let now = Instant::now().into_std();
            let probability = match &input {
                Input::Leg(LegEvent::Audio(frame)) if call.wants_voice() => {
                    driver.ear.get_or_insert_with(|| Box::new(Ear::new(frame.rate()))).heard(frame)
                }
                _ => None,
            };
            let beeped = match &input {
                Input::Leg(LegEvent::Audio(frame)) if call.wants_beep() => {
                    let rate = frame.rate();
                    driver.beep.get_or_insert_with(|| Box::new(Detector::new(rate))).push(frame.samples())
                }
                _ => false,
            };
            // as the caller said it, before anything is done to it for the agent
            self.record(&input, now);
            let digit = hearing.as_mut().and_then(|hearing| hearing.take(&mut input, now));
            report(&input);
            driver.frames_in += u64::from(matches!(input, Input::Leg(LegEvent::Audio(_))));
            self.step(call, driver, input, now);
            if let Some(digit) = digit {
                let input = Input::Leg(LegEvent::Dtmf(digit));
                report(&input);
                self.step(call, driver, input, now);
            }
            if beeped {
                self.step(call, driver, Input::Beep, now);
            }
            if let Some(probability) = probability {
                self.step(call, driver, Input::Voice(probability), now);
            }
            if driver.end.is_some() {
                self.recorded(now);
            }
            driver.unsent.send(&self.events);
            if let Some(reason) = driver.end {
                return reason;
            }
            let deadline = call.deadline().into();
            // Most inputs leave it where it is.
            if wake.deadline() != deadline {
                wake.as_mut().reset(deadline);
                driver.sources.rouse(Source::Timer);
            }
        }
    }

    /// One input, and what it leads to. What the leg refuses is told before anything else: the next frame must not take its place.
    fn step(&mut self, call: &mut Call, driver: &mut Driver, input: Input, now: std::time::Instant) {
        call.handle(input, now, &mut driver.out);
        driver.carry_out(self);
        while let Some(frame) = driver.refused.take() {
            call.handle(Input::Leg(LegEvent::Refused(frame)), now, &mut driver.out);
            driver.carry_out(self);
        }
    }

    /// What an input means for the recording.
    fn record(&mut self, input: &Input, now: std::time::Instant) {
        let Some(tape) = &mut self.tape else { return };
        match input {
            Input::Leg(LegEvent::Audio(frame)) => tape.caller(frame.samples(), now),
            Input::Leg(LegEvent::Hangup(_)) => self.recorded(now),
            Input::Command(Command::Record(on)) => tape.pause(!on),
            _ => {}
        }
    }

    /// The caller is gone: the recording is over, before anybody hears that the call is.
    fn recorded(&mut self, now: std::time::Instant) {
        if let Some(mut tape) = self.tape.take() {
            tape.finish(now);
        }
    }

    /// The next order, or event of either side.
    fn poll_input(&mut self, sources: &mut Sources, open: &mut Open, read_agent: bool) -> Poll<Input> {
        if open.commands
            && let Poll::Ready(command) = sources.poll(Source::Commands, |cx| self.commands.poll_recv(cx))
        {
            match command {
                Some(command) => return Poll::Ready(Input::Command(command)),
                None => open.commands = false,
            }
        }
        for leg_next in [open.leg_first, !open.leg_first] {
            let input =
                if leg_next { self.poll_leg(sources, open) } else { self.poll_agent(sources, open, read_agent) };
            if input.is_ready() {
                // The order alternates, so that a flood from one never silences the other.
                open.leg_first = !open.leg_first;
                return input;
            }
        }
        Poll::Pending
    }

    fn poll_leg(&mut self, sources: &mut Sources, open: &mut Open) -> Poll<Input> {
        if !open.leg {
            return Poll::Pending;
        }
        sources.poll(Source::Leg, |cx| Pin::new(&mut self.leg).poll_next(cx)).map(|event| {
            open.leg = event.is_some();
            Input::Leg(event.unwrap_or(LegEvent::Hangup(Cause::Normal)))
        })
    }

    fn poll_agent(&mut self, sources: &mut Sources, open: &mut Open, wanted: bool) -> Poll<Input> {
        if !open.agent || !wanted {
            return Poll::Pending;
        }
        sources.poll(Source::Agent, |cx| Pin::new(&mut self.agent).poll_next(cx)).map(|event| {
            open.agent = event.is_some();
            Input::Agent(event.unwrap_or_else(|| AgentEvent::Failed(gone())))
        })
    }

    async fn wind_up(self, mut unsent: Unsent) {
        let Self { leg, agent, events, .. } = self;
        let close = async {
            let leg = timeout(CLOSE_LIMIT, leg.close());
            let agent = timeout(CLOSE_LIMIT, agent.close());
            let (leg, agent) = tokio::join!(leg, agent);
            if leg.is_err() {
                debug!("Asterisk did not close the connection in time");
            }
            if agent.is_err() {
                debug!("the agent's service did not close the connection in time");
            }
        };
        let flush = async {
            while let Some(envelope) = unsent.queue.pop_front() {
                if events.send(envelope).await.is_err() {
                    break;
                }
            }
        };
        let (_, flushed) = tokio::join!(close, timeout(FLUSH_LIMIT, flush));
        if flushed.is_err() {
            warn!(events = unsent.queue.len(), "events of this call are lost: nobody took them for two minutes");
        }
    }
}

/// What the loop carries from one wake to the next.
struct Driver {
    out: Vec<Output>,
    refused: Option<crate::audio::Frame>,
    unsent: Unsent,
    clock: Clock,
    frames_in: u64,
    agent_refused: u64,
    turns: Vec<Turn>,
    end: Option<EndReason>,
    sources: Sources,
    /// Boxed: speech-to-speech calls have none.
    ear: Option<Box<Ear>>,
    /// For calls that we made, until it is known who has answered.
    beep: Option<Box<Detector>>,
}

impl Driver {
    /// Carries out everything that the call decided, without waiting.
    fn carry_out<L: Leg, A: Agent>(&mut self, session: &mut Session<L, A>) {
        let mut out = std::mem::take(&mut self.out);
        for output in out.drain(..) {
            match output {
                Output::Leg(command) => {
                    if matches!(command, LegCommand::Hangup) {
                        session.recorded(Instant::now().into_std());
                    }
                    if let (LegCommand::Audio(frame), Some(tape)) = (&command, &mut session.tape) {
                        tape.heard(frame.samples(), Instant::now().into_std());
                    }
                    if let (LegCommand::Audio(frame), Some(ear)) = (&command, &mut self.ear) {
                        ear.played(frame);
                    }
                    // a mark goes out with the audio behind it
                    let audio = matches!(command, LegCommand::Audio(_) | LegCommand::Mark(_));
                    let sent = session.leg.send(command);
                    self.follow(Source::Leg, audio, &sent);
                    if let (Some(tape), Sent::Refused(LegCommand::Audio(_))) = (&mut session.tape, &sent) {
                        tape.unheard();
                    }
                    if let Sent::Refused(LegCommand::Audio(frame)) = sent {
                        self.refused = Some(frame);
                    }
                }
                Output::Agent(input) => {
                    let audio = matches!(input, AgentInput::Audio(_));
                    let sent = session.agent.send(input);
                    self.follow(Source::Agent, audio, &sent);
                    self.agent_refused += u64::from(matches!(sent, Sent::Refused(_)));
                }
                Output::Event(event, at) => {
                    match &event {
                        CallEvent::Ended(_) => session.ended.store(true, Ordering::Release),
                        CallEvent::Turn(turn) if self.turns.len() < MAX_TURNS => self.turns.push(*turn),
                        _ => {}
                    }
                    let since = Instant::from_std(at).saturating_duration_since(self.clock.instant);
                    self.unsent.push(Envelope {
                        id: EventId::new(),
                        call: session.id,
                        uuid: session.uuid,
                        at: self.clock.system + since,
                        event,
                    });
                }
                Output::HeardOut => session.heard_out.notify_one(),
                Output::Unheard(frames) => {
                    if let Some(tape) = &mut session.tape {
                        tape.flushed(frames);
                    }
                }
                Output::End(reason) => self.end = Some(reason),
            }
        }
        self.out = out;
    }

    /// Whatever was sent may leave something to do inside; audio that went whole does not.
    fn follow<C>(&mut self, source: Source, audio: bool, sent: &Sent<C>) {
        if !(audio && matches!(sent, Sent::Whole)) {
            self.sources.rouse(source);
        }
    }
}

/// Which sources have not ended, and which side comes first.
struct Open {
    leg: bool,
    agent: bool,
    commands: bool,
    leg_first: bool,
}

fn gone() -> Fault {
    Fault { code: "agent.gone", message: "the agent's service ended the session".to_owned() }
}

/// What an operator wants to read about an input. Words and digits stay at debug.
fn report(input: &Input) {
    match input {
        Input::Agent(AgentEvent::Degraded(fault)) => warn!(code = fault.code, "agent in trouble: {}", fault.message),
        Input::Agent(AgentEvent::Restored) => info!("agent recovered"),
        Input::Agent(AgentEvent::Failed(fault)) if fault.code == "agent.gone" => debug!("agent: {}", fault.message),
        Input::Agent(AgentEvent::Failed(fault)) => {
            tracing::error!(code = fault.code, "agent failed: {}", fault.message);
        }
        Input::Agent(AgentEvent::Transcript { role, text, is_final }) => {
            debug!(role = role.as_str(), is_final, "transcript: {text:?}");
        }
        Input::Leg(LegEvent::Dtmf(digit)) => debug!("DTMF digit {digit}"),
        Input::Leg(LegEvent::Hangup(cause)) => debug!("leg gone: {cause:?}"),
        _ => {}
    }
}
