//! Calls through ARI: phone → `Stasis(hark)` → Hark, and what is left in Asterisk afterwards: nothing.

use std::net::SocketAddr;
use std::time::Duration;

use hark::asterisk::ari::Media;
use hark::config::Config;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

use crate::calls::{SECOND, connect, exact_both_ways, operator_answers};
use crate::support::PATIENCE;
use crate::support::g711::Codec;
use crate::support::hark::{Hark, SECRET};
use crate::support::lab::{ARI_USER, Lab, free_port};
use crate::support::phone::Call;
use crate::support::receiver::Receiver;
use crate::support::sts_server::{Mode, Step, StsServer};

/// Phone, Asterisk, gateway and service, connected by ARI.
pub struct World {
    pub service: StsServer,
    pub hark: Hark,
    pub lab: Lab,
    pub ari_url: String,
}

impl World {
    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let ari = free_port();
        Self::at(ari, ari, change).await
    }

    /// Asterisk at `ari`, and Hark told that it is at `url`.
    pub async fn at(ari: SocketAddr, url: SocketAddr, change: impl FnOnce(&mut Config)) -> Self {
        let service = StsServer::start(Mode::Script(Vec::new())).await;
        let hark = Hark::with(Receiver::strict(SECRET).await, |config| {
            config.agent.sts_url = Some(service.url().to_string());
            config.ari.url = Some(format!("http://{url}"));
            (config.ari.username, config.ari.password) = (ARI_USER.0.to_owned(), ARI_USER.1.to_owned());
            change(config);
        })
        .await;
        let lab = Lab::with_ari(hark.gateway, ari).await;
        let world = Self { service, hark, lab, ari_url: format!("http://{url}") };
        world.ready(true).await;
        world
    }

    /// Wait until the gateway says that it is ready, or that it is not.
    pub async fn ready(&self, wanted: bool) -> Value {
        let http = self.hark.gateway.http.expect("HTTP is on");
        let wait = async {
            loop {
                let (status, body) = get(http, "/ready").await;
                if (status == 200) == wanted {
                    return serde_json::from_str(&body).expect("JSON");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let Ok(body) = timeout(PATIENCE, wait).await else { panic!("never ready = {wanted}\n{}", self.lab.log()) };
        body
    }

    /// Wait until the gateway has connected so many times.
    pub async fn connects(&self, count: u64) {
        let http = self.hark.gateway.http.expect("HTTP is on");
        let line = format!("hark_ari_connects_total {count}");
        let wait = async {
            while !get(http, "/metrics").await.1.lines().any(|shown| shown == line) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(timeout(PATIENCE, wait).await.is_ok(), "never {line}\n{}", self.lab.log());
    }

    /// Wait until Asterisk has no channel and no bridge.
    pub async fn empty(&self) {
        empty(&self.lab).await;
    }

    pub async fn stop(self) {
        self.hark.stop().await;
        self.lab.stop().await;
    }
}

/// Status and body of `GET path`.
pub async fn get(http: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(http).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: hark\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), body.to_owned())
}

pub async fn empty(lab: &Lab) {
    lab.idle().await;
    let wait = async {
        while lab.cli("bridge show all").await.lines().any(|line| line.contains("stasis")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "bridges are left: {}\n{}", lab.cli("bridge show all").await, lab.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_exact_both_ways_and_leaves_nothing_behind() {
    let world = World::start(|_| {}).await;
    let World { service, hark, lab, .. } = &world;
    let (call, session, uuid) = connect(lab, service, "5011", Codec::Ulaw).await;
    exact_both_ways(&call, &session, Codec::Ulaw).await;
    call.rtp.dtmf("1#");
    session.until(|record| record.digits == "1#").await;
    call.hang_up().await;
    let story = hark.story(uuid).await;
    // once each: the media channel brings digits, so the event about the caller's channel must not
    let expected = ["call_started", r#"dtmf_digit:{"digit":"1"}"#, r##"dtmf_digit:{"digit":"#"}"##, "call_ended"];
    assert_eq!(story[1..], expected, "{story:?}");
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_asterisk_knows_of_a_call_becomes_its_metadata() {
    let world = World::start(|config| {
        let pbx = &mut config.ari;
        pbx.variables = ["CALLID", "CHANNEL(language)", "NOT_SET"].map(str::to_owned).into();
        pbx.headers = ["Call-ID", "X-Missing"].map(str::to_owned).into();
    })
    .await;
    let World { service, hark, lab, .. } = &world;
    let caller = r#""Eve" <sip:+49301234@127.0.0.1>"#;
    let asked = Uuid::new_v4();
    let number = service.session_count();
    let call = Call::dial_as(lab.sip(), &format!("uuid-{asked}"), Codec::Ulaw, caller).await.expect("answered");
    let session = service.session(number).await;
    let events = hark.events(asked, |events| events.iter().any(|event| event["type"] == "call_started")).await;
    assert_eq!(events[0]["type"], "call_initiated");
    let about = &events[0]["payload"];
    assert_eq!((&about["from"], &about["caller_name"]), (&"+49301234".into(), &"Eve".into()), "{about}");
    assert_eq!(about["to"], format!("uuid-{asked}"));
    assert_eq!((&about["context"], &about["pbx"]), (&"from-phone".into(), &"default".into()), "{about}");
    assert_eq!(about["recording"], false);
    assert_eq!(about["variables"], serde_json::json!({"CALLID": "c-1", "CHANNEL(language)": "en"}));
    assert_eq!(about["headers"]["Call-ID"], about["sip_call_id"]);
    assert!(about["headers"].get("X-Missing").is_none(), "{about}");
    assert!(about["channel"].as_str().expect("a name").starts_with("PJSIP/phone-"), "{about}");
    let target = session.record().target;
    assert!(target.contains("from=%2B49301234") || target.contains("from=+49301234"), "{target}");
    call.hang_up().await;
    hark.story(asked).await;
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_agent_has_finished_the_dialplan_goes_on() {
    let world = World::start(|_| {}).await;
    let (call, session, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    session.step(Step::Close(Some((1_000, "bye"))));
    operator_answers(&world.lab, &call).await;
    let story = world.hark.story(uuid).await;
    assert_eq!(story[1..], ["call_started", "call_ended"], "{story:?}");
    call.hang_up().await;
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn or_hark_hangs_up_where_that_is_configured() {
    let world = World::start(|config| config.ari.after = hark::asterisk::ari::After::Hangup).await;
    let (mut call, session, _) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    session.step(Step::Close(Some((1_000, "bye"))));
    let reason = call.hung_up(Duration::from_secs(5)).await;
    assert!(reason.is_some_and(|reason| reason.contains("cause=16")));
    assert!(!world.lab.log().contains("OPERATOR has the caller"));
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_media_does_not_answer() {
    let world = World::start(|_| {}).await;
    let World { service, lab, .. } = &world;
    let agent = async {
        let session = service.session(0).await;
        session.until(|record| !record.texts.is_empty()).await;
        let channels = lab.cli("core show channels concise").await;
        assert!(channels.lines().any(|line| line.starts_with("PJSIP/phone-") && line.contains("!Ring!")), "{channels}");
        session.step(Step::Close(Some((1_000, "bye"))));
    };
    let (call, ()) = tokio::join!(Call::dial(lab.sip(), "5013", Codec::Ulaw), agent);
    let call = call.expect("the operator answers");
    operator_answers(lab, &call).await;
    call.hang_up().await;
    world.empty().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_full_or_stops_gives_callers_back() {
    let world = World::start(|config| {
        config.limits.max_calls = 1;
        config.limits.shutdown_grace_s = 1;
    })
    .await;
    let World { service, hark, lab, .. } = world;
    let (first, _, uuid) = connect(&lab, &service, "5011", Codec::Ulaw).await;
    let second = Call::dial(lab.sip(), "5011", Codec::Ulaw).await.expect("the operator answers");
    operator_answers(&lab, &second).await;
    second.hang_up().await;
    lab.channels(2).await;
    let seen = lab.log().matches("OPERATOR has the caller").count();
    let story = async { hark.events(uuid, |events| events.iter().any(|event| event["type"] == "call_started")).await };
    story.await;
    hark.stop().await;
    let back = async {
        while lab.log().matches("OPERATOR has the caller").count() == seen {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, back).await.is_ok(), "the first caller is left in silence\n{}", lab.log());
    first.hang_up().await;
    empty(&lab).await;
    lab.stop().await;
}

/// How long a call may take from entering the application to being connected, as the log tells; `HARK_ARI_CALLS=200` for the whole promise.
#[tokio::test(flavor = "multi_thread")]
async fn many_calls_are_set_up_and_taken_down() {
    many(Media::AudioSocket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_by_rtp_are_set_up_and_taken_down() {
    many(Media::Rtp).await;
}

async fn many(media: Media) {
    let count: usize = std::env::var("HARK_ARI_CALLS").ok().and_then(|count| count.parse().ok()).unwrap_or(20);
    let world = World::start(|config| {
        config.limits.max_calls = count;
        config.ari.media = media;
    })
    .await;
    let call = async |n: usize| {
        // 20 a second
        tokio::time::sleep(Duration::from_millis(50 * n as u64)).await;
        let call = Call::dial(world.lab.sip(), "5011", Codec::Ulaw).await.expect("answered");
        let session = world.service.session(n).await;
        session.until(|record| record.audio.len() > SECOND / 4).await;
        call
    };
    let calls = futures_util::future::join_all((0..count).map(call)).await;
    assert_eq!(world.service.session_count(), count);
    world.lab.channels(2 * count).await;
    futures_util::future::join_all(calls.into_iter().map(Call::hang_up)).await;
    world.empty().await;
    let (_, metrics) = get(world.hark.gateway.http.expect("HTTP is on"), "/metrics").await;
    for line in
        [&format!("hark_ari_calls_total {count}"), "hark_ari_calls_failed_total 0", "hark_ari_requests_failed_total 0"]
    {
        assert!(metrics.lines().any(|shown| shown == line), "{line} is not in {metrics}");
    }
    let told: Vec<_> = metrics.lines().filter(|line| line.starts_with("hark_ari_setup_seconds_bucket")).collect();
    eprintln!("{}", told.join("\n"));
    world.stop().await;
}

/// The same with the audio fetched from Asterisk's own HTTP server: nothing of Hark's is reached from the PBX.
#[tokio::test(flavor = "multi_thread")]
async fn audio_by_websocket_is_exact_and_nothing_is_left() {
    let world = World::start(|config| config.ari.media = Media::WebSocket).await;
    let (call, session, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    exact_both_ways(&call, &session, Codec::Ulaw).await;
    call.rtp.dtmf("1#");
    session.until(|record| record.digits == "1#").await;
    call.hang_up().await;
    let story = world.hark.story(uuid).await;
    let expected = ["call_started", r#"dtmf_digit:{"digit":"1"}"#, r##"dtmf_digit:{"digit":"#"}"##, "call_ended"];
    assert_eq!(story[1..], expected, "{story:?}");
    world.empty().await;
    // the agent ends it, in wideband
    let (call, session, _) = connect(&world.lab, &world.service, "5012", Codec::Ulaw).await;
    session.step(Step::Close(Some((1_000, "bye"))));
    operator_answers(&world.lab, &call).await;
    call.hang_up().await;
    world.empty().await;
    world.stop().await;
}
