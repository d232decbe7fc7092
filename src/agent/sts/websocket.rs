//! The speech-to-speech contract over a WebSocket.
//!
//! All I/O happens in the session's own task: [`Sts::send`] writes at once, `poll_next` writes what is left and then reads. No task, no
//! channel, no wake-up per frame. What is held, and what happens when it is full:
//!
//! - audio that cannot be written yet: 1 s (2 s while connecting), then the oldest goes and the service is reported as slow;
//! - digits: 16, then they are refused; what tungstenite has of a message that the kernel did not take: one message and control frames;
//! - speech of the service: one message, handed on in pieces of 0.75 s, so that a minute at once never stops the other calls of a thread.

use std::{
    borrow::Cow,
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use futures_util::{Sink, SinkExt as _, StreamExt as _};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{
    self, Message as Frame, Utf8Bytes,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tracing::{debug, info, warn};
use url::Url;

use super::{
    edge::{CHUNK, Downlink, Uplink},
    wire::{self, Message},
};
use crate::{
    agent::{
        self, Outgoing,
        websocket::{self, ConnectError, Socket, escaped},
    },
    call::{Agent, AgentEvent, AgentInput, Digit, Edge, Fault, Link, Sent, UtteranceId},
};

/// Audio held while the service takes none: 1 s.
const MAX_HELD: usize = 50;
/// Audio held while connecting: 2 s.
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
    down: Downlink,
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
}

type Connecting = Pin<Box<dyn Future<Output = Result<Socket, ConnectError>> + Send>>;

enum State {
    Connecting(Connecting),
    Open(Box<Socket>),
    Ended,
}

enum Held {
    Audio(Box<[u8; CHUNK]>),
    Digit(Digit),
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
            state: State::Connecting(Box::pin(connect(url, ctx.outgoing, timeout, retry))),
            hello: Some(ctx.uuid),
            up: Uplink::new(ctx.rate),
            down: Downlink::new(ctx.rate),
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

    fn hear(&mut self, samples: &[i16]) -> Sent<AgentInput> {
        if matches!(self.state, State::Ended) || self.finishing.is_some() || self.mute {
            return Sent::Whole;
        }
        self.up.push(samples);
        let mut sent = true;
        while let Some(chunk) = self.up.pop() {
            if self.is_writable() {
                wire::audio(&chunk, &mut self.text);
                self.write();
            } else {
                self.hold_audio(chunk);
            }
            sent = self.stalled.is_none() && self.held.is_empty();
        }
        if sent { Sent::Whole } else { Sent::Held }
    }

    fn hold_audio(&mut self, chunk: [u8; CHUNK]) {
        let connecting = matches!(self.state, State::Connecting(_));
        if self.held_audio >= if connecting { MAX_HELD_CONNECTING } else { MAX_HELD } {
            if let Some(oldest) = self.held.iter().position(|held| matches!(held, Held::Audio(_))) {
                self.held.remove(oldest);
                self.held_audio -= 1;
            }
            self.dropped += 1;
            if !connecting && !self.slow {
                self.slow = true;
                let message = "the service does not take the caller's audio in time; the oldest is dropped".to_owned();
                self.events.push_back(AgentEvent::Degraded(Fault { code: "agent.sts.slow", message }));
            }
        }
        self.held.push_back(Held::Audio(Box::new(chunk)));
        self.held_audio += 1;
    }

    fn digit(&mut self, digit: Digit) -> Sent<AgentInput> {
        if matches!(self.state, State::Ended) || self.finishing.is_some() || self.mute {
            return Sent::Whole;
        }
        if self.is_writable() {
            wire::dtmf_digit(digit, &mut self.text);
            self.write();
            return if self.stalled.is_none() { Sent::Whole } else { Sent::Held };
        }
        if self.held.len() - self.held_audio >= MAX_DIGITS {
            return Sent::Refused(AgentInput::Dtmf(digit));
        }
        self.held.push_back(Held::Digit(digit));
        Sent::Held
    }

    fn finish(&mut self) {
        if self.finishing.is_some() {
            return;
        }
        self.finishing = Some(Instant::now() + CLOSE_LIMIT);
        match self.state {
            // Nothing was asked of the service yet, so there is nothing to wait for.
            State::Connecting(_) => self.state = State::Ended,
            State::Open(_) => self.write_held(&mut Context::from_waker(Waker::noop())),
            State::Ended => {}
        }
    }

    fn is_writable(&self) -> bool {
        matches!(self.state, State::Open(_)) && self.stalled.is_none() && self.held.is_empty() && !self.mute
    }

    /// Writes the message in `text`. Nothing may be pending.
    fn write(&mut self) {
        let text = self.text.split().freeze();
        // Only whole JSON is ever put there, so this cannot fail.
        let Ok(text) = Utf8Bytes::try_from(text) else { return };
        self.write_frame(Frame::Text(text));
    }

    fn write_frame(&mut self, frame: Frame) {
        let State::Open(socket) = &mut self.state else { return };
        // The waker that counts is registered by the next poll_next, which comes before the session sleeps.
        let mut cx = Context::from_waker(Waker::noop());
        let mut socket = Pin::new(socket.as_mut());
        let result = match socket.as_mut().start_send(frame) {
            Ok(()) => socket.poll_flush(&mut cx),
            Err(error) => Poll::Ready(Err(error)),
        };
        match result {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => self.writing_failed(&error),
            Poll::Pending => self.stalled = Some(Instant::now()),
        }
    }

    /// The service may have said why before it went: that is still to be read.
    fn writing_failed(&mut self, error: &tungstenite::Error) {
        debug!("writing to the STS service failed: {}", escaped(&error.to_string()));
        self.mute = true;
        self.stalled = None;
        self.held.clear();
        self.held_audio = 0;
    }

    /// Writes as much as goes of what is pending, then says goodbye if it is time.
    fn write_held(&mut self, cx: &mut Context<'_>) {
        loop {
            let State::Open(socket) = &mut self.state else { return };
            if self.mute {
                return;
            }
            if self.stalled.is_some() {
                match Pin::new(socket.as_mut()).poll_flush(cx) {
                    Poll::Pending => return,
                    Poll::Ready(Ok(())) => self.stalled = None,
                    Poll::Ready(Err(error)) => return self.writing_failed(&error),
                }
            }
            if self.hello.is_some() || !self.held.is_empty() {
                self.write_next();
            } else if self.finishing.is_some() && !self.said_goodbye {
                self.said_goodbye = true;
                self.write_frame(Frame::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })));
            } else {
                break;
            }
        }
        if self.slow {
            self.slow = false;
            self.events.push_back(AgentEvent::Restored);
        }
    }

    fn write_next(&mut self) {
        if let Some(uuid) = self.hello.take() {
            wire::init(uuid, &mut self.text);
        } else {
            match self.held.pop_front() {
                Some(Held::Audio(chunk)) => {
                    self.held_audio -= 1;
                    wire::audio(&chunk[..], &mut self.text);
                }
                Some(Held::Digit(digit)) => wire::dtmf_digit(digit, &mut self.text),
                None => return,
            }
        }
        self.write();
    }

    fn poll_connect(&mut self, cx: &mut Context<'_>) {
        let State::Connecting(connecting) = &mut self.state else { return };
        match connecting.as_mut().poll(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(socket)) => self.state = State::Open(Box::new(socket)),
            Poll::Ready(Err(error)) => self.fail("agent.sts.refused", error.to_string()),
        }
    }

    /// Reads until something came of it.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.paused && self.finishing.is_none() {
            return Poll::Pending;
        }
        for _ in 0..MAX_IDLE_READS {
            let State::Open(socket) = &mut self.state else { return Poll::Pending };
            match socket.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(Frame::Text(text)))) => self.message(text),
                Poll::Ready(Some(Ok(Frame::Close(frame)))) => self.closed(frame.as_ref()),
                Poll::Ready(Some(Ok(Frame::Binary(_)))) => {
                    if first(&mut self.oddities.binary) {
                        warn!(
                            "the STS service sends binary messages; audio has to be base64 in JSON text; they are ignored"
                        );
                    }
                }
                Poll::Ready(Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_)))) => {}
                Poll::Ready(Some(Err(error))) => self.broken(&error),
                Poll::Ready(None) => self.fail("agent.sts.lost", "the connection ended without a close".to_owned()),
            }
            if !self.events.is_empty() || !self.speech.is_empty() || matches!(self.state, State::Ended) {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn message(&mut self, text: Utf8Bytes) {
        match wire::parse(&text) {
            Ok(Message::Audio(payload)) => {
                self.speech = match payload {
                    Cow::Borrowed(payload) => Bytes::from(text.clone()).slice_ref(payload.as_bytes()),
                    Cow::Owned(payload) => payload.into(),
                };
            }
            Ok(Message::Interruption) => self.interrupted(),
            Ok(Message::Transcript { role, text }) => {
                self.recovered();
                let text = self.bounded(text);
                self.events.push_back(AgentEvent::Transcript { role, text, is_final: true });
            }
            Ok(Message::Error(message)) => self.troubled(&message),
            Ok(Message::Ignored) => {
                if first(&mut self.oddities.unknown) {
                    debug!("the STS service sends messages beside the contract, ignored: {}", escaped(&text));
                }
            }
            Err(error) => {
                if first(&mut self.oddities.json) {
                    warn!("the STS service sends text that is {error}; it is ignored: {}", escaped(&text));
                }
            }
        }
    }

    fn bounded(&mut self, text: Cow<'_, str>) -> String {
        if text.len() <= MAX_TRANSCRIPT {
            return text.into_owned();
        }
        if first(&mut self.oddities.long) {
            warn!("the STS service sends a transcript of {} bytes; it is cut to {MAX_TRANSCRIPT}", text.len());
        }
        text[..text.floor_char_boundary(MAX_TRANSCRIPT)].to_owned()
    }

    fn interrupted(&mut self) {
        self.recovered();
        self.next_utterance();
        self.speech_until = None;
        self.down.reset();
        self.events.push_back(AgentEvent::Speech(Edge::Interrupted));
    }

    fn next_utterance(&mut self) {
        if self.spoke {
            self.spoke = false;
            self.utterance = UtteranceId(self.utterance.0.wrapping_add(1));
        }
    }

    fn troubled(&mut self, message: &str) {
        let message = escaped(message);
        self.oddities.errors += 1;
        if self.trouble.is_some() || self.finishing.is_some() {
            debug!("the STS service reports a further error: {message}");
            return;
        }
        // An error while the agent still speaks is not followed by anything before it has been heard out.
        let from = self.speech_until.map_or_else(Instant::now, |until| until.max(Instant::now()));
        self.trouble = Some(Trouble { message: message.clone(), give_up: from + self.patience });
        self.events.push_back(AgentEvent::Degraded(Fault { code: "agent.sts.error", message }));
    }

    fn recovered(&mut self) {
        if self.trouble.take().is_some() {
            self.events.push_back(AgentEvent::Restored);
        }
    }

    /// The next piece of the speech at hand.
    fn speak(&mut self) {
        let piece = self.speech.split_to(self.speech.len().min(PIECE));
        self.pcm.clear();
        if let Err(error) = wire::decode(&piece, &mut self.pcm) {
            self.speech = Bytes::new();
            if first(&mut self.oddities.base64) {
                warn!("the STS service sends audio that is no base64 ({error}); it is left out");
            }
            return;
        }
        if self.finishing.is_some() {
            self.speech = Bytes::new();
            return;
        }
        let samples = self.down.convert(&self.pcm);
        if samples.is_empty() {
            return;
        }
        self.recovered();
        let now = Instant::now();
        let lasts = Duration::from_micros(self.pcm.len() as u64 * 1_000_000 / 16_000);
        self.speech_until = Some(self.speech_until.map_or(now, |until| until.max(now)) + lasts);
        self.spoke = true;
        self.events.push_back(AgentEvent::Audio(self.utterance, samples));
    }

    fn closed(&mut self, frame: Option<&CloseFrame>) {
        // What we owe the closing handshake; if it does not go at once, the peer has to do without.
        if let State::Open(socket) = &mut self.state {
            let _ = socket.poll_flush_unpin(&mut Context::from_waker(Waker::noop()));
        }
        let orderly = frame.is_none_or(|frame| matches!(frame.code, CloseCode::Normal | CloseCode::Status));
        if self.finishing.is_some() {
            self.state = State::Ended;
        } else if let Some(Trouble { message, .. }) = self.trouble.take() {
            self.fail("agent.sts.error", format!("{message} (then it closed)"));
        } else if orderly {
            debug!("the STS service ended the session");
            self.end_of_speech();
            self.events.push_back(AgentEvent::Hangup);
            self.state = State::Ended;
        } else {
            let why = frame.map(|frame| format!("{} {}", u16::from(frame.code), escaped(&frame.reason)));
            self.fail("agent.sts.closed", format!("the service closed: {}", why.unwrap_or_default().trim_end()));
        }
    }

    fn broken(&mut self, error: &tungstenite::Error) {
        let code = match error {
            tungstenite::Error::Io(_)
            | tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => {
                "agent.sts.lost"
            }
            _ => "agent.sts.protocol",
        };
        self.fail(code, escaped(&error.to_string()));
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
        let Some(next) = [stalled, silent, self.finishing].into_iter().flatten().min() else { return Poll::Pending };
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
            if this.poll_read(cx).is_ready() || this.poll_deadline(cx).is_ready() {
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
                Sent::Whole
            }
            AgentInput::Played(_) | AgentInput::CallerSpeech(_) | AgentInput::Say(_) => Sent::Whole,
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
