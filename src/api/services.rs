//! `GET /api/services`: how the services of the agents are doing.

use std::{fmt::Debug, sync::Arc};

use axum::{
    Json, Router, extract, middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use super::{routes::Shared, webhooks::guard};
use crate::session::Announcements;

/// Whoever knows how the services of the agents are doing.
pub trait Services: Debug + Send + Sync {
    /// Each of them, without keys and passwords.
    fn all(&self) -> Vec<Value>;
}

pub(super) fn router<A: Announcements>(shared: Arc<Shared<A>>) -> Router<Arc<Shared<A>>> {
    Router::new().route("/api/services", get(list::<A>)).route_layer(middleware::from_fn_with_state(shared, guard::<A>))
}

async fn list<A: Announcements>(extract::State(shared): extract::State<Arc<Shared<A>>>) -> Response {
    let services = shared.state.services.as_ref().map_or_else(Vec::new, |services| services.all());
    Json(json!({"services": services})).into_response()
}
