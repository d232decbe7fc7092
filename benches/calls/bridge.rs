//! The baseline: the least that carries a call between AudioSocket and the speech-to-speech contract. One task a call, no features, no
//! limits, no care about anything that goes wrong.

use std::{collections::VecDeque, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::LocalSet,
    time::{Instant, sleep_until},
};
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};
use uuid::Uuid;

use crate::Result;

const BUFFER: usize = 4 * 1024;
const PERIOD: Duration = Duration::from_millis(20);
const CUSHION: Duration = Duration::from_millis(3);
const FRAME: usize = 323;
const HEAD: &str = r#"{"type":"audio","audio":""#;
const TAIL: &str = r#""}"#;

pub fn serve(url: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        crate::allocations::answer();
        loop {
            let (phone, _) = listener.accept().await?;
            let url = url.to_owned();
            tokio::task::spawn_local(async move {
                if let Err(error) = call(phone, &url).await {
                    eprintln!("bridge: {error}");
                }
            });
        }
    })
}

async fn call(mut phone: TcpStream, url: &str) -> Result<()> {
    phone.set_nodelay(true)?;
    let mut hello = [0; 19];
    phone.read_exact(&mut hello).await?;
    let host = url.trim_start_matches("ws://").split('/').next().unwrap_or_default();
    let service = TcpStream::connect(host).await?;
    service.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(BUFFER).write_buffer_size(BUFFER);
    let (mut service, _) = client_async_with_config(url, service, Some(config)).await?;
    let init = format!(r#"{{"type":"init","uuid":"{}"}}"#, Uuid::from_slice(&hello[3..])?);
    service.send(Message::text(init)).await?;
    let mut incoming = Vec::with_capacity(BUFFER);
    let mut playout = Playout::default();
    let mut speech = Vec::new();
    let slot = sleep_until(Instant::now() + Duration::from_secs(86_400));
    tokio::pin!(slot);
    loop {
        tokio::select! { biased;
            () = &mut slot => {
                let at = slot.deadline();
                phone.write_all(playout.next().as_ref().unwrap_or(&SILENCE)).await?;
                slot.as_mut().reset(at + PERIOD);
            }
            read = phone.read_buf(&mut incoming) => {
                if read? == 0 {
                    return Ok(());
                }
                if !std::mem::replace(&mut playout.started, true) {
                    slot.as_mut().reset(Instant::now() + CUSHION);
                }
                let mut done = 0;
                while incoming.len() - done >= FRAME {
                    let audio = BASE64_STANDARD.encode(&incoming[done + 3..done + FRAME]);
                    service.send(Message::text([HEAD, &audio, TAIL].concat())).await?;
                    done += FRAME;
                }
                incoming.drain(..done);
            }
            message = service.next() => {
                let Some(Message::Text(text)) = message.transpose()? else { return Ok(()) };
                if let Some(audio) = text.strip_prefix(HEAD).and_then(|rest| rest.strip_suffix(TAIL)) {
                    speech.clear();
                    BASE64_STANDARD.decode_vec(audio, &mut speech)?;
                    playout.push(&speech);
                }
            }
        }
    }
}

const SILENCE: [u8; FRAME] = {
    let mut frame = [0; FRAME];
    (frame[0], frame[1], frame[2]) = (0x10, 1, 64);
    frame
};

/// Frames that wait. Silence in front of a backlog is left out, or what came in while connecting would be late for ever.
#[derive(Default)]
struct Playout {
    started: bool,
    frames: VecDeque<[u8; FRAME]>,
}

impl Playout {
    fn push(&mut self, speech: &[u8]) {
        for chunk in speech.chunks(FRAME - 3) {
            let mut frame = SILENCE;
            frame[3..3 + chunk.len()].copy_from_slice(chunk);
            self.frames.push_back(frame);
        }
    }

    fn next(&mut self) -> Option<[u8; FRAME]> {
        while self.frames.len() > 1 && self.frames[0] == SILENCE {
            self.frames.pop_front();
        }
        self.frames.pop_front()
    }
}
