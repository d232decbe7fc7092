//! One RTP leg: sends a packet every 20 ms without drifting, keeps everything that comes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::g711::Codec;

const FRAME: Duration = Duration::from_millis(20);
/// A digit lasts six packets and four packets of sound follow it, as a person presses keys.
const DIGIT_PACKETS: u16 = 6;
const DIGIT_GAP: u16 = 4;

/// A packet that arrived.
#[derive(Debug, Clone)]
pub struct Packet {
    pub at: Instant,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub payload: Vec<u8>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<u8>,
    digits: VecDeque<u8>,
    received: Vec<Packet>,
    to: Option<SocketAddr>,
    digit_type: u8,
}

pub struct Rtp {
    codec: Codec,
    port: u16,
    state: Arc<Mutex<State>>,
    /// Grows with every packet received and with every one sent, so that waiters look again.
    changed: watch::Sender<u64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Rtp {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Rtp {
    pub async fn bind(codec: Codec) -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a free UDP port"));
        let port = socket.local_addr().expect("a bound socket").port();
        let state = Arc::new(Mutex::new(State { digit_type: 101, ..State::default() }));
        let changed = watch::Sender::new(0);
        let tasks = vec![
            tokio::spawn(receive(socket.clone(), state.clone(), changed.clone())),
            tokio::spawn(send(socket, codec, state.clone(), changed.clone())),
        ];
        Self { codec, port, state, changed, tasks }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn connect(&self, to: SocketAddr, digit_type: Option<u8>) {
        let mut state = lock(&self.state);
        state.to = Some(to);
        state.digit_type = digit_type.unwrap_or(101);
    }

    pub fn stop(&self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }

    /// Say these samples after whatever waits already.
    pub fn play(&self, samples: &[i16]) {
        lock(&self.state).queue.extend(self.codec.encode(samples));
    }

    /// Press keys (RFC 4733).
    pub fn dtmf(&self, digits: &str) {
        let events = digits.chars().map(|c| "0123456789*#ABCD".find(c).expect("a key of a telephone") as u8);
        lock(&self.state).digits.extend(events);
    }

    pub fn packets(&self) -> Vec<Packet> {
        lock(&self.state).received.clone()
    }

    /// What was heard, every packet at the place that its timestamp gives it; gaps are silence. Another source's clock, as after a transfer,
    /// begins where the one before it ended.
    pub fn audio(&self) -> Vec<i16> {
        let state = lock(&self.state);
        let sound = || state.received.iter().filter(|p| p.payload_type == self.codec.payload_type());
        let Some(mut first) = sound().next().map(|p| p.timestamp) else { return Vec::new() };
        let mut heard = Vec::new();
        for packet in sound() {
            let mut at = packet.timestamp.wrapping_sub(first) as usize;
            // before the first one, or a jump of minutes
            if at > heard.len() + (1 << 20) {
                at = heard.len();
                first = packet.timestamp.wrapping_sub(u32::try_from(at).expect("hours"));
            }
            let samples = self.codec.decode(&packet.payload);
            if heard.len() < at + samples.len() {
                heard.resize(at + samples.len(), 0);
            }
            heard[at..at + samples.len()].copy_from_slice(&samples);
        }
        heard
    }

    /// Wait until `done` holds; false when it does not within `limit`.
    pub async fn wait(&self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let mut changes = self.changed.subscribe();
        tokio::time::timeout(limit, async {
            while !done(self) {
                changes.changed().await.expect("the sender lives in self");
            }
        })
        .await
        .is_ok()
    }

    /// Wait until all that was to be said and pressed is on the wire.
    pub async fn played(&self) {
        let quiet = |rtp: &Self| {
            let state = lock(&rtp.state);
            state.queue.is_empty() && state.digits.is_empty()
        };
        assert!(self.wait(Duration::from_secs(60), quiet).await, "the phone never finished speaking");
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn receive(socket: Arc<UdpSocket>, state: Arc<Mutex<State>>, changed: watch::Sender<u64>) {
    let mut buffer = [0u8; 2048];
    while let Ok(length) = socket.recv(&mut buffer).await {
        if length < 12 {
            continue;
        }
        let packet = Packet {
            at: Instant::now(),
            payload_type: buffer[1] & 0x7f,
            sequence: u16::from_be_bytes([buffer[2], buffer[3]]),
            timestamp: u32::from_be_bytes([buffer[4], buffer[5], buffer[6], buffer[7]]),
            payload: buffer[12..length].to_vec(),
        };
        lock(&state).received.push(packet);
        changed.send_modify(|n| *n += 1);
    }
}

/// The sending side between two packets.
struct Sender {
    sequence: u16,
    timestamp: u32,
    source: u32,
    first: bool,
    /// The key that is down: its event, packets sent, timestamp of its start.
    key: Option<(u8, u16, u32)>,
    gap: u16,
}

async fn send(socket: Arc<UdpSocket>, codec: Codec, state: Arc<Mutex<State>>, changed: watch::Sender<u64>) {
    let mut sender = Sender {
        sequence: rand::random::<u16>() / 2,
        timestamp: rand::random::<u32>() / 2,
        source: rand::random(),
        first: true,
        key: None,
        gap: 0,
    };
    let mut next = Instant::now();
    loop {
        next += FRAME;
        sleep_until(next).await;
        let (to, packets) = {
            let mut state = lock(&state);
            let Some(to) = state.to else { continue };
            (to, sender.tick(codec, &mut state))
        };
        for packet in packets {
            // the peer may have gone; the SIP side will tell
            let _ = socket.send_to(&packet, to).await;
        }
        changed.send_modify(|n| *n += 1);
    }
}

impl Sender {
    fn tick(&mut self, codec: Codec, state: &mut State) -> Vec<Vec<u8>> {
        if self.key.is_none() && self.gap == 0 {
            self.key = state.digits.front().map(|&event| (event, 0, self.timestamp));
        }
        let samples = (codec.rate() / 50) as u32;
        let packets = if let Some((event, sent, start)) = self.key {
            let last = sent + 1 == DIGIT_PACKETS;
            // the key stays in the queue until it is up again: `played` waits for that
            self.key = (!last).then_some((event, sent + 1, start));
            if last {
                state.digits.pop_front();
                self.gap = DIGIT_GAP;
            }
            let duration = ((sent + 1) * samples as u16).to_be_bytes();
            let payload = [event, if last { 0x8a } else { 0x0a }, duration[0], duration[1]];
            let copies = if last { 3 } else { 1 };
            (0..copies).map(|_| self.packet(state.digit_type, sent == 0, start, &payload)).collect()
        } else {
            self.gap = self.gap.saturating_sub(1);
            let length = samples as usize * codec.width();
            let have = state.queue.len().min(length);
            let mut payload: Vec<u8> = state.queue.drain(..have).collect();
            payload.extend(codec.encode(&vec![0; (length - have) / codec.width()]));
            let marker = std::mem::take(&mut self.first);
            vec![self.packet(codec.payload_type(), marker, self.timestamp, &payload)]
        };
        self.timestamp = self.timestamp.wrapping_add(samples);
        packets
    }

    fn packet(&mut self, payload_type: u8, marker: bool, timestamp: u32, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x80, payload_type | if marker { 0x80 } else { 0 }];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(timestamp.to_be_bytes());
        packet.extend(self.source.to_be_bytes());
        packet.extend(payload);
        self.sequence = self.sequence.wrapping_add(1);
        packet
    }
}
