//! A WebSocket over a TCP connection that is written to at once and never waited for.
//!
//! The library's own WebSocket over our bytes, without the asynchronous layer around it: a leg sends outside of any poll.

use std::{
    io::{self, Read, Write},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::{
    Error, Message, WebSocket,
    protocol::{Role, WebSocketConfig},
};

use super::wire;

/// Bytes read at once: a frame at every usual rate, or some of them.
const BUFFER: usize = 4 * 1024;
/// Bytes that the library takes over at once; it clears as many before.
const STEP: usize = 512;
/// What may wait to be written; audio is refused long before.
const MAX_UNSENT: usize = 256 * 1024;

/// One connection.
pub(super) struct Socket {
    inner: WebSocket<Bytes>,
    /// The kernel has not taken everything.
    blocked: bool,
}

/// The bytes below.
struct Bytes {
    stream: TcpStream,
    incoming: Vec<u8>,
    at: usize,
    eof: bool,
}

impl Read for Bytes {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let there = &self.incoming[self.at..];
        if there.is_empty() {
            return if self.eof { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let count = there.len().min(into.len());
        into[..count].copy_from_slice(&there[..count]);
        self.at += count;
        Ok(count)
    }
}

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Bytes {
    /// Reads by way of the stack: only what came is kept, so that hundreds of legs do not push one another out of the cache.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [MaybeUninit::uninit(); BUFFER];
        let mut buf = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        self.incoming.clear();
        self.incoming.extend_from_slice(buf.filled());
        self.at = 0;
        self.eof = self.incoming.is_empty();
        Poll::Ready(Ok(()))
    }
}

fn is_block(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl Socket {
    /// A connection whose handshake is done; `read` is what came behind it.
    pub(super) fn new(stream: TcpStream, read: Vec<u8>, role: Role) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(STEP)
            // everything is written by our own flush
            .write_buffer_size(MAX_UNSENT / 2)
            .max_write_buffer_size(MAX_UNSENT)
            .max_message_size(Some(wire::MAX_TEXT))
            .max_frame_size(Some(wire::MAX_TEXT));
        let bytes = Bytes { stream, incoming: Vec::new(), at: 0, eof: false };
        Self { inner: WebSocket::from_partially_read(bytes, read, role, Some(config)), blocked: false }
    }

    /// The connection below.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.inner.get_ref().stream
    }

    /// Whether the kernel has not taken everything yet.
    pub(super) const fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Queues a message; [`Self::flush`] writes it.
    pub(super) fn put(&mut self, message: Message) -> Result<(), Error> {
        match self.inner.write(message) {
            Err(error) if is_block(&error) => {
                self.blocked = true;
                Ok(())
            }
            other => other,
        }
    }

    /// Writes what the kernel takes; whether that was everything.
    pub(super) fn flush(&mut self) -> Result<bool, Error> {
        match self.inner.flush() {
            Ok(()) => self.blocked = false,
            Err(error) if is_block(&error) => self.blocked = true,
            Err(error) => return Err(error),
        }
        Ok(!self.blocked)
    }

    /// Goes on writing; pending, it has registered for writability.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while self.blocked {
            ready!(self.stream().poll_write_ready(cx))?;
            self.flush()?;
        }
        Poll::Ready(Ok(()))
    }

    /// The next message.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        loop {
            match self.inner.read() {
                Err(error) if is_block(&error) => ready!(self.inner.get_mut().poll_fill(cx))?,
                other => return Poll::Ready(other),
            }
        }
    }
}
