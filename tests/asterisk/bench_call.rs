//! The lab proves itself: phone ↔ Asterisk ↔ a plain AudioSocket server, sample by sample, without the gateway.

use std::time::Duration;

use crate::support::audiosocket::{Connection, End, HANGUP, SLIN, SLIN16, Server, UUID};
use crate::support::g711::Codec;
use crate::support::lab::{Gateway, Lab};
use crate::support::phone::Call;
use crate::support::{find, noise};

async fn lab(server: &Server) -> Lab {
    Lab::start(Gateway { audiosocket: server.addr(), http: None }).await
}

async fn connect(lab: &Lab, server: &Server, extension: &str, codec: Codec, echo: bool) -> (Call, Connection) {
    match Call::dial(lab.sip(), extension, codec).await {
        Ok(call) => (call, server.accept(echo).await),
        Err(code) => panic!("refused with {code}\n{}", lab.log()),
    }
}

fn slin(bytes: &[u8]) -> Vec<i16> {
    bytes.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect()
}

/// Speak a second of noise and find it whole at the server and, echoed, at the phone.
async fn echo(call: &Call, connection: &Connection, codec: Codec, kind: u8, seed: u32) {
    // the first 20 ms of a call may be lost before the socket is there
    connection.wait(|c| c.audio(kind).len() > 640).await;
    let said = noise(codec.rate(), seed);
    let heard = codec.heard(&said);
    call.rtp.play(&said);
    connection.wait(|c| find(&slin(&c.audio(kind)), &heard).is_some()).await;
    let came_back = |rtp: &crate::support::rtp::Rtp| find(&rtp.audio(), &heard).is_some();
    assert!(call.rtp.wait(Duration::from_secs(5), came_back).await, "the echo is not what was said");
}

async fn echo_and_hang_up(extension: &str, codec: Codec, kind: u8) {
    let server = Server::bind().await;
    let lab = lab(&server).await;

    let (call, connection) = connect(&lab, &server, extension, codec, true).await;
    echo(&call, &connection, codec, kind, 1).await;
    assert_eq!(connection.frames()[0].kind, UUID);
    assert_eq!(connection.frames()[0].payload.len(), 16);
    call.rtp.dtmf("1#");
    connection.wait(|c| c.digits() == "1#").await;
    call.hang_up().await;
    // audio on its way to a caller who has left makes it a reset; both are an end
    connection.ended().await;

    let (call, connection) = connect(&lab, &server, extension, codec, true).await;
    let mut call = call;
    echo(&call, &connection, codec, kind, 2).await;
    connection.send(HANGUP, &[]).await;
    call.hung_up(Duration::from_secs(3)).await;
    assert_eq!(connection.ended().await, End::Eof);
    lab.idle().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn application_ulaw() {
    echo_and_hang_up("app", Codec::Ulaw, SLIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn application_alaw() {
    echo_and_hang_up("app", Codec::Alaw, SLIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dial_slin_from_ulaw() {
    echo_and_hang_up("dial_slin", Codec::Ulaw, SLIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dial_slin16() {
    echo_and_hang_up("dial_slin16", Codec::Slin16, SLIN16).await;
}

/// Raw G.711 under the same kind: what the phone sent arrives byte by byte.
#[tokio::test(flavor = "multi_thread")]
async fn dial_raw_g711() {
    let server = Server::bind().await;
    let lab = lab(&server).await;
    for (extension, codec) in [("dial_ulaw", Codec::Ulaw), ("dial_alaw", Codec::Alaw)] {
        let (call, connection) = connect(&lab, &server, extension, codec, false).await;
        connection.wait(|c| c.audio(SLIN).len() > 320).await;
        let said = noise(8_000, 3);
        call.rtp.play(&said);
        connection.wait(|c| find(&codec.decode(&c.audio(SLIN)), &codec.heard(&said)).is_some()).await;
        call.hang_up().await;
        connection.ended().await;
    }
    lab.stop().await;
}
