//! The embedded agent, for a gateway without any service: greets, repeats what the caller says, reads digits back, says goodbye on `#`.
//!
//! It shows that audio, turn-taking, barge-in and DTMF work before a single provider is set up.

mod recorder;
mod voice;

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker},
    time::Duration,
};

use futures_core::Stream;
use tokio::sync::oneshot;

pub use self::voice::{Voice, flite};
use self::{
    recorder::Recorder,
    voice::{Phrase, Speech, Spoken},
};
use crate::{
    agent::Context,
    audio::Rate,
    call::{Agent, AgentEvent, AgentInput, Digit, Link, Role, Say, Sent, UtteranceId},
};

/// Utterances that wait or play; a caller who leans on the keys gets no more of them read back.
const MOST_UTTERANCES: usize = 16;

/// The embedded agent.
#[derive(Debug)]
pub struct Builtin {
    rate: Rate,
    voice: Voice,
    recorder: Recorder,
    /// What is to be reported, in order.
    outbox: VecDeque<Item>,
    /// Reported, and neither played nor cut so far.
    saying: VecDeque<Utterance>,
    last_id: u32,
    stage: Stage,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Talking,
    /// Has said goodbye: nothing more is said or heard.
    Leaving,
    /// Reports what is in the outbox and ends.
    Finished,
}

#[derive(Debug)]
enum Item {
    Event(AgentEvent),
    /// Something to say, and whether it is protected.
    Speech(Spoken, bool),
    Coming(oneshot::Receiver<Spoken>, bool),
    /// What the caller said.
    Echo(Vec<i16>),
}

#[derive(Debug)]
struct Utterance {
    id: UtteranceId,
    /// `None` for the caller's own words, which nobody has written down.
    words: Option<Arc<str>>,
    length: Duration,
    protected: bool,
}

impl Builtin {
    /// Starts the agent of one call; it greets at once.
    #[must_use]
    pub fn start(context: Context, voice: Voice) -> Self {
        let mut agent = Self {
            rate: context.rate,
            voice,
            recorder: Recorder::new(context.rate),
            outbox: VecDeque::new(),
            saying: VecDeque::new(),
            last_id: 0,
            stage: Stage::Talking,
            waker: None,
        };
        let greeting = context.config.greeting.as_deref().map_or(Phrase::Greeting, Phrase::text);
        agent.say(&greeting, context.rules.config.protect_greeting);
        agent
    }

    fn say(&mut self, phrase: &Phrase, protect: bool) {
        if self.is_talkative_enough() {
            return;
        }
        self.outbox.push_back(match self.voice.speak(phrase, self.rate) {
            Speech::Ready(spoken) => Item::Speech(spoken, protect),
            Speech::Coming(coming) => Item::Coming(coming, protect),
        });
    }

    fn is_talkative_enough(&self) -> bool {
        self.stage != Stage::Talking || self.saying.len() + self.outbox.len() >= MOST_UTTERANCES
    }

    fn pressed(&mut self, digit: Digit) {
        if digit.as_char() != '#' {
            self.say(&Phrase::Pressed(digit), false);
            return;
        }
        self.say(&Phrase::Goodbye, false);
        if self.stage == Stage::Talking {
            self.outbox.push_back(Item::Event(AgentEvent::Hangup));
            self.stage = Stage::Leaving;
        }
    }

    fn caller_speech(&mut self, speaks: bool) {
        if self.stage != Stage::Talking {
            return;
        }
        if speaks {
            self.recorder.start();
        } else if let Some(take) = self.recorder.stop()
            && !self.is_talkative_enough()
        {
            self.outbox.push_back(Item::Echo(take));
        }
    }

    fn played(&mut self, id: UtteranceId) {
        while let Some(utterance) = self.saying.front()
            && utterance.id <= id
        {
            let words = utterance.words.as_deref().map(str::to_owned);
            self.saying.pop_front();
            self.transcribe(words);
        }
    }

