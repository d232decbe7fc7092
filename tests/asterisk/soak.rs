//! Thousands of calls through `Stasis()`, one after another and side by side: Asterisk is left empty, and the gateway as small as it was.
//! `make soak` makes 10,000 of them, and 200 at once by each kind of media.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep_until};

use crate::ari::{empty, get};
use crate::calls::greeted;
use crate::support::g711::Codec;
use crate::support::hark::Process;
use crate::support::lab::{ARI_USER, Lab, free_port};
use crate::support::phone::Call;

/// Between the beginnings of two calls: 20 a second.
const EVERY: Duration = Duration::from_millis(50);
/// Calls at once.
const AT_ONCE: usize = 40;
/// What the gateway's memory may have grown by since a fifth of the calls, in kB; a kilobyte a call would be eight thousand.
const GROWTH_KB: u64 = 8 * 1024;

fn resident_kb(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

/// What is counted, once the last call has ended.
async fn ended(http: std::net::SocketAddr) -> String {
    let wait = async {
        loop {
            let (_, metrics) = get(http, "/metrics").await;
            if metrics.lines().any(|line| line == "hark_calls_active 0") {
                return metrics;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, wait).await.expect("the calls end")
}

async fn calls(lab: &Lab, count: usize) {
    let begun = Instant::now();
    let call = async |n: usize| {
        sleep_until(begun + EVERY * u32::try_from(n).expect("not so many")).await;
        let call = Call::dial(lab.sip(), "5011", Codec::Ulaw).await.expect("answered");
        // whoever is greeted is served
        greeted(lab, &call, 1).await;
        call.hang_up().await;
    };
    futures_util::stream::iter(0..count).map(call).buffer_unordered(AT_ONCE).count().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_leave_asterisk_empty_and_the_gateway_as_small_as_it_was() {
    let count: usize = std::env::var("HARK_SOAK_CALLS").ok().and_then(|count| count.parse().ok()).unwrap_or(100);
    let (ari, data) = (free_port(), tempfile::tempdir().expect("a directory"));
    let (url, dir) = (format!("http://{ari}"), data.path().display().to_string());
    let env = [
        ("ARI_URL", url.as_str()),
        ("ARI_USERNAME", ARI_USER.0),
        ("ARI_PASSWORD", ARI_USER.1),
        ("HARK_DATA_DIR", &dir),
        // what is known about a call is remembered for ten minutes on purpose: that is no growth
        ("HARK__HTTP__ANNOUNCEMENT_TTL_S", "10"),
    ];
    let hark = Process::with(None, &env).await;
    let lab = Lab::with_ari(hark.gateway(), ari).await;
    lab.logged("Creating Stasis app 'hark'").await;
    calls(&lab, count / 5).await;
    empty(&lab).await;
    let before = resident_kb(hark.id());
    calls(&lab, count - count / 5).await;
    empty(&lab).await;
    let after = resident_kb(hark.id());
    let metrics = ended(hark.gateway().http.expect("HTTP is on")).await;
    for line in [
        format!("hark_ari_calls_total {count}"),
        "hark_ari_calls_failed_total 0".to_owned(),
        "hark_calls_active 0".to_owned(),
    ] {
        assert!(metrics.lines().any(|shown| shown == line), "{line} is not in {metrics}");
    }
    println!("{count} calls: {before} kB resident after {}, {after} kB after all", count / 5);
    let told: Vec<_> = metrics.lines().filter(|line| line.starts_with("hark_ari_setup_seconds")).collect();
    println!("{}", told.join("\n"));
    assert!(after < before + GROWTH_KB, "{after} kB where it was {before}");
    hark.kill().await;
    lab.stop().await;
}

/// Calls of which each lives until the last has come, 20 a second; for each the ms from `INVITE` to the answer, and to the first word.
async fn at_once(lab: &Lab, count: usize) -> Vec<(u128, u128)> {
    let (begun, all) = (Instant::now(), tokio::sync::Barrier::new(count));
    let call = async |n: usize| {
        sleep_until(begun + EVERY * u32::try_from(n).expect("not so many")).await;
        let since = Instant::now();
        let call = Call::dial(lab.sip(), "5011", Codec::Ulaw).await;
        let call = call.unwrap_or_else(|code| panic!("call {n} is refused with {code}\n{}", lab.log()));
        let answered = since.elapsed().as_millis();
        greeted(lab, &call, 1).await;
        let greeted = since.elapsed().as_millis();
        all.wait().await;
        call.hang_up().await;
        (answered, greeted)
    };
    futures_util::future::join_all((0..count).map(call)).await
}

fn shown(what: &str, mut ms: Vec<u128>) -> String {
    ms.sort_unstable();
    let at = |share: usize| ms[(ms.len() * share / 100).min(ms.len() - 1)];
    format!("{what}: p50 {} ms, p95 {} ms, slowest {} ms", at(50), at(95), at(100))
}

async fn many_at_once(media: &str) {
    let count: usize = std::env::var("HARK_SOAK_AT_ONCE").ok().and_then(|count| count.parse().ok()).unwrap_or(10);
    let (ari, data) = (free_port(), tempfile::tempdir().expect("a directory"));
    let (url, dir) = (format!("http://{ari}"), data.path().display().to_string());
    let env = [
        ("ARI_URL", url.as_str()),
        ("ARI_USERNAME", ARI_USER.0),
        ("ARI_PASSWORD", ARI_USER.1),
        ("HARK__ARI__MEDIA", media),
        ("HARK_DATA_DIR", &dir),
    ];
    let hark = Process::with(None, &env).await;
    let lab = Lab::with_ari(hark.gateway(), ari).await;
    lab.logged("Creating Stasis app 'hark'").await;
    let took = at_once(&lab, count).await;
    empty(&lab).await;
    let metrics = ended(hark.gateway().http.expect("HTTP is on")).await;
    assert!(metrics.lines().any(|line| line == "hark_ari_calls_failed_total 0"), "set-ups failed: {metrics}");
    println!("{count} calls at once by {media}, 20 a second, phones, Asterisk and Hark on this machine");
    println!("{}", shown("INVITE to answer", took.iter().map(|(answered, _)| *answered).collect()));
    println!("{}", shown("INVITE to the first word", took.iter().map(|(_, greeted)| *greeted).collect()));
    for line in metrics.lines().filter(|line| line.starts_with("hark_ari_setup_seconds")) {
        println!("{line}");
    }
    hark.kill().await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_by_audiosocket() {
    many_at_once("audiosocket").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_by_rtp() {
    many_at_once("rtp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_by_chan_websocket() {
    many_at_once("websocket").await;
}
