//! What is asked of live calls, carried out between the call itself and its PBX.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tracing::{info, warn};
use uuid::Uuid;

use super::outbound::{self, Outbounds};
use crate::{
    agent::tools::Order,
    api::{Control, Later},
    asterisk::{
        ami::{self, Ami},
        ari::{self, Consulted, Consulting, ControlError, Decision},
    },
    call::{
        Attended, Begun, CallId, Command, Digit, EndReason, Origination, Outbound, Refusal, Refused, Request, Say,
        Target,
    },
    session::{Entry, Registry},
};

/// What the agent is saying is waited for by the call itself; this is for a call that does not answer at all.
const HEARD_OUT: Duration = Duration::from_secs(20);
/// A caller whom the PBX has taken is gone from us within this time; else the agent goes on.
const GONE: Duration = Duration::from_secs(10);
/// The same where a telephone was told to call somebody else.
const REFERRED: Duration = Duration::from_secs(60);

/// Carries out requests. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Controls {
    registry: Arc<Registry>,
    pbxs: ari::Control,
    ami: Option<Ami>,
    outbounds: Arc<Outbounds>,
}

/// A live call that something is to be done with.
struct Found {
    id: CallId,
    entry: Entry,
}

impl Found {
    fn tell(&self, command: Command) -> Result<(), Refused> {
        self.entry.commands.try_send(command).map_err(|_| {
            refused(
                Refusal::Busy,
                "call.busy",
                "the call has too many orders to carry out, or is ending; try again".to_owned(),
            )
        })
    }

    /// Nobody else gives the caller away or hangs up.
    fn giving(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Refused> {
        self.entry.giving.try_lock().map_err(|_| {
            let message = "the caller is being given away or hung up already: wait for that".to_owned();
            refused(Refusal::Busy, "call.busy", message)
        })
    }

    /// Waits until the agent has finished its sentence; from then on it neither hears nor says anything.
    async fn hand_over(&self, reason: EndReason) -> Result<(), Refused> {
        self.tell(Command::HandOver(reason))?;
        let heard = async {
            tokio::select! {
                () = self.entry.heard_out.notified() => true,
                () = self.entry.commands.closed() => false,
            }
        };
        match timeout(HEARD_OUT, heard).await {
            Ok(false) => Err(refused(Refusal::NoCall, "call.ended", "the call ended meanwhile".to_owned())),
            _ => Ok(()),
        }
    }

    /// Waits until the call has ended; `false`: it has not in this time.
    async fn ended_within(&self, limit: Duration) -> bool {
        timeout(limit, self.entry.commands.closed()).await.is_ok()
    }
}

impl Controls {
    pub fn new(registry: Arc<Registry>, pbxs: ari::Control, ami: &ami::Config, outbounds: Arc<Outbounds>) -> Self {
        Self { registry, pbxs, ami: Ami::of(ami), outbounds }
    }

    fn find(&self, call: Uuid) -> Result<Found, Refused> {
        let found = self.registry.entries(call).into_iter().next();
        found.map(|(id, entry)| Found { id, entry }).ok_or_else(|| {
            refused(
                Refusal::NoCall,
                "call.unknown",
                format!("no live call of this gateway has the UUID or hark-call-id {call}"),
            )
        })
    }

    async fn carry_out(&self, call: Found, request: Request) -> Result<(), Refused> {
        let uuid = call.entry.uuid;
        match request {
            Request::Hangup { cause, now } => self.hang_up(call, cause, now).await,
            Request::Transfer(target) => {
                let taken =
                    self.given_away(&call, EndReason::Transferred, GONE, self.transfer(uuid, target.clone())).await;
                let place = place(&target);
                tell(&call, taken, &format!("given to {place}"))
            }
            Request::Refer(endpoint) => {
                let order = async { Ok(self.pbxs.order(uuid, ari::Order::Redirect(endpoint.clone())).await?) };
                let taken = self.given_away(&call, EndReason::Transferred, REFERRED, order).await;
                tell(&call, taken, &format!("referred to {endpoint:?}"))
            }
            Request::Attend(attended) => {
                let whom = attended.to.clone();
                let taken = self.attended(&call, attended).await;
                tell(&call, taken, &format!("taken by {whom:?}"))
            }
            Request::Say(say) => call.tell(Command::Say(say)),
            Request::Mute(on) => call.tell(Command::Mute(on)),
            Request::Record(on) => call.tell(Command::Record(on)),
            Request::Collect(how) => call.tell(Command::Collect(how)),
            Request::Hold(on) => {
                self.pbxs.order(uuid, ari::Order::Hold(on)).await?;
                call.tell(Command::Mute(on))
            }
            Request::Music(on) => {
                self.pbxs.order(uuid, ari::Order::Moh(on)).await?;
                call.tell(Command::Mute(on))
            }
            Request::Dtmf(digits) => self.dial(&call, digits).await,
            Request::Variable(name, value) => Ok(self.pbxs.order(uuid, ari::Order::SetVariable(name, value)).await?),
        }
    }

