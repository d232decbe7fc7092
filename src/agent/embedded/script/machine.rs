//! The receptionist's side of a conversation: words come in, sentences and deeds go out. No clock, no chance, no waiting.

use super::{Deed, Intent, Place, Script, hear, normal, numbers::digits};

/// Longest name, number and message that is taken down, in characters.
const MAX_NAME: usize = 80;
const MAX_MESSAGE: usize = 1_500;
/// Fewer digits are no telephone number.
const LEAST_DIGITS: usize = 3;
/// Words of a no that is about the number that was read back, and no message.
const CORRECTION: usize = 4;
/// How sure an extension is whose digits were guessed.
const MISHEARD: f64 = 0.9;
/// What people say before their name.
const BEFORE_NAME: &[&[&str]] = &[
    &["my", "name", "is"],
    &["the", "name", "is"],
    &["name", "is"],
    &["this", "is"],
    &["it", "is"],
    &["it's"],
    &["i", "am"],
    &["i'm"],
    &["my", "name's"],
];

/// What is said and done about a turn of the caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    /// Sentences, one after the other.
    pub says: Vec<String>,
    /// What is done when they have been heard.
    pub act: Option<Act>,
}

/// What the receptionist has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// The caller is connected to the place of this name.
    Transfer(String),
    /// A message is kept.
    Message(Message),
    /// The call ends.
    Hangup,
}

/// A message for somebody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Whose it is.
    pub name: String,
    /// Where they can be reached, if they said so.
    pub number: String,
    /// Their words.
    pub message: String,
    /// Whom it is for, if they said so.
    pub to: Option<String>,
}

/// What the caller was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Asked {
    #[default]
    Nothing,
    AnythingElse,
    Who,
    Transfer(usize),
    LeaveMessage,
    Name,
    Number,
    Text,
    Confirm,
}

/// A conversation.
#[derive(Debug, Clone)]
pub struct Machine<'a> {
    script: &'a Script,
    /// Where the caller calls from, if that is known.
    from: Option<&'a str>,
    asked: Asked,
    /// Turns in a row that were not understood.
    missed: u32,
    message: Message,
    /// Where the caller was to be connected to last.
    place: Option<usize>,
    /// What was said last.
    last: Vec<String>,
}

impl<'a> Machine<'a> {
    /// A conversation that begins.
    #[must_use]
    pub fn new(script: &'a Script, from: Option<&'a str>, greeting: &str) -> Self {
        Self {
            script,
            from,
            asked: Asked::Nothing,
            missed: 0,
            message: Message::default(),
            place: None,
            last: vec![greeting.to_owned()],
        }
    }

    /// The caller has said this.
    pub fn hear(&mut self, text: &str) -> Turn {
        let said = normal(text);
        let turn = match self.asked {
            // what is asked for is taken as it is: a message may well begin with "hello"
            Asked::Name | Asked::Number | Asked::Text if !self.is(&said, "cancel") => self.taken_down(text, &said),
            Asked::Name | Asked::Number | Asked::Text => self.say(&["cancelled", "anything_else"], Asked::AnythingElse),
            _ => self.answered(&said).unwrap_or_else(|| self.wanted(&said)),
        };
        self.remember(turn)
    }

    /// What was to be done has been tried.
    pub fn done(&mut self, act: &str, failed: bool) -> Turn {
        let turn = match act {
            "take_message" if failed => self.say(&["message_failed", "anything_else"], Asked::AnythingElse),
            "take_message" => self.say(&["message_taken", "anything_else"], Asked::AnythingElse),
            "transfer" if failed => self.say(&["not_connected"], Asked::LeaveMessage),
            _ => Turn::default(),
        };
        self.remember(turn)
    }

    fn remember(&mut self, turn: Turn) -> Turn {
        if !turn.says.is_empty() {
            self.last.clone_from(&turn.says);
        }
        turn
    }

    /// An answer to what was asked, if it is one.
    fn answered(&mut self, said: &[String]) -> Option<Turn> {
        // "no, are you open today?" wants something, "no, thank you" does not
        let other = self.meant(said).map_or(0, |(_, letters)| letters);
        let is = |letters: usize, at_least: usize| letters > 0 && letters >= at_least;
        let (yes, no) = self.yes_or_no(said);
        match self.asked {
            Asked::AnythingElse if is(no, other) => Some(self.goodbye()),
            Asked::LeaveMessage | Asked::Who if is(no, other) => {
                Some(self.say(&["cancelled", "anything_else"], Asked::AnythingElse))
            }
            Asked::AnythingElse if is(yes, other) => Some(self.say(&["go_on"], Asked::Nothing)),
            Asked::LeaveMessage if is(yes, other) => Some(self.take_message(None)),
            Asked::Who => {
                let place = self.place_in(said)?;
                Some(self.connect_to(place, true))
            }
            Asked::Transfer(at) => self.transfer_answered(at, said, (is(yes, 0), is(no, 0))),
            Asked::Confirm if is(no, 0) => Some(self.say(&["message_again"], Asked::Text)),
            Asked::Confirm if is(yes, 0) => {
                self.missed = 0;
                self.asked = Asked::Nothing;
                Some(Turn { says: Vec::new(), act: Some(Act::Message(std::mem::take(&mut self.message))) })
            }
            _ => None,
        }
    }

