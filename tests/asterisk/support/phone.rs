//! A SIP phone for the same machine: one socket and one call each, sample-exact sound.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::g711::Codec;
use super::rtp::Rtp;
use super::sip::{Message, parse_sdp};

/// Not a code of SIP: nobody said anything final in time.
pub const NO_ANSWER: u16 = 0;
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How a call stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Calling,
    Up,
    /// Refused with this final code.
    Refused(u16),
    /// The PBX hung up; its `Reason` header.
    HungUp {
        reason: Option<String>,
        at: Instant,
    },
    /// We hung up.
    Left,
}

/// One call from a phone; dropping it leaves the call up, as an unplugged phone does.
pub struct Call {
    pub rtp: Rtp,
    dialog: Arc<Dialog>,
    state: watch::Receiver<State>,
    listener: tokio::task::JoinHandle<()>,
}

struct Dialog {
    socket: UdpSocket,
    local: SocketAddr,
    call_id: String,
    tag: String,
    uri: String,
    sdp: String,
    /// Where the PBX sends us (`Refer-To`).
    referred: watch::Sender<Option<String>>,
    /// Set by the 200 OK: where requests in the dialog go, and with whose tag.
    remote: watch::Sender<(String, Option<String>)>,
    branch: String,
}

fn token() -> String {
    format!("{:016x}", rand::random::<u64>())
}

impl Call {
    /// Dial `extension` and wait for the answer; the code when it is refused.
    pub async fn dial(pbx: SocketAddr, extension: &str, codec: Codec) -> Result<Self, u16> {
        Self::dial_as(pbx, extension, codec, "<sip:2000@127.0.0.1>").await
    }

