//! Voices that stand in for one another: where one stops in a sentence, another goes on.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{CODES, Chunk, Speech, Voice, Word};
use crate::{
    agent::{
        Chain, Context,
        failover::{InUse, Row, Tried},
        health::{Failure, Health},
        retry::fault,
        service::Kind,
    },
    audio::Rate,
};

/// How long a character takes to be spoken, until a voice has shown it.
const CHARACTER: Duration = Duration::from_millis(65);
/// Sentences shorter than this, in characters, show nothing.
const TELLING: usize = 20;

/// The voices of a call.
#[derive(Debug)]
pub struct Tts {
    row: Row,
    /// Each is made when it is first needed.
    voices: Vec<OnceLock<(Voice, InUse)>>,
    rate: Rate,
    /// How long a character took in the last whole sentence, in µs.
    pace: AtomicU64,
}

/// A sentence as it is being synthesised, by whichever voice works. Dropping it cancels the request.
#[derive(Debug)]
pub struct Sentence<'a> {
    tts: &'a Tts,
    at: usize,
    tried: Tried,
    speech: Option<Speech>,
    /// What the voice at `at` was asked to speak: all of the sentence, or what was left of it.
    text: String,
    /// Samples that it has sent, and those before it.
    samples: usize,
    before: usize,
    /// Words of `text` that it has told the times of.
    words: Vec<Word>,
    /// One that answered with silence: there may be nothing to be heard in the text.
    suspect: Option<usize>,
}

impl Tts {
    /// The services, of which the first is made ready.
    pub fn new(ctx: &Context, chain: &Chain, health: &Health) -> Result<Self, Failure> {
        let row = Row::new(ctx, chain, Kind::Tts, health);
        let voices = row.seats().iter().map(|_| OnceLock::new()).collect();
        let pace = u64::try_from(CHARACTER.as_micros()).unwrap_or_default();
        let all = Self { row, voices, rate: ctx.rate, pace: pace.into() };
        // not as one that tries it out: nothing is asked yet
        match all.row.likely().map(|at| all.voice(at)) {
            Some(Err(failure)) if all.row.count() == 1 => Err(failure),
            // what is wrong with one of several will be told when it is asked
            _ => Ok(all),
        }
    }

