//! Recognisers of whole utterances, over the network.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, header::AUTHORIZATION};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    CODES, Ends, Heard, Order,
    utterances::{RATE, Utterances, samples},
};
use crate::{
    agent::{
        Context, Named,
        health::{Failure, Health},
        retry::fault,
        service::Vendor,
        utf8::Utf8,
        vendor::Post,
        wyoming::{self, Connection, encode},
    },
    audio::{Frame, wav},
    call::Fault,
};

/// How long one may take.
const LIMIT: Duration = Duration::from_secs(15);
/// Failures in a row until it counts as failed.
const MAX_FAILURES: u32 = 3;
/// Longest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The caller's line to the service.
pub struct Line {
    service: Service,
    ends: Ends,
    utterances: Utterances,
    failures: u32,
    finishing: bool,
}

/// What recognises.
#[derive(Debug, Clone)]
struct Service {
    ctx: Context,
    named: Named,
    health: Health,
}

impl Line {
    pub fn new(ctx: Context, named: Named, ends: Ends) -> Self {
        let service = Service { ctx, named, health: ends.health.clone() };
        Self { service, ends, utterances: Utterances::default(), failures: 0, finishing: false }
    }

    /// Runs until told to finish and the last text has come, or until the service has failed.
    pub async fn run(mut self) -> Result<(), Fault> {
        let mut job: Option<BoxFuture<'static, Result<String, Failure>>> = None;
        loop {
            if job.is_none() {
                job = self.utterances.next().map(|frames| Box::pin(self.service.clone().recognise(frames)) as _);
            }
            if self.finishing && job.is_none() {
                return Ok(());
            }
            tokio::select! {
                biased;
                order = self.ends.orders.recv(), if !self.finishing => match order {
                    Some(Order::Start) => self.utterances.start(),
                    Some(Order::Flush) => self.utterances.cut(&self.ends),
                    Some(Order::Finish) | None => {
                        self.utterances.finish(&self.ends);
                        self.finishing = true;
                    }
                },
                result = done(&mut job) => {
                    job = None;
                    self.recognised(result).await?;
                }
                frame = self.ends.audio.take(), if !self.finishing => {
                    self.utterances.hear(frame, &self.ends);
                }
            }
        }
    }

    async fn recognised(&mut self, result: Result<String, Failure>) -> Result<(), Fault> {
        match result {
            Ok(text) => {
                self.failures = 0;
                self.ends.health.fine();
                let text = text.trim();
                if !text.is_empty() {
                    // closed: the call is over
                    let _ = self.ends.heard.send(Heard::Piece(format!(" {text}"))).await;
                }
                Ok(())
            }
            Err(Failure::Final(fault)) => Err(fault),
            Err(Failure::Once(fault)) => {
                self.failures += 1;
                if self.failures >= MAX_FAILURES || self.ends.health.has_spare() {
                    return Err(fault);
                }
                self.ends.health.trouble(fault);
                Ok(())
            }
        }
    }
}

async fn done(job: &mut Option<BoxFuture<'static, Result<String, Failure>>>) -> Result<String, Failure> {
    match job {
        Some(job) => job.await,
        None => std::future::pending().await,
    }
}

impl Service {
    async fn recognise(self, frames: Vec<Frame>) -> Result<String, Failure> {
        let samples = samples(&frames);
        match self.named.vendor {
            Vendor::Wyoming => match timeout(LIMIT, self.wyoming(&samples)).await {
                Ok(result) => result,
                Err(_) => Err(self.once(CODES.timeout, format!("it did not answer within {} s", LIMIT.as_secs()))),
            },
            _ => self.openai(&samples).await,
        }
    }

    fn once(&self, code: &'static str, what: String) -> Failure {
        Failure::Once(fault(code, CODES.name, self.named.scrub(what)))
    }

