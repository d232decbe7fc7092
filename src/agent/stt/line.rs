//! The caller's line to a service over WebSockets: connects, sends, sends again what got lost, and tells what was heard.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::{
    CODES, Ends, Heard, Order,
    dialect::{Dialect, Read},
    packets::Packets,
};
use crate::{
    agent::{
        Context,
        pipe::{Got, Lost, Pipe},
        retry::{Streak, fault},
        vendor::advice,
        websocket::{ConnectError, escaped},
    },
    call::Fault,
};

const NAME: &str = "speech recognition";
/// What is sent again when a connection breaks: the newest audio that no text has come for, in frames (3 s).
const REPLAY: usize = 150;
/// The same while there is no connection: as much as another recogniser may have left to be heard again (30 s).
const REPLAY_WHILE_DOWN: usize = 1_500;
/// What is kept of the audio before a text (400 ms).
const KEPT_AT_TEXT: usize = 20;
/// Codes with which sessions end that have lasted long enough, or whose server is restarted.
const ORDERLY: [u16; 3] = [1000, 1001, 1012];
/// A connection that lives this long was no failure, however it ends.
const HEALTHY: Duration = Duration::from_secs(10);
/// A service that says nothing at all for this long after the caller stopped speaking is not listening.
const DEAF: Duration = Duration::from_secs(10);

/// One connection.
#[derive(Debug)]
struct Connection {
    pipe: Pipe,
    since: Instant,
    has_text: bool,
    /// Whether audio may go out.
    ready: bool,
    /// When something last went out.
    sent: Instant,
    /// When the caller stopped speaking and nothing has come since.
    asked: Option<Instant>,
    /// It ends with the utterance, once that has become words: what it was told until then.
    ending: Option<VecDeque<Bytes>>,
}

/// The caller's line to the service.
#[derive(Debug)]
pub struct Line {
    ctx: Context,
    dialect: Box<dyn Dialect>,
    ends: Ends,
    connection: Option<Connection>,
    retry_at: Instant,
    streak: Streak,
    replay: VecDeque<Bytes>,
    /// Bytes in `replay`.
    replayed: usize,
    packets: Packets,
    strange: u64,
    /// The caller stopped speaking while nobody could be told.
    unflushed: bool,
}

/// Why a connection is of no more use.
#[derive(Debug)]
enum Gone {
    /// Another may do better.
    Again(String),
    /// The same, in order: sessions have an end.
    Ended(String),
    /// None will.
    Final(String),
}

enum Step {
    On,
    Gone(Gone),
    Finish,
}

impl Line {
    pub fn new(ctx: Context, dialect: Box<dyn Dialect>, ends: Ends) -> Self {
        let sends = dialect.sends();
        let packets = Packets::new(sends, ctx.rate);
        Self {
            streak: Streak::new(Duration::from_millis(ctx.config.reconnect_ms)),
            ctx,
            dialect,
            ends,
            connection: None,
            retry_at: Instant::now(),
            replay: VecDeque::new(),
            replayed: 0,
            packets,
            strange: 0,
            unflushed: false,
        }
    }

    /// Runs until told to finish and the service has ended, or until it has failed.
    pub async fn run(mut self) -> Result<(), Fault> {
        loop {
            if self.connection.is_none() && !self.connect().await? {
                return Ok(());
            }
            let Some(mut connection) = self.connection.take() else { continue };
            match self.step(&mut connection).await {
                Step::On => self.connection = Some(connection),
                Step::Gone(gone) => self.lost(&mut connection, gone)?,
                Step::Finish => {
                    self.finish(connection).await;
                    return Ok(());
                }
            }
        }
    }

    async fn step(&mut self, connection: &mut Connection) -> Step {
        let full = connection.pipe.is_full();
        let idle = self.dialect.idle().filter(|_| connection.ready);
        let idle_at = idle.as_ref().map(|(period, _)| connection.sent + *period);
        let limit = Duration::from_millis(self.ctx.config.connect_timeout_ms);
        let begun = connection.ready || connection.ending.is_some();
        let late = match connection.ending {
            Some(_) => Some(connection.sent + DEAF),
            None if connection.ready => connection.asked.map(|at| at + DEAF),
            None => Some(connection.since + limit),
        };
        tokio::select! {
            biased;
            order = self.ends.orders.recv() => match order {
                Some(Order::Flush) => {
                    self.packets.speaks(false);
                    self.flush(connection);
                    Step::On
                }
                Some(Order::Start) => {
                    self.unflushed = false;
                    self.packets.speaks(true);
                    self.pass_on(connection);
                    Step::On
                }
                Some(Order::Finish) | None => Step::Finish,
            },
            got = connection.pipe.next() => match got {
                Ok(Got::Text(text)) => self.read(connection, &text).await,
                Ok(Got::Audio(_) | Got::Room) => Step::On,
                Err(lost) => Step::Gone(self.gone(lost)),
            },
            frame = self.ends.audio.take(), if !full => {
                self.packets.push(&frame);
                self.pass_on(connection);
                self.feel_better(connection);
                Step::On
            }
            () = at(idle_at) => {
                if let Some((_, message)) = idle {
                    connection.pipe.send(message);
                    connection.sent = Instant::now();
                }
                Step::On
            }
            () = at(late) => {
                let what = if begun {
                    format!("it has said nothing for {} s, though the caller spoke", DEAF.as_secs())
                } else {
                    format!("it took the connection and did not begin within {} ms", limit.as_millis())
                };
                if begun {
                    // a connection that lived so long is no failure to connect, but somebody should know
                    self.ends.health.trouble(fault("agent.stt.silent", NAME, &what));
                }
                Step::Gone(Gone::Again(what))
            }
        }
    }

