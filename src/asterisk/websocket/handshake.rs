//! From a connection to a call: the request that makes it a WebSocket, which names the call in its query.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_tungstenite::tungstenite::{
    handshake::server::{Request, create_response, write_response},
    protocol::Role,
};
use uuid::Uuid;

use super::{Config, Leg, socket::Socket};
use crate::asterisk::{
    gate::{Muffler, Place, Waiting},
    telemetry::WebSocketStats,
    upgrade::{self, Codes, NoRequest},
};

/// What Asterisk asks for.
const SUBPROTOCOL: &str = "media";

/// A connection that has not said which call it is. It can be moved to another thread and its runtime.
#[derive(Debug)]
pub struct Pending {
    pub(super) stream: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) since: Instant,
    pub(super) waiting: Waiting,
    pub(super) place: Place,
    pub(super) config: Arc<Config>,
    pub(super) stats: Arc<WebSocketStats>,
    pub(super) muffler: Arc<Muffler>,
}

/// Why a connection became no call.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no request for a WebSocket.
    #[error(transparent)]
    Request(#[from] NoRequest),
    /// Nobody who may connect.
    #[error(
        "its user or password is wrong; username and password of its entry in websocket_client.conf have to be websocket.username and websocket.password"
    )]
    Unauthorized,
}

const CODES: Codes = Codes {
    timeout: "websocket.request.timeout",
    evicted: "websocket.request.evicted",
    closed: "websocket.request.closed",
    wrong: "websocket.request.wrong",
    io: "websocket.request.io",
};

impl Refused {
    /// The stable code shown outside.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Request(error) => error.code(&CODES),
            Self::Unauthorized => "websocket.request.unauthorized",
        }
    }
}

impl Pending {
    /// Where it comes from.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Waits for the request, on the runtime that will serve the call. A refusal is already logged and counted.
    ///
    /// # Errors
    /// When it names no call, for one of the reasons of [`Refused`].
    pub async fn identify(self) -> Result<Identified, Refused> {
        let (peer, stats, muffler) = (self.peer, Arc::clone(&self.stats), Arc::clone(&self.muffler));
        let result = self.read_request().await;
        if let Err(refused) = &result
            && !matches!(refused, Refused::Request(NoRequest::Evicted))
        {
            match refused {
                Refused::Unauthorized => stats.unauthorized.inc(),
                _ => stats.unidentified.inc(),
            }
            if let Some(left_out) = muffler.pass() {
                tracing::warn!(%peer, code = refused.code(), left_out, "WebSocket connection without a call: {refused}");
            }
        }
        result
    }

    async fn read_request(self) -> Result<Identified, Refused> {
        let limit = Duration::from_millis(self.config.start_timeout_ms);
        let mut stream = TcpStream::from_std(self.stream).map_err(NoRequest::Io)?;
        let (request, read) = upgrade::awaited(&mut stream, &self.waiting, self.since, limit).await?;
        let answer = match create_response(&request) {
            Ok(answer) => answer,
            Err(error) => {
                upgrade::refuse(&mut stream, "400 Bad Request", "").await;
                return Err(NoRequest::Wrong(error.to_string()).into());
            }
        };
        if !authorized(&self.config, &request) {
            upgrade::refuse(&mut stream, "401 Unauthorized", upgrade::CHALLENGE).await;
            return Err(Refused::Unauthorized);
        }
        let (uuid, about) = about(request.uri().query().unwrap_or_default(), self.peer);
        let mut answer = answer;
        if upgrade::protocols(request.headers()).any(|one| one == SUBPROTOCOL) {
            answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        }
        let mut accepted = Vec::new();
        // status and headers are ours: they can be written
        let _ = write_response(&mut accepted, &answer);
        Ok(Identified {
            uuid,
            peer: self.peer,
            about,
            stream,
            read,
            accepted,
            role: Role::Server,
            start_by: self.since + limit,
            place: Some(self.place),
            config: self.config,
            stats: self.stats,
        })
    }
}

