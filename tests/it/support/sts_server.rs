//! A speech-to-speech service that is faithful to the contract (section 4.1) and records everything it receives, bit-exact.
//!
//! ```ignore
//! let server = StsServer::start(Mode::Echo).await;          // or Mode::Burst(samples), or Mode::Script(steps)
//! let agent = Sts::start(server.url(), context);
//! let session = server.session(0).await;                    // waits until the WebSocket is open
//! session.until(|record| record.audio.len() >= 160).await;  // waits, and returns what was recorded
//! session.step(Step::Interruption);                         // steps may be added at any time
//! ```

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        protocol::{CloseFrame, WebSocketConfig},
    },
};
use url::Url;

/// A hang is a failure.
pub const LIMIT: Duration = Duration::from_secs(20);

/// What a session does by itself.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Sends back every audio message as it came.
    Echo,
    /// Sends this speech at once, as soon as `init` has come, 320 bytes a message.
    Burst(Vec<i16>),
    /// Carries these out, in order.
    Script(Vec<Step>),
}

/// Something that a session does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Goes on when that many samples of the caller have come.
    Heard(usize),
    /// Goes on when that many digits have come.
    Digits(usize),
    /// Sends speech, this many bytes a message (the last may be shorter); odd numbers split samples.
    Speak(Vec<i16>, usize),
    /// Sends any text.
    Text(String),
    /// Sends a binary message.
    Binary(Vec<u8>),
    /// `{"type":"interruption"}`
    Interruption,
    /// `{"type":"transcript",…}`
    Transcript(&'static str, &'static str),
    /// `{"type":"error",…}`
    Error(&'static str),
    /// Sends a close frame, with code and reason or without (1005), and ends.
    Close(Option<(u16, &'static str)>),
    /// Crashes: the connection is reset.
    Abort,
    /// Reads no more.
    StopReading,
    /// Reads again.
    ResumeReading,
}

/// What a session received.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Path and query of the request, as they came.
    pub target: String,
    /// Headers of the request.
    pub headers: Vec<(String, String)>,
    /// Every text, in order.
    pub texts: Vec<String>,
    /// The caller's audio, all of it.
    pub audio: Vec<i16>,
    /// Size in bytes of each audio message.
    pub audio_sizes: Vec<usize>,
    /// The digits.
    pub digits: String,
    /// What was received against the contract.
    pub faults: Vec<String>,
    /// The session is over; the code of the close frame, if there was one.
    pub ended: Option<Option<u16>>,
}

impl Record {
    /// `type` of every message, audio left out.
    pub fn kinds(&self) -> Vec<String> {
        let kind = |text: &String| Some(serde_json::from_str::<Value>(text).ok()?["type"].as_str()?.to_owned());
        self.texts.iter().filter_map(kind).filter(|kind| kind != "audio").collect()
    }
}

/// One session of the service.
pub struct Session {
    record: watch::Sender<Record>,
    steps: mpsc::Sender<Step>,
}

impl Session {
    /// Waits until `condition` holds and returns what was recorded by then.
    pub async fn until(&self, condition: impl FnMut(&Record) -> bool) -> Record {
        let mut record = self.record.subscribe();
        match timeout(LIMIT, record.wait_for(condition)).await {
            Ok(record) => record.unwrap().clone(),
            Err(_) => panic!("the service waited in vain; it has {:?}", self.record.borrow().texts.last()),
        }
    }

    /// What was recorded so far.
    pub fn record(&self) -> Record {
        self.record.borrow().clone()
    }

    /// Adds a step.
    pub fn step(&self, step: Step) {
        self.steps.try_send(step).expect("the session has ended, or has more steps than fit");
    }
}

/// The service.
pub struct StsServer {
    address: SocketAddr,
    host: &'static str,
    scheme: &'static str,
    sessions: watch::Receiver<Vec<Arc<Session>>>,
    accepting: JoinHandle<()>,
}

impl Drop for StsServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl StsServer {
    /// Listens on a free port of loopback.
    pub async fn start(mode: Mode) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), mode, None)
    }

    /// The same with TLS; reach it as `localhost`.
    pub async fn start_tls(mode: Mode, acceptor: TlsAcceptor) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), mode, Some(acceptor))
    }

    /// On a listener of one's own.
    pub fn on(listener: TcpListener, mode: Mode, tls: Option<TlsAcceptor>) -> Self {
        let address = listener.local_addr().unwrap();
        let (host, scheme) = if tls.is_some() { ("localhost", "wss") } else { ("127.0.0.1", "ws") };
        let (opened, sessions) = watch::channel(Vec::new());
        let accepting = tokio::spawn(async move {
            let opened = Arc::new(opened);
            while let Ok((stream, _)) = listener.accept().await {
                let (opened, mode, tls) = (Arc::clone(&opened), mode.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                session(stream, |_| {}, mode, &opened).await;
                            }
                        }
                        None => session(stream, reset_on_close, mode, &opened).await,
                    }
                });
            }
        });
        Self { address, host, scheme, sessions, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> Url {
        format!("{}://{}:{}/", self.scheme, self.host, self.address.port()).parse().unwrap()
    }

    /// The session of this number (from 0), once its WebSocket is open.
    pub async fn session(&self, number: usize) -> Arc<Session> {
        let mut sessions = self.sessions.clone();
        let sessions = timeout(LIMIT, sessions.wait_for(|sessions| sessions.len() > number)).await;
        Arc::clone(&sessions.expect("nobody connected").unwrap()[number])
    }

    /// How many WebSockets were opened.
    pub fn session_count(&self) -> usize {
        self.sessions.borrow().len()
    }
}

