//! An ARI that does what it is told: channels, bridges and events of an Asterisk without an Asterisk, and the faults of a broken one.

mod media;
pub mod outbound;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use hark::{
    asterisk::audiosocket::wire,
    audio::{Frame, Rate},
};
use http::{Method, Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{broadcast, watch},
    time::{interval, timeout},
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request as Asked, Response as Accepted},
    },
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::PATIENCE;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It is done and answered.
    Pass,
    /// It is not done; this status.
    Status(u16),
    /// It is answered, but not done.
    Nothing,
    /// It is done, and answered with half of a JSON object.
    Half,
    /// It is done, and never answered.
    Silence,
    /// The connection is closed instead of an answer.
    Close,
    /// The events socket is cut, then it is done and answered.
    Cut,
}

type Rule = Box<dyn Fn(&str, usize) -> Act + Send>;

#[derive(Default)]
struct State {
    /// Whether each is in the application.
    channels: BTreeMap<String, bool>,
    media: BTreeMap<String, AbortOnDropHandle<()>>,
    rtp: Vec<RtpPeer>,
    bridges: BTreeMap<String, BTreeSet<String>>,
    /// Method and path without identities, of requests about a call.
    requests: Vec<String>,
    continued: Vec<String>,
    rule: Option<Rule>,
    version: Option<&'static str>,
}

/// Asterisk's end of a call by RTP.
#[derive(Clone)]
pub struct RtpPeer {
    pub socket: Arc<UdpSocket>,
    /// Where it was told to send to.
    pub to: SocketAddr,
    pub format: String,
}

struct Inner {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    events: broadcast::Sender<Message>,
    /// Grows when the events sockets are cut.
    cut: watch::Sender<u64>,
    app: &'static str,
}

/// The fake; gone when dropped.
pub struct FakeAri {
    pub addr: SocketAddr,
    inner: Arc<Inner>,
    _task: AbortOnDropHandle<()>,
}

