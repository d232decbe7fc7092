//! The text of a language model, cut into what can be spoken at a time.

/// Longest sentence, in characters: beyond it a sentence is cut at a pause, so that text without an end is spoken too.
pub const MAX_SENTENCE: usize = 300;
/// A `【` that finds no `】` within this many characters was no citation mark.
const MAX_CITATION: usize = 120;

/// Stops after which no blank is needed.
const WIDE_STOPS: &[char] = &['。', '！', '？', '．', '｡', '।', '॥', '؟', '۔', '።', '។', '။', '։', '⁇', '⁈', '⁉'];
/// Stops that end a sentence only before a blank or at the end.
const STOPS: &[char] = &['.', '!', '?', '…'];
/// What still belongs to the sentence after its stop.
const CLOSERS: &[char] = &['"', '\'', '”', '’', '»', '›', ')', ']', '」', '』', '）'];
/// Where a sentence that is too long is best cut.
const PAUSES: &[char] = &[',', ';', ':', '、', '，', '；', '：', '،'];
/// Words whose dot ends no sentence, in lower case.
const ABBREVIATIONS: &[&str] = &[
    "mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "approx", "dept", "fig", "mt", "capt", "lt", "gen", "hon",
    "rev", "sen", "messrs", "mme", "mlle", "sig", "dott", "sra", "srta", "bzw", "ca", "hr", "fr", "tel", "str", "evtl",
    "ggf", "inkl", "usw", "zzgl",
];
/// Words whose dot ends no sentence where a number follows, in lower case.
const BEFORE_NUMBERS: &[&str] = &["no", "nr", "vol", "p", "pp", "art", "sec", "ext", "num", "núm"];

/// Takes `【…】` citation marks out of text that arrives in pieces.
#[derive(Debug, Default)]
pub struct Citations {
    /// The mark that has begun, with its bracket.
    held: String,
}

impl Citations {
    /// `text` without marks; a mark that has begun is held back.
    pub fn push(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            if c == '【' {
                out.push_str(&std::mem::take(&mut self.held));
                self.held.push(c);
            } else if self.held.is_empty() {
                out.push(c);
            } else if c == '】' {
                self.held.clear();
            } else {
                self.held.push(c);
                if self.held.chars().nth(MAX_CITATION).is_some() {
                    out.push_str(&std::mem::take(&mut self.held));
                }
            }
        }
        out
    }

    /// What was held back and is no mark after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Cuts text that arrives in pieces into sentences.
#[derive(Debug, Default)]
pub struct Sentences {
    buffer: String,
}

impl Sentences {
    /// Adds `text` and takes out every sentence that is complete, fit to be spoken.
    pub fn push(&mut self, text: &str) -> Vec<String> {
        self.buffer.push_str(text);
        let (mut found, mut from) = (Vec::new(), 0);
        while let Some(len) = boundary(&self.buffer[from..]) {
            found.extend(spoken(&self.buffer[from..from + len]));
            from += len;
        }
        self.buffer.drain(..from);
        found
    }

    /// The rest: no more text will come.
    pub fn finish(&mut self) -> Option<String> {
        spoken(&std::mem::take(&mut self.buffer))
    }
}

/// Bytes of the first sentence of `text`; `None` when its end cannot be told yet.
fn boundary(text: &str) -> Option<usize> {
    // No decision looks beyond the longest sentence: neither dots nor blanks without end let the text pile up, and it does not matter in
    // which pieces it came.
    let limit = text.char_indices().nth(MAX_SENTENCE).map(|(at, _)| at);
    let text = &text[..limit.unwrap_or(text.len())];
    stop(text).map_or_else(|| limit.map(|_| cut(text)), Some)
}

/// Bytes up to the first stop that ends a sentence; `None` when there is none, or when that cannot be told before more text comes.
fn stop(text: &str) -> Option<usize> {
    let mut skip_to = 0;
    for (at, c) in text.char_indices() {
        let after = at + c.len_utf8();
        if at < skip_to {
            continue;
        }
        if WIDE_STOPS.contains(&c) || (c == '\n' && !text[..at].trim().is_empty()) {
            return Some(after);
        }
        if STOPS.contains(&c) {
            let run = text[after..].trim_start_matches(|c| STOPS.contains(&c) || CLOSERS.contains(&c));
            let end = text.len() - run.len();
            if ends(&text[..at], c, end == after, run)? {
                return Some(end);
            }
            skip_to = end;
        }
    }
    None
}