    /// Whether to connect to the place `at`.
    fn transfer_answered(&mut self, at: usize, said: &[String], (yes, no): (bool, bool)) -> Option<Turn> {
        match self.place_in(said) {
            Some(other) if other.0 != at => Some(self.connect_to(other, true)),
            _ if no => {
                self.place = None;
                Some(self.say(&["cancelled", "who"], Asked::Who))
            }
            _ if yes => Some(self.connect(at)),
            _ => None,
        }
    }

    /// What the caller wants, whatever was asked.
    fn wanted(&mut self, said: &[String]) -> Turn {
        let place = self.place_in(said);
        let Some((intent, _)) = self.meant(said) else {
            return match place {
                Some(place) => self.connect_to(place, false),
                None => self.not_understood(),
            };
        };
        match intent.deed {
            Deed::Answer => {
                let sentence = intent.say.clone().unwrap_or_default();
                let mut turn = match intent.ask {
                    true => self.say(&["anything_else"], Asked::AnythingElse),
                    false => self.say(&[], Asked::Nothing),
                };
                turn.says.insert(0, sentence);
                turn
            }
            Deed::Message => self.take_message(place.map(|(at, _)| at)),
            Deed::Transfer => {
                match place.or(intent.to.as_deref().and_then(|to| Some((self.script.place_named(to)?, 1.0)))) {
                    Some(place) => self.connect_to(place, false),
                    None if self.script.places.is_empty() || intent.to.is_some() => {
                        self.say(&["nobody"], Asked::LeaveMessage)
                    }
                    None => self.say(&["who"], Asked::Who),
                }
            }
            Deed::Repeat => match self.last.is_empty() {
                true => self.say(&["nothing_to_repeat"], self.asked),
                false => Turn { says: self.last.clone(), act: None },
            },
            Deed::Help => self.say(&["help"], Asked::Nothing),
            Deed::Goodbye => self.goodbye(),
        }
    }

    /// A part of a message.
    fn taken_down(&mut self, text: &str, said: &[String]) -> Turn {
        match self.asked {
            Asked::Name if !said.is_empty() => {
                self.message.name = name(text);
                self.say(&["ask_number"], Asked::Number)
            }
            Asked::Number => self.number(said),
            // about the number that was read back
            Asked::Text if said.len() <= CORRECTION && !self.message.number.is_empty() && self.is(said, "no") => {
                self.message.number.clear();
                self.say(&["ask_number_again"], Asked::Number)
            }
            Asked::Text if !said.is_empty() => {
                self.message.message = text.trim().chars().take(MAX_MESSAGE).collect();
                self.say(&["confirm_message"], Asked::Confirm)
            }
            _ => self.not_understood(),
        }
    }

    fn number(&mut self, said: &[String]) -> Turn {
        let (number, _) = digits(said);
        let known = self.from.filter(|_| self.is(said, "this_number"));
        if let Some(from) = known {
            self.message.number = from.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
        } else if number.len() >= LEAST_DIGITS {
            self.message.number = number;
        } else if !self.is(said, "none") && !self.is(said, "no") && self.missed == 0 {
            let turn = self.say(&["ask_number_again"], Asked::Number);
            self.missed = 1;
            return turn;
        }
        let noted: &[&str] =
            if self.message.number.is_empty() { &["ask_message"] } else { &["number_noted", "ask_message"] };
        self.say(noted, Asked::Text)
    }

    fn take_message(&mut self, to: Option<usize>) -> Turn {
        let to = to.or(self.place).map(|at| self.script.places[at].spoken().to_owned());
        self.message = Message { to, ..Message::default() };
        self.say(&["ask_name"], Asked::Name)
    }

    /// Connects to a place, or asks first; `asked`: whom, so that a clear answer is enough.
    fn connect_to(&mut self, (at, sure): (usize, f64), asked: bool) -> Turn {
        let place = &self.script.places[at];
        if sure >= 1.0 && (asked || !place.confirm) {
            return self.connect(at);
        }
        self.place = Some(at);
        self.say(&["confirm_transfer"], Asked::Transfer(at))
    }

    fn connect(&mut self, at: usize) -> Turn {
        self.place = Some(at);
        let mut turn = self.say(&["transferring"], Asked::Nothing);
        turn.act = Some(Act::Transfer(self.script.places[at].name.clone()));
        turn
    }

    fn goodbye(&mut self) -> Turn {
        let mut turn = self.say(&["goodbye"], Asked::Nothing);
        turn.act = Some(Act::Hangup);
        turn
    }

    fn not_understood(&mut self) -> Turn {
        let missed = self.missed + 1;
        let after = self.script.fallback.after;
        let mut turn = if missed >= 2 * after {
            self.goodbye()
        } else if missed != after {
            let asked = self.question();
            let mut turn = self.say(&["not_understood"], self.asked);
            turn.says.extend(asked);
            turn
        } else {
            match self.script.fallback.then.as_str() {
                "message" => self.take_message(None),
                "goodbye" => self.goodbye(),
                place => match self.script.place_named(place) {
                    Some(at) => self.connect(at),
                    None => self.say(&["not_understood", "help"], Asked::Nothing),
                },
            }
        };
        if turn.act == Some(Act::Hangup) && turn.says.len() == 1 {
            turn.says.insert(0, self.script.sentence("not_understood"));
        }
        self.missed = missed;
        turn
    }