    /// Tries to connect once, keeping the caller's audio meanwhile; `false` when told to finish.
    async fn connect(&mut self) -> Result<bool, Fault> {
        let ctx = self.ctx.clone();
        let (url, headers) = self.dialect.target();
        let retry_at = self.retry_at;
        let mut attempt = Box::pin(async {
            sleep_until(retry_at).await;
            Pipe::connect(&ctx, &url, &headers).await
        });
        let connected = loop {
            tokio::select! {
                biased;
                order = self.ends.orders.recv() => match order {
                    Some(order @ (Order::Start | Order::Flush)) => {
                        self.unflushed = order == Order::Flush;
                        self.packets.speaks(order == Order::Start);
                    }
                    Some(Order::Finish) | None => return Ok(false),
                },
                connected = &mut attempt => break connected,
                frame = self.ends.audio.take() => {
                    self.packets.push(&frame);
                    // what is whole is sent with the rest once there is a connection
                    while let Some(audio) = self.packets.whole() {
                        self.keep(audio, REPLAY_WHILE_DOWN);
                    }
                }
            }
        };
        match connected {
            Ok(pipe) => self.begin(pipe),
            Err(error) => self.unconnected(&error)?,
        }
        Ok(true)
    }

    fn begin(&mut self, mut pipe: Pipe) {
        self.dialect.open().into_iter().for_each(|message| pipe.send(message));
        let now = Instant::now();
        let ready = !self.dialect.waits();
        let mut connection =
            Connection { pipe, since: now, has_text: false, ready, sent: now, asked: None, ending: None };
        if ready {
            self.again(&mut connection);
        }
        self.connection = Some(connection);
    }

    /// Sends what the last connection may have lost.
    fn again(&mut self, connection: &mut Connection) {
        for audio in &self.replay {
            connection.pipe.send(self.dialect.audio(audio.clone()));
        }
        self.trim(REPLAY);
        if std::mem::take(&mut self.unflushed) {
            self.flush(connection);
        }
    }

    fn unconnected(&mut self, error: &ConnectError) -> Result<(), Fault> {
        let mut what = self.dialect.scrub(error.to_string());
        let ConnectError::Handshake { status, retry_after, .. } = error else {
            return self.failed("agent.stt.refused", what, None);
        };
        if let Some(status) = status {
            self.ends.health.answered(*status, *retry_after);
        }
        // asking again would not make the key or the account better
        what.push_str(status.map_or("", advice));
        let code = status.map_or(CODES.refused, |status| CODES.of(status));
        if matches!(status, Some(400..=403 | 422)) {
            return Err(fault(code, NAME, what));
        }
        let code = if code == CODES.failed { CODES.refused } else { code };
        self.failed(code, what, *retry_after)
    }

    fn gone(&self, lost: Lost) -> Gone {
        let what = self.dialect.scrub(lost.what);
        match lost.code {
            Some(code) if ORDERLY.contains(&code) => Gone::Ended(what),
            Some(code) if self.dialect.is_final(code) => Gone::Final(what),
            _ => Gone::Again(what),
        }
    }

    /// Sends what is whole.
    fn pass_on(&mut self, connection: &mut Connection) {
        while let Some(audio) = self.packets.whole() {
            self.play(connection, audio);
        }
    }

    fn play(&mut self, connection: &mut Connection, audio: Bytes) {
        let most = if connection.ready { REPLAY } else { REPLAY_WHILE_DOWN };
        self.keep(audio.clone(), most);
        if connection.ready {
            connection.pipe.send(self.dialect.audio(audio));
            connection.sent = Instant::now();
        }
    }

    fn keep(&mut self, audio: Bytes, most: usize) {
        self.replayed += audio.len();
        self.replay.push_back(audio);
        self.trim(most);
    }

    /// Keeps the newest `most` frames, in whole messages.
    fn trim(&mut self, most: usize) {
        let most = most * self.packets.frame_bytes();
        while self.replayed > most
            && let Some(oldest) = self.replay.pop_front()
        {
            self.replayed -= oldest.len();
        }
    }

    fn flush(&mut self, connection: &mut Connection) {
        if let Some(audio) = self.packets.rest() {
            self.play(connection, audio);
        }
        if connection.ready {
            self.dialect.finalize().into_iter().for_each(|message| connection.pipe.send(message));
            connection.sent = Instant::now();
            connection.asked.get_or_insert(connection.sent);
            if self.dialect.finalize_ends() {
                connection.ready = false;
                self.replayed = 0;
                connection.ending = Some(std::mem::take(&mut self.replay));
            }
        } else {
            self.unflushed = true;
        }
    }

