//! Vendors that need no time, and phones: `wss` for Deepgram's ears and voice, `https` for a model that speaks OpenAI's protocol.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use hark::agent::Config;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_tungstenite::{accept_async, tungstenite::Message};
use uuid::Uuid;

/// How long the voice waits, so that what it says may be heard at once: Hark waits for 100 ms whether the caller goes on.
pub const PAUSE: Duration = Duration::from_millis(250);
const PERIOD: Duration = Duration::from_millis(20);
const FRAME: usize = 323;
/// Samples of a second.
const SECOND: usize = 8_000;
/// What call `n` hears is `BASE + STEP * n`, again and again.
const BASE: i16 = 2_000;
const STEP: i16 = 8;

/// One step of an answer.
#[derive(Debug, Default)]
pub struct Step {
    /// How long it took, in ms.
    pub took: Vec<f64>,
    /// By call: since when it is under way.
    since: HashMap<u32, Instant>,
}

impl Step {
    fn begins(&mut self, call: u32) {
        self.since.insert(call, Instant::now());
    }

    /// Only the first end of each is one: questions come twice when a guess was wrong.
    fn ends(&mut self, call: Option<u32>, counts: bool) {
        let since = call.and_then(|call| self.since.remove(&call));
        if let Some(since) = since.filter(|_| counts) {
            self.took.push(since.elapsed().as_secs_f64() * 1_000.0);
        }
    }
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Seen {
    /// From final words to the question at the model.
    pub to_model: Step,
    /// From the first sentence to the request at the voice.
    pub to_voice: Step,
    /// From the first audio to the phone.
    pub to_phone: Step,
    /// Calls that broke off.
    pub broken: u32,
    ears: u32,
    counts: bool,
}

type Shared = Arc<Mutex<Seen>>;

fn lock(seen: &Shared) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn ended(seen: &Shared, call: Option<u32>, step: fn(&mut Seen) -> &mut Step) {
    let mut seen = lock(seen);
    let counts = seen.counts;
    step(&mut seen).ends(call, counts);
}

/// Has a gateway use the vendors at `addresses` (ears, model, voice).
pub fn configure(agent: &mut Config, addresses: &str) {
    let mut addresses = addresses.split(',');
    let mut next = || addresses.next().unwrap_or_default().to_owned();
    agent.asr_url = Some(format!("deepgram:nova-3?base_url=wss://{}", next()));
    agent.llm_url = Some(format!("openai:model-1?base_url=https://{}/v1", next()));
    agent.tts_url = Some(format!("deepgram:aura-2-thalia-en?base_url=wss://{}", next()));
}

/// The vendors, until dropped.
pub struct Vendors {
    pub addresses: String,
    /// The certificate of who vouches for them.
    pub authority: NamedTempFile,
    seen: Shared,
    _tasks: JoinSet<()>,
}

impl Vendors {
    pub async fn start() -> Self {
        let (authority, acceptor) = identity();
        let (seen, mut tasks, mut addresses) = (Shared::default(), JoinSet::new(), Vec::new());
        for kind in ["ears", "model", "voice"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(format!("localhost:{}", listener.local_addr().unwrap().port()));
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
            tasks.spawn(async move {
                let mut sessions = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    while sessions.try_join_next().is_some() {}
                    let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                    sessions.spawn(async move {
                        let _ = stream.set_nodelay(true);
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        // it ends when the gateway closes it
                        let _ = match kind {
                            "ears" => ears(stream, &seen).await,
                            "model" => model(stream, &seen).await,
                            _ => voice(stream, &seen).await,
                        };
                    });
                }
            });
        }
        Self { addresses: addresses.join(","), authority, seen, _tasks: tasks }
    }
}

fn identity() -> (NamedTempFile, TlsAcceptor) {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (file, TlsAcceptor::from(Arc::new(config)))
}

