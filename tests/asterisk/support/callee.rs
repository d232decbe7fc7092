//! A phone that is called. What it does is the number that was dialled: `answer` answers, `ring` rings for ever, `dead` says nothing at
//! all, a code of SIP refuses with it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::g711::Codec;
use super::phone::offer;
use super::rtp::Rtp;
use super::sip::{Message, parse_sdp};

pub struct Callee {
    pub address: SocketAddr,
    /// Calls that were answered.
    pub answered: mpsc::Receiver<Answered>,
    task: tokio::task::JoinHandle<()>,
}

/// A call that was answered.
pub struct Answered {
    pub rtp: Rtp,
    /// The value of `From`.
    pub from: String,
    /// Requests within the call: `BYE`.
    pub requests: mpsc::UnboundedReceiver<Message>,
    invite: Message,
    from_peer: SocketAddr,
    socket: Arc<UdpSocket>,
}

impl Answered {
    pub async fn hang_up(&self) {
        let header = |name| self.invite.header(name).unwrap_or_default();
        let target = header("contact").split(['<', '>']).nth(1).unwrap_or_default();
        let (local, id) = (self.socket.local_addr().expect("bound"), header("call-id"));
        let bye = format!(
            "BYE {target} SIP/2.0\r\nvia: SIP/2.0/UDP {local};branch=z9hG4bKbye{id}\r\nfrom: {};tag=callee\r\nto: {}\r\n\
             call-id: {id}\r\ncseq: 1 BYE\r\nmax-forwards: 70\r\ncontent-length: 0\r\n\r\n",
            header("to"),
            header("from"),
        );
        self.socket.send_to(bye.as_bytes(), self.from_peer).await.expect("loopback");
    }
}

impl Drop for Callee {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Callee {
    pub async fn start() -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a free UDP port"));
        let address = socket.local_addr().expect("a bound socket");
        let (tell, answered) = mpsc::channel(8);
        let task = tokio::spawn(serve(socket, address, tell));
        Self { address, answered, task }
    }
}

async fn serve(socket: Arc<UdpSocket>, address: SocketAddr, tell: mpsc::Sender<Answered>) {
    let (mut calls, mut rings) = (Vec::<(String, mpsc::UnboundedSender<Message>)>::new(), Vec::<Message>::new());
    let mut datagram = [0; 8_192];
    loop {
        let (length, from) = socket.recv_from(&mut datagram).await.expect("the phone's own socket");
        let message = Message::parse(&datagram[..length]);
        let call = message.header("call-id").unwrap_or_default().to_owned();
        let send = async |text: String| {
            socket.send_to(text.as_bytes(), from).await.expect("loopback");
        };
        let tagged = |text: String| {
            let to = message.header("to").unwrap_or_default();
            text.replace(
                &format!("to: {to}\r\n"),
                &format!("to: {to};tag=callee\r\ncontact: <sip:callee@{address}>\r\n"),
            )
        };
        match message.method() {
            // once: a request that comes again has been answered
            "INVITE"
                if message.status().is_none() && !rings.iter().any(|ring| ring.header("call-id") == Some(&call)) =>
            {
                rings.push(message.clone());
                let user = message.first.split(':').nth(1).and_then(|uri| uri.split('@').next()).unwrap_or_default();
                match user {
                    "dead" => {}
                    "ring" => send(tagged(message.response("180 Ringing"))).await,
                    "answer" => {
                        send(tagged(message.response("180 Ringing"))).await;
                        let rtp = Rtp::bind(Codec::Ulaw).await;
                        let sdp = offer(Codec::Ulaw, rtp.port());
                        let (port, _, digits) = parse_sdp(&message.body).expect("an offer");
                        rtp.connect(SocketAddr::from(([127, 0, 0, 1], port)), digits);
                        let ok = tagged(message.response("200 OK"));
                        let head = format!("content-type: application/sdp\r\ncontent-length: {}\r\n\r\n", sdp.len());
                        send(ok.replace("content-length: 0\r\n\r\n", &head) + &sdp).await;
                        let (requests, received) = mpsc::unbounded_channel();
                        calls.push((call, requests));
                        let caller = message.header("from").unwrap_or_default().to_owned();
                        let answered = Answered {
                            rtp,
                            from: caller,
                            requests: received,
                            invite: message.clone(),
                            from_peer: from,
                            socket: Arc::clone(&socket),
                        };
                        assert!(tell.send(answered).await.is_ok(), "somebody waits for the call");
                    }
                    code => {
                        send(tagged(message.response("180 Ringing"))).await;
                        send(tagged(message.response(&format!("{code} No")))).await;
                    }
                }
            }
            "CANCEL" => {
                send(message.response("200 OK")).await;
                if let Some(ring) = rings.iter().find(|ring| ring.header("call-id") == Some(&call)) {
                    let to = ring.header("to").unwrap_or_default();
                    let refusal = ring.response("487 Request Terminated");
                    send(refusal.replace(&format!("to: {to}\r\n"), &format!("to: {to};tag=callee\r\n"))).await;
                }
            }
            "BYE" => {
                send(message.response("200 OK")).await;
                if let Some((_, requests)) = calls.iter().find(|(id, _)| *id == call) {
                    // the test may be over
                    let _ = requests.send(message);
                }
            }
            _ => {}
        }
    }
}
