//! Any leg: which kind a call has is known only when it comes.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{audiosocket, rtp, websocket};
use crate::{
    audio::Rate,
    call::{self, LegCommand, LegEvent, Link, Sent},
};

/// A connection of whatever kind that has not said which call it is.
#[derive(Debug)]
pub enum Arrival {
    /// To the AudioSocket listener.
    AudioSocket(audiosocket::Pending),
    /// To the WebSocket listener.
    WebSocket(Box<websocket::Pending>),
    /// To be made, to a channel that waits for us.
    Dial(Box<websocket::Dial>),
    /// None: RTP comes to a port that Asterisk has been told of.
    Rtp(Box<rtp::Pending>),
}

impl Arrival {
    /// Waits until it says so, on the runtime that will serve the call. `None` has been logged and counted.
    pub async fn identify(self, audiosocket: &audiosocket::Config) -> Option<Identified> {
        match self {
            Self::AudioSocket(pending) => pending.identify(audiosocket).await.ok().map(Identified::AudioSocket),
            Self::WebSocket(pending) => {
                Box::pin(pending.identify()).await.ok().map(|identified| Identified::WebSocket(Box::new(identified)))
            }
            Self::Dial(dial) => {
                let uuid = dial.uuid;
                match Box::pin(dial.connect()).await {
                    Ok(identified) => Some(Identified::WebSocket(Box::new(identified))),
                    Err(error) => {
                        tracing::warn!(%uuid, code = error.code(), "no audio for this call: {error}");
                        None
                    }
                }
            }
            Self::Rtp(pending) => {
                let uuid = pending.uuid;
                let identified = pending.identify();
                let why = |error: &_| tracing::warn!(%uuid, code = "rtp.socket", "no audio for this call: {error}");
                identified.inspect_err(why).ok().map(|identified| Identified::Rtp(Box::new(identified)))
            }
        }
    }
}

/// A connection that waits to be taken or refused.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the usual kind is in place; the rarer ones are small")]
#[must_use = "take it or refuse it"]
pub enum Identified {
    /// AudioSocket.
    AudioSocket(audiosocket::Identified),
    /// chan_websocket.
    WebSocket(Box<websocket::Identified>),
    /// RTP.
    Rtp(Box<rtp::Identified>),
}

impl Identified {
    /// The UUID that the dialplan gave the call.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        match self {
            Self::AudioSocket(identified) => identified.uuid,
            Self::WebSocket(identified) => identified.uuid,
            Self::Rtp(identified) => identified.uuid,
        }
    }

    /// Where the connection comes from.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        match self {
            Self::AudioSocket(identified) => identified.peer,
            Self::WebSocket(identified) => identified.peer,
            Self::Rtp(identified) => identified.peer,
        }
    }

    /// What the dialplan says of the call on the connection itself.
    #[must_use]
    pub fn about(&self) -> Option<&Map<String, Value>> {
        match self {
            Self::AudioSocket(_) | Self::Rtp(_) => None,
            Self::WebSocket(identified) => Some(&identified.about),
        }
    }

    /// Takes the call.
    pub async fn into_leg(self) -> AnyLeg {
        match self {
            Self::AudioSocket(identified) => AnyLeg::AudioSocket(identified.into_leg().await),
            Self::WebSocket(identified) => AnyLeg::WebSocket(Box::new(Box::pin(identified.into_leg()).await)),
            Self::Rtp(identified) => AnyLeg::Rtp(Box::new(Box::pin(identified.into_leg()).await)),
        }
    }

    /// Refuses the call in such a way that the dialplan goes on with its next line.
    pub async fn refuse(self) {
        match self {
            Self::AudioSocket(identified) => identified.refuse().await,
            Self::WebSocket(identified) => identified.refuse().await,
            Self::Rtp(identified) => identified.refuse(),
        }
    }
}

/// The leg of a call, of whatever kind. All but AudioSocket are boxed, because an enum has the size of its largest.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the usual kind is in place; the rarer ones are small")]
pub enum AnyLeg {
    /// AudioSocket.
    AudioSocket(audiosocket::Leg),
    /// chan_websocket.
    WebSocket(Box<websocket::Leg>),
    /// RTP.
    Rtp(Box<rtp::Leg>),
}

impl Stream for AnyLeg {
    type Item = LegEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LegEvent>> {
        match self.get_mut() {
            Self::AudioSocket(leg) => Pin::new(leg).poll_next(cx),
            Self::WebSocket(leg) => Pin::new(leg.as_mut()).poll_next(cx),
            Self::Rtp(leg) => Pin::new(leg.as_mut()).poll_next(cx),
        }
    }
}

impl Link for AnyLeg {
    type Event = LegEvent;
    type Command = LegCommand;

    fn send(&mut self, command: LegCommand) -> Sent<LegCommand> {
        match self {
            Self::AudioSocket(leg) => leg.send(command),
            Self::WebSocket(leg) => leg.send(command),
            Self::Rtp(leg) => leg.send(command),
        }
    }
}

impl call::Leg for AnyLeg {
    fn rate(&self) -> Rate {
        match self {
            Self::AudioSocket(leg) => leg.rate(),
            Self::WebSocket(leg) => leg.rate(),
            Self::Rtp(leg) => leg.rate(),
        }
    }

    fn lead(&self) -> Duration {
        match self {
            Self::AudioSocket(leg) => leg.lead(),
            Self::WebSocket(leg) => leg.lead(),
            Self::Rtp(leg) => leg.lead(),
        }
    }

    async fn close(self) {
        match self {
            Self::AudioSocket(leg) => leg.close().await,
            // what is not boxed here is in the future of every call, of whatever kind
            Self::WebSocket(leg) => Box::pin(leg.close()).await,
            Self::Rtp(leg) => leg.close().await,
        }
    }
}
