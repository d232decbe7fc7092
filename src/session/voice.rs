//! Hears whether the caller speaks, and knows the agent's own voice when it comes back by the line.

use crate::audio::{Frame, Rate, echo::Echo, vad::Vad};

/// A probability below this asks for nothing, whoever speaks.
const UNLIKELY: f32 = 0.1;

/// What a call hears with.
#[derive(Debug)]
pub(super) struct Ear {
    vad: Vad,
    echo: Echo,
}

impl Ear {
    /// For a call at `rate`.
    pub fn new(rate: Rate) -> Self {
        Self { vad: Vad::new(rate), echo: Echo::new(rate) }
    }

    /// Takes what the caller is sent.
    pub fn played(&mut self, frame: &Frame) {
        self.echo.played(frame.samples());
    }

    /// Takes what the caller says; every 32 ms of it the probability that somebody speaks who is not the agent.
    pub fn heard(&mut self, frame: &Frame) -> Option<f32> {
        self.echo.heard(frame.samples());
        let probability = self.vad.push(frame)?;
        let is_echo = probability >= UNLIKELY && self.echo.is_echo();
        Some(if is_echo { 0.0 } else { probability })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::wav;

    /// The most probable voice, and how many of 32 ms had one, while the agent speaks and the line is what `line` makes of the place in it.
    fn heard(agent: &[i16], line: impl Fn(usize) -> i16) -> (f32, usize) {
        let mut ear = Ear::new(Rate::R8K);
        let (mut most, mut voiced) = (0.0_f32, 0);
        for from in (0..agent.len() - 160).step_by(160) {
            let said: Vec<_> = (from..from + 160).map(&line).collect();
            if let Some(probability) = ear.heard(&Frame::padded(Rate::R8K, &said)) {
                most = most.max(probability);
                voiced += usize::from(probability >= 0.5);
            }
            ear.played(&Frame::padded(Rate::R8K, &agent[from..from + 160]));
        }
        (most, voiced)
    }

    #[test]
    fn the_agents_own_voice_is_nobodys_and_the_callers_is_theirs() {
        let (_, agent) = wav::read(include_bytes!("../../fixtures/audio/conf-getpin.wav")).unwrap();
        let (_, caller) = wav::read(include_bytes!("../../fixtures/audio/tt-somethingwrong.wav")).unwrap();
        let (most, _) = heard(&agent, |n| n.checked_sub(1_200).map_or(0, |n| agent[n] / 10));
        assert!(most < 0.5, "{most}");
        let caller = |n: usize| if n < 4_000 { 0 } else { caller[(n - 4_000) % caller.len()] };
        let (_, without) = heard(&vec![0; agent.len()], caller);
        let (_, with) = heard(&agent, caller);
        assert!(with * 10 >= without * 9 && without > 20, "{with} of {without}");
    }
}
