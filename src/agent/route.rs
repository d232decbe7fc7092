//! Which services a call is served by.

use std::fmt;

use url::Url;

use super::{
    Chain, Config, Service,
    service::{self, Kind, Named, ServiceError},
    websocket,
};

/// The services of one call, parsed.
#[derive(Clone, PartialEq, Eq)]
pub enum Route {
    /// Speech to speech over a WebSocket (contract section 4.1).
    StsWebSocket(Url),
    /// Speech to speech over HTTP (contract section 4.2).
    StsHttp(Url),
    /// Speech to speech of a vendor.
    StsVendor {
        /// Which.
        service: Box<Named>,
        /// Spoken at the start.
        greeting: Option<String>,
    },
    /// Recognition, language model and synthesis, one after another.
    Cascade {
        /// Speech recognition.
        asr: Chain,
        /// Language model.
        llm: Chain,
        /// Speech synthesis.
        tts: Chain,
        /// Spoken at the start.
        greeting: Option<String>,
    },
    /// The embedded agent.
    Builtin {
        /// Spoken at the start, in place of the embedded agent's own.
        greeting: Option<String>,
    },
}

/// What one call has of its own in place of the settings (`POST /call`, `call_initiated`). Empty texts count as absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Speech-to-speech service.
    pub sts: Option<String>,
    /// Speech recognition service.
    pub asr: Option<String>,
    /// Language model service.
    pub llm: Option<String>,
    /// Speech synthesis service.
    pub tts: Option<String>,
    /// Greeting.
    pub greeting: Option<String>,
}

/// Why there is no route. Its text holds no credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// A value that is no URL.
    #[error("{key} = {value:?} is no URL: {reason}")]
    NotAUrl {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A scheme that no adapter speaks.
    #[error("{key} = {value:?}: the scheme {scheme:?} is not known; {known}")]
    Scheme {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// The scheme.
        scheme: String,
        /// What is known.
        known: String,
    },
    /// A vendor's service that cannot be.
    #[error("{key} = {value:?}: {error}")]
    Named {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        error: ServiceError,
    },
    /// Some services of a cascade are set and others are not.
    #[error(
        "{missing} is missing: {set} is set, but a cascade needs asr_url, llm_url and tts_url (set sts_url for one service that does \
         all, or none of the four for the embedded agent)"
    )]
    Missing {
        /// What is missing.
        missing: String,
        /// What is set.
        set: String,
    },
}

const STS: &str = "agent.sts_url";
const ASR: &str = "agent.asr_url";
const LLM: &str = "agent.llm_url";
const TTS: &str = "agent.tts_url";

impl Route {
    /// The services of a call with these settings and `overrides`.
    ///
    /// Speech to speech wins over a cascade; of what a call has of its own, a cascade's service also wins over the speech-to-speech
    /// service of the settings.
    ///
    /// # Errors
    /// A URL is wrong, or a cascade is not complete.
    pub fn parse(config: &Config, overrides: &Overrides) -> Result<Self, RouteError> {
        let greeting = given(overrides.greeting.as_ref()).or(given(config.greeting.as_ref())).map(str::to_owned);
        let own = [&overrides.asr, &overrides.llm, &overrides.tts].into_iter().any(|url| given(url.as_ref()).is_some());
        let sts = given(overrides.sts.as_ref()).or(given(config.sts_url.as_ref()).filter(|_| !own));
        if let Some(value) = sts {
            return speech_to_speech(value, config, greeting);
        }
        let asr = given(overrides.asr.as_ref()).or(given(config.asr_url.as_ref()));
        let llm = given(overrides.llm.as_ref()).or(given(config.llm_url.as_ref()));
        let tts = given(overrides.tts.as_ref()).or(given(config.tts_url.as_ref()));
        let services = [(ASR, asr), (LLM, llm), (TTS, tts)];
        if services.iter().all(|(_, value)| value.is_none_or(is_builtin)) {
            return Ok(Self::Builtin { greeting });
        }
        let (Some(asr), Some(llm), Some(tts)) = (asr, llm, tts) else {
            let names = |wanted: bool| {
                let names = services.iter().filter(|(_, value)| value.is_some() == wanted).map(|(key, _)| *key);
                names.collect::<Vec<_>>().join(", ")
            };
            return Err(RouteError::Missing { missing: names(false), set: names(true) });
        };
        Ok(Self::Cascade {
            asr: chain(ASR, asr, overrides.asr.as_ref(), Kind::Stt, config)?,
            llm: chain(LLM, llm, overrides.llm.as_ref(), Kind::Llm, config)?,
            tts: chain(TTS, tts, overrides.tts.as_ref(), Kind::Tts, config)?,
            greeting,
        })
    }

