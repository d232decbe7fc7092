//! What a language model can have done: tools about the call itself, and services of the operator's.

mod builtin;
mod http;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Map, Value};
use tokio::sync::oneshot;

use self::builtin::Builtin;
pub use self::{
    builtin::Place,
    http::{HttpConfig, HttpTool},
};
use super::{
    Context,
    llm::{Tool, ToolCall},
    mcp::{SEPARATOR, Server},
};
use crate::call::{CallId, Refused, Request, ToolCalled, pattern};

/// Longest answer of a tool that a model gets, in bytes.
const MAX_OUTPUT: usize = 16 * 1024;
/// Most characters of arguments and results in an event.
const SHOWN: usize = 4_000;
/// How long an order may take that is no transfer: those wait for a telephone.
const ORDER: Duration = Duration::from_secs(10);

/// Something that a tool wants done with its own call.
#[derive(Debug)]
pub struct Order {
    /// The call.
    pub call: CallId,
    /// What.
    pub request: Request,
    /// What became of it.
    pub done: oneshot::Sender<Result<(), Refused>>,
}

/// What a tool answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// For the model.
    pub output: String,
    /// Whether it went wrong.
    pub failed: bool,
}

impl Outcome {
    /// It worked.
    pub fn done(output: String) -> Self {
        Self { output, failed: false }
    }

    /// It did not: the model is told why, and can say so.
    pub fn failed(why: String) -> Self {
        Self { output: format!("It failed: {why}"), failed: true }
    }

    /// What is told of `call`, which ended so.
    pub fn told(&self, call: &ToolCall, took: Duration) -> ToolCalled {
        ToolCalled {
            name: shown(&call.name),
            arguments: shown(&call.arguments),
            result: shown(&self.output),
            failed: self.failed,
            took,
        }
    }

    /// The same, also in the log.
    pub fn report(&self, call: &ToolCall, took: Duration) -> ToolCalled {
        let (name, ms) = (call.name.escape_debug().to_string(), took.as_millis());
        if self.failed {
            tracing::warn!(code = "agent.tool.failed", tool = name, ms, "a tool failed, or was given up");
        } else {
            tracing::info!(tool = name, ms, "a tool was called");
        }
        tracing::debug!(arguments = %call.arguments.escape_debug(), result = %self.output.escape_debug(), "of this tool");
        self.told(call, took)
    }

    fn bounded(mut self) -> Self {
        if self.output.len() > MAX_OUTPUT {
            let end = (0..=MAX_OUTPUT).rev().find(|at| self.output.is_char_boundary(*at)).unwrap_or_default();
            self.output.truncate(end);
            self.output.push_str(" … (the rest is left out)");
        }
        self
    }
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The tools of one profile.
#[derive(Debug, Default)]
pub struct Toolbox {
    specs: Arc<[Tool]>,
    kinds: BTreeMap<String, Kind>,
    places: Vec<Place>,
    /// Which tools of which servers.
    servers: Vec<(Arc<Server>, Vec<String>)>,
}

#[derive(Debug)]
enum Kind {
    Builtin(Builtin),
    Http(Box<HttpTool>),
}

impl Toolbox {
    /// The tools that `allowed` names: built-in ones, and of `declared`; `*` and `?` stand for any characters.
    ///
    /// # Errors
    /// Everything that is wrong with it, in words.
    pub fn new(
        allowed: &[String],
        transfer_to: &[String],
        declared: &[HttpTool],
        servers: &[&str],
    ) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let places: Vec<Place> = transfer_to
            .iter()
            .filter_map(|text| {
                Place::parse(text).map_err(|fault| faults.push(format!("agent.transfer_to: {fault}"))).ok()
            })
            .collect();
        let (mut specs, mut kinds) = (Vec::new(), BTreeMap::new());
        for name in allowed {
            // which tools a server has is known when it is connected
            if name.split_once(SEPARATOR).is_some_and(|(server, _)| servers.contains(&server)) {
                continue;
            }
            let before = kinds.len();
            if let Some(builtin) = Builtin::named(name) {
                if matches!(builtin, Builtin::Transfer | Builtin::AttendedTransfer) && transfer_to.is_empty() {
                    faults.push(format!(
                        "agent.tools has {name:?}, but agent.transfer_to says nowhere: name the extensions, e.g. [\"sales=200@internal\", \"_3XX@internal\"]; \"*\" is any"
                    ));
                }
                specs.push(builtin.tool(name, &places));
                kinds.insert(name.clone(), Kind::Builtin(builtin));
                continue;
            }
            for tool in declared.iter().filter(|tool| pattern::matches(name, &tool.tool.name)) {
                if kinds.insert(tool.tool.name.clone(), Kind::Http(Box::new(tool.clone()))).is_none() {
                    specs.push(tool.tool.clone());
                }
            }
            if kinds.len() == before && !specs.iter().any(|tool| pattern::matches(name, &tool.name)) {
                let there = known(declared, servers);
                faults.push(format!("agent.tools: there is no tool {name:?}; there are {there}"));
            }
        }
        if faults.is_empty() {
            Ok(Self { specs: specs.into(), kinds, places, servers: Vec::new() })
        } else {
            Err(faults)
        }
    }

