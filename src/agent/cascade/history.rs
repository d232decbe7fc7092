//! What was said in a call, the agent's side as far as the caller heard it.

mod summary;

use std::{collections::VecDeque, time::Duration};

pub use self::summary::Old;
use crate::{
    agent::{
        llm::{Message, ToolCall},
        tools::Outcome,
        tts::Word,
    },
    audio::Rate,
    call::UtteranceId,
};

/// Turns kept at all.
const MAX_TURNS: usize = 1_000;
/// What tools were asked and answered that is kept of one call, in bytes.
const MAX_TOOLS: usize = 256 * 1024;
/// Of one answer of a tool.
const MAX_OUTPUT: usize = 8 * 1024;
/// Utterances kept of one answer.
const MAX_UTTERANCES: usize = 2_000;
/// Least time one character takes to be spoken: the length of an utterance whose end is not known yet.
const CHARACTER: Duration = Duration::from_millis(60);

#[derive(Debug)]
enum Turn {
    User(String),
    Agent(Answer),
}

#[derive(Debug)]
struct Answer {
    utterances: Vec<Utterance>,
    /// The tools that were called for it, together as the model called them, and what they answered.
    rounds: Vec<Vec<(ToolCall, Option<Outcome>)>>,
    /// Nothing more will be added.
    closed: bool,
    /// Its transcript has been given out.
    reported: bool,
    /// Shown to the language model (the greeting is not: it is there as `system`).
    shown: bool,
}

#[derive(Debug)]
struct Utterance {
    id: UtteranceId,
    text: String,
    samples: usize,
    ended: bool,
    /// It is not cut.
    protected: bool,
    /// When its words are spoken, as far as synthesis tells.
    words: Vec<Word>,
    heard: Heard,
}

#[derive(Debug)]
enum Heard {
    /// Still to be played, or playing.
    Waiting,
    Whole,
    /// Cut: only these words.
    Part(String),
}

/// The account of one call.
#[derive(Debug)]
pub struct History {
    rate: Rate,
    system: Option<String>,
    /// How much of it a language model is told, in bytes of JSON.
    room: usize,
    turns: VecDeque<Turn>,
    /// Turns that were at the front and are there no more.
    gone: usize,
    /// What was said in those, in short.
    summary: Option<String>,
    last_id: u32,
}

impl History {
    /// An empty history; `system` becomes the first message.
    pub fn new(rate: Rate, system: Option<String>, room: usize) -> Self {
        Self { rate, system, room, turns: VecDeque::new(), gone: 0, summary: None, last_id: 0 }
    }

    /// The caller's words.
    pub fn user(&mut self, text: &str) {
        self.push(Turn::User(text.to_owned()));
    }

    /// The caller's words as the rest of the turn before, when that has no answer anybody heard. Returns the whole.
    pub fn user_continues(&mut self, text: &str) -> String {
        while matches!(self.turns.back(), Some(Turn::Agent(answer)) if answer.was_not_heard() && answer.rounds.is_empty())
        {
            self.turns.pop_back();
        }
        if let Some(Turn::User(before)) = self.turns.back_mut()
            && before.len() + text.len() < 8_000
        {
            before.push(' ');
            before.push_str(text);
            return before.clone();
        }
        self.user(text);
        text.to_owned()
    }

    /// An answer begins.
    pub fn answer(&mut self, shown: bool) {
        let (utterances, rounds) = (Vec::new(), Vec::new());
        self.push(Turn::Agent(Answer { utterances, rounds, closed: false, reported: false, shown }));
    }

    /// For the newest answer these tools are called.
    pub fn called(&mut self, calls: &[ToolCall]) {
        if let Some(answer) = self.answers().next_back() {
            answer.rounds.push(calls.iter().map(|call| (call.clone(), None)).collect());
        }
        let mut left = MAX_TOOLS;
        for answer in self.answers().rev() {
            let size: usize = answer.rounds.iter().flatten().map(|(call, _)| call.arguments.len() + MAX_OUTPUT).sum();
            match left.checked_sub(size) {
                Some(rest) => left = rest,
                None => (answer.rounds, left) = (Vec::new(), 0),
            }
        }
    }

    /// A tool of the newest answer has answered.
    pub fn returned(&mut self, id: &str, outcome: &Outcome) {
        let Some(answer) = self.answers().next_back() else { return };
        let mut steps = answer.rounds.iter_mut().flatten();
        if let Some((_, known)) = steps.find(|(call, known)| call.id == id && known.is_none()) {
            let end = (0..=MAX_OUTPUT.min(outcome.output.len())).rev().find(|at| outcome.output.is_char_boundary(*at));
            let output = outcome.output[..end.unwrap_or_default()].to_owned();
            *known = Some(Outcome { output, failed: outcome.failed });
        }
    }

    /// The answer has all its utterances.
    pub fn answer_ended(&mut self) {
        if let Some(answer) = self.answers().next_back() {
            answer.closed = true;
        }
    }