impl FakeAri {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            events: broadcast::Sender::new(100_000),
            cut: watch::Sender::new(0),
            app: "hark",
        });
        let shared = Arc::clone(&inner);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, Arc::clone(&shared)));
            }
        });
        Self { addr, inner, _task: AbortOnDropHandle::new(task) }
    }

    /// The version that it tells from now on.
    pub fn be(&self, version: &'static str) {
        self.inner.lock().version = Some(version);
    }

    /// Decides about requests by their method and path, and by how many requests about calls there have been.
    pub fn rule(&self, rule: impl Fn(&str, usize) -> Act + Send + 'static) {
        self.inner.lock().rule = Some(Box::new(rule));
    }

    pub fn obey(&self) {
        let mut state = self.inner.lock();
        state.rule = None;
        state.requests.clear();
    }

    /// A caller enters the application; their channel.
    pub fn call(&self, id: &str, args: &[&str]) -> String {
        self.inner.lock().channels.insert(id.to_owned(), true);
        self.event(&json!({"type": "StasisStart", "args": args, "channel": self.inner.channel(id, true)}));
        id.to_owned()
    }

    pub fn hang_up(&self, id: &str) {
        self.inner.end(id);
    }

    /// Somebody else takes the caller into the dialplan, and nobody is told.
    pub fn take_away(&self, id: &str) {
        let mut state = self.inner.lock();
        state.channels.insert(id.to_owned(), false);
        for channels in state.bridges.values_mut() {
            channels.remove(id);
        }
    }

    /// Every media channel ends, as it does when Hark hangs up.
    pub fn end_media(&self) {
        let media: Vec<_> = self.inner.lock().media.keys().cloned().collect();
        for id in media {
            self.inner.end(&id);
        }
    }

    pub fn event(&self, event: &Value) {
        let mut event = event.clone();
        event["application"] = self.inner.app.into();
        self.raw(Message::text(event.to_string()));
    }

    pub fn raw(&self, message: Message) {
        // nobody may be connected
        let _ = self.inner.events.send(message);
    }

    /// Puts something there that was left over.
    pub fn leave(&self, channels: &[&str], bridge: &str) {
        let mut state = self.inner.lock();
        state.channels.extend(channels.iter().map(|id| ((*id).to_owned(), true)));
        state.bridges.insert(bridge.to_owned(), channels.iter().map(|id| (*id).to_owned()).collect());
    }

    /// The call by RTP of this number (from 0), once it has been asked for.
    pub async fn rtp(&self, number: usize) -> RtpPeer {
        self.until("asked for RTP", |ari| ari.inner.state.lock().unwrap().rtp.len() > number).await;
        self.inner.lock().rtp[number].clone()
    }

    pub fn subscribers(&self) -> usize {
        self.inner.events.receiver_count()
    }

    pub fn requests(&self) -> Vec<String> {
        self.inner.lock().requests.clone()
    }

    pub fn continued(&self) -> Vec<String> {
        self.inner.lock().continued.clone()
    }

    pub fn is_in_app(&self, id: &str) -> bool {
        self.inner.lock().channels.get(id) == Some(&true)
    }

    pub fn is_bridged(&self, id: &str) -> bool {
        self.inner.lock().bridges.values().any(|channels| channels.contains(id))
    }

    /// Neither bridges nor channels but those that are in the dialplan.
    pub fn is_empty(&self) -> bool {
        let state = self.inner.lock();
        state.bridges.is_empty() && !state.channels.values().any(|in_app| *in_app)
    }

    pub fn left(&self) -> String {
        let state = self.inner.lock();
        format!("channels {:?}, bridges {:?}, requests {:?}", state.channels, state.bridges, state.requests)
    }

    /// Waits until `holds`.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut changed = self.inner.changed.subscribe();
        let wait = async {
            while !holds(self) {
                // what does not tell, such as a subscriber, is looked at now and then
                let _ = timeout(Duration::from_millis(20), changed.changed()).await;
            }
        };
        assert!(timeout(PATIENCE, wait).await.is_ok(), "never {what}: {}", self.left());
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.changed.send_modify(|count| *count += 1);
        self.state.lock().unwrap()
    }

    fn channel(&self, id: &str, in_app: bool) -> Value {
        let app = if in_app { "Stasis" } else { "Dial" };
        json!({"id": id, "name": "PJSIP/phone-1", "state": "Ring", "caller": {"name": "Eve", "number": "2000"},
               "dialplan": {"context": "c", "exten": "5011", "priority": 1, "app_name": app, "app_data": self.app}})
    }

    fn tell(&self, kind: &str, id: &str) {
        let event = json!({"type": kind, "application": self.app, "cause": 16, "channel": {"id": id}});
        let _ = self.events.send(Message::text(event.to_string()));
    }

    fn events_of(&self, app: &str, name: &str) {
        let event = json!({"type": "ChannelUserevent", "application": app, "eventname": name, "userevent": {}});
        let _ = self.events.send(Message::text(event.to_string()));
    }

    fn end(&self, id: &str) -> bool {
        let (there, media) = {
            let mut state = self.lock();
            for channels in state.bridges.values_mut() {
                channels.remove(id);
            }
            (state.channels.remove(id).is_some(), state.media.remove(id))
        };
        if there {
            ["ChannelHangupRequest", "StasisEnd", "ChannelDestroyed"].iter().for_each(|kind| self.tell(kind, id));
        }
        drop(media);
        there
    }

    fn act(&self, request: &str) -> Act {
        let mut state = self.lock();
        let watching = ["GET ", "PUT applications", "POST events"].iter().any(|begin| request.starts_with(begin));
        let number = state.requests.len();
        if !watching {
            state.requests.push(request.to_owned());
        }
        state.rule.as_ref().map_or(Act::Pass, |rule| rule(request, if watching { usize::MAX } else { number }))
    }

    async fn answer(
        self: &Arc<Self>,
        method: &Method,
        path: &[&str],
        query: &BTreeMap<String, String>,
    ) -> (u16, Value) {
        let get = |name: &str| query.get(name).cloned().unwrap_or_default();
        match (method.as_str(), path) {
            ("GET", ["asterisk", "info"]) => {
                (200, json!({"system": {"version": self.lock().version.unwrap_or("22.10.1-fake")}}))
            }
            ("POST", ["channels"]) => {
                // who is called answers at once
                let id = get("channelId");
                self.lock().channels.insert(id.clone(), true);
                self.tell("StasisStart", &id);
                (200, json!({"id": id}))
            }
            ("PUT", ["applications", _, "eventFilter"]) => (200, json!({"name": self.app})),
            ("GET", ["applications", _]) => {
                let state = self.lock();
                let ids: Vec<_> = state.channels.iter().filter(|(_, in_app)| **in_app).map(|(id, _)| id).collect();
                (200, json!({"name": self.app, "channel_ids": ids}))
            }
            ("POST", ["events", "user", name]) => {
                self.events_of(&get("application"), name);
                (204, Value::Null)
            }
            ("GET", ["channels"]) => {
                let channels = self.lock().channels.clone();
                (200, channels.iter().map(|(id, in_app)| self.channel(id, *in_app)).collect())
            }
            ("GET", ["bridges"]) => {
                let state = self.lock();
                (200, state.bridges.iter().map(|(id, channels)| json!({"id": id, "channels": channels})).collect())
            }
            ("POST", ["bridges"]) => {
                self.lock().bridges.insert(get("bridgeId"), BTreeSet::new());
                (200, json!({"id": get("bridgeId"), "channels": []}))
            }
            ("DELETE", ["bridges", id]) => match self.lock().bridges.remove(*id) {
                Some(_) => (204, Value::Null),
                None => (404, json!({"message": "Bridge not found"})),
            },
            ("POST", ["bridges", id, "addChannel"]) => {
                let mut state = self.lock();
                let channels: Vec<String> = get("channel").split(',').map(str::to_owned).collect();
                if !channels.iter().all(|channel| state.channels.get(channel) == Some(&true)) {
                    return (422, json!({"message": "Channel not in Stasis application"}));
                }
                match state.bridges.get_mut(*id) {
                    Some(bridge) => {
                        bridge.extend(channels);
                        (204, Value::Null)
                    }
                    None => (404, json!({"message": "Bridge not found"})),
                }
            }
            ("POST", ["channels", "externalMedia"]) if get("encapsulation") == "rtp" => {
                assert_eq!(get("transport"), "udp");
                self.rtp(&get("channelId"), &get("external_host"), get("format")).await
            }
            ("POST", ["channels", "externalMedia"]) => {
                self.media(&get("channelId"), &get("external_host"), &get("data")).await
            }
            ("DELETE", ["channels", id]) if self.end(id) => (204, Value::Null),
            ("POST", ["channels", id, "continue"]) => self.go_on(id),
            ("POST", ["channels", id, _]) if self.lock().channels.contains_key(*id) => (204, Value::Null),
            _ => (404, json!({"message": "Channel not found"})),
        }
    }

    fn go_on(&self, id: &str) -> (u16, Value) {
        {
            let mut state = self.lock();
            match state.channels.get_mut(id) {
                Some(in_app) if *in_app => *in_app = false,
                Some(_) => return (409, json!({"message": "Channel not in Stasis application"})),
                None => return (404, json!({"message": "Channel not found"})),
            }
            for channels in state.bridges.values_mut() {
                channels.remove(id);
            }
            state.continued.push(id.to_owned());
            // and hangs up there
            state.channels.remove(id);
        }
        self.tell("StasisEnd", id);
        (204, Value::Null)
    }
}

