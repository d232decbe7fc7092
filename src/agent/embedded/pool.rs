//! The threads that recognise and speak: a few of their own, so that no thread of a call ever waits for a model.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use ort::environment::Environment;
use tokio::sync::oneshot;

use super::{EngineError, models::RUNTIME, moonshine::Moonshine, piper::Piper, runtime};
use crate::audio::{Rate, resample::Resampler};

/// Work that waits, for each thread.
const WAITING: usize = 8;

/// What a thread is asked.
pub enum Job {
    /// The words in an utterance at 16 kHz.
    Recognise(Vec<i16>, oneshot::Sender<Result<String, EngineError>>),
    /// Phonemes as sound at this rate.
    Speak(String, Rate, oneshot::Sender<Result<Vec<i16>, EngineError>>),
}

/// The threads. They end with it.
#[derive(Debug)]
pub struct Pool {
    jobs: SyncSender<Job>,
}

/// What a thread has.
struct Worker {
    moonshine: Moonshine,
    piper: Option<Piper>,
}

impl Pool {
    /// Opens the models in `models` for each of `threads` threads (with a voice, if it `speaks`), and returns when the first of them works.
    pub async fn start(models: &Path, threads: usize, speaks: bool) -> Result<Self, EngineError> {
        let (jobs, queue) = sync_channel(WAITING * threads.max(1));
        let queue = Arc::new(Mutex::new(queue));
        let (report, opened) = oneshot::channel();
        let mut first = Some(report);
        for number in 0..threads.max(1) {
            let (queue, models, report) = (Arc::clone(&queue), models.to_owned(), first.take());
            let name = format!("hark-speech-{number}");
            let started = thread::Builder::new().name(name).spawn(move || {
                let (worker, failure) = match Worker::open(&models, speaks) {
                    Ok(worker) => (Some(worker), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                match (report, failure) {
                    // whoever waited may be gone
                    (Some(report), opened) => drop(report.send(opened)),
                    (None, Err(error)) => tracing::warn!(%error, "one thread less for speech"),
                    (None, Ok(())) => {}
                }
                if let Some(worker) = worker {
                    worker.work(&queue);
                }
            });
            started.map_err(EngineError::Thread)?;
        }
        opened.await.map_err(|_| EngineError::Gone)??;
        Ok(Self { jobs })
    }

    /// Hands in work; it is never waited for.
    pub fn offer(&self, job: Job) -> Result<(), EngineError> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => EngineError::Busy,
            TrySendError::Disconnected(_) => EngineError::Gone,
        })
    }
}

impl Worker {
    fn open(models: &Path, speaks: bool) -> Result<Self, EngineError> {
        let environment: Environment = runtime::environment(&RUNTIME.file(models, "libonnxruntime.so"))?;
        let moonshine = Moonshine::open(&environment, models)?;
        let piper = if speaks { Some(Piper::open(&environment, models)?) } else { None };
        Ok(Self { moonshine, piper })
    }

    fn work(mut self, queue: &Mutex<Receiver<Job>>) {
        loop {
            let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            match job {
                // whoever asked may be gone
                Ok(Job::Recognise(_, done)) if done.is_closed() => {}
                Ok(Job::Speak(_, _, done)) if done.is_closed() => {}
                Ok(Job::Recognise(samples, done)) => drop(done.send(self.moonshine.recognise(&samples))),
                Ok(Job::Speak(phonemes, rate, done)) => drop(done.send(self.speak(&phonemes, rate))),
                Err(_) => return,
            }
        }
    }

    fn speak(&mut self, phonemes: &str, rate: Rate) -> Result<Vec<i16>, EngineError> {
        let piper = self.piper.as_mut().ok_or(EngineError::Gone)?;
        let (hz, samples) = piper.speak(phonemes)?;
        Ok(converted(hz, &samples, rate))
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
