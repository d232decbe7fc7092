//! Settings: compiled-in `default.toml` < `hark.toml` < `HARK__SECTION__KEY` < the contract's own variables < the command line.
//!
//! Nothing in here reads the process's environment: it is handed in, so that tests can have their own. Every fault is found and
//! reported at once ([`Faults`]); what comes out ([`Config`]) has been checked as a whole.

mod contract;
mod fault;
mod layer;
mod merged;
mod profiles;
mod tools;
mod validate;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use serde::{Deserialize, Deserializer, de::Error as _};

use self::{
    contract::{Contract, given},
    layer::{Layer, Schema},
    merged::Merged,
};
pub use self::{
    fault::{Fault, Faults, redacted_url},
    layer::DEFAULTS,
    profiles::{Listener, Profile, Rule},
};
use crate::{
    agent, api,
    asterisk::{ami, ari, audiosocket, rtp, websocket},
    audio, call, net, recording, webhook,
};

/// Where a `hark.toml` is looked for when nobody says where it is.
pub const SEARCH: [&str; 2] = ["hark.toml", "/etc/hark/hark.toml"];

/// All settings, checked.
#[derive(Clone)]
pub struct Config {
    /// The AudioSocket listener.
    pub audiosocket: audiosocket::Config,
    /// PBXs with ARI.
    pub ari: ari::Config,
    /// The listener for PBXs that connect to us.
    pub ari_server: ari::server::Config,
    /// Asterisk's Manager Interface.
    pub ami: ami::Config,
    /// chan_websocket.
    pub websocket: websocket::Config,
    /// RTP.
    pub rtp: rtp::Config,
    /// Calls that we make.
    pub outbound: Outbound,
    /// Other settings for some calls, by name.
    pub profiles: BTreeMap<String, Profile>,
    /// Which calls have which of them; the first that holds.
    pub routes: Vec<Rule>,
    /// Services that language models may have called.
    pub tools: Vec<agent::tools::HttpTool>,
    /// Servers of the Model Context Protocol.
    pub mcp: Vec<agent::mcp::Declared>,
    /// The HTTP service.
    pub http: api::Config,
    /// The AI services.
    pub agent: agent::Config,
    /// The embedded agent.
    pub embedded: agent::embedded::Config,
    /// Its models.
    pub models: Models,
    /// The conversation.
    pub call: call::Config,
    /// What is done to the caller's audio.
    pub audio: audio::Config,
    /// Recordings of calls.
    pub recording: recording::Config,
    /// Where events go.
    pub webhooks: webhook::Config,
    /// Where what comes from outside may send calls.
    pub routing: Routing,
    /// Where events are kept.
    pub database: Database,
    /// Outgoing encrypted connections.
    pub tls: Tls,
    /// Limits.
    pub limits: Limits,
    /// Logging.
    pub log: Log,
    /// Directory for what has to survive a restart. Empty (which cannot be configured): events are kept in memory.
    pub data_dir: PathBuf,
    /// What whoever runs this should be told once.
    pub notices: Vec<String>,
    /// Every setting as it may be shown, by name.
    pub settings: Vec<Setting>,
}

/// The embedded agent's models.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Models {
    /// Where they are. Read from settings it is never empty; empty: there are none.
    pub dir: PathBuf,
}

/// Calls that we make.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outbound {
    /// Dial strings by name; `{to}` in them is the number.
    pub dial: BTreeMap<String, String>,
    /// Caller id; unset = the endpoint's own.
    pub caller_id: Option<String>,
    /// How long it rings, in s.
    pub timeout_s: u32,
}

impl Default for Outbound {
    fn default() -> Self {
        Self { dial: BTreeMap::new(), caller_id: None, timeout_s: 30 }
    }
}

/// Where what comes from outside may send calls.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Routing {
    /// Hosts that may be named; empty = see [`net::check`].
    pub allow_hosts: Vec<net::Pattern>,
}

/// Where events are kept until they are delivered.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// A PostgreSQL that several gateways share; unset = a file in the data directory.
    pub url: Option<String>,
    /// What becomes of new calls while it does not work.
    pub when_broken: WhenBroken,
}

/// What becomes of new calls while events cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenBroken {
    /// They are taken; their events wait in memory.
    #[default]
    Accept,
    /// They are refused, and their dialplans go on.
    Refuse,
}

