//! The three services of a cascade over Hark's own WebSocket contract, in the test's hands.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::PATIENCE;

/// Speech recognition that says what the test says, a language model and a synthesis with answers and sounds of the test's own.
pub struct Services {
    pub asr: String,
    pub llm: String,
    pub tts: String,
    words: mpsc::UnboundedSender<Value>,
    /// What the language model was asked, and what was spoken.
    prompts: watch::Receiver<Vec<Value>>,
    spoken: watch::Receiver<Vec<String>>,
}

/// Texts and what they sound like, at 8 kHz; the language model answers with the last of them.
pub type Sounds = HashMap<&'static str, Vec<i16>>;

impl Services {
    /// `answer` is the language model's, to everything; what is not in `sounds` is 100 ms of silence.
    pub async fn start(sounds: Sounds, answer: &'static str) -> Self {
        let (words, to_say) = mpsc::unbounded_channel();
        let (prompted, prompts) = watch::channel(Vec::new());
        let (speaking, spoken) = watch::channel(Vec::new());
        let to_say = Arc::new(tokio::sync::Mutex::new(to_say));
        let prompted = Arc::new(Mutex::new(prompted));
        let speaking = Arc::new(Mutex::new(speaking));
        let sounds = Arc::new(sounds);
        Self {
            asr: serve(move |socket| recognise(socket, to_say.clone())).await,
            llm: serve(move |socket| answers(socket, prompted.clone(), answer)).await,
            tts: serve(move |socket| speak(socket, speaking.clone(), sounds.clone())).await,
            words,
            prompts,
            spoken,
        }
    }

    /// Say what speech recognition says.
    pub fn hear(&self, kind: &str, text: &str) {
        self.words.send(json!({"type": kind, "text": text})).expect("the service runs");
    }

    /// Wait until `count` prompts have come, and return them.
    pub async fn prompts(&self, count: usize) -> Vec<Value> {
        seen(self.prompts.clone(), count).await
    }

    /// Wait until `count` texts have been spoken, and return them.
    pub async fn spoken(&self, count: usize) -> Vec<String> {
        seen(self.spoken.clone(), count).await
    }
}

async fn seen<T: Clone>(mut list: watch::Receiver<Vec<T>>, count: usize) -> Vec<T> {
    let enough = tokio::time::timeout(PATIENCE, list.wait_for(|list| list.len() >= count)).await;
    enough.expect("in time").expect("the services run").clone()
}

type Socket = WebSocketStream<TcpStream>;

async fn serve<F, W>(work: F) -> String
where
    F: Fn(Socket) -> W + Send + 'static,
    W: Future<Output = Option<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("ws://{}/", listener.local_addr().expect("a bound socket"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(socket) = accept_async(stream).await {
                tokio::spawn(work(socket));
            }
        }
    });
    url
}

async fn next(socket: &mut Socket) -> Option<Value> {
    loop {
        if let Message::Text(text) = socket.next().await?.ok()? {
            return serde_json::from_str(&text).ok();
        }
    }
}

async fn send(socket: &mut Socket, message: Value) -> Option<()> {
    socket.send(Message::text(message.to_string())).await.ok()
}

async fn recognise(mut socket: Socket, words: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Value>>>) -> Option<()> {
    let mut words = words.lock().await;
    loop {
        tokio::select! {
            message = socket.next() => drop(message?.ok()?),
            word = words.recv() => send(&mut socket, word?).await?,
        }
    }
}

async fn answers(mut socket: Socket, seen: Arc<Mutex<watch::Sender<Vec<Value>>>>, answer: &str) -> Option<()> {
    loop {
        let message = next(&mut socket).await?;
        if message["type"] == "prompt" {
            let id = message["id"].clone();
            seen.lock().ok()?.send_modify(|seen| seen.push(message));
            send(&mut socket, json!({"type": "text", "id": id, "text": answer})).await?;
            send(&mut socket, json!({"type": "done", "id": id})).await?;
        }
    }
}

async fn speak(mut socket: Socket, seen: Arc<Mutex<watch::Sender<Vec<String>>>>, sounds: Arc<Sounds>) -> Option<()> {
    loop {
        let message = next(&mut socket).await?;
        if message["type"] != "speak" {
            continue;
        }
        let (id, text) = (message["id"].clone(), message["text"].as_str()?.to_owned());
        let samples = sounds.get(text.as_str()).cloned().unwrap_or_else(|| vec![0; 800]);
        seen.lock().ok()?.send_modify(|seen| seen.push(text));
        send(&mut socket, json!({"type": "begin", "id": id, "sample_rate": 8_000})).await?;
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        for piece in bytes.chunks(3_200) {
            socket.send(Message::binary(piece.to_vec())).await.ok()?;
        }
        send(&mut socket, json!({"type": "end", "id": id})).await?;
    }
}
