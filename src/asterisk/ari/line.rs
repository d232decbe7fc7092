//! Requests over WebSockets: the one on which Asterisk tells of calls, or those that it has opened for calls of its own.
//!
//! Asterisk takes the requests of one socket one after the other, and their answers come between the events.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};

/// Requests of one socket that wait to be written.
const UNSENT: usize = 64;
/// What stands in a path as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What Asterisk answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// The requests of one socket.
#[derive(Debug)]
pub(super) struct Wire {
    unsent: mpsc::Sender<String>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    closed: bool,
    answers: HashMap<u64, oneshot::Sender<Answer>>,
}

/// An answer is waited for, until this is dropped.
struct Asked<'a> {
    wire: &'a Wire,
    number: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.wire.lock().answers.remove(&self.number);
    }
}

impl Wire {
    /// A socket's requests, and what it has to write.
    pub fn new() -> (Arc<Self>, mpsc::Receiver<String>) {
        let (unsent, to_write) = mpsc::channel(UNSENT);
        (Arc::new(Self { unsent, waiting: Mutex::default() }), to_write)
    }

    /// An answer has come; one that nobody waits for any more is none of our business.
    pub fn answered(&self, request: &str, status: u16, body: String) {
        let asked = request.parse().ok().and_then(|number: u64| self.lock().answers.remove(&number));
        if let Some(asked) = asked {
            // whoever asked may have given up meanwhile
            let _ = asked.send(Answer { status, body: body.into_bytes() });
        }
    }

