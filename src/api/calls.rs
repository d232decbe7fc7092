//! `/api/calls`: live calls, and what can be done with them.

mod asked;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{self, Path},
    http::{HeaderMap, StatusCode},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use self::asked::{placed, request};
use super::{
    avr_ami,
    routes::{Shared, read, refuse},
    webhooks::guard,
};
use crate::{
    call::{Begun, Origination, Outbound, Refusal, Refused, Request},
    session::Announcements,
};

pub(super) type Extracted<A> = extract::State<Arc<Shared<A>>>;

/// A future that may be anything.
pub type Later<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever can do things with live calls.
pub trait Control: std::fmt::Debug + Send + Sync {
    /// Does something with the live call of this UUID on the wire, or of this identity of ours, and waits until it is done.
    fn carry_out(&self, call: Uuid, request: Request) -> Later<'_, Result<(), Refused>>;

    /// The same without waiting: only that there is such a call is known.
    ///
    /// # Errors
    /// There is none.
    fn begin(&self, call: Uuid, request: Request) -> Result<(), Refused>;

    /// Makes a call with the agent; `about` is its metadata.
    fn call(&self, order: Outbound, about: Map<String, Value>) -> Later<'_, Result<Begun, Refused>>;

    /// Has the PBX make a call.
    fn originate(&self, origination: Origination) -> Later<'_, Result<(), Refused>>;
}

pub(super) fn router<A: Announcements>(shared: Arc<Shared<A>>) -> Router<Arc<Shared<A>>> {
    let api = Router::new()
        .route("/api/calls", get(list::<A>).post(place::<A>))
        .route("/api/calls/{call}/{action}", post(act::<A>))
        // who may make calls may spend money
        .route("/originate", post(avr_ami::originate::<A>))
        .route_layer(middleware::from_fn_with_state(shared, guard::<A>));
    // who knows the UUID of a live call is a part of it: avr-ami asks for no more
    Router::new()
        .route("/hangup", post(avr_ami::hangup::<A>))
        .route("/transfer", post(avr_ami::transfer::<A>))
        .merge(api)
}

async fn list<A: Announcements>(extract::State(shared): Extracted<A>) -> Response {
    let mut calls = shared.state.registry.all();
    calls.sort_by_key(|(_, entry)| entry.started);
    let calls: Vec<_> = calls
        .iter()
        .map(|(id, entry)| json!({"call_id": id.to_string(), "uuid": entry.uuid.to_string(), "seconds": entry.started.elapsed().as_secs()}))
        .collect();
    Json(json!({"calls": calls})).into_response()
}

async fn place<A: Announcements>(extract::State(shared): Extracted<A>, headers: HeaderMap, body: Body) -> Response {
    let body = match read(body).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let key = headers.get("idempotency-key").map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned());
    let (order, about) = match placed(&body, key) {
        Ok(placed) => placed,
        Err(reason) => return refuse(StatusCode::BAD_REQUEST, &reason),
    };
    let Some(control) = shared.state.control.clone() else { return nobody() };
    // a task of its own: whoever stops waiting does not leave a call that nobody follows
    match tokio::spawn(async move { control.call(order, about).await }).await {
        Ok(Ok(Begun { uuid, call, again })) => {
            let status = if again { StatusCode::OK } else { StatusCode::CREATED };
            (status, Json(json!({"uuid": uuid.to_string(), "call_id": call.to_string()}))).into_response()
        }
        Ok(Err(refused)) => refusal(&refused),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal fault; see the gateway's log"),
    }
}

async fn act<A: Announcements>(
    extract::State(shared): Extracted<A>,
    Path((call, action)): Path<(String, String)>,
    body: Body,
) -> Response {
    let Ok(call) = call.parse::<Uuid>() else { return refuse(StatusCode::BAD_REQUEST, "a call's id is a UUID") };
    let body = match read(body).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let request = match request(&action, &body) {
        Ok(request) => request,
        Err(reason) => return refuse(StatusCode::BAD_REQUEST, &reason),
    };
    let Some(control) = shared.state.control.clone() else { return nobody() };
    // a task of its own: whoever stops waiting does not leave a caller between two places
    let done = tokio::spawn(async move { control.carry_out(call, request).await }).await;
    match done {
        Ok(Ok(())) => Json(json!({"message": "done"})).into_response(),
        Ok(Err(refused)) => refusal(&refused),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal fault; see the gateway's log"),
    }
}

pub(super) fn nobody() -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "this gateway takes no orders for calls")
}

pub(super) fn refusal(refused: &Refused) -> Response {
    let status = match refused.kind {
        Refusal::NoCall => StatusCode::NOT_FOUND,
        Refusal::Impossible => StatusCode::CONFLICT,
        Refusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Failed => StatusCode::BAD_GATEWAY,
    };
    (status, Json(json!({"message": refused.message, "code": refused.code}))).into_response()
}

/// What a fuzzer calls: what is asked by this body, of a live call, of avr-ami (`avr`), or for a call to be made (`call`).
#[doc(hidden)]
pub fn fuzz(action: &str, body: &[u8]) -> Result<String, String> {
    match action {
        "call" => placed(body, None).map(|placed| format!("{placed:?}")),
        "avr" => avr_ami::target(&serde_json::from_slice(body).unwrap_or_default())
            .map(|target| format!("{target:?}"))
            .map_err(str::to_owned),
        _ => request(action, body).map(|request| format!("{request:?}")),
    }
}
