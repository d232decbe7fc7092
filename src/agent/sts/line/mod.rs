//! A session with a vendor of speech to speech: connects, and again where that helps; carries audio, words and tools both ways.
//!
//! All I/O happens in the call's own task, as in [`super::websocket`]. What is held, and what happens when it is full:
//!
//! - the caller while there is no session: 12 s; while the vendor reads nothing: 1 s; then the oldest goes and is counted;
//! - speech of the vendor: one message, handed on in pieces of a second or less, so that minutes at once never stop other calls of a thread;
//! - orders and tools: 16, then they are refused.

mod connect;
mod heard;
mod orders;
mod tools;

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as Poller, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt as _;
use tokio::time::{Instant, Sleep, sleep_until};

use self::{connect::Refused, orders::Order, tools::Tools};
use super::{
    codec::{Down, Formats, Up},
    dialect::{Dialect, Past, Setup, Told},
    turns::{Ordered, Turns},
};
use crate::{
    agent::{
        Context,
        llm::{Tool, ToolCall},
        pipe::Pipe,
        prompt::SystemPrompt,
        retry::{Streak, fault},
        vendor::Codes,
    },
    audio::Frame,
    call::{Agent, AgentEvent, AgentInput, Fault, Link, ModelUsage, Role, Sent, Usage, UtteranceId},
};

const NAME: &str = "speech to speech";
const CODES: Codes = Codes {
    name: NAME,
    unauthorized: "agent.sts.unauthorized",
    quota: "agent.sts.quota",
    timeout: "agent.sts.timeout",
    unreachable: "agent.sts.unreachable",
    refused: "agent.sts.refused",
    failed: "agent.sts.failed",
    broken: "agent.sts.lost",
};

/// The caller's frames held while there is no session: 12 s.
const MAX_HELD: usize = 600;
/// The same while a session is there and reads nothing: 1 s.
const MAX_STALLED: usize = 50;
/// The caller's newest frames, which go out again when a connection breaks while they speak: 2 s.
const MAX_RECENT: usize = 100;
/// Bytes of speech that are converted at once.
const PIECE: usize = 8 * 1024;
/// Messages without an effect read before other tasks get their turn.
const MAX_IDLE_READS: usize = 64;
/// Orders that wait for a session.
const MAX_ORDERS: usize = 16;
/// Bytes of what was said before that a new session is told, at most.
const MAX_PAST: usize = 64 * 1024;
/// How long the last words and tools are waited for when the call is over.
const FINISH: Duration = Duration::from_millis(1_500);
/// So many turns of the caller to which nothing came at all: another session may hear better.
const UNANSWERED: u32 = 3;
/// A connection that lives this long was no failure, however it ends.
const HEALTHY: Duration = Duration::from_secs(10);

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A vendor's session as the agent of a call.
pub struct Line {
    ctx: Context,
    dialect: Box<dyn Dialect>,
    /// What the model is told to be, once it is known.
    prompt: Option<Arc<str>>,
    specs: Arc<[Tool]>,
    greeting: Option<String>,
    state: State,
    /// The next session, while this one still serves.
    renewal: Option<Renewal>,
    closing: Option<Later<()>>,
    streak: Streak,
    /// Times in a row that the service said nothing.
    deaf: u32,
    formats: Formats,
    up: Up,
    down: Down,
    /// Frames that wait to be sent.
    caller: VecDeque<Frame>,
    recent: VecDeque<Frame>,
    dropped: u64,
    slow: bool,
    todo: VecDeque<Todo>,
    told: Vec<Told>,
    turns: Turns,
    words: Ordered,
    past: VecDeque<Past>,
    orders: VecDeque<Order>,
    tools: Tools,
    usage: BTreeMap<String, ModelUsage>,
    /// The next turn is to be heard to its end.
    protect: bool,
    trouble: bool,
    /// The caller speaks, by our own ear.
    speaking: bool,
    /// The caller has begun to speak, and their words are not known.
    open_speech: bool,
    /// The caller waits for an answer.
    owed: bool,
    /// Since when something should come.
    asked: Option<Instant>,
    /// When speech came last, of a turn that is open.
    spoken: Option<Instant>,
    /// Turns of the caller since anything came.
    unanswered: u32,
    finishing: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    strange: u64,
}

enum State {
    /// It is asked what the model is to be.
    Preparing(Later<Option<Arc<str>>>),
    Waiting(Instant),
    Connecting(Later<Result<Pipe, Refused>>),
    Open(Box<Session>),
    Ended,
}

/// One connection.
struct Session {
    pipe: Pipe,
    since: Instant,
    /// The session is set up.
    ready: bool,
    /// It was of use.
    useful: bool,
    /// When something last went out.
    sent: Instant,
}

/// The next session is prepared.
struct Renewal {
    /// The old one ends then.
    by: Instant,
    stage: Stage,
}

enum Stage {
    /// Once nobody speaks, or then.
    Wanted(Instant),
    Connecting(Later<Result<Pipe, Refused>>),
    /// To be taken once nobody speaks, or then.
    Connected(Box<Pipe>, Instant),
}

