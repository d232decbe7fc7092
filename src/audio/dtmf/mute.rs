//! Taking tones out of what goes on to a service that is to hear words.

use super::Detector;
use crate::audio::{Frame, Rate, mix};
use serde::Deserialize;
use std::collections::VecDeque;
use std::time::Duration;

/// What is done about digits that come as tones in the audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InbandDtmf {
    /// Nothing.
    #[default]
    Off,
    /// They are found; from then on, about 35 ms after its beginning, the tone is muted.
    Detect,
    /// They are found and muted as a whole, for which everything the agent hears is delayed by 40 ms.
    Remove,
}

/// How long a cut fades.
const FADE: Duration = Duration::from_millis(5);
/// Frames that a tone may have begun before it is found: 35 ms.
const FRAMES_BEFORE: usize = 2;

/// Finds digits in frames and mutes them.
#[derive(Debug)]
pub struct Suppressor {
    detector: Detector,
    /// Frames that have not been passed on yet, oldest first.
    held: VecDeque<Frame>,
    muted: bool,
}

impl Suppressor {
    /// Finds digits in frames at `rate`; `None` where that is off.
    #[must_use]
    pub fn new(rate: Rate, mode: InbandDtmf) -> Option<Self> {
        let held = match mode {
            InbandDtmf::Off => return None,
            InbandDtmf::Detect => VecDeque::new(),
            InbandDtmf::Remove => (0..FRAMES_BEFORE).map(|_| Frame::silence(rate)).collect(),
        };
        Some(Self { detector: Detector::new(rate), held, muted: false })
    }

    /// Whether a digit sounds.
    #[must_use]
    pub const fn is_sounding(&self) -> bool {
        self.detector.is_sounding()
    }

    /// Takes a frame and leaves the one in its place that may be passed on; calls `found` with each digit.
    pub fn pass(&mut self, frame: &mut Frame, mut found: impl FnMut(char)) {
        let mut tone = self.detector.is_sounding();
        self.detector.push(frame.samples(), |key| {
            tone = true;
            found(key);
            self.held.iter_mut().for_each(|held| held.samples_mut().fill(0));
        });
        // where the whole tone goes, it is silence that is cut
        let fade = if self.held.is_empty() { frame.rate().samples_in(FADE) } else { 0 };
        match (tone, std::mem::replace(&mut self.muted, tone)) {
            (true, was_muted) => mix::fade_out(frame.samples_mut(), if was_muted { 0 } else { fade }),
            (false, true) => mix::fade_in(frame.samples_mut(), fade),
            (false, false) => {}
        }
        if !self.held.is_empty() {
            self.held.push_back(std::mem::replace(frame, Frame::silence(frame.rate())));
            if let Some(oldest) = self.held.pop_front() {
                *frame = oldest;
            }
        }
    }
}
