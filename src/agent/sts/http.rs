//! The older speech-to-speech contract: one HTTP request carries the caller's audio, its response the agent's. No events.
//!
//! The request runs in the session's task; only hyper's connection has one of its own, fed through a channel of four pieces. What does
//! not fit waits here, 1 s at most, then the oldest goes. Dropping the agent aborts the request.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt as _, stream};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_util::sync::PollSender;
use tracing::{debug, info, warn};
use url::Url;
use uuid::Uuid;

use super::{
    codec::Down,
    edge::{self, Uplink},
};
use crate::{
    agent::{self, http_fault, websocket},
    call::{Agent, AgentEvent, AgentInput, Fault, Link, Sent, UtteranceId},
};

/// Audio held while the service takes none: 1 s.
const MAX_HELD: usize = 50;
/// Pieces between us and hyper's connection.
const CHANNEL: usize = 4;
/// How long a service may take for the end of its response after the end of the request.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// A request is rotated when the agent has been silent for this long ...
const QUIET: Duration = Duration::from_secs(1);
/// ... and after this much longer in any case (240 + 45 s is still below Node's 300 s).
const GRACE: Duration = Duration::from_secs(45);
/// Before the second try of a refused connection; doubled for each further one.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// As much of an error's body is read.
const MAX_ERROR_BODY: usize = 2_048;

/// A speech-to-speech service over HTTP.
pub struct StsHttp {
    client: reqwest::Client,
    url: Url,
    uuid: Uuid,
    up: Uplink,
    down: Down,
    held: VecDeque<Bytes>,
    dropped: u64,
    slow: bool,
    current: Option<Exchange>,
    /// The request before the last rotation, until its response ends.
    old: Option<(Exchange, Instant)>,
    retry: Option<(Instant, Duration)>,
    /// Since when the current request is being tried.
    started: Instant,
    reconnect: Duration,
    rotate: Duration,
    rotate_at: Instant,
    quiet_since: Instant,
    utterance: UtteranceId,
    spoke: bool,
    events: VecDeque<AgentEvent>,
    finishing: Option<Instant>,
    ended: bool,
    paused: bool,
    timer: Pin<Box<Sleep>>,
}

/// One request and its response.
struct Exchange {
    /// `None`: the request has been ended.
    body: Option<PollSender<Bytes>>,
    reply: Reply,
    /// Whether the service has answered, so that another try would be another session.
    answered: bool,
}

type Answer = Pin<Box<dyn Future<Output = Result<reqwest::Response, Refusal>> + Send>>;
type Audio = Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>;

enum Reply {
    /// Headers come with the first audio: this may take minutes.
    Awaited(Answer),
    Streaming(Audio),
}

enum Refusal {
    /// No connection, or one that broke before the answer.
    Connect(String),
    /// An answer that is none of audio.
    Status(String),
}

impl StsHttp {
    /// Begins the request; the stream reports how it goes.
    #[must_use]
    pub fn start(url: Url, ctx: agent::Context) -> Self {
        info!("Connecting to STS HTTP: {}", websocket::display(&url));
        let now = Instant::now();
        let rotate = Duration::from_secs(ctx.config.rotate_s.max(1));
        let mut this = Self {
            client: ctx.outgoing.http,
            url,
            uuid: ctx.uuid,
            up: Uplink::new(ctx.rate, 1),
            down: edge::downlink(ctx.rate),
            held: VecDeque::new(),
            dropped: 0,
            slow: false,
            current: None,
            old: None,
            retry: None,
            started: now,
            reconnect: Duration::from_millis(ctx.config.reconnect_ms),
            rotate,
            rotate_at: now + rotate,
            quiet_since: now,
            utterance: UtteranceId(1),
            spoke: false,
            events: VecDeque::new(),
            finishing: None,
            ended: false,
            paused: false,
            timer: Box::pin(sleep_until(now + rotate)),
        };
        this.current = Some(this.exchange());
        this
    }

