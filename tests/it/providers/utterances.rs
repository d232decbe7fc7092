//! Recognisers of whole utterances (OpenAI's transcription, Wyoming), and Wyoming's voices.

use hark::{
    agent::service::Kind,
    audio::Rate,
    call::{AgentInput, Role},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{KEY, config, service};
use crate::support::{
    cascade::{Bench, speech},
    connector::{Connector, nobody, soon},
};

/// A service that speaks Wyoming.
pub struct Wyoming {
    listener: TcpListener,
    pub address: String,
}

/// A connection to it.
pub struct Peer(pub BufReader<TcpStream>);

impl Wyoming {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        Self { listener, address }
    }

    pub async fn accept(&self) -> Peer {
        Peer(BufReader::new(soon("a connection", self.listener.accept()).await.unwrap().0))
    }
}

impl Peer {
    /// The next event, as Python's library reads it.
    pub async fn event(&mut self) -> (Value, Vec<u8>) {
        let mut line = String::new();
        soon("an event", self.0.read_line(&mut line)).await.unwrap();
        let mut event: Value = serde_json::from_str(&line).unwrap();
        assert!(event.get("data_length").is_none());
        let length = event.as_object_mut().unwrap().remove("payload_length").and_then(|n| n.as_u64()).unwrap_or(0);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        soon("a payload", self.0.read_exact(&mut payload)).await.unwrap();
        (event, payload)
    }

    /// An event as Python's library writes it: data behind the line.
    pub async fn say(&mut self, kind: &str, data: Value, payload: &[u8]) {
        // cut anywhere
        self.say_in(1_001, kind, data, payload).await;
    }

