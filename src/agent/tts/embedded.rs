//! The embedded voice.

use tokio::sync::mpsc;

use super::CODES;
use crate::agent::{
    Context,
    embedded::{Engine, Spoken, Talker},
    health::{Failure, Health},
    retry::fault,
};

/// The voice on this machine.
#[derive(Debug)]
pub struct Service {
    engine: Engine,
    ctx: Context,
    health: Health,
    /// Held as long as the call may have it speak.
    _place: Talker,
}

/// What it says, part by part.
#[derive(Debug)]
pub struct Speech {
    coming: mpsc::Receiver<Spoken>,
    health: Health,
}

impl Service {
    /// The voice, if its models are there.
    pub fn new(ctx: Context, health: Health) -> Result<Self, Failure> {
        let Some(embedded) = &ctx.config.embedded else {
            let what = "the models are not installed: run `hark models install`";
            return Err(Failure::Final(fault("agent.embedded.missing", CODES.name, what)));
        };
        let refused = |refused| Failure::Final(fault("agent.embedded.refused", CODES.name, refused));
        let place = embedded.engine.admit(ctx.call).map_err(refused)?;
        Ok(Self { engine: embedded.engine.clone(), ctx, health, _place: place })
    }

    pub fn speak(&self, text: &str) -> Speech {
        Speech { coming: self.engine.speak(text, self.ctx.rate), health: self.health.clone() }
    }
}

impl Speech {
    pub async fn next(&mut self) -> Result<Option<Vec<i16>>, Failure> {
        while let Some(part) = self.coming.recv().await {
            let samples = part.map_err(|error| Failure::Once(fault(CODES.failed, CODES.name, error)))?;
            self.health.fine();
            if !samples.is_empty() {
                return Ok(Some(samples.to_vec()));
            }
        }
        Ok(None)
    }
}
