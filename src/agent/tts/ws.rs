//! Hark's own WebSocket contract.

use std::time::Duration;

use serde_json::json;
use url::Url;

use super::{Chunk, Pcm, Word};
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

/// Words of one sentence whose times are kept.
const MOST_WORDS: usize = 2_000;
/// Longest of them, in bytes.
const LONGEST_WORD: usize = 200;

/// The words in `words:[{text,start_ms,end_ms}]`; what is none of them is left out.
fn words(list: &serde_json::Value) -> impl Iterator<Item = Word> {
    list.as_array().into_iter().flatten().filter_map(|word| {
        let text = word.get("text")?.as_str().filter(|text| text.len() <= LONGEST_WORD)?;
        let end = word.get("end_ms")?.as_f64().filter(|ms| (0.0..=3.6e6).contains(ms))?;
        Some(Word { text: text.to_owned(), end: Duration::from_secs_f64(end / 1_000.0) })
    })
}

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
    words: Vec<Word>,
    told: usize,
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
            words: Vec::new(),
            told: 0,
            ended: false,
            rate: self.rate,
            timeout: self.timeout,
            health: self.health.clone(),
        })
    }
}

impl Speech {
    pub async fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        while !self.ended {
            let samples = self.more().await?;
            if !samples.is_empty() {
                return Ok(Some(Chunk::Samples(samples)));
            }
            if !self.words.is_empty() {
                return Ok(Some(Chunk::Words(std::mem::take(&mut self.words))));
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
            "words" => {
                let room = MOST_WORDS.saturating_sub(self.told);
                self.words = words(&reply.words).take(room).collect();
                self.told += self.words.len();
                Ok(Vec::new())
            }
            "end" => {
                self.ended = true;
                self.asked.done();
                self.health.fine();
                Ok(self.pcm.take().map_or_else(Vec::new, |mut pcm| pcm.finish()))
            }
            "error" => once("agent.tts.failed", reply.complaint()),
            _ => Ok(Vec::new()),
        }
    }
}
