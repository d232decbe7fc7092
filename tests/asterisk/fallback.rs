//! Every example of `asterisk-conf/` ends with the operator when the gateway does not take the call or lets go of the caller,
//! however that comes about.

use std::time::Duration;

use crate::support::audiosocket::{SLIN, SLIN16, Server};
use crate::support::g711::Codec;
use crate::support::hark::{Hark, Process, SECRET};
use crate::support::lab::{Gateway, Lab};
use crate::support::phone::Call;
use crate::support::receiver::Receiver;
use crate::support::sts_server::{Mode, StsServer};

const EXAMPLES: [&str; 8] = ["5001", "5002", "5003", "5004", "5005", "5006", "4275", "4276"];
/// The operator of the lab is a tone at this level; the embedded agent speaks more softly for most of the time.
const TONE: u16 = 5_000;

async fn dial(lab: &Lab, example: &str) -> Call {
    match Call::dial(lab.sip(), example, Codec::Ulaw).await {
        Ok(call) => call,
        Err(code) => panic!("{example} refused with {code}\n{}", lab.log()),
    }
}

/// The last tenth of a second was the tone without a pause.
fn is_tone(audio: &[i16]) -> bool {
    let tail = &audio[audio.len().saturating_sub(800)..];
    tail.len() == 800 && tail.chunks(80).all(|part| part.iter().any(|sample| sample.unsigned_abs() > TONE))
}

async fn operator_answers(lab: &Lab, call: Call, example: &str) {
    let heard = call.rtp.wait(Duration::from_secs(10), |rtp| is_tone(&rtp.audio())).await;
    assert!(heard, "{example} does not end at the operator\n{}", lab.log());
    assert!(lab.log().contains("Hark fallback: "), "{}", lab.log());
    call.hang_up().await;
    lab.idle().await;
}

/// Dial every example and come to the operator.
async fn walk(lab: &Lab) {
    for example in EXAMPLES {
        let call = dial(lab, example).await;
        operator_answers(lab, call, example).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_full() {
    let service = StsServer::start(Mode::Echo).await;
    let url = service.url().to_string();
    let hark = Hark::with(Receiver::strict(SECRET).await, |config| {
        config.agent.sts_url = Some(url);
        config.limits.max_calls = 1;
    })
    .await;
    let lab = hark.lab().await;
    let first = dial(&lab, "5001").await;
    service.session(0).await.until(|record| !record.audio.is_empty()).await;
    for example in EXAMPLES {
        let call = dial(&lab, example).await;
        let heard = call.rtp.wait(Duration::from_secs(10), |rtp| is_tone(&rtp.audio())).await;
        assert!(heard, "{example} does not end at the operator\n{}", lab.log());
        call.hang_up().await;
    }
    assert_eq!(service.session_count(), 1, "one of the refused calls reached the service");
    first.hang_up().await;
    // and there is room again
    let call = dial(&lab, "5001").await;
    service.session(1).await.until(|record| !record.audio.is_empty()).await;
    call.hang_up().await;
    lab.stop().await;
    hark.stop().await;
}

/// An orderly stop with a call that will not end by itself, then nobody at the port.
#[tokio::test(flavor = "multi_thread")]
async fn gateway_stopped() {
    let service = StsServer::start(Mode::Echo).await;
    let hark = Hark::start(Some(service.url().to_string())).await;
    let lab = hark.lab().await;
    let live = dial(&lab, "5001").await;
    service.session(0).await.until(|record| !record.audio.is_empty()).await;
    let summary = hark.stop().await;
    assert_eq!((summary.calls_ended, summary.events_left), (1, 0));
    operator_answers(&lab, live, "5001").await;
    walk(&lab).await;
    lab.stop().await;
}

/// SIGKILL in the middle of a call, in each example.
#[tokio::test(flavor = "multi_thread")]
async fn gateway_killed() {
    let mut process = Process::start(None).await;
    let lab = Lab::start(process.gateway()).await;
    for example in EXAMPLES {
        let call = dial(&lab, example).await;
        let greeting = |rtp: &crate::support::rtp::Rtp| rtp.audio().iter().any(|s| s.unsigned_abs() > 200);
        assert!(call.rtp.wait(Duration::from_secs(10), greeting).await, "{example}: nobody greets\n{}", lab.log());
        let gateway = process.gateway();
        process.kill().await;
        operator_answers(&lab, call, example).await;
        process = Process::start(Some(gateway)).await;
    }
    lab.stop().await;
}

/// Killed with audio unread: the connection is reset, which the application alone would not survive.
#[tokio::test(flavor = "multi_thread")]
async fn gateway_resets() {
    let server = Server::bind().await;
    let lab = Lab::start(Gateway { audiosocket: server.addr(), http: None }).await;
    for example in EXAMPLES {
        let (call, connection) = tokio::join!(dial(&lab, example), server.accept(false));
        connection.wait(|c| c.audio(SLIN).len() + c.audio(SLIN16).len() > 1_000).await;
        connection.close(true).await;
        operator_answers(&lab, call, example).await;
    }
    lab.stop().await;
}

/// The service cannot be reached when the call begins.
#[tokio::test(flavor = "multi_thread")]
async fn agent_dead() {
    let nobody = Server::bind().await.addr();
    let hark = Hark::with(Receiver::strict(SECRET).await, |config| {
        config.agent.sts_url = Some(format!("ws://{nobody}"));
        config.agent.reconnect_ms = 200;
    })
    .await;
    let lab = hark.lab().await;
    walk(&lab).await;
    lab.stop().await;
    hark.stop().await;
}
