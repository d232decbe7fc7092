//! A call over RTP.

use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use tokio::{
    io::ReadBuf,
    net::UdpSocket,
    sync::mpsc,
    time::{Instant, Sleep},
};

use super::{
    Identified,
    codec::Codec,
    conceal::Concealer,
    jitter::{Before, Due, Jitter, Place, Taken},
    peer::Peer,
    sender::Sender,
    wire::{self, Keys, Packet},
};
use crate::{
    asterisk::telemetry::RtpStats,
    audio::{Frame, Rate, framer::Framer},
    call::{self, Cause, Digit, LegCommand, LegEvent, Link, Sent},
};

/// The longest datagram that is read: 60 ms of 16 kHz, with a long header.
const DATAGRAM: usize = 2_048;
/// Audio of one packet lasts no longer, in parts of a second.
const LONGEST: u32 = 5;
/// What a poll may spend before others get their turn: a frame costs [`FRAME_COST`], a packet one.
const TURN: u32 = 64;
const FRAME_COST: u32 = 8;
/// A call that lost more than so much of its packets, and so many of them, is told of. (Keys are up to some dozens a call.)
const BAD_PERCENT: u64 = 3;
const MANY: u64 = 100;
/// Without any packet for so long there is something to be said.
const QUIET: Duration = Duration::from_secs(5);

/// A call over RTP: a stream of what the caller does, and a way to play to them.
pub struct Leg {
    socket: UdpSocket,
    peer: Peer,
    codec: Codec,
    /// Keys that Asterisk tells of elsewhere; its end is the channel's.
    told_keys: mpsc::Receiver<Digit>,
    keys: Keys,
    jitter: Jitter,
    concealer: Concealer,
    framer: Framer,
    source: Option<u32>,
    sender: Sender,
    state: State,
    hung_up: bool,
    samples: Vec<i16>,
    datagram: Vec<u8>,
    timer: Pin<Box<Sleep>>,
    idle_limit: Duration,
    heard: Instant,
    /// Packets of this call that were taken, and those that were missing.
    packets: u64,
    lost: u64,
    spent: u32,
    warned: Warned,
    stats: Arc<RtpStats>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The end is known and not yet reported.
    Ending(Cause),
    Over,
}

#[derive(Debug, Default)]
struct Warned {
    foreign: bool,
    kind: bool,
    malformed: bool,
    quiet: bool,
    receiving: bool,
    sending: bool,
}

impl Leg {
    /// A leg on a port that Asterisk has been told of.
    pub(super) async fn start(identified: Identified) -> Self {
        let Identified { socket, codec, told, tie, config, stats, .. } = identified;
        // makes the runtime see that the socket can be written to, or the first frame would be refused
        let _ = socket.writable().await;
        // whoever made the channel may have given up: then the keys say so
        let _ = tie.take.send(());
        let now = Instant::now();
        stats.calls.inc();
        Self {
            peer: Peer::new(told.0, &config),
            jitter: Jitter::new(codec.clock(), config.limits(), now.into_std()),
            concealer: Concealer::new(codec.rate),
            framer: Framer::new(codec.rate),
            socket,
            codec,
            told_keys: tie.keys,
            keys: Keys::default(),
            source: None,
            sender: Sender::new(),
            state: State::Open,
            hung_up: false,
            samples: Vec::new(),
            datagram: vec![0; DATAGRAM],
            timer: Box::pin(tokio::time::sleep_until(now + QUIET)),
            idle_limit: Duration::from_secs(config.idle_media_s),
            heard: now,
            packets: 0,
            lost: 0,
            spent: 0,
            warned: Warned::default(),
            stats,
        }
    }

