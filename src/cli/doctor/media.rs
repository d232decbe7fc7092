//! The way back: whether Asterisk's audio reaches Hark. Asterisk is asked to open an AudioSocket, to our own listener or, where a gateway
//! runs, to that one with a UUID that it knows and hangs up on ([`PROBE`]): no call begins, nobody hears anything. By RTP two channels of Asterisk's
//! are bridged for a moment, with nobody else in them; a channel of chan_websocket is connected to, and let go.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::time::timeout;
use uuid::Uuid;

use super::{Advice, Check, Gateway, STEP, pbx::Patient};
use crate::asterisk::{
    ari::{
        Error, ExternalMedia, Media,
        probe::{self, NotTried, Ways},
    },
    audiosocket::PROBE,
    rtp::Sockets,
    websocket,
};

/// The application of the channel that is made. Nobody has it, so the channel ends by itself even where we cannot end it.
pub(super) const APP: &str = "hark-doctor";

/// Tries it. `unable`: Asterisk lacks the module for it.
pub(super) async fn examine(patient: &Patient<'_>, unable: bool) -> Check {
    let (name, context) = (patient.part("audio"), patient.context);
    match patient.pbx.media {
        Media::WebSocket => return fetched(name, patient).await,
        Media::Rtp => return packets(name, patient).await,
        Media::AudioSocket => {}
    }
    if unable {
        return Check::skipped(name, "without chan_audiosocket.so Asterisk cannot connect: see its modules");
    }
    let listen = context.ear.as_ref().map_or(context.config.audiosocket.listen, |ear| ear.addr);
    let uuid = match (&context.ear, context.gateway) {
        (Some(_), _) => Uuid::new_v4(),
        (None, Gateway::Running) => PROBE,
        (None, _) => {
            let found = "the AudioSocket port is neither free nor known to be a gateway's: nothing is sent to it";
            return Check::skipped(name, found);
        }
    };
    let host = patient.pbx.media_at(listen, patient.local);
    let (id, text) = (format!("hark-doctor-{}", Uuid::new_v4().simple()), uuid.to_string());
    let format = patient.pbx.format.as_str();
    let made = patient.rest.external_media(ExternalMedia { id: &id, app: APP, host: &host, format, uuid: &text }).await;
    let heard = match (&context.ear, &made) {
        // one that Asterisk has given up may have come all the same
        (Some(ear), Ok(_) | Err(Error::Server { .. } | Error::Timeout { .. })) => {
            ear.hears(uuid, if made.is_ok() { STEP } else { STEP / 10 }).await
        }
        _ => None,
    };
    if made.is_ok() || matches!(made, Err(Error::Timeout { .. })) {
        // it has ended by itself already, or ends so
        let _ = patient.rest.hang_up(&id, None).await;
    }
    match (made, heard) {
        (_, Some(peer)) => came(name, patient, &host, peer),
        (Ok(_), None) if context.ear.is_none() => {
            Check::ok(name, format!("Asterisk connects to {host}, where the running gateway listens"))
        }
        (Ok(_), None) => {
            let found = format!("Asterisk has connected to {host}, but not to this machine: something else is there");
            Check::fail(name, found).advise(media_host(patient, listen))
        }
        (Err(error @ (Error::Forbidden { .. } | Error::NotFound { .. } | Error::BadRequest { .. })), None) => {
            let advice = Advice::new("see the rights and modules above")
                .asterisk("module load res_ari_channels.so")
                .asterisk("module load chan_audiosocket.so");
            Check::fail(name, error.to_string()).advise(advice)
        }
        (Err(error), None) => failed(name, patient, &host, listen, &error),
    }
}

/// Hark connects to a channel of chan_websocket, which nobody hears.
async fn fetched(name: String, patient: &Patient<'_>) -> Check {
    let id = format!("hark-doctor-{}", Uuid::new_v4().simple());
    let made = patient.rest.external_websocket(&id, APP, patient.pbx.format.as_str()).await;
    let check = match made {
        Ok(channel) => {
            let told = channel.channelvars.get("MEDIA_WEBSOCKET_CONNECTION_ID").and_then(serde_json::Value::as_str);
            match told.zip(patient.rest.endpoint()) {
                Some((connection, endpoint)) => {
                    let config = Arc::new(patient.context.config.websocket.clone());
                    let url = endpoint.media(connection);
                    let dial = websocket::Dial { uuid: Uuid::new_v4(), url, config, stats: Arc::default() };
                    // let go again at once: the channel ends with it
                    match timeout(STEP, dial.connect()).await {
                        Ok(Ok(_)) => Check::ok(name, "Hark connects to Asterisk's channels (media = \"websocket\")"),
                        Ok(Err(error)) => Check::fail(name, error.to_string()).advise(loaded()),
                        Err(_) => Check::fail(name, "Asterisk's channel does not answer").advise(loaded()),
                    }
                }
                None => Check::fail(name, "Asterisk does not say where its channel waits").advise(loaded()),
            }
        }
        Err(error) => {
            return Check::fail(name, format!("Asterisk makes no WebSocket channel: {error}")).advise(loaded());
        }
    };
    // it has ended by itself already, or ends so
    let _ = patient.rest.hang_up(&id, None).await;
    check
}