    /// The same with those tools of `servers` that `allowed` names.
    #[must_use]
    pub fn with_servers(mut self, allowed: &[String], servers: &[Arc<Server>]) -> Self {
        for server in servers {
            let of_it = |name: &&String| name.split_once(SEPARATOR).is_some_and(|(prefix, _)| prefix == server.name());
            let patterns: Vec<String> = allowed.iter().filter(of_it).cloned().collect();
            if !patterns.is_empty() {
                self.servers.push((Arc::clone(server), patterns));
            }
        }
        self
    }

    /// As models see them, now.
    #[must_use]
    pub fn specs(&self) -> Arc<[Tool]> {
        if self.servers.is_empty() {
            return Arc::clone(&self.specs);
        }
        let mut all = self.specs.to_vec();
        for (server, patterns) in &self.servers {
            let allowed = |tool: &&Tool| patterns.iter().any(|pattern| pattern::matches(pattern, &tool.name));
            all.extend(server.tools().iter().filter(allowed).cloned());
        }
        all.into()
    }

    /// The server that has this tool, if the model may have it called, and what the server calls it.
    fn remote<'a>(&self, name: &'a str) -> Option<(&Arc<Server>, &'a str)> {
        let (prefix, tool) = name.split_once(SEPARATOR)?;
        let (server, patterns) = self.servers.iter().find(|(server, _)| server.name() == prefix)?;
        patterns.iter().any(|pattern| pattern::matches(pattern, name)).then_some((server, tool))
    }

    /// Whether nothing else may be said or done once this has been called: it waits until all that was said has been heard.
    pub fn is_last(&self, call: &ToolCall) -> bool {
        let last = [Builtin::Hangup, Builtin::Transfer, Builtin::AttendedTransfer];
        matches!(self.kinds.get(&call.name), Some(Kind::Builtin(builtin)) if last.contains(builtin))
    }

    /// What is said while the caller waits for it.
    pub fn filler(&self, name: &str) -> Option<&str> {
        match self.kinds.get(name) {
            Some(Kind::Http(tool)) => tool.say.as_deref(),
            _ => self.remote(name).and_then(|(server, _)| server.say()),
        }
    }

    /// Does what a model wants. Dropping the future gives it up, where that is possible.
    pub async fn call(&self, ctx: &Context, call: &ToolCall) -> Outcome {
        let text = call.arguments.trim();
        let arguments = if text.is_empty() { Ok(Value::Object(Map::new())) } else { serde_json::from_str(text) };
        let outcome = match (self.kinds.get(&call.name), arguments) {
            (None, Ok(arguments)) => match self.remote(&call.name) {
                Some((server, tool)) => server.call(tool, arguments).await,
                None => Outcome::failed(format!("there is no tool {:?}", call.name)),
            },
            (_, Err(error)) => Outcome::failed(format!("the arguments are no JSON: {error}")),
            (Some(Kind::Builtin(builtin)), Ok(arguments)) => match builtin.decide(&arguments, &self.places) {
                Ok(deed) => order(ctx, deed).await,
                Err(what) => Outcome::failed(what),
            },
            (Some(Kind::Http(tool)), Ok(arguments)) => tool.call(ctx, &arguments).await,
        };
        outcome.bounded()
    }
}