    /// The next 20 ms; `None` when less than that is there.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Option<Poll<Frame>> {
        if self.framer.len() < self.codec.rate.frame_samples() {
            return None;
        }
        if self.poll_turn(cx, FRAME_COST).is_pending() {
            return Some(Poll::Pending);
        }
        self.framer.pop().map(Poll::Ready)
    }

    /// Counts what this poll has done, and gives way when it has done enough: a peer that floods holds up no other call.
    fn poll_turn(&mut self, cx: &mut Context<'_>, cost: u32) -> Poll<()> {
        if self.spent >= TURN {
            self.spent = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.spent += cost;
        Poll::Ready(())
    }

    /// Takes one datagram.
    fn poll_datagram(&mut self, cx: &mut Context<'_>) -> Poll<Option<Digit>> {
        ready!(self.poll_turn(cx, 1));
        // borrowed from, not copied; it comes back in any case
        let mut datagram = std::mem::take(&mut self.datagram);
        let mut buffer = ReadBuf::new(&mut datagram);
        let received = self.socket.poll_recv_from(cx, &mut buffer);
        let length = buffer.filled().len();
        let digit = match received {
            Poll::Ready(Ok(from)) => Poll::Ready(self.take(&datagram[..length], from)),
            Poll::Ready(Err(error)) => {
                // what an ICMP message says of a packet of ours is no end: the next may arrive
                once(&mut self.warned.receiving, || tracing::debug!(%error, "receiving RTP failed"));
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        };
        self.datagram = datagram;
        digit
    }

    fn take(&mut self, datagram: &[u8], from: SocketAddr) -> Option<Digit> {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if !self.peer.may_be(from) {
            self.foreign(from);
            return None;
        }
        if wire::is_control(datagram) {
            self.stats.control.inc();
            return None;
        }
        match wire::parse(datagram) {
            // as long as the buffer: there was more of it
            Ok(packet) if datagram.len() < DATAGRAM => self.packet(&packet, from),
            Ok(_) => self.malformed("it is longer than any packet of a call"),
            Err(error) => self.malformed(&error.to_string()),
        }
    }

    fn packet(&mut self, packet: &Packet<'_>, from: SocketAddr) -> Option<Digit> {
        let (audio, key) =
            (self.codec.types.contains(&packet.payload_type), packet.payload_type == wire::TELEPHONE_EVENT);
        if !audio && !key && !wire::COMFORT_NOISE.contains(&packet.payload_type) {
            return self.wrong_type(packet);
        }
        let longest = self.codec.clock() / LONGEST;
        let ticks = if audio { self.codec.ticks(packet.payload).filter(|ticks| *ticks <= longest) } else { Some(0) };
        let Some(ticks) = ticks else {
            return self.malformed("its audio is half a sample, or longer than 200 ms");
        };
        self.peer.is(from);
        let now = Instant::now();
        self.heard = now;
        self.packets += 1;
        self.stats.packets_in.inc();
        self.source(packet.source);
        let place = Place { sequence: packet.sequence, timestamp: packet.timestamp, ticks };
        match self.jitter.put(place, packet.payload, now.into_std()) {
            Taken::Next(before) => self.audio(before, if audio { packet.payload } else { &[] }),
            Taken::Held => {}
            Taken::Duplicate => self.stats.duplicate.inc(),
            Taken::Late | Taken::Stray => self.stats.late.inc(),
            Taken::Reset => {
                self.stats.resets.inc();
                self.audio(Before { missing: 0, lost: 0 }, packet.payload);
            }
        }
        match key {
            true => wire::key(packet.payload).and_then(|key| self.keys.take(packet.timestamp, key)),
            false if audio => self.keys.sound(),
            false => None,
        }
    }

    fn source(&mut self, source: u32) {
        if self.source.replace(source).is_some_and(|before| before != source) {
            self.stats.source_changes.inc();
            tracing::debug!("another sender (SSRC) goes on with the audio of this call");
            self.jitter.reset();
            self.concealer.forget();
            self.keys = Keys::default();
        }
    }

    /// Audio whose turn it is, and what is before it.
    fn audio(&mut self, before: Before, payload: &[u8]) {
        self.samples.clear();
        self.stats.lost.add(u64::from(before.lost));
        self.lost += u64::from(before.lost);
        if before.missing > 0 {
            let count = self.codec.samples(before.missing);
            let ms = u64::from(before.missing) * 1_000 / u64::from(self.codec.clock());
            if before.lost > 0 {
                self.stats.concealed_ms.add(ms);
                self.concealer.conceal(count, &mut self.samples);
            } else {
                self.stats.silence_ms.add(ms);
                self.samples.resize(count, 0);
            }
        }
        let begin = self.samples.len();
        self.codec.decode(payload, &mut self.samples);
        if self.samples.len() > begin {
            self.concealer.heard(&self.samples[begin..]);
        }
        self.framer.push(&self.samples);
    }

    /// Takes everything from the buffer that is due.
    fn drain(&mut self) {
        let now = Instant::now().into_std();
        // as many frames as one poll gives away; the rest is due still
        while self.framer.len() < self.codec.rate.frame_samples() {
            match self.jitter.pop(now) {
                None => return,
                Some(Due::Late) => self.stats.late.inc(),
                Some(Due::Audio(before, payload)) => self.audio(before, &payload),
                Some(Due::Silence) => {
                    self.stats.silence_ms.add(20);
                    self.samples.clear();
                    self.concealer.conceal(self.codec.rate.frame_samples(), &mut self.samples);
                    self.framer.push(&self.samples);
                }
            }
        }
    }

    fn foreign(&mut self, from: SocketAddr) {
        self.stats.foreign.inc();
        let expected = self.peer.address;
        once(&mut self.warned.foreign, || {
            tracing::warn!(
                code = "rtp.foreign",
                %from,
                "packets that are not from the call's Asterisk ({}) are dropped: somebody else sends here, or there is address translation \
                 between it and Hark (rtp.learn_peer)",
                expected.map_or_else(|| "rtp.allow".to_owned(), |address| address.to_string())
            );
        });
    }

    fn wrong_type(&mut self, packet: &Packet<'_>) -> Option<Digit> {
        self.stats.wrong_type.inc();
        let (got, types) = (packet.payload_type, self.codec.types);
        once(&mut self.warned.kind, || {
            tracing::warn!(
                code = "rtp.payload_type",
                "packets of payload type {got} are dropped: this call's are {types:?} (ari.format)"
            );
        });
        None
    }

    fn malformed(&mut self, why: &str) -> Option<Digit> {
        self.stats.malformed.inc();
        once(&mut self.warned.malformed, || {
            tracing::warn!(code = "rtp.malformed", "a datagram is skipped, as all further ones without a word: {why}");
        });
        None
    }

    /// When there is something to be done if nothing comes.
    fn due(&self) -> Instant {
        let quiet = (self.packets == 0 && !self.warned.quiet).then(|| self.heard + QUIET);
        let idle = (!self.idle_limit.is_zero()).then(|| self.heard + self.idle_limit);
        let audio = self.jitter.deadline().map(Instant::from_std);
        let due = [quiet, idle, audio].into_iter().flatten().min();
        due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600))
    }

    /// Ready when something may be due.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let due = self.due();
            // it is not touched at every packet: it finds out when it rings whether it was too early
            if due < self.timer.deadline() {
                self.timer.as_mut().reset(due);
            }
            ready!(self.timer.as_mut().poll(cx));
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(due);
        }
    }

    /// What follows from nothing having come for long.
    fn silent(&mut self) {
        let since = self.heard.elapsed();
        if !self.idle_limit.is_zero() && since >= self.idle_limit {
            tracing::warn!(code = "rtp.idle", after = ?self.idle_limit, "nothing has come from Asterisk for rtp.idle_media_s: the call ends");
            self.end(Cause::Idle);
        } else if self.packets == 0 && since >= QUIET {
            once(&mut self.warned.quiet, || {
                tracing::warn!(
                    code = "rtp.quiet",
                    "no RTP has come from Asterisk: can it reach the address that it was told (rtp.advertise, ari.media_host), and do \
                     firewalls let the ports of rtp.ports through?"
                );
            });
        }
    }

    fn end(&mut self, cause: Cause) {
        if self.state == State::Open {
            self.state = State::Ending(cause);
        }
    }

    fn send_audio(&mut self, frame: Frame) -> Sent<LegCommand> {
        if self.hung_up || self.state != State::Open {
            return self.refused(frame);
        }
        // nobody knows yet where Asterisk is: what is said until then is heard by nobody
        let Some(to) = self.peer.to() else { return Sent::Whole };
        let now = Instant::now().into_std();
        let datagram = self.sender.packet(&frame, &mut self.codec, now);
        match self.socket.try_send_to(datagram, to) {
            Ok(_) => {
                self.stats.packets_out.inc();
                self.sender.sent(&self.codec, now);
                Sent::Whole
            }
            Err(error) => {
                if error.kind() != std::io::ErrorKind::WouldBlock {
                    once(&mut self.warned.sending, || {
                        tracing::warn!(code = "rtp.send", %to, "RTP cannot be sent to Asterisk: {error}");
                    });
                }
                self.refused(frame)
            }
        }
    }

    fn refused(&self, frame: Frame) -> Sent<LegCommand> {
        self.stats.packets_refused.inc();
        Sent::Refused(LegCommand::Audio(frame))
    }
}