    /// Stops (`true`) or resumes reading what the service says.
    pub fn pause_reading(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Frames of the caller that the service never got because it did not take them in time.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    fn exchange(&self) -> Exchange {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(CHANNEL);
        let body = stream::poll_fn(move |cx| receiver.poll_recv(cx)).map(Ok::<_, Infallible>);
        let request = self
            .client
            .post(self.url.clone())
            .header("X-UUID", self.uuid.as_hyphenated().to_string())
            .header(http::header::CONTENT_TYPE, "application/octet-stream")
            .body(reqwest::Body::wrap_stream(body));
        let reply = Reply::Awaited(Box::pin(answer(request)));
        Exchange { body: Some(PollSender::new(sender)), reply, answered: false }
    }

    fn hear(&mut self, samples: &[i16]) -> Sent<AgentInput> {
        if self.ended || self.finishing.is_some() {
            return Sent::Whole;
        }
        self.up.push(samples);
        while let Some(chunk) = self.up.pop() {
            if self.held.len() >= MAX_HELD {
                self.held.pop_front();
                self.dropped += 1;
                self.report_slow();
            }
            self.held.push_back(Bytes::copy_from_slice(&chunk));
        }
        // The waker that counts is registered by the next poll_next, which comes before the session sleeps.
        self.pump(&mut Context::from_waker(Waker::noop()));
        if self.held.is_empty() && self.events.is_empty() { Sent::Whole } else { Sent::Held }
    }

    fn report_slow(&mut self) {
        // While connecting it is not slow, just not there yet.
        if self.slow || self.retry.is_some() || self.started.elapsed() < self.reconnect {
            return;
        }
        self.slow = true;
        let message = "the service does not take the caller's audio in time; the oldest is dropped".to_owned();
        self.events.push_back(AgentEvent::Degraded(Fault { code: "agent.sts.slow", message }));
    }

    /// Hands held audio to the connection, as much as it takes.
    fn pump(&mut self, cx: &mut Context<'_>) {
        let Some(Exchange { body, .. }) = &mut self.current else { return };
        while let Some(sender) = body
            && !self.held.is_empty()
        {
            match sender.poll_reserve(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) => {
                    if let Some(chunk) = self.held.pop_front() {
                        // Fails only if hyper dropped the body just now; then the response says why.
                        let _ = sender.send_item(chunk);
                    }
                }
                // The connection takes no more; the response says why.
                Poll::Ready(Err(_)) => *body = None,
            }
        }
        if self.finishing.is_some() {
            *body = None;
        } else if body.is_none() {
            self.held.clear();
        } else if self.slow {
            self.slow = false;
            self.events.push_back(AgentEvent::Restored);
        }
    }

    fn poll_replies(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.paused && self.finishing.is_none() {
            return Poll::Pending;
        }
        if let Some((mut exchange, until)) = self.old.take() {
            match exchange.poll(cx) {
                Poll::Pending => self.old = Some((exchange, until)),
                Poll::Ready(Ok(Some(bytes))) => {
                    self.old = Some((exchange, until));
                    self.speak(&bytes);
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(None) | Err(_)) => {}
            }
        }
        let Some(mut exchange) = self.current.take() else { return Poll::Pending };
        match exchange.poll(cx) {
            Poll::Pending => {
                self.current = Some(exchange);
                return Poll::Pending;
            }
            Poll::Ready(Ok(Some(bytes))) => {
                self.current = Some(exchange);
                self.speak(&bytes);
            }
            Poll::Ready(Ok(None)) => self.hang_up(),
            Poll::Ready(Err(Refusal::Connect(reason))) if !exchange.answered => self.refused(reason),
            Poll::Ready(Err(Refusal::Connect(reason))) => self.fail("agent.sts.lost", reason),
            Poll::Ready(Err(Refusal::Status(reason))) => self.fail("agent.sts.status", reason),
        }
        Poll::Ready(())
    }

    fn speak(&mut self, bytes: &[u8]) {
        self.quiet_since = Instant::now();
        if self.finishing.is_some() {
            return;
        }
        let samples = self.down.convert(bytes);
        if !samples.is_empty() {
            self.spoke = true;
            self.events.push_back(AgentEvent::Audio(self.utterance, samples));
        }
    }

    /// A refused connection is tried again for a while, because services are restarted when they crash.
    fn refused(&mut self, reason: String) {
        let pause = self.retry.map_or(FIRST_RETRY, |(_, pause)| pause * 2);
        let at = Instant::now() + pause;
        if self.finishing.is_some() || at >= self.started + self.reconnect {
            return self.fail("agent.sts.refused", reason);
        }
        if self.retry.is_none() {
            warn!("the STS service is not there yet, trying again for {} ms: {reason}", self.reconnect.as_millis());
        }
        self.retry = Some((at, pause));
    }

    fn hang_up(&mut self) {
        self.end();
        if self.finishing.is_none() {
            debug!("the STS service ended its response");
            self.events.push_back(AgentEvent::Hangup);
        }
    }

