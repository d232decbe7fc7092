//! The vendors there are: one table.

use super::Kind;

/// Somebody whose own protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Vendor {
    /// Anthropic.
    Anthropic,
    /// AssemblyAI.
    AssemblyAi,
    /// Azure OpenAI.
    Azure,
    /// The embedded engines, on this machine.
    Builtin,
    /// Cartesia.
    Cartesia,
    /// Deepgram.
    Deepgram,
    /// ElevenLabs.
    ElevenLabs,
    /// Google Gemini.
    Gemini,
    /// Ollama, and what else speaks OpenAI's protocol on this machine.
    Ollama,
    /// OpenAI, and everybody who speaks its protocol.
    OpenAi,
    /// Piper's HTTP server.
    Piper,
    /// Rime.
    Rime,
    /// Soniox.
    Soniox,
    /// Speechmatics.
    Speechmatics,
    /// Ultravox.
    Ultravox,
    /// Vosk's server.
    Vosk,
    /// Wyoming: Home Assistant's protocol.
    Wyoming,
    /// xAI.
    Xai,
}

/// What is known of a vendor.
#[derive(Debug)]
pub struct Row {
    /// Which.
    pub vendor: Vendor,
    /// As it is written in front of the colon.
    pub name: &'static str,
    /// The variable that holds its key; `None` = it has none.
    pub key: Option<&'static str>,
    /// What it can be.
    pub offers: &'static [Offer],
}

/// What a vendor can be.
#[derive(Debug)]
pub struct Offer {
    /// Which part of a conversation.
    pub kind: Kind,
    /// Where it is; `None` = wherever its user runs it.
    pub base: Option<&'static str>,
    /// The model when none is named; `None` = one has to be.
    pub model: Option<&'static str>,
    /// Options that it cannot do without.
    pub needs: &'static [&'static str],
    /// Further options.
    pub takes: &'static [&'static str],
}

/// What options may be that mean something to us; the values of others are the vendor's business.
pub fn choices(option: &str) -> Option<&'static [&'static str]> {
    Some(match option {
        "auth" => &["bearer"],
        "dialect" => &["beta"],
        "finalize" => &["eof", "reset"],
        "format" => &["pcmu", "pcma", "pcm"],
        "realtime" => &["true", "false"],
        _ => return None,
    })
}

/// Somebody's own server without a key.
const NO_MODEL: Option<&str> = Some("");
/// What every language model takes.
const LLM: &[&str] = &["temperature", "top_p", "max_tokens", "max_completion_tokens", "reasoning_effort", "seed"];

const fn llm(base: Option<&'static str>) -> Offer {
    Offer { kind: Kind::Llm, base, model: None, needs: &[], takes: LLM }
}

/// What OpenAI's realtime interface takes, and Azure's.
const REALTIME: &[&str] = &[
    "voice",
    "speed",
    "transcribe",
    "language",
    "turn_detection",
    "threshold",
    "prefix_padding_ms",
    "silence_duration_ms",
    "idle_timeout_ms",
    "eagerness",
    "noise_reduction",
    "max_output_tokens",
    "reasoning_effort",
    "format",
    "dialect",
    "api_version",
];

const fn sts(base: Option<&'static str>, model: Option<&'static str>, takes: &'static [&'static str]) -> Offer {
    Offer { kind: Kind::Sts, base, model, needs: &[], takes }
}

/// The embedded engines: there is nothing to choose, and nowhere to go.
const fn here(kind: Kind) -> Offer {
    Offer { kind, base: Some("tcp://localhost"), model: NO_MODEL, needs: &[], takes: &[] }
}