    /// An utterance begins to be sent.
    pub fn begin(&mut self, text: String, protected: bool) -> UtteranceId {
        self.last_id += 1;
        let id = UtteranceId(self.last_id);
        if let Some(answer) = self.answers().next_back()
            && answer.utterances.len() < MAX_UTTERANCES
        {
            answer.utterances.push(Utterance {
                id,
                text,
                samples: 0,
                ended: false,
                protected,
                words: Vec::new(),
                heard: Heard::Waiting,
            });
        }
        id
    }

    /// More audio of an utterance has been sent.
    pub fn sent(&mut self, id: UtteranceId, samples: usize) {
        if let Some(utterance) = self.find(id) {
            utterance.samples += samples;
        }
    }

    /// When words of an utterance are spoken.
    pub fn timed(&mut self, id: UtteranceId, words: Vec<Word>) {
        if let Some(utterance) = self.find(id) {
            utterance.words.extend(words);
        }
    }

    /// All audio of an utterance has been sent.
    pub fn ended(&mut self, id: UtteranceId) {
        if let Some(utterance) = self.find(id) {
            utterance.ended = true;
        }
    }

    /// An utterance has been heard to its end.
    pub fn played(&mut self, id: UtteranceId) {
        if let Some(utterance) = self.find(id)
            && matches!(utterance.heard, Heard::Waiting)
        {
            utterance.heard = Heard::Whole;
        }
    }

    /// Everything that has not been played and is not protected is cut: of `cut` this long was heard, of later ones nothing.
    pub fn interrupt(&mut self, cut: Option<UtteranceId>, heard: Duration) {
        let rate = self.rate;
        for answer in self.answers().filter(|answer| !answer.utterances.is_empty()) {
            answer.closed |= !answer.utterances.iter().any(|utterance| utterance.protected);
            for utterance in &mut answer.utterances {
                let is_kept = utterance.protected && cut.is_none_or(|cut| utterance.id > cut);
                if is_kept || !matches!(utterance.heard, Heard::Waiting) {
                    continue;
                }
                utterance.heard = match cut {
                    Some(cut) if utterance.id < cut => Heard::Whole,
                    Some(cut) if utterance.id == cut => Heard::Part(utterance.heard_words(rate, heard)),
                    _ => Heard::Part(String::new()),
                };
            }
        }
    }

    /// Whether an utterance is one that is not cut with others.
    pub fn is_protected(&mut self, id: UtteranceId) -> bool {
        self.find(id).is_some_and(|utterance| utterance.protected)
    }

    /// Whether anything of the newest answer has been sent.
    pub fn is_audible(&mut self) -> bool {
        self.answers().next_back().is_some_and(|answer| !answer.utterances.is_empty())
    }

    /// Whether the caller's last words have an answer that somebody heard, or there were none.
    pub fn is_answered(&self) -> bool {
        self.turns
            .iter()
            .rev()
            .find_map(|turn| match turn {
                Turn::User(_) => Some(false),
                Turn::Agent(answer) => (!answer.was_not_heard()).then_some(true),
            })
            .unwrap_or(true)
    }

    /// The newest answer stops here: an utterance whose audio has not all been sent counts as sent. Returns that one.
    pub fn stop(&mut self) -> Option<UtteranceId> {
        let answer = self.answers().next_back()?;
        answer.closed = true;
        let open = answer.utterances.last_mut().filter(|utterance| !utterance.ended)?;
        open.ended = true;
        matches!(open.heard, Heard::Waiting).then_some(open.id)
    }

    /// How long what has been sent and not yet played lasts, and how many utterances that is.
    pub fn waiting(&mut self) -> (usize, Duration) {
        let rate = self.rate;
        let (mut count, mut samples) = (0, 0);
        for utterance in self.answers().flat_map(|answer| &answer.utterances) {
            if matches!(utterance.heard, Heard::Waiting) {
                count += 1;
                samples += utterance.samples;
            }
        }
        (count, rate.duration_of(samples))
    }

    /// Transcripts of the answers that are over and have not been given out. With `all`, of the others too.
    pub fn transcripts(&mut self, all: bool) -> Vec<String> {
        let mut texts = Vec::new();
        for answer in self.answers().filter(|answer| !answer.reported) {
            let over = answer.closed && !answer.utterances.iter().any(|u| matches!(u.heard, Heard::Waiting));
            if over || all {
                answer.reported = true;
                texts.extend(answer.words(false));
            }
        }
        texts
    }

    /// The messages for a language model, the newest last, bounded in size. What still plays counts as heard.
    pub fn messages(&self) -> Vec<Message> {
        self.collect(None)
    }

    /// The same, with words of the caller that may become a turn.
    pub fn messages_with(&self, text: &str) -> Vec<Message> {
        self.collect(Some(text))
    }