fn authorized(config: &Config, request: &Request) -> bool {
    let Some(username) = &config.username else { return true };
    upgrade::is_user(request.headers(), username, &config.password)
}

/// The call's UUID and what else the query, the `v()` of the dial string, says of it.
fn about(query: &str, peer: SocketAddr) -> (Uuid, Map<String, Value>) {
    let (mut uuid, mut about) = (None, Map::new());
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "uuid" => {
                uuid = Uuid::try_parse(value.trim()).ok();
                if uuid.is_none() {
                    tracing::warn!(%peer, code = "websocket.uuid", "uuid= of the dial string is no UUID: the call gets one of its own");
                }
            }
            "recording" if matches!(value.as_ref(), "yes" | "true" | "no" | "false") => {
                about.insert(name.into_owned(), matches!(value.as_ref(), "yes" | "true").into());
            }
            "" => {}
            _ => {
                about.insert(name.into_owned(), value.into_owned().into());
            }
        }
    }
    (uuid.unwrap_or_else(Uuid::new_v4), about)
}

/// A connection that names its call, and waits to be taken or refused.
#[derive(Debug)]
#[must_use = "dropped it is reset: take it or refuse it"]
pub struct Identified {
    /// The UUID that the dialplan gave the call, or a new one.
    pub uuid: Uuid,
    /// Where the connection comes from.
    pub peer: SocketAddr,
    /// What else the dialplan says of the call.
    pub about: Map<String, Value>,
    pub(super) stream: TcpStream,
    pub(super) read: Vec<u8>,
    pub(super) accepted: Vec<u8>,
    pub(super) role: Role,
    pub(super) start_by: Instant,
    /// Where it connected to us.
    pub(super) place: Option<Place>,
    pub(super) config: Arc<Config>,
    pub(super) stats: Arc<WebSocketStats>,
}

impl Identified {
    /// Takes the call: Asterisk answers the caller, and says what audio it sends.
    pub async fn into_leg(mut self) -> Leg {
        // deciding may have taken long
        let start_by = self.start_by.max(Instant::now() + Duration::from_secs(2));
        // should that fail, the leg finds out
        let _ = timeout_at(start_by, self.stream.write_all(&self.accepted)).await;
        let socket = Socket::new(self.stream, self.read, self.role);
        Leg::start(socket, start_by, &self.config, self.place, self.stats).await
    }

    /// Refuses the call: the caller is not answered, and `Dial()` ends with `CHANUNAVAIL`.
    pub async fn refuse(mut self) {
        if self.role == Role::Client {
            // that ends the channel which waited for us
            return;
        }
        upgrade::refuse(&mut self.stream, StatusCode::SERVICE_UNAVAILABLE.to_string().as_str(), "").await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_the_call_and_tells_of_it() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let (uuid, said) =
            about("uuid=0192f4c0-5a3e-7c1b-8d2e-0123456789ab&from=%2B49+30&recording=no&empty=&from=2", peer);
        assert_eq!(uuid.to_string(), "0192f4c0-5a3e-7c1b-8d2e-0123456789ab");
        assert_eq!(Value::Object(said), serde_json::json!({"from": "2", "recording": false, "empty": ""}));
        let (first, said) = about("uuid=x", peer);
        assert!(said.is_empty() && first != about("", peer).0);
    }

    #[test]
    fn without_a_user_everybody_may_connect() {
        let request = |given: &str| Request::builder().header("Authorization", given).body(()).unwrap();
        let mut config = Config::default();
        assert!(authorized(&config, &request("")));
        (config.username, config.password) = (Some("hark".into()), "secret".into());
        // hark:secret
        assert!(
            authorized(&config, &request("Basic aGFyazpzZWNyZXQ=")) && !authorized(&config, &request("Basic eA=="))
        );
        assert!(!format!("{config:?}").contains("secret"));
    }
}
