//! What each setting must be beyond its type, and which settings cannot go together.

mod services;

use std::{net::SocketAddr, path::Path};

use url::Host;

use super::{
    Config, Merged,
    fault::Faults,
    layer::{ENDPOINTS, PROVIDERS, of_pbx},
};
use crate::{
    agent::{embedded::Script, service},
    asterisk::ari::{Endpoint, Media, Pbx, Requests},
    webhook::Redaction,
};

/// Counts and times that make sense: name, least, most.
const RANGES: &[(&str, i64, i64)] = &[
    ("audiosocket.uuid_timeout_ms", 1, 600_000),
    ("audiosocket.idle_media_s", 1, 86_400),
    ("audiosocket.dead_peer_ms", 100, 600_000),
    ("audiosocket.max_pending", 1, 100_000),
    ("websocket.start_timeout_ms", 1, 600_000),
    ("websocket.idle_media_s", 1, 86_400),
    ("websocket.dead_peer_ms", 100, 600_000),
    ("websocket.max_pending", 1, 100_000),
    ("websocket.lead_ms", 0, 500),
    ("rtp.jitter_min_ms", 0, 200),
    ("rtp.jitter_max_ms", 0, 500),
    ("rtp.idle_media_s", 1, 86_400),
    ("outbound.timeout_s", 1, 600),
    ("ari_server.start_timeout_ms", 1, 600_000),
    ("ari_server.max_pending", 1, 100_000),
    ("ari_server.max_connections", 1, 100_000),
    ("ari.timeout_ms", 100, 600_000),
    ("ari.ping_ms", 100, 600_000),
    ("ari.replaced_s", 1, 86_400),
    ("http.announcement_ttl_s", 1, 604_800),
    ("http.max_announcements", 1, 10_000_000),
    ("agent.connect_timeout_ms", 1, 600_000),
    ("agent.reconnect_ms", 0, 600_000),
    ("agent.debounce_ms", 0, 10_000),
    ("agent.rotate_s", 1, 86_400),
    ("agent.failover_after_ms", 100, 600_000),
    ("agent.breaker_failures", 1, 1_000),
    ("agent.breaker_open_s", 1, 3_600),
    ("agent.llm_timeout_ms", 1, 3_600_000),
    ("agent.tts_timeout_ms", 1, 3_600_000),
    ("agent.filler_after_ms", 1, 60_000),
    ("agent.silent_after_error_ms", 1, 3_600_000),
    ("call.cushion_ms", 0, 15),
    ("call.max_duration_s", 0, 31_536_000),
    ("call.max_queue_s", 1, 3_600),
    ("call.network_delay_ms", 0, 5_000),
    ("call.warn_before_s", 1, 86_400),
    ("call.resume_after_ms", 100, 60_000),
    ("call.barge_in.min_words", 1, 50),
    ("call.endpoint.complete_ms", 32, 60_000),
    ("call.endpoint.open_ms", 32, 60_000),
    ("call.endpoint.digits", 0, 64),
    ("call.idle.after_ms", 500, 3_600_000),
    ("call.dtmf.min", 1, 64),
    ("call.dtmf.max", 1, 64),
    ("call.dtmf.timeout_ms", 100, 60_000),
    ("call.thinking_after_ms", 0, 60_000),
    ("call.vad.min_speech_ms", 1, 60_000),
    ("call.vad.redemption_ms", 1, 60_000),
    ("webhooks.timeout_ms", 1, 600_000),
    ("recording.keep_days", 0, 36_500),
    ("webhooks.retry", 0, 100),
    ("webhooks.backoff_ms", 1, 3_600_000),
    ("webhooks.capacity", 1, 10_000_000),
    ("webhooks.concurrency", 1, 10_000),
    ("webhooks.initiate.timeout_ms", 0, 600_000),
    ("webhooks.initiate.failures", 0, 1_000),
    ("webhooks.initiate.open_s", 1, 86_400),
    ("embedded.max_calls", 0, 10_000),
    ("embedded.threads", 0, 1_024),
    ("limits.max_calls", 1, 1_000_000),
    ("limits.media_threads", 1, 1_024),
    ("limits.shutdown_grace_s", 0, 86_400),
];

