//! The embedded agent that converses without any service: recognises, answers by a script, and speaks, on this machine alone.

mod engine;
pub mod install;
pub mod models;
mod moonshine;
mod numbers;
mod piper;
mod pool;
pub mod programs;
mod queue;
mod receptionist;
mod runtime;
pub mod script;
mod talkers;
mod tokens;
mod voice;

use std::{io, num::NonZeroUsize, path::PathBuf, sync::Arc};

use serde::Deserialize;

pub use self::{
    engine::{Engine, Spoken},
    numbers::{Done, Numbers, Work},
    receptionist::Receptionist,
    script::Script,
    talkers::{Refused, Talker},
    voice::{Here, Voice},
};

/// Calls that one core can serve well.
const CALLS_PER_CORE: usize = 4;

/// Settings of the embedded agent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A file with what it says and understands, laid over the script that is compiled in.
    pub script: Option<String>,
    /// Calls at once; 0: as many as this machine can serve well.
    pub max_calls: usize,
    /// Threads that recognise and speak; 0: one for each core.
    pub threads: usize,
    /// The program that knows how words are pronounced.
    pub espeak: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { script: None, max_calls: 0, threads: 0, espeak: "espeak-ng".to_owned() }
    }
}

impl Config {
    fn cores() -> usize {
        std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
    }

    /// Threads that recognise and speak.
    #[must_use]
    pub fn threads(&self) -> usize {
        if self.threads == 0 { Self::cores() } else { self.threads }
    }

    /// Calls at once.
    #[must_use]
    pub fn max_calls(&self) -> usize {
        if self.max_calls == 0 { CALLS_PER_CORE * Self::cores() } else { self.max_calls }
    }
}

/// What the adapters of the embedded agent need.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// Ears and voice.
    pub engine: Engine,
    /// What is said and understood.
    pub script: Arc<Script>,
}

/// What can go wrong with ears and voice.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There are no models.
    #[error("the models are not installed in {}: run `hark models install`", .0.display())]
    NotInstalled(PathBuf),
    /// ONNX Runtime cannot be used.
    #[error("{path} cannot be loaded: {reason} (`hark models verify` says whether it is whole)")]
    Runtime {
        /// The library.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A model cannot be used.
    #[error("{path} cannot be opened: {reason} (`hark models verify` says whether it is whole)")]
    Model {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Nothing can speak.
    #[error(
        "nothing here can speak: install the Debian package espeak-ng (it says to the voice how words are pronounced) or flite"
    )]
    NoVoice,
    /// No thread.
    #[error("a thread for speech cannot be started: {0}")]
    Thread(io::Error),
    /// A model failed.
    #[error("a model failed: {0}")]
    Run(String),
    /// More to do than can be done.
    #[error("this machine has more calls than it can listen and speak to (embedded.max_calls)")]
    Busy,
    /// The threads have ended.
    #[error("its threads have ended")]
    Gone,
    /// A program failed.
    #[error("{0}")]
    Program(String),
}