/// All of them, by name.
pub const VENDORS: &[Row] = &[
    Row {
        vendor: Vendor::Anthropic,
        name: "anthropic",
        key: Some("ANTHROPIC_API_KEY"),
        offers: &[Offer {
            takes: &["temperature", "top_p", "max_tokens", "version", "auth"],
            ..llm(Some("https://api.anthropic.com/v1"))
        }],
    },
    Row {
        vendor: Vendor::AssemblyAi,
        name: "assemblyai",
        key: Some("ASSEMBLYAI_API_KEY"),
        offers: &[Offer {
            kind: Kind::Stt,
            base: Some("wss://streaming.assemblyai.com"),
            model: Some("universal-streaming-english"),
            needs: &[],
            takes: &[
                "end_of_turn_confidence_threshold",
                "min_turn_silence",
                "max_turn_silence",
                "vad_threshold",
                "keyterms_prompt",
                "prompt",
                "language_detection",
                "mode",
            ],
        }],
    },
    Row {
        vendor: Vendor::Azure,
        name: "azure",
        key: Some("AZURE_OPENAI_API_KEY"),
        offers: &[
            Offer {
                takes: &[
                    "temperature",
                    "top_p",
                    "max_tokens",
                    "max_completion_tokens",
                    "reasoning_effort",
                    "seed",
                    "api_version",
                ],
                ..llm(None)
            },
            sts(None, None, REALTIME),
        ],
    },
    Row {
        vendor: Vendor::Builtin,
        name: "builtin",
        key: None,
        offers: &[here(Kind::Stt), here(Kind::Llm), here(Kind::Tts)],
    },
    Row {
        vendor: Vendor::Cartesia,
        name: "cartesia",
        key: Some("CARTESIA_API_KEY"),
        offers: &[Offer {
            kind: Kind::Tts,
            base: Some("wss://api.cartesia.ai"),
            model: Some("sonic-3"),
            needs: &["voice"],
            takes: &["language", "speed", "volume", "emotion"],
        }],
    },
    Row {
        vendor: Vendor::Deepgram,
        name: "deepgram",
        key: Some("DEEPGRAM_API_KEY"),
        offers: &[
            Offer {
                kind: Kind::Stt,
                base: Some("wss://api.deepgram.com"),
                model: Some("nova-3"),
                needs: &[],
                takes: &[
                    "language",
                    "keyterm",
                    "keywords",
                    "endpointing",
                    "utterance_end_ms",
                    "smart_format",
                    "punctuate",
                    "numerals",
                    "profanity_filter",
                    "redact",
                    "replace",
                    "search",
                    "tag",
                    "mip_opt_out",
                    // Flux
                    "eot_threshold",
                    "eager_eot_threshold",
                    "eot_timeout_ms",
                    "language_hint",
                ],
            },
            Offer {
                kind: Kind::Tts,
                base: Some("wss://api.deepgram.com"),
                model: Some("aura-2-thalia-en"),
                needs: &[],
                takes: &["speed", "mip_opt_out", "tag"],
            },
            sts(
                Some("wss://agent.deepgram.com"),
                Some("agent"),
                &[
                    "listen",
                    "think",
                    "speak",
                    "language",
                    "temperature",
                    "eot_threshold",
                    "keyterm",
                    "mip_opt_out",
                    "tag",
                ],
            ),
        ],
    },
    Row {
        vendor: Vendor::ElevenLabs,
        name: "elevenlabs",
        key: Some("ELEVENLABS_API_KEY"),
        offers: &[
            Offer {
                kind: Kind::Stt,
                base: Some("wss://api.elevenlabs.io"),
                model: Some("scribe_v2_realtime"),
                needs: &[],
                takes: &[
                    "language",
                    "vad_silence_threshold_secs",
                    "vad_threshold",
                    "min_speech_duration_ms",
                    "min_silence_duration_ms",
                    "keyterms",
                    "no_verbatim",
                ],
            },
            Offer {
                kind: Kind::Tts,
                base: Some("wss://api.elevenlabs.io"),
                model: Some("eleven_flash_v2_5"),
                needs: &["voice"],
                takes: &["language", "stability", "similarity_boost", "style", "speed", "apply_text_normalization"],
            },
            sts(Some("wss://api.elevenlabs.io"), None, &["voice", "language", "user_id"]),
        ],
    },
    Row {
        vendor: Vendor::Gemini,
        name: "gemini",
        key: Some("GEMINI_API_KEY"),
        offers: &[
            Offer {
                takes: &["temperature", "top_p", "max_tokens", "reasoning_effort", "seed"],
                ..llm(Some("https://generativelanguage.googleapis.com/v1beta"))
            },
            sts(
                Some("https://generativelanguage.googleapis.com/v1beta"),
                Some("gemini-3.8-live"),
                &[
                    "voice",
                    "language",
                    "temperature",
                    "start_sensitivity",
                    "end_sensitivity",
                    "prefix_padding_ms",
                    "silence_duration_ms",
                ],
            ),
        ],
    },
    Row { vendor: Vendor::Ollama, name: "ollama", key: None, offers: &[llm(Some("http://127.0.0.1:11434/v1"))] },
    Row {
        vendor: Vendor::OpenAi,
        name: "openai",
        key: Some("OPENAI_API_KEY"),
        offers: &[
            Offer {
                kind: Kind::Stt,
                base: Some("https://api.openai.com/v1"),
                model: Some("gpt-4o-mini-transcribe"),
                needs: &[],
                takes: &["language", "prompt", "temperature", "realtime", "delay", "noise_reduction"],
            },
            llm(Some("https://api.openai.com/v1")),
            Offer {
                kind: Kind::Tts,
                base: Some("https://api.openai.com/v1"),
                model: Some("gpt-4o-mini-tts"),
                needs: &[],
                takes: &["voice", "instructions", "speed", "pcm_rate"],
            },
            sts(Some("https://api.openai.com/v1"), Some("gpt-realtime-2.1"), REALTIME),
        ],
    },
    Row {
        vendor: Vendor::Piper,
        name: "piper",
        key: None,
        offers: &[Offer {
            kind: Kind::Tts,
            base: Some("http://127.0.0.1:5000"),
            model: NO_MODEL,
            needs: &[],
            takes: &["voice", "speaker", "speaker_id", "length_scale", "noise_scale", "noise_w_scale"],
        }],
    },
    Row {
        vendor: Vendor::Rime,
        name: "rime",
        key: Some("RIME_API_KEY"),
        offers: &[Offer {
            kind: Kind::Tts,
            base: Some("wss://users-ws.rime.ai"),
            model: Some("mistv2"),
            needs: &["voice"],
            takes: &["language"],
        }],
    },
    Row {
        vendor: Vendor::Soniox,
        name: "soniox",
        key: Some("SONIOX_API_KEY"),
        offers: &[Offer {
            kind: Kind::Stt,
            base: Some("wss://stt-rt.soniox.com"),
            model: Some("stt-rt-v5"),
            needs: &[],
            takes: &["language", "max_endpoint_delay_ms", "endpoint_sensitivity", "client_reference_id"],
        }],
    },
    Row {
        vendor: Vendor::Speechmatics,
        name: "speechmatics",
        key: Some("SPEECHMATICS_API_KEY"),
        offers: &[Offer {
            kind: Kind::Stt,
            base: Some("wss://eu2.rt.speechmatics.com"),
            model: Some("enhanced"),
            needs: &[],
            takes: &["language", "max_delay", "end_of_utterance_silence_trigger", "vocabulary"],
        }],
    },
    Row {
        vendor: Vendor::Ultravox,
        name: "ultravox",
        key: Some("ULTRAVOX_API_KEY"),
        offers: &[sts(
            Some("https://api.ultravox.ai"),
            NO_MODEL,
            &["agent", "voice", "language", "temperature", "max_duration"],
        )],
    },
    Row {
        vendor: Vendor::Vosk,
        name: "vosk",
        key: None,
        offers: &[Offer {
            kind: Kind::Stt,
            base: Some("ws://127.0.0.1:2700"),
            model: NO_MODEL,
            needs: &[],
            takes: &["phrases", "finalize"],
        }],
    },
    Row {
        vendor: Vendor::Wyoming,
        name: "wyoming",
        key: None,
        offers: &[
            Offer {
                kind: Kind::Stt,
                base: Some("tcp://127.0.0.1:10300"),
                model: NO_MODEL,
                needs: &[],
                takes: &["language"],
            },
            Offer {
                kind: Kind::Tts,
                base: Some("tcp://127.0.0.1:10200"),
                model: NO_MODEL,
                needs: &[],
                takes: &["voice", "language", "speaker"],
            },
        ],
    },
    Row {
        vendor: Vendor::Xai,
        name: "xai",
        key: Some("XAI_API_KEY"),
        offers: &[
            llm(Some("https://api.x.ai/v1")),
            sts(
                Some("https://api.x.ai/v1"),
                Some("grok-voice-latest"),
                &["voice", "threshold", "prefix_padding_ms", "silence_duration_ms", "idle_timeout_ms", "format"],
            ),
        ],
    },
];

impl Vendor {
    /// The vendor of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        VENDORS.iter().find(|row| row.name == name).map(|row| row.vendor)
    }

    /// As it is written in front of the colon.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().map_or("", |row| row.name)
    }

    /// The variable that holds its key.
    #[must_use]
    pub fn key(self) -> Option<&'static str> {
        self.row().and_then(|row| row.key)
    }

    /// What it has to offer as `kind`.
    pub(super) fn offer(self, kind: Kind) -> Option<&'static Offer> {
        self.row()?.offers.iter().find(|offer| offer.kind == kind)
    }

    fn row(self) -> Option<&'static Row> {
        VENDORS.iter().find(|row| row.vendor == self)
    }
}

/// The names of all that can be `kind`, for a message.
#[must_use]
pub fn known(kind: Kind) -> String {
    let names = VENDORS.iter().filter(|row| row.offers.iter().any(|offer| offer.kind == kind)).map(|row| row.name);
    let names: Vec<_> = names.collect();
    if names.is_empty() { "none yet".to_owned() } else { names.join(", ") }
}
