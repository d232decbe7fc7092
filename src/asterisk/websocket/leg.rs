//! A call over chan_websocket.
//!
//! Asterisk paces what it is sent and says, by marks, how far it has come: speech may be sent ahead, and is thrown away there when the
//! caller interrupts.

mod ending;

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use tokio::time::{Instant, Sleep, timeout, timeout_at};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::{
    Config,
    codec::Codec,
    shown,
    socket::Socket,
    wire::{self, Command, Event, Reached, Start, Style},
};
use crate::{
    asterisk::{gate::Place, telemetry::WebSocketStats},
    audio::{Frame, Rate, framer::Framer},
    call::{self, Cause, LegCommand, LegEvent, Link, Sent},
};

/// The send buffer holds about this many frames beside the lead: a peer that stops reading is noticed at once.
const SEND_FRAMES: usize = 8;
/// What a poll may spend before others get their turn: a frame costs [`FRAME_COST`], a message one.
const TURN: u32 = 64;
const FRAME_COST: u32 = 8;
/// How long Asterisk may take to close after it was told to.
const DRAIN: Duration = Duration::from_secs(2);

/// A call over chan_websocket: a stream of what the caller does, and a way to play to them.
pub struct Leg {
    socket: Socket,
    codec: Codec,
    style: Style,
    /// Messages hold whole multiples of it: Asterisk throws a remainder away.
    frame_bytes: usize,
    lead: Duration,
    framer: Framer,
    /// Events from before the channel had begun.
    early: VecDeque<LegEvent>,
    state: State,
    /// Asterisk's queue is full.
    full: bool,
    hung_up: bool,
    samples: Vec<i16>,
    outgoing: Vec<u8>,
    idle: Pin<Box<Sleep>>,
    idle_limit: Duration,
    heard: Instant,
    spent: u32,
    warned: Warned,
    stats: Arc<WebSocketStats>,
    _place: Option<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// `MEDIA_START` has not come.
    Starting,
    Open,
    /// The end is known and not yet reported.
    Ending(Cause),
    Over,
}

#[derive(Debug, Default)]
struct Warned {
    early: bool,
    damaged: bool,
    bad: bool,
    unknown: bool,
    error: bool,
    full: bool,
}

impl Leg {
    /// A leg on a connection whose handshake is done. Without `MEDIA_START` by `start_by` it is over at once.
    pub(super) async fn start(
        socket: Socket,
        start_by: Instant,
        config: &Config,
        place: Option<Place>,
        stats: Arc<WebSocketStats>,
    ) -> Self {
        let idle_limit = Duration::from_secs(config.idle_media_s);
        let mut leg = Self {
            socket,
            codec: Codec::LINEAR,
            style: Style::Plain,
            frame_bytes: 0,
            lead: Duration::from_millis(config.lead_ms),
            framer: Framer::new(Rate::R8K),
            early: VecDeque::new(),
            state: State::Starting,
            full: false,
            hung_up: false,
            samples: Vec::new(),
            outgoing: Vec::new(),
            idle: Box::pin(tokio::time::sleep(idle_limit)),
            idle_limit,
            heard: Instant::now(),
            spent: 0,
            warned: Warned::default(),
            stats,
            _place: place,
        };
        let started = async {
            // also makes the runtime see that the socket can be written to, or the first frame would be refused
            let _ = leg.socket.stream().writable().await;
            poll_fn(|cx| leg.poll_start(cx)).await;
        };
        if timeout_at(start_by, started).await.is_err() {
            tracing::warn!(
                code = "websocket.start.timeout",
                "no MEDIA_START within websocket.start_timeout_ms: the call ends; something other than chan_websocket?"
            );
            leg.end(Cause::Lost);
        }
        if leg.state == State::Starting {
            leg.end(Cause::Lost);
        }
        leg.limit_send_buffer(config);
        leg
    }

    fn limit_send_buffer(&self, config: &Config) {
        // the kernel doubles what it is given, for its own books
        let lead = usize::try_from(config.lead_ms / 20).unwrap_or(0);
        let bytes = (SEND_FRAMES + lead) * (64 + 2 * self.codec.rate.frame_samples());
        if let Err(error) = socket2::SockRef::from(self.socket.stream()).set_send_buffer_size(bytes) {
            tracing::debug!(%error, "the send buffer cannot be limited: a caller that stops reading is noticed late");
        }
    }

    fn poll_start(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.state == State::Starting {
            if let Some(event) = ready!(self.poll_message(cx))
                && self.early.len() < 16
            {
                self.early.push_back(event);
            }
        }
        Poll::Ready(())
    }