    /// Carries out what tools of agents want done with their calls.
    pub async fn serve(self, mut orders: mpsc::Receiver<Order>) {
        while let Some(Order { call, request, done }) = orders.recv().await {
            let controls = self.clone();
            // as many as there are calls, and each of them for a bounded time
            tokio::spawn(async move {
                let result = match controls.find(call.into()) {
                    Ok(found) => controls.carry_out(found, request).await,
                    Err(refused) => Err(refused),
                };
                // dropped: the caller has spoken meanwhile, or is gone
                let _ = done.send(result);
            });
        }
    }

    /// Ends the call: by the PBX where it can be told to, else by leaving it, so that its dialplan goes on.
    async fn hang_up(&self, call: Found, cause: Option<u16>, now: bool) -> Result<(), Refused> {
        let uuid = call.entry.uuid;
        let order = async {
            match (self.pbxs.order(uuid, ari::Order::Hangup(cause)).await, &self.ami) {
                (Err(ControlError::NoPbx | ControlError::NoCall(_)), Some(ami)) => match ami.caller(uuid).await? {
                    Some(channel) => Ok(ami.hang_up(&channel, cause).await?),
                    None => Err(unknown_channel(uuid)),
                },
                (result, _) => Ok(result?),
            }
        };
        let taken = if now { order.await } else { self.given_away(&call, EndReason::Hangup, GONE, order).await };
        match taken {
            Ok(()) => info!(call = %call.id, "hung up on request"),
            Err(reason) if reason.code == "call.ended" => {}
            Err(reason) => {
                info!(call = %call.id, "the PBX does not hang up, so the gateway leaves the call and its dialplan goes on: {reason}");
                call.tell(if now { Command::Hangup(EndReason::Hangup) } else { Command::Finish(EndReason::Hangup) })?;
            }
        }
        Ok(())
    }

    /// Lets the agent finish its sentence, has the PBX take the caller, and takes them back where it does not.
    async fn given_away(
        &self,
        call: &Found,
        reason: EndReason,
        limit: Duration,
        order: impl Future<Output = Result<(), Refused>>,
    ) -> Result<(), Refused> {
        let _alone = call.giving()?;
        call.hand_over(reason).await?;
        let done = order.await;
        if done.is_ok() && call.ended_within(limit).await {
            return Ok(());
        }
        // full or gone: then it ends by itself
        let _ = call.tell(Command::TakeBack(None));
        done?;
        let message = format!(
            "the PBX accepted it, but has not taken the caller away within {} s: the agent goes on",
            limit.as_secs()
        );
        Err(refused(Refusal::Failed, "call.not_taken", message))
    }

    /// Asks somebody whether they take the caller; they and the agent are together meanwhile. Unless they do, the caller is back with the agent.
    async fn attended(&self, call: &Found, attended: Attended) -> Result<(), Refused> {
        let asked = self.outbounds.asked(&attended)?;
        let _alone = call.giving()?;
        call.hand_over(EndReason::CallerHangup).await?;
        let result = match self.pbxs.consult(call.entry.uuid, asked) {
            Ok(consulting) => self.asking(call, &attended, consulting).await,
            Err(reason) => Err(reason.into()),
        };
        if result.is_err() {
            // full or gone: then it ends by itself
            let _ = call.tell(Command::TakeBack(None));
        }
        result
    }

