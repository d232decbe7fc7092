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
    /// Raw s16le 8 kHz mono, or WAV, mixed into everything the caller hears.
    pub ambient_file: Option<String>,
    /// Its gain, 0.0–1.0.
    pub ambient_level: f32,
    /// Cushion of the playout grid behind the earliest arrival of the caller's frames, in ms.
    pub cushion_ms: u64,
    /// Agent speech held for one call, in s; beyond it the agent's socket is left unread.
    pub max_queue_s: u64,
    /// Delay between the leg and the caller's ear, in ms, taken off what counts as heard.
    pub network_delay_ms: u64,
    /// Hide digits in events and logs.
    pub dtmf_mask: bool,
    /// Voice activity.
    pub vad: Vad,
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
            cushion_ms: 3,
            max_queue_s: 300,
            network_delay_ms: 0,
            dtmf_mask: false,
            vad: Vad::default(),
        }
    }
}

impl Default for Vad {
    fn default() -> Self {
        Self { positive: 0.5, negative: 0.35, min_speech_ms: 192, redemption_ms: 512 }
    }
}
