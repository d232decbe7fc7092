//! What the caller has said and no text has come for: another recogniser hears it again.

use std::collections::VecDeque;

use tokio::time::{Duration, Instant};

use super::echo::{Echo, words};
use crate::audio::Frame;

/// What is kept at most, in frames (30 s).
const MOST: usize = 1_500;
/// The same while nobody speaks, as far as is known (2 s): a voice may be too faint for us.
const QUIET: usize = 100;
/// What is kept of the audio before words that were all (400 ms).
const KEPT_AT_TEXT: usize = 20;
/// Speech for which no text has come so long after its end was none.
const FORGOTTEN: Duration = Duration::from_secs(5);

/// The caller's newest audio.
#[derive(Debug)]
pub struct Kept {
    frames: VecDeque<Frame>,
    /// Nothing is kept where nobody could hear it.
    is_kept: bool,
    /// The final words of the utterance whose beginning is kept.
    told: Vec<String>,
    /// Everything that was said has become words.
    is_settled: bool,
    speaks: bool,
    /// The newest words of the utterance will not change.
    is_final: bool,
    /// When the caller last stopped speaking.
    stopped: Option<Instant>,
}

impl Kept {
    /// Nothing yet; `is_kept`: whether anything ever will be.
    pub const fn new(is_kept: bool) -> Self {
        Self {
            frames: VecDeque::new(),
            is_kept,
            told: Vec::new(),
            is_settled: true,
            speaks: false,
            is_final: false,
            stopped: None,
        }
    }

    /// What is to be heard again.
    pub const fn frames(&self) -> &VecDeque<Frame> {
        &self.frames
    }

    /// What would be told twice then.
    pub fn echo(&self) -> Option<Echo> {
        Echo::new(&self.told)
    }

    /// Whether the caller speaks.
    pub const fn speaks(&self) -> bool {
        self.speaks
    }

    /// Whether the caller has said something that has not all become words.
    pub const fn is_unsettled(&self) -> bool {
        !self.is_settled
    }

    /// Whether words must still come: none have, or they may change.
    pub const fn is_awaited(&self) -> bool {
        !self.is_settled && !self.is_final
    }

    /// The caller's next 20 ms.
    pub fn frame(&mut self, frame: &Frame) {
        if self.is_kept {
            self.frames.push_back(frame.clone());
            self.trim(if self.is_settled && !self.speaks { QUIET } else { MOST });
        }
    }

    /// The caller begins to speak.
    pub fn started(&mut self) {
        let forgotten = !self.speaks && self.stopped.is_some_and(|at| at.elapsed() >= FORGOTTEN);
        if self.is_settled || forgotten {
            self.trim(QUIET);
            self.told.clear();
            self.is_final = false;
        }
        (self.speaks, self.is_settled) = (true, false);
    }

    /// The caller has stopped speaking.
    pub fn stopped(&mut self) {
        self.speaks = false;
        self.stopped = Some(Instant::now());
    }

    /// Words that may change.
    pub fn partial(&mut self, text: &str) {
        let is_blank = text.trim().is_empty();
        self.is_settled &= is_blank;
        self.is_final &= is_blank;
    }

    /// Words that will not change.
    pub fn piece(&mut self, text: &str) {
        self.is_final = true;
        if self.speaks {
            if self.is_kept {
                self.told.extend(words(text));
            }
        } else {
            self.settled();
        }
    }

    /// All that was said has become words.
    pub fn settled(&mut self) {
        if !self.speaks {
            self.is_settled = true;
            self.told.clear();
            self.trim(KEPT_AT_TEXT);
        }
    }

    fn trim(&mut self, most: usize) {
        self.frames.drain(..self.frames.len().saturating_sub(most));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::Rate;

    fn hear(kept: &mut Kept, frames: usize) {
        (0..frames).for_each(|_| kept.frame(&Frame::silence(Rate::R8K)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_utterance_is_kept_from_its_beginning_until_its_words_have_come() {
        let mut kept = Kept::new(true);
        hear(&mut kept, 1_000);
        assert_eq!(kept.frames().len(), QUIET);
        kept.started();
        hear(&mut kept, 300);
        kept.piece(" I would");
        hear(&mut kept, 300);
        assert_eq!(kept.frames().len(), QUIET + 600);
        assert_eq!(kept.echo().map(|echo| echo.partial("I would like")), Some("like".to_owned()));
        kept.stopped();
        assert!(kept.is_unsettled());
        kept.piece(" like that");
        assert!(!kept.is_unsettled() && kept.echo().is_none());
        assert_eq!(kept.frames().len(), KEPT_AT_TEXT);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded_whatever_comes() {
        let mut kept = Kept::new(true);
        kept.started();
        hear(&mut kept, 10_000);
        assert_eq!(kept.frames().len(), MOST);
        kept.stopped();
        // noise: nothing ever comes for it
        tokio::time::advance(FORGOTTEN).await;
        kept.started();
        assert_eq!(kept.frames().len(), QUIET);
        let mut nobody = Kept::new(false);
        nobody.started();
        hear(&mut nobody, 10);
        assert!(nobody.frames().is_empty());
    }

    #[test]
    fn a_faint_voice_is_kept_too() {
        let mut kept = Kept::new(true);
        hear(&mut kept, 50);
        kept.partial("hel");
        hear(&mut kept, 500);
        assert_eq!(kept.frames().len(), 550);
        kept.piece(" hello");
        assert_eq!(kept.frames().len(), KEPT_AT_TEXT);
    }
}
