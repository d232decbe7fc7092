//! One connection to a synthesis service after another: one sentence at a time, any of them cancelled at once.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    CODES, Chunk, Pcm, Word,
    dialect::{Dialect, Part},
};
use crate::agent::{
    Context,
    health::{Failure, Health},
    pipe::{Got, Lost, Pipe},
    retry::{Streak, fault},
    vendor::advice,
    websocket::ConnectError,
};

/// Parts on their way to who asked; when full the connection is left unread.
const PARTS: usize = 8;
const ORDERS: usize = 8;
/// Words of one sentence whose times are kept.
const MOST_WORDS: usize = 2_000;

#[derive(Debug)]
enum Answer {
    Audio(Bytes),
    Words(Vec<Word>),
    End,
    Failed(Failure),
}

#[derive(Debug)]
enum Order {
    Speak { id: u64, text: String, answers: mpsc::Sender<Answer> },
    Cancel(u64),
}

/// A synthesis service behind a WebSocket.
#[derive(Debug)]
pub struct Service {
    orders: mpsc::Sender<Order>,
    last_id: std::sync::atomic::AtomicU64,
    from: u32,
    ctx: Context,
    timeout: Duration,
    health: Health,
}

/// The answer to one sentence. Dropping it cancels the rest.
#[derive(Debug)]
pub struct Speech {
    id: u64,
    orders: mpsc::Sender<Order>,
    answers: mpsc::Receiver<Answer>,
    pcm: Pcm,
    told: usize,
    ended: bool,
    timeout: Duration,
    health: Health,
}

impl Service {
    /// Connects, now and whenever there is no connection for a sentence.
    pub fn start(ctx: Context, dialect: Box<dyn Dialect>, health: Health) -> Self {
        let (orders, taken) = mpsc::channel(ORDERS);
        let streak = Streak::new(Duration::from_millis(ctx.config.reconnect_ms));
        let timeout = Duration::from_millis(ctx.config.tts_timeout_ms);
        let from = dialect.rate();
        let line = Line {
            ctx: ctx.clone(),
            dialect,
            health: health.clone(),
            orders: taken,
            pipe: None,
            active: None,
            streak,
            sent: Instant::now(),
        };
        // ends by itself when `orders` is dropped
        tokio::spawn(line.run());
        Self { orders, last_id: 0.into(), from, ctx, timeout, health }
    }

    pub async fn speak(&self, text: &str) -> Speech {
        let id = 1 + self.last_id.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (sender, answers) = mpsc::channel(PARTS);
        // closed: the answers are closed too
        let _ = self.orders.send(Order::Speak { id, text: text.to_owned(), answers: sender }).await;
        let pcm = Pcm::new(self.from, self.ctx.rate);
        let (orders, timeout, health) = (self.orders.clone(), self.timeout, self.health.clone());
        Speech { id, orders, answers, pcm, told: 0, ended: false, timeout, health }
    }
}

impl Speech {
    pub async fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        while !self.ended {
            let once = |code, what: String| Err(Failure::Once(fault(code, CODES.name, what)));
            let samples = match tokio::time::timeout(self.timeout, self.answers.recv()).await {
                Ok(Some(Answer::Audio(audio))) => self.pcm.push(&audio),
                Ok(Some(Answer::Words(mut words))) => {
                    words.truncate(MOST_WORDS.saturating_sub(self.told));
                    self.told += words.len();
                    if words.is_empty() {
                        continue;
                    }
                    return Ok(Some(Chunk::Words(words)));
                }
                Ok(Some(Answer::End)) => {
                    self.ended = true;
                    self.health.fine();
                    self.pcm.finish()
                }
                Ok(Some(Answer::Failed(failure))) => {
                    self.ended = true;
                    return Err(failure);
                }
                Ok(None) => return once(CODES.broken, "it is gone".to_owned()),
                Err(_) => return once(CODES.timeout, format!("nothing came for {} ms", self.timeout.as_millis())),
            };
            if !samples.is_empty() {
                return Ok(Some(Chunk::Samples(samples)));
            }
        }
        Ok(None)
    }
}

impl Drop for Speech {
    fn drop(&mut self) {
        if !self.ended {
            // full: whoever is next in the queue cancels it by asking
            let _ = self.orders.try_send(Order::Cancel(self.id));
        }
    }
}

