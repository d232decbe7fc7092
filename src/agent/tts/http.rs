//! The AVR contract over streaming HTTP (section 3).

use std::time::Duration;

use url::Url;

use super::Pcm;
use crate::agent::{
    Context,
    health::{Failure, Health},
    retry::{self, Request, Unanswered, fault},
};

const NAME: &str = "speech synthesis";
/// Rate of the contract.
const RATE: u32 = 8_000;

/// A service behind `POST /text-to-speech-stream`.
#[derive(Debug)]
pub struct Service {
    ctx: Context,
    url: Url,
    health: Health,
}

/// The answer to one sentence.
#[derive(Debug)]
pub struct Speech {
    response: Option<reqwest::Response>,
    /// What has come so far, until it is enough to tell what it is.
    head: Option<Vec<u8>>,
    pcm: Pcm,
    timeout: Duration,
    health: Health,
}

impl Service {
    pub const fn new(ctx: Context, url: Url, health: Health) -> Self {
        Self { ctx, url, health }
    }

    pub async fn speak(&self, text: &str) -> Result<Speech, Failure> {
        let body = serde_json::json!({ "text": text }).to_string();
        let timeout = Duration::from_millis(self.ctx.config.tts_timeout_ms);
        let request = Request { ctx: &self.ctx, url: &self.url, timeout, health: &self.health };
        let trouble = |what| self.health.trouble(fault("agent.tts.unreachable", NAME, what));
        let response = request.post(body, trouble).await.map_err(|error| match error {
            Unanswered::Refused(_) => Failure::Final(fault("agent.tts.refused", NAME, error)),
            Unanswered::Timeout(_) => Failure::Once(fault("agent.tts.timeout", NAME, error)),
            _ => Failure::Once(fault("agent.tts.failed", NAME, error)),
        })?;
        let pcm = Pcm::new(RATE, self.ctx.rate);
        Ok(Speech::new(response, pcm, timeout, self.health.clone()))
    }
}

impl Speech {
    pub const fn new(response: reqwest::Response, pcm: Pcm, timeout: Duration, health: Health) -> Self {
        Self { response: Some(response), head: Some(Vec::new()), pcm, timeout, health }
    }

    pub async fn next(&mut self) -> Result<Option<Vec<i16>>, Failure> {
        while let Some(response) = &mut self.response {
            let samples = match tokio::time::timeout(self.timeout, response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.push(&chunk)?,
                Ok(Ok(None)) => {
                    self.response = None;
                    self.health.fine();
                    let mut samples = self.head.take().map_or_else(Vec::new, |head| self.pcm.push(&head));
                    samples.extend(self.pcm.finish());
                    samples
                }
                Ok(Err(error)) => {
                    self.response = None;
                    return Err(Failure::Once(fault("agent.tts.broken", NAME, retry::explain(&error))));
                }
                Err(_) => {
                    self.response = None;
                    let limit = self.timeout.as_millis();
                    let what = format_args!("nothing came for {limit} ms in the middle of a sentence");
                    return Err(Failure::Once(fault("agent.tts.timeout", NAME, what)));
                }
            };
            if !samples.is_empty() {
                return Ok(Some(samples));
            }
        }
        Ok(None)
    }

    /// More of the answer. What is no audio would be a noise in the caller's ear.
    fn push(&mut self, chunk: &[u8]) -> Result<Vec<i16>, Failure> {
        let Some(head) = &mut self.head else { return Ok(self.pcm.push(chunk)) };
        head.extend_from_slice(chunk);
        if head.len() < TELLING {
            return Ok(Vec::new());
        }
        let head = self.head.take().unwrap_or_default();
        let Some(kind) = foreign(&head) else { return Ok(self.pcm.push(&head)) };
        self.response = None;
        let what = format_args!("it sends {kind} in place of samples (s16le) or WAV");
        Err(Failure::Once(fault("agent.tts.failed", NAME, what)))
    }
}

/// So many bytes tell what an answer is.
const TELLING: usize = 24;

/// What begins with `head`, if that is certainly neither samples nor WAV.
fn foreign(head: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 5] =
        [(b"ID3", "MP3"), (b"OggS", "Ogg"), (b"fLaC", "FLAC"), (b"\x1aE\xdf\xa3", "WebM"), (b"RIFF", "")];
    match known.iter().find(|(magic, _)| head.starts_with(magic)) {
        Some((_, "")) => None,
        Some((_, kind)) => Some(kind),
        // no speech stays within these for so long
        None if head.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n')) => Some("text"),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_audio_is_known_by_its_beginning() {
        for (head, kind) in [
            (&b"ID3\x04\0\0\0\0"[..], Some("MP3")),
            (b"OggS\0\x02", Some("Ogg")),
            (b"<!DOCTYPE html><html lang", Some("text")),
            (b"{\"error\":\"no such voice\"", Some("text")),
            (b"RIFF\x24\0\0\0WAVEfmt ", None),
            // silence, and what is almost silent
            (&[0; 24], None),
            (b"\xff\xff\xfe\xff\x01\0\x02\0", None),
        ] {
            assert_eq!(foreign(head), kind, "{}", head.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn quiet_samples_are_never_taken_for_something_else(samples in prop::collection::vec(-1_000i16..1_000, 12)) {
            let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
            prop_assert_eq!(foreign(&bytes), None);
        }
    }
}
