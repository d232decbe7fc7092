#![allow(clippy::unwrap_used, clippy::expect_used)]

mod shown;

use std::fmt::Debug;

use serde::de::DeserializeOwned;

use super::*;
use crate::webhook::{EndpointConfig, schedule::Retry};

fn env(variables: &[(&str, &str)]) -> Sources {
    let env = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Sources { env, ..Sources::default() }
}

fn load(variables: &[(&str, &str)]) -> Config {
    Config::load(&env(variables)).unwrap_or_else(|faults| panic!("{faults}"))
}

fn faults(variables: &[(&str, &str)]) -> Faults {
    Config::load(&env(variables)).expect_err("should be refused")
}

fn with_file(text: &str, variables: &[(&str, &str)]) -> Result<Config, Faults> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hark.toml");
    fs::write(&path, text).unwrap();
    Config::load(&Sources { file: Some(path), ..env(variables) })
}

/// The keys of a section's struct: serde names them when it meets one that it does not know.
fn fields<T: DeserializeOwned>() -> Vec<String> {
    let error = match toml::from_str::<T>("no_such_key = 1") {
        Ok(_) => panic!("takes unknown keys"),
        Err(error) => error.message().to_owned(),
    };
    error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
}

#[test]
fn default_toml_is_the_default_of_every_struct() {
    fn same<T: Debug>(parsed: &T, default: &T) {
        assert_eq!(format!("{parsed:?}"), format!("{default:?}"));
    }
    let (parsed, default) = (load(&[]), Config::default());
    same(&parsed.audiosocket, &default.audiosocket);
    same(&parsed.ari, &default.ari);
    same(&parsed.http, &default.http);
    same(&parsed.agent, &default.agent);
    same(&parsed.call, &default.call);
    same(&parsed.audio, &default.audio);
    same(&parsed.recording, &default.recording);
    same(&parsed.webhooks, &default.webhooks);
    same(&parsed.routing, &default.routing);
    same(&parsed.database, &default.database);
    same(&parsed.tls, &default.tls);
    same(&parsed.limits, &default.limits);
    same(&parsed.log, &default.log);
    same(&parsed.data_dir, &default.data_dir);
}

#[test]
fn default_toml_has_every_key_of_every_struct() {
    let schema = Schema::new();
    let mut known: Vec<&str> = schema.keys().collect();
    let mut expected: Vec<String> = vec!["data_dir".to_owned()];
    for (section, fields) in [
        ("audiosocket", fields::<audiosocket::Config>()),
        ("ari", fields::<crate::asterisk::ari::Config>()),
        ("ari_server", fields::<crate::asterisk::ari::server::Config>()),
        ("websocket", fields::<crate::asterisk::websocket::Config>()),
        ("rtp", fields::<crate::asterisk::rtp::Config>()),
        ("http", fields::<api::Config>()),
        ("agent", fields::<agent::Config>()),
        ("embedded", fields::<agent::embedded::Config>()),
        ("models", fields::<Models>()),
        ("call", fields::<call::Config>()),
        ("call.vad", fields::<call::Vad>()),
        ("recording", fields::<crate::recording::Config>()),
        ("audio", fields::<audio::Config>()),
        ("call.barge_in", fields::<call::BargeIn>()),
        ("call.endpoint", fields::<call::Endpoint>()),
        ("call.idle", fields::<call::Idle>()),
        ("call.dtmf", fields::<call::Dtmf>()),
        ("webhooks", fields::<webhook::Config>()),
        ("webhooks.initiate", fields::<webhook::Initiate>()),
        ("ami", fields::<crate::asterisk::ami::Config>()),
        ("outbound", fields::<Outbound>()),
        ("routing", fields::<Routing>()),
        ("database", fields::<Database>()),
        ("tls", fields::<Tls>()),
        ("limits", fields::<Limits>()),
        ("log", fields::<Log>()),
    ] {
        assert!(!fields.is_empty(), "{section}");
        expected.extend(fields.iter().map(|field| format!("{section}.{field}")));
    }
    let sections = [
        "ari.pbx",
        "outbound.dial",
        "call.vad",
        "call.barge_in",
        "call.endpoint",
        "call.idle",
        "call.dtmf",
        "webhooks.endpoints",
        "webhooks.initiate",
    ];
    expected.retain(|key| !sections.contains(&key.as_str()));
    expected.sort();
    known.sort_unstable();
    assert_eq!(known, expected);
}

