//! Whether calls need the embedded engine, and whether it can be had.

use std::sync::atomic::Ordering::Relaxed;

use tracing::{error, info};

use crate::{
    agent::{
        Overrides, Route,
        embedded::{Done, Engine, EngineError, models},
    },
    config::Config,
    telemetry::metrics::{Labels, MetricType, Metrics},
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
    if models::are_installed(&config.models.dir) {
        // seconds, in which calls are not taken yet
        info!("opening the embedded agent's models in {}", config.models.dir.display());
    }
    let control = tokio::runtime::Handle::current();
    match Engine::start(&config.models.dir, &config.embedded, &config.agent.flite, control).await {
        Ok(engine) => {
            info!(
                threads = config.embedded.threads(),
                max_calls = config.embedded.max_calls(),
                "the embedded agent converses, with {} as its voice",
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

/// Shows under `/metrics` what it does.
pub(super) fn export(metrics: &Metrics, engine: &Engine) {
    let gauge = |name: &str, help: &str, read: fn(&Engine) -> f64| {
        let engine = engine.clone();
        metrics.register_gauge_fn(name, help, move || read(&engine));
    };
    gauge("embedded_calls", "Calls that the embedded engine serves", |engine| engine.talkers().0 as f64);
    gauge("embedded_calls_limit", "Calls that it takes at once", |engine| engine.talkers().1 as f64);
    gauge("embedded_threads", "Threads that recognise and speak", |engine| {
        engine.numbers().threads.load(Relaxed) as f64
    });
    gauge("embedded_waiting", "Utterances and sentences that wait for a thread", |engine| engine.waiting() as f64);
    let restarts = engine.clone();
    let help = "Threads for speech that panicked and began anew";
    metrics.register_counter_fn("embedded_restarts", help, move || restarts.numbers().restarts.load(Relaxed));
    let by_work = |name: &str, help: &str, read: fn(&Done) -> f64| {
        let engine = engine.clone();
        metrics.register_labelled_fn(name, help, MetricType::Counter, move || {
            let numbers = engine.numbers();
            let of = |work: &str, done: Done| -> (Labels, f64) { (vec![("work", work.to_owned())], read(&done)) };
            vec![of("recognition", numbers.recognition.so_far()), of("synthesis", numbers.synthesis.so_far())]
        });
    };
    by_work("embedded_done", "Utterances recognised, sentences spoken", |done| done.done as f64);
    by_work("embedded_failed", "Those that failed", |done| done.failed as f64);
    by_work("embedded_turned_away", "Those that found too many waiting", |done| done.refused as f64);
    by_work("embedded_wait_seconds", "How long they waited for a thread", |done| done.waited);
    by_work("embedded_work_seconds", "How long the threads worked on them", |done| done.took);
    by_work("embedded_audio_seconds", "How long the speech in them was", |done| done.audio);
}
