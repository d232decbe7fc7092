//! Every example of `asterisk-conf/` ends with the operator when the gateway lets go of the caller, however it does.

use std::time::Duration;

use crate::support::audiosocket::{Connection, HANGUP, SLIN, SLIN16, Server};
use crate::support::g711::Codec;
use crate::support::lab::{Gateway, Lab};
use crate::support::phone::Call;

const EXAMPLES: [&str; 8] = ["5001", "5002", "5003", "5004", "5005", "5006", "4275", "4276"];

/// The operator of the lab is a tone; nobody else makes a sound in these tests.
async fn operator_answers(lab: &Lab, call: Call, example: &str) {
    let tone = |rtp: &crate::support::rtp::Rtp| rtp.audio().iter().any(|&sample| sample > 5_000);
    let heard = call.rtp.wait(Duration::from_secs(5), tone).await;
    assert!(heard, "{example} does not end at the operator\n{}", lab.log());
    call.hang_up().await;
    lab.idle().await;
}

async fn dial(lab: &Lab, example: &str) -> Call {
    match Call::dial(lab.sip(), example, Codec::Ulaw).await {
        Ok(call) => call,
        Err(code) => panic!("{example} refused with {code}\n{}", lab.log()),
    }
}

async fn walk(end: impl AsyncFn(Connection)) {
    let server = Server::bind().await;
    let lab = Lab::start(Gateway { audiosocket: server.addr(), http: None }).await;
    for example in EXAMPLES {
        let (call, connection) = tokio::join!(dial(&lab, example), server.accept(false));
        connection.wait(|c| c.audio(SLIN).len() + c.audio(SLIN16).len() > 1_000).await;
        end(connection).await;
        operator_answers(&lab, call, example).await;
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_hangs_up() {
    walk(async |connection| {
        connection.send(HANGUP, &[]).await;
        connection.ended().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_closes() {
    walk(async |connection| connection.close(false).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_resets() {
    walk(async |connection| connection.close(true).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_stopped() {
    let nobody = Server::bind().await.addr();
    let lab = Lab::start(Gateway { audiosocket: nobody, http: None }).await;
    for example in EXAMPLES {
        let call = dial(&lab, example).await;
        operator_answers(&lab, call, example).await;
    }
    lab.stop().await;
}
