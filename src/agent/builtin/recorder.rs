//! What the caller said, from speech edge to speech edge.

use std::{collections::VecDeque, ops::Range, time::Duration};

use crate::audio::{Frame, Rate, level::rms};

/// Kept from before the edge: it comes only after the caller has spoken for some 200 ms.
const PRE_ROLL: Duration = Duration::from_millis(400);
/// Longest utterance that is recorded; what follows is left out.
const LONGEST: Duration = Duration::from_secs(15);
/// What is shorter than this between its first and last sound is a click or a cough.
const SHORTEST: Duration = Duration::from_millis(200);
/// Kept around the sounds when silence is cut off.
const MARGIN: Duration = Duration::from_millis(60);
/// Sound is what comes within 30 dB of the loudest …
const RELATIVE: f32 = 0.03;
/// … and is not as quiet as the noise of an idle line (RMS).
const ABSOLUTE: f32 = 40.0;

/// Records utterances of the caller.
#[derive(Debug)]
pub struct Recorder {
    rate: Rate,
    pre_roll: VecDeque<i16>,
    take: Option<Vec<i16>>,
}

impl Recorder {
    /// A recorder of audio at `rate`.
    pub fn new(rate: Rate) -> Self {
        Self { rate, pre_roll: VecDeque::new(), take: None }
    }

    /// Takes 20 ms of the caller.
    pub fn audio(&mut self, frame: &Frame) {
        let samples = frame.samples();
        match &mut self.take {
            Some(take) => {
                let room = self.rate.samples_in(LONGEST).saturating_sub(take.len());
                take.extend_from_slice(&samples[..samples.len().min(room)]);
            }
            None => {
                self.pre_roll.extend(samples);
                let surplus = self.pre_roll.len().saturating_sub(self.rate.samples_in(PRE_ROLL));
                self.pre_roll.drain(..surplus);
            }
        }
    }

    /// The caller has begun to speak.
    pub fn start(&mut self) {
        if self.take.is_none() {
            self.take = Some(self.pre_roll.drain(..).collect());
        }
    }

    /// The caller has stopped: what they said, if it was long enough to be speech.
    pub fn stop(&mut self) -> Option<Vec<i16>> {
        let mut take = self.take.take()?;
        let sound = sound(&take, self.rate)?;
        if self.rate.duration_of(sound.len()) < SHORTEST {
            return None;
        }
        let kept = with_margin(sound, take.len(), self.rate);
        take.truncate(kept.end);
        take.drain(..kept.start);
        Some(take)
    }
}

/// `samples` without the silence at both ends.
pub fn trimmed(samples: &[i16], rate: Rate) -> &[i16] {
    sound(samples, rate).map_or(&[], |sound| &samples[with_margin(sound, samples.len(), rate)])
}

/// From the first sound to the last, to 20 ms.
fn sound(samples: &[i16], rate: Rate) -> Option<Range<usize>> {
    let len = rate.frame_samples();
    let levels: Vec<f32> = samples.chunks(len).map(rms).collect();
    let loudest = levels.iter().copied().fold(0.0, f32::max);
    if loudest < ABSOLUTE {
        return None;
    }
    let is_sound = |level: &f32| *level >= (loudest * RELATIVE).max(ABSOLUTE);
    let first = levels.iter().position(is_sound)?;
    let last = levels.iter().rposition(is_sound)?;
    Some(first * len..((last + 1) * len).min(samples.len()))
}

fn with_margin(sound: Range<usize>, len: usize, rate: Rate) -> Range<usize> {
    let margin = rate.samples_in(MARGIN);
    sound.start.saturating_sub(margin)..(sound.end + margin).min(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate::R8K;

    fn tone(millis: u64, amplitude: f64) -> Vec<i16> {
        let len = RATE.samples_in(Duration::from_millis(millis));
        (0..len).map(|n| (amplitude * (n as f64 * 0.5).sin()) as i16).collect()
    }

    fn hear(recorder: &mut Recorder, samples: &[i16]) {
        for chunk in samples.chunks(RATE.frame_samples()) {
            recorder.audio(&Frame::padded(RATE, chunk));
        }
    }

    fn ms(samples: &[i16]) -> u128 {
        RATE.duration_of(samples.len()).as_millis()
    }

    #[test]
    fn an_utterance_is_whole_and_without_silence_around() {
        let mut recorder = Recorder::new(RATE);
        hear(&mut recorder, &tone(2000, 0.0));
        let speech = tone(1000, 5000.0);
        // the edge comes 240 ms into the speech, the other one 500 ms after it
        hear(&mut recorder, &speech[..1920]);
        recorder.start();
        hear(&mut recorder, &speech[1920..]);
        hear(&mut recorder, &tone(500, 0.0));
        let take = recorder.stop().unwrap_or_default();
        assert_eq!(ms(&take), 60 + 1000 + 60);
        assert_eq!(take[480..480 + speech.len()], speech);
        assert_eq!(recorder.stop(), None);
    }

    #[test]
    fn clicks_and_silence_are_dropped() {
        let mut recorder = Recorder::new(RATE);
        recorder.start();
        hear(&mut recorder, &tone(160, 9000.0));
        hear(&mut recorder, &tone(500, 0.0));
        assert_eq!(recorder.stop(), None);
        recorder.start();
        hear(&mut recorder, &tone(2000, 20.0));
        assert_eq!(recorder.stop(), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut recorder = Recorder::new(RATE);
        hear(&mut recorder, &tone(5_000, 3000.0));
        assert_eq!(recorder.pre_roll.len(), RATE.samples_in(PRE_ROLL));
        recorder.start();
        hear(&mut recorder, &tone(20_000, 3000.0));
        assert_eq!(recorder.stop().map(|take| take.len()), Some(RATE.samples_in(LONGEST)));
    }

    #[test]
    fn a_second_utterance_holds_nothing_of_the_first() {
        let mut recorder = Recorder::new(RATE);
        recorder.start();
        hear(&mut recorder, &tone(600, 8000.0));
        assert!(recorder.stop().is_some());
        hear(&mut recorder, &tone(60, 0.0));
        recorder.start();
        hear(&mut recorder, &tone(400, 4000.0));
        assert_eq!(recorder.stop().map(|take| ms(&take)), Some(60 + 400));
    }
}
