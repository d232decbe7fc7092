//! One call under a simulated clock: the gateway's own session loop, voice activity and rules, between a leg and an agent in memory.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, atomic::AtomicBool},
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use hark::{
    audio::{self, Frame, Rate},
    call::{
        Agent, AgentEvent, AgentInput, Budget, CallId, Cause, Config, Leg, LegCommand, LegEvent, Link, Mode, Role,
        Rules, Sent, Setup, Stats, UtteranceId,
    },
    session::Session,
};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

const PERIOD: Duration = Duration::from_millis(20);
/// The agent begins to speak.
const BEGIN: Duration = Duration::from_millis(500);
/// So long after a cut it speaks again.
const AGAIN: Duration = Duration::from_secs(1);
/// What the agent says at once.
const UTTERANCE: Duration = Duration::from_secs(20);
/// A recognition that streams tells words so long after the voice.
const RECOGNISED: Duration = Duration::from_millis(300);

/// Words that speech recognition reports, and when.
#[derive(Debug, Clone)]
pub struct Words {
    pub at: Duration,
    pub text: String,
    pub is_final: bool,
}

/// What the caller hears comes back to us.
#[derive(Debug, Clone, Copy)]
pub struct Echo {
    pub delay: Duration,
    pub gain: f32,
}

/// A second, weaker echo behind the first, in samples: a room, or a second hybrid.
const LATER: usize = 37;

/// What happens on a call.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The caller's line, 8 kHz; the call ends with it.
    pub caller: Arc<Vec<i16>>,
    pub config: Config,
    /// What the agent says, over and over; nothing: it is silent.
    pub agent: Arc<Vec<i16>>,
    pub echo: Option<Echo>,
    /// Speech recognition has sent partial texts before.
    pub streams: bool,
    /// It takes everything that counts as the caller's voice for words.
    pub credulous: bool,
    pub words: Vec<Words>,
}

impl Scene {
    pub fn new(caller: Vec<i16>) -> Self {
        Self {
            caller: Arc::new(caller),
            config: Config::default(),
            agent: Arc::default(),
            echo: None,
            streams: false,
            credulous: false,
            words: Vec::new(),
        }
    }
}

/// What became of it. Times are those of the call.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Frames sent to the caller: when, and whether the agent is in it.
    pub slots: Vec<(Duration, bool)>,
    pub cuts: Vec<Duration>,
    /// The caller began (true) or stopped speaking.
    pub edges: Vec<(Duration, bool)>,
    /// The audio that speech recognition got.
    pub recognised: Vec<i16>,
    pub stats: Stats,
}

/// Everything that both sides note.
type Notes = Arc<Mutex<Outcome>>;

/// Plays a scene.
pub fn play(scene: &Scene) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (notes, start) = (Notes::default(), Instant::now());
        let (events, _journal) = mpsc::channel(10_000);
        let (_commands, orders) = mpsc::channel(1);
        let session = Session {
            id: CallId::new(),
            uuid: uuid::Uuid::from_u128(7),
            setup: Setup {
                rules: Arc::new(Rules::new(scene.config.clone())),
                rate: Rate::R8K,
                lead: std::time::Duration::ZERO,
                // as app sets up a cascade whose speech recognition is at ws://
                mode: Mode {
                    agent_cuts: false,
                    barge_in: true,
                    deaf_while_speaking: false,
                    speech_edges: true,
                    digits_interrupt: true,
                    obeys: true,
                    transcribes: true,
                },
                ambience: None,
                apology: Arc::new([]),
                budget: Budget::of_bytes(64 << 20),
                screen: None,
            },
            tape: None,
            audio: Arc::new(audio::Config::default()),
            leg: Line::new(scene, start, Arc::clone(&notes)),
            agent: Talker::new(scene, start, Arc::clone(&notes)),
            events,
            commands: orders,
            stop: CancellationToken::new(),
            ended: Arc::new(AtomicBool::new(false)),
            heard_out: Arc::default(),
        };
        let stats = session.run().await.stats;
        let mut outcome = std::mem::take(&mut *notes.lock().unwrap());
        outcome.stats = stats;
        // the hang-up cuts as well
        let end = Rate::R8K.duration_of(scene.caller.len());
        outcome.cuts.retain(|at| *at < end);
        outcome
    })
}

/// Asterisk's side: the caller's frames at their pace.
struct Line {
    caller: Arc<Vec<i16>>,
    echo: Option<Echo>,
    heard: Vec<i16>,
    sent: usize,
    start: Instant,
    wake: Pin<Box<Sleep>>,
    notes: Notes,
}

impl Line {
    fn new(scene: &Scene, start: Instant, notes: Notes) -> Self {
        let wake = Box::pin(sleep_until(start + PERIOD));
        Self { caller: Arc::clone(&scene.caller), echo: scene.echo, heard: Vec::new(), sent: 0, start, wake, notes }
    }

    /// The samples of 20 ms that end now.
    fn frame(&self) -> Option<Frame> {
        let from = self.sent * 160;
        let mut samples = self.caller.get(from..from + 160)?.to_vec();
        if let Some(Echo { delay, gain }) = self.echo {
            let delay = Rate::R8K.samples_in(delay);
            let back = |at: usize, delay| at.checked_sub(delay).and_then(|at| self.heard.get(at)).copied().unwrap_or(0);
            for (n, sample) in samples.iter_mut().enumerate() {
                let (direct, late) = (f32::from(back(from + n, delay)), f32::from(back(from + n, delay + LATER)));
                *sample = sample.saturating_add(((direct + 0.4 * late) * gain) as i16);
            }
        }
        Some(Frame::padded(Rate::R8K, &samples))
    }
}