#[derive(Debug)]
struct Active {
    id: u64,
    text: String,
    answers: mpsc::Sender<Answer>,
    /// Answers that there is no room for.
    held: std::collections::VecDeque<Answer>,
    answered: bool,
    resent: bool,
}

#[derive(Debug)]
struct Line {
    ctx: Context,
    dialect: Box<dyn Dialect>,
    health: Health,
    orders: mpsc::Receiver<Order>,
    pipe: Option<Pipe>,
    active: Option<Active>,
    streak: Streak,
    sent: Instant,
}

impl Line {
    async fn run(mut self) {
        // the first sentence then finds a connection; if not, it tries again and reports
        let mut going = self.connect(true).await;
        while going {
            going = self.step().await;
        }
        if let Some(mut pipe) = self.pipe.take() {
            self.dialect.end().into_iter().for_each(|message| pipe.send(message));
            pipe.close().await;
        }
    }

    /// One thing after the other; `false` when nobody wants anything any more.
    async fn step(&mut self) -> bool {
        if self.pipe.is_none() && self.active.is_some() {
            return self.connect(false).await;
        }
        let full = self.active.as_ref().filter(|active| !active.held.is_empty()).map(|active| active.answers.clone());
        let idle = self.dialect.idle().filter(|_| self.pipe.is_some());
        let idle_at = idle.as_ref().map(|(period, _)| self.sent + *period);
        tokio::select! {
            biased;
            order = self.orders.recv() => match order {
                Some(order) => self.order(order),
                None => return false,
            },
            room = room(full.as_ref()), if full.is_some() => self.release(room),
            got = next(&mut self.pipe), if full.is_none() => match got {
                Ok(Got::Text(text)) => {
                    let parts = self.dialect.read(&text);
                    self.take(parts);
                }
                Ok(Got::Audio(audio)) => {
                    let parts = self.dialect.audio(audio);
                    self.take(parts);
                }
                Ok(Got::Room) => {}
                Err(lost) => self.lost(lost),
            },
            () = at(idle_at) => if let Some((_, message)) = idle {
                self.say(vec![message]);
            },
        }
        true
    }