async fn order(ctx: &Context, deed: builtin::Deed) -> Outcome {
    let Some(request) = deed.request else { return Outcome::done(deed.done.to_owned()) };
    let (done, answered) = oneshot::channel();
    let gone = || Outcome::failed("nobody can do that in this call".to_owned());
    let Some(orders) = &ctx.orders else { return gone() };
    // those that are last wait for the PBX to take the caller, and have limits of their own
    let limit = if deed.last { Duration::from_secs(120) } else { ORDER };
    let given = async {
        orders.send(Order { call: ctx.call, request, done }).await.ok()?;
        answered.await.ok()
    };
    match tokio::time::timeout(limit, given).await {
        Ok(Some(Ok(()))) => Outcome::done(deed.done.to_owned()),
        Ok(Some(Err(refused))) => Outcome::failed(refused.to_string()),
        Ok(None) => gone(),
        Err(_) => Outcome::failed(format!("nothing was heard of it for {} s", limit.as_secs())),
    }
}

fn known(declared: &[HttpTool], servers: &[&str]) -> String {
    let builtin = builtin::NAMES.iter().map(|(name, _)| (*name).to_owned());
    let declared = declared.iter().map(|tool| tool.tool.name.clone());
    let servers = servers.iter().map(|server| format!("{server}{SEPARATOR}*"));
    builtin.chain(declared).chain(servers).collect::<Vec<_>>().join(", ")
}

/// Whether a tool of our own has this name.
#[must_use]
pub fn is_builtin(name: &str) -> bool {
    Builtin::named(name).is_some()
}

/// Whether a tool can be called so.
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// `text` with variables of the environment in the place of `${NAME}`; `Err` is one that is not there.
pub fn from_env(text: &str, env: &impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, (name, after))) =
        rest.split_once("${").and_then(|(before, tail)| Some((before, tail.split_once('}')?)))
    {
        out.push_str(before);
        out.push_str(&env(name).ok_or_else(|| name.to_owned())?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn declared(name: &str) -> HttpTool {
        let toml = format!("name = \"{name}\"\ndescription = \"x\"\nurl = \"http://crm/\"");
        HttpTool::new(toml::from_str(&toml).unwrap(), |_| None).unwrap()
    }

    #[test]
    fn only_what_is_allowed_is_there() {
        let all = [declared("crm_order"), declared("crm_customer"), declared("weather")];
        let toolbox = Toolbox::new(&names(&["hangup", "crm_*", "avr_transfer"]), &names(&["600"]), &all, &[]).unwrap();
        let specs: Vec<_> = toolbox.specs().iter().map(|tool| tool.name.clone()).collect();
        assert_eq!(specs, ["hangup", "crm_order", "crm_customer", "avr_transfer"]);
        assert!(Toolbox::new(&[], &[], &all, &[]).unwrap().specs().is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_at_once() {
        let faults = Toolbox::new(&names(&["transfer", "hang_up"]), &names(&["=1"]), &[], &["crm"]).unwrap_err();
        assert_eq!(faults.len(), 2, "{faults:?}");
        let faults = Toolbox::new(&names(&["transfer", "hang_up"]), &[], &[], &["crm"]).unwrap_err();
        assert!(
            faults[0].contains("agent.transfer_to") && faults[1].contains("there are hangup, transfer"),
            "{faults:?}"
        );
    }

    #[test]
    fn tools_of_a_server_are_allowed_by_its_name() {
        assert!(Toolbox::new(&names(&["crm__*"]), &[], &[], &["crm"]).is_ok());
        let faults = Toolbox::new(&names(&["cmr__*"]), &[], &[], &["crm"]).unwrap_err();
        assert!(faults[0].ends_with("crm__*"), "{faults:?}");
    }

    #[test]
    fn long_answers_are_cut_between_characters() {
        let outcome = Outcome::done("\u{4f60}".repeat(MAX_OUTPUT)).bounded();
        assert!(outcome.output.len() < MAX_OUTPUT + 64 && outcome.output.ends_with("(the rest is left out)"));
    }
}
