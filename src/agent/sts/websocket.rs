//! The speech-to-speech contract over a WebSocket.
//!
//! All I/O happens in the session's own task: [`Sts::send`] writes at once, `poll_next` writes what is left and then reads. No task, no
//! channel, no wake-up per frame. What is held, and what happens when it is full:
//!
//! - audio that cannot be written yet: 1 s (2 s while connecting), then the oldest goes and the service is reported as slow;
//! - messages about tools: 32; digits: 16, then they are refused; what tungstenite has of a message that the kernel did not take: one message and control frames;
//! - speech of the service: one message, handed on in pieces of 0.75 s, so that a minute at once never stops the other calls of a thread.

mod read;
mod tools;
mod write;

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use futures_util::StreamExt as _;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};
use url::Url;

use self::tools::Tools;
use super::{
    codec::Down,
    edge::{self, Chunk, Uplink},
};
use crate::{
    agent::{
        self, Outgoing,
        websocket::{self, ConnectError, Socket},
    },
    call::{Agent, AgentEvent, AgentInput, Digit, Fault, Link, Sent, UtteranceId},
};

/// Messages of audio held while the service takes none: 1 s.
const MAX_HELD: usize = 50;
/// Messages of audio held while connecting: 2 s.
const MAX_HELD_CONNECTING: usize = 100;
/// Digits held.
const MAX_DIGITS: usize = 16;
/// Base64 decoded at once: 0.77 s of speech.
const PIECE: usize = 16 * 1024;
/// Messages without an effect read before other tasks get their turn.
const MAX_IDLE_READS: usize = 64;
/// A transcript is a sentence; one beyond this is cut.
const MAX_TRANSCRIPT: usize = 64 * 1024;
/// How long a service may take for its last transcripts and its closing handshake.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Before the second try of a refused connection; doubled for each further one.
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// A speech-to-speech service over a WebSocket.
pub struct Sts {
    state: State,
    hello: Option<uuid::Uuid>,
    up: Uplink,
    down: Down,
    held: VecDeque<Held>,
    held_audio: usize,
    /// The last message is not whole in the kernel yet, since then.
    stalled: Option<Instant>,
    /// Writing failed; reading tells why.
    mute: bool,
    slow: bool,
    dropped: u64,
    events: VecDeque<AgentEvent>,
    /// The rest of one message of speech.
    speech: Bytes,
    pcm: Vec<u8>,
    text: BytesMut,
    utterance: UtteranceId,
    spoke: bool,
    /// When all speech that came so far will have been played.
    speech_until: Option<Instant>,
    trouble: Option<Trouble>,
    finishing: Option<Instant>,
    said_goodbye: bool,
    paused: bool,
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    oddities: Oddities,
    tools: Tools,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Socket, ConnectError>> + Send>>;

enum State {
    Connecting(Connecting),
    Open(Box<Socket>),
    Ended,
}

enum Held {
    Audio(Box<Chunk>),
    Digit(Digit),
    /// About tools.
    Text(Box<str>),
}

/// An `error` message that nothing followed yet.
struct Trouble {
    message: String,
    give_up: Instant,
}

/// What a service sent that is none of the contract: one line each, then counted.
#[derive(Default)]
struct Oddities {
    binary: u64,
    base64: u64,
    json: u64,
    unknown: u64,
    long: u64,
    errors: u64,
}

impl Sts {
    /// Begins to connect to `url`; the stream reports how it goes.
    #[must_use]
    pub fn start(url: Url, ctx: agent::Context) -> Self {
        info!("Connecting to STS WebSocket: {}", websocket::display(&url));
        let timeout = Duration::from_millis(ctx.config.connect_timeout_ms);
        let retry = Duration::from_millis(ctx.config.reconnect_ms);
        Self {
            state: State::Connecting(Box::pin(connect(url, ctx.outgoing.clone(), timeout, retry))),
            hello: Some(ctx.uuid),
            up: Uplink::new(ctx.rate, ctx.config.frames_per_message()),
            down: edge::downlink(ctx.rate),
            held: VecDeque::new(),
            held_audio: 0,
            stalled: None,
            mute: false,
            slow: false,
            dropped: 0,
            events: VecDeque::new(),
            speech: Bytes::new(),
            pcm: Vec::new(),
            text: BytesMut::new(),
            utterance: UtteranceId(1),
            spoke: false,
            speech_until: None,
            trouble: None,
            finishing: None,
            said_goodbye: false,
            paused: false,
            patience: Duration::from_millis(ctx.config.silent_after_error_ms),
            timer: None,
            oddities: Oddities::default(),
            tools: Tools::new(ctx),
        }
    }

    /// Stops (`true`) or resumes reading what the service says: TCP then holds it back. An interruption waits behind it.
    pub fn pause_reading(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Frames of the caller that the service never got because it did not take them in time.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    fn finish(&mut self) {
        if self.finishing.is_some() {
            return;
        }
        self.finishing = Some(Instant::now() + CLOSE_LIMIT);
        self.give_up_tools();
        match self.state {
            // Nothing was asked of the service yet, so there is nothing to wait for.
            State::Connecting(_) => self.state = State::Ended,
            State::Open(_) => {
                if !self.mute {
                    self.rest();
                }
                self.write_held(&mut Context::from_waker(Waker::noop()));
            }
            State::Ended => {}
        }
    }

    fn poll_connect(&mut self, cx: &mut Context<'_>) {
        let State::Connecting(connecting) = &mut self.state else { return };
        match connecting.as_mut().poll(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(socket)) => self.state = State::Open(Box::new(socket)),
            Poll::Ready(Err(error)) => self.fail("agent.sts.refused", error.to_string()),
        }
    }

