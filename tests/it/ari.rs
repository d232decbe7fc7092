//! ARI with every fault that a PBX can have, at every point of a call's life: nothing is left behind, and nobody in silence.

use std::time::Duration;

use hark::{
    asterisk::ari::{Media, Pbx},
    config::Config,
    webhook::EndpointConfig,
};
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;

use crate::sts_network::authority;
use crate::support::{
    PATIENCE,
    ari::{Act, FakeAri},
    client,
    gateway::Gateway,
    receiver::Receiver,
    sts_server::{Mode, StsServer},
};

pub struct World {
    pub ari: FakeAri,
    pub hark: Gateway,
    _service: StsServer,
}

impl World {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let world = Self::unready(FakeAri::start().await, change).await;
        world.hark.until("hark_ari_connected", 1).await;
        world
    }

    pub async fn unready(ari: FakeAri, change: impl FnOnce(&mut Config)) -> Self {
        let service = StsServer::start(Mode::Echo).await;
        let hark = Gateway::with(&service.url(), |config| {
            config.ari.url = Some(format!("http://{}", ari.addr));
            config.ari.timeout_ms = 300;
            config.ari.ping_ms = 200;
            change(config);
        })
        .await;
        Self { ari, hark, _service: service }
    }

    pub async fn empty(&self) {
        self.ari.until("empty", FakeAri::is_empty).await;
        self.hark.until("hark_calls_active", 0).await;
    }

    pub async fn ready(&self) -> (bool, String) {
        let answer = client().get(format!("http://{}/ready", self.hark.http)).send().await.unwrap();
        (answer.status().is_success(), answer.text().await.unwrap())
    }

    /// Waits until `/ready` says `part`.
    pub async fn unready_with(&self, part: &str) -> String {
        let since = tokio::time::Instant::now();
        loop {
            let (ready, body) = self.ready().await;
            if !ready && body.contains(part) {
                return body;
            }
            assert!(since.elapsed() < PATIENCE, "{part} is never told: {body}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Who ends a call.
#[derive(Debug, Clone, Copy)]
pub enum End {
    Caller,
    Agent,
}

/// `act` befalls each request of a call's life in turn.
async fn every_point(act: Act, end: End, media: Media) -> usize {
    let world = World::start(|config| config.ari.media = media).await;
    each_point(&world, act, end).await
}

/// `act` befalls each request of a call's life in turn; how many there are.
pub async fn each_point(world: &World, act: Act, end: End) -> usize {
    let ari = &world.ari;
    for point in 0..20 {
        ari.obey();
        ari.rule(move |_, number| if number == point { act } else { Act::Pass });
        ari.until("told of events", |ari| ari.subscribers() == 1).await;
        world.hark.until("hark_ari_connected", 1).await;
        let caller = ari.call(&format!("caller-{point}"), &[]);
        ari.until("bridged or given up", |ari| ari.is_bridged(&caller) || !ari.is_in_app(&caller)).await;
        match end {
            End::Caller => ari.hang_up(&caller),
            End::Agent => ari.end_media(),
        }
        world.empty().await;
        if ari.requests().len() <= point {
            return point;
        }
    }
    panic!("a call has no end");
}

/// What may befall a request.
pub const ACTS: [Act; 10] = [
    Act::Pass,
    Act::Status(401),
    Act::Status(403),
    Act::Status(404),
    Act::Status(409),
    Act::Status(500),
    Act::Half,
    Act::Silence,
    Act::Close,
    Act::Cut,
];

async fn every_fault(end: End, media: Media) {
    let points = futures_util::future::join_all(ACTS.map(|act| every_point(act, end, media))).await;
    assert!(points.iter().all(|points| *points >= 5), "too few points were reached: {points:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_at_every_point_of_a_call_that_the_caller_ends() {
    every_fault(End::Caller, Media::AudioSocket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_at_every_point_of_a_call_that_the_agent_ends() {
    every_fault(End::Agent, Media::AudioSocket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_at_every_point_of_a_call_by_rtp_that_the_caller_ends() {
    every_fault(End::Caller, Media::Rtp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_at_every_point_of_a_call_by_rtp_that_asterisk_ends() {
    every_fault(End::Agent, Media::Rtp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_by_ready_until_they_are_over() {
    for (request, status, part) in [
        ("GET events", 401, "ari.password"),
        ("GET events", 403, "read_only"),
        ("GET events", 404, "ari.url"),
        ("GET events", 500, "own log"),
        ("PUT applications/eventFilter", 403, "read_only = no"),
        ("GET channels", 404, "module show like res_ari"),
    ] {
        let ari = FakeAri::start().await;
        ari.rule(move |asked, _| if asked == request { Act::Status(status) } else { Act::Pass });
        let world = World::unready(ari, |config| config.ari.password = "hunter2".to_owned()).await;
        let told = world.unready_with(part).await;
        assert!(!told.contains("hunter2") && !told.contains('\u{1b}'), "{told}");
        world.ari.obey();
        world.hark.until("hark_ari_connected", 1).await;
        assert!(world.ready().await.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_nonsense_does_no_harm() {
    let world = World::start(|_| {}).await;
    let ari = &world.ari;
    for n in 0..20_000 {
        ari.event(&json!({"type": "ChannelTalkingStarted", "channel": {"id": format!("x{n}")}}));
    }
    for text in ["", "{", "null", "[]", r#"{"type":"StasisStart"}"#, r#"{"type":"StasisStart","channel":7,"args":{}}"#]
    {
        ari.raw(Message::text(text));
    }
    ari.raw(Message::text("[".repeat(100_000)));
    ari.raw(Message::binary(vec![0; 1_000]));
    let caller = ari.call("caller", &[]);
    ari.until("bridged", |ari| ari.is_bridged(&caller)).await;
    // longer than any event: the end of the connection, not of the call
    ari.raw(Message::text("x".repeat(2 << 20)));
    world.hark.until("hark_ari_losses_total", 1).await;
    world.hark.until("hark_ari_connected", 1).await;
    assert!(ari.is_bridged(&caller));
    ari.hang_up(&caller);
    world.empty().await;
    assert!(world.hark.metric("hark_ari_events_unknown_total").await >= 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_callers_than_there_is_room_for_go_back_to_their_dialplan() {
    let world = World::start(|config| {
        config.limits.max_calls = 20;
        // a busy machine is no reason to give back one more
        config.ari.timeout_ms = 10_000;
    })
    .await;
    let ari = &world.ari;
    let callers: Vec<_> = (0..100).map(|n| ari.call(&format!("caller-{n}"), &[])).collect();
    let settled = |ari: &FakeAri| {
        ari.continued().len() == 80 && callers.iter().filter(|caller| ari.is_bridged(caller)).count() == 20
    };
    ari.until("20 served and 80 given back", settled).await;
    callers.iter().for_each(|caller| ari.hang_up(caller));
    world.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_in_the_wrong_order_leave_nothing_behind() {
    let world = World::start(|_| {}).await;
    let ari = &world.ari;
    // gone before it came
    ari.event(&json!({"type": "StasisEnd", "channel": {"id": "early"}}));
    ari.event(&json!({"type": "StasisStart", "args": [], "channel": {"id": "early"}}));
    // twice
    let caller = ari.call("twice", &[]);
    ari.event(&json!({"type": "StasisStart", "args": [], "channel": {"id": "twice"}}));
    ari.until("bridged", |ari| ari.is_bridged(&caller)).await;
    // leaves before its media is there, and comes back
    for _ in 0..5 {
        let hasty = ari.call("hasty", &[]);
        ari.hang_up(&hasty);
    }
    ari.hang_up(&caller);
    world.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_over_is_ended_and_what_is_not_ours_stays() {
    let ari = FakeAri::start().await;
    let [dead, alive, other] = ["hark-0badcafe", "hark-0000cafe", "other-0badcafe"]
        .map(|process| format!("hark-{process}-{}", "0".repeat(32)));
    ari.leave(&["lost-caller"], &format!("{dead}-bridge"));
    // a gateway whose media channel lives, lives: it may be about to stop beside this one
    ari.leave(&["live-caller", &format!("{alive}-media")], &format!("{alive}-bridge"));
    ari.leave(&[], &format!("{other}-bridge"));
    ari.leave(&[], "somebody-elses");
    let world = World::unready(ari, |_| {}).await;
    world.ari.until("given back", |ari| ari.continued() == ["lost-caller"]).await;
    world.hark.until("hark_ari_orphans_total", 2).await;
    let left = world.ari.left();
    assert!(!left.contains(&dead), "{left}");
    for kept in ["live-caller", &alive, &other, "somebody-elses"] {
        assert!(left.contains(kept), "{kept} is not in {left}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_taken_away_while_nobody_was_told_is_missed() {
    let world = World::start(|_| {}).await;
    let ari = &world.ari;
    let caller = ari.call("caller", &[]);
    ari.until("bridged", |ari| ari.is_bridged(&caller)).await;
    ari.take_away(&caller);
    ari.raw(Message::Close(None));
    world.empty().await;
    assert_eq!(ari.continued(), [""; 0], "they have gone on already");
}

#[tokio::test]
async fn a_connection_that_stands_but_tells_nothing_is_made_anew() {
    let world = World::start(|_| {}).await;
    world.ari.rule(|request, _| if request.starts_with("POST events") { Act::Nothing } else { Act::Pass });
    let told = world.unready_with("no longer tells of the Stasis application").await;
    assert!(told.contains(r#"\"hark\""#), "{told}");
    assert!(world.hark.metric("hark_ari_deaf_total").await >= 1);
    world.ari.obey();
    world.hark.until("hark_ari_connected", 1).await;
    let caller = world.ari.call("caller", &[]);
    world.ari.until("bridged", |ari| ari.is_bridged(&caller)).await;
    world.ari.hang_up(&caller);
    world.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_application_is_told_and_taken_back() {
    let world = World::start(|config| config.ari.replaced_s = 1).await;
    world.ari.event(&json!({"type": "ApplicationReplaced"}));
    let told = world.unready_with("another program").await;
    assert!(told.contains("ari.app"), "{told}");
    world.hark.until("hark_ari_connected", 1).await;
    assert_eq!(world.hark.metric("hark_ari_replaced_total").await, 1);
}

/// Also where the connection was lost just after Asterisk had been looked at, as it is while it tells of everything: once in half a minute.
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_after_the_application_was_taken_is_missed_soon() {
    let world = World::start(|config| config.ari.replaced_s = 600).await;
    let caller = world.ari.call("caller", &[]);
    world.ari.until("bridged", |ari| ari.is_bridged(&caller)).await;
    // the look that follows a connection is over: were it not, this test could not fail
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.ari.event(&json!({"type": "ApplicationReplaced"}));
    world.unready_with("another program").await;
    world.ari.hang_up(&caller);
    world.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_its_webhook_refuses_goes_back_to_its_dialplan() {
    let world = World::start(|config| {
        config.webhooks.url = Some("http://127.0.0.1:9/".to_owned());
        config.webhooks.initiate.default = hark::webhook::Undecided::Refuse;
    })
    .await;
    let caller = world.ari.call("caller", &[]);
    world.ari.until("given back", |ari| ari.continued() == [caller.as_str()]).await;
    world.empty().await;
    // nothing was made, so nothing is taken down
    assert_eq!(world.ari.requests(), ["POST channels/continue"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_cannot_be_set_up_is_reported() {
    let crm = Receiver::kind().await;
    let world = World::start(|config| {
        config.ari.media_host = Some("127.0.0.1:9".to_owned());
        let endpoint = EndpointConfig {
            url: Some(crm.url.clone()),
            events: ["call_initiated", "call_completed"].map(str::to_owned).into(),
            ..EndpointConfig::default()
        };
        config.webhooks.endpoints.insert("crm".to_owned(), endpoint);
    })
    .await;
    let caller = world.ari.call("caller", &["vip", "department=sales"]);
    world.ari.until("given back", |ari| ari.continued() == [caller.as_str()]).await;
    let told: Vec<_> = crm.wait_for(2).await.iter().map(|seen| seen.json()).collect();
    assert_eq!((&told[0]["type"], &told[1]["type"]), (&json!("call_initiated"), &json!("call_completed")));
    let about = &told[0]["payload"];
    assert_eq!((&about["from"], &about["args"]), (&json!("2000"), &json!(["vip"])), "{about}");
    assert_eq!(about["department"], "sales");
    let report = &told[1]["payload"];
    assert_eq!((&report["connected"], &report["reason"]), (&json!(false), &json!("ari.media.failed")), "{report}");
    assert_eq!(&report["metadata"], about);
    world.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_answers_and_is_never_connected_has_a_last_status() {
    let crm = Receiver::kind().await;
    let world = World::start(|config| {
        config.ari.media_host = Some("127.0.0.1:9".to_owned());
        config.outbound.dial.insert("default".to_owned(), "PJSIP/{to}".to_owned());
        let endpoint = EndpointConfig {
            url: Some(crm.url.clone()),
            events: ["call_status", "call_completed"].map(str::to_owned).into(),
            ..EndpointConfig::default()
        };
        config.webhooks.endpoints.insert("crm".to_owned(), endpoint);
    })
    .await;
    let order = client().post(format!("http://{}/api/calls", world.hark.http)).json(&json!({"to": "2000"}));
    assert_eq!(order.send().await.unwrap().status(), 201);
    let told: Vec<_> = crm.wait_for(4).await.iter().map(|seen| seen.json()).collect();
    let statuses: Vec<_> = told.iter().filter_map(|event| event["payload"]["status"].as_str()).collect();
    assert_eq!(statuses, ["initiated", "answered", "failed"], "{told:?}");
    let report = &told[3]["payload"];
    assert_eq!((&report["connected"], &report["reason"]), (&json!(false), &json!("ari.media.failed")), "{report}");
    world.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_by_events_where_audiosocket_brings_none_and_only_there() {
    for (version, expected) in [("20.13.0", "5#"), ("22.3.1", "5#"), ("20.14.0", ""), ("22.10.1", ""), ("GIT-x", "")] {
        let ari = FakeAri::start().await;
        ari.be(version);
        let world = World::unready(ari, |_| {}).await;
        world.hark.until("hark_ari_connected", 1).await;
        let caller = world.ari.call("caller", &[]);
        world.ari.until("bridged", |ari| ari.is_bridged(&caller)).await;
        world.hark.until("hark_calls_active", 1).await;
        for digit in ["5", "x", "#", "12"] {
            world.ari.event(&json!({"type": "ChannelDtmfReceived", "channel": {"id": caller}, "digit": digit}));
            world.ari.event(&json!({"type": "ChannelDtmfReceived", "channel": {"id": "somebody"}, "digit": "9"}));
        }
        let session = world._service.session(0).await;
        if !expected.is_empty() {
            session.until(|record| record.digits == expected).await;
        }
        world.ari.hang_up(&caller);
        world.empty().await;
        let record = session.until(|record| record.ended.is_some()).await;
        assert_eq!(record.digits, expected, "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_pbxs_is_enough_to_be_ready() {
    let branch = FakeAri::start().await;
    let world = World::unready(FakeAri::start().await, |config| {
        let pbx = Pbx { url: Some(format!("http://{}", branch.addr)), ..config.ari.clone() };
        config.ari.pbx.insert("branch".to_owned(), pbx);
    })
    .await;
    world.hark.until("hark_ari_connected", 2).await;
    world.ari.rule(|_, _| Act::Status(500));
    world.ari.raw(Message::Close(None));
    world.hark.until("hark_ari_connected", 1).await;
    assert!(world.ready().await.0);
    let caller = branch.call("caller", &[]);
    branch.until("bridged", |ari| ari.is_bridged(&caller)).await;
    branch.hang_up(&caller);
    branch.until("empty", FakeAri::is_empty).await;
    branch.rule(|_, _| Act::Status(500));
    branch.raw(Message::Close(None));
    world.unready_with("HTTP 500").await;
}

/// A PBX behind https: what comes in encrypted goes on to `ari` in clear.
async fn https(ari: &FakeAri, acceptor: TlsAcceptor) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, to) = (listener.local_addr().unwrap().port(), ari.addr);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // who does not trust us goes
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut ari = TcpStream::connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut ari).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pbx_may_be_behind_tls_and_the_listener_on_every_address() {
    let (authority, acceptor) = authority(&["localhost"]);
    let ari = FakeAri::start().await;
    let port = https(&ari, acceptor).await;
    let world = World::unready(ari, |config| {
        config.ari.url = Some(format!("https://localhost:{port}"));
        config.tls.ca_file = Some(authority.path().to_owned());
        // the PBX is told the address at which it saw us
        config.audiosocket.listen = "0.0.0.0:0".parse().unwrap();
    })
    .await;
    world.hark.until("hark_ari_connected", 1).await;
    let caller = world.ari.call("caller", &[]);
    world.ari.until("bridged", |ari| ari.is_bridged(&caller)).await;
    world.ari.hang_up(&caller);
    world.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pbx_whose_certificate_nobody_vouches_for_is_not_talked_to() {
    let (_, acceptor) = authority(&["localhost"]);
    let ari = FakeAri::start().await;
    let port = https(&ari, acceptor).await;
    let world = World::unready(ari, |config| {
        config.ari.url = Some(format!("https://localhost:{port}"));
        config.ari.password = "hunter2".to_owned();
    })
    .await;
    let told = world.unready_with("UnknownIssuer").await;
    assert!(told.contains("TLS failed") && !told.contains("hunter2"), "{told}");
    assert_eq!(world.ari.subscribers(), 0);
}

/// Wave after wave, nothing piles up: neither in Asterisk nor here.
#[tokio::test(flavor = "multi_thread")]
async fn many_calls_leave_nothing_behind() {
    // a busy machine is not to look like a lost connection: who calls during one goes on in their dialplan
    let world = World::start(|config| (config.ari.timeout_ms, config.ari.ping_ms) = (5_000, 5_000)).await;
    let ari = &world.ari;
    for wave in 0..10 {
        let callers: Vec<_> = (0..30).map(|n| ari.call(&format!("caller-{wave}-{n}"), &[])).collect();
        ari.until("all bridged", |ari| callers.iter().all(|caller| ari.is_bridged(caller))).await;
        let (leave, stay) = callers.split_at(15);
        leave.iter().for_each(|caller| ari.hang_up(caller));
        ari.until("half bridged", |ari| !leave.iter().any(|caller| ari.is_bridged(caller))).await;
        assert!(stay.iter().all(|caller| ari.is_bridged(caller)));
        ari.end_media();
        world.empty().await;
    }
    assert_eq!(ari.continued().len(), 150);
    assert_eq!(world.hark.metric("hark_ari_calls_total").await, 300);
    assert_eq!(world.hark.metric("hark_ari_calls_failed_total").await, 0);
}
