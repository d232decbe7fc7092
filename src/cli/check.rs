//! `hark check`: what the settings are, and whether they could work here and now.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, Read, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use futures_util::future::join_all;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::{net::TcpStream, time::timeout};
use url::Url;

use crate::{
    agent::{
        Named,
        embedded::{Script, Voice, models, programs::found},
        service::{self, Kind},
    },
    asterisk::{ari::Media, rtp::Ports},
    config::{Config, redacted_url},
};

/// How long a service may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Arguments of `hark check`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hark check\n  hark check --config /etc/hark/hark.toml\n  docker run --rm --env-file avr.env hark check\n\n\
                  Exit codes: 0 all is well, 1 a probe failed, 64 the configuration is wrong."
)]
pub struct Args {
    #[command(flatten)]
    config: super::ConfigArgs,
    /// Only read the configuration; try nothing
    #[arg(long)]
    no_probes: bool,
}

/// Checks.
pub async fn run(args: Args) -> ExitCode {
    let config = match args.config.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let mut text = settings(&config);
    let probes = if args.no_probes { Vec::new() } else { probe(&config).await };
    text.push_str(&report(&probes));
    let _ = io::stdout().write_all(text.as_bytes()); // a reader that left early wants no more
    let failed = probes.iter().any(|probe| matches!(probe.outcome, Outcome::Failed(_)));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The effective settings in the form of a `hark.toml`, each with its origin.
fn settings(config: &Config) -> String {
    let mut text = String::new();
    for setting in &config.settings {
        let line = format!("{} = {}", setting.key, setting.value);
        match &setting.origin {
            Some(origin) => text.push_str(&format!("{line:<58} # {}\n", origin.escape_debug())),
            None => text.push_str(&format!("{line}\n")),
        }
    }
    for notice in &config.notices {
        text.push_str(&format!("# note: {notice}\n"));
    }
    text
}

/// Something that was tried.
#[derive(Debug)]
struct Probe {
    what: String,
    outcome: Outcome,
}

/// What came of it; what to do.
#[derive(Debug)]
enum Outcome {
    Well,
    /// It failed here, but a call may go another way.
    Unsure(String),
    Failed(String),
}

impl Probe {
    fn new(what: impl Into<String>, result: Result<(), String>) -> Self {
        Self { what: what.into(), outcome: result.map_or_else(Outcome::Failed, |()| Outcome::Well) }
    }
}

fn report(probes: &[Probe]) -> String {
    let mut text = String::new();
    for Probe { what, outcome } in probes {
        match outcome {
            Outcome::Well => text.push_str(&format!("ok      {what}\n")),
            Outcome::Unsure(reason) => text.push_str(&format!("unsure  {what}: {reason}\n")),
            Outcome::Failed(reason) => text.push_str(&format!("FAILED  {what}: {reason}\n")),
        }
    }
    text
}

async fn probe(config: &Config) -> Vec<Probe> {
    let mut probes = vec![port("AudioSocket", config.audiosocket.listen)];
    if config.http.enabled {
        probes.push(port("HTTP", config.http.listen));
    }
    if config.ari.all().any(|(_, pbx)| pbx.media == Media::Rtp) {
        let what = format!("RTP can use a UDP port of {} ({})", config.rtp.bind, config.rtp.ports);
        probes.push(Probe::new(what, Ports::new(&config.rtp).open().map(drop).map_err(|error| error.to_string())));
    }
    probes.extend(join_all(services(config).into_iter().map(|(name, shown, url)| reach(name, shown, url))).await);
    if let Some(file) = &config.call.ambient_file {
        probes.push(Probe::new(format!("background sound {file:?} can be read"), readable(Path::new(file))));
    }
    if let Some(file) = &config.tls.ca_file {
        probes.push(Probe::new(format!("certificates in {file:?} can be read"), certificates(file)));
    }
    if speaks_by_itself(config) {
        probes.extend(embedded(config));
    }
    probes
}

/// The services that calls would use.
fn services(config: &Config) -> Vec<(&'static str, String, Option<Url>)> {
    let agent = &config.agent;
    let mut services = match &agent.sts_url {
        Some(url) => vec![("speech to speech", Some(url), Some(Kind::Sts))],
        None => vec![
            ("speech recognition", agent.asr_url.as_ref(), Some(Kind::Stt)),
            ("language model", agent.llm_url.as_ref(), Some(Kind::Llm)),
            ("speech synthesis", agent.tts_url.as_ref(), Some(Kind::Tts)),
        ],
    };
    services.push(("webhook receiver", config.webhooks.url.as_ref(), None));
    let named = |text: &str, kind: Option<Kind>| {
        let (kind, (vendor, rest)) = kind.zip(service::vendor_of(text))?;
        Named::parse(vendor, rest, kind, &agent.providers).ok()
    };
    services
        .into_iter()
        .filter_map(|(name, url, kind)| Some((name, url?.as_str(), kind)))
        .flat_map(|(name, text, kind)| {
            match kind {
                Some(Kind::Stt | Kind::Llm | Kind::Tts) => service::split(text),
                _ => vec![text],
            }
            .into_iter()
            .map(move |one| (name, one, kind))
        })
        .filter(|(_, url, _)| !url.starts_with("builtin"))
        .map(|(name, text, kind)| match named(text, kind) {
            Some(named) => (name, named.to_string(), Some(named.base)),
            None => (name, redacted_url(text), Url::parse(text).ok()),
        })
        .collect()
}

/// Whether the embedded voice is needed.
pub(super) fn speaks_by_itself(config: &Config) -> bool {
    let agent = &config.agent;
    let builtin = |url: &Option<String>| url.as_deref().is_none_or(|url| url.starts_with("builtin"));
    match &agent.sts_url {
        Some(_) => builtin(&agent.sts_url),
        None => builtin(&agent.tts_url),
    }
}

fn port(name: &str, listen: SocketAddr) -> Probe {
    let result = TcpListener::bind(listen).map(drop).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!("{error}. Is a gateway running already? Stop it, or choose another port."),
        io::ErrorKind::AddrNotAvailable => format!("{error}. This machine does not have that address."),
        io::ErrorKind::PermissionDenied => format!("{error}. Choose a port above 1023."),
        _ => error.to_string(),
    });
    Probe::new(format!("{name} can listen on {listen}"), result)
}

