//! Settings of what is done to the caller's audio.

use super::denoise::Denoise;
use super::dtmf::InbandDtmf;
use serde::Deserialize;

/// What is done to the caller's audio before an agent hears it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Digits that come as tones in the audio.
    pub inband_dtmf: InbandDtmf,
    /// What takes noise out.
    pub denoise: Denoise,
    /// Speech is brought to one level.
    pub gain_control: bool,
}
