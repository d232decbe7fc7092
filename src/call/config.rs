//! Settings of the conversation.

use serde::Deserialize;

/// Settings of the conversation.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `true`: the agent does not listen while it speaks, and is not interrupted (`INTERRUPT_LISTENING`; ignored in STS mode).
    pub interrupt_listening: bool,
    /// The longest a call may take, in s; 0 = no limit.
    pub max_duration_s: u64,
    /// A sound mixed into everything the caller hears.
    pub ambient_file: Option<String>,
    /// Its gain, 0.0–1.0.
    pub ambient_level: f32,
    /// A sound while the caller waits for an answer.
    pub thinking_file: Option<String>,
    /// Its gain, 0.0–1.0.
    pub thinking_level: f32,
    /// How long after the caller's words it begins, in ms.
    pub thinking_after_ms: u64,
    /// Noise where nothing else plays, in dBm0; 0 = none.
    pub comfort_noise: f32,
    /// Cushion of the playout grid behind the earliest arrival of the caller's frames, in ms.
    pub cushion_ms: u64,
    /// Agent speech held for one call, in s; beyond it the agent's socket is left unread.
    pub max_queue_s: u64,
    /// Delay between the leg and the caller's ear, in ms, taken off what counts as heard.
    pub network_delay_ms: u64,
    /// Hide digits in events and logs.
    pub dtmf_mask: bool,
    /// Said so long before the longest time of a call is over, in s.
    pub warn_before_s: u64,
    /// What is said then.
    pub warning: Option<String>,
    /// What is said when the longest time is over.
    pub goodbye: Option<String>,
    /// The greeting is spoken to its end, whatever the caller does.
    pub protect_greeting: bool,
    /// Digits do not cut protected speech either.
    pub protect_from_digits: bool,
    /// How long a held agent waits for words before it goes on, in ms.
    pub resume_after_ms: u64,
    /// Languages spoken, `en`, `de` …; empty = all that there are lists for.
    pub languages: Vec<String>,
    /// Voice activity.
    pub vad: Vad,
    /// Interruptions.
    pub barge_in: BargeIn,
    /// The end of the caller's turn.
    pub endpoint: Endpoint,
    /// A caller who says nothing.
    pub idle: Idle,
    /// Digits collected to one answer.
    pub dtmf: Dtmf,
}

/// What interrupts the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Words where speech recognition has shown that it tells them as they are spoken, else the voice.
    #[default]
    Auto,
    /// The voice, when it has lasted.
    Vad,
    /// Words that are no back-channel.
    Words,
}

/// Interruptions.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BargeIn {
    /// What interrupts.
    pub policy: Policy,
    /// So many words do, where words do.
    pub min_words: usize,
    /// Back-channels in place of the built-in lists.
    pub backchannels: Vec<String>,
}

/// The end of the caller's turn, where it is told by silence. The usual silence is [`Vad::redemption_ms`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Endpoint {
    /// Silence after what sounds complete, in ms.
    pub complete_ms: u64,
    /// Silence after what does not, in ms.
    pub open_ms: u64,
    /// Spoken digits that are expected; 0 = unknown.
    pub digits: usize,
    /// Ask the language model while the caller pauses, before it is sure that they have finished.
    pub preemptive: bool,
}

/// A caller who says nothing.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Idle {
    /// What they are asked, one after the other.
    pub prompts: Vec<String>,
    /// After how much silence, in ms.
    pub after_ms: u64,
    /// Said before the call is ended.
    pub goodbye: Option<String>,
}

impl Idle {
    /// Whether silence has any consequence.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        !self.prompts.is_empty() || self.goodbye.is_some()
    }
}

/// Digits collected to one answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dtmf {
    /// Whether they are.
    pub collect: bool,
    /// Fewer are no answer.
    pub min: usize,
    /// So many are complete.
    pub max: usize,
    /// The key that ends them; anything that is no key = none.
    pub terminator: Option<String>,
    /// The longest pause between two, in ms.
    pub timeout_ms: u64,
    /// The first one interrupts the agent.
    pub interrupt: bool,
}

/// Thresholds of voice activity for barge-in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vad {
    /// Probability at or above which a frame is speech.
    pub positive: f32,
    /// Probability below which a frame is silence; between the two nothing changes.
    pub negative: f32,
    /// Speech of this length cuts the agent, in ms.
    pub min_speech_ms: u64,
    /// Silence of this length ends speech, in ms.
    pub redemption_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interrupt_listening: false,
            max_duration_s: 0,
            ambient_file: None,
            ambient_level: 0.9,
            thinking_file: None,
            thinking_level: 0.9,
            thinking_after_ms: 1_500,
            comfort_noise: 0.0,
            cushion_ms: 3,
            max_queue_s: 300,
            network_delay_ms: 0,
            dtmf_mask: false,
            warn_before_s: 30,
            warning: None,
            goodbye: None,
            protect_greeting: false,
            protect_from_digits: true,
            resume_after_ms: 2_000,
            languages: Vec::new(),
            vad: Vad::default(),
            barge_in: BargeIn::default(),
            endpoint: Endpoint::default(),
            idle: Idle::default(),
            dtmf: Dtmf::default(),
        }
    }
}

impl Default for BargeIn {
    fn default() -> Self {
        Self { policy: Policy::Auto, min_words: 1, backchannels: Vec::new() }
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Self { complete_ms: 256, open_ms: 1_500, digits: 0, preemptive: true }
    }
}

impl Default for Idle {
    fn default() -> Self {
        Self { prompts: Vec::new(), after_ms: 10_000, goodbye: None }
    }
}

impl Default for Dtmf {
    fn default() -> Self {
        Self { collect: false, min: 1, max: 32, terminator: Some("#".to_owned()), timeout_ms: 3_000, interrupt: true }
    }
}

impl Default for Vad {
    fn default() -> Self {
        Self { positive: 0.5, negative: 0.35, min_speech_ms: 192, redemption_ms: 512 }
    }
}
