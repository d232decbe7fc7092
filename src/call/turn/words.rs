//! What turn-taking reads in the caller's words: whether they take the turn, and whether more of them comes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// All languages; its first lines explain the lists.
const WORDS: &str = include_str!("words.toml");
/// Back-channels in a row that are still one.
const MOST_IN_A_ROW: usize = 4;
/// Longest text that is looked at, in bytes: more is no back-channel, no yes and no number.
const LONGEST: usize = 400;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Lists {
    listening: Vec<String>,
    yes: Vec<String>,
    no: Vec<String>,
    filler: Vec<String>,
    linking: Vec<String>,
    leading: Vec<String>,
    digits: Vec<String>,
}

/// What words mean for the turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// No words at all.
    Nothing,
    /// A listener's "mm-hm", or what may become one.
    Listening,
    /// So many words.
    Words(usize),
}

/// Whether somebody who falls silent here has said everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Probably: a whole sentence, a yes or no, the digits that were asked for.
    Complete,
    /// Nothing can be read from the words.
    Unknown,
    /// More comes.
    Open,
}

/// The words of the languages that are spoken on this gateway.
#[derive(Debug, Default)]
pub struct Lexicon {
    listening: BTreeSet<String>,
    answers: BTreeSet<String>,
    filler: BTreeSet<String>,
    linking: BTreeSet<String>,
    leading: BTreeSet<String>,
    digits: BTreeSet<String>,
}

/// The languages there are lists for.
#[must_use]
pub fn languages() -> Vec<String> {
    lists().into_keys().collect()
}

fn lists() -> BTreeMap<String, Lists> {
    // compiled in, and read by a test: it can be parsed
    toml::from_str(WORDS).unwrap_or_default()
}

impl Lexicon {
    /// The words of `chosen` languages, all when there are none; `listening` takes the place of the lists of back-channels.
    #[must_use]
    pub fn new(chosen: &[String], listening: &[String]) -> Self {
        let mut all = Self::default();
        for (language, lists) in lists() {
            if !(chosen.is_empty() || chosen.contains(&language)) {
                continue;
            }
            all.answers.extend(lists.yes.iter().chain(&lists.no).map(|text| normal(text)));
            all.listening.extend(lists.listening.iter().chain(&lists.filler).map(|text| normal(text)));
            all.digits.extend(lists.digits.iter().map(|text| normal(text)));
            for (to, from) in [
                (&mut all.filler, &lists.filler),
                (&mut all.linking, &lists.linking),
                (&mut all.leading, &lists.leading),
            ] {
                // a letter that somebody spells is a word of another language
                let fits = |text: &String| !chosen.is_empty() || text.chars().count() > 1;
                to.extend(from.iter().map(|text| normal(text)).filter(fits));
            }
        }
        if !listening.is_empty() {
            all.listening = listening.iter().map(|text| normal(text)).filter(|text| !text.is_empty()).collect();
        }
        all
    }

    /// What `text` means while the agent speaks. Words that may change (`is_final` false) can still become a back-channel.
    #[must_use]
    pub fn weigh(&self, text: &str, is_final: bool) -> Weight {
        if text.len() > LONGEST {
            return Weight::Words(LONGEST);
        }
        let text = normal(text);
        if text.is_empty() {
            return Weight::Nothing;
        }
        let becoming = || !is_final && self.listening.iter().any(|known| known.starts_with(&text));
        if self.is_listening(&text, MOST_IN_A_ROW) || becoming() {
            return Weight::Listening;
        }
        Weight::Words(text.split(' ').map(words_in).sum())
    }

    /// Whether `text` is one back-channel after the other.
    fn is_listening(&self, text: &str, most: usize) -> bool {
        if self.listening.contains(text) {
            return true;
        }
        most > 1
            && text
                .match_indices(' ')
                .any(|(at, _)| self.listening.contains(&text[..at]) && self.is_listening(&text[at + 1..], most - 1))
    }

    /// Whether somebody who falls silent after `text` has said everything. `digits`: how many are expected, 0 when nobody knows.
    #[must_use]
    pub fn ending(&self, text: &str, digits: usize) -> Ending {
        let (written, words) = (text.trim_end(), normal(tail(text)));
        if words.is_empty() {
            return Ending::Unknown;
        }
        if text.len() <= LONGEST && self.answers.contains(&words) {
            return Ending::Complete;
        }
        let said = self.digits_in(&words);
        if let Some(said) = said.filter(|_| digits > 0) {
            return if said < digits { Ending::Open } else { Ending::Complete };
        }
        let trails_off = written.ends_with([',', '-', '–', '…', ':', ';']) || written.ends_with("..");
        if trails_off || ends_in(&words, &self.filler) || ends_in(&words, &self.linking) {
            return Ending::Open;
        }
        if said.is_some() {
            // who dictates a number pauses within it, and recognisers put full stops there
            return Ending::Unknown;
        }
        if written.ends_with(['.', '!', '?', '。', '！', '？', '؟', '।']) {
            return Ending::Complete;
        }
        if ends_in(&words, &self.leading) { Ending::Open } else { Ending::Unknown }
    }

    /// How many digits `words` are, when they are nothing else.
    fn digits_in(&self, words: &str) -> Option<usize> {
        words.split(' ').try_fold(0, |sum, word| match word {
            _ if word.bytes().all(|byte| byte.is_ascii_digit()) => Some(sum + word.len()),
            _ => self.digits.contains(word).then_some(sum + 1),
        })
    }

    /// Whether two texts have the same words.
    #[must_use]
    pub fn same(a: &str, b: &str) -> bool {
        a == b || normal(a) == normal(b)
    }
}

