//! What comes from the vendor.

use bytes::Bytes;
use tokio::time::Instant;

use super::{CODES, Line, State, Todo};
use crate::{
    agent::{
        llm,
        sts::dialect::{Fatal, Incoming, Told},
        websocket::escaped,
    },
    call::{AgentEvent, Edge, ModelUsage, Role},
};

/// Models of one call.
const MAX_MODELS: usize = 16;
/// A transcript is a sentence; one beyond this is cut.
const MAX_TRANSCRIPT: usize = 64 * 1024;

impl Line {
    /// Reads a message.
    pub(super) fn incoming(&mut self, message: Incoming<'_>) {
        let mut told = std::mem::take(&mut self.told);
        let text = if let Incoming::Text(text) = &message { Some(*text) } else { None };
        self.dialect.read(message, &mut told);
        self.unanswered = 0;
        if self.dialect.is_busy() && self.tools.is_empty() {
            // something more should come
            self.asked = Some(Instant::now());
        } else if told.iter().any(Told::is_answer) {
            self.asked = None;
        }
        for one in told.drain(..) {
            match (one, text) {
                (Told::Strange, text) => self.note(text.unwrap_or("binary")),
                (one, _) => self.told_one(one),
            }
        }
        self.told = told;
        self.tell_agent(false);
    }

    fn told_one(&mut self, told: Told) {
        match told {
            Told::Ready => self.ready(),
            Told::Audio { turn, audio } => self.speech(&turn, audio),
            Told::Words { turn, text, whole } => {
                self.turns.words(&turn, &text, whole);
                self.useful();
            }
            Told::Corrected(text) => self.turns.correct(&text),
            Told::AudioDone(turn) => {
                if let Some(id) = self.turns.id(&turn) {
                    self.turns.done(id);
                    self.todo.push_back(Todo::End(id));
                }
            }
            Told::TurnDone => self.turn_done(),
            Told::Interrupted => {
                self.open_speech = true;
                self.event(AgentEvent::Speech(Edge::Interrupted));
            }
            Told::Committed(item) => self.words.awaits(item),
            Told::Caller { item, text, is_final } => self.caller_words(&item, text, is_final),
            Told::Lost(item) => {
                for text in self.words.came(&item, String::new()) {
                    self.caller_said(text);
                }
            }
            Told::Calls(calls) => {
                self.end_open_turn(None);
                self.todo.push_back(Todo::Tools(calls));
            }
            Told::Dropped(ids) => self.drop_tools(&ids),
            Told::Usage { model, usage } => self.used(model, usage),
            Told::Send(message) => self.put(message),
            Told::Trouble(what) => self.troubled("agent.sts.error", what),
            Told::Fatal(Fatal { code, what, again }) => self.lost(code.unwrap_or(CODES.failed), what, again),
            Told::Renew(left) => self.renew(left),
            Told::Hangup => self.hang_up(),
            Told::Strange => {}
        }
    }

    fn speech(&mut self, turn: &str, audio: Bytes) {
        if self.finishing.is_some() || audio.is_empty() {
            return;
        }
        let samples = self.down.samples_of(self.ctx.rate, audio.len());
        self.end_open_turn(Some(turn));
        // it was cut: this was on its way
        let Some((id, first)) = self.turns.audio(turn, samples) else { return };
        self.works();
        self.useful();
        self.streak.worked();
        self.tools.spoke();
        (self.owed, self.deaf, self.greeting) = (false, 0, None);
        self.spoken = Some(Instant::now());
        self.open_speech &= self.speaking;
        if first && std::mem::take(&mut self.protect) {
            self.event(AgentEvent::Protected(id));
        }
        self.todo.push_back(Todo::Speech(id, audio));
    }

    fn caller_words(&mut self, item: &str, mut text: String, is_final: bool) {
        text.truncate(text.floor_char_boundary(MAX_TRANSCRIPT));
        self.works();
        self.useful();
        self.tools.heard_caller();
        if !is_final {
            return self.event(AgentEvent::Transcript { role: Role::User, text, is_final: false });
        }
        self.open_speech &= self.speaking;
        for text in self.words.came(item, text) {
            self.caller_said(text);
        }
    }

    fn useful(&mut self) {
        if let State::Open(session) = &mut self.state {
            session.useful = true;
        }
    }

    fn used(&mut self, model: Option<String>, usage: llm::Usage) {
        let model = model.unwrap_or_else(|| self.dialect.model().to_owned());
        if self.usage.len() >= MAX_MODELS && !self.usage.contains_key(&model) {
            return;
        }
        let known = self.usage.entry(model.clone()).or_insert_with(|| ModelUsage { model, ..ModelUsage::default() });
        known.requests += 1;
        known.input_tokens = known.input_tokens.saturating_add(usage.input);
        known.cached_tokens = known.cached_tokens.saturating_add(usage.cached);
        known.output_tokens = known.output_tokens.saturating_add(usage.output);
    }

    /// One line for a call, not one for each message.
    fn note(&mut self, text: &str) {
        self.strange += 1;
        if self.strange == 1 {
            tracing::debug!(
                text = escaped(text),
                "a speech-to-speech service sent what is none of its protocol; ignored"
            );
        }
    }
}
