//! What the services of a call are used for, and events that must not wait.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    agent::llm,
    call::{AgentEvent, ModelUsage, Usage},
};

/// Events that wait to be told by the conductor.
const EVENTS: usize = 64;
/// Models of one call.
const MODELS: usize = 16;

/// Counts, and holds events, for one call.
#[derive(Debug, Default)]
pub struct Meter {
    frames: AtomicU64,
    characters: AtomicU64,
    models: Mutex<BTreeMap<String, ModelUsage>>,
    events: Mutex<Vec<AgentEvent>>,
    pub told: tokio::sync::Notify,
}

impl Meter {
    /// A frame of the caller goes to speech recognition.
    pub fn heard(&self) {
        self.frames.fetch_add(1, Ordering::Relaxed);
    }

    /// Speech synthesis is asked for `text`.
    pub fn spoken(&self, text: &str) {
        self.characters.fetch_add(text.chars().count() as u64, Ordering::Relaxed);
    }

    /// A language model has answered.
    pub fn answered(&self, model: &str, usage: llm::Usage) {
        let mut models = lock(&self.models);
        if models.len() >= MODELS && !models.contains_key(model) {
            return;
        }
        let known = models.entry(model.to_owned()).or_default();
        known.requests += 1;
        known.input_tokens = known.input_tokens.saturating_add(usage.input);
        known.cached_tokens = known.cached_tokens.saturating_add(usage.cached);
        known.output_tokens = known.output_tokens.saturating_add(usage.output);
    }

    /// All of it so far; `None`: nothing was used.
    pub fn usage(&self) -> Option<Usage> {
        let models: Vec<_> = lock(&self.models)
            .iter()
            .map(|(model, usage)| ModelUsage { model: model.clone(), ..usage.clone() })
            .collect();
        let tts_characters = self.characters.load(Ordering::Relaxed);
        let frames = self.frames.load(Ordering::Relaxed);
        let stt = crate::call::PERIOD * u32::try_from(frames).unwrap_or(u32::MAX);
        (!models.is_empty() || tts_characters > 0).then_some(Usage { models, tts_characters, stt })
    }

    /// Has an event told soon, by whoever cannot wait.
    pub fn tell(&self, event: AgentEvent) {
        let mut events = lock(&self.events);
        if events.len() < EVENTS {
            events.push(event);
            drop(events);
            self.told.notify_one();
        }
    }

    /// The events that wait.
    pub fn take(&self) -> Vec<AgentEvent> {
        std::mem::take(&mut *lock(&self.events))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
