//! This machine: settings, ports, disk, database.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use serde_json::Value;
use sqlx::Connection as _;
use tokio::{net::TcpListener, time::timeout};
use uuid::Uuid;

use super::{Advice, Check, Door, Ear, STEP};
use crate::config::{Config, redacted_url};

/// Less than this is too little for a database that is written to.
const FREE_FAIL: u64 = 64 << 20;
/// Less than this will be too little soon.
const FREE_WARN: u64 = 1 << 30;
/// The longest answer of `/ready` that is read.
const MAX_READY: usize = 64 << 10;

/// Whether a gateway runs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gateway {
    /// No.
    Absent,
    /// Yes: its HTTP service has said so.
    Running,
    /// Somebody has the AudioSocket port, and cannot be asked.
    Unknown,
}

/// Where settings come from, and what about them is worth a look.
pub(super) fn settings(config: &Config) -> Vec<Check> {
    let set = config.settings.iter().filter(|setting| setting.origin.is_some()).count();
    let found = match set {
        0 => "nothing is set: defaults, and the embedded agent".to_owned(),
        set => format!("{set} set, without a fault; `hark check --no-probes` shows them with their origins"),
    };
    let notices = config.notices.iter().map(|notice| Check::warn("settings", notice));
    std::iter::once(Check::ok("settings", found)).chain(notices).collect()
}

/// The ports: free, or a running gateway's.
pub(super) async fn listeners(config: &Config, http: &reqwest::Client) -> (Vec<Check>, Gateway, Option<Ear>) {
    let (mut checks, mut gateway) = (Vec::new(), Gateway::Absent);
    if config.http.enabled {
        let listen = config.http.listen;
        checks.extend(match TcpListener::bind(listen).await {
            Ok(_) => vec![Check::ok("http port", format!("{listen} is free; no gateway runs here"))],
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => match ready(http, listen).await {
                Some(checks) => {
                    gateway = Gateway::Running;
                    checks
                }
                None => vec![taken("http port", "http.listen", listen)],
            },
            Err(error) => vec![unusable("http port", "http.listen", listen, &error)],
        });
    } else {
        checks.push(Check::skipped("http port", "the HTTP service is off (http.enabled)"));
    }
    let listen = config.audiosocket.listen;
    let (check, ear) = match TcpListener::bind(listen).await.and_then(Ear::new) {
        Ok(ear) if gateway == Gateway::Running => {
            ear.close().await;
            let advice = Advice::new("give the doctor the gateway's configuration (--config), or restart the gateway");
            let found = format!("the gateway that runs here does not listen on {listen}");
            (Check::fail("audiosocket port", found).advise(advice), None)
        }
        Ok(ear) => (Check::ok("audiosocket port", format!("{} is free", ear.addr)), Some(ear)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let check = match gateway {
                Gateway::Running => Check::ok("audiosocket port", format!("{listen}: the running gateway's")),
                _ if config.http.enabled => taken("audiosocket port", "audiosocket.listen", listen),
                _ => Check::warn("audiosocket port", format!("{listen} is taken, by a gateway or by something else"))
                    .advise(Advice::new("see who has it").run("ss -ltnp")),
            };
            gateway = if gateway == Gateway::Absent { Gateway::Unknown } else { gateway };
            (check, None)
        }
        Err(error) => (unusable("audiosocket port", "audiosocket.listen", listen, &error), None),
    };
    checks.push(check);
    (checks, gateway, ear)
}

/// The port of chan_websocket, where one is configured.
pub(super) async fn websocket(config: &Config, gateway: Gateway) -> Option<(Option<Door>, Check)> {
    Some(door("websocket port", "websocket.listen", config.websocket.listen?, gateway).await)
}

/// The port to which Asterisks connect, where one is configured.
pub(super) async fn ari(config: &Config, gateway: Gateway) -> Option<(Option<Door>, Check)> {
    Some(door("ari port", "ari_server.listen", config.ari_server.listen?, gateway).await)
}