/// What is to be given out, in order.
enum Todo {
    Event(AgentEvent),
    Speech(UtteranceId, Bytes),
    /// All speech of it has been given out.
    End(UtteranceId),
    Tools(Vec<ToolCall>),
}

impl Line {
    /// Begins to connect; the stream reports how it goes.
    #[must_use]
    pub fn start(ctx: Context, dialect: Box<dyn Dialect>, greeting: Option<String>, needs_prompt: bool) -> Self {
        let formats = dialect.formats();
        let prompt = SystemPrompt::new(ctx.clone(), needs_prompt);
        let preparing: Later<_> = Box::pin(async move { prompt.get().await });
        Self {
            prompt: None,
            specs: ctx.tools.specs(),
            greeting,
            state: State::Preparing(preparing),
            renewal: None,
            closing: None,
            streak: Streak::new(Duration::from_millis(ctx.config.reconnect_ms)),
            deaf: 0,
            formats,
            up: Up::new(ctx.rate, formats.up, ctx.config.frames_per_message()),
            down: Down::new(ctx.rate, formats.down),
            caller: VecDeque::new(),
            recent: VecDeque::new(),
            dropped: 0,
            slow: false,
            todo: VecDeque::new(),
            told: Vec::new(),
            turns: Turns::new(ctx.rate, dialect.corrects()),
            words: Ordered::default(),
            past: VecDeque::new(),
            orders: VecDeque::new(),
            tools: Tools::default(),
            usage: BTreeMap::new(),
            protect: false,
            trouble: false,
            speaking: false,
            open_speech: false,
            owed: false,
            asked: None,
            spoken: None,
            unanswered: 0,
            finishing: None,
            timer: None,
            strange: 0,
            ctx,
            dialect,
        }
    }

    /// A service that says nothing for this long when it is its turn is not there.
    fn patience(&self) -> Duration {
        Duration::from_millis(self.ctx.config.silent_after_error_ms)
    }

    fn is_ready(&self) -> bool {
        matches!(&self.state, State::Open(session) if session.ready)
    }

    fn event(&mut self, event: AgentEvent) {
        self.todo.push_back(Todo::Event(event));
    }

    fn fault(&self, code: &'static str, what: String) -> Fault {
        fault(code, NAME, self.dialect.scrub(what))
    }

    /// It is in trouble and goes on; said once until it works again.
    fn troubled(&mut self, code: &'static str, what: String) {
        let fault = self.fault(code, what);
        if std::mem::replace(&mut self.trouble, true) {
            tracing::debug!(code, "further trouble: {}", fault.message);
        } else {
            self.event(AgentEvent::Degraded(fault));
        }
    }

    fn works(&mut self) {
        if std::mem::take(&mut self.trouble) {
            self.event(AgentEvent::Restored);
        }
    }

    /// It has failed for good.
    fn fail(&mut self, code: &'static str, what: String) {
        let fault = self.fault(code, what);
        self.end_open_turn(None);
        if self.finishing.is_none() {
            self.event(AgentEvent::Failed(fault));
        }
        self.complete();
    }

    /// What has been said in all, and the end.
    fn complete(&mut self) {
        for text in self.words.give_up() {
            self.caller_said(text);
        }
        self.tell_agent(true);
        self.give_up_tools("the call is over");
        let models: Vec<_> = std::mem::take(&mut self.usage).into_values().collect();
        if !models.is_empty() {
            self.event(AgentEvent::Usage(Usage { models, ..Usage::default() }));
        }
        self.renewal = None;
        if let State::Open(session) = std::mem::replace(&mut self.state, State::Ended) {
            self.closing = Some(Box::pin(session.pipe.close()));
        }
    }

    /// The words of the agent's turns that are over.
    fn tell_agent(&mut self, all: bool) {
        for text in self.turns.said(all) {
            self.remember(Past::Agent(text.clone()));
            self.event(AgentEvent::Transcript { role: Role::Agent, text, is_final: true });
        }
    }

    fn caller_said(&mut self, text: String) {
        self.remember(Past::Caller(text.clone()));
        self.event(AgentEvent::Transcript { role: Role::User, text, is_final: true });
    }

    fn remember(&mut self, past: Past) {
        self.past.push_back(past);
        let limit = MAX_PAST.min(self.ctx.config.history_tokens.saturating_mul(4));
        let mut length: usize = self.past.iter().map(Past::len).sum();
        while length > limit && self.past.len() > 1 {
            length -= self.past.pop_front().map_or(0, |oldest| oldest.len());
        }
    }

    /// The next thing to give out.
    fn next_event(&mut self) -> Option<AgentEvent> {
        while let Some(todo) = self.todo.pop_front() {
            match todo {
                Todo::Event(event) => return Some(event),
                Todo::Speech(id, mut audio) => {
                    let samples = self.down.convert(&audio.split_to(audio.len().min(PIECE)));
                    if !audio.is_empty() {
                        self.todo.push_front(Todo::Speech(id, audio));
                    }
                    if !samples.is_empty() {
                        return Some(AgentEvent::Audio(id, samples));
                    }
                }
                Todo::End(id) => {
                    let rest = self.down.finish();
                    self.todo.push_front(Todo::Event(AgentEvent::AudioEnd(id)));
                    if !rest.is_empty() {
                        return Some(AgentEvent::Audio(id, rest));
                    }
                }
                Todo::Tools(calls) => self.begin_tools(calls),
            }
        }
        None
    }