    /// Takes one message.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<LegEvent>> {
        ready!(self.poll_turn(cx, 1));
        match ready!(self.socket.poll_read(cx)) {
            Ok(message) => {
                self.heard = Instant::now();
                Poll::Ready(self.take(message))
            }
            Err(error) => {
                self.broke(&error);
                Poll::Ready(None)
            }
        }
    }

    fn take(&mut self, message: Message) -> Option<LegEvent> {
        match message {
            Message::Binary(audio) => self.audio(&audio),
            Message::Text(text) => return self.text(&text),
            Message::Close(frame) => self.closed(frame.as_ref()),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
        None
    }

    fn audio(&mut self, bytes: &[u8]) {
        if self.state == State::Starting {
            self.stats.frames_early.inc();
            once(&mut self.warned.early, || {
                tracing::warn!("audio before MEDIA_START is dropped: nobody has said what it holds");
            });
            return;
        }
        self.stats.frames_in.inc();
        self.samples.clear();
        if !self.codec.decode(bytes, &mut self.samples) {
            self.stats.frames_damaged.inc();
            once(&mut self.warned.damaged, || {
                tracing::warn!(
                    bytes = bytes.len(),
                    "an audio message holds half a sample, or no whole packet: the rest of it is used, as of all further ones without a word"
                );
            });
        }
        self.framer.push(&self.samples);
    }

    fn text(&mut self, text: &str) -> Option<LegEvent> {
        let event = match wire::parse(text) {
            Ok(event) => event,
            Err(error) => {
                self.stats.bad_messages.inc();
                once(&mut self.warned.bad, || {
                    let error = shown(&error.to_string());
                    tracing::warn!(
                        code = "websocket.message",
                        "a message of Asterisk's is skipped, as all further ones without a word: {error}"
                    );
                });
                // it was to say what audio is like
                if self.state == State::Starting && matches!(error, wire::WireError::Format(_)) {
                    self.end(Cause::Lost);
                }
                return None;
            }
        };
        match event {
            Event::Start(start) => self.started(&start),
            Event::Dtmf(digit) => return Some(LegEvent::Dtmf(digit)),
            Event::Mark(id) => {
                return match wire::reached(&id)? {
                    Reached::Mark(number) => Some(LegEvent::Marked(number)),
                    Reached::Fence(number) => Some(LegEvent::Flushed(number)),
                };
            }
            Event::Xoff => self.fills(),
            Event::Xon => self.full = false,
            Event::Error(words) => {
                self.stats.errors.inc();
                once(&mut self.warned.error, || {
                    let words = shown(&words);
                    tracing::warn!(
                        code = "websocket.command",
                        "Asterisk refuses a command: {words} (p of the dial string, passthrough, cannot be used with Hark)"
                    );
                });
            }
            Event::Unknown(name) => {
                self.stats.unknown_events.inc();
                once(&mut self.warned.unknown, || {
                    tracing::debug!("an event that means nothing here: {}", shown(&name));
                });
            }
            Event::Drained | Event::Buffered | Event::Status(_) => {}
        }
        None
    }

    fn started(&mut self, start: &Start) {
        if self.state != State::Starting {
            self.stats.bad_messages.inc();
            return;
        }
        let Some(codec) = Codec::new(start.format) else {
            tracing::warn!(
                "this Hark was built without {:?}: name another format in the dial string",
                start.format.encoding
            );
            self.end(Cause::Lost);
            return;
        };
        tracing::debug!(channel = shown(&start.channel), format = ?start.format, style = ?start.style, frame = start.frame_bytes, "MEDIA_START");
        (self.style, self.frame_bytes) = (start.style, start.frame_bytes);
        self.framer = Framer::new(codec.rate);
        self.codec = codec;
        self.state = State::Open;
    }

    fn fills(&mut self) {
        self.stats.xoffs.inc();
        self.full = true;
        once(&mut self.warned.full, || {
            tracing::warn!("Asterisk's queue is full: nothing is sent until it has room");
        });
    }

    /// The next 20 ms; `None` when less than that is there.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Option<Poll<Frame>> {
        if self.framer.len() < self.codec.rate.frame_samples() {
            return None;
        }
        if self.poll_turn(cx, FRAME_COST).is_pending() {
            return Some(Poll::Pending);
        }
        self.framer.pop().map(Poll::Ready)
    }

    /// Counts what this poll has done, and gives way when it has done enough: a peer that floods holds up no other call.
    fn poll_turn(&mut self, cx: &mut Context<'_>, cost: u32) -> Poll<()> {
        if self.spent >= TURN {
            self.spent = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.spent += cost;
        Poll::Ready(())
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.idle_limit.is_zero() {
            return Poll::Pending;
        }
        loop {
            ready!(self.idle.as_mut().poll(cx));
            // the timer is not touched at every frame: it finds out here whether there were any
            let due = self.heard + self.idle_limit;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.idle.as_mut().reset(due);
        }
    }

    fn send_audio(&mut self, frame: Frame) -> Sent<LegCommand> {
        if self.hung_up || self.state != State::Open || self.full || self.socket.is_blocked() {
            self.stats.frames_refused.inc();
            return Sent::Refused(LegCommand::Audio(frame));
        }
        self.codec.encode(&frame, &mut self.outgoing);
        let length = match self.frame_bytes {
            0 => self.outgoing.len(),
            bytes => self.outgoing.len() / bytes * bytes,
        };
        if length == 0 {
            return Sent::Whole;
        }
        let message = Message::Binary(Bytes::copy_from_slice(&self.outgoing[..length]));
        self.outgoing.drain(..length);
        self.stats.frames_out.inc();
        match self.write(message, true) {
            true => Sent::Whole,
            false => Sent::Held,
        }
    }

    /// Writes, or queues what goes out with the next message; whether everything is out as far as it was meant to be.
    fn write(&mut self, message: Message, now: bool) -> bool {
        let written = self.socket.put(message).and_then(|()| if now { self.socket.flush() } else { Ok(true) });
        written.unwrap_or_else(|error| {
            // if the socket is dead, the next poll finds out how it ended
            tracing::debug!("writing to Asterisk failed: {}", shown(&error.to_string()));
            if matches!(error, Error::WriteBufferFull(_)) {
                self.end(Cause::Lost);
            }
            false
        })
    }

    fn command(&mut self, command: Command, now: bool) -> Sent<LegCommand> {
        if self.hung_up || self.state != State::Open {
            return Sent::Whole;
        }
        match self.write(Message::text(wire::write(command, self.style)), now) {
            true => Sent::Whole,
            false => Sent::Held,
        }
    }

    fn hang_up(&mut self) -> Sent<LegCommand> {
        let sent = self.command(Command::Hangup, true);
        self.hung_up = true;
        sent
    }

    async fn drain(&mut self) {
        let closed = poll_fn(|cx| {
            loop {
                if let Poll::Ready(Err(_)) = self.socket.poll_flush(cx) {
                    return Poll::Ready(());
                }
                match ready!(self.socket.poll_read(cx)) {
                    Ok(_) => {}
                    Err(_) => return Poll::Ready(()),
                }
            }
        });
        if timeout(DRAIN, closed).await.is_err() {
            tracing::debug!("Asterisk has not closed the connection within {DRAIN:?} of the hang-up");
        }
    }
}