async fn connection(stream: TcpStream, inner: Arc<Inner>) {
    let mut begin = [0; 15];
    while stream.peek(&mut begin).await.is_ok_and(|read| read > 0 && read < begin.len()) {
        tokio::task::yield_now().await;
    }
    if begin == *b"GET /ari/events" {
        return events(stream, inner).await;
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let inner = Arc::clone(&inner);
        async move { serve(request, inner).await }
    });
    // the client may go
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// A path without identities.
fn named(path: &[&str]) -> String {
    let what: Vec<&str> = path.iter().copied().take(1).chain(path.iter().copied().skip(2)).collect();
    if path.ends_with(&["externalMedia"]) { "channels/externalMedia".to_owned() } else { what.join("/") }
}

async fn serve(request: Request<Incoming>, inner: Arc<Inner>) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let path = request.uri().path().trim_start_matches("/ari/").to_owned();
    let path: Vec<&str> = path.split('/').collect();
    let what = named(&path);
    let query =
        url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
    let (status, body) = match inner.act(&format!("{} {what}", request.method())) {
        Act::Status(status) => (status, json!({"message": "no\u{1b}[31m"}).to_string()),
        Act::Close => return Err(std::io::ErrorKind::ConnectionReset.into()),
        act => {
            if act == Act::Cut {
                inner.cut.send_modify(|count| *count += 1);
            }
            let (status, body) = match act {
                Act::Nothing => (204, Value::Null),
                _ => inner.answer(request.method(), &path, &query).await,
            };
            match act {
                Act::Half => (200, r#"{"id": "#.to_owned()),
                Act::Silence => std::future::pending::<Result<_, Infallible>>().await.unwrap_or_default(),
                _ => (status, body.to_string()),
            }
        }
    };
    let answer = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    Ok(answer.body(if status == 204 { Full::default() } else { Full::from(body) }).unwrap())
}

async fn events(stream: TcpStream, inner: Arc<Inner>) {
    let status = inner.act("GET events");
    // tungstenite's own types are large
    #[allow(clippy::result_large_err)]
    let check = move |request: &Asked, accepted: Accepted| {
        assert!(request.uri().query().is_some_and(|query| query == "app=hark"), "{}", request.uri());
        let refusal = match status {
            Act::Status(status) => status,
            _ if request.headers().contains_key(header::AUTHORIZATION) => return Ok(accepted),
            _ => 401,
        };
        let mut refused = ErrorResponse::new(None);
        *refused.status_mut() = refusal.try_into().unwrap();
        Err(refused)
    };
    let Ok(mut socket) = accept_hdr_async(stream, check).await else { return };
    let (mut events, mut cut) = (inner.events.subscribe(), inner.cut.subscribe());
    loop {
        tokio::select! {
            event = events.recv() => {
                let Ok(event) = event else { return };
                if socket.send(event).await.is_err() {
                    return;
                }
            }
            message = socket.next() => if !matches!(message, Some(Ok(_))) { return },
            _ = cut.changed() => return,
        }
    }
}