#[test]
fn endpoint_toml_has_every_key_and_default_of_an_endpoint() {
    let parsed: EndpointConfig = toml::from_str(layer::ENDPOINT_DEFAULTS).unwrap();
    let empty_is_unset = |text: String| text.replace("Some(\"\")", "None").replace("Some(\"***\")", "None");
    let default = EndpointConfig { payload: Some(String::new()), ..EndpointConfig::default() };
    assert_eq!(empty_is_unset(format!("{parsed:?}")), empty_is_unset(format!("{default:?}")));
    let written: toml::Table = toml::from_str(layer::ENDPOINT_DEFAULTS).unwrap();
    let mut expected = fields::<EndpointConfig>();
    expected.retain(|key| key != "headers");
    expected.sort();
    let mut known: Vec<_> = written.keys().cloned().collect();
    known.sort();
    assert_eq!(known, expected);
}

#[test]
fn further_receivers_are_written_in_any_of_their_forms() {
    let by_name = "[webhooks]\nurl = \"http://a/\"\n[webhooks.endpoints.crm]\nurl = \"http://b/\"\nheaders = { X-Tenant = \"7\" }";
    let listed = "[webhooks]\nurl = \"http://a/\"\n[[webhooks.endpoints]]\nname = \"crm\"\nurl = \"http://b/\"\nheaders.X-Tenant = \"7\"";
    let alone = "[[webhooks]]\nname = \"crm\"\nurl = \"http://b/\"\nheaders.X-Tenant = \"7\"";
    for (text, variables) in [(by_name, &[][..]), (listed, &[]), (alone, &[("WEBHOOK_URL", "http://a/")])] {
        let webhooks = with_file(text, variables).unwrap_or_else(|faults| panic!("{faults}")).webhooks;
        assert_eq!(webhooks.url.as_deref(), Some("http://a/"));
        let crm = &webhooks.endpoints["crm"];
        assert_eq!((crm.url.as_deref(), crm.retry), (Some("http://b/"), Retry::Durable));
        assert_eq!(crm.headers["X-Tenant"], "7");
    }
    let config = load(&[
        ("HARK__WEBHOOKS__ENDPOINTS__CRM__URL", "http://b/{{uuid}}"),
        ("HARK__WEBHOOKS__ENDPOINTS__CRM__EVENTS", "call_ended, turn"),
        ("HARK__WEBHOOKS__ENDPOINTS__CRM__RETRY", "3"),
        ("HARK__WEBHOOKS__ENDPOINTS__CRM__RATE", "2.5"),
        ("HARK__WEBHOOKS__ENDPOINTS__CRM__AUTH", "BEARER_TOKEN"),
        ("HARK__WEBHOOKS__ENDPOINTS__CRM__AUTH_FROM", "env:TOKEN"),
        ("HARK__WEBHOOKS__ENDPOINTS__CRM__HEADERS__TENANT", "8"),
        ("WEBHOOK_RETRY", "durable"),
    ]);
    assert_eq!(config.webhooks.retry, Retry::Durable);
    let crm = &config.webhooks.endpoints["crm"];
    assert_eq!(
        (crm.events.as_slice(), crm.retry, crm.rate),
        (&["call_ended".to_owned(), "turn".to_owned()][..], Retry::Times(3), 2.5)
    );
    assert_eq!(crm.headers["tenant"], "8");
    let shown = |key: &str| {
        config.settings.iter().find(|s| s.key == format!("webhooks.endpoints.crm.{key}")).unwrap().value.clone()
    };
    assert_eq!((shown("auth"), shown("auth_from")), ("\"BEARER_TOKEN\"".to_owned(), "\"env:TOKEN\"".to_owned()));
}

