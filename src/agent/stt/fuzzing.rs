//! What a fuzzer calls: all dialects read the same messages.

use super::{Heard, dialect::Read, dialect_of};
use crate::agent::{fuzzing, service::Kind};

/// One of each, at servers of one's own.
const SERVICES: [&str; 8] = [
    "deepgram:nova-3?base_url=http://h",
    "deepgram:flux-general-en?base_url=http://h",
    "vosk:?base_url=http://h",
    "soniox:?base_url=http://h",
    "assemblyai:?base_url=http://h",
    "speechmatics:?base_url=http://h",
    "elevenlabs:?base_url=http://h",
    "openai:gpt-realtime-whisper?base_url=http://h",
];

/// The longest text that a call would be told of these messages, in bytes, and what the log would be.
#[doc(hidden)]
#[must_use]
pub fn fuzz(messages: &[&str]) -> (usize, Vec<String>) {
    let (mut longest, mut complaints) = (0, Vec::new());
    for (ctx, named) in SERVICES.iter().filter_map(|service| fuzzing::service(service, Kind::Stt)) {
        let Some(mut dialect) = dialect_of(ctx, named) else { continue };
        dialect.open();
        dialect.audio(vec![0; 320].into());
        let reads: Vec<_> = messages.iter().flat_map(|message| dialect.read(message)).collect();
        for read in reads {
            match read {
                Read::Heard(Heard::Piece(text) | Heard::Partial(text)) => longest = longest.max(text.len()),
                Read::Trouble(what) | Read::Fatal { what, .. } => complaints.push(dialect.scrub(what)),
                _ => {}
            }
        }
        dialect.finalize();
        dialect.end();
    }
    (longest, complaints)
}
