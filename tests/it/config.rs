//! A user of AVR starts Hark with the environment that is there; a user with mistakes hears of all of them.

use std::{collections::BTreeMap, path::PathBuf};

use hark::config::{Config, Sources};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/config").join(name)
}

/// The variables of an env file, quotes kept as Docker keeps them.
fn env_file(name: &str) -> Sources {
    let text = std::fs::read_to_string(fixture(name)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let env: BTreeMap<_, _> =
        lines.filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    Sources { env, ..Sources::default() }
}

#[test]
fn the_environment_of_avr_infra_is_taken_as_it_is() {
    let config = Config::load(&env_file("avr-infra.env")).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(config.audiosocket.listen.to_string(), "0.0.0.0:5001");
    assert!(!config.http.enabled);
    assert_eq!(config.agent.greeting.as_deref(), Some("Hello, how can I help you today?"));
    assert_eq!(config.webhooks.url.as_deref(), Some("http://avr-webhook:9000/events"));
    assert_eq!(config.webhooks.agent_id, None);
    // AVR's defaults, written out, change nothing
    assert_eq!(format!("{:?}", config.call.vad), format!("{:?}", hark::call::Vad::default()));
    assert!((config.call.ambient_level - 0.9).abs() < 1e-6);
}

#[test]
fn speech_to_speech_with_the_http_service() {
    let config = Config::load(&env_file("sts.env")).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(config.http.enabled);
    assert_eq!(config.http.listen.to_string(), "0.0.0.0:6001");
    assert_eq!(config.agent.sts_url.as_deref(), Some("ws://avr-sts-openai:6030"));
}

#[test]
fn every_fault_of_a_file_is_reported_at_once() {
    let sources = Sources { file: Some(fixture("every-fault.toml")), ..Sources::default() };
    let faults = Config::load(&sources).expect_err("should be refused");
    let keys: Vec<&str> = faults.0.iter().filter_map(|fault| fault.key.split(' ').next()).collect();
    for key in [
        "data_dir",
        "colour",
        "audiosocket.listen",
        "audiosocket.allow",
        "audiosocket.g711",
        "audiosocket.uuid_timeout_ms",
        "call.ambient_level",
        "call.dtmf_mask",
        "call.vad.positive",
        "call.vad.treshold",
        "agent.sts_url",
        "webhooks.url",
        "webhooks.retry",
        "limits.max_calls",
        "limits.media_threads",
        "log.level",
        "log.format",
    ] {
        assert_eq!(keys.iter().filter(|found| **found == key).count(), 1, "{key} in\n{faults}");
    }
    assert_eq!(keys.len(), 17, "{faults}");
}
