//! How each service is doing, over all calls of the process.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use tokio::time::Instant;

use super::breaker::{Breaker, Limits, Severity, State};
use crate::{
    agent::{
        Service,
        service::{Kind, place},
    },
    call::Fault,
};

/// Services that are remembered; receivers of webhooks may name ever new ones.
const MOST: usize = 256;

/// The services that calls of this process have used.
#[derive(Debug, Default)]
pub struct Standings {
    known: Mutex<BTreeMap<(Kind, String), Arc<Standing>>>,
}

/// How one service is doing.
#[derive(Debug)]
pub struct Standing {
    kind: Kind,
    name: String,
    inner: Mutex<Inner>,
    calls: AtomicUsize,
    failures: AtomicU64,
    takeovers: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    breaker: Breaker,
    /// Code and words of the last failure, without keys and fit for a log.
    last_error: Option<(Fault, SystemTime)>,
    last_success: Option<SystemTime>,
    used: Instant,
}

/// What can be shown of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Vendor and model, or the address without credentials.
    pub service: String,
    /// What it is used as: `stt`, `llm`, `tts` or `sts`.
    pub kind: &'static str,
    /// `closed` (it is used), `open` (it is left alone) or `half_open` (it is tried out).
    pub state: &'static str,
    /// Failures since it last worked.
    pub consecutive_failures: u32,
    /// How long it is left alone still, in ms.
    pub retry_in_ms: Option<u64>,
    /// The last failure.
    pub last_error: Option<(Fault, SystemTime)>,
    /// When it last worked.
    pub last_success: Option<SystemTime>,
    /// Calls that use it now.
    pub calls: usize,
    /// Failures so far.
    pub failures: u64,
    /// Times that another service took over from it.
    pub takeovers: u64,
}

impl Standings {
    /// That of a service.
    pub fn of(&self, kind: Kind, service: &Service) -> Arc<Standing> {
        let name = match service {
            // parameters may be a call's own
            Service::Url(url) => place(url),
            Service::Named(named) => named.to_string(),
        };
        let mut known = lock(&self.known);
        let key = (kind, name);
        if let Some(standing) = known.get(&key) {
            lock(&standing.inner).used = Instant::now();
            return Arc::clone(standing);
        }
        if known.len() >= MOST {
            let used = |standing: &Standing| lock(&standing.inner).used;
            let oldest = known.iter().min_by_key(|(_, standing)| used(standing)).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| known.remove(&oldest));
        }
        let standing = Arc::new(Standing::new(kind, key.1.clone()));
        known.insert(key, Arc::clone(&standing));
        standing
    }

    /// All of them.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        let all: Vec<_> = lock(&self.known).values().cloned().collect();
        all.iter().map(|standing| standing.shown(Instant::now())).collect()
    }
}

impl Standing {
    fn new(kind: Kind, name: String) -> Self {
        let breaker = Breaker::default();
        Self {
            kind,
            name,
            inner: Mutex::new(Inner { breaker, last_error: None, last_success: None, used: Instant::now() }),
            calls: AtomicUsize::new(0),
            failures: AtomicU64::new(0),
            takeovers: AtomicU64::new(0),
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it may be used now.
    pub fn admits(&self) -> bool {
        lock(&self.inner).breaker.admits(Instant::now())
    }

    /// Whether it could be used now, without a claim to do so.
    pub fn is_free(&self) -> bool {
        lock(&self.inner).breaker.state(Instant::now()) != State::Open
    }

    /// When it may be used.
    pub fn until(&self) -> Option<Instant> {
        lock(&self.inner).breaker.until()
    }

    /// It has done what it is there for.
    pub fn worked(&self) {
        let mut inner = lock(&self.inner);
        let was = inner.breaker.state(Instant::now());
        inner.breaker.worked();
        inner.last_success = Some(SystemTime::now());
        drop(inner);
        if was != State::Closed {
            tracing::info!(code = "agent.service.back", "{} ({}) works again", self.name, self.kind.short());
        }
    }

    /// It has failed.
    pub fn failed(&self, fault: &Fault, severity: Severity, limits: Limits) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut inner = lock(&self.inner);
        let opened = inner.breaker.failed(severity, limits, now);
        let pause = inner.breaker.until().map(|until| until.saturating_duration_since(now));
        inner.last_error = Some((fault.clone(), SystemTime::now()));
        drop(inner);
        if let Some(pause) = pause.filter(|_| opened) {
            tracing::warn!(
                code = "agent.service.open",
                "calls that have another service leave {} ({}) alone for {} s: {}",
                self.name,
                self.kind.short(),
                pause.as_secs(),
                fault.message
            );
        }
    }

    /// Another service has taken over from it.
    pub fn taken_over(&self) {
        self.takeovers.fetch_add(1, Ordering::Relaxed);
    }

    fn shown(&self, now: Instant) -> Shown {
        let inner = lock(&self.inner);
        let left = inner.breaker.until().map(|until| until.saturating_duration_since(now)).filter(|d| !d.is_zero());
        Shown {
            service: self.name.clone(),
            kind: self.kind.short(),
            state: inner.breaker.state(now).name(),
            consecutive_failures: inner.breaker.failures(),
            retry_in_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            last_error: inner.last_error.clone(),
            last_success: inner.last_success,
            calls: self.calls.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            takeovers: self.takeovers.load(Ordering::Relaxed),
        }
    }
}

/// A call's use of a service, until dropped.
#[derive(Debug)]
pub struct InUse(Arc<Standing>);

impl InUse {
    /// Begins.
    pub fn of(standing: &Arc<Standing>) -> Self {
        standing.calls.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(standing))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_known_without_credentials_and_without_end_forgotten() {
        let standings = Standings::default();
        let url = |text: &str| Service::Url(text.parse().unwrap());
        let one = standings.of(Kind::Stt, &url("wss://us:hunter2@stt.example/x?token=hunter3"));
        let same = standings.of(Kind::Stt, &url("wss://stt.example/x?token=other"));
        assert!(Arc::ptr_eq(&one, &same));
        assert!(!Arc::ptr_eq(&one, &standings.of(Kind::Tts, &url("wss://stt.example/x"))));
        let uses = (InUse::of(&one), InUse::of(&same));
        assert_eq!(standings.shown()[0].calls, 2);
        drop(uses);
        assert_eq!(standings.shown()[0].calls, 0);
        for n in 0..1_000 {
            standings.of(Kind::Llm, &url(&format!("http://a/{n}")));
        }
        let shown = standings.shown();
        assert_eq!(shown.len(), MOST);
        assert!(!format!("{shown:?}").contains("hunter"));
    }
}
