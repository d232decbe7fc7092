//! Numbers as they are said: "five five five, one two", "twenty three", "double oh seven".

/// Most digits of one number.
const MOST: usize = 24;

/// The digits in words, one after the other; a leading plus is kept.
pub fn digits(said: &[String]) -> String {
    let mut out = String::new();
    let (mut times, mut before) = (1, None);
    for word in said {
        let word = word.as_str();
        match word {
            "double" => times = 2,
            "triple" => times = 3,
            "plus" if out.is_empty() => out.push('+'),
            "hundred" if out.ends_with(|c: char| c.is_ascii_digit()) => out.push_str("00"),
            _ => {
                let of_it = value(word);
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
    out
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
        ] {
            assert_eq!(digits(&normal(said)), expected, "{said}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_few_digits(said in "\\PC{0,200}") {
            let digits = digits(&normal(&said));
            prop_assert!(digits.len() <= MOST && digits.trim_start_matches('+').chars().all(|c| c.is_ascii_digit()));
        }
    }
}