    fn fail(&mut self, code: &'static str, message: String) {
        self.end();
        if self.finishing.is_none() {
            self.events.push_back(AgentEvent::Failed(Fault { code, message }));
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.current = None;
        self.old = None;
        self.held.clear();
        if self.spoke && self.finishing.is_none() {
            let rest = self.down.finish();
            if !rest.is_empty() {
                self.events.push_back(AgentEvent::Audio(self.utterance, rest));
            }
            self.events.push_back(AgentEvent::AudioEnd(self.utterance));
        }
    }

    fn finish(&mut self) {
        if self.finishing.is_none() {
            self.finishing = Some(Instant::now() + CLOSE_LIMIT);
            self.pump(&mut Context::from_waker(Waker::noop()));
            if self.current.is_none() {
                self.end();
            }
        }
    }

    fn rotate(&mut self, now: Instant) {
        debug!("rotating the STS request after {} s", self.rotate.as_secs());
        self.rotate_at = now + self.rotate;
        self.started = now;
        self.retry = None;
        let fresh = self.exchange();
        if let Some(mut old) = self.current.replace(fresh) {
            old.body = None;
            self.old = Some((old, now + CLOSE_LIMIT));
        }
    }

    /// Does what is due; pending until the next thing is.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let rotate = self.rotate_at.max(self.quiet_since + QUIET).min(self.rotate_at + GRACE);
        let rotate = (self.current.is_some() && self.finishing.is_none()).then_some(rotate);
        let retry = self.retry.filter(|_| self.current.is_none()).map(|(at, _)| at);
        let old = self.old.as_ref().map(|(_, until)| *until);
        let Some(next) = [rotate, retry, old, self.finishing].into_iter().flatten().min() else { return Poll::Pending };
        if self.timer.deadline() != next || self.timer.is_elapsed() {
            self.timer.as_mut().reset(next);
        }
        if self.timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if self.finishing == Some(next) {
            debug!("the STS service did not end its response in time");
            self.end();
        } else if old == Some(next) {
            self.old = None;
        } else if retry == Some(next) {
            self.current = Some(self.exchange());
        } else {
            self.rotate(next);
        }
        Poll::Ready(())
    }
}

impl Exchange {
    /// Audio, `None` at the end of the response.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Refusal>> {
        if let Reply::Awaited(answer) = &mut self.reply {
            match answer.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(refusal)) => return Poll::Ready(Err(refusal)),
                Poll::Ready(Ok(response)) => {
                    self.answered = true;
                    self.reply = Reply::Streaming(Box::pin(response.bytes_stream()));
                }
            }
        }
        let Reply::Streaming(audio) = &mut self.reply else { return Poll::Pending };
        audio.as_mut().poll_next(cx).map(|item| item.transpose().map_err(|error| Refusal::Connect(http_fault(error))))
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<reqwest::Response, Refusal> {
    let mut response = request.send().await.map_err(|error| Refusal::Connect(http_fault(error)))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let mut body = Vec::new();
    // Only for the message: a body that does not come is not waited for.
    let _ = timeout(CLOSE_LIMIT, async {
        while let Ok(Some(piece)) = response.chunk().await {
            body.extend_from_slice(&piece[..piece.len().min(MAX_ERROR_BODY)]);
            if body.len() >= MAX_ERROR_BODY {
                break;
            }
        }
    })
    .await;
    let body = websocket::escaped(&String::from_utf8_lossy(&body));
    Err(Refusal::Status(format!("HTTP status {status} {body}").trim_end().to_owned()))
}

impl Stream for StsHttp {
    type Item = AgentEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<AgentEvent>> {
        let this = self.get_mut();
        loop {
            this.pump(cx);
            if let Some(event) = this.events.pop_front() {
                return Poll::Ready(Some(event));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            if this.poll_replies(cx).is_ready() || this.poll_deadline(cx).is_ready() {
                continue;
            }
            return Poll::Pending;
        }
    }
}

impl Link for StsHttp {
    type Event = AgentEvent;
    type Command = AgentInput;

    fn send(&mut self, input: AgentInput) -> Sent<AgentInput> {
        match input {
            AgentInput::Audio(frame) => self.hear(frame.samples()),
            AgentInput::Finish => {
                self.finish();
                Sent::Whole
            }
            AgentInput::Interrupt { .. } => {
                // This contract has no word for it: what still comes is new speech, or it would never be heard.
                if std::mem::take(&mut self.spoke) {
                    self.utterance = UtteranceId(self.utterance.0.wrapping_add(1));
                }
                Sent::Whole
            }
            // This contract carries audio only.
            AgentInput::Dtmf(_)
            | AgentInput::Digits(_)
            | AgentInput::Played(_)
            | AgentInput::CallerSpeech(_)
            | AgentInput::CallerPauses
            | AgentInput::Say(_) => Sent::Whole,
        }
    }
}

impl Agent for StsHttp {
    async fn close(mut self) {
        self.paused = false;
        self.finish();
        // Bounded by the deadline that finish() has set; the limit here is for a clock that the caller has paused.
        let _ = timeout(CLOSE_LIMIT * 2, async { while self.next().await.is_some() {} }).await;
    }
}
