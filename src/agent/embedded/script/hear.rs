//! Whether words mean a phrase: recognition mishears, and nobody says what is written.

use strsim::{jaro_winkler, normalized_damerau_levenshtein};

/// Words that may stand between two words of a phrase.
const BETWEEN: usize = 2;
/// Words of a turn that are looked at; the rest is talk.
const MOST_WORDS: usize = 120;
/// Letters from which on a word may be misheard.
const LONG: usize = 5;
/// How alike a misheard word is, and a name.
const ALIKE: f64 = 0.75;
const NAME_ALIKE: f64 = 0.8;

/// The words of a text, in lower case, without punctuation.
#[must_use]
pub fn normal(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '\'';
    text.split(|c: char| !is_part(c))
        .map(|word| word.trim_matches('\'').to_lowercase())
        .filter(|word| !word.is_empty())
        .take(MOST_WORDS)
        .collect()
}

/// Letters of `phrase` that were heard in `said`, if all of its words were, in order.
pub fn heard(phrase: &[String], said: &[String]) -> Option<usize> {
    let begin = |from: usize| {
        let mut at = from;
        for (number, word) in phrase.iter().enumerate() {
            let reach = if number == 0 { 1 } else { BETWEEN + 1 };
            let window = said.get(at..said.len().min(at + reach))?;
            at += window.iter().position(|said| same(word, said))? + 1;
        }
        Some(())
    };
    let letters = phrase.iter().map(|word| word.chars().count()).sum();
    (!phrase.is_empty() && (0..said.len()).any(|from| begin(from).is_some())).then_some(letters)
}

fn same(word: &str, said: &str) -> bool {
    word == said
        || (word.chars().count() >= LONG
            && said.chars().count() >= LONG - 1
            && normalized_damerau_levenshtein(word, said) >= ALIKE)
}

/// How surely `name` is in `said`: 1 = as it is written. Names are misheard as other words, joined and taken apart.
pub fn name(name: &[String], said: &[String]) -> Option<f64> {
    if name.is_empty() {
        return None;
    }
    if said.windows(name.len()).any(|window| window == name) {
        return Some(1.0);
    }
    let wanted = name.concat();
    if wanted.chars().count() < LONG - 1 {
        return None;
    }
    let lengths = name.len().saturating_sub(1).max(1)..=name.len() + 1;
    let windows = lengths.flat_map(|length| said.windows(length));
    let alike = windows.map(|window| {
        let found = window.concat();
        let shorter = wanted.chars().count().min(found.chars().count());
        // a beginning that is the same says little about short words
        let winkler = if shorter >= LONG { jaro_winkler(&wanted, &found) - 0.08 } else { 0.0 };
        normalized_damerau_levenshtein(&wanted, &found).max(winkler)
    });
    alike.filter(|alike| *alike >= NAME_ALIKE).reduce(f64::max).map(|alike| alike.min(0.99))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hears(phrase: &str, said: &str) -> bool {
        heard(&normal(phrase), &normal(said)).is_some()
    }

    #[test]
    fn words_count_and_not_how_they_are_written() {
        assert_eq!(normal("Hello, WORLD! It's 9:30 \u{2014} 'fine'."), ["hello", "world", "it's", "9", "30", "fine"]);
        assert!(hears("leave message", "Press five to leave a message."));
        assert!(hears("speak with representative", "Waiting to speak with her representative."));
        assert!(!hears("leave message", "message leave"));
        assert!(!hears("leave message", "leave it to me to find your message"));
        assert!(hears("opening hours", "what are your openning ours, uh, hours"));
        assert!(hears("representative", "a representitive please"));
        // short words are not guessed at
        assert!(!hears("open", "oven") && !hears("no", "now"));
    }

    #[test]
    fn names_may_be_misheard() {
        let sure = |wanted: &str, said: &str| name(&normal(wanted), &normal(said));
        assert_eq!(sure("Jane Miller", "may i talk to jane miller please"), Some(1.0));
        assert!(sure("Jane Miller", "is jayne miller there").is_some_and(|sure| sure < 1.0));
        assert!(sure("Schneider", "mister snyder please").is_none());
        assert!(sure("Andersson", "mrs anderson").is_some());
        assert!(sure("sales", "sale please").is_some());
        assert!(sure("sales", "tell me about snails").is_none());
        assert!(sure("Bob", "rob").is_none() && sure("", "x").is_none());
    }

    proptest! {
        #[test]
        fn a_phrase_is_heard_in_itself_and_with_others_around(phrase in "[a-z]{1,9}( [a-z]{1,9}){0,4}", around in "[a-z ]{0,30}") {
            let said = format!("{around} {phrase} {around}");
            prop_assert!(hears(&phrase, &said));
            prop_assert_eq!(name(&normal(&phrase), &normal(&said)), Some(1.0));
        }

        #[test]
        fn any_text(phrase in "\\PC{0,30}", said in "\\PC{0,60}") {
            let (phrase, said) = (normal(&phrase), normal(&said));
            let _ = (heard(&phrase, &said), name(&phrase, &said));
        }
    }
}
