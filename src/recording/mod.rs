//! Recordings of calls: a stereo WAV each (caller left, what they heard right), with the transcript beside it.
//!
//! One thread writes them all; a call only ever drops pieces into a bounded queue. A piece that does not fit becomes silence of the same
//! length. A file is whole at every moment up to what was last written, so that a killed gateway leaves recordings that can be played.

mod file;
mod retention;
mod transcript;

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde::Deserialize;
use tokio::sync::oneshot;
use tracing::{error, info, warn};
use uuid::Uuid;

use self::file::File;
pub use self::transcript::Said;
use crate::{
    audio::Rate,
    call::{CallId, Sink, Tap},
};

/// Pieces of half a second that wait for the disk: a second of 500 calls.
const QUEUE: usize = 1_024;
/// Vectors that go back to a call to be filled again.
const SPARES: usize = 2;
/// How long the thread rests when nothing waits: to be woken for each piece costs its call more than the piece.
const REST: Duration = Duration::from_millis(20);
/// How often old recordings are looked for.
const RETENTION_EVERY: Duration = Duration::from_secs(3_600);
/// Pieces that do not fit are reported at most this often.
const LOUD_EVERY: Duration = Duration::from_secs(10);

/// Settings of recordings.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether every call is recorded; else only one that asks for it.
    pub enabled: bool,
    /// Where they are written; unset = `recordings` in the data directory.
    pub dir: Option<PathBuf>,
    /// What their names are appended to for whoever is told of them; unset = the address of the HTTP service.
    pub url: Option<String>,
    /// They are deleted after so many days; 0 = never.
    pub keep_days: u64,
}

/// What is known about a recording when its call is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its length.
    pub duration: Duration,
    /// Whether all of the call is in it.
    pub complete: bool,
    /// Whether the transcript could be written beside it.
    pub transcript: bool,
}

enum Job {
    Begin { call: CallId, uuid: Uuid, rate: Rate, at: SystemTime, spares: SyncSender<Vec<i16>> },
    Tap(CallId, Tap),
    Said(CallId, Said),
    End(CallId, oneshot::Sender<Result<Finished, String>>),
}

/// Counts of recordings.
#[derive(Debug, Default)]
pub struct Stats {
    /// Recordings begun.
    pub begun: AtomicU64,
    /// Recordings that failed: no file, or one that breaks off.
    pub failed: AtomicU64,
    /// Pieces that did not fit into the queue: half a second of silence each.
    pub lost: AtomicU64,
}

/// The way to the thread that writes. Cheap to clone; the thread ends with the last clone.
#[derive(Clone)]
pub struct Recorder {
    jobs: SyncSender<Job>,
    dir: Arc<Path>,
    stats: Arc<Stats>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Starts the thread. The directory is made when the first recording begins.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(dir: PathBuf, keep: Option<Duration>) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE);
        let stats = Arc::new(Stats::default());
        let work = Work {
            dir: dir.clone(),
            keep,
            open: HashMap::new(),
            stats: Arc::clone(&stats),
            retention_at: Instant::now(),
        };
        thread::Builder::new().name("hark-recorder".to_owned()).spawn(move || work.run(&queue))?;
        Ok(Self { jobs, dir: dir.into(), stats })
    }

    /// Where recordings are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The counts, which go on counting.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Begins the recording of a call; pieces go where this says. `None`: too much waits for the disk already.
    #[must_use]
    pub fn begin(&self, call: CallId, uuid: Uuid, rate: Rate, at: SystemTime) -> Option<Box<dyn Sink>> {
        let (spares, spare) = sync_channel(SPARES);
        if self.jobs.try_send(Job::Begin { call, uuid, rate, at, spares }).is_err() {
            self.stats.failed.fetch_add(1, Relaxed);
            error!(code = "recording.busy", %call, "this call is not recorded: the disk under {} is too slow for those that are", self.dir.display());
            return None;
        }
        self.stats.begun.fetch_add(1, Relaxed);
        let stats = Arc::clone(&self.stats);
        Some(Box::new(ToThread { call, jobs: self.jobs.clone(), spare, stats, loud: None }))
    }

    /// Notes what was said on a recorded call.
    pub fn said(&self, call: CallId, said: Said) {
        if let Err(TrySendError::Full(_)) = self.jobs.try_send(Job::Said(call, said)) {
            self.stats.lost.fetch_add(1, Relaxed);
        }
    }

    /// Ends the recording of a call and waits until it is whole.
    ///
    /// # Errors
    /// There is none, or it breaks off; the reason in words for an operator. What there is can be played.
    pub async fn end(&self, call: CallId) -> Result<Finished, String> {
        let (answer, answered) = oneshot::channel();
        let mut job = Job::End(call, answer);
        loop {
            match self.jobs.try_send(job) {
                Ok(()) => break,
                // the end has to come, and nobody's audio waits for it
                Err(TrySendError::Full(again)) => {
                    job = again;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(TrySendError::Disconnected(_)) => {
                    return Err("the thread that writes recordings has died".to_owned());
                }
            }
        }
        answered.await.unwrap_or_else(|_| Err("the thread that writes recordings has died".to_owned()))
    }

    /// The file of a call, if it is there: of one whose gateway was killed, say.
    #[must_use]
    pub fn exists(&self, call: CallId) -> bool {
        file::wav(&self.dir, call).is_file()
    }
}

