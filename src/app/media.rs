//! The media threads: one current-thread runtime per core, with calls pinned to it.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use tokio::{
    sync::mpsc,
    task::{JoinSet, LocalSet},
};

/// Jobs handed to one thread and not yet begun.
const QUEUE: usize = 1_024;

/// Work for a media thread: made here, run there, never moved again.
pub type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A handle on all media threads.
#[derive(Debug)]
pub struct Media {
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    jobs: mpsc::Sender<Job>,
    load: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// The work of one thread where the caller's runtime has to do it.
#[derive(Debug)]
pub struct Inline {
    jobs: mpsc::Receiver<Job>,
    load: Arc<AtomicUsize>,
}

impl Media {
    /// Starts `threads` threads; with 0 the caller runs [`Inline::run`] on a runtime of its own.
    ///
    /// # Errors
    /// A thread or its runtime cannot be started.
    pub fn start(threads: usize) -> io::Result<(Self, Option<Inline>)> {
        if threads == 0 {
            let (jobs, receiver) = mpsc::channel(QUEUE);
            let load = Arc::new(AtomicUsize::new(0));
            let inline = Inline { jobs: receiver, load: Arc::clone(&load) };
            return Ok((Self { workers: vec![Worker { jobs, load, thread: None }] }, Some(inline)));
        }
        let workers = (0..threads).map(start_thread).collect::<io::Result<_>>()?;
        Ok((Self { workers }, None))
    }

    /// Runs `job` on the least loaded thread; waits while its queue is full.
    pub async fn run(&self, job: Job) {
        let Some(worker) = self.workers.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed)) else { return };
        worker.load.fetch_add(1, Ordering::Relaxed);
        if worker.jobs.send(job).await.is_err() {
            worker.load.fetch_sub(1, Ordering::Relaxed);
            tracing::error!("a media thread is gone; its share of new calls is lost until a restart");
        }
    }

    /// Lets the threads end once their jobs have; does not wait.
    pub fn close(self) -> Vec<JoinHandle<()>> {
        self.workers.into_iter().filter_map(|worker| worker.thread).collect()
    }
}

fn start_thread(index: usize) -> io::Result<Worker> {
    let (jobs, receiver) = mpsc::channel(QUEUE);
    let load = Arc::new(AtomicUsize::new(0));
    let inline = Inline { jobs: receiver, load: Arc::clone(&load) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name(format!("media-{index}")).spawn(move || {
        LocalSet::new().block_on(&runtime, inline.run());
    })?;
    Ok(Worker { jobs, load, thread: Some(thread) })
}

impl Inline {
    /// Runs jobs until nobody can send any more and all have ended. Has to be inside a [`LocalSet`].
    pub async fn run(mut self) {
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                job = self.jobs.recv() => {
                    let Some(job) = job else { break };
                    let load = Loaded(Arc::clone(&self.load));
                    running.spawn_local(async move {
                        let _load = load;
                        job().await;
                    });
                }
                Some(_) = running.join_next() => {}
            }
        }
        while running.join_next().await.is_some() {}
    }
}

/// One job's share of a thread's load, given back even if it panics.
struct Loaded(Arc<AtomicUsize>);

impl Drop for Loaded {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
