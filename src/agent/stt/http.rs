//! The AVR contract over streaming HTTP (section 1): one request for as long as the caller is listened to.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use url::Url;

use super::{
    Ends, Heard, Order,
    cutter::{Cutter, PIECE},
};
use crate::{
    agent::{
        Context,
        health::Health,
        retry::{Streak, error_body, explain, fault},
        utf8::Utf8,
        websocket::seconds,
    },
    call::Fault,
};

const NAME: &str = "speech recognition";
/// Pieces between us and the HTTP client.
const QUEUE: usize = 16;
/// Pieces that one frame can make, with room.
const ROOM: usize = 4;
/// What is sent again when a request breaks: the newest audio that no text has come for, in pieces (3 s).
const REPLAY: usize = 150;
/// The same while there is no connection: as much as another recogniser may have left to be heard again, in pieces (30 s).
const REPLAY_WHILE_DOWN: usize = 1_500;
/// What is kept of the audio before a text: the next word may have begun (400 ms).
const KEPT_AT_TEXT: usize = 20;
/// Quiet frames in a row after which a request may be rotated (300 ms).
const PAUSE: u32 = 15;
/// How much longer than wanted a request may live while the caller speaks on.
const ROTATE_LATEST: Duration = Duration::from_secs(20);
/// How long a request whose body has ended may deliver its last texts.
const LINGER: Duration = Duration::from_secs(10);
/// A request that lives this long was no failure, however it ends.
const HEALTHY: Duration = Duration::from_secs(10);
/// Text that nobody can have spoken: more than this at once, and this much per second.
const FLOOD_START: u64 = 16_000;
const FLOOD_PER_S: u64 = 1_000;

#[derive(Debug)]
enum Event {
    Text(String),
    Ended(End),
}

#[derive(Debug)]
enum End {
    /// The response ended.
    Orderly,
    /// Nobody listens there.
    Refused(String),
    /// Any other way.
    Broken(String),
}

/// The request that takes the caller's audio.
#[derive(Debug)]
struct Current {
    serial: u32,
    body: mpsc::Sender<Bytes>,
    /// Dropped: the request lingers and ends.
    _ending: oneshot::Sender<()>,
    since: Instant,
    has_text: bool,
}

/// The caller's line to the service, over one request after the other.
#[derive(Debug)]
pub struct Line {
    ctx: Context,
    url: Url,
    ends: Ends,
    cutter: Cutter,
    events: mpsc::Receiver<(u32, Event)>,
    /// Cloned for each request.
    events_in: mpsc::Sender<(u32, Event)>,
    /// Aborts what still runs when the line goes.
    tasks: JoinSet<()>,
    /// Requests that have not ended: the current one and those that linger.
    alive: usize,
    serial: u32,
    current: Option<Current>,
    retry_at: Instant,
    streak: Streak,
    replay: VecDeque<Bytes>,
    finishing: bool,
}

impl Line {
    pub fn new(ctx: Context, url: Url, ends: Ends) -> Self {
        let (events_in, events) = mpsc::channel(QUEUE);
        Self {
            cutter: Cutter::new(ctx.rate),
            streak: Streak::new(Duration::from_millis(ctx.config.reconnect_ms)),
            ctx,
            url,
            ends,
            events,
            events_in,
            tasks: JoinSet::new(),
            alive: 0,
            serial: 0,
            current: None,
            retry_at: Instant::now(),
            replay: VecDeque::new(),
            finishing: false,
        }
    }

    /// Runs until told to finish and the last text has come, or until the service has failed.
    pub async fn run(mut self) -> Result<(), Fault> {
        self.open();
        loop {
            if self.finishing && self.alive == 0 {
                return Ok(());
            }
            let full = self.current.as_ref().filter(|current| current.body.capacity() < ROOM).map(|c| c.body.clone());
            tokio::select! {
                biased;
                order = self.ends.orders.recv(), if !self.finishing => match order {
                    // the contract has no word for it
                    Some(Order::Start | Order::Flush) => {}
                    Some(Order::Finish) | None => self.finish(),
                },
                Some((serial, event)) = self.events.recv() => match event {
                    Event::Text(text) => self.text(serial, text).await,
                    Event::Ended(end) => self.ended(serial, end)?,
                },
                () = sleep_until(self.retry_at), if self.current.is_none() && !self.finishing => self.open(),
                frame = self.ends.audio.take(), if full.is_none() && !self.finishing => {
                    self.cutter.push(&frame);
                    self.pass_on();
                    self.rotate_if_due();
                }
                () = drained(full.as_ref()), if full.is_some() && !self.finishing => {}
            }
        }
    }

    fn open(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.serial += 1;
        let (body, pieces) = mpsc::channel(QUEUE);
        let (ending, ended) = oneshot::channel();
        if !self.replay.is_empty() {
            let audio: Vec<u8> = self.replay.iter().flatten().copied().collect();
            // the channel is new and empty
            let _ = body.try_send(audio.into());
            self.trim(REPLAY);
        }
        let request = Request {
            ctx: self.ctx.clone(),
            url: self.url.clone(),
            serial: self.serial,
            out: self.events_in.clone(),
            health: self.ends.health.clone(),
        };
        self.tasks.spawn(request.run(pieces, ended));
        self.alive += 1;
        let since = Instant::now();
        self.current = Some(Current { serial: self.serial, body, _ending: ending, since, has_text: false });
    }