    async fn openai(&self, samples: &[i16]) -> Result<String, Failure> {
        let boundary = Uuid::new_v4().simple().to_string();
        let body = self.form(samples, &boundary).map_err(|what| self.once(CODES.failed, what))?;
        let content_type = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}"))
            .map_err(|error| self.once(CODES.failed, error.to_string()))?;
        let post = Post {
            ctx: &self.ctx,
            named: &self.named,
            codes: &CODES,
            url: self.named.http("/audio/transcriptions"),
            headers: self.named.signed(AUTHORIZATION, "Bearer "),
            content_type,
            body,
            timeout: LIMIT,
        };
        let response = post.send(&self.health).await?;
        let answer = timeout(LIMIT, answer(response)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("its answer did not end within {} s", LIMIT.as_secs())));
        let answer = answer.map_err(|what| Failure::Once(post.fault(CODES.broken, &what)))?;
        #[derive(Deserialize)]
        struct Said {
            text: String,
        }
        match serde_json::from_str::<Said>(&answer) {
            Ok(said) => Ok(said.text),
            Err(error) => {
                let what = format_args!("its answer is not {{\"text\": …}}: {error}");
                Err(Failure::Once(post.fault(CODES.failed, &what)))
            }
        }
    }

    /// A `multipart/form-data` body.
    fn form(&self, samples: &[i16], boundary: &str) -> Result<Bytes, String> {
        let mut file = std::io::Cursor::new(Vec::new());
        wav::write(&mut file, RATE, samples).map_err(|error| error.to_string())?;
        let mut body = Vec::with_capacity(file.get_ref().len() + 1_024);
        let fields = ["language", "prompt", "temperature"].map(|name| (name, self.named.option(name)));
        let fields =
            [("model", Some(self.named.model.as_str())), ("response_format", Some("json"))].into_iter().chain(fields);
        for (name, value) in fields.filter_map(|(name, value)| Some((name, value?))) {
            let part = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
            body.extend_from_slice(part.as_bytes());
        }
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"speech.wav\"\r\nContent-Type: audio/wav\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(file.get_ref());
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        Ok(body.into())
    }

    async fn wyoming(&self, samples: &[i16]) -> Result<String, Failure> {
        let limit = Duration::from_millis(self.ctx.config.connect_timeout_ms);
        let mut connection =
            Connection::open(&self.named.base, limit).await.map_err(|what| self.once(CODES.unreachable, what))?;
        let mut transcribe = json!({});
        if !self.named.model.is_empty() {
            transcribe["name"] = self.named.model.as_str().into();
        }
        if let Some(language) = self.named.option("language") {
            transcribe["language"] = language.into();
        }
        let format = wyoming::format(RATE);
        let mut bytes = encode("transcribe", &transcribe, &[]);
        bytes.extend(encode("audio-start", &format, &[]));
        for piece in samples.chunks(RATE as usize / 10) {
            let payload: Vec<u8> = piece.iter().flat_map(|sample| sample.to_le_bytes()).collect();
            bytes.extend(encode("audio-chunk", &format, &payload));
        }
        bytes.extend(encode("audio-stop", &json!({}), &[]));
        connection.say(&bytes).await.map_err(|what| self.once(CODES.broken, what))?;
        loop {
            let event = connection.next().await.map_err(|what| self.once(CODES.broken, what))?;
            match event.kind.as_str() {
                "transcript" => return Ok(event.text("text").to_owned()),
                "error" => return Err(self.once(CODES.failed, event.complaint())),
                _ => {}
            }
        }
    }
}

async fn answer(mut response: reqwest::Response) -> Result<String, String> {
    let (mut utf8, mut text) = (Utf8::default(), String::new());
    while let Some(chunk) = response.chunk().await.map_err(|error| crate::agent::retry::explain(&error))? {
        text.push_str(&utf8.push(&chunk));
        if text.len() > MAX_ANSWER {
            return Err(format!("its answer is longer than {MAX_ANSWER} bytes"));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        agent::{
            cascade::Inbox,
            health,
            stt::tests::{context, named},
        },
        audio::Rate,
    };

    fn line() -> (Line, mpsc::Sender<Order>) {
        let (orders, taken) = mpsc::channel(4);
        let (reports, _) = mpsc::channel(4);
        let health = Health::new(health::Service::Stt, reports);
        let ends = Ends { audio: Arc::new(Inbox::new(10)), orders: taken, heard: mpsc::channel(4).0, health };
        (Line::new(context(), named("openai:whisper-1?language=en"), ends), orders)
    }

    #[test]
    fn a_form_holds_the_fields_and_a_wav() {
        let (line, _orders) = line();
        let frames = vec![Frame::padded(Rate::R8K, &[500; 160]); 50];
        let body = line.service.form(&samples(&frames), "xyz").unwrap();
        let text = String::from_utf8_lossy(&body);
        for part in
            ["name=\"model\"\r\n\r\nwhisper-1\r\n", "name=\"language\"\r\n\r\nen\r\n", "RIFF", "\r\n--xyz--\r\n"]
        {
            assert!(text.contains(part), "{part}");
        }
        // a second at 16 kHz
        assert!((32_000..34_500).contains(&body.len()), "{}", body.len());
    }
}
