//! The environment variables of AVR and DSAI Core, so that their users change one line: the image.
//!
//! A value that is empty, or the literal `undefined` or `null` (which some launchers pass for their own unset variables), is not set.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::{
    fault::{Faults, redacted},
    layer::{Layer, Schema},
};
use crate::agent::service::VENDORS;

/// Variables that are a setting under another name. Where two name the same setting, the later one wins.
const SETTINGS: &[(&str, &str)] = &[
    ("asr_URL", "agent.asr_url"),
    ("llm_URL", "agent.llm_url"),
    ("tts_URL", "agent.tts_url"),
    ("ASR_URL", "agent.asr_url"),
    ("LLM_URL", "agent.llm_url"),
    ("TTS_URL", "agent.tts_url"),
    ("STS_URL", "agent.sts_url"),
    ("INTERRUPT_LISTENING", "call.interrupt_listening"),
    ("WEBHOOK_URL", "webhooks.url"),
    ("WEBHOOK_SECRET", "webhooks.secret"),
    ("WEBHOOK_SIGNING_SECRET", "webhooks.signing_secret"),
    ("WEBHOOK_TIMEOUT", "webhooks.timeout_ms"),
    ("WEBHOOK_RETRY", "webhooks.retry"),
    ("AMBIENT_NOISE_FILE", "call.ambient_file"),
    ("AMBIENT_NOISE_LEVEL", "call.ambient_level"),
    ("AGENT_ID", "webhooks.agent_id"),
];

/// Variables of our own that are a setting under another name: they say nothing about what AVR's users expect.
const OURS: &[(&str, &str)] = &[
    ("AMI_HOST", "ami.host"),
    ("AMI_PASSWORD", "ami.password"),
    ("AMI_PORT", "ami.port"),
    ("AMI_USERNAME", "ami.username"),
    ("ARI_URL", "ari.url"),
    ("ARI_USERNAME", "ari.username"),
    ("ARI_PASSWORD", "ari.password"),
    ("ARI_APP", "ari.app"),
];

/// Variables with a meaning of their own, read below.
const OTHERS: &[&str] = &[
    "PORT",
    "HTTP_PORT",
    "SYSTEM_MESSAGE",
    "AGENT_NAME",
    "VAD_POSITIVE_SPEECH_THRESHOLD",
    "VAD_NEGATIVE_SPEECH_THRESHOLD",
    "VAD_MIN_SPEECH_FRAMES",
    "VAD_PRE_SPEECH_PAD_FRAMES",
    "VAD_REDEMPTION_FRAMES",
    "VAD_FRAME_SAMPLES",
    "VAD_MODEL",
];

/// AVR's default thresholds and ours, which stand for the same thing: AVR gives 8 kHz speech to a model that expects 16 kHz, which
/// then hears it at double speed and is much less sure of it.
const POSITIVE: (f64, f64) = (0.08, 0.5);
const NEGATIVE: (f64, f64) = (0.03, 0.35);

/// Reads what the variables of AVR and DSAI say.
pub(super) struct Contract<'a> {
    pub(super) schema: &'a Schema,
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) faults: &'a mut Faults,
    /// What their user should be told once.
    pub(super) notices: &'a mut Vec<String>,
}

impl<'a> Contract<'a> {
    /// Reads them all. `below` are the layers, without the defaults, that this one is laid over.
    pub(super) fn layer(&mut self, below: &[&Layer]) -> Layer {
        let mut layer = Layer::default();
        for (name, key) in SETTINGS.iter().chain(OURS) {
            if let Some(value) = self.get(name) {
                layer.set_text(self.schema, key, name, value, self.faults);
            }
        }
        for row in VENDORS {
            let variable = row.key.and_then(|name| Some((name, self.get(name)?)));
            if let Some((name, key)) = variable {
                layer.set(&format!("providers.{}.api_key", row.name), name, key, key);
            }
        }
        if let Some(text) = given(self.env, "SYSTEM_MESSAGE") {
            let text = unquoted(text);
            layer.set("agent.greeting", "SYSTEM_MESSAGE", text, text);
        }
        self.ports(&mut layer, below);
        self.vad(&mut layer);
        layer
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        given(self.env, name).map(str::trim)
    }

