//! Connections: the first one, others after it, and the next one before the vendor ends this one.

use std::{
    task::{Context as Poller, Poll},
    time::Duration,
};

use http::{HeaderMap, header};
use serde_json::Value;
use tokio::time::Instant;
use url::Url;

use super::{CODES, HEALTHY, Line, MAX_IDLE_READS, Renewal, Session, Setup, Stage, State, Todo, setup};
use crate::{
    agent::{
        Context,
        pipe::{Got, Lost, Pipe},
        retry::{beginning, explain},
        sts::{
            codec::{Down, Up},
            dialect::{Incoming, Target},
        },
        vendor::{advice, message},
        websocket::{ConnectError, escaped, seconds},
    },
    call::AgentEvent,
};

/// Longest answer of a vendor that tells where a session is.
const MAX_ANSWER: usize = 64 * 1024;
/// How long before the end of a session the next one is prepared at the latest, whoever speaks.
const AHEAD: Duration = Duration::from_secs(240);
/// How long a moment in which nobody speaks is waited for, once the next session is connected.
const QUIET: Duration = Duration::from_secs(20);
/// After a next session could not be had.
const RENEW_AGAIN: Duration = Duration::from_secs(5);
/// Messages that wait to be written: then the vendor reads nothing.
const MAX_UNWRITTEN: usize = 1_000;

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct Refused {
    code: &'static str,
    what: String,
    /// Asking again would not help.
    last: bool,
    retry_after: Option<Duration>,
}

