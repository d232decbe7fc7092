//! What a call was like.

use std::{fmt, io::Write, time::Duration};

use uuid::Uuid;

use super::{Codec, Moment, caller::Slot, ear::AUDIBLE};
use crate::audio::{Rate, level};

/// From when until when, since the connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Beginning.
    pub from: Duration,
    /// End.
    pub until: Duration,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The caller hung up.
    Caller,
    /// The gateway hung up in the orderly way.
    Gateway,
    /// The gateway closed the connection without hanging up first.
    Closed,
    /// The gateway closed the connection within a frame.
    Cut,
    /// The gateway sent an error frame.
    Error(Option<u8>),
    /// The gateway sent what makes Asterisk drop the call.
    Protocol(String),
    /// The gateway took no frame for too long.
    Stalled,
    /// The connection broke.
    Broken(String),
}

impl Ending {
    /// Whether Asterisk's dialplan would go on as it should.
    #[must_use]
    pub const fn is_orderly(&self) -> bool {
        matches!(self, Self::Caller | Self::Gateway | Self::Closed)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caller => f.write_str("the caller hung up"),
            Self::Gateway => f.write_str("the gateway hung up"),
            Self::Closed => f.write_str("the gateway closed the connection"),
            Self::Cut => f.write_str("the gateway closed the connection in the middle of a frame"),
            Self::Error(Some(code)) => write!(f, "the gateway sent error {code:#04x}"),
            Self::Error(None) => f.write_str("the gateway sent an error"),
            Self::Protocol(what) => write!(f, "the gateway broke the protocol: {what}; Asterisk would drop the call"),
            Self::Stalled => f.write_str("the gateway has stopped reading"),
            Self::Broken(why) => write!(f, "the connection broke: {why}"),
        }
    }
}

/// What a call was like. Times count from the connect.
#[derive(Debug, Clone)]
pub struct Report {
    /// The UUID of the call.
    pub uuid: Uuid,
    /// The rate of [`Self::caller`] and [`Self::agent`].
    pub rate: Rate,
    /// How long the connect took.
    pub connect: Duration,
    /// How long the call was.
    pub length: Duration,
    /// How it ended.
    pub ending: Ending,
    /// Audio frames sent.
    pub frames_sent: u64,
    /// When each audio frame of the gateway arrived.
    pub arrivals: Vec<Duration>,
    /// The rates of the gateway's frames.
    pub rates: Vec<Rate>,
    /// The gateway's frames that were not 20 ms long.
    pub odd_frames: u64,
    /// When the caller was heard to speak: from the first voiced frame to the last one of each thing said.
    pub said: Vec<Span>,
    /// When the agent was heard.
    pub heard: Vec<Span>,
    /// What happened, in order.
    pub moments: Vec<(Duration, Moment)>,
    /// What the caller said, if recorded.
    pub caller: Vec<i16>,
    /// What the caller heard, if recorded.
    pub agent: Vec<i16>,
    record: bool,
    is_saying: bool,
}

impl Report {
    pub(super) fn new(uuid: Uuid, rate: Rate, connect: Duration, record: bool) -> Self {
        Self {
            uuid,
            rate,
            connect,
            length: Duration::ZERO,
            ending: Ending::Caller,
            frames_sent: 0,
            arrivals: Vec::new(),
            rates: Vec::new(),
            odd_frames: 0,
            said: Vec::new(),
            heard: Vec::new(),
            moments: Vec::new(),
            caller: Vec::new(),
            agent: Vec::new(),
            record,
            is_saying: false,
        }
    }

    /// Writes down what was sent at `at`.
    pub(super) fn sent(&mut self, at: Duration, slot: &Slot, codec: Codec) {
        let silence = [];
        let samples = match slot {
            Slot::Audio(frame) => {
                self.frames_sent += 1;
                frame.samples()
            }
            _ => &silence[..],
        };
        if level::rms(samples) >= AUDIBLE {
            let until = at + Duration::from_millis(20);
            match self.said.last_mut() {
                Some(span) if self.is_saying => span.until = until,
                _ => self.said.push(Span { from: at, until }),
            }
            self.is_saying = true;
        }
        if self.record {
            let end = self.caller.len() + codec.rate().frame_samples();
            self.caller.extend_from_slice(samples);
            self.caller.resize(end, 0);
        }
    }

    pub(super) fn moment(&mut self, at: Duration, moment: Moment) {
        if let Moment::Said(_) = moment {
            self.is_saying = false;
        }
        self.moments.push((at, moment));
    }

    /// When the gateway's first frame arrived.
    #[must_use]
    pub fn first_frame(&self) -> Option<Duration> {
        self.arrivals.first().copied()
    }

    /// When the agent was first heard.
    #[must_use]
    pub fn first_sound(&self) -> Option<Duration> {
        self.heard.first().map(|span| span.from)
    }

    /// Times between the gateway's frames.
    pub fn gaps(&self) -> impl Iterator<Item = Duration> {
        self.arrivals.windows(2).map(|pair| pair[1].saturating_sub(pair[0]))
    }

    /// For each thing the caller said: from its last voiced frame to the agent's first audible one, if the agent spoke before the
    /// caller did again.
    pub fn answers(&self) -> impl Iterator<Item = Option<Duration>> {
        self.said.iter().enumerate().map(|(index, said)| {
            let next = self.said.get(index + 1).map_or(Duration::MAX, |next| next.from);
            let answer = self.heard.iter().find(|heard| heard.from >= said.until)?;
            (answer.from < next).then(|| answer.from - said.until)
        })
    }

    /// Why the call counts as failed, if it does.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if !self.ending.is_orderly() {
            return Some(self.ending.to_string());
        }
        if self.arrivals.is_empty() {
            let advice = match self.ending {
                Ending::Gateway => {
                    "it refuses the call: full, stopping, or the UUID is not announced; its log says why"
                }
                _ => "is this the AudioSocket port of a gateway?",
            };
            return Some(format!("no audio came from the gateway ({}); {advice}", self.ending));
        }
        None
    }
}

/// Three quantiles of many durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantiles {
    /// The median.
    pub p50: Duration,
    /// 99 % are below.
    pub p99: Duration,
    /// The largest.
    pub max: Duration,
}

impl Quantiles {
    /// The quantiles of `all`; `None` if there are none.
    #[must_use]
    pub fn of(mut all: Vec<Duration>) -> Option<Self> {
        all.sort_unstable();
        let max = *all.last()?;
        let at = |share: f64| all.get(((all.len() - 1) as f64 * share).ceil() as usize).copied().unwrap_or(max);
        Some(Self { p50: at(0.5), p99: at(0.99), max })
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        write!(f, "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", ms(self.p50), ms(self.p99), ms(self.max))
    }
}

/// Writes a call as a WAV file: caller left, agent right.
///
/// # Errors
/// When `to` cannot be written.
pub fn stereo<W: Write + std::io::Seek>(to: W, report: &Report) -> Result<(), hound::Error> {
    let spec = hound::WavSpec {
        channels: 2,
        sample_rate: report.rate.hz(),
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::new(to, spec)?;
    for index in 0..report.caller.len().max(report.agent.len()) {
        for side in [&report.caller, &report.agent] {
            writer.write_sample(side.get(index).copied().unwrap_or(0))?;
        }
    }
    writer.finalize()
}
