//! The store against a model of it: random puts, deliveries, outcomes, crashes and restarts, on real files.

use std::{collections::BTreeMap, path::Path, time::Duration};

use hark::{
    call::{CallId, EventId},
    webhook::{
        Due, Entry, Outbox, Outcome, Recipient, Report,
        store::{State, Store},
    },
};
use proptest::prelude::*;
use tokio::time::timeout;
use uuid::Uuid;

use crate::support::{
    PATIENCE,
    stores::{open, said, sqlite},
};

const ENDPOINTS: [&str; 2] = ["a", "b"];
const CALLS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// An event of this call for these endpoints; waited for or not.
    Put {
        call: usize,
        to: usize,
        wait: bool,
    },
    Next {
        endpoint: usize,
    },
    /// One of the events that are out.
    Mark {
        out: usize,
        outcome: u8,
    },
    RetryDead,
    Crash,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..CALLS, 1_usize..4, any::<bool>()).prop_map(|(call, to, wait)| Step::Put { call, to, wait }),
        6 => (0..ENDPOINTS.len()).prop_map(|endpoint| Step::Next { endpoint }),
        6 => (0_usize..8, 0_u8..6).prop_map(|(out, outcome)| Step::Mark { out, outcome }),
        1 => Just(Step::RetryDead),
        1 => Just(Step::Crash),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

/// One delivery as the model has it: where it may stand. More than one: a crash will tell.
#[derive(Debug)]
struct Expected {
    id: EventId,
    states: Vec<State>,
    /// Its put was not waited for.
    maybe: bool,
}

type Lane = Vec<Expected>;

struct Model {
    calls: Vec<CallId>,
    lanes: BTreeMap<(usize, usize), Lane>,
    out: Vec<Due>,
    /// Events that may have been fetched ahead when earlier ones of their lane were revived: those may still come first.
    ahead: Vec<(usize, EventId)>,
}

impl Model {
    fn lane_of(&mut self, due: &Due) -> &mut Lane {
        let endpoint = ENDPOINTS.iter().position(|name| *name == &*due.endpoint).unwrap();
        let call = self.calls.iter().position(|call| *call == due.call).unwrap();
        self.lanes.get_mut(&(endpoint, call)).unwrap()
    }

    /// Whether something has to come at `endpoint`: a lane with a pending event and none out.
    fn available(&self, endpoint: usize) -> bool {
        self.lanes.iter().any(|((at, call), lane)| {
            let out = self.out.iter().any(|due| *due.endpoint == *ENDPOINTS[endpoint] && due.call == self.calls[*call]);
            *at == endpoint && !out && lane.iter().any(|expected| expected.states.last() == Some(&State::Pending))
        })
    }

    fn handed_out(&mut self, due: Due) {
        assert!(
            !self.out.iter().any(|out| out.endpoint == due.endpoint && out.call == due.call),
            "two of a lane are out"
        );
        let endpoint = ENDPOINTS.iter().position(|name| *name == &*due.endpoint).unwrap();
        let ahead = self.ahead.contains(&(endpoint, due.id));
        let lane = self.lane_of(&due);
        let pending = |expected: &Expected| expected.states.last() == Some(&State::Pending);
        let first = lane.iter().position(|expected| pending(expected) && (!ahead || expected.id == due.id)).unwrap();
        assert_eq!((due.id, due.seq), (lane[first].id, first as u64 + 1), "not the first of its lane");
        let members: Vec<_> = lane.iter().map(|expected| expected.id).collect();
        self.ahead.retain(|(at, id)| *at != endpoint || !members.contains(id));
        let lane = self.lane_of(&due);
        // whoever sees an event knows that it is committed, and all before it
        lane[..=first].iter_mut().for_each(|expected| expected.maybe = false);
        self.out.push(due);
    }

    /// After a crash: what is there has to be something that may be there.
    async fn observe(&mut self, store: &Store) {
        self.out.clear();
        self.ahead.clear();
        for ((endpoint, _), lane) in &mut self.lanes {
            let mut found = Vec::new();
            for expected in lane.drain(..) {
                let shown = store.show(expected.id).await.unwrap();
                let delivery =
                    shown.into_iter().map(|shown| shown.delivery).find(|d| d.endpoint == ENDPOINTS[*endpoint]);
                let Some(delivery) = delivery else {
                    assert!(expected.maybe, "{:?} was committed and is gone", expected.id);
                    continue;
                };
                assert_eq!(delivery.seq, found.len() as u64 + 1, "a gap, or another order");
                assert!(expected.states.contains(&delivery.state), "{delivery:?}, expected {:?}", expected.states);
                found.push(Expected { states: vec![delivery.state], maybe: false, ..expected });
            }
            *lane = found;
        }
    }
}

