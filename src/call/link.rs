//! What goes into a call and comes out of it, and the one shape that legs and agents share.

use std::time::{Duration, Instant};

use futures_core::Stream;

use super::{AnsweredBy, CallEvent, Collect, Digit, EndReason, Role, Timing, ToolCalled, Usage, UtteranceId};
use crate::audio::{Frame, Rate};

/// Everything that can happen to a call.
#[derive(Debug)]
pub enum Input {
    /// From Asterisk.
    Leg(LegEvent),
    /// From the agent.
    Agent(AgentEvent),
    /// Probability (0–1) that the caller speaks, of the VAD frame that ends now.
    Voice(f32),
    /// The caller's line has beeped.
    Beep,
    /// From the operator or the API.
    Command(Command),
    /// The time of [`super::Call::deadline`] has come.
    Tick,
}

/// Everything that a call can want done.
#[derive(Debug)]
pub enum Output {
    /// To Asterisk.
    Leg(LegCommand),
    /// To the agent.
    Agent(AgentInput),
    /// To the rest of the business; it happened at the given time.
    Event(CallEvent, Instant),
    /// What the agent was saying has been heard: whoever asked for [`Command::HandOver`] may give the caller away.
    HeardOut,
    /// So many frames that the leg was given last will not be heard.
    Unheard(usize),
    /// The call is over: carry out what is before it, then leave the loop. Comes once, last.
    End(EndReason),
}

/// What a leg reports.
#[derive(Debug)]
pub enum LegEvent {
    /// 20 ms of the caller, at the leg's rate.
    Audio(Frame),
    /// The caller pressed a key.
    Dtmf(Digit),
    /// Playing has come to this mark ([`LegCommand::Mark`]); all before it has been reached too.
    Marked(u32),
    /// This flush ([`LegCommand::Flush`]) is done: no mark from before it comes any more.
    Flushed(u32),
    /// Audio that the leg did not take (`Sent::Refused`), given back.
    Refused(Frame),
    /// The leg is gone.
    Hangup(Cause),
}

/// How a leg went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Orderly: the caller or Asterisk hung up.
    Normal,
    /// The connection broke (reset, timeout, protocol error).
    Lost,
    /// Nothing came for longer than the leg allows: `EndReason::LegIdle`.
    Idle,
}

/// What a leg is asked to do.
#[derive(Debug)]
pub enum LegCommand {
    /// Play 20 ms to the caller, now.
    Audio(Frame),
    /// Report when playing comes to the audio that follows (legs that buffer).
    Mark(u32),
    /// Throw away what the leg has buffered, and report that it is done (legs that buffer).
    Flush(u32),
    /// End the call.
    Hangup,
}

/// A change in somebody's speech, as an agent's service reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// The caller began to speak: the agent is to be cut (the `interruption` of the STS contract).
    Interrupted,
    /// The caller began to speak, says the service (advice; no cut by itself).
    Started,
    /// The caller stopped.
    Stopped,
}

/// What went wrong with a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Stable dotted code, e.g. `agent.sts.refused`.
    pub code: &'static str,
    /// The service's own words or ours; no secrets, already escaped for a log line.
    pub message: String,
}

/// A service that failed, and the one that has taken its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// What went wrong.
    pub fault: Fault,
    /// What it is called.
    pub service: String,
    /// What the other is called.
    pub by: String,
}

/// What an agent reports.
#[derive(Debug)]
pub enum AgentEvent {
    /// Speech of an utterance: any number of samples, already at the leg's rate.
    Audio(UtteranceId, Vec<i16>),
    /// All audio of this utterance has been sent; a partial last frame can be padded and played.
    AudioEnd(UtteranceId),
    /// This utterance, of which nothing has been sent so far, is to be heard to its end whatever the caller does.
    Protected(UtteranceId),
    /// When it did what for the answer whose audio comes next.
    Timing(Timing),
    /// Words. Only final ones become webhook events; others are all of the turn so far.
    Transcript {
        /// Who spoke.
        role: Role,
        /// What was said.
        text: String,
        /// Whether it will change no more.
        is_final: bool,
    },
    /// A speech edge.
    Speech(Edge),
    /// The agent has sent everything of its turn.
    TurnDone,
    /// The agent ends the call, once what it said has been played: [`super::EndReason::AgentClosed`].
    Hangup,
    /// It has had a tool called.
    ToolCalled(ToolCalled),
    /// What its services were used for, at the end.
    Usage(Usage),
    /// A service has failed, and another has taken its place.
    Replaced(Replaced),
    /// A service is in trouble; the agent works on it.
    Degraded(Fault),
    /// The trouble is over.
    Restored,
    /// A service has failed for good: apologise and end. The stream may end after it.
    Failed(Fault),
}