fn loaded() -> Advice {
    Advice::new("see the modules above")
        .asterisk("module load res_http_websocket.so")
        .asterisk("module load chan_websocket.so")
}

/// Packets go into one channel of chan_rtp and come out of another.
async fn packets(name: String, patient: &Patient<'_>) -> Check {
    let (config, pbx) = (&patient.context.config.rtp, patient.pbx);
    let sockets = Sockets::new(config, Arc::default());
    let tried = probe::rtp(&patient.rest, pbx, &sockets, (patient.local, Arc::clone(&patient.context.tls))).await;
    let listen = |text: String| {
        let bind = "bind = \"0.0.0.0\"      ; or the address that the PBX reaches";
        let host =
            format!("advertise = \"{}\"", patient.local.map_or_else(|| "ADDRESS".to_owned(), |ip| ip.to_string()));
        let lines = ["[rtp]", bind, &host, "ports = \"20000-20999\""];
        Advice::new(text).paste("hark.toml", lines).asterisk("rtp set debug on")
    };
    match tried {
        Ok((Ways::Both(from), host)) => Check::ok(name, format!("RTP goes both ways: to {host}, and from {from}")),
        Ok((Ways::FromAsterisk(from, to), _)) => {
            let advice =
                listen(format!("let UDP to {to} (rtpstart to rtpend of Asterisk's rtp.conf) through firewalls"));
            Check::fail(name, format!("Asterisk's packets come from {from}, but ours to {to} do not arrive"))
                .advise(advice)
        }
        Ok((Ways::None, host)) => {
            let advice =
                listen("say where Asterisk reaches this machine, and let those UDP ports through firewalls".to_owned());
            Check::fail(name, format!("none of the packets that Asterisk sends to {host} arrives")).advise(advice)
        }
        Err(NotTried::Port(error)) => {
            Check::fail(name, error.to_string()).advise(listen("choose other ports".to_owned()))
        }
        Err(error) => {
            let advice = Advice::new("see the modules above")
                .asterisk("module load res_rtp_multicast.so")
                .asterisk("module load chan_rtp.so");
            Check::fail(name, format!("RTP cannot be tried: {error}")).advise(advice)
        }
    }
}

fn came(name: String, patient: &Patient<'_>, host: &str, peer: SocketAddr) -> Check {
    let allow = &patient.context.config.audiosocket.allow;
    let ip = peer.ip().to_canonical();
    if allow.is_empty() || allow.iter().any(|network| network.contains(&ip)) {
        return Check::ok(name, format!("Asterisk connects to {host} and comes from {ip}"));
    }
    let all: Vec<_> = allow
        .iter()
        .map(ToString::to_string)
        .chain([format!("{ip}/{}", width(ip))])
        .map(|net| format!("{net:?}"))
        .collect();
    let advice =
        Advice::new("allow it").paste("hark.toml", ["[audiosocket]", &format!("allow = [{}]", all.join(", "))]);
    Check::fail(name, format!("Asterisk comes from {ip}, which audiosocket.allow does not hold")).advise(advice)
}

fn failed(name: String, patient: &Patient<'_>, host: &str, listen: SocketAddr, error: &Error) -> Check {
    let elsewhere = patient.peer.is_some_and(|peer| !is_here(peer, patient.local));
    let found = match error {
        Error::Server { .. } => format!("Asterisk cannot connect to {host}"),
        other => format!("Asterisk does not connect to {host}: {other}"),
    };
    let advice = if listen.ip().is_loopback() && elsewhere && patient.pbx.media_host.is_none() {
        let peer = patient.peer.map(|ip| format!("allow = [\"{ip}/{}\"]", width(ip))).unwrap_or_default();
        let listen = format!("listen = \"0.0.0.0:{}\"", listen.port());
        Advice::new(format!(
            "{host} is this machine's own loopback, and Asterisk is elsewhere: listen where it can come"
        ))
        .paste("hark.toml", ["[audiosocket]", &listen, &peer])
    } else {
        media_host(patient, listen)
    };
    Check::fail(name, found).advise(advice)
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn is_here(peer: IpAddr, local: Option<IpAddr>) -> bool {
    peer.is_loopback() || Some(peer) == local
}

fn media_host(patient: &Patient<'_>, listen: SocketAddr) -> Advice {
    let ours = patient.local.filter(|_| !listen.ip().is_loopback()).unwrap_or(listen.ip());
    let port = listen.port();
    Advice::new("say where Asterisk reaches this machine, and let the port through firewalls between the two")
        .paste("hark.toml", [patient.section.clone(), format!("media_host = \"{}\"", SocketAddr::new(ours, port))])
        .run(format!("nc -vz {ours} {port}      # on the PBX"))
        .asterisk("module show like audiosocket")
}
