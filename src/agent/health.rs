//! How the services of a cascade are doing.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;

use crate::call::{Fault, Replaced};

/// A service of a cascade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Speech recognition.
    Stt,
    /// The language model.
    Llm,
    /// Speech synthesis.
    Tts,
}

/// News of a service.
#[derive(Debug)]
pub struct Report {
    pub service: Service,
    pub news: News,
}

/// What is new.
#[derive(Debug)]
pub enum News {
    /// It is in trouble.
    Trouble(Fault),
    /// It works.
    Fine,
    /// It has failed, and another has taken its place.
    Replaced(Replaced),
}

/// A refusal over HTTP: its status, and for how long the service wants to be left alone.
type Answer = (u16, Option<Duration>);

/// Where a service reports to.
#[derive(Debug, Clone)]
pub struct Health {
    service: Service,
    reports: mpsc::Sender<Report>,
    spare: bool,
    /// The last refusal.
    answer: Arc<Mutex<Option<Answer>>>,
}

impl Health {
    pub fn new(service: Service, reports: mpsc::Sender<Report>) -> Self {
        Self { service, reports, spare: false, answer: Arc::default() }
    }

    /// That of one of several services: whether another can take its place.
    pub fn with_spare(&self, spare: bool) -> Self {
        Self { spare, ..Self::new(self.service, self.reports.clone()) }
    }

    /// Whether another can take its place, so that nothing needs to be tried again.
    pub const fn has_spare(&self) -> bool {
        self.spare
    }

    /// It is in trouble.
    pub fn trouble(&self, fault: Fault) {
        self.report(News::Trouble(fault));
    }

    /// It works.
    pub fn fine(&self) {
        self.report(News::Fine);
    }

    /// Another has taken its place.
    pub fn replaced(&self, replaced: Replaced) {
        self.report(News::Replaced(replaced));
    }

    /// It refused something with this status, and wants to be left alone for so long.
    pub fn answered(&self, status: u16, after: Option<Duration>) {
        *self.lock() = Some((status, after));
    }

    /// What it refused with since this was last asked.
    pub fn answer(&self) -> Option<Answer> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Answer>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, news: News) {
        // full: somebody has news of this call already, and the next report will come
        let _ = self.reports.try_send(Report { service: self.service, news });
    }
}

/// Why a service did not do what it was asked to.
#[derive(Debug)]
pub enum Failure {
    /// This time; the next may be better.
    Once(Fault),
    /// For good.
    Final(Fault),
}

impl Failure {
    /// What went wrong.
    pub const fn fault(&self) -> &Fault {
        match self {
            Self::Once(fault) | Self::Final(fault) => fault,
        }
    }
}
