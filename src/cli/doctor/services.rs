//! Services and webhook receivers: whether they are there. No session is begun and no event sent.

use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use tokio::{net::TcpStream, time::timeout};
use url::Url;

use super::{Advice, Check, Context, STEP};
use crate::{
    agent::{
        Named, Outgoing, Overrides, Route, Service,
        embedded::{Voice, models, programs::found},
        http_fault,
        websocket::{self, ConnectError},
    },
    cli::check,
    config::{Config, redacted_url},
    webhook::{DEFAULT, EndpointConfig},
};

/// How long a service may take to say goodbye.
const GOODBYE: Duration = Duration::from_millis(300);

/// The services of calls.
pub(super) async fn agents(context: &Context<'_>) -> Vec<Check> {
    let config = &context.config.agent;
    let mut checks = Vec::new();
    if check::speaks_by_itself(context.config) {
        checks.push(voice(context.config));
    }
    let services: Vec<(&str, Service)> = match Route::parse(config, &Overrides::default()) {
        Ok(Route::Builtin { .. }) => Vec::new(),
        Ok(Route::StsWebSocket(url) | Route::StsHttp(url)) => vec![("sts", url.into())],
        Ok(Route::StsVendor { service, .. }) => vec![("sts", Service::Named(service))],
        Ok(Route::Cascade { asr, llm, tts, .. }) => [("asr", asr), ("llm", llm), ("tts", tts)]
            .iter()
            .flat_map(|(kind, chain)| chain.iter().map(|service| (*kind, service.clone())))
            .collect(),
        Err(error) => {
            let lines = ["[agent]", "sts_url = \"ws://HOST:6030\""];
            let advice = Advice::new("set one service that does all, or all three").paste("hark.toml", lines);
            checks.push(Check::fail("services", error.to_string()).advise(advice));
            return checks;
        }
    };
    let outgoing = match Outgoing::new(context.tls.clone(), STEP) {
        Ok(outgoing) => outgoing,
        Err(error) => return vec![Check::fail("services", error.to_string())],
    };
    // those on this machine are looked at above
    let elsewhere = services.iter().filter(|(_, service)| !service.is_embedded());
    let reached = join_all(elsewhere.map(|(kind, service)| reached(kind, service, &outgoing)));
    checks.extend(reached.await);
    checks
}

fn voice(config: &Config) -> Check {
    let (flite, dir) = (&config.agent.flite, &config.models.dir);
    if models::are_installed(dir) {
        let here = Voice::here(dir, &config.embedded.espeak, flite);
        let converses = format!("it converses with the models in {}", dir.display());
        match (here.speaks, here.why) {
            (Some(_), None) => return Check::ok("embedded agent", converses),
            (Some(speaks), Some(why)) => {
                let advice =
                    Advice::new("give it its own voice").run("hark models install").run("apt-get install espeak-ng");
                return Check::warn("embedded agent", format!("{converses}, but {speaks} speaks for it: {why}"))
                    .advise(advice);
            }
            (None, _) => {}
        }
    } else if found(flite) {
        let echo =
            format!("its models are not in {}: it repeats what it hears, with {flite:?} as its voice", dir.display());
        return Check::ok("embedded agent", format!("{echo}; with `hark models install` it converses"));
    }
    let advice = Advice::new("install it, or say where it is")
        .paste("hark.toml", ["[agent]", "flite = \"/usr/bin/flite\""])
        .run("apt-get install flite");
    Check::fail("embedded agent", format!("its voice {flite:?} is not installed: it would be silent")).advise(advice)
}

async fn reached(kind: &str, service: &Service, outgoing: &Outgoing) -> Check {
    match service {
        Service::Url(url) => contract(kind, url, outgoing).await,
        Service::Named(named) => vendor(kind, named, outgoing).await,
    }
}