    /// The socket is gone: whoever waits is told.
    pub fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.answers.clear();
    }

    /// Asks; `None`: the socket was lost before the answer.
    pub async fn ask(
        &self,
        method: &Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Option<Answer> {
        let (sender, answer) = oneshot::channel();
        let number = {
            let mut waiting = self.lock();
            if waiting.closed {
                return None;
            }
            waiting.next += 1;
            let number = waiting.next;
            waiting.answers.insert(number, sender);
            number
        };
        let _asked = Asked { wire: self, number };
        self.unsent.send(request(number, method, path, query, body)).await.ok()?;
        answer.await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn request(number: u64, method: &Method, path: &[&str], query: &[(&str, &str)], body: Option<&Value>) -> String {
    let parts: Vec<_> = path.iter().map(|part| utf8_percent_encode(part, PATH).to_string()).collect();
    let query: Vec<_> = query.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let mut request = json!({
        "type": "RESTRequest",
        "transaction_id": "hark",
        "request_id": number.to_string(),
        "method": method.as_str(),
        "uri": parts.join("/"),
        "query_strings": query,
    });
    if let Some(body) = body {
        request["content_type"] = "application/json".into();
        request["message_body"] = body.to_string().into();
    }
    request.to_string()
}

/// The open sockets over which requests can go; the youngest is taken.
#[derive(Debug, Default)]
pub(super) struct Line {
    open: watch::Sender<Vec<Arc<Wire>>>,
}

/// A socket over which requests go, until this is dropped.
#[derive(Debug)]
pub(super) struct Attached {
    line: Arc<Line>,
    wire: Arc<Wire>,
}

impl Line {
    /// Requests may go over this socket.
    pub fn attach(self: &Arc<Self>, wire: &Arc<Wire>) -> Attached {
        self.open.send_modify(|open| open.push(Arc::clone(wire)));
        Attached { line: Arc::clone(self), wire: Arc::clone(wire) }
    }

    /// Whether there is a socket.
    pub fn is_open(&self) -> bool {
        !self.open.borrow().is_empty()
    }

    /// A socket; waits until there is one.
    pub async fn wire(&self) -> Arc<Wire> {
        let mut open = self.open.subscribe();
        loop {
            let youngest = open.borrow_and_update().last().cloned();
            match youngest {
                Some(wire) => return wire,
                // the sender is ours, and lives as long as we do
                None => drop(open.changed().await),
            }
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.line.open.send_modify(|open| open.retain(|wire| !Arc::ptr_eq(wire, &self.wire)));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn answers_find_their_requests_in_any_order() {
        let line = Arc::new(Line::default());
        let (wire, mut to_write) = Wire::new();
        let _attached = line.attach(&wire);
        let one = tokio::spawn({
            let wire = line.wire().await;
            async move { wire.ask(&Method::GET, &["channels", "a/b c+d"], &[("x", "1&2")], None).await }
        });
        let first: Value = serde_json::from_str(&to_write.recv().await.unwrap()).unwrap();
        assert_eq!(first["uri"], "channels/a%2Fb%20c%2Bd");
        assert_eq!(first["query_strings"], json!([{"name": "x", "value": "1&2"}]));
        let two = tokio::spawn({
            let wire = line.wire().await;
            async move { wire.ask(&Method::POST, &["bridges"], &[], Some(&json!({"a": "\"b"}))).await }
        });
        let second: Value = serde_json::from_str(&to_write.recv().await.unwrap()).unwrap();
        assert_eq!(second["message_body"], r#"{"a":"\"b"}"#);
        for request in ["", "x", "99", "-1"] {
            wire.answered(request, 200, "nobody's".to_owned());
        }
        wire.answered(second["request_id"].as_str().unwrap(), 204, String::new());
        wire.answered(first["request_id"].as_str().unwrap(), 404, "no".to_owned());
        assert_eq!(two.await.unwrap(), Some(Answer { status: 204, body: Vec::new() }));
        assert_eq!(one.await.unwrap(), Some(Answer { status: 404, body: b"no".to_vec() }));
        assert!(wire.lock().answers.is_empty());
    }

    #[tokio::test]
    async fn a_lost_socket_tells_whoever_waits_and_nothing_waits_for_ever() {
        let (wire, mut to_write) = Wire::new();
        let asked = Arc::clone(&wire);
        let waits = tokio::spawn(async move { asked.ask(&Method::GET, &["channels"], &[], None).await });
        to_write.recv().await.unwrap();
        wire.close();
        assert_eq!(waits.await.unwrap(), None);
        assert_eq!(wire.ask(&Method::GET, &["channels"], &[], None).await, None);
        let (wire, _to_write) = Wire::new();
        {
            let asked = wire.ask(&Method::GET, &["channels"], &[], None);
            tokio::pin!(asked);
            assert!(futures_util::poll!(asked.as_mut()).is_pending());
            assert_eq!(wire.lock().answers.len(), 1);
        }
        assert!(wire.lock().answers.is_empty(), "whoever gave up is forgotten");
    }

    #[tokio::test]
    async fn the_youngest_socket_is_taken_and_a_first_one_waited_for() {
        let line = Arc::new(Line::default());
        let waits = tokio::spawn({
            let line = Arc::clone(&line);
            async move { line.wire().await }
        });
        tokio::task::yield_now().await;
        let ((one, _one), (two, _two)) = (Wire::new(), Wire::new());
        let first = line.attach(&one);
        assert!(Arc::ptr_eq(&waits.await.unwrap(), &one));
        let second = line.attach(&two);
        assert!(Arc::ptr_eq(&line.wire().await, &two));
        drop(second);
        assert!(Arc::ptr_eq(&line.wire().await, &one));
        drop(first);
        assert!(!line.is_open());
    }

    proptest! {
        #[test]
        fn any_path_stays_a_path(part in "\\PC{0,40}") {
            let text = request(1, &Method::GET, &["channels", &part, "play"], &[], None);
            let uri = serde_json::from_str::<Value>(&text).unwrap()["uri"].as_str().unwrap().to_owned();
            prop_assert_eq!(uri.split('/').count(), 3);
            prop_assert!(!uri.contains('?'));
            let decoded = percent_encoding::percent_decode_str(uri.split('/').nth(1).unwrap()).decode_utf8_lossy().into_owned();
            prop_assert_eq!(decoded, part);
        }
    }
}
