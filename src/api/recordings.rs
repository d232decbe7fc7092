//! `/api/recordings` and `/api/calls`: recordings to fetch, and recording that pauses while somebody reads out a card number.

use std::{io, sync::Arc};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{self, Path},
    http::{
        StatusCode,
        header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
    },
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::{fs::File, io::AsyncReadExt};
use tracing::info;
use uuid::Uuid;

use super::{
    routes::{Shared, read, refuse},
    webhooks::guard,
};
use crate::{
    call::{CallId, Command},
    session::Announcements,
};

/// Bytes of a file that are read at once.
const CHUNK: usize = 64 * 1024;

type Extracted<A> = extract::State<Arc<Shared<A>>>;

pub(super) fn router<A: Announcements>(shared: Arc<Shared<A>>) -> Router<Arc<Shared<A>>> {
    Router::new()
        .route("/api/recordings/{name}", get(fetch::<A>))
        .route("/api/calls/{call}/recording", post(record::<A>))
        .route_layer(middleware::from_fn_with_state(shared, guard::<A>))
}

/// What kind of file this is the name of: a call's identity and an ending, and nothing that leads elsewhere.
fn media_type(name: &str) -> Option<&'static str> {
    let (id, ending) = name.rsplit_once('.')?;
    let uuid = Uuid::try_parse(id).ok()?;
    if CallId::from(uuid).to_string() != id {
        return None;
    }
    match ending {
        "wav" => Some("audio/wav"),
        "json" => Some("application/json"),
        "vtt" => Some("text/vtt; charset=utf-8"),
        _ => None,
    }
}

async fn fetch<A: Announcements>(extract::State(shared): Extracted<A>, Path(name): Path<String>) -> Response {
    let Some(kind) = media_type(&name) else {
        return refuse(StatusCode::NOT_FOUND, "a recording's name is a hark-call-id with .wav, .json or .vtt");
    };
    let Some(dir) = &shared.state.recordings else {
        return refuse(StatusCode::NOT_FOUND, "this gateway keeps no recordings");
    };
    let opened = async {
        let file = File::open(dir.join(&name)).await?;
        let length = file.metadata().await?.len();
        Ok::<_, io::Error>((file, length))
    };
    match opened.await {
        Ok((file, length)) => {
            let headers = [
                (CONTENT_TYPE, kind.to_owned()),
                (CONTENT_LENGTH, length.to_string()),
                (CACHE_CONTROL, "no-store".to_owned()),
                (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
            ];
            (headers, body(file, length)).into_response()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => refuse(
            StatusCode::NOT_FOUND,
            "there is no such recording: it was not made, or it was deleted (recording.keep_days)",
        ),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("the recording cannot be read: {error}")),
    }
}

/// The first `length` bytes: one that is being written grows meanwhile.
fn body(file: File, length: u64) -> Body {
    Body::from_stream(stream::try_unfold((file, length), |(mut file, left)| async move {
        let mut chunk = vec![0; usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)];
        let read = file.read(&mut chunk).await?;
        chunk.truncate(read);
        let next = (read > 0).then(|| (Bytes::from(chunk), (file, left - read as u64)));
        Ok::<_, io::Error>(next)
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// Whether what is said from now on is recorded.
    on: bool,
}

async fn record<A: Announcements>(
    extract::State(shared): Extracted<A>,
    Path(call): Path<String>,
    body: Body,
) -> Response {
    let Ok(call) = call.parse::<Uuid>() else { return refuse(StatusCode::BAD_REQUEST, "a call's id is a UUID") };
    let body = match read(body).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let Order { on } = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(reason) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                &format!("the body has to be {{\"on\": true}} or {{\"on\": false}}: {reason}"),
            );
        }
    };
    let calls = shared.state.registry.find(call);
    if calls.is_empty() {
        return refuse(StatusCode::NOT_FOUND, "no live call of this gateway has this hark-call-id or uuid");
    }
    for (id, commands) in calls {
        if commands.try_send(Command::Record(on)).is_err() {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "the call has too many orders to carry out; try again");
        }
        info!(call = %id, "recording {}", if on { "goes on" } else { "pauses" });
    }
    Json(json!({"on": on})).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        let call = CallId::new();
        assert_eq!(media_type(&format!("{call}.wav")), Some("audio/wav"));
        for bad in [
            "",
            "wav",
            ".wav",
            "a.wav",
            "../etc/passwd",
            &format!("{call}"),
            &format!("{call}.exe"),
            &format!("../{call}.wav"),
        ] {
            assert_eq!(media_type(bad), None, "{bad}");
        }
    }
}