    fn fail(&mut self, code: &'static str, message: String) {
        self.state = State::Ended;
        if self.finishing.is_some() {
            debug!("the STS service is gone before it closed: {message}");
            return;
        }
        self.end_of_speech();
        self.events.push_back(AgentEvent::Failed(Fault { code, message }));
    }

    fn end_of_speech(&mut self) {
        if self.spoke {
            let rest = self.down.finish();
            if !rest.is_empty() {
                self.events.push_back(AgentEvent::Audio(self.utterance, rest));
            }
            self.events.push_back(AgentEvent::AudioEnd(self.utterance));
        }
    }

    /// Waits for the nearest of the deadlines that there are (on a healthy call: none).
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let stalled = self.stalled.map(|since| since + self.patience);
        let silent = self.trouble.as_ref().map(|trouble| trouble.give_up);
        let due = self.tools.due(self.speech_until);
        let deadlines = [stalled, silent, self.finishing, due];
        let Some(next) = deadlines.into_iter().flatten().min() else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(next)));
        if timer.deadline() != next {
            timer.as_mut().reset(next);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.timer = None;
        let seconds = self.patience.as_secs_f32();
        if self.finishing == Some(next) {
            debug!("the STS service did not close in time");
            self.state = State::Ended;
        } else if due == Some(next) {
            self.tools_due();
        } else if silent == Some(next) {
            let message = self.trouble.take().map(|trouble| trouble.message).unwrap_or_default();
            self.fail("agent.sts.silent", format!("nothing came for {seconds} s after its error: {message}"));
        } else {
            self.fail("agent.sts.stalled", format!("the service has read nothing for {seconds} s"));
        }
        Poll::Ready(())
    }
}

/// Counts, and says whether it was the first.
fn first(count: &mut u64) -> bool {
    *count += 1;
    *count == 1
}

/// Connects; a refused connection is tried again for a while, because services are restarted when they crash.
async fn connect(url: Url, out: Outgoing, limit: Duration, retry: Duration) -> Result<Socket, ConnectError> {
    let started = Instant::now();
    let mut pause = FIRST_RETRY;
    loop {
        match websocket::connect(&url, &out, limit).await {
            Err(error) if error.is_refused() && started.elapsed() + pause < retry => {
                if pause == FIRST_RETRY {
                    warn!("the STS service is not there yet, trying again for {} ms: {error}", retry.as_millis());
                }
                sleep(pause).await;
                pause *= 2;
            }
            result => return result,
        }
    }
}

impl Stream for Sts {
    type Item = AgentEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<AgentEvent>> {
        let this = self.get_mut();
        loop {
            this.poll_connect(cx);
            this.write_held(cx);
            if let Some(event) = this.events.pop_front() {
                return Poll::Ready(Some(event));
            }
            if !this.speech.is_empty() {
                this.speak();
                continue;
            }
            if matches!(this.state, State::Ended) {
                return Poll::Ready(None);
            }
            // tools behind what may have wanted them
            if this.poll_read(cx).is_ready() || this.poll_tools(cx).is_ready() || this.poll_deadline(cx).is_ready() {
                continue;
            }
            return Poll::Pending;
        }
    }
}

impl Link for Sts {
    type Event = AgentEvent;
    type Command = AgentInput;

    fn send(&mut self, input: AgentInput) -> Sent<AgentInput> {
        match input {
            AgentInput::Audio(frame) => self.hear(frame.samples()),
            AgentInput::Dtmf(digit) => self.digit(digit),
            AgentInput::Finish => {
                self.finish();
                Sent::Whole
            }
            AgentInput::Interrupt { .. } => {
                // The contract has no word for it: what still comes is new speech, or it would never be heard.
                self.next_utterance();
                self.speech_until = None;
                self.give_up_last();
                Sent::Whole
            }
            // the contract has no words for these, and the call (`Mode`) does not ask for the latter
            AgentInput::Played(_)
            | AgentInput::CallerSpeech(_)
            | AgentInput::CallerPauses
            | AgentInput::Digits(_)
            | AgentInput::Say(_) => Sent::Whole,
        }
    }
}

impl Agent for Sts {
    async fn close(mut self) {
        if !matches!(self.state, State::Open(_)) {
            return;
        }
        self.paused = false;
        self.finish();
        // Bounded by the deadline that finish() has set; the limit here is for a clock that the caller has paused.
        let _ = timeout(CLOSE_LIMIT * 2, async { while self.next().await.is_some() {} }).await;
    }
}

impl Drop for Sts {
    fn drop(&mut self) {
        let Oddities { binary, base64, json, unknown, long, errors } = self.oddities;
        if self.dropped + binary + base64 + json + unknown + long + errors > 0 {
            let dropped = self.dropped;
            debug!(dropped, binary, base64, json, unknown, long, errors, "oddities of the STS session");
        }
    }
}
