//! Old turns are summarised in the background, so that no answer waits for it.

use std::sync::Arc;

use tokio::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::Conductor;
use crate::agent::{cascade::speaker::Speaker, health::Failure};

/// How long after one summary the next is made at the earliest: one that fails is not asked for again at once.
const PAUSE: Duration = Duration::from_secs(30);
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The last summary that was begun.
#[derive(Debug)]
pub struct Summary {
    begun: Instant,
    _work: AbortOnDropHandle<()>,
}

impl Conductor {
    /// Has the oldest turns summarised, if it is time.
    pub(super) fn summarise(&mut self) {
        let recent = self.summary.as_ref().is_some_and(|summary| summary.begun.elapsed() < PAUSE);
        if !self.ctx.config.summarise_history || !self.speaker.llm.has_vendor() || recent {
            return;
        }
        let Some(old) = self.account.history().old() else { return };
        let speaker = Arc::clone(&self.speaker);
        let work = async move { summarised(&speaker, old).await };
        let work = AbortOnDropHandle::new(tokio::spawn(work.in_current_span()));
        self.summary = Some(Summary { begun: Instant::now(), _work: work });
    }
}

async fn summarised(speaker: &Speaker, old: crate::agent::cascade::history::Old) {
    let why = match tokio::time::timeout(LIMIT, speaker.llm.summarise(old.transcript.clone())).await {
        Ok(Ok((text, reply, model))) => {
            if let Some(usage) = reply.usage {
                speaker.meter.answered(model, usage);
            }
            if !text.is_empty() {
                speaker.account.history().summarised(&old, &text);
                tracing::debug!("the oldest turns have been summarised");
                return;
            }
            "it is empty".to_owned()
        }
        Ok(Err(Failure::Once(fault) | Failure::Final(fault))) => fault.message,
        Err(_) => format!("it took longer than {} s", LIMIT.as_secs()),
    };
    tracing::warn!(
        code = "agent.llm.summary",
        "no summary of the oldest turns, which are left out when there is no room: {why}"
    );
}