const ENDPOINT_RANGES: &[(&str, i64, i64)] =
    &[("timeout_ms", 1, 600_000), ("retry", 0, 100), ("concurrency", 1, 10_000)];

/// Checks `config` as a whole and adds what its user should be told.
pub(super) fn validate(mut config: Config, merged: &Merged, faults: &mut Faults) -> Config {
    ranges(merged, faults);
    if ![20, 40, 60].contains(&config.agent.message_ms) {
        let reason = "is no whole number of frames that a message may carry";
        faults.push("config.range", merged.written("agent.message_ms"), reason, "Write 20, 40 or 60.");
    }
    levels(&config, merged, faults);
    conversation(&config.call, merged, faults);
    providers(merged, faults);
    script(&config, merged, faults);
    services::urls(&config, merged, faults);
    endpoints(&config, merged, faults);
    headers(&config, merged, faults);
    redaction(&config, merged, faults);
    listeners(&config, merged, faults);
    pbxs(&config, merged, faults);
    if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&config.log.level) {
        let advice = "Write error, warn, info, debug or trace, or directives such as info,hark::webhook=debug.";
        faults.push("config.type", merged.written("log.level"), format!("is no log level: {error}"), advice);
    }
    notices(&mut config, merged);
    config
}

fn ranges(merged: &Merged, faults: &mut Faults) {
    let of_endpoints = merged.values.keys().filter_map(|key| {
        let (_, setting) = key.strip_prefix(ENDPOINTS)?.split_once('.')?;
        let (_, min, max) = ENDPOINT_RANGES.iter().find(|(name, ..)| *name == setting)?;
        Some((key.as_str(), *min, *max))
    });
    let of_pbxs = merged.values.keys().filter_map(|key| {
        let setting = of_pbx(key)?;
        let (_, min, max) = RANGES.iter().find(|(name, ..)| name.strip_prefix("ari.") == Some(setting))?;
        Some((key.as_str(), *min, *max))
    });
    for (key, min, max) in RANGES.iter().copied().chain(of_endpoints).chain(of_pbxs) {
        let value = merged.values.get(key).map(|value| &value.kind);
        if let Some(config::ValueKind::I64(n)) = value
            && !(min..=max).contains(n)
        {
            let advice = format!("Write a whole number from {min} to {max}.");
            faults.push("config.range", merged.written(key), format!("must be between {min} and {max}"), advice);
        }
    }
}

fn levels(config: &Config, merged: &Merged, faults: &mut Faults) {
    let vad = &config.call.vad;
    for (key, value, advice) in [
        ("call.ambient_level", config.call.ambient_level, "Write a gain, e.g. 0.3; without any it is 0.9."),
        ("call.thinking_level", config.call.thinking_level, "Write a gain, e.g. 0.3; without any it is 0.9."),
        ("call.vad.positive", vad.positive, "Write a probability, e.g. 0.5."),
        ("call.vad.negative", vad.negative, "Write a probability, e.g. 0.35."),
    ] {
        if !(0.0..=1.0).contains(&value) {
            faults.push("config.range", merged.written(key), "must be between 0.0 and 1.0", advice);
        }
    }
    let noise = config.call.comfort_noise;
    if noise != 0.0 && !(-90.0..=-20.0).contains(&noise) {
        let advice = "Write a level, e.g. -60, or 0 for none.";
        let reason = "must be 0, or between -90 and -20 (dBm0)";
        faults.push("config.range", merged.written("call.comfort_noise"), reason, advice);
    }
    if vad.negative > vad.positive {
        let (other, _) = merged.written("call.vad.positive");
        let reason =
            format!("is above {}: no sound could be silence without being speech before", other.escape_debug());
        let advice = "Write the lower of the two thresholds here, or raise the other.";
        faults.push("config.conflict", merged.written("call.vad.negative"), reason, advice);
    }
}

