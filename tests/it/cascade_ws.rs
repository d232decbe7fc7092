//! Hark's own WebSocket contract: stt, llm and tts.

use futures_util::{SinkExt as _, StreamExt as _};
use hark::{
    agent::Config,
    audio::{Frame, Rate},
    call::{AgentEvent, AgentInput, Digit, Edge, Role, Say},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};
use url::Url;

use crate::support::{
    cascade::{Bench, UUID, config, speech},
    connector::soon,
};

pub struct Service {
    listener: TcpListener,
    pub url: Url,
}

pub struct Peer(WebSocketStream<TcpStream>);

impl Service {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("ws://{}/", listener.local_addr().unwrap())).unwrap();
        Self { listener, url }
    }

    /// The next connection, and its `start`.
    pub async fn accept(&self) -> (Peer, Value) {
        let (peer, start) = self.accept_any().await;
        assert_eq!(start["uuid"], UUID.to_string());
        (peer, start)
    }

    /// The same for a call of any UUID.
    pub async fn accept_any(&self) -> (Peer, Value) {
        let (stream, _) = soon("a connection", self.listener.accept()).await.unwrap();
        let mut peer = Peer(soon("a handshake", accept_async(stream)).await.unwrap());
        let start = peer.json().await;
        assert_eq!(start["type"], "start");
        (peer, start)
    }
}

impl Peer {
    async fn message(&mut self) -> Option<Message> {
        soon("a message", self.0.next()).await?.ok()
    }

