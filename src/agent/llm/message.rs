//! What a language model is told, and what it answers.

use std::sync::Arc;

use serde::{Serialize, Serializer, ser::SerializeStruct as _};
use serde_json::Value;

use super::Open;

/// What a language model is asked.
#[derive(Debug, Clone, Default)]
pub struct Prompt {
    /// The conversation, the newest last.
    pub messages: Vec<Message>,
    /// What it may call.
    pub tools: Arc<[Tool]>,
    /// The answer that waits for its tools, where a service keeps one open.
    pub open: Open,
}

/// One message for a language model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// What it is to be.
    System(String),
    /// The caller's words.
    User(String),
    /// Its own words, as far as the caller heard them, and the tools it called.
    Assistant {
        /// The words.
        text: String,
        /// The tools.
        calls: Vec<ToolCall>,
    },
    /// What a tool answered.
    Result {
        /// [`ToolCall::id`].
        id: String,
        /// The tool.
        name: String,
        /// Its answer, or what went wrong.
        output: String,
        /// Whether it went wrong.
        failed: bool,
    },
}

impl Message {
    /// As the contracts name who spoke.
    pub const fn role(&self) -> &'static str {
        match self {
            Self::System(_) => "system",
            Self::User(_) => "user",
            Self::Assistant { .. } => "assistant",
            Self::Result { .. } => "tool",
        }
    }

    /// The words.
    pub fn text(&self) -> &str {
        match self {
            Self::System(text) | Self::User(text) | Self::Assistant { text, .. } => text,
            Self::Result { output, .. } => output,
        }
    }

    /// Words of the assistant, without tools.
    pub const fn said(text: String) -> Self {
        Self::Assistant { text, calls: Vec::new() }
    }

    /// About how much of a request it is, in bytes of JSON.
    pub fn size(&self) -> usize {
        let json = |text: &str| serde_json::to_string(text).map_or(usize::MAX / 8, |json| json.len());
        let more: usize = match self {
            Self::Assistant { calls, .. } => {
                calls.iter().map(|call| 80 + json(&call.name) + json(&call.arguments)).sum()
            }
            Self::Result { .. } => 60,
            _ => 0,
        };
        json(self.text()) + more + 32
    }
}

/// As AVR's contract has it: role and words.
impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut message = serializer.serialize_struct("Message", 2)?;
        message.serialize_field("role", self.role())?;
        message.serialize_field("content", self.text())?;
        message.end()
    }
}

/// Something that a language model can have done.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// At most 64 of `A-Z a-z 0-9 _ -`.
    pub name: String,
    /// What it does and when to call it, for the model.
    pub description: String,
    /// JSON Schema of its arguments: an object.
    pub parameters: Value,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Names it within the conversation.
    pub id: String,
    /// The tool.
    pub name: String,
    /// JSON, as the model wrote it: it need not be valid.
    pub arguments: String,
    /// What the vendor wants back unchanged (Gemini's `thoughtSignature`).
    pub signature: Option<String>,
}

/// The end of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The tools that it wants called, in order.
    pub calls: Vec<ToolCall>,
    /// What it cost.
    pub usage: Option<Usage>,
}

/// Tokens of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Read.
    pub input: u64,
    /// Of these, found in the vendor's cache.
    pub cached: u64,
    /// Written.
    pub output: u64,
}
