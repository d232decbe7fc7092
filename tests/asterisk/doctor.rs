//! `hark doctor` on a real Asterisk: a healthy one, one without a module, one whose user may only read, and beside a running gateway.

use std::net::SocketAddr;

use hark::cli::doctor::{Report, Status, examine};
use hark::config::Config;

use crate::ari::{World, empty};
use crate::support::lab::{ARI_USER, Gateway, Lab, free_port};

/// Settings as an administrator has them, and a directory that lives as long.
fn settings(ari: SocketAddr) -> (Config, tempfile::TempDir) {
    let data = tempfile::tempdir().expect("a directory");
    let mut config = Config::default();
    config.audiosocket.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.http.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.data_dir = data.path().to_owned();
    // any program that is there
    config.agent.flite = "/bin/sh".to_owned();
    config.ari.url = Some(format!("http://{ari}"));
    (config.ari.username, config.ari.password) = (ARI_USER.0.to_owned(), ARI_USER.1.to_owned());
    (config, data)
}

fn nowhere() -> Gateway {
    Gateway { audiosocket: SocketAddr::from(([127, 0, 0, 1], 9)), http: None }
}

#[track_caller]
fn expect(report: &Report, name: &str, status: Status, part: &str) {
    let found = report.checks.iter().any(|check| {
        let advised: String = check.advice.iter().map(ToString::to_string).collect();
        check.name == name && check.status == status && format!("{}{advised}", check.found).contains(part)
    });
    assert!(found, "{name} is not {status:?} with {part:?} in\n{report}");
}

#[tokio::test]
async fn a_healthy_asterisk_is_found_to_be_so_and_keeps_nothing() {
    let ari = free_port();
    let lab = Lab::with_ari(nowhere(), ari).await;
    let (config, _data) = settings(ari);
    let report = examine(&config).await;
    assert!(report.is_ok(), "{report}\n{}", lab.log());
    expect(&report, "asterisk: version", Status::Ok, "Asterisk 22");
    expect(&report, "asterisk: modules", Status::Ok, "all that is needed");
    expect(&report, "asterisk: rights", Status::Ok, "may write");
    expect(&report, "asterisk: application", Status::Ok, "is free");
    expect(&report, "asterisk: clock", Status::Ok, "agree");
    expect(&report, "asterisk: audio", Status::Ok, "comes from 127.0.0.1");
    empty(&lab).await;

    // its passwords and rights
    let (mut config, _data) = settings(ari);
    config.ari.password = "hunter2".to_owned();
    let report = examine(&config).await;
    expect(&report, "asterisk", Status::Fail, "ari show users");
    assert!(!report.to_string().contains("hunter2"), "{report}");
    let path = lab.dir().join("etc/ari.conf");
    let text = std::fs::read_to_string(&path).expect("the lab's own file");
    std::fs::write(&path, text.replace("read_only=no", "read_only=yes")).expect("write");
    lab.cli("module reload res_ari.so").await;
    let (config, _data) = settings(ari);
    let report = examine(&config).await;
    expect(&report, "asterisk: rights", Status::Fail, "read_only = no");
    lab.stop().await;
}

#[tokio::test]
async fn a_missing_module_is_named_with_the_line_that_loads_it() {
    let ari = free_port();
    let lab = Lab::with_ari(nowhere(), ari).await;
    lab.cli("module unload app_audiosocket.so").await;
    lab.cli("module unload chan_audiosocket.so").await;
    let (config, _data) = settings(ari);
    let report = examine(&config).await;
    expect(&report, "asterisk: modules", Status::Fail, "            load = chan_audiosocket.so\n");
    expect(&report, "asterisk: modules", Status::Warn, "load = app_audiosocket.so");
    expect(&report, "asterisk: audio", Status::Skipped, "chan_audiosocket.so");
    // and doing what it says helps
    for check in report.checks.iter().filter(|check| check.name == "asterisk: modules") {
        for command in check.advice.iter().flat_map(|advice| &advice.run) {
            let command = command.trim_start_matches("asterisk -rx '").trim_end_matches('\'');
            lab.cli(command).await;
        }
    }
    let report = examine(&config).await;
    assert!(report.is_ok(), "{report}\n{}", lab.log());
    empty(&lab).await;
    lab.stop().await;
}

