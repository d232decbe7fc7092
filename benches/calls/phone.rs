//! An AudioSocket phone that sends numbered frames on absolute deadlines and notes when each comes back.

use std::{cell::RefCell, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use crate::Result;

pub const PERIOD: Duration = Duration::from_millis(20);
/// A gap that a listener hears.
const UNDERRUN: Duration = Duration::from_millis(30);
/// The caller is silent at first, as callers are: frames from while the gateway connects can be made up for.
const SILENT: u32 = 50;
const FRAME: usize = 323;
/// The first samples of a numbered frame, and behind them its number in digits to this base: too quiet to make a pause loud.
const MARK: [i16; 3] = [21, -43, 57];
const DIGITS: usize = 5;
const BASE: u32 = 32;
/// People pause: of every 2 s of a caller the last 400 ms. A gateway may use them to catch up.
const SENTENCE: u32 = 100;
const SPOKEN: u32 = 80;

/// The measured window.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub from: Instant,
    pub until: Instant,
}

impl Window {
    fn holds(&self, at: Instant) -> bool {
        (self.from..self.until).contains(&at)
    }
}

/// What all phones of a run saw within the window. Times are in µs.
#[derive(Debug, Default)]
pub struct Seen {
    pub echo: Vec<u32>,
    /// Distance between two frames, less 20 ms, without sign.
    pub pacing: Vec<u32>,
    /// How late the phones themselves were.
    pub late: Vec<u32>,
    pub sent: u64,
    /// Of those sent, and of those that came back: the ones that are speech. Pauses may be shortened.
    pub spoken: u64,
    pub back: u64,
    pub frames: u64,
    /// Of those that came: loud ones.
    pub voiced: u64,
    pub underruns: u64,
    /// Calls that broke off.
    pub broken: u64,
    /// Per call of a burst: distinct frames heard, and how long from the first to the end of the last.
    pub bursts: Vec<(u32, Duration)>,
}

/// A frame that carries its number.
pub fn numbered(number: u32, voiced: bool) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    (frame[0], frame[1], frame[2]) = (0x10, 1, 64);
    let mut left = number;
    for (sample, bytes) in frame[3..].chunks_exact_mut(2).enumerate() {
        let value = match sample {
            _ if sample < MARK.len() => MARK[sample],
            _ if sample < MARK.len() + DIGITS => {
                let digit = left % BASE;
                left /= BASE;
                digit as i16
            }
            _ if voiced => 4_000,
            _ => 0,
        };
        bytes.copy_from_slice(&value.to_le_bytes());
    }
    frame
}

/// Whether frame `number` of a caller is speech.
const fn is_voiced(number: u32) -> bool {
    number % SENTENCE < SPOKEN
}

fn number(frame: &[u8]) -> Option<u32> {
    let sample = |at: usize| i16::from_le_bytes([frame[3 + 2 * at], frame[4 + 2 * at]]);
    let marked = (0..MARK.len()).all(|at| sample(at) == MARK[at]);
    let digits = (0..DIGITS).rev().map(|at| u32::try_from(sample(MARK.len() + at)).unwrap_or(BASE));
    marked.then(|| digits.fold(0_u32, |number, digit| number.wrapping_mul(BASE).wrapping_add(digit)))
}

/// What a phone sends.
#[derive(Debug, Clone)]
pub enum Speech {
    /// Numbered frames, noted when they come back.
    Numbered,
    /// These frames again and again, from some place on.
    Recorded(Rc<[[u8; FRAME]]>, usize),
}

/// 20 ms frames of s16le at 8 kHz.
pub fn frames(samples: &[i16]) -> Rc<[[u8; FRAME]]> {
    let frame = |samples: &[i16]| {
        let mut frame = [0; FRAME];
        (frame[0], frame[1], frame[2]) = (0x10, 1, 64);
        for (bytes, sample) in frame[3..].chunks_exact_mut(2).zip(samples) {
            bytes.copy_from_slice(&sample.to_le_bytes());
        }
        frame
    };
    samples.chunks((FRAME - 3) / 2).map(frame).collect()
}

struct Phone {
    window: Window,
    speech: Speech,
    started: Instant,
    /// When each numbered frame was sent, in µs since `started`.
    sent: Vec<u32>,
    last: Option<Instant>,
    burst: Burst,
}

