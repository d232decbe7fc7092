//! Asterisk's side of the audio.

use super::*;

impl Inner {
    pub(super) async fn rtp(self: &Arc<Self>, id: &str, host: &str, format: String) -> (u16, Value) {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let port = socket.local_addr().unwrap().port().to_string();
        {
            let mut state = self.lock();
            state.channels.insert(id.to_owned(), true);
            state.media.insert(id.to_owned(), AbortOnDropHandle::new(tokio::spawn(async {})));
            state.rtp.push(RtpPeer { socket, to: host.parse().unwrap(), format });
        }
        let event = json!({"type": "StasisStart", "application": self.app, "args": [], "channel": {"id": id}});
        let _ = self.events.send(Message::text(event.to_string()));
        let told = json!({"UNICASTRTP_LOCAL_ADDRESS": "127.0.0.1", "UNICASTRTP_LOCAL_PORT": port});
        (200, json!({"id": id, "channelvars": told}))
    }

    pub(super) async fn media(self: &Arc<Self>, id: &str, host: &str, uuid: &str) -> (u16, Value) {
        let Ok(stream) = TcpStream::connect(host).await else { return (500, Value::Null) };
        let (inner, ended) = (Arc::clone(self), id.to_owned());
        let uuid = Uuid::parse_str(uuid).unwrap();
        let task = tokio::spawn(async move {
            audio(stream, uuid).await;
            // not from inside the task that this would abort
            tokio::spawn(async move { inner.end(&ended) });
        });
        {
            let mut state = self.lock();
            state.channels.insert(id.to_owned(), true);
            state.media.insert(id.to_owned(), AbortOnDropHandle::new(task));
        }
        // before the answer, as it may be
        let event = json!({"type": "StasisStart", "application": self.app, "args": [uuid], "channel": {"id": id}});
        let _ = self.events.send(Message::text(event.to_string()));
        (200, json!({"id": id}))
    }
}

/// Silence both ways until one side has enough.
async fn audio(mut stream: TcpStream, uuid: Uuid) {
    let mut bytes = Vec::new();
    wire::put_uuid(&mut bytes, uuid);
    let (mut tick, mut read) = (interval(Duration::from_millis(20)), [0; 4096]);
    loop {
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
        bytes.clear();
        wire::put_audio(&mut bytes, &Frame::padded(Rate::R8K, &[0; 160]));
        tokio::select! {
            _ = tick.tick() => {}
            read = stream.read(&mut read) => {
                if matches!(read, Ok(0) | Err(_)) {
                    return;
                }
                bytes.clear();
            }
        }
    }
}