    fn say(&mut self, messages: Vec<tokio_tungstenite::tungstenite::Message>) {
        if let Some(pipe) = &mut self.pipe {
            messages.into_iter().for_each(|message| pipe.send(message));
            self.sent = Instant::now();
        }
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Speak { id, text, answers } => {
                self.cancel();
                // a service that reads nothing for so many sentences is as good as gone
                self.pipe.take_if(|pipe| pipe.is_full());
                if self.pipe.is_some() {
                    let messages = self.dialect.speak(id, &text);
                    self.say(messages);
                }
                let held = std::collections::VecDeque::new();
                self.active = Some(Active { id, text, answers, held, answered: false, resent: false });
            }
            Order::Cancel(id) if self.active.as_ref().is_some_and(|active| active.id == id) => self.cancel(),
            Order::Cancel(_) => {}
        }
    }

    fn cancel(&mut self) {
        // whoever asked and got everything has dropped its end
        let Some(active) = self.active.take() else { return };
        if self.pipe.is_some() {
            let messages = self.dialect.cancel(active.id);
            self.say(messages);
        }
    }

    /// Gives out the answers that were held back, as far as there is room.
    fn release(&mut self, room: Option<mpsc::OwnedPermit<Answer>>) {
        let Some(permit) = room else { return self.cancel() };
        if let Some(answer) = self.active.as_mut().and_then(|active| active.held.pop_front()) {
            let ends = matches!(answer, Answer::End | Answer::Failed(_));
            permit.send(answer);
            self.active.take_if(|_| ends);
        }
    }

    fn take(&mut self, parts: Vec<Part>) {
        for part in parts {
            match part {
                Part::Audio(audio) if audio.is_empty() => {}
                Part::Audio(audio) => self.pass(Answer::Audio(audio)),
                Part::Words(words) => self.pass(Answer::Words(words)),
                Part::End => self.pass(Answer::End),
                Part::Error(what) => {
                    let fault = fault(CODES.failed, CODES.name, self.dialect.scrub(what));
                    self.pass(Answer::Failed(Failure::Once(fault)));
                }
                Part::Fatal { what, again } => {
                    let what = self.dialect.scrub(what);
                    self.broken(what, !again);
                }
            }
        }
    }

    fn pass(&mut self, answer: Answer) {
        let Some(active) = &mut self.active else { return };
        active.answered = true;
        let ends = matches!(answer, Answer::End | Answer::Failed(_));
        if !active.held.is_empty() {
            active.held.push_back(answer);
            return;
        }
        match active.answers.try_send(answer) {
            Ok(()) => drop(self.active.take_if(|_| ends)),
            Err(mpsc::error::TrySendError::Full(answer)) => active.held.push_back(answer),
            Err(mpsc::error::TrySendError::Closed(_)) => self.cancel(),
        }
    }

    fn lost(&mut self, lost: Lost) {
        let is_final = lost.code.is_some_and(|code| self.dialect.is_final(code));
        let what = self.dialect.scrub(lost.what);
        self.broken(what, is_final);
    }

    /// The connection is of no more use.
    fn broken(&mut self, what: String, is_final: bool) {
        self.pipe = None;
        match &mut self.active {
            _ if is_final => self.give_up(Failure::Final(fault(CODES.refused, CODES.name, what))),
            // nothing has come yet: the service may have been restarted since
            Some(active) if !active.answered && !active.resent && !self.health.has_spare() => active.resent = true,
            Some(_) => self.give_up(Failure::Once(fault(CODES.broken, CODES.name, what))),
            None => tracing::debug!(what, "{} closed an idle connection", CODES.name),
        }
    }

    fn give_up(&mut self, failure: Failure) {
        if let Some(active) = self.active.take() {
            // full: whoever asked sees the channel close
            let _ = active.answers.try_send(Answer::Failed(failure));
        }
    }

    /// Connects for the sentence that waits, or in advance: then a failure is nobody's yet.
    async fn connect(&mut self, in_advance: bool) -> bool {
        let ctx = self.ctx.clone();
        let (url, headers) = self.dialect.target();
        let mut connecting = Box::pin(Pipe::connect(&ctx, &url, &headers));
        let connected = loop {
            tokio::select! {
                biased;
                connected = &mut connecting => break connected,
                order = self.orders.recv() => match order {
                    Some(order) => self.order(order),
                    None => return false,
                },
            }
        };
        match connected {
            Ok(pipe) => {
                self.streak.worked();
                self.pipe = Some(pipe);
                let opening = self.dialect.open();
                self.say(opening);
                if let Some((id, text)) = self.active.as_ref().map(|active| (active.id, active.text.clone())) {
                    let messages = self.dialect.speak(id, &text);
                    self.say(messages);
                }
                true
            }
            Err(_) if in_advance => true,
            Err(error) => self.unconnected(&error).await,
        }
    }

    async fn unconnected(&mut self, error: &ConnectError) -> bool {
        let (status, after) = match error {
            ConnectError::Handshake { status, retry_after, .. } => (*status, *retry_after),
            _ => (None, None),
        };
        let what = format!("{}{}", self.dialect.scrub(error.to_string()), status.map_or("", advice));
        if let Some(status) = status {
            self.health.answered(status, after);
        }
        if let Some(status) = status.filter(|status| matches!(status, 400..=404 | 422)) {
            self.give_up(Failure::Final(fault(CODES.of(status), CODES.name, what)));
            return true;
        }
        if !self.streak.is_failing() {
            self.health.trouble(fault(CODES.unreachable, CODES.name, &what));
        }
        let limit = Duration::from_millis(self.ctx.config.reconnect_ms);
        let pause = self.streak.failed(2).map(|pause| pause.max(after.unwrap_or_default()));
        let may_wait = |pause: &Duration| !self.health.has_spare() && (after.is_none() || *pause <= limit);
        let Some(pause) = pause.filter(may_wait) else {
            self.give_up(Failure::Final(fault(
                status.map_or(CODES.refused, |status| CODES.of(status)),
                CODES.name,
                what,
            )));
            return true;
        };
        let until = Instant::now() + pause;
        tokio::select! {
            () = sleep_until(until) => true,
            order = self.orders.recv() => match order {
                Some(order) => {
                    self.order(order);
                    true
                }
                None => false,
            },
        }
    }
}

async fn room(answers: Option<&mpsc::Sender<Answer>>) -> Option<mpsc::OwnedPermit<Answer>> {
    answers?.clone().reserve_owned().await.ok()
}

async fn next(pipe: &mut Option<Pipe>) -> Result<Got, Lost> {
    match pipe {
        Some(pipe) => pipe.next().await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
