//! Attended transfer: the caller waits, somebody is called and hears what it is about; then both are together, or the caller is back.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Call;
use crate::asterisk::ari::{
    Error,
    consult::{Asked, Consult, Consulted, Decision},
    ids::Ids,
    outbound::{SLACK, ring},
    registry::{State, Watched},
    rest::Origin,
};

/// How long the gateway may take to leave a call that needs it no more.
const LEAVING: Duration = Duration::from_secs(5);

/// Whether the call goes on with its agent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Then {
    On,
    Over,
}

impl Call {
    /// Asks somebody whether they take the caller.
    pub(super) async fn ask(&self, consult: Consult) -> Then {
        let Consult { asked, told, mut decided } = consult;
        let ids = self.shared.maker.ids();
        // before Asterisk is asked: events may come before its answer
        let called = self.shared.registry.watch(&ids.called);
        info!(called = called.id, "asking {:?} whether they take the caller", asked.endpoint);
        let (answered, cause) = match self.call_them(&asked, &ids, &called, &mut decided).await {
            Ok(state) if state.entered && !state.left => {
                match self.between(&asked, &called, &told, &mut decided).await {
                    Ok(true) => return self.together(&called, &told).await,
                    Ok(false) => {}
                    Err(error) => {
                        warn!(code = error.code(), "the caller cannot be brought together with who answered: {error}")
                    }
                }
                (true, None)
            }
            // who answered and hung up at once has answered
            Ok(state) => (state.entered, state.cause),
            Err(error) => {
                warn!(code = error.code(), "{:?} cannot be called: {error}", asked.endpoint);
                (false, None)
            }
        };
        self.end(&called).await;
        if self.caller.now().left || self.has_agent_left() {
            // whoever listens is told once; nobody does: it is nobody's business
            let _ = told.send(Consulted::Over).await;
            if !self.caller.now().left {
                self.silence().await;
            }
            return Then::Over;
        }
        match self.back(&asked).await {
            Ok(()) => {
                let _ = told.send(Consulted::Back { answered, cause }).await;
                Then::On
            }
            Err(error) => {
                warn!(code = error.code(), "the caller does not come back to the agent: {error}");
                Then::Over
            }
        }
    }

    /// Has the caller wait and calls; how that ended.
    async fn call_them(
        &self,
        asked: &Asked,
        ids: &Ids,
        called: &Watched,
        decided: &mut mpsc::Receiver<Decision>,
    ) -> Result<State, Error> {
        let shared = &self.shared;
        shared.rest.remove_from_bridge(&self.bridge.id, &[&self.caller.id]).await?;
        self.waiting(asked, true).await;
        let origin = Origin {
            id: &ids.called,
            endpoint: &asked.endpoint,
            app: &shared.pbx.app,
            args: "",
            caller_id: &asked.caller_id,
            timeout_s: asked.timeout_s,
            formats: if asked.endpoint.starts_with("Local/") { "slin" } else { "" },
        };
        shared.rest.originate(origin, &serde_json::Map::new()).await?;
        let (cancel, until) = (CancellationToken::new(), Duration::from_secs(asked.timeout_s.into()) + SLACK);
        // that it rings is of no interest
        let (progress, _progress) = mpsc::channel(1);
        let ringing = ring(shared, called, until, &cancel, &progress);
        tokio::pin!(ringing);
        let over = async {
            tokio::select! {
                _ = self.caller.left() => {}
                () = self.agent_left() => {}
                // nothing can be decided yet but that it is of no use
                _ = decided.recv() => {}
            }
        };
        tokio::select! {
            state = &mut ringing => return Ok(state),
            () = over => cancel.cancel(),
        }
        Ok(ringing.await)
    }

    /// Who answered is with the agent until it is decided; whether they take the caller.
    async fn between(
        &self,
        asked: &Asked,
        called: &Watched,
        told: &mpsc::Sender<Consulted>,
        decided: &mut mpsc::Receiver<Decision>,
    ) -> Result<bool, Error> {
        let rest = &self.shared.rest;
        rest.add_to_bridge(&self.bridge.id, &[&called.id]).await?;
        if let Some(media) = &asked.play {
            let playback = format!("{}-play", called.id);
            if let Err(error) = rest.play(&called.id, media, &playback).await {
                warn!(code = error.code(), "{media:?} cannot be played: {error}");
            }
        }
        // whoever listens decides; nobody does: the caller goes back
        let _ = told.send(Consulted::Answered).await;
        let mut state = called.now();
        loop {
            tokio::select! { biased;
                _ = self.caller.left() => return Ok(false),
                () = self.agent_left() => return Ok(false),
                decision = decided.recv() => return Ok(decision == Some(Decision::Join)),
                now = called.changed(state) => {
                    if now.left {
                        return Ok(false);
                    }
                    if let (true, Some(key)) = (now.keys != state.keys, now.keys.1) {
                        // keys alone may find no room
                        let _ = told.try_send(Consulted::Key(key));
                    }
                    state = now;
                }
            }
        }
    }

    /// Brings both together and leaves them to each other, until one of them goes.
    async fn together(&self, called: &Watched, told: &mpsc::Sender<Consulted>) -> Then {
        let rest = &self.shared.rest;
        self.silence().await;
        // first: three in a bridge are mixed by Asterisk, and it may stay so
        let _ = rest.remove_from_bridge(&self.bridge.id, &[&self.media.id]).await;
        if let Err(error) = rest.add_to_bridge(&self.bridge.id, &[&self.caller.id]).await {
            warn!(code = error.code(), "the caller cannot be brought together with who takes them: {error}");
            self.end(called).await;
            return Then::Over;
        }
        let begun = Instant::now();
        info!("the caller is with who was asked");
        let _ = told.send(Consulted::Joined).await;
        // the agent leaves by itself
        let _ = timeout(LEAVING, self.agent_left()).await;
        if !self.media.now().left {
            let _ = rest.hang_up(&self.media.id, None).await;
        }
        tokio::select! {
            _ = self.caller.left() => {}
            _ = called.left() => {}
            _ = self.bridge.left() => {}
        }
        info!(seconds = begun.elapsed().as_secs(), "they have parted");
        self.end(called).await;
        Then::Over
    }

    /// The caller is with the agent again.
    async fn back(&self, asked: &Asked) -> Result<(), Error> {
        self.waiting(asked, false).await;
        self.shared.rest.add_to_bridge(&self.bridge.id, &[&self.caller.id]).await
    }

    /// What the caller hears while they wait, on or off. Without it they still wait.
    async fn waiting(&self, asked: &Asked, on: bool) {
        let rest = &self.shared.rest;
        let done = match asked.music {
            true => rest.moh(&self.caller.id, on).await,
            false => rest.ringback(&self.caller.id, on).await,
        };
        if let Err(error) = done
            && !self.caller.now().left
        {
            warn!(code = error.code(), "the caller hears nothing while they wait, or too long: {error}");
        }
    }

    async fn silence(&self) {
        // one of them was not on
        let rest = Arc::clone(&self.shared);
        let _ = tokio::join!(rest.rest.moh(&self.caller.id, false), rest.rest.ringback(&self.caller.id, false));
    }

    async fn end(&self, called: &Watched) {
        if !called.now().left
            && let Err(error) = self.shared.rest.hang_up(&called.id, Some(16)).await
            && !error.is_gone()
        {
            self.shared.look.notify_one();
        }
    }
}
