//! Tools that language models may have called: `[[tools]]`, and which of them a profile may.

use std::collections::BTreeMap;

use super::{
    Faults,
    layer::PROFILES,
    profiles::{Profile, list},
};
use crate::agent::{
    self,
    mcp::{Declared, McpConfig},
    tools::{self, HttpConfig, HttpTool, Toolbox},
};

const ADVICE: &str = "[[tools]] in default.toml shows how a tool is declared.";

/// Takes `[[tools]]` out of a file.
pub(super) fn declared(table: &mut toml::Table, path: &str, faults: &mut Faults) -> Vec<(HttpConfig, String)> {
    let advice = "A tool has name, description and url, and of method, parameters, headers, timeout_ms, say and result those that matter.";
    list(table, "tools", path, advice, faults)
}

/// Checks the declared tools; those that are right are ready to be called.
pub(super) fn ready(
    declared: Vec<(HttpConfig, String)>,
    env: &BTreeMap<String, String>,
    faults: &mut Faults,
) -> Vec<HttpTool> {
    let mut ready: Vec<HttpTool> = Vec::new();
    for (config, place) in declared {
        if ready.iter().any(|tool| tool.tool.name == config.name) || tools::is_builtin(&config.name) {
            let reason = format!("there is another tool {:?}", config.name);
            faults.push("config.conflict", (place.clone(), None), reason, ADVICE);
        }
        match HttpTool::new(config, |name| env.get(name).cloned()) {
            Ok(tool) => ready.push(tool),
            Err(reasons) => {
                for reason in reasons {
                    faults.push("config.tool", (place.clone(), None), reason, ADVICE);
                }
            }
        }
    }
    ready
}

/// Takes `[mcp.NAME]` out of a file.
pub(super) fn servers(table: &mut toml::Table, path: &str, faults: &mut Faults) -> Vec<(String, McpConfig, String)> {
    let advice = "A server has url or command, and of headers, env, timeout_ms and say those that matter.";
    let mut all = Vec::new();
    let named = match table.remove("mcp") {
        None => return all,
        Some(toml::Value::Table(named)) => named,
        Some(_) => {
            faults.push(
                "config.type",
                (format!("mcp (in {path})"), None),
                "is no section",
                "Write [mcp.NAME] and its keys below.",
            );
            return all;
        }
    };
    for (name, value) in named {
        let place = format!("mcp.{name} (in {path})");
        match value.try_into() {
            Ok(config) => all.push((name, config, place)),
            Err(error) => {
                let reason = format!("cannot be read: {}", error.message().replace('\n', ", "));
                faults.push("config.type", (place, None), reason, advice);
            }
        }
    }
    all
}

/// Checks the servers; those that are right can be connected.
pub(super) fn connectable(
    servers: Vec<(String, McpConfig, String)>,
    env: &BTreeMap<String, String>,
    faults: &mut Faults,
) -> Vec<Declared> {
    let mut all = Vec::new();
    for (name, config, place) in servers {
        match Declared::new(&name, config, |name| env.get(name).cloned()) {
            Ok(declared) => all.push(declared),
            Err(reasons) => {
                for reason in reasons {
                    faults.push("config.tool", (place.clone(), None), reason, "See [mcp.NAME] in default.toml.");
                }
            }
        }
    }
    all
}

/// Adds what is wrong with the tools that calls may have called.
pub(super) fn check(
    agent: &agent::Config,
    profiles: &BTreeMap<String, Profile>,
    (declared, servers): (&[HttpTool], &[Declared]),
    faults: &mut Faults,
) {
    let servers: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
    let mut check = |place: String, agent: &agent::Config| {
        for reason in Toolbox::new(&agent.tools, &agent.transfer_to, declared, &servers).err().into_iter().flatten() {
            faults.push("config.tool", (place.clone(), None), reason, "See agent.tools in default.toml.");
        }
    };
    check("agent.tools".to_owned(), agent);
    for (name, profile) in profiles {
        // what is wrong with those of all calls has been said
        if (&profile.agent.tools, &profile.agent.transfer_to) != (&agent.tools, &agent.transfer_to) {
            check(format!("{PROFILES}{name}.agent.tools"), &profile.agent);
        }
    }
}
