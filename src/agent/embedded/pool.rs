//! The threads that recognise and speak: a few of their own, so that no thread of a call ever waits for a model.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::Ordering::{AcqRel, Acquire, Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    EngineError,
    numbers::{Numbers, Work},
    queue::Queue,
};
use crate::audio::{Rate, resample::Resampler};

/// What is listened to.
const EARS: Rate = Rate::R16K;
/// Work that waits, for each thread: what somebody waits for, and guesses.
const WAITING: usize = 8;
const GUESSES: usize = 2;
/// How long a thread whose models cannot be opened waits until it tries again.
const AGAIN: Duration = Duration::from_secs(10);
/// How soon it notices that nobody needs it any more.
const NOTICE: Duration = Duration::from_millis(250);

/// What a thread is asked.
pub enum Job {
    /// The words in an utterance at this rate.
    Recognise(Vec<i16>, Rate, oneshot::Sender<Result<String, EngineError>>),
    /// Phonemes as sound at this rate.
    Speak(String, Rate, oneshot::Sender<Result<Vec<i16>, EngineError>>),
}

/// Whether anybody waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Somebody does.
    Needed,
    /// It is done when there is time.
    Guess,
}

/// What a thread works with. It serves one job at a time.
pub trait Models {
    /// The words in an utterance at 16 kHz.
    fn recognise(&mut self, samples: &[i16]) -> Result<String, EngineError>;
    /// Phonemes as sound at this rate.
    fn speak(&mut self, phonemes: &str, rate: Rate) -> Result<Vec<i16>, EngineError>;
}

/// The threads. They end with it.
#[derive(Debug)]
pub struct Pool {
    queue: Arc<Queue<Waiting>>,
    numbers: Arc<Numbers>,
}

/// A job, and since when it waits.
struct Waiting(Instant, Job);

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

/// One thread.
struct Worker<O> {
    open: Arc<O>,
    queue: Arc<Queue<Waiting>>,
    numbers: Arc<Numbers>,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Pool {
    /// Starts `threads` threads, each with models of its own that `open` gives, and returns when the first of them works.
    pub async fn start<O, M>(open: O, threads: usize, numbers: Arc<Numbers>) -> Result<Self, EngineError>
    where
        O: Fn() -> Result<M, EngineError> + Send + Sync + 'static,
        M: Models,
    {
        let threads = threads.max(1);
        let queue = Arc::new(Queue::new(WAITING * threads, GUESSES * threads));
        // closes the queue also where it does not come to be
        let (pool, open) = (Self { queue, numbers }, Arc::new(open));
        let (report, opened) = oneshot::channel();
        let mut first = Some(report);
        for number in 0..threads {
            let (queue, numbers) = (Arc::clone(&pool.queue), Arc::clone(&pool.numbers));
            let (worker, report) = (Worker { open: Arc::clone(&open), queue, numbers }, first.take());
            let thread = thread::Builder::new().name(format!("hark-speech-{number}"));
            thread.spawn(move || worker.live(report)).map_err(EngineError::Thread)?;
        }
        opened.await.map_err(|_| EngineError::Gone)??;
        Ok(pool)
    }

    /// Hands in work; it is never waited for.
    pub fn offer(&self, job: Job, kind: Kind) -> Result<(), EngineError> {
        if !self.is_alive() {
            return Err(EngineError::Gone);
        }
        self.queue.offer(Waiting(Instant::now(), job), kind == Kind::Guess).map_err(|Waiting(_, job)| {
            if kind == Kind::Needed {
                job.of(&self.numbers).turned_away();
            }
            EngineError::Busy
        })?;
        if !self.is_alive() {
            // the last thread has failed meanwhile, and may have cleared the queue before this came into it
            self.queue.clear();
            return Err(EngineError::Gone);
        }
        Ok(())
    }

    /// How much waits.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Whether any thread works.
    pub fn is_alive(&self) -> bool {
        self.numbers.threads.load(Acquire) > 0
    }
}

impl Job {
    const fn of<'a>(&self, numbers: &'a Numbers) -> &'a Work {
        match self {
            Self::Recognise(..) => &numbers.recognition,
            Self::Speak(..) => &numbers.synthesis,
        }
    }

    /// Whether whoever asked is gone.
    fn is_forgotten(&self) -> bool {
        match self {
            Self::Recognise(_, _, done) => done.is_closed(),
            Self::Speak(_, _, done) => done.is_closed(),
        }
    }

    /// Does it; how much audio that was, unless it failed.
    fn done(self, models: &mut impl Models) -> Option<Duration> {
        let seconds = |samples: usize, hz: u32| Duration::from_secs_f64(samples as f64 / f64::from(hz));
        // whoever asked may be gone
        match self {
            Self::Recognise(samples, rate, done) => {
                let audio = seconds(samples.len(), rate.hz());
                let samples = if rate == EARS { samples } else { converted(rate.hz(), &samples, EARS) };
                let words = models.recognise(&samples);
                let audio = words.is_ok().then_some(audio);
                drop(done.send(words));
                audio
            }
            Self::Speak(phonemes, rate, done) => {
                let samples = models.speak(&phonemes, rate);
                let audio = samples.as_ref().ok().map(|samples| seconds(samples.len(), rate.hz()));
                drop(done.send(samples));
                audio
            }
        }
    }
}

