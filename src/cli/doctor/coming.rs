//! Asterisk's own connections (outbound ARI WebSockets): whether they come, to the right path, with the right password. They are let come to a listener
//! of our own, and turned away.

use std::time::Duration;

use super::{Advice, Check, Context, Gateway, socket};
use crate::asterisk::ari::{Connect, Pbx, server};

/// Asterisk tries again after `reconnect_interval`, which is half a second in asterisk-conf.
const PATIENCE: Duration = Duration::from_secs(4);

/// Looks at the connections of one PBX. `section`: its part of hark.toml.
pub(super) async fn examine(called: &str, name: &str, pbx: &Pbx, context: &Context<'_>) -> Check {
    let check = format!("{called}: connection");
    let Some(listen) = context.config.ari_server.listen else {
        return Check::fail(check, "ari_server.listen is not set: nobody listens for Asterisk");
    };
    let path = server::path(name);
    let advised = |check: Check, text: &str| {
        let [entry, user] = paste(text, pbx, &pbx.media_at(listen, None), &path);
        check.advise(entry).advise(user)
    };
    let Some(door) = &context.ari_door else {
        let found = match context.gateway {
            Gateway::Running => {
                format!("{listen} is the running gateway's: /ready says whether this PBX has connected")
            }
            _ => format!("not tried: {listen} is not free"),
        };
        return Check::skipped(check, found);
    };
    let head = door.heard(&format!("GET {path} "), PATIENCE).await;
    match head {
        Some(head) if !socket::is_user(&head, &pbx.username, &pbx.password) => {
            let found = format!("Asterisk comes to {listen}, but with not the user or the password of ari.username");
            advised(Check::fail(check, found), "make both the same")
        }
        Some(head) if !asks_for_ari(&head) => {
            let found = format!("Asterisk comes to {listen}, but its entry has no protocols = ari");
            advised(Check::fail(check, found), "write the entry so")
        }
        Some(_) => Check::ok(check, format!("Asterisk comes to {listen}, with the right password")),
        None if pbx.connect == Connect::PerCall => {
            let found =
                format!("Asterisk comes to {listen} with a call only: dial 5011 of asterisk-conf/ari to see it");
            advised(Check::skipped(check, found), "Asterisk's side is")
        }
        None => {
            let found = format!("Asterisk does not come to {listen}{path} within {} s", PATIENCE.as_secs());
            let text = "write both entries; let the port through firewalls between the two";
            advised(Check::fail(check, found), text)
        }
    }
}

fn asks_for_ari(head: &str) -> bool {
    let asked = head.lines().filter_map(|line| line.split_once(':'));
    let mut asked = asked.filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-protocol")).peekable();
    asked.peek().is_none() || asked.any(|(_, value)| value.split(',').any(|one| one.trim() == "ari"))
}

/// Asterisk's side.
fn paste(text: &str, pbx: &Pbx, host: &str, path: &str) -> [Advice; 2] {
    let kind = if pbx.connect == Connect::PerCall { "per_call_config" } else { "persistent" };
    let user = &pbx.username;
    let lines = [
        "[hark-ari]".to_owned(),
        "type = websocket_client".to_owned(),
        format!("connection_type = {kind}"),
        format!("uri = ws://{host}{path}"),
        "protocols = ari".to_owned(),
        format!("username = {user}"),
        "password = …      ; what ari.password (ARI_PASSWORD) holds".to_owned(),
        "connection_timeout = 2000".to_owned(),
        "reconnect_attempts = 2".to_owned(),
        "reconnect_interval = 500".to_owned(),
        "tls_enabled = no".to_owned(),
    ];
    let ari = [
        "[general]      ; without this section Asterisk connects and hangs up, again and again".to_owned(),
        "enabled = yes".to_owned(),
        format!("[{user}]"),
        "type = user".to_owned(),
        "read_only = no".to_owned(),
        "password = …".to_owned(),
        "[hark-outbound]".to_owned(),
        "type = outbound_websocket".to_owned(),
        "websocket_client_id = hark-ari".to_owned(),
        format!("apps = {}", pbx.app),
        format!("local_ari_user = {user}"),
    ];
    let entry = Advice::new(text)
        .paste("/etc/asterisk/websocket_client.conf", lines)
        .asterisk("module reload res_websocket_client.so");
    let user = Advice::new("and whom it tells of calls")
        .paste("/etc/asterisk/ari.conf", ari)
        .asterisk("module reload res_ari.so")
        .asterisk("ari show outbound-websockets");
    [entry, user]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_pasted_holds_no_secret_and_names_the_pbx() {
        let pbx = Pbx { password: "hunter2".to_owned(), connect: Connect::PerCall, ..Pbx::default() };
        let told = paste("write", &pbx, "10.0.0.5:5003", "/ari/branch").map(|advice| advice.to_string()).concat();
        for part in ["uri = ws://10.0.0.5:5003/ari/branch", "per_call_config", "[general]", "apps = hark"] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(!told.contains("hunter2"), "{told}");
    }

    #[test]
    fn the_subprotocol_is_found_where_it_is_asked_for() {
        assert!(asks_for_ari("GET /ari HTTP/1.1\r\nsec-websocket-protocol: media, ari\r\n"));
        assert!(asks_for_ari("GET /ari HTTP/1.1\r\n"));
        assert!(!asks_for_ari("GET /ari HTTP/1.1\r\nSec-WebSocket-Protocol: media\r\n"));
    }
}
