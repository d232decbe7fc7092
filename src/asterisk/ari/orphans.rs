//! What Asterisk holds against what we know. Events are lost while there is no connection, requests fail, gateways are killed: so at each
//! connect, whenever something may have been left, and now and then, Asterisk is asked what it has.
//!
//! Live calls are adopted by this: their channels are found, or found to be gone. What this process has left behind is ended, and what
//! another one has that had the application before and is dead: its media channels died with their connections, so a bridge of its without one is left
//! over. Where its media channel lives it lives itself, maybe to end its last calls beside us, and is left alone. Callers without a call go on in their dialplan.

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
    ids::{Owner, is_called, media_of},
    rest::Target,
    wire::{Bridge, Channel},
};

/// How often Asterisk is asked while we are told of events, and while we are not.
const EVERY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(2));
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// A caller whom nobody knows may be one whose event is on its way, a bridge without media one whose media channel is.
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
    bridges: Vec<Bridge>,
    /// What the application is told of.
    told_of: HashSet<String>,
}

async fn ask(shared: &Shared) -> Result<Found, Error> {
    let rest = &shared.rest;
    let (channels, bridges, app) = tokio::join!(rest.channels(), rest.bridges(), rest.application(&shared.pbx.app));
    let told_of = match app {
        Ok(app) => app.channel_ids.into_iter().collect(),
        // nobody has it
        Err(error) if error.is_gone() => HashSet::new(),
        Err(error) => return Err(error),
    };
    Ok(Found { channels: channels?, bridges: bridges?, told_of })
}

impl Found {
    fn has_channel(&self, id: &str) -> bool {
        self.channels.iter().any(|channel| channel.id == id)
    }

    /// Whether a channel is in the application, as far as anybody says.
    fn is_in(&self, app: &str, channel: &Channel) -> bool {
        let plan = &channel.dialplan;
        let name = plan.app_data.split(',').next().unwrap_or_default().trim();
        self.told_of.contains(&channel.id) || (plan.app_name == "Stasis" && name == app)
    }

    /// Whether something we watch is still there; a caller has to be in the application.
    fn has(&self, shared: &Shared, id: &str) -> bool {
        let is_ours = shared.maker.owner(id) != Owner::Stranger;
        let channel = self.channels.iter().find(|channel| channel.id == id);
        channel.is_some_and(|channel| is_ours || self.is_in(&shared.pbx.app, channel))
            || self.bridges.iter().any(|bridge| bridge.id == id)
    }

    /// Whether a bridge is in use: its media channel lives, or a caller is there together with who took them, whom no gateway is needed for.
    fn is_used(&self, bridge: &Bridge) -> bool {
        self.has_channel(&media_of(&bridge.id)) || bridge.channels.len() >= 2
    }

    /// Bridges of ours that no call has.
    fn bridges(&self, shared: &Shared) -> Vec<String> {
        let is_left = |bridge: &&Bridge| match shared.maker.owner(&bridge.id) {
            Owner::Us => true,
            Owner::Namesake => !self.is_used(bridge),
            Owner::Stranger => false,
        };
        let left = self.bridges.iter().filter(is_left).map(|bridge| bridge.id.clone());
        left.filter(|id| shared.registry.state(id).is_none()).collect()
    }

    /// Who is in a bridge of a process beside us, or of one before us that needs it no more.
    fn served(&self, shared: &Shared) -> HashSet<&String> {
        let beside = |bridge: &&Bridge| shared.maker.owner(&bridge.id) == Owner::Namesake && self.is_used(bridge);
        self.bridges.iter().filter(beside).flat_map(|bridge| &bridge.channels).collect()
    }

    /// Those whom a process before us has called, and who have answered and are alone.
    fn called(&self, shared: &Shared) -> Vec<String> {
        let served = self.served(shared);
        let is_left = |channel: &&Channel| {
            shared.maker.owner(&channel.id) == Owner::Namesake
                && is_called(&channel.id)
                && channel.state == "Up"
                && !served.contains(&channel.id)
        };
        self.channels.iter().filter(is_left).map(|channel| channel.id.clone()).collect()
    }

    /// Callers in our application whom no call has, here or in a process beside us.
    fn callers(&self, shared: &Shared) -> Vec<String> {
        let served = self.served(shared);
        let is_left = |channel: &&Channel| {
            self.is_in(&shared.pbx.app, channel)
                && shared.maker.owner(&channel.id) == Owner::Stranger
                && shared.registry.state(&channel.id).is_none()
                && !served.contains(&channel.id)
        };
        self.channels.iter().filter(is_left).map(|channel| channel.id.clone()).collect()
    }
}

pub(super) async fn look(shared: &Arc<Shared>) -> Result<(), Error> {
    // what is watched before Asterisk is asked and not there after is gone
    let watched = shared.registry.entered();
    let found = ask(shared).await?;
    for id in watched.iter().filter(|id| !found.has(shared, id)) {
        shared.registry.update(id, |state| state.left = true);
    }
    if !shared.is_told() {
        // whoever has the application now may have callers of whom we are not told
        return Ok(());
    }
    let is_left = |id: &&str| shared.maker.owner(id) == Owner::Us && shared.registry.state(id).is_none();
    for id in found.channels.iter().map(|channel| channel.id.as_str()).filter(is_left) {
        end(shared, "media channel", id, shared.rest.hang_up(id, None).await);
    }
    let (bridges, mut callers, called) = (found.bridges(shared), found.callers(shared), found.called(shared));
    if !shared.connected.load(Ordering::Acquire) {
        // a caller whose connection Asterisk has not made yet; one that it could not make it gives back by itself
        callers.clear();
    }
    if !bridges.is_empty() || !callers.is_empty() || !called.is_empty() {
        sleep(ON_ITS_WAY).await;
        let found = ask(shared).await?;
        let still = found.called(shared);
        for id in called.iter().filter(|id| still.contains(id)) {
            end(shared, "called channel", id, shared.rest.hang_up(id, None).await);
        }
        let still = found.bridges(shared);
        for id in bridges.iter().filter(|id| still.contains(id)) {
            end(shared, "bridge", id, shared.rest.destroy_bridge(id).await);
        }
        let still = found.callers(shared);
        for id in callers.iter().filter(|id| still.contains(id)) {
            give_back(shared, id).await;
        }
    }
    Ok(())
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
