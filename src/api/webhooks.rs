//! `/api/webhooks`: what became of events, and sending them again.
//!
//! Bodies hold what people said, so these routes are not for everybody who may announce a call: with `http.token` set they want it as a
//! bearer token, without one they answer on loopback only, and only to requests that no web page can make a browser send.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{self, Path, Query, Request},
    http::{
        HeaderMap, Method, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE, HOST},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    Token,
    routes::{Shared, read, refuse},
};
use crate::{
    call::EventId,
    session::Announcements,
    webhook::store::{Filter, State, Store, StoreError, view},
};

/// Deliveries in one answer.
const MAX_LIMIT: u32 = 1_000;
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Who is asking.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub SocketAddr);

type Extracted<A> = extract::State<Arc<Shared<A>>>;

pub(super) fn router<A: Announcements>(shared: Arc<Shared<A>>) -> Router<Arc<Shared<A>>> {
    Router::new()
        .route("/api/webhooks", get(overview::<A>))
        .route("/api/webhooks/deliveries", get(list::<A>))
        .route("/api/webhooks/deliveries/{event}", get(show::<A>))
        .route("/api/webhooks/deliveries/{event}/retry", post(retry::<A>))
        .route("/api/webhooks/retry-dead", post(retry_dead::<A>))
        .route("/api/webhooks/purge", post(purge::<A>))
        .route_layer(middleware::from_fn_with_state(shared, guard::<A>))
}

pub(super) async fn guard<A: Announcements>(
    extract::State(shared): Extracted<A>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let refused = match &shared.state.token {
        Some(token) => (!is_bearer(request.headers(), token))
            .then(|| refuse(StatusCode::UNAUTHORIZED, "wants Authorization: Bearer with http.token")),
        None => (!is_local(peer, request.method(), request.headers())).then(|| {
            let message = "without http.token only programs on this machine are answered, with Host: localhost or an address, and \
                           Content-Type: application/json on every POST";
            refuse(StatusCode::FORBIDDEN, message)
        }),
    };
    match refused {
        Some(refused) => refused,
        None => next.run(request).await,
    }
}

fn is_bearer(headers: &HeaderMap, token: &Token) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    given.is_some_and(|given| token.is(given))
}

/// From this machine, and not from a web page: a page's own name is in `Host`, and a page cannot post JSON to a stranger unasked.
fn is_local(peer: SocketAddr, method: &Method, headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = host.parse::<SocketAddr>().map(|address| address.ip().to_string());
    let name = name.unwrap_or_else(|_| host.rsplit_once(':').map_or(host, |(name, _)| name).to_owned());
    let own = name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let json = headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    peer.ip().to_canonical().is_loopback() && own && (method == Method::GET || json)
}

/// Why there is no answer.
enum Failure {
    NoStore,
    Unknown,
    Bad(String),
    Store(StoreError),
    Body(Box<Response>),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::NoStore => refuse(StatusCode::NOT_FOUND, "no webhook receiver is configured, so no events are kept"),
            Self::Unknown => refuse(StatusCode::NOT_FOUND, "there is no such event (for this receiver)"),
            Self::Bad(message) => refuse(StatusCode::BAD_REQUEST, &message),
            Self::Store(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
            Self::Body(response) => *response,
        }
    }
}

type Answer = Result<Json<Value>, Failure>;

fn store<A>(shared: &Shared<A>) -> Result<&Store, Failure> {
    shared.state.store.as_ref().ok_or(Failure::NoStore)
}

fn event(text: &str) -> Result<EventId, Failure> {
    let uuid: Uuid = text.parse().map_err(|_| Failure::Bad("an event's id is a UUID".to_owned()))?;
    Ok(EventId::from(uuid))
}