    fn collect(&self, more: Option<&str>) -> Vec<Message> {
        let system = self.system.iter().cloned().map(Message::System);
        let before = self.before();
        let mut room = self.room.saturating_sub(before.as_ref().map_or(0, Message::size));
        let mut turns = Vec::new();
        let more = more.map(|text| vec![Message::User(text.to_owned())]);
        let shown = self.turns.iter().rev().map(Turn::messages);
        for messages in more.into_iter().chain(shown) {
            match room.checked_sub(messages.iter().map(Message::size).sum()) {
                Some(left) => room = left,
                None => break,
            }
            turns.push(messages);
        }
        system.chain(before).chain(turns.into_iter().rev().flatten()).collect()
    }

    fn push(&mut self, turn: Turn) {
        if self.turns.len() >= MAX_TURNS {
            self.turns.pop_front();
            self.gone += 1;
        }
        self.turns.push_back(turn);
    }

    fn answers(&mut self) -> impl DoubleEndedIterator<Item = &mut Answer> {
        self.turns.iter_mut().filter_map(|turn| match turn {
            Turn::Agent(answer) => Some(answer),
            Turn::User(_) => None,
        })
    }

    fn find(&mut self, id: UtteranceId) -> Option<&mut Utterance> {
        self.answers().rev().flat_map(|answer| &mut answer.utterances).find(|utterance| utterance.id == id)
    }
}

impl Turn {
    /// As a language model is told.
    fn messages(&self) -> Vec<Message> {
        match self {
            Self::User(text) => vec![Message::User(text.clone())],
            Self::Agent(answer) => answer.messages(),
        }
    }
}

impl Answer {
    fn was_not_heard(&self) -> bool {
        self.utterances.iter().all(|utterance| matches!(&utterance.heard, Heard::Part(words) if words.is_empty()))
    }

    /// As a language model is told: the tools, then what was said, most of which they had answered.
    fn messages(&self) -> Vec<Message> {
        let mut messages = Vec::new();
        for round in &self.rounds {
            let calls = round.iter().map(|(call, _)| call.clone()).collect();
            messages.push(Message::Assistant { text: String::new(), calls });
            messages.extend(round.iter().map(|(call, outcome)| {
                let given_up =
                    || Outcome::failed("given up, because the caller spoke; it may have been done".to_owned());
                let Outcome { output, failed } = outcome.clone().unwrap_or_else(given_up);
                Message::Result { id: call.id.clone(), name: call.name.clone(), output, failed }
            }));
        }
        messages.extend(self.shown.then(|| self.words(true)).flatten().map(Message::said));
        messages
    }

    fn words(&self, waiting_too: bool) -> Option<String> {
        let words: Vec<&str> = self
            .utterances
            .iter()
            .filter_map(|utterance| match &utterance.heard {
                Heard::Whole => Some(utterance.text.as_str()),
                Heard::Waiting => waiting_too.then_some(utterance.text.as_str()),
                Heard::Part(words) => Some(words.as_str()),
            })
            .filter(|words| !words.is_empty())
            .collect();
        (!words.is_empty()).then(|| words.join(" "))
    }
}

impl Utterance {
    /// The words that fit into the first `heard` of this utterance.
    fn heard_words(&self, rate: Rate, heard: Duration) -> String {
        let chars = u32::try_from(self.text.chars().count()).unwrap_or(u32::MAX);
        let mut whole = rate.duration_of(self.samples);
        if !self.ended {
            whole = whole.max(CHARACTER * chars);
        }
        if heard >= whole {
            return self.text.clone();
        }
        if !self.words.is_empty() {
            return self.words_until(heard);
        }
        let share = heard.as_secs_f64() / whole.as_secs_f64();
        let end = (share * f64::from(chars)) as usize;
        let (at, next) = self.text.char_indices().nth(end).unwrap_or((self.text.len(), ' '));
        let mut words = &self.text[..at];
        if self.text.contains(char::is_whitespace) && !next.is_whitespace() {
            // the word that was cut was not heard
            words = words.rfind(char::is_whitespace).map_or("", |blank| &words[..blank]);
        }
        words.trim().to_owned()
    }
}

impl Utterance {
    /// The text up to the last word that had been spoken after `heard`.
    fn words_until(&self, heard: Duration) -> String {
        let spoken = || self.words.iter().take_while(|word| word.end <= heard).map(|word| word.text.trim());
        let mut end = 0;
        for word in spoken().filter(|word| !word.is_empty()) {
            match self.text[end..].find(word) {
                Some(at) => end += at + word.len(),
                // spoken otherwise than written ("10" as "ten"): what was spoken
                None => return spoken().collect::<Vec<_>>().join(" ").trim().to_owned(),
            }
        }
        let rest = self.text[end..].chars();
        end += rest.take_while(|c| c.is_ascii_punctuation()).map(char::len_utf8).sum::<usize>();
        if end == 0 { String::new() } else { self.text[..end].trim().to_owned() }
    }
}

#[cfg(test)]
mod tests;
