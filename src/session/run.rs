//! The loop of one call: feeds [`Call`] and carries out what it returns. It owns no policy and never waits for a peer.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::{Duration, SystemTime},
};

use futures_core::Stream;
use std::pin::Pin;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::{
    audio::vad::Vad,
    call::{
        Agent, AgentEvent, Call, CallEvent, CallId, Cause, Command, EndReason, Envelope, EventId, Fault, Input, Leg,
        LegCommand, LegEvent, Output, Sent, Setup, Stats,
    },
};

/// Events of one call that wait for the event task; beyond it the oldest transcriptions go, lifecycle events never.
const MAX_UNSENT: usize = 1_000;
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
    /// Asterisk's side.
    pub leg: L,
    /// The AI's side.
    pub agent: A,
    /// To the event task.
    pub events: mpsc::Sender<Envelope>,
    /// From operator and API.
    pub commands: mpsc::Receiver<Command>,
    /// Ends the call with [`EndReason::Shutdown`].
    pub stop: CancellationToken,
    /// Set once `call_ended` has been decided, so that whoever catches a panic knows whether to report it.
    pub ended: Arc<AtomicBool>,
}

/// How a call went.
#[derive(Debug, Clone, Copy)]
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
}

impl Summary {
    /// A call of which only this is known.
    #[must_use]
    pub fn of(reason: EndReason, duration: Duration) -> Self {
        Self { reason, duration, stats: Stats::default(), frames_in: 0, agent_refused: 0, events_lost: 0 }
    }
}

/// Wall-clock times of a call, from one anchor, so that they never run backwards.
struct Clock {
    instant: Instant,
    system: SystemTime,
}

struct Unsent {
    queue: VecDeque<Envelope>,
    lost: u64,
}

impl Unsent {
    fn push(&mut self, envelope: Envelope) {
        if self.queue.len() >= MAX_UNSENT {
            let oldest = self.queue.iter().position(|old| matches!(old.event, CallEvent::Transcription { .. }));
            if let Some(oldest) = oldest {
                self.queue.remove(oldest);
                self.lost += 1;
            }
        }
        self.queue.push_back(envelope);
    }

    fn send(&mut self, events: &mpsc::Sender<Envelope>) {
        while let Some(envelope) = self.queue.pop_front() {
            match events.try_send(envelope) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(envelope) | mpsc::error::TrySendError::Closed(envelope)) => {
                    self.queue.push_front(envelope);
                    break;
                }
            }
        }
    }
}

impl<L: Leg, A: Agent> Session<L, A> {
    /// Runs the call to its end, then closes leg and agent.
    pub async fn run(mut self) -> Summary {
        let clock = Clock { instant: Instant::now(), system: SystemTime::now() };
        let mut driver = Driver {
            out: Vec::with_capacity(16),
            refused: None,
            unsent: Unsent { queue: VecDeque::new(), lost: 0 },
            clock,
            frames_in: 0,
            agent_refused: 0,
            end: None,
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
        };
        self.wind_up(driver.unsent).await;
        summary
    }

    fn setup_taken(&mut self) -> Setup {
        Setup {
            config: Arc::clone(&self.setup.config),
            rate: self.setup.rate,
            mode: self.setup.mode,
            ambience: self.setup.ambience.take(),
            apology: Arc::clone(&self.setup.apology),
            budget: Arc::clone(&self.setup.budget),
        }
    }

    async fn drive(&mut self, call: &mut Call, driver: &mut Driver) -> EndReason {
        let (mut leg_open, mut agent_open, mut stopping, mut commands_open) = (true, true, false, true);
        let mut leg_first = true;
        let mut vad: Option<Vad> = None;
        let wake = sleep_until(call.deadline().into());
        // Made once: each new one takes a lock and a place in a list, three times a frame.
        let stop = self.stop.clone();
        let stopped = stop.cancelled();
        tokio::pin!(wake, stopped);
        loop {
            let read_agent = agent_open && call.wants_agent();
            let input = tokio::select! { biased;
                () = &mut stopped, if !stopping => {
                    stopping = true;
                    Input::Command(Command::Hangup(EndReason::Shutdown))
                }
                () = &mut wake => Input::Tick,
                command = self.commands.recv(), if commands_open => match command {
                    Some(command) => Input::Command(command),
                    None => { commands_open = false; continue }
                },
                side = next_of(&mut self.leg, leg_open, &mut self.agent, read_agent, leg_first) => {
                    leg_first = !leg_first;
                    match side {
                        Side::Leg(Some(event)) => Input::Leg(event),
                        Side::Leg(None) => { leg_open = false; Input::Leg(LegEvent::Hangup(Cause::Normal)) }
                        Side::Agent(Some(event)) => Input::Agent(event),
                        Side::Agent(None) => { agent_open = false; Input::Agent(AgentEvent::Failed(gone())) }
                    }
                },
            };
            let now = Instant::now().into_std();
            let probability = match &input {
                Input::Leg(LegEvent::Audio(frame)) if call.wants_voice() => {
                    vad.get_or_insert_with(|| Vad::new(frame.rate())).push(frame)
                }
                _ => None,
            };
            report(&input);
            driver.frames_in += u64::from(matches!(input, Input::Leg(LegEvent::Audio(_))));
            call.handle(input, now, &mut driver.out);
            driver.carry_out(self);
            if let Some(probability) = probability {
                call.handle(Input::Voice(probability), now, &mut driver.out);
                driver.carry_out(self);
            }
            if let Some(frame) = driver.refused.take() {
                call.handle(Input::Leg(LegEvent::Refused(frame)), now, &mut driver.out);
                driver.carry_out(self);
            }
            driver.unsent.send(&self.events);
            if let Some(reason) = driver.end {
                return reason;
            }
            let deadline = call.deadline().into();
            // Most inputs leave it where it is.
            if wake.deadline() != deadline {
                wake.as_mut().reset(deadline);
            }
        }
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
    end: Option<EndReason>,
}

impl Driver {
    /// Carries out everything that the call decided, without waiting.
    fn carry_out<L: Leg, A: Agent>(&mut self, session: &mut Session<L, A>) {
        for output in self.out.drain(..) {
            match output {
                Output::Leg(command) => {
                    if let Sent::Refused(LegCommand::Audio(frame)) = session.leg.send(command) {
                        self.refused = Some(frame);
                    }
                }
                Output::Agent(input) => {
                    if matches!(session.agent.send(input), Sent::Refused(_)) {
                        self.agent_refused += 1;
                    }
                }
                Output::Event(event, at) => {
                    if matches!(event, CallEvent::Ended(_)) {
                        session.ended.store(true, Ordering::Release);
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
                Output::End(reason) => self.end = Some(reason),
            }
        }
    }
}

enum Side<L, A> {
    Leg(Option<L>),
    Agent(Option<A>),
}

/// The next event of either side; the order alternates, so that a flood from one never silences the other.
async fn next_of<L, A>(
    leg: &mut L,
    leg_open: bool,
    agent: &mut A,
    agent_open: bool,
    leg_first: bool,
) -> Side<L::Item, A::Item>
where
    L: Stream + Unpin,
    A: Stream + Unpin,
{
    poll_fn(|context| {
        for turn in [leg_first, !leg_first] {
            if turn && leg_open {
                if let Poll::Ready(event) = Pin::new(&mut *leg).poll_next(context) {
                    return Poll::Ready(Side::Leg(event));
                }
            } else if !turn
                && agent_open
                && let Poll::Ready(event) = Pin::new(&mut *agent).poll_next(context)
            {
                return Poll::Ready(Side::Agent(event));
            }
        }
        Poll::Pending
    })
    .await
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
