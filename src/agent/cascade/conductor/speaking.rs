//! The agent's side: what is asked, what is spoken, and what becomes of it when the caller interrupts.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Conductor, Flow};
use crate::agent::cascade::speaker::Stamps;
use crate::{
    agent::health::{News, Report, Service},
    call::{AgentEvent, Fault, UtteranceId},
};

/// Turns in a row that may fail.
const MAX_BAD_TURNS: u32 = 3;

type Speaking = Pin<Box<dyn Future<Output = Result<Option<Fault>, Fault>> + Send>>;

/// What is being spoken, or thought about.
pub struct Running {
    work: Speaking,
    pub gate: watch::Sender<Option<u32>>,
    pub kind: Kind,
    pub stamps: Stamps,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text that was given.
    Saying {
        /// It is spoken to its end.
        protect: bool,
    },
    /// The answer to the caller's last turn.
    Answer,
    /// The answer to what the caller's turn will be, unless they say more.
    Guess(String),
}

/// A text that waits to be spoken.
#[derive(Debug)]
pub struct Saying {
    pub text: String,
    /// Whether the language model is told that it was said.
    pub shown: bool,
    pub protect: bool,
}

impl Conductor {
    /// What plays and waits is cut, but for protected speech.
    pub(super) fn interrupted(&mut self, utterance: Option<UtteranceId>, heard: Duration) {
        self.generation = self.generation.wrapping_add(1);
        let audible = self.account.history().is_audible();
        // keys may cut what nothing else does
        let all = utterance.is_some_and(|id| self.account.history().is_protected(id));
        let is_cut = |kind: &Kind| match kind {
            // an answer that has not been heard yet is none that was cut
            Kind::Guess(_) => false,
            Kind::Saying { protect } => all || !protect,
            Kind::Answer => true,
        };
        if audible && self.running.take_if(|running| is_cut(&running.kind)).is_some() {
            self.account.history().stop();
        }
        self.account.history().interrupt(utterance, heard);
        if let Some(running) = &self.running {
            running.gate.send_if_modified(|gate| gate.is_some() && gate.replace(self.generation).is_some());
        }
        self.account.played.notify_one();
        self.transcripts(false);
    }

    /// Stops speaking where it is; what has been sent is still heard.
    pub(super) fn stop(&mut self) {
        if let Some(running) = self.running.take()
            && !matches!(running.kind, Kind::Guess(_))
        {
            let open = self.account.history().stop();
            if let Some(id) = open {
                self.push(AgentEvent::AudioEnd(id));
            }
            self.transcripts(false);
        }
    }

    /// Asks for an answer to what the history ends with.
    pub(super) fn ask(&mut self, stamps: Stamps) {
        self.ask_for(Kind::Answer, stamps);
    }

    pub(super) fn ask_for(&mut self, kind: Kind, stamps: Stamps) {
        let (messages, open) = {
            let mut history = self.account.history();
            match &kind {
                Kind::Guess(text) => (history.messages_with(text), None),
                Kind::Answer | Kind::Saying { .. } => {
                    let messages = history.messages();
                    history.answer(true);
                    (messages, Some(self.generation))
                }
            }
        };
        let (gate, opened) = watch::channel(open);
        let speaker = Arc::clone(&self.speaker);
        let noted = stamps.clone();
        let work: Speaking = Box::pin(async move { speaker.answer(messages, noted, opened).await });
        self.running = Some(Running { work, gate, kind, stamps });
    }

    pub(super) fn begin_next(&mut self) {
        if self.running.is_some() || self.finish_by.is_some() {
            return;
        }
        if let Some(Saying { text, shown, protect }) = self.sayings.pop_front() {
            self.account.history().answer(shown);
            let (gate, open) = watch::channel(Some(self.generation));
            let speaker = Arc::clone(&self.speaker);
            let work: Speaking = Box::pin(async move { speaker.say(&text, protect, open).await });
            self.running = Some(Running { work, gate, kind: Kind::Saying { protect }, stamps: Stamps::default() });
        } else if let Some(text) = self.queued.take() {
            self.account.history().user_continues(&text);
            // the caller was listening meanwhile: that is no delay
            self.ask(Stamps::default());
        }
    }

    pub(super) fn answered(&mut self, result: Result<Option<Fault>, Fault>) -> Flow {
        let kind = self.running.take().map(|running| running.kind);
        if let Some(Kind::Guess(_)) = kind {
            // nothing of it was audible, or it would still wait; the turn that comes asks again
            return Flow::On;
        }
        self.account.history().answer_ended();
        self.push(AgentEvent::TurnDone);
        self.transcripts(false);
        self.summarise();
        match result {
            Ok(None) => {
                self.bad_turns = 0;
                Flow::On
            }
            Ok(Some(fault)) => {
                self.bad_turns += 1;
                if self.bad_turns >= MAX_BAD_TURNS {
                    return self.fail(fault);
                }
                self.report(Report { service: Service::Llm, news: News::Trouble(fault) })
            }
            Err(fault) => self.fail(fault),
        }
    }
}

/// Goes on with what runs.
pub async fn work(running: &mut Option<Running>) -> Result<Option<Fault>, Fault> {
    match running {
        Some(running) => running.work.as_mut().await,
        None => std::future::pending().await,
    }
}
