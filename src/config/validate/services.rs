//! Where services are: addresses, vendors, lists of them, and whether they make an agent.

use url::Url;

use crate::{
    agent::{
        Named, Overrides, Route, RouteError,
        service::{self, Kind, Vendor},
    },
    config::{Config, Merged, fault::Faults},
};

/// Addresses of all kinds, each by itself; then whether the services go together.
pub(super) fn urls(config: &Config, merged: &Merged, faults: &mut Faults) {
    const SERVICE: &[&str] = &["http", "https", "ws", "wss", "builtin"];
    let agent = &config.agent;
    let before = faults.0.len();
    for (key, url, schemes) in [
        ("agent.asr_url", &agent.asr_url, SERVICE),
        ("agent.llm_url", &agent.llm_url, SERVICE),
        ("agent.tts_url", &agent.tts_url, SERVICE),
        ("agent.sts_url", &agent.sts_url, SERVICE),
        ("webhooks.url", &config.webhooks.url, &["http", "https"]),
        ("recording.url", &config.recording.url, &["http", "https"]),
        ("database.url", &config.database.url, &["postgres", "postgresql"]),
    ] {
        let kind = match key {
            "agent.asr_url" => Some(Kind::Stt),
            "agent.llm_url" => Some(Kind::Llm),
            "agent.tts_url" => Some(Kind::Tts),
            "agent.sts_url" => Some(Kind::Sts),
            _ => None,
        };
        let fault = |url: &str| match kind.zip(service::vendor_of(url)) {
            // all of the embedded agent
            Some((Kind::Sts, (Vendor::Builtin, ""))) => None,
            Some((kind, (vendor, rest))) => {
                Named::parse(vendor, rest, kind, &agent.providers).err().map(|error| error.to_string())
            }
            None => fault_of_url(url, schemes).map(|reason| match kind {
                Some(kind) => format!("{reason}, and the vendors {}", service::known(kind)),
                None => reason,
            }),
        };
        let reasons: Vec<String> = match (kind, url.as_deref()) {
            (Some(Kind::Stt | Kind::Llm | Kind::Tts), Some(text)) => faults_of_list(&service::split(text), fault),
            (_, url) => url.and_then(fault).into_iter().collect(),
        };
        let advice = match key {
            "database.url" => "Write a whole URL, e.g. postgres://hark:password@127.0.0.1:5432/hark.",
            "recording.url" => "Write a whole URL, e.g. https://files.example.org/recordings.",
            "webhooks.url" => "Write a whole URL, e.g. http://127.0.0.1:9000/events.",
            "agent.sts_url" => "Write a whole URL, e.g. ws://127.0.0.1:6030.",
            _ => {
                "Write a whole URL, e.g. http://127.0.0.1:6010/speech-to-text-stream, a vendor and a model, e.g. deepgram:nova-3, or builtin: for the embedded agent."
            }
        };
        for reason in reasons {
            faults.push("config.url", merged.written(key), reason, advice);
        }
    }
    if faults.0.len() == before {
        route(config, merged, faults);
    }
}

/// What is wrong with services that stand in for one another: with each of them, and which it is. A text may hold a key, so it is not shown.
fn faults_of_list(services: &[&str], fault: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let wrong = services.iter().enumerate().filter_map(|(at, text)| Some((at + 1, text, fault(text)?)));
    let told = wrong.map(|(nth, text, reason)| match service::vendor_of(text) {
        _ if services.len() == 1 => reason,
        Some((vendor, _)) => format!("has a fault in service {nth} of {}, {}: {reason}", services.len(), vendor.name()),
        None => format!("has a service {nth} of {} that {reason}", services.len()),
    });
    told.collect()
}

/// Whether the services make an agent; only once each of them is right by itself.
fn route(config: &Config, merged: &Merged, faults: &mut Faults) {
    let agent = &config.agent;
    let services =
        [("agent.asr_url", &agent.asr_url), ("agent.llm_url", &agent.llm_url), ("agent.tts_url", &agent.tts_url)];
    let (key, reason) = match Route::parse(agent, &Overrides::default()) {
        Ok(_) => return,
        Err(RouteError::Missing { missing, .. }) => {
            let set = services.iter().find(|(_, url)| url.is_some()).map_or("agent.asr_url", |(key, _)| key);
            (set, format!("is set, but {missing} is not"))
        }
        Err(other) => ("agent.sts_url", other.to_string()),
    };
    let advice = "Set all of ASR_URL, LLM_URL and TTS_URL, or STS_URL alone, or none of them for the embedded agent.";
    faults.push("config.conflict", merged.written(key), reason, advice);
}

fn fault_of_url(text: &str, schemes: &[&str]) -> Option<String> {
    if text == "builtin" && schemes.contains(&text) {
        return None;
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return Some(format!("is not a URL: {error}")),
    };
    if !schemes.contains(&url.scheme()) {
        return Some(format!("begins with {}:, but only {}: are understood", url.scheme(), schemes.join(":, ")));
    }
    (url.scheme() != "builtin" && url.host_str().is_none_or(str::is_empty)).then(|| "names no host".to_owned())
}
