//! What Asterisk itself does when an AudioSocket ends: the table in `asterisk-conf/README.md`, row by row.

use std::time::Duration;

use crate::support::audiosocket::{Connection, HANGUP, SLIN, Server};
use crate::support::g711::Codec;
use crate::support::lab::{Gateway, Lab};
use crate::support::phone::Call;

const FORMS: [&str; 3] = ["app", "try", "dial_slin"];

/// What the line after the AudioSocket logs; nothing when it is not reached.
async fn next_line(lab: &Lab, mut call: Call, seen: usize) -> Option<String> {
    call.hung_up(Duration::from_secs(5)).await;
    lab.idle().await;
    let log = lab.log();
    let line = log[seen..].lines().find(|line| line.contains(": BENCH "))?;
    Some(line.split_once("went on").expect("how the line begins").1.trim().to_owned())
}

async fn walk(end: impl AsyncFn(Connection), expected: [Option<&str>; 3]) {
    let server = Server::bind().await;
    let lab = Lab::start(Gateway { audiosocket: server.addr(), http: None }).await;
    for (form, expected) in FORMS.into_iter().zip(expected) {
        let seen = lab.log().len();
        let call = Call::dial(lab.sip(), form, Codec::Ulaw).await.expect("answered");
        let connection = server.accept(false).await;
        connection.wait(|c| c.audio(SLIN).len() > 3_200).await;
        end(connection).await;
        assert_eq!(next_line(&lab, call, seen).await.as_deref(), expected, "{form}");
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_hangup_every_form_goes_on() {
    let end = async |connection: Connection| {
        connection.send(HANGUP, &[]).await;
        connection.ended().await;
    };
    walk(end, [Some(""), Some("TRYSTATUS=SUCCESS"), Some("DIALSTATUS=ANSWER HANGUPCAUSE=16")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_close_every_form_goes_on() {
    let end = async |connection: Connection| connection.close(false).await;
    walk(end, [Some(""), Some("TRYSTATUS=SUCCESS"), Some("DIALSTATUS=ANSWER HANGUPCAUSE=16")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reset_the_bare_application_drops_the_caller() {
    let end = async |connection: Connection| connection.close(true).await;
    walk(end, [None, Some("TRYSTATUS=FAILED"), Some("DIALSTATUS=ANSWER HANGUPCAUSE=16")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_gateway_the_bare_application_drops_the_caller() {
    let nobody = Server::bind().await.addr();
    let lab = Lab::start(Gateway { audiosocket: nobody, http: None }).await;
    let expected = [None, Some("TRYSTATUS=FAILED"), Some("DIALSTATUS=CHANUNAVAIL HANGUPCAUSE=38")];
    for (form, expected) in FORMS.into_iter().zip(expected) {
        let seen = lab.log().len();
        let call = Call::dial(lab.sip(), form, Codec::Ulaw).await.expect("answered");
        assert_eq!(next_line(&lab, call, seen).await.as_deref(), expected, "{form}");
    }
    lab.stop().await;
}