fn conversation(call: &crate::call::Config, merged: &Merged, faults: &mut Faults) {
    let known = crate::call::languages();
    for language in call.languages.iter().filter(|language| !known.contains(language)) {
        let reason = format!("there is nothing known about the language {:?}", language.as_str());
        let advice = format!("Write some of {}, or leave it out: then all of them count.", known.join(", "));
        faults.push("config.range", merged.written("call.languages"), reason, advice);
    }
    if call.dtmf.min > call.dtmf.max {
        let reason = format!("is above call.dtmf.max ({}): no answer would ever be complete", call.dtmf.max);
        let advice = "Write the least number of keys here, the most there.";
        faults.push("config.conflict", merged.written("call.dtmf.min"), reason, advice);
    }
    let key = call.dtmf.terminator.as_deref().unwrap_or("none");
    let mut chars = key.chars();
    let is_key = chars.next().is_some_and(|c| crate::call::Digit::try_from(c).is_ok()) && chars.next().is_none();
    if !is_key && key != "none" {
        let advice = "Write one key, 0-9, *, # or A-D, or \"none\".";
        faults.push("config.range", merged.written("call.dtmf.terminator"), "is no key of a telephone", advice);
    }
}

/// What the embedded agent says, whether or not its models are there.
fn script(config: &Config, merged: &Merged, faults: &mut Faults) {
    let Some(path) = &config.embedded.script else { return };
    if let Err(error) = Script::load(Path::new(path)) {
        let advice = "Correct the file, or leave it out: then the script that is compiled in holds.";
        faults.push("config.script", merged.written("embedded.script"), format!("cannot be used: {error}"), advice);
    }
}

/// Addresses of vendors, whether or not any of them is used.
fn providers(merged: &Merged, faults: &mut Faults) {
    let keys = merged.values.keys().filter(|key| key.starts_with(PROVIDERS) && key.ends_with(".base_url"));
    for key in keys {
        if let Some(Err(reason)) = merged.text(key).map(|text| service::base_url(&text)) {
            let advice = "Write a whole URL without parameters, e.g. https://api.eu.example.com/v1.";
            faults.push("config.url", merged.written(key), reason, advice);
        }
    }
}

/// Further webhook receivers, each as a whole.
fn endpoints(config: &Config, merged: &Merged, faults: &mut Faults) {
    for (name, endpoint) in &config.webhooks.endpoints {
        for fault in endpoint.faults(&config.routing.allow_hosts) {
            let key = format!("{ENDPOINTS}{name}.{}", fault.key);
            let written = match merged.values.contains_key(&key) {
                true => merged.written(&key),
                // what is missing is written nowhere
                false => (key, None),
            };
            faults.push("config.webhook", written, fault.reason, fault.advice);
        }
    }
    if let Some(fault) = config.webhooks.signing_fault() {
        faults.push("config.webhook", merged.written("webhooks.signing_secret"), fault.reason, fault.advice);
    }
}

fn headers(config: &Config, merged: &Merged, faults: &mut Faults) {
    let webhooks = &config.webhooks;
    for (key, value) in [("webhooks.secret", &webhooks.secret), ("webhooks.agent_id", &webhooks.agent_id)] {
        if value.as_deref().is_some_and(|value| http::HeaderValue::from_str(value).is_err()) {
            let advice = "Use printable characters only, without line breaks.";
            faults.push("config.type", merged.written(key), "cannot be sent in an HTTP header", advice);
        }
    }
}

