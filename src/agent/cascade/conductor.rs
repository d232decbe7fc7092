//! Whose turn it is: brings speech recognition, language model and speech synthesis of one call together.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    Inbox, Services,
    history::History,
    speaker::{Account, Speaker, Tagged},
};
use crate::{
    agent::{
        Context,
        health::{Failure, Health, Report, Service},
        llm::Llm,
        retry::fault,
        stt::{Heard, Joiner, Order},
        tts::Tts,
    },
    call::{AgentEvent, AgentInput, Digit, Edge, Fault, Role},
};

/// Events that wait for room; audio waits elsewhere.
const PENDING: usize = 64;
/// Texts that wait to be spoken.
const SAYINGS: usize = 16;
/// Longest text of the caller that waits for its turn, in bytes.
const MAX_QUEUED: usize = 8_000;
/// Turns in a row that may fail.
const MAX_BAD_TURNS: u32 = 3;
/// How long the last texts are waited for when the caller is gone.
const FINISH: Duration = Duration::from_secs(2);
/// How long the last events may wait to be taken.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// What the conductor is told.
#[derive(Debug)]
pub enum Control {
    /// By the call.
    Input(AgentInput),
    /// Speech recognition does not take the caller's audio fast enough.
    Slow,
}

/// The ends that the conductor needs.
#[derive(Debug)]
pub struct Wiring {
    pub controls: Arc<Inbox<Control>>,
    pub heard: mpsc::Receiver<Heard>,
    pub orders: mpsc::Sender<Order>,
    pub reports: mpsc::Sender<Report>,
    pub to_report: mpsc::Receiver<Report>,
    pub out: mpsc::Sender<Tagged>,
}

type Speaking = Pin<Box<dyn Future<Output = Result<Option<Fault>, Fault>> + Send>>;

/// What is being spoken, or thought about.
struct Running {
    work: Speaking,
    gate: watch::Sender<Option<u32>>,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// A text that was given.
    Saying,
    /// The answer to the caller's last turn.
    Answer,
    /// The answer to what the caller's turn will be, unless they say more.
    Guess(String),
}

/// Whether the loop goes on.
enum Flow {
    On,
    End,
}

pub struct Conductor {
    ctx: Context,
    wiring: Wiring,
    account: Arc<Account>,
    speaker: Arc<Speaker>,
    generation: u32,
    pending: VecDeque<AgentEvent>,
    lost: u64,
    joiner: Joiner,
    debounce: Option<Instant>,
    /// Whether to ask before the debounce is over: not where texts come in fragments.
    guesses: bool,
    running: Option<Running>,
    sayings: VecDeque<(String, bool)>,
    queued: Option<String>,
    bad_turns: u32,
    troubled: Vec<Service>,
    finish_by: Option<Instant>,
}

impl Conductor {
    /// Conducts until the call is over or a service has failed.
    pub async fn start(ctx: Context, services: Services, wiring: Wiring) {
        let health = |service| Health::new(service, wiring.reports.clone());
        let made = Llm::new(ctx.clone(), services.llm, health(Service::Llm))
            .and_then(|llm| Ok((llm, Tts::new(ctx.clone(), services.tts, health(Service::Tts))?)));
        let (llm, tts) = match made {
            Ok(made) => made,
            Err(Failure::Once(fault) | Failure::Final(fault)) => {
                // closed: the call is over
                let _ = wiring.out.send(Tagged { generation: 0, event: AgentEvent::Failed(fault) }).await;
                return;
            }
        };
        let account = Arc::new(Account::new(History::new(ctx.rate, services.greeting.clone())));
        let speaker = Arc::new(Speaker {
            ctx: ctx.clone(),
            llm,
            tts,
            account: Arc::clone(&account),
            out: wiring.out.clone(),
            health: health(Service::Tts),
            failures: 0.into(),
        });
        let mut conductor = Self {
            ctx,
            wiring,
            account,
            speaker,
            generation: 0,
            pending: VecDeque::new(),
            lost: 0,
            joiner: Joiner::default(),
            debounce: None,
            guesses: true,
            running: None,
            sayings: services.greeting.map(|text| (text, false)).into_iter().collect(),
            queued: None,
            bad_turns: 0,
            troubled: Vec::new(),
            finish_by: None,
        };
        conductor.run().await;
        conductor.end().await;
    }

