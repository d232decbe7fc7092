//! Connectors of the AVR contract, driven by a test byte by byte: every split of the wire is the test's own.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use url::Url;

/// A test that hangs fails.
pub const LIMIT: Duration = Duration::from_secs(10);

/// The head of a streamed answer.
const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";

/// Waits, but not for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("still waiting for {what}"))
}

/// A listening service.
pub struct Connector {
    pub url: Url,
    exchanges: mpsc::Receiver<Exchange>,
    task: JoinHandle<()>,
}

impl Drop for Connector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connector {
    pub async fn start(path: &str) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), path)
    }

    pub fn on(listener: TcpListener, path: &str) -> Self {
        let url = Url::parse(&format!("http://{}{path}", listener.local_addr().unwrap())).unwrap();
        let (sender, exchanges) = mpsc::channel(16);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    if let Some(exchange) = Exchange::begin(stream, Vec::new()).await {
                        let _ = sender.send(exchange).await;
                    }
                });
            }
        });
        Self { url, exchanges, task }
    }

    /// The next request.
    pub async fn request(&mut self) -> Exchange {
        soon("a request", self.exchanges.recv()).await.unwrap()
    }

    /// Gives every request this answer, whether or not somebody still waits for it.
    pub async fn answer_all(&mut self, chunks: &[&[u8]]) {
        let body: Vec<u8> = chunks.iter().flat_map(|chunk| framed(chunk)).collect();
        let answer = [HEAD, &body, b"0\r\n\r\n"].concat();
        while let Some(mut exchange) = self.exchanges.recv().await {
            exchange.try_write(&answer).await;
        }
        std::future::pending().await
    }

    /// Whether a request is there already.
    pub fn has_request(&self) -> bool {
        !self.exchanges.is_empty()
    }
}

/// One request and its answer.
pub struct Exchange {
    pub head: String,
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Exchange {
    async fn begin(mut stream: TcpStream, mut unread: Vec<u8>) -> Option<Self> {
        loop {
            if let Some(at) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8(unread.drain(..at + 4).collect()).unwrap();
                return Some(Self { head, stream, unread });
            }
            let mut buffer = [0; 4096];
            let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
            unread.extend_from_slice(&buffer[..n]);
        }
    }

    /// The value of a header, in lower case by name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    async fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match soon("bytes of a request", self.stream.read(&mut buffer)).await {
            Ok(n) if n > 0 => {
                self.unread.extend_from_slice(&buffer[..n]);
                true
            }
            _ => false,
        }
    }

    /// The next chunk of a chunked body; `None` at its end.
    pub async fn piece(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(2).position(|window| window == b"\r\n") {
                let size = usize::from_str_radix(std::str::from_utf8(&self.unread[..at]).unwrap(), 16).unwrap();
                let end = at + 2 + size + 2;
                if self.unread.len() >= end {
                    let piece = self.unread[at + 2..end - 2].to_vec();
                    self.unread.drain(..end);
                    return (size > 0).then_some(piece);
                }
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// At least `len` bytes of a chunked body.
    pub async fn audio(&mut self, len: usize) -> Vec<u8> {
        let mut audio = Vec::new();
        while audio.len() < len {
            audio.extend(self.piece().await.expect("the body goes on"));
        }
        audio
    }

    /// The JSON body.
    pub async fn json(&mut self) -> serde_json::Value {
        serde_json::from_slice(&self.body().await).unwrap()
    }

    /// The whole body.
    pub async fn body(&mut self) -> Vec<u8> {
        let len: usize = self.header("content-length").unwrap().parse().unwrap();
        while self.unread.len() < len {
            assert!(self.fill().await, "the body broke off");
        }
        self.unread.drain(..len).collect()
    }

    /// Raw bytes.
    pub async fn write(&mut self, bytes: &[u8]) {
        soon("bytes to be taken", self.stream.write_all(bytes)).await.unwrap();
    }

    /// Raw bytes, whether or not anybody takes them.
    pub async fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The head of a streamed answer.
    pub async fn ok(&mut self) {
        self.write(HEAD).await;
    }

    /// One HTTP chunk.
    pub async fn chunk(&mut self, bytes: &[u8]) {
        self.write(&framed(bytes)).await;
    }

    /// The end of a streamed answer.
    pub async fn end(mut self) {
        self.write(b"0\r\n\r\n").await;
    }

    /// A whole answer.
    pub async fn answer(mut self, chunks: &[&[u8]]) {
        self.ok().await;
        for chunk in chunks {
            self.chunk(chunk).await;
        }
        self.end().await;
    }

    /// A whole answer with a status.
    pub async fn status(mut self, status: &str, body: &str) {
        let len = body.len();
        self.write(format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}").as_bytes())
            .await;
    }

    /// The connection breaks with an RST.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Waits until the other side has closed.
    pub async fn closed(mut self) {
        while self.fill().await {
            self.unread.clear();
        }
    }
}

/// `bytes` as one HTTP chunk.
pub fn framed(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// An address that nobody listens on for as long as the returned socket lives.
pub fn nobody() -> (Url, tokio::net::TcpSocket) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (Url::parse(&format!("http://{}/", socket.local_addr().unwrap())).unwrap(), socket)
}