async fn overview<A: Announcements>(extract::State(shared): Extracted<A>) -> Answer {
    let store = store(&shared)?;
    let counters = store.count().await?;
    let disabled = store.disabled().await?;
    let mut endpoints: Map<String, Value> = Map::new();
    let mut set = |name: &str, key: &str, value: Value| {
        let entry = endpoints
            .entry(name)
            .or_insert_with(|| json!({"pending": 0, "dead": 0, "oldest_pending": null, "disabled": null}));
        entry[key] = value;
    };
    for (name, count) in &counters.pending {
        set(name, "pending", json!(count));
    }
    for (name, count) in &counters.dead {
        set(name, "dead", json!(count));
    }
    for (name, at) in &counters.oldest {
        set(name, "oldest_pending", json!(view::time(*at)));
    }
    for one in disabled {
        set(&one.endpoint, "disabled", json!({"since": view::time(one.since), "reason": one.reason}));
    }
    let trouble = store.health().borrow().as_ref().map(ToString::to_string);
    Ok(Json(json!({"endpoints": endpoints, "lost": store.lost(), "trouble": trouble})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    endpoint: Option<String>,
    state: Option<String>,
    uuid: Option<Uuid>,
    before: Option<Uuid>,
    limit: Option<u32>,
}

async fn list<A: Announcements>(
    extract::State(shared): Extracted<A>,
    wanted: Result<Query<Wanted>, extract::rejection::QueryRejection>,
) -> Answer {
    let Query(wanted) = wanted.map_err(|reason| Failure::Bad(reason.body_text()))?;
    let state =
        wanted.state.map(|state| state.parse::<State>().map_err(|reason| Failure::Bad(format!("state {reason}"))));
    let limit = wanted.limit.unwrap_or(100).clamp(1, MAX_LIMIT);
    let filter = Filter {
        endpoint: wanted.endpoint,
        state: state.transpose()?,
        uuid: wanted.uuid,
        before: wanted.before.map(EventId::from),
        limit,
    };
    let found = store(&shared)?.list(&filter).await?;
    let next = (found.len() == limit as usize).then(|| found.last().map(|last| last.event.to_string())).flatten();
    let deliveries: Vec<Value> = found.iter().map(|one| one.to_json()).collect();
    Ok(Json(json!({"deliveries": deliveries, "next": next})))
}

async fn show<A: Announcements>(extract::State(shared): Extracted<A>, Path(id): Path<String>) -> Answer {
    let shown = store(&shared)?.show(event(&id)?).await?;
    if shown.is_empty() {
        return Err(Failure::Unknown);
    }
    let deliveries: Vec<Value> = shown.iter().map(|one| one.to_json()).collect();
    Ok(Json(json!({"deliveries": deliveries})))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Order {
    endpoint: Option<String>,
    since_hours: Option<u64>,
    delivered_days: Option<u32>,
    dead_days: Option<u32>,
}

/// What a POST asks for; nothing at all asks for what is usual.
async fn order(body: Body) -> Result<Order, Failure> {
    let body = read(body).await.map_err(|refused| Failure::Body(Box::new(refused)))?;
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Order::default());
    }
    serde_json::from_slice(&body).map_err(|reason| Failure::Bad(format!("the body is not as it should be: {reason}")))
}

async fn retry<A: Announcements>(extract::State(shared): Extracted<A>, Path(id): Path<String>, body: Body) -> Answer {
    let order = order(body).await?;
    match store(&shared)?.retry(event(&id)?, order.endpoint.as_deref()).await? {
        0 => Err(Failure::Unknown),
        sent => Ok(Json(json!({"retried": sent}))),
    }
}

async fn retry_dead<A: Announcements>(extract::State(shared): Extracted<A>, body: Body) -> Answer {
    let order = order(body).await?;
    let since = Duration::from_secs(order.since_hours.unwrap_or(24 * 365).saturating_mul(3_600));
    let since = SystemTime::now().checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH);
    let sent = store(&shared)?.retry_dead(order.endpoint.as_deref(), since).await?;
    Ok(Json(json!({"retried": sent})))
}

async fn purge<A: Announcements>(extract::State(shared): Extracted<A>, body: Body) -> Answer {
    let order = order(body).await?;
    let (done, dead) = (DAY * order.delivered_days.unwrap_or(7), DAY * order.dead_days.unwrap_or(30));
    let deleted = store(&shared)?.purge(done, dead).await?;
    Ok(Json(json!({"deleted": deleted})))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_token_has_to_be_the_whole_one() {
        let token = Token("secret".into());
        for (value, may) in
            [("Bearer secret", true), ("Bearer secre", false), ("bearer secret", false), ("secret", false), ("", false)]
        {
            assert_eq!(is_bearer(&headers(&[("authorization", value)]), &token), may, "{value:?}");
        }
        assert!(!is_bearer(&HeaderMap::new(), &token));
    }

    #[test]
    fn without_a_token_only_programs_on_this_machine() {
        let (here, there) = ("127.0.0.1:5000".parse().unwrap(), "192.0.2.1:5000".parse().unwrap());
        let json = ("content-type", "application/json");
        let may = |peer, method: Method, pairs: &[(&str, &str)]| is_local(peer, &method, &headers(pairs));
        for host in ["localhost:6001", "localhost", "127.0.0.1:6001", "[::1]:6001", "127.0.0.1"] {
            assert!(may(here, Method::GET, &[("host", host)]), "{host}");
            assert!(may(here, Method::POST, &[("host", host), json]), "{host}");
            assert!(!may(there, Method::GET, &[("host", host)]), "{host}");
        }
        assert!(may("[::ffff:127.0.0.1]:5".parse().unwrap(), Method::GET, &[("host", "localhost")]));
        assert!(!may(here, Method::GET, &[("host", "evil.example:6001")]), "a name that was bound to loopback");
        assert!(!may(here, Method::GET, &[]));
        assert!(!may(here, Method::POST, &[("host", "localhost"), ("content-type", "text/plain")]), "a form of a page");
    }
}