    /// The same in pieces of so many bytes.
    pub async fn say_in(&mut self, step: usize, kind: &str, data: Value, payload: &[u8]) {
        let data = data.to_string();
        let head = json!({"type": kind, "version": "1.10.2", "data_length": data.len(), "payload_length": payload.len(), "novel": 1});
        let bytes = [format!("{head}\n{data}").as_bytes(), payload].concat();
        for piece in bytes.chunks(step) {
            self.0.get_mut().write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
    }
}

/// Lets everything that can go on do so.
async fn yielded() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn cascade(asr: &str) -> Bench {
    let mut bench = Bench::start(config(), None).await;
    let asr = service(asr, Kind::Stt);
    bench.restart(Rate::R8K, config(), None, |services| services.asr = asr.into());
    bench
}

/// The caller says something for 400 ms and stops.
pub async fn utterance(bench: &mut Bench) {
    bench.send(AgentInput::CallerSpeech(true));
    // orders overtake audio: each is taken before the next is given
    yielded().await;
    for frame in speech(160 * 20, 9).0.chunks(160) {
        bench.audio(frame);
    }
    yielded().await;
    bench.send(AgentInput::CallerSpeech(false));
}

#[tokio::test]
async fn openai_transcribes_an_utterance() {
    let mut ears = Connector::start("/v1").await;
    let mut bench = cascade(&format!("openai:whisper-1?language=en&prompt=PBX&base_url={}", ears.url)).await;
    utterance(&mut bench).await;
    let mut asked = ears.request().await;
    assert!(asked.head.starts_with("POST /v1/audio/transcriptions HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!(asked.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    let kind = asked.header("content-type").unwrap().to_owned();
    let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap().to_owned();
    let body = asked.body().await;
    let text = String::from_utf8_lossy(&body);
    for (name, value) in [("model", "whisper-1"), ("response_format", "json"), ("language", "en"), ("prompt", "PBX")] {
        let part = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        assert!(text.contains(&part), "{part} is not in the form");
    }
    let at = body.windows(4).position(|window| window == b"RIFF").unwrap();
    let end = body.len() - format!("\r\n--{boundary}--\r\n").len();
    let (rate, samples) = hark::audio::wav::read(&body[at..end]).unwrap();
    assert_eq!(rate, 16_000);
    assert!((6_300..=6_600).contains(&samples.len()), "{}", samples.len());
    asked.status("200 OK", r#"{"text":" Hello there. ","usage":{"type":"duration","seconds":1}}"#).await;
    assert_eq!(bench.transcript().await, (Role::User, "Hello there.".to_owned()));
}

#[tokio::test]
async fn what_openai_refuses_is_tried_again_or_told() {
    let mut ears = Connector::start("/v1").await;
    let mut bench = cascade(&format!("openai:whisper-1?base_url={}", ears.url)).await;
    utterance(&mut bench).await;
    let mut asked = ears.request().await;
    asked.body().await;
    asked.status("503 Busy\r\nRetry-After: 0", r#"{"detail":"loading"}"#).await;
    let fault = bench.degraded().await;
    assert!(fault.message.contains("\"loading\""), "{fault:?}");
    let mut asked = ears.request().await;
    asked.body().await;
    asked.status("200 OK", r#"{"text":"Again."}"#).await;
    assert_eq!(bench.transcript().await.1, "Again.");

    utterance(&mut bench).await;
    let mut asked = ears.request().await;
    asked.body().await;
    asked.status("200 OK", "<html>").await;
    assert_eq!(bench.degraded().await.code, "agent.stt.failed");
    utterance(&mut bench).await;
    let mut asked = ears.request().await;
    asked.body().await;
    asked.status("401 Unauthorized", &format!("{{\"error\":{{\"message\":\"bad {KEY}\"}}}}")).await;
    let fault = bench.failed().await;
    assert_eq!(fault.code, "agent.stt.unauthorized");
    assert!(fault.message.contains("\"bad ***\""), "{fault:?}");
}

#[tokio::test]
async fn wyoming_transcribes_an_utterance() {
    let ears = Wyoming::start().await;
    let mut bench = cascade(&format!("wyoming:{}?language=en", ears.address)).await;
    utterance(&mut bench).await;
    let mut peer = ears.accept().await;
    assert_eq!(peer.event().await.0, json!({"type": "transcribe", "data": {"language": "en"}}));
    let format = json!({"rate": 16_000, "width": 2, "channels": 1});
    assert_eq!(peer.event().await.0, json!({"type": "audio-start", "data": format}));
    let mut audio = 0;
    loop {
        let (event, payload) = peer.event().await;
        if event["type"] == "audio-stop" {
            break;
        }
        assert_eq!(event, json!({"type": "audio-chunk", "data": format}));
        audio += payload.len();
    }
    assert!((12_600..=13_200).contains(&audio), "{audio}");
    peer.say("novelty", json!({"x": 1}), b"\n\n").await;
    peer.say("transcript", json!({"text": "hello there", "language": "en"}), &[]).await;
    assert_eq!(bench.transcript().await, (Role::User, "hello there".to_owned()));

    for _ in 0..2 {
        utterance(&mut bench).await;
        let mut peer = ears.accept().await;
        peer.say("error", json!({"text": "no\nmodel"}), &[]).await;
    }
    assert!(bench.degraded().await.message.contains("\"no\\nmodel\""));
    utterance(&mut bench).await;
    drop(ears.accept().await);
    assert_eq!(bench.failed().await.code, "agent.stt.broken");
}

#[tokio::test]
async fn wyoming_speaks() {
    let voice = Wyoming::start().await;
    let mut bench = Bench::start(config(), None).await;
    let tts = service(&format!("wyoming:{}?voice=joe&speaker=2", voice.address), Kind::Tts);
    bench.restart(Rate::R8K, config(), Some("One. Two."), |services| services.tts = tts.into());
    let (samples, bytes) = speech(1_600, 3);
    for text in ["One.", "Two."] {
        let mut peer = voice.accept().await;
        let expected = json!({"type": "synthesize", "data": {"text": text, "voice": {"name": "joe", "speaker": "2"}}});
        assert_eq!(peer.event().await.0, expected);
        let format = json!({"rate": 8_000, "width": 2, "channels": 1, "timestamp": null});
        peer.say("audio-start", format.clone(), &[]).await;
        peer.say("novelty", json!({}), &[7; 10]).await;
        peer.say("audio-chunk", format.clone(), &bytes[..1_001]).await;
        peer.say("audio-chunk", format, &bytes[1_001..]).await;
        peer.say("audio-stop", json!({"timestamp": null}), &[]).await;
        let (id, heard) = bench.utterance().await;
        assert!(heard == samples, "{} samples", heard.len());
        bench.send(AgentInput::Played(id));
    }
}

#[tokio::test]
async fn a_wyoming_voice_that_is_not_there_is_told() {
    let (url, _socket) = nobody();
    let address = url.as_str().trim_end_matches('/').replace("http://", "tcp://");
    let mut bench = Bench::start(config(), None).await;
    let tts = service(&format!("wyoming:{address}"), Kind::Tts);
    bench.restart(Rate::R8K, config(), Some("One."), |services| services.tts = tts.into());
    assert_eq!(bench.degraded().await.code, "agent.tts.unreachable");
    let fault = bench.failed().await;
    assert_eq!(fault.code, "agent.tts.refused");
    assert!(fault.message.contains("is the service running?"), "{fault:?}");
}