/// Whether the stop between `before` and `rest` ends a sentence; `None` when that cannot be told before more text comes.
fn ends(before: &str, stop: char, single: bool, rest: &str) -> Option<bool> {
    if !rest.chars().next()?.is_whitespace() {
        return Some(false);
    }
    if matches!(stop, '!' | '?') {
        return Some(true);
    }
    let next = rest.trim_start().chars().next()?;
    if next.is_lowercase() {
        return Some(false);
    }
    Some(!(single && stop == '.' && is_abbreviation(before, next)))
}

fn is_abbreviation(before: &str, next: char) -> bool {
    let start =
        before.rfind(char::is_whitespace).map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
    let word = before[start..].trim_start_matches(|c: char| !c.is_alphanumeric());
    let mut chars = word.chars();
    match (chars.next(), chars.next()) {
        // an initial; "I." is more often the end of a sentence
        (Some(c), None) if c.is_uppercase() && c != 'I' => return true,
        (None, _) => return false,
        _ => {}
    }
    // "1. First": an item of a list
    if word.chars().all(|c| c.is_ascii_digit()) {
        return before[..start].trim().is_empty();
    }
    // "z.B", "e.g", "U.S"
    if word.contains('.')
        && word.split('.').all(|part| part.chars().count() == 1 && part.chars().all(char::is_alphabetic))
    {
        return true;
    }
    let word = word.to_lowercase();
    ABBREVIATIONS.contains(&word.as_str()) || (next.is_ascii_digit() && BEFORE_NUMBERS.contains(&word.as_str()))
}

/// Where to cut `text`, which is too long: after its last pause, else its last blank, unless that leaves next to nothing.
fn cut(text: &str) -> usize {
    let after = |found: Option<(usize, &str)>| found.map(|(at, c)| at + c.len()).filter(|&end| end > text.len() / 4);
    after(text.rmatch_indices(PAUSES).next())
        .or_else(|| after(text.rmatch_indices(char::is_whitespace).next()))
        .unwrap_or(text.len())
}

/// `sentence` without mark-up and control characters; `None` when nothing in it can be pronounced.
fn spoken(sentence: &str) -> Option<String> {
    let bare = sentence.trim().trim_start_matches(['#', '>']).trim_start();
    let bare = bare.strip_prefix("- ").unwrap_or(bare);
    let mut text = String::with_capacity(bare.len());
    for c in bare.chars().filter(|c| !matches!(c, '*' | '`' | '\u{fffd}' | '\u{feff}')) {
        let c = if c.is_control() { ' ' } else { c };
        if !(c == ' ' && text.ends_with(' ')) {
            text.push(c);
        }
    }
    let text = text.trim();
    text.chars().any(char::is_alphanumeric).then(|| text.to_owned())
}