#[test]
fn faults_of_further_receivers_are_reported_at_once() {
    let file = "[[webhooks.endpoints]]\nurl = \"http://a/\"\n[[webhooks.endpoints]]\nname = \"b\"\nurl = \"http://b/\"\nretry = 1000\nevnts = []\nauth = \"TOKEN\"\n\
                [[webhooks.endpoints]]\nname = \"b\"\n[[webhooks.endpoints]]\nname = \"c\"\nevents = [\"x\"]\nheaders.X-Token = \"hunter2\"\nsigning_secret = \"hunter2\"\n\
                [[webhooks.endpoints]]\nname = \"default\"\nurl = \"http://d/\"\n[[webhooks.endpoints]]\nname = \"Up\"\nurl = \"http://d/\"\n[routing]\nallow_hosts = [\"http://x\"]";
    let faults = with_file(file, &[("WEBHOOK_SIGNING_SECRET", "hunter2")]).expect_err("should be refused");
    let text = faults.to_string();
    for part in [
        "webhooks.endpoints, number 1 (in",
        "webhooks.endpoints, number 3 (in",
        "webhooks.endpoints.b.retry (in",
        "Did you mean webhooks.endpoints.b.events?",
        "webhooks.endpoints.b.auth (in",
        "webhooks.endpoints.c.url: is not set",
        "webhooks.endpoints.c.events (in",
        "webhooks.endpoints.c.headers.X-Token (in",
        "webhooks.endpoints.c.signing_secret (in",
        "webhooks.endpoints.default.url (in",
        "webhooks.endpoints.Up.url (in",
        "routing.allow_hosts (in",
        "WEBHOOK_SIGNING_SECRET = \"***\"",
    ] {
        assert_eq!(text.matches(part).count(), 1, "{part} in\n{text}");
    }
    assert_eq!(faults.0.len(), 13, "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn recordings_cannot_be_kept_for_a_negative_time_or_served_from_nowhere() {
    let faults =
        with_file("[recording]\nkeep_days = -1\nurl = \"x\"\n", &[]).expect_err("should be refused").to_string();
    assert!(faults.contains("recording.keep_days") && faults.contains("e.g. https://files.example.org"), "{faults}");
}

#[test]
fn every_default_is_explained() {
    let mut explained = false;
    for line in DEFAULTS.lines().chain(layer::ENDPOINT_DEFAULTS.lines()).filter(|line| !line.is_empty()) {
        assert!(line.starts_with(['#', '[']) || explained, "no comment above: {line}");
        explained = line.starts_with('#');
    }
}

#[test]
fn layers_win_in_their_order() {
    let file = "[webhooks]\nretry = 1\ntimeout_ms = 1\n[limits]\nmax_calls = 1\n[call]\nmax_queue_s = 1";
    let config = with_file(
        file,
        &[
            ("HARK__WEBHOOKS__RETRY", "2"),
            ("HARK__WEBHOOKS__TIMEOUT_MS", "2"),
            ("HARK__LIMITS__MAX_CALLS", "2"),
            ("WEBHOOK_RETRY", "3"),
        ],
    )
    .unwrap();
    assert_eq!((config.webhooks.retry, config.webhooks.timeout_ms), (Retry::Times(3), 2));
    assert_eq!((config.limits.max_calls, config.call.max_queue_s), (2, 1));
    assert_eq!(config.webhooks.backoff_ms, 1_000);
    let options = vec![("--log-level", "log.level", "debug".to_owned())];
    let config = Config::load(&Sources { options, ..env(&[("HARK__LOG__LEVEL", "warn")]) }).unwrap();
    assert_eq!(config.log.level, "debug");
}

#[test]
fn a_file_is_found_where_it_is_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let (named, found) = (dir.path().join("named.toml"), dir.path().join("found.toml"));
    fs::write(&named, "[limits]\nmax_calls = 7").unwrap();
    fs::write(&found, "[limits]\nmax_calls = 9").unwrap();
    let search = vec![dir.path().join("absent.toml"), found];
    let by_env = Sources { search: search.clone(), ..env(&[("HARK_CONFIG", named.to_str().unwrap())]) };
    assert_eq!(Config::load(&by_env).unwrap().limits.max_calls, 7);
    assert_eq!(Config::load(&Sources { search, ..env(&[]) }).unwrap().limits.max_calls, 9);
    let absent = faults(&[("HARK_CONFIG", "/nonexistent/hark.toml")]);
    assert_eq!(absent.0[0].code, "config.file");
    assert!(absent.to_string().contains("/nonexistent/hark.toml"), "{absent}");
}