/// Runs `warn` the first time.
fn once(warned: &mut bool, warn: impl FnOnce()) {
    if !std::mem::replace(warned, true) {
        warn();
    }
}

impl Stream for Leg {
    type Item = LegEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LegEvent>> {
        let this = self.get_mut();
        loop {
            this.drain();
            if let Some(frame) = this.poll_frame(cx) {
                return frame.map(|frame| Some(LegEvent::Audio(frame)));
            }
            match this.state {
                State::Open => {}
                State::Ending(cause) => {
                    this.state = State::Over;
                    return Poll::Ready(Some(LegEvent::Hangup(cause)));
                }
                State::Over => return Poll::Ready(None),
            }
            match this.told_keys.poll_recv(cx) {
                Poll::Ready(Some(digit)) => return Poll::Ready(Some(LegEvent::Dtmf(digit))),
                Poll::Ready(None) => {
                    this.end(Cause::Normal);
                    continue;
                }
                Poll::Pending => {}
            }
            match this.poll_datagram(cx) {
                Poll::Ready(Some(digit)) => return Poll::Ready(Some(LegEvent::Dtmf(digit))),
                Poll::Ready(None) => {}
                Poll::Pending => {
                    this.spent = 0;
                    ready!(this.poll_timer(cx));
                    this.silent();
                }
            }
        }
    }
}