    pub async fn json(&mut self) -> Value {
        loop {
            match self.message().await.expect("a message") {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Binary(_) | Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn audio(&mut self) -> Vec<u8> {
        match self.message().await.expect("audio") {
            Message::Binary(audio) => audio.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    pub async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    pub async fn play(&mut self, audio: &[u8]) {
        self.0.send(Message::binary(audio.to_vec())).await.unwrap();
    }
}

pub struct Services {
    pub bench: Bench,
    pub stt: Service,
    pub llm: Service,
    pub tts: Service,
}

pub async fn services(rate: Rate, greeting: Option<&str>) -> Services {
    services_with(rate, greeting, |_| {}).await
}

/// With other settings.
pub async fn services_with(rate: Rate, greeting: Option<&str>, change: impl FnOnce(&mut Config)) -> Services {
    let mut bench = Bench::start(config(), None).await;
    let (stt, llm, tts) = (Service::new().await, Service::new().await, Service::new().await);
    // an end_of_turn is waited for
    let mut settings = Config { debounce_ms: 3_600_000, ..config() };
    change(&mut settings);
    bench.restart(rate, settings, greeting, |services| {
        (services.asr, services.llm, services.tts) =
            (stt.url.clone().into(), llm.url.clone().into(), tts.url.clone().into());
    });
    Services { bench, stt, llm, tts }
}

#[tokio::test]
async fn messages_of_60_ms_lose_nothing_at_the_end_of_an_utterance() {
    let service = Service::new().await;
    let mut bench = Bench::start(config(), None).await;
    bench.restart(Rate::R8K, Config { message_ms: 60, ..config() }, None, |services| {
        services.asr = service.url.clone().into()
    });
    let (mut stt, _) = service.accept().await;
    let (samples, bytes) = speech(160 * 4, 9);
    for frame in samples.chunks(160) {
        bench.audio(frame);
    }
    assert_eq!(stt.audio().await, bytes[..320 * 3]);
    bench.send(AgentInput::CallerSpeech(true));
    bench.send(AgentInput::CallerSpeech(false));
    assert_eq!(stt.audio().await, bytes[320 * 3..]);
    assert_eq!(stt.json().await["type"], "flush");
}

#[tokio::test]
async fn a_whole_turn() {
    let Services { mut bench, stt, llm, tts } = services(Rate::R16K, None).await;
    let (mut stt, start) = stt.accept().await;
    assert_eq!(start["sample_rate"], 16_000);
    let (mut llm, _) = llm.accept().await;
    let (mut tts, start) = tts.accept().await;
    assert_eq!(start["sample_rate"], 16_000);
    // the caller's samples as they are, at the leg's rate
    let (samples, bytes) = speech(320, 7);
    bench.send(AgentInput::Audio(Frame::padded(Rate::R16K, &samples)));
    assert_eq!(stt.audio().await, bytes);
    stt.say(json!({"type": "ready", "more": {}})).await;
    stt.say(json!({"type": "mood", "text": "good"})).await;
    stt.0.send(Message::text("not json")).await.unwrap();
    stt.say(json!({"type": "speech_started"})).await;
    assert!(matches!(bench.event().await, Some(AgentEvent::Speech(Edge::Started))));
    stt.say(json!({"type": "partial", "text": "hel"})).await;
    let partial = bench.event().await;
    assert!(
        matches!(&partial, Some(AgentEvent::Transcript { text, is_final: false, .. }) if text == "hel"),
        "{partial:?}"
    );
    bench.send(AgentInput::CallerSpeech(false));
    assert_eq!(stt.json().await, json!({"type": "flush"}));
    stt.say(json!({"type": "final", "text": "hello"})).await;
    stt.say(json!({"type": "final", "text": "there"})).await;
    stt.say(json!({"type": "end_of_turn"})).await;
    assert_eq!(bench.transcript().await, (Role::User, "hello there".to_owned()));
    let prompt = loop {
        // the first piece is asked for at once, and taken back when the second comes
        let message = llm.json().await;
        if message["messages"][0]["content"] == "hello there" {
            break message;
        }
    };
    assert_eq!(prompt["type"], "prompt");
    llm.say(json!({"type": "text", "id": 999, "text": "Not this."})).await;
    llm.say(json!({"type": "text", "id": prompt["id"], "text": "Hi. How "})).await;
    llm.say(json!({"type": "text", "id": prompt["id"], "text": "are you?"})).await;
    llm.say(json!({"type": "done", "id": prompt["id"]})).await;
    for text in ["Hi.", "How are you?"] {
        let speak = tts.json().await;
        assert_eq!(speak, json!({"type": "speak", "text": text, "last": true, "id": speak["id"]}));
        tts.play(&[9; 640]).await;
        tts.say(json!({"type": "begin", "id": speak["id"], "sample_rate": 16_000})).await;
        tts.play(&bytes[..301]).await;
        tts.play(&bytes[301..]).await;
        tts.say(json!({"type": "end", "id": speak["id"]})).await;
        let (id, heard) = bench.utterance().await;
        assert!(heard == samples, "{} samples", heard.len());
        bench.send(AgentInput::Played(id));
    }
    assert_eq!(bench.transcript().await, (Role::Agent, "Hi. How are you?".to_owned()));
}

#[tokio::test]
async fn an_interruption_cancels_both_requests_at_once() {
    let Services { mut bench, llm, tts, stt: _stt } = services(Rate::R8K, None).await;
    let (mut llm, _) = llm.accept().await;
    let (mut tts, _) = tts.accept().await;
    bench.send(AgentInput::Dtmf(Digit::try_from('1').unwrap()));
    let prompt = llm.json().await;
    llm.say(json!({"type": "text", "id": prompt["id"], "text": "A long story. And"})).await;
    let speak = tts.json().await;
    tts.say(json!({"type": "begin", "id": speak["id"], "sample_rate": 8_000})).await;
    tts.play(&[1; 320]).await;
    assert!(matches!(bench.event().await, Some(AgentEvent::Timing(_))), "when what was done comes before the audio");
    let event = bench.event().await;
    let Some(AgentEvent::Audio(utterance, _)) = event else { panic!("{event:?}") };
    bench.send(AgentInput::Interrupt { utterance: Some(utterance), heard: std::time::Duration::ZERO });
    assert_eq!(tts.json().await, json!({"type": "cancel", "id": speak["id"]}));
    assert_eq!(llm.json().await, json!({"type": "cancel", "id": prompt["id"]}));
    // late audio of what was cancelled is not heard in the next sentence
    tts.play(&[2; 320]).await;
    bench.send(AgentInput::Say(Say { text: "Next.".to_owned(), protect: false }));
    let speak = tts.json().await;
    tts.play(&[3; 320]).await;
    tts.say(json!({"type": "begin", "id": speak["id"], "sample_rate": 8_000})).await;
    tts.play(&[4; 320]).await;
    tts.say(json!({"type": "end", "id": speak["id"]})).await;
    assert_eq!(bench.utterance().await.1, [0x0404; 160]);
}

#[tokio::test]
async fn services_that_restart_are_connected_again_without_loss() {
    let Services { mut bench, stt, llm, tts } = services(Rate::R8K, None).await;
    let (mut peer, _) = stt.accept().await;
    for n in 0..10u8 {
        bench.audio(&[i16::from(n); 160]);
        assert_eq!(peer.audio().await[0], n);
    }
    drop(peer);
    let (mut peer, _) = stt.accept().await;
    for n in 0..10u8 {
        assert_eq!(peer.audio().await[0], n, "the audio that no text came for comes again");
    }
    drop(llm.accept().await);
    bench.send(AgentInput::Dtmf(Digit::try_from('1').unwrap()));
    let (mut llm_peer, _) = llm.accept().await;
    let prompt = llm_peer.json().await;
    llm_peer.say(json!({"type": "text", "id": prompt["id"], "text": "Here."})).await;
    llm_peer.say(json!({"type": "done", "id": prompt["id"]})).await;
    // gone with the request, before an answer
    let (mut tts_peer, _) = tts.accept().await;
    tts_peer.json().await;
    drop(tts_peer);
    let (mut tts_peer, _) = tts.accept().await;
    assert_eq!(tts_peer.json().await["text"], "Here.");
}

#[tokio::test]
async fn errors_are_reported_and_fatal_ones_end_the_call() {
    let Services { mut bench, stt, llm, .. } = services(Rate::R8K, None).await;
    let (mut stt, _) = stt.accept().await;
    stt.say(json!({"type": "error", "message": "hic\nup"})).await;
    let fault = bench.degraded().await;
    assert_eq!(fault.code, "agent.stt.failed");
    assert!(fault.message.contains("hic\\nup"), "{}", fault.message);
    let (mut llm, _) = llm.accept().await;
    bench.send(AgentInput::Dtmf(Digit::try_from('1').unwrap()));
    let prompt = llm.json().await;
    llm.say(json!({"type": "error", "id": prompt["id"], "message": "busy"})).await;
    assert_eq!(bench.degraded().await.code, "agent.llm.failed");
    bench.send(AgentInput::Dtmf(Digit::try_from('2').unwrap()));
    loop {
        if llm.json().await["type"] == "prompt" {
            break;
        }
    }
    llm.say(json!({"type": "error", "message": "no licence", "fatal": true})).await;
    let fault = bench.failed().await;
    assert!(fault.message.contains("no licence"), "{}", fault.message);
}

#[tokio::test]
async fn nobody_listening_ends_the_call() {
    for service in ["stt", "llm", "tts"] {
        let mut bench = Bench::start(config(), None).await;
        let (mut url, _socket) = crate::support::connector::nobody();
        url.set_scheme("ws").unwrap();
        bench.restart(Rate::R8K, config(), (service == "tts").then_some("Hello."), |services| match service {
            "stt" => services.asr = url.into(),
            "llm" => services.llm = url.into(),
            _ => services.tts = url.into(),
        });
        if service == "llm" {
            bench.send(AgentInput::Dtmf(Digit::try_from('1').unwrap()));
        }
        assert_eq!(bench.failed().await.code, format!("agent.{service}.refused"));
    }
}

#[tokio::test]
async fn finish_says_stop_and_collects_the_last_words() {
    let Services { mut bench, stt, llm, .. } = services(Rate::R8K, None).await;
    let (mut stt, _) = stt.accept().await;
    let (mut llm, _) = llm.accept().await;
    bench.send(AgentInput::Finish);
    assert_eq!(stt.json().await, json!({"type": "flush"}));
    assert_eq!(stt.json().await, json!({"type": "stop"}));
    stt.say(json!({"type": "final", "text": "good bye"})).await;
    stt.0.close(None).await.unwrap();
    assert_eq!(bench.transcript().await, (Role::User, "good bye".to_owned()));
    assert!(bench.event().await.is_none());
    assert_eq!(llm.json().await, json!({"type": "stop"}));
}

/// One of `fixtures/servers`, until dropped.
pub struct Example {
    pub url: Url,
    _process: tokio::process::Child,
}

pub async fn example(name: &str) -> Example {
    let path = format!("{}/fixtures/servers/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut command = tokio::process::Command::new("python3");
    command.args([&path, "0"]).stdout(std::process::Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let line = soon("the example server", lines.next_line()).await.unwrap().unwrap();
    let port = line.strip_prefix("listening on ").unwrap();
    Example { url: Url::parse(&format!("ws://127.0.0.1:{port}")).unwrap(), _process: process }
}

/// Whether the examples can run here.
pub async fn has_websockets() -> bool {
    let python = tokio::process::Command::new("python3").args(["-c", "import websockets.asyncio"]).output().await;
    let there = python.is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("left out: no python3 with the websockets package");
    }
    there
}

#[tokio::test]
async fn the_example_servers_hold_a_conversation() {
    if !has_websockets().await {
        return;
    }
    let (stt, llm, tts) = (example("stt_echo.py").await, example("llm_echo.py").await, example("tts_beep.py").await);
    let mut bench = Bench::start(config(), None).await;
    bench.restart(Rate::R8K, config(), None, |services| {
        (services.asr, services.llm, services.tts) =
            (stt.url.clone().into(), llm.url.clone().into(), tts.url.clone().into());
    });
    for _ in 0..25 {
        bench.audio(&[8_000; 160]);
    }
    for _ in 0..40 {
        bench.audio(&[0; 160]);
    }
    let (role, text) = bench.transcript().await;
    assert_eq!(role, Role::User);
    assert!(text.starts_with("I heard ") && text.ends_with(" milliseconds"), "{text}");
    let (first, heard) = bench.utterance().await;
    // six words, 0.3 s each, at 16 kHz there and 8 kHz here
    assert!((14_400..14_600).contains(&heard.len()), "{}", heard.len());
    bench.send(AgentInput::Played(first));
    let (second, _) = bench.utterance().await;
    bench.send(AgentInput::Played(second));
    assert_eq!(bench.transcript().await, (Role::Agent, format!("You said: {text}. What else?")));
}

#[tokio::test]
async fn a_request_that_comes_while_connecting_waits_for_that_connection() {
    let service = Service::new().await;
    let mut bench = Bench::start(config(), None).await;
    bench.restart(Rate::R8K, config(), Some("Good morning."), |services| services.tts = service.url.clone().into());
    let (stream, _) = soon("a connection", service.listener.accept()).await.unwrap();
    // the request for the greeting has long been made when the handshake is answered
    bench.asr.request().await;
    let mut peer = Peer(soon("a handshake", accept_async(stream)).await.expect("the connection that was begun"));
    assert_eq!(peer.json().await["type"], "start");
    assert_eq!(peer.json().await["text"], "Good morning.");
}