#[derive(Default)]
struct Burst {
    heard: u32,
    next: u32,
    first: Option<Instant>,
    last: Option<Instant>,
}

/// Calls `port` at `start`, hangs up at the end of the window.
pub async fn call(port: u16, start: Instant, window: Window, speech: Speech, seen: Rc<RefCell<Seen>>) {
    sleep_until(start).await;
    let mut phone =
        Phone { window, speech, started: start, sent: Vec::with_capacity(4096), last: None, burst: Burst::default() };
    if phone.run(port, &seen).await.is_err() {
        seen.borrow_mut().broken += 1;
    }
    if let Burst { heard, first: Some(first), last: Some(last), .. } = phone.burst {
        seen.borrow_mut().bursts.push((heard, last - first + PERIOD));
    }
}

impl Phone {
    async fn run(&mut self, port: u16, seen: &RefCell<Seen>) -> Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let mut hello = [0; 19];
        (hello[0], hello[2]) = (1, 16);
        hello[3..].copy_from_slice(Uuid::new_v4().as_bytes());
        stream.write_all(&hello).await?;
        let mut incoming = Vec::with_capacity(2048);
        let mut ticks = 0;
        let tick = sleep_until(Instant::now());
        tokio::pin!(tick);
        loop {
            tokio::select! { biased;
                () = &mut tick => {
                    let due = tick.deadline();
                    if due >= self.window.until {
                        return Ok(());
                    }
                    self.speak(&mut stream, ticks, due, seen).await?;
                    ticks += 1;
                    tick.as_mut().reset(due + PERIOD);
                }
                read = stream.read_buf(&mut incoming) => {
                    if read? == 0 {
                        return Err("the gateway ended the call".into());
                    }
                    let done = self.listen(&incoming, &mut seen.borrow_mut())?;
                    incoming.drain(..done);
                }
            }
        }
    }

    async fn speak(&mut self, stream: &mut TcpStream, tick: u32, due: Instant, seen: &RefCell<Seen>) -> Result<()> {
        let now = Instant::now();
        let mut frame = [0; FRAME];
        let mut voiced = false;
        if let Speech::Recorded(frames, from) = &self.speech {
            frame = frames[(from + tick as usize) % frames.len()];
        } else if let Some(next) = tick.checked_sub(SILENT) {
            voiced = is_voiced(next);
            frame = numbered(next, voiced);
            self.sent.push(micros(now - self.started));
        } else {
            frame[..3].copy_from_slice(&[0x10, 1, 64]);
        }
        if self.window.holds(now) {
            let mut seen = seen.borrow_mut();
            seen.late.push(micros(now - due));
            seen.sent += 1;
            seen.spoken += u64::from(voiced);
        }
        Ok(stream.write_all(&frame).await?)
    }

    fn listen(&mut self, incoming: &[u8], seen: &mut Seen) -> Result<usize> {
        let now = Instant::now();
        let mut done = 0;
        while let Some(frame) = incoming.get(done..done + FRAME) {
            if frame[..3] != [0x10, 1, 64] {
                return Err("the gateway sent something else than 20 ms at 8 kHz".into());
            }
            done += FRAME;
            self.frame(frame, now, seen);
        }
        if let [0, ..] = &incoming[done..] {
            return Err("the gateway hung up".into());
        }
        Ok(done)
    }

    fn frame(&mut self, frame: &[u8], now: Instant, seen: &mut Seen) {
        let distance = self.last.replace(now).map(|last| now - last);
        let number = number(frame);
        if let Some(number) = number
            && number >= self.burst.next
        {
            self.burst.heard += 1;
            self.burst.next = number + 1;
            self.burst.first.get_or_insert(now);
            self.burst.last = Some(now);
        }
        if !self.window.holds(now) {
            return;
        }
        seen.frames += 1;
        seen.voiced += u64::from(
            frame[3..].chunks_exact(2).any(|two| i16::from_le_bytes([two[0], two[1]]).unsigned_abs() > 2_000),
        );
        if let Some(distance) = distance {
            seen.pacing.push(micros(distance.abs_diff(PERIOD)));
            seen.underruns += u64::from(distance > UNDERRUN);
        }
        if let Some(number) = number
            && let Some(sent) = self.sent.get(number as usize)
        {
            seen.back += u64::from(is_voiced(number));
            seen.echo.push(micros(now - self.started).saturating_sub(*sent));
        }
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
