//! What Asterisk holds against what we know. Events are lost while there is no connection, requests fail, gateways are killed: so at each
//! connect, whenever something may have been left, and now and then, Asterisk is asked what it has.
//!
//! Live calls are adopted by this: their channels are found, or found to be gone. Everything else of ours is ended: media channels
//! and bridges are hung up, callers without a call go on in their dialplan.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::{
    Error,
    client::Shared,
    ids::is_ours,
    rest::Target,
    wire::{Application, Channel},
};

/// How often Asterisk is asked while we are told of events, and while we are not.
const EVERY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(2));
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// A caller whom nobody knows may be one whose event is on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// Looks, for ever.
pub(super) async fn watch(shared: Arc<Shared>) {
    loop {
        let pause = if shared.connected.load(Ordering::Acquire) { EVERY.0 } else { EVERY.1 };
        let asked = timeout(pause, shared.look.notified()).await.is_ok();
        let has_something = asked || shared.connected.load(Ordering::Acquire) || shared.registry.calls() > 0;
        if has_something && let Err(error) = look(&shared).await {
            debug!(code = error.code(), pbx = shared.name, "Asterisk cannot be asked for what it has: {error}");
            if asked {
                sleep(EVERY.1).await;
                shared.look.notify_one();
            }
        }
        // whatever cannot be ended is not asked for without a pause
        sleep(PAUSE).await;
    }
}

/// What Asterisk has.
struct Found {
    channels: Vec<Channel>,
    bridges: Vec<String>,
    app: Option<Application>,
}

async fn ask(shared: &Shared) -> Result<Found, Error> {
    let rest = &shared.rest;
    let (channels, bridges, app) = tokio::join!(rest.channels(), rest.bridges(), rest.application(&shared.pbx.app));
    let app = match app {
        Ok(app) => Some(app),
        // nobody has it, so nobody is in it
        Err(error) if error.is_gone() => Some(Application::default()),
        Err(error) => return Err(error),
    };
    Ok(Found { channels: channels?, bridges: bridges?.into_iter().map(|bridge| bridge.id).collect(), app })
}

async fn look(shared: &Arc<Shared>) -> Result<(), Error> {
    // what is watched before Asterisk is asked and not there after is gone
    let watched = shared.registry.entered();
    let found = ask(shared).await?;
    let channels: HashSet<&str> = found.channels.iter().map(|channel| channel.id.as_str()).collect();
    let bridges: HashSet<&str> = found.bridges.iter().map(String::as_str).collect();
    for id in watched.iter().filter(|id| !channels.contains(id.as_str()) && !bridges.contains(id.as_str())) {
        shared.registry.update(id, |state| state.left = true);
    }
    let unknown = |id: &&str| shared.registry.state(id).is_none();
    let app = shared.pbx.app.as_str();
    for id in channels.iter().copied().filter(|id| is_ours(app, id)).filter(unknown) {
        end(shared, "media channel", id, shared.rest.hang_up(id, None).await);
    }
    for id in bridges.iter().copied().filter(|id| is_ours(app, id)).filter(unknown) {
        end(shared, "bridge", id, shared.rest.destroy_bridge(id).await);
    }
    let callers = callers(shared, &found);
    if !callers.is_empty() {
        sleep(ON_ITS_WAY).await;
        let still: HashSet<String> = self::callers(shared, &ask(shared).await?).into_iter().collect();
        for id in callers.into_iter().filter(|id| still.contains(id)) {
            give_back(shared, &id).await;
        }
    }
    Ok(())
}

/// Callers in our application whom no call knows.
fn callers(shared: &Shared, found: &Found) -> Vec<String> {
    let app = shared.pbx.app.as_str();
    let told_of: HashSet<&str> = found.app.iter().flat_map(|app| &app.channel_ids).map(String::as_str).collect();
    let is_in_app = |channel: &Channel| {
        let plan = &channel.dialplan;
        let name = plan.app_data.split(',').next().unwrap_or_default().trim();
        told_of.contains(channel.id.as_str()) || (plan.app_name == "Stasis" && name == app)
    };
    let unknown = |id: &str| !is_ours(app, id) && shared.registry.state(id).is_none();
    let callers = found.channels.iter().filter(|channel| is_in_app(channel) && unknown(&channel.id));
    callers.map(|channel| channel.id.clone()).collect()
}

async fn give_back(shared: &Shared, id: &str) {
    let result = match shared.rest.go_on(id, &Target::default()).await {
        // in the dialplan already, or with somebody else
        Err(Error::Conflict { .. }) => return,
        Err(error) if !error.is_gone() => shared.rest.hang_up(id, None).await,
        result => result,
    };
    end(shared, "caller without a call", id, result);
}

fn end(shared: &Shared, what: &str, id: &str, result: Result<(), Error>) {
    let pbx = &shared.name;
    match result {
        Ok(()) => {
            shared.stats.orphans.inc();
            info!(code = "ari.orphan", pbx, id, "a {what} was left over from an earlier call: ended");
        }
        Err(error) if error.is_gone() => {}
        Err(error) => {
            warn!(code = error.code(), pbx, id, "a {what} left over from an earlier call cannot be ended: {error}");
            shared.look.notify_one();
        }
    }
}
