//! Asterisk connects to Hark (outbound ARI WebSockets), with no port of its own open: everything goes over the connections that it makes.

use std::net::SocketAddr;
use std::time::Duration;

use hark::asterisk::ari::{Connect, Media, Order, Requests, Target};
use hark::config::Config;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::ari::{World, empty, get};
use crate::calls::{SECOND, connect, exact_both_ways, greeted, operator_answers, speaks};
use crate::support::g711::Codec;
use crate::support::hark::{Hark, Process, SECRET};
use crate::support::lab::{ARI_USER, Lab, add_ari_outbound, free_port};
use crate::support::phone::Call;
use crate::support::proxy::{Line, Proxy};
use crate::support::receiver::Receiver;
use crate::support::sts_server::{Mode, Step, StsServer};
use crate::support::{PATIENCE, find, noise};

/// Phone, Asterisk, gateway and service, of which Asterisk connects to the gateway, through something that can be cut.
struct Outbound {
    service: StsServer,
    hark: Hark,
    lab: Lab,
    proxy: Proxy,
}

impl Outbound {
    async fn start(kind: Connect, change: impl FnOnce(&mut Config)) -> Self {
        Self::trying(2, kind, change).await
    }

    /// Asterisk tries so often to connect for a call.
    async fn trying(attempts: u32, kind: Connect, change: impl FnOnce(&mut Config)) -> Self {
        let service = StsServer::start(Mode::Script(Vec::new())).await;
        let at = free_port();
        let hark = Hark::with(Receiver::strict(SECRET).await, |config| {
            config.agent.sts_url = Some(service.url().to_string());
            config.ari.connect = kind;
            config.ari_server.listen = Some(at);
            (config.ari.username, config.ari.password) = (ARI_USER.0.to_owned(), ARI_USER.1.to_owned());
            change(config);
        })
        .await;
        let proxy = Proxy::start(hark.ari.expect("it listens")).await;
        let lab = lab(&hark, proxy.addr, kind, attempts).await;
        let world = Self { service, hark, lab, proxy };
        world.ready().await;
        world
    }

