//! A call over AudioSocket.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::Config;
use super::closing::{self, Remainder};
use super::intake::{Intake, Step};
use super::wire::{self, Decoder};
use crate::asterisk::gate::Place;
use crate::asterisk::telemetry::Stats;
use crate::audio::{Frame, Rate};
use crate::call::{self, Cause, LegCommand, LegEvent, Link, Sent};

/// How long the first audio is waited for; then the call is held at 8 kHz.
const FIRST_AUDIO: Duration = Duration::from_millis(300);
/// Events from before the first audio that are kept.
const MAX_EARLY: usize = 16;
/// The send buffer holds about this many frames: a peer that stops reading is noticed at once, not after minutes of speech.
const SEND_FRAMES: usize = 8;
/// What a poll may spend before others get their turn: a frame costs [`FRAME_COST`], a read or a message without audio costs one.
const TURN: u32 = 64;
const FRAME_COST: u32 = 8;

/// A call over AudioSocket: a stream of what the caller does, and a way to play to them.
pub struct Leg {
    stream: TcpStream,
    decoder: Decoder,
    intake: Intake,
    rate: Rate,
    /// Events from before the rate was known.
    early: VecDeque<LegEvent>,
    state: State,
    /// What the kernel has not taken of a frame, and controls behind it.
    remainder: Remainder,
    hung_up: bool,
    /// Why writing is over; reading finds the end of the connection then, but not the reason.
    write_failed: Option<Cause>,
    scratch: Vec<u8>,
    idle: Pin<Box<Sleep>>,
    idle_limit: Duration,
    heard: Instant,
    spent: u32,
    stats: Arc<Stats>,
    _place: Option<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The end is known and not yet reported.
    Ending(Cause),
    Over,
}

impl Leg {
    pub(super) async fn start(
        stream: TcpStream,
        decoder: Decoder,
        config: &Config,
        place: Option<Place>,
        stats: Arc<Stats>,
    ) -> Self {
        let idle_limit = Duration::from_secs(config.idle_media_s);
        let mut leg = Self {
            stream,
            decoder,
            intake: Intake::new(config.g711, Arc::clone(&stats)),
            rate: Rate::R8K,
            early: VecDeque::new(),
            state: State::Open,
            remainder: Remainder::default(),
            hung_up: false,
            write_failed: None,
            scratch: Vec::new(),
            idle: Box::pin(tokio::time::sleep(idle_limit)),
            idle_limit,
            heard: Instant::now(),
            spent: 0,
            stats,
            _place: place,
        };
        // also makes the runtime see that the socket can be written to, or the first frame would be refused
        let started = async {
            let _ = leg.stream.writable().await;
            poll_fn(|cx| leg.poll_start(cx)).await;
        };
        let _ = tokio::time::timeout(FIRST_AUDIO, started).await;
        leg.rate = leg.intake.fix_rate(Rate::R8K).rate();
        leg.limit_send_buffer();
        leg
    }

    fn limit_send_buffer(&self) {
        // the kernel doubles what it is given, for its own books
        let bytes = SEND_FRAMES * (wire::HEADER + 2 * self.rate.frame_samples());
        if let Err(error) = socket2::SockRef::from(&self.stream).set_send_buffer_size(bytes) {
            tracing::debug!(%error, "the send buffer cannot be limited: a caller that stops reading is noticed late");
        }
    }

    /// Ready when the rate is known, the leg is over, or there is too much to wait on.
    fn poll_start(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.intake.rate().is_none() && self.state == State::Open && self.early.len() < MAX_EARLY {
            if let Some(event) = ready!(self.poll_step(cx)) {
                self.early.push_back(event);
            }
        }
        Poll::Ready(())
    }

