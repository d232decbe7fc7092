use proptest::prelude::*;

use super::*;

fn providers(name: &str, key: Option<&str>, base: Option<&str>) -> Providers {
    let provider =
        Provider { api_key: key.map(Secret::from), base_url: base.map(str::to_owned), ..Provider::default() };
    Providers([(name.to_owned(), provider)].into())
}

fn parse(value: &str, kind: Kind, providers: &Providers) -> Result<Named, ServiceError> {
    let (vendor, rest) = vendor_of(value).expect("a vendor");
    Named::parse(vendor, rest, kind, providers)
}

#[test]
fn a_language_goes_where_the_text_says_none() {
    let of = |text: &str, kind, language: &str| {
        let (vendor, rest) = vendor_of(text).unwrap();
        let provider = Provider { api_key: Some("k".into()), ..Provider::default() };
        let providers = Providers([(vendor.name().to_owned(), provider)].into());
        let mut named = Named::parse(vendor, rest, kind, &providers).unwrap();
        named.speak_language(language, kind);
        named.option("language").map(str::to_owned)
    };
    for (text, kind, language, expected) in [
        ("deepgram:nova-3", Kind::Stt, "de", Some("de")),
        ("deepgram:nova-3", Kind::Stt, "de-ch", Some("de-CH")),
        ("deepgram:nova-3?language=en", Kind::Stt, "de", Some("en")),
        ("deepgram:flux-general-en", Kind::Stt, "de", None),
        ("openai:whisper-1", Kind::Stt, "de-CH", Some("de")),
        ("openai:gpt-4.1", Kind::Llm, "de", None),
        ("elevenlabs:eleven_flash_v2_5?voice=v", Kind::Tts, "de", Some("de")),
        ("elevenlabs:eleven_multilingual_v2?voice=v", Kind::Tts, "de", None),
        ("rime:mistv2?voice=v", Kind::Tts, "de", Some("ger")),
        ("rime:mistv2?voice=v", Kind::Tts, "ja", None),
        ("vosk:", Kind::Stt, "de", None),
        // a word for the prompt alone
        ("deepgram:nova-3", Kind::Stt, "German", None),
        ("deepgram:nova-3", Kind::Stt, "", None),
    ] {
        assert_eq!(of(text, kind, language).as_deref(), expected, "{text} {language}");
    }
}

