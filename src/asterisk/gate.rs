//! Who may be connected at once: the connections without a UUID, and the connections of each address.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The books of one listener. Places are given back by dropping them.
#[derive(Debug, Default)]
pub(super) struct Gate {
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    next: u64,
    /// Connections without a UUID, the oldest first.
    pending: BTreeMap<u64, CancellationToken>,
    /// Live connections of each address that has any.
    addresses: HashMap<IpAddr, usize>,
}

impl Gate {
    fn books(&self) -> MutexGuard<'_, Books> {
        // nothing in here leaves the books half written, so a panic elsewhere does not make them wrong
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place among the connections without a UUID. With `max` of them there the oldest loses its place; the second value says so.
    pub(super) fn wait(self: &Arc<Self>, max: usize) -> (Waiting, bool) {
        let evicted = CancellationToken::new();
        let mut books = self.books();
        let mut full = false;
        while books.pending.len() >= max.max(1)
            && let Some((_, oldest)) = books.pending.pop_first()
        {
            oldest.cancel();
            full = true;
        }
        let id = books.next;
        books.next += 1;
        books.pending.insert(id, evicted.clone());
        (Waiting { gate: Arc::clone(self), id, evicted }, full)
    }

    /// A place among the connections of `address`; `None` when it has `max` (0 = no limit).
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, max: usize) -> Option<Place> {
        let mut books = self.books();
        let count = books.addresses.get(&address).copied().unwrap_or(0);
        if max > 0 && count >= max {
            return None;
        }
        books.addresses.insert(address, count + 1);
        Some(Place { gate: Arc::clone(self), address })
    }
}

/// The place of a connection that has not sent its UUID.
#[derive(Debug)]
pub(super) struct Waiting {
    gate: Arc<Gate>,
    id: u64,
    /// Cancelled when the place is lost to a newcomer.
    pub(super) evicted: CancellationToken,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.gate.books().pending.remove(&self.id);
    }
}

/// The place of a connection among those of its address.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut books = self.gate.books();
        match books.addresses.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                books.addresses.remove(&self.address);
            }
        }
    }
}

/// Lets one log line through in ten seconds and counts the others, because whoever floods us must not flood the log.
#[derive(Debug, Default)]
pub(super) struct Muffler(Mutex<(Option<Instant>, u64)>);

impl Muffler {
    const EVERY: Duration = Duration::from_secs(10);

    /// Whether to log now, and how many lines were left out since the last.
    pub(super) fn pass(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.0.is_some_and(|last| now - last < Self::EVERY) {
            state.1 += 1;
            return None;
        }
        let left_out = std::mem::take(&mut state.1);
        state.0 = Some(now);
        Some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_oldest_without_a_uuid_goes_first() {
        let gate = Arc::new(Gate::default());
        let (first, _) = gate.wait(2);
        let (second, full) = gate.wait(2);
        assert!(!full && !first.evicted.is_cancelled());
        let (third, full) = gate.wait(2);
        assert!(full && first.evicted.is_cancelled() && !second.evicted.is_cancelled());
        drop(second);
        let (_fourth, full) = gate.wait(2);
        assert!(!full && !third.evicted.is_cancelled());
    }

    #[test]
    fn one_is_always_let_in() {
        let gate = Arc::new(Gate::default());
        let (only, full) = gate.wait(0);
        assert!(!full && !only.evicted.is_cancelled());
    }

    #[test]
    fn an_address_gets_its_places_back() {
        let gate = Arc::new(Gate::default());
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let place = gate.enter(address, 1);
        assert!(place.is_some() && gate.enter(address, 1).is_none());
        assert!(gate.enter(IpAddr::V4(Ipv4Addr::BROADCAST), 1).is_some());
        drop(place);
        assert!(gate.enter(address, 1).is_some());
        assert!(gate.books().addresses.is_empty());
        let many: Vec<_> = (0..100).map(|_| gate.enter(address, 0)).collect();
        assert!(many.iter().all(Option::is_some));
    }

    #[tokio::test(start_paused = true)]
    async fn one_line_in_ten_seconds() {
        let muffler = Muffler::default();
        assert_eq!(muffler.pass(), Some(0));
        assert_eq!((muffler.pass(), muffler.pass()), (None, None));
        tokio::time::advance(Muffler::EVERY).await;
        assert_eq!(muffler.pass(), Some(2));
    }
}