impl Stream for Line {
    type Item = LegEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LegEvent>> {
        if self.wake.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let event = self.frame().map_or(LegEvent::Hangup(Cause::Normal), LegEvent::Audio);
        self.sent += 1;
        let next = self.start + PERIOD * u32::try_from(self.sent + 1).unwrap();
        self.wake.as_mut().reset(next);
        Poll::Ready(Some(event))
    }
}

impl Link for Line {
    type Event = LegEvent;
    type Command = LegCommand;

    fn send(&mut self, command: LegCommand) -> Sent<LegCommand> {
        if let LegCommand::Audio(frame) = command {
            let at = self.start.elapsed();
            if self.echo.is_some() {
                // what is sent now is heard from now on
                let place = Rate::R8K.samples_in(at);
                let end = (place + 160).max(self.heard.len());
                self.heard.resize(end, 0);
                self.heard[place..place + 160].copy_from_slice(frame.samples());
            }
            let agent = frame.samples().iter().any(|&sample| sample != 0);
            self.notes.lock().unwrap().slots.push((at, agent));
        }
        Sent::Whole
    }
}

impl Leg for Line {
    fn rate(&self) -> Rate {
        Rate::R8K
    }

    async fn close(self) {}
}

/// The AI's side: it says what it says, and its speech recognition what the scene has written for it.
struct Talker {
    speech: Arc<Vec<i16>>,
    position: usize,
    utterance: u32,
    ready: VecDeque<AgentEvent>,
    due: Vec<(Instant, Due)>,
    credulous: bool,
    start: Instant,
    wake: Pin<Box<Sleep>>,
    notes: Notes,
}

enum Due {
    Speak,
    Words(Words),
}

impl Talker {
    fn new(scene: &Scene, start: Instant, notes: Notes) -> Self {
        let mut due: Vec<_> = scene.words.iter().map(|words| (start + words.at, Due::Words(words.clone()))).collect();
        if scene.streams {
            let words = |is_final| Words { at: Duration::ZERO, text: "hello".to_owned(), is_final };
            due.extend([false, true].map(|is_final| (start + BEGIN / 2, Due::Words(words(is_final)))));
        }
        if !scene.agent.is_empty() {
            due.push((start + BEGIN, Due::Speak));
        }
        Self {
            speech: Arc::clone(&scene.agent),
            position: 0,
            utterance: 0,
            ready: VecDeque::new(),
            due,
            credulous: scene.credulous,
            start,
            wake: Box::pin(sleep_until(start)),
            notes,
        }
    }

    fn say_more(&mut self) {
        let count = Rate::R8K.samples_in(UTTERANCE);
        let said = (self.position..self.position + count).map(|at| self.speech[at % self.speech.len()]);
        let utterance = UtteranceId(self.utterance);
        self.ready.push_back(AgentEvent::Audio(utterance, said.collect()));
        self.ready.push_back(AgentEvent::AudioEnd(utterance));
        self.position += count;
        self.utterance += 1;
    }

    fn take_due(&mut self) {
        let now = Instant::now();
        while let Some(at) = self.due.iter().position(|(at, _)| *at <= now) {
            match self.due.remove(at).1 {
                // one is always waiting, so that there is no gap between two
                Due::Speak => (0..2).for_each(|_| self.say_more()),
                Due::Words(Words { text, is_final, .. }) => {
                    self.ready.push_back(AgentEvent::Transcript { role: Role::User, text, is_final });
                }
            }
        }
    }
}

impl Stream for Talker {
    type Item = AgentEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<AgentEvent>> {
        loop {
            self.take_due();
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(event));
            }
            let Some(next) = self.due.iter().map(|(at, _)| *at).min() else { return Poll::Pending };
            self.wake.as_mut().reset(next);
            if self.wake.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Link for Talker {
    type Event = AgentEvent;
    type Command = AgentInput;

    fn send(&mut self, input: AgentInput) -> Sent<AgentInput> {
        let at = self.start.elapsed();
        let notes = Arc::clone(&self.notes);
        let mut notes = notes.lock().unwrap();
        match input {
            AgentInput::Audio(frame) => notes.recognised.extend_from_slice(frame.samples()),
            AgentInput::Interrupt { .. } => {
                notes.cuts.push(at);
                self.due.retain(|(_, due)| !matches!(due, Due::Speak));
                self.due.push((self.start + at + AGAIN, Due::Speak));
            }
            AgentInput::Played(_) => self.say_more(),
            AgentInput::CallerSpeech(speaks) => {
                notes.edges.push((at, speaks));
                if self.credulous {
                    let text = "please enter your number".to_owned();
                    let words = Words { at, text, is_final: !speaks };
                    self.due.push((self.start + at + RECOGNISED, Due::Words(words)));
                }
            }
            AgentInput::Finish => self.ready.push_back(AgentEvent::Hangup),
            _ => {}
        }
        Sent::Whole
    }
}

impl Agent for Talker {
    async fn close(self) {}
}
