//! Which calls are recorded, and what is said about it when they are over.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::time::timeout;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    audio::Rate,
    call::{CallEvent, CallId, Envelope, EventId, Fault, Recording, Tape},
    config::Config,
    recording::{Recorder, Said, name},
    telemetry::metrics::Metrics,
};

/// How long the last event of a call waits for its recording.
const WHOLE: Duration = Duration::from_secs(5);

/// The recordings of this gateway.
#[derive(Debug)]
pub(super) struct Recordings {
    recorder: Recorder,
    /// Before a file's name, with a slash.
    url: String,
    live: Mutex<HashSet<CallId>>,
}

impl Recordings {
    pub fn start(config: &Config, http: Option<SocketAddr>) -> io::Result<Self> {
        let settings = &config.recording;
        let dir = settings.dir.clone().unwrap_or_else(|| default_dir(config));
        let keep = (settings.keep_days > 0).then(|| Duration::from_secs(settings.keep_days * 86_400));
        let base = match (&settings.url, http) {
            (Some(url), _) => url.trim_end_matches('/').to_owned(),
            (None, Some(address)) => format!("http://{address}/api/recordings"),
            (None, None) => format!("file://{}", dir.display()),
        };
        Ok(Self { recorder: Recorder::start(dir, keep)?, url: format!("{base}/"), live: Mutex::default() })
    }

    pub fn dir(&self) -> Arc<std::path::Path> {
        self.recorder.dir().into()
    }

    fn live(&self) -> std::sync::MutexGuard<'_, HashSet<CallId>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tape of a call that begins now, if it is recorded. `asked`: what `POST /call` said; `usual`: what the settings say of such
    /// calls.
    pub fn begin(&self, call: CallId, uuid: Uuid, rate: Rate, asked: Option<bool>, usual: bool) -> Option<Box<Tape>> {
        if !asked.unwrap_or(usual) {
            if usual {
                info!("not recorded: POST /call said \"recording\": false");
            }
            return None;
        }
        let sink = self.recorder.begin(call, uuid, rate, SystemTime::now())?;
        self.live().insert(call);
        Some(Box::new(Tape::new(rate, Instant::now(), sink)))
    }

    pub fn is_recorded(&self, call: CallId) -> bool {
        self.live().contains(&call)
    }

    /// Takes what was said for the transcript.
    pub fn said(&self, envelope: &Envelope) {
        if let CallEvent::Transcription { role, text } = &envelope.event
            && self.is_recorded(envelope.call)
        {
            self.recorder.said(envelope.call, Said { role: *role, text: text.clone(), at: envelope.at });
        }
    }

    /// Waits until the recording of a call that is over is whole, and says what is to be reported about it.
    pub async fn finish(&self, ended: &Envelope) -> Envelope {
        let call = ended.call;
        self.live().remove(&call);
        let finished = timeout(WHOLE, self.recorder.end(call)).await;
        let event = match finished {
            Ok(Ok(finished)) => CallEvent::RecordingReady(Recording {
                recording_url: self.url_of(call, "wav"),
                transcript_url: finished.transcript.then(|| self.url_of(call, "json")),
                duration: Some(finished.duration),
                complete: finished.complete,
            }),
            Ok(Err(message)) => CallEvent::ServiceFailed(Fault { code: "recording.failed", message }),
            Err(_) => {
                warn!(%call, code = "recording.slow", "this call's recording is not whole after {} s; its end is reported without", WHOLE.as_secs());
                let message = format!("the disk is too slow: not whole after {} s", WHOLE.as_secs());
                CallEvent::ServiceFailed(Fault { code: "recording.slow", message })
            }
        };
        Envelope { id: EventId::new(), event, ..ended.clone() }
    }

    /// What a killed gateway left of a call.
    pub fn found(&self, call: CallId) -> Option<CallEvent> {
        self.recorder.exists(call).then(|| {
            CallEvent::RecordingReady(Recording {
                recording_url: self.url_of(call, "wav"),
                transcript_url: None,
                duration: None,
                complete: false,
            })
        })
    }

    fn url_of(&self, call: CallId, ending: &str) -> String {
        format!("{}{}", self.url, name(call, ending))
    }

    /// Shows the counts under `/metrics`.
    pub fn export(&self, metrics: &Metrics) {
        use std::sync::atomic::Ordering::Relaxed;
        let [begun, failed, lost] = [(); 3].map(|()| self.recorder.stats());
        metrics.register_counter_fn("recordings", "Recordings begun", move || begun.begun.load(Relaxed));
        metrics
            .register_counter_fn("recordings_failed", "Recordings that break off", move || failed.failed.load(Relaxed));
        metrics.register_counter_fn(
            "recording_lost",
            "Half seconds of recordings that are silent because the disk was slow",
            move || lost.lost.load(Relaxed),
        );
    }
}

fn default_dir(config: &Config) -> PathBuf {
    let data = if config.data_dir.as_os_str().is_empty() { std::env::temp_dir() } else { config.data_dir.clone() };
    data.join("recordings")
}
