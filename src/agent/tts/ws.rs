//! Hark's own WebSocket contract.

use std::time::Duration;

use serde_json::json;
use url::Url;

use super::Pcm;
use crate::{
    agent::{
        Context,
        health::{Failure, Health},
        requests::{Answer, Asked, Names, Requests},
        retry::fault,
    },
    audio::Rate,
};

const NAME: &str = "speech synthesis";

/// A speech synthesis behind a WebSocket.
#[derive(Debug)]
pub struct Service {
    requests: Requests,
    rate: Rate,
    timeout: Duration,
    health: Health,
}

/// The answer to one sentence.
#[derive(Debug)]
pub struct Speech {
    asked: Asked,
    /// Once it has begun.
    pcm: Option<Pcm>,
    ended: bool,
    rate: Rate,
    timeout: Duration,
    health: Health,
}

impl Service {
    pub fn new(ctx: Context, url: Url, health: Health) -> Self {
        let start = json!({"type": "start", "uuid": ctx.uuid, "sample_rate": ctx.rate.hz()});
        let names = Names { name: NAME, unreachable: "agent.tts.unreachable" };
        let (rate, timeout) = (ctx.rate, Duration::from_millis(ctx.config.tts_timeout_ms));
        Self { requests: Requests::start(ctx, url, start, names, health.clone()), rate, timeout, health }
    }

    pub async fn speak(&self, text: &str) -> Result<Speech, Failure> {
        let asked = self.requests.ask(json!({"type": "speak", "text": text, "last": true})).await;
        Ok(Speech {
            asked,
            pcm: None,
            ended: false,
            rate: self.rate,
            timeout: self.timeout,
            health: self.health.clone(),
        })
    }
}

impl Speech {
    pub async fn next(&mut self) -> Result<Option<Vec<i16>>, Failure> {
        while !self.ended {
            let samples = self.more().await?;
            if !samples.is_empty() {
                return Ok(Some(samples));
            }
        }
        Ok(None)
    }

    async fn more(&mut self) -> Result<Vec<i16>, Failure> {
        let once = |code, what: String| Err(Failure::Once(fault(code, NAME, what)));
        let reply = match tokio::time::timeout(self.timeout, self.asked.next()).await {
            // what comes before `begin` belongs to a sentence that was cancelled
            Ok(Some(Answer::Audio(audio))) => {
                return Ok(self.pcm.as_mut().map_or_else(Vec::new, |pcm| pcm.push(&audio)));
            }
            Ok(Some(Answer::Reply(reply))) => reply,
            Ok(Some(Answer::Refused(what))) => {
                self.asked.done();
                return Err(Failure::Final(fault("agent.tts.refused", NAME, what)));
            }
            Ok(Some(Answer::Broken(what))) => {
                self.asked.done();
                return once("agent.tts.broken", what);
            }
            Ok(None) => return once("agent.tts.broken", "it is gone".to_owned()),
            Err(_) => return once("agent.tts.timeout", format!("nothing came for {} ms", self.timeout.as_millis())),
        };
        match reply.kind.as_str() {
            "begin" => {
                let rate = reply.sample_rate.filter(|rate| (4_000..=192_000).contains(rate));
                self.pcm = Some(Pcm::new(rate.unwrap_or(self.rate.hz()), self.rate));
                Ok(Vec::new())
            }
            "end" => {
                self.ended = true;
                self.asked.done();
                self.health.fine();
                Ok(self.pcm.take().map_or_else(Vec::new, |mut pcm| pcm.finish()))
            }
            "error" => once("agent.tts.failed", reply.words()),
            _ => Ok(Vec::new()),
        }
    }
}
