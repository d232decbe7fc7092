//! Requests over one connection of Hark's WebSocket contract (`llm`, `tts`): one at a time, each with an id, any of them cancelled at once.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use url::Url;

use super::{
    Context,
    health::Health,
    retry::{Streak, fault},
    socket::{Incoming, Reply, Socket},
};

/// Answers on their way to who asked; when full the connection is left unread.
const ANSWERS: usize = 8;
const ORDERS: usize = 8;

/// What a service is called outside.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    pub name: &'static str,
    pub unreachable: &'static str,
}

/// Part of the answer to a request.
#[derive(Debug)]
pub enum Answer {
    Reply(Box<Reply>),
    Audio(Bytes),
    /// Nobody took the connection for the reconnect time.
    Refused(String),
    /// The connection broke in the middle.
    Broken(String),
}

#[derive(Debug)]
enum Order {
    Ask { id: u64, message: Value, answers: mpsc::Sender<Answer> },
    Tell { id: u64, message: Value },
    Cancel(u64),
}

/// The way to a service. Its connection ends when this is dropped.
#[derive(Debug)]
pub struct Requests {
    orders: mpsc::Sender<Order>,
    last_id: std::sync::atomic::AtomicU64,
}

/// A request. Dropping it cancels it.
#[derive(Debug)]
pub struct Asked {
    pub id: u64,
    orders: mpsc::Sender<Order>,
    answers: mpsc::Receiver<Answer>,
    done: bool,
}

impl Requests {
    /// Connects, now and whenever there is no connection for a request. `start` is said first.
    pub fn start(ctx: Context, url: Url, start: Value, names: Names, health: Health) -> Self {
        let (orders, taken) = mpsc::channel(ORDERS);
        let streak = Streak::new(Duration::from_millis(ctx.config.reconnect_ms));
        let line = Line { ctx, url, start, names, health, orders: taken, socket: None, active: None, streak };
        // ends by itself when `orders` is dropped
        tokio::spawn(line.run());
        Self { orders, last_id: 0.into() }
    }

    /// Sends `message` with an id of its own.
    pub async fn ask(&self, mut message: Value) -> Asked {
        let id = 1 + self.last_id.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        message["id"] = json!(id);
        let (sender, answers) = mpsc::channel(ANSWERS);
        // closed: the answers are closed too
        let _ = self.orders.send(Order::Ask { id, message, answers: sender }).await;
        Asked { id, orders: self.orders.clone(), answers, done: false }
    }

    /// Whether `asked` was asked here.
    pub fn has(&self, asked: &Asked) -> bool {
        self.orders.same_channel(&asked.orders)
    }
}

impl Asked {
    /// The next part; `None` when the service is gone.
    pub async fn next(&mut self) -> Option<Answer> {
        self.answers.recv().await
    }

    /// Sends `message`, which belongs to this request.
    pub async fn tell(&self, message: Value) {
        // closed: the answers are closed too
        let _ = self.orders.send(Order::Tell { id: self.id, message }).await;
    }

    /// The answer is complete: there is nothing to cancel.
    pub const fn done(&mut self) {
        self.done = true;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.done {
            // full: whoever is next in the queue cancels it by asking
            let _ = self.orders.try_send(Order::Cancel(self.id));
        }
    }
}

struct Active {
    id: u64,
    message: Value,
    answers: mpsc::Sender<Answer>,
    /// An answer that `answers` has no room for.
    held: Option<Answer>,
    answered: bool,
    resent: bool,
}

struct Line {
    ctx: Context,
    url: Url,
    start: Value,
    names: Names,
    health: Health,
    orders: mpsc::Receiver<Order>,
    socket: Option<Socket>,
    active: Option<Active>,
    streak: Streak,
}

impl Line {
    async fn run(mut self) {
        // the first request then finds a connection; if not, it tries again and reports
        let start = self.start.clone();
        let (ctx, url) = (self.ctx.clone(), self.url.clone());
        let mut connecting = Box::pin(Socket::connect(&ctx, &url, &start));
        // whoever asks meanwhile gains what has been done of it
        while self.socket.is_none() {
            tokio::select! {
                biased;
                connected = &mut connecting => match connected {
                    Ok(socket) => self.socket = Some(socket),
                    Err(_) => break,
                },
                order = self.orders.recv() => match order {
                    Some(order) => self.order(order),
                    None => return,
                },
            }
        }
        drop(connecting);
        if let (Some(socket), Some(active)) = (&mut self.socket, &self.active) {
            socket.say(&active.message);
        }
        while self.step().await {}
        if let Some(socket) = self.socket.take() {
            socket.stop().await;
        }
    }