    /// The nearest of the times at which something is to be done.
    fn deadline(&mut self) -> Option<Instant> {
        let connect = Duration::from_millis(self.ctx.config.connect_timeout_ms);
        let (own, idle, renewed) = match &self.state {
            State::Waiting(at) => (Some(*at), None, None),
            State::Open(session) if !session.ready => (Some(session.since + connect), None, None),
            State::Open(session) => {
                let idle = self.dialect.idle().map(|(period, _)| session.sent + period);
                let renewed = match &self.renewal {
                    None => self.dialect.lifetime().map(|lifetime| session.since + lifetime),
                    Some(Renewal { stage: Stage::Wanted(at) | Stage::Connected(_, at), .. }) => Some(*at),
                    Some(_) => None,
                };
                (self.asked.map(|at| at + self.patience()), idle, renewed)
            }
            State::Preparing(_) | State::Connecting(_) | State::Ended => (None, None, None),
        };
        let tools = self.tools.deadline(self.turns.is_heard());
        let over = self.spoken.zip(self.dialect.pause()).map(|(at, pause)| at + pause);
        [own, idle, renewed, tools, over, self.words.deadline(), self.finishing].into_iter().flatten().min()
    }

    /// Waits for the next deadline, and does what is due then.
    fn poll_deadline(&mut self, cx: &mut Poller<'_>) -> Poll<()> {
        let Some(next) = self.deadline() else { return Poll::Pending };
        // what is due now needs no timer, which would be a millisecond late each time
        if Instant::now() < next {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(next)));
            if timer.deadline() != next {
                timer.as_mut().reset(next);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        self.timer = None;
        self.due(Instant::now());
        Poll::Ready(())
    }

    fn due(&mut self, now: Instant) {
        if self.finishing.is_some_and(|at| now >= at) {
            return self.complete();
        }
        if self.words.deadline().is_some_and(|at| now >= at) {
            for text in self.words.give_up() {
                self.caller_said(text);
            }
        }
        if self.spoken.zip(self.dialect.pause()).is_some_and(|(at, pause)| now >= at + pause) {
            self.turn_done();
        }
        self.tools_due(now);
        self.session_due(now);
    }

    /// The agent has said everything.
    fn turn_done(&mut self) {
        self.end_open_turn(None);
        self.turns.settled();
        self.owed = false;
        self.spoken = None;
        self.event(AgentEvent::TurnDone);
        self.tell_agent(false);
    }

    /// Whether what was waited for at the end has come.
    fn is_finished(&self) -> bool {
        self.finishing.is_some() && !self.words.is_waiting() && self.tools.is_empty()
    }
}

/// What a session begins with, from the fields of a line: a method would borrow all of them.
macro_rules! setup {
    ($line:expr) => {
        Setup {
            prompt: $line.prompt.as_deref(),
            tools: &$line.specs,
            greeting: $line.greeting.as_deref(),
            language: $line.ctx.config.language.as_deref(),
            about: &$line.ctx.about,
            past: $line.past.make_contiguous(),
            owed: $line.owed && !$line.open_speech,
        }
    };
}
use setup;

impl Stream for Line {
    type Item = AgentEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<Option<AgentEvent>> {
        let this = self.get_mut();
        loop {
            if this.poll_connections(cx).is_ready() {
                continue;
            }
            if let Some(event) = this.next_event() {
                return Poll::Ready(Some(event));
            }
            if matches!(this.state, State::Ended) {
                return Poll::Ready(None);
            }
            if this.is_finished() {
                this.complete();
                continue;
            }
            let busy = this.poll_tools(cx).is_ready()
                || this.poll_read(cx).is_ready()
                || this.poll_renewal(cx).is_ready()
                || this.poll_deadline(cx).is_ready();
            if !busy {
                return Poll::Pending;
            }
        }
    }
}

impl Link for Line {
    type Event = AgentEvent;
    type Command = AgentInput;

    fn send(&mut self, input: AgentInput) -> Sent<AgentInput> {
        if matches!(self.state, State::Ended)
            || (self.finishing.is_some() && !matches!(input, AgentInput::Interrupt { .. }))
        {
            return Sent::Whole;
        }
        self.take(input)
    }
}

impl Agent for Line {
    async fn close(mut self) {
        if !matches!(self.state, State::Ended) {
            let _ = self.send(AgentInput::Finish);
            let end = async { while self.next().await.is_some() {} };
            // what comes now has nobody to go to
            let _ = tokio::time::timeout(2 * FINISH, end).await;
        }
        if let Some(closing) = self.closing.take() {
            closing.await;
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.dropped + self.strange > 0 {
            let (dropped, strange) = (self.dropped, self.strange);
            tracing::debug!(dropped, strange, "oddities of the session with {NAME}");
        }
    }
}
