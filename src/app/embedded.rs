//! Whether calls need the embedded engine, and whether it can be had.

use tracing::{error, info};

use crate::{
    agent::{
        Overrides, Route,
        embedded::{Engine, EngineError},
    },
    config::Config,
};

/// Ears and voice of the embedded agent, if any call may need them and their models are there. What is missing is said; the gateway works
/// without them.
pub(super) async fn engine(config: &Config) -> Option<Engine> {
    let agents = [&config.agent].into_iter().chain(config.profiles.values().map(|profile| &profile.agent));
    let routes: Vec<Route> = agents.filter_map(|agent| Route::parse(agent, &Overrides::default()).ok()).collect();
    let (alone, beside) =
        (routes.iter().any(|route| matches!(route, Route::Builtin { .. })), routes.iter().any(Route::is_embedded));
    if config.models.dir.as_os_str().is_empty() || !(alone || beside) {
        return None;
    }
    let control = tokio::runtime::Handle::current();
    match Engine::start(&config.models.dir, &config.embedded, &config.agent.flite, control).await {
        Ok(engine) => {
            info!(
                threads = config.embedded.threads(),
                max_calls = config.embedded.max_calls(),
                "the embedded agent converses, with {:?} as its voice",
                engine.voice()
            );
            Some(engine)
        }
        Err(EngineError::NotInstalled(dir)) if !beside => {
            info!(
                "the embedded agent repeats what it hears; it converses when its models are in {} (`hark models install`)",
                dir.display()
            );
            None
        }
        Err(error) => {
            error!(code = "agent.embedded.failed", "the embedded agent cannot converse: {error}");
            None
        }
    }
}
