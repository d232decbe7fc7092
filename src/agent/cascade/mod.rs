//! Speech recognition, language model and speech synthesis as one agent.

mod asking;
mod conductor;
mod history;
mod inbox;
mod meter;
mod speaker;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context as Poller, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use futures_util::StreamExt as _;
pub(super) use inbox::Inbox;
use tokio::{sync::mpsc, task::JoinSet};
use tracing::Instrument as _;

use self::{
    conductor::{Conductor, Control},
    speaker::Tagged,
};
use super::{
    Chain, Context,
    stt::{self, Ends},
};
use crate::{
    audio::Frame,
    call::{Agent, AgentEvent, AgentInput, Link, Sent},
};

/// Controls that wait to be taken: they are taken at once, so this is only ever full when the thread has stopped.
const CONTROLS: usize = 128;
/// The caller's frames that wait for speech recognition (3 s).
const FRAMES: usize = 150;
/// Events that wait to be taken by the call; each holds at most a second of audio.
const EVENTS: usize = 8;
/// How long an orderly end may take.
const CLOSE: Duration = Duration::from_millis(2_500);

/// Which services a cascade uses.
#[derive(Debug, Clone)]
pub struct Services {
    /// Speech recognition.
    pub asr: Chain,
    /// Language model.
    pub llm: Chain,
    /// Speech synthesis.
    pub tts: Chain,
    /// Spoken first, and the `system` message of what the language model is asked.
    pub greeting: Option<String>,
}

/// Speech recognition, language model and speech synthesis as one agent. Its tasks end with it.
#[derive(Debug)]
pub struct Cascade {
    controls: Arc<Inbox<Control>>,
    audio: Arc<Inbox<Frame>>,
    meter: Arc<meter::Meter>,
    events: mpsc::Receiver<Tagged>,
    /// Interruptions so far: audio that was on its way before the last one is not given out.
    generation: u32,
    finishing: bool,
    _tasks: JoinSet<()>,
}

impl Cascade {
    /// Starts listening and speaks the greeting. Must be called inside a tokio runtime.
    #[must_use]
    pub fn start(ctx: Context, services: Services) -> Self {
        let controls = Arc::new(Inbox::new(CONTROLS));
        let audio = Arc::new(Inbox::new(FRAMES));
        let (out, events) = mpsc::channel(EVENTS);
        let (heard, to_hear) = mpsc::channel(16);
        let (orders, to_follow) = mpsc::channel(4);
        let (reports, to_report) = mpsc::channel(16);
        let health = super::health::Health::new(super::health::Service::Stt, reports.clone());
        let ends = Ends { audio: Arc::clone(&audio), orders: to_follow, heard, health };
        let mut tasks = JoinSet::new();
        tasks.spawn(stt::listen(ctx.clone(), services.asr.clone(), ends).in_current_span());
        let meter = Arc::new(meter::Meter::default());
        let wiring = conductor::Wiring {
            controls: Arc::clone(&controls),
            heard: to_hear,
            orders,
            reports,
            to_report,
            out,
            meter: Arc::clone(&meter),
        };
        tasks.spawn(Conductor::start(ctx, services, wiring).in_current_span());
        Self { controls, audio, meter, events, generation: 0, finishing: false, _tasks: tasks }
    }
}

impl Stream for Cascade {
    type Item = AgentEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<Option<AgentEvent>> {
        loop {
            let Some(Tagged { generation, protected, event }) = ready!(self.events.poll_recv(cx)) else {
                return Poll::Ready(None);
            };
            let speech = matches!(
                event,
                AgentEvent::Audio(..) | AgentEvent::AudioEnd(_) | AgentEvent::Timing(_) | AgentEvent::TurnDone
            );
            if !speech || protected || generation == self.generation {
                return Poll::Ready(Some(event));
            }
        }
    }
}

impl Link for Cascade {
    type Event = AgentEvent;
    type Command = AgentInput;

    fn send(&mut self, command: AgentInput) -> Sent<AgentInput> {
        let control = match command {
            AgentInput::Audio(frame) => {
                self.meter.heard();
                if self.audio.force(frame) == 1 {
                    // full only when the conductor does not run either
                    let _ = self.controls.offer(Control::Slow);
                }
                return Sent::Whole;
            }
            control => control,
        };
        let (cuts, finishes) = (matches!(control, AgentInput::Interrupt { .. }), matches!(control, AgentInput::Finish));
        match self.controls.offer(Control::Input(control)) {
            Ok(()) => {
                self.generation = self.generation.wrapping_add(u32::from(cuts));
                self.finishing |= finishes;
                Sent::Whole
            }
            Err(Control::Input(control)) => Sent::Refused(control),
            Err(Control::Slow) => Sent::Whole,
        }
    }
}

impl Agent for Cascade {
    async fn close(mut self) {
        if !self.finishing {
            let _ = self.send(AgentInput::Finish);
        }
        // what comes now has nobody to go to; past the limit the tasks are aborted
        let _ = tokio::time::timeout(CLOSE, async { while self.next().await.is_some() {} }).await;
    }
}