/// The way of one call's pieces.
struct ToThread {
    call: CallId,
    jobs: SyncSender<Job>,
    spare: Receiver<Vec<i16>>,
    stats: Arc<Stats>,
    loud: Option<Instant>,
}

impl Sink for ToThread {
    fn take(&mut self, tap: Tap) {
        if self.jobs.try_send(Job::Tap(self.call, tap)).is_err() {
            self.stats.lost.fetch_add(1, Relaxed);
            let now = Instant::now();
            if self.loud.is_none_or(|at| now.duration_since(at) >= LOUD_EVERY) {
                self.loud = Some(now);
                warn!(code = "recording.slow", call = %self.call, "the disk is too slow: parts of this call's recording are silent");
            }
        }
    }

    fn spare(&mut self) -> Option<Vec<i16>> {
        self.spare.try_recv().ok()
    }
}

/// What the thread has in hand.
struct Work {
    dir: PathBuf,
    keep: Option<Duration>,
    open: HashMap<CallId, Open>,
    stats: Arc<Stats>,
    retention_at: Instant,
}

struct Open {
    file: Result<File, String>,
    said: transcript::Transcript,
    spares: SyncSender<Vec<i16>>,
}

impl Work {
    fn run(mut self, queue: &Receiver<Job>) {
        loop {
            if self.keep.is_some() && Instant::now() >= self.retention_at {
                self.retention_at = Instant::now() + RETENTION_EVERY;
                self.retain();
            }
            match queue.recv_timeout(RETENTION_EVERY) {
                Ok(job) => self.job(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            queue.try_iter().for_each(|job| self.job(job));
            if !self.open.is_empty() {
                thread::sleep(REST);
            }
        }
    }

    fn job(&mut self, job: Job) {
        match job {
            Job::Begin { call, uuid, rate, at, spares } => {
                let file = File::create(&self.dir, call, rate).map_err(|reason| self.failed(call, &reason));
                let said = transcript::Transcript::new(call, uuid, at);
                self.open.insert(call, Open { file, said, spares });
            }
            Job::Tap(call, tap) => {
                let Some(open) = self.open.get_mut(&call) else { return };
                let Ok(file) = &mut open.file else { return };
                let written = file.write(&tap);
                // the call may be over, or have enough
                let _ = open.spares.try_send(tap.samples);
                if let Err(reason) = written {
                    let reason = self.failed(call, &reason);
                    if let Some(open) = self.open.get_mut(&call) {
                        open.file = Err(reason);
                    }
                }
            }
            Job::Said(call, said) => {
                let Some(open) = self.open.get_mut(&call) else { return };
                open.said.push(said);
                // a gateway that is killed leaves it beside the recording
                if let Ok(file) = &open.file
                    && open.said.is_due(Instant::now())
                    && let Err(reason) = open.said.write(&self.dir, file.duration())
                {
                    warn!(code = "recording.transcript", %call, "the transcript beside this call's recording cannot be written so far: {reason}");
                }
            }
            Job::End(call, answer) => {
                let result = self.end(call);
                // who asked may have gone
                let _ = answer.send(result);
            }
        }
    }

    fn end(&mut self, call: CallId) -> Result<Finished, String> {
        let Some(Open { file, said, .. }) = self.open.remove(&call) else {
            return Err("it was not begun".to_owned());
        };
        let file = file?;
        let (duration, complete) = (file.duration(), file.is_complete());
        file.finish().map_err(|reason| self.failed(call, &reason))?;
        let transcript = match said.write(&self.dir, duration) {
            Ok(()) => true,
            Err(reason) => {
                warn!(code = "recording.transcript", %call, "the transcript beside this call's recording cannot be written: {reason}");
                false
            }
        };
        Ok(Finished { duration, complete, transcript })
    }

    fn failed(&self, call: CallId, reason: &str) -> String {
        self.stats.failed.fetch_add(1, Relaxed);
        error!(
            code = "recording.failed", %call,
            "the recording of this call breaks off, the call goes on; what there is can be played: {reason}"
        );
        reason.to_owned()
    }

    fn retain(&self) {
        let Some(keep) = self.keep else { return };
        let before = SystemTime::now().checked_sub(keep);
        match before.map_or(Ok(0), |before| retention::delete(&self.dir, before, |call| self.open.contains_key(&call)))
        {
            Ok(0) => {}
            Ok(files) => info!(files, "old recordings were deleted (recording.keep_days)"),
            Err(reason) => warn!(code = "recording.retention", "old recordings cannot be deleted: {reason}"),
        }
    }
}

/// The name of a file of a recording that may be asked for: a call's identity and one of three endings.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(id, ending)| {
        matches!(ending, "wav" | "json" | "vtt") && Uuid::try_parse(id).is_ok_and(|uuid| uuid.to_string() == id)
    })
}

/// The name of a call's file with this ending.
#[must_use]
pub fn name(call: CallId, ending: &str) -> String {
    format!("{call}.{ending}")
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
