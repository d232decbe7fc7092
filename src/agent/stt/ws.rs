//! Hark's own WebSocket contract.

use std::{collections::VecDeque, time::Duration};

use bytes::{Bytes, BytesMut};
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use url::Url;

use super::{Ends, Heard, Order};
use crate::{
    agent::{
        Context,
        retry::{Streak, fault},
        socket::{Incoming, Reply, Socket},
    },
    audio::Frame,
    call::Fault,
};

const NAME: &str = "speech recognition";
/// What is sent again when a connection breaks: the newest audio that no text has come for, in frames (3 s).
const REPLAY: usize = 150;
/// The same while there is no connection (12 s).
const REPLAY_WHILE_DOWN: usize = 600;
/// Frames whose memory is taken at once.
const FRAMES_AT_ONCE: usize = 50;
/// What is kept of the audio before a text (400 ms).
const KEPT_AT_TEXT: usize = 20;
/// A connection that lives this long was no failure, however it ends.
const HEALTHY: Duration = Duration::from_secs(10);

/// The caller's line to the service.
#[derive(Debug)]
pub struct Line {
    ctx: Context,
    url: Url,
    ends: Ends,
    socket: Option<Socket>,
    since: Instant,
    has_text: bool,
    retry_at: Instant,
    streak: Streak,
    replay: VecDeque<Bytes>,
    /// Audio of a message that is not whole yet, in memory that holds a second of it at a time.
    audio: BytesMut,
    /// Bytes of a whole message.
    whole: usize,
}

impl Line {
    pub fn new(ctx: Context, url: Url, ends: Ends) -> Self {
        let streak = Streak::new(Duration::from_millis(ctx.config.reconnect_ms));
        let now = Instant::now();
        let whole = ctx.rate.frame_samples() * 2 * ctx.config.frames_per_message();
        Self {
            audio: BytesMut::new(),
            whole,
            ctx,
            url,
            ends,
            socket: None,
            since: now,
            has_text: false,
            retry_at: now,
            streak,
            replay: VecDeque::new(),
        }
    }

    /// Runs until told to finish and the service has ended, or until it has failed.
    pub async fn run(mut self) -> Result<(), Fault> {
        loop {
            if self.socket.is_none() && !self.connect().await? {
                return Ok(());
            }
            let Some(mut socket) = self.socket.take() else { continue };
            let full = socket.is_full();
            let lost = tokio::select! {
                biased;
                order = self.ends.orders.recv() => match order {
                    Some(Order::Flush) => {
                        if let Some(audio) = self.rest() {
                            socket.play(audio);
                        }
                        socket.say(&json!({"type": "flush"}));
                        None
                    }
                    Some(Order::Finish) | None => {
                        self.finish(socket).await;
                        return Ok(());
                    }
                },
                incoming = socket.next() => match incoming {
                    Ok(Incoming::Reply(reply)) => self.reply(reply).await?,
                    Ok(Incoming::Audio(_) | Incoming::Room) => None,
                    Err(what) => Some(what),
                },
                frame = self.ends.audio.take(), if !full => {
                    if let Some(audio) = self.message(&frame, REPLAY) {
                        socket.play(audio);
                    }
                    self.feel_better();
                    None
                }
            };
            match lost {
                Some(what) => self.lost(what)?,
                None => self.socket = Some(socket),
            }
        }
    }

    /// Tries to connect once, keeping the caller's audio meanwhile; `false` when told to finish.
    async fn connect(&mut self) -> Result<bool, Fault> {
        let (ctx, url) = (self.ctx.clone(), self.url.clone());
        let start = json!({"type": "start", "uuid": ctx.uuid, "sample_rate": ctx.rate.hz()});
        let retry_at = self.retry_at;
        let mut attempt = Box::pin(async {
            sleep_until(retry_at).await;
            Socket::connect(&ctx, &url, &start).await
        });
        let connected = loop {
            tokio::select! {
                biased;
                order = self.ends.orders.recv() => if order != Some(Order::Flush) {
                    return Ok(false);
                },
                connected = &mut attempt => break connected,
                frame = self.ends.audio.take() => {
                    // what is whole is sent with the rest once there is a connection
                    let _ = self.message(&frame, REPLAY_WHILE_DOWN);
                }
            }
        };
        match connected {
            Ok(mut socket) => {
                (self.since, self.has_text) = (Instant::now(), false);
                self.replay.iter().for_each(|audio| socket.play(audio.clone()));
                self.socket = Some(socket);
            }
            Err(error) => self.failed("agent.stt.refused", error.to_string())?,
        }
        Ok(true)
    }