#[test]
fn types_of_the_environment_are_those_of_the_setting() {
    let config = load(&[
        ("HARK__AUDIOSOCKET__ALLOW", "10.0.0.0/8, 192.168.1.20/32"),
        ("HARK__AUDIOSOCKET__G711", "alaw"),
        ("HARK__CALL__DTMF_MASK", "true"),
        ("HARK__CALL__VAD__POSITIVE", "0.6"),
        ("HARK__LIMITS__MEDIA_THREADS", "3"),
        ("HARK__AGENT__GREETING", "true"),
        ("HARK_DATA_DIR", "/var/lib/hark"),
    ]);
    assert_eq!(config.audiosocket.allow.len(), 2);
    assert_eq!(config.audiosocket.g711, audiosocket::G711::Alaw);
    assert!(config.call.dtmf_mask);
    assert!((config.call.vad.positive - 0.6).abs() < 1e-6);
    assert_eq!(config.limits.media_threads, 3);
    assert_eq!(config.agent.greeting.as_deref(), Some("true"));
    assert_eq!(config.data_dir, Path::new("/var/lib/hark"));
}

#[test]
fn the_environment_of_avr_infra_is_taken_as_it_is() {
    let config = load(&[
        ("PORT", "5001"),
        ("ASR_URL", "http://avr-asr-deepgram:6010/speech-to-text-stream"),
        ("LLM_URL", "http://avr-llm-openai:6002/prompt-stream"),
        ("TTS_URL", "http://avr-tts-deepgram:6011/text-to-speech-stream"),
        ("INTERRUPT_LISTENING", "true"),
        ("SYSTEM_MESSAGE", "\"Hello, how can I help you today?\""),
        ("AMBIENT_NOISE_FILE", "ambient_sounds/office_background.raw"),
        ("AMBIENT_NOISE_LEVEL", "0.10"),
        ("WEBHOOK_URL", "undefined"),
        ("WEBHOOK_SECRET", "undefined"),
        ("WEBHOOK_TIMEOUT", ""),
        ("STS_URL", "null"),
        ("AGENT_ID", "a1"),
        ("AGENT_NAME", "reception"),
    ]);
    assert_eq!(config.audiosocket.listen.to_string(), "0.0.0.0:5001");
    assert!(!config.http.enabled);
    assert_eq!(config.agent.asr_url.as_deref(), Some("http://avr-asr-deepgram:6010/speech-to-text-stream"));
    assert_eq!(config.agent.greeting.as_deref(), Some("Hello, how can I help you today?"));
    assert!(config.call.interrupt_listening);
    assert!((config.call.ambient_level - 0.1).abs() < 1e-6);
    assert_eq!((config.agent.sts_url, config.webhooks.url, config.webhooks.secret), (None, None, None));
    assert_eq!(config.webhooks.timeout_ms, 3_000);
    assert_eq!(config.webhooks.agent_id.as_deref(), Some("a1"));
}

#[test]
fn listeners_are_on_loopback_unless_told_otherwise() {
    let config = load(&[]);
    assert!(
        config.http.enabled && config.http.listen.ip().is_loopback() && config.audiosocket.listen.ip().is_loopback()
    );
    let config = load(&[("HTTP_PORT", "6002")]);
    assert!(config.http.enabled);
    assert_eq!(config.http.listen.to_string(), "0.0.0.0:6002");
    assert!(config.audiosocket.listen.ip().is_loopback());
    assert!(config.notices.iter().any(|notice| notice.contains("no authentication")), "{:?}", config.notices);
}

#[test]
fn a_port_that_opens_a_narrower_address_is_told() {
    let told = |listen| {
        let config = load(&[("PORT", "5002"), ("HARK__AUDIOSOCKET__LISTEN", listen)]);
        assert_eq!(config.audiosocket.listen.to_string(), "0.0.0.0:5002");
        config.notices.iter().any(|notice| notice.contains("all interfaces"))
    };
    assert!(told("10.0.0.5:5001") && !told("0.0.0.0:5001"));
}

#[test]
fn http_is_off_with_variables_of_avr_unless_decided() {
    assert!(!load(&[("STS_URL", "ws://localhost:6030")]).http.enabled);
    assert!(load(&[("STS_URL", "ws://localhost:6030"), ("HTTP_PORT", "6001")]).http.enabled);
    assert!(load(&[("STS_URL", "ws://localhost:6030"), ("HARK__HTTP__ENABLED", "true")]).http.enabled);
    assert!(load(&[("STS_URL", "undefined")]).http.enabled);
    assert!(load(&[("HARK__AGENT__STS_URL", "ws://localhost:6030")]).http.enabled);
}