fn redaction(config: &Config, merged: &Merged, faults: &mut Faults) {
    if let Err(error) = Redaction::parse(&config.webhooks.redact) {
        let advice = "Write a list of paths, e.g. [\"transcription.text\"].";
        faults.push("config.type", merged.written("webhooks.redact"), error.to_string(), advice);
    }
}

fn listeners(config: &Config, merged: &Merged, faults: &mut Faults) {
    let (calls, http) = (config.audiosocket.listen, config.http.listen);
    if config.http.enabled && collide(calls, http) {
        let (other, _) = merged.written("audiosocket.listen");
        let reason = format!("is the address of {} too ({calls})", other.escape_debug());
        let advice = "Give the two listeners different ports, e.g. 5001 for calls and 6001 for HTTP.";
        faults.push("config.conflict", merged.written("http.listen"), reason, advice);
    }
    if let Some(websocket) = config.websocket.listen {
        let others = [("audiosocket.listen", Some(calls)), ("http.listen", config.http.enabled.then_some(http))];
        for (key, other) in others {
            if other.is_some_and(|other| collide(other, websocket)) {
                let reason = format!("is the address of {key} too ({websocket})");
                let advice = "Give each listener a port of its own, e.g. 5002 for WebSockets.";
                faults.push("config.conflict", merged.written("websocket.listen"), reason, advice);
            }
        }
    }
    if let Some(server) = config.ari_server.listen {
        let http = config.http.enabled.then_some(http);
        let others =
            [("audiosocket.listen", Some(calls)), ("websocket.listen", config.websocket.listen), ("http.listen", http)];
        for (key, _) in others.iter().filter(|(_, other)| other.is_some_and(|other| collide(other, server))) {
            let reason = format!("is the address of {key} too ({server})");
            let advice = "Give each listener a port of its own, e.g. 5003 for ARI.";
            faults.push("config.conflict", merged.written("ari_server.listen"), reason, advice);
        }
    }
    if config.audiosocket.require_registration && !config.http.enabled {
        let reason = "takes only calls announced by POST /call, but the HTTP service is off";
        let advice = "Switch the HTTP service on (HTTP_PORT=6001, or http.enabled = true), or leave this out.";
        faults.push("config.conflict", merged.written("audiosocket.require_registration"), reason, advice);
    }
}