    /// Whoever sets `PORT` or `HTTP_PORT` expects all interfaces; whoever sets any of these variables expects no HTTP without `HTTP_PORT`.
    fn ports(&mut self, layer: &mut Layer, below: &[&Layer]) {
        self.port(layer, below, "PORT", "audiosocket.listen");
        self.port(layer, below, "HTTP_PORT", "http.listen");
        let any =
            SETTINGS.iter().map(|(name, _)| *name).chain(OTHERS.iter().copied()).find(|name| self.get(name).is_some());
        let decided = |key| below.iter().any(|layer| layer.says(key));
        if let Some(port) = self.get("HTTP_PORT") {
            layer.set("http.enabled", "HTTP_PORT", port, true);
        } else if let Some(name) = any
            && !decided("http.enabled")
            && !decided("http.listen")
        {
            layer.set("http.enabled", &format!("{name} without HTTP_PORT"), "false", false);
        }
    }

    fn port(&mut self, layer: &mut Layer, below: &[&Layer], name: &str, key: &str) {
        let Some(value) = self.get(name) else { return };
        let Ok(port) = value.parse::<u16>() else {
            let advice = "Write a TCP port, 1 to 65535.";
            self.faults.push("config.type", (name, Some(redacted(name, value))), "is not a TCP port", advice);
            return;
        };
        let listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).to_string();
        // a port of their own is what people expect of these; a wider address may not be
        let narrower = |other: &&str| other.parse::<SocketAddr>().is_ok_and(|other| !other.ip().is_unspecified());
        if let Some(other) = below.iter().rev().find_map(|layer| layer.text(key)).filter(narrower) {
            self.notices
                .push(format!("{name}={port} wins over {key} = {other:?}: listening on {listen}, all interfaces"));
        }
        layer.set(key, name, value, listen.as_str());
    }

    fn vad(&mut self, layer: &mut Layer) {
        self.threshold(layer, "VAD_POSITIVE_SPEECH_THRESHOLD", "call.vad.positive");
        self.threshold(layer, "VAD_NEGATIVE_SPEECH_THRESHOLD", "call.vad.negative");
        self.number("VAD_PRE_SPEECH_PAD_FRAMES", 0.0, 10_000.0, "Write a whole number of frames, e.g. 3."); // no part in barge-in
        let samples = self.number(
            "VAD_FRAME_SAMPLES",
            1.0,
            48_000.0,
            "Write the samples of a frame at 8 kHz: 512, 1024 or 1536.",
        );
        if let Some(samples) = samples.filter(|n| ![512.0, 1024.0, 1536.0].contains(n)) {
            self.notices.push(format!("VAD_FRAME_SAMPLES={samples}: frames of 512, 1024 or 1536 samples are usual"));
        }
        self.frames(layer, "VAD_MIN_SPEECH_FRAMES", "call.vad.min_speech_ms", 3.0, samples);
        self.frames(layer, "VAD_REDEMPTION_FRAMES", "call.vad.redemption_ms", 8.0, samples);
        match self.get("VAD_MODEL") {
            None => {}
            Some(model @ ("v5" | "legacy")) => {
                self.notices.push(format!("VAD_MODEL={model} has no effect: Hark has one model of its own"));
            }
            Some(other) => {
                let advice = "Write v5 or legacy, or leave it out; it has no effect.";
                self.faults.push("config.range", ("VAD_MODEL", Some(other.to_owned())), "is no model", advice);
            }
        }
        for name in self.env.keys().filter(|name| name.starts_with("VAD_") && !OTHERS.contains(&name.as_str())) {
            self.notices.push(format!("{} is not one of the VAD_ variables; it has no effect", name.escape_debug()));
        }
    }

    /// A probability on AVR's scale, put onto ours.
    fn threshold(&mut self, layer: &mut Layer, name: &str, key: &str) {
        if let Some(p) =
            self.number(name, 0.0, 1.0, "Write a probability on AVR's scale, e.g. 0.08 (positive) or 0.03 (negative).")
        {
            layer.set(key, name, &p.to_string(), our_threshold(p));
        }
    }

    /// A number of frames, as a time.
    fn frames(&mut self, layer: &mut Layer, name: &str, key: &str, default: f64, samples: Option<f64>) {
        let frames = self.number(name, 1.0, 10_000.0, "Write a whole number of frames, 1 or more.");
        let by = match (frames, samples) {
            (Some(_), _) => name,
            (None, Some(_)) if given(self.env, name).is_none() => "VAD_FRAME_SAMPLES",
            _ => return,
        };
        #[expect(clippy::cast_possible_truncation, reason = "at most 10,000 frames of 48,000 samples")]
        let ms = (frames.unwrap_or(default) * samples.unwrap_or(512.0) / 8.0).round() as i64;
        layer.set(key, by, self.get(by).unwrap_or_default(), ms);
    }

    fn number(&mut self, name: &str, min: f64, max: f64, advice: &str) -> Option<f64> {
        let value = self.get(name)?;
        let reason = match value.parse::<f64>() {
            Ok(n) if (min..=max).contains(&n) => return Some(n),
            Ok(n) if n.is_finite() => format!("must be between {min} and {max}"),
            _ => "is not a number".to_owned(),
        };
        self.faults.push("config.range", (name, Some(value.to_owned())), reason, advice);
        None
    }
}

