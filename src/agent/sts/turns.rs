//! What the agent says, as far as the caller hears it; and the caller's words in the order in which they were spoken.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::dialect::Cut;
use crate::{audio::Rate, call::UtteranceId};

/// Turns that are remembered.
const MAX_TURNS: usize = 64;
/// Longest words of one turn, in bytes.
const MAX_TEXT: usize = 64 * 1024;
/// Words of the caller that are awaited.
const MAX_AWAITED: usize = 64;
/// How long words wait for those that were spoken before them.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Turn {
    key: String,
    id: UtteranceId,
    text: String,
    /// No more words come.
    whole: bool,
    samples: usize,
    /// No more audio comes.
    done: bool,
    heard: Heard,
    /// Its words have been given out.
    told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Waiting,
    Whole,
    Part(Duration),
    /// The vendor says which words.
    Corrected,
}

/// The agent's turns.
#[derive(Debug)]
pub struct Turns {
    rate: Rate,
    list: VecDeque<Turn>,
    last: u32,
    /// Words of a cut turn are told by the vendor, later.
    corrects: bool,
}

impl Turns {
    /// For a leg of `rate`.
    pub const fn new(rate: Rate, corrects: bool) -> Self {
        Self { rate, list: VecDeque::new(), last: 0, corrects }
    }

    /// Speech of a turn has come; `None`: it was cut, and this is too late. Also whether the turn is a new one.
    pub fn audio(&mut self, key: &str, samples: usize) -> Option<(UtteranceId, bool)> {
        if matches!(self.of(key).heard, Heard::Part(_) | Heard::Corrected) {
            return None;
        }
        if self.of(key).done || self.of(key).heard == Heard::Whole {
            // it goes on after a pause
            self.push(key);
        }
        let turn = self.of(key);
        let first = turn.samples == 0;
        turn.samples = turn.samples.saturating_add(samples);
        Some((turn.id, first))
    }

    /// The turn whose speech is not over, if it is another one than `key`.
    pub fn open(&self, key: Option<&str>) -> Option<UtteranceId> {
        let open = |turn: &&Turn| turn.samples > 0 && !turn.done && turn.heard == Heard::Waiting;
        self.list.iter().rev().find(open).filter(|turn| key != Some(turn.key.as_str())).map(|turn| turn.id)
    }

    /// No more speech comes for it.
    pub fn done(&mut self, id: UtteranceId) {
        if let Some(turn) = self.list.iter_mut().find(|turn| turn.id == id) {
            turn.done = true;
        }
    }

    /// The utterance of a turn, if it has speech that nothing has cut.
    pub fn id(&self, key: &str) -> Option<UtteranceId> {
        let known = |turn: &&Turn| turn.key == key && turn.samples > 0 && turn.heard == Heard::Waiting;
        self.list.iter().rev().find(known).map(|turn| turn.id)
    }

    /// Words, more or all of them.
    pub fn words(&mut self, key: &str, text: &str, whole: bool) {
        let turn = self.of(key);
        if whole {
            turn.text.clear();
            turn.whole = true;
        }
        let room = MAX_TEXT.saturating_sub(turn.text.len());
        turn.text.push_str(&text[..text.floor_char_boundary(room)]);
    }

    /// The agent has said everything: no more words come, and what has no speech by now was not heard.
    pub fn settled(&mut self) {
        self.list.retain(|turn| turn.samples > 0 || turn.heard != Heard::Waiting);
        self.list.iter_mut().for_each(|turn| turn.whole = true);
    }

    /// A turn has been played to its end.
    pub fn played(&mut self, id: UtteranceId) {
        for turn in self.list.iter_mut().filter(|turn| turn.id <= id && turn.heard == Heard::Waiting) {
            turn.heard = Heard::Whole;
        }
    }

    /// Everything that has not been played is cut: of `cut` this long was heard, of later ones nothing.
    pub fn interrupt(&mut self, cut: Option<UtteranceId>, heard: Duration) -> Vec<Cut> {
        let mut cuts = Vec::new();
        for turn in self.list.iter_mut().filter(|turn| turn.heard == Heard::Waiting) {
            if turn.samples == 0 {
                // only words of it have come: its speech would be too late
                turn.heard = Heard::Part(Duration::ZERO);
                continue;
            }
            let length = self.rate.duration_of(turn.samples);
            turn.heard = match cut {
                Some(cut) if turn.id < cut => Heard::Whole,
                Some(cut) if turn.id == cut => Heard::Part(heard.min(length)),
                _ => Heard::Part(Duration::ZERO),
            };
            if let Heard::Part(heard) = turn.heard {
                cuts.push(Cut { turn: turn.key.clone(), heard, whole: heard >= length });
            }
        }
        cuts
    }