#[test]
fn an_option_of_ours_is_what_it_can_be() {
    let known = providers("openai", Some("hunter2"), None);
    for (text, kind, reason) in [
        ("vosk:?finalize=rest&base_url=ws://h", Kind::Stt, "its option finalize can only be eof or reset"),
        ("openai:m?format=ulaw", Kind::Sts, "its option format can only be pcmu or pcma or pcm"),
        ("openai:m?realtime=yes", Kind::Stt, "its option realtime can only be true or false"),
    ] {
        let error = parse(text, kind, &known).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(parse("vosk:?finalize=reset&base_url=ws://h", Kind::Stt, &known).is_ok());
    assert!(parse("openai:m?turn_detection=newest_vad", Kind::Sts, &known).is_ok());
}

#[test]
fn vendor_model_and_options() {
    let known = providers("deepgram", Some("hunter2"), None);
    let named = parse("deepgram:nova-3?language=en&keyterm=a%20b&keyterm=c", Kind::Stt, &known).unwrap();
    assert_eq!((named.vendor, named.model.as_str()), (Vendor::Deepgram, "nova-3"));
    let options: Vec<_> = named.options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(options, [("language", "en"), ("keyterm", "a b"), ("keyterm", "c")]);
    assert_eq!(named.websocket("/v1/listen").as_str(), "wss://api.deepgram.com/v1/listen");
    assert_eq!(named.http("/v1/speak").as_str(), "https://api.deepgram.com/v1/speak");
    assert_eq!(format!("{named:?}"), "\"deepgram:nova-3\"");
    assert_eq!(parse("deepgram", Kind::Tts, &known).unwrap().model, "aura-2-thalia-en");
}

#[test]
fn a_server_of_ones_own_needs_no_key() {
    let none = Providers::default();
    let vosk = parse("vosk:ws://127.0.0.1:2701", Kind::Stt, &none).unwrap();
    assert_eq!((vosk.model.as_str(), vosk.base.as_str()), ("", "ws://127.0.0.1:2701/"));
    assert_eq!(parse("wyoming:", Kind::Tts, &none).unwrap().base.as_str(), "tcp://127.0.0.1:10200");
    let kokoro = parse("openai:kokoro?base_url=http://kokoro:8880/v1/&voice=af_bella", Kind::Tts, &none).unwrap();
    assert_eq!(kokoro.http("/audio/speech").as_str(), "http://kokoro:8880/v1/audio/speech");
    assert_eq!(kokoro.to_string(), "openai:kokoro at http://kokoro:8880/v1/");
    let own = parse("openai:http://me:hunter2@kokoro:8880/v1?model=kokoro", Kind::Tts, &none).unwrap();
    assert_eq!((own.model.as_str(), own.to_string().as_str()), ("kokoro", "openai:kokoro at http://kokoro:8880/v1"));
    let set = providers("openai", None, Some("http://here:1/v1"));
    assert_eq!(parse("openai:m:20b", Kind::Llm, &set).unwrap().to_string(), "openai:m:20b at http://here:1/v1");
}

#[test]
fn everything_that_is_wrong_is_said_at_once_and_without_keys() {
    let none = Providers::default();
    let wrong = parse("elevenlabs:?sped=2&api_key=hunter2&base_url=ftp://x", Kind::Tts, &none).unwrap_err();
    let told = wrong.to_string();
    for part in ["\"sped\"; known are voice, language", "ELEVENLABS_API_KEY", "?voice=", "ftp:"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    assert!(!told.contains("hunter2"));
    let told = parse("deepgram:nova-3", Kind::Stt, &none).unwrap_err().to_string();
    assert_eq!(told, "it needs a key: set DEEPGRAM_API_KEY, or api_key in [providers.deepgram]");
    let told = parse("openai", Kind::Llm, &providers("openai", Some("x"), None)).unwrap_err().to_string();
    assert_eq!(told, "it names no model: write openai:MODEL");
    let told = parse("piper:x", Kind::Stt, &none).unwrap_err().to_string();
    assert!(
        told.starts_with("piper cannot be speech recognition here; known are assemblyai, builtin, deepgram"),
        "{told}"
    );
}

#[test]
fn keys_and_headers_are_not_shown_and_must_fit_a_header() {
    let mut known = providers("openai", Some("hunter2"), None);
    let headers = BTreeMap::from([("x-title".to_owned(), Secret::from("hunter3"))]);
    known.0.get_mut("openai").unwrap().headers = headers;
    let named = parse("openai:m", Kind::Llm, &known).unwrap();
    assert_eq!(named.headers["x-title"], "hunter3");
    assert!(!format!("{named:?} {known:?} {:?}", named.headers).contains("hunter"));
    let told = parse("openai:m", Kind::Llm, &providers("openai", Some("a\nb"), None)).unwrap_err().to_string();
    assert!(told.contains("cannot be sent in a header") && !told.contains("a\nb"), "{told}");
}

#[test]
fn what_is_no_vendor_is_left_to_urls() {
    for value in ["http://x", "ws://x", "localhost:6030", "ftp://x", "", "Deepgram:x"] {
        assert!(vendor_of(value).is_none(), "{value}");
    }
}

#[test]
fn the_table_agrees_with_itself() {
    for row in VENDORS {
        assert_eq!(Vendor::named(row.name), Some(row.vendor));
        assert_eq!(VENDORS.iter().filter(|other| other.name == row.name || other.vendor == row.vendor).count(), 1);
        for offer in row.offers {
            assert!(offer.base.is_none_or(|base| base_url(base).is_ok()), "{}", row.name);
            assert_eq!(row.offers.iter().filter(|other| other.kind == offer.kind).count(), 1, "{}", row.name);
        }
    }
}

proptest! {
    #[test]
    fn any_text_ends_in_a_service_or_an_error(vendor in 0..VENDORS.len(), rest in any::<String>()) {
        for kind in [Kind::Stt, Kind::Llm, Kind::Tts, Kind::Sts] {
            if let Ok(named) = Named::parse(VENDORS[vendor].vendor, &rest, kind, &Providers::default()) {
                let _ = named.http("/x");
                let _ = named.websocket("/x");
            }
        }
    }
}