    /// The same with the embedded receptionist, where its models are there, in the place of the agent that only repeats.
    ///
    /// # Errors
    /// None that is known: the embedded services need nothing.
    pub fn receptionist(self, config: &Config) -> Result<Self, RouteError> {
        let (Self::Builtin { greeting }, Some(embedded)) = (&self, &config.embedded) else { return Ok(self) };
        let part = |key, kind| service(key, "builtin:", kind, config).map(Chain::from);
        Ok(Self::Cascade {
            asr: part(ASR, Kind::Stt)?,
            llm: part(LLM, Kind::Llm)?,
            tts: part(TTS, Kind::Tts)?,
            greeting: Some(greeting.clone().unwrap_or_else(|| embedded.script.greeting())),
        })
    }

    /// Whether it has a part of the embedded engine.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        match self {
            Self::Cascade { asr, tts, .. } => [asr, tts].into_iter().flat_map(Chain::iter).any(Service::is_embedded),
            _ => false,
        }
    }

    /// Whether a part of it is the embedded engine alone, with nothing that it stands in for.
    #[must_use]
    pub fn needs_embedded(&self) -> bool {
        match self {
            Self::Cascade { asr, tts, .. } => {
                [asr, tts].into_iter().any(|chain| chain.iter().all(Service::is_embedded))
            }
            _ => false,
        }
    }

    /// The name of the kind, for logs and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::StsWebSocket(_) => "sts",
            Self::StsHttp(_) => "sts_http",
            Self::StsVendor { .. } => "sts_vendor",
            Self::Cascade { .. } => "cascade",
            Self::Builtin { .. } => "builtin",
        }
    }
}

/// Credentials of URLs are left out, and so is the greeting.
impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_tuple(self.kind());
        match self {
            Self::StsWebSocket(url) | Self::StsHttp(url) => fields.field(&websocket::display(url)),
            Self::StsVendor { service, .. } => fields.field(service),
            Self::Cascade { asr, llm, tts, .. } => fields.field(asr).field(llm).field(tts),
            Self::Builtin { .. } => &mut fields,
        }
        .finish()
    }
}

fn given(value: Option<&String>) -> Option<&str> {
    value.map(|value| value.trim()).filter(|value| !value.is_empty())
}

fn is_builtin(value: &str) -> bool {
    value == "builtin:" || value == "builtin"
}

fn speech_to_speech(value: &str, config: &Config, greeting: Option<String>) -> Result<Route, RouteError> {
    if is_builtin(value) {
        return Ok(Route::Builtin { greeting });
    }
    let url = match service(STS, value, Kind::Sts, config)? {
        Service::Url(url) => url,
        Service::Named(service) => return Ok(Route::StsVendor { service, greeting }),
    };
    Ok(if matches!(url.scheme(), "ws" | "wss") { Route::StsWebSocket(url) } else { Route::StsHttp(url) })
}

/// Services that stand in for one another. What a call has of its own (`own`) is one: that it names no place which nobody has looked at is
/// made sure of as one URL.
fn chain(
    key: &'static str,
    value: &str,
    own: Option<&String>,
    kind: Kind,
    config: &Config,
) -> Result<Chain, RouteError> {
    if given(own).is_some() {
        return service(key, value, kind, config).map(Chain::from);
    }
    let services = service::split(value).into_iter().map(|value| service(key, value, kind, config));
    let chain = Chain::new(services.collect::<Result<_, _>>()?);
    // a setting of nothing but separators
    chain.map_or_else(|| service(key, value, kind, config).map(Chain::from), Ok)
}

