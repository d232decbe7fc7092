//! An AudioSocket listener that only hears which UUIDs are brought to it, and from where.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::asterisk::audiosocket::wire;

/// Connections at once; further ones wait in the kernel.
const AT_ONCE: usize = 64;
/// UUIDs that are remembered; ours are among the first.
const REMEMBERED: usize = 1_024;
/// How long a connection is listened to, and then waited for.
const PATIENCE: Duration = Duration::from_secs(2);

type Heard = HashMap<Uuid, SocketAddr>;

/// The listener; gone when dropped. A caller who is brought to it meanwhile is told that the call is over, and their dialplan goes on.
#[derive(Debug)]
pub(super) struct Ear {
    pub addr: SocketAddr,
    heard: watch::Receiver<Heard>,
    task: AbortOnDropHandle<()>,
}

impl Ear {
    pub fn new(listener: TcpListener) -> std::io::Result<Self> {
        let addr = listener.local_addr()?;
        let (sender, heard) = watch::channel(Heard::new());
        let task = tokio::spawn(accept(listener, Arc::new(sender)));
        Ok(Self { addr, heard, task: AbortOnDropHandle::new(task) })
    }

    /// Gives the port back: when this returns somebody else can have it.
    pub async fn close(self) {
        self.task.abort();
        // that it was aborted
        let _ = self.task.await;
    }

    /// Who brings this UUID, within `limit`.
    pub async fn hears(&self, uuid: Uuid, limit: Duration) -> Option<SocketAddr> {
        let mut heard = self.heard.clone();
        let brought = timeout(limit, heard.wait_for(|heard| heard.contains_key(&uuid))).await;
        brought.ok()?.ok()?.get(&uuid).copied()
    }
}

async fn accept(listener: TcpListener, heard: Arc<watch::Sender<Heard>>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    // the semaphore is never closed
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let heard = Arc::clone(&heard);
        tokio::spawn(async move {
            let _place = place;
            listen(stream, peer, &heard).await;
        });
    }
}

async fn listen(mut stream: TcpStream, peer: SocketAddr, heard: &watch::Sender<Heard>) {
    let mut frame = [0; wire::HEADER + 16];
    if !matches!(timeout(PATIENCE, stream.read_exact(&mut frame)).await, Ok(Ok(_))) {
        return;
    }
    let (header, uuid) = frame.split_at(wire::HEADER);
    if let (&[0x01, 0, 16], Ok(uuid)) = (header, Uuid::from_slice(uuid)) {
        heard.send_if_modified(|heard| {
            let room = heard.len() < REMEMBERED;
            room && heard.insert(uuid, peer).is_none()
        });
    }
    // a close with unread bytes is a reset, behind which AudioSocket() does not let the dialplan go on
    if stream.write_all(&wire::HANGUP).await.is_ok() && stream.shutdown().await.is_ok() {
        let mut rest = [0; 1_024];
        let drain = async { while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {} };
        let _ = timeout(PATIENCE, drain).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hears_uuids_and_hangs_up() {
        let ear = Ear::new(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap();
        let (uuid, mut bytes) = (Uuid::new_v4(), Vec::new());
        wire::put_uuid(&mut bytes, uuid);
        let mut noise = TcpStream::connect(ear.addr).await.unwrap();
        noise.write_all(b"GET / HTTP/1.1\r\n\r\n......").await.unwrap();
        let mut stream = TcpStream::connect(ear.addr).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let peer = ear.hears(uuid, Duration::from_secs(10)).await.unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, wire::HANGUP);
        assert_eq!(ear.heard.borrow().len(), 1);
    }
}