#[test]
fn lower_case_aliases_yield_to_their_proper_names() {
    let config = load(&[
        ("asr_URL", "http://old:1"),
        ("ASR_URL", "http://new:1"),
        ("llm_URL", "http://old:2"),
        ("tts_URL", "http://old:3"),
    ]);
    assert_eq!(config.agent.asr_url.as_deref(), Some("http://new:1"));
    assert_eq!(config.agent.tts_url.as_deref(), Some("http://old:3"));
}

#[test]
fn vad_variables_are_numbers_on_the_scale_of_avr() {
    let avr = load(&[
        ("VAD_POSITIVE_SPEECH_THRESHOLD", "0.08"),
        ("VAD_NEGATIVE_SPEECH_THRESHOLD", "0.03"),
        ("VAD_MIN_SPEECH_FRAMES", "3"),
        ("VAD_PRE_SPEECH_PAD_FRAMES", "3"),
        ("VAD_REDEMPTION_FRAMES", "8"),
        ("VAD_FRAME_SAMPLES", "512"),
        ("VAD_MODEL", "v5"),
    ]);
    assert_eq!(format!("{:?}", avr.call.vad), format!("{:?}", call::Vad::default()));
    assert_eq!(avr.notices.iter().filter(|notice| notice.contains("VAD_MODEL")).count(), 1);
    let longer = load(&[("VAD_MIN_SPEECH_FRAMES", "5"), ("VAD_FRAME_SAMPLES", "1024")]).call.vad;
    assert_eq!((longer.min_speech_ms, longer.redemption_ms), (640, 1024));
    let typo = load(&[("VAD_POSITIVE_TRESHOLD", "0.5")]);
    assert!(typo.notices.iter().any(|notice| notice.contains("VAD_POSITIVE_TRESHOLD")));
}

#[test]
fn every_fault_is_reported_at_once() {
    let file =
        "[webhooks]\nretry = \"often\"\nretires = 3\n[call]\nambient_level = 1\n[colour]\nred = 1\n[log]\nlevel = 3";
    let faults = with_file(
        file,
        &[
            ("AMBIENT_NOISE_LEVEL", "1.5"),
            ("PORT", "five"),
            ("STS_URL", "localhost:6030"),
            ("WEBHOOK_URL", "ftp://host/x"),
            ("WEBHOOK_RETRY", "for ever"),
            ("VAD_FRAME_SAMPLES", "0"),
            ("VAD_MODEL", "v9"),
            ("INTERRUPT_LISTENING", "perhaps"),
            ("HARK__CALL__AMBIENT_LEVLE", "0.1"),
            ("HARK__AUDIOSOCKET__ALLOW", "10.0.0.0/8,everybody"),
            ("HARK__AUDIOSOCKET__G711", "mp3"),
            ("HARK__LIMITS__MAX_CALLS", "0"),
            ("HARK__HTTP__LISTEN", "6001"),
        ],
    )
    .expect_err("should be refused");
    let text = faults.to_string();
    for key in [
        "webhooks.retry (in",
        "webhooks.retires (in",
        "colour.red (in",
        "log.level (in",
        "AMBIENT_NOISE_LEVEL = \"1.5\"",
        "PORT = \"five\"",
        "STS_URL = ",
        "WEBHOOK_URL = ",
        "WEBHOOK_RETRY = ",
        "VAD_FRAME_SAMPLES = \"0\"",
        "VAD_MODEL = ",
        "INTERRUPT_LISTENING = ",
        "HARK__CALL__AMBIENT_LEVLE",
        "HARK__AUDIOSOCKET__ALLOW = ",
        "HARK__AUDIOSOCKET__G711 = \"mp3\"",
        "HARK__LIMITS__MAX_CALLS = \"0\"",
        "HARK__HTTP__LISTEN = \"6001\"",
    ] {
        assert_eq!(text.matches(key).count(), 1, "{key} in\n{text}");
    }
    assert_eq!(faults.0.len(), 17, "{text}");
    assert!(
        text.contains("Did you mean webhooks.retry?") && text.contains("Did you mean call.ambient_level?"),
        "{text}"
    );
    assert!(faults.0.iter().all(|fault| !fault.advice.is_empty() && fault.code.starts_with("config.")));
}

