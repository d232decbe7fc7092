//! A TCP proxy whose connections can be cut, held or refused.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// They are passed on.
    Whole,
    /// Those that are there are cut, and new ones closed at once.
    Cut,
    /// Nothing passes, and nobody is told.
    Silent,
}

pub struct Proxy {
    pub addr: SocketAddr,
    line: Arc<watch::Sender<Line>>,
}

impl Proxy {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("a bound socket");
        let line = Arc::new(watch::Sender::new(Line::Whole));
        let lines = Arc::clone(&line);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut line = lines.subscribe();
                tokio::spawn(async move { pass(client, to, &mut line).await });
            }
        });
        Self { addr, line }
    }

    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

async fn pass(mut client: TcpStream, to: SocketAddr, line: &mut watch::Receiver<Line>) {
    if *line.borrow() == Line::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(to).await else { return };
    loop {
        let now = *line.borrow_and_update();
        match now {
            Line::Cut => return,
            Line::Silent => {
                if line.changed().await.is_err() {
                    return;
                }
            }
            Line::Whole => {
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => return,
                    changed = line.changed() => if changed.is_err() { return },
                }
            }
        }
    }
}
