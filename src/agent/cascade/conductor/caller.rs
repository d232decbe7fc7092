//! The caller's side: texts become turns, and guesses before they are.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Conductor, Flow,
    speaking::{Kind, Running},
};
use crate::{
    agent::{
        cascade::speaker::{Stamps, now},
        stt::{Heard, Joiner, Order},
    },
    call::{AgentEvent, Edge, Ending, Lexicon, Role, Timing, Weight},
};

/// Longest text of the caller that waits for its turn, in bytes.
const MAX_QUEUED: usize = 8_000;
/// What comes so soon after speech recognition was told to finish belongs to what it has just said.
const GRACE: Duration = Duration::from_millis(100);
/// While the caller speaks, or speech recognition works on a text, its final words are waited for so long.
const PATIENCE: Duration = Duration::from_secs(3);
/// A text that has not changed for so long, of a caller whose voice is too faint for us: speech recognition is told to finish.
const FORGOTTEN: Duration = Duration::from_millis(700);
/// A back-channel this close to the end of what the agent says is an answer to it.
const ANSWERS: Duration = Duration::from_millis(1_500);
/// Guesses within one turn of the caller.
const MOST_GUESSES: u32 = 4;

/// What is known of the caller's turn.
#[derive(Debug)]
pub struct Caller {
    joiner: Joiner,
    /// The text after what is joined, as far as it is known.
    partial: Option<String>,
    /// Whether speech recognition tells words as they are spoken.
    streams: bool,
    /// When what has been said becomes a turn.
    pub debounce: Option<Instant>,
    /// When speech recognition is told to finish, unless it does so by itself.
    pub flush_at: Option<Instant>,
    /// Whether to ask before the debounce is over: not where texts come in fragments.
    guesses: bool,
    /// Guesses within this turn.
    guessed: u32,
    speaks: bool,
    pauses: bool,
    /// Speech recognition was told to finish, and nothing has come since.
    flushed: bool,
    /// When its latest final words came.
    words_at: Option<std::time::Instant>,
    /// A back-channel that was said into the agent's words.
    murmur: Option<(String, Instant)>,
}

impl Caller {
    pub fn new(streams: bool) -> Self {
        Self {
            joiner: Joiner::default(),
            partial: None,
            streams,
            debounce: None,
            flush_at: None,
            guesses: true,
            guessed: 0,
            speaks: false,
            pauses: false,
            flushed: false,
            words_at: None,
            murmur: None,
        }
    }

    /// All of the turn that is known.
    fn so_far(&self) -> Option<String> {
        match (self.joiner.peek(), self.partial.as_deref().map(str::trim).filter(|text| !text.is_empty())) {
            (Some(joined), Some(partial)) => Some(format!("{joined} {partial}")),
            (joined, partial) => joined.or_else(|| partial.map(str::to_owned)),
        }
    }
}

impl Conductor {
    pub(super) fn heard(&mut self, heard: Option<Heard>) -> Flow {
        match heard {
            Some(Heard::Piece(text)) => {
                tracing::debug!(?text, "heard");
                self.piece(&text);
                Flow::On
            }
            Some(Heard::Partial(text)) => {
                self.partial(text);
                Flow::On
            }
            Some(Heard::Started) => {
                self.push(AgentEvent::Speech(Edge::Started));
                Flow::On
            }
            Some(Heard::Likely) => {
                self.guess_so_far();
                Flow::On
            }
            Some(Heard::EndOfTurn) => {
                self.push(AgentEvent::Speech(Edge::Stopped));
                self.debounced()
            }
            Some(Heard::Ended(Err(fault))) if self.finish_by.is_none() => self.fail(fault),
            Some(Heard::Ended(_)) | None => Flow::End,
        }
    }

    pub(super) fn caller_speaks(&mut self) {
        self.warm();
        // full: it will hear it
        let _ = self.wiring.orders.try_send(Order::Start);
        let caller = &mut self.caller;
        (caller.speaks, caller.pauses, caller.flushed, caller.flush_at) = (true, false, false, None);
        if caller.debounce.is_some() {
            // they go on
            caller.debounce = caller.debounce.max(Some(Instant::now() + PATIENCE));
        }
    }