async fn door(name: &'static str, key: &str, listen: SocketAddr, gateway: Gateway) -> (Option<Door>, Check) {
    match TcpListener::bind(listen).await {
        Ok(listener) => (Some(Door::new(listener)), Check::ok(name, format!("{listen} is free"))),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && gateway != Gateway::Absent => {
            (None, Check::ok(name, format!("{listen}: the running gateway's")))
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => (None, taken(name, key, listen)),
        Err(error) => (None, unusable(name, key, listen, &error)),
    }
}

fn taken(name: &str, key: &str, listen: SocketAddr) -> Check {
    let advice = Advice::new("stop who has it, or choose another port")
        .paste("hark.toml", setting(key, SocketAddr::new(listen.ip(), listen.port().saturating_add(10))))
        .run(format!("ss -ltnp 'sport = :{}'", listen.port()));
    Check::fail(name, format!("{listen} is taken, and not by a gateway that answers /ready")).advise(advice)
}

fn unusable(name: &str, key: &str, listen: SocketAddr, error: &io::Error) -> Check {
    let advice = match error.kind() {
        io::ErrorKind::AddrNotAvailable => {
            let any: IpAddr = match listen {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            Advice::new("this machine does not have that address; `ip address` shows those it has")
                .paste("hark.toml", setting(key, SocketAddr::new(any, listen.port())))
        }
        io::ErrorKind::PermissionDenied => Advice::new("ports up to 1023 are root's: choose a higher one")
            .paste("hark.toml", setting(key, SocketAddr::new(listen.ip(), 5001))),
        _ => Advice::new("choose another address").paste("hark.toml", setting(key, listen)),
    };
    Check::fail(name, format!("{listen} cannot be listened on: {error}")).advise(advice)
}

fn setting(key: &str, listen: SocketAddr) -> [String; 2] {
    let (section, name) = key.split_once('.').unwrap_or(("", key));
    [format!("[{section}]"), format!("{name} = \"{listen}\"")]
}

/// What the gateway at `listen` says of itself; `None`: it is none.
async fn ready(http: &reqwest::Client, listen: SocketAddr) -> Option<Vec<Check>> {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let url = format!("http://{}/ready", SocketAddr::new(ip, listen.port()));
    let mut answer = http.get(url).send().await.ok()?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.ok()? {
        if body.len() + chunk.len() > MAX_READY {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    let body: Value = serde_json::from_slice(&body).ok()?;
    match body.get("status")?.as_str()? {
        "ready" => Some(vec![Check::ok("http port", format!("{listen}: a gateway runs here and is ready"))]),
        "not ready" => {
            let reasons = body.get("reasons").and_then(Value::as_array).cloned().unwrap_or_default();
            let text = |reason: &Value, key: &str| reason.get(key).and_then(Value::as_str).map(str::to_owned);
            let reasons = reasons.iter().map(|reason| {
                let code = text(reason, "code").unwrap_or_default();
                let message = text(reason, "message").unwrap_or_default();
                Check::fail("running gateway", format!("not ready ({code}): {message}"))
                    .advise(Advice::new("the checks below say what to do; its log says since when"))
            });
            let runs = Check::warn("http port", format!("{listen}: a gateway runs here and is not ready"));
            Some(std::iter::once(runs).chain(reasons).collect())
        }
        _ => None,
    }
}

/// Whether the data directory can be written to, and how much room there is.
pub(super) async fn disk(config: &Config) -> Vec<Check> {
    let dir = config.data_dir.clone();
    if dir.as_os_str().is_empty() {
        return vec![Check::skipped("data directory", "there is none: events are kept in memory")];
    }
    // a disk can hang (NFS)
    let looked = timeout(STEP, tokio::task::spawn_blocking(move || look(&dir))).await;
    vec![match looked {
        Ok(Ok(check)) => check,
        Ok(Err(_)) => Check::fail("data directory", "it could not be looked at"),
        Err(_) => Check::fail("data directory", "the disk does not answer"),
    }]
}

fn look(dir: &Path) -> Check {
    let name = "data directory";
    // where it is missing the gateway makes it
    let exists = dir.is_dir();
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let there = absolute.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let probe = there.join(format!(".hark-doctor-{}", Uuid::new_v4().simple()));
    let written = fs::write(&probe, [0; 4_096]);
    let _ = fs::remove_file(&probe); // there is none where it could not be written
    let database = absolute.join("hark.db");
    let usable = || fs::OpenOptions::new().read(true).write(true).open(&database).map(drop);
    let written = written.and_then(|()| if database.exists() { usable() } else { Ok(()) });
    if let Err(error) = written {
        let advice = Advice::new("make it the gateway's own; here it is tried as the user who runs this")
            .run(format!("mkdir -p '{}'", absolute.display()))
            .run(format!("chown -R GATEWAYS-USER '{}'", absolute.display()));
        return Check::fail(name, format!("{} cannot be written to: {error}", absolute.display())).advise(advice);
    }
    let free = rustix::fs::statvfs(there).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    let made = if exists { "" } else { ", does not exist yet" };
    let found = match free {
        u64::MAX => format!("{} can be written to{made}", absolute.display()),
        free => format!("{} can be written to{made}, {} MB free", absolute.display(), free >> 20),
    };
    let advice = || {
        Advice::new("make room, or put it onto another disk")
            .paste("hark.toml", ["data_dir = \"/var/lib/hark\""])
            .run(format!("du -xh --max-depth=2 '{}' | sort -h | tail", there.display()))
    };
    match free {
        ..FREE_FAIL => Check::fail(name, found).advise(advice()),
        FREE_FAIL..FREE_WARN => Check::warn(name, found).advise(advice()),
        _ => Check::ok(name, found),
    }
}

/// Whether the PostgreSQL of `database.url` lets us in.
pub(super) async fn database(config: &Config) -> Vec<Check> {
    let name = "database";
    let Some(url) = config.database.url.as_deref().filter(|url| !url.is_empty()) else {
        return vec![Check::skipped(name, "hark.db in the data directory (no database.url)")];
    };
    let shown = redacted_url(url);
    let connected = timeout(STEP, async {
        let mut connection = sqlx::PgConnection::connect(url).await?;
        connection.ping().await?;
        connection.close().await
    });
    let reason = match connected.await {
        Ok(Ok(())) => return vec![Check::ok(name, format!("{shown} lets us in"))],
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", STEP.as_secs()),
    };
    let advice = Advice::new("compare host, user, password and database; pg_hba.conf has to let this machine in")
        .paste("hark.toml", ["[database]", "url = \"postgres://USER:PASSWORD@HOST:5432/hark\""])
        .run("psql 'postgres://USER@HOST:5432/hark' -c 'select 1'");
    vec![Check::fail(name, format!("{shown}: {reason}")).advise(advice)]
}
