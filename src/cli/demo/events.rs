//! A receiver of webhooks, as the rest of a business would have one.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use serde_json::Value;
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

/// Events that are kept; a demonstration has some fifteen.
const MOST_EVENTS: usize = 1_000;

/// An event as it was received.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `type`.
    pub kind: String,
    /// `payload`.
    pub payload: Value,
}

/// A receiver of webhooks on loopback.
pub struct Events {
    address: SocketAddr,
    inbox: Arc<Inbox>,
    server: JoinHandle<io::Result<()>>,
}

struct Inbox {
    events: Mutex<Vec<Event>>,
    arrived: Notify,
    on: Box<dyn Fn(&Event) + Send + Sync>,
}

impl Events {
    /// Begins to listen; `on` is told of every event as it comes.
    pub async fn listen(on: impl Fn(&Event) + Send + Sync + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let inbox = Arc::new(Inbox { events: Mutex::default(), arrived: Notify::new(), on: Box::new(on) });
        let router = Router::new().route("/events", post(receive)).with_state(Arc::clone(&inbox));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, inbox, server })
    }

    /// Where events are to be posted.
    pub fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// Waits until an event of this type has come, but not for ever.
    pub async fn wait_for(&self, kind: &str, patience: Duration) {
        let come = async {
            loop {
                let arrived = self.inbox.arrived.notified();
                if self.inbox.lock().iter().any(|event| event.kind == kind) {
                    return;
                }
                arrived.await;
            }
        };
        // what did not come is missed by whoever looks at the events
        let _ = tokio::time::timeout(patience, come).await;
    }

    /// Stops listening: what has come.
    pub async fn stop(&mut self) -> Vec<Event> {
        self.server.abort();
        std::mem::take(&mut *self.inbox.lock())
    }
}

impl Inbox {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn receive(State(inbox): State<Arc<Inbox>>, Json(mut body): Json<Value>) -> StatusCode {
    let Some(kind) = body.get("type").and_then(Value::as_str).map(str::to_owned) else {
        return StatusCode::BAD_REQUEST;
    };
    let event = Event { kind, payload: body.get_mut("payload").map(Value::take).unwrap_or_default() };
    (inbox.on)(&event);
    let mut events = inbox.lock();
    if events.len() < MOST_EVENTS {
        events.push(event);
    }
    drop(events);
    inbox.arrived.notify_one();
    StatusCode::OK
}