type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Has words as soon as the caller has stopped.
async fn ears(stream: TlsStream<TcpStream>, seen: &Shared) -> Ended {
    let mut socket = accept_async(stream).await?;
    let call = {
        let mut seen = lock(seen);
        seen.ears += 1;
        seen.ears - 1
    };
    let mut turn = 0;
    while let Some(message) = socket.next().await {
        if let Message::Text(text) = message?
            && text.contains("Finalize")
        {
            turn += 1;
            let words = format!("This is the question of number {call}.");
            let result = json!({"type": "Results", "start": turn, "duration": 1.0, "is_final": true, "speech_final": true,
                                "channel": {"alternatives": [{"transcript": words}]}});
            lock(seen).to_model.begins(call);
            socket.send(Message::text(result.to_string())).await?;
        }
    }
    Ok(())
}

/// Answers with two sentences, of which the first is whole in its first words.
async fn model(mut stream: TlsStream<TcpStream>, seen: &Shared) -> Ended {
    let mut unread = Vec::new();
    loop {
        let Some((head, body)) = request(&mut stream, &mut unread).await? else { return Ok(()) };
        if head.starts_with("HEAD") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await?;
            continue;
        }
        let call = number(&String::from_utf8_lossy(&body));
        ended(seen, call, |seen| &mut seen.to_model);
        let part = |text: &str| {
            let event = format!(
                "data: {}\n\n",
                json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]})
            );
            format!("{:x}\r\n{event}\r\n", event.len())
        };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let first =
            format!("{head}{}", part(&format!("Here is the answer for number {}. And", call.unwrap_or_default())));
        if let Some(call) = call {
            lock(seen).to_voice.begins(call);
        }
        stream.write_all(first.as_bytes()).await?;
        let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        let rest = format!("{}{:x}\r\n{end}\r\n0\r\n\r\n", part(" that is all."), end.len());
        stream.write_all(rest.as_bytes()).await?;
    }
}

async fn request(
    stream: &mut TlsStream<TcpStream>,
    unread: &mut Vec<u8>,
) -> std::io::Result<Option<(String, Vec<u8>)>> {
    loop {
        if let Some(at) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&unread[..at]).into_owned();
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
            let end = at + 4 + length.unwrap_or(0);
            if unread.len() >= end {
                let body = unread[at + 4..end].to_vec();
                unread.drain(..end);
                return Ok(Some((head, body)));
            }
        }
        if stream.read_buf(unread).await? == 0 {
            return Ok(None);
        }
    }
}

/// Speaks half a second of the call's own value for its first sentence, and next to nothing for others.
async fn voice(stream: TlsStream<TcpStream>, seen: &Shared) -> Ended {
    let mut socket = accept_async(stream).await?;
    let mut asked = None;
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message? else { continue };
        if text.contains("\"Speak\"") {
            asked = number(&text);
            ended(seen, asked, |seen| &mut seen.to_voice);
        } else if text.contains("\"Flush\"") {
            let value = asked.map_or(1, |call| BASE + STEP * i16::try_from(call).unwrap_or_default());
            if let Some(call) = asked {
                sleep_until(Instant::now() + PAUSE).await;
                lock(seen).to_phone.begins(call);
            }
            let audio = value.to_le_bytes().repeat(if asked.is_some() { SECOND / 2 } else { 160 });
            for piece in audio.chunks(3_200) {
                socket.send(Message::binary(piece.to_vec())).await?;
            }
            socket.send(Message::text(json!({"type": "Flushed", "sequence_id": 0}).to_string())).await?;
        }
    }
    Ok(())
}

/// The last number that a text names.
fn number(text: &str) -> Option<u32> {
    let rest = &text[text.rfind("number ")? + 7..];
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// Calls at once, so many more a second; what is measured begins when all have settled.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub calls: u32,
    pub ramp: u32,
    pub settle: Duration,
    pub length: Duration,
}

