//! What was said, beside the recording: as JSON for programs and as WebVTT for players (W3C WebVTT, section 3).

use std::{
    fmt::Write as _,
    fs, io,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;
use uuid::Uuid;

use crate::call::{CallId, Role};

/// Bytes of words kept of one call.
const MAX_WORDS: usize = 1 << 20;
/// How often it is written while the call lasts: new files cost more than the sound beside them.
const WRITTEN_EVERY: Duration = Duration::from_secs(20);
/// How long a word takes, where nothing else is known of when it began.
const WORD: Duration = Duration::from_millis(400);

/// Somebody's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Who spoke.
    pub role: Role,
    /// What.
    pub text: String,
    /// When they had been said.
    pub at: SystemTime,
}

pub(super) struct Transcript {
    call: CallId,
    uuid: Uuid,
    begun: SystemTime,
    said: Vec<Said>,
    words: usize,
    written: Option<Instant>,
}

impl Transcript {
    pub fn new(call: CallId, uuid: Uuid, begun: SystemTime) -> Self {
        Self { call, uuid, begun, said: Vec::new(), words: 0, written: None }
    }

    pub fn push(&mut self, said: Said) {
        if self.words + said.text.len() <= MAX_WORDS {
            self.words += said.text.len();
            self.said.push(said);
        }
    }

    /// Whether it is to be written now, in the middle of its call.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let due = self.written.is_none_or(|at| now.duration_since(at) >= WRITTEN_EVERY);
        if due {
            self.written = Some(now);
        }
        due
    }

    /// Writes both files.
    pub fn write(&self, dir: &Path, duration: Duration) -> io::Result<()> {
        whole(dir, &super::name(self.call, "json"), &self.json(duration))?;
        whole(dir, &super::name(self.call, "vtt"), &self.vtt())
    }

    /// When, on the recording's own clock.
    fn place(&self, at: SystemTime) -> Duration {
        at.duration_since(self.begun).unwrap_or_default()
    }

    fn json(&self, duration: Duration) -> String {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let entries: Vec<_> = self
            .said
            .iter()
            .map(|said| json!({"role": said.role.as_str(), "text": said.text, "at_ms": millis(self.place(said.at))}))
            .collect();
        let all = json!({
            "call_id": self.call.to_string(),
            "uuid": self.uuid.to_string(),
            "duration_ms": millis(duration),
            "channels": ["user", "agent"],
            "transcript": entries,
        });
        format!("{all:#}\n")
    }

    fn vtt(&self) -> String {
        let mut text = "WEBVTT\n".to_owned();
        let mut before = Duration::ZERO;
        for said in &self.said {
            let end = self.place(said.at).max(before + Duration::from_millis(1));
            let words = u32::try_from(said.text.split_whitespace().count()).unwrap_or(u32::MAX);
            let begin = end.saturating_sub(WORD.saturating_mul(words.max(1))).max(before);
            let who = if said.role == Role::User { "user" } else { "agent" };
            // writing to a String cannot fail
            let _ = write!(text, "\n{} --> {}\n<v {who}>{}\n", stamp(begin), stamp(end), escaped(&said.text));
            before = end;
        }
        text
    }
}

/// A line that no part of it can end or mark up.
fn escaped(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn stamp(time: Duration) -> String {
    let (seconds, millis) = (time.as_secs(), time.subsec_millis());
    format!("{:02}:{:02}:{:02}.{millis:03}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// A file that is there as a whole or not at all.
fn whole(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let part = dir.join(format!("{name}.part"));
    fs::write(&part, text)?;
    #[cfg(unix)]
    fs::set_permissions(&part, std::os::unix::fs::PermissionsExt::from_mode(0o640))?;
    fs::rename(&part, dir.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_follow_each_other_and_hold_no_markup() {
        let begun = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let mut transcript = Transcript::new(CallId::from(Uuid::nil()), Uuid::nil(), begun);
        let mut say = |role, text: &str, ms| {
            transcript.push(Said { role, text: text.to_owned(), at: begun + Duration::from_millis(ms) });
        };
        say(Role::Agent, "Hello, how can I help?", 2_500);
        say(Role::User, "5 < 6 & \n\n7 --> 8", 2_700);
        say(Role::User, "late", 2_600);
        say(Role::Agent, "Bye", 3_723_004);
        let expected = "WEBVTT\n\n00:00:00.500 --> 00:00:02.500\n<v agent>Hello, how can I help?\n\n\
                        00:00:02.500 --> 00:00:02.700\n<v user>5 &lt; 6 &amp; 7 --&gt; 8\n\n\
                        00:00:02.700 --> 00:00:02.701\n<v user>late\n\n01:02:02.604 --> 01:02:03.004\n<v agent>Bye\n";
        assert_eq!(transcript.vtt(), expected);
        let json: serde_json::Value =
            serde_json::from_str(&transcript.json(Duration::from_secs(4_000))).unwrap_or_default();
        assert_eq!((&json["transcript"][1]["at_ms"], &json["duration_ms"]), (&json!(2_700), &json!(4_000_000)));
    }
}
