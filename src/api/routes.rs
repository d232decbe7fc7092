//! The routes.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::json;
use tokio::{sync::Semaphore, time::timeout};
use tracing::{debug, error, warn};

use super::{State, announce, calls, recordings, services, webhooks};
use crate::{session::Announcements, telemetry::metrics, webhook::shown};

/// Largest body of a request.
const MAX_BODY: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// `POST /call` requests under way at once.
const MAX_CALLS: usize = 256;

pub(super) struct Shared<A> {
    pub(super) state: State<A>,
    calls: Arc<Semaphore>,
}

type Extracted<A> = extract::State<Arc<Shared<A>>>;

pub(super) fn router<A: Announcements>(state: State<A>) -> Router {
    let shared = Arc::new(Shared { state, calls: Arc::new(Semaphore::new(MAX_CALLS)) });
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready::<A>))
        .route("/metrics", get(show_metrics::<A>))
        .route("/call", post(call::<A>))
        .merge(webhooks::router(Arc::clone(&shared)))
        .merge(recordings::router(Arc::clone(&shared)))
        .merge(calls::router(Arc::clone(&shared)))
        .merge(services::router(Arc::clone(&shared)))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "there is no such route") })
        .method_not_allowed_fallback(|| async { refuse(StatusCode::METHOD_NOT_ALLOWED, "wrong method for this route") })
        .with_state(shared)
}

async fn health() -> Json<serde_json::Value> {
    Json(json!({"status": "ok"}))
}

async fn ready<A: Announcements>(extract::State(shared): Extracted<A>) -> Response {
    let reasons = shared.state.readiness.reasons();
    if reasons.is_empty() {
        return Json(json!({"status": "ready"})).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "not ready", "reasons": reasons}))).into_response()
}

async fn show_metrics<A: Announcements>(extract::State(shared): Extracted<A>) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], shared.state.metrics.encode()).into_response()
}

async fn call<A: Announcements>(extract::State(shared): Extracted<A>, body: Body) -> Response {
    let metrics = Arc::clone(&shared.state.metrics);
    let (outcome, response) = take_call(shared, body).await.unwrap_or_else(|refused| refused);
    metrics.count(&metrics.announced, outcome);
    response
}

type Outcome = (&'static str, Response);

/// What is counted and what is answered; an error only in that it came before the call was known.
async fn take_call<A: Announcements>(shared: Arc<Shared<A>>, body: Body) -> Result<Outcome, Outcome> {
    let Ok(permit) = Arc::clone(&shared.calls).try_acquire_owned() else {
        warn!(code = "api.call.busy", "{MAX_CALLS} POST /call requests wait already; is the webhook receiver slow?");
        return Err(("busy", refuse(StatusCode::SERVICE_UNAVAILABLE, "too many calls are being announced; try again")));
    };
    let body = read(body).await.map_err(|refused| ("bad", refused))?;
    let request = announce::parse(&body).map_err(|reason| {
        warn!(code = "api.call.bad", "POST /call refused, the call itself will be taken: {reason}");
        debug!("The body was {}", shown::line(&String::from_utf8_lossy(&body)));
        ("bad", refuse(StatusCode::BAD_REQUEST, &reason.to_string()))
    })?;
    // a task of its own: a dialplan that gives up waiting must not take the receiver's answer away from its call
    let work = tokio::spawn(async move {
        let _permit = permit;
        announce::announce(&shared.state, request).await
    });
    Ok(match work.await {
        Ok(Err(reason)) => {
            let message = format!("the call is not to be taken, because the webhook receiver did not decide: {reason}");
            ("undecided", refuse(StatusCode::SERVICE_UNAVAILABLE, &message))
        }
        Ok(Ok(answer)) => (if answer.r#override { "override" } else { "ok" }, Json(answer).into_response()),
        Err(reason) => {
            error!(code = "api.call.internal", "POST /call failed: {reason}");
            ("failed", refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal fault; see the gateway's log"))
        }
    })
}

pub(super) async fn read(body: Body) -> Result<axum::body::Bytes, Response> {
    match timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(reason)) => {
            let too_large =
                std::error::Error::source(&reason).is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>());
            warn!(
                code = "api.call.bad",
                "POST /call refused: body {}",
                if too_large { "too large" } else { "broke off" }
            );
            Err(if too_large {
                refuse(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body is larger than {MAX_BODY} bytes"))
            } else {
                refuse(StatusCode::BAD_REQUEST, "the body broke off")
            })
        }
        Err(_) => {
            warn!(code = "api.call.bad", "POST /call refused: body incomplete after {} s", BODY_TIMEOUT.as_secs());
            Err(refuse(StatusCode::REQUEST_TIMEOUT, "the body took too long"))
        }
    }
}

pub(super) fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"message": message}))).into_response()
}