/// What an agent is told.
#[derive(Debug)]
pub enum AgentInput {
    /// 20 ms of the caller (or silence where the agent must not hear them), at the leg's rate.
    Audio(Frame),
    /// What the agent said is cut: `heard` of `utterance` reached the caller. Everything after it is forgotten, but for protected speech.
    Interrupt {
        /// The utterance that played; `None` when only waiting ones were cut.
        utterance: Option<UtteranceId>,
        /// How much of it was heard.
        heard: Duration,
    },
    /// An utterance has been played to its end.
    Played(UtteranceId),
    /// The caller pressed a key.
    Dtmf(Digit),
    /// The keys that the caller pressed, as one answer.
    Digits(Vec<Digit>),
    /// The caller began (`true`) or has finished (`false`) speaking.
    CallerSpeech(bool),
    /// The caller pauses, and may have finished.
    CallerPauses,
    /// Speak this.
    Say(Say),
    /// The caller is gone: deliver the final transcripts you have, then end the stream.
    Finish,
}

/// A text to be spoken as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Say {
    /// The text.
    pub text: String,
    /// It is spoken to its end, whatever the caller does.
    pub protect: bool,
}

/// An order from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// End the call for this reason.
    Hangup(EndReason),
    /// End the call for this reason, once what the agent is saying has been heard.
    Finish(EndReason),
    /// The PBX is to take the caller away: once what the agent is saying has been heard, [`Output::HeardOut`]; until
    /// [`Command::TakeBack`] the agent neither hears nor says anything more. The reason is the call's when the leg is gone then.
    HandOver(EndReason),
    /// Between [`Output::HeardOut`] and [`Command::TakeBack`]: somebody else is at the leg in the caller's place, and the agent speaks this to them;
    /// [`Output::HeardOut`] again once it has been heard. Their keys are not the caller's.
    Announce(Say),
    /// Between [`Output::HeardOut`] and [`Command::TakeBack`]: [`Output::HeardOut`] again once whoever is at the leg in the caller's place has said
    /// something short, as people do who answer a question. One who goes on talking, as a machine does, has not.
    Listen,
    /// The caller was not given away: the agent goes on, with this.
    TakeBack(Option<Say>),
    /// The caller has pressed a key, of which the leg does not tell.
    Press(Digit),
    /// The PBX has found out who has answered the call that we made.
    AnsweredBy(AnsweredBy),
    /// Send keys to the caller's side, as tones in the audio.
    Dial(Vec<Digit>),
    /// Have the agent speak this.
    Say(Say),
    /// The agent hears silence, and the caller's voice decides nothing, until `false`.
    Mute(bool),
    /// Collect the caller's keys like this; `None`: as the settings say.
    Collect(Option<Collect>),
    /// Go on recording (`true`), or put silence into the recording from here.
    Record(bool),
}

/// What became of something sent.
#[derive(Debug)]
#[must_use]
pub enum Sent<C> {
    /// It is out, or in the kernel's or a codec's buffer.
    Whole,
    /// It waits inside, in order, and will be written as soon as possible.
    Held,
    /// It was not taken; here it is back.
    Refused(C),
}

/// The one shape of legs and agents: a stream of events, and a `send` that never waits.
///
/// `send` writes at once; a remainder stays inside and is written *first* by `poll_next`, which registers for writability, so the
/// loop of a call needs no further arm. It polls a link after everything it has sent, except audio that went [`Sent::Whole`], and otherwise
/// only when the link woke it: audio must leave nothing behind that only `poll_next` would notice. While a remainder is pending audio is refused and controls are held, at most 16.
/// A stream that has ended yields `None` for ever.
pub trait Link: Stream<Item = Self::Event> + Unpin {
    /// What it reports.
    type Event;
    /// What it can be told.
    type Command;

    /// Sends without waiting.
    fn send(&mut self, command: Self::Command) -> Sent<Self::Command>;
}

/// A leg of a call: Asterisk's side.
pub trait Leg: Link<Event = LegEvent, Command = LegCommand> {
    /// The rate of all audio in both directions.
    fn rate(&self) -> Rate;

    /// How far ahead of the caller's ear it may be sent audio: a leg that buffers, plays at its own pace, and knows marks and flushes.
    fn lead(&self) -> Duration {
        Duration::ZERO
    }

    /// Ends the call towards Asterisk so that the dialplan continues: what is held is written, then hang-up, then drain to EOF.
    fn close(self) -> impl Future<Output = ()>;
}

/// An agent of a call: the AI's side.
pub trait Agent: Link<Event = AgentEvent, Command = AgentInput> {
    /// Ends the session with the services in an orderly way.
    fn close(self) -> impl Future<Output = ()>;
}
