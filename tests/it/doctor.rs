//! `hark doctor` and each fault that it knows, with the advice that stands below it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use hark::{
    asterisk::audiosocket::wire,
    cli::doctor::{Check, Report, Status, examine},
    config::Config,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::support::{
    gateway::Gateway,
    sts_server::{Mode, StsServer},
};

const PASSWORD: &str = "hunter2";
const MODULES: &[&str] = &[
    "res_http_websocket",
    "res_stasis",
    "app_stasis",
    "res_stasis_answer",
    "res_stasis_playback",
    "res_stasis_recording",
    "res_ari",
    "res_ari_applications",
    "res_ari_asterisk",
    "res_ari_bridges",
    "res_ari_channels",
    "res_ari_events",
    "res_ari_playbacks",
    "res_ari_recordings",
    "res_audiosocket",
    "chan_audiosocket",
    "app_audiosocket",
    "bridge_simple",
    "bridge_softmix",
    "res_pjsip_refer",
    "codec_ulaw",
    "codec_alaw",
    "codec_resample",
    "codec_g722",
    "codec_opus",
];

/// What is wrong with an Asterisk.
#[derive(Clone)]
struct Ills {
    version: &'static str,
    without: &'static [&'static str],
    /// Answers with this status, to requests that begin so.
    status: Option<(&'static str, u16)>,
    has_app: bool,
    /// How far its clock is ahead, in s.
    ahead: u64,
    /// Where it connects to instead of where it is told to.
    astray: Option<SocketAddr>,
}

impl Default for Ills {
    fn default() -> Self {
        Self { version: "22.10.1", without: &[], status: None, has_app: false, ahead: 0, astray: None }
    }
}

#[derive(Clone)]
struct Pbx {
    ills: Arc<Ills>,
    asked: Arc<Mutex<Vec<String>>>,
}

/// An Asterisk with these ills: its address, and what it was asked.
async fn pbx(ills: Ills) -> (SocketAddr, Arc<Mutex<Vec<String>>>, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, asked) = (listener.local_addr().unwrap(), Arc::default());
    let state = Pbx { ills: Arc::new(ills), asked: Arc::clone(&asked) };
    let router = Router::new().fallback(answer).with_state(state);
    let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (addr, asked, AbortOnDropHandle::new(task))
}

async fn answer(
    State(pbx): State<Pbx>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let what = format!("{method} {}", uri.path().trim_start_matches("/ari/"));
    pbx.asked.lock().unwrap().push(what.clone());
    let (status, body) = match pbx.ills.status {
        Some((begin, status)) if what.starts_with(begin) => (status, json!({"message": "no\u{1b}[31m"})),
        _ if !headers.contains_key(header::AUTHORIZATION) => (401, json!({"message": "Authentication required"})),
        _ => known(&pbx.ills, &what, &query).await,
    };
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(pbx.ills.ahead));
    (StatusCode::from_u16(status).unwrap(), [(header::DATE, date)], Json(body)).into_response()
}

async fn known(ills: &Ills, what: &str, query: &HashMap<String, String>) -> (u16, Value) {
    match what {
        "GET asterisk/info" => (200, json!({"system": {"version": ills.version}})),
        "GET asterisk/modules" => {
            let modules = MODULES.iter().map(|name| {
                let status = if ills.without.contains(name) { "Not Running" } else { "Running" };
                json!({"name": format!("{name}.so"), "status": status})
            });
            (200, modules.collect())
        }
        "GET applications/hark" if ills.has_app => (200, json!({"name": "hark"})),
        "GET endpoints/PJSIP/trunk" => (200, json!({"technology": "PJSIP", "resource": "trunk"})),
        "POST channels/externalMedia" => {
            let host = ills.astray.map_or_else(|| query["external_host"].clone(), |host| host.to_string());
            let Ok(mut stream) = TcpStream::connect(host).await else { return (500, Value::Null) };
            let mut bytes = Vec::new();
            wire::put_uuid(&mut bytes, Uuid::parse_str(&query["data"]).unwrap());
            stream.write_all(&bytes).await.unwrap();
            tokio::spawn(async move { stream.read_to_end(&mut Vec::new()).await });
            (200, json!({"id": query["channelId"]}))
        }
        _ => (404, json!({"message": "not found"})),
    }
}

