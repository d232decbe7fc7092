//! Which settings a call has.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde_json::{Map, Value};

use super::sound::Sounds;
use crate::{
    agent::{
        self, Overrides, Route, RouteError,
        embedded::{Embedded, Engine, Script},
        mcp::Server,
        tools::{HttpTool, Toolbox},
    },
    api,
    audio::{self, Rate},
    call::{self, Rules},
    config::{Config, Listener, Rule},
    session::Announcement,
};

/// What calls of one kind have in common.
#[derive(Debug)]
pub(super) struct Profile {
    /// Its name; `None`: the settings of all calls.
    pub name: Option<String>,
    pub agent: Arc<agent::Config>,
    pub tools: Arc<Toolbox>,
    pub rules: Arc<Rules>,
    pub audio: Arc<audio::Config>,
    pub sounds: Sounds,
    /// Whether its calls are recorded unless they say otherwise.
    pub recorded: bool,
}

/// The settings of all calls, and of some.
#[derive(Debug)]
pub(super) struct Profiles {
    usual: Arc<Profile>,
    /// Those of routes, in their order.
    rules: Vec<(Rule, Arc<Profile>)>,
}

impl Profiles {
    /// Reads the sounds of each.
    ///
    /// # Errors
    /// A sound cannot be read; in words for an operator.
    pub fn load(config: &Config, servers: &[Arc<Server>], engine: Option<&Engine>) -> Result<Self, String> {
        let tools = (config.tools.as_slice(), servers);
        let recorded = config.recording.enabled;
        let embedded = with_script(engine, config.embedded.script.as_deref())?;
        let agent = agent::Config { embedded, ..config.agent.clone() };
        let usual = Profile::load(None, &agent, &config.call, &config.audio, recorded, tools)?;
        let named = config.profiles.iter().map(|(name, profile)| {
            let embedded = with_script(engine, profile.script.as_deref())?;
            let agent = agent::Config { embedded, ..profile.agent.clone() };
            let loaded =
                Profile::load(Some(name.clone()), &agent, &profile.call, &profile.audio, profile.recording, tools)
                    .map_err(|reason| format!("profiles.{name}.{reason}"))?;
            Ok((name.clone(), Arc::new(loaded)))
        });
        let named = named.collect::<Result<BTreeMap<String, Arc<Profile>>, String>>()?;
        let mut rules = Vec::new();
        for rule in &config.routes {
            // that there is such a profile has been checked
            let (Some(known), Some(profile)) = (named.get(&rule.profile), config.profiles.get(&rule.profile)) else {
                continue;
            };
            let own = match &rule.language {
                None => Arc::clone(known),
                Some(language) => {
                    let agent = agent::Config { language: Some(language.clone()), ..profile.agent.clone() };
                    let name = Some(rule.profile.clone());
                    Arc::new(Profile::load(name, &agent, &profile.call, &profile.audio, profile.recording, tools)?)
                }
            };
            rules.push((rule.clone(), own));
        }
        Ok(Self { usual: Arc::new(usual), rules })
    }

    /// How calls without a profile are served, where that is `route`.
    pub fn usual_route(&self, route: Route) -> Result<Route, RouteError> {
        route.receptionist(&self.usual.agent)
    }

    /// The profile of a call of which this is known: the first route that holds.
    pub fn of(&self, by: Listener, about: Option<&Map<String, Value>>) -> &Arc<Profile> {
        let nothing = Map::new();
        let about = about.unwrap_or(&nothing);
        let listener = match about.get("direction").and_then(Value::as_str) {
            Some("outbound") => Listener::Outbound,
            // audio of a call by ARI comes to another listener
            _ if about.contains_key("pbx") => Listener::Ari,
            _ => by,
        };
        let rule = self.rules.iter().find(|(rule, _)| rule.holds(listener, about));
        rule.map_or(&self.usual, |(_, profile)| profile)
    }

