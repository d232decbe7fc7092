//! Any agent: which one a call has is known only when it comes.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use futures_core::Stream;

use super::{
    Context, Route,
    builtin::{Builtin, Voice},
    cascade::{Cascade, Services},
    sts::{self, http::StsHttp, websocket::Sts},
};
use crate::call::{Agent, AgentEvent, AgentInput, Link, Sent};

/// The agent of a call, of whatever kind. Boxed, because an enum has the size of its largest.
pub enum AnyAgent {
    /// Speech to speech over a WebSocket.
    Sts(Box<Sts>),
    /// Speech to speech over HTTP.
    StsHttp(Box<StsHttp>),
    /// Speech to speech of a vendor.
    StsVendor(Box<sts::Line>),
    /// Speech recognition, language model and speech synthesis.
    Cascade(Box<Cascade>),
    /// The embedded agent.
    Builtin(Box<Builtin>),
}

macro_rules! each {
    ($self:expr, $agent:ident => $do:expr) => {
        match $self {
            AnyAgent::Sts($agent) => $do,
            AnyAgent::StsHttp($agent) => $do,
            AnyAgent::StsVendor($agent) => $do,
            AnyAgent::Cascade($agent) => $do,
            AnyAgent::Builtin($agent) => $do,
        }
    };
}

/// Starts the agent that `route` names. Connecting goes on while the call already runs.
#[must_use]
pub fn connect(route: Route, context: Context, voice: &Voice) -> AnyAgent {
    match route {
        Route::StsWebSocket(url) => AnyAgent::Sts(Box::new(Sts::start(url, context))),
        Route::StsHttp(url) => AnyAgent::StsHttp(Box::new(StsHttp::start(url, context))),
        Route::StsVendor { service, greeting } => {
            AnyAgent::StsVendor(Box::new(sts::start(*service, context, greeting)))
        }
        Route::Builtin { greeting } => {
            let mut context = context;
            if greeting != context.config.greeting {
                Arc::make_mut(&mut context.config).greeting = greeting;
            }
            AnyAgent::Builtin(Box::new(Builtin::start(context, voice.clone())))
        }
        Route::Cascade { asr, llm, tts, greeting } => {
            AnyAgent::Cascade(Box::new(Cascade::start(context, Services { asr, llm, tts, greeting })))
        }
    }
}

impl Stream for AnyAgent {
    type Item = AgentEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Option<AgentEvent>> {
        each!(self.get_mut(), agent => Pin::new(agent.as_mut()).poll_next(context))
    }
}

impl Link for AnyAgent {
    type Event = AgentEvent;
    type Command = AgentInput;

    fn send(&mut self, command: AgentInput) -> Sent<AgentInput> {
        each!(self, agent => agent.send(command))
    }
}

impl Agent for AnyAgent {
    async fn close(self) {
        each!(self, agent => agent.close().await);
    }
}
