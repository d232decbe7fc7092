//! What vendors of speech to speech differ in. The connection, its audio, tools and failures are [`super::line::Line`]'s.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Map, Value};
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::codec::Formats;
use crate::agent::{
    llm::{Tool, ToolCall, Usage},
    tools::Outcome,
};

/// What a session begins with.
#[derive(Debug)]
pub struct Setup<'a> {
    /// What the model is told to be.
    pub prompt: Option<&'a str>,
    /// What it may have called.
    pub tools: &'a [Tool],
    /// Spoken first; none once the agent has been heard.
    pub greeting: Option<&'a str>,
    /// The language of the conversation, as it was written.
    pub language: Option<&'a str>,
    /// What is known about the call.
    pub about: &'a Map<String, Value>,
    /// What was said before, over other connections.
    pub past: &'a [Past],
    /// The caller waits for an answer to the last of it.
    pub owed: bool,
}

/// Something that was said, or done, earlier in the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Past {
    /// By the caller.
    Caller(String),
    /// By the agent, as far as it was heard.
    Agent(String),
    /// A tool, and what it answered.
    Tool(ToolCall, String),
}

impl Past {
    /// About how long it is.
    pub const fn len(&self) -> usize {
        match self {
            Self::Caller(text) | Self::Agent(text) => text.len(),
            Self::Tool(call, output) => call.arguments.len() + output.len(),
        }
    }
}

/// Where a session is begun.
#[derive(Debug)]
pub enum Target {
    /// At a WebSocket.
    Socket(Url, HeaderMap),
    /// At a WebSocket whose address a request tells, under the name `field` of its JSON.
    Ask {
        /// Where the request goes.
        url: Url,
        /// What it says besides.
        headers: HeaderMap,
        /// What is posted; none: it is a GET.
        body: Option<Value>,
        /// Where the address stands in the answer.
        field: &'static str,
    },
}

/// What a message is, for its reader.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// Text.
    Text(&'a str),
    /// Bytes.
    Binary(Bytes),
}

/// What a service's message means.
#[derive(Debug)]
pub enum Told {
    /// The session is set up: audio may go out.
    Ready,
    /// Speech. `turn` names what belongs together; another one begins where it differs.
    Audio { turn: String, audio: Bytes },
    /// Words of the agent, more of them or (`whole`) all of the turn.
    Words { turn: String, text: String, whole: bool },
    /// What was heard of the turn that was cut, says the vendor.
    Corrected(String),
    /// All speech of this turn has come.
    AudioDone(String),
    /// The agent has said everything.
    TurnDone,
    /// The caller speaks: what the agent says is cut.
    Interrupted,
    /// The caller's words of this name will come, in this place.
    Committed(String),
    /// The caller's words: all of this name so far.
    Caller { item: String, text: String, is_final: bool },
    /// They will not come.
    Lost(String),
    /// Tools are wanted; what is said from here on is another turn.
    Calls(Vec<ToolCall>),
    /// They are not wanted any more.
    Dropped(Vec<String>),
    /// What it cost; `model` where it is not the one that was asked for.
    Usage { model: Option<String>, usage: Usage },
    /// To be sent at once.
    Send(Message),
    /// It is in trouble, and goes on.
    Trouble(String),
    /// It does not go on.
    Fatal(Fatal),
    /// It will be closed so soon.
    Renew(Duration),
    /// The agent ends the call.
    Hangup,
    /// It is not what it should be.
    Strange,
}

impl Told {
    /// Whether the vendor does what is expected of it.
    pub const fn is_answer(&self) -> bool {
        use Told::{Audio, Caller, Calls, Interrupted, TurnDone, Words};
        matches!(self, Audio { .. } | Words { .. } | TurnDone | Interrupted | Caller { .. } | Calls(_))
    }
}

/// Why a session does not go on.
#[derive(Debug)]
pub struct Fatal {
    /// What it is called outside, if it has a name of its own.
    pub code: Option<&'static str>,
    /// In the vendor's words.
    pub what: String,
    /// Whether another connection may do better.
    pub again: bool,
}

/// A turn of the agent that the caller did not hear to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Which.
    pub turn: String,
    /// How much of it was heard.
    pub heard: Duration,
    /// Whether that is all that has come.
    pub whole: bool,
}

/// How a service speaks.
pub trait Dialect: std::fmt::Debug + Send {
    /// Where a session is begun; the last one may still go on.
    fn target(&mut self, setup: &Setup<'_>) -> Target;

    /// What audio is like. May change until [`Told::Ready`].
    fn formats(&self) -> Formats;

    /// The connection is there: forgets the last one; what is said first.
    fn open(&mut self, _setup: &Setup<'_>) -> Vec<Message> {
        Vec::new()
    }

    /// Whether audio has to wait for [`Told::Ready`].
    fn waits(&self) -> bool {
        true
    }

    /// The session is set up: what is said next.
    fn ready(&mut self, _setup: &Setup<'_>) -> Vec<Message> {
        Vec::new()
    }

    /// The caller's audio.
    fn audio(&mut self, audio: &[u8]) -> Message;

    /// What a message means.
    fn read(&mut self, message: Incoming<'_>, told: &mut Vec<Told>);

    /// What the agent says is cut: by the service's own word, or by ours.
    fn interrupt(&mut self, _cuts: &[Cut]) -> Vec<Message> {
        Vec::new()
    }

    /// The caller says something in writing (keys that were pressed), and waits for an answer.
    fn text(&mut self, text: &str) -> Vec<Message>;

    /// Has the agent say this as it is; `None`: it cannot be asked to.
    fn say(&mut self, _text: &str) -> Option<Vec<Message>> {
        None
    }

    /// What a tool answered; `last`: no other is awaited. `answer`: the agent is to go on.
    fn result(&mut self, call: &ToolCall, outcome: &Outcome, last: bool, answer: bool) -> Vec<Message>;

    /// Whether the agent is at work on an answer.
    fn is_busy(&self) -> bool {
        false
    }

    /// What is said when no audio went out for so long.
    fn idle(&mut self) -> Option<(Duration, Message)> {
        None
    }

    /// What is said when the call is over.
    fn end(&mut self) -> Vec<Message> {
        Vec::new()
    }

    /// A turn of which nothing more came for so long is over; `None`: the end is told.
    fn pause(&self) -> Option<Duration> {
        None
    }

    /// How long a session may last.
    fn lifetime(&self) -> Option<Duration> {
        None
    }

    /// Whether the words that were heard of a cut turn are told.
    fn corrects(&self) -> bool {
        false
    }

    /// Whether a close with this code ends the call.
    fn hangs_up(&self, _code: Option<u16>) -> bool {
        false
    }

    /// Whether a close with this code is for good.
    fn is_final(&self, code: u16) -> bool {
        code == 1008
    }

    /// The model, for the account of what was used.
    fn model(&self) -> &str;

    /// `text` without our key, should the peer repeat it.
    fn scrub(&self, text: String) -> String;
}
