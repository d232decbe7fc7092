//! The way back by chan_websocket: whether Asterisk finds Hark by the entry `[hark]` of websocket_client.conf, and with the right password.
//! It is let come to a listener of our own, and turned away.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{Advice, Check, Gateway, STEP, media::APP, pbx::Patient};
use crate::asterisk::{ari::ExternalMedia, websocket};

/// The entry, as asterisk-conf has it.
const ENTRY: &str = "hark";
const FILE: &str = "/etc/asterisk/websocket_client.conf";
/// The longest head of a request.
const MAX_HEAD: usize = 8 << 10;
/// Connections at once.
const AT_ONCE: usize = 16;
/// Heads that are remembered.
const REMEMBERED: usize = 256;
const PATIENCE: Duration = Duration::from_secs(2);

/// A listener that turns everybody away, and keeps the heads of their requests; gone when dropped.
#[derive(Debug)]
pub(super) struct Door {
    heads: watch::Receiver<Vec<String>>,
    task: AbortOnDropHandle<()>,
}

impl Door {
    pub fn new(listener: TcpListener) -> Self {
        let (sender, heads) = watch::channel(Vec::new());
        Self { heads, task: AbortOnDropHandle::new(tokio::spawn(accept(listener, Arc::new(sender)))) }
    }

    /// Gives the port back: when this returns somebody else can have it.
    pub async fn close(self) {
        self.task.abort();
        // that it was aborted
        let _ = self.task.await;
    }

    /// The head that holds `text`.
    pub async fn heard(&self, text: &str, limit: Duration) -> Option<String> {
        let mut heads = self.heads.clone();
        let there = |heads: &Vec<String>| heads.iter().any(|head| head.contains(text));
        let heads = timeout(limit, heads.wait_for(there)).await.ok()?.ok()?;
        heads.iter().find(|head| head.contains(text)).cloned()
    }
}

async fn accept(listener: TcpListener, heads: Arc<watch::Sender<Vec<String>>>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    // the semaphore is never closed
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let heads = Arc::clone(&heads);
        tokio::spawn(async move {
            let _place = place;
            // whoever is slow is gone
            let _ = timeout(PATIENCE, turn_away(stream, &heads)).await;
        });
    }
}

async fn turn_away(mut stream: TcpStream, heads: &watch::Sender<Vec<String>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    heads.send_if_modified(|heads| {
        let room = heads.len() < REMEMBERED;
        if room {
            heads.push(String::from_utf8_lossy(&head).into_owned());
        }
        room
    });
    stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await?;
    stream.shutdown().await
}

/// Tries it, where a listener is configured. `unable`: Asterisk lacks a module for it.
pub(super) async fn examine(patient: &Patient<'_>, unable: bool) -> Option<Check> {
    let (name, context) = (patient.part("websocket"), patient.context);
    let (settings, listen) = (&context.config.websocket, context.config.websocket.listen?);
    if unable {
        let found = "without chan_websocket.so and res_websocket_client.so Asterisk cannot connect: see its modules";
        return Some(Check::skipped(name, found));
    }
    let Some(door) = &context.door else {
        let found = match context.gateway {
            Gateway::Absent => "the WebSocket port is not free",
            _ => "not tried beside a gateway that runs: it would be a call. Dial 5021 of asterisk-conf/websocket",
        };
        return Some(Check::skipped(name, found));
    };
    let id = format!("hark-doctor-{}", Uuid::new_v4().simple());
    let media = ExternalMedia { id: &id, app: APP, host: ENTRY, format: "slin", uuid: "" };
    let mark = format!("doctor={id}");
    let (made, head) = tokio::join!(patient.rest.dialled_websocket(media, &mark), door.heard(&mark, STEP));
    // it was turned away, and is gone already
    let _ = patient.rest.hang_up(&id, None).await;
    let host = patient.pbx.media_at(listen, patient.local);
    let advice = entry(&host, settings);
    Some(match (head, made) {
        (Some(head), _) if lets_in(&head, settings) => {
            Check::ok(name, format!("Asterisk comes by [{ENTRY}] of websocket_client.conf, with the right password"))
        }
        (Some(_), _) => {
            let found =
                format!("Asterisk comes by [{ENTRY}], but with not the user or the password of websocket.username");
            Check::fail(name, found).advise(advice("make both the same"))
        }
        (None, made) => {
            let reason = made.err().map(|error| format!(" ({error})")).unwrap_or_default();
            let found = format!("Asterisk does not come to {listen} by [{ENTRY}] of websocket_client.conf{reason}");
            Check::fail(name, found).advise(advice("write the entry; let the port through firewalls between the two"))
        }
    })
}

fn entry(host: &str, settings: &websocket::Config) -> impl Fn(&str) -> Advice {
    let mut lines = vec![format!("[{ENTRY}]")];
    let fixed = ["type = websocket_client", "connection_type = per_call_config"];
    lines.extend(fixed.map(str::to_owned));
    lines.push(format!("uri = ws://{host}/media"));
    lines.push("protocols = media".to_owned());
    if let Some(user) = &settings.username {
        lines.push(format!("username = {user}"));
        lines.push("password = …      ; what websocket.password holds".to_owned());
    }
    let timing =
        ["connection_timeout = 5000", "reconnect_attempts = 2", "reconnect_interval = 200", "tls_enabled = no"];
    lines.extend(timing.map(str::to_owned));
    move |text| Advice::new(text).paste(FILE, &lines).asterisk("module reload res_websocket_client.so")
}

/// Whether a request with this head has the credentials that are configured.
fn lets_in(head: &str, settings: &websocket::Config) -> bool {
    let Some(user) = settings.username.as_deref().filter(|user| !user.is_empty()) else { return true };
    is_user(head, user, &settings.password)
}

/// Whether a request with this head has this user and password.
pub(super) fn is_user(head: &str, user: &str, password: &str) -> bool {
    let wanted = BASE64_STANDARD.encode(format!("{user}:{password}"));
    head.lines().filter_map(|line| line.split_once(':')).any(|(name, value)| {
        let basic = value.trim().split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
        name.eq_ignore_ascii_case("authorization") && basic.is_some_and(|(_, value)| value.trim() == wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_compared_as_the_listener_does() {
        let settings = websocket::Config {
            username: Some("hark".to_owned()),
            password: "change-me".to_owned(),
            ..websocket::Config::default()
        };
        let head = |value: &str| format!("GET /media HTTP/1.1\r\nHost: x\r\n{value}\r\n\r\n");
        let right = BASE64_STANDARD.encode("hark:change-me");
        assert!(lets_in(&head(&format!("authorization:  Basic {right}")), &settings));
        for wrong in [String::new(), "Authorization: Basic".to_owned(), format!("Authorization: Bearer {right}")] {
            assert!(!lets_in(&head(&wrong), &settings), "{wrong}");
        }
        assert!(lets_in(&head(""), &websocket::Config::default()), "nobody is asked");
        let told = entry("10.0.0.5:5002", &settings)("x").to_string();
        assert!(told.contains("uri = ws://10.0.0.5:5002/media") && !told.contains("change-me"), "{told}");
    }
}