    pub(super) fn caller_pauses(&mut self) {
        self.caller.pauses = true;
        self.guess_so_far();
    }

    pub(super) fn caller_stopped(&mut self) {
        // full: it has been told
        let _ = self.wiring.orders.try_send(Order::Flush);
        let caller = &mut self.caller;
        (caller.speaks, caller.pauses, caller.flushed, caller.flush_at) = (false, true, true, None);
        if caller.debounce.is_some() && caller.partial.is_none() {
            // everything that was recognised is there
            let usual = Duration::from_millis(self.ctx.config.debounce_ms);
            caller.debounce = Some(Instant::now() + usual);
        }
        self.guess_so_far();
    }

    /// Nobody heard the caller's voice, but there are words that wait to be final.
    pub(super) fn flush(&mut self) -> Flow {
        self.caller_stopped();
        Flow::On
    }

    /// Words that may change.
    fn partial(&mut self, text: String) {
        let is_blank = text.trim().is_empty();
        self.caller.partial = (!is_blank).then_some(text);
        let now = Instant::now();
        if self.caller.debounce.is_some() && !is_blank {
            self.caller.debounce = self.caller.debounce.max(Some(now + PATIENCE));
        }
        let quiet = !self.caller.speaks && !self.caller.flushed && !is_blank;
        self.caller.flush_at = quiet.then(|| now + FORGOTTEN);
        let Some(so_far) = self.caller.so_far() else { return };
        self.forget_guess_unless(&so_far);
        self.push(AgentEvent::Transcript { role: Role::User, text: so_far, is_final: false });
        if self.caller.pauses {
            self.guess_so_far();
        }
    }

    fn piece(&mut self, text: &str) {
        self.caller.partial = None;
        self.caller.flush_at = None;
        self.caller.words_at = Some(now());
        let follows = !self.caller.joiner.is_empty();
        for utterance in self.caller.joiner.push(text) {
            self.caller.debounce = None;
            self.utterance(&utterance);
        }
        self.caller.guesses &= !follows && !self.caller.joiner.saw_end() || self.caller.streams;
        let Some(so_far) = self.caller.joiner.peek() else { return };
        self.caller.debounce = Some(Instant::now() + self.patience(&so_far));
        self.caller.flushed = false;
        self.forget_guess_unless(&so_far);
        if self.caller.streams {
            self.push(AgentEvent::Transcript { role: Role::User, text: so_far.clone(), is_final: false });
        }
        if self.caller.guesses && !self.caller.speaks {
            self.guess(so_far);
        }
    }

    /// How long more words are waited for.
    fn patience(&self, so_far: &str) -> Duration {
        let usual = Duration::from_millis(self.ctx.config.debounce_ms);
        let caller = &self.caller;
        if caller.speaks {
            return usual.max(PATIENCE);
        }
        if caller.flushed {
            // the silence was ours, and has been waited for
            return usual.min(GRACE);
        }
        match self.ctx.rules.lexicon.ending(so_far, 0) {
            Ending::Open => usual.max(Duration::from_millis(self.ctx.rules.config.endpoint.open_ms)),
            Ending::Complete | Ending::Unknown => usual,
        }
    }

    fn forget_guess_unless(&mut self, so_far: &str) {
        let is_other = |kind: &Kind| matches!(kind, Kind::Guess(text) if !Lexicon::same(text, so_far));
        self.running.take_if(|running| is_other(&running.kind));
    }

    /// The caller pauses: asks with what is known, if it can be all.
    fn guess_so_far(&mut self) {
        let Some(so_far) = self.caller.so_far() else { return };
        let may = self.caller.streams && self.ctx.rules.config.endpoint.preemptive;
        if may && self.ctx.rules.lexicon.ending(&so_far, 0) != Ending::Open {
            self.guess(so_far);
        }
    }

