//! A whole gateway on free ports of loopback, and a caller who is as rude as the test wants.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use hark::{
    app::App,
    asterisk::audiosocket::wire::{self, Message},
    audio::{Frame, Rate},
    config::Config,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use url::Url;
use uuid::Uuid;

use super::{PATIENCE, client};

/// A gateway; gone when dropped.
pub struct Gateway {
    pub audiosocket: SocketAddr,
    pub http: SocketAddr,
    /// Where Asterisk connects to tell of calls.
    pub ari: Option<SocketAddr>,
    _task: AbortOnDropHandle<()>,
    _data: TempDir,
}

impl Gateway {
    /// Serves calls from the speech-to-speech service at `sts`.
    pub async fn start(sts: &Url) -> Self {
        Self::with(sts, |_| {}).await
    }

    /// The same with other settings.
    pub async fn with(sts: &Url, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.audiosocket.listen = (Ipv4Addr::LOCALHOST, 0).into();
        config.http.listen = (Ipv4Addr::LOCALHOST, 0).into();
        config.limits.media_threads = 1;
        config.agent.sts_url = Some(sts.to_string());
        let data = tempfile::tempdir().unwrap();
        config.data_dir = data.path().to_owned();
        change(&mut config);
        let app = App::bind(config).await.unwrap();
        let (audiosocket, http, ari) = (app.audiosocket_addr(), app.http_addr().unwrap(), app.ari_addr());
        let task = tokio::spawn(async move {
            app.run(CancellationToken::new()).await;
        });
        Self { audiosocket, http, ari, _task: AbortOnDropHandle::new(task), _data: data }
    }

    /// The number that `/metrics` shows under `name` (with its labels, if it has any); 0 when it shows none.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = client().get(format!("http://{}/metrics", self.http)).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
    }

    /// Waits until `name` is `value`.
    pub async fn until(&self, name: &str, value: u64) {
        let since = Instant::now();
        loop {
            let now = self.metric(name).await;
            if now == value {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{name} is {now} and never {value}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Frames of silence or of one value each, so that they can be told apart. Loud enough: silent ones may be left out in a call.
pub fn frame_of(number: i16) -> Frame {
    Frame::padded(Rate::R8K, &[value_of(number); 160])
}

fn value_of(number: i16) -> i16 {
    if number == 0 { 0 } else { 1_000 + number }
}

/// The samples of frames 1 to `frames`, of which no two are alike.
pub fn numbered(frames: i16) -> Vec<i16> {
    (1..=frames).flat_map(|number| [value_of(number); 160]).collect()
}

/// The caller's side of AudioSocket.
pub struct Line {
    pub stream: TcpStream,
    decoder: wire::Decoder,
}

/// What a gateway sends.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// 20 ms of audio.
    Audio(Vec<i16>),
    Hangup,
    /// The end of the stream, between two frames.
    End,
}

impl Line {
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // a phone bridge has little room: what is not read is soon felt
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, decoder: wire::Decoder::new() }
    }

    /// Connects and begins a call of its own, with a frame of silence.
    pub async fn call(address: SocketAddr) -> Self {
        let mut line = Self::connect(address).await;
        let mut bytes = Vec::new();
        wire::put_uuid(&mut bytes, Uuid::new_v4());
        wire::put_audio(&mut bytes, &frame_of(0));
        line.stream.write_all(&bytes).await.unwrap();
        line
    }

    pub async fn say(&mut self, number: i16) {
        let mut bytes = Vec::new();
        wire::put_audio(&mut bytes, &frame_of(number));
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// Says so many frames of recorded speech, at the pace of speech.
    pub async fn speak(&mut self, frames: usize) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/audio/caller.wav");
        let (rate, samples) = hark::audio::wav::read(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(rate, 8_000);
        let mut next = Instant::now();
        for samples in samples.chunks(160).take(frames) {
            let mut bytes = Vec::new();
            wire::put_audio(&mut bytes, &Frame::padded(Rate::R8K, samples));
            self.stream.write_all(&bytes).await.unwrap();
            next += Duration::from_millis(20);
            tokio::time::sleep_until(next).await;
        }
    }

    /// The next thing the gateway says. Anything that is no whole frame of 20 ms at 8 kHz fails the test.
    pub async fn hear(&mut self) -> Said {
        loop {
            if let Some(message) = self.decoder.next_message() {
                return match message.unwrap() {
                    Message::Audio { rate: Rate::R8K, payload } if payload.len() == 320 => {
                        let mut samples = Vec::new();
                        wire::samples_from_le(payload, &mut samples);
                        Said::Audio(samples)
                    }
                    Message::Hangup => Said::Hangup,
                    other => panic!("{other:?}"),
                };
            }
            let read = self.stream.read(self.decoder.room());
            match tokio::time::timeout(PATIENCE, read).await.expect("the gateway is silent").unwrap() {
                0 => {
                    assert!(!self.decoder.mid_frame(), "the connection ends within a frame");
                    return Said::End;
                }
                n => self.decoder.filled(n),
            }
        }
    }

    /// Takes whatever comes, until the gateway hangs up. Loses nothing when dropped.
    pub async fn listen(&mut self) {
        while matches!(self.hear().await, Said::Audio(_)) {}
    }

    /// Listens until `samples` that are not silence have come, and gives them.
    pub async fn words(&mut self, samples: usize) -> Vec<i16> {
        let (mut words, since) = (Vec::with_capacity(samples), Instant::now());
        while words.len() < samples {
            assert!(since.elapsed() < PATIENCE, "only {} of {samples} samples came", words.len());
            match self.hear().await {
                Said::Audio(heard) => words.extend(heard.into_iter().filter(|sample| *sample != 0)),
                other => panic!("{other:?} after {} of {samples} samples", words.len()),
            }
        }
        words
    }

    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}
