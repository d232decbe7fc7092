//! The caller's voice: onset, speech that lasts, a pause in it, its end; or a false alarm.

use crate::call::config;

/// One VAD result stands for this much audio, in ms.
pub const VOICE_MS: u64 = 32;
/// Results at the start of a call that are ignored: the model starts cold and takes noise for speech.
const COLD_RESULTS: u32 = 4;
/// A false alarm is over after this much silence, in ms, so that a click does not silence the agent for long.
const FALSE_ALARM_MS: u64 = 256;
/// Silence within speech that is worth knowing of, in ms: the turn may be about to end.
const PAUSE_MS: u64 = 192;

/// What the caller's voice asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Speech may have begun: the agent holds.
    Onset,
    /// Speech has lasted long enough: the agent is cut, the caller has the turn.
    Confirmed,
    /// The onset was a false alarm: the agent goes on.
    FalseAlarm,
    /// The caller pauses; they may go on.
    Paused,
    /// The caller has stopped.
    Stopped,
}

/// Follows the caller's voice, by hysteresis over VAD probabilities.
#[derive(Debug)]
pub struct Voice {
    config: config::Vad,
    state: State,
    results: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Silent,
    Speaking { speech_ms: u64, silence_ms: u64, confirmed: bool },
}

impl Voice {
    /// A caller who is silent.
    #[must_use]
    pub const fn new(config: config::Vad) -> Self {
        Self { config, state: State::Silent, results: 0 }
    }

    /// Forgets what was heard.
    pub const fn reset(&mut self) {
        self.state = State::Silent;
    }

    /// Whether the caller speaks, as far as is known.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(self.state, State::Speaking { .. })
    }

    /// Whether the last result was speech.
    #[must_use]
    pub const fn is_voiced(&self) -> bool {
        matches!(self.state, State::Speaking { silence_ms: 0, .. })
    }

    /// Takes the probability of the next 32 ms. Silence of `end_ms` ends speech.
    pub fn heard(&mut self, probability: f32, end_ms: u64) -> Option<Turn> {
        self.results = self.results.saturating_add(1);
        if self.results <= COLD_RESULTS {
            return None;
        }
        let is_speech = probability >= self.config.positive;
        let is_silence = probability < self.config.negative;
        match &mut self.state {
            State::Silent if is_speech => {
                let confirmed = VOICE_MS >= self.config.min_speech_ms;
                self.state = State::Speaking { speech_ms: VOICE_MS, silence_ms: 0, confirmed };
                Some(if confirmed { Turn::Confirmed } else { Turn::Onset })
            }
            State::Speaking { speech_ms, silence_ms, confirmed } if is_speech => {
                *speech_ms += VOICE_MS;
                *silence_ms = 0;
                if !*confirmed && *speech_ms >= self.config.min_speech_ms {
                    *confirmed = true;
                    return Some(Turn::Confirmed);
                }
                None
            }
            State::Speaking { silence_ms, confirmed, .. } if is_silence => {
                let before = *silence_ms;
                *silence_ms += VOICE_MS;
                let limit = if *confirmed { end_ms } else { end_ms.min(FALSE_ALARM_MS) };
                if *silence_ms < limit {
                    let pauses = *confirmed && before < PAUSE_MS && *silence_ms >= PAUSE_MS;
                    return pauses.then_some(Turn::Paused);
                }
                let turn = if *confirmed { Turn::Stopped } else { Turn::FalseAlarm };
                self.state = State::Silent;
                Some(turn)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(probabilities: &[(f32, usize)]) -> Vec<(usize, Turn)> {
        let mut voice = Voice::new(config::Vad::default());
        let flat = probabilities.iter().flat_map(|&(p, count)| std::iter::repeat_n(p, count));
        flat.enumerate().filter_map(|(index, p)| voice.heard(p, 512).map(|turn| (index, turn))).collect()
    }

    #[test]
    fn speech_is_an_onset_then_confirmed_then_stopped() {
        let edges = edges(&[(0.0, 10), (0.9, 30), (0.1, 20)]);
        assert_eq!(edges, [(10, Turn::Onset), (15, Turn::Confirmed), (45, Turn::Paused), (55, Turn::Stopped)]);
    }

    #[test]
    fn a_click_is_a_false_alarm() {
        assert_eq!(edges(&[(0.0, 10), (0.9, 2), (0.1, 20)]), [(10, Turn::Onset), (19, Turn::FalseAlarm)]);
    }

    #[test]
    fn the_space_between_the_thresholds_changes_nothing() {
        assert_eq!(edges(&[(0.0, 10), (0.4, 100)]), []);
        assert_eq!(edges(&[(0.0, 10), (0.9, 10), (0.4, 100)]), [(10, Turn::Onset), (15, Turn::Confirmed)]);
    }

    #[test]
    fn how_much_silence_ends_speech_is_the_callers_matter() {
        let mut voice = Voice::new(config::Vad::default());
        for _ in 0..20 {
            voice.heard(0.9, 512);
        }
        assert!(voice.is_active() && voice.is_voiced());
        let turns: Vec<_> = (0..8).filter_map(|_| voice.heard(0.0, 256)).collect();
        assert_eq!(turns, [Turn::Paused, Turn::Stopped]);
        assert!(!voice.is_active());
    }

    #[test]
    fn a_cold_model_is_not_believed() {
        assert_eq!(edges(&[(0.9, 3), (0.0, 10)]), []);
    }
}
