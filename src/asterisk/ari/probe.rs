//! The way of RTP, tried without a call: two channels of Asterisk's and a bridge, for as long as it takes. What is sent into the one comes out of
//! the other where packets go both ways.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::ClientConfig;
use tokio::{
    net::UdpSocket,
    time::{interval, timeout},
};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use super::{
    Error, Rest,
    config::Pbx,
    rest::ExternalMedia,
    socket::Socket,
    wire::{Event, Kind},
};
use crate::{
    asterisk::rtp::{PortError, Sockets, Told, wire},
    audio::{AudioFormat, Encoding, Rate},
};

/// How long channels may take, and packets.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long channels may take to go.
const LEAVING: Duration = Duration::from_secs(1);
/// 20 ms.
const FRAME: Duration = Duration::from_millis(20);
const SAMPLES: u32 = 160;

/// How packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ways {
    /// There and back; they come from here.
    Both(SocketAddr),
    /// Asterisk's come, from here; ours, which go there, do not get to it.
    FromAsterisk(SocketAddr, SocketAddr),
    /// None of Asterisk's come.
    None,
}

/// Why it could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum NotTried {
    /// There is no port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The port cannot be used.
    #[error("a UDP port cannot be used: {0}")]
    Io(#[from] std::io::Error),
    /// Asterisk did not do what it has to.
    #[error(transparent)]
    Asterisk(#[from] Error),
    /// It does not say where its side is.
    #[error("Asterisk does not say where it takes RTP (UNICASTRTP_LOCAL_PORT)")]
    NotTold,
    /// Its channels did not come.
    #[error("Asterisk's channels did not come within {} s", PATIENCE.as_secs())]
    Late,
}

/// One of the two.
struct Side {
    id: String,
    socket: UdpSocket,
    /// Where Asterisk takes packets.
    asterisk: SocketAddr,
}

/// Tries RTP between this machine and a PBX. Where Asterisk is to send to is decided as for calls; `local` is our address on the way to it. Returns
/// where it was told to send to, too.
///
/// # Errors
/// It could not be tried.
pub async fn rtp(
    rest: &Rest,
    pbx: &Pbx,
    sockets: &Sockets,
    (local, tls): (Option<IpAddr>, Arc<ClientConfig>),
) -> Result<(Ways, String), NotTried> {
    let stem = format!("hark-doctor-{}", Uuid::new_v4().simple());
    // an application of our own, which is gone with its connection
    let mut events = Socket::connect(rest, &stem, Duration::from_secs(5), tls).await?;
    let ids = ["a", "b"].map(|part| format!("{stem}-{part}"));
    let bridge = format!("{stem}-bridge");
    let tried = try_it(rest, pbx, sockets, local, (&stem, &ids, &bridge), &mut events).await;
    for id in &ids {
        // it may not have been made
        let _ = rest.hang_up(id, None).await;
    }
    let _ = rest.destroy_bridge(&bridge).await;
    // an application that still has channels when its connection goes stays in Asterisk's list
    let _ = timeout(LEAVING, both_gone(&ids, &mut events)).await;
    events.close().await;
    tried
}

async fn try_it(
    rest: &Rest,
    pbx: &Pbx,
    sockets: &Sockets,
    local: Option<IpAddr>,
    (app, ids, bridge): (&str, &[String; 2], &str),
    events: &mut Socket,
) -> Result<(Ways, String), NotTried> {
    let (one, _) = side(rest, pbx, sockets, local, app, &ids[0]).await?;
    let (other, host) = side(rest, pbx, sockets, local, app, &ids[1]).await?;
    timeout(PATIENCE, both_there(ids, events)).await.map_err(|_| NotTried::Late)??;
    rest.create_bridge(bridge).await?;
    rest.add_to_bridge(bridge, &[&one.id, &other.id]).await?;
    if let Some(from) = heard(&one, &other).await {
        return Ok((Ways::Both(from), host));
    }
    // which of the two ways is it? A tone needs nothing of ours
    let playback = format!("{app}-tone");
    rest.remove_from_bridge(bridge, &[&other.id]).await?;
    rest.play(&other.id, "tone:ring", &playback).await?;
    let ways = match timeout(PATIENCE, packet(&other.socket)).await {
        Ok(from) => Ways::FromAsterisk(from, one.asterisk),
        Err(_) => Ways::None,
    };
    Ok((ways, host))
}

async fn side(
    rest: &Rest,
    pbx: &Pbx,
    sockets: &Sockets,
    local: Option<IpAddr>,
    app: &str,
    id: &str,
) -> Result<(Side, String), NotTried> {
    let opened = sockets.open()?;
    let host = sockets.advertised(&opened, pbx.media_name(), local);
    let media = ExternalMedia { id, app, host: &host, format: "ulaw", uuid: "" };
    let channel = rest.external_rtp(media).await?;
    let said = |name: &str| channel.channelvars.get(name).and_then(serde_json::Value::as_str);
    let told = Told::of(said("UNICASTRTP_LOCAL_ADDRESS"), said("UNICASTRTP_LOCAL_PORT"));
    let asterisk = told.0.ok_or(NotTried::NotTold)?;
    let socket = UdpSocket::from_std(opened.into_socket())?;
    Ok((Side { id: id.to_owned(), socket, asterisk }, host))
}

/// Waits until both channels are in the application.
async fn both_there(ids: &[String; 2], events: &mut Socket) -> Result<(), Error> {
    let mut there = [false; 2];
    while there != [true; 2] {
        let Message::Text(text) = events.next().await? else { continue };
        if let Ok(Event { kind: Kind::StasisStart { channel, .. }, .. }) = Event::parse(text.as_bytes()) {
            for (id, there) in ids.iter().zip(&mut there) {
                *there |= *id == channel.id;
            }
        }
    }
    Ok(())
}

/// Waits until neither channel is there.
async fn both_gone(ids: &[String; 2], events: &mut Socket) -> Result<(), Error> {
    let mut gone = [false; 2];
    while gone != [true; 2] {
        let Message::Text(text) = events.next().await? else { continue };
        if let Ok(Event { kind: Kind::ChannelDestroyed { channel, .. }, .. }) = Event::parse(text.as_bytes()) {
            for (id, gone) in ids.iter().zip(&mut gone) {
                *gone |= *id == channel;
            }
        }
    }
    Ok(())
}

/// Sends into the one until something comes out of the other, and from where.
async fn heard(one: &Side, other: &Side) -> Option<SocketAddr> {
    let format = AudioFormat { encoding: Encoding::Ulaw, rate: Rate::R8K };
    let payload_type = *wire::payload_types(format).first()?;
    let (mut tick, mut sequence) = (interval(FRAME), 0_u16);
    let send = async {
        loop {
            tick.tick().await;
            sequence = sequence.wrapping_add(1);
            let timestamp = u32::from(sequence) * SAMPLES;
            let payload = [0xff; SAMPLES as usize];
            let packet = wire::Packet {
                payload_type,
                sequence,
                timestamp,
                source: 0x6861_726b,
                marker: sequence == 1,
                payload: &payload,
            };
            let mut bytes = Vec::new();
            wire::put(&mut bytes, &packet);
            // one that is refused is as good as lost
            let _ = one.socket.send_to(&bytes, one.asterisk).await;
        }
    };
    tokio::select! {
        () = send => None,
        from = timeout(PATIENCE, packet(&other.socket)) => from.ok(),
    }
}

/// The next packet of RTP, and from where.
async fn packet(socket: &UdpSocket) -> SocketAddr {
    let mut bytes = [0; 2_048];
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut bytes).await
            && wire::parse(&bytes[..length]).is_ok()
        {
            return from;
        }
    }
}
