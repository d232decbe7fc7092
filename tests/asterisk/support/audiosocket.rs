//! A plain AudioSocket server: writes down all that Asterisk sends and answers as the test says.
//! It proves the lab and the phone without the gateway, so that a fault is known to be on one side or the other.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;

pub const HANGUP: u8 = 0x00;
pub const UUID: u8 = 0x01;
pub const DTMF: u8 = 0x03;
pub const SLIN: u8 = 0x10;
pub const SLIN16: u8 = 0x12;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub payload: Vec<u8>,
}

pub struct Server {
    listener: TcpListener,
}

impl Server {
    pub async fn bind() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.expect("a free port") }
    }

    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound listener")
    }

    /// The next connection; with `echo` its audio goes back as it comes.
    pub async fn accept(&self, echo: bool) -> Connection {
        let accepted = timeout(Duration::from_secs(10), self.listener.accept()).await;
        let (stream, _) = accepted.expect("Asterisk connects").expect("accept");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let (read, write) = stream.into_split();
        let write = Arc::new(tokio::sync::Mutex::new(Writer { half: write, hung_up: false }));
        let log = Arc::new(Mutex::new(Vec::new()));
        let changed = watch::Sender::new(None);
        let reader = tokio::spawn(read_all(read, echo.then(|| write.clone()), log.clone(), changed.clone()));
        Connection { write, log, changed, reader }
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Eof,
    Reset,
}

struct Writer {
    half: OwnedWriteHalf,
    hung_up: bool,
}

pub struct Connection {
    write: Arc<tokio::sync::Mutex<Writer>>,
    log: Arc<Mutex<Vec<Frame>>>,
    changed: watch::Sender<Option<End>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Connection {
    pub async fn send(&self, kind: u8, payload: &[u8]) {
        send(&self.write, kind, payload).await.expect("Asterisk reads");
    }

    /// Close; with `reset` the way a process does that is killed while audio lies unread.
    pub async fn close(self, reset: bool) {
        self.reader.abort();
        let _ = self.reader.await;
        if reset {
            let write = Arc::into_inner(self.write).expect("the reader is gone").into_inner().half;
            let linger = socket2::SockRef::from(write.as_ref()).set_linger(Some(Duration::ZERO));
            linger.expect("SO_LINGER");
            // dropping it would send a FIN first
            write.forget();
        }
    }

    pub fn frames(&self) -> Vec<Frame> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All audio of one kind.
    pub fn audio(&self, kind: u8) -> Vec<u8> {
        self.frames().into_iter().filter(|f| f.kind == kind).flat_map(|f| f.payload).collect()
    }

    pub fn digits(&self) -> String {
        self.frames().iter().filter(|f| f.kind == DTMF).map(|f| f.payload[0] as char).collect()
    }

    /// Wait until `done` holds of all the frames so far.
    pub async fn wait(&self, done: impl Fn(&Self) -> bool) {
        let mut changes = self.changed.subscribe();
        let wait = async {
            while !done(self) {
                changes.changed().await.expect("the sender lives in self");
            }
        };
        if timeout(Duration::from_secs(10), wait).await.is_err() {
            let kinds: Vec<_> = self.frames().iter().map(|f| (f.kind, f.payload.len())).collect();
            panic!("never came: {kinds:?}");
        }
    }

    pub async fn ended(&self) -> End {
        let mut changes = self.changed.subscribe();
        let end = timeout(Duration::from_secs(10), changes.wait_for(Option::is_some)).await;
        end.expect("Asterisk closes").expect("the sender lives in self").expect("just seen")
    }
}

async fn send(write: &tokio::sync::Mutex<Writer>, kind: u8, payload: &[u8]) -> std::io::Result<()> {
    let mut frame = vec![kind];
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend(payload);
    let mut write = write.lock().await;
    // nothing follows a hang-up: Asterisk closes at it, and bytes it has not read make that a reset
    if write.hung_up {
        return Ok(());
    }
    write.hung_up = kind == HANGUP;
    // one write: Asterisk gives a payload 5 ms to follow its header
    write.half.write_all(&frame).await
}

async fn read_all(
    mut read: OwnedReadHalf,
    echo: Option<Arc<tokio::sync::Mutex<Writer>>>,
    log: Arc<Mutex<Vec<Frame>>>,
    changed: watch::Sender<Option<End>>,
) {
    let end = loop {
        match read_frame(&mut read).await {
            Ok(frame) => {
                if let (Some(write), 0x10..=0x18) = (&echo, frame.kind) {
                    // the call may be over on the other side already
                    let _ = send(write, frame.kind, &frame.payload).await;
                }
                log.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
                changed.send_modify(|_| {});
            }
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => break End::Eof,
            Err(_) => break End::Reset,
        }
    };
    changed.send_replace(Some(end));
}

async fn read_frame(read: &mut OwnedReadHalf) -> std::io::Result<Frame> {
    let kind = read.read_u8().await?;
    let mut payload = vec![0; read.read_u16().await?.into()];
    read.read_exact(&mut payload).await?;
    Ok(Frame { kind, payload })
}