/// One service; over HTTP the path of the contract stands in for an absent one.
fn service(key: &'static str, value: &str, kind: Kind, config: &Config) -> Result<Service, RouteError> {
    if let Some((vendor, rest)) = service::vendor_of(value) {
        let named = Named::parse(vendor, rest, kind, &config.providers);
        return match named {
            Ok(mut named) => {
                if let Some(language) = &config.language {
                    named.speak_language(language, kind);
                }
                Ok(Service::Named(Box::new(named)))
            }
            Err(error) => {
                // what stands behind may be a key in the wrong place
                let value = value.split('?').next().unwrap_or_default();
                Err(RouteError::Named { key, value: without_credentials(value), error })
            }
        };
    }
    let mut url = Url::parse(value).map_err(|error| RouteError::NotAUrl {
        key,
        value: without_credentials(value),
        reason: error.to_string(),
    })?;
    match url.scheme() {
        "ws" | "wss" => {}
        "http" | "https" => {
            if matches!(url.path(), "" | "/") {
                url.set_path(path(kind));
            }
        }
        scheme => {
            let scheme = scheme.to_owned();
            let known = format!(
                "known are http://, https://, ws://, wss://, builtin: and the vendors {}",
                service::known(kind)
            );
            return Err(RouteError::Scheme { key, value: without_credentials(value), scheme, known });
        }
    }
    Ok(Service::Url(url))
}

const fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Stt => "/speech-to-text-stream",
        Kind::Llm => "/prompt-stream",
        Kind::Tts => "/text-to-speech-stream",
        Kind::Sts => "/speech-to-speech-stream",
    }
}

