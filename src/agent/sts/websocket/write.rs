//! What goes to the service: written at once, or held in order.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures_util::Sink as _;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{
    self, Message as Frame, Utf8Bytes,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tracing::debug;

use super::{Held, MAX_DIGITS, MAX_HELD, MAX_HELD_CONNECTING, State, Sts};
use crate::{
    agent::{
        sts::{edge::Chunk, wire},
        websocket::escaped,
    },
    call::{AgentEvent, AgentInput, Digit, Fault, Sent},
};

impl Sts {
    pub(super) fn hear(&mut self, samples: &[i16]) -> Sent<AgentInput> {
        if matches!(self.state, State::Ended) || self.finishing.is_some() || self.mute {
            return Sent::Whole;
        }
        self.up.push(samples);
        let mut sent = true;
        while let Some(chunk) = self.up.pop() {
            sent = self.audio(chunk);
        }
        if sent { Sent::Whole } else { Sent::Held }
    }

    /// Whether it went out whole.
    fn audio(&mut self, chunk: Chunk) -> bool {
        if self.is_writable() {
            wire::audio(&chunk, &mut self.text);
            self.write();
        } else {
            self.hold_audio(chunk);
        }
        self.stalled.is_none() && self.held.is_empty()
    }

    /// Audio that waits for more of its message goes before what comes after it.
    pub(super) fn rest(&mut self) {
        if let Some(chunk) = self.up.rest() {
            self.audio(chunk);
        }
    }

    pub(super) fn hold_audio(&mut self, chunk: Chunk) {
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

    pub(super) fn digit(&mut self, digit: Digit) -> Sent<AgentInput> {
        if matches!(self.state, State::Ended) || self.finishing.is_some() || self.mute {
            return Sent::Whole;
        }
        self.rest();
        if self.is_writable() {
            wire::dtmf_digit(digit, &mut self.text);
            self.write();
            return if self.stalled.is_none() { Sent::Whole } else { Sent::Held };
        }
        if self.held.iter().filter(|held| matches!(held, Held::Digit(_))).count() >= MAX_DIGITS {
            return Sent::Refused(AgentInput::Dtmf(digit));
        }
        self.held.push_back(Held::Digit(digit));
        Sent::Held
    }

    pub(super) fn is_writable(&self) -> bool {
        matches!(self.state, State::Open(_)) && self.stalled.is_none() && self.held.is_empty() && !self.mute
    }

    /// Writes the message in `text`. Nothing may be pending.
    pub(super) fn write(&mut self) {
        let text = self.text.split().freeze();
        // Only whole JSON is ever put there, so this cannot fail.
        let Ok(text) = Utf8Bytes::try_from(text) else { return };
        self.write_frame(Frame::Text(text));
    }

    pub(super) fn write_frame(&mut self, frame: Frame) {
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
    pub(super) fn writing_failed(&mut self, error: &tungstenite::Error) {
        debug!("writing to the STS service failed: {}", escaped(&error.to_string()));
        self.mute = true;
        self.stalled = None;
        self.held.clear();
        self.held_audio = 0;
    }

    /// Writes as much as goes of what is pending, then says goodbye if it is time.
    pub(super) fn write_held(&mut self, cx: &mut Context<'_>) {
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

    pub(super) fn write_next(&mut self) {
        if let Some(uuid) = self.hello.take() {
            wire::init(uuid, &mut self.text);
        } else {
            match self.held.pop_front() {
                Some(Held::Audio(chunk)) => {
                    self.held_audio -= 1;
                    wire::audio(&chunk, &mut self.text);
                }
                Some(Held::Digit(digit)) => wire::dtmf_digit(digit, &mut self.text),
                Some(Held::Text(text)) => self.text.extend_from_slice(text.as_bytes()),
                None => return,
            }
        }
        self.write();
    }
}
