//! One connection with Asterisk: what becomes of the events on it, and whether there are any.

use std::{
    pin::pin,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tracing::{debug, info};

use super::{
    Error,
    client::Shared,
    config::Media,
    error::escaped,
    ids::Owner,
    line::Wire,
    proof::Proof,
    registry::State,
    socket::Socket,
    stasis,
    version::{DIGITS, Version},
    wire::{Channel, Event, Kind},
};
use crate::call::Digit;

/// Events that come in floods and mean nothing here.
const UNWANTED: &[&str] = &["ChannelVarset", "ChannelDialplan", "ChannelCallerId", "ChannelConnectedLine"];
/// Whether events come is tried at once and after a second, when the old connection's end has been noticed …
const EARLY_PROOFS: [Duration; 2] = [Duration::ZERO, Duration::from_secs(1)];
/// … and then every so many pings.
const PINGS_PER_PROOF: u32 = 12;

impl Shared {
    /// One connection from its beginning to its end: why it ended, and whether it had begun.
    pub(super) async fn connection(self: &Arc<Self>) -> (Error, bool) {
        let (app, every) = (&self.pbx.app, Duration::from_millis(self.pbx.ping_ms));
        let proof = Proof::default();
        let (mut socket, first) = if self.pbx.connect.comes() {
            let (socket, first) = self.coming.next().await;
            (socket, Some(first))
        } else {
            match Socket::connect(&self.rest, app, every, Arc::clone(&self.tls)).await {
                Ok(socket) => (socket, None),
                Err(error) => return (error, false),
            }
        };
        *self.local.lock().unwrap_or_else(PoisonError::into_inner) = socket.local;
        let wire = Arc::clone(&socket.wire);
        let _attached = self.rest.line().map(|line| line.attach(&wire));
        let mut watch = pin!(self.watch(&proof));
        let mut message = first;
        let error = loop {
            if let Some(message) = message.take()
                && self.take(&message, &wire, &proof)
            {
                self.stats.replaced.inc();
                let retry = Duration::from_secs(self.pbx.replaced_s);
                break Error::Replaced { at: self.rest.at().to_owned(), app: app.clone(), retry };
            }
            message = tokio::select! {
                next = socket.next() => match next {
                    Ok(next) => Some(next),
                    Err(error) => break error,
                },
                error = &mut watch => break error,
            };
        };
        socket.close().await;
        (error, proof.is_there())
    }

    /// Proves again and again that Asterisk tells us of the application: a socket may stand and be deaf. Asterisk 22 switches the application
    /// off when it notices the end of an old connection just after the new one was made.
    async fn watch(&self, proof: &Proof) -> Error {
        let (app, limit) = (&self.pbx.app, Duration::from_millis(self.pbx.timeout_ms));
        // a user that may only read, or a module that is missing, is found out here and not by the first caller
        let (filter, channels) = tokio::join!(self.rest.event_filter(app, UNWANTED), self.rest.channels());
        if let Some(error) = filter.err().or(channels.err()) {
            return error;
        }
        let mut pauses = EARLY_PROOFS.into_iter();
        loop {
            sleep(pauses.next().unwrap_or(Duration::from_millis(self.pbx.ping_ms) * PINGS_PER_PROOF)).await;
            let name = proof.next();
            match self.rest.user_event(app, &name).await {
                Ok(()) if timeout(limit, proof.came.notified()).await.is_ok() => {}
                // a flood of events: ours is in it
                Ok(()) if proof.was_told() => continue,
                Ok(()) => {
                    self.stats.deaf.inc();
                    return Error::Deaf { at: self.rest.at().to_owned(), app: app.clone(), limit };
                }
                // it may be busy; whether it lives is the business of the pings
                Err(error) => debug!(pbx = self.name, "events cannot be tried: {error}"),
            }
            if proof.first() {
                self.ready().await;
            }
        }
    }

    /// From now on we are told of calls.
    async fn ready(&self) {
        let version = self.rest.info().await.map(|info| escaped(&info.system.version)).unwrap_or_default();
        let is_old = Version::parse(&version).is_some_and(|version| !version.has(DIGITS));
        self.keys_by_events.store(is_old && self.pbx.media == Media::AudioSocket, Ordering::Release);
        info!(
            pbx = self.name,
            app = self.pbx.app,
            version,
            media = self.media_host(),
            "{} tells of calls",
            self.rest.at()
        );
        self.stats.connects.inc();
        self.connected.store(true, Ordering::Release);
        self.host.health(&self.name, None);
        self.look.notify_one();
    }

    /// Takes one message; whether somebody else has the application now.
    pub(super) fn take(self: &Arc<Self>, message: &Message, wire: &Wire, proof: &Proof) -> bool {
        let Message::Text(message) = message else {
            self.stats.events_bad.inc();
            return false;
        };
        proof.told();
        let message = message.as_bytes();
        let event = match Event::parse(message) {
            Ok(event) => event,
            Err(error) => {
                self.stats.events.inc();
                self.stats.events_bad.inc();
                debug!(pbx = self.name, "a message of the events socket is no event: {}", escaped(&error.to_string()));
                return false;
            }
        };
        if let Kind::RestResponse { request, status, body } = event.kind {
            wire.answered(&request, status, body);
            return false;
        }
        self.stats.events.inc();
        match event.kind {
            Kind::StasisStart { channel, args } => self.entered(*channel, args),
            Kind::StasisEnd { channel } => self.update(&channel, |state| state.left = true),
            Kind::ChannelDestroyed { channel, cause } => self.update(&channel, |state| {
                state.left = true;
                state.cause = Some(cause);
            }),
            Kind::ChannelStateChange { channel, state } if state == "Up" => {
                self.update(&channel, |state| state.up = true);
            }
            Kind::ChannelStateChange { channel, state } if state == "Ringing" => {
                self.update(&channel, |state| state.ringing = true);
            }
            Kind::ChannelDtmfReceived { channel, digit, .. } => {
                // heard by legs by RTP; all others bring keys by themselves, but for AudioSocket of old Asterisks
                self.registry.press(&channel, &digit);
                if self.keys_by_events.load(Ordering::Acquire) {
                    self.press(&channel, &digit);
                }
                self.update(&channel, |state| state.keys = (state.keys.0.wrapping_add(1), digit.chars().next()));
            }
            Kind::BridgeDestroyed { bridge } => self.update(&bridge, |state| state.left = true),
            Kind::ChannelUserevent { name } => proof.seen(&name),
            Kind::ApplicationReplaced => return true,
            Kind::Unknown { .. } => self.stats.events_unknown.inc(),
            // of no meaning here
            _ => {}
        }
        false
    }

    /// A key of a caller, while they are with their agent.
    fn press(&self, caller: &str, key: &str) {
        let mut chars = key.chars();
        let digit = chars.next().filter(|_| chars.next().is_none()).and_then(|key| Digit::try_from(key).ok());
        if let (Some(digit), Some(uuid)) = (digit, self.registry.uuid_of(caller)) {
            self.host.press(uuid, digit);
        }
    }

    /// What nobody watches is nobody's business.
    fn update(&self, id: &str, change: impl FnOnce(&mut State)) {
        let _ = self.registry.update(id, change);
    }

    fn entered(self: &Arc<Self>, channel: Channel, args: Vec<String>) {
        match self.registry.state(&channel.id) {
            Some(state) if !state.left => self.update(&channel.id, |state| state.entered = true),
            // a media channel whose call is over already
            None if self.maker.owner(&channel.id) != Owner::Stranger => self.look.notify_one(),
            // a caller, maybe one who comes back
            _ if channel.id.is_empty() => self.stats.events_bad.inc(),
            _ => self.call(channel, args),
        }
    }

    fn call(self: &Arc<Self>, channel: Channel, args: Vec<String>) {
        let caller = self.registry.watch(&channel.id);
        caller.exists();
        self.begins();
        self.stats.calls.inc();
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            // whoever looks for orphans gives it back to its dialplan
            self.stats.calls_over_limit.inc();
            return self.look.notify_one();
        };
        let shared = Arc::clone(self);
        self.calls.spawn(async move {
            stasis::serve(shared, channel, args, caller).await;
            drop(permit);
        });
    }
}