impl Line {
    /// What becomes of connections that are being made or closed.
    pub(super) fn poll_connections(&mut self, cx: &mut Poller<'_>) -> Poll<()> {
        if let Some(closing) = &mut self.closing
            && closing.as_mut().poll(cx).is_ready()
        {
            self.closing = None;
        }
        match &mut self.state {
            State::Preparing(preparing) => {
                let Poll::Ready(prompt) = preparing.as_mut().poll(cx) else { return Poll::Pending };
                self.prompt = prompt;
                self.connect();
            }
            State::Connecting(connecting) => match connecting.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(pipe)) => self.begin(pipe),
                Poll::Ready(Err(refused)) => self.refused(refused),
            },
            State::Waiting(_) | State::Open(_) | State::Ended => return Poll::Pending,
        }
        Poll::Ready(())
    }

    fn connect(&mut self) {
        self.state = State::Connecting(self.connection());
    }

    fn connection(&mut self) -> super::Later<Result<Pipe, Refused>> {
        let target = self.dialect.target(&setup!(self));
        let ctx = self.ctx.clone();
        Box::pin(async move { reach(&ctx, target).await })
    }

    /// A connection is there.
    fn begin(&mut self, mut pipe: Pipe) {
        self.dialect.open(&setup!(self)).into_iter().for_each(|message| pipe.send(message));
        let now = Instant::now();
        self.state = State::Open(Box::new(Session { pipe, since: now, ready: false, useful: false, sent: now }));
        self.up.reset();
        if !self.dialect.waits() {
            self.ready();
        }
    }

    /// The session is set up.
    pub(super) fn ready(&mut self) {
        let formats = self.dialect.formats();
        if formats != self.formats {
            self.formats = formats;
            self.up = Up::new(self.ctx.rate, formats.up, self.ctx.config.frames_per_message());
            self.down = Down::new(self.ctx.rate, formats.down);
        }
        let messages = self.dialect.ready(&setup!(self));
        let State::Open(session) = &mut self.state else { return };
        if std::mem::replace(&mut session.ready, true) {
            return;
        }
        messages.into_iter().for_each(|message| session.pipe.send(message));
        self.asked = (self.owed || self.greeting.is_some()).then(Instant::now);
        self.unanswered = 0;
        self.carry_out_orders();
        self.send_caller();
    }

    fn refused(&mut self, refused: Refused) {
        let Refused { code, what, last, retry_after } = refused;
        if last {
            return self.fail(code, what);
        }
        self.again(code, what, retry_after);
    }

    /// Tries again, as long as that makes sense.
    fn again(&mut self, code: &'static str, mut what: String, after: Option<Duration>) {
        let budget = Duration::from_millis(self.ctx.config.reconnect_ms);
        let Some(pause) = self.streak.failed(3) else { return self.fail(code, what) };
        let pause = pause.max(after.unwrap_or_default());
        if after.is_some() && pause > budget {
            what.push_str(&format!("; it wants to be left alone for {} s", pause.as_secs()));
            return self.fail(code, what);
        }
        self.troubled(code, what);
        self.state = State::Waiting(Instant::now() + pause);
    }

    /// The connection is of no more use; whether another one may do better.
    pub(super) fn lost(&mut self, code: &'static str, what: String, again: bool) {
        let State::Open(session) = &self.state else { return };
        let (useful, lived) = (session.useful, session.since.elapsed() >= HEALTHY);
        self.end_open_turn(None);
        self.renewal = None;
        self.asked = None;
        if self.finishing.is_some() {
            return self.complete();
        }
        if !again {
            return self.fail(code, what);
        }
        if self.open_speech {
            // what the caller was saying when it broke
            let recent = std::mem::take(&mut self.recent);
            recent.into_iter().rev().for_each(|frame| self.caller.push_front(frame));
        }
        if useful || lived {
            let what = self.dialect.scrub(what);
            tracing::info!(
                code,
                "the session with the speech-to-speech service ended early, a new one takes over: {what}"
            );
            self.streak.worked();
            self.state = State::Waiting(Instant::now());
        } else {
            self.state = State::Waiting(Instant::now());
            self.again(code, what, None);
        }
    }

    /// Reads until something came of it.
    pub(super) fn poll_read(&mut self, cx: &mut Poller<'_>) -> Poll<()> {
        for _ in 0..MAX_IDLE_READS {
            let State::Open(session) = &mut self.state else { return Poll::Pending };
            let got = match session.pipe.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(got) => got,
            };
            match got {
                Ok(Got::Text(text)) => self.incoming(Incoming::Text(&text)),
                Ok(Got::Audio(bytes)) => self.incoming(Incoming::Binary(bytes)),
                Ok(Got::Room) => self.send_caller(),
                Err(lost) => self.closed(lost),
            }
            if let State::Open(session) = &self.state
                && session.pipe.waiting() > MAX_UNWRITTEN
            {
                self.lost(CODES.broken, "it reads nothing of what it is sent".to_owned(), true);
            }
            if !self.todo.is_empty() || !matches!(self.state, State::Open(_)) {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn closed(&mut self, lost: Lost) {
        let ready = self.is_ready();
        if ready && self.finishing.is_none() && self.dialect.hangs_up(lost.code) {
            self.hang_up();
            return;
        }
        let again = lost.code.is_none_or(|code| !self.dialect.is_final(code));
        let code = match lost.code {
            Some(1008) => CODES.refused,
            Some(_) => "agent.sts.closed",
            None => CODES.broken,
        };
        self.lost(code, lost.what, again);
    }

    /// The agent ends the call.
    pub(super) fn hang_up(&mut self) {
        self.end_open_turn(None);
        self.event(AgentEvent::Hangup);
        self.complete();
    }

    /// What time brings to connections.
    pub(super) fn session_due(&mut self, now: Instant) {
        let limit = Duration::from_millis(self.ctx.config.connect_timeout_ms);
        let (since, ready) = match &self.state {
            State::Waiting(at) if now >= *at => return self.connect(),
            State::Open(session) => (session.since, session.ready),
            _ => return,
        };
        if !ready && now >= since + limit {
            let what = format!("it took the connection and did not begin within {} ms", limit.as_millis());
            return self.lost(CODES.timeout, what, true);
        }
        let patience = self.patience();
        if self.asked.is_some_and(|at| now >= at + patience) {
            self.deaf += 1;
            let what = format!("it has said nothing for {} s, though it was its turn", patience.as_secs_f32());
            return self.lost("agent.sts.silent", what, self.deaf < 2);
        }
        self.keep_alive(now);
        match self.dialect.lifetime() {
            Some(lifetime) if self.renewal.is_none() && now >= since + lifetime => self.renew(AHEAD),
            _ => {}
        }
    }

    fn keep_alive(&mut self, now: Instant) {
        if let (Some((period, message)), State::Open(session)) = (self.dialect.idle(), &mut self.state)
            && session.ready
            && now >= session.sent + period
        {
            session.pipe.send(message);
            session.sent = now;
        }
    }

    /// This session ends after `left` at the latest: another one is wanted before.
    pub(super) fn renew(&mut self, left: Duration) {
        if self.renewal.is_none() {
            let by = Instant::now() + left;
            // connecting takes a moment, too
            self.renewal = Some(Renewal { by, stage: Stage::Wanted(by - left.min(QUIET) / 2) });
        }
    }

    /// Takes the next session at a moment when nobody speaks.
    pub(super) fn poll_renewal(&mut self, cx: &mut Poller<'_>) -> Poll<()> {
        let quiet = self.is_quiet();
        let now = Instant::now();
        let Some(mut renewal) = self.renewal.take() else { return Poll::Pending };
        let (stage, moved) = match renewal.stage {
            Stage::Wanted(at) if quiet || now >= at => (Stage::Connecting(self.connection()), true),
            Stage::Connecting(mut connecting) => match connecting.as_mut().poll(cx) {
                Poll::Pending => (Stage::Connecting(connecting), false),
                Poll::Ready(Ok(pipe)) => (Stage::Connected(Box::new(pipe), renewal.by.min(now + QUIET)), true),
                Poll::Ready(Err(refused)) => {
                    let what = self.dialect.scrub(refused.what);
                    tracing::warn!(code = refused.code, "no next session for now; this one goes on: {what}");
                    (Stage::Wanted(now + RENEW_AGAIN), false)
                }
            },
            Stage::Connected(pipe, at) if quiet || now >= at => {
                self.swap(*pipe);
                return Poll::Ready(());
            }
            stage => (stage, false),
        };
        renewal.stage = stage;
        self.renewal = Some(renewal);
        if moved { Poll::Ready(()) } else { Poll::Pending }
    }

    fn swap(&mut self, pipe: Pipe) {
        self.end_open_turn(None);
        if let State::Open(session) = std::mem::replace(&mut self.state, State::Ended) {
            self.closing = Some(Box::pin(session.pipe.close()));
        }
        tracing::info!("a new session with the speech-to-speech service takes over before the old one ends");
        self.begin(pipe);
    }

    /// Whether nobody would notice another session.
    fn is_quiet(&self) -> bool {
        let silent = !self.open_speech && !self.owed && self.turns.is_heard();
        silent && self.tools.is_empty() && self.todo.is_empty() && !self.dialect.is_busy()
    }

    /// The turn whose speech is open, unless it is `but`, ends here.
    pub(super) fn end_open_turn(&mut self, but: Option<&str>) {
        self.spoken = None;
        if let Some(id) = self.turns.open(but) {
            self.turns.done(id);
            self.todo.push_back(Todo::End(id));
        }
    }
}

/// Makes a connection.
async fn reach(ctx: &Context, target: Target) -> Result<Pipe, Refused> {
    let (url, headers) = match target {
        Target::Socket(url, headers) => (url, headers),
        Target::Ask { url, headers, body, field } => (ask(ctx, url, headers, body, field).await?, HeaderMap::new()),
    };
    Pipe::connect(ctx, &url, &headers).await.map_err(|error| unconnected(&error))
}

fn unconnected(error: &ConnectError) -> Refused {
    let mut what = error.to_string();
    let ConnectError::Handshake { status, retry_after, .. } = error else {
        let last = matches!(error, ConnectError::Url { .. } | ConnectError::Forbidden(_));
        return Refused { code: CODES.refused, what, last, retry_after: None };
    };
    what.push_str(status.map_or("", advice));
    Refused {
        code: code_of(*status),
        what,
        // asking again would not make the key or the account better
        last: matches!(status, Some(400..=404 | 422)),
        retry_after: *retry_after,
    }
}

fn code_of(status: Option<u16>) -> &'static str {
    match status.map(|status| CODES.of(status)) {
        Some(code) if code != CODES.failed => code,
        _ => CODES.refused,
    }
}

