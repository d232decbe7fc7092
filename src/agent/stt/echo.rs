//! Words that a recogniser hears once more, because the one before it had told them already.

/// A word that is alike, one that is not, and one that is left out or put in.
const SAME: i32 = 2;
const OTHER: i32 = -1;
const GAP: i32 = -1;
/// So many words past the last that was told, nothing can be an echo any more.
const FAR: usize = 12;
/// Words that are compared at all: a minute of speech.
const MOST: usize = 200;

/// Takes what was told before out of what is heard in the same audio.
#[derive(Debug)]
pub struct Echo {
    /// What was told, as it is compared.
    told: Vec<String>,
    /// What has been heard since for good, as it was written.
    heard: Vec<String>,
}

impl Echo {
    /// `told`: the final words of which audio is heard again. `None`: there are none.
    pub fn new(told: &[String]) -> Option<Self> {
        let told: Vec<String> = told.iter().map(|word| plain(word)).filter(|word| !word.is_empty()).collect();
        let told = told[told.len().saturating_sub(MOST)..].to_vec();
        (!told.is_empty()).then_some(Self { told, heard: Vec::new() })
    }

    /// What of `text`, which is not final, is new.
    pub fn partial(&self, text: &str) -> String {
        self.fresh(text).1
    }

    /// What of `text`, which is final, is new.
    pub fn piece(&mut self, text: &str) -> String {
        let (all, fresh) = self.fresh(text);
        self.heard = all;
        fresh
    }

    /// Whether all that was told must have been heard again.
    pub fn is_over(&self) -> bool {
        let heard: Vec<String> = self.heard.iter().map(|word| plain(word)).collect();
        self.heard.len() > self.told.len() + FAR || overlap(&self.told, &heard) < heard.len()
    }

    fn fresh(&self, text: &str) -> (Vec<String>, String) {
        let all: Vec<String> = self.heard.iter().cloned().chain(words(text)).collect();
        let compared: Vec<String> = all.iter().take(MOST + FAR).map(|word| plain(word)).collect();
        let from = overlap(&self.told, &compared).max(self.heard.len());
        let fresh = all[from.min(all.len())..].join(" ");
        (all, fresh)
    }
}

/// The words of a text.
pub fn words(text: &str) -> impl Iterator<Item = String> {
    text.split_whitespace().map(str::to_owned)
}

/// A word as it is compared: recognisers differ in case and punctuation.
fn plain(word: &str) -> String {
    word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// How many words at the beginning of `heard` repeat the end of `told`: the best alignment of the two that begins with the first word
/// heard, and ends with the last one told or, where less has been heard so far, with the last one heard.
fn overlap(told: &[String], heard: &[String]) -> usize {
    // what was told before the audio that is heard again costs nothing to leave out
    let mut above: Vec<i32> = (0..=heard.len()).map(|at| GAP * i32::try_from(at).unwrap_or(i32::MAX / 4)).collect();
    let (mut best, mut repeated) = (0, 0);
    for word in told {
        let mut row = vec![0; heard.len() + 1];
        for (at, other) in heard.iter().enumerate() {
            let pair = above[at] + if word == other { SAME } else { OTHER };
            row[at + 1] = pair.max(above[at + 1] + GAP).max(row[at] + GAP);
        }
        above = row;
        if above[heard.len()] > best {
            (best, repeated) = (above[heard.len()], heard.len());
        }
    }
    for (at, score) in above.iter().enumerate() {
        if *score > best {
            (best, repeated) = (*score, at);
        }
    }
    repeated
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn echo(told: &str) -> Echo {
        Echo::new(&words(told).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn what_was_told_is_not_told_again() {
        for (told, heard, expected) in [
            ("I would like", "I would like to book", "to book"),
            ("I'd like to,", "id like to book a table", "book a table"),
            // heard otherwise the second time
            ("my number is five", "My number's five seven", "seven"),
            ("hello there", "hello there", ""),
            ("hello there", "hello", ""),
            // of what was told only the end is in the audio
            ("please call me on Thursday", "on Thursday at nine", "at nine"),
            // something else altogether
            ("yes", "what about tomorrow", "what about tomorrow"),
        ] {
            assert_eq!(echo(told).partial(heard), expected, "{told} / {heard}");
        }
    }

    #[test]
    fn pieces_follow_one_another() {
        let mut echo = echo("one two three");
        assert_eq!(echo.partial("one"), "");
        assert_eq!(echo.piece(" one two"), "");
        assert!(!echo.is_over());
        assert_eq!(echo.partial("three four"), "four");
        assert_eq!(echo.piece(" three four"), "four");
        assert!(echo.is_over());
        // said once more, by the caller
        assert_eq!(echo.piece(" one two three"), "one two three");
    }

    #[test]
    fn without_words_there_is_nothing_to_compare() {
        assert!(Echo::new(&["—".to_owned()]).is_none());
        assert!(Echo::new(&[]).is_none());
    }

    proptest! {
        #[test]
        fn words_that_were_cut_anywhere_come_once(
            said in prop::collection::btree_set("[a-z]{3,8}", 2..30), cut in 0usize..30, pieces in 1usize..5,
        ) {
            let said: Vec<String> = said.into_iter().collect();
            let cut = 1 + cut % (said.len() - 1);
            let mut echo = Echo::new(&said[..cut]).unwrap();
            let mut all = said[..cut].to_vec();
            for piece in said.chunks(said.len().div_ceil(pieces)) {
                all.extend(words(&echo.piece(&piece.join(" "))));
            }
            prop_assert_eq!(all, said);
        }

        #[test]
        fn any_text_is_taken(told in prop::collection::vec("\\PC{0,9}", 0..9), heard in prop::collection::vec("\\PC{0,40}", 0..5)) {
            if let Some(mut echo) = Echo::new(&told) {
                for text in heard {
                    let _ = (echo.partial(&text), echo.piece(&text), echo.is_over());
                }
            }
        }
    }
}
