//! Wyoming: a connection for each sentence; closing it is how one is cancelled.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::{CODES, Pcm};
use crate::agent::{
    Context, Named,
    health::{Failure, Health},
    retry::{Streak, fault},
    wyoming::{Connection, encode},
};

/// A voice.
#[derive(Debug)]
pub struct Service {
    ctx: Context,
    named: Named,
    health: Health,
}

/// The answer to one sentence.
#[derive(Debug)]
pub struct Speech {
    connection: Option<Connection>,
    pcm: Option<Pcm>,
    ctx: Context,
    timeout: Duration,
    health: Health,
}

impl Service {
    pub const fn new(ctx: Context, named: Named, health: Health) -> Self {
        Self { ctx, named, health }
    }

    pub async fn speak(&self, text: &str) -> Result<Speech, Failure> {
        let mut connection = self.connect().await?;
        let limit = Duration::from_millis(self.ctx.config.tts_timeout_ms);
        let once = |what| Failure::Once(fault(CODES.broken, CODES.name, what));
        let said = timeout(limit, connection.say(&self.request(text))).await;
        said.unwrap_or_else(|_| Err("it takes no text".to_owned())).map_err(once)?;
        let (ctx, health) = (self.ctx.clone(), self.health.clone());
        Ok(Speech { connection: Some(connection), pcm: None, ctx, timeout: limit, health })
    }

    fn request(&self, text: &str) -> Vec<u8> {
        let model = Some(self.named.model.as_str()).filter(|model| !model.is_empty());
        let voice = [("name", self.named.option("voice").or(model))]
            .into_iter()
            .chain(["language", "speaker"].map(|name| (name, self.named.option(name))));
        let voice: Map<_, _> = voice.filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect();
        let mut data = json!({"text": text});
        if !voice.is_empty() {
            data["voice"] = Value::Object(voice);
        }
        encode("synthesize", &data, &[])
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let mut streak = Streak::new(Duration::from_millis(self.ctx.config.reconnect_ms));
        let limit = Duration::from_millis(self.ctx.config.connect_timeout_ms);
        loop {
            let error = match Connection::open(&self.named.base, limit).await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            if !streak.is_failing() {
                self.health.trouble(fault(CODES.unreachable, CODES.name, &error));
            }
            match streak.failed(2).filter(|_| !self.health.has_spare()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(Failure::Final(fault(CODES.refused, CODES.name, error))),
            }
        }
    }
}

impl Speech {
    pub async fn next(&mut self) -> Result<Option<Vec<i16>>, Failure> {
        let once = |code, what: String| Failure::Once(fault(code, CODES.name, what));
        while let Some(connection) = &mut self.connection {
            let event = match timeout(self.timeout, connection.next()).await {
                Ok(Ok(event)) => event,
                Ok(Err(what)) => return Err(once(CODES.broken, what)),
                Err(_) => {
                    let what = format!("nothing came for {} ms", self.timeout.as_millis());
                    return Err(once(CODES.timeout, what));
                }
            };
            match event.kind.as_str() {
                "audio-start" => {
                    let rate = event.number("rate").and_then(|rate| u32::try_from(rate).ok());
                    let rate = rate.filter(|rate| (4_000..=192_000).contains(rate));
                    let (Some(rate), Some(2), Some(1)) = (rate, event.number("width"), event.number("channels")) else {
                        return Err(once(CODES.failed, "its audio is not of 16 bits and one channel".to_owned()));
                    };
                    self.pcm = Some(Pcm::new(rate, self.ctx.rate));
                }
                "audio-chunk" => {
                    let samples = self.pcm.as_mut().map_or_else(Vec::new, |pcm| pcm.push(&event.payload));
                    if !samples.is_empty() {
                        return Ok(Some(samples));
                    }
                }
                "audio-stop" => {
                    self.connection = None;
                    self.health.fine();
                    let rest = self.pcm.take().map_or_else(Vec::new, |mut pcm| pcm.finish());
                    return Ok((!rest.is_empty()).then_some(rest));
                }
                "error" => return Err(once(CODES.failed, event.complaint())),
                _ => {}
            }
        }
        Ok(None)
    }
}
