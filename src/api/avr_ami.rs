//! The routes of avr-ami (contract section 6), so that connectors whose `AMI_URL` is this gateway need no further process.

use axum::{
    Json,
    body::Body,
    extract,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tracing::warn;
use uuid::Uuid;

use super::{
    calls::{Extracted, nobody, refusal},
    routes::{Shared, read, refuse},
};
use crate::{
    call::{Origination, Refusal, Refused, Request, Target},
    session::Announcements,
};

/// What avr-ami answers; its `ActionID` is ours.
async fn avr<A: Announcements>(
    shared: &Shared<A>,
    body: Body,
    did: &str,
    request: impl FnOnce(&Value) -> Result<Request, &'static str>,
) -> Response {
    let body = match read(body).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(uuid) = asked.get("uuid").and_then(Value::as_str).and_then(|uuid| uuid.trim().parse::<Uuid>().ok()) else {
        return refuse(StatusCode::BAD_REQUEST, "\"uuid\" has to be the UUID of a live call");
    };
    let request = match request(&asked) {
        Ok(request) => request,
        Err(reason) => return refuse(StatusCode::BAD_REQUEST, reason),
    };
    let Some(control) = &shared.state.control else { return nobody() };
    match control.begin(uuid, request) {
        Ok(()) => {
            let message = format!("Call with UUID {uuid} {did} with action: {}", Uuid::now_v7());
            Json(json!({"message": message})).into_response()
        }
        Err(Refused { kind: Refusal::NoCall, .. }) => {
            refuse(StatusCode::NOT_FOUND, &format!("Call with UUID {uuid} not found"))
        }
        Err(reason) => {
            warn!(code = reason.code, %uuid, "{reason}");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "Error communicating with Asterisk")
        }
    }
}

pub(super) async fn hangup<A: Announcements>(extract::State(shared): Extracted<A>, body: Body) -> Response {
    avr(&shared, body, "hangup", |_| Ok(Request::Hangup { cause: None, now: false })).await
}

pub(super) async fn transfer<A: Announcements>(extract::State(shared): Extracted<A>, body: Body) -> Response {
    avr(&shared, body, "redirect", |asked| target(asked).map(Request::Transfer)).await
}

/// avr-ami's words for a place; what they leave out is its defaults.
pub(super) fn target(asked: &Value) -> Result<Target, &'static str> {
    let text = |name: &str| match asked.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let exten = text("exten").ok_or("\"exten\" is missing: the extension to which the call goes")?;
    Ok(Target {
        exten,
        context: text("context").or(Some("demo".to_owned())),
        priority: text("priority").or(Some("1".to_owned())),
    })
}

pub(super) async fn originate<A: Announcements>(extract::State(shared): Extracted<A>, body: Body) -> Response {
    let body = match read(body).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let channel = asked.get("channel").and_then(Value::as_str).filter(|channel| !channel.is_empty());
    let Some(channel) = channel else {
        return refuse(StatusCode::BAD_REQUEST, "\"channel\" is missing: whom to call, e.g. PJSIP/2000");
    };
    let target = match target(&asked) {
        Ok(target) => target,
        Err(reason) => return refuse(StatusCode::BAD_REQUEST, reason),
    };
    let caller_id = asked.get("callerid").and_then(Value::as_str).unwrap_or("Agent Voice Response <avr>");
    let Some(control) = &shared.state.control else { return nobody() };
    let origination = Origination { channel: channel.to_owned(), target, caller_id: Some(caller_id.to_owned()) };
    match control.originate(origination).await {
        Ok(()) => Json(json!({"message": format!("Call originate with action: {}", Uuid::now_v7())})).into_response(),
        Err(reason) => {
            warn!(code = reason.code, "{reason}");
            refusal(&reason)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn places_of_avr_ami_have_its_defaults_and_its_integers() {
        let place = |json: &str| target(&serde_json::from_str(json).unwrap());
        let expected = |exten: &str, context: &str, priority: &str| {
            Ok(Target {
                exten: exten.to_owned(),
                context: Some(context.to_owned()),
                priority: Some(priority.to_owned()),
            })
        };
        assert_eq!(place(r#"{"exten":600}"#), expected("600", "demo", "1"));
        assert_eq!(place(r#"{"exten":"s","context":"sales","priority":2}"#), expected("s", "sales", "2"));
        assert!(place(r#"{"context":"sales"}"#).is_err());
    }
}