    async fn asking(&self, call: &Found, attended: &Attended, consulting: Consulting) -> Result<(), Refused> {
        let Consulting { mut told, decide } = consulting;
        let over = || refused(Refusal::NoCall, "call.ended", "the call ended meanwhile".to_owned());
        let back = |answered, cause| if answered { not_taken() } else { outbound::not_answered(cause) };
        match told.recv().await {
            Some(Consulted::Answered) => {}
            Some(Consulted::Back { answered, cause }) => return Err(back(answered, cause)),
            _ => return Err(over()),
        }
        let words = attended.announce.clone().unwrap_or_default();
        let speaks = !words.trim().is_empty();
        if speaks {
            call.tell(Command::Announce(Say { text: words, protect: true }))?;
        }
        let said = async {
            if speaks {
                let _ = timeout(HEARD_OUT, call.entry.heard_out.notified()).await;
            }
        };
        let patience = Duration::from_secs(attended.accept_s.into());
        let course = async {
            said.await;
            if attended.accept_voice {
                // full or gone: then there is the key
                let _ = call.tell(Command::Listen);
                return timeout(patience, call.entry.heard_out.notified()).await.is_ok();
            }
            if attended.accept.is_some() {
                sleep(patience).await;
            }
            attended.accept.is_none()
        };
        tokio::pin!(course);
        let joins = loop {
            tokio::select! { biased;
                step = told.recv() => match step {
                    Some(Consulted::Key(key)) => if let Some(accept) = attended.accept {
                        break key == accept.as_char();
                    },
                    Some(Consulted::Back { answered, cause }) => return Err(back(answered, cause)),
                    _ => return Err(over()),
                },
                joins = &mut course => break joins,
            }
        };
        // gone: so is the call
        let _ = decide.try_send(if joins { Decision::Join } else { Decision::Return });
        loop {
            match told.recv().await {
                Some(Consulted::Joined) => return call.tell(Command::Hangup(EndReason::Transferred)),
                Some(Consulted::Key(_) | Consulted::Answered) => {}
                Some(Consulted::Back { answered, cause }) => return Err(back(answered, cause)),
                Some(Consulted::Over) | None => return Err(over()),
            }
        }
    }

    async fn transfer(&self, uuid: Uuid, target: Target) -> Result<(), Refused> {
        let Target { context, exten, priority } = target;
        // Asterisk accepts a place that does not exist, and hangs up there
        let place = |context: &str| {
            let priority = priority.as_deref().unwrap_or("1");
            (format!("DIALPLAN_EXISTS({context},{exten},{priority})"), format!("{context},{exten},{priority}"))
        };
        let context_now = match &context {
            Some(context) => Some(context.clone()),
            None => self.pbxs.variable(uuid, "CONTEXT").await.ok().flatten(),
        };
        if let Some(context) = context_now {
            let (function, name) = place(&context);
            // without func_dialplan nobody knows
            if self.pbxs.variable(uuid, &function).await.ok().flatten().as_deref() == Some("0") {
                return Err(no_such_place(&name));
            }
        }
        let there = ari::Target {
            context: context.clone(),
            exten: Some(exten.clone()),
            priority: priority.clone().or(Some("1".to_owned())),
        };
        let by_ari = self.pbxs.order(uuid, ari::Order::Continue(there)).await;
        let (Err(ControlError::NoPbx | ControlError::NoCall(_) | ControlError::NotInStasis(_)), Some(ami)) =
            (&by_ari, &self.ami)
        else {
            return Ok(by_ari?);
        };
        let Some(channel) = ami.caller(uuid).await? else { return Err(unknown_channel(uuid)) };
        let context = match context {
            Some(context) => context,
            None => ami.context(&channel).await?.ok_or_else(|| unknown_channel(uuid))?,
        };
        let (function, name) = place(&context);
        if ami.variable(&channel, &function).await.is_ok_and(|exists| exists == "0") {
            return Err(no_such_place(&name));
        }
        Ok(ami.redirect(&channel, &context, &exten, priority.as_deref().unwrap_or("1")).await?)
    }

