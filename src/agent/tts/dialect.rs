//! What synthesis services over WebSockets differ in. The connection and its failures are [`super::line::Line`]'s.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::Word;

/// What a service's message means, for the sentence that is being spoken.
#[derive(Debug, PartialEq)]
pub enum Part {
    /// s16le at the dialect's rate.
    Audio(Bytes),
    /// When words of it are spoken.
    Words(Vec<Word>),
    /// It has been spoken.
    End,
    /// It cannot be spoken.
    Error(String),
    /// Nothing can be spoken over this connection any more; whether over another.
    Fatal { what: String, again: bool },
}

/// How a service speaks. One sentence at a time; each has a number that no other has.
pub trait Dialect: std::fmt::Debug + Send {
    /// Where it is, and what is said in the handshake.
    fn target(&self) -> (Url, HeaderMap);

    /// Rate of its audio.
    fn rate(&self) -> u32;

    /// A connection begins: forgets the last one; what is said first.
    fn open(&mut self) -> Vec<Message> {
        Vec::new()
    }

    /// Speak this.
    fn speak(&mut self, id: u64, text: &str) -> Vec<Message>;

    /// Do not speak it any more.
    fn cancel(&mut self, id: u64) -> Vec<Message>;

    /// What is said when nothing went out for so long.
    fn idle(&mut self) -> Option<(Duration, Message)> {
        None
    }

    /// Goodbye.
    fn end(&mut self) -> Vec<Message> {
        Vec::new()
    }

    /// What a text means.
    fn read(&mut self, text: &str) -> Vec<Part>;

    /// What a binary message means; to those who send audio in texts it means nothing.
    fn audio(&mut self, _audio: Bytes) -> Vec<Part> {
        Vec::new()
    }

    /// Whether a close with this code is for good.
    fn is_final(&self, code: u16) -> bool {
        code == 1008
    }

    /// `text` without our key, should the peer repeat it.
    fn scrub(&self, text: String) -> String;
}

/// The rate to ask for, so that a call at `hz` is not resampled where that can be.
pub const fn rate_for(hz: u32) -> u32 {
    match hz {
        8_000 | 16_000 | 48_000 => hz,
        _ => 24_000,
    }
}