fn reset_on_close(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Bytes of samples as the contract has them.
pub fn pcm(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

/// An audio message as connectors write it.
pub fn audio_message(pcm: &[u8]) -> String {
    json!({"type": "audio", "audio": BASE64_STANDARD.encode(pcm)}).to_string()
}

async fn session<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    reset: fn(&S),
    mode: Mode,
    opened: &watch::Sender<Vec<Arc<Session>>>,
) {
    let seen = Arc::new(Mutex::new(Record::default()));
    let noted = Arc::clone(&seen);
    // The callback's type is tungstenite's.
    #[allow(clippy::result_large_err)]
    let note = move |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        let mut record = noted.lock().unwrap();
        record.target = request.uri().to_string();
        let text = |value: &http::HeaderValue| value.to_str().unwrap_or("?").to_owned();
        record.headers = request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Ok(response)
    };
    let Ok(socket) = accept_hdr_async(stream, note).await else { return };
    let (record, _) = watch::channel(seen.lock().unwrap().clone());
    let (steps, more) = mpsc::channel(256);
    let handle = Arc::new(Session { record: record.clone(), steps });
    opened.send_modify(|sessions| sessions.push(handle));
    let close =
        Worker { socket, reset, record: record.clone(), more, todo: VecDeque::new(), reading: true }.run(mode).await;
    record.send_modify(|record| record.ended = Some(close));
}

struct Worker<S> {
    socket: WebSocketStream<S>,
    reset: fn(&S),
    record: watch::Sender<Record>,
    more: mpsc::Receiver<Step>,
    todo: VecDeque<Step>,
    reading: bool,
}