    /// The same with a caller id of your own: what stands in `From` before the tag.
    pub async fn dial_as(pbx: SocketAddr, extension: &str, codec: Codec, from: &str) -> Result<Self, u16> {
        let rtp = Rtp::bind(codec).await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free UDP port");
        socket.connect(pbx).await.expect("loopback");
        let local = socket.local_addr().expect("a bound socket");
        let uri = format!("sip:{extension}@{pbx}");
        let dialog = Arc::new(Dialog {
            sdp: offer(codec, rtp.port()),
            remote: watch::Sender::new((uri.clone(), None)),
            referred: watch::Sender::new(None),
            branch: token(),
            call_id: token(),
            tag: format!("{from};tag={}", token()),
            socket,
            local,
            uri,
        });
        let (tell, mut state) = watch::channel(State::Calling);
        dialog.request("INVITE", 1, &dialog.branch, &dialog.sdp).await;
        let (answer, answered) = tokio::sync::oneshot::channel();
        let listener = tokio::spawn(listen(dialog.clone(), tell, answer));
        let settled = timeout(ANSWER_LIMIT, state.wait_for(|s| *s != State::Calling)).await;
        let now = settled.map(|s| s.expect("the listener lives").clone());
        if let Ok(State::Refused(_)) | Err(_) = now {
            let code = if let Ok(State::Refused(code)) = now { code } else { NO_ANSWER };
            listener.abort();
            return Err(code);
        }
        let sdp = answered.await.expect("an answer has a session description");
        let (port, payload_type, digits) = parse_sdp(&sdp).expect("an audio line");
        assert_eq!(payload_type, codec.payload_type(), "the PBX chose another codec: {sdp}");
        rtp.connect(SocketAddr::from(([127, 0, 0, 1], port)), digits);
        Ok(Self { rtp, dialog, state, listener })
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Wait until the PBX hangs up; its `Reason` header.
    pub async fn hung_up(&mut self, limit: Duration) -> Option<String> {
        let ended = timeout(limit, self.state.wait_for(|s| matches!(s, State::HungUp { .. }))).await;
        let ended = ended.expect("the PBX did not hang up in time").expect("the listener lives");
        match &*ended {
            State::HungUp { reason, .. } => reason.clone(),
            other => panic!("not hung up but {other:?}"),
        }
    }

    /// Wait until the PBX sends us to somebody else, and say to whom.
    pub async fn referred(&self) -> String {
        let mut referred = self.dialog.referred.subscribe();
        let told = timeout(Duration::from_secs(5), referred.wait_for(Option::is_some)).await;
        told.expect("no REFER came").expect("the dialog lives").clone().expect("waited for")
    }

    /// Hang up and wait for the PBX to agree.
    pub async fn hang_up(mut self) {
        self.dialog.request("BYE", 2, &token(), "").await;
        let left = self.state.wait_for(|s| *s == State::Left);
        timeout(Duration::from_secs(5), left).await.expect("no answer to BYE").expect("the listener lives");
        self.listener.abort();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

pub fn offer(codec: Codec, port: u16) -> String {
    let payload_type = codec.payload_type();
    let clock = codec.rate();
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP {payload_type} 101\r\na=rtpmap:{payload_type} {}\r\n\
         a=rtpmap:101 telephone-event/{clock}\r\na=fmtp:101 0-16\r\na=ptime:20\r\na=sendrecv\r\n",
        codec.rtpmap()
    )
}

impl Dialog {
    async fn request(&self, method: &str, sequence: u32, branch: &str, body: &str) {
        let (target, tag) = self.remote.borrow().clone();
        let to_tag = tag.map(|t| format!(";tag={t}")).unwrap_or_default();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let text = format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bK{branch};rport\r\nMax-Forwards: 70\r\n\
             From: {}\r\nTo: <{}>{to_tag}\r\nCall-ID: {}\r\nCSeq: {sequence} {method}\r\n\
             Contact: <sip:phone@{}>\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            self.local,
            self.tag,
            self.uri,
            self.call_id,
            self.local,
            body.len()
        );
        self.send(&text).await;
    }

    async fn send(&self, text: &str) {
        // loopback: a PBX that is gone shows as a missing answer
        let _ = self.socket.send(text.as_bytes()).await;
    }
}

async fn listen(dialog: Arc<Dialog>, tell: watch::Sender<State>, answer: tokio::sync::oneshot::Sender<String>) {
    let mut answer = Some(answer);
    let mut buffer = vec![0u8; 65_536];
    loop {
        // ICMP "port unreachable" surfaces here once the PBX has gone
        let Ok(length) = dialog.socket.recv(&mut buffer).await else { continue };
        let message = Message::parse(&buffer[..length]);
        match (message.status(), message.method()) {
            (Some(200..=299), "INVITE") => {
                let target = message.uri("contact").unwrap_or_else(|| dialog.uri.clone());
                dialog.remote.send_replace((target, message.tag("to")));
                dialog.request("ACK", 1, &token(), "").await;
                if let Some(answer) = answer.take() {
                    let _ = answer.send(message.body);
                    tell.send_replace(State::Up);
                }
            }
            (Some(code @ 300..), "INVITE") => {
                dialog.remote.send_replace((dialog.uri.clone(), message.tag("to")));
                dialog.request("ACK", 1, &dialog.branch, "").await;
                tell.send_replace(State::Refused(code));
            }
            (Some(200..), "BYE") => {
                tell.send_replace(State::Left);
            }
            (None, "BYE") => {
                dialog.send(&message.response("200 OK")).await;
                let reason = message.header("reason").map(str::to_owned);
                tell.send_if_modified(|state| {
                    let news = *state == State::Up;
                    if news {
                        *state = State::HungUp { reason, at: Instant::now() };
                    }
                    news
                });
            }
            (None, "REFER") => {
                dialog.referred.send_replace(message.header("refer-to").map(str::to_owned));
                dialog.send(&message.response("202 Accepted")).await;
            }
            (None, "OPTIONS" | "NOTIFY" | "INFO" | "UPDATE") => {
                dialog.send(&message.response("200 OK")).await;
            }
            _ => {}
        }
    }
}
