//! What comes from the service.

use std::{
    borrow::Cow,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{
    self, Message as Frame, Utf8Bytes,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tracing::{debug, warn};

use super::{MAX_IDLE_READS, MAX_TRANSCRIPT, PIECE, State, Sts, Trouble, first};
use crate::{
    agent::{
        sts::wire::{self, Message},
        websocket::escaped,
    },
    call::{AgentEvent, Edge, Fault, UtteranceId},
};

impl Sts {
    /// Reads until something came of it.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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
            let has_to_say = !self.held.is_empty() && self.stalled.is_none() && !self.mute;
            if has_to_say || !self.events.is_empty() || !self.speech.is_empty() || matches!(self.state, State::Ended) {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    pub(super) fn message(&mut self, text: Utf8Bytes) {
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
                self.tools.spoken();
                let text = self.bounded(text);
                self.events.push_back(AgentEvent::Transcript { role, text, is_final: true });
            }
            Ok(Message::Error(message)) => self.troubled(&message),
            Ok(Message::Tools) => self.offer_tools(),
            Ok(Message::ToolCall) => self.call_tool(&text),
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

    pub(super) fn bounded(&mut self, text: Cow<'_, str>) -> String {
        if text.len() <= MAX_TRANSCRIPT {
            return text.into_owned();
        }
        if first(&mut self.oddities.long) {
            warn!("the STS service sends a transcript of {} bytes; it is cut to {MAX_TRANSCRIPT}", text.len());
        }
        text[..text.floor_char_boundary(MAX_TRANSCRIPT)].to_owned()
    }

    pub(super) fn interrupted(&mut self) {
        self.recovered();
        self.next_utterance();
        self.speech_until = None;
        self.down.reset();
        self.events.push_back(AgentEvent::Speech(Edge::Interrupted));
        self.tools.spoken();
        self.give_up_last();
    }

    pub(super) fn next_utterance(&mut self) {
        if self.spoke {
            self.spoke = false;
            self.utterance = UtteranceId(self.utterance.0.wrapping_add(1));
        }
    }

    pub(super) fn troubled(&mut self, message: &str) {
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

    pub(super) fn recovered(&mut self) {
        if self.trouble.take().is_some() {
            self.events.push_back(AgentEvent::Restored);
        }
    }

    /// The next piece of the speech at hand.
    pub(super) fn speak(&mut self) {
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

    pub(super) fn closed(&mut self, frame: Option<&CloseFrame>) {
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

    pub(super) fn broken(&mut self, error: &tungstenite::Error) {
        let code = match error {
            tungstenite::Error::Io(_)
            | tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => {
                "agent.sts.lost"
            }
            _ => "agent.sts.protocol",
        };
        self.fail(code, escaped(&error.to_string()));
    }
}
