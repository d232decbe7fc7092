//! The same ARI when it is Asterisk that connects: events and requests over one WebSocket.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Method, header};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{broadcast, watch},
    time::sleep,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest as _, handshake::client::Request},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Act, FakeAri, Inner};

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Asterisk's pause between two attempts.
const AGAIN: Duration = Duration::from_millis(20);

/// A request as Asterisk makes it.
pub fn request(to: SocketAddr, path: &str, password: &str, protocol: &'static str) -> Request {
    let mut request = format!("ws://{to}{path}").into_client_request().unwrap();
    let credentials = BASE64_STANDARD.encode(format!("hark:{password}"));
    let headers = request.headers_mut();
    headers.insert(header::AUTHORIZATION, HeaderValue::try_from(format!("Basic {credentials}")).unwrap());
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    request
}

/// Connects with the right password.
pub async fn connect(to: SocketAddr) -> Result<Socket, tungstenite::Error> {
    connect_async(request(to, "/ari", "secret", "ari")).await.map(|(socket, _)| socket)
}

pub fn registered(app: &str) -> Message {
    Message::text(json!({"type": "ApplicationRegistered", "application": app}).to_string())
}

impl FakeAri {
    /// Connects to Hark for this application, and again whenever that ends; what happens meanwhile is told after it. Gone when dropped.
    pub fn connects(&self, to: SocketAddr, app: &str) -> AbortOnDropHandle<()> {
        let (inner, app) = (Arc::clone(&self.inner), app.to_owned());
        let (mut events, mut cut) = (inner.events.subscribe(), inner.cut.subscribe());
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                cut.borrow_and_update();
                if let Ok(mut socket) = connect(to).await
                    && socket.send(registered(&app)).await.is_ok()
                {
                    serve(&mut socket, &inner, &mut events, &mut cut, &app).await;
                }
                sleep(AGAIN).await;
            }
        }))
    }
}

async fn serve(
    socket: &mut Socket,
    inner: &Arc<Inner>,
    events: &mut broadcast::Receiver<Message>,
    cut: &mut watch::Receiver<u64>,
    app: &str,
) {
    loop {
        tokio::select! {
            event = events.recv() => {
                let Ok(event) = event else { return };
                let is_close = event.is_close();
                if socket.send(of_app(event, app)).await.is_err() || is_close {
                    return;
                }
            }
            message = socket.next() => {
                let Some(Ok(message)) = message else { return };
                if let Message::Text(text) = message {
                    let asked = serde_json::from_str(&text).unwrap();
                    match answered(inner, &asked).await {
                        Some(Some(answer)) if socket.send(Message::text(answer.to_string())).await.is_ok() => {}
                        Some(None) => {}
                        _ => return,
                    }
                }
            }
            _ = cut.changed() => return,
        }
    }
}

/// Events of a connection for one call are of an application of its own.
fn of_app(event: Message, app: &str) -> Message {
    let Message::Text(text) = &event else { return event };
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(mut object)) if object.contains_key("application") => {
            object.insert("application".to_owned(), app.into());
            Message::text(Value::Object(object).to_string())
        }
        _ => event,
    }
}

/// The answer; no inner one: none is given; none at all: the connection is closed instead.
async fn answered(inner: &Arc<Inner>, asked: &Value) -> Option<Option<Value>> {
    assert_eq!(asked["type"], "RESTRequest", "{asked}");
    let text = |name: &str| asked[name].as_str().unwrap_or_default().to_owned();
    let uri = text("uri");
    let path: Vec<String> = uri
        .split('/')
        .map(|part| percent_encoding::percent_decode_str(part).decode_utf8().unwrap().into_owned())
        .collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let pairs = asked["query_strings"].as_array().into_iter().flatten();
    let query: BTreeMap<_, _> = pairs
        .map(|pair| (pair["name"].as_str().unwrap().to_owned(), pair["value"].as_str().unwrap().to_owned()))
        .collect();
    let method: Method = text("method").parse().unwrap();
    let answer = |status: u16, body: String| {
        json!({"type": "RESTResponse", "transaction_id": text("transaction_id"), "request_id": text("request_id"),
               "status_code": status, "reason_phrase": "x", "uri": uri, "message_body": body, "application": "hark"})
    };
    let act = inner.act(&format!("{method} {}", super::named(&path)));
    Some(Some(match act {
        Act::Status(status) => answer(status, json!({"message": "no\u{1b}[31m"}).to_string()),
        Act::Close => return None,
        Act::Nothing => answer(204, String::new()),
        act => {
            let (status, body) = inner.answer(&method, &path, &query).await;
            match act {
                Act::Half => answer(200, r#"{"id": "#.to_owned()),
                Act::Silence => return Some(None),
                Act::Cut => return None,
                _ => answer(status, if status == 204 { String::new() } else { body.to_string() }),
            }
        }
    }))
}
