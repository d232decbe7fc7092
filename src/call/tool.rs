//! What an agent did besides talking.

use std::time::Duration;

/// A tool that the agent's language model had called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCalled {
    /// Its name.
    pub name: String,
    /// JSON, as the model wrote it.
    pub arguments: String,
    /// What it answered, or what went wrong.
    pub result: String,
    /// Whether it went wrong, or was given up because the caller spoke.
    pub failed: bool,
    /// How long it took.
    pub took: Duration,
}

/// What the agent's services were used for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of language models that tell, by model.
    pub models: Vec<ModelUsage>,
    /// Characters that speech synthesis was asked for.
    pub tts_characters: u64,
    /// The caller's audio that speech recognition got.
    pub stt: Duration,
}

/// Tokens of one language model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelUsage {
    /// The model.
    pub model: String,
    /// Answers.
    pub requests: u64,
    /// Tokens read.
    pub input_tokens: u64,
    /// Of these, found in the vendor's cache.
    pub cached_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
}
