//! Numbers as they are said: "five five five, one two", "twenty three", "double oh seven".

/// Most digits of one number.
const MOST: usize = 24;

/// What numbers are misheard as, where nothing but a number is said.
const MISHEARD: &[(&str, &str)] = &[
    ("to", "2"),
    ("too", "2"),
    ("for", "4"),
    ("fore", "4"),
    ("free", "3"),
    ("side", "5"),
    ("sides", "5"),
    ("time", "5"),
    ("tree", "3"),
    ("won", "1"),
    ("ate", "8"),
    ("low", "0"),
    ("owe", "0"),
    ("owen", "01"),
    ("third", "3"),
    ("fourth", "4"),
    ("fifth", "5"),
    ("sixth", "6"),
    ("seventh", "7"),
    ("eighth", "8"),
    ("ninth", "9"),
];
/// What may be said beside a number; the first says that one comes.
const BESIDE: &[&str] = &[
    "extension",
    "number",
    "please",
    "it's",
    "its",
    "it",
    "is",
    "my",
    "the",
    "and",
    "uh",
    "um",
    "well",
    "double",
    "triple",
    "plus",
    "hundred",
];

/// The digits in words, one after the other; a leading plus is kept. Whether all of them were heard as numbers are written.
pub fn digits(said: &[String]) -> (String, bool) {
    let said: Vec<&str> = said.iter().flat_map(|word| runs(word)).collect();
    let misheard = |word: &str| MISHEARD.iter().find(|(heard, _)| *heard == word).map(|(_, digits)| *digits);
    let is_number = |word: &str| value(word).is_some();
    let is_loose = said.iter().all(|word| is_number(word) || BESIDE.contains(word) || misheard(word).is_some())
        && said.iter().any(|word| is_number(word) || *word == BESIDE[0]);
    let (mut out, mut is_sure) = (String::new(), true);
    let (mut times, mut before) = (1, None);
    for word in said {
        match word {
            "double" => times = 2,
            "triple" => times = 3,
            "plus" if out.is_empty() => out.push('+'),
            "hundred" if out.ends_with(|c: char| c.is_ascii_digit()) => out.push_str("00"),
            _ => {
                let guess = || misheard(word).filter(|_| is_loose).map(|digits| (digits.to_owned(), false));
                let of_it = value(word).or_else(|| {
                    let guess = guess();
                    is_sure &= guess.is_none();
                    guess
                });
                if let Some((text, is_tens)) = of_it {
                    // "twenty three" is 23, "twenty thirteen" is 2013
                    if before == Some(true) && !is_tens && text.len() == 1 && text != "0" && out.ends_with('0') {
                        out.pop();
                    }
                    (0..times).for_each(|_| out.push_str(&text));
                    before = Some(is_tens);
                } else {
                    before = None;
                }
                times = 1;
            }
        }
    }
    out.truncate(MOST);
    (out, is_sure)
}

/// A word, or where digits and letters are written together its parts: "o1".
fn runs(word: &str) -> impl Iterator<Item = &str> {
    let is_mixed = word.is_ascii() && word.contains(|c: char| c.is_ascii_digit());
    let whole = (!is_mixed).then_some(word);
    let digit_runs = word.as_bytes().chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit());
    let parts = digit_runs.filter_map(|run| std::str::from_utf8(run).ok()).filter(move |_| is_mixed);
    whole.into_iter().chain(parts)
}

/// The digits of one word, and whether others may be added to it.
fn value(word: &str) -> Option<(String, bool)> {
    const ONES: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    if word.chars().all(|c| c.is_ascii_digit()) {
        return Some((word.to_owned(), false));
    }
    if matches!(word, "oh" | "o" | "nought") {
        return Some(("0".to_owned(), false));
    }
    let one = ONES.iter().position(|one| *one == word).map(|value| (value.to_string(), false));
    one.or_else(|| TENS.iter().position(|ten| *ten == word).map(|value| (((value + 2) * 10).to_string(), true)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::normal, *};

    #[test]
    fn numbers_as_they_are_said() {
        for (said, expected) in [
            ("It's five five five, one two three four.", "5551234"),
            ("555-1234", "5551234"),
            ("plus four nine thirty twelve", "+493012"),
            ("double oh seven", "007"),
            ("twenty three", "23"),
            ("extension two hundred", "200"),
            ("two oh one", "201"),
            ("no number", ""),
            ("0-3-0, 4478", "0304478"),
            ("the 3rd", "3"),
        ] {
            assert_eq!(digits(&normal(said)), (expected.to_owned(), true), "{said}");
        }
    }

    #[test]
    fn numbers_as_they_are_misheard() {
        for (heard, expected) in [
            ("Extension to Owen.", "201"),
            ("Extension to low one", "201"),
            ("Extension to O1.", "201"),
            ("To zero two.", "202"),
            ("Extension-free-hundred, please.", "300"),
            ("One-eighth-hundred, five-five-five.", "1800555"),
        ] {
            assert_eq!(digits(&normal(heard)), (expected.to_owned(), false), "{heard}");
        }
        // among other words they are what they are
        assert_eq!(digits(&normal("I want to talk to two people for free")).0, "2");
        assert_eq!(digits(&normal("to whom")).0, "");
    }

    proptest! {
        #[test]
        fn any_text_gives_few_digits(said in "\\PC{0,200}") {
            let digits = digits(&normal(&said)).0;
            prop_assert!(digits.len() <= MOST && digits.trim_start_matches('+').chars().all(|c| c.is_ascii_digit()));
        }
    }
}
