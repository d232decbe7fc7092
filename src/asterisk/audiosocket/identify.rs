//! From a connection to a call: the UUID frame.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use uuid::Uuid;

use super::leg::Leg;
use super::wire::{Decoder, Kind, Message};
use super::{Config, closing};
use crate::asterisk::gate::{Muffler, Place, Waiting};
use crate::asterisk::telemetry::Stats;

/// A connection that has not sent its UUID. It can be moved to another thread and its runtime.
#[derive(Debug)]
pub struct Pending {
    pub(super) stream: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) since: Instant,
    pub(super) waiting: Waiting,
    pub(super) place: Option<Place>,
    pub(super) stats: Arc<Stats>,
    pub(super) muffler: Arc<Muffler>,
}

/// Why a connection became no call.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Nothing, or not enough, came in time.
    #[error("no UUID within {0:?} of connecting; something other than Asterisk?")]
    Timeout(Duration),
    /// Its place went to a newcomer.
    #[error("closed for a newer connection before its UUID had come")]
    Evicted,
    /// It was closed first.
    #[error("closed before its UUID had come; is the channel answered before AudioSocket()?")]
    Closed,
    /// It begins with something else.
    #[error("the first frame is {0:?} with {1} bytes instead of a 16-byte UUID; something other than Asterisk?")]
    NotUuid(Kind, usize),
    /// The socket failed.
    #[error("the connection broke before its UUID had come: {0}")]
    Io(#[from] io::Error),
}

impl Refused {
    /// The stable code shown outside.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "audiosocket.uuid.timeout",
            Self::Evicted => "audiosocket.uuid.evicted",
            Self::Closed => "audiosocket.uuid.closed",
            Self::NotUuid(..) => "audiosocket.uuid.wrong",
            Self::Io(_) => "audiosocket.uuid.io",
        }
    }
}

impl Pending {
    /// Where it comes from.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Waits for the UUID, on the runtime that will serve the call. However slowly the bytes come, `uuid_timeout_ms` counts from the
    /// connect. A refusal is already logged and counted.
    ///
    /// # Errors
    /// When no UUID came, for one of the reasons of [`Refused`].
    pub async fn identify(self, config: &Config) -> Result<Identified, Refused> {
        let peer = self.peer;
        let (stats, muffler) = (Arc::clone(&self.stats), Arc::clone(&self.muffler));
        let result = self.read_uuid(config).await;
        if let Err(refused) = &result
            && !matches!(refused, Refused::Evicted)
        {
            stats.unidentified.inc();
            if let Some(left_out) = muffler.pass() {
                tracing::warn!(%peer, code = refused.code(), left_out, "AudioSocket connection without a call: {refused}");
            }
        }
        result
    }

    async fn read_uuid(self, config: &Config) -> Result<Identified, Refused> {
        let limit = Duration::from_millis(config.uuid_timeout_ms);
        let mut stream = TcpStream::from_std(self.stream)?;
        let mut decoder = Decoder::new();
        let uuid = tokio::select! {
            biased;
            () = self.waiting.evicted.cancelled() => return Err(Refused::Evicted),
            uuid = uuid(&mut stream, &mut decoder) => uuid?,
            () = tokio::time::sleep_until(self.since + limit) => return Err(Refused::Timeout(limit)),
        };
        Ok(Identified {
            uuid,
            peer: self.peer,
            stream,
            decoder,
            config: config.clone(),
            place: self.place,
            stats: self.stats,
        })
    }
}

/// Reads up to the UUID; what comes behind it stays in the decoder.
async fn uuid(stream: &mut TcpStream, decoder: &mut Decoder) -> Result<Uuid, Refused> {
    loop {
        // judged by its header, so that nothing but a UUID is ever waited for
        if let Some((kind, len)) = decoder.header() {
            if (kind, len) != (Kind::Uuid, 16) {
                return Err(Refused::NotUuid(kind, len));
            }
            if let Some(Ok(Message::Uuid(uuid))) = decoder.next_message() {
                return Ok(uuid);
            }
        }
        match stream.read(decoder.room()).await? {
            0 => return Err(Refused::Closed),
            n => decoder.filled(n),
        }
    }
}

/// A connection that has sent its UUID, and waits to be taken or refused. Just dropping it would reset it.
#[derive(Debug)]
#[must_use = "dropped unread it is reset, and the dialplan ends: take it or refuse it"]
pub struct Identified {
    /// The UUID that the dialplan gave the call. Dialplans reuse it.
    pub uuid: Uuid,
    /// Where the connection comes from.
    pub peer: SocketAddr,
    stream: TcpStream,
    decoder: Decoder,
    config: Config,
    place: Option<Place>,
    stats: Arc<Stats>,
}

impl Identified {
    /// Takes the call: waits up to 300 ms for the first audio, which says at what rate it is held.
    pub async fn into_leg(self) -> Leg {
        let Self { stream, decoder, config, place, stats, .. } = self;
        Leg::start(stream, decoder, &config, place, stats).await
    }

    /// Refuses the call in such a way that the dialplan goes on with its next line.
    pub async fn refuse(self) {
        closing::hang_up(self.stream, Vec::new()).await;
    }
}