    async fn dial(&self, call: &Found, digits: Vec<Digit>) -> Result<(), Refused> {
        let keys = digits.iter().map(Digit::to_string).collect();
        match self.pbxs.order(call.entry.uuid, ari::Order::Dtmf(keys)).await {
            Ok(()) => Ok(()),
            Err(ControlError::NoPbx | ControlError::NoCall(_) | ControlError::NotInStasis(_)) => {
                call.tell(Command::Dial(digits))
            }
            Err(reason) => Err(reason.into()),
        }
    }

    async fn originate(&self, origination: Origination) -> Result<(), Refused> {
        let Origination { channel, target, caller_id } = origination;
        let priority = target.priority.as_deref().unwrap_or("1");
        let context = target.context.as_deref().unwrap_or("default");
        if let Some(ami) = &self.ami {
            return Ok(ami.originate(&channel, [context, &target.exten, priority], caller_id.as_deref()).await?);
        }
        Ok(self.pbxs.place(&channel, [context, &target.exten, priority], caller_id.as_deref()).await?)
    }
}

impl Control for Controls {
    fn carry_out(&self, call: Uuid, request: Request) -> Later<'_, Result<(), Refused>> {
        Box::pin(async move {
            if matches!(request, Request::Hangup { .. }) && self.outbounds.cancel(call) {
                return Ok(());
            }
            let call = self.find(call)?;
            Self::carry_out(self, call, request).await
        })
    }

    fn begin(&self, call: Uuid, request: Request) -> Result<(), Refused> {
        let (call, controls) = (self.find(call)?, self.clone());
        tokio::spawn(async move {
            let id = call.id;
            if let Err(reason) = Controls::carry_out(&controls, call, request).await {
                warn!(call = %id, code = reason.code, "what was asked of this call was not done: {reason}");
            }
        });
        Ok(())
    }

    fn call(&self, order: Outbound, about: Map<String, Value>) -> Later<'_, Result<Begun, Refused>> {
        Box::pin(self.outbounds.call(order, about))
    }

    fn originate(&self, origination: Origination) -> Later<'_, Result<(), Refused>> {
        Box::pin(Self::originate(self, origination))
    }
}

fn place(target: &Target) -> String {
    let Target { context, exten, priority } = target;
    format!("{},{exten:?},{}", context.as_deref().unwrap_or("(its context)"), priority.as_deref().unwrap_or("1"))
}

/// Logs what became of the caller.
fn tell(call: &Found, taken: Result<(), Refused>, done: &str) -> Result<(), Refused> {
    match &taken {
        Ok(()) => info!(call = %call.id, "caller {done}"),
        Err(reason) if reason.code == "call.ended" => {
            info!(call = %call.id, "the call ended before the caller was {done}")
        }
        Err(reason) => {
            warn!(call = %call.id, code = reason.code, "the caller was not {done}; the agent goes on: {reason}")
        }
    }
    taken
}

const fn refused(kind: Refusal, code: &'static str, message: String) -> Refused {
    Refused { kind, code, message }
}

fn no_such_place(name: &str) -> Refused {
    let message = format!(
        "the PBX has no {name} (context,extension,priority) in its dialplan: `dialplan show` lists what there is"
    );
    refused(Refusal::Impossible, "call.no_such_place", message)
}

fn not_taken() -> Refused {
    let message = "who was asked does not take the caller, who is back with the agent".to_owned();
    refused(Refusal::Failed, "call.attended.declined", message)
}

fn unknown_channel(uuid: Uuid) -> Refused {
    refused(Refusal::NoCall, "call.no_channel", format!("the PBX has no caller's channel of the call {uuid}"))
}

impl From<ControlError> for Refused {
    fn from(error: ControlError) -> Self {
        let kind = match &error {
            ControlError::NoCall(_) => Refusal::NoCall,
            ControlError::NoPbx | ControlError::NotInStasis(_) | ControlError::PerCall => Refusal::Impossible,
            ControlError::Busy => Refusal::Busy,
            ControlError::Refused(_) => Refusal::Failed,
        };
        let mut message = error.to_string();
        if matches!(error, ControlError::NotInStasis(_) | ControlError::NoPbx) {
            message.push_str("; or set ami.host (AMI_HOST), and AMI takes the caller");
        }
        refused(kind, error.code(), message)
    }
}

impl From<ami::Error> for Refused {
    fn from(error: ami::Error) -> Self {
        refused(Refusal::Failed, error.code(), error.to_string())
    }
}
