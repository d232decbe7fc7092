//! Tools that language models may have called: `[[tools]]`, and which of them a profile may.

use std::collections::BTreeMap;

use super::{
    Faults,
    layer::PROFILES,
    profiles::{Profile, list},
};
use crate::agent::{
    self,
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

/// Adds what is wrong with the tools that calls may have called.
pub(super) fn check(
    agent: &agent::Config,
    profiles: &BTreeMap<String, Profile>,
    declared: &[HttpTool],
    faults: &mut Faults,
) {
    let mut check = |place: String, agent: &agent::Config| {
        for reason in Toolbox::new(&agent.tools, &agent.transfer_to, declared).err().into_iter().flatten() {
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
