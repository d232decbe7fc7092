//! What comes back from the gateway.

use std::{collections::VecDeque, time::Duration};

use super::{
    Moment,
    report::{Report, Span},
};
use crate::{
    asterisk::audiosocket::wire,
    audio::{Rate, level, resample::Resampler},
};

/// A frame as loud as this (RMS) is heard.
pub const AUDIBLE: f32 = 100.0;
/// The agent has ended when it was not heard for this long; pauses between words are shorter.
const PAUSE: Duration = Duration::from_millis(400);
/// Arrivals that are remembered: ten hours.
const MOST_ARRIVALS: usize = 1_800_000;
/// A frame that comes later than this is put where it came, and not where the one before it ended.
const JITTER: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Ear {
    rate: Rate,
    arrivals: Vec<Duration>,
    recording: Option<Recording>,
    heard: Vec<Span>,
    is_heard: bool,
    samples: Vec<i16>,
    rates: Vec<Rate>,
    /// Frames that are not 20 ms long.
    odd: u64,
}

#[derive(Debug)]
struct Recording {
    samples: Vec<i16>,
    from: Rate,
    resampler: Resampler,
}

impl Ear {
    pub fn new(rate: Rate, record: bool) -> Self {
        let resampler = Resampler::new(rate.hz(), rate.hz());
        Self {
            rate,
            arrivals: Vec::new(),
            recording: record.then(|| Recording { samples: Vec::new(), from: rate, resampler }),
            heard: Vec::new(),
            is_heard: false,
            samples: Vec::new(),
            rates: Vec::new(),
            odd: 0,
        }
    }

    /// Takes a frame that arrived at `at`.
    pub fn audio(&mut self, at: Duration, rate: Rate, payload: &[u8], moments: &mut VecDeque<Moment>) {
        if self.arrivals.is_empty() {
            moments.push_back(Moment::FirstFrame);
        }
        if self.arrivals.len() < MOST_ARRIVALS {
            self.arrivals.push(at);
        }
        if !self.rates.contains(&rate) {
            self.rates.push(rate);
        }
        if payload.len() != rate.frame_samples() * 2 {
            self.odd += 1;
        }
        self.samples.clear();
        wire::samples_from_le(payload, &mut self.samples);
        if level::rms(&self.samples) >= AUDIBLE {
            self.sound(at, moments);
        }
        if let Some(recording) = &mut self.recording {
            recording.add(at, rate, &self.samples, self.rate);
        }
    }

    fn sound(&mut self, at: Duration, moments: &mut VecDeque<Moment>) {
        let until = at + Duration::from_millis(20);
        match self.heard.last_mut() {
            Some(span) if self.is_heard => span.until = until,
            _ => {
                self.heard.push(Span { from: at, until });
                self.is_heard = true;
                moments.push_back(Moment::Heard(true));
            }
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, at: Duration) -> Option<Moment> {
        if self.is_heard && self.quiet_for(at) >= PAUSE {
            self.is_heard = false;
            return Some(Moment::Heard(false));
        }
        None
    }

    /// Whether the agent is speaking.
    pub fn is_heard(&self) -> bool {
        self.is_heard
    }

    /// How long the agent has not been heard.
    pub fn quiet_for(&self, at: Duration) -> Duration {
        at.saturating_sub(self.heard.last().map_or(Duration::ZERO, |span| span.until))
    }

    /// Writes down what it heard.
    pub fn finish(self, report: &mut Report) {
        report.arrivals = self.arrivals;
        report.heard = self.heard;
        report.rates = self.rates;
        report.odd_frames = self.odd;
        report.agent = self.recording.map(|recording| recording.samples).unwrap_or_default();
    }
}

impl Recording {
    fn add(&mut self, at: Duration, from: Rate, samples: &[i16], to: Rate) {
        if at > to.duration_of(self.samples.len()) + JITTER {
            self.samples.resize(to.samples_in(at), 0);
        }
        if from != self.from {
            self.from = from;
            self.resampler = Resampler::new(from.hz(), to.hz());
        }
        self.resampler.process(samples, &mut self.samples);
    }
}