/// Without the password that the URL may hold.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("url", &self.url.as_deref().map(redacted_url))
            .field("when_broken", &self.when_broken)
            .finish()
    }
}

/// Outgoing encrypted connections.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Certificates (PEM) to trust beside those of the system.
    pub ca_file: Option<PathBuf>,
}

/// Limits.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Calls at once.
    pub max_calls: usize,
    /// Threads that carry audio. 0 (everything on the caller's runtime) is for tests and cannot be configured.
    #[serde(deserialize_with = "count_or_cores")]
    pub media_threads: usize,
    /// How long calls may go on after the gateway was told to stop, in s.
    pub shutdown_grace_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_calls: 1_000, media_threads: cores(), shutdown_grace_s: 8 }
    }
}

/// Logging.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// Which lines there are: a level, or directives per module (`info,hark::webhook=debug`).
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".to_owned() }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human.
    #[default]
    Auto,
    /// For people, and for whoever greps AVR's lines.
    Human,
    /// One JSON object a line.
    Json,
}

/// One setting as it may be shown: secrets are `***`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Dotted name.
    pub key: String,
    /// Value, as `hark.toml` would have it.
    pub value: String,
    /// Where it was set: a variable, a file, an option; `None` = default.
    pub origin: Option<String>,
}

/// Where settings come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The file named on the command line; wins over `HARK_CONFIG`.
    pub file: Option<PathBuf>,
    /// Where to look for a file that nobody named; the first that exists is taken.
    pub search: Vec<PathBuf>,
    /// Options of the command line that are settings: option, dotted name, value.
    pub options: Vec<(&'static str, &'static str, String)>,
}

impl Sources {
    /// This process's environment and the usual places.
    #[must_use]
    pub fn process() -> Self {
        let env =
            std::env::vars_os().map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()));
        Self { env: env.collect(), search: SEARCH.iter().map(PathBuf::from).collect(), ..Self::default() }
    }
}

impl Config {
    /// Reads and checks all settings.
    ///
    /// # Errors
    /// Everything that is wrong with them, at once.
    pub fn load(sources: &Sources) -> Result<Self, Faults> {
        Self::load_with(sources, file_layer)
    }

    /// What a fuzzer calls: the same with `text` in place of a file.
    #[doc(hidden)]
    pub fn fuzz(text: &str, sources: &Sources) -> Result<Self, Faults> {
        Self::load_with(sources, |schema, _, faults| Layer::from_file(schema, Path::new("hark.toml"), text, faults))
    }

