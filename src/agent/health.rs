//! How the services of a cascade are doing.

use tokio::sync::mpsc;

use crate::call::Fault;

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

/// News of a service: a fault, or that it works.
#[derive(Debug)]
pub struct Report {
    pub service: Service,
    pub fault: Option<Fault>,
}

/// Where a service reports to.
#[derive(Debug, Clone)]
pub struct Health {
    service: Service,
    reports: mpsc::Sender<Report>,
}

impl Health {
    pub const fn new(service: Service, reports: mpsc::Sender<Report>) -> Self {
        Self { service, reports }
    }

    /// It is in trouble.
    pub fn trouble(&self, fault: Fault) {
        self.report(Some(fault));
    }

    /// It works.
    pub fn fine(&self) {
        self.report(None);
    }

    fn report(&self, fault: Option<Fault>) {
        // full: somebody has news of this call already, and the next report will come
        let _ = self.reports.try_send(Report { service: self.service, fault });
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
