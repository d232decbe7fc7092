//! The caller's line to whichever recogniser works: when one fails, another hears what no text has come for, faster than it was said.

use std::{collections::VecDeque, future::poll_fn, sync::Arc, task::Poll, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{CODES, Ends, Heard, Order, echo::Echo, kept::Kept, listen_by};
use crate::{
    agent::{
        Chain, Context,
        cascade::Inbox,
        failover::{Row, Tried},
        retry::fault,
        service::Kind,
    },
    audio::Frame,
    call::Fault,
};

/// The caller's frames that wait for a recogniser (3 s), beside those that are heard again.
const FRAMES: usize = 150;
/// What was heard and is on its way.
const HEARD: usize = 16;
/// Orders to one recogniser that wait.
const ORDERS: usize = 8;

/// Listens until told to finish, or until all services have failed; `Heard::Ended` comes last.
pub async fn listen(ctx: Context, chain: Chain, ends: Ends) {
    let heard = ends.heard.clone();
    let row = Row::new(&ctx, &chain, Kind::Stt, &ends.health);
    let end = Relay::new(ctx, row, ends).run().await;
    // closed: nobody wants to know any more
    let _ = heard.send(Heard::Ended(end)).await;
}

/// The caller's side.
struct Relay {
    patience: Duration,
    row: Row,
    ends: Ends,
    kept: Kept,
    tried: Tried,
    /// One that kept silent, which noise may have been the reason of: the next one's words will tell.
    suspect: Option<usize>,
    finishing: bool,
}

/// One recogniser's.
struct Sitting {
    at: usize,
    inbox: Arc<Inbox<Frame>>,
    orders: mpsc::Sender<Order>,
    /// Those that come behind audio that has not been taken.
    held: VecDeque<Order>,
    echo: Option<Echo>,
    /// Since when something ought to have been heard.
    asked: Option<Instant>,
    has_words: bool,
}

/// Why one recogniser is of no more use.
enum Left {
    Finished,
    Failed(Fault),
    Silent,
}

impl Relay {
    fn new(ctx: Context, row: Row, ends: Ends) -> Self {
        let kept = Kept::new(row.count() > 1);
        let patience = Duration::from_millis(ctx.config.failover_after_ms);
        let tried = row.untried();
        Self { patience, row, ends, kept, tried, suspect: None, finishing: false }
    }

    async fn run(mut self) -> Result<(), Fault> {
        // a chain has at least one
        let Some(mut at) = self.row.next(&mut self.tried) else { return Ok(()) };
        loop {
            let _in_use = self.row.seat(at).take();
            let left = self.sit(at).await;
            let next = match &left {
                Left::Finished => return Ok(()),
                _ if self.finishing => None,
                _ => self.row.next(&mut self.tried),
            };
            match left {
                Left::Finished => {}
                Left::Silent => self.suspect = Some(at),
                Left::Failed(fault) => {
                    self.row.failed(at, &fault, next);
                    if next.is_none() {
                        return Err(fault);
                    }
                }
            }
            // silence is only looked at where there is another
            at = next.unwrap_or(at);
        }
    }

    /// Has the service at `at` listen.
    async fn sit(&mut self, at: usize) -> Left {
        let seat = self.row.seat(at);
        let inbox = Arc::new(Inbox::new(FRAMES + self.kept.frames().len()));
        for frame in self.kept.frames() {
            // there is room
            inbox.force(frame.clone());
        }
        let (orders, to_follow) = mpsc::channel(ORDERS);
        let (told, mut heard) = mpsc::channel(HEARD);
        let ends = Ends { audio: Arc::clone(&inbox), orders: to_follow, heard: told, health: seat.health.clone() };
        let early = seat.service.tells_early();
        let mut listening = Box::pin(listen_by(seat.ctx.clone(), seat.service.clone(), ends));
        let mut sitting =
            Sitting { at, inbox, orders, held: VecDeque::new(), echo: self.kept.echo(), asked: None, has_words: false };
        if self.kept.is_unsettled() {
            sitting.order(Order::Start);
            if !self.kept.speaks() {
                sitting.held.push_back(Order::Flush);
            }
            sitting.asked = (early || !self.kept.speaks()).then(Instant::now);
        }
        loop {
            let silent_at = sitting.asked.filter(|_| self.row.count() > 1).map(|since| since + self.patience);
            tokio::select! {
                biased;
                order = self.ends.orders.recv(), if !self.finishing => self.order(&mut sitting, order, early),
                end = &mut listening => {
                    while let Ok(heard) = heard.try_recv() {
                        self.heard(&mut sitting, heard).await;
                    }
                    return end.map_or_else(Left::Failed, |()| Left::Finished);
                }
                Some(heard) = heard.recv() => self.heard(&mut sitting, heard).await,
                frame = self.ends.audio.take() => self.hear(&sitting, frame),
                () = drained(&sitting.inbox), if !sitting.held.is_empty() => sitting.release(),
                () = until(silent_at) => {
                    sitting.asked = None;
                    if self.suspect.take().is_none() && self.row.has_spare(&self.tried) && !self.finishing {
                        return Left::Silent;
                    }
                    // two that hear nothing: there was nothing
                }
            }
        }
    }

    fn order(&mut self, sitting: &mut Sitting, order: Option<Order>, early: bool) {
        match order {
            Some(Order::Start) => {
                self.kept.started();
                sitting.asked = early.then(Instant::now);
                sitting.held.push_back(Order::Start);
            }
            Some(Order::Flush) => {
                self.kept.stopped();
                if self.kept.is_awaited() {
                    sitting.asked.get_or_insert_with(Instant::now);
                }
                sitting.held.push_back(Order::Flush);
            }
            Some(Order::Finish) | None => {
                self.finishing = true;
                while let Some(frame) = self.ends.audio.try_take() {
                    self.hear(sitting, frame);
                }
                std::mem::take(&mut sitting.held).into_iter().for_each(|order| sitting.order(order));
                sitting.order(Order::Finish);
            }
        }
    }

    fn hear(&mut self, sitting: &Sitting, frame: Frame) {
        self.kept.frame(&frame);
        if sitting.inbox.force(frame) == 1 {
            let what = "it does not take the caller's audio as fast as it comes; the oldest is dropped";
            self.row.seat(sitting.at).health.trouble(fault("agent.stt.slow", CODES.name, what));
        }
        if let Some(dropped) = self.ends.audio.take_dropped() {
            tracing::warn!(
                dropped,
                "the caller's audio could not be taken for a while; the oldest frames were dropped"
            );
            self.row.seat(sitting.at).health.fine();
        }
    }

    async fn heard(&mut self, sitting: &mut Sitting, heard: Heard) {
        sitting.asked = None;
        let heard = match heard {
            Heard::Piece(text) => {
                self.works(sitting, &text);
                let again = sitting.echo.is_some();
                let fresh = sitting.fresh(text, true);
                self.kept.piece(&fresh);
                if again && fresh.trim().is_empty() {
                    return;
                }
                self.convict(sitting.at);
                Heard::Piece(fresh)
            }
            Heard::Partial(text) => {
                self.works(sitting, &text);
                let fresh = sitting.fresh(text, false);
                self.kept.partial(&fresh);
                if !fresh.trim().is_empty() {
                    self.convict(sitting.at);
                }
                Heard::Partial(fresh)
            }
            Heard::EndOfTurn => {
                self.kept.settled();
                Heard::EndOfTurn
            }
            other => other,
        };
        // closed: the call is over
        let _ = self.ends.heard.send(heard).await;
    }

    /// Words have come: it works.
    fn works(&mut self, sitting: &mut Sitting, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        if !std::mem::replace(&mut sitting.has_words, true) {
            self.row.worked(sitting.at);
            self.row.seat(sitting.at).health.fine();
            self.tried.only(sitting.at);
        }
    }

    /// New words have come: whoever kept silent to the same audio does not work.
    fn convict(&mut self, by: usize) {
        if let Some(suspect) = self.suspect.take() {
            let what = format!("it has told nothing for {} ms, though the caller spoke", self.patience.as_millis());
            self.row.failed(suspect, &fault("agent.stt.silent", CODES.name, what), Some(by));
        }
    }
}

impl Sitting {
    fn order(&self, order: Order) {
        // full or closed: it has stopped listening
        let _ = self.orders.try_send(order);
    }

    /// Gives out what was held back.
    fn release(&mut self) {
        for order in std::mem::take(&mut self.held) {
            self.order(order);
        }
    }

    /// What of `text` has not been told before.
    fn fresh(&mut self, text: String, is_final: bool) -> String {
        let Some(echo) = &mut self.echo else { return text };
        let fresh = if is_final { format!(" {}", echo.piece(&text)) } else { echo.partial(&text) };
        if is_final && echo.is_over() {
            self.echo = None;
        }
        fresh
    }
}

/// Ready when the recogniser has taken all audio. It does so in this very task, whose polls therefore see it.
async fn drained(inbox: &Inbox<Frame>) {
    poll_fn(|_| if inbox.is_empty() { Poll::Ready(()) } else { Poll::Pending }).await;
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