    fn load_with(
        sources: &Sources,
        file: impl FnOnce(&Schema, &Sources, &mut Faults) -> Layer,
    ) -> Result<Self, Faults> {
        let schema = Schema::new();
        let mut faults = Faults::default();
        let mut notices = Vec::new();
        let mut file = file(&schema, sources, &mut faults);
        let routes = std::mem::take(&mut file.routes);
        let (declared, servers) = (std::mem::take(&mut file.tools), std::mem::take(&mut file.servers));
        let env = env_layer(&schema, &sources.env, &mut faults);
        let contract = Contract { schema: &schema, env: &sources.env, faults: &mut faults, notices: &mut notices }
            .layer(&[&file, &env]);
        let mut options = Layer::default();
        for (option, key, value) in &sources.options {
            options.set_text(&schema, key, option, value, &mut faults);
        }
        let mut merged = Merged::new(&[schema.defaults(), file, env, contract, options], &mut faults);
        let mut config = Self {
            audiosocket: merged.section("audiosocket", &mut faults),
            ari: merged.section("ari", &mut faults),
            ari_server: merged.section("ari_server", &mut faults),
            ami: merged.section("ami", &mut faults),
            websocket: merged.section("websocket", &mut faults),
            rtp: merged.section("rtp", &mut faults),
            outbound: merged.section("outbound", &mut faults),
            profiles: BTreeMap::new(),
            routes: Vec::new(),
            tools: Vec::new(),
            mcp: Vec::new(),
            http: merged.section("http", &mut faults),
            agent: merged.section("agent", &mut faults),
            embedded: merged.section("embedded", &mut faults),
            models: merged.section("models", &mut faults),
            call: merged.section("call", &mut faults),
            audio: merged.section("audio", &mut faults),
            recording: merged.section("recording", &mut faults),
            webhooks: merged.section("webhooks", &mut faults),
            routing: merged.section("routing", &mut faults),
            database: merged.section("database", &mut faults),
            tls: merged.section("tls", &mut faults),
            limits: merged.section("limits", &mut faults),
            log: merged.section("log", &mut faults),
            data_dir: merged.text("data_dir").unwrap_or_else(|| "hark-data".to_owned()).into(),
            notices,
            settings: merged.settings(&schema),
        };
        if config.models.dir.as_os_str().is_empty() {
            let variable = |name: &str| given(&sources.env, name).map(str::to_owned);
            config.models.dir = agent::embedded::models::usual_dir(variable, &config.data_dir);
        }
        config.agent.providers = Arc::new(merged.section("providers", &mut faults));
        let mut config = validate::validate(config, &merged, &mut faults);
        config.webhooks.allow_hosts.clone_from(&config.routing.allow_hosts);
        config.profiles = profiles::read(&config, &merged, &mut faults);
        profiles::check(&routes, &config.profiles, &mut faults);
        config.tools = tools::ready(declared, &sources.env, &mut faults);
        config.mcp = tools::connectable(servers, &sources.env, &mut faults);
        tools::check(&config.agent, &config.profiles, (&config.tools, &config.mcp), &mut faults);
        config.routes = routes.into_iter().map(|(rule, _)| rule).collect();
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            audiosocket: audiosocket::Config::default(),
            ari: ari::Config::default(),
            ari_server: ari::server::Config::default(),
            ami: ami::Config::default(),
            websocket: websocket::Config::default(),
            rtp: rtp::Config::default(),
            outbound: Outbound::default(),
            profiles: BTreeMap::new(),
            routes: Vec::new(),
            tools: Vec::new(),
            mcp: Vec::new(),
            http: api::Config::default(),
            agent: agent::Config::default(),
            embedded: agent::embedded::Config::default(),
            models: Models::default(),
            call: call::Config::default(),
            audio: audio::Config::default(),
            recording: recording::Config::default(),
            webhooks: webhook::Config::default(),
            routing: Routing::default(),
            database: Database::default(),
            tls: Tls::default(),
            limits: Limits::default(),
            log: Log::default(),
            data_dir: "hark-data".into(),
            notices: Vec::new(),
            settings: Vec::new(),
        }
    }
}

/// Shows the settings as `hark check` does, so that no secret gets into a log by way of `{:?}`.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.settings.iter().map(|setting| (&setting.key, &setting.value))).finish()
    }
}

fn file_layer(schema: &Schema, sources: &Sources, faults: &mut Faults) -> Layer {
    let named = sources.file.clone().or_else(|| given(&sources.env, "HARK_CONFIG").map(PathBuf::from));
    let path = match &named {
        Some(path) => path,
        None => match sources.search.iter().find(|path| path.exists()) {
            Some(path) => path,
            None => return Layer::default(),
        },
    };
    match read(path) {
        Ok(text) => Layer::from_file(schema, path, &text, faults),
        Err(error) => {
            let advice = "Give the path of a readable file with --config or HARK_CONFIG.";
            faults.push("config.file", (path.display().to_string(), None), format!("cannot be read: {error}"), advice);
            Layer::default()
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    fs::read_to_string(path)
}

fn env_layer(schema: &Schema, env: &BTreeMap<String, String>, faults: &mut Faults) -> Layer {
    let mut layer = Layer::default();
    if let Some(dir) = given(env, "HARK_DATA_DIR") {
        layer.set("data_dir", "HARK_DATA_DIR", dir, dir);
    }
    for (name, _) in env.iter().filter(|(name, _)| name.starts_with("HARK__")) {
        if let Some(value) = given(env, name) {
            let key = name["HARK__".len()..].to_ascii_lowercase().replace("__", ".");
            layer.set_text(schema, &key, name, value, faults);
        }
    }
    layer
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn count_or_cores<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum CountOrAuto {
        Count(usize),
        Text(String),
    }
    match CountOrAuto::deserialize(deserializer)? {
        CountOrAuto::Count(count) => Ok(count),
        CountOrAuto::Text(text) if text == "auto" => Ok(cores()),
        CountOrAuto::Text(_) => Err(D::Error::custom("expected a whole number or \"auto\"")),
    }
}

#[cfg(test)]
mod tests;