struct Ward {
    config: Config,
    _data: tempfile::TempDir,
}

/// A configuration with this PBX, ports that are free, a directory of its own and a voice.
fn ward(pbx: Option<SocketAddr>) -> Ward {
    let data = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.audiosocket.listen = "127.0.0.1:0".parse().unwrap();
    config.http.listen = "127.0.0.1:0".parse().unwrap();
    config.data_dir = data.path().to_owned();
    // any program that is there
    config.agent.flite = "/bin/sh".to_owned();
    config.ari.url = pbx.map(|addr| format!("http://{addr}"));
    config.ari.password = PASSWORD.to_owned();
    Ward { config, _data: data }
}

async fn with(ills: Ills, change: impl FnOnce(&mut Config)) -> Report {
    let (addr, _, _pbx) = pbx(ills).await;
    let mut ward = ward(Some(addr));
    change(&mut ward.config);
    let report = examine(&ward.config).await;
    for shown in [report.to_string(), report.json()] {
        assert!(!shown.contains(PASSWORD) && !shown.contains('\u{1b}'), "{shown}");
    }
    report
}

#[track_caller]
fn the<'a>(report: &'a Report, name: &str, status: Status) -> &'a Check {
    let check = report.checks.iter().find(|check| check.name == name && check.status == status);
    check.unwrap_or_else(|| panic!("{name} is not {status:?} in\n{report}"))
}

/// Everything that is advised below a check.
fn advised(check: &Check) -> String {
    check.advice.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_healthy_pbx_is_found_to_be_so_and_nothing_is_left_or_shown() {
    let (addr, asked, _pbx) = pbx(Ills::default()).await;
    let mut ward = ward(Some(addr));
    ward.config.outbound.dial.insert("default".to_owned(), "PJSIP/{to}@trunk".to_owned());
    let report = examine(&ward.config).await;
    assert!(report.is_ok(), "{report}");
    assert!(
        report.checks.iter().all(|check| check.status != Status::Warn || check.name == "data directory"),
        "{report}"
    );
    for name in [
        "asterisk",
        "asterisk: version",
        "asterisk: modules",
        "asterisk: rights",
        "asterisk: application",
        "asterisk: clock",
    ] {
        the(&report, name, Status::Ok);
    }
    assert!(the(&report, "asterisk: audio", Status::Ok).found.contains("comes from 127.0.0.1"), "{report}");
    assert!(the(&report, "asterisk: outbound.dial.default", Status::Ok).found.contains("PJSIP/trunk"));
    let asked = asked.lock().unwrap();
    assert!(asked.iter().any(|what| what.starts_with("DELETE channels/hark-doctor-")), "{asked:?}");
    assert_eq!(std::fs::read_dir(&ward.config.data_dir).unwrap().count(), 0, "a file is left");
}

#[tokio::test]
async fn each_refusal_has_its_lines() {
    for (ills, check, lines) in [
        (("GET asterisk/info", 401), "asterisk", &["[hark]", "type = user", "password = …", "ari show users"][..]),
        (("GET asterisk/info", 404), "asterisk", &["/etc/asterisk/ari.conf", "enabled = yes"]),
        (("GET asterisk/info", 503), "asterisk", &["log"]),
        (("POST applications", 403), "asterisk: rights", &["[hark]", "read_only = no", "module reload res_ari.so"]),
        (("POST channels", 500), "asterisk: audio", &["[ari]", "media_host = \"127.0.0.1:", "nc -vz 127.0.0.1"]),
        (("POST channels", 404), "asterisk: audio", &["module load res_ari_channels.so"]),
    ] {
        let report = with(Ills { status: Some(ills), ..Ills::default() }, |_| {}).await;
        let text = advised(the(&report, check, Status::Fail));
        for line in lines {
            assert!(text.contains(line), "{ills:?}: {line} in\n{report}");
        }
    }
    let report = with(Ills { status: Some(("GET asterisk/modules", 404)), ..Ills::default() }, |_| {}).await;
    the(&report, "asterisk: modules", Status::Warn);
}

#[tokio::test]
async fn what_asterisk_is_and_has_is_looked_at() {
    let ills = Ills { without: &["chan_audiosocket", "res_pjsip_refer", "codec_g722"], ..Ills::default() };
    let report = with(ills, |_| {}).await;
    assert!(
        advised(the(&report, "asterisk: modules", Status::Fail)).contains("            load = chan_audiosocket.so\n")
    );
    assert!(advised(the(&report, "asterisk: modules", Status::Warn)).contains("load = res_pjsip_refer.so"));
    assert!(advised(the(&report, "asterisk: codecs", Status::Warn)).contains("allow = ulaw,alaw"));

    let report = with(Ills { version: "16.2.0", ahead: 60, has_app: true, ..Ills::default() }, |_| {}).await;
    the(&report, "asterisk: version", Status::Fail);
    let clock = the(&report, "asterisk: clock", Status::Warn);
    assert!(clock.found.contains("by 59 s") || clock.found.contains("by 60 s"), "{clock:?}");
    let app = the(&report, "asterisk: application", Status::Warn);
    assert!(advised(app).contains("app = \"hark-2\""), "{app:?}");

    let report = with(Ills::default(), |config| config.audiosocket.allow = vec!["192.0.2.0/24".parse().unwrap()]).await;
    let audio = the(&report, "asterisk: audio", Status::Fail);
    assert!(advised(audio).contains("allow = [\"192.0.2.0/24\", \"127.0.0.1/32\"]"), "{audio:?}");
}

#[tokio::test]
async fn audio_that_goes_astray_is_told_from_audio_that_does_not_come() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let astray = elsewhere.local_addr().unwrap();
    let report = with(Ills { astray: Some(astray), ..Ills::default() }, |_| {}).await;
    assert!(the(&report, "asterisk: audio", Status::Fail).found.contains("something else is there"), "{report}");
    drop(elsewhere);
    let report = with(Ills { astray: Some(astray), ..Ills::default() }, |_| {}).await;
    assert!(the(&report, "asterisk: audio", Status::Fail).found.contains("cannot connect to 127.0.0.1:"), "{report}");
}

