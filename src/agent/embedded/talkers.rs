//! Who talks to the embedded engine: so many calls as it can serve well, and no more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::call::CallId;

/// The calls that are served.
#[derive(Debug)]
pub struct Talkers {
    most: usize,
    /// How many parts of each call (ears, voice, all of it) hold its place.
    calls: Mutex<HashMap<CallId, usize>>,
}

/// A call's place, until it is dropped.
#[derive(Debug)]
pub struct Talker {
    talkers: Arc<Talkers>,
    call: CallId,
}

/// Why a call has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// All are taken.
    #[error("this machine listens and speaks to {0} calls at once by itself, and they are in use (embedded.max_calls)")]
    Full(usize),
    /// No thread works.
    #[error(
        "the models of the embedded agent cannot be used any more; the log says why (`hark models verify` reads them)"
    )]
    Down,
}

impl Talkers {
    /// For so many calls.
    pub fn new(most: usize) -> Self {
        Self { most, calls: Mutex::default() }
    }

    /// A place for a call; one that has a place may take it again.
    pub fn admit(this: &Arc<Self>, call: CallId) -> Result<Talker, Refused> {
        let mut calls = this.lock();
        if !calls.contains_key(&call) && calls.len() >= this.most {
            return Err(Refused::Full(this.most));
        }
        *calls.entry(call).or_insert(0) += 1;
        drop(calls);
        Ok(Talker { talkers: Arc::clone(this), call })
    }

    /// Calls that are served.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// How many could be.
    pub const fn most(&self) -> usize {
        self.most
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CallId, usize>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let mut calls = self.talkers.lock();
        if let Some(parts) = calls.get_mut(&self.call) {
            *parts -= 1;
            if *parts == 0 {
                calls.remove(&self.call);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_one_place_however_many_parts_of_it_ask() {
        let talkers = Arc::new(Talkers::new(2));
        let (one, two, three) = (CallId::new(), CallId::new(), CallId::new());
        let all = Talkers::admit(&talkers, one).unwrap();
        let ears = Talkers::admit(&talkers, one).unwrap();
        let other = Talkers::admit(&talkers, two).unwrap();
        assert_eq!(talkers.count(), 2);
        assert_eq!(Talkers::admit(&talkers, three).err(), Some(Refused::Full(2)));
        // who is there may have more of it
        let voice = Talkers::admit(&talkers, two).unwrap();
        drop(all);
        assert_eq!(Talkers::admit(&talkers, three).err(), Some(Refused::Full(2)));
        drop(ears);
        let third = Talkers::admit(&talkers, three).unwrap();
        drop((other, voice, third));
        assert_eq!(talkers.count(), 0);
    }
}
