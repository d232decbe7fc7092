//! Whose turn it is: brings speech recognition, language model and speech synthesis of one call together.

mod caller;
mod speaking;
mod summary;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use self::{
    caller::Caller,
    speaking::{Running, Saying, work},
};
use super::{
    Inbox, Services,
    history::History,
    meter::Meter,
    speaker::{Account, Speaker, Tagged},
};
use crate::{
    agent::{
        Context,
        health::{Failure, Health, News, Report, Service},
        llm::Llm,
        prompt::SystemPrompt,
        retry::fault,
        stt::{Heard, Order},
        tts::Tts,
    },
    call::{AgentEvent, AgentInput, Digit, Fault, Replaced, Role, Say},
};

/// Events that wait for room; audio waits elsewhere.
const PENDING: usize = 64;
/// Bytes of one token, as a rule.
const TOKEN: usize = 4;
/// Texts that wait to be spoken.
const SAYINGS: usize = 16;
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
    pub meter: Arc<Meter>,
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
    caller: Caller,
    running: Option<Running>,
    sayings: VecDeque<Saying>,
    queued: Option<String>,
    bad_turns: u32,
    troubled: Vec<Service>,
    finish_by: Option<Instant>,
    warming: Option<AbortOnDropHandle<()>>,
    summary: Option<summary::Summary>,
}

impl Conductor {
    /// Conducts until the call is over or a service has failed.
    pub async fn start(ctx: Context, services: Services, wiring: Wiring) {
        let health = |service| Health::new(service, wiring.reports.clone());
        let made = Llm::new(&ctx, &services.llm, &health(Service::Llm))
            .and_then(|llm| Ok((llm, Tts::new(&ctx, &services.tts, &health(Service::Tts))?)));
        let (llm, tts) = match made {
            Ok(made) => made,
            Err(Failure::Once(fault) | Failure::Final(fault)) => {
                // closed: the call is over
                let _ =
                    wiring.out.send(Tagged { generation: 0, protected: false, event: AgentEvent::Failed(fault) }).await;
                return;
            }
        };
        // without a prompt the greeting is what the model is told, as AVR has it
        let prompt = SystemPrompt::new(ctx.clone(), llm.has_vendor());
        let prompted = prompt.is_some();
        let system = services.greeting.clone().filter(|_| !prompted);
        let vendors = llm.has_vendor().then(|| ctx.config.history_tokens.saturating_mul(TOKEN));
        // Express takes bodies up to 100 kB
        let contracts = llm.has_contract().then_some(90_000);
        let room = vendors.into_iter().chain(contracts).min().unwrap_or_default();
        let account = Arc::new(Account::new(History::new(ctx.rate, system, room)));
        let speaker = Arc::new(Speaker {
            ctx: ctx.clone(),
            llm,
            tts,
            prompt,
            account: Arc::clone(&account),
            out: wiring.out.clone(),
            health: health(Service::Tts),
            failures: 0.into(),
            filled: 0.into(),
            meter: Arc::clone(&wiring.meter),
        });
        let protect = ctx.rules.config.protect_greeting;
        let mut conductor = Self {
            ctx,
            wiring,
            account,
            speaker,
            generation: 0,
            pending: VecDeque::new(),
            lost: 0,
            caller: Caller::new(services.asr.tells_early()),
            running: None,
            sayings: services.greeting.map(|text| Saying { text, shown: prompted, protect }).into_iter().collect(),
            queued: None,
            bad_turns: 0,
            troubled: Vec::new(),
            finish_by: None,
            warming: None,
            summary: None,
        };
        conductor.warm();
        conductor.run().await;
        conductor.end().await;
    }

    /// Has what the next question needs prepared while the caller speaks.
    fn warm(&mut self) {
        if self.warming.as_ref().is_some_and(|warming| !warming.is_finished()) {
            return;
        }
        let speaker = Arc::clone(&self.speaker);
        let work = async move {
            tokio::join!(speaker.llm.warm(), speaker.prompt.get());
        };
        self.warming = Some(AbortOnDropHandle::new(tokio::spawn(work.in_current_span())));
    }