    /// What was heard of the last turn that was cut.
    pub fn correct(&mut self, text: &str) {
        if let Some(turn) = self.list.iter_mut().rev().find(|turn| matches!(turn.heard, Heard::Part(_))) {
            text[..text.floor_char_boundary(MAX_TEXT)].clone_into(&mut turn.text);
            turn.heard = Heard::Corrected;
        }
    }

    /// Whether everything that was said has been heard, or cut.
    pub fn is_heard(&self) -> bool {
        !self.list.iter().any(|turn| turn.heard == Heard::Waiting && turn.samples > 0)
    }

    /// The words of the turns that are over. With `all`, of the others too.
    pub fn said(&mut self, all: bool) -> Vec<String> {
        let (rate, corrects, count) = (self.rate, self.corrects, self.list.len());
        let mut texts = Vec::new();
        for (at, turn) in self.list.iter_mut().enumerate().filter(|(_, turn)| !turn.told) {
            let newest = at + 1 == count;
            let over = match turn.heard {
                Heard::Waiting => false,
                Heard::Whole => turn.whole || !newest,
                // the correction comes with the interruption
                Heard::Part(_) => !corrects || !newest,
                Heard::Corrected => true,
            };
            if !over && !all {
                break;
            }
            turn.told = true;
            texts.extend(turn.heard_words(rate));
        }
        texts
    }

    fn of(&mut self, key: &str) -> &mut Turn {
        let at = self.list.iter().rposition(|turn| turn.key == key);
        let at = at.unwrap_or_else(|| self.push(key));
        &mut self.list[at]
    }

    fn push(&mut self, key: &str) -> usize {
        self.last += 1;
        // what is left out then has long been heard, or never will be
        self.list.drain(..(self.list.len() + 1).saturating_sub(MAX_TURNS));
        self.list.push_back(Turn {
            key: key.to_owned(),
            id: UtteranceId(self.last),
            text: String::new(),
            whole: false,
            samples: 0,
            done: false,
            heard: Heard::Waiting,
            told: false,
        });
        self.list.len() - 1
    }
}

impl Turn {
    fn heard_words(&self, rate: Rate) -> Option<String> {
        let text = self.text.trim();
        let words = match self.heard {
            Heard::Whole | Heard::Corrected => text,
            Heard::Part(heard) => share(text, heard, rate.duration_of(self.samples)),
            // nobody has heard it out, but the call is over
            Heard::Waiting if self.samples == 0 => "",
            Heard::Waiting => text,
        };
        (!words.is_empty()).then(|| words.to_owned())
    }
}

/// The words that fit into the first `heard` of `length`.
fn share(text: &str, heard: Duration, length: Duration) -> &str {
    if heard >= length {
        return text;
    }
    let share = heard.as_secs_f64() / length.as_secs_f64();
    let end = (share * text.chars().count() as f64) as usize;
    let (at, next) = text.char_indices().nth(end).unwrap_or((text.len(), ' '));
    let mut words = &text[..at];
    if text.contains(char::is_whitespace) && !next.is_whitespace() {
        // the word that was cut was not heard
        words = words.rfind(char::is_whitespace).map_or("", |blank| &words[..blank]);
    }
    words.trim()
}

/// The caller's words, which vendors may tell in another order than they were spoken.
#[derive(Debug, Default)]
pub struct Ordered {
    queue: VecDeque<(String, Option<String>)>,
    /// Names of the words that were told last: some come twice.
    told: VecDeque<String>,
    /// When the first words began to wait for others.
    since: Option<Instant>,
}

impl Ordered {
    /// Words of this name will come.
    pub fn awaits(&mut self, item: String) {
        if self.queue.len() >= MAX_AWAITED {
            self.queue.pop_front();
        }
        self.queue.push_back((item, None));
    }

    /// They have come (none: they will not); what may be told now, in order.
    pub fn came(&mut self, item: &str, text: String) -> Vec<String> {
        if self.told.iter().any(|told| told == item) {
            return Vec::new();
        }
        let nothing_waits = self.queue.iter().all(|(_, words)| words.is_none());
        match self.queue.iter_mut().find(|(known, _)| known == item) {
            Some((_, words)) => *words = Some(text),
            None if nothing_waits => {
                self.note(item.to_owned());
                return some(text).into_iter().collect();
            }
            None => self.queue.push_back((item.to_owned(), Some(text))),
        }
        self.ready()
    }

