//! Pieces of recognised text, joined to utterances.

/// The token of an endpoint that some services pass through.
const END: &str = "<end>";
/// An utterance longer than this, in bytes, is taken as it is.
const MAX_UTTERANCE: usize = 8_000;
/// What a connector writes in place of a transcript when it has none.
const SENTINELS: [&str; 2] = ["[VAD Service: Error during transcription process]", "[No transcription]"];

/// Joins pieces verbatim. Whoever uses it flushes after the debounce.
#[derive(Debug, Default)]
pub struct Joiner {
    text: String,
    saw_end: bool,
}

impl Joiner {
    /// Adds a piece; returns the utterances that `<end>` completes.
    pub fn push(&mut self, piece: &str) -> Vec<String> {
        self.text.push_str(piece);
        let mut done = Vec::new();
        while let Some(at) = self.text.find(END) {
            self.saw_end = true;
            let rest = self.text.split_off(at + END.len());
            self.text.truncate(at);
            done.extend(self.flush());
            self.text = rest;
        }
        if self.text.len() > MAX_UTTERANCE {
            done.extend(self.flush());
        }
        done
    }

    /// Takes what there is as one utterance; `None` when there are no words in it.
    pub fn flush(&mut self) -> Option<String> {
        words(&std::mem::take(&mut self.text))
    }

    /// What there is so far, as an utterance.
    pub fn peek(&self) -> Option<String> {
        words(&self.text)
    }

    /// Whether anything waits for the debounce.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether this service marks the end of an utterance.
    pub const fn saw_end(&self) -> bool {
        self.saw_end
    }
}

fn words(text: &str) -> Option<String> {
    let mut text = std::borrow::Cow::Borrowed(text);
    for sentinel in SENTINELS {
        if text.contains(sentinel) {
            tracing::warn!(code = "agent.stt.no_text", "speech recognition could not transcribe a segment: {sentinel}");
            text = text.replace(sentinel, "").into();
        }
    }
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// What a fuzzer calls: the utterances in `pieces` of text, and the most bytes that ever waited for more.
#[doc(hidden)]
#[must_use]
pub fn fuzz(pieces: &[&str]) -> (Vec<String>, usize) {
    let (mut joiner, mut found, mut most) = (Joiner::default(), Vec::new(), 0);
    for piece in pieces {
        found.extend(joiner.push(piece));
        most = most.max(joiner.text.len());
    }
    found.extend(joiner.flush());
    (found, most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fragments_are_joined_verbatim_and_end_flushes() {
        let mut joiner = Joiner::default();
        assert!(joiner.push("Hello").is_empty());
        assert_eq!(joiner.push(" wor"), [""; 0]);
        assert_eq!(joiner.push("ld<e"), [""; 0]);
        assert_eq!(joiner.push("nd> Next"), ["Hello world"]);
        assert!(joiner.saw_end());
        assert_eq!(joiner.flush().as_deref(), Some("Next"));
        assert_eq!(joiner.flush(), None);
    }

    #[test]
    fn sentinels_and_blanks_are_no_words() {
        let mut joiner = Joiner::default();
        assert!(joiner.push("[VAD Service: Error during transcription process]\n").is_empty());
        assert_eq!(joiner.flush(), None);
        joiner.push("[No transcription]\n");
        joiner.push(" yes\n");
        assert_eq!(joiner.flush().as_deref(), Some("yes"));
        assert!(joiner.push(" \n<end>").is_empty());
    }

    proptest! {
        #[test]
        fn stays_bounded(pieces in prop::collection::vec("\\PC{0,3000}", 0..20)) {
            let mut joiner = Joiner::default();
            for piece in pieces {
                joiner.push(&piece);
                prop_assert!(joiner.text.len() <= MAX_UTTERANCE);
            }
        }
    }
}