    /// Adds a frame: the message that it completes, of which `most` frames are kept.
    fn message(&mut self, frame: &Frame, most: usize) -> Option<Bytes> {
        let bytes = frame.samples().len() * 2;
        if self.audio.capacity() - self.audio.len() < bytes {
            self.audio.reserve(bytes * FRAMES_AT_ONCE);
        }
        let from = self.audio.len();
        self.audio.resize(from + bytes, 0);
        for (bytes, sample) in self.audio[from..].as_chunks_mut::<2>().0.iter_mut().zip(frame.samples()) {
            *bytes = sample.to_le_bytes();
        }
        let audio = (self.audio.len() >= self.whole).then(|| self.audio.split().freeze())?;
        self.replay.push_back(audio.clone());
        self.trim(most);
        Some(audio)
    }

    /// What waits for more.
    fn rest(&mut self) -> Option<Bytes> {
        let audio = (!self.audio.is_empty()).then(|| self.audio.split().freeze())?;
        self.replay.push_back(audio.clone());
        Some(audio)
    }

    /// Keeps the newest `most` frames.
    fn trim(&mut self, most: usize) {
        let most = most / self.ctx.config.frames_per_message();
        self.replay.drain(..self.replay.len().saturating_sub(most));
    }

    fn feel_better(&mut self) {
        if let Some(dropped) = self.ends.audio.take_dropped() {
            tracing::warn!(dropped, "{NAME} takes audio again; the oldest frames were dropped meanwhile");
            self.ends.health.fine();
        }
        if self.streak.is_failing() && (self.has_text || self.since.elapsed() >= HEALTHY) {
            self.streak.worked();
            self.ends.health.fine();
        }
    }

    /// What the service says; `Some` when the connection is of no more use.
    async fn reply(&mut self, reply: Reply) -> Result<Option<String>, Fault> {
        let heard = match reply.kind.as_str() {
            "partial" => Heard::Partial(reply.text.unwrap_or_default()),
            "final" => {
                self.has_text = true;
                self.trim(KEPT_AT_TEXT);
                // segments without blanks of their own are still words of their own
                Heard::Piece(format!(" {}", reply.text.unwrap_or_default().trim()))
            }
            "speech_started" => Heard::Started,
            "end_of_turn" => Heard::EndOfTurn,
            "error" if reply.fatal == Some(true) => return Ok(Some(reply.complaint())),
            "error" => {
                self.ends.health.trouble(fault("agent.stt.failed", NAME, reply.complaint()));
                return Ok(None);
            }
            _ => return Ok(None),
        };
        // closed: the call is over
        let _ = self.ends.heard.send(heard).await;
        Ok(None)
    }

    fn lost(&mut self, what: String) -> Result<(), Fault> {
        if self.has_text || self.since.elapsed() >= HEALTHY {
            tracing::info!(what, "the connection to {NAME} ended early; a new one takes over");
            self.streak.worked();
            self.retry_at = Instant::now();
            return Ok(());
        }
        self.failed("agent.stt.failed", what)
    }

    fn failed(&mut self, code: &'static str, what: String) -> Result<(), Fault> {
        let Some(pause) = self.streak.failed(3) else {
            return Err(fault(code, NAME, what));
        };
        self.ends.health.trouble(fault(code, NAME, what));
        self.retry_at = Instant::now() + pause;
        Ok(())
    }

    /// Sends what is left and collects what still comes; whoever waits for it has a limit.
    async fn finish(&mut self, mut socket: Socket) {
        while let Some(frame) = self.ends.audio.try_take() {
            if let Some(audio) = self.message(&frame, REPLAY) {
                socket.play(audio);
            }
        }
        if let Some(audio) = self.rest() {
            socket.play(audio);
        }
        socket.say(&json!({"type": "flush"}));
        socket.say(&json!({"type": "stop"}));
        while let Ok(incoming) = socket.next().await {
            if let Incoming::Reply(reply) = incoming
                && !matches!(self.reply(reply).await, Ok(None))
            {
                return;
            }
        }
    }
}
