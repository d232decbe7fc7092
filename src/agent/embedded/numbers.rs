//! What the embedded engine has done, for `/metrics`.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

/// Counts of one engine, shared by its threads.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Threads that work, or could.
    pub threads: AtomicUsize,
    /// Threads that had to begin anew.
    pub restarts: AtomicU64,
    /// Recognition.
    pub recognition: Work,
    /// Synthesis by the model; what the programs beside us speak is not counted.
    pub synthesis: Work,
}

/// One kind of work.
#[derive(Debug, Default)]
pub struct Work {
    /// Pieces that were done.
    done: AtomicU64,
    /// Pieces that failed.
    failed: AtomicU64,
    /// Pieces that were turned away: there was too much to do.
    refused: AtomicU64,
    /// How long they had waited, in µs.
    waited: AtomicU64,
    /// How long they took, in µs.
    took: AtomicU64,
    /// The audio that was heard or made, in µs.
    audio: AtomicU64,
}

/// [`Work`] at one moment; times in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Done {
    /// Pieces that were done.
    pub done: u64,
    /// Pieces that failed.
    pub failed: u64,
    /// Pieces that were turned away: there was too much to do.
    pub refused: u64,
    /// How long they had waited.
    pub waited: f64,
    /// How long they took.
    pub took: f64,
    /// The audio that was heard or made.
    pub audio: f64,
}

impl Work {
    /// A thread has begun with one that had waited so long.
    pub fn begun(&self, waited: Duration) {
        add(&self.waited, waited);
    }

    /// One has ended, after so long; `audio`: how much was heard or made, unless it failed.
    pub fn ended(&self, took: Duration, audio: Option<Duration>) {
        add(&self.took, took);
        match audio {
            Some(audio) => {
                self.done.fetch_add(1, Relaxed);
                add(&self.audio, audio);
            }
            None => {
                self.failed.fetch_add(1, Relaxed);
            }
        }
    }

    /// One was turned away.
    pub fn turned_away(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// What has been done so far.
    #[must_use]
    pub fn so_far(&self) -> Done {
        let seconds = |of: &AtomicU64| of.load(Relaxed) as f64 / 1e6;
        Done {
            done: self.done.load(Relaxed),
            failed: self.failed.load(Relaxed),
            refused: self.refused.load(Relaxed),
            waited: seconds(&self.waited),
            took: seconds(&self.took),
            audio: seconds(&self.audio),
        }
    }
}

fn add(to: &AtomicU64, time: Duration) {
    to.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
}