/// Runs `warn` the first time.
fn once(warned: &mut bool, warn: impl FnOnce()) {
    if !std::mem::replace(warned, true) {
        warn();
    }
}

impl Stream for Leg {
    type Item = LegEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LegEvent>> {
        let this = self.get_mut();
        if this.socket.is_blocked()
            && let Poll::Ready(Err(error)) = this.socket.poll_flush(cx)
        {
            this.broke(&error);
        }
        if let Some(event) = this.early.pop_front() {
            return Poll::Ready(Some(event));
        }
        loop {
            if let Some(frame) = this.poll_frame(cx) {
                return frame.map(|frame| Some(LegEvent::Audio(frame)));
            }
            match this.state {
                State::Starting | State::Open => {}
                State::Ending(cause) => {
                    this.state = State::Over;
                    return Poll::Ready(Some(LegEvent::Hangup(cause)));
                }
                State::Over => return Poll::Ready(None),
            }
            match this.poll_message(cx) {
                Poll::Ready(Some(event)) => return Poll::Ready(Some(event)),
                Poll::Ready(None) => {}
                Poll::Pending => {
                    this.spent = 0;
                    ready!(this.poll_idle(cx));
                    tracing::warn!(after = ?this.idle_limit, "nothing has come from Asterisk for websocket.idle_media_s: the call ends");
                    this.end(Cause::Idle);
                }
            }
        }
    }
}

impl Link for Leg {
    type Event = LegEvent;
    type Command = LegCommand;

    fn send(&mut self, command: LegCommand) -> Sent<LegCommand> {
        match command {
            LegCommand::Audio(frame) => self.send_audio(frame),
            // the frame behind it will be refused, and comes again with its mark
            LegCommand::Mark(_) if self.full || self.socket.is_blocked() => Sent::Whole,
            // goes out with the frame behind it
            LegCommand::Mark(number) => self.command(Command::Mark(number), false),
            LegCommand::Flush(number) => {
                self.outgoing.clear();
                let _ = self.command(Command::Flush, false);
                self.command(Command::Fence(number), true)
            }
            LegCommand::Hangup => self.hang_up(),
        }
    }
}

impl call::Leg for Leg {
    fn rate(&self) -> Rate {
        self.codec.rate
    }

    fn lead(&self) -> Duration {
        if self.codec.is_passed_through() { Duration::ZERO } else { self.lead }
    }

    async fn close(mut self) {
        if self.state == State::Over {
            // the answer to Asterisk's own close
            let _ = self.socket.flush();
            return;
        }
        if !self.hung_up {
            let _ = self.hang_up();
        }
        self.drain().await;
    }
}

impl fmt::Debug for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leg").field("rate", &self.codec.rate).field("state", &self.state).finish_non_exhaustive()
    }
}