    fn pass_on(&mut self) {
        while let Some(piece) = self.cutter.piece() {
            self.replay.push_back(piece.clone());
            if let Some(current) = &self.current {
                // closed: the request is ending; what it did not take is in the replay
                let _ = current.body.try_send(piece);
            }
        }
        self.trim(if self.current.is_some() { REPLAY } else { REPLAY_WHILE_DOWN });
        if let Some(dropped) = self.ends.audio.take_dropped() {
            tracing::warn!(dropped, "{NAME} takes audio again; the oldest frames were dropped meanwhile");
            self.ends.health.fine();
        }
        if self.streak.is_failing() && self.current.as_ref().is_some_and(|c| c.has_text || c.since.elapsed() >= HEALTHY)
        {
            self.streak.worked();
            self.ends.health.fine();
        }
    }

    fn trim(&mut self, keep: usize) {
        self.replay.drain(..self.replay.len().saturating_sub(keep));
    }

    async fn text(&mut self, serial: u32, text: String) {
        if let Some(current) = self.current.as_mut().filter(|current| current.serial == serial) {
            current.has_text = true;
            self.trim(KEPT_AT_TEXT);
        }
        // closed: the call is over
        let _ = self.ends.heard.send(Heard::Piece(text)).await;
    }

    fn ended(&mut self, serial: u32, end: End) -> Result<(), Fault> {
        self.alive -= 1;
        let Some(current) = self.current.take_if(|current| current.serial == serial) else {
            return Ok(());
        };
        let lived = current.since.elapsed();
        let spare = self.ends.health.has_spare();
        if (current.has_text || lived >= HEALTHY) && (!spare || matches!(end, End::Orderly)) {
            tracing::info!(?end, ?lived, "the request to {NAME} ended early; a new one takes over");
            self.streak.worked();
            self.retry_at = Instant::now();
            return Ok(());
        }
        let (code, what) = match end {
            End::Refused(what) => ("agent.stt.refused", what),
            End::Broken(what) => ("agent.stt.failed", what),
            End::Orderly => ("agent.stt.failed", "it ended the request at once without a text".to_owned()),
        };
        let least = if code == "agent.stt.refused" { 2 } else { 3 };
        let Some(pause) = self.streak.failed(least).filter(|_| !spare) else {
            return Err(fault(code, NAME, what));
        };
        self.ends.health.trouble(fault(code, NAME, what));
        self.retry_at = Instant::now() + pause;
        Ok(())
    }

    /// Node ends requests at 300 s: a new one takes over before that, where it cuts no word.
    fn rotate_if_due(&mut self) {
        let wanted = Duration::from_secs(self.ctx.config.rotate_s);
        let Some(age) = self.current.as_ref().map(|current| current.since.elapsed()) else { return };
        if age >= wanted && (self.cutter.quiet() >= PAUSE || age >= wanted + ROTATE_LATEST) {
            tracing::debug!(?age, "a new request to {NAME} takes over");
            // the old request has it all
            self.replay.clear();
            self.current = None;
            self.open();
        }
    }

    fn finish(&mut self) {
        self.finishing = true;
        while let Some(frame) = self.ends.audio.try_take() {
            self.cutter.push(&frame);
        }
        if let (Some(current), Some(rest)) = (self.current.take(), self.cutter.rest()) {
            // however full it is; the body ends behind it
            self.tasks.spawn(async move {
                let _ = current.body.send(rest).await;
            });
        }
    }
}

async fn drained(body: Option<&mpsc::Sender<Bytes>>) {
    if let Some(body) = body {
        // closed: the end of the request is among the events
        if body.reserve_many(ROOM).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// One request.
struct Request {
    ctx: Context,
    url: Url,
    serial: u32,
    out: mpsc::Sender<(u32, Event)>,
    health: Health,
}

impl Request {
    async fn run(self, pieces: mpsc::Receiver<Bytes>, ending: oneshot::Receiver<()>) {
        let lingering = async {
            // never sent: only dropped
            let _ = ending.await;
            sleep(LINGER).await;
        };
        let end = tokio::select! {
            end = self.exchange(pieces) => end,
            () = lingering => End::Orderly,
        };
        // closed: the call is over
        let _ = self.out.send((self.serial, Event::Ended(end))).await;
    }

    async fn exchange(&self, pieces: mpsc::Receiver<Bytes>) -> End {
        let body = futures_util::stream::unfold(pieces, |mut pieces| async {
            pieces.recv().await.map(|piece| (Ok::<_, Infallible>(piece), pieces))
        });
        let request = self
            .ctx
            .outgoing
            .http
            .post(self.url.clone())
            .header("X-UUID", self.ctx.uuid.to_string())
            .header("Content-Type", "application/octet-stream")
            .body(reqwest::Body::wrap_stream(body));
        let started = Instant::now();
        // the headers come with the first text: no limit
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return End::Refused(explain(&error)),
            Err(error) => return End::Broken(explain(&error)),
        };
        let status = response.status();
        if !status.is_success() {
            self.health.answered(status.as_u16(), seconds(response.headers()));
            return End::Broken(format!(
                "it answered with status {}: \"{}\"",
                status.as_u16(),
                error_body(response).await
            ));
        }
        let (mut utf8, mut bytes) = (Utf8::default(), 0u64);
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return End::Orderly,
                Err(error) => return End::Broken(explain(&error)),
            };
            bytes += chunk.len() as u64;
            let text = utf8.push(&chunk);
            if utf8.invalid() > 0 {
                return End::Broken("it sent bytes that are no UTF-8 text".to_owned());
            }
            if bytes > FLOOD_START + FLOOD_PER_S * started.elapsed().as_secs() {
                return End::Broken("it sends more text than anybody can speak".to_owned());
            }
            if !text.is_empty() && self.out.send((self.serial, Event::Text(text))).await.is_err() {
                return End::Orderly;
            }
        }
    }
}

const _: () = assert!(PIECE == 320 && ROOM < QUEUE);