fn pbxs(config: &Config, merged: &Merged, faults: &mut Faults) {
    for (name, pbx) in config.ari.all() {
        let key = |setting: &str| match name {
            "default" => format!("ari.{setting}"),
            name => format!("ari.pbx.{name}.{setting}"),
        };
        if let Some(Err(reason)) = pbx.url.as_deref().map(|url| Endpoint::parse(pbx, url)) {
            let advice = "Write the URL of Asterisk's HTTP server, e.g. http://pbx:8088.";
            faults.push("config.url", merged.written(&key("url")), reason, advice);
        }
        let secure = pbx.url.as_deref().is_some_and(|url| url.starts_with("https:") || url.starts_with("wss:"));
        if pbx.media == Media::WebSocket && secure {
            let reason = "cannot be websocket where ari.url is https";
            let advice = "Write audiosocket, or an ari.url that begins with http://.";
            faults.push("config.conflict", merged.written(&key("media")), reason, advice);
        }
        if pbx.connect.comes() && config.ari_server.listen.is_none() {
            let reason = "has Asterisk connect to Hark, but nobody listens there";
            let advice = "Set ari_server.listen, e.g. to 127.0.0.1:5003, or write connect = \"hark\" and ari.url.";
            faults.push("config.conflict", merged.written(&key("connect")), reason, advice);
        }
        if pbx.connect.comes() && pbx.password.is_empty() {
            let reason = "is missing: whoever reaches ari_server.listen could tell of calls";
            let advice = "Write the password of its entry in websocket_client.conf.";
            faults.push("config.conflict", merged.written(&key("password")), reason, advice);
        }
        if pbx.url.is_none() && pbx.rest == Some(Requests::Http) {
            let reason = "cannot be http without ari.url";
            faults.push("config.conflict", merged.written(&key("rest")), reason, "Set ari.url, or write websocket.");
        }
        if pbx.url.is_none() && pbx.media == Media::WebSocket {
            let reason = "cannot be websocket without ari.url, to which Hark would connect";
            let advice = "Set ari.url too, or write audiosocket or rtp.";
            faults.push("config.conflict", merged.written(&key("media")), reason, advice);
        }
        if !pbx.format.fits(pbx.media) {
            let reason = "cannot be told from others on AudioSocket";
            let advice = "Write slin or slin16, or set media to rtp or websocket.";
            faults.push("config.conflict", merged.written(&key("format")), reason, advice);
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if pbx.app.is_empty() || pbx.app.len() > 40 || !pbx.app.bytes().all(fits) {
            let advice = "Write up to 40 letters, digits, -, _ and dots, e.g. hark.";
            faults.push(
                "config.type",
                merged.written(&key("app")),
                "cannot be the name of a Stasis application",
                advice,
            );
        }
    }
}

/// Whether a PBX is on this machine, as far as its URL tells.
fn is_here(pbx: &Pbx) -> bool {
    let endpoint = pbx.url.as_deref().and_then(|url| Endpoint::parse(pbx, url).ok());
    // one that cannot be read is a fault anyway
    endpoint.as_ref().and_then(|endpoint| endpoint.base().host()).is_none_or(|host| match host {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    })
}

fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn notices(config: &mut Config, merged: &Merged) {
    if config.webhooks.tries_once() {
        config.notices.push(
            "webhook events that fail are tried once and then kept as dead letters: set WEBHOOK_RETRY=durable to have them tried again \
             for hours"
                .to_owned(),
        );
    }
    let agent = &config.agent;
    if agent.sts_url.is_some() {
        for (key, url) in
            [("agent.asr_url", &agent.asr_url), ("agent.llm_url", &agent.llm_url), ("agent.tts_url", &agent.tts_url)]
        {
            if url.is_some() {
                let (name, sts) = (merged.written(key).0, merged.written("agent.sts_url").0);
                config.notices.push(format!("{name} is ignored, because {sts} is set"));
            }
        }
    }
    for (name, pbx) in config.ari.all() {
        let listen = config.audiosocket.listen;
        if pbx.media == Media::Rtp {
            if config.rtp.bind.is_loopback() && !is_here(pbx) {
                let bind = config.rtp.bind;
                config.notices.push(format!(
                    "the PBX {name} is on another machine and cannot exchange RTP with rtp.bind = {bind}: its calls would be silent. Set rtp.bind \
                     to an address that it reaches (0.0.0.0 = all), and rtp.ports to those that firewalls let through"
                ));
            }
            continue;
        }
        if listen.ip().is_loopback() && pbx.media_host.is_none() && !is_here(pbx) {
            let app = &pbx.app;
            config.notices.push(format!(
                "the PBX {name} is on another machine and cannot send audio to audiosocket.listen = {listen}: calls of Stasis({app}) would go on in \
                 their dialplan. Listen on an address that it reaches (PORT=5001 is 0.0.0.0:5001), or set ari.media_host"
            ));
        }
    }
    let websocket = &config.websocket;
    if let Some(listen) = websocket.listen.filter(|listen| !listen.ip().is_loopback())
        && websocket.allow.is_empty()
        && websocket.username.is_none()
    {
        config.notices.push(format!(
            "the WebSocket listener on {listen} asks nobody for a password: set websocket.username and websocket.password, or websocket.allow"
        ));
    }
    if config.http.enabled && !config.http.listen.ip().is_loopback() && config.http.allow.is_empty() {
        let listen = config.http.listen;
        config.notices.push(format!(
            "the HTTP service on {listen} has no authentication: set http.allow, or keep the port behind a firewall"
        ));
    }
}

#[cfg(test)]
mod tests;
