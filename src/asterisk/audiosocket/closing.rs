//! The end of a connection.
//!
//! Closing a socket with unread bytes in it makes the kernel send a reset, and after a reset the AudioSocket application does not let
//! the dialplan continue. So: hang up with a frame, and read until the other side has closed.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::wire;

/// How long the other side may take to close after it was told to.
const DRAIN: Duration = Duration::from_secs(2);

/// Writes what is `pending` and then the hang-up, reads to the end, closes.
pub(super) async fn hang_up(stream: TcpStream, mut pending: Vec<u8>) {
    pending.extend_from_slice(&wire::HANGUP);
    drain(stream, pending).await;
}

/// Writes what is `pending`, reads to the end, closes.
pub(super) async fn drain(mut stream: TcpStream, pending: Vec<u8>) {
    let mut out = Remainder { bytes: pending, at: 0 };
    let mut sink = vec![0; 4096];
    let closed = tokio::time::timeout(
        DRAIN,
        poll_fn(|cx| {
            // a peer that writes without reading is drained all the same
            if let Poll::Ready(Err(_)) = out.poll_write(&stream, cx) {
                out = Remainder::default();
            }
            poll_discard(&mut stream, &mut sink, cx)
        }),
    );
    if closed.await.is_err() {
        tracing::debug!("Asterisk has not closed the connection within {DRAIN:?} of the hang-up");
    }
}

/// Ready when the other side has closed or reset.
fn poll_discard(stream: &mut TcpStream, sink: &mut [u8], cx: &mut Context<'_>) -> Poll<()> {
    loop {
        let mut buf = ReadBuf::new(sink);
        // tokio lets a task read only so often before it must yield, so a flood holds up nobody
        if ready!(std::pin::Pin::new(&mut *stream).poll_read(cx, &mut buf)).is_err() || buf.filled().is_empty() {
            return Poll::Ready(());
        }
    }
}

/// Bytes that the socket has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Remainder {
    bytes: Vec<u8>,
    at: usize,
}

impl Remainder {
    /// Whether everything is out.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds bytes behind those that wait.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The bytes that wait.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.drain(..self.at);
        self.bytes
    }

    /// Writes as much as the socket takes; pending, it has registered for writability.
    pub(super) fn poll_write(&mut self, stream: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.bytes.len() {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_write(&self.bytes[self.at..]) {
                Ok(n) => self.at += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.bytes.clear();
        self.at = 0;
        Poll::Ready(Ok(()))
    }
}