#[tokio::test]
async fn a_wrong_port_and_a_silent_peer_are_told_apart() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let report = examine(&ward(Some(free)).config).await;
    let text = advised(the(&report, "asterisk", Status::Fail));
    for line in
        ["/etc/asterisk/http.conf", "enabled = yes", "bindaddr = 127.0.0.1", &format!("bindport = {}", free.port())]
    {
        assert!(text.contains(line), "{line} in\n{report}");
    }
    the(&report, "asterisk: the rest", Status::Skipped);

    // AMI, which speaks first
    let ami = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = ami.local_addr().unwrap();
    let _task = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut stream, _)) = ami.accept().await {
            let _ = stream.write_all(b"Asterisk Call Manager/11.0.0\r\nResponse: Error\r\n\r\n").await;
        }
    }));
    let report = examine(&ward(Some(addr)).config).await;
    assert!(advised(the(&report, "asterisk", Status::Fail)).contains("5038 is AMI"), "{report}");
}

#[tokio::test]
async fn with_nobody_answering_it_is_over_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = silent.local_addr().unwrap();
    let mut ward = ward(Some(addr));
    let config = &mut ward.config;
    config.agent.sts_url = Some(format!("ws://user:{PASSWORD}@{addr}/"));
    config.webhooks.url = Some(format!("http://{addr}/events"));
    config.database.url = Some(format!("postgres://hark:{PASSWORD}@{addr}/hark"));
    config.http.listen = addr;
    (config.ami.host, config.ami.port, config.ami.password) =
        (Some("127.0.0.1".to_owned()), addr.port(), PASSWORD.to_owned());
    let since = Instant::now();
    let report = examine(config).await;
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    for name in ["asterisk", "service sts", "webhook default", "database", "ami", "http port"] {
        the(&report, name, Status::Fail);
    }
    assert!(advised(the(&report, "asterisk", Status::Fail)).contains("says nothing"), "{report}");
    assert!(!report.to_string().contains(PASSWORD), "{report}");
}