#[tokio::test]
async fn the_entry_of_websocket_client_conf_is_tried() {
    let ari = free_port();
    let lab = Lab::with_ari(nowhere(), ari).await;
    let (mut config, _data) = settings(ari);
    let listen = free_port();
    config.websocket.listen = Some(listen);
    (config.websocket.username, config.websocket.password) = (Some("hark".to_owned()), "change-me".to_owned());
    lab.cli("module unload chan_websocket.so").await;
    let report = examine(&config).await;
    expect(&report, "asterisk: websocket", Status::Skipped, "chan_websocket.so");
    lab.cli("module load chan_websocket.so").await;
    lab.cli("module load func_uri.so").await;
    let report = examine(&config).await;
    expect(&report, "asterisk: websocket", Status::Fail, &format!("uri = ws://{listen}/media"));
    let entry = include_str!("../../asterisk-conf/websocket/websocket_client.conf");
    let entry = entry.replace("127.0.0.1:5002", &listen.to_string());
    std::fs::write(lab.dir().join("etc/websocket_client.conf"), entry).expect("write");
    lab.cli("module reload res_websocket_client.so").await;
    let report = examine(&config).await;
    assert!(report.is_ok(), "{report}\n{}", lab.log());
    expect(&report, "asterisk: websocket", Status::Ok, "with the right password");
    config.websocket.password = "hunter2".to_owned();
    let report = examine(&config).await;
    expect(&report, "asterisk: websocket", Status::Fail, "not the user or the password");
    assert!(!report.to_string().contains("hunter2"), "{report}");
    empty(&lab).await;
    lab.stop().await;
}

#[tokio::test]
async fn beside_a_running_gateway_asterisk_reaches_it_and_no_call_begins() {
    let world = World::start(|_| {}).await;
    let (mut config, _data) = settings(world.ari_url.trim_start_matches("http://").parse().expect("an address"));
    config.audiosocket.listen = world.hark.gateway.audiosocket;
    config.http.listen = world.hark.gateway.http.expect("HTTP is on");
    let report = examine(&config).await;
    assert!(report.is_ok(), "{report}\n{}", world.lab.log());
    expect(&report, "asterisk: application", Status::Ok, "the running gateway is told of calls");
    expect(&report, "asterisk: audio", Status::Ok, "where the running gateway listens");
    world.empty().await;
    let (_, metrics) = crate::ari::get(config.http.listen, "/metrics").await;
    assert!(metrics.lines().any(|line| line == "hark_calls_total 0"), "{metrics}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_of_audio_is_tried_whatever_carries_it_and_nothing_is_left() {
    use hark::asterisk::ari::Media;
    let ari = free_port();
    let lab = Lab::with_ari(nowhere(), ari).await;
    for (media, part) in [(Media::Rtp, "both ways"), (Media::WebSocket, "connects to Asterisk's channels")] {
        let (mut config, _data) = settings(ari);
        config.ari.media = media;
        let report = examine(&config).await;
        assert!(report.is_ok(), "{report}\n{}", lab.log());
        expect(&report, "asterisk: audio", Status::Ok, part);
        empty(&lab).await;
    }
    // Asterisk is told to send elsewhere
    let (mut config, _data) = settings(ari);
    (config.ari.media, config.rtp.advertise) = (Media::Rtp, Some("127.0.0.9".to_owned()));
    let report = examine(&config).await;
    expect(&report, "asterisk: audio", Status::Fail, "none of the packets");
    empty(&lab).await;
    let gone = async {
        while lab.cli("ari show apps").await.contains("hark-doctor") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let gone = tokio::time::timeout(crate::support::PATIENCE, gone).await;
    assert!(gone.is_ok(), "{}", lab.cli("ari show apps").await);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_asterisk_connects_is_seen_and_why_not() {
    use hark::asterisk::ari::Connect;
    let (ari, at) = (free_port(), free_port());
    let lab = Lab::edited(nowhere(), |etc| crate::support::lab::add_ari_outbound(etc, at, "persistent", 2)).await;
    let (mut config, _data) = settings(ari);
    (config.ari.url, config.ari.connect, config.ari_server.listen) = (None, Connect::Persistent, Some(at));
    let report = examine(&config).await;
    expect(&report, "asterisk: connection", Status::Ok, "with the right password");
    config.ari.password = "hunter2".to_owned();
    let report = examine(&config).await;
    expect(&report, "asterisk: connection", Status::Fail, "outbound_websocket");
    assert!(!report.to_string().contains("hunter2"), "{report}");
    // nobody comes
    config.ari_server.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let report = examine(&config).await;
    expect(&report, "asterisk: connection", Status::Fail, "does not come");
    lab.stop().await;
}