/// Whether a vendor is there; the key is not tried, because that may cost.
async fn vendor(kind: &str, named: &Named, outgoing: &Outgoing) -> Check {
    let name = format!("service {kind}");
    let found = match named.base.scheme() {
        "tcp" => listens(&named.base).await.map(|()| 200),
        _ => ask(&outgoing.http, Method::OPTIONS, &named.http("")).await,
    };
    match found {
        Ok(status) if status >= 500 => Check::warn(name, format!("{named} answers, but with HTTP {status}"))
            .advise(Advice::new("look at the vendor's status page, or at the log of your own server")),
        Ok(_) => Check::ok(name, format!("{named} answers")),
        Err(reason) => {
            let section = format!("[providers.{}]", named.vendor.name());
            let advice = Advice::new("let this machine reach it, through a firewall or proxy; or say where it is")
                .paste("hark.toml", [section.as_str(), "base_url = \"https://HOST\""]);
            Check::fail(name, format!("{named}: {reason}")).advise(advice)
        }
    }
}

async fn listens(url: &Url) -> Result<(), String> {
    let (Some(host), Some(port)) = (url.host_str(), url.port()) else { return Err("it names no port".to_owned()) };
    match timeout(STEP, TcpStream::connect((host.trim_matches(['[', ']']), port))).await {
        Ok(connected) => connected.map(drop).map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer came within {} s", STEP.as_secs())),
    }
}

async fn contract(kind: &str, url: &Url, outgoing: &Outgoing) -> Check {
    let (name, shown) = (format!("service {kind}"), redacted_url(url.as_str()));
    if url.scheme().starts_with("http") {
        return match ask(&outgoing.http, Method::OPTIONS, url).await {
            Ok(status) if status >= 500 => Check::warn(name, format!("{shown} answers, but with HTTP {status}"))
                .advise(Advice::new("its own log says why")),
            Ok(_) => Check::ok(name, format!("{shown} answers")),
            Err(reason) => not_there(name, kind, &format!("{shown}: {reason}"), None),
        };
    }
    match websocket::connect(url, outgoing, STEP).await {
        Ok(mut socket) => {
            let _ = timeout(GOODBYE, socket.close(None)).await;
            Check::ok(name, format!("{shown} takes WebSockets"))
        }
        Err(error) => not_there(name, kind, &error.to_string(), Some(&error)),
    }
}

fn not_there(name: String, kind: &str, found: &str, error: Option<&ConnectError>) -> Check {
    let line = match kind {
        "sts" => "sts_url = \"ws://HOST:6030\"".to_owned(),
        "asr" => "asr_url = \"http://HOST:6010/speech-to-text-stream\"".to_owned(),
        "llm" => "llm_url = \"http://HOST:6002/prompt-stream\"".to_owned(),
        kind => format!("{kind}_url = \"http://HOST:6011/text-to-speech-stream\""),
    };
    let advice = match error {
        Some(ConnectError::Tls { .. }) => Advice::new(
            "have its certificate trusted: name the authority that signed it; or use ws:// on your own network",
        )
        .paste("hark.toml", ["[tls]", "ca_file = \"/etc/hark/ca.pem\""]),
        Some(ConnectError::Handshake { .. }) => {
            Advice::new("something listens there, but not this service: compare port and path")
                .paste("hark.toml", ["[agent]", &line])
        }
        Some(ConnectError::Timeout { .. }) => {
            Advice::new("a firewall is in between, or the service hangs: look at its log, or restart it")
                .paste("hark.toml", ["[agent]", &line])
        }
        Some(ConnectError::Proxy { .. }) => Advice::new(
            "let the proxy through, or leave the host out of it: NO_PROXY=HOST in the gateway's environment",
        ),
        _ => Advice::new("start the service, or say where it is").paste("hark.toml", ["[agent]", &line]),
    };
    Check::fail(name, found).advise(advice)
}