enum Done {
    /// Goes on with the next step.
    Yes,
    /// The step waits for something to be received.
    NotYet(Step),
    /// The session is over.
    Over,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Worker<S> {
    /// Runs to the end; the code of the peer's close frame.
    async fn run(mut self, mode: Mode) -> Option<u16> {
        let _: &WebSocketConfig = self.socket.get_config();
        match &mode {
            Mode::Script(steps) => self.todo.extend(steps.iter().cloned()),
            Mode::Burst(_) | Mode::Echo => {}
        }
        loop {
            while let Some(step) = self.todo.pop_front() {
                match self.carry_out(step).await {
                    Done::Yes => {}
                    Done::NotYet(step) => {
                        self.todo.push_front(step);
                        break;
                    }
                    Done::Over => return None,
                }
            }
            tokio::select! { biased;
                Some(step) = self.more.recv() => self.todo.push_back(step),
                message = self.socket.next(), if self.reading => match message {
                    Some(Ok(Message::Text(text))) => self.received(text.to_string(), &mode).await,
                    Some(Ok(Message::Close(frame))) => {
                        let _ = self.socket.flush().await;
                        return Some(frame.map_or(1005, |frame| frame.code.into()));
                    }
                    Some(Ok(Message::Binary(_))) => self.fault("a binary message".to_owned()),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return None,
                },
            }
        }
    }

    async fn carry_out(&mut self, step: Step) -> Done {
        let text = match step {
            Step::Heard(samples) if self.record.borrow().audio.len() < samples => return Done::NotYet(step),
            Step::Digits(count) if self.record.borrow().digits.len() < count => return Done::NotYet(step),
            Step::Heard(_) | Step::Digits(_) => return Done::Yes,
            Step::Speak(samples, size) => {
                for piece in pcm(&samples).chunks(size) {
                    if self.socket.feed(Message::text(audio_message(piece))).await.is_err() {
                        return Done::Over;
                    }
                }
                return if self.socket.flush().await.is_ok() { Done::Yes } else { Done::Over };
            }
            Step::Binary(bytes) => {
                return if self.socket.send(Message::binary(bytes)).await.is_ok() { Done::Yes } else { Done::Over };
            }
            Step::Text(text) => text,
            Step::Interruption => r#"{"type":"interruption"}"#.to_owned(),
            Step::Transcript(role, text) => json!({"type": "transcript", "role": role, "text": text}).to_string(),
            Step::Error(message) => json!({"type": "error", "message": message}).to_string(),
            Step::Close(frame) => {
                let frame = frame.map(|(code, reason)| CloseFrame { code: code.into(), reason: reason.into() });
                let _ = self.socket.close(frame).await;
                while let Some(Ok(_)) = self.socket.next().await {}
                return Done::Over;
            }
            Step::Abort => {
                (self.reset)(self.socket.get_ref());
                return Done::Over;
            }
            Step::StopReading => {
                self.reading = false;
                return Done::Yes;
            }
            Step::ResumeReading => {
                self.reading = true;
                return Done::Yes;
            }
        };
        if self.socket.send(Message::text(text)).await.is_ok() { Done::Yes } else { Done::Over }
    }

    fn fault(&self, fault: String) {
        self.record.send_modify(|record| record.faults.push(fault));
    }

    async fn received(&mut self, text: String, mode: &Mode) {
        let message: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        let kind = message["type"].as_str().unwrap_or_default().to_owned();
        let is_first = self.record.borrow().texts.is_empty();
        if is_first != (kind == "init") {
            self.fault(format!("init has to come first and once: {text}"));
        }
        let audio = message["audio"].as_str().and_then(|payload| BASE64_STANDARD.decode(payload).ok());
        self.record.send_modify(|record| match (kind.as_str(), &audio) {
            ("init", _) if message["uuid"].is_string() && message.as_object().is_some_and(|map| map.len() == 2) => {}
            ("audio", Some(pcm)) if pcm.len() % 2 == 0 => {
                record.audio.extend(pcm.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
                record.audio_sizes.push(pcm.len());
            }
            ("dtmf_digit", _) if message["digit"].is_string() => {
                record.digits.push_str(message["digit"].as_str().unwrap());
            }
            _ => record.faults.push(format!("none of the contract: {text}")),
        });
        self.record.send_modify(|record| record.texts.push(text.clone()));
        match mode {
            Mode::Echo if kind == "audio" => {
                let _ = self.socket.send(Message::text(text)).await;
            }
            Mode::Burst(samples) if kind == "init" => self.todo.push_back(Step::Speak(samples.clone(), 320)),
            _ => {}
        }
    }
}
