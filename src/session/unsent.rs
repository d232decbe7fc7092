//! Events of one call that wait for the event task.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::call::{CallEvent, Envelope};

/// Beyond it the oldest transcriptions go, lifecycle events never.
const MAX_UNSENT: usize = 1_000;

/// In order.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    pub queue: VecDeque<Envelope>,
    /// What was dropped.
    pub lost: u64,
}

impl Unsent {
    /// Adds one.
    pub fn push(&mut self, envelope: Envelope) {
        if self.queue.len() >= MAX_UNSENT {
            self.drop_oldest();
        }
        self.queue.push_back(envelope);
    }

    /// Drops the oldest words; their place says how many were dropped.
    fn drop_oldest(&mut self) {
        let is_words = |envelope: &Envelope| matches!(envelope.event, CallEvent::Transcription { .. });
        let Some(oldest) = self.queue.iter().position(is_words) else { return };
        self.lost += 1;
        let said = self.queue.iter_mut().take(oldest).find_map(|envelope| match &mut envelope.event {
            CallEvent::EventsLost(count) => Some(count),
            _ => None,
        });
        match said {
            Some(count) => {
                *count += 1;
                self.queue.remove(oldest);
            }
            None => {
                if let Some(envelope) = self.queue.get_mut(oldest) {
                    envelope.event = CallEvent::EventsLost(1);
                }
                // two at first: its place is taken by the word of it
                if let Some(next) = self.queue.iter().position(is_words) {
                    self.queue.remove(next);
                    self.lost += 1;
                    if let Some(Envelope { event: CallEvent::EventsLost(count), .. }) = self.queue.get_mut(oldest) {
                        *count += 1;
                    }
                }
            }
        }
    }

    /// Hands on what is taken.
    pub fn send(&mut self, events: &mpsc::Sender<Envelope>) {
        while let Some(envelope) = self.queue.pop_front() {
            match events.try_send(envelope) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(envelope) | mpsc::error::TrySendError::Closed(envelope)) => {
                    self.queue.push_front(envelope);
                    break;
                }
            }
        }
    }
}