impl Run {
    /// `edge` is told when the time that is measured begins, and when it ends.
    pub async fn go(self, port: u16, vendors: &Vendors, mut edge: impl FnMut(bool)) -> Seen {
        let frames = recording();
        let begin = Instant::now();
        let from = begin + Duration::from_secs(1) * self.calls / self.ramp + self.settle;
        let until = from + self.length;
        let mut phones = JoinSet::new();
        for call in 0..self.calls {
            let start = begin + Duration::from_secs(1) * call / self.ramp + phase(call);
            let (frames, seen) = (Arc::clone(&frames), Arc::clone(&vendors.seen));
            // each is at another place of the recording
            let offset = frames.len() * call as usize / self.calls as usize;
            phones.spawn(async move {
                sleep_until(start).await;
                if phone(port, &frames, offset, until, &seen).await.is_err() {
                    lock(&seen).broken += 1;
                }
            });
        }
        sleep_until(from).await;
        lock(&vendors.seen).counts = true;
        edge(false);
        sleep_until(until).await;
        lock(&vendors.seen).counts = false;
        edge(true);
        phones.join_all().await;
        std::mem::take(&mut *lock(&vendors.seen))
    }
}

/// Where in the 20 ms a phone sends its frames: phones do not know of one another, so not all at the same moment. By the golden ratio, which
/// spreads any number of them evenly.
fn phase(call: u32) -> Duration {
    PERIOD.mul_f64((f64::from(call) * 0.618_033_988_75).fract())
}

/// A caller who asks something and waits for the answer, as frames of AudioSocket.
fn recording() -> Arc<[[u8; FRAME]]> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/audio/caller.wav");
    let (_, mut samples) = hark::audio::wav::read(&std::fs::read(path).unwrap()).unwrap();
    samples.truncate(4 * SECOND);
    samples.resize(7 * SECOND, 0);
    let frame = |samples: &[i16]| {
        let mut frame = [0; FRAME];
        (frame[0], frame[1], frame[2]) = (0x10, 1, 64);
        for (bytes, sample) in frame[3..].chunks_exact_mut(2).zip(samples) {
            bytes.copy_from_slice(&sample.to_le_bytes());
        }
        frame
    };
    samples.chunks(160).map(frame).collect()
}

async fn phone(port: u16, frames: &[[u8; FRAME]], offset: usize, until: Instant, seen: &Shared) -> Ended {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let mut hello = [0; 19];
    (hello[0], hello[2]) = (1, 16);
    hello[3..].copy_from_slice(Uuid::new_v4().as_bytes());
    stream.write_all(&hello).await?;
    let (mut incoming, mut next, mut at) = (Vec::with_capacity(4_096), Instant::now(), offset);
    loop {
        tokio::select! { biased;
            () = sleep_until(next) => {
                if next >= until {
                    return Ok(());
                }
                stream.write_all(&frames[at % frames.len()]).await?;
                (next, at) = (next + PERIOD, at + 1);
            }
            read = stream.read_buf(&mut incoming) => {
                if read? == 0 {
                    return Err("the gateway ended the call".into());
                }
                let mut done = 0;
                while let Some(frame) = incoming.get(done..done + FRAME) {
                    let last = i16::from_le_bytes([frame[FRAME - 2], frame[FRAME - 1]]);
                    if last >= BASE && (last - BASE) % STEP == 0 {
                        let call = u32::try_from((last - BASE) / STEP).ok();
                        ended(seen, call, |seen| &mut seen.to_phone);
                    }
                    done += FRAME;
                }
                incoming.drain(..done);
            }
        }
    }
}

/// p50, p95 and p99.
pub fn quantiles(step: &Step) -> String {
    let mut sorted = step.took.clone();
    sorted.sort_by(f64::total_cmp);
    let at =
        |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1).copied().unwrap_or(f64::NAN);
    format!("{:.2} / {:.2} / {:.2}", at(50), at(95), at(99))
}