impl<O: Fn() -> Result<M, EngineError>, M: Models> Worker<O> {
    /// Works as long as it is needed, with new models whenever a job made it panic.
    fn live(self, report: Option<oneshot::Sender<Result<(), EngineError>>>) {
        let mut models = match (self.opened(), report) {
            (Ok(models), report) => {
                self.numbers.threads.fetch_add(1, AcqRel);
                if let Some(report) = report {
                    drop(report.send(Ok(())));
                }
                models
            }
            // the engine does not start at all
            (Err(error), Some(report)) => return drop(report.send(Err(error))),
            (Err(error), None) => match self.open_again(&error) {
                Some(models) => models,
                None => return,
            },
        };
        while self.work(&mut models).is_err() {
            // what is left of models that panicked is not used again
            self.numbers.threads.fetch_sub(1, AcqRel);
            self.numbers.restarts.fetch_add(1, Relaxed);
            drop(models);
            tracing::error!(code = "agent.embedded.panicked", "a thread for speech has panicked; it begins anew");
            let opened = match self.opened() {
                Ok(opened) => {
                    self.numbers.threads.fetch_add(1, AcqRel);
                    Some(opened)
                }
                Err(error) => self.open_again(&error),
            };
            match opened {
                Some(opened) => models = opened,
                None => return,
            }
        }
    }

    fn opened(&self) -> Result<M, EngineError> {
        let panicked = |_| Err(EngineError::Run("opening the models panicked".to_owned()));
        catch_unwind(AssertUnwindSafe(|| (self.open)())).unwrap_or_else(panicked)
    }

    /// Tries to open the models until it works, or nobody needs them any more.
    fn open_again(&self, why: &EngineError) -> Option<M> {
        let (left, again) = (self.numbers.threads.load(Acquire), AGAIN.as_secs());
        tracing::error!(
            code = "agent.embedded.failed",
            "a thread for speech cannot work, {left} others do; it tries again every {again} s: {why}"
        );
        if left == 0 {
            // nobody would ever answer
            self.queue.clear();
        }
        loop {
            let until = Instant::now() + AGAIN;
            while Instant::now() < until {
                if self.queue.is_closed() {
                    return None;
                }
                thread::sleep(NOTICE);
            }
            if let Ok(models) = self.opened() {
                self.numbers.threads.fetch_add(1, AcqRel);
                tracing::info!("a thread for speech works again");
                return Some(models);
            }
        }
    }

    /// Works until nobody needs it any more; an error: it has panicked.
    fn work(&self, models: &mut M) -> thread::Result<()> {
        loop {
            let Some(Waiting(since, job)) = self.queue.take() else { return Ok(()) };
            if job.is_forgotten() {
                continue;
            }
            let work = job.of(&self.numbers);
            let begun = Instant::now();
            work.begun(begun - since);
            let result = catch_unwind(AssertUnwindSafe(|| job.done(models)));
            work.ended(begun.elapsed(), result.as_ref().ok().copied().flatten());
            result?;
        }
    }
}