    /// Asks before it is sure that the caller has said everything; nothing of the answer is heard before that.
    fn guess(&mut self, text: String) {
        let idle = self.finish_by.is_none() && self.running.is_none() && self.queued.is_none();
        if !idle
            || self.is_murmur(&text, false)
            || self.caller.guessed >= MOST_GUESSES
            || !self.account.history().is_answered()
        {
            return;
        }
        self.caller.guessed += 1;
        self.ask_for(Kind::Guess(text), Stamps::new(Timing::default()));
    }

    /// The caller has finished.
    pub(super) fn debounced(&mut self) -> Flow {
        self.caller.debounce = None;
        self.flush_joiner();
        Flow::On
    }

    pub(super) fn flush_joiner(&mut self) {
        if let Some(utterance) = self.caller.joiner.flush() {
            self.utterance(&utterance);
        }
    }

    /// The caller has said something.
    fn utterance(&mut self, text: &str) {
        self.caller.guessed = 0;
        self.caller.partial = None;
        let words = self.caller.words_at.take();
        self.push(AgentEvent::Transcript { role: Role::User, text: text.to_owned(), is_final: true });
        if self.finish_by.is_some() {
            return;
        }
        if self.is_murmur(text, true) {
            self.running.take_if(|running| matches!(running.kind, Kind::Guess(_)));
            self.caller.murmur = Some((text.to_owned(), Instant::now()));
            // there is nothing to answer, so far
            self.push(AgentEvent::TurnDone);
            return;
        }
        self.caller.murmur = None;
        match self.running.as_mut() {
            Some(running) if matches!(&running.kind, Kind::Guess(guess) if Lexicon::same(guess, text)) => {
                running.kind = Kind::Answer;
                running.stamps.note(|timing| &mut timing.turn);
                if let Some(words) = words {
                    running.stamps.note_at(|timing| &mut timing.words, words);
                }
                let mut history = self.account.history();
                history.user(text);
                history.answer(true);
                drop(history);
                running.gate.send_replace(Some(self.generation));
                return;
            }
            Some(Running { kind: Kind::Saying { .. }, .. }) => return self.queue(text),
            Some(Running { kind: Kind::Answer, .. }) if self.account.history().is_audible() => return self.queue(text),
            _ => {}
        }
        self.running = None;
        self.account.history().user_continues(text);
        self.ask(Stamps::new(Timing { words, turn: Some(now()), ..Timing::default() }));
    }

    /// Everything the agent said has been heard: a "yes" into its last words was meant.
    pub(super) fn heard_out(&mut self) {
        if self.is_speaking() {
            return;
        }
        let meant = self.caller.murmur.take().filter(|(_, at)| at.elapsed() < ANSWERS);
        if let Some((text, _)) = meant
            && self.finish_by.is_none()
            && self.running.is_none()
        {
            self.account.history().user_continues(&text);
            self.ask(Stamps::new(Timing { turn: Some(now()), ..Timing::default() }));
        }
    }

    /// Whether this is a back-channel into the agent's words.
    fn is_murmur(&self, text: &str, is_final: bool) -> bool {
        self.is_speaking() && self.ctx.rules.lexicon.weigh(text, is_final) == Weight::Listening
    }

    /// Whether the agent's voice is in the caller's ear.
    fn is_speaking(&self) -> bool {
        let mut history = self.account.history();
        let is_heard = |running: &Running| !matches!(running.kind, Kind::Guess(_));
        history.waiting().0 > 0 || (self.running.as_ref().is_some_and(is_heard) && history.is_audible())
    }

    fn queue(&mut self, text: &str) {
        match &mut self.queued {
            Some(queued) if queued.len() + text.len() < MAX_QUEUED => {
                queued.push(' ');
                queued.push_str(text);
            }
            queued => *queued = Some(text.to_owned()),
        }
    }

    /// The caller pressed keys.
    pub(super) fn pressed(&mut self, digits: &str) {
        if self.finish_by.is_some() {
            return;
        }
        if matches!(&self.running, Some(Running { kind: Kind::Saying { protect: true }, .. })) {
            return self.queue(digits);
        }
        self.stop();
        if let Some(before) = self.queued.take() {
            self.account.history().user(&before);
        }
        self.account.history().user(digits);
        self.ask(Stamps::new(Timing { turn: Some(now()), ..Timing::default() }));
    }
}