    /// The next 20 ms; `None` when less than that is there.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Option<Poll<Frame>> {
        if !self.intake.has_frame() {
            return None;
        }
        if self.poll_turn(cx, FRAME_COST).is_pending() {
            return Some(Poll::Pending);
        }
        self.intake.pop().map(Poll::Ready)
    }

    /// Takes one message out of the buffer, or else reads once.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Option<LegEvent>> {
        ready!(self.poll_turn(cx, 1));
        let Some(message) = self.decoder.next_message() else {
            match ready!(self.poll_read(cx)) {
                Ok(0) => self.end(self.eof()),
                Ok(_) => {}
                Err(error) => self.end(lost(&error, self.decoder.mid_frame())),
            }
            return Poll::Ready(None);
        };
        self.heard = Instant::now();
        match self.intake.take(message) {
            Step::Taken => {}
            Step::Event(event) => return Poll::Ready(Some(event)),
            Step::End(cause) => self.end(cause),
        }
        Poll::Ready(None)
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

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(self.decoder.room());
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        let n = buf.filled().len();
        self.decoder.filled(n);
        Poll::Ready(Ok(n))
    }

    /// What the end of the incoming bytes means.
    fn eof(&self) -> Cause {
        if self.decoder.mid_frame() {
            tracing::warn!("Asterisk closed the connection in the middle of a frame");
        }
        self.write_failed.unwrap_or(Cause::Normal)
    }

    fn end(&mut self, cause: Cause) {
        if self.state == State::Open {
            self.state = State::Ending(cause);
        }
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

    fn poll_remainder(&mut self, cx: &mut Context<'_>) {
        if !self.remainder.is_empty()
            && let Poll::Ready(Err(error)) = self.remainder.poll_write(&self.stream, cx)
        {
            self.writing_failed(&error);
        }
    }

    fn writing_failed(&mut self, error: &io::Error) {
        self.remainder = Remainder::default();
        // after a broken pipe the incoming bytes tell how it ended; any other error is reported here and nowhere else
        if error.kind() != io::ErrorKind::BrokenPipe {
            self.write_failed = Some(lost(error, self.decoder.mid_frame()));
        }
    }

    fn send_audio(&mut self, frame: Frame) -> Sent<LegCommand> {
        if self.hung_up || self.state != State::Open || !self.remainder.is_empty() {
            return self.refused(frame);
        }
        self.scratch.clear();
        wire::put_audio(&mut self.scratch, &frame);
        match self.stream.try_write(&self.scratch) {
            Ok(n) => {
                self.stats.frames_out.inc();
                if n == self.scratch.len() {
                    return Sent::Whole;
                }
                self.remainder.push(&self.scratch[n..]);
                Sent::Held
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    self.writing_failed(&error);
                }
                self.refused(frame)
            }
        }
    }

    fn refused(&self, frame: Frame) -> Sent<LegCommand> {
        self.stats.frames_refused.inc();
        Sent::Refused(LegCommand::Audio(frame))
    }

    fn send_hangup(&mut self) -> Sent<LegCommand> {
        if !std::mem::replace(&mut self.hung_up, true) {
            let sent = if self.remainder.is_empty() { self.stream.try_write(&wire::HANGUP).unwrap_or(0) } else { 0 };
            // behind the rest of a frame if there is one; if the socket is dead the next poll finds out
            self.remainder.push(&wire::HANGUP[sent..]);
        }
        if self.remainder.is_empty() { Sent::Whole } else { Sent::Held }
    }
}

/// What an error of the socket means, with a word for the log.
///
/// A reset between frames is an ordinary hang-up: Asterisk closes while some of our audio is unread (about one call in a hundred).
fn lost(error: &io::Error, mid_frame: bool) -> Cause {
    if error.kind() == io::ErrorKind::ConnectionReset && !mid_frame {
        tracing::debug!(%error, "Asterisk hung up while our audio was under way");
        return Cause::Normal;
    }
    tracing::warn!(%error, "the connection to Asterisk broke");
    Cause::Lost
}

impl Stream for Leg {
    type Item = LegEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LegEvent>> {
        let this = self.get_mut();
        this.poll_remainder(cx);
        if let Some(event) = this.early.pop_front() {
            return Poll::Ready(Some(event));
        }
        loop {
            if let Some(frame) = this.poll_frame(cx) {
                return frame.map(|frame| Some(LegEvent::Audio(frame)));
            }
            match this.state {
                State::Open => {}
                State::Ending(cause) => {
                    this.state = State::Over;
                    return Poll::Ready(Some(LegEvent::Hangup(cause)));
                }
                State::Over => return Poll::Ready(None),
            }
            match this.poll_step(cx) {
                Poll::Ready(Some(event)) => return Poll::Ready(Some(event)),
                Poll::Ready(None) => {}
                Poll::Pending => {
                    this.spent = 0;
                    ready!(this.poll_idle(cx));
                    tracing::warn!(after = ?this.idle_limit, "nothing has come from Asterisk for audiosocket.idle_media_s: the call ends");
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
            // nothing is buffered here: what was sent is with Asterisk, which plays it at once
            LegCommand::Flush(_) | LegCommand::Mark(_) => Sent::Whole,
            LegCommand::Hangup => self.send_hangup(),
        }
    }
}

impl call::Leg for Leg {
    fn rate(&self) -> Rate {
        self.rate
    }

    async fn close(self) {
        let pending = self.remainder.into_bytes();
        if self.hung_up {
            closing::drain(self.stream, pending).await;
        } else {
            closing::hang_up(self.stream, pending).await;
        }
    }
}

impl fmt::Debug for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leg").field("rate", &self.rate).field("state", &self.state).finish_non_exhaustive()
    }
}
