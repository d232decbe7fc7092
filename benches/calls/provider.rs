//! The services: speech-to-speech that sends every audio message back as it came, and the three of a cascade (see `services`). WebSocket
//! by hand, so that it costs the load's core little.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{
    Result, phone,
    services::{self, Service},
};

/// Speech in one message of a burst: what services send at most (ElevenLabs, Hume).
const BURST_FRAMES: u32 = 25;
/// First bytes of whole messages.
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;

/// Serves for ever. On `/burst/N` it sends N s of numbered speech at once, on any other path it echoes.
pub async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::task::spawn_local(async move {
            // A gateway that is killed between two runs is no fault.
            let _ = session(stream).await;
        });
    }
}

async fn session(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    let head = loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break String::from_utf8(buffer.drain(..end + 4).collect())?;
        }
    };
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
    });
    let accept = derive_accept_key(key.ok_or("no key")?.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    if let Some(service) = Service::at(&head) {
        return services::session(stream, buffer, service).await;
    }
    let burst = head.split_once("/burst/").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    let mut out = Vec::with_capacity(4096);
    if let Some(seconds) = burst {
        // after the silence with which the phones begin, when the call runs on its grid
        tokio::time::sleep(Duration::from_millis(500)).await;
        speech(seconds, &mut out);
        stream.write_all(&out).await?;
    }
    loop {
        out.clear();
        let done = echo(&mut buffer, &mut out, burst.is_some())?;
        buffer.drain(..done);
        if !out.is_empty() {
            stream.write_all(&out).await?;
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// Appends every whole message with audio at the start of `buffer` to `out`. Returns how many bytes are done with.
fn echo(buffer: &mut [u8], out: &mut Vec<u8>, deaf: bool) -> Result<usize> {
    messages(buffer, |_, payload| {
        if !deaf && payload.starts_with(br#"{"type":"audio""#) {
            frame(TEXT, payload, out);
        }
    })
}

/// Unmasks every whole message at the start of `buffer` and hands over its first byte and payload. Returns how many bytes are done with.
pub fn messages(buffer: &mut [u8], mut take: impl FnMut(u8, &[u8])) -> Result<usize> {
    let mut done = 0;
    loop {
        let rest = &mut buffer[done..];
        let (head, length) = match rest {
            [_, length, ..] if *length & 0x7f < 126 => (2, usize::from(*length & 0x7f)),
            [_, length, high, low, ..] if *length & 0x7f == 126 => (4, usize::from(u16::from_be_bytes([*high, *low]))),
            [_, length, ..] if *length & 0x7f == 127 => return Err("a message of the caller is too long".into()),
            _ => return Ok(done),
        };
        if rest.len() < head + 4 + length {
            return Ok(done);
        }
        if rest[0] != TEXT && rest[0] != BINARY {
            return Err("closed".into());
        }
        let kind = rest[0];
        let (mask, payload) = rest[head..head + 4 + length].split_at_mut(4);
        for (index, byte) in payload.iter_mut().enumerate() {
            *byte ^= mask[index & 3];
        }
        take(kind, payload);
        done += head + 4 + length;
    }
}

/// Appends a message.
pub fn frame(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    match u16::try_from(payload.len()) {
        Ok(length) if length < 126 => out.push(length as u8),
        Ok(length) => {
            out.push(126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            out.push(127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

fn speech(seconds: u32, out: &mut Vec<u8>) {
    let frames = seconds * 50;
    for first in (0..frames).step_by(BURST_FRAMES as usize) {
        let mut pcm = Vec::new();
        for number in first..(first + BURST_FRAMES).min(frames) {
            pcm.extend_from_slice(&phone::numbered(number, true)[3..]);
        }
        frame(TEXT, format!(r#"{{"type":"audio","audio":"{}"}}"#, BASE64_STANDARD.encode(pcm)).as_bytes(), out);
    }
}
