//! One WebSocket as messages, never waiting to write: what every protocol over WebSockets stands on.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context as Poller, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Sink as _, SinkExt as _, Stream as _};
use http::HeaderMap;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use url::Url;

use super::{
    Context,
    websocket::{self, ConnectError, escaped},
};

/// Messages that wait to be written: a second of audio.
pub const MAX_OUTGOING: usize = 50;
/// How long an orderly end may take.
const CLOSE: Duration = Duration::from_millis(500);

/// What comes in.
#[derive(Debug)]
pub enum Got {
    Text(Utf8Bytes),
    Audio(Bytes),
    /// What waited to be written has been.
    Room,
}

/// The connection is no more.
#[derive(Debug)]
pub struct Lost {
    /// The code with which the peer closed it.
    pub code: Option<u16>,
    /// In words, with those of the peer.
    pub what: String,
}

/// A connection. Everything is written from inside [`Self::next`].
#[derive(Debug)]
pub struct Pipe {
    socket: Box<websocket::Socket>,
    outgoing: VecDeque<Message>,
    unflushed: bool,
    was_full: bool,
}

impl Pipe {
    /// Connects, saying `headers` in the handshake.
    pub async fn connect(ctx: &Context, url: &Url, headers: &HeaderMap) -> Result<Self, ConnectError> {
        let timeout = Duration::from_millis(ctx.config.connect_timeout_ms);
        let socket = Box::new(websocket::connect_with(url, headers, &ctx.outgoing, timeout).await?);
        Ok(Self { socket, outgoing: VecDeque::new(), unflushed: false, was_full: false })
    }

    /// Queues a message.
    pub fn send(&mut self, message: Message) {
        self.outgoing.push_back(message);
    }

    /// Whether audio should wait for [`Got::Room`].
    pub fn is_full(&mut self) -> bool {
        self.was_full = self.outgoing.len() >= MAX_OUTGOING;
        self.was_full
    }

    /// Writes what can be written and waits for what comes. Loses nothing when dropped.
    pub async fn next(&mut self) -> Result<Got, Lost> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Writes what waits and closes, all within a short time.
    pub async fn close(mut self) {
        let closing = async {
            for message in std::mem::take(&mut self.outgoing) {
                if self.socket.send(message).await.is_err() {
                    return;
                }
            }
            // broken: it is closed
            let _ = self.socket.close().await;
        };
        let _ = tokio::time::timeout(CLOSE, closing).await;
    }

    /// How many messages wait to be written.
    pub fn waiting(&self) -> usize {
        self.outgoing.len()
    }

    /// The same as [`Self::next`], for who polls.
    pub fn poll(&mut self, cx: &mut Poller<'_>) -> Poll<Result<Got, Lost>> {
        let unwritten = self.poll_write(cx);
        if unwritten.is_ok() && self.was_full && self.outgoing.len() < MAX_OUTGOING {
            self.was_full = false;
            return Poll::Ready(Ok(Got::Room));
        }
        loop {
            // read even after a failed write: the peer may have said why it left
            let message = match Pin::new(&mut *self.socket).poll_next(cx) {
                Poll::Pending => return unwritten.map_or_else(|lost| Poll::Ready(Err(lost)), |()| Poll::Pending),
                Poll::Ready(None) => return Poll::Ready(Err(left(None, ""))),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broke(&error))),
                Poll::Ready(Some(Ok(message))) => message,
            };
            match message {
                Message::Binary(audio) => return Poll::Ready(Ok(Got::Audio(audio))),
                Message::Text(text) => return Poll::Ready(Ok(Got::Text(text))),
                Message::Close(Some(frame)) => {
                    return Poll::Ready(Err(left(Some(frame.code.into()), &frame.reason)));
                }
                Message::Close(None) => return Poll::Ready(Err(left(None, ""))),
                _ => {}
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Poller<'_>) -> Result<(), Lost> {
        let mut socket = Pin::new(&mut *self.socket);
        while !self.outgoing.is_empty() && socket.as_mut().poll_ready(cx).map_err(|error| broke(&error))?.is_ready() {
            if let Some(message) = self.outgoing.pop_front() {
                socket.as_mut().start_send(message).map_err(|error| broke(&error))?;
                self.unflushed = true;
            }
        }
        if self.unflushed && socket.as_mut().poll_flush(cx).map_err(|error| broke(&error))?.is_ready() {
            self.unflushed = false;
        }
        Ok(())
    }
}

fn broke(error: &tokio_tungstenite::tungstenite::Error) -> Lost {
    Lost { code: None, what: format!("the connection broke: {}", escaped(&error.to_string())) }
}

fn left(code: Option<u16>, reason: &str) -> Lost {
    let mut what = "it closed the connection".to_owned();
    if let Some(code) = code.filter(|code| *code != 1000) {
        what = format!("{what} with code {code}");
    }
    if !reason.is_empty() {
        what = format!("{what}: \"{}\"", escaped(reason));
    }
    Lost { code, what }
}