async fn reach(name: &str, shown: String, url: Option<Url>) -> Probe {
    let what = format!("{name} can be reached at {shown}");
    let Some((host, port)) = url.as_ref().and_then(|url| Some((url.host()?, url.port_or_known_default()?))) else {
        return Probe::new(what, Err("the URL names no host and port.".to_owned()));
    };
    let connected = match &host {
        url::Host::Domain(name) => timeout(CONNECT_TIMEOUT, TcpStream::connect((*name, port))).await,
        url::Host::Ipv4(ip) => timeout(CONNECT_TIMEOUT, TcpStream::connect((*ip, port))).await,
        url::Host::Ipv6(ip) => timeout(CONNECT_TIMEOUT, TcpStream::connect((*ip, port))).await,
    };
    let reason = match connected {
        Ok(Ok(_)) => return Probe::new(what, Ok(())),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            format!("{error}. Is the service running, and on that port?")
        }
        Ok(Err(error)) => format!("{error}. Is the name right, and can it be reached from this machine?"),
        Err(_) => format!("no answer within {} s. Is a firewall in between?", CONNECT_TIMEOUT.as_secs()),
    };
    if proxied() {
        let reason =
            format!("{reason} A proxy is set in the environment and is not tried here; through it, it may work.");
        return Probe { what, outcome: Outcome::Unsure(reason) };
    }
    Probe::new(what, Err(reason))
}

fn proxied() -> bool {
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
        .iter()
        .any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn readable(path: &Path) -> Result<(), String> {
    let mut first = [0; 2];
    match fs::File::open(path).and_then(|mut file| file.read(&mut first)) {
        Ok(2) => Ok(()),
        Ok(_) => Err("it is empty.".to_owned()),
        Err(error) => Err(format!("{error}. {}", here())),
    }
}

fn here() -> String {
    match env::current_dir() {
        Ok(dir) => format!("Relative paths start from {}.", dir.display()),
        Err(_) => "Give its full path.".to_owned(),
    }
}

fn certificates(path: &Path) -> Result<(), String> {
    let found: Result<Vec<_>, _> = match CertificateDer::pem_file_iter(path) {
        Ok(certificates) => certificates.collect(),
        Err(error) => Err(error),
    };
    match found {
        Ok(certificates) if certificates.is_empty() => {
            Err("there is no certificate in it; PEM is expected.".to_owned())
        }
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{error}. {}", here())),
    }
}

/// What the embedded agent can do here.
fn embedded(config: &Config) -> Vec<Probe> {
    let dir = &config.models.dir;
    if !models::are_installed(dir) {
        let what = format!("the embedded agent's models are in {}", dir.display());
        let reason = "they are not. It repeats what it hears; to have it converse run hark models install.".to_owned();
        return vec![Probe { what, outcome: Outcome::Unsure(reason) }, flite(&config.agent.flite)];
    }
    let voice = Voice::here(dir, &config.embedded.espeak, &config.agent.flite);
    let what = format!("the embedded agent converses with the models in {}", dir.display());
    let outcome = match (voice.speaks, voice.why) {
        (Some(_), None) => Outcome::Well,
        (Some(speaks), Some(why)) => Outcome::Unsure(format!("{speaks} speaks instead of its own voice: {why}.")),
        (None, why) => Outcome::Failed(format!("nothing can speak: {}.", why.unwrap_or_default())),
    };
    let mut probes = vec![Probe { what, outcome }];
    let own = [&config.embedded.script].into_iter().chain(config.profiles.values().map(|profile| &profile.script));
    let paths: BTreeSet<&str> = own.filter_map(Option::as_deref).collect();
    probes.extend(paths.into_iter().map(|path| script(config, path)));
    probes
}

/// What would surprise callers in a script that can be read.
fn script(config: &Config, path: &str) -> Probe {
    let script = match Script::load(Path::new(path)) {
        Ok(script) => script,
        Err(error) => return Probe::new(format!("script {path:?}"), Err(error.to_string())),
    };
    let places = script.transfer_to();
    let whom = if places.is_empty() { "nobody".to_owned() } else { places.join(", ") };
    let what = format!("script {path:?}: {} intents, connects to {whom}", script.intents());
    let can_connect = config.ari.all().next().is_some() || config.ami.host.is_some();
    let mut odd = Vec::new();
    if !places.is_empty() && !can_connect {
        odd.push("it cannot connect callers: that needs [ari], or for plain AudioSocket() calls [ami]".to_owned());
    }
    if let Some(hours) = script.usual_hours() {
        odd.push(format!(
            "callers are told the opening hours of the example, {hours:?}: give intent \"opening_hours\" your own"
        ));
    }
    let outcome = if odd.is_empty() { Outcome::Well } else { Outcome::Unsure(odd.join("; ")) };
    Probe { what, outcome }
}

fn flite(program: &str) -> Probe {
    let result = if found(program) {
        Ok(())
    } else {
        Err("it is not there. Install the Debian package flite, or give its path as agent.flite.".to_owned())
    };
    Probe::new(format!("the embedded voice {program:?} is installed"), result)
}