    async fn run(&mut self) {
        let out = self.wiring.out.clone();
        loop {
            self.begin_next();
            let flow = tokio::select! {
                biased;
                control = self.wiring.controls.take() => self.control(control),
                Some(report) = self.wiring.to_report.recv() => self.report(report),
                permit = out.reserve(), if !self.pending.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(event) = self.pending.pop_front() {
                            permit.send(Tagged { generation: self.generation, event });
                        }
                        Flow::On
                    }
                    Err(_) => Flow::End,
                },
                result = work(&mut self.running) => self.answered(result),
                // before the timer: what has come in time must not count as late (floods are stopped where they come in)
                heard = self.wiring.heard.recv() => self.heard(heard),
                () = at(self.debounce) => self.debounced(),
                () = at(self.finish_by) => Flow::End,
            };
            if matches!(flow, Flow::End) {
                return;
            }
        }
    }

    /// Gives out what is left.
    async fn end(&mut self) {
        self.running = None;
        self.flush_joiner();
        self.transcripts(true);
        let (out, generation) = (self.wiring.out.clone(), self.generation);
        let events = std::mem::take(&mut self.pending);
        let all = async {
            for event in events {
                if out.send(Tagged { generation, event }).await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(LAST_EVENTS, all).await.is_err() {
            tracing::warn!("the last events of the agent were not taken");
        }
    }

    fn control(&mut self, control: Control) -> Flow {
        let input = match control {
            Control::Input(input) => input,
            Control::Slow => {
                let what = "it does not take the caller's audio as fast as it comes; the oldest is dropped";
                return self.report(Report {
                    service: Service::Stt,
                    fault: Some(fault("agent.stt.slow", "speech recognition", what)),
                });
            }
        };
        match input {
            AgentInput::Interrupt { utterance, heard } => {
                self.generation = self.generation.wrapping_add(1);
                let audible = self.account.history().is_audible();
                // an answer that has not been heard yet is none that was cut
                if self.running.as_ref().is_some_and(|running| !matches!(running.kind, Kind::Guess(_)) && audible) {
                    self.running = None;
                    self.account.history().stop();
                }
                self.account.history().interrupt(utterance, heard);
                if let Some(running) = &self.running {
                    running.gate.send_if_modified(|gate| gate.is_some() && gate.replace(self.generation).is_some());
                }
                self.account.played.notify_one();
                self.transcripts(false);
            }
            AgentInput::Played(id) => {
                self.account.history().played(id);
                self.account.played.notify_one();
                self.transcripts(false);
            }
            AgentInput::Dtmf(digit) => self.digit(digit),
            AgentInput::Say(text) if self.sayings.len() < SAYINGS => self.sayings.push_back((text, true)),
            AgentInput::Say(_) => tracing::warn!("too many texts wait to be spoken; one is left out"),
            AgentInput::Finish => {
                self.stop();
                self.sayings.clear();
                self.queued = None;
                self.finish_by = Some(Instant::now() + FINISH);
                // full or closed: it has been told, or needs not be
                let _ = self.wiring.orders.try_send(Order::Finish);
            }
            AgentInput::CallerSpeech(false) => {
                // full: it has been told
                let _ = self.wiring.orders.try_send(Order::Flush);
            }
            AgentInput::CallerSpeech(true) | AgentInput::Audio(_) => {}
        }
        Flow::On
    }

    fn heard(&mut self, heard: Option<Heard>) -> Flow {
        match heard {
            Some(Heard::Piece(text)) => {
                tracing::debug!(?text, "heard");
                self.piece(&text);
                Flow::On
            }
            Some(Heard::Partial(text)) => {
                self.push(AgentEvent::Transcript { role: Role::User, text, is_final: false });
                Flow::On
            }
            Some(Heard::Started) => {
                self.push(AgentEvent::Speech(Edge::Started));
                Flow::On
            }
            Some(Heard::EndOfTurn) => {
                self.push(AgentEvent::Speech(Edge::Stopped));
                self.debounced()
            }
            Some(Heard::Ended(Err(fault))) if self.finish_by.is_none() => self.fail(fault),
            Some(Heard::Ended(_)) | None => Flow::End,
        }
    }

    fn piece(&mut self, text: &str) {
        let follows = !self.joiner.is_empty();
        for utterance in self.joiner.push(text) {
            self.debounce = None;
            self.utterance(&utterance);
        }
        self.guesses &= !follows && !self.joiner.saw_end();
        let Some(so_far) = self.joiner.peek() else { return };
        let now = Instant::now();
        self.debounce = Some(now + Duration::from_millis(self.ctx.config.debounce_ms));
        if matches!(&self.running, Some(running) if matches!(running.kind, Kind::Guess(_))) {
            self.running = None;
        }
        if self.guesses && self.finish_by.is_none() && self.running.is_none() && self.queued.is_none() {
            self.guess(so_far);
        }
    }

    /// Asks before it is sure that the caller has said everything; nothing of the answer is heard before that.
    fn guess(&mut self, text: String) {
        let messages = {
            let history = self.account.history();
            if !history.is_answered() {
                return;
            }
            history.messages_with(&text)
        };
        let (gate, closed) = watch::channel(None);
        let speaker = Arc::clone(&self.speaker);
        let work: Speaking = Box::pin(async move { speaker.answer(messages, closed).await });
        self.running = Some(Running { work, gate, kind: Kind::Guess(text) });
    }

    fn debounced(&mut self) -> Flow {
        self.debounce = None;
        self.flush_joiner();
        Flow::On
    }

    fn flush_joiner(&mut self) {
        if let Some(utterance) = self.joiner.flush() {
            self.utterance(&utterance);
        }
    }

    /// The caller has said something.
    fn utterance(&mut self, text: &str) {
        self.push(AgentEvent::Transcript { role: Role::User, text: text.to_owned(), is_final: true });
        if self.finish_by.is_some() {
            return;
        }
        match self.running.as_mut() {
            Some(running) if running.kind == Kind::Guess(text.to_owned()) => {
                running.kind = Kind::Answer;
                let mut history = self.account.history();
                history.user(text);
                history.answer(true);
                drop(history);
                running.gate.send_replace(Some(self.generation));
                return;
            }
            Some(Running { kind: Kind::Saying, .. }) => return self.queue(text),
            Some(Running { kind: Kind::Answer, .. }) if self.account.history().is_audible() => return self.queue(text),
            _ => {}
        }
        self.running = None;
        self.account.history().user_continues(text);
        self.ask();
    }

    fn queue(&mut self, text: &str) {
        match &mut self.queued {
            Some(queued) if queued.len() + text.len() < MAX_QUEUED => {
                queued.push(' ');
                queued.push_str(text);
            }
            queued => *queued = Some(text.to_owned()),
        }
    }

    fn digit(&mut self, digit: Digit) {
        if self.finish_by.is_some() {
            return;
        }
        self.stop();
        if let Some(before) = self.queued.take() {
            self.account.history().user(&before);
        }
        self.account.history().user(&digit.to_string());
        self.ask();
    }

    /// Stops speaking where it is; what has been sent is still heard.
    fn stop(&mut self) {
        if let Some(running) = self.running.take()
            && !matches!(running.kind, Kind::Guess(_))
        {
            let open = self.account.history().stop();
            if let Some(id) = open {
                self.push(AgentEvent::AudioEnd(id));
            }
            self.transcripts(false);
        }
    }

    fn ask(&mut self) {
        let messages = {
            let mut history = self.account.history();
            let messages = history.messages();
            history.answer(true);
            messages
        };
        let (gate, open) = watch::channel(Some(self.generation));
        let speaker = Arc::clone(&self.speaker);
        let work: Speaking = Box::pin(async move { speaker.answer(messages, open).await });
        self.running = Some(Running { work, gate, kind: Kind::Answer });
    }

    fn begin_next(&mut self) {
        if self.running.is_some() || self.finish_by.is_some() {
            return;
        }
        if let Some((text, shown)) = self.sayings.pop_front() {
            self.account.history().answer(shown);
            let (gate, open) = watch::channel(Some(self.generation));
            let speaker = Arc::clone(&self.speaker);
            let work: Speaking = Box::pin(async move { speaker.say(&text, open).await });
            self.running = Some(Running { work, gate, kind: Kind::Saying });
        } else if let Some(text) = self.queued.take() {
            self.account.history().user_continues(&text);
            self.ask();
        }
    }

    fn answered(&mut self, result: Result<Option<Fault>, Fault>) -> Flow {
        let kind = self.running.take().map(|running| running.kind);
        if let Some(Kind::Guess(_)) = kind {
            // nothing of it was audible, or it would still wait; the turn that comes asks again
            return Flow::On;
        }
        self.account.history().answer_ended();
        self.push(AgentEvent::TurnDone);
        self.transcripts(false);
        match result {
            Ok(None) => {
                self.bad_turns = 0;
                Flow::On
            }
            Ok(Some(fault)) => {
                self.bad_turns += 1;
                if self.bad_turns >= MAX_BAD_TURNS {
                    return self.fail(fault);
                }
                self.report(Report { service: Service::Llm, fault: Some(fault) })
            }
            Err(fault) => self.fail(fault),
        }
    }

    fn fail(&mut self, fault: Fault) -> Flow {
        tracing::error!(code = fault.code, "{}; the call cannot go on", fault.message);
        self.push(AgentEvent::Failed(fault));
        Flow::End
    }

    fn report(&mut self, Report { service, fault }: Report) -> Flow {
        let known = self.troubled.iter().position(|&troubled| troubled == service);
        match (fault, known) {
            (Some(fault), None) => {
                tracing::warn!(code = fault.code, "{}", fault.message);
                self.troubled.push(service);
                self.push(AgentEvent::Degraded(fault));
            }
            (Some(fault), Some(_)) => tracing::debug!(code = fault.code, "still in trouble: {}", fault.message),
            (None, Some(at)) => {
                self.troubled.swap_remove(at);
                if self.troubled.is_empty() {
                    self.push(AgentEvent::Restored);
                }
            }
            (None, None) => {}
        }
        Flow::On
    }

    fn transcripts(&mut self, all: bool) {
        let texts = self.account.history().transcripts(all);
        for text in texts {
            self.push(AgentEvent::Transcript { role: Role::Agent, text, is_final: true });
        }
    }

    fn push(&mut self, event: AgentEvent) {
        if self.pending.len() >= PENDING {
            self.pending.pop_front();
            self.lost += 1;
            if self.lost == 1 {
                tracing::warn!("events of the agent are not taken fast enough; the oldest are dropped");
            }
        }
        self.pending.push_back(event);
    }
}

async fn work(running: &mut Option<Running>) -> Result<Option<Fault>, Fault> {
    match running {
        Some(running) => running.work.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