    /// When words have waited long enough for those before them.
    pub fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + PATIENCE)
    }

    /// Whether any are awaited.
    pub fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Those that were awaited do not come: what may be told now.
    pub fn give_up(&mut self) -> Vec<String> {
        while matches!(self.queue.front(), Some((_, None))) {
            self.queue.pop_front();
        }
        self.ready()
    }

    fn ready(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some((item, words)) = self.queue.pop_front_if(|(_, words)| words.is_some()) {
            texts.extend(words.and_then(some));
            self.note(item);
        }
        let waits = self.queue.iter().any(|(_, words)| words.is_some());
        self.since = waits.then(|| self.since.unwrap_or_else(Instant::now));
        texts
    }
}

impl Ordered {
    /// The words of this name have been told; not all vendors give names.
    fn note(&mut self, item: String) {
        if item.is_empty() {
            return;
        }
        if self.told.len() >= MAX_AWAITED {
            self.told.pop_front();
        }
        self.told.push_back(item);
    }
}

fn some(text: String) -> Option<String> {
    (!text.trim().is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns() -> Turns {
        Turns::new(Rate::R8K, false)
    }

    #[test]
    fn words_are_told_once_they_were_heard() {
        let mut turns = turns();
        let (id, first) = turns.audio("a", 8_000).unwrap();
        assert!(first && !turns.audio("a", 8_000).unwrap().1);
        turns.words("a", "Hello ", false);
        turns.words("a", "there.", false);
        turns.done(id);
        turns.played(id);
        assert!(turns.said(false).is_empty(), "more words may come");
        turns.words("a", "Hello there.", true);
        assert_eq!(turns.said(false), ["Hello there."]);
        assert!(turns.is_heard());
    }

    #[test]
    fn what_was_cut_is_told_as_far_as_it_was_heard_and_what_comes_late_is_none() {
        let mut turns = turns();
        let (first, _) = turns.audio("a", 16_000).unwrap();
        turns.words("a", "One two three four.", true);
        turns.audio("b", 8_000).unwrap();
        turns.words("b", "Never heard.", true);
        let cuts = turns.interrupt(Some(first), Duration::from_millis(1_000));
        let cut = |turn: &str, ms| Cut { turn: turn.to_owned(), heard: Duration::from_millis(ms), whole: false };
        assert_eq!(cuts, [cut("a", 1_000), cut("b", 0)]);
        assert_eq!(turns.audio("a", 160), None);
        assert_eq!(turns.said(false), ["One two"]);
        assert!(turns.interrupt(None, Duration::ZERO).is_empty());
    }

    #[test]
    fn a_vendor_that_corrects_is_waited_for() {
        let mut turns = Turns::new(Rate::R8K, true);
        let (id, _) = turns.audio("a", 16_000).unwrap();
        turns.words("a", "One two three four.", true);
        turns.interrupt(Some(id), Duration::from_millis(1_000));
        assert!(turns.said(false).is_empty());
        turns.correct("One two three");
        assert_eq!(turns.said(false), ["One two three"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_callers_words_come_in_the_order_in_which_they_were_spoken() {
        let mut words = Ordered::default();
        words.awaits("1".to_owned());
        words.awaits("2".to_owned());
        assert!(words.came("2", "two".to_owned()).is_empty());
        assert_eq!(words.came("1", "one".to_owned()), ["one", "two"]);
        assert_eq!((words.came("3", "three".to_owned()), words.deadline()), (vec!["three".to_owned()], None));
        words.awaits("4".to_owned());
        words.awaits("5".to_owned());
        words.came("5", "five".to_owned());
        assert_eq!(words.deadline(), Some(Instant::now() + PATIENCE));
        assert_eq!(words.give_up(), ["five"]);
        assert!(!words.is_waiting());
        words.awaits("6".to_owned());
        assert!(words.came("6", " ".to_owned()).is_empty() && !words.is_waiting());
        // once is enough, but for words without a name
        assert!(words.came("3", "three".to_owned()).is_empty() && words.came("1", "one".to_owned()).is_empty());
        assert_eq!([words.came("", "a".to_owned()), words.came("", "a".to_owned())], [["a"], ["a"]]);
    }
}
