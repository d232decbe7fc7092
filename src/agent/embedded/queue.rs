//! What waits for a thread: what somebody waits for first, guesses when there is time.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// Two bounded queues, of which the second is looked at when the first is empty.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    come: Condvar,
    most: usize,
    most_guesses: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    needed: VecDeque<T>,
    guesses: VecDeque<T>,
    is_closed: bool,
}

impl<T> Queue<T> {
    /// For so many of each.
    pub fn new(most: usize, most_guesses: usize) -> Self {
        let waiting = Waiting { needed: VecDeque::new(), guesses: VecDeque::new(), is_closed: false };
        Self { waiting: Mutex::new(waiting), come: Condvar::new(), most, most_guesses }
    }

    /// Hands something in.
    ///
    /// # Errors
    /// There is no room, or nobody takes it any more.
    pub fn offer(&self, item: T, is_guess: bool) -> Result<(), T> {
        let mut waiting = self.lock();
        let is_closed = waiting.is_closed;
        let (queue, most) = match is_guess {
            true => (&mut waiting.guesses, self.most_guesses),
            false => (&mut waiting.needed, self.most),
        };
        if is_closed || queue.len() >= most {
            return Err(item);
        }
        queue.push_back(item);
        drop(waiting);
        self.come.notify_one();
        Ok(())
    }

    /// Waits for the next; `None`: it is closed.
    pub fn take(&self) -> Option<T> {
        let waits =
            |waiting: &mut Waiting<T>| !waiting.is_closed && waiting.needed.is_empty() && waiting.guesses.is_empty();
        let mut waiting = self.come.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner);
        if waiting.is_closed {
            return None;
        }
        waiting.needed.pop_front().or_else(|| waiting.guesses.pop_front())
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        let waiting = self.lock();
        waiting.needed.len() + waiting.guesses.len()
    }

    /// What waits is forgotten.
    pub fn clear(&self) {
        let mut waiting = self.lock();
        waiting.needed.clear();
        waiting.guesses.clear();
    }

    /// Nothing is taken any more, and what waits is forgotten.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.clear();
        self.come.notify_all();
    }

    /// Whether it is.
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_come_last_and_each_kind_is_bounded() {
        let queue = Queue::new(2, 1);
        assert_eq!(queue.offer(1, true), Ok(()));
        assert_eq!(queue.offer(2, true), Err(2));
        assert_eq!((queue.offer(3, false), queue.offer(4, false)), (Ok(()), Ok(())));
        assert_eq!((queue.offer(5, false), queue.len()), (Err(5), 3));
        assert_eq!((queue.take(), queue.take(), queue.take()), (Some(3), Some(4), Some(1)));
        assert_eq!(queue.offer(6, false), Ok(()));
        queue.close();
        assert_eq!((queue.take(), queue.offer(7, false), queue.len()), (None, Err(7), 0));
    }

    #[test]
    fn who_waits_is_woken_by_work_and_by_the_end() {
        let queue = Queue::new(2, 2);
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| (queue.take(), queue.take()));
            assert_eq!(queue.offer(1, true), Ok(()));
            while queue.len() > 0 {
                std::thread::yield_now();
            }
            queue.close();
            assert_eq!(taken.join().ok(), Some((Some(1), None)));
        });
    }
}