    async fn ready(&self) {
        let http = self.hark.gateway.http.expect("HTTP is on");
        let wait = async {
            while get(http, "/ready").await.0 != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let told = get(http, "/ready").await.1;
        assert!(timeout(PATIENCE, wait).await.is_ok(), "never ready: {told}\n{}", self.lab.log());
    }

    async fn stop(self) {
        empty(&self.lab).await;
        self.hark.stop().await;
        self.lab.stop().await;
    }
}

async fn lab(hark: &Hark, at: SocketAddr, kind: Connect, attempts: u32) -> Lab {
    let kind = if kind == Connect::PerCall { "per_call_config" } else { "persistent" };
    Lab::edited(hark.gateway, |etc| add_ari_outbound(etc, at, kind, attempts)).await
}

async fn exact(kind: Connect, media: Media) {
    let world = Outbound::start(kind, |config| config.ari.media = media).await;
    let Outbound { service, hark, lab, .. } = &world;
    let (call, session, uuid) = connect(lab, service, "5011", Codec::Ulaw).await;
    exact_both_ways(&call, &session, Codec::Ulaw).await;
    // orders go over the same connection
    hark.control.order(uuid, Order::SetVariable("REASON".to_owned(), "a=1&b/c?".to_owned())).await.expect("set");
    let value = hark.control.variable(uuid, "REASON").await.expect("asked");
    assert_eq!(value.as_deref(), Some("a=1&b/c?"));
    call.hang_up().await;
    let story = hark.story(uuid).await;
    assert_eq!(story[1..], ["call_started", "call_ended"], "{story:?}");
    // the agent ends a call, and its dialplan goes on
    let (call, session, _) = connect(lab, service, "5011", Codec::Ulaw).await;
    session.step(Step::Close(Some((1_000, "bye"))));
    operator_answers(lab, &call).await;
    call.hang_up().await;
    // and a third goes to the dialplan while it talks
    let (call, _, uuid) = connect(lab, service, "5012", Codec::Ulaw).await;
    let operator =
        Target { context: Some("operator".to_owned()), exten: Some("s".to_owned()), priority: Some("1".to_owned()) };
    hark.control.order(uuid, Order::Continue(operator)).await.expect("continued");
    operator_answers(lab, &call).await;
    call.hang_up().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_that_asterisk_keeps_carries_everything() {
    exact(Connect::Persistent, Media::AudioSocket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_for_each_call_carries_everything() {
    exact(Connect::PerCall, Media::AudioSocket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_for_each_call_and_rtp() {
    exact(Connect::PerCall, Media::Rtp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_is_made_again_and_calls_are_adopted() {
    let world = Outbound::start(Connect::Persistent, |_| {}).await;
    let Outbound { service, hark, lab, proxy } = &world;
    let (stays, talks, uuid) = connect(lab, service, "5011", Codec::Ulaw).await;
    let (leaves, _, left) = connect(lab, service, "5011", Codec::Ulaw).await;
    proxy.set(Line::Cut);
    leaves.hang_up().await;
    speaks(&talks, &stays, 21).await;
    proxy.set(Line::Whole);
    assert_eq!(hark.story(left).await[1..], ["call_started", "call_ended"]);
    talks.step(Step::Close(Some((1_000, "bye"))));
    operator_answers(lab, &stays).await;
    assert_eq!(hark.story(uuid).await[1..], ["call_started", "call_ended"]);
    stays.hang_up().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_own_connection_is_lost_goes_on_over_the_next() {
    let world = Outbound::trying(40, Connect::PerCall, |_| {}).await;
    let Outbound { service, hark, lab, proxy } = &world;
    let (call, session, uuid) = connect(lab, service, "5011", Codec::Ulaw).await;
    // whatever is lost on the way while a call is set up ends that
    speaks(&session, &call, 30).await;
    proxy.set(Line::Cut);
    lab.logged("Websocket disconnected").await;
    proxy.set(Line::Whole);
    let words = Codec::Ulaw.heard(&noise(SECOND, 31));
    session.step(Step::Speak(words.clone(), 320));
    let there = |rtp: &crate::support::rtp::Rtp| find(&rtp.audio(), &words).is_some();
    assert!(call.rtp.wait(Duration::from_secs(10), there).await, "the phone never heard it\n{}", lab.log());
    session.step(Step::Close(Some((1_000, "bye"))));
    operator_answers(lab, &call).await;
    assert_eq!(hark.story(uuid).await[1..], ["call_started", "call_ended"]);
    call.hang_up().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_own_connection_does_not_come_back_goes_on_in_its_dialplan() {
    let world = Outbound::start(Connect::PerCall, |_| {}).await;
    let Outbound { service, hark, lab, proxy } = &world;
    let (call, _, uuid) = connect(lab, service, "5011", Codec::Ulaw).await;
    proxy.set(Line::Cut);
    operator_answers(lab, &call).await;
    assert_eq!(hark.story(uuid).await[1..], ["call_started", "call_ended"]);
    call.hang_up().await;
    // what it left in Asterisk is ended as soon as anything can be asked again
    proxy.set(Line::Whole);
    let (call, session, _) = connect(lab, service, "5011", Codec::Ulaw).await;
    session.step(Step::Close(Some((1_000, "bye"))));
    operator_answers(lab, &call).await;
    call.hang_up().await;
    world.stop().await;
}

/// The gateway as a program, to be killed.
async fn killed(kind: Connect, setting: &str) -> (Process, Lab, Call, TempDir) {
    let (at, data) = (free_port(), tempfile::tempdir().expect("a directory"));
    let (address, dir) = (at.to_string(), data.path().display().to_string());
    let env = [
        ("HARK__ARI__CONNECT", setting),
        ("HARK__ARI_SERVER__LISTEN", &address),
        ("ARI_USERNAME", ARI_USER.0),
        ("ARI_PASSWORD", ARI_USER.1),
        ("HARK_DATA_DIR", &dir),
    ];
    let hark = Process::with(None, &env).await;
    let gateway = hark.gateway();
    let name = if kind == Connect::PerCall { "per_call_config" } else { "persistent" };
    let proxy = Proxy::start(at).await;
    let lab = Lab::edited(gateway, |etc| add_ari_outbound(etc, proxy.addr, name, 2)).await;
    let call = Call::dial(lab.sip(), "5011", Codec::Ulaw).await.expect("answered");
    greeted(&lab, &call, SECOND / 4).await;
    // Asterisk 22.10.1 may crash (res_http_websocket.so) when the other end of such a connection dies just while it writes an event: so the
    // audio goes first, and the connection when all of that has been told
    proxy.set(Line::Silent);
    hark.kill().await;
    lab.channels(1).await;
    proxy.set(Line::Cut);
    if kind == Connect::PerCall {
        // nobody is needed for it
        operator_answers(&lab, &call).await;
    }
    proxy.set(Line::Whole);
    let hark = Process::with(Some(gateway), &env).await;
    (hark, lab, call, data)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_gateway_leaves_with_a_kept_connection_is_ended_by_the_next() {
    let (hark, lab, call, _data) = killed(Connect::Persistent, "persistent").await;
    operator_answers(&lab, &call).await;
    call.hang_up().await;
    empty(&lab).await;
    hark.kill().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_gateway_leaves_with_a_connection_for_each_call_is_ended_with_the_next_call() {
    let (hark, lab, call, _data) = killed(Connect::PerCall, "per_call").await;
    call.hang_up().await;
    let call = Call::dial(lab.sip(), "5011", Codec::Ulaw).await.expect("answered");
    let ended = async {
        while lab.cli("bridge show all").await.lines().filter(|line| line.contains("stasis")).count() > 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(timeout(PATIENCE, ended).await.is_ok(), "{}", lab.cli("bridge show all").await);
    call.hang_up().await;
    empty(&lab).await;
    hark.kill().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_is_there_the_dialplan_of_a_call_with_its_own_connection_goes_on() {
    let world = Outbound::start(Connect::PerCall, |_| {}).await;
    world.proxy.set(Line::Cut);
    let call = Call::dial(world.lab.sip(), "5011", Codec::Ulaw).await.expect("the operator answers");
    operator_answers(&world.lab, &call).await;
    call.hang_up().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_may_go_over_our_own_connection() {
    let world = World::start(|config| config.ari.rest = Some(Requests::WebSocket)).await;
    let (call, session, uuid) = connect(&world.lab, &world.service, "5011", Codec::Ulaw).await;
    speaks(&session, &call, 41).await;
    assert_eq!(world.hark.control.variable(uuid, "NOT_SET").await.expect("asked"), None);
    session.step(Step::Close(Some((1_000, "bye"))));
    operator_answers(&world.lab, &call).await;
    call.hang_up().await;
    world.empty().await;
    world.stop().await;
}