    async fn run(&mut self) {
        let (out, meter) = (self.wiring.out.clone(), Arc::clone(&self.wiring.meter));
        loop {
            self.begin_next();
            let flow = tokio::select! {
                biased;
                control = self.wiring.controls.take() => self.control(control),
                Some(report) = self.wiring.to_report.recv() => self.report(report),
                permit = out.reserve(), if !self.pending.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(event) = self.pending.pop_front() {
                            permit.send(Tagged { generation: self.generation, protected: false, event });
                        }
                        Flow::On
                    }
                    Err(_) => Flow::End,
                },
                () = meter.told.notified() => {
                    self.tools_called();
                    Flow::On
                }
                result = work(&mut self.running) => self.answered(result),
                // before the timer: what has come in time must not count as late (floods are stopped where they come in)
                heard = self.wiring.heard.recv() => self.heard(heard),
                () = at(self.caller.debounce) => self.debounced(),
                () = at(self.caller.flush_at) => self.flush(),
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
        self.tools_called();
        if let Some(usage) = self.wiring.meter.usage() {
            // a failure is the last that is told
            let at = self.pending.iter().position(|event| matches!(event, AgentEvent::Failed(_)));
            self.pending.insert(at.unwrap_or(self.pending.len()), AgentEvent::Usage(usage));
        }
        let (out, generation) = (self.wiring.out.clone(), self.generation);
        let events = std::mem::take(&mut self.pending);
        let all = async {
            for event in events {
                if out.send(Tagged { generation, protected: false, event }).await.is_err() {
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
                    news: News::Trouble(fault("agent.stt.slow", "speech recognition", what)),
                });
            }
        };
        match input {
            AgentInput::Interrupt { utterance, heard } => self.interrupted(utterance, heard),
            AgentInput::Played(id) => {
                self.account.history().played(id);
                self.account.played.notify_one();
                self.transcripts(false);
                self.heard_out();
            }
            AgentInput::Dtmf(digit) => self.pressed(&digit.to_string()),
            AgentInput::Digits(digits) => self.pressed(&digits.iter().map(Digit::to_string).collect::<String>()),
            AgentInput::Say(Say { text, protect }) if self.sayings.len() < SAYINGS => {
                self.sayings.push_back(Saying { text, shown: true, protect });
            }
            AgentInput::Say(_) => tracing::warn!("too many texts wait to be spoken; one is left out"),
            AgentInput::Finish => {
                self.stop();
                self.sayings.clear();
                self.queued = None;
                self.finish_by = Some(Instant::now() + FINISH);
                // full or closed: it has been told, or needs not be
                let _ = self.wiring.orders.try_send(Order::Finish);
            }
            AgentInput::CallerSpeech(true) => self.caller_speaks(),
            AgentInput::CallerPauses => self.caller_pauses(),
            AgentInput::CallerSpeech(false) => self.caller_stopped(),
            AgentInput::Audio(_) => {}
        }
        Flow::On
    }

    fn fail(&mut self, fault: Fault) -> Flow {
        tracing::error!(code = fault.code, "{}; the call cannot go on", fault.message);
        self.push(AgentEvent::Failed(fault));
        Flow::End
    }

    fn report(&mut self, Report { service, news }: Report) -> Flow {
        let known = self.troubled.iter().position(|&troubled| troubled == service);
        match (news, known) {
            (News::Trouble(fault), None) => {
                tracing::warn!(code = fault.code, "{}", fault.message);
                self.troubled.push(service);
                self.push(AgentEvent::Degraded(fault));
            }
            (News::Trouble(fault), Some(_)) => {
                tracing::debug!(code = fault.code, "still in trouble: {}", fault.message)
            }
            (News::Fine, Some(at)) => {
                self.troubled.swap_remove(at);
                if self.troubled.is_empty() {
                    self.push(AgentEvent::Restored);
                }
            }
            (News::Fine, None) => {}
            (News::Replaced(replaced), _) => {
                let Replaced { fault, service, by } = &replaced;
                tracing::warn!(code = fault.code, service, by, "{}; {by} takes over from {service}", fault.message);
                self.push(AgentEvent::Replaced(replaced));
            }
        }
        Flow::On
    }

    fn tools_called(&mut self) {
        for event in self.wiring.meter.take() {
            self.push(event);
        }
    }

    fn transcripts(&mut self, all: bool) {
        let texts = self.account.history().transcripts(all);
        for text in texts {
            self.push(AgentEvent::Transcript { role: Role::Agent, text, is_final: true });
        }
    }

    fn push(&mut self, event: AgentEvent) {
        if self.pending.len() >= PENDING {
            // what may still change is missed least
            self.pending.remove(self.pending.iter().position(may_change).unwrap_or(0));
            self.lost += 1;
            if self.lost == 1 {
                tracing::warn!("events of the agent are not taken fast enough; the oldest are dropped");
            }
        }
        self.pending.push_back(event);
    }
}

const fn may_change(event: &AgentEvent) -> bool {
    matches!(event, AgentEvent::Transcript { is_final: false, .. })
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
