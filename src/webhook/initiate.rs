//! The one request that decides something: what the receiver of `WEBHOOK_URL` says about an announced call.

use std::{sync::Arc, time::SystemTime};

use serde_json::{Map, Value};
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    Failed, Outcome, Phase, Report, Stats, Webhooks, body,
    breaker::Change,
    endpoint::{Reply, Request},
    receiver::{Receiver, tag},
    shown,
};
use crate::call::{CallId, EventId};

/// How long the request waits for its event to be on disk; the event has its place in the order in any case.
const COMMIT: std::time::Duration = std::time::Duration::from_millis(250);

impl Webhooks {
    /// Asks the receiver of `WEBHOOK_URL` about an announced call (`call_initiated`) and waits for its JSON answer.
    ///
    /// It is the first event of `call`. At that receiver the request is its only attempt, beside the queue: no event of any call waits
    /// for it. Other receivers get the event by the ordinary way, with the same identity.
    ///
    /// # Errors
    /// Whatever kept a usable answer from coming. It has been logged; what to do without is the caller's to decide.
    pub async fn initiate(&self, call: CallId, uuid: Uuid, payload: &Map<String, Value>) -> Result<Value, Failed> {
        let shared = &self.shared;
        let (id, at) = (EventId::new(), SystemTime::now());
        let body = shared.redaction.apply(body::CALL_INITIATED, body::render_initiated(uuid, payload, at));
        let entry = shared.single((id, body::CALL_INITIATED, Phase::Middle), (call, uuid, at), body.clone(), |_| true);
        if let Some(mut entry) = entry {
            for to in &mut entry.to {
                to.asked =
                    shared.receivers.iter().any(|receiver| receiver.is_contract() && receiver.name == to.endpoint);
            }
            let taken = shared.give(vec![entry]);
            // a full outbox has been counted; the question is asked all the same
            let _ = timeout(COMMIT, async { shared.placed(call, uuid, taken.await) }).await;
        }
        let Some(receiver) = shared.receivers.iter().find(|receiver| receiver.is_contract()) else {
            return Err(Failed::Disabled);
        };
        let place = Some((call, 1));
        let limit = self.shared.initiate.timeout();
        let request = Request { id, place, attempt: 1, url: None, body, answer: true, timeout: limit };
        let answer = self.ask(receiver, uuid, request).await;
        match &answer {
            Ok(answer) => {
                Stats::add(&shared.stats.initiated);
                info!(%uuid, "Webhook response received: {}", shown::json(answer));
            }
            Err(reason) => {
                Stats::add(&shared.stats.initiate_failed);
                error!(%uuid, code = "webhook.failed", %reason, "{} Retry failed", tag(body::CALL_INITIATED));
            }
        }
        answer
    }

    async fn ask(&self, receiver: &Arc<Receiver>, uuid: Uuid, request: Request) -> Result<Value, Failed> {
        let (shared, id, begin) = (&self.shared, request.id, Instant::now());
        let Reply { status, result, refusal } = match shared.breaker.admit(begin) {
            Ok(()) => {
                let reply = receiver.ask(request).await;
                let silent = matches!(reply.result, Err(Failed::Timeout(_) | Failed::Transport(_)));
                self.broke(shared.breaker.record(!silent, Instant::now()));
                reply
            }
            Err(left) => Failed::Silent(left).into(),
        };
        let outcome = if result.is_ok() { Outcome::Delivered } else { Outcome::GivenUp };
        let report = Report {
            status: status.map(|status| status.as_u16()),
            latency: begin.elapsed(),
            error: result.as_ref().err().map(ToString::to_string),
            answer: refusal,
        };
        if let Some(store) = receiver.store.clone() {
            let name = Arc::clone(&receiver.name);
            // the dialplan does not wait for the disk
            shared.tracker.spawn(async move {
                if let Err(reason) = store.answered(id, &name, outcome, report).await {
                    warn!(%uuid, %reason, "what became of {} could not be recorded", tag(body::CALL_INITIATED));
                }
            });
        }
        result.and_then(|answer| {
            serde_json::from_slice(&answer).map_err(|error| Failed::Answer(format!("not JSON: {error}")))
        })
    }

    fn broke(&self, change: Option<Change>) {
        let open_s = self.shared.initiate.open_s;
        match change {
            Some(Change::Opened) => warn!(
                code = "webhook.silent",
                "The webhook receiver has not answered {} call_initiated requests in a row: for {open_s} s calls do not wait for it, \
                 then one asks again (webhooks.initiate)",
                self.shared.initiate.failures
            ),
            Some(Change::Closed) => info!("The webhook receiver answers call_initiated again"),
            None => {}
        }
    }
}
