//! The caller's audio cut into utterances, for recognisers of whole ones: our voice activity says where one begins and ends.

use std::collections::VecDeque;

use super::{CODES, Ends};
use crate::{
    agent::retry::fault,
    audio::{Frame, resample::Resampler},
};

/// What these models listen to.
pub const RATE: u32 = 16_000;
/// Frames before the voice was noticed (600 ms).
pub const BEFORE: usize = 30;
/// Frames of the longest utterance (30 s): models take no more at once.
pub const LONGEST: usize = 1_500;
/// Frames of the shortest (200 ms, besides those before).
const SHORTEST: usize = 10;
/// Utterances that wait for the one before.
pub const WAITING: usize = 4;

/// What the caller says, utterance by utterance.
#[derive(Debug, Default)]
pub struct Utterances {
    /// The newest audio while nobody speaks, or all of the utterance.
    audio: VecDeque<Frame>,
    speaks: bool,
    waiting: VecDeque<Vec<Frame>>,
}

impl Utterances {
    /// The caller begins to speak.
    pub const fn start(&mut self) {
        self.speaks = true;
    }

    /// Whether the caller speaks.
    pub const fn speaks(&self) -> bool {
        self.speaks
    }

    /// A frame of the caller's. Whether an utterance had become too long and another begins with it.
    pub fn hear(&mut self, frame: Frame, ends: &Ends) -> bool {
        self.audio.push_back(frame);
        let is_long = self.speaks && self.audio.len() >= LONGEST;
        if is_long {
            self.cut(ends);
            self.speaks = true;
        } else if !self.speaks {
            self.audio.drain(..self.audio.len().saturating_sub(BEFORE));
        }
        if let Some(dropped) = ends.audio.take_dropped() {
            tracing::warn!(dropped, "{} takes audio again; the oldest frames were dropped meanwhile", CODES.name);
            ends.health.fine();
        }
        is_long
    }

    /// What has been said is an utterance.
    pub fn cut(&mut self, ends: &Ends) {
        if !std::mem::take(&mut self.speaks) || self.audio.len() < SHORTEST {
            return;
        }
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
            let what = "it is slower than the caller speaks; an utterance is left out";
            ends.health.trouble(fault("agent.stt.slow", CODES.name, what));
        }
        self.waiting.push_back(std::mem::take(&mut self.audio).into());
    }

    /// No more audio comes: what is there is an utterance.
    pub fn finish(&mut self, ends: &Ends) {
        while let Some(frame) = ends.audio.try_take() {
            self.hear(frame, ends);
        }
        self.cut(ends);
    }

    /// An utterance that is over.
    pub fn next(&mut self) -> Option<Vec<Frame>> {
        self.waiting.pop_front()
    }

    /// Frames of the utterance that is not over.
    pub fn so_far(&self) -> impl ExactSizeIterator<Item = &Frame> {
        self.audio.iter()
    }
}

/// `frames` as these models listen to them.
pub fn samples<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> Vec<i16> {
    let mut frames = frames.into_iter().peekable();
    let Some(from) = frames.peek().map(|frame| frame.rate()) else { return Vec::new() };
    let all = frames.flat_map(Frame::samples).copied();
    if from.hz() == RATE {
        return all.collect();
    }
    let (mut resampler, mut out) = (Resampler::new(from.hz(), RATE), Vec::new());
    resampler.process(&all.collect::<Vec<_>>(), &mut out);
    resampler.finish(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        agent::{
            cascade::Inbox,
            health::{self, Health},
        },
        audio::Rate,
    };

    fn ends() -> Ends {
        let health = Health::new(health::Service::Stt, mpsc::channel(4).0);
        Ends { audio: Arc::new(Inbox::new(10)), orders: mpsc::channel(4).1, heard: mpsc::channel(4).0, health }
    }

    #[test]
    fn an_utterance_has_what_came_before_the_voice_was_noticed() {
        let (mut utterances, ends) = (Utterances::default(), ends());
        let frame = || Frame::padded(Rate::R8K, &[500; 160]);
        (0..100).for_each(|_| assert!(!utterances.hear(frame(), &ends)));
        assert_eq!(utterances.so_far().len(), BEFORE);
        utterances.cut(&ends);
        assert!(utterances.next().is_none(), "nobody spoke");
        utterances.start();
        (0..50).for_each(|_| assert!(!utterances.hear(frame(), &ends)));
        utterances.cut(&ends);
        assert_eq!(utterances.next().map(|frames| frames.len()), Some(BEFORE + 50));
        assert!(!utterances.speaks() && utterances.so_far().len() == 0);
    }

    #[test]
    fn who_speaks_for_minutes_is_cut_and_waiting_is_bounded() {
        let (mut utterances, ends) = (Utterances::default(), ends());
        utterances.start();
        let cuts = (0..LONGEST * 10).filter(|_| utterances.hear(Frame::silence(Rate::R8K), &ends)).count();
        assert!(utterances.speaks() && cuts == 10);
        let waiting: Vec<usize> = std::iter::from_fn(|| utterances.next()).map(|frames| frames.len()).collect();
        assert_eq!(waiting, [LONGEST; WAITING]);
    }

    #[test]
    fn models_hear_their_own_rate() {
        let narrow = vec![Frame::silence(Rate::R8K); 50];
        assert!((15_900..=16_400).contains(&samples(&narrow).len()));
        let wide = vec![Frame::padded(Rate::R16K, &[7; 320]); 2];
        assert_eq!(samples(&wide), [7; 640]);
        assert!(samples(&[]).is_empty());
    }
}
