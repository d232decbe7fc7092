//! The three services of a cascade, in Hark's WebSocket contract, with no time to think: what is measured is the gateway.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    Result,
    provider::{BINARY, TEXT, frame, messages},
};

/// Frames of a speaking caller between two partial texts: recognisers send three to five a second.
const PARTIAL_EVERY: u32 = 12;
/// Mean of absolute samples from which on a frame is heard as speech.
const LOUD: u32 = 150;
/// Speech for one sentence: 1.5 s at 8 kHz, in messages as services send them.
const MESSAGES: usize = 6;
const MESSAGE: usize = 4_000;

/// Which one a connection is for.
#[derive(Debug, Clone, Copy)]
pub enum Service {
    Recognition,
    Model,
    Synthesis,
}

impl Service {
    /// By the path of a request.
    pub fn at(head: &str) -> Option<Self> {
        match head.split(' ').nth(1)? {
            "/stt" => Some(Self::Recognition),
            "/llm" => Some(Self::Model),
            "/tts" => Some(Self::Synthesis),
            _ => None,
        }
    }
}

/// Serves one connection to its end.
pub async fn session(mut stream: TcpStream, mut buffer: Vec<u8>, service: Service) -> Result<()> {
    let mut out = Vec::with_capacity(4096);
    let mut spoken = 0;
    loop {
        out.clear();
        let done = messages(&mut buffer, |kind, payload| match (service, kind) {
            (Service::Recognition, BINARY) => hear(payload, &mut spoken, &mut out),
            (Service::Recognition, _) if is(payload, "flush") => {
                spoken = 0;
                text(r#"{"type":"final","text":"What are your opening hours on Saturday?"}"#, &mut out);
            }
            (Service::Model, _) if is(payload, "prompt") => {
                let id = id(payload);
                for sentence in ["On Saturday we are open from nine to five. ", "Is there anything else?"] {
                    text(&format!(r#"{{"type":"text","id":{id},"text":"{sentence}"}}"#), &mut out);
                }
                text(&format!(r#"{{"type":"done","id":{id}}}"#), &mut out);
            }
            (Service::Synthesis, _) if is(payload, "speak") => speak(id(payload), &mut out),
            _ => {}
        })?;
        buffer.drain(..done);
        if !out.is_empty() {
            stream.write_all(&out).await?;
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

fn hear(pcm: &[u8], spoken: &mut u32, out: &mut Vec<u8>) {
    let samples = pcm.chunks_exact(2).map(|two| u32::from(i16::from_le_bytes([two[0], two[1]]).unsigned_abs()));
    if samples.sum::<u32>() / (pcm.len() as u32 / 2).max(1) < LOUD {
        return;
    }
    *spoken += 1;
    if spoken.is_multiple_of(PARTIAL_EVERY) {
        let words = ["what ", "are ", "your ", "opening ", "hours ", "on ", "Saturday "];
        let known = (*spoken / PARTIAL_EVERY) as usize;
        let heard: String = words.into_iter().take(known).collect();
        text(&format!(r#"{{"type":"partial","text":"{}"}}"#, heard.trim_end()), out);
    }
}

fn speak(id: u64, out: &mut Vec<u8>) {
    text(&format!(r#"{{"type":"begin","id":{id},"sample_rate":8000}}"#), out);
    let tone: Vec<u8> = (0..MESSAGE / 2).flat_map(|at| ((at as i16 % 40 - 20) * 200).to_le_bytes()).collect();
    for _ in 0..MESSAGES {
        frame(BINARY, &tone, out);
    }
    text(&format!(r#"{{"type":"end","id":{id}}}"#), out);
}

fn text(json: &str, out: &mut Vec<u8>) {
    frame(TEXT, json.as_bytes(), out);
}

/// Whether a message of Hark, whose type may stand anywhere in it, is of this type.
fn is(payload: &[u8], kind: &str) -> bool {
    let kind = format!(r#""type":"{kind}""#);
    payload.windows(kind.len()).any(|window| window == kind.as_bytes())
}

fn id(payload: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(payload);
    let digits = text.split(r#""id":"#).nth(1).unwrap_or_default();
    digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or_default()
}