/// The end of a long text, which is all that says whether more comes.
fn tail(text: &str) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(LONGEST))..]
}

fn ends_in(words: &str, list: &BTreeSet<String>) -> bool {
    let last_two = words.match_indices(' ').map(|(at, _)| at + 1).rev().take(2);
    last_two.chain([0]).any(|at| list.contains(&words[at..]))
}

/// Words in lower case with one blank between them: letters, digits and apostrophes.
fn normal(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for c in text.chars() {
        let c = if c == '’' { '\'' } else { c };
        if c.is_alphanumeric() || c == '\'' || is_mark(c) {
            normal.extend(c.to_lowercase());
        } else if !normal.is_empty() && !normal.ends_with(' ') {
            normal.push(' ');
        }
    }
    normal.truncate(normal.trim_end().len());
    normal
}

/// Vowel signs and accents that a script writes apart from its letters.
const fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{5b0}'..='\u{5c7}' | '\u{64b}'..='\u{65f}' | '\u{900}'..='\u{dff}' | '\u{e31}'..='\u{e4e}')
}

/// Scripts without blanks: two characters are about a word.
fn words_in(word: &str) -> usize {
    let dense =
        word.chars().filter(|c| matches!(c, '\u{e00}'..='\u{eff}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}'));
    dense.count().div_ceil(2).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all() -> &'static Lexicon {
        static ALL: std::sync::LazyLock<Lexicon> = std::sync::LazyLock::new(|| Lexicon::new(&[], &[]));
        &ALL
    }

    #[test]
    fn the_lists_can_be_read_and_no_refusal_is_a_back_channel() {
        assert_eq!(languages(), ["de", "en", "es", "fr", "it", "nl", "pl", "pt"]);
        let all = all();
        for (language, lists) in lists() {
            for list in [&lists.listening, &lists.yes, &lists.no, &lists.filler, &lists.linking, &lists.leading] {
                assert!(list.len() >= 4 && list.iter().all(|text| !normal(text).is_empty()), "{language}: {list:?}");
            }
            assert_eq!(
                lists.digits.iter().filter(|word| all.digits_in(&normal(word)) == Some(1)).count(),
                lists.digits.len()
            );
            for no in &lists.no {
                assert_ne!(all.weigh(no, true), Weight::Listening, "{language}: {no}");
            }
        }
    }

    #[test]
    fn a_back_channel_is_one_as_a_whole_only() {
        let all = all();
        for text in
            ["Mm-hm.", "OK", "okay, okay", "Ja, ja.", "sí", "Uh-huh, right.", "d’accord", "Äh", "yeah yeah yeah"]
        {
            assert_eq!(all.weigh(text, true), Weight::Listening, "{text}");
        }
        assert_eq!(all.weigh("okay but wait", true), Weight::Words(3));
        assert_eq!(all.weigh("no", true), Weight::Words(1));
        assert_eq!(all.weigh("Stop!", false), Weight::Words(1));
        assert_eq!(all.weigh(" … ", true), Weight::Nothing);
        assert_eq!(all.weigh("等一下请", true), Weight::Words(2));
    }

    #[test]
    fn what_may_become_a_back_channel_is_waited_for() {
        let all = all();
        assert_eq!(all.weigh("all", false), Weight::Listening);
        assert_eq!(all.weigh("all", true), Weight::Words(1));
        assert_eq!(all.weigh("all of", false), Weight::Words(2));
    }

    #[test]
    fn a_list_of_ones_own_takes_the_place_of_ours() {
        let own = Lexicon::new(&["en".to_owned()], &["Copy that".to_owned()]);
        assert_eq!(own.weigh("copy that", true), Weight::Listening);
        assert_eq!(own.weigh("okay", true), Weight::Words(1));
    }

    #[test]
    fn endings() {
        let all = all();
        for text in ["Yes.", "nein danke", "I would like a table.", "really?", "no", "そうです。"] {
            assert_eq!(all.ending(text, 0), Ending::Complete, "{text}");
        }
        for text in [
            "I want to book a table and",
            "um",
            "I need, uh",
            "Ich möchte und.",
            "I am going to",
            "well,",
            "let me see…",
            "je voudrais parler avec",
        ] {
            assert_eq!(all.ending(text, 0), Ending::Open, "{text}");
        }
        for text in ["I want to book a table", "", "A B E"] {
            assert_eq!(all.ending(text, 0), Ending::Unknown, "{text}");
        }
    }

    #[test]
    fn digits_are_counted_where_their_number_is_known() {
        let all = all();
        assert_eq!(all.ending("one two three", 4), Ending::Open);
        assert_eq!(all.ending("one two three four", 4), Ending::Complete);
        assert_eq!(all.ending("12 34.", 4), Ending::Complete);
        assert_eq!(all.ending("eins zwei.", 0), Ending::Unknown);
    }

    #[test]
    fn a_language_of_its_own_has_its_short_words() {
        let spanish = Lexicon::new(&["es".to_owned()], &[]);
        assert_eq!(spanish.ending("quiero pan y", 0), Ending::Open);
        assert_eq!(all().ending("quiero pan y", 0), Ending::Unknown);
    }

    #[test]
    fn case_and_punctuation_make_no_difference() {
        assert!(Lexicon::same("Hello, World.", "hello world") && !Lexicon::same("hello", "hello world"));
    }

    proptest! {
        #[test]
        fn any_text_ends_in_a_verdict(text in "\\PC{0,600}", digits in 0_usize..20) {
            let all = all();
            let _ = (all.weigh(&text, true), all.weigh(&text, false), all.ending(&text, digits));
        }
    }
}
