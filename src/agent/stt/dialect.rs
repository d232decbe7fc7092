//! What services over WebSockets differ in. The connection, its audio and its failures are [`super::line::Line`]'s.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::Heard;
use crate::{
    agent::Context,
    audio::{Rate, g711::Law},
};

/// What a service's message means.
#[derive(Debug)]
pub enum Read {
    /// Something was heard.
    Heard(Heard),
    /// It takes audio now.
    Ready,
    /// It is in trouble, and goes on.
    Trouble(String),
    /// It does not go on; whether another connection may do better.
    Fatal { what: String, again: bool },
    /// Nothing more comes.
    Done,
    /// It is not what it should be.
    Strange,
}

impl Read {
    /// Words that will not change, which may be none.
    pub fn piece(text: &str) -> Option<Self> {
        let text = text.trim();
        // segments without blanks of their own are still words of their own
        (!text.is_empty()).then(|| Self::Heard(Heard::Piece(format!(" {text}"))))
    }
}

/// What the caller is sent as.
#[derive(Debug, Clone, Copy)]
pub struct Sends {
    pub rate: Rate,
    /// As G.711; else as s16le.
    pub law: Option<Law>,
    /// Frames of 20 ms in a message.
    pub frames: usize,
    /// Whether the last message before a pause has to be as long as the others.
    pub padded: bool,
}

impl Sends {
    /// G.711 for a narrowband caller, 16 kHz for every other: what models listen to.
    pub fn g711(ctx: &Context) -> Self {
        let law = (ctx.rate == Rate::R8K).then_some(Law::Ulaw);
        Self { law, ..Self::linear(ctx) }
    }

    /// The same without G.711.
    pub fn linear(ctx: &Context) -> Self {
        let rate = if ctx.rate == Rate::R8K { Rate::R8K } else { Rate::R16K };
        Self { rate, law: None, frames: ctx.config.frames_per_message(), padded: false }
    }

    /// In messages of at least `frames`.
    pub const fn at_least(self, frames: usize) -> Self {
        Self { frames: if self.frames < frames { frames } else { self.frames }, ..self }
    }

    /// What vendors call it.
    pub const fn name(&self, ulaw: &'static str, linear: &'static str) -> &'static str {
        if self.law.is_some() { ulaw } else { linear }
    }

    /// Bytes of 20 ms.
    pub const fn frame_bytes(&self) -> usize {
        self.rate.frame_samples() * self.sample_bytes()
    }

    /// Bytes of a sample.
    pub const fn sample_bytes(&self) -> usize {
        if self.law.is_some() { 1 } else { 2 }
    }

    /// A byte of silence.
    pub const fn silence(&self) -> u8 {
        match self.law {
            Some(Law::Ulaw) => 0xFF,
            Some(Law::Alaw) => 0xD5,
            None => 0,
        }
    }
}

/// How a service speaks.
pub trait Dialect: std::fmt::Debug + Send {
    /// Where it is, and what is said in the handshake.
    fn target(&self) -> (Url, HeaderMap);

    /// What the caller is sent as.
    fn sends(&self) -> Sends;

    /// A connection begins: forgets the last one; what is said first.
    fn open(&mut self) -> Vec<Message> {
        Vec::new()
    }

    /// Whether audio has to wait for [`Read::Ready`].
    fn waits(&self) -> bool {
        false
    }

    /// A message of audio.
    fn audio(&mut self, audio: Bytes) -> Message {
        Message::binary(audio)
    }

    /// The caller has stopped speaking.
    fn finalize(&mut self) -> Vec<Message> {
        Vec::new()
    }

    /// Whether the service ends the connection over that: the next utterance is another's.
    fn finalize_ends(&self) -> bool {
        false
    }

    /// What is said when no audio went out for so long.
    fn idle(&mut self) -> Option<(Duration, Message)> {
        None
    }

    /// No more audio comes. Nothing to say: nothing is waited for.
    fn end(&mut self) -> Vec<Message>;

    /// What a message means.
    fn read(&mut self, text: &str) -> Vec<Read>;

    /// Whether a close with this code is for good.
    fn is_final(&self, code: u16) -> bool {
        code == 1008
    }

    /// `text` without our key, should the peer repeat it.
    fn scrub(&self, text: String) -> String {
        text
    }
}