#[test]
fn ambient_level_is_checked_without_a_file() {
    for level in ["-0.1", "1.01", "NaN", "loud"] {
        let faults = faults(&[("AMBIENT_NOISE_LEVEL", level)]);
        assert_eq!(faults.0.len(), 1, "{faults}");
    }
    for level in ["0", "1", "0.0", "1.0", " 0.5 "] {
        load(&[("AMBIENT_NOISE_LEVEL", level)]);
    }
}

#[test]
fn settings_that_cannot_go_together_are_faults() {
    let collision = faults(&[("PORT", "6001"), ("HTTP_PORT", "6001")]);
    assert!(
        collision.to_string().contains("HTTP_PORT") && collision.to_string().contains("of PORT too (0.0.0.0:6001)"),
        "{collision}"
    );
    assert_eq!(collision.0[0].code, "config.conflict");
    load(&[("PORT", "6001")]); // HTTP is off
    load(&[("HARK__AUDIOSOCKET__LISTEN", "127.0.0.1:0"), ("HARK__HTTP__LISTEN", "127.0.0.1:0")]);
    let thresholds = faults(&[("VAD_NEGATIVE_SPEECH_THRESHOLD", "0.2")]);
    assert!(thresholds.0[0].key == "VAD_NEGATIVE_SPEECH_THRESHOLD", "{thresholds}");
    let registration = faults(&[("PORT", "5001"), ("HARK__AUDIOSOCKET__REQUIRE_REGISTRATION", "true")]);
    assert!(registration.to_string().contains("POST /call"), "{registration}");
}

#[test]
fn the_embedded_agents_files_are_looked_for_and_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script.toml");
    std::fs::write(&script, "[say]\ngreeting = \"Hi\"\ngreting = \"Hi\"\n").unwrap();
    let wrong = faults(&[("HARK__EMBEDDED__SCRIPT", script.to_str().unwrap())]);
    assert_eq!((wrong.0.len(), wrong.0[0].code), (1, "config.script"), "{wrong}");
    assert!(wrong.0[0].reason.contains("say.greting: there is no such sentence"), "{wrong}");
    std::fs::write(&script, "[say]\ngreeting = \"Hi\"\n").unwrap();
    let config = load(&[("HARK__EMBEDDED__SCRIPT", script.to_str().unwrap()), ("HOME", "/h")]);
    assert_eq!(config.models.dir, Path::new("/h/.local/share/hark/models"));
    assert_eq!(load(&[("HARK__MODELS__DIR", "/m"), ("HOME", "/h")]).models.dir, Path::new("/m"));
}

#[test]
fn a_cascade_is_whole_or_not_at_all() {
    let partial = faults(&[("ASR_URL", "http://asr:6010"), ("HARK__AGENT__TTS_URL", "http://tts:6011")]);
    assert_eq!((partial.0.len(), partial.0[0].code), (1, "config.conflict"), "{partial}");
    assert!(partial.0[0].key == "ASR_URL" && partial.0[0].reason.contains("agent.llm_url"), "{partial}");
    // the embedded ears beside other services
    load(&[("ASR_URL", "builtin:"), ("LLM_URL", "http://llm:1"), ("TTS_URL", "http://tts:1")]);
    load(&[("STS_URL", "builtin")]);
    load(&[("ASR_URL", "http://asr:6010"), ("STS_URL", "ws://sts:6030")]);
}

#[test]
fn what_is_shown_can_be_read_again() {
    let config = load(&[
        ("HARK__AUDIOSOCKET__ALLOW", "10.0.0.0/8,::1/128"),
        ("SYSTEM_MESSAGE", "say \"hi\""),
        ("VAD_POSITIVE_SPEECH_THRESHOLD", "0.2"),
        ("HARK__LIMITS__MEDIA_THREADS", "2"),
    ]);
    let text: String = config.settings.iter().map(|setting| format!("{} = {}\n", setting.key, setting.value)).collect();
    let again = with_file(&text, &[]).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    let values = |config: &Config| config.settings.iter().map(|s| (s.key.clone(), s.value.clone())).collect::<Vec<_>>();
    assert_eq!(values(&again), values(&config));
}
