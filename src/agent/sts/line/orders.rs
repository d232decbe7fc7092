//! What the call tells the agent.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::{FINISH, Line, MAX_HELD, MAX_ORDERS, MAX_RECENT, MAX_STALLED, State, Todo, UNANSWERED};
use crate::{
    audio::Frame,
    call::{AgentEvent, AgentInput, Digit, Say, Sent, UtteranceId},
};

/// What waits for a session.
#[derive(Debug)]
pub(super) enum Order {
    /// Keys that the caller pressed.
    Keys(String),
    Say(Say),
}

impl Line {
    pub(super) fn take(&mut self, input: AgentInput) -> Sent<AgentInput> {
        match input {
            AgentInput::Audio(frame) => self.hear(frame),
            AgentInput::Interrupt { utterance, heard } => self.interrupt(utterance, heard),
            AgentInput::Played(id) => {
                self.turns.played(id);
                self.tell_agent(false);
            }
            AgentInput::Dtmf(digit) => return self.order(Order::Keys(digit.to_string()), AgentInput::Dtmf(digit)),
            AgentInput::Digits(digits) => {
                let keys = digits.iter().map(Digit::to_string).collect();
                return self.order(Order::Keys(keys), AgentInput::Digits(digits));
            }
            AgentInput::Say(say) => return self.order(Order::Say(say.clone()), AgentInput::Say(say)),
            AgentInput::CallerSpeech(true) => (self.speaking, self.open_speech, self.owed) = (true, true, false),
            AgentInput::CallerSpeech(false) => self.caller_stopped(),
            AgentInput::CallerPauses => {}
            AgentInput::Finish => self.finish(),
        }
        Sent::Held
    }

    /// Our own ear says so; it may have been a noise.
    fn caller_stopped(&mut self) {
        self.speaking = false;
        self.owed |= self.open_speech;
        self.unanswered += 1;
        if self.unanswered >= UNANSWERED && self.is_ready() && self.finishing.is_none() {
            self.unanswered = 0;
            self.lost("agent.sts.silent", format!("it has said nothing to {UNANSWERED} turns of the caller"), true);
        }
    }

    fn hear(&mut self, frame: Frame) {
        let most = if self.is_ready() { MAX_STALLED } else { MAX_HELD };
        if self.caller.len() >= most {
            self.caller.pop_front();
            self.dropped += 1;
            if self.is_ready() && !std::mem::replace(&mut self.slow, true) {
                let what = "the service does not take the caller's audio in time; the oldest is dropped".to_owned();
                let fault = self.fault("agent.sts.slow", what);
                self.event(AgentEvent::Degraded(fault));
            }
        }
        self.caller.push_back(frame);
        self.send_caller();
    }

    /// Sends the caller's audio as far as there is room.
    pub(super) fn send_caller(&mut self) {
        let State::Open(session) = &mut self.state else { return };
        if !session.ready {
            return;
        }
        let (pipe, dialect) = (&mut session.pipe, &mut self.dialect);
        while !pipe.is_full()
            && let Some(frame) = self.caller.pop_front()
        {
            self.up.push(frame.samples(), |audio| pipe.send(dialect.audio(audio)));
            keep(&mut self.recent, frame);
            session.sent = Instant::now();
        }
        if self.caller.is_empty() && std::mem::take(&mut self.slow) {
            self.event(AgentEvent::Restored);
        }
    }

    fn interrupt(&mut self, utterance: Option<UtteranceId>, heard: Duration) {
        let cuts = self.turns.interrupt(utterance, heard);
        self.todo.retain(|todo| !matches!(todo, Todo::Speech(..) | Todo::End(_)));
        self.down.reset();
        self.spoken = None;
        self.give_up_last();
        for message in self.dialect.interrupt(&cuts) {
            self.put(message);
        }
        self.tell_agent(false);
    }

    fn order(&mut self, order: Order, input: AgentInput) -> Sent<AgentInput> {
        if self.orders.len() >= MAX_ORDERS {
            return Sent::Refused(input);
        }
        self.orders.push_back(order);
        self.carry_out_orders();
        Sent::Held
    }

    pub(super) fn carry_out_orders(&mut self) {
        while self.is_ready()
            && let Some(order) = self.orders.pop_front()
        {
            let messages = match order {
                Order::Keys(keys) => {
                    self.owed = true;
                    self.dialect.text(&format!("(The caller pressed these keys on their telephone: {keys})"))
                }
                Order::Say(Say { text, protect }) => {
                    self.protect |= protect;
                    self.dialect.say(&text).unwrap_or_default()
                }
            };
            if !messages.is_empty() {
                self.asked = Some(Instant::now());
            }
            messages.into_iter().for_each(|message| self.put(message));
        }
    }

    /// Sends a message, if there is a connection.
    pub(super) fn put(&mut self, message: Message) {
        if let State::Open(session) = &mut self.state {
            session.pipe.send(message);
            session.sent = Instant::now();
        }
    }

    fn finish(&mut self) {
        self.finishing = Some(Instant::now() + FINISH);
        self.todo.retain(|todo| !matches!(todo, Todo::Speech(..) | Todo::End(_) | Todo::Tools(_)));
        self.orders.clear();
        if !self.is_ready() {
            return self.complete();
        }
        for message in self.dialect.end() {
            self.put(message);
        }
    }
}

fn keep(recent: &mut VecDeque<Frame>, frame: Frame) {
    if recent.len() >= MAX_RECENT {
        recent.pop_front();
    }
    recent.push_back(frame);
}