    /// The question that is open, to be asked again.
    fn question(&self) -> Option<String> {
        let name = match self.asked {
            Asked::Nothing | Asked::AnythingElse => return None,
            Asked::Who => "who_again",
            Asked::Transfer(_) => "confirm_transfer",
            Asked::LeaveMessage => "nobody",
            Asked::Name => "ask_name",
            Asked::Number => "ask_number",
            Asked::Text => "ask_message",
            Asked::Confirm => "confirm_message",
        };
        Some(self.filled(name))
    }

    /// Says sentences of the script; what comes next answers the last one.
    fn say(&mut self, sentences: &[&str], asked: Asked) -> Turn {
        self.missed = 0;
        self.asked = asked;
        let says = sentences.iter().map(|name| self.filled(name)).filter(|text| !text.trim().is_empty());
        Turn { says: says.collect(), act: None }
    }

    fn filled(&self, name: &str) -> String {
        let place = self.place.map_or("", |at| self.script.places[at].spoken());
        let is_about_place = matches!(name, "confirm_transfer" | "transferring" | "not_connected");
        let of_message = &self.message;
        let number = spoken(&of_message.number);
        let value = |key: &str| match key {
            "name" if is_about_place => place,
            "name" => &of_message.name,
            "number" => &number,
            "message" => of_message.message.trim_end_matches(['.', ' ']),
            _ => of_message.to.as_deref().unwrap_or_default(),
        };
        let sentence = self.script.sentence(name);
        let (mut out, mut rest) = (String::new(), sentence.as_str());
        // what is put in is not looked at again
        while let Some((before, (key, after))) =
            rest.split_once('{').and_then(|(before, tail)| Some((before, tail.split_once('}')?)))
        {
            out.push_str(before);
            out.push_str(value(key));
            rest = after;
        }
        out.push_str(rest);
        out
    }

    /// Letters of a yes and of a no in what was said. Its first word counts, if it is one of them.
    fn yes_or_no(&self, said: &[String]) -> (usize, usize) {
        let (yes, no) = (self.letters(said, "yes"), self.letters(said, "no"));
        let first = &said[..said.len().min(1)];
        match (self.letters(first, "yes") > 0, self.letters(first, "no") > 0) {
            (true, false) => (yes, 0),
            (false, true) => (0, no),
            _ => (yes, no),
        }
    }

    fn is(&self, said: &[String], list: &str) -> bool {
        self.letters(said, list) > 0
    }

    /// How many letters of a list's longest phrase were heard.
    fn letters(&self, said: &[String], list: &str) -> usize {
        let phrases = self.script.words.0.get(list).into_iter().flatten();
        phrases.filter_map(|phrase| hear::heard(phrase, said)).max().unwrap_or(0)
    }

    /// The intent whose longest phrase was heard, the first of equals.
    fn meant(&self, said: &[String]) -> Option<(&'a Intent, usize)> {
        let letters = |intent: &'a Intent| {
            let best = intent.wanted.iter().filter_map(|phrase| hear::heard(phrase, said)).max();
            best.map(|letters| (intent, letters))
        };
        self.script.intents.iter().filter_map(letters).reduce(|best, other| if other.1 > best.1 { other } else { best })
    }

    /// The place that was named, the surest one, or whose extension was said; and how sure that is.
    fn place_in(&self, said: &[String]) -> Option<(usize, f64)> {
        let (number, is_sure) = digits(said);
        let sure = |place: &Place| {
            let by_name = place.names.iter().filter_map(|name| hear::name(name, said)).reduce(f64::max);
            let by_number =
                (!number.is_empty() && number == place.exten).then_some(if is_sure { 1.0 } else { MISHEARD });
            by_name.into_iter().chain(by_number).reduce(f64::max)
        };
        let found = self.script.places.iter().enumerate().filter_map(|(at, place)| Some((at, sure(place)?)));
        found.reduce(|best, other| if other.1 > best.1 { other } else { best })
    }
}

/// A number digit by digit, as it is said.
fn spoken(number: &str) -> String {
    let digits = number.chars().map(|c| if c == '+' { "plus".to_owned() } else { c.to_string() });
    digits.collect::<Vec<_>>().join(" ")
}

/// A name without what stands before it, as it was said.
fn name(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let plain: Vec<String> =
        words.iter().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()).collect();
    let starts = |prefix: &&&[&str]| plain.len() > prefix.len() && plain.iter().zip(**prefix).all(|(a, b)| a == b);
    let skip = BEFORE_NAME.iter().filter(starts).map(|prefix| prefix.len()).max().unwrap_or(0);
    let name = words[skip..].join(" ");
    name.trim_matches(|c: char| !c.is_alphanumeric()).chars().take(MAX_NAME).collect()
}