    fn feel_better(&mut self, connection: &Connection) {
        if let Some(dropped) = self.ends.audio.take_dropped() {
            tracing::warn!(dropped, "{NAME} takes audio again; the oldest frames were dropped meanwhile");
            self.ends.health.fine();
        }
        if self.streak.is_failing() && (connection.has_text || connection.since.elapsed() >= HEALTHY) {
            self.streak.worked();
            self.ends.health.fine();
        }
    }

    /// What the service says.
    async fn read(&mut self, connection: &mut Connection, text: &str) -> Step {
        connection.asked = None;
        for read in self.dialect.read(text) {
            match read {
                Read::Heard(heard) => self.heard(connection, heard).await,
                Read::Ready if !connection.ready => {
                    connection.ready = true;
                    self.again(connection);
                }
                Read::Ready => {}
                Read::Trouble(what) => {
                    let what = self.dialect.scrub(what);
                    self.ends.health.trouble(fault("agent.stt.failed", NAME, what));
                }
                Read::Fatal { what, again: true } => return Step::Gone(Gone::Again(self.dialect.scrub(what))),
                Read::Fatal { what, again: false } => return Step::Gone(Gone::Final(self.dialect.scrub(what))),
                Read::Done => return Step::Gone(Gone::Ended("it ended the session".to_owned())),
                Read::Strange => self.note(text),
            }
        }
        Step::On
    }

    async fn heard(&mut self, connection: &mut Connection, heard: Heard) {
        if matches!(heard, Heard::Piece(_)) {
            connection.has_text = true;
            match &mut connection.ending {
                Some(told) => told.clear(),
                None => self.trim(KEPT_AT_TEXT),
            }
            self.feel_better(connection);
        }
        // closed: the call is over
        let _ = self.ends.heard.send(heard).await;
    }

    /// One line for a call, not one for each message.
    fn note(&mut self, text: &str) {
        self.strange += 1;
        if self.strange == 1 {
            tracing::debug!(text = escaped(text), "{NAME} sent text that is none of its protocol; ignored");
        }
    }

    fn lost(&mut self, connection: &mut Connection, gone: Gone) -> Result<(), Fault> {
        if let Some(told) = connection.ending.take() {
            if matches!(gone, Gone::Ended(_)) {
                // as it was asked to
                self.retry_at = Instant::now();
                return Ok(());
            }
            self.untold(told);
        }
        let (what, in_order) = match gone {
            Gone::Again(what) => (what, false),
            Gone::Ended(what) => (what, true),
            Gone::Final(what) => return Err(fault("agent.stt.refused", NAME, what)),
        };
        let worked = connection.has_text || connection.since.elapsed() >= HEALTHY;
        if worked && (in_order || !self.ends.health.has_spare()) {
            tracing::info!(what, "the connection to {NAME} ended early; a new one takes over");
            self.streak.worked();
            self.retry_at = Instant::now();
            return Ok(());
        }
        self.failed("agent.stt.failed", what, None)
    }

    /// Nobody has heard it after all: another connection will.
    fn untold(&mut self, mut told: VecDeque<Bytes>) {
        self.unflushed |= !told.is_empty();
        self.replayed += told.iter().map(Bytes::len).sum::<usize>();
        told.append(&mut self.replay);
        self.replay = told;
        self.trim(REPLAY_WHILE_DOWN);
    }

    fn failed(&mut self, code: &'static str, what: String, after: Option<Duration>) -> Result<(), Fault> {
        let Some(pause) = self.streak.failed(3).filter(|_| !self.ends.health.has_spare()) else {
            return Err(fault(code, NAME, what));
        };
        let pause = pause.max(after.unwrap_or_default());
        if pause > Duration::from_millis(self.ctx.config.reconnect_ms) && after.is_some() {
            let what = format!("{what}; it wants to be left alone for {} s", pause.as_secs());
            return Err(fault(code, NAME, what));
        }
        self.ends.health.trouble(fault(code, NAME, what));
        self.retry_at = Instant::now() + pause;
        Ok(())
    }

    /// Sends what is left and collects what still comes; whoever waits for it has a limit.
    async fn finish(&mut self, mut connection: Connection) {
        while let Some(frame) = self.ends.audio.try_take() {
            self.packets.push(&frame);
        }
        while let Some(audio) = self.packets.whole().or_else(|| self.packets.rest()) {
            self.play(&mut connection, audio);
        }
        let ending = connection.ending.is_some();
        let end = if ending { Vec::new() } else { self.dialect.end() };
        let mut waiting = ending || (connection.ready && !end.is_empty());
        end.into_iter().for_each(|message| connection.pipe.send(message));
        while waiting && let Ok(got) = connection.pipe.next().await {
            if let Got::Text(text) = got
                && !matches!(self.read(&mut connection, &text).await, Step::On)
            {
                waiting = false;
            }
        }
        connection.pipe.close().await;
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