/// What a fuzzer calls: the sentences in `pieces` of text, and the most bytes that ever waited for more.
#[doc(hidden)]
#[must_use]
pub fn fuzz(pieces: &[&str]) -> (Vec<String>, usize) {
    let (mut citations, mut splitter, mut found, mut most) =
        (Citations::default(), Sentences::default(), Vec::new(), 0);
    for piece in pieces {
        found.extend(splitter.push(&citations.push(piece)));
        most = most.max(citations.held.len() + splitter.buffer.len());
    }
    found.extend(splitter.push(&citations.finish()));
    found.extend(splitter.finish());
    (found, most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sentences(text: &str) -> Vec<String> {
        let mut splitter = Sentences::default();
        let mut found = splitter.push(text);
        found.extend(splitter.finish());
        found
    }

    #[test]
    fn ordinary_sentences() {
        assert_eq!(
            sentences("Hello there! How are you? I am fine. Bye"),
            ["Hello there!", "How are you?", "I am fine.", "Bye"]
        );
        assert_eq!(sentences("She said \"Stop.\" Then she left."), ["She said \"Stop.\"", "Then she left."]);
        assert_eq!(sentences("Wait... what? Really?!"), ["Wait... what?", "Really?!"]);
        assert_eq!(sentences("One\nTwo\n\nThree"), ["One", "Two", "Three"]);
    }

    #[test]
    fn dots_that_end_nothing() {
        for text in [
            "It is 3.14 or 1.000,50 today.",
            "Dr. Smith met Mr. J. R. Jones.",
            "Use e.g. Rust, or z.B. Python.",
            "Room No. 5 is free.",
            "See www.example.com for more.",
            "1. First do this.",
            "It takes approx. five minutes.",
        ] {
            assert_eq!(sentences(text), [text]);
        }
        assert_eq!(sentences("No. I do not. It costs 5. Yes."), ["No.", "I do not.", "It costs 5.", "Yes."]);
    }

    #[test]
    fn stops_of_other_scripts() {
        assert_eq!(sentences("你好。我很好！再见"), ["你好。", "我很好！", "再见"]);
        assert_eq!(sentences("नमस्ते।आप कैसे हैं? ठीक"), ["नमस्ते।", "आप कैसे हैं?", "ठीक"]);
        assert_eq!(sentences("كيف حالك؟ بخير"), ["كيف حالك؟", "بخير"]);
    }

    #[test]
    fn a_sentence_is_given_as_soon_as_its_end_is_sure() {
        let mut splitter = Sentences::default();
        assert!(splitter.push("It is 3.").is_empty());
        assert!(splitter.push("5 now.").is_empty());
        assert_eq!(splitter.push(" Then"), ["It is 3.5 now."]);
        assert_eq!(splitter.push("! "), ["Then!"]);
    }

    #[test]
    fn nothing_to_pronounce_is_not_spoken() {
        assert!(sentences(" \n ... — ** \u{1}\u{0} ?! 。 ").is_empty());
        assert_eq!(sentences("**Bold** and `code`\u{7}."), ["Bold and code ."]);
        assert_eq!(sentences("# Title\n- item"), ["Title", "item"]);
    }

    #[test]
    fn endless_text_is_cut_at_a_pause() {
        let text = "word ".repeat(1_000);
        let found = sentences(&text);
        assert!(
            found.iter().all(|s| s.chars().count() <= MAX_SENTENCE && !s.starts_with("ord") && s.ends_with("word"))
        );
        assert_eq!(found.join(" "), text.trim());
        assert!(sentences(&"x".repeat(10_000)).iter().all(|s| s.chars().count() <= MAX_SENTENCE));
        for endless in ["a.          ", ".", " ", "?!\"", ". "] {
            let mut splitter = Sentences::default();
            splitter.push("Well.");
            for _ in 0..1_000 {
                splitter.push(endless);
                assert!(splitter.buffer.len() <= MAX_SENTENCE, "{endless:?}");
            }
        }
    }

    #[test]
    fn citation_marks_vanish_over_pieces() {
        let mut citations = Citations::default();
        let text: String =
            ["Yes【4:0", "†sour", "ce】. No【", "】!"].iter().map(|piece| citations.push(piece)).collect();
        assert_eq!(text + &citations.finish(), "Yes. No!");
        let mut citations = Citations::default();
        let long = format!("【{}", "a".repeat(500));
        assert_eq!(citations.push(&long) + &citations.finish(), long);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_sentences(text in "[a-cA-C.!?…。 ,\n0-9\"【】é]{0,200}", step in 1usize..7) {
            let chars: Vec<char> = text.chars().collect();
            let (mut splitter, mut citations, mut found) = (Sentences::default(), Citations::default(), Vec::new());
            for piece in chars.chunks(step) {
                let piece: String = piece.iter().collect();
                found.extend(splitter.push(&citations.push(&piece)));
            }
            found.extend(splitter.push(&citations.finish()));
            found.extend(splitter.finish());
            let mut whole = Citations::default();
            let clean = whole.push(&text) + &whole.finish();
            prop_assert_eq!(found, sentences(&clean));
        }

        #[test]
        fn any_text_stays_bounded(pieces in prop::collection::vec("\\PC{0,400}", 0..10)) {
            let mut splitter = Sentences::default();
            for piece in pieces {
                for sentence in splitter.push(&piece) {
                    prop_assert!(sentence.chars().count() <= MAX_SENTENCE);
                    prop_assert!(!sentence.trim().is_empty());
                }
                prop_assert!(splitter.buffer.chars().count() <= MAX_SENTENCE);
            }
        }
    }
}