    /// Begins to speak `text`, which must not be blank.
    pub async fn speak(&self, text: &str) -> Result<Sentence<'_>, Failure> {
        let mut tried = self.row.untried();
        let Some(at) = self.row.next(&mut tried) else {
            return Err(Failure::Final(fault("agent.tts.config", CODES.name, "there is none")));
        };
        let mut sentence = Sentence {
            tts: self,
            at,
            tried,
            speech: None,
            text: text.to_owned(),
            samples: 0,
            before: 0,
            words: Vec::new(),
            suspect: None,
        };
        if let Err(failure) = sentence.begin().await {
            sentence.take_over(failure).await?;
        }
        Ok(sentence)
    }

    fn voice(&self, at: usize) -> Result<&Voice, Failure> {
        let cell = &self.voices[at];
        if let Some((voice, _)) = cell.get() {
            return Ok(voice);
        }
        let seat = self.row.seat(at);
        let voice = Voice::new(seat.ctx.clone(), seat.service.clone(), seat.health.clone())?;
        Ok(&cell.get_or_init(|| (voice, seat.take())).0)
    }

    /// Learns how fast the voices of this call speak.
    fn spoke(&self, text: &str, samples: usize) {
        let characters = text.chars().count();
        if characters >= TELLING {
            let took = self.rate.duration_of(samples).as_micros() / characters as u128;
            self.pace.store(u64::try_from(took).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

impl Sentence<'_> {
    /// More; `None` at the end. What is not asked for stays unread.
    pub async fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        loop {
            let Some(speech) = &mut self.speech else { return Ok(None) };
            let failure = match speech.next().await {
                Ok(Some(Chunk::Samples(samples))) => {
                    self.came(samples.len());
                    return Ok(Some(Chunk::Samples(samples)));
                }
                Ok(Some(Chunk::Words(words))) => return Ok(Some(Chunk::Words(self.told(words)))),
                Ok(None) if self.samples > 0 => {
                    self.tts.spoke(&self.text, self.samples);
                    self.tts.row.worked(self.at);
                    self.speech = None;
                    return Ok(None);
                }
                Ok(None) => {
                    if !self.silent().await {
                        return Ok(None);
                    }
                    continue;
                }
                Err(failure) => failure,
            };
            self.take_over(failure).await?;
        }
    }

    fn came(&mut self, samples: usize) {
        if let Some(suspect) = self.suspect.take() {
            let what = "it answered a sentence with no audio, for which another had some";
            self.tts.row.failed(suspect, &fault("agent.tts.silent", CODES.name, what), Some(self.at));
        }
        self.samples += samples;
    }

    /// Words of the whole sentence's audio.
    fn told(&mut self, words: Vec<Word>) -> Vec<Word> {
        let before = self.tts.rate.duration_of(self.before);
        self.words.extend(words.iter().cloned());
        words.into_iter().map(|word| Word { end: word.end + before, ..word }).collect()
    }

    async fn begin(&mut self) -> Result<(), Failure> {
        let tts = self.tts;
        let voice = tts.voice(self.at)?;
        self.speech = Some(voice.speak(&self.text).await?);
        Ok(())
    }

    /// The voice has said nothing: whether another is worth a try.
    async fn silent(&mut self) -> bool {
        self.speech = None;
        if self.suspect.is_some() || !self.tts.row.has_spare(&self.tried) {
            return false;
        }
        let Some(next) = self.tts.row.next(&mut self.tried) else { return false };
        self.suspect = Some(self.at);
        self.at = next;
        // if it fails there is silence still
        self.begin().await.is_ok()
    }

    /// Another voice speaks what is left.
    async fn take_over(&mut self, mut failure: Failure) -> Result<(), Failure> {
        let mut once = None;
        loop {
            let next = self.tts.row.next(&mut self.tried);
            self.tts.row.failed(self.at, failure.fault(), next);
            let Some(next) = next else {
                self.speech = None;
                // as long as one of them may do better the next time, the call goes on
                return Err(once.map_or(failure, Failure::Once));
            };
            if let Failure::Once(fault) = failure {
                once = Some(fault);
            }
            self.at = next;
            self.text = self.left();
            self.before += std::mem::take(&mut self.samples);
            self.words.clear();
            if self.text.is_empty() {
                self.speech = None;
                return Ok(());
            }
            match self.begin().await {
                Ok(()) => return Ok(()),
                Err(other) => failure = other,
            }
        }
    }

    /// What of the text has not been spoken: from the last word that was cut.
    fn left(&self) -> String {
        let spoken = self.tts.rate.duration_of(self.samples);
        match self.words.is_empty() {
            _ if self.samples == 0 => self.text.clone(),
            true => {
                let pace = Duration::from_micros(self.tts.pace.load(Ordering::Relaxed)).max(Duration::from_millis(1));
                let characters = (spoken.as_secs_f64() / pace.as_secs_f64()) as usize;
                behind(&self.text, characters).to_owned()
            }
            false => {
                let spoken: Vec<_> = self.words.iter().filter(|word| word.end <= spoken).collect();
                behind_words(&self.text, &spoken).to_owned()
            }
        }
    }
}

/// What is left of a text after so many characters, from the beginning of the word that they end in.
fn behind(text: &str, characters: usize) -> &str {
    let end = text.char_indices().nth(characters).map_or(text.len(), |(at, _)| at);
    let at = text[..end].rfind(char::is_whitespace).unwrap_or(0);
    text[at..].trim_start()
}

/// What is left of a text after these words; from where the last of them that is written in it ends.
fn behind_words<'a>(text: &'a str, words: &[&Word]) -> &'a str {
    let mut end = 0;
    for word in words.iter().map(|word| word.text.trim()).filter(|word| !word.is_empty()) {
        end += text[end..].find(word).map_or(0, |at| at + word.len());
    }
    text[end..].trim_start_matches(|c: char| c.is_ascii_punctuation() || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sentence_goes_on_at_the_word_that_was_cut() {
        let text = "Your appointment is on Thursday at nine.";
        for (characters, expected) in [
            (0, text),
            (3, text),
            (8, "appointment is on Thursday at nine."),
            (25, "Thursday at nine."),
            (38, "nine."),
            // the end of a sentence is told again rather than left out
            (400, "nine."),
        ] {
            assert_eq!(behind(text, characters), expected, "{characters}");
        }
        let word = |text: &str| Word { text: text.to_owned(), end: Duration::ZERO };
        let told = [word("Your"), word("appointment"), word("is")];
        let of = |n: usize| told[..n].iter().collect::<Vec<_>>();
        assert_eq!(behind_words(text, &of(3)), "on Thursday at nine.");
        assert_eq!(behind_words(text, &of(0)), text);
        assert_eq!(behind_words("Yes, nine.", &[&word("Yes")]), "nine.");
        // spoken otherwise than written
        assert_eq!(behind_words("At 10 then.", &[&word("At"), &word("ten")]), "10 then.");
    }

    proptest! {
        #[test]
        fn what_is_left_is_an_end_of_the_text(text in "\\PC{0,60}", characters in 0usize..100, word in "\\PC{0,4}") {
            prop_assert!(text.ends_with(behind(&text, characters)));
            let word = Word { text: word, end: Duration::ZERO };
            prop_assert!(text.ends_with(behind_words(&text, &[&word])));
        }
    }
}