/// Asks where the session is.
async fn ask(
    ctx: &Context,
    url: Url,
    headers: HeaderMap,
    body: Option<Value>,
    field: &'static str,
) -> Result<Url, Refused> {
    let client = &ctx.outgoing.vendors;
    let request = match body {
        Some(body) => client.post(url).header(header::CONTENT_TYPE, "application/json").body(body.to_string()),
        None => client.get(url),
    };
    let refused = |code, what: String| Refused { code, what, last: false, retry_after: None };
    let limit = Duration::from_millis(ctx.config.connect_timeout_ms);
    let asked = async {
        let response =
            request.headers(headers).send().await.map_err(|error| {
                refused(if error.is_connect() { CODES.refused } else { CODES.broken }, explain(&error))
            })?;
        let (status, retry_after) = (response.status(), seconds(response.headers()));
        let body = beginning(response, MAX_ANSWER).await;
        let answer = serde_json::from_slice::<Value>(&body).ok();
        let number = status.as_u16();
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body);
            let words = escaped(answer.as_ref().and_then(message).unwrap_or(&text));
            let what = format!("it answered with status {number}: \"{words}\"{}", advice(number));
            let last = matches!(number, 400..=404 | 422);
            return Err(Refused { code: code_of(Some(number)), what, last, retry_after });
        }
        let address = answer.as_ref().and_then(|answer| answer.get(field)?.as_str()?.parse::<Url>().ok());
        let address = address.filter(|url| matches!(url.scheme(), "ws" | "wss"));
        address.ok_or_else(|| refused(CODES.failed, format!("it answered without a WebSocket's address as {field:?}")))
    };
    match tokio::time::timeout(limit, asked).await {
        Ok(asked) => asked,
        Err(_) => Err(refused(CODES.timeout, format!("it did not answer within {} ms", limit.as_millis()))),
    }
}