impl Link for Leg {
    type Event = LegEvent;
    type Command = LegCommand;

    fn send(&mut self, command: LegCommand) -> Sent<LegCommand> {
        match command {
            LegCommand::Audio(frame) => self.send_audio(frame),
            // nothing is buffered here: what was sent is with Asterisk, which plays it at once
            LegCommand::Flush(_) | LegCommand::Mark(_) => Sent::Whole,
            // the channel is taken down by whoever made it, when the leg is gone
            LegCommand::Hangup => {
                self.hung_up = true;
                Sent::Whole
            }
        }
    }
}

impl call::Leg for Leg {
    fn rate(&self) -> Rate {
        self.codec.rate
    }

    async fn close(self) {
        let (packets, lost) = (self.packets, self.lost);
        if lost > MANY && lost * 100 > (packets + lost) * BAD_PERCENT {
            tracing::warn!(
                code = "rtp.loss",
                packets,
                lost,
                "more than {BAD_PERCENT} % of this call's packets from Asterisk were lost: look at the network in between, and at the one between \
                 Asterisk and the telephone"
            );
        } else {
            tracing::debug!(packets, lost, "RTP is over");
        }
    }
}

impl fmt::Debug for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leg").field("rate", &self.codec.rate).field("state", &self.state).finish_non_exhaustive()
    }
}