    /// Everything said so far is forgotten, but for protected speech; of what was playing, the words that were heard are reported.
    fn interrupted(&mut self, playing: Option<UtteranceId>, heard: Duration) {
        let said = std::mem::take(&mut self.saying);
        let (cut, kept): (VecDeque<_>, _) =
            said.into_iter().partition(|utterance| !utterance.protected || Some(utterance.id) == playing);
        self.saying = kept;
        let is_kept = |id: &UtteranceId| self.saying.iter().any(|utterance| utterance.id == *id);
        self.outbox.retain(|item| match item {
            Item::Event(AgentEvent::Audio(id, _) | AgentEvent::AudioEnd(id) | AgentEvent::Protected(id)) => is_kept(id),
            Item::Event(event) => matches!(event, AgentEvent::Hangup | AgentEvent::Transcript { .. }),
            Item::Speech(_, protect) | Item::Coming(_, protect) => *protect,
            Item::Echo(_) => false,
        });
        let cut = cut.into_iter().find(|utterance| Some(utterance.id) == playing);
        let words = cut.and_then(|cut| Some(heard_words(cut.words.as_deref()?, heard, cut.length)));
        self.transcribe(words.filter(|words| !words.is_empty()));
    }

    fn transcribe(&mut self, words: Option<String>) {
        if let Some(text) = words {
            let transcript = AgentEvent::Transcript { role: Role::Agent, text, is_final: true };
            self.outbox.push_back(Item::Event(transcript));
        }
    }

    /// Puts an utterance at the head of the outbox.
    fn utter(&mut self, samples: Vec<i16>, words: Option<Arc<str>>, protected: bool) {
        self.last_id = self.last_id.wrapping_add(1);
        let id = UtteranceId(self.last_id);
        self.saying.push_back(Utterance { id, words, length: self.rate.duration_of(samples.len()), protected });
        for event in [AgentEvent::TurnDone, AgentEvent::AudioEnd(id), AgentEvent::Audio(id, samples)] {
            self.outbox.push_front(Item::Event(event));
        }
        if protected {
            self.outbox.push_front(Item::Event(AgentEvent::Protected(id)));
        }
    }
}

/// The words of `text` that were said in the first `heard` of `length`, whole ones only.
fn heard_words(text: &str, heard: Duration, length: Duration) -> String {
    let count = text.split_whitespace().count() as f64;
    let share = heard.as_secs_f64() / length.as_secs_f64().max(f64::EPSILON);
    let words: Vec<&str> = text.split_whitespace().take((count * share) as usize).collect();
    words.join(" ")
}

impl Stream for Builtin {
    type Item = AgentEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<AgentEvent>> {
        let this = &mut *self;
        loop {
            match this.outbox.pop_front() {
                Some(Item::Event(event)) => return Poll::Ready(Some(event)),
                Some(Item::Speech(spoken, protect)) => this.utter(spoken.samples.to_vec(), Some(spoken.words), protect),
                Some(Item::Echo(samples)) => this.utter(samples, None, false),
                Some(Item::Coming(mut coming, protect)) => match Pin::new(&mut coming).poll(cx) {
                    Poll::Ready(Ok(spoken)) => this.outbox.push_front(Item::Speech(spoken, protect)),
                    // the control runtime is going down
                    Poll::Ready(Err(_)) => {}
                    Poll::Pending => {
                        this.outbox.push_front(Item::Coming(coming, protect));
                        break;
                    }
                },
                None if this.stage == Stage::Finished => return Poll::Ready(None),
                None => break,
            }
        }
        this.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Link for Builtin {
    type Event = AgentEvent;
    type Command = AgentInput;

    fn send(&mut self, input: AgentInput) -> Sent<AgentInput> {
        match input {
            AgentInput::Audio(frame) => {
                self.recorder.audio(&frame);
                return Sent::Whole;
            }
            AgentInput::CallerSpeech(speaks) => self.caller_speech(speaks),
            AgentInput::Dtmf(digit) => self.pressed(digit),
            AgentInput::Digits(digits) => digits.into_iter().for_each(|digit| self.pressed(digit)),
            AgentInput::CallerPauses => return Sent::Whole,
            AgentInput::Played(id) => self.played(id),
            AgentInput::Interrupt { utterance, heard } => self.interrupted(utterance, heard),
            AgentInput::Say(Say { text, protect }) => self.say(&Phrase::text(&text), protect),
            AgentInput::Finish => {
                self.outbox.retain(|item| matches!(item, Item::Event(AgentEvent::Transcript { .. })));
                self.stage = Stage::Finished;
            }
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Sent::Whole
    }
}

impl Agent for Builtin {
    async fn close(self) {}
}

#[cfg(test)]
mod tests;