/// `samples` at another rate.
pub fn converted(from_hz: u32, samples: &[i16], to: Rate) -> Vec<i16> {
    let mut resampler = Resampler::new(from_hz, to.hz());
    let mut out = Vec::new();
    resampler.process(samples, &mut out);
    resampler.finish(&mut out);
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{
        Condvar, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use super::*;

    /// Says how many samples there were; negative ones make it panic, and it holds while the gate is shut.
    struct Fake(Arc<Gate>);

    #[derive(Default)]
    struct Gate {
        shut: Mutex<bool>,
        moved: Condvar,
        /// Times that models were opened; from the so-manieth on that fails.
        opened: AtomicUsize,
        last: AtomicUsize,
    }

    impl Gate {
        fn set(&self, shut: bool) {
            *self.shut.lock().unwrap() = shut;
            self.moved.notify_all();
        }

        fn open(self: &Arc<Self>) -> Result<Fake, EngineError> {
            match self.opened.fetch_add(1, SeqCst) < self.last.load(SeqCst) {
                true => Ok(Fake(Arc::clone(self))),
                false => Err(EngineError::Run("broken file".to_owned())),
            }
        }
    }

    impl Models for Fake {
        fn recognise(&mut self, samples: &[i16]) -> Result<String, EngineError> {
            drop(self.0.moved.wait_while(self.0.shut.lock().unwrap(), |shut| *shut).unwrap());
            assert!(samples.iter().all(|sample| *sample >= 0), "as the test wants it");
            Ok(samples.len().to_string())
        }

        fn speak(&mut self, _: &str, rate: Rate) -> Result<Vec<i16>, EngineError> {
            Ok(vec![0; rate.hz() as usize])
        }
    }

    async fn pool(threads: usize, opens: usize) -> (Pool, Arc<Gate>, Arc<Numbers>) {
        let (gate, numbers) = (Arc::new(Gate::default()), Arc::new(Numbers::default()));
        gate.last.store(opens, SeqCst);
        let opener = Arc::clone(&gate);
        let pool = Pool::start(move || opener.open(), threads, Arc::clone(&numbers)).await.unwrap();
        (pool, gate, numbers)
    }

    type Words = oneshot::Receiver<Result<String, EngineError>>;

    fn ask(pool: &Pool, samples: Vec<i16>) -> Result<Words, EngineError> {
        let (done, words) = oneshot::channel();
        pool.offer(Job::Recognise(samples, EARS, done), Kind::Needed).map(|()| words)
    }

    #[tokio::test]
    async fn work_is_done_and_counted() {
        let (pool, _, numbers) = pool(1, 1).await;
        assert_eq!(ask(&pool, vec![1; 32_000]).unwrap().await.unwrap().unwrap(), "32000");
        let (done, samples) = oneshot::channel();
        pool.offer(Job::Speak("a".to_owned(), Rate::R8K, done), Kind::Needed).unwrap();
        assert_eq!(samples.await.unwrap().unwrap().len(), 8_000);
        // the counts follow the answer
        while numbers.synthesis.so_far().done == 0 {
            tokio::task::yield_now().await;
        }
        let (heard, said) = (numbers.recognition.so_far(), numbers.synthesis.so_far());
        assert_eq!((heard.done, heard.audio, said.done, said.audio), (1, 2.0, 1, 1.0));
        assert_eq!((heard.failed, heard.refused, pool.waiting()), (0, 0, 0));
    }

    #[tokio::test]
    async fn too_much_work_is_turned_away_and_what_nobody_waits_for_is_left_out() {
        let (pool, gate, numbers) = pool(1, 1).await;
        gate.set(true);
        // the thread may or may not have taken the first
        let taken: Vec<Words> = std::iter::from_fn(|| ask(&pool, vec![1; 160]).ok()).take(100).collect();
        assert!((WAITING..=WAITING + 1).contains(&taken.len()), "{}", taken.len());
        assert!(numbers.recognition.so_far().refused > 0 && pool.waiting() >= WAITING - 1);
        drop(taken);
        gate.set(false);
        let last = loop {
            match ask(&pool, vec![1; 320]) {
                Ok(words) => break words,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert_eq!(last.await.unwrap().unwrap(), "320");
        assert!(numbers.recognition.so_far().done <= 2, "{:?}", numbers.recognition.so_far());
    }

    #[tokio::test]
    async fn a_thread_that_panics_costs_one_answer_and_begins_anew() {
        let (pool, gate, numbers) = pool(1, 10).await;
        for _ in 0..3 {
            assert!(ask(&pool, vec![-1]).unwrap().await.is_err());
            // until it is there again, others are told so at once
            let words = loop {
                match ask(&pool, vec![1; 7]) {
                    Ok(words) => break words,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            assert_eq!(words.await.unwrap().unwrap(), "7");
        }
        assert_eq!((gate.opened.load(SeqCst), numbers.restarts.load(SeqCst)), (4, 3));
        assert_eq!(numbers.recognition.so_far().failed, 3);
    }

    #[tokio::test]
    async fn where_no_thread_is_left_nobody_waits() {
        let (pool, _, numbers) = pool(1, 1).await;
        let waiting = ask(&pool, vec![-1]).unwrap();
        assert!(waiting.await.is_err());
        while pool.is_alive() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(ask(&pool, vec![1]), Err(EngineError::Gone)));
        assert_eq!(numbers.threads.load(SeqCst), 0);
    }

    #[tokio::test]
    async fn models_that_cannot_be_opened_are_told_at_the_start() {
        let numbers = Arc::new(Numbers::default());
        let open = || Err::<Fake, _>(EngineError::Run("broken file".to_owned()));
        let error = Pool::start(open, 2, numbers).await.unwrap_err();
        assert!(error.to_string().contains("broken file"), "{error}");
    }
}