/// The status with which `url` answers.
async fn ask(http: &reqwest::Client, method: Method, url: &Url) -> Result<u16, String> {
    let request = http.request(method, url.clone());
    match timeout(STEP, request.send()).await {
        Ok(Ok(answer)) => Ok(answer.status().as_u16()),
        Ok(Err(error)) => Err(http_fault(error)),
        Err(_) => Err(format!(
            "it accepts the connection or is behind a firewall, but no answer came within {} s",
            STEP.as_secs()
        )),
    }
}

/// The receivers of events.
pub(super) async fn receivers(context: &Context<'_>) -> Vec<Check> {
    let webhooks = &context.config.webhooks;
    let own = webhooks.url.as_deref().filter(|url| !url.is_empty());
    let own = own.map(|url| (DEFAULT, url, webhooks.configured_secret(DEFAULT).is_some()));
    let signed = |endpoint: &EndpointConfig| endpoint.signing_secret.as_ref().is_some_and(|secret| !secret.is_empty());
    let further = webhooks.endpoints.iter().filter_map(|(name, endpoint)| {
        let url = endpoint.url.as_deref().filter(|url| !url.is_empty())?;
        Some((name.as_str(), url, signed(endpoint)))
    });
    let receivers: Vec<_> = own.into_iter().chain(further).collect();
    if receivers.is_empty() {
        return vec![Check::skipped("webhooks", "no receiver is configured (webhooks.url)")];
    }
    let outgoing = match Outgoing::new(context.tls.clone(), STEP) {
        Ok(outgoing) => outgoing,
        Err(error) => return vec![Check::fail("webhooks", error.to_string())],
    };
    let built = agent_client(context, &outgoing);
    match built {
        Ok(client) => {
            join_all(receivers.into_iter().map(|(name, url, signed)| receiver(&client, name, url, signed))).await
        }
        Err(error) => vec![Check::fail("webhooks", format!("no HTTP client can be made: {error}"))],
    }
}

/// The client that events are sent with.
fn agent_client(context: &Context<'_>, outgoing: &Outgoing) -> reqwest::Result<reqwest::Client> {
    crate::webhook::client_builder(&context.tls).proxy(outgoing.http_proxy()).connect_timeout(STEP).build()
}

async fn receiver(client: &reqwest::Client, endpoint: &str, text: &str, signed: bool) -> Check {
    let (name, shown) = (format!("webhook {endpoint}"), redacted_url(text));
    let Some(url) = Url::parse(text).ok().filter(|_| !text.contains("{{")) else {
        return Check::skipped(name, format!("{shown}: where it goes depends on the call"));
    };
    let secret = match signed {
        true => "signed with the configured secret".to_owned(),
        false => format!("signed; `hark webhooks secret show {endpoint}` prints the secret to verify with"),
    };
    // not HEAD: frameworks hand that to what answers GET
    match ask(client, Method::OPTIONS, &url).await {
        Ok(status @ (404 | 410)) => {
            let advice = Advice::new("compare its path; some receivers answer nothing but POST, and then all is well")
                .run(format!("hark webhooks test {endpoint}"));
            Check::warn(name, format!("{shown} answers OPTIONS with HTTP {status}")).advise(advice)
        }
        Ok(status) if status >= 500 => {
            let advice = Advice::new("its own log says why").run(format!("hark webhooks test {endpoint}"));
            Check::warn(name, format!("{shown} answers, but with HTTP {status}")).advise(advice)
        }
        Ok(_) => Check::ok(name, format!("{shown} answers; requests are {secret}")),
        Err(reason) => {
            let section = match endpoint {
                DEFAULT => "[webhooks]".to_owned(),
                other => format!("[webhooks.endpoints.{other}]"),
            };
            let advice = Advice::new("start the receiver, or say where it is; events wait for it by webhooks.retry")
                .paste("hark.toml", [section.as_str(), "url = \"https://HOST/PATH\""]);
            Check::fail(name, format!("{shown}: {reason}")).advise(advice)
        }
    }
}
