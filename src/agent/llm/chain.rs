//! Language models that stand in for one another: what one has begun to say another goes on with.

use std::sync::OnceLock;

use tokio::sync::mpsc;

use super::{Message, Model, NAME, Piece, Prompt, Reply};
use crate::agent::{
    Chain, Context, Service,
    failover::{InUse, Row},
    health::{Failure, Health},
    retry::fault,
    sentence::{Citations, Sentences},
    service::Kind,
};

/// Pieces of one answer on their way.
const PIECES: usize = 8;
/// What a model is told that says in short what was said.
const SUMMARISE: &str = "Below is what was said in a telephone call between a caller and an agent so far. Summarise it for the agent, in the language of the \
                         call and in at most 150 words: who the caller is, what they want, every name, number, date and decision, what was promised and what is open. \
                         Answer with the summary alone.";
/// Longest of those that is read, in bytes.
const MAX_SUMMARY: usize = 16 * 1024;
/// What a model is told that goes on with the answer of another.
const GO_ON: &str = "(Your answer broke off there for a technical reason. Go on with it from exactly that point. Do not repeat anything of it, and \
                     do not mention this.)";

/// The language models of a call.
#[derive(Debug)]
pub struct Llm {
    row: Row,
    /// Each is made when it is first needed.
    models: Vec<OnceLock<(Model, InUse)>>,
}

impl Llm {
    /// The services, of which the first is made ready.
    pub fn new(ctx: &Context, chain: &Chain, health: &Health) -> Result<Self, Failure> {
        let row = Row::new(ctx, chain, Kind::Llm, health);
        let models = row.seats().iter().map(|_| OnceLock::new()).collect();
        let all = Self { row, models };
        // not as one that tries it out: nothing is asked yet
        match all.row.likely().map(|at| all.model(at)) {
            Some(Err(failure)) if all.row.count() == 1 => Err(failure),
            // what is wrong with one of several will be told when it is asked
            _ => Ok(all),
        }
    }

    /// Whether any of them is a vendor's.
    pub fn has_vendor(&self) -> bool {
        self.row.seats().iter().any(|seat| matches!(seat.service, Service::Named(_)))
    }

    /// Whether any of them speaks one of the contracts.
    pub fn has_contract(&self) -> bool {
        self.row.seats().iter().any(|seat| matches!(seat.service, Service::Url(_)))
    }

    /// Sees to a connection that the next request finds open.
    pub async fn warm(&self) {
        if let Some(at) = self.row.likely()
            && let Ok(model) = self.model(at)
        {
            model.warm().await;
        }
    }

    /// Asks for an answer and hands it to `out`; the tools that it calls come with its end, and the name of the model that gave it.
    /// Dropping the future cancels the request.
    pub async fn ask(&self, prompt: &Prompt, out: &mpsc::Sender<Piece>) -> Result<(Reply, &str), Failure> {
        let mut tried = self.row.untried();
        let Some(mut at) = self.row.next(&mut tried) else {
            return Err(Failure::Final(fault("agent.llm.config", NAME, "there is none")));
        };
        let (mut come, mut once, mut resumed) = (Come::default(), None, None);
        loop {
            let failure = match self.ask_at(at, resumed.as_ref().unwrap_or(prompt), out, &mut come).await {
                Ok(reply) => {
                    self.row.worked(at);
                    return Ok(reply);
                }
                Err(failure) => failure,
            };
            let next = self.row.next(&mut tried);
            self.row.failed(at, failure.fault(), next);
            let Some(next) = next else {
                // as long as one of them may do better the next time, the call goes on
                return Err(once.map_or(failure, Failure::Once));
            };
            if let Failure::Once(fault) = failure {
                once = Some(fault);
            }
            // closed: nobody wants to hear it, which the next will find out
            if std::mem::take(&mut come.any) && out.send(Piece::Resume(come.said.clone())).await.is_ok() {
                resumed = (!come.said.is_empty()).then(|| resume(prompt, &come.said));
            }
            at = next;
        }
    }

    /// Says in short what was said, with the name of the model that did. Only vendors' models are asked: whoever stands behind a contract takes
    /// every question for the caller's.
    pub async fn summarise(&self, transcript: String) -> Result<(String, Reply, &str), Failure> {
        let is_vendor = |at: &usize| matches!(self.row.seat(*at).service, Service::Named(_));
        let Some(at) = self.row.free().find(is_vendor) else {
            return Err(Failure::Once(fault("agent.llm.summary", NAME, "none is there to summarise")));
        };
        let model = self.model(at)?;
        let messages = vec![Message::System(SUMMARISE.to_owned()), Message::User(transcript)];
        let (prompt, (pieces, mut told)) = (Prompt { messages, ..Prompt::default() }, mpsc::channel(PIECES));
        let asking = async {
            // moved: the channel closes with the answer
            let pieces = pieces;
            model.ask(&prompt, &pieces).await
        };
        let hearing = async {
            let mut text = String::new();
            while let Some(piece) = told.recv().await {
                match piece {
                    Piece::Text(more) if text.len() < MAX_SUMMARY => text.push_str(&more),
                    _ => {}
                }
            }
            text
        };
        let (reply, text) = tokio::join!(asking, hearing);
        Ok((text.trim().to_owned(), reply?, model.name()))
    }

    async fn ask_at(
        &self,
        at: usize,
        prompt: &Prompt,
        out: &mpsc::Sender<Piece>,
        come: &mut Come,
    ) -> Result<(Reply, &str), Failure> {
        let model = self.model(at)?;
        let reply = match self.row.count() {
            1 => model.ask(prompt, out).await?,
            _ => noted(model, prompt, out, come).await?,
        };
        Ok((reply, model.name()))
    }

    fn model(&self, at: usize) -> Result<&Model, Failure> {
        let cell = &self.models[at];
        if let Some((model, _)) = cell.get() {
            return Ok(model);
        }
        let seat = self.row.seat(at);
        let model = Model::new(seat.ctx.clone(), seat.service.clone(), seat.health.clone())?;
        Ok(&cell.get_or_init(|| (model, seat.take())).0)
    }
}

/// What has come of an answer.
#[derive(Debug, Default)]
struct Come {
    /// Whole sentences.
    said: String,
    /// Anything at all, since the last failure.
    any: bool,
}

/// Asks, and notes what comes of the answer.
async fn noted(model: &Model, prompt: &Prompt, out: &mpsc::Sender<Piece>, come: &mut Come) -> Result<Reply, Failure> {
    let (pieces, mut told) = mpsc::channel(PIECES);
    let asking = async {
        // moved: the channel closes with the answer
        let pieces = pieces;
        model.ask(prompt, &pieces).await
    };
    let passing = async {
        // cut exactly as for the voice
        let (mut citations, mut sentences) = (Citations::default(), Sentences::default());
        while let Some(piece) = told.recv().await {
            come.any = true;
            if let Piece::Text(text) = &piece {
                for sentence in sentences.push(&citations.push(text)) {
                    if !come.said.is_empty() {
                        come.said.push(' ');
                    }
                    come.said.push_str(&sentence);
                }
            }
            if out.send(piece).await.is_err() {
                break;
            }
        }
    };
    let (reply, ()) = tokio::join!(asking, passing);
    reply
}

/// The question to whoever goes on behind `said`.
fn resume(prompt: &Prompt, said: &str) -> Prompt {
    let mut prompt = prompt.clone();
    prompt.messages.push(Message::said(said.to_owned()));
    prompt.messages.push(Message::User(GO_ON.to_owned()));
    prompt
}