    /// One thing after the other; `false` when nobody wants anything any more.
    async fn step(&mut self) -> bool {
        if self.socket.is_none() && self.active.is_some() {
            return self.reconnect().await;
        }
        let held = self.active.as_ref().filter(|active| active.held.is_some()).map(|active| active.answers.clone());
        tokio::select! {
            biased;
            order = self.orders.recv() => match order {
                Some(order) => self.order(order),
                None => return false,
            },
            room = room(held.as_ref()), if held.is_some() => self.release(room),
            incoming = next(&mut self.socket), if held.is_none() => match incoming {
                Ok(Incoming::Reply(reply)) => self.reply(reply),
                Ok(Incoming::Audio(audio)) => self.pass(Answer::Audio(audio)),
                Ok(Incoming::Room) => {}
                Err(what) => self.lost(what),
            },
        }
        true
    }

    /// Gives out the answer that was held back.
    fn release(&mut self, room: Option<mpsc::OwnedPermit<Answer>>) {
        let held = self.active.as_mut().and_then(|active| active.held.take());
        let (Some(permit), Some(answer)) = (room, held) else { return self.cancel() };
        if matches!(&answer, Answer::Reply(reply) if reply.ends()) {
            self.active = None;
        }
        permit.send(answer);
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Ask { id, message, answers } => {
                self.cancel();
                // a service that reads nothing for so many requests is as good as gone
                self.socket.take_if(|socket| socket.is_full());
                if let Some(socket) = &mut self.socket {
                    socket.say(&message);
                }
                self.active = Some(Active { id, message, answers, held: None, answered: false, resent: false });
            }
            Order::Tell { id, message } => {
                let is_active = self.active.as_ref().is_some_and(|active| active.id == id);
                if let Some(socket) = self.socket.as_mut().filter(|_| is_active) {
                    socket.say(&message);
                }
            }
            Order::Cancel(id) if self.active.as_ref().is_some_and(|active| active.id == id) => self.cancel(),
            Order::Cancel(_) => {}
        }
    }

    fn cancel(&mut self) {
        // whoever asked and got everything has dropped its end
        let Some(active) = self.active.take() else { return };
        if let Some(socket) = &mut self.socket {
            socket.say(&json!({"type": "cancel", "id": active.id}));
        }
    }

    fn reply(&mut self, reply: Box<Reply>) {
        let ends = reply.ends();
        let Some(active) = &self.active else { return };
        // an error without an id is about the service, and so about the request
        let about_all = reply.kind == "error" && reply.id.is_null();
        if !(about_all || reply.is_for(active.id)) {
            return;
        }
        self.pass(Answer::Reply(reply));
        if ends && self.active.as_ref().is_some_and(|active| active.held.is_none()) {
            self.active = None;
        }
    }

    fn pass(&mut self, answer: Answer) {
        let Some(active) = &mut self.active else { return };
        active.answered = true;
        match active.answers.try_send(answer) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(answer)) => active.held = Some(answer),
            Err(mpsc::error::TrySendError::Closed(_)) => self.cancel(),
        }
    }

    fn lost(&mut self, what: String) {
        self.socket = None;
        match &mut self.active {
            // nothing has come yet: the service may have been restarted since
            Some(active) if !active.answered && !active.resent && !self.health.has_spare() => active.resent = true,
            Some(_) => self.give_up(Answer::Broken(what)),
            None => {}
        }
    }

    fn give_up(&mut self, answer: Answer) {
        if let Some(active) = self.active.take() {
            // full: whoever asked sees the channel close
            let _ = active.answers.try_send(answer);
        }
    }

    /// Connects for the request that waits.
    async fn reconnect(&mut self) -> bool {
        let (ctx, url, start) = (self.ctx.clone(), self.url.clone(), self.start.clone());
        let mut connecting = Box::pin(Socket::connect(&ctx, &url, &start));
        let connected = loop {
            tokio::select! {
                biased;
                connected = &mut connecting => break connected,
                order = self.orders.recv() => if !self.meanwhile(order) {
                    return false;
                },
            }
        };
        let error = match connected {
            Ok(mut socket) => {
                self.streak.worked();
                if let Some(active) = &self.active {
                    socket.say(&active.message);
                }
                self.socket = Some(socket);
                return true;
            }
            Err(error) => error,
        };
        if !self.streak.is_failing() {
            self.health.trouble(fault(self.names.unreachable, self.names.name, &error));
        }
        let Some(pause) = self.streak.failed(2).filter(|_| !self.health.has_spare()) else {
            self.give_up(Answer::Refused(error.to_string()));
            return true;
        };
        let until = Instant::now() + pause;
        tokio::select! {
            () = sleep_until(until) => true,
            order = self.orders.recv() => self.meanwhile(order),
        }
    }

    fn meanwhile(&mut self, order: Option<Order>) -> bool {
        match order {
            Some(order) => {
                self.order(order);
                true
            }
            None => false,
        }
    }
}

async fn room(answers: Option<&mpsc::Sender<Answer>>) -> Option<mpsc::OwnedPermit<Answer>> {
    answers?.clone().reserve_owned().await.ok()
}

async fn next(socket: &mut Option<Socket>) -> Result<Incoming, String> {
    match socket {
        Some(socket) => socket.next().await,
        None => std::future::pending().await,
    }
}