#[tokio::test]
async fn services_and_receivers_are_reached_without_being_used() {
    let service = StsServer::start(Mode::Echo).await;
    let (receiver, asked, _receiver) = pbx(Ills { status: Some(("", 405)), ..Ills::default() }).await;
    let mut ward = ward(None);
    ward.config.agent.sts_url = Some(service.url().to_string());
    ward.config.webhooks.url = Some(format!("http://{receiver}/events"));
    let report = examine(&ward.config).await;
    assert!(report.is_ok(), "{report}");
    the(&report, "service sts", Status::Ok);
    assert!(
        the(&report, "webhook default", Status::Ok).found.contains("hark webhooks secret show default"),
        "{report}"
    );
    assert_eq!(*asked.lock().unwrap(), ["OPTIONS /events"]);
    assert!(advised(the(&report, "asterisk", Status::Skipped)).contains("hark call"), "{report}");

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    ward.config.agent.sts_url = Some(format!("ws://{free}/"));
    ward.config.webhooks.url = Some(format!("http://{free}/"));
    let report = examine(&ward.config).await;
    assert!(advised(the(&report, "service sts", Status::Fail)).contains("sts_url = \"ws://HOST:6030\""), "{report}");
    assert!(advised(the(&report, "webhook default", Status::Fail)).contains("[webhooks]"), "{report}");
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_to_and_a_voice_that_is_missing() {
    let mut ward = ward(None);
    let file = ward.config.data_dir.join("file");
    std::fs::write(&file, "").unwrap();
    ward.config.agent.flite = "no-such-program".to_owned();
    ward.config.data_dir.push("new/one");
    let report = examine(&ward.config).await;
    assert!(report.get("data directory").unwrap().found.contains("does not exist yet"), "{report}");
    assert!(advised(the(&report, "embedded agent", Status::Fail)).contains("apt-get install flite"));
    ward.config.data_dir = "/proc/self/hark".into();
    let report = examine(&ward.config).await;
    assert!(advised(the(&report, "data directory", Status::Fail)).contains("mkdir -p"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_running_gateway_its_word_counts_and_no_call_begins() {
    let service = StsServer::start(Mode::Echo).await;
    let hark = Gateway::start(&service.url()).await;
    let (addr, _, _pbx) = pbx(Ills::default()).await;
    let mut ward = ward(Some(addr));
    (ward.config.audiosocket.listen, ward.config.http.listen) = (hark.audiosocket, hark.http);
    let report = examine(&ward.config).await;
    assert!(the(&report, "http port", Status::Ok).found.contains("is ready"), "{report}");
    the(&report, "audiosocket port", Status::Ok);
    assert!(the(&report, "asterisk: audio", Status::Ok).found.contains("the running gateway listens"), "{report}");
    // it is not connected to this Asterisk
    the(&report, "asterisk: application", Status::Fail);
    assert_eq!(hark.metric("hark_calls_active").await, 0);
    assert_eq!(hark.metric("hark_calls_total").await, 0);
}

/// An AMI that lets the user in and permits these actions.
async fn ami(permitted: &'static str) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let _ = stream.get_mut().write_all(b"Asterisk Call Manager/11.0.0\r\n").await;
            let mut line = String::new();
            while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                let answer = match line.trim() {
                    "Action: Login" => "Response: Success\r\nMessage: Authentication accepted\r\n\r\n",
                    "Action: ListCommands" => permitted,
                    _ => "",
                };
                let _ = stream.get_mut().write_all(answer.as_bytes()).await;
                line.clear();
            }
        }
    });
    (addr, AbortOnDropHandle::new(task))
}

#[tokio::test]
async fn rights_of_the_manager_are_those_that_orders_need() {
    for (permitted, status) in [
        (
            "Response: Success\r\nCoreShowChannels: x\r\nGetvar: x\r\nHangup: x\r\nOriginate: x\r\nRedirect: x\r\n\r\n",
            Status::Ok,
        ),
        ("Response: Success\r\nCoreShowChannels: x\r\nGetvar: x\r\nHangup: x\r\nPing: x\r\n\r\n", Status::Fail),
        ("Response: Error\r\nMessage: Permission denied\r\n\r\n", Status::Fail),
    ] {
        let (addr, _ami) = ami(permitted).await;
        let mut ward = ward(None);
        (ward.config.ami.host, ward.config.ami.port) = (Some("127.0.0.1".to_owned()), addr.port());
        ward.config.ami.password = PASSWORD.to_owned();
        let report = examine(&ward.config).await;
        let check = the(&report, "ami", status);
        assert_eq!(advised(check).contains("write = call,reporting,originate"), status == Status::Fail, "{report}");
        assert!(!report.json().contains(PASSWORD));
    }
}
