//! Which of a call's sources may have something: each is polled only after it woke.
//!
//! A call wakes three times in 20 ms, for one source each time. Polling all of them at every wake would cost more than the work itself:
//! every poll of an idle socket, timer or channel takes a lock and registers a waker anew.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// Something that a call waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    Stop,
    Timer,
    Commands,
    Leg,
    Agent,
}

impl Source {
    const ALL: [Self; 5] = [Self::Stop, Self::Timer, Self::Commands, Self::Leg, Self::Agent];

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The sources of one call, and which of them are to be polled.
#[derive(Debug)]
pub(super) struct Sources {
    shared: Arc<Shared>,
    wakers: [Waker; Source::ALL.len()],
    due: u8,
}

#[derive(Debug)]
struct Shared {
    woken: AtomicU8,
    task: AtomicWaker,
}

/// Wakes the task, and tells it for which source.
struct Bell {
    shared: Arc<Shared>,
    bit: u8,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.shared.woken.fetch_or(self.bit, Ordering::AcqRel);
        self.shared.task.wake();
    }
}

impl Sources {
    /// All sources, each to be polled once.
    pub(super) fn new() -> Self {
        let shared = Arc::new(Shared { woken: AtomicU8::new(0), task: AtomicWaker::new() });
        let wakers =
            Source::ALL.map(|source| Waker::from(Arc::new(Bell { shared: Arc::clone(&shared), bit: source.bit() })));
        Self { shared, wakers, due: u8::MAX }
    }

    /// Has the source polled at the next pass, because something was done to it.
    pub(super) const fn rouse(&mut self, source: Source) {
        self.due |= source.bit();
    }

    /// Begins a pass in the task of `cx`: takes note of what woke. A source that wakes from here on wakes this task.
    pub(super) fn begin(&mut self, cx: &Context<'_>) {
        self.shared.task.register(cx.waker());
        self.due |= self.shared.woken.swap(0, Ordering::AcqRel);
    }

    /// Polls the source if it woke. One that was ready is polled again at the next pass.
    pub(super) fn poll<T>(&mut self, source: Source, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if self.due & source.bit() == 0 {
            return Poll::Pending;
        }
        let polled = poll(&mut Context::from_waker(&self.wakers[source as usize]));
        if polled.is_pending() {
            self.due &= !source.bit();
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_source_is_polled_once_and_then_only_after_it_woke() {
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let cx = Context::from_waker(&waker);
        let mut sources = Sources::new();
        let mut polls = [0; 2];
        let mut kept: [Option<Waker>; 2] = [None, None];
        let mut pass = |sources: &mut Sources, polls: &mut [u32; 2]| {
            sources.begin(&cx);
            for (at, source) in [Source::Leg, Source::Agent].into_iter().enumerate() {
                let polled: Poll<()> = sources.poll(source, |cx| {
                    polls[at] += 1;
                    kept[at] = Some(cx.waker().clone());
                    Poll::Pending
                });
                assert!(polled.is_pending());
            }
            kept.clone().map(Option::unwrap)
        };
        pass(&mut sources, &mut polls);
        let [leg, agent] = pass(&mut sources, &mut polls);
        assert_eq!(polls, [1, 1]);
        leg.wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        pass(&mut sources, &mut polls);
        assert_eq!(polls, [2, 1]);
        // both between two passes, one of them twice
        leg.wake_by_ref();
        agent.wake_by_ref();
        agent.wake_by_ref();
        assert!(task.0.load(Ordering::Relaxed) >= 2);
        pass(&mut sources, &mut polls);
        assert_eq!(polls, [3, 2]);
        sources.rouse(Source::Agent);
        pass(&mut sources, &mut polls);
        assert_eq!(polls, [3, 3]);
    }

    #[test]
    fn one_that_was_ready_is_polled_again() {
        let mut sources = Sources::new();
        for left in [2, 1, 0] {
            sources.begin(&Context::from_waker(Waker::noop()));
            let polled = sources.poll(Source::Leg, |_| if left > 0 { Poll::Ready(left) } else { Poll::Pending });
            assert_eq!(polled.is_ready(), left > 0);
        }
        sources.begin(&Context::from_waker(Waker::noop()));
        assert!(sources.poll(Source::Leg, |_| Poll::Ready(())).is_pending());
    }
}
