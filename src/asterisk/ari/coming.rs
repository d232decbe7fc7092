//! Connections that Asterisk makes: one that it keeps, or one for each call.
//!
//! They are told apart by the application of their first event: of a call with a connection of its own it is `APP:CHANNEL`. Whatever Asterisk
//! does not get on with is not closed at once: it would come back at once.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::{
    client::Shared,
    error::escaped,
    orphans,
    proof::Proof,
    socket::{Accepted, Socket},
    wire::Event,
};
use crate::asterisk::gate::Muffler;

/// How long a connection of no use is kept, so that Asterisk does not come back at once.
const KEPT: Duration = Duration::from_secs(10);
/// A connection for a call that tells of none within this time is one that was lost before: whose caller that is is asked.
const NO_CALL: Duration = Duration::from_secs(2);
/// How long Asterisk has to connect again for a call whose connection was lost. It gives the caller back to the dialplan where it cannot.
const AGAIN: Duration = Duration::from_secs(15);

/// The connection that Asterisk keeps.
#[derive(Debug, Default)]
pub(super) struct Coming {
    next: Mutex<Next>,
    there: Notify,
    told: Muffler,
}

#[derive(Default)]
struct Next {
    /// One that nobody has taken yet.
    socket: Option<(Socket, Message)>,
    /// Tells the one that is in use that it may have a successor.
    in_use: Weak<Notify>,
}

impl std::fmt::Debug for Next {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Next").field("is_there", &self.socket.is_some()).finish_non_exhaustive()
    }
}

impl Coming {
    /// Puts a connection there; the youngest is taken. Whoever is in use has to show that it lives.
    fn put(&self, pbx: &str, socket: Socket, first: Message) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(in_use) = next.in_use.upgrade() {
            if let Some(left_out) = self.told.pass() {
                warn!(
                    code = "ari.two",
                    pbx,
                    left_out,
                    "Asterisk connects while another connection of this PBX stands: if that is alive there are two Asterisks, and each needs a \
                     path of its own ([ari.pbx.NAME], and /ari/NAME in the uri of websocket_client.conf)"
                );
            }
            in_use.notify_one();
        }
        next.socket = Some((socket, first));
        self.there.notify_one();
    }

    /// The next connection, once there is one.
    pub async fn next(&self) -> (Socket, Message) {
        loop {
            {
                let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((socket, first)) = next.socket.take() {
                    next.in_use = Arc::downgrade(&socket.succeeded);
                    return (socket, first);
                }
            }
            self.there.notified().await;
        }
    }
}

/// Looks at what arrives, for ever.
pub(super) async fn arrive(shared: Arc<Shared>, mut arrivals: mpsc::Receiver<Accepted>, tasks: TaskTracker) {
    while let Some(accepted) = arrivals.recv().await {
        let (shared, stop) = (Arc::clone(&shared), shared.stopped());
        // as many as the listener has places
        tasks.spawn(stop.run_until_cancelled_owned(async move { greet(shared, accepted).await }));
    }
}

/// Finds out what a connection is for.
async fn greet(shared: Arc<Shared>, accepted: Accepted) {
    let (peer, every) = (accepted.peer, Duration::from_millis(shared.pbx.ping_ms));
    let mut socket = Socket::accepted(&shared.rest, accepted, every).await;
    let first = match timeout(shared.start_timeout, socket.next()).await {
        Ok(Ok(first)) => first,
        Ok(Err(error)) => {
            if let Some(left_out) = shared.coming.told.pass() {
                let pbx = &shared.name;
                warn!(
                    %peer, pbx, code = error.code(), left_out,
                    "a connection of Asterisk's ended before it told of anything: {error}. Is there a [general] section in its ari.conf? Without one it \
                     comes back again and again"
                );
            }
            return;
        }
        Err(_) => {
            let limit = shared.start_timeout;
            return refuse(&shared, socket, &format!("it says nothing within {limit:?}")).await;
        }
    };
    let event = match &first {
        Message::Text(text) => Event::parse(text.as_bytes()).map_err(|error| escaped(&error.to_string())),
        _ => Err("it is no text".to_owned()),
    };
    let app = match event {
        Ok(event) => event.application,
        Err(reason) => return refuse(&shared, socket, &format!("its first message is no event: {reason}")).await,
    };
    if app == shared.pbx.app {
        return shared.coming.put(&shared.name, socket, first);
    }
    match app.strip_prefix(shared.pbx.app.as_str()).and_then(|rest| rest.strip_prefix(':')) {
        Some(channel) if !channel.is_empty() => Box::pin(serve(shared, app, socket, first)).await,
        _ => {
            let ours = &shared.pbx.app;
            let reason = format!(
                "it is for the application {:?}, and this PBX has {ours:?}: apps of its outbound_websocket in ari.conf has to be ari.app",
                escaped(&app)
            );
            refuse(&shared, socket, &reason).await;
        }
    }
}

async fn refuse(shared: &Shared, socket: Socket, reason: &str) {
    if let Some(left_out) = shared.coming.told.pass() {
        warn!(code = "ari.coming", pbx = shared.name, left_out, "a connection of Asterisk's is of no use: {reason}");
    }
    sleep(KEPT).await;
    socket.close().await;
}

/// Serves the connection that Asterisk has made for one call.
async fn serve(pbx: Arc<Shared>, app: String, mut socket: Socket, first: Message) {
    let shared = own(&pbx, &app);
    *shared.local.lock().unwrap_or_else(PoisonError::into_inner) = socket.local;
    shared.stats.connects.inc();
    let wire = Arc::clone(&socket.wire);
    let lines = [&pbx, &shared].map(|shared| shared.rest.line().map(|line| line.attach(&wire)));
    // what a process before us has left
    pbx.look.notify_one();
    let proof = Proof::default();
    shared.take(&first, &wire, &proof);
    let asks = async {
        sleep(NO_CALL).await;
        if !shared.has_begun()
            && let Err(error) = orphans::look(&shared).await
        {
            debug!(code = error.code(), "Asterisk cannot be asked whose connection this is: {error}");
        }
        std::future::pending::<()>().await;
    };
    tokio::pin!(asks);
    let error = loop {
        tokio::select! {
            next = socket.next() => match next {
                Ok(message) => drop(shared.take(&message, &wire, &proof)),
                Err(error) => break error,
            },
            () = &mut asks => {}
        }
    };
    drop((lines, socket));
    if shared.live().is_empty() {
        return debug!(pbx = pbx.name, "the connection of a call that is over has ended");
    }
    shared.stats.losses.inc();
    info!(
        code = error.code(),
        pbx = pbx.name,
        "{error}: of a call that is live; Asterisk is expected to connect again"
    );
    sleep(AGAIN).await;
    lost(&shared).await;
}

/// Whose connection it was has not come back: the caller is in the dialplan by now.
async fn lost(shared: &Shared) {
    if shared.rest.line().is_none_or(|line| line.is_open()) {
        return;
    }
    for (caller, uuid) in shared.live() {
        warn!(code = "ari.call.lost", pbx = shared.name, %uuid, "Asterisk has not connected again for this call: it is ended");
        shared.registry.update(&caller, |state| state.left = true);
        shared.host.end(uuid);
    }
}

/// What the connections for one call share.
fn own(pbx: &Arc<Shared>, app: &str) -> Arc<Shared> {
    let mut own = pbx.own.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = own.get(app).and_then(Weak::upgrade) {
        return known;
    }
    own.retain(|_, shared| shared.strong_count() > 0);
    let shared = pbx.of_call(app);
    own.insert(app.to_owned(), Arc::downgrade(&shared));
    shared
}
