//! What settings are refused, and in which words.

use std::collections::BTreeMap;

use crate::{
    agent::{Overrides, Route, Service, service::Secret},
    config::{Config, Sources},
};

#[test]
fn what_a_conversation_cannot_be_is_told() {
    let variables = [
        ("HARK__CALL__LANGUAGES", "de,klingon"),
        ("HARK__CALL__BARGE_IN__POLICY", "shout"),
        ("HARK__CALL__DTMF__TERMINATOR", "##"),
        ("HARK__CALL__DTMF__MIN", "9"),
        ("HARK__CALL__DTMF__MAX", "8"),
    ];
    let env: BTreeMap<_, _> = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let told = Config::load(&Sources { env, ..Sources::default() }).err().map(|faults| faults.to_string());
    let told = told.unwrap_or_default();
    for part in ["HARK__CALL__LANGUAGES", "klingon", "BARGE_IN__POLICY", "DTMF__TERMINATOR", "DTMF__MIN"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}

fn loaded(text: &str, variables: &[(&str, &str)]) -> Result<Config, crate::config::Faults> {
    let env = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::fuzz(text, &Sources { env, ..Sources::default() })
}

#[test]
fn the_websocket_listener_needs_a_port_of_its_own_and_somebody_to_ask() {
    let faults = loaded("[websocket]\nlisten = \"0.0.0.0:5001\"", &[]).unwrap_err().to_string();
    assert!(faults.contains("websocket.listen") && faults.contains("audiosocket.listen"), "{faults}");
    let open = loaded("[websocket]\nlisten = \"0.0.0.0:5002\"", &[]).unwrap();
    assert!(open.notices.iter().any(|notice| notice.contains("0.0.0.0:5002")), "{:?}", open.notices);
    let closed = "[websocket]\nlisten = \"0.0.0.0:5002\"\nusername = \"hark\"\npassword = \"hunter2\"";
    let closed = loaded(closed, &[]).unwrap();
    assert!(!closed.notices.iter().any(|notice| notice.contains("WebSocket")), "{:?}", closed.notices);
    assert!(!format!("{closed:?}").contains("hunter2"));
}

#[test]
fn vendors_have_keys_of_their_own_that_nobody_is_shown() {
    let file = "[agent]\nasr_url = \"deepgram:nova-3\"\nllm_url = \"openai:gpt-4.1-mini\"\ntts_url = \"piper:http://127.0.0.1:5000\"\n[providers.openai]\napi_key = \"hunter2\"\nbase_url = \"http://127.0.0.1:8000/v1\"\nheaders = { X-Title = \"hunter3\" }\n[profiles.german]\nagent.asr_url = \"deepgram:nova-3?language=de\"";
    let config = loaded(file, &[("DEEPGRAM_API_KEY", "hunter4")]).unwrap_or_else(|faults| panic!("{faults}"));
    let Ok(Route::Cascade { asr, llm, .. }) = Route::parse(&config.profiles["german"].agent, &Overrides::default())
    else {
        panic!("no cascade")
    };
    let (Service::Named(asr), Service::Named(llm)) = (asr.first(), llm.first()) else { panic!("no vendors") };
    assert_eq!((asr.key.as_ref().map(Secret::expose), asr.option("language")), (Some("hunter4"), Some("de")));
    assert_eq!((llm.base.as_str(), llm.headers.len()), ("http://127.0.0.1:8000/v1", 1));
    let shown = format!("{config:?} {:?} {asr:?} {llm:?} {:?}", config.agent, config.settings);
    assert!(!shown.contains("hunter"), "{shown}");
    // a key in the environment is no wish to do without HTTP
    assert!(config.http.enabled);

    let wrong = "[agent]\nasr_url = \"deepgram:nova-3?langauge=en&api_key=hunter2\"\nllm_url = \"piper:x\"\ntts_url = \"festival:x\"\n[providers.opnai]\napi_key = \"hunter2\"\n[providers.piper]\nbase_url = \"127.0.0.1\"";
    let told = loaded(wrong, &[]).expect_err("refused").to_string();
    for part in [
        "\"langauge\"; known are language",
        "DEEPGRAM_API_KEY",
        "piper cannot be a language model here; known are anthropic",
        "festival:, but only",
        "the names are anthropic",
        "providers.piper.base_url",
    ] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    assert!(!told.contains("hunter"), "{told}");
}

#[test]
fn a_secure_pbx_sends_no_websocket_media() {
    let faults = loaded("[ari]\nurl = \"https://pbx:8089\"\nmedia = \"websocket\"", &[]).unwrap_err().to_string();
    assert!(faults.contains("ari.media"), "{faults}");
}

#[test]
fn pbxs_are_read_from_variables_and_from_the_file_without_showing_passwords() {
    let file = "[ari]\nurl = \"http://pbx:8088\"\npassword = \"hunter2\"\n[ari.pbx.branch]\nurl = \"http://me:hunter2@branch:8088\"\napp = \"hark-branch\"\nformat = \"slin16\"\nheaders = [\"X-A\"]";
    let config = loaded(file, &[("ARI_APP", "front"), ("HARK__ARI__PBX__BRANCH__AFTER", "hangup")]);
    let config = config.unwrap_or_else(|faults| panic!("{faults}"));
    let names: Vec<_> = config.ari.all().map(|(name, pbx)| (name, pbx.app.as_str())).collect();
    assert_eq!(names, [("default", "front"), ("branch", "hark-branch")]);
    assert_eq!(config.ari.password, "hunter2");
    assert_eq!(config.ari.pbx["branch"].headers, ["X-A"]);
    assert_eq!(config.ari.pbx["branch"].after, crate::asterisk::ari::After::Hangup);
    assert!(!format!("{config:?} {:?}", config.ari).contains("hunter2"), "{config:?}");
    let told = |config: &Config| config.notices.iter().filter(|notice| notice.contains("ari.media_host")).count();
    assert_eq!(told(&config), 2, "{:?}", config.notices);
    let here = loaded("[ari]\nurl = \"http://127.0.0.1:8088\"", &[]).unwrap_or_else(|faults| panic!("{faults}"));
    let open = loaded(file, &[("PORT", "5001")]).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!((told(&here), told(&open)), (0, 0));
    // a PBX says nothing about what AVR's users expect of HTTP
    assert!(config.http.enabled);

    let wrong = "[ari]\nurl = \"pbx:8088\"\napp = \"a b\"\n[ari.pbx.b]\nurl = \"http://b\"\nping_ms = 1\nfromat = \"slin\"\n[ari.pbx.Up]\nurl = \"http://c\"";
    let told = loaded(wrong, &[]).expect_err("refused").to_string();
    for part in ["ari.url (in", "ari.app (in", "ari.pbx.b.ping_ms (in", "ari.pbx.b.fromat (in", "ari.pbx.Up.url (in"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}

#[test]
fn services_that_stand_in_for_one_another_are_a_list_or_a_text_with_commas() {
    let file = "[agent]\nasr_url = [\"deepgram:nova-3\", \"ws://us:hunter2@stt:1\"]\nllm_url = [\"http://llm\"]\ntts_url = \"\"\n[profiles.own]\nagent.llm_url = [\"http://one\", \"http://two\"]";
    let variables = [("DEEPGRAM_API_KEY", "hunter2"), ("TTS_URL", "http://a/x, piper:http://b:5000")];
    let config = loaded(file, &variables).unwrap_or_else(|faults| panic!("{faults}"));
    let count = |agent: &crate::agent::Config| match Route::parse(agent, &Overrides::default()) {
        Ok(Route::Cascade { asr, llm, tts, .. }) => [&asr, &llm, &tts].map(|chain| chain.iter().count()),
        other => panic!("{other:?}"),
    };
    assert_eq!((count(&config.agent), count(&config.profiles["own"].agent)), ([2, 1, 2], [2, 2, 2]));
    let embedded = "[agent]\nasr_url = [\"vosk\", \"builtin:\"]\nllm_url = \"http://llm\"\ntts_url = \"builtin:\"";
    let spare = loaded(embedded, &[]).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(count(&spare.agent), [2, 1, 1]);
    assert!(!format!("{config:?} {:?}", config.settings).contains("hunter"), "{:?}", config.settings);
    for (file, part) in [
        (
            "[agent]\nasr_url = [\"vosk\", \"festival:x\"]\nllm_url = \"http://llm\"\ntts_url = \"http://tts\"",
            "festival",
        ),
        ("[agent]\nasr_url = [7]", "a list of them"),
    ] {
        let told = loaded(file, &[]).expect_err("refused").to_string();
        assert!(told.contains(part), "{part} is not in {told}");
    }
}

#[test]
fn each_fault_of_a_list_is_told_with_the_service_that_it_is_of() {
    let file = "[agent]\nasr_url = [\"deepgram:nova-3\", \"vosk:?sped=1&token=hunter2\", \"http://stt\", \"festival://us:hunter2@x\"]\nllm_url = \"http://llm\"\ntts_url = \"http://tts\"";
    let faults = loaded(file, &[]).expect_err("refused");
    let told: Vec<_> = faults.0.iter().map(|fault| (fault.code, fault.reason.as_str())).collect();
    assert_eq!(told.len(), 3, "{faults}");
    for (at, begins) in [
        "has a fault in service 1 of 4, deepgram: it needs a key: set DEEPGRAM_API_KEY",
        "has a fault in service 2 of 4, vosk: it does not know the option \"sped\"",
        "has a service 4 of 4 that begins with festival:, but only",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(told[at].0 == "config.url" && told[at].1.starts_with(begins), "{:?}", told[at]);
    }
    assert!(!faults.to_string().contains("hunter2"), "{faults}");
}