/// `value` for a message, whatever it is.
fn without_credentials(value: &str) -> String {
    match (value.find("://"), value.rfind('@')) {
        (Some(start), Some(end)) if start + 3 <= end => format!("{}***{}", &value[..start + 3], &value[end..]),
        (None, Some(end)) => format!("***{}", &value[end..]),
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(sts: &str, asr: &str, llm: &str, tts: &str) -> Config {
        let some = |value: &str| Some(value.to_owned());
        Config { sts_url: some(sts), asr_url: some(asr), llm_url: some(llm), tts_url: some(tts), ..Config::default() }
    }

    fn parse(config: &Config) -> Result<Route, RouteError> {
        Route::parse(config, &Overrides::default())
    }

    fn sts(value: &str) -> Result<Route, RouteError> {
        parse(&config(value, "", "", ""))
    }

    #[test]
    fn nothing_set_is_the_embedded_agent() {
        assert_eq!(parse(&Config::default()), Ok(Route::Builtin { greeting: None }));
        assert_eq!(sts(" "), Ok(Route::Builtin { greeting: None }));
        assert_eq!(sts("builtin:"), Ok(Route::Builtin { greeting: None }));
        assert_eq!(parse(&config("", "builtin:", "builtin:", "builtin:")), Ok(Route::Builtin { greeting: None }));
    }

    #[test]
    fn the_scheme_picks_the_adapter() {
        let Ok(Route::StsWebSocket(url)) = sts("ws://localhost:6030") else { panic!() };
        assert_eq!(url.as_str(), "ws://localhost:6030/");
        let Ok(Route::StsHttp(url)) = sts("http://localhost:6030") else { panic!() };
        assert_eq!(url.as_str(), "http://localhost:6030/speech-to-speech-stream");
        let Ok(Route::StsHttp(url)) = sts("https://sts.example/other?x=1") else { panic!() };
        assert_eq!(url.as_str(), "https://sts.example/other?x=1");
    }

    #[test]
    fn query_parameters_stay_byte_exact() {
        let announced =
            "ws://localhost:6030/?from=2000&to=5001&uniqueid=1770758888.32&channel=PJSIP%2F2000-00000013&name=A+B%23";
        let overrides = Overrides { sts: Some(announced.to_owned()), ..Overrides::default() };
        let Ok(Route::StsWebSocket(url)) = Route::parse(&Config::default(), &overrides) else { panic!() };
        assert_eq!(url.as_str(), announced);
    }

    #[test]
    fn a_cascade_gets_the_paths_of_the_contract() {
        let config = config("", "http://asr:6010", "http://llm:6002/", "http://tts:6011/own");
        let Ok(Route::Cascade { asr, llm, tts, greeting: None }) = parse(&config) else { panic!() };
        assert_eq!(asr.first().address().as_str(), "http://asr:6010/speech-to-text-stream");
        assert_eq!(llm.first().address().as_str(), "http://llm:6002/prompt-stream");
        assert_eq!(tts.first().address().as_str(), "http://tts:6011/own");
    }

    #[test]
    fn what_a_call_has_of_its_own_wins() {
        let config = config("ws://a", "http://b", "http://c", "http://d");
        let own =
            Overrides { llm: Some("http://e".to_owned()), greeting: Some("Hi".to_owned()), ..Overrides::default() };
        let Ok(Route::Cascade { asr, llm, greeting, .. }) = Route::parse(&config, &own) else { panic!() };
        assert_eq!(
            (asr.first().address().host_str(), llm.first().address().host_str(), greeting.as_deref()),
            (Some("b"), Some("e"), Some("Hi"))
        );
        let own = Overrides { sts: Some("ws://f".to_owned()), ..own };
        let Ok(Route::StsWebSocket(url)) = Route::parse(&config, &own) else { panic!() };
        assert_eq!(url.host_str(), Some("f"));
    }

    #[test]
    fn faults_name_key_value_and_reason() {
        let missing = parse(&config("", "http://asr", "", "http://tts")).unwrap_err().to_string();
        assert!(missing.starts_with("agent.llm_url is missing: agent.asr_url, agent.tts_url is set"), "{missing}");
        let scheme = sts("ftp://us:secret@sts/").unwrap_err().to_string();
        assert!(scheme.starts_with("agent.sts_url = \"ftp://***@sts/\": the scheme \"ftp\" is not known"), "{scheme}");
        let bad = sts("localhost 6030").unwrap_err().to_string();
        assert!(bad.starts_with("agent.sts_url = \"localhost 6030\" is no URL"), "{bad}");
        let Ok(mixed) = parse(&config("", "builtin:", "http://llm", "http://tts")) else { panic!() };
        assert!(mixed.is_embedded() && mixed.needs_embedded() && mixed.kind() == "cascade");
        // where it only stands in for another a call can begin without it
        let Ok(spare) = parse(&config("", "http://asr,builtin:", "http://llm", "http://tts")) else { panic!() };
        assert!(spare.is_embedded() && !spare.needs_embedded());
    }

    #[test]
    fn services_stand_in_for_one_another_but_those_of_a_call_do_not() {
        let config = config("", "ws://one:1, vosk:ws://two:2", "http://llm", "http://tts/a,b");
        let Ok(Route::Cascade { asr, tts, .. }) = parse(&config) else { panic!("no cascade") };
        let shown: Vec<_> = asr.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["ws://one:1/", "vosk: at ws://two:2/"]);
        assert_eq!(tts.iter().count(), 1);
        // whoever looks at the address of such a service looks at one
        let own = Overrides { asr: Some("http://fine/x,http://169.254.169.254/".to_owned()), ..Overrides::default() };
        let Ok(Route::Cascade { asr, .. }) = Route::parse(&config, &own) else { panic!("no cascade") };
        assert_eq!((asr.iter().count(), asr.first().address().host_str()), (1, Some("fine")));
        let wrong = self::config("", "ws://one:1, festival:x, ws://us:hunter2@b", "http://llm", "http://tts");
        assert!(!parse(&wrong).unwrap_err().to_string().contains("hunter2"));
    }

    #[test]
    fn credentials_are_not_shown() {
        let route = sts("wss://us:secret@sts.example/").unwrap();
        assert_eq!(format!("{route:?}"), "sts(\"wss://sts.example/\")");
    }

    proptest! {
        #[test]
        fn any_text_ends_in_a_route_or_an_error(value in any::<String>()) {
            let _ = sts(&value);
        }
    }
}
