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
/// What may be heard behind a word of a phrase: "called me back".
const ENDINGS: &[&str] = &["s", "d", "ed", "ing", "'s"];
/// Consonants from which on a name is known by its sound, and how sure that is at most.
const SOUNDS: usize = 5;
const BY_SOUND: f64 = 0.9;

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
            let window = at..said.len().min(at + reach);
            // as one word, or taken apart: "some body"
            let ends = |at: usize| {
                let is_apart = || said.get(at + 1).is_some_and(|next| is_joined(word, &said[at], next));
                if same(word, &said[at]) { Some(at + 1) } else { is_apart().then_some(at + 2) }
            };
            at = window.into_iter().find_map(ends)?;
        }
        Some(())
    };
    let letters = phrase.iter().map(|word| word.chars().count()).sum();
    (!phrase.is_empty() && (0..said.len()).any(|from| begin(from).is_some())).then_some(letters)
}

fn is_joined(word: &str, one: &str, two: &str) -> bool {
    word.len() > LONG && word.strip_prefix(one) == Some(two)
}

fn same(word: &str, said: &str) -> bool {
    let is_form = || {
        let ending = said.strip_prefix(word).filter(|_| word.chars().count() >= LONG - 1);
        ending.is_some_and(|ending| ENDINGS.contains(&ending))
    };
    word == said
        || is_form()
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
    let sounds = sound(&wanted);
    let lengths = name.len().saturating_sub(1).max(1)..=name.len() + 1;
    let windows = lengths.flat_map(|length| said.windows(length));
    let alike = windows.map(|window| {
        let found = window.concat();
        let shorter = wanted.chars().count().min(found.chars().count());
        // a beginning that is the same says little about short words
        let winkler = if shorter >= LONG { jaro_winkler(&wanted, &found) - 0.08 } else { 0.0 };
        normalized_damerau_levenshtein(&wanted, &found).max(winkler).max(by_sound(&sounds, &found))
    });
    alike.filter(|alike| *alike >= NAME_ALIKE).reduce(f64::max).map(|alike| alike.min(0.99))
}

/// How alike the sounds of a name are to a text's: "upper hater" is "operator".
fn by_sound(wanted: &str, found: &str) -> f64 {
    let found = sound(found);
    let shorter = wanted.len().min(found.len());
    if shorter >= SOUNDS { normalized_damerau_levenshtein(wanted, &found) * BY_SOUND } else { 0.0 }
}

/// The sounds of English letters that are told apart by telephone: classes of consonants, and whether it begins with a vowel.
fn sound(letters: &str) -> String {
    let letters: Vec<char> = letters.chars().collect();
    let mut sounds = String::new();
    let mut last = None;
    for (at, letter) in letters.iter().enumerate() {
        let next = letters.get(at + 1).copied().unwrap_or(' ');
        let of_it = match (*letter, next) {
            ('t' | 'p', 'h') | ('f' | 'v', _) => Some('F'),
            ('c', 'e' | 'i' | 'y' | 'h') | ('s' | 'z' | 'x' | 'j', _) => Some('S'),
            ('c' | 'k' | 'g' | 'q', _) => Some('K'),
            ('b' | 'p', _) => Some('P'),
            ('t' | 'd', _) => Some('T'),
            ('m' | 'n', _) => Some('N'),
            ('l', _) => Some('L'),
            ('r', _) => Some('R'),
            _ if at == 0 => Some('A'),
            _ => None,
        };
        // two letters in a row are one sound
        sounds.extend(of_it.filter(|_| of_it != last));
        last = of_it;
    }
    sounds
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
        assert!(
            hears("talk to somebody", "i want to talk to some body")
                && hears("call me back", "have him called me back")
        );
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
        assert!(sure("operator", "upper hater please").is_some_and(|sure| sure < 1.0));
        assert!(sure("Peter Anderson", "peter and a son").is_some());
        assert!(
            sure("operator", "i want to pay my bill").is_none() && sure("operator", "what are your prices").is_none()
        );
        assert_eq!(
            (sound("philadelphia"), sound("eight"), sound("three")),
            ("FLTLF".into(), "AKT".into(), "FR".into())
        );
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