/// The value of `name`, unless it stands for "not set".
pub(super) fn given<'a>(env: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    env.get(name).map(String::as_str).filter(|value| !matches!(value.trim(), "" | "undefined" | "null"))
}

/// Without one pair of quotes: in a YAML list item `- SYSTEM_MESSAGE="Hello"` they are part of the value.
fn unquoted(text: &str) -> &str {
    let inner = |quote: char| text.trim().strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

/// The threshold of ours that stands for AVR's `p`: a straight line between the logits, through both pairs of defaults, so that who
/// writes AVR's defaults gets ours, and the order of two thresholds never turns round.
fn our_threshold(p: f64) -> f64 {
    let logit = |p: f64| (p / (1.0 - p)).ln();
    let slope = (logit(POSITIVE.1) - logit(NEGATIVE.1)) / (logit(POSITIVE.0) - logit(NEGATIVE.0));
    let ours = logit(POSITIVE.1) + slope * (logit(p) - logit(POSITIVE.0));
    (1.0 / (1.0 + (-ours).exp())).clamp(0.01, 0.99)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_avr_are_ours() {
        assert!((our_threshold(0.08) - 0.5).abs() < 1e-9);
        assert!((our_threshold(0.03) - 0.35).abs() < 1e-9);
    }

    #[test]
    fn thresholds_keep_their_order_and_stay_inside() {
        let mut last = 0.0;
        for step in 0..=1000 {
            let ours = our_threshold(f64::from(step) / 1000.0);
            assert!((0.01..=0.99).contains(&ours) && ours >= last, "{step}: {ours} after {last}");
            last = ours;
        }
        assert!(our_threshold(0.0) < 0.02 && our_threshold(1.0) > 0.98);
    }

    #[test]
    fn one_pair_of_quotes_is_taken_off() {
        assert_eq!(unquoted(r#""Hello""#), "Hello");
        assert_eq!(unquoted(r#"""Hello"""#), r#""Hello""#);
        assert_eq!(unquoted("'Hello'"), "Hello");
        assert_eq!(unquoted("say \"hi\""), "say \"hi\"");
        assert_eq!(unquoted("\""), "\"");
    }
}