/// What was handed to the store so far is committed.
async fn sync(store: &Store) {
    store.announce(Uuid::nil(), Uuid::nil().into(), String::new(), Duration::ZERO).await.unwrap();
}

async fn run(dir: &Path, steps: Vec<Step>) {
    let mut store = open(&sqlite(dir)).await;
    let calls = (0..CALLS).map(|_| CallId::new()).collect();
    let mut model = Model { calls, lanes: BTreeMap::new(), out: Vec::new(), ahead: Vec::new() };
    for step in steps {
        match step {
            Step::Put { call, to, wait } => {
                let to: Vec<usize> = (0..ENDPOINTS.len()).filter(|endpoint| to >> endpoint & 1 == 1).collect();
                let recipients = to.iter().map(|endpoint| Recipient::plain(ENDPOINTS[*endpoint].into())).collect();
                let entry = Entry { to: recipients, ..said(model.calls[call], "x") };
                for endpoint in to {
                    let expected = Expected { id: entry.id, states: vec![State::Pending], maybe: !wait };
                    model.lanes.entry((endpoint, call)).or_default().push(expected);
                }
                let put = store.put(entry);
                if wait {
                    put.await.unwrap();
                }
            }
            Step::Next { endpoint } if model.available(endpoint) => {
                let due = timeout(PATIENCE, store.next(ENDPOINTS[endpoint])).await.expect("due and not handed out");
                model.handed_out(due);
            }
            Step::Next { .. } => {}
            Step::Mark { out, outcome } if !model.out.is_empty() => {
                let due = model.out.remove(out % model.out.len());
                let (outcome, state) = match outcome {
                    0 => (Outcome::GivenUp, State::Dead),
                    1 | 2 => (Outcome::RetryAfter(Duration::ZERO), State::Pending),
                    _ => (Outcome::Delivered, State::Done),
                };
                store.mark(&due, outcome, Report::default());
                let expected = model.lane_of(&due).iter_mut().find(|expected| expected.id == due.id).unwrap();
                expected.states = vec![State::Pending, state];
            }
            Step::Mark { .. } => {}
            Step::RetryDead => {
                sync(&store).await;
                store.retry_dead(None, std::time::SystemTime::UNIX_EPOCH).await.unwrap();
                for ((endpoint, _), lane) in &model.lanes {
                    let first = lane.iter().find(|expected| expected.states.last() == Some(&State::Pending));
                    model.ahead.extend(first.map(|first| (*endpoint, first.id)));
                }
                for expected in model.lanes.values_mut().flatten() {
                    expected.maybe = false;
                    expected.states =
                        expected.states.iter().map(|s| if *s == State::Dead { State::Pending } else { *s }).collect();
                }
            }
            Step::Crash => {
                drop(store);
                store = open(&sqlite(dir)).await;
                model.observe(&store).await;
            }
            Step::Restart => {
                assert!(store.close(tokio::time::Instant::now() + PATIENCE).await);
                drop(store);
                store = open(&sqlite(dir)).await;
                for expected in model.lanes.values_mut().flatten() {
                    expected.maybe = false;
                    expected.states = vec![*expected.states.last().unwrap()];
                }
                model.observe(&store).await;
            }
        }
    }
    drain(&store, &mut model).await;
}

/// In the end everything comes, in order.
async fn drain(store: &Store, model: &mut Model) {
    for due in std::mem::take(&mut model.out) {
        store.mark(&due, Outcome::Delivered, Report::default());
        let expected = model.lane_of(&due).iter_mut().find(|expected| expected.id == due.id).unwrap();
        expected.states = vec![State::Done];
    }
    for (endpoint, name) in ENDPOINTS.iter().enumerate() {
        while model.available(endpoint) {
            let due = timeout(PATIENCE, store.next(name)).await.expect("due and not handed out");
            model.handed_out(due.clone());
            store.mark(&due, Outcome::Delivered, Report::default());
            model.out.clear();
            let expected = model.lane_of(&due).iter_mut().find(|expected| expected.id == due.id).unwrap();
            expected.states = vec![State::Done];
        }
    }
    sync(store).await;
    assert_eq!(store.left(), 0);
    assert!(store.count().await.unwrap().pending.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_time: 20_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_reordered_or_numbered_with_gaps(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        runtime.block_on(async { timeout(3 * PATIENCE, run(dir.path(), steps)).await.expect("it hangs") });
    }
}