    /// What an announcement changes of a profile. A service that nobody chose for the call is the profile's own.
    pub fn overrides(&self, profile: &Profile, announced: Option<&Announcement>) -> Overrides {
        let Some(announced) = announced else { return Overrides::default() };
        // the announcement holds the service of all calls, with the call's parameters, unless the receiver chose another
        let of = |agent: &agent::Config| {
            let base = agent.sts_url.as_deref().filter(|url| *url != "builtin:")?;
            Some(api::with_parameters(base, &announced.payload))
        };
        let chosen = announced.sts_url != of(&self.usual.agent);
        Overrides {
            sts: if chosen { announced.sts_url.clone() } else { of(&profile.agent) },
            asr: announced.asr_url.clone(),
            llm: announced.llm_url.clone(),
            tts: announced.tts_url.clone(),
            greeting: announced.greeting.clone(),
        }
    }
}

impl Profile {
    fn load(
        name: Option<String>,
        agent: &agent::Config,
        call: &call::Config,
        audio: &audio::Config,
        recorded: bool,
        tools: (&[HttpTool], &[Arc<Server>]),
    ) -> Result<Self, String> {
        let mut agent = agent.clone();
        if let Some(path) = &agent.prompt_file {
            agent.prompt = Some(prompt(path).map_err(|reason| format!("agent.prompt_file: {path}: {reason}"))?);
        }
        if let Some(embedded) = &agent.embedded {
            let greeting = agent.greeting.clone().unwrap_or_else(|| embedded.script.greeting());
            embedded.engine.prepare(&greeting, Rate::R8K);
        }
        Ok(Self {
            name,
            tools: Arc::new(toolbox(&agent, tools)?),
            agent: Arc::new(agent),
            rules: Arc::new(Rules::new(call.clone())),
            audio: Arc::new(audio.clone()),
            sounds: Sounds::load(call)?,
            recorded,
        })
    }
}

/// The embedded agent with its script.
fn with_script(engine: Option<&Engine>, script: Option<&str>) -> Result<Option<Embedded>, String> {
    let Some(engine) = engine else { return Ok(None) };
    let script = match script {
        Some(path) => Script::load(Path::new(path)).map_err(|error| format!("embedded.script: {path}: {error}"))?,
        None => Script::default(),
    };
    Ok(Some(Embedded { engine: engine.clone(), script: Arc::new(script) }))
}

fn toolbox(agent: &agent::Config, (declared, servers): (&[HttpTool], &[Arc<Server>])) -> Result<Toolbox, String> {
    let names: Vec<&str> = servers.iter().map(|server| server.name()).collect();
    let (tools, transfer_to) = allowed(agent);
    let toolbox = Toolbox::new(&tools, &transfer_to, declared, &names);
    toolbox.map(|toolbox| toolbox.with_servers(&agent.tools, servers)).map_err(|faults| faults.join("; "))
}

/// Which tools there are, and where callers may go: the script's own, where the script may answer.
fn allowed(agent: &agent::Config) -> (Vec<String>, Vec<String>) {
    let (mut tools, mut transfer_to) = (agent.tools.clone(), agent.transfer_to.clone());
    let answers = agent.sts_url.as_deref().is_none_or(|url| url.starts_with("builtin"))
        && agent.llm_url.as_deref().is_none_or(|url| url.starts_with("builtin"));
    if let Some(embedded) = agent.embedded.as_ref().filter(|_| answers) {
        let places = embedded.script.transfer_to();
        let needed = ["hangup", "take_message"].into_iter().chain((!places.is_empty()).then_some("transfer"));
        let missing: Vec<String> = needed.map(str::to_owned).filter(|name| !tools.contains(name)).collect();
        tools.extend(missing);
        transfer_to.extend(places);
    }
    (tools, transfer_to)
}

fn prompt(path: &str) -> Result<String, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    if text.len() > agent::MAX_PROMPT {
        return Err(format!(
            "it is longer than {} kB, which no model would read before each answer",
            agent::MAX_PROMPT / 1024
        ));
    }
    String::from_utf8(text).map_err(|_| "it is no UTF-8 text".to_owned())
}
